"""`audit`: who disagrees with whom, how many kinds of people there are, and whether the data can show it."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.metrics import adjusted_rand_score

from pluralign.choice.latent_class.identification import posterior_entropy
from pluralign.core.files import atomic_write, write_json, write_parquet
from pluralign.core.runs import file_fingerprints, finish_run, read_metrics, run_state, start_run
from pluralign.judgments.reading import read
from pluralign.judgments.table import Judgments
from pluralign.reports.audit.page import audit_page
from pluralign.reports.cards import metrics_table
from pluralign.scoring.annotator_types import Findings, findings
from pluralign.scoring.mixtures import responsibilities_table
from pluralign.workflows.audit.agreement import agreement_block, data_block, groups_of
from pluralign.workflows.audit.types import group_blocks, map_block, type_blocks, utilities_of, worth_errors
from pluralign.workflows.audit.verdict import identification_block, selection_block, warnings_of

logger = logging.getLogger(__name__)


def audit(
    files: str | os.PathLike[str] | list[str],
    out: str | os.PathLike[str],
    *,
    features: str = "auto",
    types: str | int = "auto",
    most_types: int = 6,
    dimensions: int = 64,
    simulations: int = 3,
    label_scale: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Audit judgments: agreement, types of people and what they prefer, and whether the data can tell.

    Args:
        files: canonical files.
        out: the folder: `metrics.json`, `audit.json`, `types.parquet` (posteriors of the annotators),
            `worths.parquet` (utility of every response for every type), `report.html`, `README.md`.
        features: `worths` gives each response a worth of its own, `tfidf` counts words, else a folder or hub id of
            an encoder or causal model; `auto` is `worths` where responses are judged often, else `tfidf`.
        types: how many types, or `auto` to choose by held-out log-likelihood over annotators.
        most_types: the largest number that `auto` tries.
        dimensions: of text features, after truncated SVD.
        simulations: of each design of the power curve; 0 leaves it out.
        label_scale: for files whose labels come without one.
        seed: of folds, restarts, features and simulations.

    Returns:
        The metrics, as in `metrics.json`.

    Raises:
        PluralignError: a file cannot be used, a setting does not fit it, or `out` holds another audit.
    """
    folder = Path(out)
    paths = [str(file) for file in files] if isinstance(files, list) else [str(files)]
    config: dict[str, Any] = {"command": "audit", "files": paths, "features": features, "types": types}
    config |= {"most_types": most_types, "dimensions": dimensions, "simulations": simulations, "seed": seed}
    config |= {} if label_scale is None else {"label_scale": label_scale}
    inputs = file_fingerprints(paths)
    if run_state(folder, config, inputs) == "finished":
        logger.warning(f"{folder}: this audit is finished already; nothing to do")
        return read_metrics(folder)
    judgments = read(paths, label_scale)
    found = findings(
        judgments,
        features=features,
        types=types,
        most_types=most_types,
        dimensions=dimensions,
        simulations=simulations,
        seed=seed,
    )
    errors = worth_errors(found.model, found.people)
    story = audit_blocks(judgments, found, errors, paths, seed)
    metrics = audit_metrics(found, story)
    start_run(folder, config, inputs)
    write_json(folder / "audit.json", story)
    write_parquet(types_table(found), folder / "types.parquet")
    write_parquet(worths_table(found, judgments, errors), folder / "worths.parquet")
    with atomic_write(folder / "report.html", "w") as file:
        file.write(audit_page(story, metrics))
    card = [f"# Audit of {', '.join(f'`{path}`' for path in paths)}", "", f"**{metrics['identification']}**: "]
    card[-1] += story["identification"]["reason"] + "."
    finish_run(folder, metrics, "\n".join([*card, "", *metrics_table(metrics)]) + "\n")
    return metrics


def audit_blocks(
    judgments: Judgments, found: Findings, errors: np.ndarray | None, files: list[str], seed: int
) -> dict[str, Any]:
    """The content of `audit.json`."""
    people, model = found.people, found.model
    groups = groups_of(judgments, people)
    known = np.array([group is not None for group in groups])
    rand = None
    if known.sum() > 1:
        rand = float(adjusted_rand_score([group for group in groups if group is not None], model.labels_[known]))
    return {
        "data": data_block(judgments, people, files),
        "warnings": warnings_of(found),
        "agreement": agreement_block(people, seed),
        "identification": identification_block(found),
        "selection": selection_block(found.selection),
        "types": type_blocks(model, people, errors),
        "groups": group_blocks(groups, model),
        "groups_adjusted_rand": rand,
        "map": map_block(model, people.panel, seed),
    }


def audit_metrics(found: Findings, story: dict[str, Any]) -> dict[str, Any]:
    """The flat metrics of an audit; what is not defined for the data is left out."""
    model, data = found.model, story["data"]
    row = list(found.selection.types).index(len(model.mixture_weights_))
    entropy = posterior_entropy(model)
    metrics: dict[str, Any] = {
        **{key: data[key] for key in ("judgments", "annotators", "prompts", "unique_responses", "left_out")},
        "features": found.features,
        "types": len(model.mixture_weights_),
        "log_likelihood": model.log_likelihood_,
        "bic": model.bic_,
        "identification": story["identification"]["verdict"],
        "posterior_entropy": float(entropy.mean()),
        **{f"share/type={block['type']}": block["share"] for block in story["types"]},
    }
    optional = {
        "held_out_log_likelihood": float(found.selection.held_out[row]),
        "krippendorff_alpha": story["agreement"]["krippendorff_alpha"],
        "krippendorff_alpha_low": story["agreement"]["alpha_low"],
        "krippendorff_alpha_high": story["agreement"]["alpha_high"],
        "intransitive_triples": (story["agreement"].get("intransitive_triples") or {}).get("share"),
        "groups_adjusted_rand": story["groups_adjusted_rand"],
    }
    return metrics | {key: value for key, value in optional.items() if value is not None and np.isfinite(value)}


def types_table(found: Findings) -> pa.Table:
    """Posterior of each annotator."""
    gamma = np.asarray(found.model.responsibilities_)
    made = np.bincount(found.people.panel.annotator_ids, minlength=len(gamma))
    return responsibilities_table(found.people.names, made, gamma)


def worths_table(found: Findings, judgments: Judgments, errors: np.ndarray | None) -> pa.Table:
    """Utility of every response for every type, with standard errors where they could be had."""
    people, items = found.people, found.people.items
    texts = judgments.table.schema.field("prompt").type
    real = ~people.bars
    worths = utilities_of(found.model, people)[:, real]
    columns: dict[str, Any] = {
        "prompt": pa.array([items.prompts[item] for item in items.item], type=texts),
        "response": pa.array(items.responses, type=texts),
    }
    for kind, worth in enumerate(worths):
        columns[f"worth_{kind + 1}"] = worth
        if errors is not None:
            columns[f"standard_error_{kind + 1}"] = errors[kind, real]
    return pa.table(columns)

"""`audit`: do annotators differ, how many types of annotators are there, and can the data show it?"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pluralign.choice.latent_class.identification import posterior_entropy
from pluralign.core.files import atomic_write, write_parquet
from pluralign.core.records import write_record
from pluralign.core.runs import file_fingerprints, finish_run, read_metrics, run_state, start_run
from pluralign.judgments.reading import read
from pluralign.judgments.table import Judgments
from pluralign.reports.audit import AuditPage, audit_page
from pluralign.reports.cards import metrics_table
from pluralign.scoring.annotator_types import Findings, findings
from pluralign.scoring.mixtures import responsibilities_table
from pluralign.workflows.audit.contents import audit_contents
from pluralign.workflows.audit.types import utilities_of, worth_errors

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
    """Audit judgments: agreement, types of annotators and their preferences, and whether the data identify the types.

    Args:
        files: canonical files.
        out: the folder to write: `metrics.json`, `audit.json`, `types.parquet` (posterior of each annotator),
            `worths.parquet` (utility of each response for each type), `report.html`, `README.md`.
        features: `worths` gives each response a utility of its own, `tfidf` counts words, any other value is a folder
            or hub id of an encoder or causal model; `auto` is `worths` if responses are judged often, else `tfidf`.
        types: number of types, or `auto` to choose it by held-out log-likelihood over annotators.
        most_types: the largest number that `auto` tries.
        dimensions: of text features, after truncated SVD.
        simulations: per design of the power curve; 0 omits the curve.
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
    contents = audit_contents(judgments, found, errors, paths, seed)
    metrics = audit_metrics(found, contents)
    start_run(folder, config, inputs)
    write_record(folder / "audit.json", contents)
    write_parquet(types_table(found), folder / "types.parquet")
    write_parquet(worths_table(found, judgments, errors), folder / "worths.parquet")
    with atomic_write(folder / "report.html", "w") as file:
        file.write(audit_page(contents))
    title = f"# Audit of {', '.join(f'`{path}`' for path in paths)}"
    verdict = f"**{contents.identification.verdict}**: {contents.identification.reason}."
    finish_run(folder, metrics, "\n".join([title, "", verdict, "", *metrics_table(metrics)]) + "\n")
    return metrics


def audit_metrics(found: Findings, contents: AuditPage) -> dict[str, Any]:
    """The flat metrics of an audit, without those that are undefined for the data."""
    model, data, agreement = found.model, contents.data, contents.agreement
    row = list(found.selection.types).index(len(model.mixture_weights_))
    triples = agreement.intransitive_triples
    metrics: dict[str, Any] = {
        "judgments": data.judgments,
        "annotators": data.annotators,
        "prompts": data.prompts,
        "unique_responses": data.unique_responses,
        "left_out": data.left_out,
        "features": found.features,
        "types": len(model.mixture_weights_),
        "log_likelihood": model.log_likelihood_,
        "bic": model.bic_,
        "identification": contents.identification.verdict,
        "posterior_entropy": float(posterior_entropy(model).mean()),
        **{f"share/type={kind.type}": kind.share for kind in contents.types},
    }
    optional = {
        "held_out_log_likelihood": float(found.selection.held_out[row]),
        "krippendorff_alpha": agreement.krippendorff_alpha,
        "krippendorff_alpha_low": agreement.alpha_low,
        "krippendorff_alpha_high": agreement.alpha_high,
        "intransitive_triples": None if triples is None else triples.share,
        "groups_adjusted_rand": contents.groups_adjusted_rand,
    }
    return metrics | {key: value for key, value in optional.items() if value is not None and np.isfinite(value)}


def types_table(found: Findings) -> pa.Table:
    """The posterior over types of each annotator."""
    responsibilities = np.asarray(found.model.responsibilities_)
    judgments = np.bincount(found.people.panel.annotator_ids, minlength=len(responsibilities))
    return responsibilities_table(found.people.names, judgments, responsibilities)


def worths_table(found: Findings, judgments: Judgments, errors: np.ndarray | None) -> pa.Table:
    """The utility of each response for each type, with standard errors where they are known."""
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

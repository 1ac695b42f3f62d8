"""`audit`: do annotators differ, how many types of annotators are there, and can the data show it?"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch.distributed

from pluralign.choice.latent_class.identification import posterior_entropy
from pluralign.choice.latent_class.processes import from_first
from pluralign.core.errors import PluralignError
from pluralign.core.locks import folder_lock
from pluralign.core.runs import finish_run, finished_metrics, start_run
from pluralign.judgments.inputs import Files
from pluralign.judgments.reading import Inputs
from pluralign.judgments.renames import Columns
from pluralign.judgments.table import Judgments, text_columns
from pluralign.reports.audit_record import AuditPage
from pluralign.reports.cards import metrics_table
from pluralign.scoring.annotator_types import Findings, Ties, findings
from pluralign.scoring.mixtures import responsibilities_table
from pluralign.scoring.side_tables import Source, annotator_table, response_table
from pluralign.workflows.audit.annotators import audited_annotators
from pluralign.workflows.audit.contents import audit_contents
from pluralign.workflows.audit.result import Audit
from pluralign.workflows.audit.types import utilities_of, worth_errors

Result = TypeVar("Result")


def audit(
    files: Files,
    out: str | os.PathLike[str] | None = None,
    *,
    features: str = "auto",
    types: str | int = "auto",
    most_types: int = 6,
    dimensions: int = 64,
    simulations: int = 3,
    label_scale: str | None = None,
    columns: Columns | None = None,
    seed: int = 0,
    response_features: Source | None = None,
    annotator_features: Source | None = None,
    noise_type: bool = False,
    shared: Sequence[str] = (),
    ties: Ties = "efron",
    distributed: bool = False,
) -> Audit:
    """Audit judgments: agreement, types of annotators and their preferences, and whether the data identify the types.

    Args:
        files: what `read` takes: files, data sets, frames or rows.
        out: output folder, `None` to write nothing. It gets `metrics.json`, `audit.json`, `types.parquet` (posterior
            of each annotator), `annotators.parquet` (noise scale, agreement, flags and weight of each annotator with
            an id), `worths.parquet` (utility of each response for each type), `report.html` and `README.md`.
        features: `worths` gives each response its own utility, `tfidf` counts words, any other value is a folder or
            hub id of an encoder or causal model; `auto` is `worths` if responses are judged often, else `tfidf`.
        types: number of types, or `auto` to choose it by held-out log-likelihood over annotators.
        most_types: maximum number of types that `auto` tries.
        dimensions: dimensions of text features, after truncated SVD.
        simulations: simulations per design of the power curve; 0 skips it.
        label_scale: label scale of files that store none.
        columns: new names of columns, like `{"annotator_id": "annotator"}`; `None` leaves a column out.
        seed: random seed.
        response_features: numeric attributes of responses, which replace `features`: a CSV, Parquet or JSON Lines
            file, or a pyarrow or pandas table, with the column `response`, `prompt` where a response occurs under
            several prompts, and one column for each attribute.
        annotator_features: numeric attributes of annotators that membership in the types depends on, by a multinomial
            logit: a file or table as above with the column `annotator`.
        noise_type: the last type ranks at random, if there are two or more.
        shared: attributes of responses whose coefficient is the same for all types.
        ties: `efron` and `breslow` take a tie for an order that was lost; with `davidson`, for tables of pairs or
            labels, it is an outcome of its own, and each type has a tie parameter.
        distributed: share the fits with the other processes of `torch.distributed`: all of them call `audit` with the
            same arguments, the first one writes, and all return its findings.

    Returns:
        The findings: `types`, `responsibilities`, `page()`, `plot()`; as a mapping, the content of `metrics.json`.

    Raises:
        PluralignError: a file cannot be used, a response or annotator is missing in a side table, a setting does not
            fit the data, `out` holds another audit, or `distributed` is set in a process without a group.
    """
    folder = None if out is None else Path(out)
    if distributed and not torch.distributed.is_initialized():
        raise PluralignError(
            "distributed: this process is in no group: start several with torchrun, and call "
            "torch.distributed.init_process_group in each"
        )
    first = not distributed or torch.distributed.get_rank() == 0
    given = Inputs(files, columns)
    settings: dict[str, Any] = {"features": features, "types": types, "most_types": most_types}
    settings |= {"dimensions": dimensions, "simulations": simulations, "seed": seed}
    config = {"command": "audit", "files": given.names, **settings, **given.settings()}
    config |= {} if label_scale is None else {"label_scale": label_scale}
    config |= ({"noise_type": True} if noise_type else {}) | ({"shared": list(shared)} if shared else {})
    config |= {} if ties == "efron" else {"ties": ties}
    inputs = {} if folder is None else given.fingerprints()
    attributes = None if response_features is None else response_table(response_features)
    covariates = None if annotator_features is None else annotator_table(annotator_features)
    for key, side_table in (("response_features", attributes), ("annotator_features", covariates)):
        if side_table is not None:
            config[key] = side_table.name
            inputs[side_table.name] = side_table.fingerprint()

    def by_first(make: Callable[[], Result]) -> Result:
        return from_first(make) if distributed else make()

    def finished() -> Audit | None:
        done = folder is not None and finished_metrics(folder, config, inputs) is not None
        return Audit.load(folder) if folder is not None and done else None

    def audited() -> Audit:
        found = _audited(judgments, fitted, given.names, seed)
        if folder is not None:
            start_run(folder, config, inputs)
            found.write(folder)
            finish_run(folder, dict(found), _card(found, given.names))
        return found

    with folder_lock(folder) if folder is not None and first else contextlib.nullcontext():
        if (known := by_first(finished)) is not None:
            return known
        judgments = given.read(label_scale)
        fitted = findings(
            judgments,
            **settings | ({} if first else {"simulations": 0}),
            response_features=attributes,
            annotator_features=covariates,
            noise_type=noise_type,
            shared=shared,
            ties=ties,
            distributed=distributed,
        )
        return by_first(audited)


def _audited(judgments: Judgments, fitted: Findings, names: list[str], seed: int) -> Audit:
    """What an audit reports; `names` are those of the table's files."""
    errors = worth_errors(fitted)
    annotators = audited_annotators(fitted, seed)
    contents = replace(audit_contents(judgments, fitted, errors, names, seed), annotators=annotators.page)
    responsibilities = np.asarray(fitted.model.responsibilities_)
    counts = np.bincount(fitted.people.panel.annotator_ids, minlength=len(responsibilities))
    types_table = responsibilities_table(fitted.people.names, counts, responsibilities)
    tables = {"types": types_table, "annotators": annotators.table, "worths": worths_table(fitted, errors)}
    return Audit(audit_metrics(fitted, contents) | annotators.metrics, contents, tables)


def _card(found: Audit, names: list[str]) -> str:
    """The README of an audit's folder."""
    identification = found.contents.identification
    title = f"# Audit of {', '.join(f'`{name}`' for name in names)}"
    verdict = f"{identification.sentence} (Identification: **{identification.verdict}**.)"
    table = metrics_table({key: value for key, value in found.items() if key != "sentence"})
    return "\n".join([title, "", verdict, "", *table]) + "\n"


def audit_metrics(fitted: Findings, contents: AuditPage) -> dict[str, Any]:
    """The flat metrics of an audit, without those that are undefined for the data."""
    model, agreement, triples = fitted.model, contents.agreement, contents.agreement.intransitive_triples
    types = len(model.mixture_weights_)
    counts = ("judgments", "annotators", "prompts", "unique_responses", "left_out")
    metrics: dict[str, Any] = {key: getattr(contents.data, key) for key in counts}
    metrics |= {
        "features": fitted.features,
        "types": types,
        "log_likelihood": model.log_likelihood_,
        "bic": model.bic_,
        "identification": contents.identification.verdict,
        "heterogeneity": contents.identification.heterogeneity,
        "sentence": contents.identification.sentence,
        "posterior_entropy": float(posterior_entropy(model).mean()),
        **{f"share/type={kind.type}": kind.share for kind in contents.types},
        **{f"tie_nu/type={kind.type}": kind.tie_nu for kind in contents.types if kind.tie_nu is not None},
    }
    optional = {
        "held_out_log_likelihood": float(fitted.selection.held_out[list(fitted.selection.types).index(types)]),
        "krippendorff_alpha": agreement.krippendorff_alpha,
        "krippendorff_alpha_low": agreement.alpha_low,
        "krippendorff_alpha_high": agreement.alpha_high,
        "intransitive_triples": None if triples is None else triples.share,
        "groups_adjusted_rand": contents.groups_adjusted_rand,
    }
    return metrics | {key: value for key, value in optional.items() if value is not None and np.isfinite(value)}


def worths_table(fitted: Findings, errors: np.ndarray | None) -> pa.Table:
    """The utility of each response for each type, with standard errors where they are known."""
    items, real = fitted.people.items, ~fitted.people.bars
    columns: dict[str, Any] = dict(text_columns([items.prompts[item] for item in items.item], items.responses))
    for kind, worth in enumerate(utilities_of(fitted)[:, real]):
        columns[f"worth_{kind + 1}"] = worth
        if errors is not None:
            columns[f"standard_error_{kind + 1}"] = errors[kind, real]
    return pa.table(columns)

"""`route`: the type of each annotator, and its adapter, from a few judgments and without training."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import torch

from pluralign.core.errors import PluralignError
from pluralign.core.files import check_outputs, output_file, write_parquet
from pluralign.judgments.inputs import Files
from pluralign.judgments.lettered import asked_for
from pluralign.judgments.reading import Inputs
from pluralign.judgments.renames import Columns
from pluralign.policies.loading import load_policy
from pluralign.policies.mixture import MixturePolicy
from pluralign.policies.routing import Prior, is_typed_run, posterior, responsibility_entropy, type_utilities
from pluralign.scoring.continuous_types import ContinuousTypes, ContinuumComparison
from pluralign.scoring.items import items_of
from pluralign.scoring.mixtures import ranking_log_likelihoods, read_types, responsibilities_table
from pluralign.scoring.panels import annotators_of
from pluralign.workflows.aggregate.written import write_mixture

CONTINUUM = "continuum"
"""The metadata key of the comparison of continuous weights with hard types."""


def route(
    run: str | os.PathLike[str],
    files: Files,
    out: str | os.PathLike[str] | None = None,
    *,
    prior: Prior = "run",
    continuous: bool = False,
    policies: Mapping[str, str | os.PathLike[str]] | None = None,
    label_scale: str | None = None,
    columns: Columns | None = None,
    trust_remote_code: bool = False,
    device: str | torch.device | None = None,
) -> pa.Table:
    """Find the most probable type of each annotator, and the adapter of that type. Nothing is trained.

    To sample as the type of a new annotator:

        annotator = pluralign.route("runs/people", "new.parquet").to_pylist()[0]
        with policy.using(annotator["adapter"]):
            ...

    Args:
        run: folder of an `em-dpo` run.
        files: what `read` takes: files, data sets, frames or rows. Each row without an annotator counts as a separate
            annotator.
        out: output file: Parquet; `None` writes none.
        prior: `run` for the types' shares in the run, or `uniform`.
        continuous: also give each annotator's continuous weights of the types, and compare them with hard types.
        policies: with `continuous`: annotator to a folder, in which their pooled policy is written.
        label_scale: label scale of files that store none.
        columns: new names of columns, like `{"annotator_id": "annotator"}`; `None` leaves a column out.
        trust_remote_code: run Python code that comes with a model.
        device: where to compute. Default: a GPU if there is one.

    Returns:
        A row per annotator, in the order of their first judgments: `annotator`; `row`, counted from 0, of rows
        without an annotator; `judgments`, the number of those that rank something; `type`, the most probable one,
        counted from 1; `adapter` and `adapter_path`; `probability_1` to `probability_K`; `log_likelihood` of the
        annotator's judgments and `entropy` of the posterior, in nats. An annotator who ranked nothing has 0 judgments
        and the prior. With `continuous` also `weight_1` to `weight_K`, the posterior mean of the convex combination of
        the types' utilities by which the annotator judges, and in the table's metadata `continuum`: the
        `ContinuumComparison` of predictions of held-out judgments, as JSON.

    Raises:
        PluralignError: a file or the run cannot be used, no judgment ranks anything, or a policy is asked for an
            annotator without judgments or without `continuous`.
    """
    if prior not in get_args(Prior):
        raise PluralignError(f"prior: found {prior!r}, expected one of {', '.join(get_args(Prior))}")
    given = Inputs(files, columns)
    if out is not None:
        output_file(out, [*given.names, label_scale])
    pooled = dict(policies or {})
    if pooled and not continuous:
        raise PluralignError("policy: an annotator's policy has continuous weights: add --continuous")
    check_outputs(pooled.values(), [run, *given.names])
    mixture = read_types(run)
    if prior == "run" and not is_typed_run(run):
        raise PluralignError(
            f"{run}: its weights say how often each adapter is used, not how many annotators are of each type: "
            "give the em-dpo run, or --prior uniform"
        )
    judgments = asked_for(given.read(label_scale), mixture.answers)
    items = items_of(judgments)
    annotator_of_row, keys = annotators_of(judgments, np.arange(len(judgments)))
    if missing := [name for name in pooled if name not in keys]:
        raise PluralignError(f"policy: {', '.join(missing)}: no judgment of the files is by this annotator")
    policy = load_policy(run, trust_remote_code=trust_remote_code, device=device)
    assert isinstance(policy, MixturePolicy)  # the folder of a mixture always loads as one
    adapters = list(mixture.weights)
    weights = policy.weights if prior == "run" else np.full(len(adapters), 1 / len(adapters))
    annotator = annotator_of_row[items.row]
    utilities = type_utilities(policy, items)
    log_likelihoods = ranking_log_likelihoods(utilities, items, mixture)
    responsibilities, totals = posterior(log_likelihoods, annotator, len(keys), weights, items.weight)
    counts = np.bincount(annotator, minlength=len(keys))
    routed = responsibilities_table([key if isinstance(key, str) else None for key in keys], counts, responsibilities)
    rows = pa.array([None if isinstance(key, str) else key for key in keys], pa.int64())
    routed = routed.add_column(1, "row", rows)
    chosen = [adapters[kind] for kind in responsibilities.argmax(1)]
    place = routed.column_names.index("type") + 1
    routed = routed.add_column(place, "adapter", pa.array(chosen))
    routed = routed.add_column(place + 1, "adapter_path", pa.array([str(Path(run) / name) for name in chosen]))
    routed = routed.append_column("log_likelihood", pa.array(totals))
    routed = routed.append_column("entropy", pa.array(responsibility_entropy(responsibilities)))
    if continuous:
        types = ContinuousTypes(utilities, items, mixture, annotator, len(keys), weights)
        weights_of = types.weights()
        for kind, shares in enumerate(weights_of.T, 1):
            routed = routed.append_column(f"weight_{kind}", pa.array(shares))
        for name, folder in pooled.items():
            own = weights_of[keys.index(name)]
            write_mixture(Path(run), Path(folder), replace(mixture, combination="pooled"), own)
        found = types.comparison()
        kept = {} if found is None else {CONTINUUM: json.dumps(asdict(found))}
        routed = routed.replace_schema_metadata(kept)
    if out is not None:
        write_parquet(routed, Path(out))
    return routed


def continuum_of(routed: pa.Table) -> ContinuumComparison | None:
    """The comparison of continuous weights with hard types that `route` made; `None` if it made none."""
    kept = (routed.schema.metadata or {}).get(CONTINUUM.encode())
    return None if kept is None else ContinuumComparison(**json.loads(kept))

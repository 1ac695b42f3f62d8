"""`route`: which adapter of a run serves each annotator, from a few judgments and without training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import torch

from pluralign.core.errors import PluralignError
from pluralign.core.files import write_parquet
from pluralign.judgments.reading import read
from pluralign.policies.loading import load_policy
from pluralign.policies.mixture import MixturePolicy
from pluralign.policies.routing import (
    Prior,
    entropy,
    is_typed_run,
    judgment_log_likelihoods,
    posterior,
)
from pluralign.scoring.items import items_of
from pluralign.scoring.mixtures import read_mixture, responsibilities_table
from pluralign.scoring.panels import annotators_of


def route(
    run: str | os.PathLike[str],
    files: str | os.PathLike[str] | list[str],
    out: str | os.PathLike[str] | None = None,
    *,
    prior: Prior = "run",
    label_scale: str | None = None,
    trust_remote_code: bool = False,
    device: str | torch.device | None = None,
) -> pa.Table:
    """Find the type of each annotator of some files, and the adapter to serve him with; nothing is trained.

    Find out whom a few judgments speak of, and answer as that type:

        who = pluralign.route("runs/people", "new.parquet").to_pylist()[0]
        with policy.using(who["adapter"]):
            ...

    Args:
        run: the folder of an `em-dpo` run.
        files: canonical files. Annotators without an id are each their own.
        out: the Parquet file to write; `None` writes none.
        prior: `run` begins from the types' shares in the run, `uniform` from equal ones.
        label_scale: for files whose labels come without one.
        trust_remote_code: run code that comes with the model.
        device: where to compute; `None` takes a GPU when there is one.

    Returns:
        a row for each annotator, in the order in which they first come: `annotator`; `row`, counted from 0, of
        those without an id; `judgments`, those that rank something; `type`, the most probable, from 1; `adapter`
        and `adapter_path`; `probability_1` to `probability_K`; `log_likelihood` of all that was said, and `entropy`
        of the posterior, in nats. Who ranked nothing has 0 judgments and the prior.

    Raises:
        PluralignError: a file or the run cannot be used, or no judgment ranks anything.
    """
    if prior not in get_args(Prior):
        raise PluralignError(f"prior: found {prior!r}, expected one of {', '.join(get_args(Prior))}")
    mixture = read_mixture(run)
    if prior == "run" and not is_typed_run(run):
        raise PluralignError(
            f"{run}: its weights are how often each adapter answers, not how many people are of each type: "
            "give the run that it was made of, or --prior uniform"
        )
    paths = [str(file) for file in files] if isinstance(files, list) else [str(files)]
    judgments = read(paths, label_scale)
    items = items_of(judgments)
    who, keys = annotators_of(judgments, np.arange(len(judgments)))
    policy = load_policy(run, trust_remote_code=trust_remote_code, device=device)
    assert isinstance(policy, MixturePolicy)  # of a mixture's folder it always is
    names = list(mixture.weights)
    eta = policy.weights if prior == "run" else np.full(len(names), 1 / len(names))
    speaker = who[items.row]
    gamma, total = posterior(judgment_log_likelihoods(policy, items), speaker, len(keys), eta, items.weight)
    counts = np.bincount(speaker, minlength=len(keys))
    names_of = [key if isinstance(key, str) else None for key in keys]
    chosen = [names[kind] for kind in gamma.argmax(1)]
    found = responsibilities_table(names_of, counts, gamma)
    rows = pa.array([None if isinstance(key, str) else key for key in keys], pa.int64())
    found = found.add_column(1, "row", rows)
    place = found.column_names.index("type") + 1
    found = found.add_column(place, "adapter", pa.array(chosen))
    found = found.add_column(place + 1, "adapter_path", pa.array([str(Path(run) / name) for name in chosen]))
    found = found.append_column("log_likelihood", pa.array(total)).append_column("entropy", pa.array(entropy(gamma)))
    if out is not None:
        write_parquet(found, Path(out))
    return found

"""A vote state as one Parquet file: a row per item, the settings in the metadata, merged ids beside the items.

Everything is in one file, so a single rename replaces a state: a killed update leaves the old state or the new one.
"""

from __future__ import annotations

import json
import os
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from pluralign.core.errors import PluralignError, one_line
from pluralign.core.files import read_parquet, write_parquet
from pluralign.judgments.messages import python_values
from pluralign.judgments.scales import LabelScale
from pluralign.judgments.schema import schema
from pluralign.judgments.votes.state import NO_WINDOW, Kind, VoteSettings, VoteState

_KEY = b"pluralign_votes"
_VERSION = 1
_DIGEST = 16


def write_votes(state: VoteState, path: str | os.PathLike[str]) -> None:
    """Write a state atomically.

    The columns are `prompt`, `response`, `other` (B of a pair), `prior` (q), `state` (a + c), `counts`, `votes` (n),
    `window`, `held` (faded votes, strata by labels) and `judgments` (digests of ids).

    Raises:
        PluralignError: the disk refuses.
    """
    text = schema(state.form).field("prompt").type
    order = np.argsort(state.digest_item, kind="stable")
    joined = state.digests[order].tobytes()
    digests = pa.FixedSizeBinaryArray.from_buffers(pa.binary(_DIGEST), len(state.digests), [None, pa.py_buffer(joined)])
    ends = np.concatenate(([0], np.bincount(state.digest_item, minlength=len(state)).cumsum()))
    columns: dict[str, Any] = {"prompt": pa.array(state.prompt, text), "response": pa.array(state.response, text)}
    if state.kind == "pairs":
        columns["other"] = pa.array(state.other, text)
    columns |= {
        "prior": _lists(state.prior),
        "state": _lists(state.parameters),
        "counts": _lists(state.counts),
        "votes": pa.array(state.votes),
        "window": pa.array(state.window, mask=state.window == NO_WINDOW),
        "held": _lists(state.held.reshape(len(state), int(np.prod(state.held.shape[1:])))),
        "judgments": pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), digests),
    }
    metadata = {
        "version": _VERSION,
        "kind": state.kind,
        "form": state.form,
        "label_scale": state.scale.as_dict(),
        "settings": state.settings.as_dict(),
    }
    write_parquet(pa.table(columns).replace_schema_metadata({_KEY: json.dumps(metadata).encode()}), path)


def read_votes(path: str | os.PathLike[str]) -> VoteState:
    """Read a vote state.

    Raises:
        PluralignError: the file is missing, damaged, or not a vote state.

    Examples:
        >>> import pathlib, tempfile
        >>> from pluralign.judgments import Judgments
        >>> from pluralign.judgments.votes import votes_of
        >>> row = {"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, 2]}
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "state.parquet"
        >>> write_votes(votes_of(Judgments.from_rows([row])), file)
        >>> read_votes(file).counts.tolist()
        [[0.0, 1.0]]
    """
    table = read_parquet(path)
    metadata = table.schema.metadata or {}
    if _KEY not in metadata:
        raise PluralignError(f"{path}: is not a vote state: create one with `pluralign votes update`")
    try:
        return _state(table, json.loads(metadata[_KEY]))
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError, pa.ArrowException) as fault:
        raise PluralignError(
            f"{path}: the vote state is damaged: {one_line(str(fault))}: create it again from its judgments"
        ) from fault


def _state(table: pa.Table, metadata: dict[str, Any]) -> VoteState:
    if metadata["version"] != _VERSION:
        raise ValueError(f"version {metadata['version']}, expected {_VERSION}")
    if metadata["kind"] not in get_args(Kind):
        raise ValueError(f"kind {metadata['kind']}")
    scale = LabelScale.from_dict(metadata["label_scale"])
    settings = VoteSettings(**metadata["settings"])
    labels, strata = len(scale.labels), 1 if settings.shares is None else len(settings.shares)
    merged = table.column("judgments").combine_chunks()
    lengths = np.asarray(merged.value_lengths().to_numpy(zero_copy_only=False), dtype=np.int64)
    flat = merged.flatten()
    packed = flat.buffers()[1][flat.offset * _DIGEST : (flat.offset + len(flat)) * _DIGEST] if len(flat) else b""
    window = table.column("window").fill_null(NO_WINDOW).to_numpy()
    return VoteState(
        kind=metadata["kind"],
        form=metadata["form"],
        scale=scale,
        settings=settings,
        prompt=python_values(table.column("prompt")),
        response=python_values(table.column("response")),
        other=python_values(table.column("other")) if metadata["kind"] == "pairs" else [],
        prior=_numbers(table, "prior", labels),
        counts=_numbers(table, "counts", labels),
        held=_numbers(table, "held", strata * labels).reshape(-1, strata, labels),
        window=np.array(window, dtype=np.int64),
        digests=np.array(memoryview(packed), dtype=np.uint8).view(f"S{_DIGEST}"),
        digest_item=np.repeat(np.arange(len(table)), lengths),
    )


def _lists(values: np.ndarray) -> Any:
    """`(items, n)` as a column of lists of n."""
    ends = np.arange(len(values) + 1) * values.shape[1]
    return pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), pa.array(values.reshape(-1)))


def _numbers(table: pa.Table, name: str, width: int) -> np.ndarray:
    column = table.column(name).combine_chunks()
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    values = np.array(column.flatten().to_numpy(zero_copy_only=False), dtype=np.float64)
    if (lengths != width).any() or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"column '{name}' does not hold {width} numbers, 0 or more, in every row")
    return values.reshape(-1, width)

"""Columns of a table as numbers: equal values have equal numbers, counted from 0 in order of first appearance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from pluralign.judgments.identity import column_digests
from pluralign.judgments.messages import python_values
from pluralign.judgments.schema import ranks_from_scores
from pluralign.judgments.table import Judgments

NONE = -1
"""Stands for no label, and for no rank."""


def numbered(column: pa.ChunkedArray) -> tuple[np.ndarray, list[Any]]:
    """The number of each value of a column of texts or chats, and the distinct values; null has the number -1.

    Examples:
        >>> codes, values = numbered(pa.chunked_array([["b", "a"], [None, "b"]]))
        >>> codes.tolist(), values
        ([0, 1, -1, 0], ['b', 'a'])
    """
    if not pa.types.is_list(column.type):
        encoded = column.dictionary_encode()
        codes = _joined([chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False) for chunk in encoded.chunks])
        return codes, encoded.chunk(0).dictionary.to_pylist() if encoded.num_chunks else []
    valid = _joined([chunk.is_valid().to_numpy(zero_copy_only=False) for chunk in column.chunks]).astype(bool)
    digests = np.concatenate([np.zeros((0, 16), np.uint8), *(column_digests(chunk) for chunk in column.chunks)])
    as_text = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(digests), [None, pa.py_buffer(digests.tobytes())])
    codes = as_text.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    first, codes = by_appearance(codes[valid])
    rows = np.flatnonzero(valid)
    whole = np.full(len(column), -1)
    whole[rows] = codes
    starts = rows[np.unique(codes, return_index=True)[1]] if len(first) else rows
    return whole, python_values(column.take(pa.array(starts)))


def flat_values(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.ChunkedArray]:
    """The length of each list of a column (0 for null), and the values of all lists.

    Examples:
        >>> lengths, values = flat_values(pa.chunked_array([[["a", "b"], None], [["c"]]]))
        >>> lengths.tolist(), values.to_pylist()
        ([2, 0, 1], ['a', 'b', 'c'])
    """
    lengths = _joined([chunk.value_lengths().fill_null(0).to_numpy(zero_copy_only=False) for chunk in column.chunks])
    return lengths, pa.chunked_array([chunk.flatten() for chunk in column.chunks], column.type.value_type)


def by_appearance(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values in order of first appearance, and the index of each value among them.

    Examples:
        >>> [part.tolist() for part in by_appearance(np.array([7, 3, 7]))]
        [[7, 3], [0, 1, 0]]
    """
    if len(values) and values.min() >= 0 and values.max() < len(values):  # small numbers need no sorting
        first = np.full(int(values.max()) + 1, len(values))
        first[values[::-1]] = np.arange(len(values) - 1, -1, -1)  # the last assignment is that of the first place
        distinct = np.flatnonzero(first < len(values))
        distinct = distinct[np.argsort(first[distinct])]
        rank = first  # of the same size, and no longer needed
        rank[distinct] = np.arange(len(distinct))
        return distinct, rank[values]
    distinct, first, place = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return distinct[order], rank[place]


def labels_shown(judgments: Judgments, lengths: np.ndarray) -> np.ndarray:
    """The number of the label of each response of each row, or `NONE`: `(responses,)`."""
    labels = np.full(int(lengths.sum()), NONE)
    found, flat = flat_values(judgments.table.column("labels"))
    codes, names = numbered(flat)
    scale = judgments.label_scale
    number = {} if scale is None else {label: number for number, label in enumerate(scale.labels)}
    labels[np.repeat(found > 0, lengths)] = np.array([*(number[name] for name in names), NONE], np.int64)[codes]
    return labels


def ranks_shown(judgments: Judgments, lengths: np.ndarray) -> np.ndarray:
    """The rank of each response of each row, or `NONE`; rows without ranks are ranked by the rewards of labels."""
    ranks = np.full(int(lengths.sum()), NONE)
    found, flat = flat_values(judgments.table.column("ranks"))
    whole = flat.cast(pa.int64()).fill_null(NONE).combine_chunks()
    ranks[np.repeat(found > 0, lengths)] = whole.to_numpy(zero_copy_only=False)
    scale = judgments.label_scale
    if scale is None or (found > 0).all():
        return ranks
    labels = labels_shown(judgments, lengths)
    ends = np.cumsum(lengths)
    alone = (found == 0) & (lengths == 1)
    single = labels[ends[alone] - 1]
    ranks[ends[alone] - 1] = np.where(single == NONE, NONE, 1)
    for row in np.flatnonzero((found == 0) & (lengths > 1)).tolist():
        of = slice(ends[row] - lengths[row], ends[row])
        scores = [None if label == NONE else scale.rewards[label] for label in labels[of].tolist()]
        ranks[of] = [NONE if rank is None else rank for rank in ranks_from_scores(scores)]
    return ranks


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)

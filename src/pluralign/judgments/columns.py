"""The checks of `RowChecker` over whole columns; rows that may be wrong are left to it and its messages."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pluralign.core.errors import RowError
from pluralign.judgments.identity import column_digests
from pluralign.judgments.messages import EXTRA_KEYS, MESSAGE, PLAIN_KEYS
from pluralign.judgments.scales import LabelScale
from pluralign.judgments.schema import COLUMNS, Form, schema
from pluralign.judgments.validation import LEAST_WEIGHT, MOST_WEIGHT, utc_time

_DAYS = (datetime.datetime(2, 1, 1, tzinfo=datetime.UTC), datetime.datetime(9999, 1, 1, tzinfo=datetime.UTC))
_LEAST_TIME, _MOST_TIME = (
    (day - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // datetime.timedelta(microseconds=1) for day in _DAYS
)


class Unfit(Exception):
    """A column has a type that only the row checker understands."""


def canonical_columns(
    batch: pa.RecordBatch, scale: LabelScale | None
) -> tuple[Form, pa.RecordBatch, np.ndarray] | None:
    """The form of a batch, the batch in the canonical schema, and which of its rows are surely judgments.

    The other rows have arbitrary values in the result: the row checker decides about them. The ids are those given, or
    null. `None` if the columns or their types are not those of a canonical table.
    """
    if len(set(batch.schema.names)) < batch.num_columns or not set(batch.schema.names) <= set(COLUMNS):
        return None
    given = {name: batch.column(name) for name in batch.schema.names}
    nothing = pa.nulls(batch.num_rows)
    good = np.ones(batch.num_rows, dtype=bool)
    try:
        responses = given.get("responses", nothing)
        form: Form = "messages" if is_list(responses.type) and is_list(responses.type.value_type) else "text"
        text = schema(form).field("prompt").type
        prompt = _texts(given.get("prompt", nothing), form)
        responses = _cast_list(responses, lambda flat: _texts(flat, form), text)
        _check_texts(prompt, responses, form, good)
        ranks = _cast_list(given.get("ranks", nothing), _whole_numbers, pa.int64())
        labels = _cast_list(given.get("labels", nothing), lambda flat: _labels(flat, scale), pa.string())
        lengths = _lengths(responses)
        ranks, ranked = _check_ranks(ranks, lengths, good)
        labels, labelled = _check_labels(labels, lengths, good)
        good &= ranked | labelled
        columns = {
            "prompt": prompt.fill_null("") if form == "text" else with_lengths(prompt.flatten(), _lengths(prompt)),
            "responses": responses,
            "ranks": ranks,
            "labels": labels,
            "weight": _weights(given.get("weight", nothing), good),
            "time": _times(given.get("time", nothing), good),
            "strength": _strengths(given.get("strength", nothing), good),
            **{name: _names(given.get(name, nothing)) for name in ("id", "annotator", "source", "group")},
        }
    except Unfit:
        return None
    target = schema(form, scale)
    return form, pa.RecordBatch.from_arrays([columns[name] for name in target.names], schema=target), good


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is one of Arrow's types of lists."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is one of Arrow's types of text."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _plain(column: pa.Array) -> pa.Array:
    """The column without a dictionary."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _strings(column: pa.Array) -> pa.Array:
    column = _plain(column)
    if not (is_text(column.type) or pa.types.is_null(column.type)):
        raise Unfit
    return column if pa.types.is_string(column.type) else column.cast(pa.string())


def _texts(column: pa.Array, form: Form) -> pa.Array:
    """Texts, or chats as lists of `role` and `content`."""
    if form == "text":
        return _strings(column)
    kind = schema(form).field("prompt").type
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), kind)

    def messages(flat: pa.Array) -> pa.Array:
        names = [field.name for field in flat.type] if pa.types.is_struct(flat.type) else []
        if len(set(names)) < len(names) or not set(names) >= set(PLAIN_KEYS):
            raise Unfit
        role, content = (_strings(flat.field(name)) for name in PLAIN_KEYS)
        for name in set(names) - set(PLAIN_KEYS):
            if flat.field(name).null_count < len(flat):  # without a role, the message is left to the row checker
                role = pc.if_else(flat.field(name).is_valid(), pa.scalar(None, pa.string()), role)
        nothing = [pa.nulls(len(flat), MESSAGE.field(name).type) for name in EXTRA_KEYS]
        parts = [role.cast(pa.string()), content.cast(pa.string()), *nothing]
        return pa.StructArray.from_arrays(parts, fields=list(MESSAGE), mask=flat.is_null())

    return _cast_list(column, messages, kind.value_type)


def _cast_list(column: pa.Array, inner: Callable[[pa.Array], pa.Array], kind: pa.DataType) -> pa.Array:
    """A column of lists with its values cast by `inner` to `kind`."""
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), pa.list_(kind))
    if not is_list(column.type):
        raise Unfit
    return with_lengths(inner(column.flatten()).cast(kind), _lengths(column), _flags(column.is_null()))


def _lengths(column: pa.Array) -> np.ndarray:
    """The number of values in each list; 0 for null."""
    return np.asarray(column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)).astype(np.int64)


def _flags(column: pa.Array) -> np.ndarray:
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=bool)


def _rows_of(flat: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The rows that hold the flagged values."""
    return np.repeat(np.arange(len(lengths)), lengths)[flat]


def _check_texts(prompt: pa.Array, responses: pa.Array, form: Form, good: np.ndarray) -> None:
    lengths, shown = _lengths(responses), responses.flatten()
    good &= lengths > 0
    good[_rows_of(_flags(shown.is_null()), lengths)] = False
    if form == "messages":
        good[_rows_of(_faulty_messages(prompt.flatten()), _lengths(prompt))] = False
        within = _lengths(shown)
        messages = shown.flatten()
        faulty, spoken = _faulty_messages(messages), ~_blank(messages.field("content"))
        good[_rows_of(np.bincount(_rows_of(faulty, within), minlength=len(shown)) > 0, lengths)] = False
        good[_rows_of(np.bincount(_rows_of(spoken, within), minlength=len(shown)) == 0, lengths)] = False
        digests = column_digests(shown)
        codes = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(digests.shape[1]), len(digests), [None, pa.py_buffer(digests.tobytes())]
        )
    else:
        good[_rows_of(_blank(shown), lengths)] = False
        codes = shown
    good[_repeating(codes.dictionary_encode().indices.fill_null(-1).to_numpy(), lengths)] = False


def _faulty_messages(messages: pa.Array) -> np.ndarray:
    missing = [_flags(messages.field(name).is_null()) for name in PLAIN_KEYS]
    return np.asarray(_flags(messages.is_null()) | missing[0] | missing[1])


def _blank(texts: pa.Array) -> np.ndarray:
    """Which texts hold only white space, as Python's `str.strip` defines it, or are null."""
    blank = ~_flags(pc.match_substring_regex(texts, "[!-~]").fill_null(False))
    doubtful = np.flatnonzero(blank)
    blank[doubtful] = [not (text or "").strip() for text in texts.take(pa.array(doubtful)).to_pylist()]
    return np.asarray(blank)


def _repeating(codes: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The rows in which a code occurs twice."""
    keys = np.repeat(np.arange(len(lengths)), lengths) * (int(codes.max(initial=0)) + 2) + codes + 1
    keys.sort()
    return np.asarray(keys[1:][keys[1:] == keys[:-1]] // (int(codes.max(initial=0)) + 2))


def _whole_numbers(flat: pa.Array) -> pa.Array:
    if not (pa.types.is_integer(flat.type) or pa.types.is_null(flat.type)) or flat.type == pa.uint64():
        raise Unfit
    return flat.cast(pa.int64())


def _filled_rows(column: pa.Array, lengths: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Which rows have a value other than null in a column of lists, which needs the length of the responses."""
    given = _flags(column.is_valid())
    found = _lengths(column)
    good &= ~given | (found == lengths)
    filled = np.bincount(_rows_of(_flags(column.flatten().is_valid()), found), minlength=len(column))
    return np.asarray(filled > 0)


def _check_ranks(ranks: pa.Array, lengths: np.ndarray, good: np.ndarray) -> tuple[pa.Array, np.ndarray]:
    """The ranks as the schema has them, and which rows have any."""
    ranked = _filled_rows(ranks, lengths, good)
    found, flat = _lengths(ranks), ranks.flatten()
    values = flat.fill_null(2**31).to_numpy()
    good[_rows_of((values < 1) | (_flags(flat.is_valid()) & (values >= 2**31)), found)] = False
    if len(values):
        full = np.flatnonzero(found)
        least = np.minimum.reduceat(values, np.cumsum(found)[full] - found[full])
        good[full] &= ~ranked[full] | (least == 1)
    safe = pa.array(np.clip(values, 0, 2**31 - 1).astype(np.int32), mask=_flags(flat.is_null()))
    return with_lengths(safe, found, ~ranked), ranked


def _check_labels(labels: pa.Array, lengths: np.ndarray, good: np.ndarray) -> tuple[pa.Array, np.ndarray]:
    labelled = _filled_rows(labels, lengths, good)
    flat = labels.flatten()
    unknown = _flags(pc.equal(flat, _UNKNOWN).fill_null(False))
    good[_rows_of(unknown, _lengths(labels))] = False
    return with_lengths(flat, _lengths(labels), ~labelled), labelled


_UNKNOWN = "\0"
"""Stands for a label that is not on the scale, until the row checker names it."""


def _labels(flat: pa.Array, scale: LabelScale | None) -> pa.Array:
    """The labels as the scale has them; those that it does not know as `_UNKNOWN`."""
    flat = _plain(flat)
    if pa.types.is_null(flat.type):
        return flat.cast(pa.string())
    if not (is_text(flat.type) or pa.types.is_integer(flat.type) or pa.types.is_boolean(flat.type)):
        raise Unfit
    encoded = flat.dictionary_encode()
    names = [(scale and scale.find(name)) or _UNKNOWN for name in encoded.dictionary.to_pylist()]
    return pa.array(names, pa.string()).take(encoded.indices)


def _names(column: pa.Array) -> pa.Array:
    """Names and whole numbers as text; empty ones as null."""
    column = _plain(column)
    if column.type == pa.float64():  # whole numbers beside gaps
        values = column.fill_null(np.nan).to_numpy()
        gaps = np.isnan(values)
        whole = np.where(gaps, 0, values)
        if (whole != np.floor(whole)).any() or (np.abs(whole) >= 2**53).any():
            raise Unfit
        column = pa.array(whole.astype(np.int64), mask=gaps)
    names = column.cast(pa.string()) if pa.types.is_integer(column.type) else _strings(column)
    empty = pc.equal(names, "").fill_null(False)
    return pc.if_else(empty, pa.scalar(None, pa.string()), names) if pc.any(empty).as_py() else names


def _numbers(column: pa.Array, missing: float) -> np.ndarray:
    kind = column.type
    if kind not in (pa.float64(), pa.float32(), pa.null()) and not pa.types.is_integer(kind):
        raise Unfit
    return np.asarray(column.cast(pa.float64(), safe=False).fill_null(missing).to_numpy() + 0.0)  # no negative zero


def _strengths(column: pa.Array, good: np.ndarray) -> pa.Array:
    strengths = _numbers(column, 0.0)
    good &= (strengths >= 0) & (strengths < np.inf)
    return pa.array(strengths, mask=_flags(column.is_null()))


def _weights(column: pa.Array, good: np.ndarray) -> pa.Array:
    weights = _numbers(column, 1.0)
    good &= (weights == 0) | ((weights >= LEAST_WEIGHT) & (weights <= MOST_WEIGHT))
    return pa.array(weights)


def _times(column: pa.Array, good: np.ndarray) -> pa.Array:
    kind = pa.timestamp("us", tz="UTC")
    if pa.types.is_null(column.type):
        return column.cast(kind)
    column = _plain(column)
    if is_text(column.type):
        encoded = column.dictionary_encode()
        times: list[datetime.datetime | None] = []
        for text in encoded.dictionary.to_pylist():
            times.append(None)
            with contextlib.suppress(RowError, OverflowError):
                times[-1] = utc_time(text)
        known = pa.array(times, kind)
        moments = known.take(encoded.indices)
        good &= ~_flags(pc.and_(column.is_valid(), moments.is_null()))
        return moments
    if not pa.types.is_timestamp(column.type):
        raise Unfit
    # The edges of what a date can be are left to the row checker.
    unit = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 1}[column.type.unit]
    values = column.cast(pa.int64()).fill_null(0).to_numpy() // (1000 if column.type.unit == "ns" else 1)
    inside = (values > _LEAST_TIME // unit) & (values < _MOST_TIME // unit)
    good &= inside
    return pa.array(np.where(inside, values, 0) * unit, mask=_flags(column.is_null())).cast(kind)


def with_lengths(values: pa.Array, lengths: np.ndarray, nulls: np.ndarray | None = None) -> pa.Array:
    """A column of lists of the given lengths; those that `nulls` marks are null."""
    ends = pa.array(np.concatenate(([0], np.cumsum(lengths))), pa.int32())
    mask = None if nulls is None or not nulls.any() else pa.array(nulls)
    return pa.ListArray.from_arrays(ends, values, type=pa.list_(values.type), mask=mask)


def with_names(batch: pa.RecordBatch, name: str, change: Callable[[pa.Array], pa.Array]) -> pa.RecordBatch:
    """The batch with a column of names changed, or made from nulls if there is none.

    Raises:
        Unfit: the column does not hold texts or whole numbers.
    """
    at = batch.schema.get_field_index(name)
    if at < 0:
        return batch.append_column(name, change(pa.nulls(batch.num_rows, pa.string())))
    return batch.set_column(at, name, change(_names(batch.column(at))))

"""Ids that are derived from the content of a judgment, for one row and for whole columns.

An id is the first 12 bytes, as 24 hexadecimal digits, of BLAKE2b over the digests of the row's texts and its numbers in
binary, in the order of the columns. This is version 2; version 1 (before 0.2) hashed the row as JSON. Files keep the
ids that they were written with.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa

from pluralign.judgments.messages import EXTRA_KEYS, PLAIN_KEYS, python_values

VERSION = 2
"""The version of derived ids."""

_TEXT, _ID = 16, 12  # bytes of the digest of a text, and of an id
_NOTHING = bytes(_TEXT)  # stands for null
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_NO_TIME = -(2**63)
_NO_STRENGTH = -1.0
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


def row_id(row: Mapping[str, Any]) -> str:
    """The derived id of a row in canonical form, whatever its own `id`.

    Examples:
        >>> from pluralign.judgments.validation import RowChecker
        >>> row = RowChecker().check({"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, 2], "id": "a"})
        >>> row_id(row), row_id({**row, "id": None}) == row_id({**row, "id": "a"})
        ('88b1392178cc700f445ae9fd', True)
    """
    count, time = len(row["responses"]), row["time"]
    moment = _NO_TIME if time is None else (time - _EPOCH) // datetime.timedelta(microseconds=1)
    parts = [_digest(row["prompt"]), *map(_digest, row["responses"])]
    parts.append(np.array([rank or 0 for rank in row["ranks"] or [0] * count], "<i4").tobytes())
    parts += map(_digest, row["labels"] or [None] * count)
    parts += [_digest(row[name]) for name in ("annotator", "source", "group")]
    strength = _NO_STRENGTH if row["strength"] is None else row["strength"]
    parts += [np.array(row["weight"], "<f8").tobytes(), np.array(moment, "<i8").tobytes()]
    parts.append(np.array(strength, "<f8").tobytes())
    return blake2b(b"".join(parts), digest_size=_ID).hexdigest()


def column_ids(batch: pa.RecordBatch) -> pa.Array:
    """The derived ids of all rows of a batch in canonical form: what `row_id` gives for each of them."""
    rows = batch.num_rows
    counts = batch.column("responses").value_lengths().to_numpy(zero_copy_only=False)
    starts = np.concatenate(([0], np.cumsum(counts)))
    responses = column_digests(batch.column("responses").flatten())
    ranks = np.zeros(starts[-1], "<i4")
    _per_response(batch.column("ranks"), counts, ranks, lambda flat: flat.fill_null(0).to_numpy())
    labels = np.zeros((starts[-1], _TEXT), np.uint8)
    _per_response(batch.column("labels"), counts, labels, column_digests)
    prompt = column_digests(batch.column("prompt"))
    names = [column_digests(batch.column(name)) for name in ("annotator", "source", "group")]
    weight = np.ascontiguousarray(batch.column("weight").to_numpy(), "<f8")
    time = np.ascontiguousarray(batch.column("time").cast(pa.int64()).fill_null(_NO_TIME).to_numpy(), "<i8")
    strength = np.ascontiguousarray(batch.column("strength").fill_null(_NO_STRENGTH).to_numpy(), "<f8")
    digests = np.empty((rows, _ID), np.uint8)
    for count in np.unique(counts):
        of = np.flatnonzero(counts == count)
        flat = starts[of][:, None] + np.arange(count)
        parts = [
            prompt[of],
            responses[flat].reshape(len(of), -1),
            ranks[flat].view(np.uint8).reshape(len(of), -1),
            labels[flat].reshape(len(of), -1),
            *(name[of] for name in names),
            weight[of, None].view(np.uint8),
            time[of, None].view(np.uint8),
            strength[of, None].view(np.uint8),
        ]
        packed = np.concatenate(parts, axis=1)
        digests[of] = _hashed(packed.tobytes(), np.arange(len(of) + 1) * packed.shape[1], _ID)
    text = np.empty((rows, 2 * _ID), np.uint8)
    text[:, 0::2], text[:, 1::2] = _HEX[digests >> 4], _HEX[digests & 15]
    ends = np.arange(rows + 1, dtype=np.int32) * (2 * _ID)
    return pa.StringArray.from_buffers(rows, pa.py_buffer(ends), pa.py_buffer(text.tobytes()))


def column_digests(column: pa.Array) -> np.ndarray:
    """The digests of a column of texts or chats, `(rows, 16)` bytes; zeros for null."""
    if pa.types.is_list(column.type):
        messages = column.flatten()
        parts = np.concatenate([column_digests(messages.field(name)) for name in PLAIN_KEYS], axis=1)
        more = [messages.field(name).is_valid() for name in EXTRA_KEYS if messages.type.get_field_index(name) >= 0]
        for place in (
            np.flatnonzero(np.any([each.to_numpy(zero_copy_only=False) for each in more], axis=0)) if more else ()
        ):
            parts[place] = np.frombuffer(_message(python_values(messages.slice(place, 1))[0]), np.uint8)
        ends = np.concatenate(([0], np.cumsum(column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False))))
        digests = _hashed(parts.tobytes(), ends * parts.shape[1], _TEXT, b"messages")
        digests[column.is_null().to_numpy(zero_copy_only=False)] = 0
        return digests
    encoded = column.dictionary_encode()
    each = [blake2b(text.encode(), digest_size=_TEXT).digest() for text in encoded.dictionary.to_pylist()]
    table = np.frombuffer(b"".join([*each, _NOTHING]), np.uint8).reshape(-1, _TEXT)
    return np.asarray(table[encoded.indices.fill_null(len(each)).to_numpy()])


def _digest(value: Any) -> bytes:
    """The digest of a text or a list of messages; zeros for null."""
    if value is None:
        return _NOTHING
    if isinstance(value, str):
        return blake2b(value.encode(), digest_size=_TEXT).digest()
    return blake2b(b"".join(map(_message, value)), digest_size=_TEXT, person=b"messages").digest()


def _message(message: Mapping[str, Any]) -> bytes:
    """The digests of a message's role and content; the second one is also of what else the message has."""
    role, content = (_digest(message[name]) for name in PLAIN_KEYS)
    more = {name: message[name] for name in EXTRA_KEYS if message.get(name) is not None}
    if more:
        text = json.dumps(more, ensure_ascii=False, sort_keys=True).encode()
        content = blake2b(content + text, digest_size=_TEXT, person=b"message").digest()
    return role + content


def _hashed(data: bytes, ends: np.ndarray, size: int, person: bytes = b"") -> np.ndarray:
    """The digests of consecutive parts of `data`, `(parts, size)` bytes."""
    view, places = memoryview(data), ends.tolist()
    parts = map(view.__getitem__, map(slice, places[:-1], places[1:]))
    if person:
        each = [blake2b(part, digest_size=size, person=person).digest() for part in parts]
    else:
        each = [blake2b(part, digest_size=size).digest() for part in parts]
    return np.frombuffer(bytearray(b"".join(each)), np.uint8).reshape(-1, size)


def _per_response(column: pa.Array, counts: np.ndarray, into: np.ndarray, values: Any) -> None:
    """Write the values of a column of lists to the responses of the rows that have one."""
    given = column.is_valid().to_numpy(zero_copy_only=False)
    if given.any():
        into[np.repeat(given, counts)] = values(column.flatten())

"""Rows of JSON Lines and of JSON arrays."""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json

from pluralign.core.errors import PluralignError, RowError, one_line
from pluralign.judgments.blocks import Block, Item, block_of
from pluralign.judgments.rows.opening import BLOCK_ROWS, file_errors, opened, whole_lines
from pluralign.judgments.schema import COLUMNS, Form, schema
from pluralign.judgments.validation import RowChecker


def json_lines(path: Path) -> Iterator[Item]:
    """The rows of JSON Lines."""
    with opened(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _line(number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line)


def json_array(path: Path) -> Iterator[Item]:
    """The rows of an array, which is one JSON value and held in memory whole."""
    value = read_json(path)
    if not isinstance(value, list):
        raise PluralignError(f"{path}: expected a JSON array of objects (or JSON Lines in a .jsonl file)")
    for number, row in enumerate(value, start=1):
        yield _object(number, row)


def line_blocks(path: Path, checker: RowChecker | None) -> Iterator[Block]:
    """JSON Lines in blocks, as columns where their types are those of a canonical table."""
    first = 1  # the number of the first line of the block
    for data in whole_lines(path):
        text = data.removeprefix(codecs.BOM_UTF8) if first == 1 else data
        columns = None if checker is None else _lines_as_columns(text, checker.form)
        if columns is not None:
            ends = _line_ends(text)

            def items(
                places: Sequence[int], text: bytes = text, ends: np.ndarray = ends, first: int = first
            ) -> list[Item]:
                starts = np.concatenate(([0], ends[:-1] + 1))
                return [_line(first + place, text[starts[place] : ends[place]]) for place in places]

            yield Block(items, len(ends), columns)
        else:
            lines = io.BytesIO(text)
            held = [_line(number, line) for number, line in enumerate(lines, start=first) if line.strip()]
            yield block_of(held)
        first += text.count(b"\n")


def array_blocks(path: Path, checker: RowChecker | None) -> Iterator[Block]:
    """A JSON array in blocks of rows."""
    rows = json_array(path)
    while held := list(islice(rows, BLOCK_ROWS)):
        yield block_of(held)


def _lines_as_columns(text: bytes, form: Form | None) -> pa.RecordBatch | None:
    """JSON Lines with canonical columns as a batch; `None` if the row reader must read them.

    Arrow accepts objects that span lines and several objects on a line. If all lines begin and end with a brace, each
    object has its own line as soon as their numbers are equal.
    """
    letters, ends = np.frombuffer(text, np.uint8), _line_ends(text)
    if not len(ends):
        return None
    starts = np.concatenate(([0], ends[:-1] + 1))
    last = ends - 1
    last = np.where(letters[last] == ord("\r"), last - 1, last)
    if (last <= starts).any() or (letters[starts] != ord("{")).any() or (letters[last] != ord("}")).any():
        return None
    try:
        text.isascii() or text.decode()
        expected = _schema_of_lines(json.loads(text[: ends[0]]), form)
        table = pyarrow.json.read_json(
            pa.BufferReader(text),
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=max(len(text), 1024)),
            parse_options=pyarrow.json.ParseOptions(explicit_schema=expected, unexpected_field_behavior="error"),
        )
    except (ValueError, RecursionError, pa.ArrowException):
        return None
    batches = table.combine_chunks().to_batches()
    return batches[0] if len(batches) == 1 and table.num_rows == len(ends) else None


def _schema_of_lines(first: Mapping[str, Any], form: Form | None) -> pa.Schema:
    """The types that lines like the first one have; those of another line show when it is parsed."""
    if form is None:
        responses = first.get("responses")
        form = "messages" if isinstance(responses, list) and responses and isinstance(responses[0], list) else "text"
    fields = {field.name: field.type for field in schema(form)}
    fields |= {"ranks": pa.list_(pa.int64()), "time": pa.string()}
    for name in ("id", "annotator", "source", "group"):
        if type(first.get(name)) is int:
            fields[name] = pa.int64()
    labels = first.get("labels")
    if isinstance(labels, list) and any(type(label) is int for label in labels):
        fields["labels"] = pa.list_(pa.int64())
    return pa.schema([(name, fields[name]) for name in COLUMNS])


def _line_ends(text: bytes) -> np.ndarray:
    """Where the lines end."""
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
    return ends if text.endswith(b"\n") else np.append(ends, len(text))


def _line(number: int, line: bytes) -> Item:
    """One line of JSON Lines."""
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as fault:
        return number, repr(line), RowError(None, f"byte {fault.start + 1} is not UTF-8: save the file as UTF-8")
    except (ValueError, RecursionError) as fault:
        return number, line.decode(), RowError(None, f"malformed JSON: {fault}")
    return _object(number, row)


def _object(number: int, row: Any) -> tuple[int, Any, RowError | None]:
    if isinstance(row, dict):
        return number, row, None
    return number, row, RowError(None, f"found {one_line(row)}, expected a JSON object")


def read_json(path: Path) -> Any:
    """The value of a JSON file, which is held in memory whole.

    Raises:
        PluralignError: the file is missing or empty, or not JSON.
    """
    with file_errors(path, lambda: 0), opened(path) as data:
        try:
            return json.loads(data.read().decode("utf-8-sig"))
        except UnicodeDecodeError as fault:
            raise PluralignError(f"{path}: byte {fault.start + 1} is not UTF-8: save the file as UTF-8") from fault
        except (ValueError, RecursionError) as fault:
            raise PluralignError(f"{path}: malformed JSON: {fault}") from fault

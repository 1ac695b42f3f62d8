"""Rows of outside files, streamed: Parquet, JSON Lines, JSON, CSV and TSV, each also gzipped."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pluralign.core.errors import PluralignError, RowError, one_line
from pluralign.core.files import disk_errors
from pluralign.judgments.validation import Reject

ENDINGS = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".dat")
"""The endings that can be read; all but Parquet also with `.gz` behind."""


def kind_of(path: Path) -> str:
    """The ending that says how a file is written, without `.gz`.

    Examples:
        >>> kind_of(Path("votes.csv.gz"))
        '.csv'
    """
    name = path.name.lower().removesuffix(".gz")
    kind = Path(name).suffix
    if kind not in ENDINGS:
        raise PluralignError(f"{path}: the name must end in {', '.join(ENDINGS)} (.gz may follow)")
    return kind


def read_rows(path: Path, reject: Reject | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Stream the rows of a file as (number, row), numbers counted from 1 (without the header of a CSV).

    Args:
        path: the file; its ending says what it holds.
        reject: what to do with a row that is no row (a malformed line); `None` raises.

    Raises:
        PluralignError: the file is missing, empty, cut off, or a row is malformed; says where.
    """
    kind = kind_of(path)
    rows = {
        ".parquet": _parquet,
        ".jsonl": _json_lines,
        ".ndjson": _json_lines,
        ".json": _json_array,
    }.get(kind, _separated)
    count = 0
    with disk_errors(path):
        if path.stat().st_size == 0:
            raise PluralignError(f"{path}: the file is empty")
        try:
            for number, found, complaint in rows(path):
                if complaint is None:
                    count += 1
                    yield number, found
                elif reject is None:
                    raise complaint.at(path, number)
                else:
                    reject(number, found, complaint)
                    count += 1
        except _DAMAGE as fault:
            raise PluralignError(
                f"{path}: the gzip file is damaged or cut off after row {count}: fetch it again"
            ) from fault
        except pa.ArrowException as fault:
            raise PluralignError(f"{path}: not a readable Parquet file: {one_line(str(fault))}") from fault
    if count == 0:
        raise PluralignError(f"{path}: the file has no rows")


_Found = Iterator[tuple[int, Any, RowError | None]]
_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error)


def columns_of(path: Path) -> list[str] | None:
    """The column names that the file declares ahead of its rows, or `None` where each row names its own."""
    kind = kind_of(path)
    with disk_errors(path):
        if kind == ".parquet" and path.stat().st_size > 0:
            try:
                return list(pq.read_schema(path).names)
            except pa.ArrowException as fault:
                raise PluralignError(f"{path}: not a readable Parquet file: {one_line(str(fault))}") from fault
        if path.stat().st_size == 0:
            raise PluralignError(f"{path}: the file is empty")
        if kind in (".csv", ".tsv", ".dat"):
            try:
                with _opened(path) as data:
                    return next(_csv_reader(data, kind), [])
            except _DAMAGE as fault:
                raise PluralignError(f"{path}: the gzip file is damaged or cut off: fetch it again") from fault
            except csv.Error as fault:
                raise PluralignError(f"{path}, line 1: malformed: {fault}") from fault
    return None


def expected_rows(path: Path) -> int | None:
    """About how many rows a file has, for a progress bar; `None` where nobody looks on or it cannot be told.

    Lines are counted, which is quick beside reading them; a CSV field that spans lines makes the count too high.
    """
    if not sys.stderr.isatty():
        return None
    try:
        kind = kind_of(path)
        if kind == ".parquet":
            return pq.read_metadata(path).num_rows
        if kind == ".json":
            return None
        with _opened(path) as data:
            return sum(block.count(b"\n") for block in iter(lambda: data.read(2**20), b""))
    except (pa.ArrowException, OSError, PluralignError, *_DAMAGE):
        return None  # the reader itself says what is wrong, with the place


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with open(path, "rb") as data:
        if path.name.lower().endswith(".gz"):
            with gzip.GzipFile(fileobj=data) as unpacked:
                yield unpacked  # type: ignore[misc]
        else:
            yield data


def _parquet(path: Path) -> _Found:
    with pq.ParquetFile(path, memory_map=True) as file:
        number = 0
        for batch in file.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield number, row, None


def _json_lines(path: Path) -> _Found:
    with _opened(path) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as fault:
                yield (
                    number,
                    repr(line),
                    RowError(None, f"byte {fault.start + 1} is not UTF-8: save the file as UTF-8"),
                )
                continue
            except (ValueError, RecursionError) as fault:
                yield number, line.decode(), RowError(None, f"malformed JSON: {fault}")
                continue
            if isinstance(row, dict):
                yield number, row, None
            else:
                yield number, row, RowError(None, f"found {one_line(row)}, expected a JSON object")


def _json_array(path: Path) -> _Found:
    # One array is one JSON value: it has to be held in memory whole. JSON Lines streams.
    with _opened(path) as data:
        try:
            value = json.loads(data.read().decode("utf-8-sig"))
        except UnicodeDecodeError as fault:
            raise PluralignError(f"{path}: byte {fault.start + 1} is not UTF-8: save the file as UTF-8") from fault
        except (ValueError, RecursionError) as fault:
            raise PluralignError(f"{path}: malformed JSON: {fault}") from fault
    if not isinstance(value, list):
        raise PluralignError(f"{path}: expected a JSON array of objects (or JSON Lines in a .jsonl file)")
    for number, row in enumerate(value, start=1):
        if isinstance(row, dict):
            yield number, row, None
        else:
            yield number, row, RowError(None, f"found {one_line(row)}, expected a JSON object")


def _csv_reader(data: BinaryIO, kind: str) -> Any:
    # Bytes that are not UTF-8 pass as surrogates, so that the row that holds them can be named.
    text = io.TextIOWrapper(data, encoding="utf-8-sig", errors="surrogateescape", newline="")
    csv.field_size_limit(2**31 - 1)
    return csv.reader(text, delimiter="," if kind == ".csv" else "\t", strict=True)


def _separated(path: Path) -> _Found:
    with _opened(path) as data:
        reader = _csv_reader(data, kind_of(path))
        try:
            header = next(reader, None)
            if header is None:
                raise PluralignError(f"{path}: the file is empty")
            if len(set(header)) != len(header):
                twice = next(name for name in header if header.count(name) > 1)
                raise PluralignError(f"{path}: the column '{twice}' appears twice in the header")
            for number, fields in enumerate(reader, start=1):
                if not fields:
                    continue
                row = dict(zip(header, fields, strict=False))
                bad = next((name for name, field in row.items() if not _is_utf8(field)), None)
                if len(fields) != len(header):
                    yield (
                        number,
                        fields,
                        RowError(None, f"found {len(fields)} fields, expected {len(header)} as in the header"),
                    )
                elif bad is not None:
                    yield number, row, RowError(bad, "bytes that are not UTF-8: save the file as UTF-8")
                else:
                    yield number, row, None
        except csv.Error as fault:
            raise PluralignError(f"{path}, line {reader.line_num}: malformed: {fault}") from fault


def _is_utf8(field: str) -> bool:
    return field.isascii() or not any("\udc80" <= sign <= "\udcff" for sign in field)

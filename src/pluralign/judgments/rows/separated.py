"""Rows of CSV and TSV files."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterator, Sequence
from itertools import chain, dropwhile, islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv

from pluralign.core.errors import PluralignError, RowError, clipped
from pluralign.judgments.blocks import Block, Item, block_of
from pluralign.judgments.rows.opening import BLOCK_ROWS, kind_of, opened, whole_lines
from pluralign.judgments.validation import RowChecker

_Record = tuple[list[str], int, list[str], RowError | None]


def separated(path: Path) -> Iterator[Item]:
    """The rows of a CSV file."""
    return (_cells(*record) for record in _records(path))


def separated_blocks(path: Path, checker: RowChecker | None) -> Iterator[Block]:
    """A CSV file in blocks, as columns of text."""
    start = 1
    for batch in _unquoted(path):
        if batch is None:
            yield from _quoted_blocks(path, start)
            return

        def records(places: Sequence[int], batch: pa.RecordBatch = batch, start: int = start) -> list[Item]:
            fields = [column.take(pa.array(places, pa.int64())).to_pylist() for column in batch.columns]
            rows = zip(places, zip(*fields, strict=True), strict=True)
            return [_cells(batch.schema.names, start + place, list(row), None) for place, row in rows]

        yield Block(records, batch.num_rows, batch)
        start += batch.num_rows


def _unquoted(path: Path) -> Iterator[pa.RecordBatch | None]:
    """The cells of a CSV file; `None` before the first that only the reader of single records understands."""
    header: list[str] = []
    for data in whole_lines(path):
        rows, table = data, None
        with contextlib.suppress(csv.Error, UnicodeDecodeError, pa.ArrowException):
            odd = any(each in data for each in (b'"', b"\0", b"\n\n", b"\n\r")) or data[:1] in (b"\n", b"\r")
            if not odd and data.count(b"\r") == data.count(b"\r\n") and data.decode():
                if not header:
                    reader = csv_reader(io.BytesIO(data), kind_of(path))
                    header, delimiter = next(reader), reader.dialect.delimiter
                    rows = data[data.find(b"\n") + 1 :] if b"\n" in data else b""
                if len(set(header)) == len(header):
                    table = rows and _parsed(rows, header, delimiter)
        if table is None:
            yield None
            return
        if table:
            yield from table.combine_chunks().to_batches()


def _parsed(rows: bytes, header: list[str], delimiter: str) -> pa.Table:
    """Lines without quotes as columns of text."""
    return pyarrow.csv.read_csv(
        pa.BufferReader(rows),
        pyarrow.csv.ReadOptions(use_threads=False, block_size=max(len(rows), 1024), column_names=header),
        pyarrow.csv.ParseOptions(delimiter=delimiter, quote_char=False, ignore_empty_lines=False),
        pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False),
    )


def _quoted_blocks(path: Path, start: int) -> Iterator[Block]:
    """The records of a CSV file from the given number on."""
    try:
        with opened(path) as data:
            reader = csv_reader(data, kind_of(path))
            header: list[str] = next(reader, [])
            for _ in islice(reader, start - 1):
                pass
            while fields := list(islice(reader, BLOCK_ROWS)):
                if set(map(len, fields)) != {len(header)} or len(set(header)) < len(header):
                    raise csv.Error("for the reader of single records")
                columns = None
                with contextlib.suppress(UnicodeEncodeError):
                    texts = [pa.array(each, pa.string()) for each in zip(*fields, strict=True)]
                    columns = pa.RecordBatch.from_arrays(texts, names=header)

                def items(places: Sequence[int], fields: Any = fields, start: int = start) -> list[Item]:
                    return [_cells(header, start + place, fields[place], None) for place in places]

                yield Block(items, len(fields), columns)
                start += len(fields)
    except csv.Error:
        # Blank and malformed lines are read one by one, from where the blocks end.
        held = dropwhile(lambda record: record[1] < start, _records(path))
        while items_held := [_cells(*record) for record in islice(held, BLOCK_ROWS)]:
            yield block_of(items_held)


def _records(path: Path) -> Iterator[_Record]:
    """The records of a CSV file: the header, the number of the record, its fields, and an error if it has none."""
    with opened(path) as data:
        reader = csv_reader(data, kind_of(path))
        try:
            header = next(reader, None)
            if header is None:
                raise PluralignError(f"{path}: the file is empty")
            if len(set(header)) != len(header):
                repeated = next(name for name in header if header.count(name) > 1)
                raise PluralignError(f"{path}: the column '{clipped(repeated)}' appears twice in the header")
            number = 0
            while True:
                number += 1
                first = reader.line_num + 1
                try:
                    fields = next(reader, None)
                except csv.Error as fault:  # the reader goes on with the next line
                    complaint = RowError(None, f"lines {first} to {reader.line_num}: malformed: {fault}")
                    yield header, number, [], complaint
                    continue
                if fields is None:
                    break
                if fields:
                    yield header, number, fields, None
        except csv.Error as fault:
            raise PluralignError(f"{path}, line {reader.line_num}: malformed: {fault}") from fault


def _cells(header: list[str], number: int, fields: list[str], complaint: RowError | None) -> Item:
    """A record of a CSV file as a row."""
    if complaint is not None:
        return number, None, complaint
    if len(fields) != len(header):
        expected = f"expected {len(header)} as in the header"
        return number, fields, RowError(None, f"found {len(fields)} fields, {expected}")
    row = dict(zip(header, fields, strict=True))
    bad = next((name for name, field in row.items() if not _is_utf8(field)), None)
    return number, row, None if bad is None else RowError(bad, "bytes that are not UTF-8: save the file as UTF-8")


def csv_reader(data: BinaryIO, kind: str) -> Any:
    """The records of a CSV or TSV file, the header first."""
    # Bytes that are not UTF-8 pass as surrogates, so that the error can name the row that holds them.
    text = io.TextIOWrapper(data, encoding="utf-8-sig", errors="surrogateescape", newline="")
    csv.field_size_limit(2**31 - 1)
    delimiter = "\t"
    if kind == ".csv":
        # Where the comma is the decimal sign, columns are separated by semicolons.
        header = text.readline()
        delimiter = ";" if ";" in header and "," not in header else ","
        return csv.reader(chain([header] if header else [], text), delimiter=delimiter, strict=True)
    return csv.reader(text, delimiter=delimiter, strict=True)


def _is_utf8(field: str) -> bool:
    return field.isascii() or not any("\udc80" <= character <= "\udcff" for character in field)

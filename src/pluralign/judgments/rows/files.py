"""Files of any supported kind as rows and as blocks of columns, streamed."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pluralign.core.errors import PluralignError
from pluralign.core.files import parquet_errors
from pluralign.judgments.blocks import Block, Item, table_blocks
from pluralign.judgments.rows.json_files import array_blocks, json_array, json_lines, line_blocks
from pluralign.judgments.rows.opening import (
    BLOCK_ROWS,
    GZIP_DAMAGE,
    check_not_empty,
    file_errors,
    kind_of,
    opened,
)
from pluralign.judgments.rows.separated import csv_reader, separated, separated_blocks
from pluralign.judgments.validation import Reject, RowChecker


def read_rows(path: Path, reject: Reject | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Stream the rows of a file as (number, row), numbered from 1 (not counting the header of a CSV).

    Args:
        path: the file; its ending says what it holds.
        reject: called with each malformed row; `None` raises.

    Raises:
        PluralignError: the file is missing, empty or cut off, or a row is malformed; says where.
    """
    readers = {".parquet": _parquet, ".jsonl": json_lines, ".ndjson": json_lines, ".json": json_array}
    rows = readers.get(kind_of(path), separated)
    count = 0
    with file_errors(path, lambda: count):
        for number, row, complaint in rows(path):
            count += 1
            if complaint is None:
                yield number, row
            elif reject is None:
                raise complaint.at(path, number)
            else:
                reject(number, row, complaint)
    if count == 0:
        raise PluralignError(f"{path}: the file has no rows")


def read_blocks(path: Path, checker: RowChecker | None = None) -> Iterator[Block]:
    """Stream a file in blocks: as columns where its format and types allow it.

    Args:
        path: the file, as for `read_rows`.
        checker: for files with canonical columns: the checker of the blocks. JSON Lines are read as columns only
            with it, since other objects may have any types.

    Raises:
        PluralignError: the file is missing, empty or cut off.
    """
    readers: dict[str, Callable[[Path, RowChecker | None], Iterator[Block]]] = {
        ".parquet": _parquet_blocks, ".jsonl": line_blocks, ".ndjson": line_blocks, ".json": array_blocks
    }  # fmt: skip
    count = 0
    with file_errors(path, lambda: count):
        for block in readers.get(kind_of(path), separated_blocks)(path, checker):
            count += len(block)
            yield block
    if count == 0:
        raise PluralignError(f"{path}: the file has no rows")


def columns_of(path: Path) -> list[str] | None:
    """The column names that a file declares ahead of its rows; `None` if each row names its own."""
    kind = kind_of(path)
    with parquet_errors(path):
        check_not_empty(path)
        if kind == ".parquet":
            return list(pq.read_schema(path).names)
        if kind in (".csv", ".tsv", ".dat"):
            try:
                with opened(path) as data:
                    return next(csv_reader(data, kind), [])
            except GZIP_DAMAGE as fault:
                raise PluralignError(f"{path}: the gzip file is damaged or cut off: fetch it again") from fault
            except csv.Error as fault:
                raise PluralignError(f"{path}, line 1: malformed: {fault}") from fault
    return None


def expected_rows(path: Path) -> int | None:
    """The approximate number of rows, for a progress bar; `None` without a terminal or if it cannot be known.

    Lines are counted, which is fast compared with reading them; CSV fields that span lines make the count too high.
    """
    if not sys.stderr.isatty():
        return None
    try:
        kind = kind_of(path)
        if kind == ".parquet":
            return pq.read_metadata(path).num_rows
        if kind == ".json":
            return None
        with opened(path) as data:
            return sum(block.count(b"\n") for block in iter(lambda: data.read(2**20), b""))
    except (pa.ArrowException, OSError, PluralignError, *GZIP_DAMAGE):
        return None  # the reader itself reports the fault, with its place


def _parquet(path: Path) -> Iterator[Item]:
    with pq.ParquetFile(path, memory_map=True) as file:
        number = 0
        for batch in file.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield number, row, None


def _parquet_blocks(path: Path, checker: RowChecker | None) -> Iterator[Block]:
    with pq.ParquetFile(path, memory_map=True) as file:
        yield from table_blocks(_valid_texts(file.iter_batches(batch_size=BLOCK_ROWS, use_threads=False)))


def _valid_texts(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches, as long as their texts are UTF-8."""
    for batch in batches:
        batch.validate(full=True)
        yield batch

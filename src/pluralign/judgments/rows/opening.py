"""Files of rows as bytes: what kind they are, unpacked, in pieces of whole lines, with their faults in one line."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from pluralign.core.errors import PluralignError
from pluralign.core.files import parquet_errors

ENDINGS = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".dat")
"""The supported file name endings; all but Parquet may be followed by `.gz`."""

GZIP_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error)
"""What reading a damaged gzip file raises."""

BLOCK_ROWS, BLOCK_BYTES = 2**15, 2**22
"""The size of the blocks in which rows are read as columns: rows of a Parquet file, bytes of JSON Lines and CSV."""


def kind_of(path: Path) -> str:
    """The ending that says what a file holds, without `.gz`.

    Examples:
        >>> kind_of(Path("votes.csv.gz"))
        '.csv'
    """
    kind = Path(path.name.lower().removesuffix(".gz")).suffix
    if kind not in ENDINGS:
        raise PluralignError(f"{path}: the name must end in {', '.join(ENDINGS)} (.gz may follow)")
    return kind


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, decompressed if its name ends in `.gz`."""
    with open(path, "rb") as data:
        if path.name.lower().endswith(".gz"):
            with gzip.GzipFile(fileobj=data) as unpacked:
                yield unpacked  # type: ignore[misc]
        else:
            yield data


def whole_lines(path: Path) -> Iterator[bytes]:
    """The file in pieces of whole lines, of about `BLOCK_BYTES` or one line; of a damaged file, what comes before."""
    held: list[bytes] = []
    size = 0
    with opened(path) as data:
        try:
            while piece := data.read1(BLOCK_BYTES):  # type: ignore[attr-defined]
                size += len(piece)
                end = piece.rfind(b"\n") + 1 if size >= BLOCK_BYTES else 0
                if end:
                    yield b"".join([*held, piece[:end]])
                    held, piece = [], piece[end:]
                    size = len(piece)
                held.append(piece)
        except GZIP_DAMAGE:
            left = b"".join(held)
            if end := left.rfind(b"\n") + 1:
                yield left[:end]
            raise
    if left := b"".join(held):
        yield left


@contextlib.contextmanager
def file_errors(path: Path, rows_read: Callable[[], int]) -> Iterator[None]:
    """Refuse an empty file, and turn faults of the disk, Parquet and gzip into one clear error."""
    with parquet_errors(path):
        check_not_empty(path)
        try:
            yield
        except GZIP_DAMAGE as fault:
            raise PluralignError(
                f"{path}: the gzip file is damaged or cut off after row {rows_read()}: fetch it again"
            ) from fault


def check_not_empty(path: Path) -> None:
    """Refuse an empty file."""
    if path.stat().st_size == 0:
        raise PluralignError(f"{path}: the file is empty")

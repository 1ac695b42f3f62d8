"""Large files of lines, cut between rows into parts that are read as files of their own."""

from __future__ import annotations

import codecs
import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from pluralign.core.files import disk_errors
from pluralign.judgments.rows.opening import kind_of, whole_lines

_COPIED = 2**20  # bytes that are copied at a time
_QUOTE, _END, _RETURN = b'"\n\r'


@dataclass(frozen=True)
class Part:
    """Consecutive rows of a file, or the whole file if `end` is `None`."""

    path: Path
    start: int = 0  # bytes
    end: int | None = None
    rows: int = 0  # the number of rows before it
    header: bytes = b""  # the first lines of a CSV file, which each of its parts needs

    @contextlib.contextmanager
    def file(self, folder: Path) -> Iterator[Path]:
        """The part as a file: the file itself, or a copy in `folder` that is removed afterwards."""
        if self.end is None:
            yield self.path
            return
        with tempfile.TemporaryDirectory(dir=folder) as own:
            copy, left = Path(own) / self.path.name, self.end - self.start
            with disk_errors(copy), open(self.path, "rb") as data, open(copy, "wb") as out:
                out.write(self.header)
                data.seek(self.start)
                while block := data.read(min(left, _COPIED)):
                    out.write(block)
                    left -= len(block)
            yield copy


def parts_of(path: Path, size: int) -> list[Part]:
    """Cut JSON Lines or a CSV file into parts of at least `size` bytes, where a row ends; other files are one part.

    A CSV file whose quotes do not show where its rows end is one part, too.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.csv"
        >>> _ = path.write_text('who,what\\nann,"tea\\nor milk"\\nbob,rain\\n')
        >>> [(part.start, part.end, part.rows) for part in parts_of(path, 8)]
        [(9, 27, 0), (27, 36, 1)]
    """
    kind = kind_of(path)
    if path.name.lower().endswith(".gz") or kind not in (".jsonl", ".ndjson", ".csv", ".tsv", ".dat"):
        return [Part(path)]
    separated = kind not in (".jsonl", ".ndjson")
    header, delimiter, inside = b"", b"", False
    cuts: list[tuple[int, int]] = []  # bytes and rows before each cut
    offset = rows = 0
    with disk_errors(path):
        for data in whole_lines(path):
            if separated and not header:
                delimiter = _delimiter(data, kind)
            found = _row_ends(data, delimiter, inside, not cuts) if separated else (_places(data, _END) + 1, False)
            if found is None:
                return [Part(path)]
            ends, inside = found
            if not cuts:
                if separated and (not len(ends) or data[:1] in b"\r\n"):
                    return [Part(path)]
                header = data[: ends[0]] if separated else b""
                cuts, rows = [(len(header), 0)], -int(separated)  # the header is no row
            while len(ends) and (place := np.searchsorted(ends, cuts[-1][0] + size - offset)) < len(ends):
                cuts.append((offset + int(ends[place]), rows + int(place) + 1))
            rows, offset = rows + len(ends), offset + len(data)
        kept = cuts[:1]
        for one, other in pairwise([*cuts, (offset, rows)]):
            if other[0] < offset and _is_filled(path, one[0], other[0]) and _is_filled(path, other[0], offset):
                kept.append(other)
    if inside or len(kept) < 2:
        return [Part(path)]
    ends_of = [*(cut for cut, _ in kept[1:]), offset]
    return [Part(path, start, end, before, header) for (start, before), end in zip(kept, ends_of, strict=True)]


def _places(data: bytes, letter: int) -> np.ndarray:
    return np.flatnonzero(np.frombuffer(data, np.uint8) == letter)


def _delimiter(data: bytes, kind: str) -> bytes:
    """The delimiter of a CSV file, as `csv_reader` finds it."""
    first = data.partition(b"\n")[0]
    return (b";" if b";" in first and b"," not in first else b",") if kind == ".csv" else b"\t"


def _row_ends(data: bytes, delimiter: bytes, inside: bool, first: bool) -> tuple[np.ndarray, bool] | None:
    """Where the rows of whole lines end, and whether the last one goes on; `None` if that cannot be told.

    A quote opens a text only at the start of a field, and closes it only before the end of the field or as half of a
    doubled quote. Where all quotes are like that, every second one opens.

    Args:
        data: the lines.
        delimiter: of the fields.
        inside: whether the lines begin within quotes.
        first: whether they are the first of the file.
    """
    if b"\0" in data or data.count(b"\r") != data.count(b"\r\n"):
        return None
    ends = _places(data, _END)
    if b'"' not in data and not inside:
        return ends + 1, False
    quotes, letters = _places(data, _QUOTE), np.frombuffer(data, np.uint8)
    opens = (np.arange(len(quotes)) + inside) % 2 == 0
    around = np.concatenate(([_END], letters, [_END]))  # lines begin after an end, and a file may lack its last one
    if first and data.startswith(codecs.BOM_UTF8):
        around[3] = _END
    edges = [*delimiter, _END, _QUOTE]
    if not np.isin(around[quotes[opens]], edges).all():
        return None
    if not np.isin(around[quotes[~opens] + 2], [*edges, _RETURN]).all():
        return None
    outside = (np.searchsorted(quotes, ends) + inside) % 2 == 0
    return ends[outside] + 1, bool((len(quotes) + inside) % 2)


def _is_filled(path: Path, start: int, end: int) -> bool:
    """Whether a part of a file holds more than white space."""
    with open(path, "rb") as data:
        data.seek(start)
        while block := data.read(min(end - start, _COPIED)):
            if block.strip():
                return True
            start += len(block)
    return False

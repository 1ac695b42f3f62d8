"""Data in other containers, as plain files: standard input, the hub, zip archives, Excel sheets, text in UTF-16."""

from __future__ import annotations

import codecs
import contextlib
import csv
import errno
import io
import shutil
import struct
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

import pyarrow.parquet as pq

from pluralign.core.errors import PluralignError, one_line
from pluralign.core.files import disk_errors
from pluralign.judgments.hub import load_split
from pluralign.judgments.paths import is_hub
from pluralign.judgments.rows import ENDINGS, GZIP_DAMAGE, opened

STANDARD_INPUT = "-"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_DAMAGE = (
    zipfile.BadZipFile, EOFError, LookupError, NotImplementedError, OverflowError, RuntimeError, ValueError,
    struct.error, zlib.error,
)  # fmt: skip
"""What reading a damaged archive raises."""
_MOST_COLUMNS = 16384  # of an Excel sheet
_SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


@contextlib.contextmanager
def plain_files(paths: Sequence[Path], main: str = "") -> Iterator[list[Path]]:
    """The files themselves, or plain copies of those in a container, in a folder that is removed afterwards.

    Errors name the original file. A zip archive must hold one file of data, or one whose name contains `main`; all of
    its files are unpacked, so that those beside it are found.

    Raises:
        PluralignError: an archive or a sheet cannot be read, or holds several files of data.
    """
    names: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        plain = []
        for path in paths:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pluralign-")))
            with disk_errors(path):
                plain.append(_plain(path, folder, main))
            names[str(plain[-1])] = str(path)
        try:
            yield plain
        except PluralignError as fault:
            message = str(fault)
            for copy, original in names.items():
                message = message.replace(copy, original)
            raise PluralignError(message) from fault


def _plain(path: Path, folder: Path, main: str) -> Path:
    if str(path) == STANDARD_INPUT:
        return _from_standard_input(folder)
    if is_hub(str(path)):
        file = folder / "data.parquet"
        pq.write_table(load_split(str(path)).with_format("arrow")[:], file)
        return file
    ending = path.suffix.lower()
    if ending == ".zip":
        return _from_zip(path, folder, main)
    if ending == ".xlsx":
        return _from_sheet(path, folder)
    if path.is_file() and ending != ".parquet":
        with contextlib.suppress(*GZIP_DAMAGE, OSError), opened(path) as data:
            if data.read(2) in _UTF16:
                return _from_utf16(path, folder)
    return path


def _from_standard_input(folder: Path) -> Path:
    """Standard input as a file; its first characters tell what it holds."""
    data = sys.stdin.buffer
    start = data.read(512)
    text = start.removeprefix(codecs.BOM_UTF8).lstrip()
    ending = "csv"
    if start.startswith(b"PAR1"):
        ending = "parquet"
    elif text[:1] in (b"{", b"["):
        ending = "jsonl" if text[:1] == b"{" else "json"
    file = folder / f"stdin.{ending}"
    with open(file, "wb") as out:
        out.write(start)
        shutil.copyfileobj(data, out)
    return _from_utf16(file, folder) if start[:2] in _UTF16 else file


def _from_zip(path: Path, folder: Path, main: str) -> Path:
    try:
        with zipfile.ZipFile(path) as archive:
            found = [item for item in archive.infolist() if _is_data(item.filename)]
            wanted = [item for item in found if main in Path(item.filename).name]
            chosen = wanted if main and wanted else found
            if len(chosen) != 1:
                holds = one_line([item.filename for item in found], 200)
                raise PluralignError(
                    f"{path}: holds {len(chosen)} files of data ({holds}): unpack it, and give the file"
                )
            names = [Path(item.filename).name for item in found]
            if len(set(names)) < len(names):
                raise PluralignError(f"{path}: holds two files of one name ({one_line(names, 200)}): unpack it")
            for item in found:
                with archive.open(item) as data, open(folder / Path(item.filename).name, "wb") as out:
                    shutil.copyfileobj(data, out)
    except (*_DAMAGE, OSError) as fault:
        if isinstance(fault, PluralignError) or (
            isinstance(fault, OSError) and fault.errno not in (None, errno.EINVAL)
        ):
            raise
        raise PluralignError(f"{path}: the archive cannot be read: {one_line(str(fault))}: fetch it again") from fault
    file = folder / Path(chosen[0].filename).name
    inner = folder / "inner"
    inner.mkdir()
    return _plain(file, inner, main)


def _is_data(name: str) -> bool:
    path = Path(name)
    hidden = path.name.startswith(".") or "__MACOSX" in path.parts
    return not hidden and Path(path.name.lower().removesuffix(".gz")).suffix in (*ENDINGS, ".xlsx")


def _from_utf16(path: Path, folder: Path) -> Path:
    file = folder / path.name.lower().removesuffix(".gz")
    if file == path:
        file = folder / f"utf8-{path.name}"
    try:
        with opened(path) as data, open(file, "w", encoding="utf-8", newline="") as out:
            shutil.copyfileobj(io.TextIOWrapper(data, "utf-16", newline=""), out)
    except UnicodeError as fault:
        raise PluralignError(f"{path}: is not valid UTF-16: save the file as UTF-8") from fault
    return file


def _from_sheet(path: Path, folder: Path) -> Path:
    """The first sheet of a workbook as CSV; cells are text, and numbers as Excel stores them."""
    file = folder / f"{path.stem}.csv"
    try:
        with zipfile.ZipFile(path) as book:
            texts = []
            if "xl/sharedStrings.xml" in book.namelist():
                for item in ElementTree.fromstring(book.read("xl/sharedStrings.xml")).iter(f"{_SHEET}si"):
                    texts.append("".join(part.text or "" for part in item.iter(f"{_SHEET}t")))
            sheet = ElementTree.fromstring(book.read("xl/worksheets/sheet1.xml"))
            rows = [_cells(row, texts) for row in sheet.iter(f"{_SHEET}row")]
    except (*_DAMAGE, OSError, ElementTree.ParseError) as fault:
        if isinstance(fault, OSError) and fault.errno not in (None, errno.EINVAL):
            raise
        raise PluralignError(f"{path}: is not a readable Excel workbook: save the sheet as CSV") from fault
    width = max(map(len, rows), default=0)
    with open(file, "w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows([*row, *[""] * (width - len(row))] for row in rows)
    return file


def _cells(row: ElementTree.Element, texts: Sequence[str]) -> list[str]:
    cells: list[str] = []
    for cell in row.iter(f"{_SHEET}c"):
        place = 0
        for letter in filter(str.isalpha, cell.get("r", "")):
            place = place * 26 + ord(letter.upper()) - ord("A") + 1
        if place > _MOST_COLUMNS:
            raise ValueError(f"column {place}")
        cells += [""] * (place - 1 - len(cells))
        value = cell.find(f"{_SHEET}v")
        text = "" if value is None or value.text is None else value.text
        kind = cell.get("t")
        if kind == "s" and text:
            text = texts[int(text)]
        elif kind == "inlineStr":
            text = "".join(part.text or "" for part in cell.iter(f"{_SHEET}t"))
        elif kind == "b":
            text = "true" if text == "1" else "false"
        cells.append(text)
    return cells

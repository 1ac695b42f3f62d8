"""Read files: rows of any supported kind, streamed, and canonical tables, validated and mapped from disk when large."""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import io
import json
import os
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, dropwhile, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from pluralign.core.errors import PluralignError, RowError, one_line
from pluralign.core.files import check_distinct, disk_errors
from pluralign.core.progress import track
from pluralign.judgments.blocks import Block, Item, block_of, checked_blocks
from pluralign.judgments.scales import LabelScale, label_scale
from pluralign.judgments.schema import COLUMNS, Form, is_canonical, scale_of, schema
from pluralign.judgments.seals import is_sealed
from pluralign.judgments.table import Judgments, sidecar
from pluralign.judgments.validation import Reject, RowChecker

ENDINGS = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".dat")
"""The supported file name endings; all but Parquet may be followed by `.gz`."""

IN_MEMORY_BYTES = 256 * 2**20
"""Tables up to this size stay in memory; larger ones go to a temporary file that is mapped."""

GZIP_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error)
"""What reading a damaged gzip file raises."""

BLOCK_ROWS, BLOCK_BYTES = 2**15, 2**22
"""The size of the blocks in which rows are read as columns: rows of a Parquet file, bytes of JSON Lines."""

_Rows = Iterator[Item]
_Record = tuple[list[str], int, list[str], RowError | None]


def read(
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    label_scale: str | os.PathLike[str] | LabelScale | None = None,
) -> Judgments:
    """Read one or several canonical files as one table.

    Rows are validated while they stream. A table larger than `IN_MEMORY_BYTES` is mapped from a temporary file, so
    files may be larger than memory.

    Args:
        files: Parquet or JSON Lines (`.gz` may follow), with the columns of the canonical table.
        label_scale: the scale of files that do not carry one: a built-in name, a YAML file or a `LabelScale`.

    Raises:
        PluralignError: a file is missing, empty or damaged, a row is not a judgment, or the files do not fit
            together; names the file, the row and the column.

    Examples:
        >>> import json, pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "votes.jsonl"
        >>> _ = file.write_text(json.dumps({"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [2, 1]}))
        >>> read(file).row(0)["ranks"]
        [2, 1]
    """
    paths = [Path(files)] if isinstance(files, str | os.PathLike) else [Path(file) for file in files]
    if not paths:
        raise PluralignError("no file was given to read")
    scale = common_scale(paths, label_scale)
    check_distinct(paths)
    checker = RowChecker(scale)
    sealed = {path for path in paths if _is_sealed_table(path, checker)}
    compare_later = len(sealed) == len(paths)
    held: list[pa.RecordBatch] = []
    size = 0
    spill: _Spill | None = None
    for path in paths:
        for batch in _batches(path, checker, path in sealed, compare_later):
            held.append(batch)
            size += batch.nbytes
            if size > IN_MEMORY_BYTES and spill is None:
                spill = _Spill(batch.schema)
            if spill is not None:
                spill.write(held)
                held = []
    if not size or checker.form is None:
        raise PluralignError(f"{one_line([str(path) for path in paths])}: the files hold no judgment")
    table = spill.mapped() if spill is not None else pa.Table.from_batches(held, schema=schema(checker.form, scale))
    if compare_later and not _all_differ(table.column("id")):
        for path in paths:
            for _ in _batches(path, checker, sealed=True, compare_later=False):
                pass  # the error names the row
    return Judgments(table)


def _batches(path: Path, checker: RowChecker, sealed: bool, compare_later: bool) -> Iterator[pa.RecordBatch]:
    """The judgments of a file as batches in canonical form; what this library wrote is not checked a second time."""
    if sealed:
        batches = _sealed_batches(path, checker, compare_later)
        yield from track(batches, f"Reading {path.name}", expected_rows(path), len)
    else:
        blocks = track(read_blocks(path, checker), f"Reading {path.name}", expected_rows(path), len)
        yield from checked_blocks(blocks, checker, str(path))


def _is_sealed_table(path: Path, checker: RowChecker) -> bool:
    """Whether this library wrote a file and nobody has changed it since, and its labels and form are the checker's."""
    if kind_of(path) != ".parquet":
        return False
    with parquet_errors(path):
        _check_not_empty(path)
        stored = pq.read_schema(path)
        if not is_canonical(stored) or scale_of(stored) not in (None, checker.scale) or not is_sealed(path):
            return False
    form: Form = "text" if stored.field("prompt").type == pa.string() else "messages"
    if checker.form not in (None, form):
        return False
    checker.form = form
    return True


def _sealed_batches(path: Path, checker: RowChecker, compare_later: bool) -> Iterator[pa.RecordBatch]:
    assert checker.form is not None
    metadata, start = schema(checker.form, checker.scale).metadata, 1
    with parquet_errors(path), pq.ParquetFile(path, memory_map=True) as file:
        for stored in file.iter_batches(batch_size=BLOCK_ROWS, use_threads=False):
            batch = stored.replace_schema_metadata(metadata)
            if not compare_later:
                batch, repeated = checker.identify(batch)
                for place, complaint in repeated.items():
                    raise complaint.at(path, start + place)
            start += batch.num_rows
            yield batch


def _all_differ(ids: pa.ChunkedArray) -> bool:
    """Whether the hashes of all ids differ, which equal ids never do."""
    hashes = np.concatenate([np.fromiter(map(hash, chunk.to_pylist()), np.int64, len(chunk)) for chunk in ids.chunks])
    hashes.sort()
    return not (hashes[1:] == hashes[:-1]).any()


def common_scale(paths: Sequence[Path], given: str | os.PathLike[str] | LabelScale | None = None) -> LabelScale | None:
    """The label scale of canonical files that are read together: the given one, or the one that they all carry.

    Raises:
        PluralignError: two files carry different scales.
    """
    if given is not None:
        return label_scale(given)
    scales = [(path, scale) for path in paths if (scale := _stored_scale(path)) is not None]
    for path, scale in scales:
        first, expected = scales[0]
        if scale != expected:
            raise PluralignError(
                f"{path}: its label scale '{scale.name}' differs from '{expected.name}' of {first}: "
                "read files of one scale together"
            )
    return scales[0][1] if scales else None


def _stored_scale(path: Path) -> LabelScale | None:
    """The label scale that a canonical file carries: in its metadata, or in the YAML file beside it."""
    if kind_of(path) == ".parquet":
        with parquet_errors(path):
            stored = pq.read_schema(path)
        try:
            return scale_of(stored)
        except PluralignError as fault:
            raise PluralignError(f"{path}: {fault}") from fault
    beside = sidecar(path)
    return label_scale(beside) if beside.exists() else None


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


def read_rows(path: Path, reject: Reject | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Stream the rows of a file as (number, row), numbered from 1 (not counting the header of a CSV).

    Args:
        path: the file; its ending says what it holds.
        reject: called with each malformed row; `None` raises.

    Raises:
        PluralignError: the file is missing, empty or cut off, or a row is malformed; says where.
    """
    readers = {".parquet": _parquet, ".jsonl": _json_lines, ".ndjson": _json_lines, ".json": _json_array}
    rows = readers.get(kind_of(path), _separated)
    count = 0
    with _file_errors(path, lambda: count):
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
        ".parquet": _parquet_blocks, ".jsonl": _line_blocks, ".ndjson": _line_blocks, ".json": _array_blocks
    }  # fmt: skip
    count = 0
    with _file_errors(path, lambda: count):
        for block in readers.get(kind_of(path), _separated_blocks)(path, checker):
            count += len(block)
            yield block
    if count == 0:
        raise PluralignError(f"{path}: the file has no rows")


@contextlib.contextmanager
def _file_errors(path: Path, rows_read: Callable[[], int]) -> Iterator[None]:
    """Refuse an empty file, and turn faults of the disk, Parquet and gzip into one clear error."""
    with parquet_errors(path):
        _check_not_empty(path)
        try:
            yield
        except GZIP_DAMAGE as fault:
            raise PluralignError(
                f"{path}: the gzip file is damaged or cut off after row {rows_read()}: fetch it again"
            ) from fault


def columns_of(path: Path) -> list[str] | None:
    """The column names that a file declares ahead of its rows; `None` if each row names its own."""
    kind = kind_of(path)
    with parquet_errors(path):
        _check_not_empty(path)
        if kind == ".parquet":
            return list(pq.read_schema(path).names)
        if kind in (".csv", ".tsv", ".dat"):
            try:
                with opened(path) as data:
                    return next(_csv_reader(data, kind), [])
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


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, decompressed if its name ends in `.gz`."""
    with open(path, "rb") as data:
        if path.name.lower().endswith(".gz"):
            with gzip.GzipFile(fileobj=data) as unpacked:
                yield unpacked  # type: ignore[misc]
        else:
            yield data


@contextlib.contextmanager
def parquet_errors(path: object) -> Iterator[None]:
    """Turn faults of the disk and of Parquet files into one clear error that names `path`."""
    with disk_errors(path):
        try:
            yield
        except (pa.ArrowException, OSError, UnicodeDecodeError) as fault:
            # A damaged page raises an OSError without a number, or gives bytes that are not text.
            if isinstance(fault, OSError) and fault.errno is not None:
                raise
            raise PluralignError(f"{path}: not a readable Parquet file: {one_line(str(fault))}") from fault


def _check_not_empty(path: Path) -> None:
    if path.stat().st_size == 0:
        raise PluralignError(f"{path}: the file is empty")


def _parquet(path: Path) -> _Rows:
    with pq.ParquetFile(path, memory_map=True) as file:
        number = 0
        for batch in file.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield number, row, None


def _parquet_blocks(path: Path, checker: RowChecker | None) -> Iterator[Block]:
    start = 1
    with pq.ParquetFile(path, memory_map=True) as file:
        for batch in file.iter_batches(batch_size=BLOCK_ROWS, use_threads=False):
            batch.validate(full=True)  # texts that are not UTF-8

            def items(places: Sequence[int], batch: pa.RecordBatch = batch, start: int = start) -> list[Item]:
                rows = batch.take(pa.array(places, pa.int64())).to_pylist()
                return [(start + place, row, None) for place, row in zip(places, rows, strict=True)]

            yield Block(items, batch.num_rows, batch)
            start += batch.num_rows


def _array_blocks(path: Path, checker: RowChecker | None) -> Iterator[Block]:
    rows = _json_array(path)
    while held := list(islice(rows, BLOCK_ROWS)):
        yield block_of(held)


def _line_blocks(path: Path, checker: RowChecker | None) -> Iterator[Block]:
    first = 1  # the number of the first line of the block
    for data in _whole_lines(path):
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


def _whole_lines(path: Path) -> Iterator[bytes]:
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


def _line_ends(text: bytes) -> np.ndarray:
    """Where the lines end."""
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
    return ends if text.endswith(b"\n") else np.append(ends, len(text))


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


def _object(number: int, row: Any) -> tuple[int, Any, RowError | None]:
    if isinstance(row, dict):
        return number, row, None
    return number, row, RowError(None, f"found {one_line(row)}, expected a JSON object")


def _json_lines(path: Path) -> _Rows:
    with opened(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _line(number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line)


def _line(number: int, line: bytes) -> Item:
    """One line of JSON Lines."""
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as fault:
        return number, repr(line), RowError(None, f"byte {fault.start + 1} is not UTF-8: save the file as UTF-8")
    except (ValueError, RecursionError) as fault:
        return number, line.decode(), RowError(None, f"malformed JSON: {fault}")
    return _object(number, row)


def read_json(path: Path) -> Any:
    """The value of a JSON file, which is held in memory whole.

    Raises:
        PluralignError: the file is missing or empty, or not JSON.
    """
    with _file_errors(path, lambda: 0), opened(path) as data:
        try:
            return json.loads(data.read().decode("utf-8-sig"))
        except UnicodeDecodeError as fault:
            raise PluralignError(f"{path}: byte {fault.start + 1} is not UTF-8: save the file as UTF-8") from fault
        except (ValueError, RecursionError) as fault:
            raise PluralignError(f"{path}: malformed JSON: {fault}") from fault


def _json_array(path: Path) -> _Rows:
    # One array is one JSON value. JSON Lines streams.
    value = read_json(path)
    if not isinstance(value, list):
        raise PluralignError(f"{path}: expected a JSON array of objects (or JSON Lines in a .jsonl file)")
    for number, row in enumerate(value, start=1):
        yield _object(number, row)


def _csv_reader(data: BinaryIO, kind: str) -> Any:
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


def _separated(path: Path) -> _Rows:
    return (_cells(*record) for record in _records(path))


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


def _separated_blocks(path: Path, checker: RowChecker | None) -> Iterator[Block]:
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
    for data in _whole_lines(path):
        rows, table = data, None
        with contextlib.suppress(csv.Error, UnicodeDecodeError, pa.ArrowException):
            odd = any(each in data for each in (b'"', b"\0", b"\n\n", b"\n\r")) or data[:1] in (b"\n", b"\r")
            if not odd and data.count(b"\r") == data.count(b"\r\n") and data.decode():
                if not header:
                    reader = _csv_reader(io.BytesIO(data), kind_of(path))
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
            reader = _csv_reader(data, kind_of(path))
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
        reader = _csv_reader(data, kind_of(path))
        try:
            header = next(reader, None)
            if header is None:
                raise PluralignError(f"{path}: the file is empty")
            if len(set(header)) != len(header):
                repeated = next(name for name in header if header.count(name) > 1)
                raise PluralignError(f"{path}: the column '{repeated}' appears twice in the header")
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


def _is_utf8(field: str) -> bool:
    return field.isascii() or not any("\udc80" <= character <= "\udcff" for character in field)


class _Spill:
    """Record batches on disk, mapped back when all are written; the file disappears with the table."""

    def __init__(self, schema: pa.Schema) -> None:
        with disk_errors(tempfile.gettempdir()):
            self._handle, self._path = tempfile.mkstemp(prefix="pluralign-", suffix=".arrow")
        self._sink = pa.OSFile(self._path, "wb")
        self._writer = pa.ipc.new_file(self._sink, schema)

    def write(self, batches: Sequence[pa.RecordBatch]) -> None:
        with disk_errors(self._path):
            try:
                for batch in batches:
                    self._writer.write_batch(batch)
            except OSError:
                os.unlink(self._path)
                raise

    def mapped(self) -> pa.Table:
        self._writer.close()
        self._sink.close()
        os.close(self._handle)
        table = pa.ipc.open_file(pa.memory_map(self._path)).read_all()
        os.unlink(self._path)  # the mapping keeps the data alive
        return table

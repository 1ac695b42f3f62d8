"""Read canonical tables: validated, as one table, and mapped from disk when large."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pluralign.core.errors import PluralignError, one_line
from pluralign.core.files import check_distinct, disk_errors
from pluralign.core.progress import track
from pluralign.judgments.blocks import checked_blocks
from pluralign.judgments.rows import expected_rows, kind_of, parquet_errors, read_blocks
from pluralign.judgments.rows.opening import BLOCK_ROWS, check_not_empty
from pluralign.judgments.scales import LabelScale, label_scale
from pluralign.judgments.schema import Form, is_canonical, scale_of, schema
from pluralign.judgments.seals import is_sealed
from pluralign.judgments.table import Judgments, sidecar
from pluralign.judgments.validation import RowChecker

IN_MEMORY_BYTES = 256 * 2**20
"""Tables up to this size stay in memory; larger ones go to a temporary file that is mapped."""


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
        check_not_empty(path)
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

"""Read canonical files: validated, streamed, and mapped from disk when they are large."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pluralign.core.errors import PluralignError, one_line
from pluralign.core.files import disk_errors
from pluralign.core.progress import track
from pluralign.judgments.rows import expected_rows, kind_of, read_rows
from pluralign.judgments.scales import LabelScale, label_scale
from pluralign.judgments.schema import scale_of, schema
from pluralign.judgments.table import Judgments, sidecar
from pluralign.judgments.validation import RowChecker, checked_batches

IN_MEMORY_BYTES = 256 * 2**20
"""Tables up to this size stay in memory; larger ones go to a temporary file that is mapped."""


def read(
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    label_scale: str | os.PathLike[str] | LabelScale | None = None,
) -> Judgments:
    """Read one or several canonical files as one table.

    Rows are validated while they stream; a table past `IN_MEMORY_BYTES` is mapped from a temporary file, so
    that files larger than memory can be read.

    Args:
        files: Parquet or JSON Lines (`.gz` may follow), in the columns of the canonical table.
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
    checker = RowChecker(scale)
    held: list[pa.RecordBatch] = []
    size = 0
    spill: _Spill | None = None
    for path in paths:
        rows = track(read_rows(path), f"Reading {path.name}", total=expected_rows(path))
        for batch in checked_batches(rows, checker, str(path)):
            held.append(batch)
            size += batch.nbytes
            if size > IN_MEMORY_BYTES and spill is None:
                spill = _Spill(batch.schema)
            if spill is not None:
                spill.write(held)
                held = []
    if spill is not None:
        return Judgments(spill.mapped())
    if not held or checker.form is None:
        raise PluralignError(f"{one_line([str(path) for path in paths])}: no judgment was found")
    return Judgments(pa.Table.from_batches(held, schema=schema(checker.form, scale)))


def own_scale(path: Path) -> LabelScale | None:
    """The label scale that a canonical file carries: in its metadata, or in the YAML file beside it."""
    if kind_of(path) == ".parquet":
        with disk_errors(path):
            try:
                return scale_of(pq.read_schema(path))
            except pa.ArrowException as fault:
                raise PluralignError(f"{path}: not a readable Parquet file: {one_line(str(fault))}") from fault
    beside = sidecar(path)
    return label_scale(beside) if beside.exists() else None


def common_scale(paths: Sequence[Path], given: Any = None) -> LabelScale | None:
    """The label scale of canonical files that are read together: the given one, or the one they all carry.

    Raises:
        PluralignError: two files carry different scales.
    """
    if given is not None:
        return label_scale(given)
    scales = {path: own_scale(path) for path in paths}
    named = {path: scale for path, scale in scales.items() if scale is not None}
    for path, scale in named.items():
        first, expected = next(iter(named.items()))
        if scale != expected:
            raise PluralignError(
                f"{path}: its label scale '{scale.name}' differs from '{expected.name}' of {first}: "
                "read files of one scale together"
            )
    return next(iter(named.values()), None)


class _Spill:
    """Record batches on disk, mapped back when all are written; the file goes with the table."""

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

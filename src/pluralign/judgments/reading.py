"""Read canonical tables: validated, as one table, and mapped from disk when large."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pluralign.core.errors import PluralignError, one_line
from pluralign.core.files import check_distinct, disk_errors, parquet_errors
from pluralign.core.progress import track
from pluralign.core.runs import file_fingerprints
from pluralign.judgments.blocks import Block, checked_blocks
from pluralign.judgments.inputs import Files, InputRows, inputs_of
from pluralign.judgments.renames import Columns, column_names, renamed
from pluralign.judgments.rows import expected_rows, kind_of, read_blocks
from pluralign.judgments.rows.opening import BLOCK_ROWS, check_not_empty
from pluralign.judgments.scales import LabelScale, label_scale
from pluralign.judgments.schema import COLUMNS, Form, is_canonical, scale_of, schema
from pluralign.judgments.seals import is_sealed
from pluralign.judgments.seen import all_differ
from pluralign.judgments.table import Judgments, sidecar
from pluralign.judgments.validation import RowChecker

IN_MEMORY_BYTES = 256 * 2**20
"""Tables up to this size stay in memory; larger ones go to a temporary file that is mapped."""


def read(
    files: Files,
    label_scale: str | os.PathLike[str] | LabelScale | None = None,
    columns: Columns | None = None,
) -> Judgments:
    """Read judgments from files, data sets, frames or rows as one table.

    Rows are validated while they stream. A table larger than `IN_MEMORY_BYTES` is mapped from a temporary file, so
    files may be larger than memory. TRL's preference rows (`prompt`, `chosen`, `rejected`) are read as judgments of two
    responses.

    Args:
        files: Parquet or JSON Lines files (`.gz` may follow) with the columns of the canonical table, folders of them,
            or patterns such as `parts/*.parquet`; `hf:owner/name:split` for a data set of the hub, or
            `hf:FOLDER:split` for one in a folder; a `datasets.Dataset`, a pandas or polars frame, a pyarrow table, or a
            list of row dictionaries; or a list of several of them. `Judgments` are returned as they are. In a pandas
            frame NaN, NaT and NA are nothing.
        label_scale: the scale of files that do not carry one: a built-in name, a YAML file or a `LabelScale`.
        columns: new names of columns, like `{"annotator_id": "annotator"}`; `None` leaves a column out.

    Raises:
        PluralignError: a file is missing, empty or damaged, a row is not a judgment, or the files do not fit
            together; names the file, the row (from 1) and the column.

    Examples:
        >>> row = {"question": "Tea?", "responses": ["Yes", "No"], "ranks": [2, 1]}
        >>> read([row], columns={"question": "prompt"}).row(0)["prompt"]
        'Tea?'
    """
    return Inputs(files, columns).read(label_scale)


class Inputs:
    """What a command reads judgments from, before it is read; arguments and errors are those of `read`.

    Examples:
        >>> Inputs(["a.parquet", "hf:owner/votes:train"]).names
        ['a.parquet', 'hf:owner/votes:train']
    """

    def __init__(self, files: Files, columns: Columns | None = None) -> None:
        self.columns = column_names(columns)
        self.judgments = files if isinstance(files, Judgments) and not self.columns else None
        self.sources = inputs_of(files)

    @property
    def names(self) -> list[str]:
        """The paths as given, and what errors call the others."""
        return [str(source) for source in self.sources]

    def each(self) -> list[Inputs]:
        """Each of them alone."""
        return [Inputs([source], self.columns) for source in self.sources]

    def settings(self) -> dict[str, Any]:
        """The new names of columns as a run stores them, if there are any."""
        return {"columns": self.columns} if self.columns else {}

    def fingerprints(self) -> dict[str, str]:
        """A fingerprint of the content of each, by name."""
        if self.judgments is not None:
            return {self.names[0]: self.judgments.fingerprint}
        prints: dict[str, str] = {}
        for name, source in zip(self.names, self.sources, strict=True):
            prints |= file_fingerprints([name]) if isinstance(source, Path) else {name: source.fingerprint()}
        return prints

    def label_scale(self, given: str | os.PathLike[str] | LabelScale | None = None) -> LabelScale | None:
        """The given scale, or the one that all carry."""
        return common_scale(self.sources, given)

    def read(self, label_scale: str | os.PathLike[str] | LabelScale | None = None) -> Judgments:
        """Read all as one table."""
        if self.judgments is not None:
            return self.judgments
        scale = self.label_scale(label_scale)
        check_distinct([source for source in self.sources if isinstance(source, Path)])
        checker = RowChecker(scale)
        as_stored = not {*self.columns} & {*COLUMNS}
        sealed = {
            source
            for source in self.sources
            if isinstance(source, Path) and as_stored and _is_sealed_table(source, checker)
        }
        compare_later = len(sealed) == len(self.sources)
        expected = sum(pq.read_metadata(path).num_rows for path in sealed) if compare_later else 0
        held: list[pa.RecordBatch] = []
        rows, size = 0, 0
        spill: _Spill | None = None
        for source in self.sources:
            if isinstance(source, Path) and source in sealed:
                batches = _tracked(_sealed_batches(source, checker, compare_later), source)
            else:
                batches = self._checked(source, checker)
            for batch in batches:
                held.append(batch)
                rows, size = rows + batch.num_rows, size + batch.nbytes
                if size * max(rows, expected) > rows * IN_MEMORY_BYTES and spill is None:
                    spill = _Spill(batch.schema)
                if spill is not None:
                    spill.write(held)
                    held = []
        if not size or checker.form is None:
            raise PluralignError(f"{one_line(self.names)}: the files hold no judgment")
        table = spill.mapped() if spill is not None else pa.Table.from_batches(held, schema=schema(checker.form, scale))
        if compare_later and not all_differ(table.column("id")):
            for path in self.sources:
                assert isinstance(path, Path)
                for _ in _sealed_batches(path, checker, compare_later=False):
                    pass  # the error names the row
        return Judgments(table)

    def _checked(self, source: Path | InputRows, checker: RowChecker) -> Iterator[pa.RecordBatch]:
        """The judgments of a source as validated batches."""
        from pluralign.judgments.formats.trl import preferences  # which sealed files do not need

        known = None if self.columns else checker
        blocks = read_blocks(source, known) if isinstance(source, Path) else source.blocks()
        ready = (preferences(renamed(block, self.columns)) for block in _tracked(blocks, source))
        return checked_blocks(ready, checker, str(source))


Piece = TypeVar("Piece", Block, pa.RecordBatch)


def _tracked(pieces: Iterable[Piece], source: Path | InputRows) -> Iterator[Piece]:
    """The blocks or batches of a source, with progress."""
    total = expected_rows(source) if isinstance(source, Path) else len(source.content)
    return track(pieces, f"Reading {source.name}", total, len)


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


def common_scale(
    sources: Sequence[Path | InputRows], given: str | os.PathLike[str] | LabelScale | None = None
) -> LabelScale | None:
    """The label scale of canonical tables that are read together: the given one, or the one that they all carry.

    Raises:
        PluralignError: two files carry different scales.
    """
    if given is not None:
        return label_scale(given)
    scales = [(source, scale) for source in sources if (scale := _stored_scale(source)) is not None]
    for source, scale in scales:
        first, expected = scales[0]
        if scale != expected:
            raise PluralignError(
                f"{source}: its label scale '{scale.name}' differs from '{expected.name}' of {first}: "
                "read files of one scale together"
            )
    return scales[0][1] if scales else None


def _stored_scale(source: Path | InputRows) -> LabelScale | None:
    """The label scale that a canonical table carries: in its metadata, or in the YAML file beside it."""
    if isinstance(source, Path) and kind_of(source) != ".parquet":
        beside = sidecar(source)
        return label_scale(beside) if beside.exists() else None
    if isinstance(source, Path):
        with parquet_errors(source):
            stored = pq.read_schema(source)
    elif isinstance(source.content, pa.Table):
        stored = source.content.schema
    else:
        return None
    try:
        return scale_of(stored)
    except PluralignError as fault:
        raise PluralignError(f"{source}: {fault}") from fault


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

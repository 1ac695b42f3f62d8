"""`import --workers`: parts of files imported by several processes into a folder of Parquet files."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pluralign.core.errors import PluralignError, RowError
from pluralign.core.processes import in_processes
from pluralign.core.progress import track
from pluralign.judgments.formats.convert import Tally
from pluralign.judgments.rows.cutting import Part, parts_of
from pluralign.judgments.schema import Form, schema
from pluralign.judgments.seen import text_hashes
from pluralign.judgments.table import table_writer
from pluralign.judgments.validation import Reject, RowChecker
from pluralign.workflows.import_readers import ImportFormat, rejecter

SHARD = re.compile(r"part-\d{5,}\.parquet")
"""The names of the files in a folder that an import wrote."""

MOST_BYTES = 128 * 2**20
"""The size of the parts that large files are cut into; a process holds the ids of one part."""

_NUMBERED = r"^([0-9a-f]{24})-[0-9]+$"  # the id of a row that repeats the content of another, which has the first part


@dataclass(frozen=True)
class PartJob:
    """A part to import.

    Args:
        given: what messages call the file.
        part: where its rows are.
        number: its place among the parts.
        format: how it is read.
        folder: where the files go.
        skip: whether bad rows are skipped; otherwise the part ends at the first one.
    """

    given: str
    part: Part
    number: int
    format: ImportFormat
    folder: Path
    skip: bool

    @property
    def shard(self) -> Path:
        """The file of its judgments, if it has any."""
        return self.folder / f"part-{self.number:05}.parquet"

    @property
    def rejects(self) -> Path:
        """The file of its bad rows, if they are skipped."""
        return self.folder / f"rejects-{self.number:05}.jsonl"


@dataclass
class PartResult:
    """What came of a part; `error` is the first fault of those that end an import."""

    judgments: int = 0
    tally: Tally = field(default_factory=Tally)
    rejected: Counter[str] = field(default_factory=Counter)
    form: Form | None = None
    error: str | None = None


def import_parts(
    paths: Sequence[Path], plain: Sequence[Path], format: ImportFormat, folder: Path, workers: int, skip: bool
) -> list[tuple[PartJob, PartResult]]:
    """Import files by several processes into shards that together are what one process makes of them.

    Args:
        paths: the files, as messages call them.
        plain: the files as they are read.
        format: how they are read.
        folder: where the shards go, and the rejects of each part.
        workers: number of processes.
        skip: whether bad rows are skipped.

    Raises:
        PluralignError: a file cannot be read, or has a bad row that is not skipped; the first one is named.
    """
    by_row = format.is_by_row
    whole = sum(path.stat().st_size for path in plain if path.is_file())
    size = max(min(whole // workers, MOST_BYTES), 1)
    parts = [
        (str(given), part)
        for given, path in zip(paths, plain, strict=True)
        for part in (parts_of(path, size) if by_row and path.is_file() else [Part(path)])
    ]
    jobs = [PartJob(given, part, number, format, folder, skip) for number, (given, part) in enumerate(parts)]
    results: list[PartResult] = []
    with contextlib.closing(in_processes(import_part, jobs, workers)) as imported:
        for result in track(imported, "Importing parts", len(jobs)):
            results.append(result)
            if result.error is not None:
                break
    done = _as_one(list(zip(jobs, results, strict=False)))
    if (error := done[-1][1].error) is not None:
        raise PluralignError(error)
    return done


def import_part(job: PartJob) -> PartResult:
    """Import a part as if it were alone."""
    return _imported(job)[0]


def _imported(
    job: PartJob, form: Form | None = None, ids: Mapping[str, int] | None = None
) -> tuple[PartResult, RowChecker]:
    """Import a part after rows of this form and with these ids; gives the checker of all of them, too."""
    result, checker = PartResult(), RowChecker()
    checker.form = form
    checker.remember(ids or {})
    job.shard.unlink(missing_ok=True)
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(job.part.file(job.folder))
        try:
            read, checker.scale = job.format.reader([path])
            write = None
            for batch in read(path, checker, _rejecter(job, result, stack), result.tally):
                if write is None:
                    write = stack.enter_context(table_writer(job.shard, schema(checker.form or "text", checker.scale)))
                write(batch)
                result.judgments += batch.num_rows
                if result.error is not None:
                    break
        except PluralignError as fault:
            result.error = result.error or str(fault).replace(str(path), str(job.part.path))
    result.form = checker.form
    return result, checker


def _rejecter(job: PartJob, result: PartResult, stack: contextlib.ExitStack) -> Reject:
    """What to do with a bad row: write it to the rejects, or note the first one."""
    if job.skip:
        out = stack.enter_context(job.rejects.open("w", encoding="utf-8"))
        return rejecter(job.given, job.part.rows, out, job.rejects, result.rejected)

    def note(number: int, row: object, error: RowError) -> None:
        result.error = result.error or str(error.at(job.given, job.part.rows + number))

    return note


def _as_one(done: list[tuple[PartJob, PartResult]]) -> list[tuple[PartJob, PartResult]]:
    """The parts as one process imports them, up to the first fault: of one form, with ids that differ.

    A part that must know of earlier ones is imported again: if its first row has another form than theirs, or if an id
    occurs in several parts.
    """
    form = next((result.form for _, result in done if result.form is not None), None)
    made = [(job, result if result.form in (None, form) else _imported(job, form)[0]) for job, result in done]
    contents = [_contents(job.shard) for job, _ in made]
    every = np.sort(np.concatenate(contents))
    repeated = every[1:][every[1:] == every[:-1]]
    ids: Mapping[str, int] = {}
    for place, (job, result) in enumerate(made):
        if np.isin(contents[place], repeated).any():
            result, checker = _imported(job, form, ids)
            made[place] = (job, result)
            ids = _within(checker.remembered(), repeated)
        if result.error is not None:
            return made[: place + 1]
    return made


def _within(ids: Mapping[str, int], contents: np.ndarray) -> Mapping[str, int]:
    """Those ids whose contents are among the given ones."""
    found = np.isin(_contents_of(pa.array(list(ids), pa.string())), contents)
    return {name: times for (name, times), kept in zip(ids.items(), found.tolist(), strict=True) if kept}


def _contents(shard: Path) -> np.ndarray:
    """Hashes of the contents that ids stand for in a file, without repetitions."""
    hashes = [text_hashes(pa.array([], pa.string()))]
    if shard.exists():
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(columns=["id"], use_threads=False):
                hashes.append(_contents_of(batch.column(0)))
    every = np.sort(np.concatenate(hashes))  # several times faster than `numpy.unique`
    return every[np.concatenate(([True], every[1:] != every[:-1]))[: len(every)]]


def _contents_of(ids: pa.Array) -> np.ndarray:
    """A hash of each id without the number of a repetition."""
    return text_hashes(pc.replace_substring_regex(ids, _NUMBERED, r"\1"))

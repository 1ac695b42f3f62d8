"""`split`: files of judgments to files for training, tuning and testing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pluralign.core.errors import PluralignError
from pluralign.core.files import atomic_folder, check_outputs
from pluralign.core.locks import locks_out
from pluralign.judgments.inputs import Files
from pluralign.judgments.reading import Inputs
from pluralign.judgments.renames import Columns
from pluralign.judgments.scales import LabelScale
from pluralign.judgments.split import By, held_out, units
from pluralign.judgments.table import Judgments, table_writer

PARTS = ("train", "tuning", "test")
"""The parts of a split; their files are named after them."""


@dataclass(frozen=True)
class Part:
    """A part of a split: its name, its file, and how many judgments and units it has."""

    name: str
    file: Path
    judgments: int
    units: int


@locks_out()
def split(
    files: Files,
    out: str | os.PathLike[str],
    by: By,
    test: float | None = None,
    seed: int = 0,
    test_units: int | None = None,
    label_scale: str | os.PathLike[str] | LabelScale | None = None,
    tuning: float | None = None,
    columns: Columns | None = None,
) -> list[Part]:
    """Split judgments into `train.parquet` and `test.parquet`, and `tuning.parquet` on request.

    No unit is in two parts. Rows keep their order, and the files keep the label scale. All files are written or none.

    Args:
        files: what `read` takes: files, data sets, frames or rows; several are split as one table.
        out: output folder; other files in it are kept.
        by: unit that is never split: `prompt`, `response`, `annotator`, `source` or `group`.
        test: share of the judgments to hold out. Default: 0.2, unless `test_units` is given.
        seed: random seed.
        test_units: number of units to hold out, instead of a share.
        label_scale: label scale of files that store none.
        tuning: share of all judgments for a part between training and test, to choose settings with.
        columns: new names of columns, like `{"annotator_id": "annotator"}`; `None` leaves a column out.

    Raises:
        PluralignError: a file cannot be read, split or written, both a share and a number of units are given, a part
            would be empty, or the output would overwrite a file.

    Examples:
        >>> import tempfile
        >>> rows = [{"prompt": f"Tea {n}?", "responses": ["Yes", "No"], "ranks": [1, 2]} for n in range(10)]
        >>> folder = Path(tempfile.mkdtemp())
        >>> Judgments.from_rows(rows).write(folder / "all.parquet")
        >>> parts = split(folder / "all.parquet", folder / "parts", by="prompt", tuning=0.3)
        >>> [(part.name, part.judgments, part.units) for part in parts]
        [('train', 5, 5), ('tuning', 3, 3), ('test', 2, 2)]
    """
    if test is not None and test_units is not None:
        raise PluralignError("found both a test share and a number of test units: give one of them")
    given, out = Inputs(files, columns), Path(out)
    check_outputs([out / f"{name}.parquet" for name in PARTS], [*given.names, label_scale])
    if tuning is None and (stale := out / "tuning.parquet").exists():
        raise PluralignError(f"{stale}: is of another split: choose another output, or ask for a tuning share")
    judgments = given.read(label_scale)
    part = np.where(held_out(judgments, by, 0.2 if test is None else test, seed, test_units), 2, 0)
    if tuning is not None:
        rest = np.flatnonzero(part == 0)
        if isinstance(tuning, bool) or not 0.0 < tuning * len(part) < len(rest):
            left = len(rest) / len(part)
            raise PluralignError(f"tuning share: found {tuning}, expected a number between 0 and {left:.2g}")
        among = Judgments(judgments.table.take(pa.array(rest)))
        part[rest[held_out(among, by, tuning * len(part) / len(rest), seed)]] = 1
    unit_of, _ = units(judgments, by)
    parts = []
    with atomic_folder(out) as folder:
        for number in np.unique(part).tolist():
            name, mask = PARTS[number], part == number
            _write(folder / f"{name}.parquet", judgments, mask)
            parts.append(Part(name, out / f"{name}.parquet", int(mask.sum()), len(np.unique(unit_of[mask]))))
    return parts


def _write(path: Path, judgments: Judgments, mask: np.ndarray) -> None:
    # Batch by batch, because a table larger than memory stays on disk.
    with table_writer(path, judgments.table.schema) as write:
        start = 0
        for batch in judgments.table.to_batches(max_chunksize=8192):
            kept = batch.filter(pa.array(mask[start : start + batch.num_rows]))
            start += batch.num_rows
            if kept.num_rows:
                write(kept)

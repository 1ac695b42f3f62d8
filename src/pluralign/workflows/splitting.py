"""`split`: a file of judgments to a training file and a held-out file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pluralign.core.errors import PluralignError
from pluralign.core.files import atomic_folder, check_outputs
from pluralign.core.locks import locks_out
from pluralign.judgments.reading import read
from pluralign.judgments.scales import LabelScale
from pluralign.judgments.split import By, held_out, units
from pluralign.judgments.table import Judgments, table_writer

TRAIN, TEST = "train.parquet", "test.parquet"
"""The files of a split."""


@dataclass(frozen=True)
class SplitCounts:
    """Judgments and units on both sides of a split, and units on both sides at once (always 0)."""

    train_judgments: int
    train_units: int
    test_judgments: int
    test_units: int
    shared_units: int


@locks_out()
def split_file(
    file: str | os.PathLike[str],
    out: str | os.PathLike[str],
    by: By,
    test: float | None = None,
    seed: int = 0,
    test_units: int | None = None,
    label_scale: str | os.PathLike[str] | LabelScale | None = None,
) -> SplitCounts:
    """Split a canonical file into `train.parquet` and `test.parquet`; either both are written or none.

    Rows keep their order, and the files keep the label scale.

    Args:
        file: canonical Parquet or JSON Lines file.
        out: output folder; other files in it are kept.
        by: unit that is never split: `prompt`, `response`, `annotator`, `source` or `group`.
        test: share of the judgments to hold out. Default: 0.2, unless `test_units` is given.
        seed: random seed.
        test_units: number of units to hold out, instead of a share.
        label_scale: label scale of a file that stores none.

    Raises:
        PluralignError: the file cannot be read, split or written, both a share and a number of units are given, or
            the output would overwrite the file.

    Examples:
        >>> import tempfile
        >>> rows = [{"prompt": f"Tea {n}?", "responses": ["Yes", "No"], "ranks": [1, 2]} for n in range(10)]
        >>> folder = Path(tempfile.mkdtemp())
        >>> Judgments.from_rows(rows).write(folder / "all.parquet")
        >>> split_file(folder / "all.parquet", folder / "parts", by="prompt")
        SplitCounts(train_judgments=8, train_units=8, test_judgments=2, test_units=2, shared_units=0)
    """
    if test is not None and test_units is not None:
        raise PluralignError("found both a test share and a number of test units: give one of them")
    file, out = Path(file), Path(out)
    check_outputs([out / TRAIN, out / TEST], [file, label_scale])
    judgments = read(file, label_scale)
    mask = held_out(judgments, by, 0.2 if test is None else test, seed, test_units)
    with atomic_folder(out) as folder:
        _write(folder / TRAIN, judgments, ~mask)
        _write(folder / TEST, judgments, mask)
    unit_of, _ = units(judgments, by)
    train, held = set(unit_of[~mask].tolist()), set(unit_of[mask].tolist())
    return SplitCounts(int((~mask).sum()), len(train), int(mask.sum()), len(held), len(train & held))


def _write(path: Path, judgments: Judgments, mask: np.ndarray) -> None:
    # Batch by batch, because a table larger than memory stays on disk.
    with table_writer(path, judgments.table.schema) as write:
        start = 0
        for batch in judgments.table.to_batches(max_chunksize=8192):
            kept = batch.filter(pa.array(mask[start : start + batch.num_rows]))
            start += batch.num_rows
            if kept.num_rows:
                write(kept)

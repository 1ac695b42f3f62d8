"""Split a canonical file into `train.parquet` and `test.parquet`."""

from __future__ import annotations

import os
from pathlib import Path

from pluralign.core.files import atomic_folder
from pluralign.judgments import read
from pluralign.judgments.split import By, split, units


def split_file(
    file: str | os.PathLike[str],
    by: By,
    out: str | os.PathLike[str],
    test: float = 0.2,
    test_units: int | None = None,
    seed: int = 0,
    label_scale: str | None = None,
) -> dict[str, dict[str, int]]:
    """Read a file, split it, and write both sides to a folder, whole or not at all.

    Args:
        file: a canonical file.
        by: what must not stand on both sides: prompt, annotator, source or group.
        out: the folder of `train.parquet` and `test.parquet`; files of these names are replaced.
        test: the share of judgments for the test side.
        test_units: this many units for the test side, instead of a share.
        seed: another seed gives another split.
        label_scale: the scale of a file that has labels and carries no scale.

    Returns:
        `{"train": {"judgments": ..., "units": ...}, "test": {...}}`.

    Raises:
        PluralignError: the file cannot be read or split, or the disk refuses.

    Example:
        >>> import tempfile
        >>> from pluralign.judgments.population import Town, simulate
        >>> folder = Path(tempfile.mkdtemp())
        >>> simulate(Town(annotators=5)).judgments.write(folder / "town.parquet")
        >>> split_file(folder / "town.parquet", "annotator", folder / "sides")["test"]
        {'judgments': 12, 'units': 1}
    """
    judgments = read(file, label_scale)
    sides = dict(zip(("train", "test"), split(judgments, by, test, seed, test_units), strict=True))
    counts = {name: {"judgments": len(side), "units": len(set(units(side, by)))} for name, side in sides.items()}
    with atomic_folder(Path(out)) as folder:
        for name, side in sides.items():
            side.write(folder / f"{name}.parquet")
    return counts

"""Where judgments are: files, folders and patterns of files, and data sets of the hub."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from pluralign.core.errors import PluralignError
from pluralign.core.files import disk_errors

PREFIX = "hf:"

TABLE_ENDINGS = (".parquet", ".jsonl", ".jsonl.gz")
"""Endings of the files that canonical tables are written to."""


def is_hub(file: str) -> bool:
    """Whether a name is that of a data set and not a file.

    Examples:
        >>> is_hub("hf:trl-lib/ultrafeedback_binarized:train"), is_hub("hf.parquet")
        (True, False)
    """
    return file.startswith(PREFIX)


def files_of(path: str | os.PathLike[str]) -> list[Path]:
    """The tables of a folder, sorted by name, or what a pattern with `*`, `?` or `[` matches; a file is itself.

    Raises:
        PluralignError: a folder holds no table, or nothing matches.
    """
    name, place = os.fspath(path), Path(path)
    with disk_errors(place):
        if place.is_dir():
            found = sorted(one for one in place.iterdir() if one.name.endswith(TABLE_ENDINGS) and one.is_file())
            if not found:
                raise PluralignError(f"{name}: the folder holds no {', '.join(TABLE_ENDINGS)} file")
            return found
        if glob.has_magic(name) and not place.exists():
            found = sorted(Path(one) for one in glob.glob(name, recursive=True))
            if not found:
                raise PluralignError(f"{name}: no file matches this pattern")
            return found
    return [place]


def named_files(names: Sequence[str]) -> list[str]:
    """Files and data sets by name, with the files of folders and patterns in their place; raises as `files_of` does."""
    return [str(file) for name in names for file in ([name] if is_hub(name) else files_of(name))]


def is_present(name: str) -> bool:
    """Whether there is such a file; a data set counts as present."""
    return is_hub(name) or Path(name).is_file()

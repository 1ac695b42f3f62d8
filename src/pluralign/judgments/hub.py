"""Data sets by `hf:owner/name:split`: of the hub, or in a folder as `datasets` writes and reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pluralign.core.errors import PluralignError, clipped, nearest
from pluralign.judgments.paths import PREFIX


def load_split(file: str) -> Any:
    """One split of a data set, as a `datasets.Dataset`.

    Args:
        file: `hf:owner/name:split` or `hf:FOLDER:split`; the split may be left out where there is only one.

    Raises:
        PluralignError: the data set cannot be loaded, or the split does not exist or is not named.
    """
    name, split = file.removeprefix(PREFIX), ""
    if ":" in name and not Path(name).is_dir():
        name, _, split = name.rpartition(":")
    if not name:
        raise PluralignError(f"{file}: names no data set, expected {PREFIX}owner/name:split or {PREFIX}FOLDER:split")
    import datasets

    stored = any((Path(name) / mark).is_file() for mark in ("dataset_dict.json", "state.json"))
    try:
        found = datasets.load_from_disk(name) if stored else datasets.load_dataset(name)
    except Exception as fault:  # of the network, the hub, the disk, and of what a data set is made of
        problem = clipped(" ".join(str(fault).split()), 300)
        raise PluralignError(
            f"{file}: the data set cannot be loaded: {problem}: check its name and the network"
        ) from fault
    splits = dict(found) if isinstance(found, dict) else {str(found.split or "train"): found}
    if not split and len(splits) == 1:
        return next(iter(splits.values()))
    if split not in splits:
        problem = f"has no split '{split}'{nearest(split, splits)}" if split else "has several splits"
        raise PluralignError(
            f"{file}: {problem}: name one of {', '.join(splits)}, like {PREFIX}{name}:{next(iter(splits))}"
        )
    return splits[split]

"""What is wrong with a training config as far as it can be told in a moment, before heavy libraries load."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path

from pluralign.core.errors import PluralignError
from pluralign.core.files import cache_folder, write_json
from pluralign.core.records import read_record
from pluralign.training.objectives import OBJECTIVES
from pluralign.workflows.train.settings import (
    Given,
    by_type,
    check_known,
    check_present,
    check_value,
    read_flags,
    read_yaml,
)

REQUIRED = ("objective", "model_name_or_path", "train_files", "output_dir")
"""Keys that every config needs."""


def check_early(config: Path, flags: Sequence[str]) -> None:
    """Check the objective, the files and the names of the keys; `workflows.train.run.check` checks everything.

    The names of an objective's keys are those that an earlier training with the same versions has remembered.

    Raises:
        PluralignError: something is wrong, with its line.
    """
    given: Mapping[str, Given] = by_type({**read_yaml(config), **read_flags(flags)})
    check_present(given, REQUIRED, str(config))
    objective = check_value(given["objective"], str, choices=tuple(OBJECTIVES))
    if _file(objective).exists():
        check_known(given, read_record(_file(objective), list[str]))


def remember_keys(objective: str, keys: Sequence[str]) -> None:
    """Keep the names of an objective's keys in the cache, for `check_early`."""
    if not _file(objective).exists():
        with contextlib.suppress(PluralignError, OSError):
            _file(objective).parent.mkdir(parents=True, exist_ok=True)
            write_json(_file(objective), list(keys))


def _file(objective: str) -> Path:
    versions = [importlib.metadata.version(name) for name in ("pluralign", "transformers", "trl")]
    return cache_folder() / "train-keys" / f"{'-'.join([objective, *versions])}.json"

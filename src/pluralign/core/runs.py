"""Run folders: the config, the environment and the results of a run.

A run's folder holds `config.yaml` (as resolved), `environment.json` (versions, and fingerprints of the input
files), the results, and `metrics.json`, which is written last: a run with this file is finished.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from pluralign.core.errors import PluralignError, one_line
from pluralign.core.files import atomic_write, disk_errors, same_file, write_json
from pluralign.core.records import read_json
from pluralign.core.yaml_lines import read_yaml

logger = logging.getLogger(__name__)

State = Literal["new", "started", "finished"]

PACKAGES = (
    "pluralign", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "numpy",
    "scipy", "scikit-learn", "pyarrow",
)  # fmt: skip

CONFIG = "config.yaml"
"""The file of a run that holds its resolved settings."""

ENVIRONMENT = "environment.json"
"""The file of a run that holds versions and the fingerprints of its inputs."""


def environment() -> dict[str, Any]:
    """The system, and the versions of Python and of the libraries that results depend on."""
    import importlib.metadata  # slow, and reading needs none of it

    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "python": sys.version.split()[0],
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "packages": versions,
    }


def read_config(folder: Path) -> dict[str, Any]:
    """The resolved settings of a run.

    Raises:
        PluralignError: the file is missing or damaged.
    """
    config = read_yaml(folder / CONFIG)
    if not isinstance(config, dict):
        raise PluralignError(f"{folder / CONFIG}: found {one_line(config)}, expected keys with values")
    return config


def file_fingerprints(files: Sequence[str | os.PathLike[str]]) -> dict[str, str]:
    """The SHA-256 of each file, by its path as given."""
    digests = {}
    for file in files:
        with disk_errors(file), open(file, "rb") as data:
            digests[str(file)] = hashlib.file_digest(data, "sha256").hexdigest()
    return digests


def run_state(folder: Path, config: Mapping[str, Any], inputs: Mapping[str, str]) -> State:
    """Whether the folder's run with this resolved config and these input files is new, started or finished.

    A run that has written nothing yet but its config is new, whatever the config.

    Raises:
        PluralignError: the folder holds a run with another config or on other data, or one of the input files; names
            what differs.
    """
    for file in inputs:
        if Path(file).is_file() and same_file(Path(file).parent, folder):
            raise PluralignError(
                f"{folder}: holds the input {file}, which the run could overwrite: choose another output folder"
            )
    with disk_errors(folder):
        if not (folder / CONFIG).exists():
            return "new"
        before = read_config(folder)
        if not is_begun(folder):
            return "new"
    differing = sorted(key for key in {*before, *config} if before.get(key) != config.get(key))
    if differing:
        shown = ", ".join(f"{key} ({before.get(key)!r} before, {config.get(key)!r} now)" for key in differing)
        raise PluralignError(
            f"{folder}: holds a run with another config; these keys differ: {shown}; choose another output folder "
            "or remove this one"
        )
    if (folder / ENVIRONMENT).exists():
        earlier = read_json(folder / ENVIRONMENT).get("inputs", {})
        # A file that is no longer read is a change, too.
        changed = sorted(name for name in {*earlier, *inputs} if earlier.get(name) != inputs.get(name))
        if changed:
            raise PluralignError(
                f"{folder}: holds a run on other data; these files have changed since: {', '.join(changed)}; "
                "choose another output folder or remove this one"
            )
    return "finished" if (folder / "metrics.json").exists() else "started"


def is_begun(folder: Path) -> bool:
    """Whether a run has written anything but its config and environment."""
    return not {path.name for path in folder.iterdir() if not path.name.startswith(".")} <= {CONFIG, ENVIRONMENT}


def finished_metrics(folder: Path, config: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, Any] | None:
    """The metrics of a run that is already finished, or `None`. Arguments and errors are those of `run_state`."""
    if run_state(folder, config, inputs) != "finished":
        return None
    logger.warning(f"{folder}: already finished; nothing to do")
    return read_metrics(folder)


def start_run(folder: Path, config: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
    """Write the environment and the config."""
    write_json(folder / "environment.json", {**environment(), "inputs": dict(inputs)})
    with atomic_write(folder / CONFIG, "w") as out:
        yaml.safe_dump(dict(config), out, allow_unicode=True, sort_keys=False)


def finish_run(folder: Path, metrics: Mapping[str, Any], card: str) -> None:
    """Write the card, and then the metrics, which mark the run as finished."""
    with atomic_write(folder / "README.md", "w") as out:
        out.write(card)
    write_json(folder / "metrics.json", dict(metrics))


def read_metrics(folder: Path) -> dict[str, Any]:
    """The metrics of a finished run."""
    return dict(read_json(folder / "metrics.json"))

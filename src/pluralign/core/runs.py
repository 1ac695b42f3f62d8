"""Run directories: what was asked, with what, and what came out.

A run's folder holds `config.yaml` (as resolved), `environment.json` (versions, and fingerprints of the input
files), then the work's own files, and last `metrics.json`: the run is finished when that file is there.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from pluralign.core.errors import PluralignError
from pluralign.core.files import atomic_write, disk_errors, write_json

State = Literal["new", "started", "finished"]

PACKAGES = (
    "pluralign", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "numpy",
    "scipy", "scikit-learn", "pyarrow",
)  # fmt: skip

CONFIG = "config.yaml"
"""The file of a run that holds its settings as resolved."""


def environment() -> dict[str, Any]:
    """Versions of Python, the system and the libraries that results depend on."""
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


def file_fingerprints(files: Sequence[str | os.PathLike[str]]) -> dict[str, str]:
    """SHA-256 of each file's bytes, by the name that was given."""
    found = {}
    for file in files:
        with disk_errors(file), open(file, "rb") as data:
            found[str(file)] = hashlib.file_digest(data, "sha256").hexdigest()
    return found


def run_state(folder: Path, config: Mapping[str, Any], inputs: Mapping[str, str]) -> State:
    """Whether a run with this config is new, was started before, or is finished. Reads only.

    Args:
        folder: the run's folder.
        config: plain values, as resolved.
        inputs: fingerprints of the files that are read.

    Raises:
        PluralignError: the folder holds a run of another config or of other data; names what differs.
    """
    with disk_errors(folder):
        if not (folder / CONFIG).exists():
            return "new"
        before = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8")) or {}
    differing = sorted(key for key in {*before, *config} if before.get(key) != config.get(key))
    if differing:
        shown = ", ".join(f"{key} ({before.get(key)!r} before, {config.get(key)!r} now)" for key in differing)
        raise PluralignError(
            f"{folder}: holds a run of another config; these keys differ: {shown}; choose another output folder "
            "or remove this one"
        )
    environment_file = folder / "environment.json"
    if environment_file.exists():
        read = json.loads(environment_file.read_text(encoding="utf-8")).get("inputs", {})
        # Both ways: a file that is gone is a change, too.
        changed = sorted(name for name in {*read, *inputs} if read.get(name) != inputs.get(name))
        if changed:
            raise PluralignError(
                f"{folder}: holds a run on other data; these files have changed since: {', '.join(changed)}; "
                "choose another output folder or remove this one"
            )
    return "finished" if (folder / "metrics.json").exists() else "started"


def start_run(folder: Path, config: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
    """Write what was asked and with what."""
    write_json(folder / "environment.json", {**environment(), "inputs": dict(inputs)})
    with atomic_write(folder / CONFIG, "w") as out:
        yaml.safe_dump(dict(config), out, allow_unicode=True, sort_keys=False)


def finish_run(folder: Path, metrics: Mapping[str, Any], card: str) -> None:
    """Write the card and, last, the metrics: the run is finished."""
    with atomic_write(folder / "README.md", "w") as out:
        out.write(card)
    write_json(folder / "metrics.json", dict(metrics))


def read_metrics(folder: Path) -> dict[str, Any]:
    """The metrics of a finished run."""
    with disk_errors(folder / "metrics.json"):
        return dict(json.loads((folder / "metrics.json").read_text(encoding="utf-8")))

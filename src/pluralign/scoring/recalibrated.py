"""`calibration.json`: the recalibration of a reward model, stored in its folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pluralign.core.errors import PluralignError
from pluralign.core.files import disk_errors, write_json
from pluralign.evaluation.calibration.recalibration import Recalibration

CALIBRATION = "calibration.json"
"""The file in a reward model's folder that holds its recalibration."""


def read_recalibration(folder: str | os.PathLike[str]) -> Recalibration | None:
    """The recalibration stored in a model's folder; `None` if there is none (hub ids have none).

    Raises:
        PluralignError: the file is damaged or holds something else.
    """
    file = Path(folder) / CALIBRATION
    if not file.is_file():
        return None
    with disk_errors(file):
        data = file.read_bytes()
    try:
        return Recalibration.from_dict(json.loads(data.decode("utf-8")))
    except (ValueError, RecursionError) as fault:  # not UTF-8, not JSON, or invalid values
        remedy = "run pluralign calibrate again, or with --remove"
        raise PluralignError(f"{file}: is not a recalibration ({fault}): {remedy}") from fault


def write_recalibration(folder: str | os.PathLike[str], recalibration: Recalibration) -> None:
    """Store a recalibration in a model's folder atomically, replacing a previous one.

    Examples:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> write_recalibration(folder, Recalibration("temperature", temperature=2.0))
        >>> read_recalibration(folder)
        Recalibration(method='temperature', temperature=2.0, knots=())
        >>> remove_recalibration(folder), remove_recalibration(folder), read_recalibration(folder)
        (True, False, None)
    """
    write_json(Path(folder) / CALIBRATION, recalibration.as_dict())


def remove_recalibration(folder: str | os.PathLike[str]) -> bool:
    """Remove a stored recalibration, even a damaged one; returns whether there was one."""
    file = Path(folder) / CALIBRATION
    with disk_errors(file):
        existed = file.is_file()
        file.unlink(missing_ok=True)
    return existed

"""`report`: one HTML page of finished folders, a function of the files in them alone."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from pluralign.core.errors import PluralignError
from pluralign.core.files import atomic_write, disk_errors, output_file, path_list, read_parquet
from pluralign.core.records import read_record, read_text, record_of
from pluralign.core.runs import CONFIG, read_config
from pluralign.reports.aggregation import AggregationPage
from pluralign.reports.audit_record import AuditPage
from pluralign.reports.calibration import RewardGaps
from pluralign.reports.crowds import Crowds, VotedResponse
from pluralign.reports.matching import MatchingLists
from pluralign.reports.paired import Losses
from pluralign.reports.plots import ReliabilityBin
from pluralign.reports.rounds import TypeRounds
from pluralign.reports.runs import AnnotatorResult, DrawnResponse, Run, runs_page
from pluralign.reports.sources import SourceLog
from pluralign.scoring.measured import LOSSES

Record = TypeVar("Record")

_SHARES = ("voted", "low", "high", "predicted")
"""The columns of `crowds.parquet` that exist once per label, as `voted_LABEL`."""


def report(folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> None:
    """Write one self-contained HTML page of finished folders, with a comparison if there are several.

    Args:
        folders: finished folders of `audit`, `train`, `evaluate` and `aggregate`; of any other folder with a
            `metrics.json` the page shows the numbers.
        out: output file: `.html`.

    Raises:
        PluralignError: a folder is not a finished run, or a file in it cannot be read.
    """
    given = [Path(folder) for folder in path_list(folders)]
    if not given:
        raise PluralignError("no folder was given: name at least one")
    output_file(out, endings=(".html", ".htm"))
    names = [folder.resolve().name for folder in given]
    runs = [
        read_run(folder, name if names.count(name) == 1 else str(folder))
        for folder, name in zip(given, names, strict=True)
    ]
    with atomic_write(out, "w") as file:
        file.write(runs_page(runs))


def read_run(folder: Path, name: str) -> Run:
    """Read what a page shows of a finished folder, which it calls `name`.

    Raises:
        PluralignError: the folder is missing, is not a finished run, or holds a file that cannot be read.
    """
    with disk_errors(folder):
        if not folder.is_dir():
            fault = "is a file, and a run's folder was expected" if folder.exists() else "no such folder"
            raise PluralignError(f"{folder}: {fault}")
        if not (folder / "metrics.json").exists():
            if (folder / CONFIG).exists():
                raise PluralignError(
                    f"{folder}: this run is not finished (it has no metrics.json): run its command again first"
                )
            raise PluralignError(
                f"{folder}: is not the folder of a run (it has no metrics.json): give one that a command wrote"
            )
    matching = _record(folder / "matching.json", MatchingLists)
    audit = _record(folder / "audit.json", AuditPage)
    return Run(
        name=name,
        metrics=read_record(folder / "metrics.json", dict[str, Any]),
        config=read_config(folder) if (folder / CONFIG).exists() else {},
        environment=_record(folder / "environment.json", dict[str, Any]) or {},
        reliability=_record(folder / "reliability.json", list[ReliabilityBin]) or [],
        # An audit has an annotators.parquet with other columns, and its page in audit.json.
        annotators=[] if audit else _rows(folder / "annotators.parquet", AnnotatorResult),
        responses=_responses(folder / "answers.jsonl"),
        audit=audit,
        aggregation=_record(folder / "aggregate.json", AggregationPage),
        types=_record(folder / "types.json", TypeRounds),
        reward_gaps=_record(folder / "over_rewarding.json", list[RewardGaps]) or [],
        sources=_rows(folder / "sources.parquet", SourceLog),
        crowds=_crowds(folder / "crowds.parquet"),
        matching=[] if matching is None else matching.lists,
        losses=_losses(folder / LOSSES),
    )


def _record(path: Path, kind: type[Record]) -> Record | None:
    """The content of a JSON file; None where there is none."""
    return read_record(path, kind) if path.exists() else None


def _records(rows: Sequence[Any], kind: Any, path: Path, unit: str) -> list[Any]:
    """Rows of a file as dataclasses; errors name the row, which the file calls `unit`."""
    return [record_of(row, kind, str(path), f"{unit} {number}") for number, row in enumerate(rows, 1)]


def _rows(path: Path, kind: Any) -> list[Any]:
    """The rows of a Parquet table; none where there is no table."""
    if not path.exists():
        return []
    return _records(read_parquet(path, [field.name for field in fields(kind)]).to_pylist(), kind, path, "row")


def _crowds(path: Path) -> Crowds | None:
    if not path.exists():
        return None
    columns = read_parquet(path).column_names
    labels = [name.removeprefix("predicted_") for name in columns if name.startswith("predicted_")]
    if not labels:
        raise PluralignError(f"{path}: predicts no label (no column predicted_...): was it written by another tool?")
    names = [f"{key}_{label}" for key in _SHARES for label in labels]
    table = read_parquet(path, ["prompt", "response", "votes", "expected_reward", *names])
    rows = [row | {key: [row[f"{key}_{label}"] for label in labels] for key in _SHARES} for row in table.to_pylist()]
    return Crowds(labels, _records(rows, VotedResponse, path, "row"))


def _losses(path: Path) -> Losses | None:
    if not path.exists():
        return None
    names = [field.name for field in fields(Losses)]
    table = read_parquet(path, names)
    return Losses(**{name: table[name].to_numpy() for name in names})


def _responses(path: Path) -> list[DrawnResponse]:
    if not path.exists():
        return []
    try:
        rows = [json.loads(line) for line in read_text(path).split("\n") if line.strip()]
    except (json.JSONDecodeError, RecursionError) as fault:
        raise PluralignError(f"{path}: is not valid JSON Lines ({fault})") from fault
    return _records(rows, DrawnResponse, path, "line")

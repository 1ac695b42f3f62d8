"""`report`: one HTML page of finished folders, a function of the files in them alone."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pluralign.core.errors import PluralignError, one_line
from pluralign.core.files import atomic_write, disk_errors
from pluralign.core.runs import CONFIG
from pluralign.reports.aggregation import SHAPE as AGGREGATE
from pluralign.reports.audit.schema import filled
from pluralign.reports.calibration import BIN, OVER_REWARDING
from pluralign.reports.comparison import runs_page
from pluralign.reports.crowds import TEXTS, columns_of, labels_in
from pluralign.reports.matching import SHAPE as MATCHING
from pluralign.reports.rounds import SHAPE as ROUNDS
from pluralign.reports.runs import Run
from pluralign.reports.sources import COLUMNS as SOURCES

_PEOPLE = ("annotator", "judgments", "pairs", "accuracy", "log_loss")


def report(
    folders: str | os.PathLike[str] | list[str | os.PathLike[str]] | list[Path], out: str | os.PathLike[str]
) -> None:
    """Draw one self-contained HTML page of finished folders, with a comparison where there are several.

    Args:
        folders: of audits, trained models, evaluations and aggregations; of anything else with a `metrics.json`
            the page shows the numbers.
        out: the HTML file.

    Raises:
        PluralignError: a folder is no finished run, or a file in it cannot be read.
    """
    given = [Path(folder) for folder in folders] if isinstance(folders, list) else [Path(folders)]
    if not given:
        raise PluralignError("no folder was given: name at least one")
    names = [folder.resolve().name for folder in given]
    runs = [
        read_run(folder, name if names.count(name) == 1 else str(folder))
        for folder, name in zip(given, names, strict=True)
    ]
    page = runs_page(runs)
    with atomic_write(out, "w") as file:
        file.write(page)


def read_run(folder: Path, name: str) -> Run:
    """What a page needs of a finished folder.

    Args:
        folder: with a `metrics.json`.
        name: how the page calls it.

    Raises:
        PluralignError: the folder is missing, no run, not finished, or holds a file that cannot be read.
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
    audit = _json(folder / "audit.json", dict) if (folder / "audit.json").exists() else None
    story = folder / "aggregate.json"
    aggregate = _filled(story, _json(story, dict), AGGREGATE, story.name) if story.exists() else None
    rounds, gaps = folder / "types.json", folder / "over_rewarding.json"
    pairs = folder / "matching.json"
    return Run(
        name=name,
        metrics=_json(folder / "metrics.json", dict),
        config=_config(folder / CONFIG),
        environment=_json(folder / "environment.json", dict, {}),
        reliability=_reliability(folder / "reliability.json"),
        annotators=_columns(folder / "annotators.parquet", _PEOPLE, "evaluate"),
        answers=_answers(folder / "answers.jsonl"),
        audit=None if audit is None else _filled(folder / "audit.json", audit),
        aggregate=aggregate,
        types=_filled(rounds, _json(rounds, dict), ROUNDS, rounds.name) if rounds.exists() else None,
        over_rewarding=_filled(gaps, _json(gaps, list, []), OVER_REWARDING, gaps.name),
        sources=_sources(folder / "sources.parquet"),
        crowds=_crowds(folder / "crowds.parquet"),
        matching=_filled(pairs, _json(pairs, dict, {}), MATCHING, pairs.name)["lists"],
    )


def _text(path: Path) -> str:
    with disk_errors(path):
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as fault:
            raise PluralignError(f"{path}: is not UTF-8: was it damaged or written by another tool?") from fault


def _json(path: Path, kind: type, missing: Any = None) -> Any:
    if missing is not None and not path.exists():
        return missing
    try:
        found = json.loads(_text(path))
    except (json.JSONDecodeError, RecursionError) as fault:
        raise PluralignError(f"{path}: is not valid JSON ({fault}): run the command that wrote it again") from fault
    if not isinstance(found, kind):
        expected = "an object" if kind is dict else "a list"
        raise PluralignError(f"{path}: expected {expected}, found {type(found).__name__}")
    return found


def _filled(path: Path, value: Any, *shape: Any) -> Any:
    try:
        return filled(value, *shape)
    except PluralignError as fault:
        raise PluralignError(f"{path.parent}: {fault}") from fault


def _config(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        found = yaml.safe_load(_text(path))
    except yaml.YAMLError as fault:
        raise PluralignError(f"{path}: is not valid YAML ({' '.join(str(fault).split())})") from fault
    if not isinstance(found, dict):
        raise PluralignError(f"{path}: expected keys with values, found {type(found).__name__}")
    return found


def _reliability(path: Path) -> list[dict[str, Any]]:
    ends = dict.fromkeys(("accuracy_low", "accuracy_high"), "number")
    rows = _filled(path, _json(path, list, []), [BIN | ends], path.name)
    return [row for row in rows if None not in (row[key] for key in BIN)]


def _columns(path: Path, names: Sequence[str], command: str) -> dict[str, list[Any]] | None:
    """Columns of a table that a command wrote; None where there is none."""
    if not path.exists():
        return None
    with disk_errors(path):
        try:
            return dict(pq.read_table(path, columns=list(names)).select(list(names)).to_pydict())
        except (pa.ArrowException, KeyError) as fault:
            raise PluralignError(f"{path}: cannot be read as the table that {command} writes ({fault})") from fault


def _sources(path: Path) -> dict[str, list[Any]] | None:
    found = _columns(path, SOURCES, "train")
    return None if found is None else _numbers_in(path, found, [name for name in SOURCES if name != "source"])


def _crowds(path: Path) -> dict[str, list[Any]] | None:
    if not path.exists():
        return None
    with disk_errors(path):
        try:
            labels = labels_in(pq.read_schema(path).names)
        except pa.ArrowException as fault:
            raise PluralignError(f"{path}: cannot be read as the table that evaluate writes ({fault})") from fault
    if not labels:
        raise PluralignError(f"{path}: predicts no label (no column predicted_...): was it written by another tool?")
    found = _columns(path, columns_of(labels), "evaluate")
    return None if found is None else _numbers_in(path, found, columns_of(labels)[len(TEXTS) :])


def _numbers_in(path: Path, found: dict[str, list[Any]], names: Sequence[str]) -> dict[str, list[Any]]:
    """The columns, of which some hold nothing but numbers and nulls."""
    for name in names:
        for value in found[name]:
            if value is not None and type(value) not in (int, float):
                raise PluralignError(f"{path}, column '{name}': found {one_line(value)}, expected a number or null")
    return found


def _answers(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        found = [json.loads(line) for line in _text(path).split("\n") if line.strip()]
    except json.JSONDecodeError as fault:
        raise PluralignError(f"{path}: is not valid JSON Lines ({fault})") from fault
    return [one for one in found if isinstance(one, dict)]

"""Sections of a run's page: trained reward models and policies, evaluations, and whatever else left metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from pluralign.reports.aggregation import aggregation_sections
from pluralign.reports.audit.data import histogram_figure
from pluralign.reports.audit.page import audit_sections
from pluralign.reports.calibration import calibration_section
from pluralign.reports.crowds import crowds_section
from pluralign.reports.matching import matching_section
from pluralign.reports.page import Block, Figure, Figures, Heading, Note, Section, Table, Tiles
from pluralign.reports.rounds import rounds_section
from pluralign.reports.rows import Point, Row, forest, known
from pluralign.reports.scales import scale
from pluralign.reports.sources import sources_section
from pluralign.reports.texts import interval, number, percent, quoted, text_of
from pluralign.training.objectives import OBJECTIVES

METRICS = {
    "accuracy": ("Accuracy", "share of pairs ranked as the person did", 0.5, "higher is better; 0.5 is a coin"),
    "log_loss": ("Log-loss", "nats per pair", math.log(2), "lower is better; 0.693 is a constant reward"),
    "ece": ("Calibration error", "mean gap between sure and right", 0.0, "lower is better; 0 is calibrated"),
    "total_variation": ("Total variation", "share of votes on the wrong label", 0.0, "lower is better; 0 is exact"),
    "transport_cost": ("Transport cost", "from predicted to voted labels", 0.0, "lower is better; 0 is exact"),
    "win_rate": ("Win rate", "against the reference, by the reward", 0.5, "higher is better; 0.5 is no difference"),
    "pm_divergence": ("Matching divergence", "squared gap of log-odds", 0.0, "lower is better; 0 is matched"),
    "minority_mass/on=reference": (
        "Minority mass kept", "on the reference's answers", 1.0, "higher is better; 1 is all of it",
    ),
}  # fmt: skip
"""Metrics that runs are compared by: title, axis, a value to compare with, and how to read them."""

_MOST_SLICES = 20
_LAST_PEOPLE = 50
_ANSWERS = 20


@dataclass(frozen=True)
class Run:
    """What a finished folder holds, read but not yet drawn."""

    name: str
    metrics: Mapping[str, Any]
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    reliability: Sequence[Mapping[str, Any]] = ()
    annotators: Mapping[str, Sequence[Any]] | None = None
    answers: Sequence[Mapping[str, Any]] = ()
    audit: Mapping[str, Any] | None = None
    aggregate: Mapping[str, Any] | None = None
    types: Mapping[str, Any] | None = None
    over_rewarding: Sequence[Mapping[str, Any]] = ()
    sources: Mapping[str, Sequence[Any]] | None = None
    crowds: Mapping[str, Sequence[Any]] | None = None
    matching: Sequence[Mapping[str, Any]] = ()

    def value(self, key: str) -> float | None:
        """A metric that is a finite number, else None."""
        found = self.metrics.get(key)
        return found if type(found) in (int, float) and known(found) else None


def describe(run: Run) -> str:
    """A line that says what the folder is, from its config.

    Examples:
        >>> describe(Run("rm", {}, {"objective": "dpo", "model_name_or_path": "base"}))
        'Policy tuned from base with the objective dpo.'
    """
    config = run.config
    if run.audit is not None:
        return "Audit of " + (_files(config.get("files")) or "judgments") + "."
    if run.aggregate is not None:
        return f"Aggregation of {text_of(config.get('run'))}."
    if config.get("command") == "evaluate":
        return f"Evaluation of {text_of(config.get('model'))} on {_files(config.get('files'))}."
    if "objective" in config:
        objective = text_of(config["objective"])
        kind = OBJECTIVES[objective].product if objective in OBJECTIVES else "Model trained"
        base = text_of(config.get("model_name_or_path"))
        held_out = f", judged on {_files(config['eval_files'])}" if config.get("eval_files") else ""
        return f"{kind} from {base} with the objective {objective}{held_out}."
    return ""


def _files(files: object) -> str:
    return ", ".join(text_of(file) for file in files) if isinstance(files, list) else text_of(files)


def run_sections(run: Run) -> list[Section]:
    """The sections of one run, whatever it is."""
    stored = Section("Everything stored", _stored(run))
    if run.audit is not None:
        return [*audit_sections(run.audit, run.metrics), stored]
    if run.aggregate is not None:
        return [*aggregation_sections(run.aggregate), stored]
    drawn = _drawings(run)
    results: list[Block] = [Tiles(tiles)] if (tiles := _tiles(run)) else []
    results += [Figures(drawn)] if drawn else []
    sections = [Section("Results", results or [Note("There is nothing to draw here.")], describe(run))]
    if run.crowds is not None and (crowds := crowds_section(run.crowds, run.value)):
        sections.append(crowds)
    by_source = _slices(run, "ece", "source", "Calibration error by source")
    if calibration := calibration_section(run.value, run.reliability, by_source, run.over_rewarding):
        sections.append(calibration)
    if matching := matching_section(run.matching, run.value):
        sections.append(matching)
    if run.sources is not None and (sources := sources_section(run.sources)):
        sections.append(sources)
    if run.types is not None and (types := rounds_section(run.types)):
        sections.append(types)
    if people := _people(run):
        sections.append(Section("Person by person", people, "Whom this model serves, and whom it does not."))
    if run.answers:
        sections.append(Section("Answers", [_answers(run)], "What the policy and its reference wrote."))
    return [*sections, stored]


def of_one(run: Run) -> Section:
    """All sections of a run as one, for a page that holds several runs."""
    blocks: list[Block] = []
    for section in run_sections(run):
        blocks += [Heading(section.title, "" if section.title == "Results" else section.lead), *section.blocks]
    return Section(run.name, blocks, describe(run))


def _tiles(run: Run) -> list[tuple[str, str, str]]:
    tiles = []
    for key, (title, _, _, words) in METRICS.items():
        value = run.value(key)
        if value is not None:
            low, high = run.value(f"{key}_low"), run.value(f"{key}_high")
            between = "" if low is None or high is None else f"{number(low)} to {number(high)}; "
            tiles.append((title, number(value), between + words))
    for key, title in (
        ("eval_loss", "loss on held-out files"), ("train_loss", "training loss"), ("judgments", "judgments"),
        ("annotators", "people"), ("prompts", "prompts"), ("pairs", "strict pairs"), ("left_out", "rows left out"),
        ("votes", "votes"),
    ):  # fmt: skip
        value = run.value(key)
        if value is not None and (value or key != "left_out"):
            tiles.append((title, number(value), ""))
    return tiles


def _drawings(run: Run) -> list[Figure]:
    figures = []
    if (wins := run.value("win_rate")) is not None:
        point = Point(wins, run.value("win_rate_low"), run.value("win_rate_high"))
        shown = interval(point.value, point.low, point.high)
        marks = [(0.0, "never"), (0.5, "no difference"), (1.0, "always")]
        drawn = scale(point, f"Win rate against the reference: {shown}.", limits=(0.0, 1.0), marks=marks)
        reading = (
            f"{shown}: how often the reward model prefers an answer of the policy to one of its reference. It "
            "says how far the policy follows that model, not how much people like it."
        )
        figures.append(Figure("Against the reference", drawn, reading))
    for column, title in (
        ("source", "Accuracy by source"),
        ("group", "Accuracy by group"),
        ("type", "Accuracy by type"),
    ):
        if figure := _slices(run, "accuracy", column, title):
            figures.append(figure)
    return figures


def _slices(run: Run, key: str, column: str, title: str) -> Figure | None:
    """A metric of each slice, the worst first, with the whole as a dashed line."""
    prefix = f"{key}/{column}="
    found = [(name[len(prefix) :], run.value(name)) for name in run.metrics if name.startswith(prefix)]
    worst_first = 1 if key == "accuracy" else -1
    ordered = sorted([(name, value) for name, value in found if value is not None],
                     key=lambda item: worst_first * item[1])  # fmt: skip
    if len(ordered) < 2:
        return None
    rows = [Row(name, [Point(value)]) for name, value in ordered[:_MOST_SLICES]]
    (worst, first), (best, last) = ordered[0], ordered[-1]
    apart = f"{number(round(100 * abs(last - first), 1))} points apart."
    if key == "accuracy":
        side, axis, reading = "lowest", "accuracy", f"{quoted(worst)} is served at {number(first)}, "
        reading += f"{quoted(best)} at {number(last)}: {apart}"
    else:
        side, axis, reading = "highest", "calibration error", f"{quoted(worst)}: {number(first)}, "
        reading += f"{quoted(best)}: {number(last)}. Slices with few pairs come out too high."
    drawn = forest(rows, f"{title}, the {side} first.", x_label=f"{axis}; dashed: all together",
                   reference=run.value(key), bounds=(0.0, 1.0))  # fmt: skip
    keys = ("accuracy", "log_loss", "ece", "pairs")
    cells = [[name, *(run.value(f"{key}/{column}={name}") for key in keys)] for name, _ in ordered]
    return Figure(title, drawn, reading, table=Table("The numbers", [column, *keys], cells, folded=True))


def _people(run: Run) -> list[Block]:
    """The spread of accuracy over people, and those who are served worst."""
    if run.annotators is None:
        return []
    columns = [run.annotators[key] for key in ("annotator", "judgments", "pairs", "accuracy", "log_loss")]
    rows = [row for row in zip(*columns, strict=True) if row[3] is not None and known(row[3])]
    if not rows:
        return []
    counts = [0] * 20
    for row in rows:
        counts[min(int(20 * row[3]), 19)] += 1
    under = sum(row[3] < 0.5 for row in rows)
    reading = f"Half of {{n}} people are at about {{}} or lower; {percent(under / len(rows))} are under a coin's 0.5."
    edges = [index / 20 for index in range(21)]
    figure = histogram_figure(edges, counts, "Accuracy for each person", "accuracy", "people", reading,
                              found=median(row[3] for row in rows))  # fmt: skip
    worst = sorted(rows, key=lambda row: (row[3], -row[2], row[0]))[:_LAST_PEOPLE]
    title = f"Served worst: {len(worst)} of {number(len(rows))} people"
    table = Table(title, ["person", "judgments", "pairs", "accuracy", "log-loss"], worst, folded=True)
    return [Figures([figure]), table]


def _answers(run: Run) -> Table:
    rows = [
        [text_of(one.get("prompt")), text_of(one.get("by")), text_of(one.get("response")), one.get("reward")]
        for one in sorted(run.answers[: 2 * _ANSWERS * 8], key=lambda one: text_of(one.get("prompt")))
    ][: 2 * _ANSWERS]
    return Table(f"{len(rows)} of {number(len(run.answers))} answers", ["prompt", "by", "answer", "reward"], rows)


def _stored(run: Run) -> list[Block]:
    """Metrics with their intervals, the config, and the versions, folded."""
    ends = ("_low", "_high")
    shown = {
        key: value
        for key, value in run.metrics.items()
        if not (key.endswith(ends) and key.rsplit("_", 1)[0] in run.metrics)
    }
    rows = [
        [
            key,
            interval(run.value(key), run.value(f"{key}_low"), run.value(f"{key}_high"))
            if run.value(key) is not None
            else text_of(value),
        ]
        for key, value in shown.items()
    ]
    blocks: list[Block] = [Table("Metrics", ["metric", "value"], rows, folded=True)]
    if run.config:
        config = [[str(key), text_of(value)] for key, value in run.config.items()]
        blocks.append(Table("Config", ["setting", "value"], config, folded=True))
    packages = run.environment.get("packages")
    if isinstance(packages, dict):
        versions = [
            [str(name), text_of(version)]
            for name, version in {"python": run.environment.get("python"), **packages}.items()
        ]
        blocks.append(Table("Versions", ["package", "version"], versions, folded=True))
    return blocks

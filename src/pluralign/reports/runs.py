"""Pages of finished runs: reward models, policies, evaluations, audits and aggregations, alone or compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from pluralign.reports.aggregation import AggregationPage, aggregation_sections
from pluralign.reports.audit import audit_sections
from pluralign.reports.audit_record import AuditPage
from pluralign.reports.calibration import RewardGaps, calibration_section
from pluralign.reports.crowds import Crowds, crowds_section
from pluralign.reports.histograms import Histogram, histogram_figure
from pluralign.reports.matching import MatchingPlots, matching_section
from pluralign.reports.measures import metric_point, with_interval
from pluralign.reports.page import Banner, Block, Cell, Figure, Figures, Heading, Note, Section, Table, Tiles, render
from pluralign.reports.paired import Losses, difference_sentence, paired_difference
from pluralign.reports.plots import ReliabilityBin
from pluralign.reports.rounds import TypeRounds, rounds_section
from pluralign.reports.row_plots import Point, Row, forest, scale
from pluralign.reports.sources import SourceLog, sources_section
from pluralign.reports.texts import known, number, percent, quoted, text_of
from pluralign.training.objectives import OBJECTIVES


@dataclass(frozen=True)
class Metric:
    """A metric by which runs are compared: names, a value to compare with, its meaning, and its range.

    `by_reward` says that the metric depends on the reward model that scored the responses.
    """

    title: str
    axis: str
    reference: float
    meaning: str
    lower_is_better: bool = False
    highest: float = 1.0
    by_reward: bool = False


METRICS = {
    "accuracy": Metric("Accuracy", "share of pairs ranked as the annotator did", 0.5,
                       "higher is better; 0.5 is chance"),
    "log_loss": Metric("Log-loss", "nats per pair", math.log(2), "lower is better; 0.693 is a constant reward",
                       lower_is_better=True, highest=math.inf),
    "ece": Metric("Calibration error", "mean gap between confidence and accuracy", 0.0,
                  "lower is better; 0 is calibrated", lower_is_better=True),
    "total_variation": Metric("Total variation", "share predicted on the wrong label", 0.0,
                              "lower is better; 0 is exact", lower_is_better=True),
    "transport_cost": Metric("Transport cost", "from predicted to voted labels", 0.0, "lower is better; 0 is exact",
                             lower_is_better=True, highest=math.inf),
    "win_rate": Metric("Win rate", "against the reference, by the reward model", 0.5,
                       "higher is better; 0.5 is no difference", by_reward=True),
    "pm_divergence": Metric("Matching divergence", "squared difference of log-odds", 0.0,
                            "lower is better; 0 is a match", lower_is_better=True, highest=math.inf, by_reward=True),
    "minority_mass/on=reference": Metric("Minority mass kept", "on the reference's responses", 1.0,
                                         "higher is better; 1 is all of it", by_reward=True),
}  # fmt: skip

GIVEN = {
    "intervals_given_annotators": "Intervals are over prompts, given these annotators: fewer than five annotators say "
    "little about others.",
    "intervals_given_prompts": "Intervals are over annotators, given these prompts: fewer than five prompts say "
    "little about others.",
}
"""What metrics say that their intervals take as given, and the sentence for the page."""

_COUNTS = {
    "eval_loss": "loss on held-out files", "train_loss": "training loss", "judgments": "judgments",
    "annotators": "annotators", "prompts": "prompts", "pairs": "strict pairs", "left_out": "rows left out",
    "votes": "votes",
}  # fmt: skip
_MOST_SLICES, _MOST_ANNOTATORS, _MOST_RESPONSES = 20, 50, 40


@dataclass(frozen=True)
class AnnotatorResult:
    """How well a model agrees with one annotator: a row of `annotators.parquet`."""

    annotator: str | None
    judgments: int
    pairs: int
    accuracy: float | None
    log_loss: float | None


@dataclass(frozen=True)
class DrawnResponse:
    """A response of a policy or its reference with its reward: a line of `answers.jsonl`."""

    prompt: Any = None
    by: Any = None
    response: Any = None
    reward: float | None = None


@dataclass(frozen=True)
class Run:
    """The content of a finished folder."""

    name: str
    metrics: Mapping[str, Any]
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    reliability: Sequence[ReliabilityBin] = ()
    annotators: Sequence[AnnotatorResult] = ()
    responses: Sequence[DrawnResponse] = ()
    audit: AuditPage | None = None
    aggregation: AggregationPage | None = None
    types: TypeRounds | None = None
    reward_gaps: Sequence[RewardGaps] = ()
    sources: Sequence[SourceLog] = ()
    crowds: Crowds | None = None
    matching: Sequence[MatchingPlots] = ()
    losses: Losses | None = None

    def value(self, key: str) -> float | None:
        """A metric if it is a finite number, else None."""
        stored = self.metrics.get(key)
        return stored if type(stored) in (int, float) and known(stored) else None


def runs_page(runs: Sequence[Run]) -> str:
    """The HTML page of one run, or of several with distinct names and a comparison at the top.

    The page is self-contained; the same arguments give the same bytes.

    Examples:
        >>> page = runs_page([Run("a", {"accuracy": 0.7}), Run("b", {"accuracy": 0.6})])
        >>> "Comparison" in page, "Everything stored" in page
        (True, True)
    """
    if len(runs) == 1:
        return render(runs[0].name, "", _sections(runs[0]))
    compared = _comparison(runs)
    lead = "Which run is better, and is the difference larger than chance?"
    sections = [Section("Comparison", compared, lead)] if compared else []
    names = ", ".join(run.name for run in runs)
    return render(f"{len(runs)} runs", names, [*sections, *(_as_one_section(run) for run in runs)])


def describe(run: Run) -> str:
    """A sentence that says what the folder is, from its config.

    Examples:
        >>> describe(Run("rm", {}, {"objective": "dpo", "model_name_or_path": "base"}))
        'Policy tuned from base with the objective dpo.'
    """
    config = run.config
    if run.audit is not None:
        return "Audit of " + (_files(config.get("files")) or "judgments") + "."
    if run.aggregation is not None:
        return f"Aggregation of {text_of(config.get('run'))}."
    if config.get("command") == "evaluate":
        return f"Evaluation of {text_of(config.get('model'))} on {_files(config.get('files'))}."
    if "objective" in config:
        base, objective = text_of(config.get("model_name_or_path")), text_of(config["objective"])
        product = OBJECTIVES[objective].product if objective in OBJECTIVES else "Model trained"
        held_out = f", evaluated on {_files(config['eval_files'])}" if config.get("eval_files") else ""
        return f"{product} from {base} with the objective {objective}{held_out}."
    return ""


def _files(files: object) -> str:
    return ", ".join(text_of(file) for file in files) if isinstance(files, list) else text_of(files)


def _sections(run: Run) -> list[Section]:
    """The sections of a run of any kind."""
    stored = Section("Everything stored", _stored(run))
    if run.audit is not None:
        return [*audit_sections(run.audit), stored]
    if run.aggregation is not None:
        return [*aggregation_sections(run.aggregation), stored]
    figures = _results(run)
    results: list[Block] = [Tiles(tiles)] if (tiles := _tiles(run)) else []
    results += [Figures(figures)] if figures else []
    results += [Note(sentence) for key, sentence in GIVEN.items() if results and run.metrics.get(key) is True]
    by_source = _slices(run, "ece", "source", "Calibration error by source")
    parts = [
        Section("Results", results or [Note("This run has nothing to plot.")], describe(run)),
        crowds_section(run.crowds, run.value) if run.crowds is not None else None,
        calibration_section(run.value, run.reliability, by_source, run.reward_gaps),
        matching_section(run.matching, run.value, _kinds_said(run.metrics)),
        sources_section(run.sources),
        rounds_section(run.types) if run.types is not None else None,
        _annotators(run),
        _responses(run),
        stored,
    ]
    return [part for part in parts if part is not None]


def _kinds_said(metrics: Mapping[str, Any]) -> list[str]:
    """The kinds of responses whose shares are stored."""
    begin = "said/kind="
    found = (key.removeprefix(begin) for key in metrics if key.startswith(begin))
    return [name for name in found if not name.endswith(("_low", "_high"))]


def _as_one_section(run: Run) -> Section:
    """All sections of a run as one, for a page with several runs."""
    blocks: list[Block] = []
    for section in _sections(run):
        blocks += [Heading(section.title, "" if section.title == "Results" else section.lead), *section.blocks]
    return Section(run.name, blocks, describe(run))


def _tiles(run: Run) -> list[tuple[str, str, str]]:
    tiles = []
    for key, metric in METRICS.items():
        value = run.value(key)
        if value is not None:
            low, high = run.value(f"{key}_low"), run.value(f"{key}_high")
            between = "" if low is None or high is None else f"{number(low)} to {number(high)}; "
            tiles.append((metric.title, number(value), between + metric.meaning))
    for key, title in _COUNTS.items():
        value = run.value(key)
        if value is not None and (value or key != "left_out"):
            tiles.append((title, number(value), ""))
    return tiles


def _results(run: Run) -> list[Figure]:
    figures = []
    if run.value("win_rate") is not None:
        shown = with_interval(run.value, "win_rate")
        marks = [(0.0, "never"), (0.5, "no difference"), (1.0, "always")]
        drawn = scale(metric_point(run.value, "win_rate"), f"Win rate against the reference: {shown}.",
                      limits=(0.0, 1.0), marks=marks)  # fmt: skip
        reading = f"{shown}: how often the reward model prefers a response of the policy to one of its reference. It "
        reading += "shows how far the policy follows the reward model, not what annotators prefer."
        figures.append(Figure("Against the reference", drawn, reading))
    by_column = [_slices(run, "accuracy", column, f"Accuracy by {column}") for column in ("source", "group", "type")]
    return [*figures, *(figure for figure in by_column if figure is not None)]


def _slices(run: Run, key: str, column: str, title: str) -> Figure | None:
    """A metric of each slice, the worst first, with the value over all data as a dashed line."""
    prefix = f"{key}/{column}="
    values = {name[len(prefix) :]: run.value(name) for name in run.metrics if name.startswith(prefix)}
    worst_first = 1 if key == "accuracy" else -1
    ordered = sorted(((name, value) for name, value in values.items() if value is not None),
                     key=lambda item: worst_first * item[1])  # fmt: skip
    if len(ordered) < 2:
        return None
    (worst, first), (best, last) = ordered[0], ordered[-1]
    side, axis = ("lowest", "accuracy") if key == "accuracy" else ("highest", "calibration error")
    reading = f"{quoted(worst)} {number(first)}, {quoted(best)} {number(last)}: "
    reading += f"{number(round(100 * abs(last - first), 1))} points apart."
    reading += "" if key == "accuracy" else " The error of slices with few pairs is too high."
    rows = [Row(name, [Point(value)]) for name, value in ordered[:_MOST_SLICES]]
    drawn = forest(rows, f"{title}, the {side} first.", x_label=f"{axis}; dashed: all data", reference=run.value(key),
                   bounds=(0.0, 1.0))  # fmt: skip
    keys = ("accuracy", "log_loss", "ece", "pairs")
    cells = [[name, *(run.value(f"{key}/{column}={name}") for key in keys)] for name, _ in ordered]
    return Figure(title, drawn, reading, table=Table("The numbers", [column, *keys], cells, folded=True))


def _annotators(run: Run) -> Section | None:
    """The distribution of accuracy over annotators, and the annotators with the lowest one."""
    scored = [(row.accuracy, row) for row in run.annotators if row.accuracy is not None and known(row.accuracy)]
    if not scored:
        return None
    accuracies = [accuracy for accuracy, _ in scored]
    below = percent(sum(accuracy < 0.5 for accuracy in accuracies) / len(scored))
    reading = f"Half of {{n}} annotators are at about {{}} or lower; {below} are below 0.5, which is chance."
    figure = histogram_figure(Histogram.of_shares(accuracies), "Accuracy for each annotator", "accuracy", "annotators",
                              reading, median(accuracies))  # fmt: skip
    worst = sorted(scored, key=lambda item: (item[0], -item[1].pairs, text_of(item[1].annotator)))[:_MOST_ANNOTATORS]
    cells: list[list[Cell]] = [
        [text_of(row.annotator), row.judgments, row.pairs, accuracy, row.log_loss] for accuracy, row in worst
    ]
    title = f"Lowest accuracy: {len(worst)} of {number(len(scored))} annotators"
    table = Table(title, ["annotator", "judgments", "pairs", "accuracy", "log-loss"], cells, folded=True)
    return Section("Annotators", [Figures([figure]), table], "Which annotators the model agrees with, and which not.")


def _responses(run: Run) -> Section | None:
    if not run.responses:
        return None
    first = sorted(run.responses[: 8 * _MOST_RESPONSES], key=lambda row: text_of(row.prompt))[:_MOST_RESPONSES]
    rows = [[text_of(row.prompt), text_of(row.by), text_of(row.response), row.reward] for row in first]
    title = f"{len(rows)} of {number(len(run.responses))} responses"
    table = Table(title, ["prompt", "model", "response", "reward"], rows)
    return Section("Responses", [table], "Responses of the policy and its reference.")


def _stored(run: Run) -> list[Block]:
    """Metrics with their intervals, the config, and the versions, folded."""
    rows = [
        [key, with_interval(run.value, key) if run.value(key) is not None else text_of(value)]
        for key, value in run.metrics.items()
        if not (key.endswith(("_low", "_high")) and key.rsplit("_", 1)[0] in run.metrics)
    ]
    blocks: list[Block] = [Table("Metrics", ["metric", "value"], rows, folded=True)]
    if run.config:
        config = [[str(key), text_of(value)] for key, value in run.config.items()]
        blocks.append(Table("Config", ["setting", "value"], config, folded=True))
    packages = run.environment.get("packages")
    if isinstance(packages, dict):
        versions = {"python": run.environment.get("python"), **packages}
        cells = [[str(name), text_of(version)] for name, version in versions.items()]
        blocks.append(Table("Versions", ["package", "version"], cells, folded=True))
    return blocks


def _comparison(runs: Sequence[Run]) -> list[Block]:
    """A plot for each metric of the runs that can be compared by it, and all numbers in a table."""
    figures, beside = [], set()
    keys = [key for key in METRICS if any(run.value(key) is not None for run in runs)]
    for key in keys:
        metric = METRICS[key]
        groups = _comparable(key, runs)
        for having in groups:
            beside |= {run.name for run in having}
            rows = [Row(run.name, [metric_point(run.value, key)]) for run in having]
            drawn = forest(rows, f"{metric.title} of each run with its interval.", x_label=metric.axis,
                           reference=metric.reference, bounds=(0.0, metric.highest))  # fmt: skip
            meaning = f"{metric.meaning[0].upper()}{metric.meaning[1:]}."
            where = f": {', '.join(run.name for run in having)}" if len(groups) > 1 else ""
            figures.append(Figure(f"{metric.title}{where}", drawn, f"{_best(key, having)} {meaning}"))
    measured = [run for run in runs if any(run.value(key) is not None for key in keys)]
    if len(measured) < 2:
        return []
    blocks: list[Block] = []
    alone = [quoted(run.name) for run in measured if run.name not in beside]
    if alone:
        words = [
            "Only runs that were evaluated on the same judgments, and scored by the same reward model, are compared."
        ]
        blocks.append(Banner("careful", "Not compared", ", ".join(alone), words))
    cells = [[run.name, *(with_interval(run.value, key) for key in keys)] for run in runs]
    return [
        *blocks,
        *([Figures(figures)] if figures else []),
        Table("The numbers", ["run", *(METRICS[key].title for key in keys)], cells, folded=bool(alone)),
        Table("The runs", ["run", "description"], [[run.name, describe(run)] for run in runs], folded=True),
    ]


def _comparable(key: str, runs: Sequence[Run]) -> list[list[Run]]:
    """The runs that have a metric, in groups of two or more with the same judgments, and reward model if it matters."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        if run.value(key) is not None:
            reward = [text_of(run.config.get("reward"))] if METRICS[key].by_reward else []
            groups.setdefault((*sorted(_evaluated_on(run)), *reward), []).append(run)
    return [group for group in groups.values() if len(group) > 1]


def _evaluated_on(run: Run) -> list[str]:
    """Fingerprints of the evaluation files of a run, or its counts where there are none."""
    files = run.config.get("files") or run.config.get("eval_files") or []
    inputs = run.environment.get("inputs") or {}
    digests = [inputs.get(file) for file in files] if isinstance(inputs, dict) and isinstance(files, list) else []
    if digests and all(isinstance(digest, str) for digest in digests):
        return [str(digest) for digest in digests]
    return [f"{key} {number(run.value(key))}" for key in ("judgments", "prompts", "pairs")]


def _best(key: str, runs: Sequence[Run]) -> str:
    """Which run is best, and whether it differs from the next one: judgment by judgment, else by their intervals."""
    lower = METRICS[key].lower_is_better
    best, second = sorted(runs, key=lambda run: run.value(key) or 0.0, reverse=not lower)[:2]
    if best.value(key) == second.value(key):
        return f"{quoted(best.name)} and {quoted(second.name)} are equal."
    paired = paired_difference(best.losses, second.losses, key)
    if paired is not None:
        given = " ".join(GIVEN[name] for name in paired.given)
        return f"{quoted(best.name)} is best. {difference_sentence(paired, second.name)} {given}".strip()
    near = best.value(f"{key}_high" if lower else f"{key}_low")
    next_end = second.value(f"{key}_low" if lower else f"{key}_high")
    if near is None or next_end is None:
        return f"{quoted(best.name)} is best."
    apart = near < next_end if lower else near > next_end
    overlap = "does not overlap" if apart else "overlaps"
    return f"{quoted(best.name)} is best. Its interval {overlap} that of {quoted(second.name)}, the next."

"""The weight of each source of preferences in a run of MORE, and how well calibrated the model was on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pluralign.reports.page import Block, Cell, Figure, Figures, Section, Table
from pluralign.reports.plots import Curve, curves
from pluralign.reports.texts import known, number, plural, quoted, text_of

_MEASURES = ("weight", "loss", "accuracy", "ece", "gradient_norm")
_MOST_SOURCES = 8  # as many as there are colours
_MOST_POINTS = 30


@dataclass(frozen=True)
class SourceLog:
    """A source at one log of the training: a row of `sources.parquet`."""

    step: int
    source: Any
    weight: float | None
    loss: float | None
    accuracy: float | None
    ece: float | None
    gradient_norm: float | None


def sources_section(logs: Sequence[SourceLog]) -> Section | None:
    """The sources of a run; None where no step was logged."""
    by_name: dict[str, list[SourceLog]] = {}
    for log in sorted(logs, key=lambda log: log.step):
        by_name.setdefault(text_of(log.source), []).append(log)
    if not by_name:
        return None
    means = {name: {key: _mean(of, key) for key in _MEASURES} for name, of in by_name.items()}
    weights = {name: mean["weight"] for name, mean in means.items()}
    # The largest weight first; sources without a weight come last.
    names = sorted(means, key=lambda name: (1.0 if (weight := weights[name]) is None else -weight, name))
    drawn = {name: by_name[name] for name in names[:_MOST_SOURCES]}
    few = ""
    if len(drawn) < len(names):
        few = f" Shown are the {len(drawn)} of {len(names)} sources with the largest mean weight."
    figures = []
    if weights[names[0]] is not None and weights[names[-1]] is not None:
        reading = f"Mean weight: {quoted(names[0])} {number(weights[names[0]])}"
        reading += f", {quoted(names[-1])} {number(weights[names[-1]])}." if len(names) > 1 else "."
        figures.append(_figure(drawn, "weight", "Weight of each source", "weight", reading + few))
    if any(means[name]["ece"] is not None for name in drawn):
        reading = "Measured on the pairs since the previous log only: with few pairs it is noisy and too high. Look at "
        reading += "its trend." + few
        figures.append(_figure(drawn, "ece", "Calibration error during training", "calibration error", reading))
    head = ["source", "logs", "weight", "loss", "accuracy", "calibration error", "gradient norm"]
    rows: list[list[Cell]] = [[name, len(by_name[name]), *means[name].values()] for name in names]
    blocks: list[Block] = [Figures(figures)] if figures else []
    lead = "The weight of each source in the loss of a step, and how the model did on it during training."
    return Section("Sources", [*blocks, Table("Means over the logs", head, rows)], lead)


def _mean(logs: Sequence[SourceLog], key: str) -> float | None:
    values = known(*(getattr(log, key) for log in logs))
    return fmean(values) if values else None


def _figure(sources: Mapping[str, Sequence[SourceLog]], key: str, title: str, axis: str, reading: str) -> Figure:
    """A measure of each source over the steps; logs are in the order of their steps."""
    first, last = min(logs[0].step for logs in sources.values()), max(logs[-1].step for logs in sources.values())
    lines, together = [], 1
    for place, (name, logs) in enumerate(sources.items(), 1):
        steps, values, most = thinned([log.step for log in logs], [getattr(log, key) for log in logs], first, last)
        lines.append(Curve(name, steps, values, series=place))
        together = max(together, most)
    top = max(known(*(value for line in lines for value in line.y)), default=1.0) or 1.0
    drawn = curves(lines, f"{title}, a line for each, over the steps.", x_label="step", y_label=axis,
                   limits=(0.0, 1.05 * top))  # fmt: skip
    reading += f" Each point is the mean of up to {plural(together, 'log')}." if together > 1 else ""
    return Figure(title, drawn, reading, [(line.series, line.name or "(no name)") for line in lines])


def thinned(
    steps: Sequence[float], values: Sequence[float | None], first: float, last: float, most: int = _MOST_POINTS
) -> tuple[list[float], list[float | None], int]:
    """Mean steps and values within `most` equal spans from `first` to `last`, and the largest count in a span.

    A long run then gives a readable line. At most `most` values are returned unchanged; undefined ones are ignored.

    Examples:
        >>> thinned([0, 1, 2, 3], [1.0, 3.0, None, 5.0], 0, 3, most=2)
        ([0.5, 3.0], [2.0, 5.0], 2)
    """
    finite = [(step, value) for step, value in zip(steps, values, strict=True) if value is not None and known(value)]
    if len(finite) <= most:
        return [step for step, _ in finite], [value for _, value in finite], 1
    spans: dict[int, list[tuple[float, float]]] = {}
    for step, value in finite:
        place = min(int(most * (step - first) / (last - first)), most - 1) if last > first else 0
        spans.setdefault(place, []).append((step, value))
    groups = [spans[place] for place in sorted(spans)]
    return (
        [fmean(step for step, _ in group) for group in groups],
        [fmean(value for _, value in group) for group in groups],
        max(map(len, groups)),
    )

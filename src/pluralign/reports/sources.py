"""What each source of preferences weighed in a run of MORE, and how well calibrated the model was on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pluralign.reports.figures import Curve, curves
from pluralign.reports.page import Block, Cell, Figure, Figures, Section, Table
from pluralign.reports.rows import known
from pluralign.reports.texts import number, plural, quoted, text_of

NUMBERS = ("weight", "loss", "accuracy", "ece", "gradient_norm")
COLUMNS = ("step", "source", *NUMBERS)
"""The columns of `sources.parquet`: a row for each source at each log."""

_MOST_SOURCES = 8
"""Lines of one figure: there are as many colours."""
_MOST_POINTS = 30


@dataclass(frozen=True)
class _Source:
    name: str
    steps: Sequence[float]
    values: Mapping[str, Sequence[float | None]]

    def mean(self, key: str) -> float | None:
        values = known(*self.values[key])
        return fmean(values) if values else None


def sources_section(columns: Mapping[str, Sequence[Any]]) -> Section | None:
    """The section of a run's sources, from the columns of `sources.parquet`; none where no step was logged.

    Args:
        columns: by name, of equal lengths; numbers may be null.
    """
    sources = _sources(columns)
    if not sources:
        return None
    drawn = sources[:_MOST_SOURCES]
    few = (
        f" The {len(drawn)} with the largest mean weight of {len(sources)} are drawn."
        if len(drawn) < len(sources)
        else ""
    )
    figures = []
    heaviest, lightest = sources[0], sources[-1]
    if heaviest.mean("weight") is not None and lightest.mean("weight") is not None:
        reading = f"{quoted(heaviest.name)} weighs {number(heaviest.mean('weight'))} on average"
        reading += f", {quoted(lightest.name)} {number(lightest.mean('weight'))}." if len(sources) > 1 else "."
        figures.append(_figure(drawn, "weight", "Weight of each source", "weight", reading + few))
    if any(source.mean("ece") is not None for source in drawn):
        figures.append(
            _figure(
                drawn,
                "ece",
                "Calibration error while training",
                "calibration error",
                "On the pairs since the last log alone: few make it noisy and too high. What counts is its fall." + few,
            )
        )
    head = ["source", "logs", "weight", "loss", "accuracy", "calibration error", "gradient norm"]
    rows: list[list[Cell]] = [
        [source.name, len(source.steps), *(source.mean(key) for key in NUMBERS)] for source in sources
    ]
    blocks: list[Block] = [Figures(figures)] if figures else []
    blocks.append(Table("Means over the logs", head, rows))
    lead = "How much the loss of each source weighed in a step's loss, and how the model did on it meanwhile."
    return Section("Sources", blocks, lead)


def _sources(columns: Mapping[str, Sequence[Any]]) -> list[_Source]:
    """The sources, the heaviest first; those without any weight last, then by name."""
    rows: dict[str, list[tuple[Any, ...]]] = {}
    for step, source, *values in zip(*(columns[name] for name in COLUMNS), strict=True):
        if step is not None:
            rows.setdefault(text_of(source), []).append((step, *values))
    found = []
    for name, held in rows.items():
        held.sort(key=lambda row: row[0])
        steps, *values = zip(*held, strict=True)
        found.append(_Source(name, steps, dict(zip(NUMBERS, values, strict=True))))

    def heavy(source: _Source) -> tuple[float, str]:
        weight = source.mean("weight")
        return (1.0 if weight is None else -weight, source.name)

    return sorted(found, key=heavy)


def _figure(sources: Sequence[_Source], key: str, title: str, axis: str, reading: str) -> Figure:
    last = max(source.steps[-1] for source in sources)
    first = min(source.steps[0] for source in sources)
    lines, together = [], 1
    for place, source in enumerate(sources, 1):
        steps, values, most = thinned(source.steps, source.values[key], first, last)
        lines.append(Curve(source.name, steps, values, series=place))
        together = max(together, most)
    top = max(known(*(value for line in lines for value in line.y)), default=1.0) or 1.0
    drawn = curves(lines, f"{title}, a line for each, over the steps.", x_label="step", y_label=axis,
                   limits=(0.0, 1.05 * top))  # fmt: skip
    reading += f" Each point is the mean of up to {plural(together, 'log')}." if together > 1 else ""
    legend = [(place, text_of(source.name) or "(no name)") for place, source in enumerate(sources, 1)]
    return Figure(title, drawn, reading, legend)


def thinned(
    steps: Sequence[float], values: Sequence[float | None], first: float, last: float, most: int = _MOST_POINTS
) -> tuple[list[float], list[float | None], int]:
    """Means within equal spans of the steps, so that a long run is a line and not a cloud.

    Args:
        steps: where the values stand.
        values: as many; those that are null or not finite are passed over.
        first: where the first span begins.
        last: where the last one ends.
        most: spans; no more steps than these are left as they are.

    Returns:
        mean step and mean value of each span that holds a value, and the most values in one.

    Examples:
        >>> thinned([0, 1, 2, 3], [1.0, 3.0, None, 5.0], 0, 3, most=2)
        ([0.5, 3.0], [2.0, 5.0], 2)
    """
    held = [(step, value) for step, value in zip(steps, values, strict=True) if value is not None and known(value)]
    if len(held) <= most:
        return [step for step, _ in held], [value for _, value in held], 1
    spans: dict[int, list[tuple[float, float]]] = {}
    for step, value in held:
        place = min(int(most * (step - first) / (last - first)), most - 1) if last > first else 0
        spans.setdefault(place, []).append((step, value))
    groups = [spans[place] for place in sorted(spans)]
    return (
        [fmean(step for step, _ in group) for group in groups],
        [fmean(value for _, value in group) for group in groups],
        max(map(len, groups)),
    )

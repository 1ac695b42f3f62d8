"""Plots with one row per name: the name over its own line, so that long names need no margin and phones no zoom."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from pluralign.reports.drawing import (
    GRID,
    MUTED,
    SMALL,
    SOFT,
    SURFACE,
    TEXT,
    WIDTH,
    axis_name,
    canvas,
    dots,
    label,
    plot_area,
    series,
    to_svg,
)  # fmt: skip
from pluralign.reports.texts import number, percent

_SIDE = 10.0

SHARES = FuncFormatter(lambda value, _: percent(value))
NUMBERS = FuncFormatter(lambda value, _: number(int(value) if float(value).is_integer() else value))
"""How axes write their numbers."""


@dataclass(frozen=True)
class Point:
    """A value, the interval around it where there is one, and the series whose colour it takes."""

    value: float | None
    low: float | None = None
    high: float | None = None
    series: int = 1


@dataclass(frozen=True)
class Row:
    """A name and its points."""

    name: str
    points: Sequence[Point]


def known(*values: float | None) -> list[float]:
    """Those values that are finite numbers.

    Examples:
        >>> known(1, None, float("nan"), 0.5)
        [1, 0.5]
    """
    return [value for value in values if value is not None and math.isfinite(value)]


def forest(
    rows: Sequence[Row],
    description: str,
    *,
    x_label: str = "",
    reference: float | None = None,
    limits: tuple[float, float] | None = None,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    shares: bool = False,
) -> Markup:
    """Dots with intervals, a row per name; rows of several points show them one under the other.

    Args:
        rows: from top to bottom.
        description: what it shows, for those who do not see it.
        x_label: what the values are.
        reference: a value to compare with, drawn as a dashed line.
        limits: of the axis; else what the values span.
        bounds: what the values can be, which the axis does not pass.
        shares: the values are shares, shown in percent.

    Examples:
        >>> svg = forest([Row("all", [Point(0.7, 0.6, 0.8)])], "Accuracy")
        >>> svg[:16], ">0.7<" in svg
        (Markup('<svg viewBox="0 '), True)
    """
    heights = [24 + 15 * max(len(row.points), 1) for row in rows]
    top, bottom = 6, 46 if x_label else 28
    height = sum(heights) + top + bottom
    shown = percent if shares else number
    with canvas(height) as figure:
        axes = plot_area(figure, _SIDE, top, _SIDE, bottom)
        axes.set_ylim(sum(heights) or 1, 0)
        axes.set_xlim(*(limits or _span(rows, reference, bounds)))
        _level(axes, x_label)
        axes.xaxis.set_major_formatter(SHARES if shares else NUMBERS)
        if reference is not None:
            axes.axvline(reference, color=MUTED, linewidth=1, linestyle=(0, (3, 3)), clip_on=False)
        start = 0.0
        for row, of_row in zip(rows, heights, strict=True):
            label(figure, _SIDE, top + start + 11, row.name, 36 if len(row.points) == 1 else 50)
            if len(row.points) == 1:
                label(figure, WIDTH - _SIDE, top + start + 11, shown(row.points[0].value), align="right",
                      fontweight="bold")  # fmt: skip
            for place, point in enumerate(row.points):
                _point(axes, point, start + 26 + 15 * place)
            start += of_row
        return to_svg(figure, description)


def _point(axes: Axes, point: Point, y: float) -> None:
    if not known(point.value):
        return
    colour = series(point.series)
    if known(point.low, point.high) and point.low is not None and point.high is not None:
        axes.plot([point.low, point.high], [y, y], color=colour, linewidth=2.5, alpha=0.55, clip_on=True,
                  solid_capstyle="round")  # fmt: skip
    dots(axes, [float(point.value or 0)], [y], colour, 9)


def _span(rows: Sequence[Row], reference: float | None, bounds: tuple[float, float]) -> tuple[float, float]:
    values = known(reference, *(v for row in rows for p in row.points for v in (p.value, p.low, p.high)))
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return max(low - room, bounds[0]), min(high + room, bounds[1])


def _level(axes: Axes, x_label: str) -> None:
    """An axis below, a light grid, no names at the left."""
    axes.locator_params(axis="x", nbins=5)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_yticks([])
    axis_name(axes, x_label)


def bars(rows: Sequence[tuple[str, float]], description: str, *, whole: float = 0) -> Markup:
    """Horizontal bars from zero, each under its name and beside its number, and its share of a whole if given.

    Examples:
        >>> svg = bars([("pairs", 30), ("rankings", 10)], "Kinds", whole=40)
        >>> ">30 · 75 %<" in svg
        True
    """
    step = 34.0
    top = max([value for _, value in rows], default=0) or 1
    with canvas(step * len(rows) + 8) as figure:
        axes = plot_area(figure, _SIDE, 4, _SIDE, 4)
        axes.set_axis_off()
        axes.set_xlim(0, top)
        axes.set_ylim(step * len(rows) or 1, 0)
        for place, (name, value) in enumerate(rows):
            y = step * place
            axes.add_patch(Rectangle((0, y + 21), top, 8, facecolor=GRID, linewidth=0))
            axes.add_patch(Rectangle((0, y + 21), value, 8, facecolor=series(1), linewidth=0))
            shown = number(value) + (f" · {percent(value / whole)}" if whole else "")
            label(figure, _SIDE, 4 + y + 10, name, 34)
            label(figure, WIDTH - _SIDE, 4 + y + 10, shown, align="right", fontweight="bold")
        return to_svg(figure, description)


def stacked(rows: Sequence[tuple[str, Sequence[float | None]]], description: str, *, notes: Sequence[str]) -> Markup:
    """Shares that make up a whole, one bar per name; a segment wide enough says its share.

    Args:
        rows: name and the share of each series.
        description: what it shows, for those who do not see it.
        notes: a short text at the right of each name.

    Examples:
        >>> svg = stacked([("nurses", [0.25, 0.75])], "Composition", notes=["12 people"])
        >>> ">25 %<" in svg, ">12 people<" in svg
        (True, True)
    """
    step = 48.0
    with canvas(step * len(rows) + 6) as figure:
        axes = plot_area(figure, _SIDE, 2, _SIDE, 4)
        axes.set_axis_off()
        axes.set_xlim(0, 1)
        axes.set_ylim(step * len(rows) or 1, 0)
        for place, ((name, given), note) in enumerate(zip(rows, notes, strict=True)):
            y, left = step * place, 0.0
            label(figure, _SIDE, 2 + y + 11, name, 34)
            label(figure, WIDTH - _SIDE, 2 + y + 11, note, 16, "right", color=MUTED, fontsize=SMALL)
            shares = [share if share is not None and math.isfinite(share) else 0.0 for share in given]
            if not any(shares):
                axes.add_patch(Rectangle((0, y + 22), 1, 20, facecolor=SOFT, linewidth=0, alpha=0.4))
            for index, share in enumerate(shares, 1):
                if share > 0:
                    axes.add_patch(
                        Rectangle((left, y + 22), share, 20, facecolor=series(index), edgecolor=SURFACE, linewidth=1.5)
                    )
                if share >= 0.115:
                    middle = _SIDE + (left + share / 2) * (WIDTH - 2 * _SIDE)
                    label(figure, middle, 2 + y + 32, percent(share), align="center", color=SURFACE, fontsize=TEXT,
                          fontweight="bold")  # fmt: skip
                left += share
        return to_svg(figure, description)

"""Plots with one row per name: numbers in, SVG out.

The name stands above its own line: long names then need no margin, and phones no zoom. In every plot `description` says
what is shown, for readers who cannot see it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pluralign.reports.drawing import (
    GRID,
    MUTED,
    NUMBERS,
    SHARES,
    SMALL,
    SOFT,
    SURFACE,
    WIDTH,
    axis_name,
    canvas,
    dots,
    label,
    plot_area,
    series,
    to_svg,
)
from pluralign.reports.texts import known, number, percent

_SIDE = 10.0
"""Margin at the left and the right of plots with one row per name."""

_MOST_WITH_ERRORS = 5
"""Heat maps with more columns than this have no space for standard errors."""


@dataclass(frozen=True)
class Point:
    """A value, its interval if it has one, and the series whose colour it takes."""

    value: float | None
    low: float | None = None
    high: float | None = None
    series: int = 1


@dataclass(frozen=True)
class Row:
    """A name and its points."""

    name: str
    points: Sequence[Point]


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
    """Dots with intervals, a row per name; the points of one row stand one below the other.

    `reference` is drawn as a dashed line. The axis covers `limits`, or else the values, but never exceeds `bounds`.
    With `shares` values are shown in percent.

    Examples:
        >>> svg = forest([Row("all", [Point(0.7, 0.6, 0.8)])], "Accuracy")
        >>> svg[:16], ">0.7<" in svg
        (Markup('<svg viewBox="0 '), True)
    """
    heights = [24 + 15 * max(len(row.points), 1) for row in rows]
    top, bottom = 6, 46 if x_label else 28
    shown = percent if shares else number
    with canvas(sum(heights) + top + bottom) as figure:
        axes = plot_area(figure, _SIDE, top, _SIDE, bottom)
        axes.set_ylim(sum(heights) or 1, 0)
        axes.set_xlim(*(limits or _span(rows, reference, bounds)))
        axes.locator_params(axis="x", nbins=5)
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        axes.set_yticks([])
        axis_name(axes, x_label)
        axes.xaxis.set_major_formatter(SHARES if shares else NUMBERS)
        if reference is not None:
            axes.axvline(reference, color=MUTED, linewidth=1, linestyle=(0, (3, 3)), clip_on=False)
        start = 0.0
        for row, of_row in zip(rows, heights, strict=True):
            single, at = len(row.points) == 1, top + start + 11
            label(figure, _SIDE, at, row.name, 36 if single else 50)
            if single:
                label(figure, WIDTH - _SIDE, at, shown(row.points[0].value), align="right", fontweight="bold")
            for place, point in enumerate(row.points):
                _point(axes, point, start + 26 + 15 * place)
            start += of_row
        return to_svg(figure, description)


def _point(axes: Axes, point: Point, y: float) -> None:
    ends = known(point.low, point.high)
    for value in known(point.value):
        if len(ends) == 2:
            axes.plot(ends, [y, y], color=series(point.series), linewidth=2.5, alpha=0.55, solid_capstyle="round")
        dots(axes, [value], [y], series(point.series), 9)


def _span(rows: Sequence[Row], reference: float | None, bounds: tuple[float, float]) -> tuple[float, float]:
    values = known(reference, *(v for row in rows for p in row.points for v in (p.value, p.low, p.high)))
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return max(low - margin, bounds[0]), min(high + margin, bounds[1])


def bars(rows: Sequence[tuple[str, float]], description: str, *, whole: float = 0) -> Markup:
    """Horizontal bars from zero, each under its name and beside its number, with its share of `whole` if given.

    Examples:
        >>> svg = bars([("pairs", 30), ("rankings", 10)], "Kinds", whole=40)
        >>> ">30 · 75 %<" in svg
        True
    """
    step = 34.0
    longest = max([value for _, value in rows], default=0) or 1
    with canvas(step * len(rows) + 8) as figure:
        axes = _bare_area(figure, 4, longest, step * len(rows))
        for place, (name, value) in enumerate(rows):
            y = step * place
            axes.add_patch(Rectangle((0, y + 21), longest, 8, facecolor=GRID, linewidth=0))
            axes.add_patch(Rectangle((0, y + 21), value, 8, facecolor=series(1), linewidth=0))
            shown = number(value) + (f" · {percent(value / whole)}" if whole else "")
            label(figure, _SIDE, 4 + y + 10, name, 34)
            label(figure, WIDTH - _SIDE, 4 + y + 10, shown, align="right", fontweight="bold")
        return to_svg(figure, description)


def stacked(rows: Sequence[tuple[str, Sequence[float | None]]], description: str, *, notes: Sequence[str]) -> Markup:
    """Shares of each series that make up a whole, one bar per name; `notes` stand at the right of the names.

    Examples:
        >>> svg = stacked([("nurses", [0.25, 0.75])], "Composition", notes=["12 annotators"])
        >>> ">25 %<" in svg, ">12 annotators<" in svg
        (True, True)
    """
    step = 48.0
    with canvas(step * len(rows) + 6) as figure:
        axes = _bare_area(figure, 2, 1, step * len(rows))
        for place, ((name, given), note) in enumerate(zip(rows, notes, strict=True)):
            y, left = step * place, 0.0
            label(figure, _SIDE, 2 + y + 11, name, 34)
            label(figure, WIDTH - _SIDE, 2 + y + 11, note, 16, "right", color=MUTED, fontsize=SMALL)
            shares = [share if share is not None and math.isfinite(share) else 0.0 for share in given]
            if not any(shares):
                axes.add_patch(Rectangle((0, y + 22), 1, 20, facecolor=SOFT, linewidth=0, alpha=0.4))
            for index, share in enumerate(shares, 1):
                if share > 0:
                    box = ((left, y + 22), share, 20)
                    axes.add_patch(Rectangle(*box, facecolor=series(index), edgecolor=SURFACE, linewidth=1.5))
                if share >= 0.115:
                    middle = _SIDE + (left + share / 2) * (WIDTH - 2 * _SIDE)
                    label(figure, middle, 2 + y + 32, percent(share), align="center", color=SURFACE,
                          fontweight="bold")  # fmt: skip
                left += share
        return to_svg(figure, description)


def heat(
    columns: Sequence[str], rows: Sequence[tuple[str, Sequence[tuple[float | None, float | None]]]], description: str
) -> Markup:
    """A table of numbers with standard errors, whose cells are darker for larger numbers; zero and less have no colour.

    Examples:
        >>> svg = heat(["type 1"], [("base", [(0.5, 0.1)])], "Regret")
        >>> ">0.5<" in svg, ">± 0.1<" in svg
        (True, True)
    """
    head, step, cell = 24.0, 58.0, 34.0
    largest = max(known(*(value for _, cells in rows for value, _ in cells)), default=0.0)
    wide = (WIDTH - 2 * _SIDE) / max(len(columns), 1)
    with canvas(head + step * len(rows) + 4) as figure:
        axes = _bare_area(figure, head, max(len(columns), 1), step * len(rows))
        for place, name in enumerate(columns):
            middle = _SIDE + (place + 0.5) * wide
            label(figure, middle, 12, name, int(wide / 7), "center", color=MUTED, fontsize=SMALL)
        for line, (name, cells) in enumerate(rows):
            y = step * line
            label(figure, _SIDE, head + y + 10, name, 50)
            for place, (value, error) in enumerate(cells):
                share = value / largest if value is not None and known(value) and largest > 0 else 0.0
                box = ((place + 0.01, y + 20), 0.98, cell)
                axes.add_patch(Rectangle(*box, facecolor=GRID, linewidth=0, alpha=0.5))
                axes.add_patch(Rectangle(*box, facecolor=series(2), linewidth=0, alpha=0.75 * max(share, 0.0)))
                middle, top = _SIDE + (place + 0.5) * wide, head + y + 20
                two_lines = known(error) and len(columns) <= _MOST_WITH_ERRORS
                at = top + (11 if two_lines else 17)
                label(figure, middle, at, number(value), align="center", fontweight="bold")
                if two_lines:
                    label(figure, middle, top + 25, f"± {number(error)}", align="center", fontsize=SMALL)
        return to_svg(figure, description)


def scale(point: Point, description: str, *, limits: tuple[float, float], marks: Sequence[tuple[float, str]]) -> Markup:
    """One value with its interval on a scale with these ends; `marks` are places on the scale and their names.

    Examples:
        >>> svg = scale(Point(0.2, 0.1, 0.3), "Agreement", limits=(0, 1), marks=[(0, "chance"), (1, "full")])
        >>> ">chance<" in svg
        True
    """
    low, high = limits
    with canvas(84) as figure:
        axes = plot_area(figure, 24, 30, 24, 40)
        axes.set_axis_off()
        axes.set_xlim(low, high)
        axes.set_ylim(0, 1)
        axes.plot([low, high], [0.5, 0.5], color=GRID, linewidth=8, solid_capstyle="round", clip_on=False)
        for place, text in marks:
            align, shift = ("left", -14) if place == low else ("right", 14) if place == high else ("center", 0)
            x = 24 + (place - low) / (high - low) * (WIDTH - 48) + shift
            axes.plot([place, place], [0.1, 0.9], color=MUTED, linewidth=1, clip_on=False)
            label(figure, x, 58, number(place), align=align, color=MUTED, fontsize=SMALL)
            label(figure, x, 73, text, align=align, color=MUTED, fontsize=SMALL)
        if point.value is not None:
            at = min(max(point.value, low), high)
            ends = [min(max(end, low), high) for end in known(point.low, point.high)]
            if len(ends) == 2:
                axes.plot(ends, [0.5, 0.5], color=series(point.series), linewidth=8, alpha=0.5, clip_on=False,
                          solid_capstyle="round")  # fmt: skip
            dots(axes, [at], [0.5], series(point.series), 14)
            x = 24 + (at - low) / (high - low) * (WIDTH - 48)
            label(figure, min(max(x, 30), WIDTH - 30), 14, number(point.value), align="center", fontsize=16,
                  fontweight="bold")  # fmt: skip
        return to_svg(figure, description)


def _bare_area(figure: Figure, top: float, width: float, depth: float) -> Axes:
    """Axes without ticks from 0 to `width` across and from 0 to `depth` downwards."""
    axes = plot_area(figure, _SIDE, top, _SIDE, 4)
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(depth or 1, 0)
    return axes

"""Plots: numbers in, SVG out.

Plots with one row per name write the name above its own line: long names then need no margin, and phones no zoom.
In every plot `description` says what is shown, for readers who cannot see it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from pluralign.reports.drawing import (
    GRID,
    INK,
    MUTED,
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
)  # fmt: skip
from pluralign.reports.texts import number, percent

_SIDE = 10.0
"""Margin at the left and the right of plots with one row per name."""

_MOST_DOTS = 24
"""Curves with more points than this are drawn without dots, which would run into each other."""

_MOST_WITH_ERRORS = 5
"""Heat maps with more columns than this have no space for standard errors."""

_SHARES = FuncFormatter(lambda value, _: percent(value))
_NUMBERS = FuncFormatter(lambda value, _: number(int(value) if float(value).is_integer() else value))
_DASHED = (0, (4, 3))


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


@dataclass(frozen=True)
class Curve:
    """A line through points in a series' colour, with a band where `low` and `high` are known."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    series: int = 1


@dataclass(frozen=True)
class ReliabilityBin:
    """Pairs of similar confidence: a row of `reliability.json`."""

    lower: float
    upper: float
    pairs: int
    share: float
    confidence: float
    accuracy: float
    gap: float
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    consistent_low: float | None = None
    consistent_high: float | None = None

    @property
    def consistent(self) -> list[float]:
        """The range of the accuracy if the model were calibrated; empty where it is not stored."""
        ends = known(self.consistent_low, self.consistent_high)
        return ends if len(ends) == 2 else []


def known(*values: float | None) -> list[float]:
    """The values that are finite numbers.

    Examples:
        >>> known(1, None, float("nan"), 0.5)
        [1, 0.5]
    """
    return [value for value in values if value is not None and math.isfinite(value)]


# Plots with two axes.


def histogram(
    edges: Sequence[float],
    counts: Sequence[float],
    description: str,
    *,
    x_label: str,
    y_label: str = "",
    mark: tuple[float, str] | None = None,
) -> Markup:
    """Counts per bin; `mark` is a place on the axis with its name.

    Examples:
        >>> histogram([0, 0.5, 1], [3, 7], "Margins", x_label="margin")[:4]
        Markup('<svg')
    """
    with canvas(226) as figure:
        axes = plot_area(figure, 46, 42, 14, 42)
        _frame(figure, axes, x_label, y_label, 10)
        axes.set_xlim(edges[0], edges[-1] if edges[-1] > edges[0] else edges[0] + 1)
        _columns(axes, edges, counts, series(1), gap=0.08 if len(counts) <= 30 else 0.0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=edges[-1] - edges[0] > 4))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.xaxis.set_major_formatter(_NUMBERS)
        axes.yaxis.set_major_formatter(_NUMBERS)
        if mark is not None and edges[0] <= mark[0] <= edges[-1]:
            _mark(figure, axes, mark, 46, 14)
        return to_svg(figure, description)


def probability_histograms(
    edges: Sequence[float], panels: Sequence[tuple[str, Sequence[float], int]], description: str, *, x_label: str
) -> Markup:
    """Histograms from 0 to 1 below each other, given as name, share of each bin, and series; the outer bins stand out.

    Examples:
        >>> svg = probability_histograms([0, 0.5, 1], [("policy", [0.2, 0.8], 1)], "Pairs", x_label="probability")
        >>> ">policy<" in svg
        True
    """
    each = 66.0
    height = 42 + len(panels) * (each + 20)
    with canvas(height) as figure:
        for place, (name, shares, of_series) in enumerate(panels):
            above = 20 + place * (each + 20)
            axes = plot_area(figure, 46, above, 18, height - above - each)
            last = place == len(panels) - 1
            _frame(figure, axes, x_label if last else "", name, above - 10)
            axes.set_xlim(0, 1)
            strength = [1.0 if index in (0, len(shares) - 1) else 0.55 for index in range(len(shares))]
            _columns(axes, edges, shares, series(of_series), alpha=strength)
            axes.yaxis.set_major_locator(MaxNLocator(2, prune="lower"))
            axes.yaxis.set_major_formatter(_SHARES)
            axes.xaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
            axes.xaxis.set_major_formatter(_SHARES)
            axes.tick_params(labelbottom=last)
        return to_svg(figure, description)


def reliability(bins: Sequence[ReliabilityBin], description: str) -> Markup:
    """Accuracy against confidence, a dot per bin; on the diagonal the two are equal.

    A pale bar is the range of a bin's accuracy if the model were calibrated. Where none is stored, a thin line is the
    interval of the accuracy.

    Examples:
        >>> reliability([ReliabilityBin(0.8, 0.9, 40, 1.0, 0.88, 0.5, -0.38)], "Calibration")[:4]
        Markup('<svg')
    """
    bars = any(row.consistent for row in bins)
    ends = ((row.accuracy, row.consistent_low if bars else row.accuracy_low) for row in bins)
    lowest = min([0.5, *known(*(value for pair in ends for value in pair))])
    with canvas(340) as figure:
        axes = plot_area(figure, 46, 30, 22, 128)
        _frame(figure, axes, "", "accuracy", 10)
        axes.set_ylim(math.floor(10 * lowest) / 10, 1)
        axes.plot([0.5, 1], [0.5, 1], color=MUTED, linewidth=1.2, linestyle=_DASHED, clip_on=False)
        for row in bins:
            interval = [] if bars else known(row.accuracy_low, row.accuracy_high)
            if row.consistent:
                axes.plot([row.confidence] * 2, row.consistent, color=SOFT, linewidth=10, solid_capstyle="butt",
                          clip_on=False)  # fmt: skip
            if len(interval) == 2:
                axes.plot([row.confidence] * 2, interval, color=series(1), linewidth=1.4, alpha=0.7, clip_on=False)
            axes.plot([row.confidence] * 2, [row.confidence, row.accuracy], color=series(2), linewidth=2.2,
                      alpha=0.75, clip_on=False)  # fmt: skip
            dots(axes, [row.confidence], [row.accuracy], series(1), 6 + 12 * math.sqrt(row.share))
        below = plot_area(figure, 46, 252, 22, 42)
        _frame(figure, below, "confidence of the model", "share of pairs", 230)
        below.set_ylim(0, 1.1 * max([row.share for row in bins], default=1.0))
        for row in bins:
            wide = row.upper - row.lower
            box = ((row.lower + 0.03 * wide, 0), 0.94 * wide, row.share)
            below.add_patch(Rectangle(*box, facecolor=SOFT, linewidth=0))
        for part in (axes, below):
            part.set_xlim(0.5, 1)
            part.xaxis.set_major_locator(FixedLocator([0.5, 0.6, 0.7, 0.8, 0.9, 1.0]))
            part.yaxis.set_major_formatter(_SHARES)
            part.xaxis.set_major_formatter(_SHARES)
        axes.tick_params(labelbottom=False)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        below.yaxis.set_major_locator(MaxNLocator(2, prune="lower"))
        return to_svg(figure, description)


def curves(
    lines: Sequence[Curve],
    description: str,
    *,
    x_label: str,
    y_label: str,
    mark: tuple[float, str] | None = None,
    whole: bool = False,
    shares: bool = False,
    limits: tuple[float, float] | None = None,
) -> Markup:
    """Lines with bands; `mark` is a place on the horizontal axis with its name, `limits` are of the vertical axis.

    With `whole` the horizontal axis shows whole numbers, with `shares` the vertical axis is in percent.

    Examples:
        >>> line = Curve("held out", [1, 2], [-1.0, -0.8], [-1.1, -0.9], [-0.9, -0.7])
        >>> curves([line], "Types", x_label="types", y_label="nats", mark=(2, "chosen"), whole=True)[:4]
        Markup('<svg')
    """
    places = sorted({x for line in lines for x in line.x}) or [0.0]
    with canvas(250) as figure:
        axes = plot_area(figure, 52, 42, 18, 42)
        _frame(figure, axes, x_label, y_label, 10)
        margin = 0.06 * (places[-1] - places[0]) or 0.5
        axes.set_xlim(places[0] - margin, places[-1] + margin)
        for line in lines:
            _line(axes, line)
        axes.autoscale_view(scalex=False)
        if limits is not None:
            axes.set_ylim(*limits)
        if mark is not None:
            _mark(figure, axes, mark, 52, 18)
        if whole and len(places) <= 12:
            axes.xaxis.set_major_locator(FixedLocator(places))
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=whole))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(_NUMBERS)
        if shares:
            axes.yaxis.set_major_formatter(_SHARES)
        return to_svg(figure, description)


def type_map(x: Sequence[float], y: Sequence[float], types: Sequence[int], description: str) -> Markup:
    """Points coloured by type; the number of a type stands on a disc at the median of its points.

    Examples:
        >>> ">2<" in type_map([0, 1], [0, 1], [1, 2], "Map")
        True
    """
    height = 320.0
    with canvas(height) as figure:
        axes = plot_area(figure, 14, 14, 14, 14)
        axes.set_xticks([])
        axes.set_yticks([])
        points = [point for point in zip(x, y, types, strict=True) if len(known(*point[:2])) == 2]
        size = 8.0 if len(points) < 200 else 5.5 if len(points) < 1000 else 4.0
        axes.set_xlim(*_around([point[0] for point in points]))
        axes.set_ylim(*_around([point[1] for point in points]))
        drawn = sorted({point[2] for point in points})
        for kind in drawn:
            across, up = zip(*[point[:2] for point in points if point[2] == kind], strict=True)
            dots(axes, across, up, series(kind), size, alpha=0.55)
        for kind in drawn:
            middle = [median(point[axis] for point in points if point[2] == kind) for axis in (0, 1)]
            at = axes.transData.transform(middle) * 72 / figure.dpi
            dots(axes, middle[:1], middle[1:], SURFACE, 24)
            dots(axes, middle[:1], middle[1:], series(kind), 20)
            label(figure, float(at[0]), height - float(at[1]), str(kind), 3, "center", color=SURFACE,
                  fontweight="bold")  # fmt: skip
        return to_svg(figure, description)


def diagonal(
    x: np.ndarray, groups: Sequence[tuple[np.ndarray, int]], description: str, *, x_label: str, y_label: str
) -> tuple[Markup, list[int]]:
    """Dots against the line of equality; also returns how many extreme points of each group lie outside the frame.

    `x` `(points,)` is at least 0; a group is its values `(points,)` and its series.

    Examples:
        >>> _, outside = diagonal(np.ones(20), [(np.r_[np.ones(19), 50.0], 1)], "Margins", x_label="x", y_label="y")
        >>> outside
        [1]
    """
    right = max(float(np.quantile(x, 0.98)), 0.5) if len(x) else 1.0
    # A few extreme points would squeeze all others into a line.
    top = max([right, *(float(np.quantile(np.abs(values), 0.9)) for values, _ in groups if len(values))])
    outside = []
    with canvas(300) as figure:
        axes = plot_area(figure, 46, 30, 18, 42)
        axes.grid(color=GRID, linewidth=0.8)
        axis_name(axes, x_label)
        label(figure, 10, 10, y_label, color=MUTED, fontsize=SMALL)
        axes.set_xlim(0, 1.04 * right)
        axes.set_ylim(-1.06 * top, 1.06 * top)
        axes.axhline(0, color=MUTED, linewidth=1)
        axes.plot([0, min(right, top)], [0, min(right, top)], color=MUTED, linewidth=1.4, linestyle=_DASHED)
        for values, of_series in groups:
            inside = (x <= right) & (np.abs(values) <= top)
            outside.append(int((~inside).sum()))
            if inside.any():
                dots(axes, x[inside], values[inside], series(of_series), 5, alpha=0.6)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5))
            axis.set_major_formatter(_NUMBERS)
        return to_svg(figure, description), outside


def _frame(figure: Figure, axes: Axes, x: str, y: str, top: float) -> None:
    """A light grid, a line at the foot, both axes named; the vertical axis' name stands at the height `top`."""
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.spines["bottom"].set_visible(True)
    axes.spines["bottom"].set_color(MUTED)
    axis_name(axes, x)
    label(figure, 10, top, y, 60, color=MUTED, fontsize=SMALL)


def _columns(
    axes: Axes,
    edges: Sequence[float],
    heights: Sequence[float],
    colour: str,
    gap: float = 0.08,
    alpha: Sequence[float] | None = None,
) -> None:
    """The bars of a histogram, with gaps of a share of their width; sets the height of the axes."""
    axes.set_ylim(0, 1.08 * (max(heights, default=0) or 1))
    for place, (low, high, height) in enumerate(zip(edges[:-1], edges[1:], heights, strict=True)):
        side, strength = gap * (high - low) / 2, None if alpha is None else alpha[place]
        box = ((low + side, 0), high - low - 2 * side, height)
        axes.add_patch(Rectangle(*box, facecolor=colour, linewidth=0, alpha=strength))


def _mark(figure: Figure, axes: Axes, mark: tuple[float, str], left: float, right: float) -> None:
    """A dashed vertical line, its name above it on the side that has space."""
    low, high = axes.get_xlim()
    place = (mark[0] - low) / (high - low)
    axes.axvline(mark[0], color=INK, linewidth=1.4, linestyle=(0, (3, 3)), zorder=2.5)
    align, shift = ("left", -6) if place < 0.3 else ("right", 6) if place > 0.7 else ("center", 0)
    x = left + place * (WIDTH - left - right) + shift
    label(figure, x, 31, mark[1], 30, align, fontsize=SMALL, fontweight="bold")


def _line(axes: Axes, line: Curve) -> None:
    colour = series(line.series)
    if line.low and line.high:
        ends = zip(line.x, line.low, line.high, strict=True)
        band = [(x, *known(low, high)) for x, low, high in ends if len(known(low, high)) == 2]
        corners = [*((x, low) for x, low, _ in band), *((x, high) for x, _, high in reversed(band))]
        if len(band) > 1:
            axes.add_patch(Polygon(corners, facecolor=colour, alpha=0.18, linewidth=0))
        for x, low, high in band:
            axes.plot([x, x], [low, high], color=colour, linewidth=1.6, alpha=0.6)
    points = [(x, *known(y)) for x, y in zip(line.x, line.y, strict=True) if known(y)]
    if points:
        across, up = zip(*points, strict=True)
        axes.plot(across, up, color=colour, linewidth=2.2, solid_capstyle="round")
        if len(points) <= _MOST_DOTS:
            dots(axes, across, up, colour, 7)


def _around(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


# Plots with one row per name.


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
        axes.xaxis.set_major_formatter(_SHARES if shares else _NUMBERS)
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

"""Plots with two axes: numbers in, SVG out.

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
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from pluralign.reports.drawing import (
    GRID,
    INK,
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
)  # fmt: skip
from pluralign.reports.texts import known

_MOST_DOTS = 24
"""Curves with more points than this are drawn without dots, which would run into each other."""

_DASHED = (0, (4, 3))


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
        axes.xaxis.set_major_formatter(NUMBERS)
        axes.yaxis.set_major_formatter(NUMBERS)
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
            axes.yaxis.set_major_formatter(SHARES)
            axes.xaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
            axes.xaxis.set_major_formatter(SHARES)
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
            part.yaxis.set_major_formatter(SHARES)
            part.xaxis.set_major_formatter(SHARES)
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
        axes.xaxis.set_major_formatter(NUMBERS)
        if shares:
            axes.yaxis.set_major_formatter(SHARES)
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
            axis.set_major_formatter(NUMBERS)
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

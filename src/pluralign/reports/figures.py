"""Plots of two axes: histogram, reliability diagram, curves with bands, map. Arrays in, SVG out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

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
from pluralign.reports.rows import NUMBERS, SHARES, known

_MOST_DOTS = 24
"""Points of a curve that are marked; more of them would run into each other."""


def _frame(figure: Figure, axes: Axes, x: str, y: str, top: float) -> None:
    """A light grid behind, a line at the foot, both axes named; y's name stands level at the height `top`."""
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.spines["bottom"].set_visible(True)
    axes.spines["bottom"].set_color(MUTED)
    axis_name(axes, x)
    label(figure, 10, top, y, 60, color=MUTED, fontsize=SMALL)


def _mark(figure: Figure, axes: Axes, mark: tuple[float, str], left: float, right: float) -> None:
    """A dashed line at a place of the axis below, its name above it on the side that has room."""
    low, high = axes.get_xlim()
    place = (mark[0] - low) / (high - low)
    axes.axvline(mark[0], color=INK, linewidth=1.4, linestyle=(0, (3, 3)), zorder=2.5)
    x = left + place * (WIDTH - left - right)
    align = "left" if place < 0.3 else "right" if place > 0.7 else "center"
    shift = {"left": -6, "right": 6, "center": 0}[align]
    label(figure, x + shift, 31, mark[1], 30, align, fontsize=SMALL, fontweight="bold")


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
        axes.set_ylim(0, 1.08 * (max(counts, default=0) or 1))
        gap = 0.08 if len(counts) <= 30 else 0.0
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
            room = gap * (high - low) / 2
            axes.add_patch(Rectangle((low + room, 0), high - low - 2 * room, count, facecolor=series(1), linewidth=0))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=edges[-1] - edges[0] > 4))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.xaxis.set_major_formatter(NUMBERS)
        axes.yaxis.set_major_formatter(NUMBERS)
        if mark is not None and edges[0] <= mark[0] <= edges[-1]:
            _mark(figure, axes, mark, 46, 14)
        return to_svg(figure, description)


def reliability(rows: Sequence[Mapping[str, float]], description: str) -> Markup:
    """Accuracy against confidence, a dot per bin; on the diagonal the model is as often right as it says.

    Args:
        rows: of `calibration.reliability.reliability_table`: `lower`, `upper`, `share`, `confidence`,
            `accuracy`, and where they are known `accuracy_low` and `accuracy_high`.
        description: what it shows, for those who do not see it.

    Examples:
        >>> row = {"lower": 0.8, "upper": 0.9, "share": 1.0, "confidence": 0.88, "accuracy": 0.5}
        >>> reliability([row], "Calibration")[:4]
        Markup('<svg')
    """
    lowest = min([0.5, *known(*(row.get(key) for row in rows for key in ("accuracy", "accuracy_low")))])
    floor = math.floor(10 * lowest) / 10
    with canvas(340) as figure:
        axes = plot_area(figure, 46, 30, 22, 128)
        _frame(figure, axes, "", "how often the model is right", 10)
        axes.set_xlim(0.5, 1)
        axes.set_ylim(floor, 1)
        axes.plot([0.5, 1], [0.5, 1], color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)), clip_on=False)
        for row in rows:
            ends = known(row.get("accuracy_low"), row.get("accuracy_high"))
            if len(ends) == 2:
                axes.plot([row["confidence"]] * 2, ends, color=series(1), linewidth=1.4, alpha=0.7, clip_on=False)
            axes.plot([row["confidence"]] * 2, [row["confidence"], row["accuracy"]], color=series(2), linewidth=2.2,
                      alpha=0.75, clip_on=False)  # fmt: skip
            dots(axes, [row["confidence"]], [row["accuracy"]], series(1), 6 + 12 * math.sqrt(row["share"]))
        below = plot_area(figure, 46, 252, 22, 42)
        _frame(figure, below, "how sure the model is", "share of pairs", 230)
        below.set_xlim(0.5, 1)
        top = max([row["share"] for row in rows], default=1.0)
        below.set_ylim(0, 1.1 * top)
        for row in rows:
            wide = row["upper"] - row["lower"]
            below.add_patch(
                Rectangle((row["lower"] + 0.03 * wide, 0), 0.94 * wide, row["share"], facecolor=SOFT, linewidth=0)
            )
        for one in (axes, below):
            one.xaxis.set_major_locator(FixedLocator([0.5, 0.6, 0.7, 0.8, 0.9, 1.0]))
            one.yaxis.set_major_formatter(SHARES)
            one.xaxis.set_major_formatter(SHARES)
        axes.tick_params(labelbottom=False)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        below.yaxis.set_major_locator(MaxNLocator(2, prune="lower"))
        return to_svg(figure, description)


@dataclass(frozen=True)
class Curve:
    """A line through points, with a band where `low` and `high` are known, in a series' colour."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    series: int = 1


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
    """Lines with bands.

    Args:
        lines: what to draw.
        description: what it shows, for those who do not see it.
        x_label: name of the axis below.
        y_label: name of the axis at the left.
        mark: a place on the axis below, with its name.
        whole: the axis below counts whole things, one tick each.
        shares: the axis at the left is shown in percent.
        limits: of the axis at the left.

    Examples:
        >>> line = Curve("held out", [1, 2], [-1.0, -0.8], [-1.1, -0.9], [-0.9, -0.7])
        >>> curves([line], "Types", x_label="types", y_label="nats", mark=(2, "chosen"), whole=True)[:4]
        Markup('<svg')
    """
    places = sorted({x for line in lines for x in line.x}) or [0.0]
    with canvas(250) as figure:
        axes = plot_area(figure, 52, 42, 18, 42)
        _frame(figure, axes, x_label, y_label, 10)
        room = 0.06 * (places[-1] - places[0]) or 0.5
        axes.set_xlim(places[0] - room, places[-1] + room)
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


def scatter(x: Sequence[float], y: Sequence[float], kind: Sequence[int], description: str) -> Markup:
    """A map: points coloured by kind, the kind's number on a disc in the middle of its points.

    Examples:
        >>> ">2<" in scatter([0, 1], [0, 1], [1, 2], "Map")
        True
    """
    height = 320.0
    with canvas(height) as figure:
        axes = plot_area(figure, 14, 14, 14, 14)
        axes.set_xticks([])
        axes.set_yticks([])
        points = [point for point in zip(x, y, kind, strict=True) if len(known(*point[:2])) == 2]
        size = 8.0 if len(points) < 200 else 5.5 if len(points) < 1000 else 4.0
        axes.set_xlim(*_around([point[0] for point in points]))
        axes.set_ylim(*_around([point[1] for point in points]))
        kinds = sorted({point[2] for point in points})
        for one in kinds:
            across, up = zip(*[point[:2] for point in points if point[2] == one], strict=True)
            dots(axes, across, up, series(one), size, alpha=0.55)
        for one in kinds:
            middle = [median(point[axis] for point in points if point[2] == one) for axis in (0, 1)]
            at = axes.transData.transform(middle) * 72 / figure.dpi
            dots(axes, middle[:1], middle[1:], SURFACE, 24)
            dots(axes, middle[:1], middle[1:], series(one), 20)
            label(figure, float(at[0]), height - float(at[1]), str(one), 3, "center", color=SURFACE,
                  fontweight="bold")  # fmt: skip
        return to_svg(figure, description)


def _around(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = 0.05 * (high - low) or 1.0
    return low - room, high + room

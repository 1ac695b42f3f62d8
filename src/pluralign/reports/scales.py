"""One value on a named scale."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from pluralign.reports.drawing import GRID, INK, MUTED, SMALL, WIDTH, canvas, dots, label, plot_area, series, to_svg
from pluralign.reports.rows import Point, known
from pluralign.reports.texts import number


def scale(point: Point, description: str, *, limits: tuple[float, float], marks: Sequence[tuple[float, str]]) -> Markup:
    """One value with its interval on a named scale.

    Args:
        point: the value.
        description: what it shows, for those who do not see it.
        limits: ends of the scale.
        marks: places on the scale and what they mean, far enough apart to be read.

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
            x = 24 + (place - low) / (high - low) * (WIDTH - 48)
            align = "left" if place == low else "right" if place == high else "center"
            shift = {"left": -14, "right": 14, "center": 0}[align]
            axes.plot([place, place], [0.1, 0.9], color=MUTED, linewidth=1, clip_on=False)
            label(figure, x + shift, 58, number(place), align=align, color=MUTED, fontsize=SMALL)
            label(figure, x + shift, 73, text, align=align, color=MUTED, fontsize=SMALL)
        if point.value is not None:
            at = min(max(point.value, low), high)
            ends = [min(max(end, low), high) for end in known(point.low, point.high)]
            if len(ends) == 2:
                axes.plot(ends, [0.5, 0.5], color=series(point.series), linewidth=8, alpha=0.5, clip_on=False,
                          solid_capstyle="round")  # fmt: skip
            dots(axes, [at], [0.5], series(point.series), 14)
            x = 24 + (at - low) / (high - low) * (WIDTH - 48)
            label(figure, min(max(x, 30), WIDTH - 30), 14, number(point.value), align="center", fontsize=16,
                  color=INK, fontweight="bold")  # fmt: skip
        return to_svg(figure, description)

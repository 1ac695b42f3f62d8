"""A table of numbers whose cells are the darker the larger the number."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.patches import Rectangle

from pluralign.reports.drawing import GRID, MUTED, SMALL, WIDTH, canvas, label, plot_area, series, to_svg
from pluralign.reports.rows import known
from pluralign.reports.texts import number

_SIDE, _HEAD, _STEP, _CELL = 10.0, 24.0, 58.0, 34.0
_MOST_WITH_ERRORS = 5

Cells = Sequence[tuple[float | None, float | None]]


def heat(columns: Sequence[str], rows: Sequence[tuple[str, Cells]], description: str) -> Markup:
    """Numbers with their standard errors; zero and less have no colour, the largest has all of it.

    Args:
        columns: their names.
        rows: each with its name and, for every column, a number and its standard error.
        description: what it shows, for those who do not see it.

    Examples:
        >>> svg = heat(["type 1"], [("base", [(0.5, 0.1)])], "Regret")
        >>> ">0.5<" in svg, ">± 0.1<" in svg
        (True, True)
    """
    largest = max(known(*(value for _, cells in rows for value, _ in cells)), default=0.0)
    wide = (WIDTH - 2 * _SIDE) / max(len(columns), 1)
    with canvas(_HEAD + _STEP * len(rows) + 4) as figure:
        axes = plot_area(figure, _SIDE, _HEAD, _SIDE, 4)
        axes.set_axis_off()
        axes.set_xlim(0, max(len(columns), 1))
        axes.set_ylim(_STEP * len(rows) or 1, 0)
        for place, name in enumerate(columns):
            middle = _SIDE + (place + 0.5) * wide
            label(figure, middle, 12, name, int(wide / 7), "center", color=MUTED, fontsize=SMALL)
        for line, (name, cells) in enumerate(rows):
            y = _STEP * line
            label(figure, _SIDE, _HEAD + y + 10, name, 50)
            for place, (value, error) in enumerate(cells):
                share = value / largest if value is not None and known(value) and largest > 0 else 0.0
                box = ((place + 0.01, y + 20), 0.98, _CELL)
                axes.add_patch(Rectangle(*box, facecolor=GRID, linewidth=0, alpha=0.5))
                axes.add_patch(Rectangle(*box, facecolor=series(2), linewidth=0, alpha=0.75 * max(share, 0.0)))
                middle, top = _SIDE + (place + 0.5) * wide, _HEAD + y + 20
                two = known(error) and len(columns) <= _MOST_WITH_ERRORS
                label(figure, middle, top + (11 if two else 17), number(value), align="center", fontweight="bold")
                if two:
                    label(figure, middle, top + 25, f"± {number(error)}", align="center", fontsize=SMALL)
        return to_svg(figure, description)

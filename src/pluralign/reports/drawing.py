"""From a matplotlib figure to SVG for use inside a page: the page's colours and fonts, no ids, safe labels.

Texts of the data never pass through matplotlib, which would read `$` as mathematics, measure letters that its font
lacks, and fail on control characters. It draws a dot in their place; `to_svg` inserts the text.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from xml.etree import ElementTree

import matplotlib.style
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import FuncFormatter

from pluralign.reports.texts import clip, number, one_line, percent

WIDTH = 360.0
"""Width of every figure in units: about the pixels that it gets on a phone."""

TEXT, SMALL = 12.0, 11.0
"""Font sizes, in the same units."""

INK, MUTED, GRID, SURFACE, SOFT = "#010101", "#020202", "#030303", "#040404", "#050505"
SERIES = tuple(f"#0a0a{index:02x}" for index in range(1, 9))
"""Placeholders for colours: the style sheet of the page defines the colours, for light and dark."""

_VARIABLES = {
    INK: "var(--ink,#1c2430)",
    MUTED: "var(--muted,#5b6675)",
    GRID: "var(--grid,#dde2e8)",
    SURFACE: "var(--surface,#ffffff)",
    SOFT: "var(--soft,#b9c3cf)",
    **{colour: f"var(--s{index},#2a6fc9)" for index, colour in enumerate(SERIES, 1)},
}
SHARES = FuncFormatter(lambda value, _: percent(value))
NUMBERS = FuncFormatter(lambda value, _: number(int(value) if float(value).is_integer() else value))
"""Tick labels of shares and of numbers."""

_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "pluralign", "path.simplify": False}
_LABEL = re.compile(r"label:(\d+):(.*)", re.DOTALL)
_SVG = "http://www.w3.org/2000/svg"


class NotebookFigure(Figure):
    """A figure that a notebook shows as a picture. matplotlib's own is a line of text until pyplot has drawn one."""

    def _repr_svg_(self) -> str:
        text = io.StringIO()
        self.savefig(text, format="svg")
        return text.getvalue()


def series(index: int) -> str:
    """The colour of a series, counted from 1; colours repeat after the eighth."""
    return SERIES[(index - 1) % len(SERIES)]


@contextlib.contextmanager
def canvas(height: float) -> Iterator[Figure]:
    """An empty figure `WIDTH` units wide, independent of the user's matplotlib settings."""
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure((WIDTH / 72, height / 72))
        figure.patch.set_visible(False)
        yield figure


def plot_area(figure: Figure, left: float, top: float, right: float, bottom: float) -> Axes:
    """Axes with margins in units, without lines or ticks, but with tick labels."""
    height = figure.get_figheight() * 72
    box = (left / WIDTH, bottom / height, 1 - (left + right) / WIDTH, 1 - (top + bottom) / height)
    axes = figure.add_axes(box)
    axes.patch.set_visible(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0, labelcolor=MUTED, labelsize=SMALL, pad=4)
    axes.set_axisbelow(True)
    return axes


def axis_name(axes: Axes, x: str) -> None:
    """Name the horizontal axis; the name of a vertical axis is a label above the plot."""
    axes.set_xlabel(x, color=MUTED, fontsize=SMALL, labelpad=4)


def label(
    figure: Figure, x: float, y: float, text: str, columns: int = 60, align: str = "left", **look: object
) -> None:
    """Write a text at units from the left and the top, vertically centred, clipped to `columns` columns."""
    height = figure.get_figheight() * 72
    settings = {"ha": align, "va": "center", "fontsize": TEXT, "color": INK} | look
    figure.text(x / WIDTH, 1 - y / height, ".", gid=f"label:{columns}:{one_line(text)}", **settings)  # type: ignore[arg-type]


def dots(axes: Axes, x: Sequence[float], y: Sequence[float], colour: str, size: float, alpha: float = 1.0) -> None:
    """Round dots as one path: strokes of zero length with round ends."""
    ends = np.repeat(np.column_stack([x, y]).astype(float), 2, axis=0)
    codes = np.tile([Path.MOVETO, Path.LINETO], len(x))
    patch = PathPatch(Path(ends, codes), fill=False, edgecolor=colour, linewidth=size, capstyle="round", alpha=alpha)
    patch.set_clip_on(False)
    patch.set_zorder(3)
    axes.add_patch(patch)


def to_svg(figure: Figure, description: str) -> Markup:
    """The figure as an `<svg>` element: deterministic, without ids, style sheets, metadata or references."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(out.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.split("}")[1] in ("metadata", "defs"):
                parent.remove(child)
    for element in root.iter():
        text = _LABEL.fullmatch(element.attrib.pop("id", ""))
        if text:
            _write(element[0], text[2], int(text[1]))
        for name in ("style", "d", "x", "y", "transform"):
            if name in element.attrib:
                element.set(name, _plain(element.attrib[name]))
        if element.get("transform", "").startswith("rotate(-0"):
            del element.attrib["transform"]
        element.attrib.pop("clip-path", None)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"role": "img", "aria-label": one_line(description)}
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
        if element.tag not in ("text", "title"):
            element.text = None
        element.tail = None
    # Without matplotlib's groups.
    root[:] = [element for element in root.iter() if element.tag in ("path", "text")]
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _write(element: ElementTree.Element, text: str, columns: int) -> None:
    shown = clip(text, columns)
    element.text = shown
    if shown != text:
        title = ElementTree.SubElement(element, f"{{{_SVG}}}title")
        title.text = clip(text, 400)


def _plain(value: str) -> str:
    """The page's names of colours, no font, two decimals."""
    value = re.sub(r"font-family:[^;]*;?\s*", "", value)
    value = re.sub(r"#0[0-9a-f]{5}", lambda colour: _VARIABLES.get(colour[0], colour[0]), value)
    value = re.sub(r"-?\d+\.\d{3,}", lambda digits: f"{float(digits[0]):.2f}".rstrip("0").rstrip("."), value)
    return " ".join(value.split())

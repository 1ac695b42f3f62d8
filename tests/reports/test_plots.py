"""Plots: the same bytes for the same numbers, texts of the data as text, every degenerate input drawn."""

import os
import re
import subprocess
import sys
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from pluralign.reports.drawing import WIDTH
from pluralign.reports.plots import (
    Curve,
    ReliabilityBin,
    curves,
    diagonal,
    histogram,
    probability_histograms,
    reliability,
    type_map,
)
from pluralign.reports.row_plots import Point, Row, bars, forest, heat, scale, stacked
from reports.conftest import HOSTILE

BIN = ReliabilityBin(0.8, 0.9, 40, 1.0, 0.88, 0.2, -0.68)

DRAWN = {
    "histogram": lambda text: histogram([0, 1, 2], [3, 4], text, x_label="x", y_label="n", mark=(1, text)),
    "reliability": lambda text: reliability([BIN], text),
    "curves": lambda text: curves([Curve(text, [1, 2], [0.1, None], [0, None], [1, None])], text, x_label="x", y_label="y", mark=(1, text)),
    "panels": lambda text: probability_histograms([0, 0.5, 1], [(text, [0.2, 0.8], 1)], text, x_label="x"),
    "diagonal": lambda text: diagonal(np.arange(3.0), [(np.ones(3), 1)], text, x_label="x", y_label=text)[0],
    "heat": lambda text: heat([text], [(text, [(0.5, 0.1)])], text),
    "type_map": lambda text: type_map([0, 1, 2], [0, 1, 0], [1, 2, 9], text),
    "forest": lambda text: forest([Row(text, [Point(0.5, 0.4, 0.6), Point(None)])], text, x_label="x", reference=0.5),
    "bars": lambda text: bars([(text, 3), ("other", 0)], text, whole=6),
    "stacked": lambda text: stacked([(text, [0.5, None, 0.5])], text, notes=[text]),
    "scale": lambda text: scale(Point(0.3, 0.1, 0.5), text, limits=(0, 1), marks=[(0, text), (1, "all")]),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_texts_of_the_data_stay_text(name, text):
    root = ElementTree.fromstring(DRAWN[name](text))
    assert {element.tag for element in root.iter()} <= {"svg", "path", "text", "title"}
    assert not {key for element in root.iter() for key in element.attrib if key.startswith("on") or "href" in key}
    assert root.get("role") == "img"
    assert root.get("aria-label")
    if text.startswith(("<script", "$x", "{{")):
        shown = "".join(root.itertext()) + root.get("aria-label")
        assert text[:15] in shown


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_is_a_function_of_its_input_alone(name):
    first = DRAWN[name]("a label")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path", "axes.grid": True}):
        assert DRAWN[name]("a label") == first
    assert "<metadata" not in first
    assert "url(" not in first
    assert " id=" not in first
    assert f'viewBox="0 0 {WIDTH:.0f} ' in first


def test_another_process_draws_the_same_bytes():
    code = "from pluralign.reports.plots import histogram; print(histogram([0, 1, 2], [3, 4], 'd', x_label='x'))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert found == {histogram([0, 1, 2], [3, 4], "d", x_label="x") + "\n"}


def test_colours_are_the_pages_own():
    for draw in DRAWN.values():
        assert not [part for part in draw("a").split("#")[1:] if part[:3] == "0a0"], "a stand-in was left"
        assert "var(--" in draw("a")


def test_degenerate_numbers_are_drawn():
    nothing = float("nan")
    for svg in (
        histogram([0, 0], [0], "d", x_label="x"),
        histogram([0, 1], [0], "d", x_label="x", mark=(0.5, "m")),
        reliability([], "d"),
        diagonal(np.zeros(0), [(np.zeros(0), 1)], "d", x_label="x", y_label="y")[0],
        heat([], [], "d"),
        heat([str(n) for n in range(8)], [("x", [(0.0, 0.0)] * 8)], "d"),
        curves([], "d", x_label="x", y_label="y"),
        curves([Curve("a", [1], [nothing])], "d", x_label="x", y_label="y"),
        curves([Curve("a", [3, 3], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5])], "d", x_label="x", y_label="y", mark=(3, "m")),
        type_map([], [], [], "d"),
        type_map([nothing, 1.0], [0.0, 1.0], [1, 1], "d"),
        forest([], "d"),
        forest([Row("a", [])], "d"),
        forest([Row("a", [Point(0.0)])], "d", bounds=(0, 1)),
        forest([Row("a", [Point(1.0, 1.0, 1.0)])], "d", bounds=(0, 1), reference=1.0),
        forest([Row("a", [Point(nothing, nothing, None)])], "d"),
        bars([], "d"),
        bars([("a", 0)], "d", whole=0),
        stacked([("a", [None, None])], "d", notes=[""]),
        scale(Point(None), "d", limits=(0, 1), marks=[]),
        scale(Point(-3.0, -4.0, 2.0), "d", limits=(-1, 1), marks=[]),
    ):
        ElementTree.fromstring(svg)
        assert "nan" not in svg.replace("d", "")
        assert "inf" not in svg


def strokes(svg, width):
    """Places of the dots of a width, as pairs of coordinates."""
    paths = [path for path in ElementTree.fromstring(svg).iter("path") if f"stroke-width: {width}" in path.get("style")]
    return np.array([[float(number) for number in path.get("d").split()[1:3]] for path in paths])


def test_a_forest_places_its_dots_in_order():
    dots = strokes(forest([Row(str(n), [Point(n / 10)]) for n in (2, 4, 8)], "d", limits=(0, 1)), 9)
    steps = np.diff(dots, axis=0)
    assert steps[1, 0] == pytest.approx(2 * steps[0, 0], abs=0.05)
    assert (steps > 0).all(), "to the right and down"


def test_a_reliability_dot_stands_at_confidence_and_accuracy():
    """Dots of calibrated bins lie on the dashed line, one of an over-confident bin lies below."""
    bins = [ReliabilityBin(low, low + 0.1, 9, 0.25, low + 0.05, low + 0.05, 0.0) for low in (0.5, 0.6, 0.8)]
    dots = strokes(reliability(bins, "d"), 12)
    across, down = np.diff(dots, axis=0).T
    assert across[1] == pytest.approx(2 * across[0], abs=0.05)
    assert down[1] == pytest.approx(2 * down[0], abs=0.05)
    assert (down < 0).all()
    low = strokes(reliability([*bins[:2], ReliabilityBin(0.8, 0.9, 9, 0.25, 0.85, 0.6, -0.25)], "d"), 12)
    assert low[2, 0] == pytest.approx(dots[2, 0], abs=0.05)
    assert low[2, 1] > dots[2, 1]


def test_cells_are_darker_for_larger_numbers():
    svg = str(heat(["a", "b"], [("one", [(4.0, None), (-1.0, 0.2)]), ("two", [(None, None), (2.0, 0.1)])], "Heat"))
    shades = {float(shade) for shade in re.findall(r"opacity: ?([\d.]+)", svg)}
    assert {0.75, 0.38, 0.0} <= shades, "of 4, of 2 and of less than nothing"
    assert ">± 0.2<" in svg


def test_points_outside_the_frame_are_counted():
    x, y = np.ones(40), np.r_[np.ones(39), 90.0]
    assert diagonal(x, [(y, 1), (x, 2)], "d", x_label="x", y_label="y")[1] == [1, 0]


def test_long_curves_are_lines_without_dots():
    def dots(count):
        line = Curve("a", list(range(count)), [0.5] * count)
        return len(strokes(curves([line], "d", x_label="x", y_label="y"), 7))

    assert (dots(24), dots(25)) == (1, 0)

"""Figures: the same bytes for the same numbers, texts of the data as text, every degenerate input drawn."""

import subprocess
import sys
from xml.etree import ElementTree

import matplotlib
import pytest

from pluralign.reports.drawing import WIDTH
from pluralign.reports.figures import Curve, curves, histogram, reliability, scatter
from pluralign.reports.rows import Point, Row, bars, forest, stacked
from pluralign.reports.scales import scale
from reports.conftest import HOSTILE

BIN = {"lower": 0.8, "upper": 0.9, "share": 1.0, "confidence": 0.88, "accuracy": 0.2}

DRAWN = {
    "histogram": lambda text: histogram([0, 1, 2], [3, 4], text, x_label="x", y_label="n", mark=(1, text)),
    "reliability": lambda text: reliability([BIN], text),
    "curves": lambda text: curves([Curve(text, [1, 2], [0.1, None], [0, None], [1, None])], text, x_label="x", y_label="y", mark=(1, text)),
    "scatter": lambda text: scatter([0, 1, 2], [0, 1, 0], [1, 2, 9], text),
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
    code = "from pluralign.reports.figures import histogram; print(histogram([0, 1, 2], [3, 4], 'd', x_label='x'))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
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
        curves([], "d", x_label="x", y_label="y"),
        curves([Curve("a", [1], [nothing])], "d", x_label="x", y_label="y"),
        curves([Curve("a", [3, 3], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5])], "d", x_label="x", y_label="y", mark=(3, "m")),
        scatter([], [], [], "d"),
        scatter([nothing, 1.0], [0.0, 1.0], [1, 1], "d"),
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


def test_a_forest_places_its_dots_in_order():
    svg = ElementTree.fromstring(forest([Row("a", [Point(0.2)]), Row("b", [Point(0.8)])], "d", limits=(0, 1)))
    dots = [path.get("d").split() for path in svg.iter("path") if "stroke-width: 9" in path.get("style")]
    across, down = ([float(dot[place]) for dot in dots] for place in (1, 2))
    assert across[0] == pytest.approx(10 + 0.2 * (WIDTH - 20), abs=0.02)
    assert across[1] == pytest.approx(10 + 0.8 * (WIDTH - 20), abs=0.02)
    assert down[0] < down[1]


def test_a_reliability_dot_stands_at_confidence_and_accuracy():
    svg = ElementTree.fromstring(reliability([BIN | {"accuracy": 0.75}], "d"))
    (dot,) = [path.get("d").split() for path in svg.iter("path") if "stroke-width: 18" in path.get("style")]
    left, right, top, bottom, height = 46, 22, 30, 128, 340
    assert float(dot[1]) == pytest.approx(left + (0.88 - 0.5) / 0.5 * (WIDTH - left - right), abs=0.02)
    assert float(dot[2]) == pytest.approx(height - bottom - (0.75 - 0.5) / 0.5 * (height - top - bottom), abs=0.02)

"""The sections of a reward model's calibration and of a run's sources."""

import json
import math
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pluralign.core.errors import PluralignError
from pluralign.reports.calibration import MEASURES, OVER_REWARDING, calibration_section, gaps_figure
from pluralign.reports.comparison import runs_page
from pluralign.reports.figures import Curve, curves
from pluralign.reports.runs import Run
from pluralign.reports.sources import COLUMNS, sources_section, thinned
from pluralign.workflows.report import report
from reports.conftest import HOSTILE
from reports.test_page import check

ROW = dict.fromkeys(OVER_REWARDING[0])
BIN = {
    "lower": 0.8, "upper": 0.9, "pairs": 40, "share": 1.0, "confidence": 0.88, "accuracy": 0.7, "gap": -0.18,
    "accuracy_low": 0.61, "accuracy_high": 0.79,
}  # fmt: skip


def gaps(name, right=0.8, wrong=0.6, **more):
    found = {"slice": name, "pairs": 120, "accuracy": 0.66, "gap_right": right, "gap_wrong": wrong, "ratio": 0.75}
    return ROW | found | {"wrong_median": 0.4, "wrong_p90": 1.9, "sure_wrong": 0.034} | more


def steps(sources=3, count=100):
    """Rows of `sources.parquet` as columns; the weights of a step sum to one."""
    draw = np.random.default_rng(0)
    columns = {name: [] for name in COLUMNS}
    for step in range(10, 10 * count + 1, 10):
        weights = draw.dirichlet(np.linspace(6, 2, sources))
        for place in range(sources):
            row = (step, f"source {place}", float(weights[place]), 0.6, 0.65, float(draw.uniform(0.05, 0.2)), 1.5)
            for name, value in zip(COLUMNS, row, strict=True):
                columns[name].append(value)
    return columns


def run_of_more(sources=3, **more):
    metrics = {"accuracy": 0.66, "ece": 0.06, **dict.fromkeys(MEASURES, 0.05)}
    metrics |= {f"{key}_low": 0.04 for key in MEASURES} | {f"{key}_high": 0.07 for key in MEASURES}
    for key, first in (("accuracy", 0.6), ("ece", 0.04), ("log_loss", 0.6)):
        metrics |= {f"{key}/source=source {place}": first + 0.02 * place for place in range(sources)}
    rows = [gaps("all", gap_right_low=0.7, gap_right_high=0.9, gap_wrong_low=0.5, gap_wrong_high=0.7)]
    rows += [gaps(f"source=source {place}", 0.8, 0.5 + 0.1 * place) for place in range(sources)]
    return Run(
        "more", metrics, {"objective": "more", "model_name_or_path": "base"}, {}, [BIN], over_rewarding=rows,
        sources=steps(sources), **more,
    )  # fmt: skip


def section(run, title):
    found = re.split(r"<h2", runs_page([run]))
    (part,) = [part for part in found[1:] if f">{title}<" in part.split("</h2>")[0]]
    return check(f"<section><h2{part}".split("</section>")[0] + "</section>")


def test_every_measure_stands_with_its_interval_and_a_sentence():
    words = section(run_of_more(), "Calibration")
    for title, sentence in MEASURES.values():
        assert title in words
        assert sentence in words
    assert words.count("0.05 (0.04\xa0to\xa00.07)") == len(MEASURES)


def test_measures_that_are_missing_leave_no_row():
    run = Run("a", {"ece": 0.1, "brier": 0.2, "brier_low": 0.1, "crowd_ece": "n/a", "ece_smooth": float("nan")})
    words = section(run, "Calibration")
    assert "Brier score" in words
    assert "Brier score: resolution" not in words
    assert "Crowd's" not in words
    assert "smoothed" not in words
    # One number that stands among the tiles needs no section of its own.
    assert calibration_section({"ece": 0.1}.get, [], None, []) is None
    assert "Measures of calibration" not in check(runs_page([Run("a", {"ece": 0.1})]))


def test_bins_show_their_intervals_where_they_are_known():
    words = section(Run("a", {}, reliability=[BIN]), "Calibration")
    assert "0.7 (0.61 to 0.79)" in words
    assert "18 points less often than it says: too sure" in words
    plain = {key: value for key, value in BIN.items() if not key.startswith("accuracy_")}
    assert "intervals" not in section(Run("a", {}, reliability=[plain]), "Calibration")
    drawn = runs_page([Run("a", {}, reliability=[BIN])]).count("<path")
    assert drawn == runs_page([Run("a", {}, reliability=[plain])]).count("<path") + 1


def test_the_largest_gaps_on_wrong_pairs_come_first_after_the_whole():
    rows = [gaps("source=a", wrong=0.2), gaps("all", wrong=0.6), gaps("source=b", wrong=0.9)]
    figure = gaps_figure(rows)
    places = [figure.svg.index(f">{name}<") for name in ("all pairs", "source=b", "source=a")]
    assert places == sorted(places)
    assert "On all pairs the gap of wrong pairs is 0.75 times that of right ones" in figure.reading
    words = section(Run("a", {}, over_rewarding=rows), "Calibration")
    assert "3.4\xa0%" in words
    many = [gaps(f"source={place}", wrong=place) for place in range(30)]
    drawn = gaps_figure(many).svg
    assert ">source=29<" in drawn
    assert ">source=2<" not in drawn
    assert "source=2" in section(Run("a", {}, over_rewarding=many), "Calibration"), "all are in the table"


def test_gaps_that_are_not_known_are_left_out():
    assert gaps_figure([]) is None
    assert gaps_figure([ROW | {"slice": "all", "pairs": 0}]) is None
    check(runs_page([Run("a", {}, over_rewarding=[ROW, ROW | {"slice": "all", "gap_right": 0.4}])]))


def test_calibration_error_by_source_is_drawn_the_highest_first():
    words = section(run_of_more(), "Calibration")
    assert "Calibration error by source" in words
    assert "“\u2068source 2\u2069”: 0.08, “\u2068source 0\u2069”: 0.04" in words


def test_sources_are_drawn_and_averaged():
    columns = steps()
    found = section(run_of_more(), "Sources")
    for place in range(3):
        held = [w for w, s in zip(columns["weight"], columns["source"], strict=True) if s == f"source {place}"]
        assert f"{np.mean(held):.3g}" in found
    assert "Weight of each source" in found
    assert "Calibration error while training" in found
    assert "the mean of up to 4 logs" in found


def test_of_many_sources_the_heaviest_eight_are_drawn_and_all_are_in_the_table():
    page = sources_section(steps(11))
    weight, error = page.blocks[0].items
    for figure in (weight, error):
        assert [name for _, name in figure.legend] == [f"source {place}" for place in range(8)]
        assert "The 8 with the largest mean weight of 11 are drawn." in figure.reading
    assert [row[0] for row in page.blocks[1].rows] == [f"source {place}" for place in range(11)]


def test_spans_keep_the_mean_of_all_values():
    draw = np.random.default_rng(1)
    at, values = np.arange(1, 601, dtype=float), draw.uniform(size=600)
    steps_, means, most = thinned(at.tolist(), values.tolist(), 1, 600)
    assert len(means) == 30
    assert most in (20, 21)
    assert steps_ == sorted(steps_)
    # Spans of equal counts but for their ends.
    assert np.mean(means) == pytest.approx(values.mean(), abs=2e-3)
    assert thinned([1, 2, 3], [None, 0.5, math.nan], 1, 3) == ([2], [0.5], 1)


def test_degenerate_sources_are_drawn():
    nothing = {name: [] for name in COLUMNS}
    assert sources_section(nothing) is None
    one = {"step": [1], "source": [None], **{name: [None] for name in COLUMNS[2:]}}
    for columns in (one, one | {"weight": [0.0]}, one | {"weight": [math.nan], "ece": [math.inf]}):
        words = section(Run("a", {}, sources=columns), "Sources")
        assert not re.search(r"\b(?:nan|inf)\b", words)
    same = {name: [1] * 200 if name == "step" else ["a"] * 200 for name in ("step", "source")}
    check(runs_page([Run("a", {}, sources=same | {name: [0.5] * 200 for name in COLUMNS[2:]})]))


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_names_stay_texts(text):
    columns = steps(2, 3) | {"source": [text, "b"] * 3}
    run = Run(
        "a",
        {f"ece/source={text}": 0.1, "ece/source=b": 0.2},
        over_rewarding=[gaps(text), gaps("all")],
        sources=columns,
    )
    page = runs_page([run])
    check(page)
    assert "<script" not in page
    assert "<img" not in page


def test_the_files_of_a_folder_are_read(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps({"ece/source=a": 0.1, "ece/source=b": 0.2}))
    (folder / "reliability.json").write_text(json.dumps([BIN, BIN | {"accuracy_low": None}]))
    rows = [{"slice": "all", "gap_right": 0.8, "gap_wrong": 0.6, "unknown": 3}]
    (folder / "over_rewarding.json").write_text(json.dumps(rows))
    pq.write_table(pa.table(steps(2, 4)), folder / "sources.parquet")
    report([folder], tmp_path / "page.html")
    words = check((tmp_path / "page.html").read_text())
    for expected in ("Calibration error by source", "Gaps on right and on wrong pairs", "Weight of each source"):
        assert expected in words
    (folder / "over_rewarding.json").write_text('[{"gap_right": "far"}]')
    with pytest.raises(PluralignError, match=r"over_rewarding\.json\[0\]\.gap_right: found 'far', expected a number"):
        report([folder], tmp_path / "page.html")
    (folder / "over_rewarding.json").unlink()
    pq.write_table(pa.table(steps(2, 4) | {"weight": ["much"] * 8}), folder / "sources.parquet")
    with pytest.raises(PluralignError, match=r"sources\.parquet, column 'weight': found 'much', expected a number"):
        report([folder], tmp_path / "page.html")
    pq.write_table(pa.table({"step": [1]}), folder / "sources.parquet")
    with pytest.raises(PluralignError, match=r"sources\.parquet: cannot be read as the table that train writes"):
        report([folder], tmp_path / "page.html")


def test_long_curves_are_lines_without_dots():
    def strokes(count):
        line = Curve("a", list(range(count)), [0.5] * count)
        return curves([line], "d", x_label="x", y_label="y").count("stroke-width: 7")

    assert (strokes(24), strokes(25)) == (1, 0)

"""The sections of a reward model's calibration and of a run's sources."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pluralign.core.errors import PluralignError
from pluralign.core.records import write_record
from pluralign.reports.calibration import MEASURES, RewardGaps, calibration_section, gaps_figure
from pluralign.reports.plots import ReliabilityBin
from pluralign.reports.runs import Run, runs_page
from pluralign.reports.sources import SourceLog, sources_section, thinned
from pluralign.workflows.report import report
from reports.conftest import HOSTILE
from reports.test_page import check

BIN = ReliabilityBin(0.8, 0.9, 40, 1.0, 0.88, 0.7, -0.18, 0.61, 0.79)
PLAIN_BIN = ReliabilityBin(0.8, 0.9, 40, 1.0, 0.88, 0.7, -0.18)
BARRED_BIN = replace(BIN, consistent_low=0.78, consistent_high=0.97)


def gaps(name, right=0.8, wrong=0.6, **more):
    return RewardGaps(name, 120, 0.66, gap_right=right, gap_wrong=wrong, ratio=0.75, wrong_median=0.4, wrong_p90=1.9,
                      sure_wrong=0.034, **more)  # fmt: skip


def logs(sources=3, count=100):
    """Rows of `sources.parquet`; the weights of a step sum to one."""
    draw = np.random.default_rng(0)
    return [
        SourceLog(step, f"source {place}", float(weight), 0.6, 0.65, float(draw.uniform(0.05, 0.2)), 1.5)
        for step in range(10, 10 * count + 1, 10)
        for place, weight in enumerate(draw.dirichlet(np.linspace(6, 2, sources)))
    ]


def table_of(rows):
    return pa.Table.from_pylist([vars(row) for row in rows])


def run_of_more(sources=3, **more):
    metrics = {"accuracy": 0.66, "ece": 0.06, **dict.fromkeys(MEASURES, 0.05)}
    metrics |= {f"{key}_low": 0.04 for key in MEASURES} | {f"{key}_high": 0.07 for key in MEASURES}
    for key, first in (("accuracy", 0.6), ("ece", 0.04), ("log_loss", 0.6)):
        metrics |= {f"{key}/source=source {place}": first + 0.02 * place for place in range(sources)}
    rows = [gaps("all", gap_right_low=0.7, gap_right_high=0.9, gap_wrong_low=0.5, gap_wrong_high=0.7)]
    rows += [gaps(f"source=source {place}", 0.8, 0.5 + 0.1 * place) for place in range(sources)]
    return Run(
        "more", metrics, {"objective": "more", "model_name_or_path": "base"}, {}, [BIN], reward_gaps=rows,
        sources=logs(sources), **more,
    )  # fmt: skip


def section(run, title):
    found = re.split(r"<h2", runs_page([run]))
    (part,) = [part for part in found[1:] if f">{title}<" in part.split("</h2>")[0]]
    return check(f"<section><h2{part}".split("</section>")[0] + "</section>")


def test_every_measure_stands_with_its_interval_and_a_sentence():
    words = section(run_of_more(), "Calibration")
    for name, meaning in MEASURES.values():
        assert name in words
        assert meaning in words
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
    assert "0.7 (0.61\xa0to\xa00.79)" in words
    assert "18 points below its confidence: over-confident" in words
    assert "intervals" not in section(Run("a", {}, reliability=[PLAIN_BIN]), "Calibration")
    drawn = runs_page([Run("a", {}, reliability=[BIN])]).count("<path")
    assert drawn == runs_page([Run("a", {}, reliability=[PLAIN_BIN])]).count("<path") + 1


def test_bins_show_where_a_calibrated_model_would_lie():
    words = section(Run("a", {}, reliability=[BARRED_BIN, PLAIN_BIN]), "Calibration")
    assert "0.78\xa0to\xa00.97" in words
    assert "1 of 2 bins lies outside" in words
    assert "0.7 (0.61\xa0to\xa00.79)" in words
    # The bar takes the place of the thin line.
    drawn = runs_page([Run("a", {}, reliability=[BARRED_BIN])]).count("<path")
    assert drawn == runs_page([Run("a", {}, reliability=[BIN])]).count("<path")
    inside = replace(BARRED_BIN, consistent_low=0.6)
    assert "0 of 1 bins lie outside" in section(Run("a", {}, reliability=[inside]), "Calibration")


def test_what_the_intervals_take_as_given_is_said():
    run = Run("a", {"ece": 0.1, "brier": 0.2, "intervals_given_annotators": True})
    assert "given these annotators" in section(run, "Results")
    assert "given these" not in section(Run("a", {"ece": 0.1, "brier": 0.2}), "Results")


def test_the_largest_gaps_on_wrong_pairs_come_first_after_the_whole():
    rows = [gaps("source=a", wrong=0.2), gaps("all", wrong=0.6), gaps("source=b", wrong=0.9)]
    figure = gaps_figure(rows)
    places = [figure.svg.index(f">{name}<") for name in ("all pairs", "source=b", "source=a")]
    assert places == sorted(places)
    assert "0.75 times" in figure.reading
    words = section(Run("a", {}, reward_gaps=rows), "Calibration")
    assert "3.4\xa0%" in words
    many = [gaps(f"source={place}", wrong=place) for place in range(30)]
    drawn = gaps_figure(many).svg
    assert ">source=29<" in drawn
    assert ">source=2<" not in drawn
    assert "source=2" in section(Run("a", {}, reward_gaps=many), "Calibration"), "all are in the table"


def test_gaps_that_are_not_known_are_left_out():
    assert gaps_figure([]) is None
    assert gaps_figure([RewardGaps("all", 0)]) is None
    check(runs_page([Run("a", {}, reward_gaps=[RewardGaps("source=a", 0), RewardGaps("all", 3, gap_right=0.4)])]))


def test_calibration_error_by_source_is_drawn_the_highest_first():
    words = section(run_of_more(), "Calibration")
    assert "Calibration error by source" in words
    assert "“\u2068source 2\u2069” 0.08, “\u2068source 0\u2069” 0.04: 4 points apart" in words


def test_sources_are_drawn_and_averaged():
    words = section(run_of_more(), "Sources")
    for place in range(3):
        weights = [log.weight for log in logs() if log.source == f"source {place}"]
        assert f"{np.mean(weights):.3g}" in words
    assert "the mean of up to 4 logs" in words


def test_of_many_sources_the_heaviest_eight_are_drawn_and_all_are_in_the_table():
    page = sources_section(logs(11))
    weight, error = page.blocks[0].items
    for figure in (weight, error):
        assert [name for _, name in figure.legend] == [f"source {place}" for place in range(8)]
        assert "8 of 11" in figure.reading
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
    assert sources_section([]) is None
    nothing = [None] * 5
    for numbers in (nothing, [0.0, *nothing[1:]], [math.nan, None, None, math.inf, None]):
        words = section(Run("a", {}, sources=[SourceLog(1, None, *numbers)]), "Sources")
        assert not re.search(r"\b(?:nan|inf)\b", words)
    check(runs_page([Run("a", {}, sources=[SourceLog(1, "a", *[0.5] * 5)] * 200)]))


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_names_stay_texts(text):
    rows = [SourceLog(step, name, *[0.5] * 5) for step in range(3) for name in (text, "b")]
    run = Run(
        "a",
        {f"ece/source={text}": 0.1, "ece/source=b": 0.2},
        reward_gaps=[gaps(text), gaps("all")],
        sources=rows,
    )
    page = runs_page([run])
    check(page)
    assert "<script" not in page
    assert "<img" not in page


def test_the_files_of_a_folder_are_read(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps({"ece/source=a": 0.1, "ece/source=b": 0.2}))
    write_record(folder / "reliability.json", [BIN, PLAIN_BIN])
    rows = [{"slice": "all", "pairs": 9, "gap_right": 0.8, "gap_wrong": 0.6, "unknown": 3}]
    (folder / "over_rewarding.json").write_text(json.dumps(rows))
    pq.write_table(table_of(logs(2, 4)), folder / "sources.parquet")
    report([folder], tmp_path / "page.html")
    run = Run(
        "run", {"ece/source=a": 0.1, "ece/source=b": 0.2}, reliability=[BIN, PLAIN_BIN], sources=logs(2, 4),
        reward_gaps=[RewardGaps("all", 9, gap_right=0.8, gap_wrong=0.6)],
    )  # fmt: skip
    assert (tmp_path / "page.html").read_text() == runs_page([run])
    (folder / "over_rewarding.json").write_text('[{"slice": "all", "pairs": 1, "gap_right": "far"}]')
    with pytest.raises(PluralignError, match=r"over_rewarding\.json, \[0\]\.gap_right: found 'far', expected a number"):
        report([folder], tmp_path / "page.html")
    (folder / "over_rewarding.json").unlink()
    texts = table_of(logs(2, 4)).set_column(2, "weight", pa.array(["much"] * 8))
    pq.write_table(texts, folder / "sources.parquet")
    with pytest.raises(PluralignError, match=r"sources\.parquet, row 1\.weight: found 'much', expected a number"):
        report([folder], tmp_path / "page.html")
    pq.write_table(pa.table({"step": [1]}), folder / "sources.parquet")
    with pytest.raises(PluralignError, match=r"sources\.parquet: lacks the column source and weight"):
        report([folder], tmp_path / "page.html")

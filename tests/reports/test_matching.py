"""The section of a policy's matching, and matching side by side."""

import json
import re

import numpy as np
import pytest

from pluralign.core.errors import PluralignError
from pluralign.core.records import record_of, write_record
from pluralign.evaluation.policies.answer_lists import AnswerLists, matching_over, pair_plots
from pluralign.reports.matching import (
    LISTS,
    MEASURES,
    TEXTS,
    Margins,
    MatchingLists,
    MatchingPlots,
    margins_figure,
    matching_section,
)
from pluralign.reports.page import Figures, Table
from pluralign.reports.runs import Run, runs_page
from pluralign.workflows.report import report
from reports.test_page import check


def run_of_matching(name="policy", seed=0, **config):
    draw = np.random.default_rng(seed)
    metrics, rows = {"accuracy": 0.6}, []
    for on, (end, _) in LISTS.items():
        values = draw.normal(size=(3, 120)) * np.array([[1.0], [4.0], [2.0]])
        lists = AnswerLists.of(*values, np.arange(120), np.arange(0, 121, 4), np.arange(30), np.ones(30))
        metrics |= matching_over(lists, suffix=end, replicates=20)
        rows.append(record_of({"on": on, **pair_plots(lists)}, MatchingPlots, "matching.json"))
    metrics |= dict.fromkeys(TEXTS, 0.5) | {f"{key}/reference": 0.4 for key in TEXTS}
    metrics |= {"minority_mass_per_token": 0.7, "said_wanted_tv": 0.2, "said_wanted_tv_low": 0.1,
                "said_wanted_tv_high": 0.3, "said/kind=brief": 0.7, "wanted/kind=brief": 0.5, "said/kind=warm": 0.3,
                "said/kind=warm_low": 0.25, "said/kind=warm_high": 0.35, "wanted/kind=warm": 0.5}  # fmt: skip
    return Run(name, metrics, {"command": "evaluate", "model": "runs/policy", **config}, matching=rows)


def test_every_measure_stands_with_its_interval_and_a_sentence():
    run = run_of_matching()
    page = check(runs_page([run]))
    for name, meaning in [*MEASURES.values(), *TEXTS.values()]:
        assert name in page
        assert meaning in page
    for _, name in LISTS.values():
        assert page.count(name) >= 2
    low, high = (run.value(f"pm_divergence/on=given_{end}") for end in ("low", "high"))
    assert f"({low:.3g}\xa0to\xa0{high:.3g})" in page


def test_what_is_said_stands_beside_what_people_put_first():
    run = run_of_matching()
    page = runs_page([run])
    assert "What is said, and what annotators put first" in check(page)
    (table,) = [one for one in matching_section(run.matching, run.value, ["brief", "warm"]).blocks
                if isinstance(one, Table) and one.head[0] == "kind"]  # fmt: skip
    assert table.rows == [
        ["brief", "0.7", "0.5"],
        ["warm", "0.3 (0.25\xa0to\xa00.35)", "0.5"],
        ["distance (total variation)", "0.2 (0.1\xa0to\xa00.3)", ""],
    ]
    rows = re.findall(r'<th scope="row"><bdi>(.*?)</bdi>', page)
    assert rows.count("warm") == 1
    assert "warm_low" not in rows, "the end of an interval is no kind"


def test_what_was_not_drawn_is_not_shown():
    run = run_of_matching()
    given = {key: value for key, value in run.metrics.items() if "on=given" in key}
    section = matching_section(run.matching[2:], given.get)
    assert [name for name in section.blocks[-1].head if name in dict(LISTS.values()).values()] == [LISTS["given"][1]]
    assert isinstance(section.blocks[-1], Table), "no answers, so no table of them"
    assert sum(isinstance(block, Figures) for block in section.blocks) == 2
    assert matching_section([], {"accuracy": 0.5}.get) is None
    assert "Measures of matching" in check(runs_page([Run("a", given)])), "numbers alone, without a file"


def test_saturation_stands_in_words():
    run = run_of_matching()
    run.metrics.update({"saturation": 0.5, "saturation/reference": 0.25, "saturation/reward": 0.04})
    section = matching_section(run.matching, run.value)
    figure = section.blocks[2].items[0]
    for words in ("180 pairs", "the reward model on 4\xa0%", "the policy on 50\xa0%", "the reference on 25\xa0%"):
        assert words in figure.reading
    assert [len(row) for row in figure.table.rows] == [4] * 20


def test_points_outside_the_frame_are_counted():
    points = [Margins(1.0, 1.0, 0.5)] * 39 + [Margins(1.0, 90.0, 0.0)]
    assert "1 of 40 pairs" in margins_figure(points).reading
    assert "40" not in margins_figure([*points[:39], points[0]]).reading
    margins_figure([])


def test_runs_are_compared_if_one_reward_model_judged_them():
    runs = [run_of_matching("a", 0, reward="rm"), run_of_matching("b", 1, reward="rm")]
    compared = [f"{title} of each run with its interval" for title in ("Matching divergence", "Minority mass kept")]
    page = runs_page(runs)
    check(page)
    assert all(title in page for title in compared)
    runs[1].config["reward"] = "another"
    page = runs_page(runs)
    assert not [title for title in compared if title in page]
    assert "Accuracy of each run with its interval" in page  # needs no reward model


def test_files_are_read_and_damaged_ones_named(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    run = run_of_matching()
    (folder / "metrics.json").write_text(json.dumps(run.metrics))
    write_record(folder / "matching.json", MatchingLists(run.matching))
    report([folder], tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == runs_page([Run("run", run.metrics, matching=run.matching)])
    for change, expected in (
        ({"pairs": "many"}, r"matching\.json, lists\[0\]\.pairs: found 'many'"),
        ({"bin_edges": [0, 1]}, r"matching\.json, lists\[0\]: found 2 bin_edges for 20 shares"),
    ):
        (folder / "matching.json").write_text(json.dumps({"lists": [vars(run.matching[0]) | {"points": []} | change]}))
        with pytest.raises(PluralignError, match=expected):
            report([folder], tmp_path / "page.html")

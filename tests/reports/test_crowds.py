"""The section of predicted distributions next to votes."""

import json
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pluralign.core.errors import PluralignError
from pluralign.reports.crowds import MEASURES, Crowds, VotedResponse, crowds_section
from pluralign.reports.page import Figures, Table
from pluralign.reports.runs import Run, runs_page
from pluralign.workflows.report import report
from reports.conftest import HOSTILE
from reports.test_page import check

LABELS = ["agree", "pass", "disagree"]


def crowds(count=20, labels=LABELS, seed=0):
    draw = np.random.default_rng(seed)
    predicted, voted = draw.dirichlet(np.ones(len(labels)), (2, count))
    low, high = voted * 0.8, np.minimum(voted * 1.2, 1)
    return Crowds(
        list(labels),
        [
            VotedResponse(f"prompt {n % 4}", f"response {n}", n + 1.0, predicted[n, 0],
                          *(shares[n].tolist() for shares in (voted, low, high, predicted)))
            for n in range(count)
        ],
    )  # fmt: skip


def run_with(crowds, **metrics):
    config = {"objective": "dprm", "model_name_or_path": "base"}
    return Run("dprm", {"total_variation": 0.3} | metrics, config, crowds=crowds)


def test_the_closest_and_farthest_responses_with_many_votes_are_drawn():
    given = crowds()
    section = crowds_section(given, {"total_variation": 0.3}.get)
    apart = [np.abs(np.array(one.predicted) - one.voted).sum() / 2 for one in given.responses]
    order = [place for place in np.argsort(apart) if given.responses[place].votes >= 10.5]
    drawn = [block for block in section.blocks if isinstance(block, Figures)][1:]
    titles = [[re.sub("[\u2068\u2069“”]", "", figure.title) for figure in block.items] for block in drawn]
    assert titles == [
        [f"response {place}" for place in order[:3]],
        [f"response {place}" for place in order[::-1][:3]],
    ]
    table = section.blocks[-1]
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows] == [f"response {place}" for place in np.argsort(apart)[::-1]]
    assert table.rows[0][-1] == pytest.approx(max(apart))


def test_measures_stand_with_their_intervals():
    metrics = dict.fromkeys(MEASURES, 0.25) | {"share_ece_low": 0.1, "share_ece_high": 0.4}
    table = crowds_section(crowds(), metrics.get).blocks[0]
    assert [row[0] for row in table.rows] == [name for name, _ in MEASURES.values()]
    assert "0.25 (0.1\xa0to\xa00.4)" in [row[1] for row in table.rows]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_few_responses_are_drawn_once(count):
    section = crowds_section(crowds(count), {}.get)
    figures = [figure for block in section.blocks if isinstance(block, Figures) for figure in block.items][1:]
    assert len({figure.title for figure in figures}) == len(figures) <= count
    check(runs_page([run_with(crowds(count))]))


def test_responses_with_undefined_shares_are_left_out():
    given = crowds(3)
    first, second, third = given.responses
    none = [None] * 3
    given.responses[:] = [
        replace(first, low=none, high=none, expected_reward=None),
        replace(second, predicted=[float("nan"), 0.5, 0.5]),
        replace(third, voted=[float("nan"), 0.5, 0.5]),
    ]
    section = crowds_section(given, {}.get)
    assert [row[0] for row in section.blocks[-1].rows] == ["response 0"]
    assert crowds_section(crowds(0), {}.get) is None
    check(runs_page([run_with(given)]))


def test_many_labels_show_the_largest():
    labels = [f"label {place}" for place in range(20)]
    section = crowds_section(crowds(2, labels), {}.get)
    drawn = section.blocks[2].items[0].svg
    assert sum(f">{label}<" in drawn for label in labels) == 12


def test_hostile_texts_are_texts():
    texts = list(HOSTILE.values())
    given = crowds(len(texts), texts[:3])
    given.responses[:] = [
        replace(one, response=text, prompt=[{"role": text, "content": text}])
        for one, text in zip(given.responses, texts, strict=True)
    ]
    check(runs_page([run_with(given)]))


def table_of(given):
    rows = []
    for one in given.responses:
        row = {key: getattr(one, key) for key in ("prompt", "response", "votes", "expected_reward")} | {"variance": 0.1}
        for key in ("voted", "low", "high", "predicted"):
            row |= {f"{key}_{label}": share for label, share in zip(given.labels, getattr(one, key), strict=True)}
        rows.append(row)
    return pa.Table.from_pylist(rows)


def write(folder, table):
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps({"total_variation": 0.3}))
    pq.write_table(table, folder / "crowds.parquet")
    return folder


def test_a_folder_is_read_and_a_damaged_table_refused(tmp_path):
    table = table_of(crowds())
    report(write(tmp_path / "good", table), tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == runs_page([Run("good", {"total_variation": 0.3}, crowds=crowds())])
    texts = table.set_column(2, "votes", pa.array(["many"] * 20))
    for name, damaged, expected in (
        ("column", table.drop(["low_pass"]), "lacks the column low_pass"),
        ("labels", table.select(["prompt", "votes"]), "predicts no label"),
        ("text", texts, "crowds.parquet, row 1.votes: found 'many', expected a number"),
    ):
        with pytest.raises(PluralignError, match=expected):
            report(write(tmp_path / name, damaged), tmp_path / "page.html")
    (tmp_path / "good" / "crowds.parquet").write_bytes(b"no table")
    with pytest.raises(PluralignError, match="not a readable Parquet file"):
        report(tmp_path / "good", tmp_path / "page.html")

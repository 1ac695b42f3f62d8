"""The section of predicted distributions beside votes."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pluralign.core.errors import PluralignError
from pluralign.reports.comparison import runs_page
from pluralign.reports.crowds import MEASURES, columns_of, crowds_section
from pluralign.reports.page import Figures, Table
from pluralign.reports.runs import Run
from pluralign.workflows.report import report
from reports.conftest import HOSTILE
from reports.test_page import check

LABELS = ["agree", "pass", "disagree"]


def columns(items=20, labels=LABELS, seed=0):
    draw = np.random.default_rng(seed)
    predicted, voted = draw.dirichlet(np.ones(len(labels)), (2, items))
    found = {
        "prompt": [f"prompt {place % 4}" for place in range(items)],
        "response": [f"response {place}" for place in range(items)],
        "votes": [float(place + 1) for place in range(items)],
        "expected_reward": predicted[:, 0].tolist(),
        "variance": predicted[:, 1].tolist(),
    }
    for place, label in enumerate(labels):
        found[f"voted_{label}"] = voted[:, place].tolist()
        found[f"low_{label}"] = (voted[:, place] * 0.8).tolist()
        found[f"high_{label}"] = np.minimum(voted[:, place] * 1.2, 1).tolist()
        found[f"predicted_{label}"] = predicted[:, place].tolist()
    return found


def run_with(crowds, **metrics):
    return Run(
        "dprm",
        {"total_variation": 0.3} | metrics,
        {"objective": "dprm", "model_name_or_path": "base"},
        crowds=crowds,
    )


def test_what_is_drawn_is_nearest_and_farthest_of_the_much_voted():
    given = columns()
    section = crowds_section(given, {"total_variation": 0.3}.get)
    apart = sum(np.abs(np.array(given[f"predicted_{label}"]) - given[f"voted_{label}"]) for label in LABELS) / 2
    order = [place for place in np.argsort(apart) if given["votes"][place] >= 10.5]
    drawn = [block for block in section.blocks if isinstance(block, Figures)][1:]
    titles = [[re.sub("[\u2068\u2069“”]", "", figure.title) for figure in block.items] for block in drawn]
    assert titles == [
        [f"response {place}" for place in order[:3]],
        [f"response {place}" for place in order[::-1][:3]],
    ]
    table = section.blocks[-1]
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows] == [f"response {place}" for place in np.argsort(-apart)]
    assert table.rows[0][-1] == pytest.approx(apart.max())


def test_measures_stand_with_their_intervals():
    metrics = dict.fromkeys(MEASURES, 0.25) | {"share_ece_low": 0.1, "share_ece_high": 0.4}
    page = check(runs_page([run_with(columns(), **metrics)]))
    for title, words in MEASURES.values():
        assert title in page
        assert words[:30] in page
    assert "0.25 (0.1 to 0.4)" in page


@pytest.mark.parametrize("items", [1, 2, 4])
def test_few_items_are_drawn_once(items):
    section = crowds_section(columns(items), {}.get)
    figures = [figure for block in section.blocks if isinstance(block, Figures) for figure in block.items][1:]
    assert len({figure.title for figure in figures}) == len(figures) <= items
    check(runs_page([run_with(columns(items))]))


def test_numbers_that_are_missing_leave_their_item_out():
    given = columns(3)
    given["predicted_pass"][1] = None
    given["voted_agree"][2] = float("nan")
    given["low_agree"][0] = given["high_agree"][0] = given["expected_reward"][0] = None
    section = crowds_section(given, {}.get)
    assert [row[0] for row in section.blocks[-1].rows] == ["response 0"]
    assert crowds_section(columns(0), {}.get) is None
    check(runs_page([run_with(given)]))


def test_many_labels_show_the_largest():
    labels = [f"label {place}" for place in range(20)]
    section = crowds_section(columns(2, labels), {}.get)
    drawn = section.blocks[2].items[0].svg
    assert sum(f">{label}<" in drawn for label in labels) == 12


def test_hostile_texts_are_texts():
    texts = list(HOSTILE.values())
    given = columns(len(texts), texts[:3])
    given["response"], given["prompt"] = texts, [[{"role": text, "content": text}] for text in texts]
    check(runs_page([run_with(given)]))


def write(folder, table):
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps({"total_variation": 0.3}))
    pq.write_table(table, folder / "crowds.parquet")
    return folder


def test_a_folder_is_read_and_a_damaged_table_refused(tmp_path):
    given = columns()
    report(write(tmp_path / "good", pa.table(given)), tmp_path / "page.html")
    assert "What the crowd says" in (tmp_path / "page.html").read_text()
    assert set(columns_of(LABELS)) == set(given)
    for name, table, expected in (
        ("column", pa.table(given).drop(["low_pass"]), "cannot be read as the table"),
        ("labels", pa.table(given).select(["prompt", "votes"]), "predicts no label"),
        ("text", pa.table(given | {"votes": ["many"] * 20}), "column 'votes': found 'many', expected a number"),
    ):
        with pytest.raises(PluralignError, match=expected):
            report(write(tmp_path / name, table), tmp_path / "page.html")
    (tmp_path / "good" / "crowds.parquet").write_bytes(b"no table")
    with pytest.raises(PluralignError, match="cannot be read as the table"):
        report(tmp_path / "good", tmp_path / "page.html")

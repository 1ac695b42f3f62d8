"""The annotators of an audit: planted faults reach the table, the page and the metrics; honest towns have none."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from pluralign.judgments.scales import BUILT_IN_SCALES
from pluralign.judgments.table import Judgments
from pluralign.reports.annotators import Annotators, FlaggedAnnotator, annotators_section, metrics_line
from pluralign.scoring.annotator_types import findings
from pluralign.workflows.audit.annotators import audited_annotators
from pluralign.workflows.audit.run import audit

NASTY = '<script>alert(1)</script> & "日本" \u202egnirts'


def town(annotators=48, each=45, seed=0, strength=1.5, faults=True):
    """Two types who rank six responses in opposite ways, with 0 and 1 careless, 2 always first, and 4 copying 3."""
    rng = np.random.default_rng(seed)
    sets = [rng.permutation(6)[:3] for _ in range(each)]
    rows = []
    for annotator in range(annotators):
        for number, responses in enumerate(sets):
            utility = (1 if annotator % 2 else -1) * strength * responses + rng.gumbel(size=3)
            ranks = (-utility).argsort().argsort() + 1
            if faults and annotator in (0, 1):
                ranks = rng.permutation(3) + 1
            if faults and annotator == 2:
                ranks = np.array([1, 2, 3])
            if faults and annotator == 5:
                ranks = np.array(rows[3 * each + number]["ranks"])
            rows.append(
                {
                    "prompt": f"Which one, {number}?",
                    "responses": [f"answer {response}" for response in responses],
                    "ranks": ranks.tolist(),
                    "annotator": f"{annotator} {NASTY}",
                }
            )
    rows.append({"prompt": "Which one, 0?", "responses": ["answer 1", "answer 2"], "ranks": [1, 2]})
    return Judgments.from_rows(rows)


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    town(strength=0.6).write(folder / "town.parquet")
    metrics = audit(folder / "town.parquet", folder / "audit", features="tfidf", types=2, simulations=0)
    return folder / "audit", metrics


def test_planted_faults_are_flagged(audited):
    folder, metrics = audited
    rows = {row["annotator"].split()[0]: row for row in pq.read_table(folder / "annotators.parquet").to_pylist()}
    assert len(rows) == 48
    flagged = {name: row["flags"] for name, row in rows.items() if row["flags"]}
    assert set(flagged) == {"0", "1", "2", "3", "5"}
    assert "careless" in flagged["0"]
    assert "careless" in flagged["1"]
    assert "straight-liner" in flagged["2"]
    assert flagged["3"] == flagged["5"] == ["near-copy"]
    assert metrics["flagged/near-copy"] == 2
    assert metrics["flagged/straight-liner"] == 1
    assert metrics["named_annotators"] == 48


def test_columns_are_what_the_documentation_says(audited):
    table = pq.read_table(audited[0] / "annotators.parquet")
    assert table.column_names == [
        "annotator", "judgments", "type", "probability_1", "probability_2", "scale", "scale_low", "scale_high",
        "agreement", "flags", "weight",
    ]  # fmt: skip
    scale, low, high, weight = (
        table.column(name).to_numpy() for name in ("scale", "scale_low", "scale_high", "weight")
    )
    # The mean of a posterior that is nearly a point can be a little outside of its quantiles.
    assert (low <= scale + 1e-3).all()
    assert (scale <= high + 1e-3).all()
    assert np.allclose(weight, np.minimum(scale, 1))
    names = [name.split()[0] for name in table.column("annotator").to_pylist()]
    assert set(np.array(names)[np.argsort(weight)[:2]]) <= {"0", "1", "2"}
    assert table.column("judgments").to_pylist() == [45] * 48


def test_the_page_and_the_line_name_them(audited):
    folder, metrics = audited
    page = (folder / "report.html").read_text()
    assert "Careless or mechanical annotators" in page
    assert "near-copy (of “" in page
    assert "<script" not in page.lower()
    line = metrics_line(metrics)
    assert "of 48 annotators look careless" in line
    assert line in page
    assert json.loads((folder / "audit.json").read_text())["annotators"]["counts"]["near-copy"] == 2


def test_an_annotator_with_the_opposite_taste_keeps_their_weight():
    judgments = town(annotators=31, faults=False, strength=0.6)
    names = [name or "" for name in judgments.column("annotator")]
    kept = [row for row, name in enumerate(names) if name and (int(name.split()[0]) % 2 or name.startswith("0 "))]
    fitted = findings(judgments.select(kept), types=1, features="tfidf", simulations=0)
    table = audited_annotators(fitted).table.to_pylist()
    contrary = [row for row in table if "contrary" in row["flags"]]
    assert [row["annotator"][0] for row in contrary] == ["0"]
    assert contrary[0]["flags"] == ["contrary"]
    assert contrary[0]["weight"] == 1


def test_few_honest_towns_have_a_flag():
    flagged = 0
    for seed in range(10):
        fitted = findings(town(40, 12, seed, 0.6, faults=False), types=2, features="tfidf", simulations=0)
        flagged += bool(audited_annotators(fitted).page.flagged)
    assert flagged <= 1


def test_labels_are_flagged_too():
    scale, rng, rows = BUILT_IN_SCALES["agree-pass-disagree"], np.random.default_rng(0), []
    for annotator in range(30):
        for number in range(25):
            liking = (1 if annotator % 2 else -1) * (1 if number % 2 else -1) * 1.5 + rng.logistic()
            label = "agree" if annotator == 7 or liking > 0 else "disagree"
            rows.append({"prompt": "?", "responses": [f"s{number}"], "labels": [label], "annotator": f"a{annotator}"})
    fitted = findings(Judgments.from_rows(rows, scale), types=2, simulations=0)
    table = {row["annotator"]: row for row in audited_annotators(fitted).table.to_pylist()}
    assert "straight-liner" in table["a7"]["flags"]
    assert sum("straight-liner" in row["flags"] for row in table.values()) == 1


def test_annotators_without_an_id_have_no_row():
    judgments = town(8, 10, faults=False)
    rows = [{**row, "annotator": None} for row in judgments.rows()]
    found = audited_annotators(findings(Judgments.from_rows(rows), types=1, features="tfidf", simulations=0))
    assert found.table.num_rows == 0
    assert found.metrics == {}
    assert metrics_line(found.metrics) == ""


def test_a_page_without_flags_says_so():
    section = annotators_section(Annotators(12, 0.0, 0.0, {}, []))
    assert "None of 12 annotators" in section.blocks[0].text
    row = FlaggedAnnotator("ann", ["careless"], 9, 0.1, 0.0, 0.3, None, 0.1, [])
    flagged = annotators_section(replace(Annotators(12, 0.3, 0.1, {"careless": 1}, []), flagged=[row]))
    assert "1 of 12 annotators looks careless" in flagged.blocks[0].text

"""`route`, and `evaluate` on what it reads, through the command line."""

import json

import pyarrow.parquet as pq
import pytest

from architectures import write_model
from mixtures import write_run
from pluralign.judgments.table import Judgments


@pytest.fixture(scope="module")
def base(tiny_model, tmp_path_factory):
    return write_model("llama", tiny_model, tmp_path_factory.mktemp("cli-route") / "base")


@pytest.fixture(scope="module")
def people(base):
    return write_run(base, base.parent / "run", {"type-1": 0.6, "type-2": 0.4}, {"w0": [0.2, 0.8]}, beta=0.7)


@pytest.fixture(scope="module")
def table(town_rows, base):
    rows = [*town_rows[:18], {"prompt": "Tea?", "responses": ["Yes"], "ranks": [1], "annotator": "silent"}]
    Judgments.from_rows([row | {"group": "all"} for row in rows]).write(base.parent / "town.parquet")
    return base.parent / "town.parquet"


def test_route_writes_a_row_for_each_annotator_and_says_what_it_found(run, people, table, tmp_path):
    code, out, _ = run("route", people, table, "--out", tmp_path / "routed.parquet")
    assert code == 0
    found = pq.read_table(tmp_path / "routed.parquet")
    assert found.column_names == [
        "annotator", "row", "judgments", "type", "adapter", "adapter_path", "probability_1", "probability_2",
        "log_likelihood", "entropy",
    ]  # fmt: skip
    assert len(found) == 10
    assert "1 of 10 annotators" in out
    assert f"written to {tmp_path / 'routed.parquet'}" in out
    for kind in (1, 2):
        count = found.column("type").to_pylist().count(kind)
        assert f"type {kind}, adapter type-{kind}: {count} of 10 annotators" in out
    code, _, _ = run("route", people, table, "--out", tmp_path / "equal.parquet", "--prior", "uniform")
    assert code == 0
    assert pq.read_table(tmp_path / "equal.parquet").to_pylist()[-1]["probability_1"] == pytest.approx(0.5)


def test_route_writes_the_policy_of_an_annotator(run, people, table, tmp_path):
    words = ["route", people, table, "--out", tmp_path / "routed.parquet", "--continuous"]
    code, out, _ = run(*words, "--policy", f"silent={tmp_path / 'silent'}")
    assert code == 0
    assert f"written to {tmp_path / 'routed.parquet'}, {tmp_path / 'silent'}" in out
    code, out, _ = run("evaluate", tmp_path / "silent", table, "--out", tmp_path / "evaluated")
    assert code == 0
    assert "log-loss of the mixture" not in out
    code, _, err = run(*words, "--policy", "silent")
    assert code == 2
    assert "--policy: found 'silent', expected ANNOTATOR=FOLDER" in err


def test_route_complains_in_one_line(run, people, table, tmp_path):
    for words, expected in (
        ([tmp_path, table], "mixture.json is missing"),
        ([people, tmp_path / "none.parquet"], "none.parquet: no such file"),
        ([people, table, "--prior", "flat"], "'--prior': 'flat' is not one of 'run', 'uniform'"),
    ):
        code, _, err = run("route", *words, "--out", tmp_path / "out.parquet")
        lines = [line for line in err.splitlines() if line.startswith("pluralign:")]
        assert code == 2
        assert len(lines) == 1
        assert expected in lines[0]
        assert not (tmp_path / "out.parquet").exists()


def test_labels_are_read_with_a_scale(run, people, tmp_path):
    file = tmp_path / "labels.jsonl"
    row = {"prompt": "Tea?", "responses": ["Yes", "No"], "labels": ["5", "1"], "annotator": "ann"}
    file.write_text(json.dumps(row) + "\n")
    code, _, _ = run("route", people, file, "--out", tmp_path / "out.parquet", "--label-scale", "1-to-5")
    assert code == 0
    assert pq.read_table(tmp_path / "out.parquet").column("judgments").to_pylist() == [1]


def test_a_run_with_types_is_evaluated(run, people, table, tmp_path):
    code, out, _ = run("evaluate", people, table, "--out", tmp_path / "out")
    assert code == 0
    assert "log-loss of the mixture, in nats" in out
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["unknown_annotators"] == 8
    assert {"accuracy/type=1", "accuracy/type=2", "accuracy/policy=type-1/group=all"} <= metrics.keys()
    assert metrics["left_out"] == 1

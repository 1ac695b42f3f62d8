"""`train`, `evaluate` and `score` with `objective: dprm` through the command line."""

import json
import re

import pyarrow.parquet as pq
import pytest
import yaml

from labelled import SCALE, voted
from pluralign.judgments import Judgments
from pluralign.judgments.votes import votes_of, write_votes
from pluralign.scoring.reward_models import LabelModel, load_reward_model


@pytest.fixture
def files(tmp_path):
    voted().write(tmp_path / "train.parquet")
    voted(seed=7).write(tmp_path / "test.parquet")
    return tmp_path


@pytest.fixture
def config(files, tiny_model):
    def write(**values):
        content = {
            "objective": "dprm",
            "model_name_or_path": str(tiny_model),
            "train_files": [str(files / "train.parquet")],
            "eval_files": [str(files / "test.parquet")],
            "output_dir": str(files / "run"),
            "learning_rate": 1e-3,
            "max_steps": 4,
            "logging_steps": 2,
            "report_to": "none",
            "use_cpu": True,
            "save_strategy": "no",
        }
        file = files / "config.yaml"
        merged = {key: value for key, value in {**content, **values}.items() if value is not None}
        file.write_text(yaml.safe_dump(merged, sort_keys=False))
        return file

    return write


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text(), parse_constant=pytest.fail)


def test_a_run_from_yaml_to_a_report(run, config, files):
    code, _, err = run("train", config(item_weight="votes"))
    assert code == 0, err
    folder = files / "run"
    metrics = metrics_of(folder)
    assert {"eval_loss", "train_loss", "transport_cost", "total_variation", "majority_accuracy"} <= metrics.keys()
    assert metrics["items"] == 12
    resolved = yaml.safe_load((folder / "config.yaml").read_text())
    assert (resolved["loss"], resolved["item_weight"], resolved["delta"]) == ("energy", "votes", 0.1)
    assert not [file for file in folder.rglob("*") if file.suffix in (".bin", ".pt", ".pth", ".pkl")]
    assert isinstance(load_reward_model(folder, device="cpu"), LabelModel)
    assert "distributions" in (folder / "README.md").read_text()
    before = (folder / "metrics.json").stat().st_mtime_ns
    assert run("train", config(item_weight="votes"))[0] == 0
    assert (folder / "metrics.json").stat().st_mtime_ns == before

    code, out, err = run("evaluate", folder, files / "test.parquet", "--out", files / "evaluated")
    assert code == 0, err
    assert "total variation from the votes" in out
    for rival in ("the marginal", "logistic regression"):
        assert re.search(
            rf"^(Better|Not better) than {rival}.* \[-?0\.\d+, -?0\.\d+\] nats a vote\.$", out, re.MULTILINE
        )
    again = metrics_of(files / "evaluated")
    for key in ("total_variation", "transport_cost", "vote_log_loss", "share_ece"):
        assert again[key] == pytest.approx(metrics[key], rel=1e-5), key
    tables = [pq.read_table(path / "crowds.parquet") for path in (folder, files / "evaluated")]
    assert tables[0].column_names == tables[1].column_names
    assert tables[0].column("votes").equals(tables[1].column("votes"))

    code, _, err = run("report", folder, files / "evaluated", "--out", files / "page.html")
    assert code == 0, err
    page = (files / "page.html").read_text()
    assert page.count("What the crowd says") == 2
    assert "Total variation of each run" in page

    assert run("score", folder, files / "test.parquet", "--out", files / "s.parquet", "--quantile", "0.2")[0] == 0
    assert set(pq.read_table(files / "s.parquet").column("reward").to_pylist()) <= set(SCALE.rewards)
    code, _, err = run("evaluate", folder, files / "test.parquet", "--out", files / "other", "--quantile", "2")
    assert code == 2
    assert "quantile: found 2.0, expected a number above 0, at most 1" in err


def test_best_of_chooses_by_a_quantile(run, config, files, tiny_model):
    assert run("train", config(eval_files=None))[0] == 0
    options = ("--reward", files / "run", "--n", "2", "--max-new-tokens", "4", "--quantile", "0.2")
    code, _, err = run("best-of", tiny_model, files / "train.parquet", *options, "--out", files / "best.parquet")
    assert code == 0, err
    rewards = pq.read_table(files / "best.parquet.answers.parquet").column("reward").to_pylist()
    assert {reward for reward in rewards if reward is not None} <= set(SCALE.rewards)
    code, _, err = run(
        "best-of", tiny_model, files / "train.parquet", "--reward", tiny_model, "--out", files / "b.parquet"
    )
    assert code == 2
    assert "is not a reward model" in err


def test_a_vote_state_is_an_input_of_the_run(run, config, files):
    """A state that changed makes another run."""
    write_votes(votes_of(voted(), strength=3.0), files / "state.parquet")
    assert run("train", config(vote_state=str(files / "state.parquet")))[0] == 0
    assert "state.parquet" in (files / "run" / "environment.json").read_text()
    write_votes(votes_of(voted(), strength=4.0), files / "state.parquet")
    code, _, err = run("train", config(vote_state=str(files / "state.parquet")))
    assert code == 2
    assert "state.parquet" in err


def test_labels_that_compare_are_judged_as_rewards_too(run, config, files):
    rows = [
        {"prompt": f"{number % 5}?", "responses": [f"yes {number % 5}", "no"], "labels": ["agree", "disagree"],
         "annotator": f"a{number}"}
        for number in range(20)
    ]  # fmt: skip
    Judgments.from_rows(rows, SCALE).write(files / "test.parquet")
    assert run("train", config())[0] == 0
    metrics = metrics_of(files / "run")
    assert {"accuracy", "log_loss", "ece", "total_variation", "eval_loss"} <= metrics.keys()
    assert (files / "run" / "reliability.json").exists()


WRONG = [
    ({"loss": "dpo"}, "config.yaml, line 14, key 'loss': found 'dpo', expected one of ot, w1, energy, ce"),
    ({"item_weight": "vote"}, "key 'item_weight': found 'vote', expected one of equal, votes"),
    ({"cost_matrix": [[0, "far"]]}, "key 'cost_matrix': found"),
    ({"cost": "matrix"}, "cost_matrix: goes with cost: matrix, and only with it"),
    ({"cost": "matrix", "cost_matrix": [[0, 1], [1, 0]]}, "cost: expected 3 rows of 3 numbers"),
    ({"smoothing": 0.7}, "smoothing: found 0.7"),
    ({"vote_state": "nowhere.parquet"}, "nowhere.parquet"),
    ({"preset": "authors"}, "key 'preset': found 'authors', expected one of paper, DPRM_C, DPRM_W, DPRM_OT"),
    ({"prior_strength": "many"}, "key 'prior_strength': found 'many', expected a number or one of labels, estimated"),
]


@pytest.mark.parametrize(("values", "expected"), WRONG, ids=[str(values) for values, _ in WRONG])
def test_a_wrong_value_is_one_clear_line(values, expected, run, config):
    code, _, err = run("train", config(**values))
    lines = [line for line in err.splitlines() if line.startswith("pluralign:")]
    assert code == 2, err
    assert len(lines) == 1
    assert expected in lines[0]


def test_files_without_labels_are_refused(run, config, files, town_rows):
    Judgments.from_rows(town_rows).write(files / "train.parquet")
    code, _, err = run("train", config())
    assert code == 2
    assert "dprm predicts labels, and the training judgments have none" in err

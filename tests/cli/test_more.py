"""`train` with `objective: more` through the command line: files as sources, types, what is written, what is refused."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from pluralign.judgments import Judgments
from pluralign.scoring.reward_models import load_reward_model

WORDS = ("good", "bad", "cat", "tea", "milk")


def table(seed, count, liked, **values):
    """Rankings of people who all like good, and one word more."""
    draw, found = np.random.default_rng(seed), []
    for number in range(count):
        texts = [" ".join(draw.choice(WORDS, 5)) + f" {seed}.{number}.{index}" for index in range(3)]
        scores = [2 * text.split().count("good") + text.split().count(liked) for text in texts]
        row = {
            "prompt": f"Say something about number {number % 6}:",
            "responses": texts,
            "ranks": [1 + sum(other > score for other in scores) for score in scores],
            "annotator": f"{liked}-{number % 4}",
        }
        found.append(row | values)
    return Judgments.from_rows(found)


@pytest.fixture
def files(tmp_path):
    """Two for training and two for evaluation, none with a column source."""
    (tmp_path / "held-out").mkdir()
    for number, (name, liked) in enumerate((("helpful", "tea"), ("polite", "milk"))):
        table(number, 20 + 10 * number, liked).write(tmp_path / f"{name}.parquet")
        table(10 + number, 12, liked).write(tmp_path / "held-out" / f"{name}.jsonl.gz")
    return tmp_path


@pytest.fixture
def config(files, tiny_model):
    def write(**values):
        content = {
            "objective": "more",
            "model_name_or_path": str(tiny_model),
            "train_files": [str(files / "helpful.parquet"), str(files / "polite.parquet")],
            "eval_files": [str(files / "held-out" / f"{name}.jsonl.gz") for name in ("helpful", "polite")],
            "output_dir": str(files / "run"),
            "learning_rate": 1e-3,
            "max_steps": 6,
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


def test_files_are_the_sources_of_a_run(run, config, files):
    code, _, err = run("train", config())
    assert code == 0, err
    folder = files / "run"
    metrics = metrics_of(folder)
    weights = [metrics["weight/source=helpful"], metrics["weight/source=polite"]]
    assert sum(weights) == pytest.approx(1)
    assert min(weights) > 0
    assert (metrics["steps"], metrics["train_judgments"]) == (6, 50)
    assert {f"{key}/source={name}" for key in ("accuracy", "log_loss", "ece") for name in ("helpful", "polite")} <= (
        metrics.keys()
    )
    assert {"accuracy", "eval_loss", "ece"} <= metrics.keys()

    history = pq.read_table(folder / "sources.parquet")
    assert history.column_names == ["step", "source", "weight", "loss", "accuracy", "ece", "gradient_norm"]
    assert history.column("step").to_pylist() == [2, 2, 4, 4, 6, 6]
    assert history.column("source").to_pylist() == ["helpful", "polite"] * 3
    each = history.column("weight").to_numpy().reshape(3, 2)
    np.testing.assert_allclose(each.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(each.mean(0), weights, rtol=1e-9)
    assert all(history.column(name).null_count == 0 for name in history.column_names)

    resolved = yaml.safe_load((folder / "config.yaml").read_text())
    assert (resolved["objective"], resolved["weights"], resolved["sampling"]) == ("more", "more", "balanced")
    assert not [file for file in folder.rglob("*") if file.suffix in (".bin", ".pt", ".pth", ".pkl")]
    reward = load_reward_model(folder, device="cpu").score("Say something about number 1:", ["good", "bad"])
    assert np.isfinite(reward).all()

    before = (folder / "metrics.json").stat().st_mtime_ns
    code, _, err = run("train", config())
    assert code == 0
    assert (folder / "metrics.json").stat().st_mtime_ns == before
    code, _, err = run("train", config(), "--weights", "uniform")
    assert code == 2
    assert "these keys differ: weights ('more' before, 'uniform' now)" in err
    code, _, _ = run("evaluate", folder, files / "held-out" / "helpful.jsonl.gz", "--out", files / "evaluated")
    assert code == 0
    assert metrics_of(files / "evaluated")["accuracy"] == pytest.approx(metrics["accuracy/source=helpful"])


def test_a_run_that_stopped_is_taken_up_again(run, config, files):
    """Its folder ends as that of an undisturbed one, the sources' history included."""
    values = {"save_strategy": "steps", "save_steps": 2, "logging_steps": 1, "new_gradient_share": 0.8}
    assert run("train", config(**values))[0] == 0
    whole = files / "run"
    stopped = files / "stopped"
    assert run("train", config(**values, output_dir=str(stopped)))[0] == 0
    for file in ("metrics.json", "README.md", "model.safetensors", "sources.parquet"):
        (stopped / file).unlink()  # as if it had been killed after the checkpoint of step 2
    for step in (4, 6):
        for file in sorted((stopped / f"checkpoint-{step}").rglob("*"), reverse=True):
            file.unlink()
        (stopped / f"checkpoint-{step}").rmdir()
    before = (stopped / "checkpoint-2" / "model.safetensors").stat().st_mtime_ns
    assert run("train", config(**values, output_dir=str(stopped)))[0] == 0
    assert (stopped / "checkpoint-2" / "model.safetensors").stat().st_mtime_ns == before, "not begun again"
    assert (stopped / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert pq.read_table(stopped / "sources.parquet").equals(pq.read_table(whole / "sources.parquet"))
    again, first = metrics_of(stopped), metrics_of(whole)
    for key in ("weight/source=helpful", "accuracy", "eval_loss"):
        assert again[key] == first[key], key


def test_a_column_names_the_sources_before_the_file_does(run, config, files):
    """One file with a column; two of one name are told apart by their places."""
    joined = [row | {"source": name} for name, seed in (("x", 0), ("y", 1)) for row in table(seed, 10, "tea").rows()]
    Judgments.from_rows([{**row, "id": f"n{number}"} for number, row in enumerate(joined)]).write(files / "one.parquet")
    values = {"eval_files": None, "max_steps": 1, "logging_steps": 10}
    assert run("train", config(train_files=[str(files / "one.parquet")], **values))[0] == 0
    metrics = metrics_of(files / "run")
    assert metrics["weight/source=x"] + metrics["weight/source=y"] == pytest.approx(1)
    same = [str(files / "helpful.parquet"), str(files / "held-out" / "helpful.jsonl.gz")]
    code, _, err = run("train", config(train_files=same, output_dir=str(files / "other"), **values))
    assert code == 0, err
    assert {f"weight/source={file}" for file in same} <= metrics_of(files / "other").keys()


def test_types_from_the_command_line(run, config, files):
    flags = ("--source", "types", "--types", "2", "--features", "tfidf", "--dimensions", "4")
    code, _, err = run("train", config(), *flags)
    assert code == 0, err
    metrics = metrics_of(files / "run")
    assert metrics["weight/type=1"] + metrics["weight/type=2"] == pytest.approx(1)
    history = pq.read_table(files / "run" / "sources.parquet")
    assert set(history.column("source").to_pylist()) == {"1", "2"}
    assert "accuracy/source=helpful" in metrics


def test_fixed_weights_and_raw_from_yaml(run, config, files):
    given = {"helpful": 3, "polite": 1}
    assert run("train", config(weights="fixed", source_weights=given, max_steps=2))[0] == 0
    assert metrics_of(files / "run")["weight/source=helpful"] == pytest.approx(0.75)
    raw = config(preset="raw", max_steps=None, max_length=64, output_dir=str(files / "raw"))
    code, _, err = run("train", raw)
    assert code == 0, err
    metrics = metrics_of(files / "raw")
    assert metrics["steps"] == 0
    assert {"accuracy", "log_loss", "accuracy/source=polite"} <= metrics.keys()
    assert pq.read_table(files / "raw" / "sources.parquet").num_rows == 0
    assert (files / "raw" / "model.safetensors").exists()


WRONG = [
    ({"weights": "mor"}, "config.yaml, line 16, key 'weights': found 'mor', expected one of more, uniform"),
    (
        {"granularity": "batch"},
        "config.yaml, line 16, key 'granularity': found 'batch', expected one of step, micro",
    ),
    ({"new_gradient_share": "much"}, "config.yaml, line 16, key 'new_gradient_share': found 'much', expected"),
    ({"source_weights": [1, 2]}, "config.yaml, line 16, key 'source_weights'"),
    ({"wieghts": "more"}, "config.yaml, line 16, key 'wieghts'"),
    ({"new_gradient_share": 2.0}, "new_gradient_share: found 2.0, expected above 0, at most 1"),
    ({"preset": "top"}, "preset: top trains on one source: say which in only_source"),
    ({"only_source": "rude"}, "only_source: no judgment of 'rude'; there are: helpful, polite"),
    ({"per_device_train_batch_size": 1}, "a step of 1 judgments cannot hold 2 sources"),
    ({"source": "types", "responsibilities": "nowhere.parquet"}, "nowhere.parquet"),
    (
        {"weights": "fixed", "source_weights": {"helpful": 1.0}},
        "source_weights: found helpful, expected one for each",
    ),
]


@pytest.mark.parametrize(("values", "expected"), WRONG, ids=[str(values) for values, _ in WRONG])
def test_a_wrong_value_is_one_clear_line(values, expected, run, config):
    code, _, err = run("train", config(**values))
    lines = [line for line in err.splitlines() if line.startswith("pluralign:")]
    assert code == 2
    assert len(lines) == 1
    assert expected in lines[0]


def test_files_that_are_no_sources_are_refused(run, config, files):
    one = [str(files / "helpful.parquet")]
    code, _, err = run("train", config(train_files=one))
    assert code == 2
    assert "20 of 20 judgments have none: fill the column `source`, or give one file" in err
    code, _, err = run("train", config(train_files=one * 2, output_dir=str(files / "twice")))
    assert code == 2
    assert "helpful.parquet: " in err


def test_what_sharing_gains_a_source_over_its_own_model(run, config, files):
    assert run("train", config(eval_files=None))[0] == 0
    assert run("train", config(eval_files=None, only_source="helpful", output_dir=str(files / "top")))[0] == 0
    table(7, 20, "tea", source="helpful").write(files / "test.parquet")
    given = ("evaluate", files / "run", files / "test.parquet", "--own")
    code, _, err = run(*given, f"helpful={files / 'top'}", "--out", files / "out")
    assert code == 0, err
    found = metrics_of(files / "out")
    key = "sharing_log_loss_gain/source=helpful"
    assert found[f"{key}_low"] <= found[key] <= found[f"{key}_high"]
    run(*given, f"helpful={files / 'run'}", "--out", files / "same")
    assert metrics_of(files / "same")[key] == 0
    for wrong, expected in (
        ("helpful", "expected SOURCE=MODEL"),
        (f"rude={files / 'top'}", "no pair is of the source"),
    ):
        code, _, err = run(*given, wrong, "--out", files / "other")
        assert (code, expected in err) == (2, True), err

"""`train` with `objective: em-dpo`, then `route`, `evaluate` and `report` on the run, through the command line."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from pluralign.judgments import Judgments

LIKED = ("tea", "milk")


def table(seed, annotators, each):
    """People of two groups who want one word each; texts of their own."""
    draw, rows = np.random.default_rng(seed), []
    for person in range(annotators):
        for turn in range(each):
            texts = [
                " ".join(draw.choice(["tea", "milk", "rain", "good"], 4)) + f" {seed}{person}{turn}{number}"
                for number in range(3)
            ]
            scores = [text.split().count(LIKED[person % 2]) + draw.random() / 2 for text in texts]
            rows.append(
                {
                    "prompt": f"Say something about number {draw.integers(5)}:",
                    "responses": texts,
                    "ranks": [1 + sum(other > score for other in scores) for score in scores],
                    "annotator": f"w{person}",
                    "group": LIKED[person % 2],
                }
            )
    return Judgments.from_rows(rows)


@pytest.fixture
def files(tmp_path):
    table(0, 8, 8).write(tmp_path / "train.parquet")
    table(1, 10, 3).write(tmp_path / "test.parquet")  # two of the people are new
    return tmp_path / "train.parquet", tmp_path / "test.parquet"


@pytest.fixture
def config(tmp_path, files, tiny_model):
    def write(**values):
        content = {
            "objective": "em-dpo",
            "model_name_or_path": str(tiny_model),
            "train_files": [str(files[0])],
            "eval_files": [str(files[1])],
            "output_dir": str(tmp_path / "run"),
            "types": 2,
            "features": "tfidf",
            "dimensions": 6,
            "rounds": 1,
            "num_train_epochs": 2,
            "learning_rate": 1e-2,
            "lora_r": 2,
            "report_to": "none",
            "use_cpu": True,
            "save_strategy": "no",
        }
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump({**content, **values}, sort_keys=False))
        return file

    return write


def test_a_run_is_trained_routed_and_evaluated(run, config, files, tmp_path):
    code, out, _ = run("train", config(), "--beta", "0.5")
    assert code == 0
    folder = tmp_path / "run"
    metrics = json.loads((folder / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert metrics["types"] == 2
    assert metrics["identification"] in ("identified", "weak")
    assert metrics["share/type=1"] + metrics["share/type=2"] == pytest.approx(1)
    assert {"log_likelihood", "accuracy", "log_loss", "ece", "mixture_log_loss", "type_accuracy"} <= metrics.keys()
    assert {f"accuracy/policy=type-{kind}/group=tea" for kind in (1, 2)} <= metrics.keys()
    assert metrics["unknown_annotators"] == 2
    assert "accuracy on pairs" in out
    resolved = yaml.safe_load((folder / "config.yaml").read_text())
    assert (resolved["use_peft"], resolved["lora_target_modules"], resolved["beta"]) == (True, ["all-linear"], 0.5)
    assert {
        "mixture.json", "types.json", "identification.json", "responsibilities.parquet", "type-1", "type-2",
        "rounds", "README.md", "environment.json",
    } <= {file.name for file in folder.iterdir()}  # fmt: skip
    assert not (folder / ".partial").exists()
    assert not [file for file in folder.rglob("*") if file.suffix in (".bin", ".pt", ".pth", ".pkl")]

    code, _, _ = run("evaluate", folder, files[1], "--out", tmp_path / "evaluated")
    assert code == 0
    again = json.loads((tmp_path / "evaluated" / "metrics.json").read_text())
    for key in ("accuracy", "log_loss", "mixture_log_loss", "type_accuracy", "accuracy/policy=type-1/group=milk"):
        assert again[key] == pytest.approx(metrics[key], rel=1e-4), key

    code, out, _ = run("route", folder, files[0], "--out", tmp_path / "routed.parquet")
    assert code == 0
    routed = pq.read_table(tmp_path / "routed.parquet").to_pydict()
    assert routed["annotator"] == [f"w{person}" for person in range(8)]
    assert routed["judgments"] == [8] * 8
    shares = np.stack([routed["probability_1"], routed["probability_2"]], 1)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-9)
    assert {path.rpartition("/")[2] for path in routed["adapter_path"]} <= {"type-1", "type-2"}

    before = (folder / "metrics.json").stat().st_mtime_ns
    assert run("train", config(), "--beta", "0.5")[0] == 0
    assert (folder / "metrics.json").stat().st_mtime_ns == before
    code, _, err = run("train", config(rounds=2), "--beta", "0.5")
    assert code == 2
    assert "these keys differ: rounds (1 before, 2 now)" in err
    code, _, _ = run("report", folder, "--out", tmp_path / "page.html")
    assert code == 0
    assert "NaN" not in (tmp_path / "page.html").read_text()


WRONG = [
    ({"types": "few"}, "key 'types': found 'few', expected"),
    ({"types": 0}, "types: found 0, expected auto, or 1 or more"),
    ({"start": "kmean"}, "key 'start': found 'kmean', expected one of latent-class"),
    ({"preset": "papers"}, "key 'preset': found 'papers', expected"),
    ({"use_peft": False}, "key 'use_peft': the objective em-dpo needs"),
    ({"label_smoothing": 0.1, "loss_type": "sigmoid"}, "an E-step needs"),
    ({"types": 30}, "types: found 30, expected 1 to 8, the number of annotators"),
    ({"types": 3, "start": "groups"}, "the table has 2 groups, and types is 3: set types: 2"),
]


@pytest.mark.parametrize(("values", "expected"), WRONG, ids=[str(values) for values, _ in WRONG])
def test_a_wrong_value_is_one_clear_line(values, expected, run, config):
    code, _, err = run("train", config(**values))
    lines = [line for line in err.splitlines() if line.startswith("pluralign:")]
    assert code == 2
    assert len(lines) == 1
    assert expected in lines[0]


def test_one_type_is_a_finished_run_too(run, config, files, tmp_path):
    assert run("train", config(types=1, num_train_epochs=1))[0] == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["types"], metrics["share/type=1"]) == (1, 1.0)
    assert run("evaluate", tmp_path / "run", files[1], "--out", tmp_path / "evaluated")[0] == 0
    assert run("route", tmp_path / "run", files[1], "--out", tmp_path / "routed.parquet")[0] == 0

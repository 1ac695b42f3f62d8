"""`calibrate`, and `evaluate` and `score` on what it stores, through the command line."""

import json

import pyarrow.parquet as pq
import pytest
import yaml

from pluralign.judgments.reading import read
from pluralign.scoring.recalibrated import CALIBRATION
from rewarded import noisy_judgments, write_reward_model


@pytest.fixture
def folder(tiny_model, tmp_path):
    return write_reward_model(tiny_model, tmp_path / "reward")


@pytest.fixture
def table(folder, town_rows, tmp_path):
    path = tmp_path / "held-out.parquet"
    noisy_judgments(folder, town_rows, 0.5).write(path)
    return path


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_calibrate_prints_before_and_after_and_evaluate_uses_it(run, folder, table, tmp_path):
    assert run("evaluate", folder, table, "--out", tmp_path / "before")[0] == 0
    code, out, _ = run("calibrate", folder, table)
    assert code == 0
    stored = json.loads((folder / CALIBRATION).read_text())
    for expected in (
        f"temperature: {stored['temperature']:.4g}",
        "fitted on 480 pairs of 20 prompts",
        f"log_loss: {stored['log_loss_before']:.4f} before, {stored['log_loss_cross_validated']:.4f} cross-validated, "
        f"{stored['log_loss_after']:.4f} after",
        f"ece: {stored['ece_before']:.4f} before",
        f"written to {folder / CALIBRATION}",
    ):
        assert expected in out, expected
    code, out, _ = run("evaluate", folder, table, "--out", tmp_path / "after")
    assert code == 0
    assert "temperature" in json.loads((tmp_path / "after" / "metrics.json").read_text())
    assert metrics(tmp_path / "after")["log_loss"] < metrics(tmp_path / "before")["log_loss"]
    assert run("evaluate", folder, table, "--out", tmp_path / "raw", "--raw")[0] == 0
    assert metrics(tmp_path / "raw") == metrics(tmp_path / "before")
    code, _, err = run("evaluate", folder, table, "--out", tmp_path / "before")
    assert code == 2
    assert f"these files have changed since: {folder / CALIBRATION}" in err

    code, out, _ = run("calibrate", folder, table, "--method", "isotonic", "--folds", 3, "--seed", 1)
    assert code == 0
    assert "isotonic: " in out
    assert json.loads((folder / CALIBRATION).read_text())["folds"] == 3
    assert "removed from" in run("calibrate", folder, "--remove")[1]
    assert not (folder / CALIBRATION).exists()
    assert "has no recalibration; nothing to do" in run("calibrate", folder, "--remove")[1]


def test_averages_are_evaluated_and_scored(run, folder, table, tiny_model, tmp_path):
    others = [write_reward_model(tiny_model, tmp_path / f"other-{seed}", seed) for seed in (1, 2)]
    words = [word for other in others for word in ("--average", other)]
    assert run("evaluate", folder, table, "--out", tmp_path / "out", *words)[0] == 0
    config = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert config["average"] == [str(other) for other in others]
    found = []
    for name, options in (("a", []), ("b", words)):
        out = tmp_path / f"{name}.parquet"
        assert run("score", folder, table, "--out", out, *options)[0] == 0
        found.append(pq.read_table(out)["reward"].to_numpy())
    for other in others:
        assert run("score", other, table, "--out", tmp_path / "c.parquet", "--raw")[0] == 0
        found.append(pq.read_table(tmp_path / "c.parquet")["reward"].to_numpy())
    assert found[1] == pytest.approx((found[0] + found[2] + found[3]) / 3, rel=1e-9, abs=1e-12)


def test_calibrate_complains_in_one_line(run, folder, table, tiny_model, tmp_path):
    for words, expected in (
        (
            ["someone/reward", table],
            "someone/reward: no such folder; calibration.json",
        ),
        ([tiny_model, table], f"{tiny_model}: is not a reward model"),
        ([folder, tmp_path / "none.parquet"], "none.parquet: no such file"),
        ([folder, table, "--method", "platt"], "'--method': 'platt' is not one of 'temperature', 'isotonic'"),
        ([folder], "give one or more files, or --remove alone"),
        ([folder, table, "--remove"], "give one or more files, or --remove alone"),
        ([folder, table, "--folds", 1], "'--folds': Input should be greater than or equal to 2"),
    ):
        code, _, err = run("calibrate", *words)
        said = [line for line in err.splitlines() if line.startswith("pluralign:")]  # others are progress
        assert (code, len(said)) == (2, 1), err
        assert expected in said[0]
    (folder / CALIBRATION).write_text("{")
    for words in (
        ["score", folder, table, "--out", tmp_path / "s.parquet"],
        ["evaluate", folder, table, "--out", tmp_path / "e"],
    ):
        code, _, err = run(*words)
        assert code == 2
        assert f"{folder / CALIBRATION}: is not a recalibration" in err
    assert not (tmp_path / "s.parquet").exists()
    assert not (tmp_path / "e").exists()


def test_options_of_reward_models_are_refused_for_policies(run, folder, table, tiny_model, tmp_path):
    for option in (["--raw"], ["--average", folder]):
        code, _, err = run("evaluate", tiny_model, table, "--out", tmp_path / "out", *option)
        assert code == 2
        assert "is a policy; --raw, --average, --own and --quantile are for reward models" in err


def test_training_again_in_the_folder_leaves_no_old_recalibration(run, folder, table, tiny_model, tmp_path):
    (folder / CALIBRATION).write_text('{"method": "temperature", "temperature": 2.0}')
    config = {
        "objective": "bradley-terry", "model_name_or_path": str(tiny_model), "train_files": [str(table)],
        "output_dir": str(folder), "max_steps": 1, "report_to": "none", "use_cpu": True, "save_strategy": "no",
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert run("train", tmp_path / "config.yaml")[0] == 0
    assert (folder / "metrics.json").exists()
    assert not (folder / CALIBRATION).exists()


def test_a_scale_for_each_annotator_is_stored_and_evaluated(run, folder, table, tmp_path):
    code, out, err = run("calibrate", folder, table, "--by", "annotator")
    assert code == 0, err
    stored = json.loads((folder / CALIBRATION).read_text())["by"]
    assert stored["column"] == "annotator"
    assert f"scales of {len(stored['scales'])} values of annotator: " in out
    assert run("evaluate", folder, table, "--out", tmp_path / "after")[0] == 0
    found = metrics(tmp_path / "after")
    assert found["scaled_share"] == 1
    assert found["gain_of_annotator_scales_low"] <= found["gain_of_annotator_scales"]
    unnamed = tmp_path / "unnamed.jsonl"
    rows = [{key: value for key, value in row.items() if key != "source"} for row in read(table).rows()]
    unnamed.write_text("\n".join(json.dumps(row, default=str) for row in rows))
    code, _, err = run("calibrate", folder, unnamed, "--by", "source")
    assert code == 2
    assert "by: no judgment has a value in the column source" in err

"""`calibrate` and what `evaluate` and `score` make of it, in Python."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

import pluralign
from pluralign.core.errors import PluralignError
from pluralign.core.files import atomic_write
from pluralign.core.runs import file_fingerprints
from pluralign.evaluation.calibration.recalibration import Recalibration
from pluralign.judgments import Judgments
from pluralign.scoring.recalibrated import CALIBRATION
from rewarded import noisy_judgments, write_reward_model

TRUE = 0.5  # in mean sizes of a margin


@pytest.fixture
def folder(tiny_model, tmp_path):
    return write_reward_model(tiny_model, tmp_path / "reward")


@pytest.fixture
def table(folder, town_rows, tmp_path):
    path = tmp_path / "held-out.parquet"
    noisy_judgments(folder, town_rows, TRUE).write(path)
    return path


def metrics_of(folder, table, out, **options):
    return pluralign.evaluate(str(folder), str(table), out, **options)


def test_a_temperature_is_fitted_stored_and_used(folder, table, tmp_path):
    before = metrics_of(folder, table, tmp_path / "before")
    assert "temperature" not in before
    found = pluralign.calibrate(folder, table)
    stored = json.loads((folder / CALIBRATION).read_text())
    assert stored == found.as_dict()
    assert stored["method"] == "temperature"
    assert stored["files"] == file_fingerprints([table])
    assert (stored["judgments"], stored["pairs"], stored["prompts"]) == (480, 480, 20)
    assert stored["log_loss_before"] == pytest.approx(before["log_loss"], rel=1e-6)
    assert stored["ece_before"] == pytest.approx(before["ece"], rel=1e-5)
    assert stored["log_loss_after"] < min(stored["log_loss_before"], stored["log_loss_cross_validated"])

    after = metrics_of(folder, table, tmp_path / "after")
    assert after["temperature"] == found.temperature
    assert after["accuracy"] == before["accuracy"]
    assert after["log_loss"] == pytest.approx(stored["log_loss_after"], rel=1e-6)
    assert after["ece"] == pytest.approx(stored["ece_after"], rel=1e-5)
    assert after["mean_margin"] == pytest.approx(before["mean_margin"] / found.temperature, rel=1e-6)
    assert after["log_loss/source=a"] != before["log_loss/source=a"]
    card = (tmp_path / "after" / "README.md").read_text()
    assert f"Rewards of `{folder}` are divided by its stored temperature {found.temperature:.4g}." in card

    gaps = {}
    for name in ("before", "after"):
        everyone, first, second = json.loads((tmp_path / name / "over_rewarding.json").read_text())
        assert (everyone["slice"], first["slice"], second["slice"]) == ("all", "source=a", "source=b")
        gaps[name] = everyone
    for key in ("gap_right", "gap_wrong", "gap_wrong_high", "wrong_median"):
        assert gaps["after"][key] == pytest.approx(gaps["before"][key] / found.temperature, rel=1e-6)

    raw = metrics_of(folder, table, tmp_path / "raw", raw=True)
    assert raw == before
    assert "(`--raw`)" in (tmp_path / "raw" / "README.md").read_text()
    assert yaml.safe_load((tmp_path / "raw" / "config.yaml").read_text())["raw"] is True


def test_the_temperature_is_that_of_the_people(folder, table):
    """People choose by the margin over TRUE times its mean size."""
    of_pairs = []
    model = pluralign.load_reward_model(folder, device="cpu")
    for row in pluralign.read(str(table)).rows():
        rewards = model.score(row["prompt"], row["responses"])
        of_pairs.append(rewards[0] - rewards[1])
    margins = np.array(of_pairs)
    true = TRUE * np.abs(margins).mean()
    p = 1 / (1 + np.exp(-margins / true))
    error = true**2 / np.sqrt(np.sum(margins**2 * p * (1 - p)))  # by the Fisher information
    assert abs(pluralign.calibrate(folder, table).temperature - true) < 4 * error


def test_an_isotonic_curve_is_used_on_margins_and_not_on_rewards(folder, table, tmp_path):
    before = metrics_of(folder, table, tmp_path / "before")
    plain = tmp_path / "plain.parquet"
    pluralign.score(folder, table, plain)
    found = pluralign.calibrate(folder, table, method="isotonic")
    after = metrics_of(folder, table, tmp_path / "after")
    assert after["log_loss"] == pytest.approx(found.record["log_loss_after"], rel=1e-6)
    # A curve has no calibration error on its own data but for the bound on its last level.
    assert after["ece"] <= 1 / (after["pairs"] + 2) + 1e-9 < before["ece"]
    assert "temperature" not in after
    assert after["spearman"] == before["spearman"]
    card = (tmp_path / "after" / "README.md").read_text()
    assert f"Margins of `{folder}` go through its stored isotonic recalibration." in card
    bins = json.loads((tmp_path / "after" / "reliability.json").read_text())
    assert max(abs(row["gap"] * row["share"]) for row in bins) <= 1 / (after["pairs"] + 2) + 1e-9
    curved = tmp_path / "curved.parquet"
    pluralign.score(folder, table, curved)
    assert pq.read_table(curved).equals(pq.read_table(plain))


def test_score_writes_log_odds_or_raw_rewards(folder, table, tmp_path):
    pluralign.score(folder, table, tmp_path / "before.parquet")
    temperature = pluralign.calibrate(folder, table).temperature
    pluralign.score(folder, table, tmp_path / "after.parquet")
    pluralign.score(folder, table, tmp_path / "raw.parquet", raw=True)
    before, after, raw = (
        pq.read_table(tmp_path / f"{name}.parquet")["reward"].to_numpy() for name in ("before", "after", "raw")
    )
    np.testing.assert_array_equal(after, before / temperature)
    np.testing.assert_array_equal(raw, before)


def test_a_changed_or_removed_calibration_is_another_evaluation(folder, table, tmp_path):
    metrics_of(folder, table, tmp_path / "raw", raw=True)
    metrics_of(folder, table, tmp_path / "out")
    pluralign.calibrate(folder, table)
    with pytest.raises(PluralignError, match=f"changed since: .*{CALIBRATION}"):
        metrics_of(folder, table, tmp_path / "out")
    metrics_of(folder, table, tmp_path / "other")
    pluralign.calibrate(folder, table, method="isotonic")
    with pytest.raises(PluralignError, match=f"changed since: .*{CALIBRATION}"):
        metrics_of(folder, table, tmp_path / "other")
    assert pluralign.remove_calibration(folder)
    assert not pluralign.remove_calibration(folder)
    with pytest.raises(PluralignError, match=f"changed since: .*{CALIBRATION}"):
        metrics_of(folder, table, tmp_path / "other")
    metrics_of(folder, table, tmp_path / "out")  # finished, with what is there again
    metrics_of(folder, table, tmp_path / "raw", raw=True)


def test_fitting_again_replaces_the_file_and_starts_from_raw_rewards(folder, table):
    first = pluralign.calibrate(folder, table)
    content = (folder / CALIBRATION).read_bytes()
    assert pluralign.calibrate(folder, table) == first
    assert (folder / CALIBRATION).read_bytes() == content
    assert pluralign.calibrate(folder, table, method="isotonic").method == "isotonic"
    (folder / CALIBRATION).write_text("{")
    assert pluralign.calibrate(folder, table) == first, "a damaged file is no obstacle"


def test_a_fault_while_writing_keeps_what_was_there(folder, table, monkeypatch):
    pluralign.calibrate(folder, table)
    content = (folder / CALIBRATION).read_bytes()

    def full(*_):
        raise OSError(28, "no space left")

    monkeypatch.setattr("pluralign.core.files.os.fsync", full)
    with pytest.raises(PluralignError, match=f"{CALIBRATION}: no space left on the device"):
        pluralign.calibrate(folder, table, method="isotonic")
    assert (folder / CALIBRATION).read_bytes() == content


def test_training_data_are_warned_of(folder, table, tmp_path, caplog):
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"train_files": ["somewhere/train.parquet"], "eval_files": ["e.parquet"]})
    )
    digest = next(iter(file_fingerprints([table]).values()))

    def trained_on(**inputs):
        with atomic_write(folder / "environment.json", "w") as out:
            json.dump({"inputs": {f"somewhere/{name}.parquet": value for name, value in inputs.items()}}, out)

    trained_on(train="other", eval=digest)
    pluralign.calibrate(folder, table)
    assert "was trained on" not in caplog.text
    trained_on(train=digest)
    pluralign.calibrate(folder, table)
    assert f"{folder}: was trained on {table}" in caplog.text
    assert "give held-out judgments" in caplog.text


def test_what_cannot_be_calibrated_is_refused(folder, table, tiny_model, tmp_path, town_rows, caplog):
    with pytest.raises(PluralignError, match="no such folder; calibration.json"):
        pluralign.calibrate("someone/reward-model", table)
    with pytest.raises(PluralignError, match="no such folder"):
        pluralign.remove_calibration("someone/reward-model")
    with pytest.raises(PluralignError, match="is not a reward model"):
        pluralign.calibrate(tiny_model, table)
    (tmp_path / "types").mkdir()
    (tmp_path / "types" / "mixture.json").write_text("{}")
    with pytest.raises(PluralignError, match="types: is not a reward model"):
        pluralign.calibrate(tmp_path / "types", table)
    with pytest.raises(PluralignError, match="method: found 'isotone', expected one of temperature, isotonic"):
        pluralign.calibrate(folder, table, method="isotone")
    with pytest.raises(PluralignError, match="folds: found 1, expected 2 or more"):
        pluralign.calibrate(folder, table, folds=1)

    rows = list(pluralign.read(str(table)).rows())
    ties = tmp_path / "ties.parquet"
    Judgments.from_rows([{**row, "ranks": [1, 1]} for row in rows]).write(ties)
    with pytest.raises(PluralignError, match="no strict pair with a weight above 0"):
        pluralign.calibrate(folder, ties)
    turned = tmp_path / "turned.parquet"
    Judgments.from_rows([{**row, "ranks": row["ranks"][::-1]} for row in rows]).write(turned)
    for method in ("temperature", "isotonic"):
        with pytest.raises(PluralignError, match="no recalibration can help"):
            pluralign.calibrate(folder, turned, method=method)
    assert not (folder / CALIBRATION).exists()

    right = tmp_path / "right.parquet"
    noisy_judgments(folder, town_rows, 1e-6).write(right)
    pluralign.calibrate(folder, right)
    assert "lowest that 480 pairs allow" in caplog.text


def test_an_average_is_evaluated_and_scored(folder, table, tiny_encoder, tmp_path):
    others = [write_reward_model(tiny_encoder, tmp_path / "encoder", 3)]
    paths = {name: tmp_path / f"{name}.parquet" for name in ("one", "two", "mean")}
    pluralign.score(folder, table, paths["one"])
    pluralign.score(others[0], table, paths["two"])
    pluralign.score(folder, table, paths["mean"], average=others)
    one, two, mean = (pq.read_table(path)["reward"].to_numpy() for path in paths.values())
    np.testing.assert_allclose(mean, (one + two) / 2, rtol=1e-12, atol=1e-15)

    found = metrics_of(folder, table, tmp_path / "out", average=others)
    reward = dict(zip(pq.read_table(paths["mean"])["response"].to_pylist(), mean, strict=True))
    margins = [
        (reward[row["responses"][0]] - reward[row["responses"][1]]) * (1 if row["ranks"][0] == 1 else -1)
        for row in pluralign.read(str(table)).rows()
    ]
    assert found["mean_margin"] == pytest.approx(np.mean(margins), rel=1e-9)
    assert yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["average"] == [str(others[0])]
    assert f"The mean reward of `{folder}`, `{others[0]}`." in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(PluralignError, match="these keys differ: average"):
        metrics_of(folder, table, tmp_path / "out")
    (others[0] / CALIBRATION).write_text(json.dumps(Recalibration("isotonic", knots=((1.0, 1.0),)).as_dict()))
    with pytest.raises(PluralignError, match="isotonic recalibration, which maps margins"):
        metrics_of(folder, table, tmp_path / "curved", average=others)
    raw = metrics_of(folder, table, tmp_path / "mean-raw", average=others, raw=True)
    assert raw["mean_margin"] == pytest.approx(found["mean_margin"], rel=1e-12)

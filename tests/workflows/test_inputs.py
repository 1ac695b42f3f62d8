"""Commands and trainers take what `read` takes, and do with it what they do with files."""

import json

import datasets
import pandas as pd
import pytest
import torch
import yaml

import pluralign
from labelled import SCALE
from pluralign.core.errors import PluralignError
from pluralign.judgments import Judgments, read
from pluralign.training.preference_matching.rlhf import _different_prompts
from pluralign.training.sft import completions
from pluralign.training.trl_datasets import trl_dataset
from pluralign.workflows.aggregate.checks import prompt_files
from pluralign.workflows.train.run import check, train
from pluralign.workflows.train.settings import read_flags, read_yaml
from rewarded import write_reward_model

FAST = {"features": "worths", "types": 1, "simulations": 0}
COMMON = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "per_device_train_batch_size": 8}


@pytest.fixture(scope="module")
def rows(town_rows):
    return town_rows[:24]


@pytest.fixture(scope="module")
def frame(rows):
    """The rows under the names of another tool."""
    return pd.DataFrame(rows).rename(columns={"annotator": "worker_id"})


NAMES = {"worker_id": "annotator"}


def test_an_audit_of_a_frame_is_that_of_its_rows_and_is_finished_once(frame, rows, tmp_path):
    found = pluralign.audit(frame, tmp_path / "audit", columns=NAMES, **FAST)
    assert dict(found) == dict(pluralign.audit(Judgments.from_rows(rows), **FAST))
    config = yaml.safe_load((tmp_path / "audit" / "config.yaml").read_text())
    assert (config["files"], config["columns"]) == (["the frame"], NAMES)
    written = (tmp_path / "audit" / "metrics.json").stat().st_mtime_ns
    assert pluralign.audit(frame, tmp_path / "audit", columns=NAMES, **FAST)["judgments"] == len(rows)
    assert (tmp_path / "audit" / "metrics.json").stat().st_mtime_ns == written
    with pytest.raises(PluralignError, match="these files have changed since: the frame"):
        pluralign.audit(frame[:-1], tmp_path / "audit", columns=NAMES, **FAST)
    with pytest.raises(PluralignError, match="these keys differ: columns"):
        pluralign.audit(frame, tmp_path / "audit", columns={"worker_id": None}, **FAST)


def test_evaluate_score_split_and_export_take_frames(frame, rows, tiny_model, tmp_path):
    write_reward_model(tiny_model, tmp_path / "reward")
    file = tmp_path / "rows.parquet"
    Judgments.from_rows(rows).write(file)
    of_file = pluralign.evaluate(tmp_path / "reward", file, tmp_path / "a")
    assert pluralign.evaluate(tmp_path / "reward", frame, tmp_path / "b", columns=NAMES) == of_file
    assert pluralign.evaluate(tmp_path / "reward", datasets.Dataset.from_list(rows), tmp_path / "c") == of_file
    scored = pluralign.score(tmp_path / "reward", frame, tmp_path / "d.parquet", columns=NAMES)
    assert scored == pluralign.score(tmp_path / "reward", file, tmp_path / "e.parquet")
    parts = pluralign.split(frame, tmp_path / "f", "annotator", columns=NAMES)
    whole = pluralign.split(file, tmp_path / "g", "annotator")
    assert [read(part.file).table for part in parts] == [read(part.file).table for part in whole]
    assert pluralign.export(frame, tmp_path / "h.jsonl", columns=NAMES).rows > 0


@pytest.mark.parametrize("take", [pluralign.read, pluralign.audit, lambda data: pluralign.split(data, "out", "prompt")])
def test_other_objects_are_refused_before_anything_is_done(take, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        PluralignError, match="found an object of type object, expected a file, a folder, hf:owner/name:split"
    ):
        take(object())
    assert not list(tmp_path.iterdir())


def test_prompts_of_an_aggregation_are_files(frame, tmp_path):
    assert prompt_files("prompts", [tmp_path / "a.parquet", "hf:a/b"]) == [str(tmp_path / "a.parquet"), "hf:a/b"]
    assert prompt_files("prompts", None) == prompt_files("prompts", []) == []
    with pytest.raises(PluralignError, match="tuning_prompts: found DataFrame, expected files or hf:owner/name:split"):
        prompt_files("tuning_prompts", frame)


@pytest.fixture
def hub(rows, tmp_path, monkeypatch):
    """A folder as on the hub, with the names of another tool."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "hub").mkdir()
    for name, part in (("train", rows[:16]), ("test", rows[16:])):
        pd.DataFrame(part).rename(columns={"annotator": "worker_id"}).to_parquet(tmp_path / "hub" / f"{name}.parquet")
    return f"hf:{tmp_path / 'hub'}"


def test_train_reads_data_sets_and_renames_columns(hub, rows, tiny_model, tmp_path):
    values = {"objective": "plackett-luce", "model_name_or_path": str(tiny_model), "max_steps": 1, **COMMON}
    values |= {"train_files": [f"{hub}:train"], "eval_files": [f"{hub}:test"], "output_dir": str(tmp_path / "run")}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(values | {"rename": NAMES}))
    metrics = train(config)
    assert metrics["train_annotators"] == len({row["annotator"] for row in rows[:16]})
    assert metrics["judgments"] == len(rows[16:])
    inputs = json.loads((tmp_path / "run" / "environment.json").read_text())["inputs"]
    assert set(inputs) == {f"{hub}:train", f"{hub}:test"}
    assert train(config) == metrics
    flags = read_flags(["--rename", "worker_id=annotator,note="])
    assert check(read_yaml(config), flags).rename == {"worker_id": "annotator", "note": None}
    with pytest.raises(PluralignError, match="--rename: rename: found 'annotater' .did you mean 'annotator'"):
        check(read_yaml(config), read_flags(["--rename", "worker_id=annotater"]))
    other = {**values, "output_dir": str(tmp_path / "other")}
    config.write_text(yaml.safe_dump(other))
    with pytest.raises(PluralignError, match="hub:train, row 1: unknown column 'worker_id': rename it with --rename"):
        train(config)


@pytest.mark.parametrize("kind", [pd.DataFrame, datasets.Dataset.from_list, list])
def test_trainers_take_tables(kind, rows, tiny_model, tmp_path):
    def trained(data, evaluated):
        args = pluralign.BradleyTerryConfig(str(tmp_path), max_steps=1, save_strategy="no", seed=1, **COMMON)
        torch.manual_seed(0)  # of the new head
        trainer = pluralign.BradleyTerryTrainer(str(tiny_model), args=args, train_dataset=data, eval_dataset=evaluated)
        return trainer.train().training_loss, trainer.evaluate()["eval_accuracy"]

    expected = trained(Judgments.from_rows(rows[:16]), Judgments.from_rows(rows[16:]))
    assert trained(kind(rows[:16]), kind(rows[16:])) == expected


def test_dprm_takes_a_table_with_its_scale_and_a_file(tiny_model, tmp_path):
    voted = [{"prompt": "Tea?", "responses": ["Yes"], "labels": [label]} for label in SCALE.labels] * 4
    judgments = Judgments.from_rows(voted, SCALE)
    judgments.write(tmp_path / "voted.jsonl")
    args = pluralign.DPRMConfig(str(tmp_path / "run"), **COMMON)
    for data in (judgments.table, tmp_path / "voted.jsonl"):
        assert pluralign.DPRMTrainer(str(tiny_model), args=args, train_dataset=data).crowd.scale == SCALE
    with pytest.raises(PluralignError, match="the frame, row 1, column 'labels'.*name one with --label-scale"):
        pluralign.DPRMTrainer(str(tiny_model), args=args, train_dataset=pd.DataFrame(voted))


def test_trainers_of_trl_take_judgments_and_rows_of_their_own(rows):
    judgments = Judgments.from_rows(rows)
    prompts = [{"prompt": row} for row in judgments.unique_prompts()]
    for data in (judgments, pd.DataFrame(rows), rows, datasets.Dataset.from_list(rows)):
        assert list(trl_dataset(data, _different_prompts)) == prompts
        assert list(trl_dataset(data, completions)) == list(completions(judgments))
    own = [{"prompt": "Tea?", "mood": "good"}]
    for data in (own, pd.DataFrame(own), datasets.Dataset.from_list(own)):
        assert list(trl_dataset(data, _different_prompts)) == own
    assert trl_dataset(None, completions) is None
    with pytest.raises(PluralignError, match="found an object of type object"):
        trl_dataset(object(), completions)


def test_a_run_names_the_files_of_the_folders_that_it_read(rows, tmp_path):
    (tmp_path / "parts").mkdir()
    for number in range(2):
        Judgments.from_rows(rows[number::2]).write(tmp_path / "parts" / f"{number}.parquet")
    config = tmp_path / "config.yaml"
    values = {"objective": "dpo", "model_name_or_path": "none", "output_dir": str(tmp_path / "run")}
    config.write_text(yaml.safe_dump(values | {"train_files": [str(tmp_path / "parts")]}))
    job = check(read_yaml(config), {})
    assert job.train_files == [str(tmp_path / "parts" / f"{number}.parquet") for number in range(2)]
    assert job.resolved["train_files"] == job.train_files
    config.write_text(yaml.safe_dump(values | {"train_files": [str(tmp_path / "*.parquet")]}))
    with pytest.raises(PluralignError, match="line 4, key 'train_files': .*no file matches this pattern"):
        check(read_yaml(config), {})

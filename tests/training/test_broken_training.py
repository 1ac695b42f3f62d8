"""Training that breaks stops, and nothing of it looks finished; adapters are trained on."""

import json
import os
import subprocess
import sys

import numpy as np
import peft
import pytest
import safetensors.numpy
import transformers
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

import pluralign
from pluralign.core.errors import PluralignError, TrainingError
from pluralign.core.locks import folder_lock
from pluralign.judgments import Judgments
from pluralign.training.objectives import OBJECTIVES
from pluralign.workflows.train.run import check, run, train
from pluralign.workflows.train.settings import read_yaml

LORA = {"use_peft": True, "lora_target_modules": ["all-linear"], "lora_r": 4}


@pytest.fixture
def configured(town_rows, tiny_model, tmp_path):
    """Writes a config of a short run and returns its file."""
    Judgments.from_rows(town_rows[:32]).write(tmp_path / "train.parquet")

    def write(objective, name="run", **values):
        content = {
            "objective": objective, "model_name_or_path": str(tiny_model), "output_dir": str(tmp_path / name),
            "train_files": [str(tmp_path / "train.parquet")], "per_device_train_batch_size": 8, "learning_rate": 1e-3,
            "max_steps": 4, "logging_steps": 1, "save_strategy": "no", "report_to": "none", "use_cpu": True,
            "disable_tqdm": True, **values,
        }  # fmt: skip
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(content))
        return file

    return write


@pytest.mark.parametrize("objective", ["plackett-luce", "dpo", "sft"])
def test_a_loss_that_is_not_finite_stops_the_run(objective, configured, tmp_path):
    file = configured(objective, learning_rate=1e30, max_grad_norm=0.0)
    with pytest.raises(TrainingError, match="the loss is (nan|inf).*lower learning_rate"):
        train(file)
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_weights_that_are_not_finite_at_the_end_stop_the_run(configured, tmp_path):
    """The last step breaks the model, and no later loss shows it."""
    file = configured("plackett-luce", learning_rate=1e30, weight_decay=1e20, max_steps=1)
    with pytest.raises(TrainingError, match="are not finite after training"):
        train(file)
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_a_broken_run_ends_with_one_line_and_code_1(configured):
    command = [sys.executable, "-m", "pluralign", "train", str(configured("plackett-luce", learning_rate=1e30))]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("pluralign: ")
    assert "Traceback" not in done.stderr


@pytest.fixture
def said(caplog):
    """What is logged."""
    transformers.utils.logging.enable_propagation()
    yield lambda: caplog.text
    transformers.utils.logging.disable_propagation()


def test_metrics_that_are_not_defined_are_named(configured, monkeypatch, said, tmp_path):
    monkeypatch.setattr(OBJECTIVES["plackett-luce"].trainer, "training_metrics", lambda self: {"odd": float("nan")})
    assert "odd" not in train(configured("plackett-luce"))
    assert "not defined for these judgments, and so not in metrics.json: odd" in said()


def test_texts_that_are_alike_after_cutting_are_named_by_every_command(configured, said, town_rows, tmp_path):
    row = {**town_rows[0], "responses": ["good " * 300 + end for end in ("cat", "dog")], "ranks": [1, 2]}
    Judgments.from_rows([{**row, "annotator": str(number)} for number in range(8)]).write(tmp_path / "train.parquet")
    file = tmp_path / "train.parquet"
    expected = "1 of 2 responses have the same tokens as another response to their prompt, after cutting"
    train(configured("plackett-luce", max_length=64))
    assert said().count(expected) == 1
    pluralign.evaluate(tmp_path / "run", file, tmp_path / "evaluated")
    assert said().count(expected) == 2
    pluralign.score(tmp_path / "run", file, tmp_path / "scores.parquet")
    assert said().count(expected) == 3


@pytest.mark.parametrize("objective", ["plackett-luce", "bradley-terry", "dpo"])
def test_weights_of_zero_are_nothing_to_train_on(objective, configured, town_rows, tmp_path):
    Judgments.from_rows([{**row, "weight": 0.0} for row in town_rows[:8]]).write(tmp_path / "train.parquet")
    with pytest.raises(PluralignError, match="every training judgment has the weight 0"):
        train(configured(objective))


def adapter_of(run):
    return safetensors.numpy.load_file(run / "adapter_model.safetensors")


def test_an_adapter_of_a_policy_is_trained_on(configured, tmp_path, town_rows):
    """The reference is the adapter as it was, or its base alone; the first loss tells which."""
    train(configured("dpo", "first", learning_rate=1e-2, **LORA))
    losses, logged = {}, {}
    for name, values in {
        "start": {}, "off": {"reference_adapter": "off"}, "live-start": {"precompute_ref_log_probs": False},
        "live-off": {"reference_adapter": "off", "precompute_ref_log_probs": False},
    }.items():  # fmt: skip
        file = configured(
            "dpo", name, model_name_or_path=str(tmp_path / "first"), save_strategy="steps", save_steps=4, **values
        )
        losses[name] = train(file)["train_loss"]
        state = json.loads((tmp_path / name / "checkpoint-4" / "trainer_state.json").read_text())
        logged[name] = state["log_history"][0]
        moved = adapter_of(tmp_path / name)
        assert any(not np.array_equal(moved[key], value) for key, value in adapter_of(tmp_path / "first").items())
        base = peft.PeftConfig.from_pretrained(str(tmp_path / name)).base_model_name_or_path
        assert base == peft.PeftConfig.from_pretrained(str(tmp_path / "first")).base_model_name_or_path
    # Against its own start an adapter has the implicit reward 0 before the first step.
    assert logged["start"]["rewards/margins"] == pytest.approx(0.0, abs=1e-6)
    assert abs(logged["off"]["rewards/margins"]) > 1e-4
    assert losses["live-start"] == pytest.approx(losses["start"], rel=1e-5)
    assert losses["live-off"] == pytest.approx(losses["off"], rel=1e-5)
    test = tmp_path / "train.parquet"
    for name in ("start", "off"):
        assert pluralign.evaluate(tmp_path / name, test, tmp_path / f"e-{name}")["accuracy"] >= 0
    with pytest.raises(PluralignError, match="the model is an adapter already"):
        train(configured("dpo", "twice", model_name_or_path=str(tmp_path / "first"), **LORA))
    with pytest.raises(PluralignError, match="reference_adapter"):
        train(configured("dpo", "whole", reference_adapter="off"))


@pytest.mark.parametrize("objective", ["plackett-luce", "sft"])
def test_an_adapter_of_a_reward_model_or_of_fine_tuning_is_trained_on(objective, configured, tmp_path):
    train(configured(objective, "first", **LORA))
    train(configured(objective, "second", model_name_or_path=str(tmp_path / "first")))
    first, second = adapter_of(tmp_path / "first"), adapter_of(tmp_path / "second")
    assert first.keys() == second.keys()
    assert any(not np.array_equal(first[key], second[key]) for key in first)
    if objective != "sft":
        start = configured(objective, "still", model_name_or_path=str(tmp_path / "first"), learning_rate=0.0)
        train(start)
        model = [pluralign.load_reward_model(tmp_path / name, device="cpu") for name in ("first", "still")]
        texts = ["good cat", "bad dog"]
        np.testing.assert_allclose(model[1].score("Tea?", texts), model[0].score("Tea?", texts), rtol=1e-6)


def test_a_token_without_an_embedding_is_refused_before_training(configured, tiny_model, tmp_path):
    """By all objectives and policies; with embeddings for all tokens a reward model loads as it was saved."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_tokens(["good", "number"])
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    base = {"model_name_or_path": str(tmp_path / "base"), "eval_files": [str(tmp_path / "train.parquet")]}
    for objective in ("dpo", "sft", "plackett-luce"):
        with pytest.raises(PluralignError, match=r"gives the token .* call model.resize_token_embeddings"):
            train(configured(objective, objective, **base))
    with pytest.raises(PluralignError, match="gives the token"):
        pluralign.load_policy(tmp_path / "base", device="cpu").sample(
            ["Say something about number 1:"], max_new_tokens=2
        )
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path / "base")
    for name, values in {"whole": {}, "adapter": LORA}.items():
        metrics = train(configured("plackett-luce", name, **base, **values))
        found = pluralign.evaluate(tmp_path / name, tmp_path / "train.parquet", tmp_path / f"evaluated-{name}")
        assert found["log_loss"] == pytest.approx(metrics["log_loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"seed": -1}, "key 'seed': found -1, expected"), ({"seed": 2**32}, "key 'seed'"), ({**LORA, "lora_r": 0}, "key 'lora_r'"),
        ({"per_device_train_batch_size": 0}, "key 'per_device_train_batch_size'"),
        ({"gradient_accumulation_steps": 0}, "key 'gradient_accumulation_steps'"),
        ({"num_train_epochs": -1}, "key 'num_train_epochs'"), ({"learning_rate": -1}, "key 'learning_rate'"),
        ({"report_to": "wandbb"}, "key 'report_to': found 'wandbb', expected some of"),
        ({"report_to": "neptune"}, "key 'report_to': found 'neptune', which is not installed"),
        ({"max_grad_norm": -1}, "key 'max_grad_norm'"), ({"fsdp": "full_shard"}, "fsdp|distributed"),
        ({"lr_scheduler_type": "cosinee"}, "lr_scheduler_type"), ({"optim": "adamw_bnb_8bit"}, "bitsandbytes"),
        ({"output_dir": "a\x00b"}, "null character"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_one_line(values, expected, configured):
    with pytest.raises(PluralignError, match=expected) as caught:
        train(configured("plackett-luce", **values))
    assert len(str(caught.value)) < 800


def test_processes_that_would_train_alone_are_refused(configured, monkeypatch, tmp_path):
    job = check(read_yaml(configured("plackett-luce")), {})
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun sets it
    with pytest.raises(PluralignError, match="2 processes, and each would train alone.*use_cpu: true"):
        run(job)
    assert not (tmp_path / "run").exists()


def test_secrets_stay_out_of_the_run(configured, tmp_path):
    train(configured("plackett-luce", hub_token="hf_secret", max_steps=1))
    for file in (tmp_path / "run").rglob("*"):
        assert not file.is_file() or b"hf_secret" not in file.read_bytes(), file
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["hub_token"] == "(not stored)"


def test_an_adapter_has_no_dropout_by_default(configured, tmp_path):
    train(configured("plackett-luce", max_steps=1, **LORA))
    written = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    assert written["lora_dropout"] == 0.0
    assert written["target_modules"] == sorted(written["target_modules"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "expected"),
    [([], "each would train alone"), (["--use_cpu", "--fsdp", "full_shard"], "fsdp: weights would not be sharded")],
)
def test_two_launched_processes_train_together_as_asked_or_not_at_all(flags, expected, configured, tmp_path):
    file = configured("plackett-luce", use_cpu=False)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "pluralign", "train"]
    done = subprocess.run(
        [sys.executable, *launch, str(file), *flags], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True,
        text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert expected in done.stderr
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_two_trainings_do_not_share_a_folder(configured, tmp_path):
    file = configured("plackett-luce")
    with folder_lock(tmp_path / "run"), pytest.raises(PluralignError, match="another process is writing there"):
        train(file)


def test_sharding_that_was_refused_does_not_reach_the_next_run(configured, tmp_path):
    with pytest.raises(PluralignError, match="fsdp only works in distributed training"):
        train(configured("plackett-luce", fsdp=True))
    assert "ACCELERATE_USE_FSDP" not in os.environ
    train(configured("plackett-luce", "next"))

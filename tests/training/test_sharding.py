"""Weights that two processes share (FSDP2 on CPUs, gloo): the results of one process, whole or interrupted."""

import json
import os
import signal
import sys
import time

import numpy as np
import pytest
import safetensors.numpy
import transformers

import pluralign
from objective_runs import LORA, SAMPLED, write_data, written
from pluralign.cli.main import main
from pluralign.training.objectives import OBJECTIVES
from pluralign.training.sharding import load_whole_weights
from pluralign.workflows.train.run import train
from processes import ends_of_two_processes, fsdp_on_cpus, in_two_processes

EPOCH = {"num_train_epochs": 1, "learning_rate": 1e-3}
"""20 judgments in steps of 8: in the last one a process has none."""

SHARDED = {"fsdp": True, "per_device_train_batch_size": 4}

RUNS = {
    **{name: (name, EPOCH) for name in ("bradley-terry", "dpo", "em-dpo")},
    **{name: (name, {**EPOCH, "eval_files": None}) for name in ("plackett-luce", "dprm", "more", "pm-dpo")},
    "sft": ("sft", {"max_steps": 2, "eval_files": None}),  # TRL repeats texts in a last batch
    "dpo-lora": ("dpo", {**EPOCH, **LORA, "eval_files": None, "precompute_ref_log_probs": False}),
    "em-dpo-one-type": ("em-dpo", {**EPOCH, "types": 1, "start": "latent-class", "rounds": 0, "eval_files": None}),
}
"""Runs whose losses must be those of one process: objective and settings."""

SAVES = {"save_strategy": "steps", "save_steps": 2, "eval_files": None, **EPOCH}

RESUMED = {
    "more": ("more", {}),
    "dpo": ("dpo", {"fsdp_config": {"state_dict_type": "SHARDED_STATE_DICT"}}),
    "em-dpo": ("em-dpo", {"fsdp_config": {"state_dict_type": "SHARDED_STATE_DICT"}}),
    "dprm": ("dprm", LORA),
}


@pytest.fixture(scope="module")
def data(town_rows, tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharding")
    write_data(folder, town_rows, tiny_model)
    for name in ("ranked", "voted"):
        table = pluralign.read(folder / f"{name}-train.parquet")
        table.select(range(20 if name == "ranked" else 10)).write(folder / f"{name}-train.parquet")
    return folder


@pytest.fixture(scope="module")
def ending_model(tiny_model, tmp_path_factory):
    """The tiny model with many end tokens, so that responses end at different places."""
    folder = tmp_path_factory.mktemp("ending") / "model"
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model)
    model.generation_config.eos_token_id = list(range(1, 150))
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


def interrupted_once(file, steps):
    """Train, stopped in all processes after so many steps, and again to the end."""
    step, taken = transformers.Trainer.training_step, []

    def stopped(self, *given):
        taken.append(1)
        if len(taken) == steps:
            raise KeyboardInterrupt
        return step(self, *given)

    transformers.Trainer.training_step = stopped
    try:
        with pytest.raises(KeyboardInterrupt):
            train(file)
    finally:
        transformers.Trainer.training_step = step
    return train(file)


@pytest.fixture(scope="module")
def both(data, tiny_model, ending_model, tmp_path_factory):
    """The folder with all runs of two processes, and the metrics of the interrupted ones."""
    folder = tmp_path_factory.mktemp("both")
    os.environ["PLURALIGN_CACHE"], kept = str(folder / "cache"), os.environ["PLURALIGN_CACHE"]
    files = [written(name, data, tiny_model, folder / run, **SHARDED | values) for run, (name, values) in RUNS.items()]
    drawn = {
        way: written("pm-rlhf", data, ending_model, folder / f"pm-rlhf-{way}", max_steps=2, eval_files=None,
                     max_completion_length=8, **values)
        for way, values in (("sharded", SHARDED), ("copied", {"per_device_train_batch_size": 4}))
    }  # fmt: skip
    resumed = {
        run: [written(name, data, tiny_model, folder / f"{run}-{how}", **SAVES | SHARDED | values) for how in ("calm", "shaken")]
        for run, (name, values) in RESUMED.items()
    }  # fmt: skip

    def runs():
        train(drawn["copied"])
        with fsdp_on_cpus():
            for file in [*files, drawn["sharded"]]:
                train(file)
            return {run: [train(calm), interrupted_once(shaken, 3)] for run, (calm, shaken) in resumed.items()}

    try:
        return folder, in_two_processes(runs, folder)[0]
    finally:
        os.environ["PLURALIGN_CACHE"] = kept


def tensors_of(folder):
    """The weights in a folder and in the folders of its types."""
    files = sorted([*folder.glob("*model.safetensors"), *folder.glob("type-*/*model.safetensors")])
    return {f"{file.relative_to(folder)} {key}": value for file in files for key, value in safetensors.numpy.load_file(file).items()
            }  # fmt: skip


@pytest.mark.parametrize("run", RUNS)
def test_shared_weights_give_the_results_of_one_process(run, both, data, tiny_model, tmp_path):
    objective, values = RUNS[run]
    expected = train(written(objective, data, tiny_model, tmp_path / run, **values))
    found = json.loads((both[0] / run / "metrics.json").read_text())
    assert found.keys() == expected.keys()
    assert found["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-5)
    for key in expected.keys() - {"train_runtime"}:
        if isinstance(expected[key], float):
            assert found[key] == pytest.approx(expected[key], rel=1e-4, abs=1e-5), key
    one, two = tensors_of(tmp_path / run), tensors_of(both[0] / run)
    assert one.keys() == two.keys()
    for key, tensor in one.items():
        tolerance = {"rtol": 1e-3, "atol": 1e-4}  # Adam's steps of 1e-3 along gradients near 0 follow their rounding
        np.testing.assert_allclose(two[key].reshape(tensor.shape), tensor, err_msg=key, **tolerance)


def test_every_objective_is_among_the_runs():
    assert {objective for objective, _ in RUNS.values()} | set(SAMPLED) == set(OBJECTIVES)


def test_responses_drawn_from_shared_weights_are_those_of_whole_ones(both):
    """Also where the processes' responses end at different places."""
    copied, sharded = (
        json.loads((both[0] / f"pm-rlhf-{way}" / "metrics.json").read_text()) for way in ("copied", "sharded")
    )
    assert sharded.keys() == copied.keys()
    for key in ("train_reward", "train_mean_length", "train_clipped_ratio", "train_penalty"):
        assert sharded[key] == pytest.approx(copied[key], rel=1e-4), key
    assert 1 < sharded["train_mean_length"] < 8


@pytest.mark.parametrize("run", RESUMED)
def test_interrupted_under_sharding_it_ends_as_if_undisturbed(run, both):
    folder, metrics = both
    calm, shaken = metrics[run]
    assert shaken.keys() == calm.keys()
    for key in calm.keys() - {"train_runtime"}:
        assert shaken[key] == (pytest.approx(calm[key], rel=1e-6) if isinstance(calm[key], float) else calm[key]), key
    one, two = (tensors_of(folder / f"{run}-{how}") for how in ("calm", "shaken"))
    assert one
    assert one.keys() == two.keys()
    for key, tensor in one.items():
        np.testing.assert_allclose(two[key], tensor, rtol=1e-6, atol=1e-7, err_msg=key)


def test_where_one_process_is_killed_the_other_ends_with_a_message(data, tiny_model, tmp_path):
    file = written("bradley-terry", data, tiny_model, tmp_path / "run", eval_files=None, **EPOCH)
    step = transformers.Trainer.training_step

    def killed(self, *given):
        if self.state.global_step == 1 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, *given)

    def run():
        transformers.Trainer.training_step = killed
        sys.argv = ["pluralign", "train", str(file)]
        with open(tmp_path / "stderr", "w") as sys.stderr:
            main()

    began = time.monotonic()
    assert ends_of_two_processes(run, tmp_path)[1] == -signal.SIGKILL
    assert time.monotonic() - began < 60
    assert (tmp_path / "0.fault").read_text() == "SystemExit(1)"
    *_, last = (tmp_path / "stderr").read_text().strip().splitlines()
    assert last.startswith("pluralign: another process of this training has stopped")


def test_every_process_loads_the_weights_under_accelerate_launch(monkeypatch):
    """By default it lets all processes but one load empty ones."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    load_whole_weights()
    assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"

"""EM-DPO that is stopped at any moment and started again ends as an undisturbed run does, bit for bit."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import peft
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import torch
import transformers
import yaml

from pluralign.core.errors import PluralignError
from pluralign.judgments import Judgments
from pluralign.training.checkpoints import MARKER
from pluralign.training.em_dpo import rounds
from pluralign.training.em_dpo.config import EMDPOConfig
from pluralign.training.em_dpo.trainer import EMDPOTrainer
from pluralign.workflows.train.run import train


class Killed(Exception):
    """What a test raises where the process would have died."""


@pytest.fixture(scope="module")
def judgments(town_rows):
    """Rankings of two to four by nine people, of two groups."""
    return Judgments.from_rows([row | {"group": "ab"[int(row["annotator"][1:]) % 2]} for row in town_rows[:40]])


def make(model, judgments, folder, **values):
    defaults = {
        "types": 2,
        "start": "groups",
        "features": "tfidf",
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 2,
        "round_epochs": 2,
        "learning_rate": 1e-2,
        "disable_dropout": False,
        "rounds": 2,
        "beta": 0.5,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "save_strategy": "steps",
        "save_steps": 2,
        "logging_steps": 1,
    }
    transformers.set_seed(0)
    config = peft.LoraConfig(r=2, lora_dropout=0.2, target_modules="all-linear")
    return EMDPOTrainer(model, args=EMDPOConfig(**{**defaults, **values}), train_dataset=judgments, peft_config=config)


def state_of(trainer):
    """All that must agree: every adapter, gamma, eta."""
    tensors = {name: one.detach().clone() for name, one in trainer.model.named_parameters() if "lora_" in name}
    return tensors, trainer.responsibilities.copy(), trainer.mixture_weights.copy()


def same(found, expected):
    assert found[0].keys() == expected[0].keys()
    for name, tensor in expected[0].items():
        assert torch.equal(found[0][name], tensor), name
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[2], expected[2])


@pytest.fixture(scope="module")
def calm(judgments, tiny_model, tmp_path_factory):
    """An undisturbed run."""
    trainer = make(tiny_model, judgments, tmp_path_factory.mktemp("calm"))
    trainer.train()
    return state_of(trainer)


class Kill(transformers.TrainerCallback):
    def __init__(self, trainer, m_step, step):
        self.trainer, self.m_step, self.step = trainer, m_step, step

    def on_step_begin(self, args, state, control, **_):
        if self.trainer._phase == self.m_step and state.global_step == self.step:
            raise Killed


def in_m_step(number, step):
    return lambda trainer: trainer.add_callback(Kill(trainer, number, step))


def before_e_step(number):
    def disturb(trainer):
        inner = trainer._e_step

        def e_step(this, *others):
            if this == number:
                raise Killed
            return inner(this, *others)

        trainer._e_step = e_step

    return disturb


def in_e_step(number):
    """After some of its judgments were scored."""

    def disturb(trainer):
        inner, calls = trainer._values, []

        def values(tokens, model=None, responses=None):
            if len(trainer.rounds) == number and responses is not None:
                calls.append(1)
                if len(calls) == 3:
                    raise Killed
            return inner(tokens, model, responses)

        trainer._values = values

    return disturb


def at_the_end(trainer):
    """When all is trained, before anything is saved."""
    inner = trainer._m_step

    def m_step(folder, number, *others, **named):
        found = inner(folder, number, *others, **named)
        if number == 0:
            raise Killed
        return found

    trainer._m_step = m_step


# M-steps 1 and 2 are those of round 1, 3 and 4 those of round 2; 0 is the last.
MOMENTS = {
    "first half of round 1": (in_m_step(1, 3), "rounds/1/half-0/checkpoint-2"),
    "second half of round 1": (in_m_step(2, 3), "rounds/1/half-1/checkpoint-2"),
    "second half of round 2": (in_m_step(4, 3), "rounds/2/half-1/checkpoint-2"),
    "before the first e-step": (before_e_step(1), None),
    "in the second e-step": (in_e_step(2), None),
    "last m-step": (in_m_step(0, 3), "rounds/final/checkpoint-2"),
    "after the last m-step": (at_the_end, None),
}


@pytest.mark.parametrize("moment", list(MOMENTS))
def test_killed_at_any_moment_it_ends_as_if_undisturbed(moment, judgments, tiny_model, tmp_path, calm):
    disturb, checkpoint = MOMENTS[moment]
    trainer = make(tiny_model, judgments, tmp_path)
    disturb(trainer)
    with pytest.raises(Killed):
        trainer.train()
    assert trainer.args.output_dir == str(tmp_path)
    if checkpoint is not None:
        assert (tmp_path / checkpoint / MARKER).exists()
        half = tmp_path / checkpoint / ".." / "checkpoint-999"  # as if the kill had come while one was written
        half.mkdir()
        (half / "trainer_state.json").write_text("{")
    again = make(tiny_model, judgments, tmp_path)
    steps = []

    class Count(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            steps.append((again._phase, state.global_step))

    again.add_callback(Count())
    again.train(resume_from_checkpoint=True)
    same(state_of(again), calm)
    if checkpoint is not None:
        first = Path(checkpoint)
        phase = 0 if first.parts[1] == "final" else 2 * int(first.parts[1]) - 1 + int(first.parts[2][-1])
        assert steps[0] == (phase, int(first.name.rpartition("-")[2])), "it goes on where it was"
    assert [one.record["round"] for one in again.rounds] == [0, 1, 2]


@pytest.mark.parametrize("moment", ["before its record is written", "while its checkpoints are removed"])
def test_killed_while_a_round_is_kept(moment, judgments, tiny_model, tmp_path, calm, monkeypatch):
    trainer = make(tiny_model, judgments, tmp_path)

    def dies(path, *_):
        if "rounds/1" in str(path):
            raise Killed
        return inner(path, *_)

    with monkeypatch.context() as patched:
        if moment == "before its record is written":
            inner = rounds.write_json
            patched.setattr(rounds, "write_json", dies)
        else:
            inner = rounds.shutil.rmtree
            patched.setattr(rounds.shutil, "rmtree", dies)
        with pytest.raises(Killed):
            trainer.train()
    kept = tmp_path / "rounds" / "1"
    assert (kept / "round.safetensors").exists()
    assert (kept / "round.json").exists() == (moment != "before its record is written")
    assert list(kept.glob("half-*/checkpoint-*"))
    again = make(tiny_model, judgments, tmp_path)
    again.train(resume_from_checkpoint=True)
    same(state_of(again), calm)


def test_killed_many_times_it_still_ends_as_if_undisturbed(judgments, tiny_model, tmp_path, calm):
    for disturb in (in_m_step(1, 3), in_e_step(1), in_m_step(0, 5)):
        trainer = make(tiny_model, judgments, tmp_path)
        disturb(trainer)
        with pytest.raises(Killed):
            trainer.train(resume_from_checkpoint=True)
    last = make(tiny_model, judgments, tmp_path)
    last.train(resume_from_checkpoint=True)
    same(state_of(last), calm)


@pytest.mark.parametrize("moment", ["second half of round 2", "last m-step"])
def test_without_checkpoints_a_round_starts_over(moment, judgments, tiny_model, tmp_path, calm):
    trainer = make(tiny_model, judgments, tmp_path, save_strategy="no")
    MOMENTS[moment][0](trainer)
    with pytest.raises(Killed):
        trainer.train()
    assert not list(tmp_path.rglob("checkpoint-*"))
    again = make(tiny_model, judgments, tmp_path, save_strategy="no")
    phases = []
    inner = again._m_step
    again._m_step = lambda folder, number, *a, **k: phases.append(number) or inner(folder, number, *a, **k)
    again.train(resume_from_checkpoint=True)
    assert phases == ([0] if moment == "last m-step" else [4, 0]), "finished M-steps are kept"
    same(state_of(again), calm)


@pytest.mark.parametrize(
    ("values", "disturb"),
    [
        ({"max_steps": 3}, before_e_step(1)),
        ({"max_steps": 3}, at_the_end),
        ({"max_steps": 7, "types": 1, "start": "latent-class"}, at_the_end),
    ],
)
def test_a_finished_m_step_is_trained_no_further(values, disturb, judgments, tiny_model, tmp_path):
    """It ends in the middle of an epoch, and the learning rate would still be what it was."""
    values = {**values, "lr_scheduler_type": "constant", "rounds": 1, "num_train_epochs": 1}
    undisturbed = make(tiny_model, judgments, tmp_path / "calm", **values)
    undisturbed.train()
    trainer = make(tiny_model, judgments, tmp_path / "shaken", **values)
    disturb(trainer)
    with pytest.raises(Killed):
        trainer.train()
    again = make(tiny_model, judgments, tmp_path / "shaken", **values)
    again.train(resume_from_checkpoint=True)
    same(state_of(again), state_of(undisturbed))
    assert again.state.global_step == values["max_steps"]


def test_without_resume_it_starts_over(judgments, tiny_model, tmp_path, calm):
    trainer = make(tiny_model, judgments, tmp_path)
    in_m_step(2, 3)(trainer)
    with pytest.raises(Killed):
        trainer.train()
    again = make(tiny_model, judgments, tmp_path)
    phases = []
    inner = again._m_step
    again._m_step = lambda folder, number, *a, **k: phases.append(number) or inner(folder, number, *a, **k)
    again.train()
    assert phases == [1, 2, 3, 4, 0]
    same(state_of(again), calm)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("round.json", b"{"),
        ("round.json", b"\xff\xfe"),
        ("round.safetensors", b""),
        ("round.safetensors", b"half a file"),
        ("round.safetensors", None),
        ("round.safetensors", safetensors.numpy.save({"gamma": np.ones((2, 2))})),
    ],
)
def test_a_damaged_round_is_one_clear_error(file, content, judgments, tiny_model, tmp_path):
    trainer = make(tiny_model, judgments, tmp_path, max_steps=2)
    in_m_step(3, 0)(trainer)
    with pytest.raises(Killed):
        trainer.train()
    damaged = tmp_path / "rounds" / "1" / file
    if content is None:
        damaged.unlink()
    else:
        damaged.write_bytes(content)
    again = make(tiny_model, judgments, tmp_path, max_steps=2)
    with pytest.raises(PluralignError, match=r"rounds/1: is damaged \(.*\); remove .*rounds to start over"):
        again.train(resume_from_checkpoint=True)


def test_rounds_of_other_types_are_refused(judgments, tiny_model, tmp_path):
    make(tiny_model, judgments, tmp_path, max_steps=1).train()
    other = make(tiny_model, judgments, tmp_path, max_steps=1, types=3, start="dirichlet")
    with pytest.raises(PluralignError, match="rounds: holds rounds of other types; remove it to start over"):
        other.train(resume_from_checkpoint=True)


def test_checkpoints_go_when_their_round_is_done(judgments, tiny_model, tmp_path):
    trainer = make(tiny_model, judgments, tmp_path, max_steps=4)
    trainer.train()
    assert not list((tmp_path / "rounds" / "1").glob("**/checkpoint-*"))
    assert not list(tmp_path.glob("checkpoint-*")), "all in the rounds' own folders"
    assert not list(tmp_path.rglob("adapters.safetensors")), "no round goes on from them"
    assert sorted(one.name for one in (tmp_path / "rounds").iterdir()) == ["0", "1", "2", "final"]


AUTO = {"rounds": "auto", "most_rounds": 2, "round_epochs": 1, "save_steps": 1, "temperature": 1.0}


@pytest.fixture(scope="module")
def calm_auto(judgments, tiny_model, tmp_path_factory):
    """An undisturbed run that takes rounds, and tunes the start's types as long to compare."""
    trainer = make(tiny_model, judgments, tmp_path_factory.mktemp("auto"), **AUTO)
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert {entry["m_step"] for entry in history} == {1, 2, 3, 4, 5, 6, 0}
    return state_of(trainer), trainer.kept, history[-1]["step"]


@pytest.mark.parametrize("m_step", [5, 0])
def test_killed_while_rounds_are_compared_with_the_start(m_step, judgments, tiny_model, tmp_path, calm_auto):
    trainer = make(tiny_model, judgments, tmp_path, **AUTO)
    in_m_step(m_step, 1)(trainer)
    with pytest.raises(Killed):
        trainer.train()
    again = make(tiny_model, judgments, tmp_path, **AUTO)
    again.train(resume_from_checkpoint=True)
    expected, kept, last = calm_auto
    same(state_of(again), expected)
    assert again.kept == kept
    steps = [entry["step"] for entry in again.state.log_history if "loss" in entry]
    assert steps[-1] == last, "steps count on where they were"


# Two processes.

TOGETHER = """
import sys
from accelerate import PartialState
from pluralign.workflows.train.run import train

train(sys.argv[1])
PartialState().destroy_process_group()
"""


@pytest.mark.slow
def test_rounds_in_two_processes_are_those_of_one(judgments, tiny_model, tmp_path):
    """Every decision (how many rounds, which is kept) and every number agree."""
    judgments.write(tmp_path / "train.parquet")
    found = {}
    for name, processes in (("alone", 1), ("both", 2)):
        content = {
            "objective": "em-dpo",
            "model_name_or_path": str(tiny_model),
            "train_files": [str(tmp_path / "train.parquet")],
            "output_dir": str(tmp_path / name),
            "types": 2,
            "start": "dirichlet",
            "features": "tfidf",
            "most_rounds": 3,
            "temperature": 1.0,
            "num_train_epochs": 1,
            "per_device_train_batch_size": 8 // processes,
            "learning_rate": 1e-2,
            "lora_r": 2,
            "lora_dropout": 0.0,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
        }
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
        if processes == 1:
            train(tmp_path / f"{name}.yaml")
        else:
            (tmp_path / "together.py").write_text(TOGETHER)
            launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
            done = subprocess.run(
                [sys.executable, *launch, tmp_path / "together.py", tmp_path / f"{name}.yaml"],
                env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=400, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[-3000:]
        found[name] = json.loads((tmp_path / name / "types.json").read_text())
    alone, both = found["alone"], found["both"]
    assert len(alone["rounds"]) == len(both["rounds"]) > 2
    assert alone["kept"]["round"] == both["kept"]["round"]
    assert alone["kept"]["gain"] == pytest.approx(both["kept"]["gain"], abs=1e-4)
    for one, two in zip(alone["rounds"], both["rounds"], strict=True):
        assert two["mixture_weights"] == pytest.approx(one["mixture_weights"], abs=1e-4)
        assert two.get("steps") == one.get("steps")
    weights = [safetensors.numpy.load_file(tmp_path / name / "type-1" / "adapter_model.safetensors") for name in found]
    for key, tensor in weights[0].items():
        np.testing.assert_allclose(weights[1][key], tensor, rtol=1e-2, atol=1e-4, err_msg=key)


# Through the workflow.

DRIVER = """
import os, signal, sys
from transformers import Trainer
from pluralign.workflows.train.run import train
inner, steps = Trainer.training_step, []
def training_step(self, *args, **kwargs):
    steps.append(1)
    if len(steps) == {steps}:
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(self, *args, **kwargs)
Trainer.training_step = training_step
train({config!r})
"""


@pytest.mark.slow
def test_a_killed_process_is_taken_up_by_the_same_command(judgments, tiny_model, tmp_path, caplog):
    judgments.write(tmp_path / "train.parquet")
    configs = {}
    for name in ("calm", "shaken"):
        configs[name] = tmp_path / f"{name}.yaml"
        content = {
            "objective": "em-dpo",
            "model_name_or_path": str(tiny_model),
            "train_files": [str(tmp_path / "train.parquet")],
            "eval_files": [str(tmp_path / "train.parquet")],
            "output_dir": str(tmp_path / name),
            "types": 2,
            "start": "groups",
            "rounds": 1,
            "round_epochs": 2,
            "per_device_train_batch_size": 8,
            "num_train_epochs": 2,
            "learning_rate": 1e-2,
            "lora_r": 2,
            "save_steps": 2,
            "logging_steps": 1,
            "report_to": "none",
            "use_cpu": True,
        }
        configs[name].write_text(yaml.safe_dump(content))
    expected = train(configs["calm"])
    script = tmp_path / "driver.py"
    script.write_text(DRIVER.format(steps=14, config=str(configs["shaken"])))
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    assert list((tmp_path / "shaken" / "rounds").glob("**/checkpoint-*"))
    transformers.utils.logging.enable_propagation()
    try:
        found = train(configs["shaken"])
    finally:
        transformers.utils.logging.disable_propagation()
    assert "shaken: resuming from its rounds" in caplog.text
    assert {**found, "train_runtime": 0} == {**expected, "train_runtime": 0}
    runs = tmp_path / "calm", tmp_path / "shaken"
    for kind in ("type-1", "type-2"):
        first, second = (safetensors.numpy.load_file(run / kind / "adapter_model.safetensors") for run in runs)
        assert first.keys() == second.keys()
        for name, tensor in first.items():
            np.testing.assert_array_equal(second[name], tensor, err_msg=f"{kind} {name}")
    assert pq.read_table(runs[0] / "responsibilities.parquet").equals(
        pq.read_table(runs[1] / "responsibilities.parquet")
    )
    assert json.loads((runs[0] / "mixture.json").read_text()) == json.loads((runs[1] / "mixture.json").read_text())
    before = (runs[1] / "metrics.json").stat().st_mtime_ns
    assert train(configs["shaken"]) == found
    assert (runs[1] / "metrics.json").stat().st_mtime_ns == before
    with pytest.raises(PluralignError, match="these keys differ: rounds"):
        train(configs["shaken"], ["--rounds", "2"])

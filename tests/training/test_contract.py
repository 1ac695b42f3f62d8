"""What every trainer must do, whatever its method: one contract over the table of objectives."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers
import yaml

import pluralign
from objective_runs import LORA, ON_JUDGMENTS, SAMPLED, settings, write_data, written
from pluralign.core.errors import PluralignError
from pluralign.judgments.reading import Inputs
from pluralign.training.checkpoints import MARKER
from pluralign.training.objectives import OBJECTIVES
from pluralign.workflows.train.run import check, train
from pluralign.workflows.train.settings import read_flags, read_yaml


@pytest.fixture(scope="module")
def data(town_rows, tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("contract")
    write_data(folder, town_rows, tiny_model)
    return folder


def trained(objective, data, model, folder, **values):
    """A trainer after training, and its trainable weights before."""
    file = Path(f"{folder}.yaml")
    file.write_text(yaml.safe_dump(settings(objective, data, model, folder, **values)))
    run = check(read_yaml(file), read_flags([]))
    kind = OBJECTIVES[objective].trainer
    transformers.set_seed(0)
    trainer = kind.from_run(run, kind.read_files(Inputs(run.train_files), None), None)
    before = {name: tensor.detach().clone() for name, tensor in trainer.model.named_parameters()}
    trainer.train()
    return trainer, before


def logs(trainer, key):
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def weights(trainer):
    return torch.cat([tensor.detach().flatten() for tensor in trainer.model.parameters()])


def same_training(found, expected):
    """The same losses, gradients, sources' weights and weights of the model, up to float32 sums in another order."""
    steps = [[entry for entry in one.state.log_history if "loss" in entry] for one in (found, expected)]
    assert len(steps[0]) == len(steps[1]) > 2
    for one, other in zip(*steps, strict=True):
        # The loss of an online objective is a difference of advantages near 0; its terms, of size 1, set the rounding.
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5, abs=2e-5)
        for key in one.keys() & other.keys():
            if key == "grad_norm" or key.startswith("weight/"):
                assert one[key] == pytest.approx(other[key], rel=1e-3, abs=1e-4), key
    torch.testing.assert_close(weights(found), weights(expected), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("objective", "model"),
    [(name, "tiny_model") for name in OBJECTIVES]
    + [(name, "tiny_encoder") for name in ON_JUDGMENTS if OBJECTIVES[name].trainer.card_tag == "reward-model"],
)
def test_the_loss_falls_and_every_trained_weight_moves(objective, model, data, tmp_path, request):
    model = request.getfixturevalue(model)
    rate = 2e-2 if objective == "em-dpo" else 3e-3
    trainer, before = trained(objective, data, model, tmp_path / "run", num_train_epochs=3, learning_rate=rate)
    in_optimiser = {id(tensor) for group in trainer.optimizer.param_groups for tensor in group["params"]}
    tensors = dict(trainer.model.named_parameters())
    moved = {name for name, tensor in tensors.items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name, tensor in tensors.items() if id(tensor) in in_optimiser}
    losses = logs(trainer, "loss")
    assert all(math.isfinite(loss) for loss in losses)
    third = len(losses) // 3
    assert objective in SAMPLED or np.mean(losses[-third:]) < np.mean(losses[:third])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_step_may_be_divided(objective, data, tiny_model, tmp_path):
    """Eight judgments of unequal weight and length as one or four micro-batches."""
    found = []
    for parts in (1, 4):
        trainer, _ = trained(
            objective, data, tiny_model, tmp_path / str(parts), max_steps=3, optim="sgd", learning_rate=1e-2,
            per_device_train_batch_size=8 // parts, gradient_accumulation_steps=parts,
        )  # fmt: skip
        found.append(trainer)
    same_training(*found)


@pytest.mark.parametrize("objective", ON_JUDGMENTS)
def test_the_layout_does_not_matter(objective, data, tiny_model, tmp_path):
    found = []
    for layout in ("tree", "flat"):
        trainer, _ = trained(
            objective, data, tiny_model, tmp_path / layout, max_steps=3, optim="sgd", learning_rate=1e-2, layout=layout
        )
        assert trainer.layout.tree == (layout == "tree")
        found.append(trainer)
    same_training(*found)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_adapter_trains_saves_and_is_evaluated_as_in_training(objective, data, tiny_model, tmp_path):
    """Only the adapter and a new head move; the saved folder gives the metrics of the trainer."""
    trainer, before = trained(objective, data, tiny_model, tmp_path / "run", num_train_epochs=1, **LORA)
    moved = {name for name, tensor in trainer.model.named_parameters() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in before if "lora_" in name or "score.modules_to_save" in name}
    folder = tmp_path / "saved"
    trainer.save_model(str(folder), _internal_call=True)
    for file in folder.rglob("adapter_model.safetensors"):
        assert not (file.parent / "config.json").exists()  # transformers would look for a whole model's weights
        if OBJECTIVES[objective].trainer.card_tag != "reward-model":
            plain = transformers.AutoModelForCausalLM.from_pretrained(file.parent)
            assert any("lora_A" in name for name, _ in plain.named_parameters())
    if objective not in ON_JUDGMENTS:
        assert pluralign.load_policy(folder, device="cpu").sample(["Say"], n=1, max_new_tokens=2)
        return
    test = data / f"{'voted' if objective == 'dprm' else 'ranked'}-test.parquet"
    expected = trainer.measure(pluralign.read(test)).metrics
    found = pluralign.evaluate(folder, test, tmp_path / "evaluated")
    keys = {"accuracy", "log_loss", "ece", "vote_log_loss", "mixture_log_loss"} & expected.keys()
    assert keys
    for key in keys:
        assert found[key] == pytest.approx(expected[key], rel=1e-4), key


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_interrupted_and_started_again_it_ends_as_if_undisturbed(objective, data, tiny_model, tmp_path, monkeypatch):
    """To the bit, with dropout and accumulation, from a whole checkpoint; a finished run is left alone."""
    values = {"max_steps": 5, "save_strategy": "steps", "save_steps": 2, "disable_dropout": False}
    values |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "eval_files": None}
    if objective == "sft":
        values.pop("disable_dropout")
    train(written(objective, data, tiny_model, tmp_path / "calm", **values))
    step, taken = transformers.Trainer.training_step, []

    def interrupted(self, *given):
        taken.append(1)
        if len(taken) == 8:  # in the fourth step
            raise KeyboardInterrupt
        return step(self, *given)

    file = written(objective, data, tiny_model, tmp_path / "shaken", **values)
    with monkeypatch.context() as patched:
        patched.setattr(transformers.Trainer, "training_step", interrupted)
        goes_on = "goes on where it was" if objective == "em-dpo" else "continues from step 2"
        with pytest.raises(KeyboardInterrupt, match=f"stopped at step 3; the same command {goes_on}"):
            train(file)
    assert not (tmp_path / "shaken" / "metrics.json").exists()
    assert list((tmp_path / "shaken").rglob(f"checkpoint-2/{MARKER}"))
    shaken = train(file)
    names = [path.relative_to(tmp_path / "calm") for path in (tmp_path / "calm").rglob("*model.safetensors")]
    assert names
    for name in names:
        expected, found = (safetensors.numpy.load_file(tmp_path / run / name) for run in ("calm", "shaken"))
        for key in expected:
            np.testing.assert_array_equal(found[key], expected[key], err_msg=f"{name} {key}")
    calm = json.loads((tmp_path / "calm" / "metrics.json").read_text())
    assert {**shaken, "train_runtime": 0} == {**calm, "train_runtime": 0}
    before = (tmp_path / "shaken" / "metrics.json").stat().st_mtime_ns
    assert train(file) == shaken
    assert (tmp_path / "shaken" / "metrics.json").stat().st_mtime_ns == before


def test_a_folder_in_which_nothing_was_trained_may_get_another_config(data, tiny_model, tmp_path, monkeypatch):
    def interrupted(self, *given):
        raise KeyboardInterrupt

    file = written("bradley-terry", data, tiny_model, tmp_path / "run", max_steps=2, eval_files=None)
    with monkeypatch.context() as patched:
        patched.setattr(transformers.Trainer, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt, match="stopped at step 0; the same command starts again"):
            train(file)
    assert train(file, ["--learning_rate", "2e-3"])["steps"] == 2
    with pytest.raises(PluralignError, match="learning_rate"):
        train(file)


@pytest.mark.parametrize("objective", ["bradley-terry", "sft", "pm-rlhf"])
def test_interrupted_after_its_last_step_it_does_not_train_on(objective, data, tiny_model, tmp_path, monkeypatch):
    """The last checkpoint is of the last step, inside an epoch."""
    values = {"max_steps": 3, "save_strategy": "steps", "save_steps": 3, "eval_files": None}
    train(written(objective, data, tiny_model, tmp_path / "calm", **values))
    file = written(objective, data, tiny_model, tmp_path / "shaken", **values)
    with monkeypatch.context() as patched:
        patched.setattr(OBJECTIVES[objective].trainer, "training_metrics", lambda self: exec("raise KeyboardInterrupt"))
        with pytest.raises(KeyboardInterrupt):
            train(file)
    shaken = train(file)
    calm = json.loads((tmp_path / "calm" / "metrics.json").read_text())
    assert shaken["steps"] == 3
    assert shaken["train_loss"] == calm["train_loss"]
    expected, found = (safetensors.numpy.load_file(tmp_path / run / "model.safetensors") for run in ("calm", "shaken"))
    for key in expected:
        np.testing.assert_array_equal(found[key], expected[key], err_msg=key)


# Two processes.

EQUAL = [name for name in OBJECTIVES if name not in SAMPLED]

SCRIPT = """
import sys
from accelerate import PartialState
from pluralign.workflows.train.run import train

for file in sys.argv[1:]:
    train(file)
PartialState().destroy_process_group()
"""


@pytest.fixture(scope="module")
def both(data, tiny_model, tmp_path_factory):
    """The folder with the runs of all objectives in two processes."""
    folder = tmp_path_factory.mktemp("both")
    files = [
        str(written(name, data, tiny_model, folder / name, **PROCESSES, per_device_train_batch_size=4))
        for name in EQUAL
    ]
    (folder / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", folder / "script.py", *files],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PLURALIGN_CACHE": str(folder / "cache")},
        capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


PROCESSES = {"max_steps": 4, "learning_rate": 1e-4}


@pytest.mark.slow
@pytest.mark.parametrize("objective", EQUAL)
def test_two_processes_give_the_results_of_one(objective, both, data, tiny_model, tmp_path):
    expected = train(written(objective, data, tiny_model, tmp_path / "alone", **PROCESSES))
    found = json.loads((both / objective / "metrics.json").read_text())
    assert found.keys() == expected.keys()
    assert found["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-5)
    for key in expected.keys() - {"train_runtime"}:
        if isinstance(expected[key], float):
            assert found[key] == pytest.approx(expected[key], rel=1e-4, abs=1e-5), key
    for file in (tmp_path / "alone").rglob("*model.safetensors"):
        one, two = (
            safetensors.numpy.load_file(path)
            for path in (file, both / objective / file.relative_to(tmp_path / "alone"))
        )
        for key in one:
            np.testing.assert_allclose(two[key], one[key], rtol=1e-3, atol=2e-5, err_msg=key)


@pytest.mark.parametrize("values", [{}, LORA])
def test_the_card_s_code_gives_the_reward_with_transformers_alone(values, data, tiny_model, tmp_path):
    train(written("bradley-terry", data, tiny_model, tmp_path / "run", max_steps=3, num_train_epochs=1, **values))
    ours, alone = re.findall(r"```python\n(.*?)```", (tmp_path / "run" / "README.md").read_text(), re.DOTALL)
    assert "pluralign" in ours
    assert "pluralign" not in alone.replace(str(tmp_path), "")
    found: dict[str, object] = {}
    exec(alone, found)
    chat = [{"role": "user", "content": "a prompt"}], [[{"role": "assistant", "content": "one response"}]]
    text = ("a prompt", ["one response"])
    expected = pluralign.load_reward_model(tmp_path / "run").score(*(chat if "messages" in found else text))
    assert found["reward"] == pytest.approx(expected[0], abs=1e-5)

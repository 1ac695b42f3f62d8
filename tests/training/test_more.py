"""MORE in the trainer: the weights are those of the sources' gradients, whatever way a step is divided."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
import transformers

from more_setup import NAMES, head_gradients, lambdas, logged, make, rows
from pluralign.choice.min_norm import gramian, min_norm_weights
from pluralign.core.errors import PluralignError
from pluralign.judgments import Judgments
from pluralign.scoring.reward_models import build_reward_model, load_reward_model
from pluralign.training.more import trainer as more
from pluralign.training.more.config import MOREConfig
from pluralign.training.more.trainer import MORETrainer
from pluralign.training.reward_trainer import (
    BradleyTerryConfig,
    BradleyTerryTrainer,
    PlackettLuceConfig,
    PlackettLuceTrainer,
)


@pytest.fixture(scope="module")
def judgments():
    return Judgments.from_rows(rows())


PLAIN = (PlackettLuceConfig, PlackettLuceTrainer)


def tensors(trainer):
    return torch.cat([tensor.detach().flatten() for tensor in trainer.model.parameters()])


# The step's gradients, weights and loss.


def test_logged_accuracy_calibration_and_cosines_by_hand(tiny_model, tmp_path):
    """On pairs: agreement, bins of width 0.1 of the greater probability, and the angles of the gradients."""
    pairs = [{**row, "responses": row["responses"][:2], "ranks": [1, 2]} for row in rows(48)]
    trainer = make(tiny_model, pairs, tmp_path)
    inputs = trainer.data_collator(list(range(48)))
    _, gradients, _ = head_gradients(trainer, inputs)
    _, utilities = trainer.compute_loss(trainer.model, inputs, return_outputs=True)
    found = trainer.source_logs.taken(trainer.accelerator)
    margin = (utilities[:, 0] - utilities[:, 1]).detach().double().numpy()
    confidence = 1 / (1 + np.exp(-np.abs(margin)))
    for number, name in enumerate(NAMES):
        mine = inputs["source"].numpy() == number
        weight = inputs["weight"].numpy() * mine
        assert found[f"accuracy/source={name}"] == pytest.approx((weight * (margin > 0)).sum() / weight.sum())
        gap = 0.0
        for edge in np.arange(0, 1, 0.1):
            inside = (confidence >= edge) & (confidence < edge + 0.1)
            gap += abs((weight * inside * ((margin > 0) - confidence)).sum())
        assert found[f"ece/source={name}"] == pytest.approx(gap / weight.sum(), rel=1e-4)
    unit = torch.nn.functional.normalize(gradients.double(), dim=1)
    cosine = unit @ unit.T
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert found[f"cosine/{NAMES[i]},{NAMES[j]}"] == pytest.approx(cosine[i, j].item(), abs=1e-4)
    upper = cosine[np.triu_indices(3, 1)]
    assert found["cosine_mean"] == pytest.approx(upper.mean().item(), abs=1e-4)
    assert found["cosine_least"] == pytest.approx(upper.min().item(), abs=1e-4)


def test_fixed_weights_are_what_they_say(judgments, tiny_model, tmp_path):
    given = {"a": 3.0, "b": 0.0, "c": 1.0}
    trainer = make(tiny_model, judgments, tmp_path, weights="fixed", source_weights=given)
    inputs = trainer.data_collator(list(range(9)))
    means, _, _ = head_gradients(trainer, inputs)
    assert trainer.compute_loss(trainer.model, inputs).item() == pytest.approx(
        0.75 * means[0] + 0.25 * means[2], rel=1e-5
    )
    # One that is absent leaves its weight to the others; where only one without weight is there, nothing is learnt.
    batch = [row for row in range(9) if row % 3 != 2]
    assert trainer.compute_loss(trainer.model, trainer.data_collator(batch)).item() == pytest.approx(
        head_gradients(trainer, trainer.data_collator(batch))[0][0], rel=1e-5
    )
    assert trainer.compute_loss(trainer.model, trainer.data_collator([1, 4])).item() == 0
    found = trainer.source_logs.taken(trainer.accelerator)
    assert sum(found[f"weight/source={name}"] for name in NAMES) == pytest.approx(1)


@pytest.mark.parametrize("folder", ["tiny_model", "tiny_encoder"])
def test_weights_sum_to_one_and_follow_the_gradients(folder, judgments, tmp_path, request):
    test = Judgments.from_rows(rows(30, seed=1))
    trainer = make(request.getfixturevalue(folder), judgments, tmp_path, test, num_train_epochs=4, learning_rate=3e-3)
    trainer.train()
    found = lambdas(trainer)
    assert found.shape == (48, 3)
    assert found.min() >= 0
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)
    assert np.ptp(found, 0).min() > 0.05, "they follow the gradients"
    metrics = trainer.evaluate()
    assert metrics["eval_accuracy"] > 0.7
    assert {f"eval_accuracy/source={name}" for name in NAMES} <= metrics.keys()
    assert all(np.isfinite(value) for entry in trainer.state.log_history for value in entry.values())


# However a step is divided.


def test_a_moving_average_may_be_accumulated_too(judgments, tiny_model, tmp_path):
    results = []
    for parts in (1, 2):
        trainer = make(
            tiny_model, judgments, tmp_path, max_steps=4, per_device_train_batch_size=8 // parts,
            gradient_accumulation_steps=parts, new_gradient_share=0.6,
        )  # fmt: skip
        trainer.train()
        results.append(lambdas(trainer))
    np.testing.assert_allclose(results[1], results[0], atol=1e-4)


def test_micro_solves_for_each_micro_batch(judgments, tiny_model, tmp_path):
    """Each with its own lambda, by its share of the step's weight; and that is not what a step as a whole does."""
    values = {"max_steps": 1, "per_device_train_batch_size": 6, "gradient_accumulation_steps": 2}
    step = make(tiny_model, judgments, tmp_path, **values)
    step.train()
    trainer = make(tiny_model, judgments, tmp_path, granularity="micro", **values)
    other = make(tiny_model, judgments, tmp_path)
    order = list(trainer._get_train_sampler())
    total, expected, weights = 0.0, 0.0, []
    for start in (0, 6):
        inputs = other.data_collator(order[start : start + 6])
        loss = other.compute_loss(other.model, inputs).item()
        found = other.source_logs.taken(other.accelerator)
        weights.append([found[f"weight/source={name}"] for name in NAMES])
        share = inputs["weight"].sum().item()
        total, expected = total + share, expected + share * loss
    trainer.train()
    np.testing.assert_allclose(lambdas(trainer)[0], np.mean(weights, 0), atol=1e-5)
    assert logged(trainer, "loss")[0] == pytest.approx(expected / total, rel=1e-5)
    assert np.abs(lambdas(trainer) - lambdas(step)).max() > 0.01


def test_half_precision_leaves_the_sums_whole(judgments, tiny_model, tmp_path):
    """Under bf16 the states are coarse, but their gradients, weights and mean losses are exact sums of them."""
    trainer = make(tiny_model, judgments, tmp_path, bf16=True)
    inputs = trainer.data_collator(list(range(11)))
    with trainer.compute_loss_context_manager():
        loss, utilities = trainer.compute_loss(trainer.model, inputs, return_outputs=True)
    free = utilities.detach().double().requires_grad_()
    losses = trainer._losses(free, inputs)
    member = (inputs["membership"] * inputs["weight"].unsqueeze(-1)).double()
    means = (member.T @ losses / member.sum(0)).detach().numpy()
    gradients = []
    for mine in member.T:
        (each,) = torch.autograd.grad((mine * losses).sum() / mine.sum(), free, retain_graph=True)
        gradients.append((each.unsqueeze(-1) * trainer._states[inputs["index"]].double()).sum((0, 1)))
    weights = min_norm_weights(gramian(torch.stack(gradients)))
    found = trainer.source_logs.taken(trainer.accelerator)
    np.testing.assert_allclose([found[f"weight/source={name}"] for name in NAMES], weights, atol=1e-5)
    assert loss.item() == pytest.approx(weights @ means, rel=1e-5)


# What is not there.


def test_absent_sources_and_weights_of_zero_have_defined_results(tiny_model, tmp_path):
    """Each step is compared with the mean over what is there."""
    table = rows(24)
    for row in table[12:18]:
        row["weight"] = 0.0
    trainer = make(tiny_model, table, tmp_path)
    for batch, alive in (([0, 1, 3, 4], (0, 1)), ([2, 5], (2,)), ([0, 3, 13, 14], (0,))):
        inputs = trainer.data_collator(batch)
        means, _, _ = head_gradients(trainer, inputs)
        loss = trainer.compute_loss(trainer.model, inputs)
        found = trainer.source_logs.taken(trainer.accelerator)
        weights = np.array([found[f"weight/source={name}"] for name in NAMES])
        assert np.flatnonzero(weights).tolist() == list(alive)
        assert weights.sum() == pytest.approx(1)
        assert loss.item() == pytest.approx(weights @ means, rel=1e-5)
        assert {name for name in NAMES if f"loss/source={name}" in found} == {NAMES[one] for one in alive}
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(list(range(12, 18))))
    loss.backward()
    assert loss.item() == 0
    assert not any(tensor.grad.any() for tensor in trainer.model.parameters())
    assert not trainer.source_logs.taken(trainer.accelerator), "nothing was solved and nothing weighs"


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"new_gradient_share": 0.5},
        {"granularity": "micro"},
        {"weights": "proportional"},
        {"weights": "uniform"},
    ],
    ids=str,
)
def test_steps_without_weight_and_micro_batches_without_a_source_train_without_nan(values, tiny_model, tmp_path):
    table = rows(24)
    for row in table[8:16]:
        row["weight"] = 0.0
    trainer = make(
        tiny_model, table, tmp_path, train_sampling_strategy="sequential", per_device_train_batch_size=2,
        gradient_accumulation_steps=2, num_train_epochs=2, **values,
    )  # fmt: skip
    trainer.train()
    assert torch.isfinite(tensors(trainer)).all()
    assert all(np.isfinite(value) for entry in trainer.state.log_history for value in entry.values())
    assert [np.sign(loss) for loss in logged(trainer, "loss")] == [1, 1, 0, 0, 1, 1] * 2


def test_a_source_whose_judgments_weigh_nothing_trains_nothing(tiny_model, tmp_path):
    """As if it were not there."""
    table = [row | ({"weight": 0.0} if row["source"] == "c" else {}) for row in rows(48)]
    found = []
    for chosen in (table, [row | {"source": "a"} if row["source"] == "c" else row for row in table]):
        trainer = make(tiny_model, chosen, tmp_path, train_sampling_strategy="sequential", max_steps=4)
        trainer.train()
        found.append((tensors(trainer), lambdas(trainer)))
    assert not found[0][1][:, 2].any()
    np.testing.assert_array_equal(found[0][1][:, :2], found[1][1])
    assert torch.equal(found[0][0], found[1][0])


def test_all_tied_judgments_share_equally(tiny_model, tmp_path):
    """A tied pair has a loss without a gradient under `marginal`: no source has one, and nothing moves."""
    table = [row | {"responses": row["responses"][:2], "ranks": [1, 1]} for row in rows(24)]
    trainer = make(tiny_model, table, tmp_path, ties="marginal", loss_type="bradley-terry", max_steps=2)
    before = tensors(trainer).clone()
    trainer.train()
    np.testing.assert_allclose(lambdas(trainer), 1 / 3, rtol=1e-6)
    torch.testing.assert_close(tensors(trainer), before, rtol=0, atol=1e-9)


# Moving averages and checkpoints.


def test_the_moving_average_by_hand(tiny_model, tmp_path):
    """Three steps; a source that is absent keeps its average and has no weight, a new one has its first gradient."""
    names = ("abc", "ab", "acd")
    picked = [
        {**row, "source": source}
        for step, (row, source) in enumerate(zip(rows(24), (s for kind in names for s in (kind * 8)[:8]), strict=True))
    ]
    share = 0.7
    trainer = make(
        tiny_model, picked, tmp_path, train_sampling_strategy="sequential", new_gradient_share=share, max_steps=3,
        learning_rate=1e-2, lr_scheduler_type="constant",
    )  # fmt: skip
    met = []
    inner = trainer.compute_loss

    def watched(model, inputs, *others, **options):
        met.append(head_gradients(trainer, inputs))
        return inner(model, inputs, *others, **options)

    trainer.compute_loss = watched
    trainer.train()
    total, mass = torch.zeros_like(met[0][1]).double(), torch.zeros(4, 1, dtype=torch.float64)
    for (_, gradients, counts), found in zip(met, lambdas(trainer), strict=True):
        for source in np.flatnonzero(counts):
            total[source] = share * gradients[source] + (1 - share) * total[source]
            mass[source] = share + (1 - share) * mass[source]
        average = total / mass.clamp(min=1e-9)
        np.testing.assert_allclose(found, min_norm_weights(gramian(average), present=counts > 0), atol=1e-4)
        assert not found[counts == 0].any()
    assert [(counts > 0).tolist() for _, _, counts in met] == [
        [True, True, True, False], [True, True, False, False], [True, False, True, True]
    ]  # fmt: skip
    torch.testing.assert_close(trainer._smoothed.state["sum"], total, rtol=1e-4, atol=1e-6)


RESUMED = [
    ("tiny_model", {"new_gradient_share": share, "sampling": sampling})
    for share in (1.0, 0.9)
    for sampling in ("balanced", "proportional")
] + [("tiny_encoder", {"disable_dropout": False, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4})]


@pytest.mark.parametrize(("folder", "values"), RESUMED, ids=str)
def test_a_resumed_run_ends_as_an_undisturbed_one(folder, values, tmp_path, request):
    """To the bit, in the second epoch, with a checkpoint inside it."""
    folder, table = request.getfixturevalue(folder), rows(40, names="aabc")
    values = {"save_strategy": "steps", "save_steps": 8, "max_steps": 13, **values}
    if values.get("sampling") == "balanced":
        values["judgments_per_source"] = 17
    calm = make(folder, table, tmp_path / "calm", **values)
    calm.train()
    assert calm.state.epoch > 1
    resumed = make(folder, table, tmp_path / "resumed", **values)
    resumed.train(resume_from_checkpoint=str(tmp_path / "calm" / "checkpoint-8"))
    np.testing.assert_array_equal(lambdas(resumed), lambdas(calm))
    assert len(lambdas(calm)) == 13
    assert torch.equal(tensors(resumed), tensors(calm))
    kept = tmp_path / "calm" / "checkpoint-8" / more.AVERAGES
    assert kept.exists()


SCRIPT = """
import sys, json
sys.path.insert(0, {tests!r})
import more_setup as here
from accelerate import PartialState

def main():
    found = {{}}
    for name, values in {cases}.items():
        trainer = here.make({model!r}, here.rows(), {folder!r}, **values)
        trainer.train()
        found[name] = {{"lambdas": here.lambdas(trainer).tolist(), "loss": here.logged(trainer, "loss"),
                        "own": [here.logged(trainer, f"loss/source={{one}}") for one in here.NAMES]}}
    if trainer.accelerator.is_main_process:
        open({folder!r} + "/found.json", "w").write(json.dumps(found))
    trainer.accelerator.wait_for_everyone()

main()  # what the trainer holds goes before the process group does
PartialState().destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_give_the_weights_and_losses_of_one(tiny_model, tmp_path):
    """With and without accumulation; in `micro` a micro-batch is that of all processes."""
    cases = {
        "step": ({}, {"per_device_train_batch_size": 4}),
        "accumulated": (
            {"new_gradient_share": 0.8},
            {"new_gradient_share": 0.8, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
        ),
        "micro": (
            {"granularity": "micro", "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
            {"granularity": "micro", "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
        ),
        "uniform": ({"weights": "uniform"}, {"weights": "uniform", "per_device_train_batch_size": 4}),
    }
    # A small rate: what differs in the last digits of one step should not be a new difference in the next.
    common = {"max_steps": 5, "learning_rate": 1e-5}
    alone = {}
    for name, (values, _) in cases.items():
        trainer = make(tiny_model, rows(), tmp_path / "alone", **common, **values)
        trainer.train()
        alone[name] = trainer
    (tmp_path / "both").mkdir()
    script = tmp_path / "both.py"
    script.write_text(
        SCRIPT.format(
            tests=str(Path(__file__).parents[1]), model=str(tiny_model),
            folder=str(tmp_path / "both"), cases={name: common | values for name, (_, values) in cases.items()},
        )
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PLURALIGN_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    both = json.loads((tmp_path / "both" / "found.json").read_text())
    for name, trainer in alone.items():
        np.testing.assert_allclose(both[name]["lambdas"], lambdas(trainer), atol=1e-6, err_msg=name)
        np.testing.assert_allclose(both[name]["loss"], logged(trainer, "loss"), rtol=1e-5, err_msg=name)
        expected = [logged(trainer, f"loss/source={one}") for one in NAMES]
        np.testing.assert_allclose(both[name]["own"], expected, rtol=1e-5, err_msg=name)


# Adapters, names, data in other forms.


@pytest.mark.parametrize("folder", ["tiny_model", "tiny_encoder"])
def test_an_adapter_has_the_weights_of_its_head_s_gradients(folder, judgments, tmp_path, request):
    config = peft.LoraConfig(r=4, lora_dropout=0.0, target_modules="all-linear")
    trainer = make(request.getfixturevalue(folder), judgments, tmp_path, peft_config=config)
    inputs = trainer.data_collator(list(range(9)))
    _, gradients, _ = head_gradients(trainer, inputs)
    trainer.compute_loss(trainer.model, inputs)
    found = trainer.source_logs.taken(trainer.accelerator)
    np.testing.assert_allclose(
        [found[f"weight/source={name}"] for name in NAMES], min_norm_weights(gramian(gradients)), atol=1e-4
    )


def test_a_dict_of_data_sets_is_the_table_with_names(tiny_model, tmp_path):
    table = rows(32)
    parts = {
        name: Judgments.from_rows([row | {"source": None} for row in table if row["source"] == name]) for name in NAMES
    }
    whole = [row for name in NAMES for row in table if row["source"] == name]
    found = []
    for data in (parts, Judgments.from_rows(whole)):
        trainer = make(tiny_model, data, tmp_path, max_steps=3)
        trainer.train()
        found.append((trainer.sources, tensors(trainer)))
    assert found[0][0] == found[1][0] == list(NAMES)
    assert torch.equal(found[0][1], found[1][1])


def test_preference_rows_of_trl_may_be_the_sources(tiny_model, tmp_path, caplog):
    def pairs(start):
        return [
            {"prompt": row["prompt"], "chosen": row["responses"][0], "rejected": row["responses"][1]}
            for row in rows(24)[start : start + 12]
        ]

    transformers.utils.logging.enable_propagation()
    with caplog.at_level(logging.WARNING):
        trainer = make(tiny_model, {"one": pairs(0), "two": pairs(12)}, tmp_path, max_steps=2)
    transformers.utils.logging.disable_propagation()
    assert "two sources: with normalize: l2 their weights are always equal" in caplog.text
    trainer.train()
    np.testing.assert_allclose(lambdas(trainer), 0.5, rtol=1e-6)
    assert trainer.sources == ["one", "two"]
    np.testing.assert_allclose(lambdas(trainer).sum(1), 1, rtol=1e-6)


# Presets and baselines.


def test_presets_set_what_they_say_and_leave_what_is_given(tmp_path):
    paper = MOREConfig(str(tmp_path), preset="paper")
    assert (paper.loss_type, paper.sampling, paper.judgments_per_source) == ("bradley-terry", "balanced", 40_000)
    assert (paper.per_device_train_batch_size, paper.learning_rate, paper.num_train_epochs) == (80, 1e-6, 1.0)
    assert (paper.max_length, paper.new_gradient_share, paper.weights) == (512, 0.99, "more")
    assert (paper.normalize, paper.granularity) == ("l2", "step")
    for preset in ("multitask", "top", "raw"):
        found = MOREConfig(str(tmp_path), preset=preset, only_source="a" if preset == "top" else None)
        assert (found.weights, found.new_gradient_share, found.per_device_train_batch_size) == ("uniform", 0.05, 80)
        assert found.num_train_epochs == (0.0 if preset == "raw" else 1.0)
    kept = MOREConfig(str(tmp_path), preset="paper", learning_rate=1e-4, judgments_per_source=7, max_length=64)
    assert (kept.learning_rate, kept.judgments_per_source, kept.max_length) == (1e-4, 7, 64)
    assert kept.loss_type == "bradley-terry"
    plain = MOREConfig(str(tmp_path))
    assert (plain.loss_type, plain.new_gradient_share, plain.judgments_per_source) == ("plackett-luce", 0.05, None)


def test_raw_trains_nothing_saves_and_scores(judgments, tiny_model, tmp_path):
    trainer = make(tiny_model, judgments, tmp_path, preset="raw", max_length=64)
    before = tensors(trainer).clone()
    trainer.train()
    assert trainer.state.global_step == 0
    assert torch.equal(tensors(trainer), before)
    trainer.save_model(str(tmp_path / "raw"))
    items, rewards = trainer.score(judgments)
    loaded = load_reward_model(tmp_path / "raw", device="cpu")
    np.testing.assert_allclose(loaded.score_items(items), rewards, rtol=1e-5, atol=1e-6)


def test_top_learns_from_one_source_alone(tiny_model, tmp_path):
    """What the others say does not matter, to the bit; and it is the plain trainer on the source's judgments."""
    table = rows(48)
    turned = [row if row["source"] == "b" else row | {"ranks": row["ranks"][::-1], "weight": 9.0} for row in table]
    alone = [row for row in table if row["source"] == "b"]
    values = {
        "max_steps": 4,
        "only_source": "b",
        "preset": "top",
        "per_device_train_batch_size": 4,
        "max_length": 64,
    }
    found = []
    for chosen in (table, turned, alone):
        trainer = make(tiny_model, chosen, tmp_path, **values)
        trainer.train()
        assert trainer.sources == ["b"]
        assert (lambdas(trainer) == 1).all()
        found.append(tensors(trainer))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    plain = make(
        tiny_model, alone, tmp_path, kind=(BradleyTerryConfig, BradleyTerryTrainer), max_steps=1, max_length=64,
        per_device_train_batch_size=4,
    )  # fmt: skip
    ours = make(tiny_model, table, tmp_path, **values)
    inputs = [trainer.data_collator([0, 3, 5]) for trainer in (plain, ours)]
    losses = [one.compute_loss(one.model, batch).item() for one, batch in zip((plain, ours), inputs, strict=True)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def test_the_steps_after_the_last_log_are_logged_at_the_end(judgments, tiny_model, tmp_path):
    trainer = make(tiny_model, judgments, tmp_path, max_steps=5, logging_steps=3)
    every = make(tiny_model, judgments, tmp_path, max_steps=5)
    for one in (trainer, every):
        one.train()
    each = lambdas(every)
    np.testing.assert_allclose(lambdas(trainer), [each[:3].mean(0), each[3:].mean(0)], rtol=1e-9)
    assert len(each) == 5


# What cannot be trained.


WRONG = [
    ({"weights": "mor"}, "weights: found 'mor', expected more, uniform, proportional, fixed"),
    ({"sampling": "even"}, "sampling: found 'even', expected balanced, proportional"),
    ({"granularity": "batch"}, "granularity: found 'batch', expected step, micro"),
    ({"normalize": "l1"}, "normalize: found 'l1', expected l2, none"),
    ({"source": "group"}, "source: found 'group', expected column, types"),
    ({"loss_type": "pairs"}, "loss_type: found 'pairs', expected plackett-luce, bradley-terry"),
    ({"preset": "papers"}, "preset: found 'papers', expected paper, multitask, top, raw"),
    ({"preset": "top"}, "preset: top trains on one source: say which in only_source"),
    ({"new_gradient_share": 0.0}, "new_gradient_share: found 0.0, expected above 0, at most 1"),
    ({"new_gradient_share": 1.1}, "new_gradient_share: found 1.1, expected above 0, at most 1"),
    ({"judgments_per_source": 0}, "judgments_per_source: found 0, expected 1 or more"),
    ({"weights": "fixed"}, "source_weights: go with weights: fixed, and only with them"),
    ({"source_weights": {"a": 1.0}}, "source_weights: go with weights: fixed, and only with them"),
    ({"weights": "fixed", "source_weights": {"a": -1.0}}, "source_weights: a has -1.0, expected a finite number"),
    (
        {"weights": "fixed", "source_weights": {"a": float("nan")}},
        "source_weights: a has nan, expected a finite number",
    ),
    ({"only_source": "a", "source": "types"}, "only_source: names a source of the column"),
    ({"top": 1, "loss_type": "bradley-terry"}, "top: counts places of a ranking"),
    ({"types": 0}, "types: found 0, expected auto, or 1 or more"),
    ({"max_length": 0}, "max_length: found 0"),
]


@pytest.mark.parametrize(("values", "expected"), WRONG, ids=str)
def test_a_wrong_config_is_refused(values, expected, tmp_path):
    with pytest.raises(ValueError, match=expected):
        MOREConfig(str(tmp_path), **values)


NOT_TRAINED = [
    ([row | {"source": None} if number == 5 else row for number, row in enumerate(rows(12))], {},
     "source: 1 of 12 judgments have none"),
    (rows(12), {"per_device_train_batch_size": 2}, "a step of 2 judgments cannot hold 3 sources; give 3 or more"),
    (rows(12), {"only_source": "d"}, "only_source: no judgment of 'd'; there are: a, b, c"),
    (rows(12), {"weights": "fixed", "source_weights": {"a": 1.0, "d": 2.0}},
     "source_weights: found a, d, expected one for each of a, b, c"),
    (rows(12), {"weights": "fixed", "source_weights": {"a": 0.0, "b": 0.0, "c": 0.0}}, "source_weights: all are 0"),
    ({}, {}, "no table was given to join"),
]  # fmt: skip


@pytest.mark.parametrize(("table", "values", "expected"), NOT_TRAINED, ids=[one[-1] for one in NOT_TRAINED])
def test_what_cannot_be_trained_is_said(table, values, expected, tiny_model, tmp_path):
    with pytest.raises(PluralignError, match=expected):
        make(tiny_model, table, tmp_path, **values)


def test_a_step_over_accumulation_may_hold_what_a_micro_batch_cannot(tiny_model, tmp_path):
    trainer = make(
        tiny_model, rows(12), tmp_path, per_device_train_batch_size=1, gradient_accumulation_steps=3, max_steps=2
    )
    trainer.train()
    assert (lambdas(trainer) > 0).sum() > 2


def test_a_head_that_is_not_linear_is_refused(judgments, tiny_model, tmp_path):
    built = build_reward_model(tiny_model)
    width = built.model.score.in_features
    built.model.score = torch.nn.Sequential(torch.nn.Linear(width, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    args = MOREConfig(str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(PluralignError, match=r"its head is Sequential, expected one linear layer: .* build_reward_m"):
        MORETrainer(built.model, args=args, train_dataset=judgments, processing_class=built.tokenizer)

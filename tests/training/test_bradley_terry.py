"""Options of bradley-terry: ordered strengths, annotators' scales, the sign estimator."""

import json

import numpy as np
import pytest
import torch

import more_setup
from pluralign.choice.ordered import ordered_pair_log_likelihood
from pluralign.choice.sign import sign_score
from pluralign.core.errors import PluralignError
from pluralign.judgments import Judgments
from pluralign.scoring.reward_models import load_reward_model
from pluralign.training.choice_parameters import LearnedScales, LearnedThresholds
from pluralign.training.reward_trainer import BradleyTerryConfig, BradleyTerryTrainer
from pluralign.workflows.evaluate import evaluate
from pluralign.workflows.train.run import train

KIND = (BradleyTerryConfig, BradleyTerryTrainer)


def pairs(count, seed=0, ties=0.2, unknown=0.1):
    """Pairs with strengths 0.5, 1 and 3, some ties and some without a strength."""
    draw, rows = np.random.default_rng(seed), []
    for number in range(count):
        row = {"prompt": f"{number % 7}?", "responses": [f"good {number}", f"bad tea {number}"],
               "ranks": [1, 2] if draw.random() < 0.8 else [2, 1], "annotator": f"w{number % 6}",
               "strength": float(draw.choice([0.5, 1.0, 3.0]))}  # fmt: skip
        if draw.random() < ties:
            row |= {"ranks": [1, 1], "strength": 0.0}
        elif draw.random() < unknown:
            row |= {"strength": None}
        rows.append(row)
    return rows


def make(*args, **values):
    return more_setup.make(*args, kind=KIND, **values)


class Alone:
    """An accelerator of one process."""

    def reduce(self, value, how):
        return value


def test_ordered_strengths_are_trained_by_their_likelihood_and_thresholds_move_to_their_estimate(tiny_model, tmp_path):
    rows = pairs(64)
    trainer = make(tiny_model, rows, tmp_path, strength="ordered")
    assert trainer.levels == [0.5, 1.0, 3.0]
    inputs = trainer.data_collator(list(range(64)))
    expected = [{None: 0, 0.0: 0, 0.5: 1, 1.0: 2, 3.0: 3}[row["strength"]] for row in rows]
    assert inputs["strength"].tolist() == expected
    start = trainer.thresholds.cuts.detach()
    loss, utilities = trainer.compute_loss(trainer.model, inputs, return_outputs=True)
    by_hand = ordered_pair_log_likelihood(utilities, inputs["ranks"], inputs["strength"], start)
    assert loss.item() == pytest.approx(-by_hand.mean().item(), rel=1e-6)
    learned = trainer.thresholds
    learned.load({"value": torch.full((3,), -1.5, dtype=torch.float64)})

    def slope():
        sides, ranks = utilities.detach(), inputs["ranks"]
        total = ordered_pair_log_likelihood(sides, ranks, inputs["strength"], learned.cuts).sum()
        return torch.autograd.grad(total, learned.value)[0]

    for _ in range(400):
        learned.note(slope(), inputs["weight"], inputs)
        learned.step(Alone())
    assert slope().abs().max().item() / 64 < 1e-3


def test_strengths_are_stored_and_evaluated(tiny_model, tmp_path):
    Judgments.from_rows(pairs(48)).write(tmp_path / "train.parquet")
    Judgments.from_rows(pairs(30, seed=3)).write(tmp_path / "test.parquet")
    config = {
        "objective": "bradley-terry", "model_name_or_path": str(tiny_model), "train_files": [str(tmp_path / "train.parquet")],
        "eval_files": [str(tmp_path / "test.parquet")], "output_dir": str(tmp_path / "run"), "strength": "ordered",
        "annotator_scales": True, "max_steps": 4, "use_cpu": True, "report_to": "none", "learning_rate": 1e-3,
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    metrics = train(tmp_path / "config.yaml")
    stored = json.loads((tmp_path / "run" / "config.json").read_text())["pluralign"]["strengths"]
    assert stored["levels"] == [0.5, 1.0, 3.0]
    assert [metrics[f"threshold/{place}"] for place in range(3)] == pytest.approx(stored["thresholds"])
    assert 0 < stored["thresholds"][0] < stored["thresholds"][1] < stored["thresholds"][2]
    later = evaluate(tmp_path / "run", str(tmp_path / "test.parquet"), tmp_path / "out")
    for key in ("strength_log_loss", "strength_judgments", "gain_of_annotator_scales", "scaled_share"):
        assert later[key] == pytest.approx(metrics[key], rel=1e-4, abs=1e-6)
    assert later["strength_judgments"] == sum(row["strength"] is not None for row in pairs(30, seed=3))
    scales = json.loads((tmp_path / "run" / "annotator_scales.json").read_text())
    assert set(scales["scales"]) == {f"w{number}" for number in range(6)}
    # A model that is trained on without strengths forgets them.
    plain = make(str(tmp_path / "run"), pairs(16), tmp_path / "next", max_steps=1, annotator_scales=True)
    plain.save_model()
    kept = load_reward_model(tmp_path / "next", device="cpu").model.config.pluralign
    assert "strengths" not in kept
    saved = json.loads((tmp_path / "next" / "annotator_scales.json").read_text())
    assert saved == plain.annotator_scales.as_dict(), "from Python too"


@pytest.mark.parametrize("values", [{"strength": "ordered"}, {"annotator_scales": True}, {"ties": "davidson"}])
def test_accumulation_and_resuming_change_nothing(values, tiny_model, tmp_path):
    """What is learned beside the model moves once a step, by the whole step, and is part of a checkpoint."""
    common = values | {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "judgments_per_group": 1}
    whole = make(tiny_model, pairs(48), tmp_path / "whole", per_device_train_batch_size=8, **common)
    parts = make(tiny_model, pairs(48), tmp_path / "parts", per_device_train_batch_size=2,
                 gradient_accumulation_steps=4, **common)  # fmt: skip
    start = {name: own.value.detach().clone() for name, own in whole.learned.items()}
    whole.train()
    parts.train()
    resumed = make(tiny_model, pairs(48), tmp_path / "resumed", per_device_train_batch_size=8, **common)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    for name, own in whole.learned.items():
        assert not torch.equal(own.value.detach(), start[name])
        torch.testing.assert_close(parts.learned[name].value, own.value, rtol=1e-4, atol=1e-5)
        for key, value in own.state().items():
            assert torch.equal(resumed.learned[name].state()[key], value)


def test_scales_multiply_rewards_and_those_who_judge_at_random_get_a_small_one():
    """The scales alone, against judgments with known margins: shrunk, in the right order, near the truth."""
    draw = np.random.default_rng(0)
    true = np.array([0.1] * 5 + [1.0] * 20 + [2.5] * 5)
    annotator = np.repeat(np.arange(30), 120)
    margin = torch.from_numpy(draw.normal(size=3600) * 1.5)
    won = torch.from_numpy(draw.random(3600)) < torch.sigmoid(torch.from_numpy(true[annotator]) * margin)
    toward = torch.where(won, margin, -margin)
    scales = LearnedScales(np.full(30, 120.0))

    for _ in range(8):
        for batch in np.array_split(draw.permutation(3600), 60):
            chosen = torch.from_numpy(annotator[batch])
            losses = torch.nn.functional.logsigmoid(toward[batch] * scales.of(chosen))
            (slope,) = torch.autograd.grad(losses.sum(), scales.value)
            scales.note(slope, torch.ones(len(batch), dtype=torch.float64), {"annotator": chosen})
            scales.step(Alone())
    found = scales.value.detach().exp().numpy()
    assert found[:5].max() < found[5:25].min()
    assert found[25:].mean() > 1.5
    assert abs(np.log(found[5:25])).mean() < 0.3
    assert 0.4 < scales.tau < 1.5
    assert scales.of(torch.tensor([30])).item() == 1  # judgments without an annotator


def test_the_batch_s_rewards_are_multiplied_by_the_annotator_s_scale(tiny_model, tmp_path):
    rows = [*pairs(20, ties=0.0), {**pairs(1, ties=0.0)[0], "annotator": None}]
    trainer = make(tiny_model, rows, tmp_path, annotator_scales=True)
    trainer.scales.load(trainer.scales.state() | {"value": torch.linspace(-1, 1, 6, dtype=torch.float64)})
    inputs = trainer.data_collator(list(range(21)))
    each = torch.tensor([np.exp(-1 + 0.4 * int(row["annotator"][1])) if row["annotator"] else 1.0 for row in rows])
    loss, utilities = trainer.compute_loss(trainer.model, inputs, return_outputs=True)
    margin = (utilities[:, 0] - utilities[:, 1]) * torch.where(inputs["ranks"][:, 0] == 1, 1, -1) * each
    assert loss.item() == pytest.approx(-torch.nn.functional.logsigmoid(margin).mean().item(), rel=1e-5)


def test_the_sign_loss_is_that_of_the_sign_estimator(tiny_model, tmp_path):
    trainer = make(tiny_model, pairs(16), tmp_path, loss="sign", max_steps=3)
    inputs = trainer.data_collator(list(range(16)))
    loss, utilities = trainer.compute_loss(trainer.model, inputs, return_outputs=True)
    assert loss.item() == pytest.approx(-sign_score(utilities, inputs["ranks"]).mean().item(), rel=1e-6)
    before = [weight.detach().clone() for weight in trainer.model.parameters()]
    trainer.train()
    assert any(not torch.equal(one, two) for one, two in zip(before, trainer.model.parameters(), strict=True))


def test_what_does_not_go_together_is_refused(tiny_model, tmp_path):
    for values, message in (
        ({"loss": "sign", "strength": "ordered"}, "strength: needs probabilities"),
        ({"loss": "sign", "annotator_scales": True}, "annotator_scales: needs probabilities"),
        ({"loss": "sign", "ties": "davidson"}, "loss: sign classifies single judgments"),
        ({"strength": "ordered", "ties": "davidson"}, "ties as its middle outcome"),
        ({"loss": "hinge"}, "loss: found 'hinge'"),
    ):
        with pytest.raises(ValueError, match=message):
            BradleyTerryConfig(str(tmp_path), use_cpu=True, **values)
    without = [{key: value for key, value in row.items() if key not in ("strength", "annotator")} for row in pairs(8)]
    with pytest.raises(PluralignError, match="no judgment that prefers one of two responses has a strength"):
        make(tiny_model, without, tmp_path, strength="ordered")
    with pytest.raises(PluralignError, match="no training judgment has an annotator"):
        make(tiny_model, without, tmp_path, annotator_scales=True)
    many = [{**row, "ranks": [1, 2], "strength": 1.0 + number} for number, row in enumerate(pairs(12))]
    with pytest.raises(PluralignError, match="found 12 different strengths, expected at most 10"):
        make(tiny_model, many, tmp_path, strength="ordered")
    assert isinstance(make(tiny_model, many[:10], tmp_path, strength="ordered").thresholds, LearnedThresholds)

"""The reward trainers: what is learned does not depend on how judgments fall into batches."""

import math

import datasets
import numpy as np
import pytest
import torch
import trl

from pluralign.core.errors import PluralignError
from pluralign.judgments import Judgments
from pluralign.scoring import probe
from pluralign.scoring.reward_models import build_reward_model, load_reward_model
from pluralign.training.reward_trainer import (
    BradleyTerryConfig,
    BradleyTerryTrainer,
    PlackettLuceConfig,
    PlackettLuceTrainer,
)

OBJECTIVES = [(BradleyTerryConfig, BradleyTerryTrainer), (PlackettLuceConfig, PlackettLuceTrainer)]


@pytest.fixture(scope="module")
def judgments(town_rows):
    return Judgments.from_rows([{**row, "weight": 1 + index % 3} for index, row in enumerate(town_rows)])


def make(kind, folder, judgments, tmp_path, evaluated=None, peft_config=None, seed=0, **values):
    config, trainer = kind
    torch.manual_seed(seed)
    built = build_reward_model(folder, max_length=values.get("max_length"))
    defaults = {
        "output_dir": str(tmp_path),
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "save_strategy": "no",
        "logging_steps": 1,
    }
    args = config(**{**defaults, **values})
    return trainer(
        built.model,
        args=args,
        train_dataset=judgments,
        eval_dataset=evaluated,
        processing_class=built.tokenizer,
        peft_config=peft_config,
    )


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weights(trainer):
    return torch.cat([tensor.detach().flatten() for tensor in trainer.model.parameters()])


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("folder", ["tiny_model", "tiny_encoder"])
def test_held_out_judgments_are_predicted(kind, folder, judgments, tmp_path, request):
    train, test = judgments.select(range(120)), judgments.select(range(120, 160))
    folder = request.getfixturevalue(folder)
    trainer = make(kind, folder, train, tmp_path, test, num_train_epochs=4, learning_rate=3e-3)
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_accuracy"] > 0.8
    assert 0 < metrics["eval_log_loss"] < math.log(2)
    assert all(math.isfinite(value) for value in metrics.values())
    assert {"accuracy", "margin", "mean_reward"} <= trainer.state.log_history[0].keys()


def test_the_loss_is_the_weighted_mean_over_the_step(judgments, tiny_model, tmp_path):
    trainer = make(OBJECTIVES[1], tiny_model, judgments, tmp_path)
    items, rewards = trainer.score(judgments)
    batches = [trainer.data_collator(list(range(start, start + 8))) for start in (0, 8)]
    total = trainer._get_num_items_in_batch(batches, torch.device("cpu"))
    trainer.model.eval()
    with torch.no_grad():
        found = sum(trainer.compute_loss(trainer.model, batch, num_items_in_batch=total) for batch in batches)
    each = [
        -trainer.judgment_log_likelihood(
            torch.tensor(rewards[items.response[items.shown(j)]])[None],
            torch.tensor(items.ranks[items.shown(j)])[None],
        ).item()
        for j in range(items.judgments)
    ]
    assert found.item() == pytest.approx(np.average(each[:16], weights=items.weight[:16]), rel=1e-5)
    assert trainer.mean_loss(items, rewards) == pytest.approx(np.average(each, weights=items.weight), rel=1e-9)


def test_a_text_is_read_once_however_many_judged_it(town_rows, tiny_model, tmp_path):
    """Ten people on the same texts: one row per text, and the loss of the plain layout."""
    crowd = Judgments.from_rows([{**town_rows[0], "annotator": f"h{person}"} for person in range(10)])
    trainer = make(OBJECTIVES[1], tiny_model, crowd, tmp_path)
    batch = trainer.data_collator(list(range(10)))
    assert sorted(batch["response"].tolist()) == list(range(len(town_rows[0]["responses"])))
    trainer.model.eval()
    single = trainer.compute_loss(trainer.model, trainer.data_collator([0]))
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(single.item(), rel=1e-6)


def test_first_loss_of_a_zero_head(judgments, tiny_model, tmp_path):
    """ln 2 for pairs; the mean log-likelihood of equal utilities for rankings (ties by Efron)."""
    for kind in OBJECTIVES:
        trainer = make(kind, tiny_model, judgments, tmp_path, judgments, learning_rate=0.0, max_steps=1, ties="efron")
        torch.nn.init.zeros_(trainer.model.score.weight)
        loss = trainer.evaluate()["eval_loss"]
        if kind is OBJECTIVES[0]:
            assert loss == pytest.approx(math.log(2), rel=1e-9)
        else:
            lengths = [
                math.lgamma(len(row["ranks"]) + 1)
                for row in judgments.rows()
                if len(set(row["ranks"])) == len(row["ranks"])
            ]
            assert min(lengths) <= loss <= max(lengths)


def test_preference_rows_of_trl_give_trls_loss(town_rows, tiny_model, tmp_path):
    """The same pairs in TRL's own RewardTrainer, from the same weights: the same losses over some steps."""
    rows = [
        {"prompt": row["prompt"] + "\n", "chosen": row["responses"][0], "rejected": row["responses"][1]}
        for row in town_rows[:64]
    ]
    dataset = datasets.Dataset.from_list(rows)
    ours = make(OBJECTIVES[0], tiny_model, dataset, tmp_path, max_steps=8, train_sampling_strategy="sequential")
    ours.save_model(str(tmp_path / "start"))
    ours.train()
    args = trl.RewardConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=8, learning_rate=1e-3, max_steps=8, logging_steps=1,
        report_to="none", disable_tqdm=True, use_cpu=True, save_strategy="no", bf16=False,
        gradient_checkpointing=None, max_length=None, train_sampling_strategy="sequential",
    )  # fmt: skip
    theirs = trl.RewardTrainer(str(tmp_path / "start"), args, train_dataset=dataset)
    theirs.train()
    np.testing.assert_allclose(losses(ours), losses(theirs), rtol=1e-4)


def test_activation_checkpointing_changes_nothing_and_bf16_little(judgments, tiny_model, tmp_path):
    found = {}
    for name, values in {
        "plain": {},
        "checkpointing": {"activation_checkpointing": True},
        "bf16": {"bf16": True},
    }.items():
        trainer = make(OBJECTIVES[1], tiny_model, judgments, tmp_path, max_steps=5, **values)
        trainer.train()
        found[name] = losses(trainer)
    np.testing.assert_allclose(found["checkpointing"], found["plain"], rtol=1e-6)
    np.testing.assert_allclose(found["bf16"], found["plain"], rtol=0.02)


def test_a_model_by_its_name_trains_saves_and_loads(judgments, tiny_model, tmp_path):
    args = PlackettLuceConfig(
        str(tmp_path / "run"), max_steps=2, max_length=64, use_cpu=True, report_to="none", save_strategy="no"
    )
    trainer = PlackettLuceTrainer(tiny_model, args=args, train_dataset=judgments)
    trainer.train()
    trainer.save_model()
    items, rewards = trainer.score(judgments)
    loaded = load_reward_model(tmp_path / "run", device="cpu")
    assert loaded.limits.max_length == 64
    np.testing.assert_allclose(loaded.score_items(items), rewards, rtol=1e-5, atol=1e-7)


def test_long_prompts_are_cut_and_said(town_rows, tiny_model, tmp_path, caplog):
    import transformers

    rows = [{**row, "prompt": "rain " * 60 + row["prompt"]} for row in town_rows[:8]]
    transformers.utils.logging.enable_propagation()
    try:
        make(OBJECTIVES[1], tiny_model, Judgments.from_rows(rows), tmp_path, max_length=48)
    finally:
        transformers.utils.logging.disable_propagation()
    assert "training: 8 of 8 prompts were cut on the left" in caplog.text


def test_centring_pulls_the_mean_reward_to_zero(judgments, tiny_model, tmp_path):
    mean = {}
    for coefficient in (None, 1.0):
        trainer = make(
            OBJECTIVES[1], tiny_model, judgments, tmp_path, max_steps=40, center_rewards_coefficient=coefficient
        )
        trainer.train()
        mean[coefficient] = np.abs(trainer.score(judgments)[1]).mean()
    assert mean[1.0] < mean[None]


def test_what_cannot_be_trained_is_said(judgments, tiny_model, tmp_path):
    with pytest.raises(PluralignError, match="needs its tokenizer"):
        BradleyTerryTrainer(
            build_reward_model(tiny_model).model, args=BradleyTerryConfig(str(tmp_path)), train_dataset=judgments
        )
    with pytest.raises(PluralignError, match="no judgment is left"):
        make(OBJECTIVES[0], tiny_model, Judgments.from_rows([{"responses": ["a"], "ranks": [1]}]), tmp_path)
    with pytest.raises(ValueError, match="max_length: found 0"):
        PlackettLuceConfig(str(tmp_path), max_length=0)


def test_all_tied_judgments_train_without_nan(tiny_model, tmp_path):
    rows = [{"prompt": "Tea?", "responses": ["good", "bad", f"cat {n}"], "ranks": [1, 1, 1]} for n in range(8)]
    for kind in OBJECTIVES:
        trainer = make(kind, tiny_model, Judgments.from_rows(rows), tmp_path, Judgments.from_rows(rows), max_steps=3)
        trainer.train()
        assert torch.isfinite(weights(trainer)).all()
        assert all(math.isfinite(value) for value in trainer.evaluate().values())


def test_the_layout_probe_knows_a_model_that_was_prepared_for_bf16(judgments, tiny_model, tmp_path):
    """It reads in bfloat16 outside the trainer too, where autocast is off."""
    trainer = make(OBJECTIVES[0], tiny_model, judgments, tmp_path, max_steps=1, bf16=True)
    assert probe._tolerance(trainer.model) == probe.TOLERANCE[torch.float32]
    trainer.train()
    assert probe._tolerance(trainer.model) == probe.HALF_TOLERANCE

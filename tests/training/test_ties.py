"""Ties with a probability of their own in reward models: chosen by the data, learned, stored, resumed, evaluated."""

import json
import logging

import numpy as np
import pytest
import torch
import transformers

import em_dpo_setup
import more_setup
from more_setup import rows
from pluralign.choice.davidson import davidson_log_likelihood, davidson_pair_log_likelihood, estimated_log_nu
from pluralign.core.errors import PluralignError
from pluralign.evaluation.rewards.tie_outcomes import outcome_pairs, tie_metrics
from pluralign.judgments import Judgments
from pluralign.judgments.votes import votes_of, write_votes
from pluralign.scoring.items import items_of
from pluralign.scoring.mixtures import Mixture, ranking_log_likelihoods, read_mixture
from pluralign.scoring.reward_models import load_reward_model
from pluralign.training import choice_parameters
from pluralign.training.more.config import MOREConfig
from pluralign.training.more.trainer import MORETrainer
from pluralign.training.reward_trainer import (
    BradleyTerryConfig,
    BradleyTerryTrainer,
    PlackettLuceConfig,
    PlackettLuceTrainer,
)
from pluralign.workflows.evaluate import evaluate
from pluralign.workflows.route import route

BRADLEY_TERRY = (BradleyTerryConfig, BradleyTerryTrainer)
PLACKETT_LUCE = (PlackettLuceConfig, PlackettLuceTrainer)


def make(*args, **values):
    """A trainer that takes ties for an outcome of their own where there are many."""
    return more_setup.make(*args, **{"ties": "auto"} | values)


def pairs(count, tied, seed=0):
    """Pairs of which a share is tied; the longer list of words wins otherwise."""
    draw = np.random.default_rng(seed)
    return [
        {"prompt": f"{number % 7}?", "responses": ["good " * (1 + number % 3) + str(number), "bad tea"],
         "ranks": [1, 1] if draw.random() < tied else [1, 2], "annotator": f"w{number % 9}"}
        for number in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [BRADLEY_TERRY, PLACKETT_LUCE])
def test_auto_chooses_by_the_share_of_ties_and_says_so(kind, tiny_model, tmp_path, caplog):
    transformers.utils.logging.enable_propagation()
    with caplog.at_level(logging.WARNING):
        many = make(tiny_model, pairs(60, 0.4), tmp_path, kind=kind)
        few = make(tiny_model, [*pairs(60, 0.0), {**pairs(1, 0)[0], "ranks": [1, 1]}], tmp_path, kind=kind)
        given = make(tiny_model, pairs(60, 0.4), tmp_path, kind=kind, ties="breslow")
    transformers.utils.logging.disable_propagation()
    assert many.learned_ties is not None
    assert (few.ties, few.learned_ties, given.ties, given.learned_ties) == ("efron", None, "breslow", None)
    assert caplog.text.count("of the compared pairs are tied; ties: davidson") == 1


def test_the_loss_is_davidson_s_and_nu_moves_to_its_estimate(tiny_model, tmp_path):
    """At a learning rate of 0 the utilities stay, and nu must become the most likely one for them."""
    trainer = make(
        tiny_model, pairs(64, 0.5), tmp_path, kind=BRADLEY_TERRY, max_steps=300, learning_rate=0.0, weight_decay=0.0,
        per_device_train_batch_size=32, logging_steps=300,
    )  # fmt: skip
    trainer.learned_ties.load({"value": torch.tensor([-2.0])})
    inputs = trainer.data_collator(list(range(32)))
    loss, utilities = trainer.compute_loss(trainer.model, inputs, return_outputs=True)
    expected = davidson_pair_log_likelihood(utilities, inputs["ranks"], torch.tensor([-2.0]))
    assert loss.item() == pytest.approx(-expected.mean().item(), rel=1e-6)
    trainer.train()
    items, rewards = trainer.score(Judgments.from_rows(pairs(64, 0.5)))
    gap, outcome, _, weight = outcome_pairs(
        rewards[items.response], items.ranks, items.offsets, items.prompt, items.weight
    )
    best = estimated_log_nu(gap, outcome, weight)
    # Half of a batch's noise in a Newton step of 0.02 is left.
    assert trainer.learned_ties.value.item() == pytest.approx(best, abs=0.1)
    assert trainer.state.log_history[0]["tie_nu"] == pytest.approx(trainer.learned_ties.nu[0], rel=1e-3)


def test_rankings_with_blocks_have_a_parameter_for_each_size(tiny_model, tmp_path):
    tied = [{**row, "ranks": [1] * 3} if len(row["ranks"]) == 3 else row for row in rows(48)]
    trainer = make(tiny_model, tied, tmp_path, kind=PLACKETT_LUCE, max_steps=3)
    assert len(trainer.learned_ties.value) >= 2
    inputs = trainer.data_collator(list(range(12)))
    trainer.model.eval()
    losses = trainer._losses(trainer._read(trainer.model, inputs)[inputs["index"]].detach(), inputs)
    utilities = trainer._read(trainer.model, inputs)[inputs["index"]]
    found = davidson_log_likelihood(utilities, inputs["ranks"], trainer.learned_ties.value.detach().to(utilities))
    torch.testing.assert_close(losses, -found)
    trainer.train()
    assert all(np.isfinite(value) for entry in trainer.state.log_history for value in entry.values())


def test_it_is_stored_with_the_model_and_used_by_evaluate(tiny_model, tmp_path):
    test = Judgments.from_rows(pairs(40, 0.5, seed=3))
    test.write(tmp_path / "test.parquet")
    trainer = make(
        tiny_model, pairs(48, 0.5), tmp_path / "run", test, kind=BRADLEY_TERRY, max_steps=4, learning_rate=1e-3
    )
    trainer.train()
    trainer.save_model()
    stored = json.loads((tmp_path / "run" / "config.json").read_text())["pluralign"]["tie_nu"]
    assert stored == trainer.learned_ties.nu == load_reward_model(tmp_path / "run", device="cpu").tie_nu
    metrics = evaluate(tmp_path / "run", str(tmp_path / "test.parquet"), tmp_path / "out")
    items, rewards = trainer.score(test)
    expected = tie_metrics(
        rewards[items.response], items.ranks, items.offsets, items.prompt, items.weight, np.log(stored[0]), replicates=0
    )
    assert metrics["tie_share"] == pytest.approx(np.mean([row["ranks"] == [1, 1] for row in test.rows()]))
    for key, value in expected.items():
        assert metrics[key] == pytest.approx(value, rel=1e-5)
        assert metrics[f"{key}_low"] <= metrics[key] <= metrics[f"{key}_high"]
    assert trainer.measure(test).metrics["outcome_log_loss"] == pytest.approx(metrics["outcome_log_loss"], rel=1e-5)
    # A model that is trained on without ties forgets them.
    plain = BradleyTerryTrainer(
        str(tmp_path / "run"),
        args=BradleyTerryConfig(str(tmp_path / "next"), ties="efron", use_cpu=True, report_to="none", max_steps=1),
        train_dataset=Judgments.from_rows(pairs(16, 0.5)),
    )
    plain.save_model()
    assert load_reward_model(tmp_path / "next", device="cpu").tie_nu == []


def test_a_resumed_run_ends_as_an_undisturbed_one(tiny_model, tmp_path):
    values = {"kind": BRADLEY_TERRY, "save_strategy": "steps", "save_steps": 4, "max_steps": 7}
    calm = make(tiny_model, pairs(40, 0.4), tmp_path / "calm", **values)
    calm.train()
    resumed = make(tiny_model, pairs(40, 0.4), tmp_path / "resumed", **values)
    resumed.train(resume_from_checkpoint=str(tmp_path / "calm" / "checkpoint-4"))
    assert torch.equal(resumed.learned_ties.value, calm.learned_ties.value)
    for one, other in zip(resumed.model.parameters(), calm.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_nu_moves_once_a_step_however_the_step_is_divided(tiny_model, tmp_path):
    """Also in MORE, whose accumulated steps read each judgment twice."""
    for kind in (BRADLEY_TERRY, (MOREConfig, MORETrainer)):
        table = [{**row, "source": "ab"[number % 2]} for number, row in enumerate(pairs(48, 0.4))]
        common = {"kind": kind, "ties": "davidson", "max_steps": 3, "judgments_per_group": 1}
        whole = make(tiny_model, table, tmp_path / "whole", per_device_train_batch_size=16, **common)
        parts = make(tiny_model, table, tmp_path / "parts", per_device_train_batch_size=4,
                     gradient_accumulation_steps=4, **common)  # fmt: skip
        start = whole.learned_ties.nu[0]
        whole.train()
        parts.train()
        assert whole.learned_ties.nu[0] != start
        assert parts.learned_ties.nu[0] == pytest.approx(whole.learned_ties.nu[0], rel=1e-5)


def test_policies_and_more_have_the_same_likelihood(tiny_model, tmp_path):
    table = [{**row, "source": "ab"[number % 2]} for number, row in enumerate(pairs(24, 0.5))]
    more = make(tiny_model, table, tmp_path / "more", kind=(MOREConfig, MORETrainer), max_steps=2)
    dpo = em_dpo_setup.make(str(tiny_model), table, tmp_path / "dpo", plain=True, ties="davidson", max_steps=2)
    for trainer in (more, dpo):
        inputs = trainer.data_collator(list(range(24)))
        utilities = torch.randn(24, 2, dtype=torch.float64)
        nu = torch.tensor(trainer.learned_ties.nu, dtype=torch.float64).log()
        found = trainer.judgment_log_likelihood(utilities, inputs["ranks"])
        torch.testing.assert_close(found, davidson_log_likelihood(utilities, inputs["ranks"], nu))
        trainer.train()
        assert trainer.training_metrics()["tie_nu"] == trainer.learned_ties.nu[0]
        assert trainer.measure(Judgments.from_rows(table)).metrics["tie_share"] == pytest.approx(
            np.mean([row["ranks"] == [1, 1] for row in table])
        )


def test_the_nu_of_a_policy_is_stored_and_used_by_evaluate(tiny_model, tmp_path):
    test = Judgments.from_rows(pairs(20, 0.5, seed=3))
    test.write(tmp_path / "test.parquet")
    trainer = em_dpo_setup.make(
        str(tiny_model), pairs(24, 0.5), tmp_path / "run", plain=True, ties="davidson", max_steps=2
    )
    trainer.train()
    trainer.save_model()
    expected = trainer.measure(test).metrics
    metrics = evaluate(tmp_path / "run", str(tmp_path / "test.parquet"), tmp_path / "out")
    for key in ("outcome_log_loss", "predicted_tie_share"):
        assert metrics[key] == pytest.approx(expected[key], rel=1e-4)
    # Under another beta nu says nothing.
    other = evaluate(tmp_path / "run", str(tmp_path / "test.parquet"), tmp_path / "other", beta=2.0)
    assert "outcome_log_loss" not in other


def test_types_share_nu_which_their_posteriors_use_and_rounds_keep(tiny_model, tmp_path):
    table = Judgments.from_rows([{**row, "group": f"g{int(row['annotator'][1:]) % 2 + 1}"} for row in pairs(54, 0.4)])
    values = {"ties": "davidson", "rounds": 2, "max_steps": 3}
    trainer = em_dpo_setup.make(str(tiny_model), table, tmp_path / "run", **values)
    start = trainer.learned_ties.nu[0]
    trainer.train()
    trainer.save_model()
    mixture = read_mixture(tmp_path / "run")
    assert mixture.ties == "davidson"
    assert mixture.tie_nu == trainer.learned_ties.nu != [start]
    items, utilities = trainer.score(table)
    nu = torch.tensor(mixture.tie_nu, dtype=torch.float64).log()
    found = ranking_log_likelihoods(utilities, items, mixture)
    for kind in range(2):
        own = torch.from_numpy(utilities[kind][items.response].reshape(-1, 2))
        expected = davidson_log_likelihood(own, torch.from_numpy(items.ranks.reshape(-1, 2)), nu)
        np.testing.assert_allclose(found[:, kind], expected, rtol=1e-9)
    table.write(tmp_path / "test.parquet")
    metrics = evaluate(tmp_path / "run", str(tmp_path / "test.parquet"), tmp_path / "out")
    assert metrics["outcome_log_loss"] == pytest.approx(trainer.measure(table).metrics["outcome_log_loss"], rel=1e-4)
    assert route(tmp_path / "run", str(tmp_path / "test.parquet")).num_rows == 9
    with pytest.raises(PluralignError, match="tie_nu of a mixture"):
        Mixture({"a": 1.0}, ties="davidson")


def test_what_has_no_third_outcome_is_refused(tiny_model, tmp_path):
    table = Judgments.from_rows(pairs(40, 0.4))
    write_votes(votes_of(table, kind="pairs"), tmp_path / "state.parquet")
    state = {"kind": BRADLEY_TERRY, "vote_state": str(tmp_path / "state.parquet")}
    assert make(tiny_model, table, tmp_path, **state).ties == "efron"
    with pytest.raises(PluralignError, match="davidson has three outcomes, and vote_state"):
        make(tiny_model, table, tmp_path, ties="davidson", **state)
    five = [{"prompt": "?", "responses": list("abcde"), "ranks": [1] * 5}] * 4
    assert make(tiny_model, five, tmp_path, kind=PLACKETT_LUCE).ties == "efron"
    with pytest.raises(PluralignError, match="5 responses of a judgment are tied"):
        make(tiny_model, five, tmp_path, kind=PLACKETT_LUCE, ties="davidson")
    assert make(tiny_model, five, tmp_path, kind=BRADLEY_TERRY).learned_ties is not None


def test_the_share_of_ties_and_the_longest_block():
    given = [
        {"prompt": "?", "responses": list("abc"), "ranks": [1, 1, None], "weight": 3.0},
        {"prompt": "?", "responses": list("abc"), "ranks": [1, 2, 3], "weight": 1.0},
    ]
    items = items_of(Judgments.from_rows(given))
    assert choice_parameters.tie_share(items) == pytest.approx(3.0 / 3 / 4)
    assert choice_parameters.longest_block(items) == 2

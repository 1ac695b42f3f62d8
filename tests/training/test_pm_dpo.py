"""PM-DPO: DPO at one end, no reference at the other, and the odds of the judgments at the minimum."""

import itertools
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import torch
import yaml
from transformers import AutoModelForCausalLM

import pluralign
from matching_setup import between, expected_judgments, letters_model, offline_trainer
from pluralign.choice.preference_matching import Penalty
from pluralign.core.errors import PluralignError
from pluralign.core.runs import read_metrics
from pluralign.judgments import Judgments
from pluralign.judgments.lettered import lettered
from pluralign.policies.loading import load_policy
from pluralign.policies.routing import is_typed_run, posterior, type_utilities
from pluralign.scoring.causal_models import load_causal_model
from pluralign.scoring.items import items_of
from pluralign.scoring.loading import SETTINGS
from pluralign.scoring.mixtures import Mixture, ranking_log_likelihoods, read_mixture
from pluralign.scoring.reference import log_probs_file
from pluralign.training.dpo import DPOConfig, DPOTrainer
from pluralign.training.em_dpo.config import EMDPOConfig
from pluralign.training.em_dpo.trainer import EMDPOTrainer
from pluralign.training.preference_matching.dpo import PMDPOConfig, PMDPOTrainer
from pluralign.training.preference_matching.lengths import LengthChecks, stop_if_endless
from pluralign.workflows.aggregate.answers import log_ratios_of
from pluralign.workflows.train.run import check
from pluralign.workflows.train.settings import read_yaml
from processes import in_two_processes

pytestmark = pytest.mark.usefixtures("reference_cache")

GATES = ("token", "sequence", "sequence-minimum")


@pytest.fixture(scope="module")
def judgments(town_rows):
    return Judgments.from_rows(town_rows[:24])


def first_loss(trainer, batch):
    trainer.model.eval()
    with torch.no_grad():
        return trainer.compute_loss(trainer.model, trainer.data_collator(batch)).item()


# An oracle: one text at a time through a plain model, one token at a time by hand.


def tokens_by_hand(folder, tokens):
    """log pi(y_t | ...) of every token of every response, as lists."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for item, response in zip(tokens.item, tokens.response_ids, strict=True):
        prompt = tokens.prompt_ids[item]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + response])).logits[0].double()
        said = torch.log_softmax(logits, -1)
        found.append([said[len(prompt) - 1 + place, token].item() for place, token in enumerate(response)])
    return found


def charged_by_hand(log_probs, alpha, gate):
    asked = {
        "token": log_probs,
        "sequence": [sum(log_probs) / len(log_probs)] * len(log_probs),
        "sequence-minimum": [min(log_probs)] * len(log_probs),
    }[gate]
    return sum(own for own, shown in zip(log_probs, asked, strict=True) if shown <= math.log(alpha))


def flattened_by_hand(folder, tokens, alpha, end):
    """The charged part of every response under `flattened`, from whole distributions."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found, inside = [], 0
    for item, response in zip(tokens.item, tokens.response_ids, strict=True):
        prompt, total = tokens.prompt_ids[item], 0.0
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + response])).logits[0].double()
        for place, token in enumerate(response):
            probs = logits[len(prompt) - 1 + place].softmax(-1)
            likely = [other for other in range(len(probs)) if probs[other] > alpha and other != end]
            inside += token in likely
            total += math.log(float(probs[likely].mean()) if token in likely else float(probs[token]))
        found.append(total)
    return np.array(found), inside


def threshold(log_probs, gate):
    asked = {
        "token": list(itertools.chain(*log_probs)),
        "sequence": [np.mean(one) for one in log_probs],
        "sequence-minimum": [min(one) for one in log_probs],
    }
    return between(asked[gate])


# Its ends.


@pytest.mark.parametrize("precompute", [True, False])
def test_with_all_inside_there_is_no_reference(precompute, judgments, base, tmp_path, reference_cache):
    """The loss is -log P(ranking) under beta log pi alone, the whole model moves, and nothing is kept of before."""
    pairs = judgments.select([row for row, one in enumerate(judgments.rows()) if sorted(one["ranks"]) == [1, 2]])
    trainer = offline_trainer(
        base, pairs, tmp_path, mode="pm", beta=0.1, precompute_ref_log_probs=precompute, max_steps=2
    )
    assert trainer._ref_model is None
    by_hand = [sum(one) for one in tokens_by_hand(base, trainer.train_tokens)]
    items, losses = trainer.train_items, []
    for judgment in range(items.judgments):
        shown, ranks = items.response[items.shown(judgment)], items.ranks[items.shown(judgment)]
        better, worse = shown[ranks.argmin()], shown[ranks.argmax()]
        losses.append(math.log1p(math.exp(0.1 * (by_hand[worse] - by_hand[better]))))
    found = first_loss(trainer, list(range(items.judgments)))
    assert found == pytest.approx(np.mean(losses), rel=1e-5)
    assert abs(found - math.log(2)) > 0.05, "longer responses begin behind"
    trainer.train()
    _, utilities = trainer.score(pairs.select(range(2)))  # of a tuned model, without any reference
    assert np.isfinite(utilities).all()
    assert not reference_cache.exists()


# Its middle.


@pytest.mark.parametrize("gate", GATES)
def test_what_is_charged_is_that_of_the_tokens_outside(gate, judgments, base, tmp_path):
    """Responses cut, padded and in trees; a live reference, a kept one and an adapter: one number per response."""
    common = {"max_length": 40, "max_response_length": 9, "gate": gate, "mode": "conditional"}
    tokens = offline_trainer(base, judgments, tmp_path, **common).train_tokens
    assert 0 < tokens.cut_responses < len(tokens.response_ids), "some are cut and some are not"
    assert len({len(one) for one in tokens.response_ids}) >= 3
    by_hand = tokens_by_hand(base, tokens)
    alpha = threshold(by_hand, gate)
    expected = np.array([charged_by_hand(one, alpha, gate) for one in by_hand])
    whole = np.array([sum(one) for one in by_hand])
    assert (expected > whole + 1).any()
    if gate == "token":
        assert ((expected < -1) & (expected > whole + 1)).any(), "some of a response's tokens are inside, others not"
    for values in (
        {"layout": "tree"},
        {"layout": "flat"},
        {"layout": "tree", "max_tokens_per_row": 40},
        {"lora": True},
        {"precompute_ref_log_probs": False},
        {"precompute_ref_log_probs": False, "lora": True},
    ):
        trainer = offline_trainer(base, judgments, tmp_path, alpha=alpha, beta=0.5, **common, **values)
        np.testing.assert_allclose(trainer._reference(trainer.train_tokens), expected, rtol=1e-5, atol=1e-5)
        _, utilities = trainer.score(judgments)  # before training log pi is log pi_ref
        np.testing.assert_allclose(utilities, 0.5 * (whole - expected), rtol=1e-5, atol=2e-5, err_msg=str(values))
        items, losses = trainer.train_items, []
        for judgment in range(8):
            shown, ranks = items.response[items.shown(judgment)], items.ranks[items.shown(judgment)]
            losses.append(plackett_luce_by_hand(0.5 * (whole - expected)[shown], ranks))
        strict = [place for place, loss in enumerate(losses) if loss is not None]
        assert len(strict) >= 2
        found = first_loss(trainer, strict)
        assert found == pytest.approx(np.mean([losses[place] for place in strict]), rel=1e-5)


def test_flattened_charges_equal_shares_of_likely_tokens(judgments, base, tmp_path):
    """Trees, rows, an adapter, a live reference and a frozen model: one number per response."""
    common = {"max_length": 40, "max_response_length": 9}
    loaded = load_causal_model(base, **common)
    tokens = loaded.tokenize(items_of(judgments))
    alpha = between(list(itertools.chain(*tokens_by_hand(base, tokens))))
    expected, inside = flattened_by_hand(base, tokens, alpha, loaded.tokenizer.eos_token_id)
    assert 0.1 < inside / sum(map(len, tokens.response_ids)) < 0.9
    close = {"rtol": 1e-5, "atol": 2e-5}
    np.testing.assert_allclose(loaded.charges(tokens, Penalty(alpha=alpha)), expected, **close)
    for values in ({"layout": "flat"}, {"lora": True}, {"precompute_ref_log_probs": False}):
        trainer = offline_trainer(base, judgments, tmp_path, alpha=alpha, **common, **values)
        np.testing.assert_allclose(trainer._reference(trainer.train_tokens), expected, **close)
    whole, passes = loaded.values(tokens), 0
    for gate in ("sequence", "sequence-minimum"):  # such a response is charged as under `token`, any other one wholly
        log_probs = tokens_by_hand(base, tokens)
        asked = [np.mean(one) if gate == "sequence" else min(one) for one in log_probs]
        between_responses = between(asked)
        flat, _ = flattened_by_hand(base, tokens, between_responses, loaded.tokenizer.eos_token_id)
        inside = np.array(asked) > math.log(between_responses)
        passes += inside.mean() / 2
        gated = {"alpha": between_responses, "gate": gate}
        for values in ({"layout": "flat"}, {"lora": True}):
            other = offline_trainer(base, judgments, tmp_path, **gated, **common, **values)
            np.testing.assert_allclose(other._reference(tokens), np.where(inside, flat, whole), **close)
    assert 0.1 < passes < 0.9
    block = trainer.data_collator(list(range(8)))  # the live one, in a step of training
    utilities = trainer._utilities(torch.zeros(len(block["response"])), block)
    np.testing.assert_allclose(utilities, -expected[block["response"]], rtol=1e-4, atol=1e-4)
    for weight in (0, 0.3, 1):
        tempered = loaded.charges(tokens, Penalty("tempered", reference_weight=weight))
        np.testing.assert_allclose(tempered, weight * whole, **close)


def plackett_luce_by_hand(utilities, ranks):
    """Minus the log-probability of a strict ranking; none of one with ties."""
    if len(set(ranks)) < len(ranks):
        return None
    order = np.asarray(utilities)[np.argsort(ranks)]
    return -sum(order[place] - np.logaddexp.reduce(order[place:]) for place in range(len(order)))


def test_another_reference_is_asked_for_its_own_tokens(judgments, base, tmp_path):
    other = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.5)
    other.save_pretrained(tmp_path / "other")
    tokens = offline_trainer(base, judgments, tmp_path).train_tokens
    by_hand = tokens_by_hand(tmp_path / "other", tokens)
    alpha = threshold(by_hand, "token")
    trainer = offline_trainer(base, judgments, tmp_path, mode="conditional", alpha=alpha, ref_model=other)
    expected = [charged_by_hand(one, alpha, "token") for one in by_hand]
    np.testing.assert_allclose(trainer._reference(tokens), expected, rtol=1e-5, atol=1e-5)


def test_kept_numbers_are_told_apart_by_penalty(judgments, base, tmp_path, reference_cache):
    def made(config=PMDPOConfig, trainer=PMDPOTrainer, **values):
        offline_trainer(base, judgments, tmp_path, config, trainer, **values)
        return len(list(reference_cache.glob("*"))) if reference_cache.exists() else 0

    assert made(mode="pm") == 0
    assert made(mode="tempered", reference_weight=0) == 0, "which is pm"
    assert made(DPOConfig, DPOTrainer) == 1
    assert made(mode="kl", alpha=0.7, gate="sequence") == 1, "which is what DPO kept"
    assert made(alpha=0.1) == 2
    assert made(alpha=0.2) == 3
    assert made(alpha=0.2, gate="sequence") == 4
    assert made(alpha=0.2, beta=0.3, lora=True) == 4
    assert made(mode="conditional") == 5
    assert made(alpha=1.0) == 5, "which charges all"
    assert made(mode="tempered", reference_weight=0.3) == 6
    tokens = load_causal_model(base).tokenize(items_of(judgments))
    names = {log_probs_file("m", tokens, "float32", Penalty("conditional", alpha)).name for alpha in (0.1, 0.11)}
    assert len(names) == 2


# Runs.


def config_of(base, parts, folder, **values):
    given = {
        "objective": "pm-dpo", "model_name_or_path": str(base), "train_files": [str(parts / "train.parquet")],
        "eval_files": [str(parts / "test.parquet")], "output_dir": str(folder), "max_steps": 3, "use_cpu": True,
        "learning_rate": 1e-3, "report_to": "none", "per_device_train_batch_size": 8, "save_strategy": "no",
        "disable_tqdm": True,
    }  # fmt: skip
    file = folder.with_suffix(".yaml")
    file.write_text(yaml.safe_dump({**given, **values}))
    return file


@pytest.fixture
def parts(judgments, tmp_path):
    judgments.select(range(16)).write(tmp_path / "train.parquet")
    judgments.select(range(16, 24)).write(tmp_path / "test.parquet")
    return tmp_path


@pytest.mark.parametrize(
    "values",
    [
        {"mode": "conditional", "gate": "token"},
        {"alpha": 0.003},
        {"mode": "conditional", "gate": "sequence", "use_peft": True, "lora_target_modules": ["all-linear"]},
        {"mode": "pm", "beta": 0.5},
    ],
)
def test_a_run_is_evaluated_under_its_own_penalty(values, base, parts, tmp_path):
    """`evaluate` gives the run's own held-out metrics; as if it were DPO's they would be others."""
    folder, loaded = tmp_path / "run", load_causal_model(base)
    if "gate" in values:
        by_hand = tokens_by_hand(base, loaded.tokenize(items_of(pluralign.read(parts / "test.parquet"))))
        values = values | {"alpha": threshold(by_hand, values["gate"])}
    pluralign.train(config_of(base, parts, folder, **values))
    own = read_metrics(folder)
    wanted = {"mode": "flattened", "alpha": 0.05, "gate": "token", "reference_weight": 0.5, "beta": 1.0} | values
    file = folder / ("model_config.json" if (folder / "adapter_config.json").exists() else "config.json")
    settings = json.loads(file.read_text())[SETTINGS]
    assert settings["objective"] == "pm-dpo"
    assert settings["beta"] == wanted["beta"]
    assert settings["penalty"] == {name: wanted[name] for name in vars(Penalty())}
    # Without a reference none is looked for.
    gone = {"reference": str(tmp_path / "gone")} if wanted["mode"] == "pm" else {}
    found = pluralign.evaluate(folder, parts / "test.parquet", tmp_path / "evaluation", **gone)
    for key in ("accuracy", "log_loss", "ece"):
        assert found[key] == pytest.approx(own[key], rel=1e-4), key
    settings["penalty"] = {"mode": "kl"}
    stored = json.loads(file.read_text())
    file.write_text(json.dumps(stored | {SETTINGS: settings}))
    other = pluralign.evaluate(folder, parts / "test.parquet", tmp_path / "as-dpo")
    assert abs(other["log_loss"] - own["log_loss"]) > (1e-5 if wanted["mode"] == "flattened" else 0.05)
    assert "tuned" in (folder / "README.md").read_text() or "load_policy" in (folder / "README.md").read_text()


# What judgments leave open.


class Bandit:
    """Five of ten one-letter answers were judged, by Plackett-Luce with known rewards."""

    def __init__(self, folder):
        draw = np.random.default_rng(0)
        self.rewards = draw.normal(size=10)
        self.reference = torch.log_softmax(torch.from_numpy(2 * draw.normal(size=10)), -1)
        self.folder = letters_model(folder, self.reference)
        self.table = expected_judgments(self.rewards[:5])

    def tuned(self, tmp_path, **values):
        """log pi of the ten letters after training, and the trainer."""
        trainer = offline_trainer(
            self.folder, self.table, tmp_path, max_steps=200, learning_rate=0.05, layout="flat",
            per_device_train_batch_size=len(self.table), lr_scheduler_type="cosine", logging_steps=100, **values,
        )  # fmt: skip
        trainer.train()
        trainer.model.eval()
        with torch.no_grad():
            logits = trainer.model(input_ids=torch.tensor([[2]])).logits[0, -1].double()
        return torch.log_softmax(logits, -1)[3:].numpy(), trainer

    def odds_error(self, log_probs):
        """Of the judged answers, to the optimum of `pm`."""
        return np.ptp(log_probs[:5] - self.rewards[:5])


def test_an_nll_anchor_keeps_everything_on_the_judged_and_their_odds(tmp_path):
    bandit = Bandit(tmp_path / "bandit")
    free, _ = bandit.tuned(tmp_path, mode="pm")
    kept, trainer = bandit.tuned(tmp_path, mode="pm", anchor="nll", anchor_weight=0.5)
    assert np.exp(free[:5]).sum() < 0.9
    assert np.exp(kept[:5]).sum() > 0.97
    assert bandit.odds_error(kept) < 0.02
    logs = [entry["anchor"] for entry in trainer.state.log_history if "anchor" in entry]
    assert logs[-1] == pytest.approx(-np.log(np.exp(kept[:5]).sum()), abs=0.02)


def test_a_kl_anchor_is_the_optimum_of_both_losses(tmp_path):
    """The judgments' cross-entropy and that of the draws of the reference, minimised by hand over ten log-odds."""
    bandit, weight = Bandit(tmp_path / "bandit"), 0.5
    found, trainer = bandit.tuned(tmp_path, mode="pm", anchor="kl", anchor_weight=weight, anchor_draws=20)
    drawn = np.bincount([ids[0] - 3 for ids in trainer._draws.response_ids], minlength=10) / 20
    rows = list(bandit.table.rows())
    orders = np.array([["abcdefghij".index(text) for text in row["responses"]] for row in rows])
    share = np.array([row["weight"] for row in rows])

    def loss(logits):
        said = logits - np.logaddexp.reduce(logits)
        better, worse = said[orders].T
        return share @ np.logaddexp(0, worse - better) / share.sum() - weight * drawn @ said

    exact = scipy.optimize.minimize(loss, np.zeros(10)).x
    exact = np.exp(exact - np.logaddexp.reduce(exact))
    assert np.abs(np.exp(found) - exact).sum() / 2 < 0.01
    assert np.exp(found[5:]).sum() == pytest.approx(drawn[5:].sum(), abs=0.2)


def test_training_logs_lengths_and_stops_where_nothing_ends(judgments, base, tmp_path):
    trainer = offline_trainer(base, judgments, tmp_path, max_steps=4, length_checks=2)
    trainer.train()
    lengths = [entry["sampled/mean_length"] for entry in trainer.state.log_history if "sampled/mean_length" in entry]
    assert len(lengths) == 3, "before, in the middle and at the end"
    assert all(length > 1 for length in lengths)
    assert len([entry for entry in trainer.state.log_history if "loss" in entry]) == 4, "of every step"
    stop_if_endless(1.0, 0.6, 64, "")  # as before
    stop_if_endless(0.8, 0.0, 64, "")
    trainer = offline_trainer(base, judgments, tmp_path, max_steps=4, length_checks=2)
    callback = next(one for one in trainer.callback_handler.callbacks if isinstance(one, LengthChecks))
    shares = iter([0.0, 1.0])
    callback._cut = lambda state, control: next(shares)
    with pytest.raises(PluralignError, match="length: 100 % of the responses run to the limit"):
        trainer.train()
    with pytest.raises(ValueError, match="anchor: found 'sft'"):
        PMDPOConfig(str(tmp_path), use_cpu=True, anchor="sft")


def test_letters_are_trained_and_evaluated_as_letters(base, parts, tmp_path):
    folder = tmp_path / "letters"
    pluralign.train(config_of(base, parts, folder, answers="letters", length_checks=0))
    own = read_metrics(folder)
    found = pluralign.evaluate(folder, parts / "test.parquet", tmp_path / "evaluation")
    for key in ("accuracy", "log_loss"):
        assert found[key] == pytest.approx(own[key], rel=1e-4), key
    with pytest.raises(PluralignError, match="responds with letters, which a reward model cannot score"):
        pluralign.evaluate(folder, parts / "test.parquet", tmp_path / "other", reward=str(folder))


# Two processes.


@pytest.mark.parametrize(
    "values", [{"alpha": 0.003, "length_checks": 1}, {"anchor": "kl", "anchor_draws": 12}], ids=str
)
def test_two_processes_train_as_one(values, judgments, base, tmp_path):
    """The same losses, anchors and logged lengths, with half of the batch in each process."""

    def trained(folder, batch):
        trainer = offline_trainer(
            base, judgments, folder, per_device_train_batch_size=batch, max_steps=3, learning_rate=1e-4,
            **{"length_checks": 0, **values},
        )  # fmt: skip
        trainer.train()
        keys = ("loss", "anchor", "grad_norm", "rewards/margins", "sampled/mean_length")
        return [{key: entry[key] for key in keys if key in entry} for entry in trainer.state.log_history]

    found = in_two_processes(lambda: trained(tmp_path / "both", 4), tmp_path)
    alone = trained(tmp_path / "alone", 8)
    assert sum("loss" in entry for entry in alone) == 3
    assert ("anchor" in alone[-2]) == ("anchor" in values)
    logged = [entry for entry in found[0] if entry]
    assert len(logged) == len([entry for entry in alone if entry])
    for one, other in zip(logged, [entry for entry in alone if entry], strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)
    # The other process draws no responses.
    assert [entry for entry in found[1] if "loss" in entry] == [entry for entry in logged if "loss" in entry]


# Types.


def test_matching_by_type_is_em_dpo_that_matches(base, parts, tmp_path):
    """One key from judgments to a mixture; what is given stays; in Python there is the trainer itself."""
    job = check_run(config_of(base, parts, tmp_path / "run", matching_by="type", types=2, alpha=0.2))
    assert (job.objective, job.args.types) == ("em-dpo", 2)
    assert job.args.penalty == Penalty("flattened", 0.2)
    assert job.args.beta == 1.0
    job = check_run(config_of(base, parts, tmp_path / "other", matching_by="type", mode="pm", beta=0.5))
    assert (job.args.penalty.mode, job.args.beta) == ("pm", 0.5)
    assert check_run(config_of(base, parts, tmp_path / "one", matching_by="everyone")).objective == "pm-dpo"
    job = check_run(config_of(base, parts, tmp_path / "two", matching_by="type", anchor="nll", answers="letters"))
    assert (job.args.anchor, job.args.answers, job.args.length_checks) == ("nll", "letters", 4)
    with pytest.raises(ValueError, match="matching_by: found 'type'"):
        PMDPOConfig(str(tmp_path), use_cpu=True, matching_by="type")


def check_run(file):
    return check(read_yaml(file), {}, str(file))


def test_types_match_their_own_people(base, town_rows, tmp_path):
    """EM-DPO with a penalty: what was scored, saved, routed and regretted is one utility."""
    liked = [{**row, "group": "ab"[int(row["annotator"][1:]) % 2]} for row in town_rows[:40]]
    rows = [
        row
        if row["group"] == "a"
        else {**row, "ranks": [1 + sum(other > rank for other in row["ranks"]) for rank in row["ranks"]]}
        for row in liked
    ]
    table = Judgments.from_rows(rows)
    by_hand = tokens_by_hand(base, load_causal_model(base).tokenize(items_of(table)))
    alpha = threshold(by_hand, "token")
    trainer = offline_trainer(
        base, table, tmp_path, EMDPOConfig, EMDPOTrainer, types=2, start="groups", features="tfidf", rounds=1,
        mode="conditional", alpha=alpha, beta=0.5, num_train_epochs=1, ties="breslow", layout="flat",
    )  # fmt: skip
    reference = trainer._untuned(trainer.train_tokens)
    inside = np.array([0.5 * (sum(one) - charged_by_hand(one, alpha, "token")) for one in by_hand])
    assert inside.min() < -1
    np.testing.assert_allclose(reference, inside, rtol=1e-5, atol=1e-4)
    trainer.train()
    folder = tmp_path / "people"
    trainer.save_model(str(folder))
    assert is_typed_run(folder)
    assert read_mixture(folder) == trainer.mixture
    assert trainer.mixture.penalty == Penalty("conditional", alpha)
    items, utilities = trainer.score(table)
    assert np.abs(utilities[0] - utilities[1]).max() > 0.05
    policy = load_policy(folder, device="cpu")
    np.testing.assert_allclose(type_utilities(policy, items), utilities, rtol=1e-4, atol=1e-4)
    tokens = policy.tokenize(items)
    ratios = log_ratios_of(policy, tokens.prompt_ids, tokens.response_ids, tokens.item)
    np.testing.assert_allclose(0.5 * ratios, utilities, rtol=1e-4, atol=1e-4)
    for name in trainer.adapters:
        settings = json.loads((folder / name / "model_config.json").read_text())[SETTINGS]
        assert settings["penalty"] == vars(Penalty("conditional", alpha))
    scored = trainer.rounds[1].record
    items = trainer.train_items
    told = trainer.log_likelihoods(items, reference) * items.weight
    assert scored["reference_log_likelihood"] == pytest.approx(told.sum()), "of both halves"


def typed_trainer(base, rows, tmp_path, **values):
    """Two types, which are the two groups of a table."""
    table = Judgments.from_rows([{**row, "group": "ab"[int(row["annotator"][1:]) % 2]} for row in rows])
    return offline_trainer(
        base, table, tmp_path, EMDPOConfig, EMDPOTrainer, types=2, start="groups", features="tfidf", rounds=0,
        mode="pm", beta=1.0, max_steps=8, **values,
    )  # fmt: skip


@pytest.mark.parametrize("anchor", ["nll", "kl"])
def test_an_anchor_holds_every_types_policy(anchor, base, town_rows, tmp_path):
    """The same steps with a heavy anchor: what it keeps likely is likelier under each type than without it."""
    common = {"learning_rate": 2e-2, "length_checks": 0}
    free = typed_trainer(base, town_rows[:24], tmp_path, **common)
    kept = typed_trainer(base, town_rows[:24], tmp_path, anchor=anchor, anchor_weight=3.0, anchor_draws=8, **common)
    held = kept.train_tokens if anchor == "nll" else kept._draws
    values = []
    for trainer in (free, kept):
        trainer.train()
        own = []
        for kind in range(2):
            trainer._use(kind)
            own.append(trainer._values(held).mean())
        values.append(own)
    assert (np.array(values[1]) > np.array(values[0]) + 1).all()
    logs = [entry["anchor"] for entry in kept.state.log_history if "anchor" in entry]
    assert len(logs) == 8
    assert np.mean(logs[-3:]) < np.mean(logs[:3])


def test_every_types_lengths_are_checked_in_the_last_m_step(base, town_rows, tmp_path):
    trainer = typed_trainer(base, town_rows[:24], tmp_path, length_checks=2)
    drawn = trainer._drawn(trainer.train_items.prompts[:3], 5)
    assert [len(group) for group in drawn] == [3, 3], "of each type to each prompt"
    trainer._phase = 1
    assert trainer._drawn(trainer.train_items.prompts[:3], 5) == [], "a round's policies are not kept"
    trainer.train()
    assert sum("sampled/cut" in entry for entry in trainer.state.log_history) == 3
    callback = next(one for one in trainer.callback_handler.callbacks if isinstance(one, LengthChecks))
    ends, cut = ([replace(sample, finished=done) for sample in drawn[0]] for done in (True, False))
    callback.draw = lambda prompts, limit: [ends, cut]
    assert callback._cut(trainer.state, trainer.control) == 1.0, "the worst type's"


def test_letters_by_type_are_trained_evaluated_and_routed_as_letters(base, town_rows, tmp_path):
    rows = [{**row, "group": "ab"[int(row["annotator"][1:]) % 2]} for row in town_rows[:24]]
    for name, part in (("train", rows[:16]), ("test", rows[16:])):
        Judgments.from_rows(part).write(tmp_path / f"{name}.parquet")
    folder = tmp_path / "letters"
    pluralign.train(
        config_of(
            base, tmp_path, folder, matching_by="type", answers="letters", types=2, start="groups", features="tfidf",
            length_checks=0, lora_dropout=0.0,
        )
    )  # fmt: skip
    assert read_mixture(folder).answers == "letters"
    own = read_metrics(folder)
    found = pluralign.evaluate(folder, tmp_path / "test.parquet", tmp_path / "evaluation")
    for key in ("accuracy", "log_loss"):
        assert found[key] == pytest.approx(own[key], rel=1e-4), key
    test = read_lettered(tmp_path / "test.parquet")
    utilities = type_utilities(load_policy(folder, device="cpu"), items_of(test))
    totals = pluralign.route(folder, tmp_path / "test.parquet").column("log_likelihood").to_pylist()
    expected = posterior_totals(test, utilities, read_mixture(folder))
    np.testing.assert_allclose(sorted(totals), sorted(expected), rtol=1e-5)
    with pytest.raises(PluralignError, match="responds with letters, which a reward model cannot score"):
        pluralign.evaluate(folder, tmp_path / "test.parquet", tmp_path / "other", reward=str(folder))
    with pytest.raises(PluralignError, match="responds with letters of listed options, and aggregation needs texts"):
        pluralign.aggregate(folder, tmp_path / "together")


def read_lettered(file):
    return lettered(pluralign.read(file))


def posterior_totals(judgments, utilities, mixture):
    """log of an annotator's judgments' probability, by annotator."""
    items = items_of(judgments)
    names, annotator = np.unique(np.array(judgments.column("annotator"))[items.row], return_inverse=True)
    likelihoods = ranking_log_likelihoods(utilities, items, mixture)
    return posterior(likelihoods, annotator, len(names), list(mixture.weights.values()), items.weight)[1]


# What is refused.


@pytest.mark.parametrize(
    ("values", "warned"),
    [({}, False), ({"mode": "kl"}, False), ({"mode": "pm"}, True), ({"mode": "conditional"}, True),
     ({"mode": "conditional", "alpha": 1.0}, False), ({"mode": "tempered"}, True),
     ({"mode": "tempered", "reference_weight": 1}, False)],
)  # fmt: skip
def test_modes_without_a_length_of_their_own_warn(values, warned):
    warning = Penalty(**values).length_warning("max_completion_length, 32 tokens")
    assert (warning is not None) == warned
    if warned:
        assert "their length tends to max_completion_length, 32 tokens" in warning


def test_what_has_no_meaning_is_refused(base, judgments, tmp_path):
    for values, message in (
        ({"alpha": 0.0}, "alpha: found 0.0"),
        ({"mode": "rlhf"}, "mode: found 'rlhf', expected one of flattened, tempered"),
        ({"gate": "word"}, "gate: found 'word'"),
        ({"beta": 0.0}, "beta: found 0.0"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            PMDPOConfig(str(tmp_path), use_cpu=True, **values)
    model = AutoModelForCausalLM.from_pretrained(base)
    with pytest.raises(PluralignError, match="ref_model: mode: pm"):
        offline_trainer(base, judgments, tmp_path, mode="pm", ref_model=model)
    Mixture({"type-1": 1.0}).write(tmp_path)
    stored = json.loads((Path(tmp_path) / "mixture.json").read_text())
    for penalty in ({"mode": "other"}, {"modes": "kl"}, 3):
        (tmp_path / "mixture.json").write_text(json.dumps(stored | {"penalty": penalty}))
        with pytest.raises(PluralignError, match="penalty: found"):
            read_mixture(tmp_path)


def test_dpo_shows_no_mode():
    """One name for one thing: `dpo` is DPO, and what charges less is `pm-dpo` or a mode of `em-dpo`."""
    from pluralign.workflows.train.settings import fields_of

    assert "mode" not in fields_of(DPOConfig)
    assert {"mode", "alpha", "gate", "reference_weight"} <= fields_of(PMDPOConfig).keys()
    assert fields_of(EMDPOConfig)["mode"][1].default == "kl"
    assert EMDPOConfig("runs/people", use_cpu=True).penalty == DPOConfig("runs/policy", use_cpu=True).penalty

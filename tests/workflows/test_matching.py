"""Matching of policies end to end, its numbers found again by plain forward passes and plain sums."""

import itertools
import json
import math
import shutil

import numpy as np
import pytest
from scipy.special import expit, logsumexp

from mixtures import Plain, write_mixture, write_run
from pluralign.core.errors import PluralignError
from pluralign.demo.from_scratch import make_causal_model
from pluralign.evaluation.calibration.recalibration import Recalibration
from pluralign.judgments import Judgments
from pluralign.judgments.reading import read
from pluralign.policies.loading import load_policy
from pluralign.policies.matching import matching_metrics
from pluralign.scoring.recalibrated import write_recalibration
from pluralign.scoring.reward_models import load_reward_model
from pluralign.workflows.evaluate import evaluate
from rewarded import write_reward_model

PROMPTS = ["Say something about tea:", "Rain or sun?", "cat"]


@pytest.fixture(scope="module")
def folders(tiny_model, tmp_path_factory):
    """A mixture of adapters on the tiny model, its reference, and a reward model."""
    folder = tmp_path_factory.mktemp("matching")
    mixture = write_mixture(tiny_model, folder / "mixture", {"type-1": 0.7, "type-2": 0.3})
    return mixture, tiny_model, write_reward_model(tiny_model, folder / "reward")


@pytest.fixture(scope="module")
def table(town_rows, tmp_path_factory):
    file = tmp_path_factory.mktemp("matching-data") / "rows.parquet"
    Judgments.from_rows([row | {"group": "xyx"[place % 3]} for place, row in enumerate(town_rows[:12])]).write(file)
    return file


def by_hand(groups):
    """PM divergence, pair KL and minority mass of lists of (reward, log pi), each list as it is."""
    squares, divergences, kept, held = [], [], 0.0, 0.0
    for group in groups:
        pairs = list(itertools.combinations(group, 2))
        squares.append(np.mean([((a[0] - b[0]) - (a[1] - b[1])) ** 2 for a, b in pairs]))
        found = []
        for a, b in pairs:
            p, q = expit(a[0] - b[0]), expit(a[1] - b[1])
            found.append(p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
        divergences.append(np.mean(found))
        rewards, log_probs = (np.array(column, dtype=float) for column in zip(*group, strict=True))
        p, q = (np.exp(one - one.max()) / np.exp(one - one.max()).sum() for one in (rewards, log_probs))
        others = np.arange(len(group)) != rewards.argmax()
        kept, held = kept + np.minimum(p, q)[others].sum(), held + p[others].sum()
    return np.mean(squares), np.mean(divergences), kept / held


def mixed(base, mixture, prompt, token_ids, ahead):
    each = [Plain(base, mixture / name).of_tokens(ahead, token_ids) for name in ("type-1", "type-2")]
    return np.logaddexp(math.log(0.7) + each[0], math.log(0.3) + each[1])


def test_metrics_of_draws_are_those_of_plain_models(folders):
    """A mixture is one policy; tokens as drawn; both policies' answers under both models."""
    mixture, base, reward = folders
    policy, reference = load_policy(mixture, device="cpu"), load_policy(base, device="cpu")
    judge = load_reward_model(reward, device="cpu")
    metrics, answers = matching_metrics(policy, reference, judge, PROMPTS, samples=3, max_new_tokens=6, seed=1)
    drawn = {
        "policy": policy.sample(PROMPTS, n=3, max_new_tokens=6, seed=1),
        "reference": reference.sample(PROMPTS, n=3, max_new_tokens=6, seed=1),
    }
    plain = Plain(base)
    for name, groups in drawn.items():
        rows = iter(row for row in answers if row["by"] == name)
        lists, entropy, under = [], [], []
        for prompt, group in zip(PROMPTS, groups, strict=True):
            ahead = plain.tokenizer(prompt, add_special_tokens=False)["input_ids"]
            rewards = judge.score(prompt, [one.response for one in group])
            found = []
            for sample, value in zip(group, rewards, strict=True):
                row = next(rows)
                log_prob = mixed(base, mixture, prompt, sample.token_ids, ahead)
                of_reference = plain.of_tokens(ahead, sample.token_ids)
                assert row["policy_log_prob"] == pytest.approx(log_prob, rel=1e-5)
                assert row["reference_log_prob"] == pytest.approx(of_reference, rel=1e-5)
                assert row["tokens"] == len(sample.token_ids)
                assert row["reward"] == pytest.approx(value, rel=1e-5, abs=1e-6)
                found.append((value, log_prob))
                entropy.append(-log_prob if name == "policy" else -of_reference)
                under.append((-of_reference, len(sample.token_ids)))
            lists.append(found)
        suffix, of_texts = ("", "") if name == "policy" else ("/on=reference", "/reference")
        divergence, kl, minority = by_hand(lists)
        # Log-probabilities are in float32: relative errors of 1e-5 in differences of some nats.
        assert metrics[f"pm_divergence{suffix}"] == pytest.approx(divergence, rel=1e-3)
        assert metrics[f"pair_kl{suffix}"] == pytest.approx(kl, rel=1e-3)
        assert metrics[f"minority_mass{suffix}"] == pytest.approx(minority, rel=1e-3)
        assert metrics[f"entropy{of_texts}"] == pytest.approx(np.mean(entropy), rel=1e-5)
        nats, tokens = np.sum(under, axis=0)
        assert metrics[f"reference_perplexity{of_texts}"] == pytest.approx(math.exp(nats / tokens), rel=1e-4)
        unfinished = np.mean([not one.finished for group in groups for one in group])
        assert metrics[f"unfinished{of_texts}"] == pytest.approx(unfinished)
    assert "win_rate" in metrics


def test_evaluation_tells_matching_on_three_kinds_of_lists(folders, table, tmp_path):
    mixture, base, reward = folders
    metrics = evaluate(
        mixture, table, tmp_path / "out", reference=str(base), reward=str(reward), max_new_tokens=6, seed=2
    )
    for key in ("pm_divergence", "saturation", "minority_mass"):
        for suffix in ("", "/on=reference", "/on=given"):
            assert key + suffix in metrics
    assert {"entropy", "reference_perplexity", "distinct_2/reference", "unfinished", "win_rate"} <= metrics.keys()
    assert metrics == json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert all(math.isfinite(value) for value in metrics.values())

    # What people were shown, found again: every judgment a list, the responses as plain models see them.
    judge, lists, sources, groups = load_reward_model(reward, device="cpu"), [], [], []
    per_token, first = [], []
    tokenizer = load_policy(base, device="cpu").tokenizer
    plain = [Plain(base, mixture / name) for name in ("type-1", "type-2")]
    for row in read(table).rows():
        rewards = judge.score(row["prompt"], row["responses"])
        each = [[one.log_prob(row["prompt"], text) for text in row["responses"]] for one in plain]
        log_probs = np.logaddexp(math.log(0.7) + np.array(each[0]), math.log(0.3) + np.array(each[1]))
        lists.append(list(zip(rewards, log_probs, strict=True)))
        lengths = [len(tokenizer(text)["input_ids"]) + 1 for text in row["responses"]]  # and the end
        per_token.append(list(zip(rewards, log_probs / lengths, strict=True)))
        best = np.array(row["ranks"]) == 1
        first.append([-(each - logsumexp(each))[best].mean() for each in (log_probs, log_probs / lengths)])
        sources.append(row["source"])
        groups.append(row["group"])
    divergence, _, minority = by_hand(lists)
    assert metrics["pm_divergence/on=given"] == pytest.approx(divergence, rel=1e-3)
    assert metrics["minority_mass/on=given"] == pytest.approx(minority, rel=1e-3)
    assert metrics["minority_mass_per_token/on=given"] == pytest.approx(by_hand(per_token)[2], rel=1e-3)
    found = metrics["first_choice_log_loss"], metrics["first_choice_log_loss_per_token"]
    assert found == pytest.approx(np.mean(first, 0), rel=1e-3)
    assert metrics["first_choice_log_loss/uniform"] == pytest.approx(np.mean([np.log(len(one)) for one in lists]))
    for column, names in (("source=a", sources), ("group=y", groups)):
        divergence, _, _ = by_hand([one for one, name in zip(lists, names, strict=True) if name == column[-1]])
        assert metrics[f"pm_divergence/on=given/{column}"] == pytest.approx(divergence, rel=1e-3)

    plots = json.loads((tmp_path / "out" / "matching.json").read_text())["lists"]
    assert [one["on"] for one in plots] == ["policy", "reference", "given"]
    assert all(sum(one["reward"]) == pytest.approx(1) for one in plots)
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"`{reward}` has no stored recalibration: its rewards are taken as log-odds as they are" in card


def test_one_answer_to_a_prompt_leaves_out_what_needs_pairs(folders, table, tmp_path):
    mixture, base, reward = folders
    options = {"reference": str(base), "reward": str(reward), "max_new_tokens": 4}
    metrics = evaluate(mixture, table, tmp_path / "out", **options, samples=1)
    assert "pm_divergence" not in metrics
    assert {"pm_divergence/on=given", "entropy", "win_rate"} <= metrics.keys()


def test_what_cannot_be_compared_is_said(folders, tmp_path):
    _, base, reward = folders
    other = tmp_path / "other"
    make_causal_model(["other words altogether"] * 3, other, vocab_size=270, hidden_size=32, layers=1, heads=2)
    policy, judge = load_policy(base, device="cpu"), load_reward_model(reward, device="cpu")
    with pytest.raises(PluralignError, match="reference: has other tokens than the policy"):
        matching_metrics(policy, load_policy(other, device="cpu"), judge, PROMPTS)
    with pytest.raises(PluralignError, match="samples: found 0, expected 1 or more"):
        matching_metrics(policy, policy, judge, PROMPTS, samples=0)


def test_a_run_with_types_is_judged_as_one_mixture(folders, table, tmp_path):
    """Its implicit rewards are by type, its matching is the mixture's."""
    mixture, base, reward = folders
    run = write_run(base, tmp_path / "run", {"type-1": 0.7, "type-2": 0.3}, {"w0": [0.9, 0.1], "w1": [0.2, 0.8]})
    options = {"reward": str(reward), "max_new_tokens": 4, "samples": 1, "seed": 3}
    typed = evaluate(run, table, tmp_path / "typed", **options)
    plain = evaluate(mixture, table, tmp_path / "plain", reference=str(base), **options)
    assert "mixture_log_loss" in typed
    assert {
        "said_wanted_tv",
        "said/kind=type-1",
        "wanted/kind=type-2",
        "minority_mass_per_token/on=given",
    } <= typed.keys()
    assert typed["said/kind=type-1"] + typed["said/kind=type-2"] == pytest.approx(1)
    assert "said_wanted_tv" not in plain, "nothing tells kinds"

    # Each judgment under the policy of its annotator's type.
    judge, each = load_reward_model(reward, device="cpu"), [Plain(base, run / name) for name in ("type-1", "type-2")]
    lists = {1: [], 2: []}
    for row in read(table).rows():
        kind = 2 if row["annotator"] == "w1" else 1
        rewards = judge.score(row["prompt"], row["responses"])
        log_probs = [each[kind - 1].log_prob(row["prompt"], text) for text in row["responses"]]
        lists[kind].append(list(zip(rewards, log_probs, strict=True)))
    place = "pm_divergence/on=given-by-type"
    assert typed[place] == pytest.approx(by_hand(lists[1] + lists[2])[0], rel=1e-3)
    for kind, own in lists.items():
        if own:
            assert typed[f"{place}/type={kind}"] == pytest.approx(by_hand(own)[0], rel=1e-3)
    near = evaluate(mixture, table, tmp_path / "near", reference=str(base), kinds="nearest", **options)
    assert 0 <= near["said_wanted_tv"] <= 1
    with pytest.raises(PluralignError, match="kinds: .* is not a finished run of em-dpo"):
        evaluate(mixture, table, tmp_path / "none", reference=str(base), kinds=str(base), **options)
    shared = [key for key in plain if key.startswith(("pm_divergence", "minority_mass", "saturation", "entropy"))]
    assert len(shared) > 10
    for key in shared:
        assert typed[key] == pytest.approx(plain[key], rel=1e-4), key


def test_a_temperature_divides_rewards_and_a_curve_judges_pairs(folders, table, tmp_path):
    mixture, base, reward = folders
    options = {"reference": str(base), "max_new_tokens": 4, "samples": 1}
    found, curve = {}, Recalibration("isotonic", knots=((1.0, 0.5), (50.0, 25.0)))
    for name, recalibration in {
        "raw": None,
        "warm": Recalibration("temperature", temperature=2.0),
        "curve": curve,
    }.items():
        judge = shutil.copytree(reward, tmp_path / name)
        if recalibration is not None:
            write_recalibration(judge, recalibration)
        found[name] = evaluate(mixture, table, tmp_path / f"out-{name}", reward=str(judge), **options)
        card = (tmp_path / f"out-{name}" / "README.md").read_text()
        assert {"raw": "as they are", "warm": "stored temperature 2", "curve": "isotonic"}[name] in card
    key = "pm_divergence/on=given"
    assert found["warm"][key] != pytest.approx(found["raw"][key], rel=1e-3)
    assert found["warm"]["mean_reward/policy"] == pytest.approx(found["raw"]["mean_reward/policy"] / 2, rel=1e-5)
    # A curve that halves margins says of pairs what the temperature says, and nothing of longer lists.
    assert found["curve"][key] == pytest.approx(found["warm"][key], rel=1e-5)
    assert found["curve"]["mean_reward/policy"] == pytest.approx(found["raw"]["mean_reward/policy"], rel=1e-5)
    assert "list_kl/on=given" in found["warm"]
    assert "list_kl/on=given" not in found["curve"]

"""Metrics of strict pairs against plain loops, and their intervals against what is known of them."""

import math

import numpy as np
import pytest

from pluralign.core.errors import PluralignError
from pluralign.evaluation.calibration.reliability import calibration_error
from pluralign.evaluation.pairs import Pairs, pairs_of
from pluralign.evaluation.rewards.metrics import pair_metrics, weighted_metrics

FIVE = ("rewards", "ranks", "offsets", "prompt", "weight")


@pytest.mark.parametrize("seed", range(4))
def test_metrics_equal_a_plain_loop(rankings, loop_pairs, seed):
    data = rankings(seed)
    pairs = pairs_of(*(data[name] for name in FIVE))
    metrics = pair_metrics(pairs)
    rows = loop_pairs(data)
    total = sum(weight for _, _, weight in rows)
    score = sum(weight * (1.0 if m > 0 else 0.5 if m == 0 else 0.0) for m, _, weight in rows)
    loss = sum(weight * math.log(1 + math.exp(-m)) for m, _, weight in rows)
    assert metrics["accuracy"] == pytest.approx(score / total, rel=1e-12, abs=1e-12)
    assert metrics["log_loss"] == pytest.approx(loss / total, rel=1e-12, abs=1e-12)
    assert metrics["mean_margin"] == pytest.approx(sum(w * m for m, _, w in rows) / total, rel=1e-10, abs=1e-11)
    assert metrics["ece"] == pytest.approx(calibration_error(pairs), rel=1e-12, abs=1e-12)
    assert metrics["pairs"] == len(rows)
    assert metrics["reward_ties"] == sum(m == 0 for m, _, _ in rows) > 0


def test_log_loss_is_exact_at_huge_margins():
    for margin, loss in ((1e4, 0.0), (-1e4, 1e4), (-50.0, 50.0), (40.0, math.exp(-40))):
        pairs = pairs_of([margin, 0.0], [1, 2], [0, 2], [0], [1.0])
        assert pair_metrics(pairs)["log_loss"] == pytest.approx(loss, rel=1e-12, abs=1e-12)


def test_constant_rewards_toss_a_coin(rankings):
    data = rankings(0) | {"rewards": np.full(len(rankings(0)["rewards"]), 0.3)}
    metrics = pair_metrics(pairs_of(*(data[name] for name in FIVE)))
    assert metrics["accuracy"] == pytest.approx(0.5)
    assert metrics["log_loss"] == pytest.approx(math.log(2))
    assert metrics["mean_margin"] == 0.0
    assert metrics["reward_ties"] == metrics["pairs"] > 0
    assert "ece" not in metrics


def test_reversed_rewards_mirror_the_accuracy(rankings):
    data = rankings(2)
    ahead = pair_metrics(pairs_of(*(data[name] for name in FIVE)))
    behind = pair_metrics(pairs_of(-data["rewards"], *(data[name] for name in FIVE[1:])))
    assert ahead["accuracy"] + behind["accuracy"] == pytest.approx(1.0)
    assert ahead["mean_margin"] == pytest.approx(-behind["mean_margin"])


@pytest.mark.parametrize("weight", [[0.0], [1.0]])
@pytest.mark.parametrize("ranks", [[1, 2], [1, 1], [0, 0]])
def test_undefined_is_left_out_never_nan(weight, ranks):
    metrics = pair_metrics(pairs_of([1.0, 0.0], ranks, [0, 2], [0], weight))
    assert all(math.isfinite(value) for value in metrics.values())
    assert ("accuracy" in metrics) == (weight == [1.0] and ranks == [1, 2])
    assert metrics["pairs"] + metrics["undecided_judgments"] == 1
    assert metrics["tied_pairs"] == (ranks == [1, 1])


# Intervals.


def one_pair_a_prompt(margin: np.ndarray, copies: int = 1) -> Pairs:
    """Each margin as the judgment of one prompt, repeated within the prompt."""
    margin = np.repeat(margin, copies)
    rewards = np.stack([margin, np.zeros_like(margin)], axis=1).ravel()
    count = len(margin)
    prompt = np.arange(count) // copies
    return pairs_of(rewards, np.tile([1, 2], count), np.arange(0, 2 * count + 1, 2), prompt, np.ones(count))


def test_width_agrees_with_the_analytic_standard_error():
    margin = np.random.default_rng(0).normal(0.5, 1.0, size=2000)
    interval = pair_metrics(one_pair_a_prompt(margin), replicates=2000)
    for name, values in (("accuracy", margin > 0), ("log_loss", np.logaddexp(0, -margin))):
        low, high = interval[f"{name}_low"], interval[f"{name}_high"]
        half_width = 1.96 * np.std(values) / math.sqrt(len(values))
        # A quantile of 2000 draws at 2.5 % has standard error about 6 % of the half width.
        assert (high - low) / 2 == pytest.approx(half_width, rel=0.1)
        assert (high + low) / 2 == pytest.approx(np.mean(values), abs=0.15 * half_width)


def test_interval_covers_the_truth_at_about_its_level():
    rng = np.random.default_rng(1)
    truth = 0.5 * (1 + math.erf(0.5 / math.sqrt(2)))  # P(margin > 0) for margin ~ N(0.5, 1)
    covered = 0
    for seed in range(100):
        interval = pair_metrics(one_pair_a_prompt(rng.normal(0.5, 1.0, size=150)), replicates=200, seed=seed)
        covered += interval["accuracy_low"] <= truth <= interval["accuracy_high"]
    # Binomial(100, 0.95) has standard deviation 2.2; the bootstrap of 150 clusters loses a little.
    assert 88 <= covered <= 99


def test_copies_within_prompts_do_not_narrow_the_interval():
    margin = np.random.default_rng(2).normal(size=50)
    once = pair_metrics(one_pair_a_prompt(margin), replicates=200)
    often = pair_metrics(one_pair_a_prompt(margin, copies=5), replicates=200)
    assert often.pop("pairs") == 5 * once.pop("pairs")
    # Copies do not make a model look worse: the p-value knows that they share a prompt.
    assert often.pop("ece_p_value") == pytest.approx(once.pop("ece_p_value"), abs=0.06)
    assert often == pytest.approx(once, rel=1e-12, abs=1e-12)


def test_replicates_equal_metrics_of_the_drawn_judgments(rankings, subset):
    data = rankings(4)
    pairs = pairs_of(*(data[name] for name in FIVE))
    prompts, cluster = np.unique(pairs.prompt, return_inverse=True)
    draws = np.array([0, 0, 2, 5, 5, 5])
    counts = np.bincount(draws, minlength=len(prompts))[None].astype(float)
    drawn_metrics = weighted_metrics(pairs, cluster, len(prompts))(counts)
    judgments = [np.flatnonzero(data["prompt"] == prompts[draw]) for draw in draws]
    drawn = subset(data, np.concatenate(judgments))
    # A prompt drawn twice counts as two prompts, as two draws of a population would.
    drawn["prompt"] = np.repeat(np.arange(len(draws)), [len(part) for part in judgments])
    expected = pair_metrics(pairs_of(*(drawn[name] for name in FIVE)))
    # Bins of equal mass stay those of the data, and the drawn judgments alone would have others.
    del drawn_metrics["ece_equal_mass"]
    for name, values in drawn_metrics.items():
        # The halving of the bandwidth ends at 1e-12; all else is a sum.
        assert values[0] == pytest.approx(expected[name], rel=1e-10, abs=1e-11), name


def test_the_seed_fixes_the_intervals(rankings):
    pairs = pairs_of(*(rankings(0)[name] for name in FIVE))
    first, second, other = (pair_metrics(pairs, replicates=50, seed=seed) for seed in (3, 3, 4))
    assert first == second != other
    assert first.items() >= pair_metrics(pairs).items()


def test_a_higher_level_is_wider(rankings):
    data = rankings(6)
    pairs = pairs_of(*(data[name] for name in FIVE))
    narrow, wide = (pair_metrics(pairs, replicates=300, level=level) for level in (0.5, 0.95))
    for name in ("accuracy", "log_loss", "ece_smooth"):
        assert wide[f"{name}_low"] < narrow[f"{name}_low"] < narrow[f"{name}_high"] < wide[f"{name}_high"]


def test_undefined_intervals_are_left_out():
    def ends(metrics):
        return sorted(key for key in metrics if key.endswith(("_low", "_high")))

    assert ends(pair_metrics(one_pair_a_prompt(np.ones(1), copies=6), replicates=20)) == []
    tied = pair_metrics(one_pair_a_prompt(np.zeros(4)), replicates=20)
    parts = ["accuracy", "brier", "brier_reliability", "brier_resolution", "brier_uncertainty", "log_loss"]
    assert ends(tied) == sorted(f"{name}_{end}" for name in parts for end in ("low", "high"))
    # One prompt of three has a margin, so some replicates have no calibration error; the others do.
    some = pair_metrics(one_pair_a_prompt(np.array([0.0, 0.0, 1.0])), replicates=100)
    assert all(math.isfinite(value) for value in some.values())
    assert "ece_smooth_low" in some
    assert "ece_low" not in some


def test_intervals_hold_the_measures_of_the_truth():
    """Over-confident by 1.5 in log-odds: what 200,000 pairs say is within what 1,500 leave open."""
    rng = np.random.default_rng(8)

    def drawn(count: int) -> Pairs:
        size = np.abs(rng.normal(scale=2.0, size=count))
        wins = rng.random(count) < 1 / (1 + np.exp(-size / 1.5))
        return one_pair_a_prompt(np.where(wins, size, -size))

    truth = pair_metrics(drawn(200_000))
    interval = pair_metrics(drawn(1500), replicates=400)
    names = {key.removesuffix("_low") for key in interval if key.endswith("_low")}
    assert names >= {"ece_smooth", "brier", "brier_reliability", "gap_wrong", "sure_wrong"}
    assert not names & {"ece", "ece_equal_mass", "ece_squared", "max_calibration_error", "average_calibration_error"}
    assert interval["ece_p_value"] < 0.01
    assert interval["ece_squared"] == pytest.approx(truth["ece_squared"], rel=0.5)
    for name in names:
        # brier_uncertainty is 1/4 in every draw, up to nothing.
        assert interval[f"{name}_low"] <= truth[name] <= interval[f"{name}_high"], name


@pytest.mark.parametrize("change", [{"replicates": -1}, {"level": 1.0}, {"level": 0.0}, {"bins": 3}])
def test_errors_name_the_argument(change):
    with pytest.raises(PluralignError, match=f"{next(iter(change))} is"):
        pair_metrics(one_pair_a_prompt(np.ones(3)), **change)

import math

import numpy as np
import pytest

from pluralign.core.errors import PluralignError
from pluralign.evaluation.intervals import resampled_sums
from pluralign.evaluation.pairs import Pairs, pairs_of
from pluralign.evaluation.rewards.bootstrap import bootstrap_intervals
from pluralign.evaluation.rewards.metrics import RewardSums, reward_metrics

FIVE = ("rewards", "ranks", "offsets", "prompt", "weight")


def one_pair_a_prompt(margin: np.ndarray, copies: int = 1) -> Pairs:
    """Each margin as one prompt's verdict, repeated within the prompt."""
    margin = np.repeat(margin, copies)
    rewards = np.stack([margin, np.zeros_like(margin)], axis=1).ravel()
    count = len(margin)
    prompt = np.arange(count) // copies
    return pairs_of(rewards, np.tile([1, 2], count), np.arange(0, 2 * count + 1, 2), prompt, np.ones(count))


def test_width_agrees_with_the_analytic_standard_error():
    margin = np.random.default_rng(0).normal(0.5, 1.0, size=2000)
    interval = bootstrap_intervals(one_pair_a_prompt(margin), replicates=2000)
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
    for seed in range(200):
        interval = bootstrap_intervals(one_pair_a_prompt(rng.normal(0.5, 1.0, size=150)), replicates=200, seed=seed)
        covered += interval["accuracy_low"] <= truth <= interval["accuracy_high"]
    # Binomial(200, 0.95) has standard deviation 3.1; the bootstrap of 150 clusters loses a little.
    assert 178 <= covered <= 199


def test_copies_within_prompts_do_not_narrow_the_interval():
    margin = np.random.default_rng(2).normal(size=50)
    once = bootstrap_intervals(one_pair_a_prompt(margin), replicates=200)
    often = bootstrap_intervals(one_pair_a_prompt(margin, copies=5), replicates=200)
    assert often == pytest.approx(once, rel=1e-12)


def test_replicates_equal_metrics_of_the_drawn_judgments(rankings, subset):
    data = rankings(4)
    pairs = pairs_of(*(data[name] for name in FIVE))
    prompts, cluster = np.unique(pairs.prompt, return_inverse=True)
    draws = np.array([0, 0, 2, 5, 5, 5])
    counts = np.bincount(draws, minlength=len(prompts))[None].astype(float)
    drawn_metrics = RewardSums.of(pairs, cluster, len(prompts)).metrics(counts)
    judgments = [np.flatnonzero(data["prompt"] == prompts[draw]) for draw in draws]
    drawn = subset(data, np.concatenate(judgments))
    # A prompt drawn twice counts as two prompts, as two draws of a population would.
    drawn["prompt"] = np.repeat(np.arange(len(draws)), [len(part) for part in judgments])
    expected = reward_metrics(pairs_of(*(drawn[name] for name in FIVE)))
    # Bins of equal mass stay those of the data, and the drawn judgments alone would have others.
    del drawn_metrics["ece_equal_mass"]
    for name, values in drawn_metrics.items():
        # The halving of the bandwidth ends at 1e-12; all else is a sum.
        assert values[0] == pytest.approx(expected[name], rel=1e-10), name


def test_resampled_sums_have_multinomial_moments():
    sums = np.random.default_rng(3).normal(size=(40, 2))
    totals = resampled_sums(sums, 4000, seed=0)
    spread = math.sqrt(40) * sums.std(axis=0)
    np.testing.assert_allclose(totals.std(axis=0), spread, rtol=0.05)
    np.testing.assert_allclose(totals.mean(axis=0), sums.sum(axis=0), atol=4 * spread.max() / math.sqrt(4000))


def test_draws_depend_on_the_seed_and_not_on_the_block_size(rankings):
    sums = np.random.default_rng(5).normal(size=(30, 3))
    whole = resampled_sums(sums, 17, seed=9)
    for cells in (1, 95, 10_000):
        np.testing.assert_allclose(resampled_sums(sums, 17, seed=9, cells=cells), whole, rtol=1e-12)
    assert not np.allclose(resampled_sums(sums, 17, seed=10), whole)
    data = rankings(0)
    pairs = pairs_of(*(data[name] for name in FIVE))
    assert bootstrap_intervals(pairs, 50, seed=3) == bootstrap_intervals(pairs, 50, seed=3)
    assert bootstrap_intervals(pairs, 50, seed=3) != bootstrap_intervals(pairs, 50, seed=4)


def test_a_higher_level_is_wider(rankings):
    data = rankings(6)
    pairs = pairs_of(*(data[name] for name in FIVE))
    narrow, wide = (bootstrap_intervals(pairs, 300, level=level) for level in (0.5, 0.95))
    for name in ("accuracy", "log_loss", "ece"):
        assert wide[f"{name}_low"] < narrow[f"{name}_low"] < narrow[f"{name}_high"] < wide[f"{name}_high"]


def test_undefined_intervals_are_left_out():
    assert bootstrap_intervals(one_pair_a_prompt(np.ones(1), copies=6)) == {}
    tied = bootstrap_intervals(one_pair_a_prompt(np.zeros(4)), replicates=20)
    parts = ["accuracy", "brier", "brier_reliability", "brier_resolution", "brier_uncertainty", "log_loss"]
    assert sorted(tied) == sorted(f"{name}_{end}" for name in parts for end in ("low", "high"))
    # One prompt of three has a margin, so some draws have no calibration error; the others do.
    some = bootstrap_intervals(one_pair_a_prompt(np.array([0.0, 0.0, 1.0])), replicates=100)
    assert all(math.isfinite(value) for value in some.values())
    assert "ece_low" in some


def test_intervals_hold_the_measures_of_the_truth():
    """Over-confident by 1.5 in log-odds: what 200,000 pairs say is within what 1,500 leave open."""
    rng = np.random.default_rng(8)

    def drawn(count: int) -> Pairs:
        size = np.abs(rng.normal(scale=2.0, size=count))
        wins = rng.random(count) < 1 / (1 + np.exp(-size / 1.5))
        return one_pair_a_prompt(np.where(wins, size, -size))

    truth = reward_metrics(drawn(200_000))
    interval = bootstrap_intervals(drawn(1500), replicates=400)
    names = {key.removesuffix("_low") for key in interval if key.endswith("_low")}
    assert names >= {"ece", "ece_equal_mass", "ece_debiased", "ece_smooth", "brier", "gap_wrong", "sure_wrong"}
    for name in names:
        # brier_uncertainty is 1/4 in every draw, up to nothing.
        assert interval[f"{name}_low"] <= truth[name] <= interval[f"{name}_high"], name


@pytest.mark.parametrize("change", [{"replicates": 0}, {"level": 1.0}, {"level": 0.0}, {"bins": 3}])
def test_errors_name_the_argument(change):
    with pytest.raises(PluralignError, match=f"{next(iter(change))} is"):
        bootstrap_intervals(one_pair_a_prompt(np.ones(3)), **change)

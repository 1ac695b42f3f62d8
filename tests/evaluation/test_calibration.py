import math

import numpy as np
import pytest

from pluralign.core.errors import PluralignError
from pluralign.evaluation.calibration.reliability import (
    bin_of,
    calibration_error,
    equal_width_edges,
    reliability_table,
)
from pluralign.evaluation.pairs import pairs_of
from pluralign.evaluation.rewards.metrics import reward_metrics

FIVE = ("rewards", "ranks", "offsets", "prompt", "weight")


def both_orders_error(pairs: list[tuple[float, int, float]], bins: int) -> float:
    """Oracle, the paper's words: `bins` bins of [0, 1], each pair in both orders, no exact ties."""
    held: dict[int, list[float]] = {}
    for margin, _, weight in pairs:
        if margin != 0:
            for signed, won in ((margin, 1.0), (-margin, 0.0)):
                confidence = 1 / (1 + math.exp(-signed))
                row = held.setdefault(min(int(confidence * bins), bins - 1), [0.0, 0.0, 0.0])
                for column, value in enumerate((1.0, confidence, won)):
                    row[column] += weight * value
    total = sum(row[0] for row in held.values())
    return sum(row[0] / total * abs(row[2] / row[0] - row[1] / row[0]) for row in held.values())


@pytest.mark.parametrize("bins", [2, 10, 24])
@pytest.mark.parametrize("seed", range(3))
def test_top_label_error_equals_both_orders(rankings, loop_pairs, seed, bins):
    data = rankings(seed)
    pairs = pairs_of(*(data[name] for name in FIVE))
    assert (pairs.margin == 0).any()
    expected = both_orders_error(loop_pairs(data), bins)
    assert calibration_error(pairs, bins) == pytest.approx(expected, abs=1e-12)
    # The law would hold trivially if counting the winner first only gave the same.
    assert expected > 0.01


@pytest.mark.parametrize("seed", range(3))
def test_table_sums_to_the_error(rankings, seed):
    data = rankings(seed)
    pairs = pairs_of(*(data[name] for name in FIVE))
    rows = reliability_table(pairs)
    assert sum(row["share"] for row in rows) == pytest.approx(1.0)
    assert sum(row["pairs"] for row in rows) == np.count_nonzero(pairs.margin)
    assert sum(row["share"] * abs(row["gap"]) for row in rows) == pytest.approx(calibration_error(pairs))
    for row in rows:
        assert 0.5 <= row["lower"] <= row["confidence"] <= row["upper"] <= 1.0
        assert row["gap"] == pytest.approx(row["accuracy"] - row["confidence"])


def test_verdicts_drawn_from_the_model_are_calibrated():
    rng = np.random.default_rng(0)
    count = 40_000
    rewards = rng.normal(scale=1.5, size=(count, 2))
    first_wins = rng.random(count) < 1 / (1 + np.exp(rewards[:, 1] - rewards[:, 0]))
    ranks = np.where(first_wins[:, None], [1, 2], [2, 1])
    offsets = np.arange(0, 2 * count + 1, 2)
    args = (ranks.ravel(), offsets, np.arange(count), np.ones(count))
    # Five gaps of standard error about 0.5 / sqrt(8000) each, averaged: under 0.006 but for luck.
    assert calibration_error(pairs_of(rewards.ravel(), *args)) < 0.01
    assert calibration_error(pairs_of(3 * rewards.ravel(), *args)) > 0.08
    sure = reliability_table(pairs_of(3 * rewards.ravel(), *args))[-1]
    assert sure["gap"] < 0


@pytest.mark.parametrize("seed", range(3))
def test_table_of_equal_mass_sums_to_its_error(rankings, seed):
    data = rankings(seed)
    pairs = pairs_of(*(data[name] for name in FIVE))
    rows = reliability_table(pairs, equal_mass=True)
    error = sum(row["share"] * abs(row["gap"]) for row in rows)
    assert error == pytest.approx(reward_metrics(pairs)["ece_equal_mass"])
    assert sum(row["pairs"] for row in rows) == np.count_nonzero(pairs.margin)
    for row in rows:
        # The lower edge is a confidence that occurs, so that it may be the bin's mean up to rounding.
        assert row["lower"] - 1e-12 <= row["confidence"] <= row["upper"]
    assert [row["lower"] for row in rows[1:]] == [row["upper"] for row in rows[:-1]]


@pytest.mark.parametrize("equal_mass", [False, True])
def test_intervals_of_the_bins_agree_with_the_analytic_standard_error(equal_mass):
    rng = np.random.default_rng(0)
    count = 4000
    margin = rng.normal(0.7, 1.5, size=count)
    rewards = np.stack([margin, np.zeros(count)], axis=1).ravel()
    args = (np.tile([1, 2], count), np.arange(0, 2 * count + 1, 2), np.arange(count), np.ones(count))
    pairs = pairs_of(rewards, *args)
    plain = reliability_table(pairs, equal_mass=equal_mass)
    rows = reliability_table(pairs, equal_mass=equal_mass, replicates=1000)
    assert len(rows) == 5
    for row, alone in zip(rows, plain, strict=True):
        low, high = row.pop("accuracy_low"), row.pop("accuracy_high")
        assert row == alone
        error = math.sqrt(row["accuracy"] * (1 - row["accuracy"]) / row["pairs"])
        assert low < row["accuracy"] < high
        # A quantile of 1000 draws at 2.5 % has standard error about 8 % of the half width; counts make it coarse.
        assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.2)


def test_a_single_prompt_has_rows_without_intervals():
    pairs = pairs_of([2.0, 0.0, 0.0, 2.0], [1, 2, 1, 2], [0, 2, 4], [3, 3], [1.0, 1.0])
    assert reliability_table(pairs, replicates=50) == reliability_table(pairs)
    with pytest.raises(PluralignError, match="level is 2"):
        reliability_table(pairs, replicates=50, level=2)


def test_no_margin_no_error():
    pairs = pairs_of([1.0, 1.0], [1, 2], [0, 2], [0], [1.0])
    assert calibration_error(pairs) is None
    assert reliability_table(pairs) == []


def test_a_margin_too_small_to_move_sigmoid_is_in_the_lowest_bin():
    pairs = pairs_of([1e-30, 0.0], [1, 2], [0, 2], [0], [1.0])
    [row] = reliability_table(pairs)
    assert (row["lower"], row["confidence"], row["gap"]) == (0.5, 0.5, 0.5)


def test_edges_belong_to_the_bin_above_and_one_to_the_last():
    edges = equal_width_edges(10)
    assert bin_of(edges, edges).tolist() == [0, 1, 2, 3, 4, 4]


@pytest.mark.parametrize("bins", [0, 5, -2])
def test_bins_must_be_even(bins):
    with pytest.raises(PluralignError, match=f"bins is {bins}"):
        equal_width_edges(bins)

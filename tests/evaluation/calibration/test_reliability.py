"""Calibration errors and tables: other libraries, plain loops over both orders of the pairs, and figures by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from sklearn.metrics import brier_score_loss
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from pluralign.core.errors import PluralignError
from pluralign.evaluation.calibration.reliability import (
    bin_of,
    calibrated_gaps,
    calibration_error,
    calibration_p_value,
    equal_mass_edges,
    equal_width_edges,
    reliability_table,
    squared_error,
    top_label,
)
from pluralign.evaluation.pairs import Pairs, pairs_of
from pluralign.evaluation.rewards.metrics import pair_metrics

FIVE = ("rewards", "ranks", "offsets", "prompt", "weight")
BINNED = ("ece", "ece_equal_mass", "max_calibration_error", "average_calibration_error")


def of_margins(margin, weight=None, prompt=None) -> Pairs:
    margin = np.asarray(margin, dtype=float)
    count = len(margin)
    return Pairs(
        margin=margin,
        judgment=np.arange(count),
        weight=np.ones(count) if weight is None else np.asarray(weight, dtype=float),
        prompt=np.arange(count) if prompt is None else np.asarray(prompt),
        judgments=count,
        tied=0,
        undecided=0,
    )


def calibrated(rng, count: int, scale: float = 1.5) -> Pairs:
    size = np.abs(rng.normal(scale=scale, size=count))
    return of_margins(np.where(rng.random(count) < 1 / (1 + np.exp(-size)), size, -size))


def both_orders(pairs: Pairs, edges: np.ndarray) -> list[np.ndarray]:
    """Oracle: (probability, outcome, weight) of both orders of all pairs, bin by bin over [0, 1] by plain loops.

    `edges` are of the upper half. Pairs with margin 0 are a last bin of their own.
    """
    whole = [*(1 - edge for edge in edges[::-1]), *edges[1:]]
    held: dict[int, list[tuple[float, float, float]]] = {}
    for margin, weight in zip(pairs.margin, pairs.weight, strict=True):
        for signed, won in ((margin, 1.0), (-margin, 0.0)):
            p = 1 / (1 + math.exp(-signed))
            # A lower order is in the mirror image of its pair's upper bin, whichever end of it is closed.
            upper = max(b for b in range(len(edges) - 1) if max(p, 1 - p) >= edges[b])
            place = len(edges) - 1 + upper if p > 0.5 else len(edges) - 2 - upper
            assert margin == 0 or whole[place] - 1e-12 <= p <= whole[place + 1] + 1e-12
            held.setdefault(-1 if margin == 0 else place, []).append((p, won, weight))
    return [np.array(held[place]) for place in sorted(held)]


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


# Other libraries.


def distinct_margins(seed: int, count: int, scale: float) -> np.ndarray:
    """Margins whose probabilities do not lie on the edge of a bin in single precision."""
    margin = np.random.default_rng(seed).normal(0.2, scale, size=count)
    return margin[margin != 0]


@pytest.mark.parametrize("bins", [2, 10, 24])
@pytest.mark.parametrize(("count", "scale"), [(1, 1.0), (7, 0.3), (400, 1.5), (3000, 6.0)])
def test_measures_equal_those_of_torchmetrics_over_both_orders(count, scale, bins):
    """Norms "l1" and "max" are two of the measures; "l2" is the root of the Brier score's reliability."""
    margin = distinct_margins(count, count, scale)
    metrics = pair_metrics(of_margins(margin), bins)
    # Both orders of each pair, one after the other: the first one won, the second one lost.
    probability = torch.from_numpy(1 / (1 + np.exp(-np.concatenate([margin, -margin]))))
    won = torch.tensor([1] * len(margin) + [0] * len(margin))
    ours = {
        "l1": metrics["ece"],
        "max": metrics["max_calibration_error"],
        "l2": math.sqrt(metrics["brier_reliability"]),
    }
    for norm, value in ours.items():
        theirs = binary_calibration_error(probability, won, n_bins=bins, norm=norm).item()
        # torchmetrics adds up bins in single precision.
        assert value == pytest.approx(theirs, rel=1e-4, abs=1e-5), norm


@pytest.mark.parametrize("bins", [2, 10, 24])
@pytest.mark.parametrize(("count", "scale"), [(1, 1.0), (7, 0.3), (400, 1.5), (3000, 6.0)])
def test_top_label_measures_equal_those_of_torchmetrics_for_two_classes(count, scale, bins):
    """The winner as one of two classes: torchmetrics keeps the confidence of the likelier class, as `top_label` does."""
    margin = distinct_margins(count + 1, count, scale)
    pairs = of_margins(margin)
    first = torch.from_numpy(1 / (1 + np.exp(-margin)))
    classes = torch.stack([first, 1 - first], dim=1)
    winner = torch.zeros(len(margin), dtype=torch.long)
    theirs = multiclass_calibration_error(classes, winner, num_classes=2, n_bins=bins, norm="l1").item()
    assert calibration_error(pairs, bins) == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    rows = reliability_table(pairs, bins)
    assert sum(row["share"] * abs(row["gap"]) for row in rows) == pytest.approx(theirs, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_brier_equals_scikit_learn(rankings, seed):
    data = rankings(seed)
    pairs = pairs_of(*(data[name] for name in FIVE))
    p = 1 / (1 + np.exp(-pairs.margin))
    outcome = np.repeat([1, 0], len(p))
    expected = brier_score_loss(outcome, np.concatenate([p, 1 - p]), sample_weight=np.tile(pairs.weight, 2))
    assert pair_metrics(pairs)["brier"] == pytest.approx(expected, rel=1e-12, abs=1e-12)


# Plain loops and figures by hand.


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


@pytest.mark.parametrize("bins", [2, 10, 24])
@pytest.mark.parametrize("seed", range(3))
def test_binned_measures_equal_those_over_both_orders(rankings, seed, bins):
    data = rankings(seed)
    pairs = pairs_of(*(data[name] for name in FIVE))
    metrics = pair_metrics(pairs, bins)
    confidence, _, weight, _ = top_label(pairs)
    for edges, names in (
        (equal_width_edges(bins), ("ece", "max_calibration_error", "average_calibration_error")),
        (equal_mass_edges(confidence, weight, bins), ("ece_equal_mass",)),
    ):
        parts = [part for part in both_orders(pairs, edges) if (part[:, 0] != 0.5).any()]
        gaps = np.array([abs(np.average(part[:, 1] - part[:, 0], weights=part[:, 2])) for part in parts])
        mass = np.array([part[:, 2].sum() for part in parts])
        expected = dict(zip(names, (gaps @ mass / mass.sum(), gaps.max(), gaps.mean()), strict=False))
        for name in names:
            assert metrics[name] == pytest.approx(expected[name], abs=1e-12), name


@pytest.mark.parametrize("bins", [2, 10])
@pytest.mark.parametrize("seed", range(3))
def test_brier_is_its_parts_and_each_is_as_defined(rankings, seed, bins):
    data = rankings(seed)
    pairs = pairs_of(*(data[name] for name in FIVE))
    assert (pairs.margin == 0).any()
    metrics = pair_metrics(pairs, bins)
    reliability = murphy = within = total = score = 0.0
    for part in both_orders(pairs, equal_width_edges(bins)):
        p, y, w = part.T
        mean_p, mean_y = np.average(p, weights=w), np.average(y, weights=w)
        reliability += w.sum() * (mean_p - mean_y) ** 2
        murphy += w.sum() * (mean_y - 0.5) ** 2
        within += w @ (2 * (p - mean_p) * (y - mean_y) - (p - mean_p) ** 2)
        score += w @ (p - y) ** 2
        total += w.sum()
    assert metrics["brier"] == pytest.approx(score / total, abs=1e-12)
    assert metrics["brier_uncertainty"] == 0.25
    assert metrics["brier_reliability"] == pytest.approx(reliability / total, abs=1e-12)
    assert metrics["brier_resolution"] == pytest.approx((murphy + within) / total, abs=1e-12)
    added = metrics["brier_reliability"] - metrics["brier_resolution"] + metrics["brier_uncertainty"]
    assert metrics["brier"] == pytest.approx(added, abs=1e-15)


def test_figures_by_hand():
    """Confidences 0.65 (right, wrong) and 0.85 (right, right, wrong), each in a bin of its own."""
    low, high = math.log(0.65 / 0.35), math.log(0.85 / 0.15)
    metrics = pair_metrics(of_margins([low, -low, high, high, -high]))
    gaps = (0.5 - 0.65, 2 / 3 - 0.85)
    assert metrics["ece"] == pytest.approx((2 * 0.15 + 3 * (0.85 - 2 / 3)) / 5)
    assert metrics["max_calibration_error"] == pytest.approx(-min(gaps))
    assert metrics["average_calibration_error"] == pytest.approx(-sum(gaps) / 2)
    assert metrics["brier"] == pytest.approx((0.35**2 + 0.65**2 + 2 * 0.15**2 + 0.85**2) / 5)
    assert metrics["brier_reliability"] == pytest.approx((2 * gaps[0] ** 2 + 3 * gaps[1] ** 2) / 5)
    # d of the pairs of a bin: the mean of their products, two by two.
    products = (0.35 * -0.65, (0.15 * 0.15 - 2 * 0.15 * 0.85) / 3)
    assert metrics["ece_squared"] == pytest.approx((2 * products[0] + 3 * products[1]) / 5)


# The table.


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


@pytest.mark.parametrize("seed", range(3))
def test_table_of_equal_mass_sums_to_its_error(rankings, seed):
    data = rankings(seed)
    pairs = pairs_of(*(data[name] for name in FIVE))
    rows = reliability_table(pairs, equal_mass=True)
    error = sum(row["share"] * abs(row["gap"]) for row in rows)
    assert error == pytest.approx(pair_metrics(pairs)["ece_equal_mass"])
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
        assert row.pop("consistent_low") < row["confidence"] < row.pop("consistent_high")
        assert row == alone
        error = math.sqrt(row["accuracy"] * (1 - row["accuracy"]) / row["pairs"])
        assert low < row["accuracy"] < high
        # A quantile of 1000 draws at 2.5 % has standard error about 8 % of the half width; counts make it coarse.
        assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.2)


def test_a_single_prompt_has_rows_without_intervals():
    pairs = pairs_of([2.0, 0.0, 0.0, 2.0], [1, 2, 1, 2], [0, 2, 4], [3, 3], [1.0, 1.0])
    [row], [alone] = reliability_table(pairs, replicates=50), reliability_table(pairs)
    assert set(row) - set(alone) == {"consistent_low", "consistent_high"}
    with pytest.raises(PluralignError, match="level is 2"):
        reliability_table(pairs, replicates=50, level=2)


# Simulated judgments.


def test_judgments_drawn_from_the_model_are_calibrated():
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


def test_the_squared_error_is_a_mean_over_pairs_that_share_neither_prompt_nor_annotator():
    rng = np.random.default_rng(1)
    count = 60
    pairs = of_margins(rng.normal(size=count), rng.choice([0.5, 1.0, 2.0], size=count), rng.integers(9, size=count))
    pairs = replace(pairs, annotator=rng.integers(7, size=count))
    group = rng.integers(-1, 2, size=count)
    confidence, correct, weight, _ = top_label(pairs)
    bins, gaps = bin_of(confidence, equal_width_edges(10)), correct - confidence
    for known in (pairs, replace(pairs, annotator=None)):
        expected = []
        for g in (0, 1):
            total = mass = 0.0
            for b in range(5):
                own = np.flatnonzero((bins == b) & (group == g))
                pairs_of_pairs = [
                    (weight[i] * weight[j], gaps[i] * gaps[j])
                    for i in own
                    for j in own
                    if known.prompt[i] != known.prompt[j]
                    and (known.annotator is None or known.annotator[i] != known.annotator[j])
                ]
                if pairs_of_pairs:
                    factor, product = np.array(pairs_of_pairs).T
                    total += weight[own].sum() * np.average(product, weights=factor)
                    mass += weight[own].sum()
            expected.append(total / mass)
        assert squared_error(known, group, 2) == pytest.approx(expected)


def test_the_squared_error_of_a_calibrated_model_averages_zero():
    rng = np.random.default_rng(3)
    metrics = [pair_metrics(calibrated(rng, 100)) for _ in range(600)]
    squared = np.array([values["ece_squared"] for values in metrics])
    assert np.mean([values["ece"] for values in metrics]) == pytest.approx(0.07, abs=0.01)
    assert (squared < 0).any()
    assert abs(squared.mean()) < 3 * squared.std() / math.sqrt(len(squared))
    assert squared.std() / math.sqrt(len(squared)) < 5e-4


def test_the_squared_error_of_a_calibrated_model_averages_zero_with_annotator_effects():
    """Prompts and annotators shift every probability, the model knows only the mean: plug-in squares are far above 0."""
    rng = np.random.default_rng(6)
    prompt, annotator = np.repeat(np.arange(20), 6), np.tile(np.arange(6), 20)
    squared, plug_in = [], []
    for _ in range(600):
        shift = rng.normal(scale=0.1, size=20)[prompt] + rng.normal(scale=0.1, size=6)[annotator]
        right = rng.random(120) < np.clip(0.7 + shift, 0, 1)
        pairs = of_margins(np.where(right, 1, -1) * math.log(7 / 3), prompt=prompt)
        metrics = pair_metrics(replace(pairs, annotator=annotator))
        squared.append(metrics["ece_squared"])
        plug_in.append(metrics["brier_reliability"])
    assert np.mean(plug_in) > 0.003
    assert abs(np.mean(squared)) < 3 * np.std(squared) / math.sqrt(600)


def test_the_squared_error_keeps_a_true_gap():
    rng = np.random.default_rng(4)
    found = []
    for _ in range(100):
        # All pairs at 0.8, 0.6 of them right: the square is 0.04.
        right = rng.random(150) < 0.6
        found.append(pair_metrics(of_margins(np.where(right, 1, -1) * math.log(4)))["ece_squared"])
    assert np.mean(found) == pytest.approx(0.04, abs=0.006)


def test_the_p_value_of_a_calibrated_model_is_uniform():
    rng = np.random.default_rng(100)
    p = [calibration_p_value(calibrated(rng, 150), draws=199, seed=1000 + seed) for seed in range(1000)]
    assert kstest(p, "uniform").pvalue > 0.05
    doubled = [replace(pairs, margin=2 * pairs.margin) for pairs in (calibrated(rng, 400) for _ in range(20))]
    assert np.median([calibration_p_value(pairs, draws=199) for pairs in doubled]) < 0.05


def test_the_p_value_respects_repeated_annotators_and_prompts():
    """Twenty annotators of 40 judgments are right more or less often than the model says; on average it is right."""
    rng = np.random.default_rng(11)
    rejected = np.zeros(2)
    for seed in range(150):
        annotator, prompt = np.repeat(np.arange(20), 40), rng.integers(40, size=800)
        sure = np.array([0.6, 0.75])[rng.integers(2, size=40)[prompt]]
        shift = rng.uniform(-0.2, 0.2, size=20)[annotator] + rng.uniform(-0.05, 0.05, size=40)[prompt]
        right = rng.random(800) < sure + shift
        pairs = of_margins(np.where(right, 1, -1) * np.log(sure / (1 - sure)), prompt=prompt)
        alone = replace(pairs, prompt=np.arange(800))
        rejected += [
            calibration_p_value(known, draws=99, seed=seed) <= 0.05
            for known in (replace(pairs, annotator=annotator), alone)
        ]
    assert rejected[0] / 150 <= 0.1
    assert rejected[1] / 150 >= 0.25


def test_the_p_value_still_sees_a_wrong_model_with_repeated_annotators():
    rng = np.random.default_rng(12)
    pairs = replace(calibrated(rng, 1000), annotator=np.repeat(np.arange(25), 40), prompt=rng.integers(100, size=1000))
    assert calibration_p_value(replace(pairs, margin=3 * pairs.margin)) < 0.01


def test_sums_of_many_labels_are_drawn_as_normal_numbers():
    pairs = calibrated(np.random.default_rng(7), 12_000)
    whole = calibrated_gaps(pairs, equal_width_edges(10), 400)
    confidence, _, weight, _ = top_label(pairs)
    index = bin_of(confidence, equal_width_edges(10))
    variance = np.bincount(index, weights=weight**2 * confidence * (1 - confidence))
    assert whole.std(axis=0) == pytest.approx(np.sqrt(variance), rel=0.12)
    few = of_margins(np.full(30, math.log(4)))
    gaps = calibrated_gaps(few, equal_width_edges(10), 4000)[:, 3]
    assert gaps.mean() == pytest.approx(0.0, abs=0.15)
    assert gaps.std() == pytest.approx(math.sqrt(30 * 0.16), rel=0.05)


def test_consistency_bars_hold_the_accuracy_of_calibrated_bins():
    rng = np.random.default_rng(8)
    rows = [row for seed in range(60) for row in reliability_table(calibrated(rng, 300), replicates=200, seed=seed)]
    inside = [row["consistent_low"] - 1e-9 <= row["accuracy"] <= row["consistent_high"] + 1e-9 for row in rows]
    # 300 bins at 0.95: standard deviation 0.013; quantiles of 200 draws lose a little, counts gain a little.
    assert 0.91 <= np.mean(inside) <= 0.99
    assert all(row["consistent_low"] <= row["confidence"] <= row["consistent_high"] for row in rows)


# Bins and degenerate input.


def test_bins_of_equal_mass_hold_equal_weight_and_part_no_ties():
    rng = np.random.default_rng(6)
    confidence = 0.5 + 0.5 * rng.random(1000)
    edges = equal_mass_edges(confidence, np.ones(1000), 10)
    assert np.bincount(bin_of(confidence, edges)).tolist() == [200] * 5
    # A heavy value takes the bins it covers; the others share what is left.
    tied = np.where(rng.random(1000) < 0.5, 0.75, confidence)
    edges = equal_mass_edges(tied, np.ones(1000), 10)
    assert len(np.unique(bin_of(tied, edges)[tied == 0.75])) == 1
    assert len(edges) - 1 <= 5
    assert edges[0] == 0.5
    assert edges[-1] == 1.0
    assert (np.bincount(bin_of(tied, edges), minlength=len(edges) - 1) > 0).all()
    # The middle of a value's weight decides: 0.7 holds 1/5 to 4/5 of it, its middle begins the second half.
    assert equal_mass_edges(np.array([0.6, 0.7, 0.8]), np.array([1.0, 3.0, 1.0]), 4).tolist() == [0.5, 0.7, 1.0]
    assert equal_mass_edges(np.array([0.6, 0.7, 0.8]), np.array([1.0, 3.0, 2.0]), 4).tolist() == [0.5, 0.8, 1.0]
    # Weights of 0 move nothing.
    padded = np.concatenate([tied, rng.random(50) / 2 + 0.5])
    assert np.array_equal(equal_mass_edges(padded, np.repeat([1.0, 0.0], [1000, 50]), 10), edges)


def test_saturated_confidences_share_the_last_bin():
    pairs = of_margins([800.0, -900.0, 50.0, 0.1])
    metrics = pair_metrics(pairs)
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["max_calibration_error"] == pytest.approx(1 - 1 / (1 + math.exp(-0.1)))
    assert equal_mass_edges(np.ones(4), np.ones(4)).tolist() == [0.5, 1.0]


@pytest.mark.parametrize("factor", [1e-6, 0.37, 1e6])
def test_scale_of_weights_changes_nothing(rankings, factor):
    data = rankings(3)
    first = pair_metrics(pairs_of(*(data[name] for name in FIVE)))
    scaled = data | {"weight": data["weight"] * factor}
    assert pair_metrics(pairs_of(*(scaled[name] for name in FIVE))) == pytest.approx(first, rel=1e-9, abs=1e-11)


def test_degenerate_pairs_have_defined_measures():
    none = pair_metrics(of_margins([]))
    assert none == {"pairs": 0, "tied_pairs": 0, "undecided_judgments": 0, "reward_ties": 0}
    level = pair_metrics(of_margins([0.0, 0.0]))
    assert level["brier"] == 0.25
    assert (level["brier_reliability"], level["brier_resolution"]) == (0.0, 0.0)
    assert not any(name in level for name in (*BINNED, "ece_squared", "ece_smooth", "gap_right", "sure_wrong"))
    one_prompt = pair_metrics(of_margins([1.0, -1.0, 1.0], prompt=[7, 7, 7]))
    # A single prompt shows no noise to take off.
    assert "ece_squared" not in one_prompt
    weightless = pair_metrics(of_margins([1.0, -2.0], weight=[0.0, 0.0]))
    assert sorted(weightless) == ["pairs", "reward_ties", "tied_pairs", "undecided_judgments"]


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

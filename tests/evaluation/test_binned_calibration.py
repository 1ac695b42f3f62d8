import math

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from pluralign.evaluation.calibration.binned import BinSums, bin_columns, debiased_error, expected_error
from pluralign.evaluation.calibration.reliability import bin_of, equal_mass_edges, equal_width_edges, top_label
from pluralign.evaluation.pairs import Pairs, pairs_of
from pluralign.evaluation.rewards.metrics import reward_metrics

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


@pytest.mark.parametrize("bins", [2, 10, 24])
@pytest.mark.parametrize("seed", range(3))
def test_binned_measures_equal_those_over_both_orders(rankings, seed, bins):
    data = rankings(seed)
    pairs = pairs_of(*(data[name] for name in FIVE))
    metrics = reward_metrics(pairs, bins)
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
    metrics = reward_metrics(pairs, bins)
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


@pytest.mark.parametrize("seed", range(3))
def test_brier_equals_scikit_learn(rankings, seed):
    data = rankings(seed)
    pairs = pairs_of(*(data[name] for name in FIVE))
    p = 1 / (1 + np.exp(-pairs.margin))
    outcome = np.repeat([1, 0], len(p))
    expected = brier_score_loss(outcome, np.concatenate([p, 1 - p]), sample_weight=np.tile(pairs.weight, 2))
    assert reward_metrics(pairs)["brier"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("bins", "l1", "largest", "l2"),
    [(10, 0.44246280516, 0.58445814667, 0.46921094575), (24, 0.44776776228, 0.73155056787, 0.48456742956)],
)
def test_measures_equal_those_of_torchmetrics(bins, l1, largest, l2):
    """Figures of `torchmetrics.functional.classification.binary_calibration_error` 1.9.0, both orders as its input.

    Its norms are "l1", "max" and "l2"; the last is the root of the Brier score's reliability.
    """
    at = np.arange(1, 41)
    margin = np.round(3 * np.sin(1.7 * at**1.3) + 0.8 * np.cos(at), 3)
    metrics = reward_metrics(of_margins(margin), bins)
    # The figures are kept to eleven digits.
    assert metrics["ece"] == pytest.approx(l1, abs=1e-9)
    assert metrics["max_calibration_error"] == pytest.approx(largest, abs=1e-9)
    assert math.sqrt(metrics["brier_reliability"]) == pytest.approx(l2, abs=1e-9)


def test_figures_by_hand():
    """Confidences 0.65 (right, wrong) and 0.85 (right, right, wrong), each in a bin of its own."""
    low, high = math.log(0.65 / 0.35), math.log(0.85 / 0.15)
    metrics = reward_metrics(of_margins([low, -low, high, high, -high]))
    gaps = (0.5 - 0.65, 2 / 3 - 0.85)
    assert metrics["ece"] == pytest.approx((2 * 0.15 + 3 * (0.85 - 2 / 3)) / 5)
    assert metrics["max_calibration_error"] == pytest.approx(-min(gaps))
    assert metrics["average_calibration_error"] == pytest.approx(-sum(gaps) / 2)
    assert metrics["brier"] == pytest.approx((0.35**2 + 0.65**2 + 2 * 0.15**2 + 0.85**2) / 5)
    assert metrics["brier_reliability"] == pytest.approx((2 * gaps[0] ** 2 + 3 * gaps[1] ** 2) / 5)
    bias = 0.0
    for count, accuracy, gap in ((2, 0.5, 0.15), (3, 2 / 3, 0.85 - 2 / 3)):
        s = math.sqrt(accuracy * (1 - accuracy) / count)
        folded = s * math.sqrt(2 / math.pi) * math.exp(-(gap**2) / 2 / s**2) + gap * math.erf(gap / s / math.sqrt(2))
        bias += count / 5 * (folded - gap)
    assert 0 < bias < metrics["ece"]
    assert metrics["ece_debiased"] == pytest.approx(metrics["ece"] - bias)


def test_folded_normal_is_the_mean_of_draws():
    """The bias taken off is that of Gaussian noise around the observed gaps, as drawing it says."""
    rng = np.random.default_rng(0)
    pairs = calibrated(rng, 300)
    sums = BinSums.of_columns(bin_columns(pairs, np.zeros(300, dtype=int), 1, equal_width_edges(10)))
    mass, accuracy, gap = sums.mass[0], sums.right[0] / sums.mass[0], sums.gap[0] / sums.mass[0]
    error = np.sqrt(accuracy * (1 - accuracy) / mass)
    drawn = np.abs(gap + error * rng.normal(size=(400_000, 5))) @ mass / 300
    plug_in = expected_error(sums)[0]
    # Five gaps of error about 0.06 and shares about 0.2: the mean of 400,000 has error under 0.0001.
    assert debiased_error(sums)[0] == pytest.approx(2 * plug_in - drawn.mean(), abs=5e-4)


def test_debiased_is_nearer_to_zero_for_calibrated_rewards():
    rng = np.random.default_rng(3)
    found = [reward_metrics(calibrated(rng, 120)) for _ in range(200)]
    plug_in = np.mean([metrics["ece"] for metrics in found])
    debiased = np.mean([metrics["ece_debiased"] for metrics in found])
    # Five bins of 24 pairs: gaps of standard error 0.09, mean absolute value 0.07, all of it noise.
    assert 0.05 < plug_in < 0.09
    assert debiased < 0.7 * plug_in
    assert all(metrics["ece_debiased"] <= metrics["ece"] for metrics in found)


def test_debiased_keeps_a_true_gap():
    rng = np.random.default_rng(4)
    found = []
    for _ in range(100):
        # All pairs 0.8 sure, 0.6 right: the error is 0.2.
        right = rng.random(150) < 0.6
        found.append(reward_metrics(of_margins(np.where(right, 1, -1) * math.log(4)))["ece_debiased"])
    # Standard error of one 0.04, of the mean of a hundred 0.004.
    assert np.mean(found) == pytest.approx(0.2, abs=0.015)


def test_copies_within_prompts_do_not_change_the_noise():
    pairs = calibrated(np.random.default_rng(5), 80)
    copied = of_margins(np.repeat(pairs.margin, 6), prompt=np.repeat(pairs.prompt, 6))
    alone = of_margins(np.repeat(pairs.margin, 6))
    expected = reward_metrics(pairs)["ece_debiased"]
    assert reward_metrics(copied)["ece_debiased"] == pytest.approx(expected, abs=1e-12)
    assert reward_metrics(alone)["ece_debiased"] > expected + 0.01


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
    metrics = reward_metrics(pairs)
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["max_calibration_error"] == pytest.approx(1 - 1 / (1 + math.exp(-0.1)))
    assert equal_mass_edges(np.ones(4), np.ones(4)).tolist() == [0.5, 1.0]


@pytest.mark.parametrize("factor", [1e-6, 0.37, 1e6])
def test_scale_of_weights_changes_nothing(rankings, factor):
    data = rankings(3)
    first = reward_metrics(pairs_of(*(data[name] for name in FIVE)))
    scaled = data | {"weight": data["weight"] * factor}
    assert reward_metrics(pairs_of(*(scaled[name] for name in FIVE))) == pytest.approx(first, rel=1e-9)


def test_degenerate_pairs_have_defined_measures():
    none = reward_metrics(of_margins([]))
    assert none == {"pairs": 0, "tied_pairs": 0, "undecided_judgments": 0, "reward_ties": 0}
    level = reward_metrics(of_margins([0.0, 0.0]))
    assert level["brier"] == 0.25
    assert (level["brier_reliability"], level["brier_resolution"]) == (0.0, 0.0)
    assert not any(name in level for name in (*BINNED, "ece_debiased", "ece_smooth", "gap_right", "sure_wrong"))
    one_prompt = reward_metrics(of_margins([1.0, -1.0, 1.0], prompt=[7, 7, 7]))
    # A single prompt shows no noise to take off.
    assert one_prompt["ece_debiased"] == one_prompt["ece"]
    weightless = reward_metrics(of_margins([1.0, -2.0], weight=[0.0, 0.0]))
    assert sorted(weightless) == ["pairs", "reward_ties", "tied_pairs", "undecided_judgments"]

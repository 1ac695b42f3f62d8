"""Calibration: does a reward gap of m win as often as sigmoid(m) says?

Three steps that know nothing of each other: edges, the bin of each confidence, sums per bin.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from pluralign.core.errors import PluralignError
from pluralign.evaluation.intervals import check_resampling, percentile_intervals, resampled_sums
from pluralign.evaluation.pairs import Floats, Ints, Pairs

# Shares of weight that differ by less than this are the same, in whatever order the weights were added.
SAME = 1e-9


def top_label(pairs: Pairs) -> tuple[Floats, Floats, Floats, Ints]:
    """The predicted winner of each pair: how sure, whether right, how heavy, and which pair it is.

    confidence = max(p, 1 - p) = sigmoid(|margin|) with p = sigmoid(margin). A pair with margin 0
    predicts no winner and is left out (`reward_ties` counts those).

    Returns:
        confidence in [0.5, 1], correct (0.0 or 1.0), weight, and index into `pairs`, each `(kept,)`.

    Examples:
        >>> from pluralign.evaluation.pairs import pairs_of
        >>> pairs = pairs_of([0.0, 1.0, 2.0, 2.0], [1, 2, 1, 2], [0, 2, 4], [0, 1], [1.0, 1.0])
        >>> confidence, correct, weight, kept = top_label(pairs)
        >>> confidence.round(3).tolist(), correct.tolist(), kept.tolist()
        ([0.731], [0.0], [0])
    """
    kept = np.flatnonzero(pairs.margin)
    margin = pairs.margin[kept]
    return expit(np.abs(margin)), (margin > 0).astype(np.float64), pairs.weight[kept], kept


def equal_width_edges(bins: int = 10) -> Floats:
    """Edges of those of `bins` equal bins of [0, 1] that a top label can reach: the upper half.

    Args:
        bins: an even number; with an odd one the middle bin would hold a pair in both orders, which
            cancel there, and the two forms of the calibration error would part.

    Returns:
        `(bins / 2 + 1,)` from 0.5 to 1.

    Raises:
        PluralignError: `bins` is odd or under 2.

    Examples:
        >>> equal_width_edges(10).round(2).tolist()
        [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    """
    check_bins(bins)
    return np.linspace(0.0, 1.0, bins + 1)[bins // 2 :]


def equal_mass_edges(confidence: Floats, weight: Floats, bins: int = 10) -> Floats:
    """Edges of bins of the top label that hold about the same weight each.

    Equal confidences are never parted: a distinct value with weight w, of which W lies below, goes to bin
    floor((W + w / 2) / total * bins / 2). Both orders of the pairs mirror the bins in 0.5, so that `bins`
    counts those of [0, 1], as in `equal_width_edges`.

    Args:
        confidence: of the top labels, in [0.5, 1], `(kept,)`.
        weight: of the pairs, `(kept,)`; those of weight 0 have no say.
        bins: an even number, the most there will be in both orders.

    Returns:
        from 0.5 to 1, `(filled + 1,)` with `filled` at most `bins / 2`: the lower edge of a bin is the smallest
        confidence in it, but 0.5 in the first.

    Raises:
        PluralignError: `bins` is odd or under 2.

    Examples:
        Three values of the same confidence stay together and take the first two thirds of the weight.

        >>> equal_mass_edges(np.array([0.6, 0.6, 0.9, 0.6, 0.7, 0.8]), np.ones(6), bins=4).tolist()
        [0.5, 0.7, 1.0]
    """
    check_bins(bins)
    heavy = weight > 0
    value, place = np.unique(confidence[heavy], return_inverse=True)
    if not len(value):
        return np.array([0.5, 1.0])
    mass = np.bincount(place, weights=weight[heavy])
    middle = (np.cumsum(mass) - mass / 2) / mass.sum()
    index = np.floor(middle * (bins // 2) + SAME)
    first = np.flatnonzero(np.diff(index)) + 1
    return np.concatenate([[0.5], value[first], [1.0]])


def check_bins(bins: int) -> None:
    """Refuse a number of bins in which a pair would meet its own other order.

    Raises:
        PluralignError: `bins` is odd or under 2.

    Examples:
        >>> check_bins(5)
        Traceback (most recent call last):
        ...
        pluralign.core.errors.PluralignError: bins is 5, expected an even number of at least 2
    """
    if bins < 2 or bins % 2:
        raise PluralignError(f"bins is {bins}, expected an even number of at least 2")


def bin_of(confidence: Floats, edges: Floats) -> Ints:
    """The bin of each confidence: `edges[b] <= confidence < edges[b + 1]`, the last bin closed above.

    Examples:
        >>> bin_of(np.array([0.5, 0.6, 0.99, 1.0]), np.array([0.5, 0.6, 1.0])).tolist()
        [0, 1, 1, 1]
    """
    return np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, len(edges) - 2).astype(np.int64)


def bin_sums(index: Ints, bins: int, *values: Floats) -> Floats:
    """Sum of each array of values within each bin.

    Args:
        index: bin of each pair, `(kept,)`.
        bins: number of bins.
        values: arrays `(kept,)`.

    Returns:
        `(len(values), bins)`.

    Examples:
        >>> bin_sums(np.array([0, 2, 2]), 3, np.array([1.0, 2.0, 3.0])).tolist()
        [[1.0, 0.0, 5.0]]
    """
    sums = [np.bincount(index, weights=value, minlength=bins) for value in values]
    return np.stack(sums).astype(np.float64)


def calibration_error(pairs: Pairs, bins: int = 10) -> float | None:
    """Expected calibration error of the rewards, None when no pair has a margin other than 0.

    ECE = sum_b W_b |accuracy_b - confidence_b| / sum_b W_b, W_b the weight in bin b of the top-label
    confidence max(p, 1 - p). This equals the error over all `bins` bins of [0, 1] that counts each pair
    in both orders: the order with confidence 1 - p is wrong exactly when the other is right, so its bin
    has the same gap. Counting the winner first only would not be the same number.

    Source: arXiv 2312.07401 (ten equal bins, both orders).

    Examples:
        One pair, sure by sigmoid(2) = 0.881 and right: the gap is 0.119.

        >>> from pluralign.evaluation.pairs import pairs_of
        >>> pairs = pairs_of([2.0, 0.0], [1, 2], [0, 2], [0], [1.0])
        >>> round(calibration_error(pairs), 3)
        0.119
    """
    confidence, correct, weight, _ = top_label(pairs)
    edges = equal_width_edges(bins)
    total = weight.sum()
    if not total > 0:
        return None
    (gap,) = bin_sums(bin_of(confidence, edges), len(edges) - 1, weight * (correct - confidence))
    return float(np.abs(gap).sum() / total)


def reliability_table(
    pairs: Pairs,
    bins: int = 10,
    *,
    equal_mass: bool = False,
    replicates: int = 0,
    level: float = 0.95,
    seed: int = 0,
) -> list[dict[str, float]]:
    """Confidence against accuracy, one row per bin that holds weight.

    Args:
        pairs: strict pairs; those with margin 0 are left out.
        bins: bins of [0, 1], an even number; a top label reaches the upper half of them.
        equal_mass: bins of about the same weight (`equal_mass_edges`) in place of bins of the same width.
        replicates: bootstrap draws of prompts for the interval of each accuracy; 0 leaves it out. The bins
            stay those of the data.
        level: coverage the intervals aim at.
        seed: of the draws.

    Returns:
        rows with `lower`, `upper`, `pairs` (count), `share` (of the weight; sums to 1), `confidence` and
        `accuracy` (weighted means), and `gap` = accuracy - confidence, below 0 where the model is too
        sure. The calibration error is the sum of share * |gap|. With `replicates` and at least two prompts,
        `accuracy_low` and `accuracy_high`, over the draws in which the bin holds weight.

    Raises:
        PluralignError: `bins` is odd or under 2, `replicates` negative, or `level` not between 0 and 1.

    Examples:
        >>> from pluralign.evaluation.pairs import pairs_of
        >>> pairs = pairs_of([2.0, 0.0, 0.0, 2.0], [1, 2, 1, 2], [0, 2, 4], [0, 1], [1.0, 1.0])
        >>> [row] = reliability_table(pairs)
        >>> {name: round(value, 3) for name, value in row.items()}
        {'lower': 0.8, 'upper': 0.9, 'pairs': 2, 'share': 1.0, 'confidence': 0.881, 'accuracy': 0.5, 'gap': -0.381}
    """
    confidence, correct, weight, kept = top_label(pairs)
    edges = equal_mass_edges(confidence, weight, bins) if equal_mass else equal_width_edges(bins)
    index = bin_of(confidence, edges)
    width = len(edges) - 1
    counts = np.bincount(index, minlength=width)
    mass, sure, right = bin_sums(index, width, weight, weight * confidence, weight * correct)
    intervals: dict[str, float] = {}
    if replicates:
        intervals = _accuracy_intervals(pairs, kept, index, width, replicates, level, seed)
    rows: list[dict[str, float]] = []
    for b in np.flatnonzero(mass > 0).tolist():
        row = {
            "lower": float(edges[b]),
            "upper": float(edges[b + 1]),
            "pairs": int(counts[b]),
            "share": float(mass[b] / mass.sum()),
            "confidence": float(sure[b] / mass[b]),
            "accuracy": float(right[b] / mass[b]),
            "gap": float((right[b] - sure[b]) / mass[b]),
        }
        ends = ("low", "high") if f"{b}_low" in intervals else ()
        rows.append(row | {f"accuracy_{end}": intervals[f"{b}_{end}"] for end in ends})
    return rows


def _accuracy_intervals(
    pairs: Pairs, kept: Ints, index: Ints, width: int, replicates: int, level: float, seed: int
) -> dict[str, float]:
    """`BIN_low` and `BIN_high` of the accuracy of each bin; nothing with fewer than two prompts."""
    check_resampling(replicates, level)
    prompts, cluster = np.unique(pairs.prompt, return_inverse=True)
    if len(prompts) < 2:
        return {}
    weight, correct = pairs.weight[kept], pairs.margin[kept] > 0
    sums = bin_sums(cluster[kept] * width + index, len(prompts) * width, weight, weight * correct)
    table = np.moveaxis(sums.reshape(2, len(prompts), width), 0, 1).reshape(len(prompts), 2 * width)
    mass, right = np.hsplit(resampled_sums(table, replicates, seed), 2)
    accuracy = np.divide(right, mass, out=np.full_like(mass, np.nan), where=mass > 0)
    return percentile_intervals({str(b): accuracy[:, b] for b in range(width)}, level)

"""Calibration: does a reward gap of m win as often as sigmoid(m) says?

Three steps that know nothing of each other: edges, the bin of each confidence, sums per bin.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from pluralign.core.errors import PluralignError
from pluralign.evaluation.pairs import Floats, Ints, Pairs


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
    if bins < 2 or bins % 2:
        raise PluralignError(f"bins is {bins}, expected an even number of at least 2")
    return np.linspace(0.0, 1.0, bins + 1)[bins // 2 :]


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


def reliability_table(pairs: Pairs, bins: int = 10) -> list[dict[str, float]]:
    """Confidence against accuracy, one row per bin that holds weight.

    Args:
        pairs: strict pairs; those with margin 0 are left out.
        bins: equal bins of [0, 1], an even number; a top label reaches the upper half of them.

    Returns:
        rows with `lower`, `upper`, `pairs` (count), `share` (of the weight; sums to 1), `confidence` and
        `accuracy` (weighted means), and `gap` = accuracy - confidence, below 0 where the model is too
        sure. The calibration error is the sum of share * |gap|.

    Raises:
        PluralignError: `bins` is odd or under 2.

    Examples:
        >>> from pluralign.evaluation.pairs import pairs_of
        >>> pairs = pairs_of([2.0, 0.0, 0.0, 2.0], [1, 2, 1, 2], [0, 2, 4], [0, 1], [1.0, 1.0])
        >>> [row] = reliability_table(pairs)
        >>> {name: round(value, 3) for name, value in row.items()}
        {'lower': 0.8, 'upper': 0.9, 'pairs': 2, 'share': 1.0, 'confidence': 0.881, 'accuracy': 0.5, 'gap': -0.381}
    """
    confidence, correct, weight, _ = top_label(pairs)
    edges = equal_width_edges(bins)
    index = bin_of(confidence, edges)
    counts = np.bincount(index, minlength=len(edges) - 1)
    mass, sure, right = bin_sums(index, len(edges) - 1, weight, weight * confidence, weight * correct)
    return [
        {
            "lower": float(edges[b]),
            "upper": float(edges[b + 1]),
            "pairs": int(counts[b]),
            "share": float(mass[b] / mass.sum()),
            "confidence": float(sure[b] / mass[b]),
            "accuracy": float(right[b] / mass[b]),
            "gap": float((right[b] - sure[b]) / mass[b]),
        }
        for b in np.flatnonzero(mass > 0)
    ]

"""Calibration: does a response with a reward margin of m win as often as sigmoid(m) says?

Pairs are binned by the confidence of the predicted winner. The calibration errors are functions of sums per bin, given
as rows of bins, so that each is defined once for the whole, its slices and the replicates of the bootstrap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import erf, expit

from pluralign.core.errors import PluralignError
from pluralign.evaluation.intervals import Resampling, ratio
from pluralign.evaluation.pairs import SAME, Floats, Ints, Pairs

# Number of sums in each bin: the fields of `BinSums`, in their order.
PARTS = 6


def top_label(pairs: Pairs) -> tuple[Floats, Floats, Floats, Ints]:
    """The predicted winner of each pair: its probability, whether it won, the pair's weight, and which pair it is.

    confidence = max(p, 1 - p) = sigmoid(|margin|) with p = sigmoid(margin). A pair with margin 0 predicts no winner and
    is left out (`reward_ties` counts such pairs).

    Returns:
        confidence in [0.5, 1], correct (0.0 or 1.0), weight, and index into `pairs`, each `(kept,)`.
    """
    kept = np.flatnonzero(pairs.margin)
    margin = pairs.margin[kept]
    return expit(np.abs(margin)), (margin > 0).astype(np.float64), pairs.weight[kept], kept


def equal_width_edges(bins: int = 10) -> Floats:
    """Edges of the upper half of `bins` equal bins of [0, 1], which are the bins that a top label can reach.

    With an odd number of bins the middle one would hold both orders of a pair, which cancel there, and the top-label
    error would differ from the error over both orders.

    Raises:
        PluralignError: `bins` is odd or under 2.

    Examples:
        >>> equal_width_edges(10).round(2).tolist()
        [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    """
    _check_bins(bins)
    return np.linspace(0.0, 1.0, bins + 1)[bins // 2 :]


def equal_mass_edges(confidence: Floats, weight: Floats, bins: int = 10) -> Floats:
    """Edges of bins of the top label that hold about the same weight each.

    Equal confidences stay in one bin: a distinct value with weight w, with weight W below it, goes to bin
    floor((W + w / 2) / total * bins / 2). As in `equal_width_edges`, `bins` counts the bins of [0, 1].

    Args:
        confidence: of the top labels, in [0.5, 1], `(kept,)`.
        weight: of the pairs, `(kept,)`; pairs of weight 0 have no influence.
        bins: an even number.

    Returns:
        from 0.5 to 1, `(filled + 1,)` with `filled` at most `bins / 2`. The lower edge of a bin is the smallest
        confidence in it, but 0.5 in the first.

    Examples:
        Three values of the same confidence stay together and take the first two thirds of the weight.

        >>> equal_mass_edges(np.array([0.6, 0.6, 0.9, 0.6, 0.7, 0.8]), np.ones(6), bins=4).tolist()
        [0.5, 0.7, 1.0]
    """
    _check_bins(bins)
    heavy = weight > 0
    value, place = np.unique(confidence[heavy], return_inverse=True)
    if not len(value):
        return np.array([0.5, 1.0])
    mass = np.bincount(place, weights=weight[heavy])
    middle = (np.cumsum(mass) - mass / 2) / mass.sum()
    index = np.floor(middle * (bins // 2) + SAME)
    first = np.flatnonzero(np.diff(index)) + 1
    return np.concatenate([[0.5], value[first], [1.0]])


def bin_of(confidence: Floats, edges: Floats) -> Ints:
    """The bin of each confidence: `edges[b] <= confidence < edges[b + 1]`, the last bin closed above."""
    return np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, len(edges) - 2).astype(np.int64)


def bin_sums(index: Ints, bins: int, *values: Floats) -> Floats:
    """Sum of each array of values `(kept,)` within each bin: `(len(values), bins)`."""
    return np.stack([np.bincount(index, weights=value, minlength=bins) for value in values]).astype(np.float64)


def calibration_error(pairs: Pairs, bins: int = 10) -> float | None:
    """Expected calibration error of the rewards, None if no pair has a margin other than 0.

    ECE = sum_b W_b |accuracy_b - confidence_b| / sum_b W_b, W_b the weight in bin b of the top-label confidence
    max(p, 1 - p). This equals the error over all `bins` bins of [0, 1] with each pair in both orders: the order with
    confidence 1 - p is wrong exactly when the other is right, so its bin has the same gap. Counting only the order
    with the winner first would give another number.

    Source: arXiv 2312.07401 (ten equal bins, both orders).

    Examples:
        One pair, predicted with sigmoid(2) = 0.881 and right: the gap is 0.119.

        >>> from pluralign.evaluation.pairs import pairs_of
        >>> pairs = pairs_of([2.0, 0.0], [1, 2], [0, 2], [0], [1.0])
        >>> round(calibration_error(pairs), 3)
        0.119
    """
    columns = bin_columns(pairs, np.zeros(len(pairs.margin), dtype=np.int64), 1, equal_width_edges(bins))
    (error,) = expected_error(BinSums.of_columns(columns))
    return None if np.isnan(error) else float(error)


def reliability_table(
    pairs: Pairs,
    bins: int = 10,
    *,
    equal_mass: bool = False,
    replicates: int = 0,
    level: float = 0.95,
    seed: int = 0,
) -> list[dict[str, float]]:
    """Confidence and accuracy, one row per bin that holds weight.

    Args:
        pairs: strict pairs; those with margin 0 are left out.
        bins: bins of [0, 1], an even number; a top label reaches the upper half of them.
        equal_mass: use bins of about equal weight (`equal_mass_edges`) instead of equal width.
        replicates, level, seed: as in `pluralign.evaluation.intervals.Resampling`, for the interval of each accuracy
            over prompts. The bins are those of the data in every replicate.

    Returns:
        rows with `lower`, `upper`, `pairs` (count), `share` (of the weight; sums to 1), `confidence` and `accuracy`
        (weighted means), and `gap` = accuracy - confidence, below 0 where the model is over-confident. The
        calibration error is the sum of share * |gap|. With `replicates` and at least two prompts, `accuracy_low` and
        `accuracy_high`, over the replicates in which the bin holds weight.

    Raises:
        PluralignError: `bins` is odd or under 2, or as in `Resampling`.

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
    resampling = Resampling(pairs.prompt, replicates, level, seed)
    cells = resampling.group[kept] * width + index
    masses, rights = (
        sums.reshape(resampling.groups, width)
        for sums in bin_sums(cells, resampling.groups * width, weight, weight * correct)
    )
    accuracy = resampling.intervals(
        lambda weights: {str(b): column for b, column in enumerate(ratio(weights @ rights, weights @ masses).T)}
    )
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
        ends = ("low", "high") if f"{b}_low" in accuracy else ()
        rows.append(row | {f"accuracy_{end}": accuracy[f"{b}_{end}"] for end in ends})
    return rows


@dataclass(frozen=True)
class BinSums:
    """Sums over the pairs with margin other than 0, by row and bin; each `(rows, bins)`.

    Attributes:
        mass: of w.
        right: of w [m > 0].
        gap: of w ([m > 0] - c), c the top-label confidence.
        mass_squared: over the prompts, of the square of the prompt's mass in the bin.
        right_by_mass: over the prompts, of its right times its mass in the bin.
        right_squared: over the prompts, of the square of its right in the bin.
    """

    mass: Floats
    right: Floats
    gap: Floats
    mass_squared: Floats
    right_by_mass: Floats
    right_squared: Floats

    @classmethod
    def of_columns(cls, columns: Floats) -> BinSums:
        """The rows of `bin_columns` `(rows, 6 * bins)`, or sums of such rows, by name."""
        rows, width = columns.shape
        return cls(*np.moveaxis(columns.reshape(rows, PARTS, width // PARTS), 1, 0))


def bin_columns(pairs: Pairs, group: Ints, groups: int, edges: Floats) -> Floats:
    """The sums of `BinSums` for each group of pairs as rows that can be added, `(groups, 6 * bins)`.

    `group` is the group of each pair, int `(pairs,)`; -1 leaves the pair out. The bins of `mass` come first, then those
    of `right`, `gap` and so on.
    """
    confidence, correct, weight, kept = top_label(pairs)
    within = group[kept] >= 0
    bins = len(edges) - 1
    cells = groups * bins
    cell = (group[kept] * bins + bin_of(confidence, edges))[within]
    prompt = np.unique(pairs.prompt[kept][within], return_inverse=True)[1]
    together, place = np.unique(prompt * cells + cell, return_inverse=True)
    by_prompt = bin_sums(place, len(together), *(v[within] for v in (weight, weight * correct)))
    gap = np.bincount(cell, weights=(weight * (correct - confidence))[within], minlength=cells)
    mass, right = by_prompt
    products = bin_sums(together % cells, cells, mass, right, mass**2, right * mass, right**2)
    parts = [products[0], products[1], gap, *products[2:]]
    return np.concatenate([part.reshape(groups, bins) for part in parts], axis=1).astype(np.float64)


def expected_error(bins: BinSums) -> Floats:
    """ECE = sum_b W_b |gap_b| / sum_b W_b, `(rows,)`, gap_b the accuracy minus the mean confidence of bin b.

    Here and below nan marks a row without weight.
    """
    return ratio(np.abs(bins.gap).sum(axis=1), bins.mass.sum(axis=1))


def debiased_error(bins: BinSums) -> Floats:
    """Expected calibration error minus its estimated bias, at least 0, `(rows,)`.

    A bin's observed gap is the true one plus noise, and the absolute value turns noise into error. With s_b the
    standard error of the bin's accuracy a_b,

        bias = sum_b W_b / W (E|N(gap_b, s_b^2)| - |gap_b|)
        E|N(g, s^2)| = s sqrt(2 / pi) exp(-g^2 / (2 s^2)) + |g| erf(|g| / (s sqrt 2))
        s_b^2 = sum over prompts of (right in b - a_b mass in b)^2 / W_b^2

    With one pair per prompt and weights independent of the outcome, s_b^2 is a_b (1 - a_b) / n_b, where
    n_b = W_b^2 / sum w^2 is the effective number of pairs. The bias is that of errors drawn around the observed
    gaps, which are themselves too large: the correction removes most of the bias, not all. A bin with a single prompt,
    or in which all pairs are right or all wrong, has s_b = 0 and is not corrected.

    Source: Kumar, Liang and Ma (2019), "Verified uncertainty calibration", arXiv 1909.10155: estimate the bias of the
    plug-in by Gaussian noise around the observation and subtract it. Ours: the mean of the folded normal in closed
    form instead of draws, weights, prompts as the independent units, and the lower bound of 0.

    For a coin toss that a model predicts with 0.6, seen ten times, noise explains half of the gap of 0.1.
    """
    accuracy = _per_bin(bins.right, bins.mass)
    gap = np.abs(_per_bin(bins.gap, bins.mass))
    spread = bins.right_squared - 2 * accuracy * bins.right_by_mass + accuracy**2 * bins.mass_squared
    # A sum of squares multiplied out: rounding may leave it slightly negative.
    error = _per_bin(np.sqrt(np.maximum(spread, 0.0)), bins.mass)
    # Without noise the folded normal is its centre; any number but 0 avoids 0 / 0 there.
    scaled = gap / np.where(error > 0, error * math.sqrt(2), 1.0)
    folded = error * math.sqrt(2 / math.pi) * np.exp(-(scaled**2)) + gap * erf(scaled)
    bias = np.where(error > 0, folded - gap, 0.0)
    return np.maximum(ratio((bins.mass * (gap - bias)).sum(axis=1), bins.mass.sum(axis=1)), 0.0)


def max_error(bins: BinSums) -> Floats:
    """max_b |gap_b| over the bins that hold weight, `(rows,)`."""
    gap = np.abs(_per_bin(bins.gap, bins.mass)).max(axis=1)
    return np.where(bins.mass.sum(axis=1) > 0, gap, np.nan)


def average_error(bins: BinSums) -> Floats:
    """Mean of |gap_b| over the bins that hold weight, each bin once, `(rows,)`."""
    return ratio(np.abs(_per_bin(bins.gap, bins.mass)).sum(axis=1), (bins.mass > 0).sum(axis=1).astype(np.float64))


def brier_parts(bins: BinSums, brier: Floats, weight: Floats) -> dict[str, Floats]:
    """Murphy's parts of a Brier score, `brier = brier_reliability - brier_resolution + brier_uncertainty`.

    Over both orders of each pair half of the outcomes are 1, so that

        brier_uncertainty = 1/4,
        brier_reliability = sum_b W_b / W gap_b^2,
        brier_resolution  = sum_b W_b / W (a_b - 1/2)^2 + 1/W sum_b sum_(i in b) w_i (2 c'_i y'_i - c'_i^2)

    with c' and y' the confidence and correctness minus their means in the bin. The first sum of the resolution is
    Murphy's. The second, twice the covariance within bins minus the variance of the confidence there, makes the three
    add up exactly for forecasts that differ within a bin. Pairs with margin 0 have p = 1/2 in both orders and are
    right half of the time; they only add to W and to the uncertainty.

    Source: Murphy (1973), "A new vector partition of the probability score"; Stephenson, Coelho and Jolliffe
    (2008), "Two extra components in the Brier score decomposition", whose generalised resolution this is.

    Args:
        bins: sums of the pairs whose margin is not 0.
        brier: sum of w (1 - p)^2 over all strict pairs, p = sigmoid(m), `(rows,)`; the `brier` returned is a mean.
        weight: W, sum of w over all strict pairs, `(rows,)`.
    """
    score = ratio(brier, weight)
    reliability = ratio((bins.gap * _per_bin(bins.gap, bins.mass)).sum(axis=1), weight)
    uncertainty = np.where(weight > 0, 0.25, np.nan)
    return {
        "brier": score,
        "brier_reliability": reliability,
        # The formula above, rearranged: it needs no further sums, and the three add up to the last digit.
        "brier_resolution": reliability + uncertainty - score,
        "brier_uncertainty": uncertainty,
    }


def _check_bins(bins: int) -> None:
    """An odd number of bins has a bin that holds both orders of a pair."""
    if bins < 2 or bins % 2:
        raise PluralignError(f"bins is {bins}, expected an even number of at least 2")


def _per_bin(numerator: Floats, denominator: Floats) -> Floats:
    """Quotients by bin; 0 in an empty bin, so that it adds nothing."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)

"""Calibration errors as functions of sums per bin of the top-label confidence.

All take rows of bins, so that one definition serves the whole, its slices and the bootstrap's replicates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import erf

from pluralign.evaluation.calibration.reliability import bin_of, bin_sums, top_label
from pluralign.evaluation.pairs import Floats, Ints, Pairs

# What is summed within each bin: the fields of `BinSums`, in their order.
PARTS = 6


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
        """The sums of `bin_columns`, or sums of such rows, by name.

        Args:
            columns: `(rows, 6 * bins)`.
        """
        rows, width = columns.shape
        return cls(*np.moveaxis(columns.reshape(rows, PARTS, width // PARTS), 1, 0))


def bin_columns(pairs: Pairs, group: Ints, groups: int, edges: Floats) -> Floats:
    """The sums of `BinSums` for each group of pairs, side by side, so that rows can be added up.

    Args:
        pairs: strict pairs; those of one prompt are not independent.
        group: group of each pair, int `(pairs,)`; -1 leaves the pair out.
        groups: number of groups.
        edges: of the bins, `(bins + 1,)`.

    Returns:
        `(groups, 6 * bins)`: the bins of `mass`, then those of `right`, `gap` and so on.

    Examples:
        >>> from pluralign.evaluation.pairs import pairs_of
        >>> pairs = pairs_of([2.0, 0.0], [1, 2], [0, 2], [0], [3.0])
        >>> BinSums.of_columns(bin_columns(pairs, np.array([0]), 1, np.array([0.5, 0.8, 1.0]))).gap.round(3)
        array([[0.   , 0.358]])
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
    """ECE = sum_b W_b |gap_b| / sum_b W_b, gap_b the accuracy less the mean confidence of bin b, `(rows,)`.

    Returns:
        nan marks a row without weight, here and below.

    Examples:
        >>> from pluralign.evaluation.pairs import pairs_of
        >>> pairs = pairs_of([2.0, 0.0, 0.0, 2.0], [1, 2, 1, 2], [0, 2, 4], [0, 1], [1.0, 1.0])
        >>> sums = BinSums.of_columns(bin_columns(pairs, np.array([0, 0]), 2, np.array([0.5, 0.8, 1.0])))
        >>> expected_error(sums).round(3).tolist()
        [0.381, nan]
    """
    return ratio(np.abs(bins.gap).sum(axis=1), bins.mass.sum(axis=1))


def debiased_error(bins: BinSums) -> Floats:
    """Expected calibration error less its estimated bias, at least 0, `(rows,)`.

    A bin's observed gap is its true one plus noise, and the absolute value makes noise into error. With s_b the
    standard error of the bin's accuracy a_b,

        bias = sum_b W_b / W (E|N(gap_b, s_b^2)| - |gap_b|)
        E|N(g, s^2)| = s sqrt(2 / pi) exp(-g^2 / (2 s^2)) + |g| erf(|g| / (s sqrt 2))
        s_b^2 = sum over prompts of (right in b - a_b mass in b)^2 / W_b^2

    With one pair a prompt and weights that know nothing of the outcome s_b^2 is a_b (1 - a_b) / n_b, where
    n_b = W_b^2 / sum w^2 is the effective number of pairs. The bias is that of errors drawn around the observed
    gaps, which are themselves too large: it takes most of the bias away, not all. A bin of a single prompt, and one
    in which all are right or all wrong, has s_b = 0 and is left as it is.

    Source: to estimate the bias of the plug-in by Gaussian noise around what was observed, and take it off,
    follows Kumar, Liang and Ma (2019), "Verified uncertainty calibration", arXiv 1909.10155. Ours: the mean of the
    folded normal in closed form in place of draws, weights, prompts as the independent units, and the floor at 0.

    Examples:
        A coin toss that a model was 0.6 sure of, seen ten times: noise explains half of the gap of 0.1.

        >>> from pluralign.evaluation.pairs import pairs_of
        >>> rewards, ranks = [0.4054652, 0.0] * 10, [1, 2] * 5 + [2, 1] * 5
        >>> pairs = pairs_of(rewards, ranks, range(0, 21, 2), range(10), [1.0] * 10)
        >>> sums = BinSums.of_columns(bin_columns(pairs, np.zeros(10, int), 1, np.array([0.5, 1.0])))
        >>> expected_error(sums).round(3).tolist(), debiased_error(sums).round(3).tolist()
        ([0.1], [0.049])
    """
    accuracy = _each(bins.right, bins.mass)
    gap = np.abs(_each(bins.gap, bins.mass))
    spread = bins.right_squared - 2 * accuracy * bins.right_by_mass + accuracy**2 * bins.mass_squared
    # A sum of squares multiplied out: rounding may leave it a little under 0.
    error = _each(np.sqrt(np.maximum(spread, 0.0)), bins.mass)
    # Where there is no noise the folded normal is its centre; any number but 0 avoids 0 / 0 there.
    scaled = gap / np.where(error > 0, error * math.sqrt(2), 1.0)
    folded = error * math.sqrt(2 / math.pi) * np.exp(-(scaled**2)) + gap * erf(scaled)
    bias = np.where(error > 0, folded - gap, 0.0)
    return np.maximum(ratio((bins.mass * (gap - bias)).sum(axis=1), bins.mass.sum(axis=1)), 0.0)


def max_error(bins: BinSums) -> Floats:
    """max_b |gap_b| over the bins that hold weight, `(rows,)`.

    Examples:
        One pair 0.6 sure and right, one 0.88 sure and wrong.

        >>> from pluralign.evaluation.pairs import pairs_of
        >>> pairs = pairs_of([0.4054652, 0.0, 0.0, 2.0], [1, 2, 1, 2], [0, 2, 4], [0, 1], [1.0, 1.0])
        >>> sums = BinSums.of_columns(bin_columns(pairs, np.array([0, 0]), 1, np.array([0.5, 0.8, 1.0])))
        >>> max_error(sums).round(3).tolist()
        [0.881]
    """
    gap = np.abs(_each(bins.gap, bins.mass)).max(axis=1)
    return np.where(bins.mass.sum(axis=1) > 0, gap, np.nan)


def average_error(bins: BinSums) -> Floats:
    """Mean of |gap_b| over the bins that hold weight, each bin once, `(rows,)`.

    Examples:
        >>> from pluralign.evaluation.pairs import pairs_of
        >>> pairs = pairs_of([0.4054652, 0.0, 0.0, 2.0], [1, 2, 1, 2], [0, 2, 4], [0, 1], [1.0, 9.0])
        >>> sums = BinSums.of_columns(bin_columns(pairs, np.array([0, 0]), 1, np.array([0.5, 0.8, 1.0])))
        >>> average_error(sums).round(3).tolist()
        [0.64]
    """
    return ratio(np.abs(_each(bins.gap, bins.mass)).sum(axis=1), (bins.mass > 0).sum(axis=1).astype(np.float64))


def brier_parts(bins: BinSums, brier: Floats, weight: Floats) -> dict[str, Floats]:
    """Murphy's parts of a Brier score, `brier = brier_reliability - brier_resolution + brier_uncertainty`.

    Over both orders of each pair half of the outcomes are 1, so that

        brier_uncertainty = 1/4,
        brier_reliability = sum_b W_b / W gap_b^2,
        brier_resolution  = sum_b W_b / W (a_b - 1/2)^2 + 1/W sum_b sum_(i in b) w_i (2 c'_i y'_i - c'_i^2)

    with c' and y' confidence and correctness less their means in the bin. The first sum of the resolution is
    Murphy's; the second, twice the covariance within bins less the variance of the confidence there, is what makes
    the three add up exactly for forecasts that differ within a bin. Pairs with margin 0 have p = 1/2 in both
    orders, are right half of the time, and add to W and to the uncertainty only.

    Source: Murphy (1973), "A new vector partition of the probability score"; Stephenson, Coelho and Jolliffe
    (2008), "Two extra components in the Brier score decomposition", whose generalised resolution this is.

    Args:
        bins: sums of the pairs whose margin is not 0.
        brier: sum of w (1 - p)^2 over all strict pairs, p = sigmoid(m), `(rows,)`.
        weight: W, sum of w over all strict pairs, `(rows,)`.

    Returns:
        `brier` (a mean), `brier_reliability`, `brier_resolution`, `brier_uncertainty`, each `(rows,)`.

    Examples:
        One pair, 0.881 sure and right.

        >>> from pluralign.evaluation.pairs import pairs_of
        >>> pairs = pairs_of([2.0, 0.0], [1, 2], [0, 2], [0], [1.0])
        >>> sums = BinSums.of_columns(bin_columns(pairs, np.array([0]), 1, np.array([0.5, 1.0])))
        >>> parts = brier_parts(sums, brier=np.array([0.0142]), weight=np.array([1.0]))
        >>> {name: round(values.item(), 3) for name, values in parts.items()}
        {'brier': 0.014, 'brier_reliability': 0.014, 'brier_resolution': 0.25, 'brier_uncertainty': 0.25}
    """
    score = ratio(brier, weight)
    reliability = ratio((bins.gap * _each(bins.gap, bins.mass)).sum(axis=1), weight)
    uncertainty = np.where(weight > 0, 0.25, np.nan)
    return {
        "brier": score,
        "brier_reliability": reliability,
        # The written-out form, rearranged: it needs no further sums, and the three add up to the last digit.
        "brier_resolution": reliability + uncertainty - score,
        "brier_uncertainty": uncertainty,
    }


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Quotients, nan where the denominator is not above 0.

    Examples:
        >>> ratio(np.array([1.0, 0.0]), np.array([2.0, 0.0])).tolist()
        [0.5, nan]
    """
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator > 0)


def _each(numerator: Floats, denominator: Floats) -> Floats:
    """Quotients by bin; 0 in a bin that holds nothing, so that it adds nothing."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)

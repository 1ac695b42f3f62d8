"""A sample of annotators weighted to a population: post-stratification by known shares of strata.

With W_s the share of stratum s in the population and n_s its annotators in the sample, an annotator h of s weighs

    w_h = W_s / n_s        n_eff = (sum w)^2 / sum w^2        c_i = n_eff (sum of w_h over the voters of i) / sum w

n_eff (Kish 1965) is how many equal voices the weighted sample is worth, so that the crowd counts c claim no more
than they know. Strata without a voice are dropped and the others' shares rescaled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PopulationWeights:
    """What each annotator stands for.

    Args:
        weights: w `(annotators,)`, with sum 1 where a stratum with a share has a voice.
        shares: W `(strata,)` after empty strata were dropped, rescaled to sum 1.
        dropped: `(strata,)` bool, strata with a share and no annotator.
    """

    weights: Floats
    shares: Floats
    dropped: NDArray[np.bool_]


def population_weights(stratum: ArrayLike, shares: ArrayLike) -> PopulationWeights:
    """w_h = W_s / n_s.

    Args:
        stratum: `(annotators,)` whole numbers from 0, the stratum of each.
        shares: W `(strata,)`, not negative, of any sum above 0.

    Raises:
        ValueError: shares that are negative, not finite or all zero, or a stratum that has none.

    Examples:
        >>> found = population_weights([0, 0, 0, 1], [0.5, 0.4, 0.1])
        >>> found.weights.round(3).tolist(), found.dropped.tolist()
        ([0.185, 0.185, 0.185, 0.444], [False, False, True])
    """
    given = _shares(shares)
    number = np.asarray(stratum, dtype=np.int64)
    if len(number) and not 0 <= number.min() <= number.max() < len(given):
        raise ValueError(f"stratum: found {number.min()} to {number.max()}, expected 0 to {len(given) - 1}")
    voices = np.bincount(number, minlength=len(given)).astype(np.float64)
    used, dropped = _rescaled(voices, given)
    return PopulationWeights((used / np.maximum(voices, 1))[number], used, dropped)


def effective_size(weights: ArrayLike) -> float:
    """n_eff = (sum w)^2 / sum w^2; 0 where there is no weight.

    Examples:
        >>> effective_size([1.0, 1.0, 2.0]).__round__(3)
        2.667
    """
    found = np.asarray(weights, dtype=np.float64)
    squares = float(found @ found)
    return float(found.sum()) ** 2 / squares if squares > 0 else 0.0


@dataclass(frozen=True)
class CrowdCounts:
    """Counts as if the population had voted.

    Args:
        counts: c `(..., labels)`; their sum is the effective number of votes.
        shares: W `(..., strata)` as used on each item.
        dropped: `(..., strata)` bool, strata with a share and no vote on an item.
    """

    counts: Floats
    shares: Floats
    dropped: NDArray[np.bool_]


def crowd_counts(counts: ArrayLike, shares: ArrayLike) -> CrowdCounts:
    """Counts by stratum and label to the crowd's counts, item by item.

    Every vote of an item is a voice of its stratum there: n_s is the item's votes of s. Votes may be fractions (a
    reliability, votes that faded): a stratum of n_s votes then weighs as n_s voices of equal weight.

    Args:
        counts: `(..., strata, labels)`, not negative.
        shares: W `(strata,)`, not negative, of any sum above 0.

    Raises:
        ValueError: shares that are negative, not finite or all zero, or not one per stratum.

    Examples:
        Three of four voices are of the first stratum, which is half of the population:

        >>> found = crowd_counts([[3.0, 0.0], [0.0, 1.0]], [0.5, 0.5])
        >>> found.counts.tolist()
        [1.5, 1.5]
    """
    given = _shares(shares)
    table = np.asarray(counts, dtype=np.float64)
    if table.ndim < 2 or table.shape[-2] != len(given):
        raise ValueError(f"counts: found shape {table.shape}, expected (..., {len(given)} strata, labels)")
    voices = table.sum(-1)  # (..., strata)
    used, dropped = _rescaled(voices, given)
    each = used / np.where(voices > 0, voices, 1)  # the weight of one voice
    squares = (used * each).sum(-1)  # sum w^2; sum w is 1
    size = np.divide(1.0, squares, out=np.zeros_like(squares), where=squares > 0)
    return CrowdCounts(size[..., None] * (each[..., None] * table).sum(-2), used, dropped)


def _rescaled(voices: Floats, shares: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Shares of the strata that have a voice, with sum 1 (0 where none has), and which were dropped."""
    here = np.where(voices > 0, shares, 0.0)
    total = here.sum(-1, keepdims=True)
    return here / np.where(total > 0, total, 1), (voices <= 0) & (shares > 0)


def _shares(shares: ArrayLike) -> Floats:
    found = np.asarray(shares, dtype=np.float64)
    if found.ndim != 1 or not np.isfinite(found).all() or (found < 0).any() or found.sum() <= 0:
        raise ValueError(f"shares: found {found.tolist()}, expected one number per stratum, 0 or more, not all 0")
    return found

"""Post-stratification: weight a sample of votes to a population with known shares of strata.

With W_s the share of stratum s in the population and n_s its votes in the sample, a vote h of s has the weight

    w_h = W_s / n_s        n_eff = (sum w)^2 / sum w^2        c_i = n_eff (sum of w_h over the votes for i) / sum w

n_eff (Kish 1965) is the number of equally weighted votes that carry as much information, so the crowd counts c do
not pretend to more evidence than the sample has. Strata without a vote are dropped and the other shares rescaled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


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
    """Turn counts by stratum and label into the population's counts, item by item.

    Fractions of votes are allowed (reliability weights, votes that faded): a stratum with n_s votes then counts as
    n_s votes of equal weight.

    Args:
        counts: `(..., strata, labels)`, at least 0.
        shares: W `(strata,)`, at least 0, with any sum above 0.

    Raises:
        ValueError: the shares are negative, not finite or all zero, or there is not one per stratum.

    Examples:
        Three of four votes come from the first stratum, which is half of the population:

        >>> crowd_counts([[3.0, 0.0], [0.0, 1.0]], [0.5, 0.5]).counts.tolist()
        [1.5, 1.5]
    """
    population = np.asarray(shares, dtype=np.float64)
    if population.ndim != 1 or not np.isfinite(population).all() or (population < 0).any() or population.sum() <= 0:
        raise ValueError(f"shares: found {population.tolist()}, expected one number per stratum, 0 or more, not all 0")
    table = np.asarray(counts, dtype=np.float64)
    if table.ndim < 2 or table.shape[-2] != len(population):
        raise ValueError(f"counts: found shape {table.shape}, expected (..., {len(population)} strata, labels)")
    votes = table.sum(-1)  # (..., strata)
    used = np.where(votes > 0, population, 0.0)
    total = used.sum(-1, keepdims=True)
    used = used / np.where(total > 0, total, 1)
    weight = used / np.where(votes > 0, votes, 1)  # of one vote
    squares = (used * weight).sum(-1)  # sum w^2; sum w is 1
    size = np.divide(1.0, squares, out=np.zeros_like(squares), where=squares > 0)
    crowd = size[..., None] * (weight[..., None] * table).sum(-2)
    return CrowdCounts(crowd, used, (votes <= 0) & (population > 0))

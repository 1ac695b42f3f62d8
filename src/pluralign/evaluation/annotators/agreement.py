"""Do people agree more than chance would have it? Krippendorff's alpha and its interval."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from pluralign.core.errors import PluralignError
from pluralign.evaluation.annotators.coincidences import (
    Level,
    alphas_of,
    check_coverage,
    coincidences,
    comparable,
    same_length,
)
from pluralign.evaluation.intervals import resampled_sums
from pluralign.evaluation.pairs import whole_numbers

# Clusters that hold the same coincidences are drawn together once there are so many to each distinct one.
ALIKE = 10


def krippendorff_alpha(
    unit: ArrayLike,
    value: ArrayLike,
    annotator: ArrayLike | None = None,
    *,
    level: Level = "nominal",
    both_orders: bool = False,
) -> float | None:
    """Krippendorff's alpha: 1 - D_o / D_e, observed over expected disagreement.

    With m_u values on unit u, n_uc of them c, the coincidences are
    o_ck = sum_u n_uc (n_uk - [c = k]) / (m_u - 1), n_c = sum_k o_ck and n = sum_c n_c. Then
    D_o = sum_ck o_ck d_ck / n and D_e = sum_ck n_c n_k d_ck / (n (n - 1)). The distance d_ck is [c != k] for
    nominal values and (sum_{g = c..k} n_g - (n_c + n_k) / 2)^2 for ordinal ones, the squared difference of the
    midranks of c and k. Units with fewer than two values say nothing and are left out, so missing values need
    no mark. 1 is full agreement, 0 what chance gives, negative is less than chance. The cost grows with votes
    x distinct values (and a sort).

    Source: Krippendorff, "Content Analysis: An Introduction to Its Methodology", chapter on reliability;
    "Computing Krippendorff's Alpha-Reliability" (2011). Splitting repeated values and `both_orders` are ours.

    Args:
        unit: what each value is about, int `(votes,)`.
        value: the values, int `(votes,)`; ordinal values are ordered as numbers.
        annotator: who gave each value, int `(votes,)`, negative where it is not known; None where every
            value of a unit is another person's. Several values of one person on one unit share one vote
            and are never compared with each other.
        level: "nominal" or "ordinal".
        both_orders: count every value c as -c as well, on a mirrored unit. For pair votes (-1, 0, 1), where
            nothing but the numbering of the responses says which one is first: the result then does not
            depend on the numbering. The plain alpha does: where each pair is numbered as its first voter
            has it and a second one agrees four times in five, it is -0.11 and not 0.6.

    Returns:
        alpha, at most 1; None where it is not defined: no unit with two values, or all values that could be
        compared are equal, so that chance disagrees no more than people do.

    Raises:
        PluralignError: arrays of different lengths or not whole numbers, or an unknown level.

    Examples:
        Three units of two values each and one unit of a single value.

        >>> alpha = krippendorff_alpha([0, 0, 1, 1, 2, 2, 3], [1, 1, 2, 2, 1, 2, 2])
        >>> round(alpha, 4)
        0.4444
        >>> krippendorff_alpha([0, 0, 1], [1, 1, 2]) is None
        True
    """
    votes = comparable(unit, value, annotator, level, both_orders)
    everyone = coincidences(votes, np.zeros(len(votes.unit), dtype=np.int64), 1)
    alpha = alphas_of(everyone, everyone[0], level)[0]
    return None if np.isnan(alpha) else float(alpha)


def alpha_interval(
    unit: ArrayLike,
    value: ArrayLike,
    annotator: ArrayLike | None = None,
    cluster: ArrayLike | None = None,
    *,
    level: Level = "nominal",
    both_orders: bool = False,
    replicates: int = 1000,
    coverage: float = 0.95,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of Krippendorff's alpha over units, or over clusters of units.

    Each replicate draws as many clusters as hold a unit with two values, with replacement, adds up their
    coincidences and computes alpha with the replicate's own D_o, D_e and midranks. Replicates without
    variation are passed over. Memory: clusters x (distinct values)^2.

    Args:
        unit, value, annotator, level, both_orders: as in `krippendorff_alpha`.
        cluster: what is drawn, int `(votes,)`, such as the prompt: pairs of one prompt share responses and
            are not independent. None draws single units.
        replicates: number of draws, at least 1.
        coverage: of the interval, between 0 and 1.
        seed: of the draws; the same seed gives the same interval.

    Returns:
        low and high; None with fewer than two clusters, or where no replicate has an alpha.

    Raises:
        PluralignError: as `krippendorff_alpha` says, `replicates` under 1 or `coverage` not between 0 and 1.

    Examples:
        Units that all agree leave nothing to vary.

        >>> alpha_interval([0, 0, 1, 1, 2, 2, 3, 3], [1, 1, 2, 2, 1, 1, 2, 2], replicates=50)
        (1.0, 1.0)
    """
    if replicates < 1:
        raise PluralignError(f"replicates is {replicates}, expected at least 1")
    check_coverage(coverage)
    votes = comparable(unit, value, annotator, level, both_orders)
    group = votes.unit
    if cluster is not None:
        group = whole_numbers("cluster", cluster)
        same_length(np.size(unit), cluster=group)
        group = group[votes.row]
    names, group = np.unique(group, return_inverse=True)
    if len(names) < 2:
        return None
    categories = len(votes.categories)
    sums = coincidences(votes, group, len(names)).reshape(len(names), -1)
    # Clusters with the same coincidences are interchangeable: draw how many of each kind there are.
    kinds, times = np.unique(sums, axis=0, return_counts=True)
    if len(kinds) * ALIKE <= len(names):
        drawn = np.random.default_rng(seed).multinomial(len(names), times / len(names), size=replicates)
        totals = drawn @ kinds
    else:
        totals = resampled_sums(sums, replicates, seed)
    totals = totals.reshape(replicates, categories, categories)
    alphas = np.concatenate([alphas_of(total[None], total, level) for total in totals])
    defined = alphas[~np.isnan(alphas)]
    if not len(defined):
        return None
    low, high = np.quantile(defined, [(1 - coverage) / 2, (1 + coverage) / 2])
    return float(low), float(high)

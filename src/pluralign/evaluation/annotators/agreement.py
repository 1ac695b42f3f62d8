"""Do annotators agree more than by chance? Krippendorff's alpha and its interval.

Everything follows from coincidences: how often a vote for one value meets another annotator's vote on the same unit.
Alpha uses the coincidences of all votes, a bootstrap replicate those of the clusters drawn, an annotator's alpha their
own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from pluralign.core.errors import PluralignError
from pluralign.evaluation.intervals import Resampling
from pluralign.evaluation.pairs import Floats, Ints, numbered_values, whole_numbers

Level = Literal["nominal", "ordinal"]

# Clusters with equal coincidences are drawn together if there are at least this many clusters per distinct one.
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

    With m_u values on unit u, n_uc of them c, the coincidences are o_ck = sum_u n_uc (n_uk - [c = k]) / (m_u - 1),
    n_c = sum_k o_ck and n = sum_c n_c. Then D_o = sum_ck o_ck d_ck / n and
    D_e = sum_ck n_c n_k d_ck / (n (n - 1)). The distance d_ck is [c != k] for nominal values and
    (sum_{g = c..k} n_g - (n_c + n_k) / 2)^2 for ordinal ones, the squared difference of the midranks of c and k. Units
    with fewer than two values are left out, so missing values need no code. 1 is full agreement, 0 is chance, negative
    values are worse than chance.

    Source: Krippendorff, "Content Analysis: An Introduction to Its Methodology", chapter on reliability; "Computing
    Krippendorff's Alpha-Reliability" (2011). Sharing repeated values and `both_orders` are ours.

    Args:
        unit: the unit of each value, int `(votes,)`.
        value: the values, int `(votes,)`; ordinal values are ordered as numbers.
        annotator: who gave each value, int `(votes,)`, negative if unknown; None if every value of a unit is by a
            different annotator. Several values of one annotator on one unit share one vote and are never compared with
            each other.
        level: "nominal" or "ordinal".
        both_orders: count every value c also as -c, on a mirrored unit. For pair votes (-1, 0, 1), where only the
            numbering of the responses decides which one is first: the result then does not depend on the numbering.
            Plain alpha does: if each pair is numbered as its first annotator ordered it and a second annotator agrees
            four times in five, it is -0.11 and not 0.6.

    Returns:
        alpha, at most 1; None if it is undefined: no unit has two values, or all values that can be compared are
        equal, so that no disagreement is expected by chance.

    Raises:
        PluralignError: arrays of different lengths or not of integers, or an unknown level.

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
    """Interval of Krippendorff's alpha over units, or clusters of units, and over annotators.

    Each replicate draws as many clusters as hold a unit with two values, with replacement, adds up their coincidences
    and computes alpha with the replicate's own D_o, D_e and midranks. Replicates without variation are left out.
    If at least five annotators judged several clusters, the interval is the normal one instead, by the variance for
    clusters and annotators of `Resampling` with the votes' influences on alpha (`vote_influences`): a bootstrap of
    both would count the noise of a pair of votes up to eightfold. With fewer annotators it is given these.
    Memory: clusters x (distinct values)^2.

    Args:
        unit, value, annotator, level, both_orders: as in `krippendorff_alpha`.
        cluster: what is drawn, int `(votes,)`, such as the prompt: pairs of one prompt share responses and are not
            independent. None draws single units.
        coverage: nominal coverage of the interval, between 0 and 1.
        replicates, seed: as in `pluralign.evaluation.intervals.Resampling`.

    Returns:
        low and high; None with fewer than two clusters, or if no replicate has an alpha.

    Raises:
        PluralignError: as in `krippendorff_alpha`, `replicates` is negative or `coverage` is not between 0 and 1.

    Examples:
        Units that all agree leave nothing to vary.

        >>> alpha_interval([0, 0, 1, 1, 2, 2, 3, 3], [1, 1, 2, 2, 1, 1, 2, 2], replicates=50)
        (1.0, 1.0)
    """
    check_coverage(coverage)
    votes = comparable(unit, value, annotator, level, both_orders)
    group = votes.unit
    if cluster is not None:
        group = whole_numbers("cluster", cluster, np.size(unit), ", one per vote")[votes.row]
    who = None if annotator is None else whole_numbers("annotator", annotator)
    # An unknown annotator has a number of their own.
    who = None if who is None else np.where(who < 0, -1 - np.arange(len(who)), who)[votes.row]
    resampling = Resampling(group, replicates, coverage, seed, annotator=who)
    if resampling.groups < 2:
        return None
    if resampling.crossed:
        everyone = coincidences(votes, np.zeros(len(votes.unit), dtype=np.int64), 1)[0]
        alpha = float(alphas_of(everyone[None], everyone, level)[0])
        if np.isnan(alpha) or not replicates:
            return None
        half = resampling.half_width(vote_influences(votes, level))
        return alpha - half, min(alpha + half, 1.0)
    sums = coincidences(votes, resampling.group, resampling.groups).reshape(resampling.groups, -1)
    kinds, count = np.unique(sums, axis=0, return_counts=True)
    if len(kinds) * ALIKE <= resampling.groups:
        sums, resampling = kinds, Resampling.of_kinds(count, replicates, coverage, seed)
    categories = len(votes.categories)

    def replicated(weights: Floats) -> Floats:
        totals = (weights @ sums).reshape(-1, categories, categories)
        return np.concatenate([alphas_of(total[None], total, level) for total in totals])

    ends = resampling.interval(replicated)
    return None if ends is None else (float(ends[0]), float(ends[1]))


@dataclass(frozen=True)
class Comparable:
    """The votes on units that at least two annotators judged.

    Attributes:
        row: index of each vote in the input arrays, int64 `(votes,)`.
        unit, value: codes from 0, int64 `(votes,)`.
        judge: code of (unit, annotator), int64 `(votes,)`.
        share: 1 / number of values this annotator gave to the unit, float64 `(votes,)`.
        judges: number of annotators who judged the unit, float64 `(votes,)`.
        categories: the distinct values in order, int64 `(categories,)`.
        both_orders: every value counts as its negative as well.
    """

    row: Ints
    unit: Ints
    value: Ints
    judge: Ints
    share: Floats
    judges: Floats
    categories: Ints
    both_orders: bool


def comparable(
    unit: ArrayLike, value: ArrayLike, annotator: ArrayLike | None, level: str, both_orders: bool
) -> Comparable:
    """The votes that can be compared with another annotator's; arguments and errors of `krippendorff_alpha`."""
    if level not in get_args(Level):
        raise PluralignError(f"level is {level!r}, expected one of {', '.join(get_args(Level))}")
    units = numbered_values(whole_numbers("unit", unit))[1]
    values = whole_numbers("value", value, len(units), ", one per vote")
    if annotator is None:
        judge, times = np.arange(len(units)), np.ones(len(units))
    else:
        who = whole_numbers("annotator", annotator, len(units), ", one per vote")
        # Each unknown annotator gets a code of their own, below every known one.
        if (who < 0).any():
            who = np.where(who < 0, -1 - np.arange(len(who)), who)
        who = numbered_values(who)[1]
        judge = numbered_values(units * (int(who.max(initial=0)) + 1) + who)[1]
        times = np.bincount(judge)[judge].astype(np.float64)
    judges = np.rint(np.bincount(units, weights=1 / times)).astype(np.int64)[units]
    row = np.flatnonzero(judges >= 2)
    values = values[row]
    categories = np.unique(np.concatenate([values, -values]) if both_orders else values)
    return Comparable(
        row=row,
        unit=numbered_values(units[row])[1],
        value=np.searchsorted(categories, values),
        judge=judge[row],
        share=1 / times[row],
        judges=judges[row].astype(np.float64),
        categories=categories,
        both_orders=both_orders,
    )


def others(votes: Comparable) -> Iterator[Floats]:
    """For each category in turn, the share of the other annotators of each vote's unit who chose it, `(votes,)`."""
    for k in range(len(votes.categories)):
        chosen = votes.share * (votes.value == k)
        everyone = np.bincount(votes.unit, weights=chosen)[votes.unit]
        own = np.bincount(votes.judge, weights=chosen)[votes.judge]
        yield (everyone - own) / (votes.judges - 1)


def coincidences(votes: Comparable, group: Ints, groups: int) -> Floats:
    """How often votes c of each group meet other annotators' votes k, `(groups, categories, categories)`."""
    categories = len(votes.categories)
    table = np.zeros((groups, categories, categories))
    cell = group * categories + votes.value
    for k, share in enumerate(others(votes)):
        sums = np.bincount(cell, weights=votes.share * share, minlength=groups * categories)
        table[:, :, k] = sums.reshape(groups, categories)
    return table + table[:, ::-1, ::-1] if votes.both_orders else table


def vote_influences(votes: Comparable, level: str) -> Floats:
    """How much alpha would change per unit of weight of each vote, `(votes,)`.

    With a_h the weight of an annotator on unit u and v_hc the share of c in their values there, the coincidences are

        o_ck = sum_(h, g different) a_h a_g v_hc v_gk / (M - Q / M),   M = sum_h a_h,   Q = sum_h a_h^2

    which are the plain ones where every weight is 1. By the chain rule the influence of h on u is
    <G, v_h r_h' + r_h v_h'> / (m_u - 1) - <G, o_u> / m_u, with G the derivative of alpha by its coincidences and r_h
    the others' values. Over a unit the influences add up to that of the unit's own weight.
    """
    whole = coincidences(votes, np.zeros(len(votes.unit), dtype=np.int64), 1)[0]
    (alpha,) = alphas_of(whole[None], whole, level)
    step = 1e-6 * whole.sum()
    gradient = np.zeros_like(whole)
    for cell in np.ndindex(whole.shape):
        # From above: a value that meets no other has coincidences of 0.
        more = whole.copy()
        more[cell] += step
        gradient[cell] = (alphas_of(more[None], more, level)[0] - alpha) / step
    if votes.both_orders:
        gradient = gradient + gradient[::-1, ::-1]
    paired = gradient + gradient.T
    own = np.zeros(len(votes.unit))
    for k, share in enumerate(others(votes)):
        # `others` divides by m_u - 1 already.
        own += votes.share * paired[votes.value, k] * share
    units = np.bincount(votes.unit, weights=own) / 2
    return own - votes.share * (units[votes.unit] / votes.judges)


def alphas_of(observed: Floats, everyone: Floats, level: str) -> Floats:
    """1 - D_o / D_e of each group, `(groups,)`, nan if undefined; D_o from its own coincidences, D_e from all."""
    margin = everyone.sum(axis=1)
    total = margin.sum()
    # A value that meets no other annotator's value has a margin of exactly 0: a sum minus the same sum.
    if np.count_nonzero(margin) < 2:
        return np.full(len(observed), np.nan)
    if level == "ordinal":
        midrank = np.cumsum(margin) - margin / 2
        distance = ((midrank[:, None] - midrank) / total) ** 2
    else:
        distance = 1 - np.eye(len(margin))
    expected = margin @ distance @ margin / (total * (total - 1))
    pairs = observed.sum(axis=(1, 2))
    disagreement = np.einsum("gck,ck->g", observed, distance)
    return 1 - np.divide(disagreement, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0) / expected


def check_coverage(coverage: float) -> None:
    """Raise an error unless a coverage is between 0 and 1."""
    if not 0 < coverage < 1:
        raise PluralignError(f"coverage is {coverage}, expected a number between 0 and 1")

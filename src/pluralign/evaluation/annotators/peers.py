"""How much each annotator agrees with the others on the units they share."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from pluralign.core.errors import PluralignError
from pluralign.evaluation.annotators.agreement import (
    Level,
    alphas_of,
    check_coverage,
    coincidences,
    comparable,
    others,
)
from pluralign.evaluation.pairs import SAME, Floats, whole_numbers


def annotator_agreement(
    unit: ArrayLike,
    value: ArrayLike,
    annotator: ArrayLike,
    annotators: int,
    *,
    level: Level = "nominal",
    both_orders: bool = False,
    coverage: float = 0.95,
) -> dict[str, list[int] | list[float | None]]:
    """Each annotator's agreement with the others on the units they share.

    `agreement` is the share of an annotator's votes that equal the most frequent value of the *others* on the unit; it
    leaves out units on which the others have no single most frequent value. Its interval is Wilson's score interval
    for independent votes. `alpha` corrects for chance: alpha_h = 1 - D_h / D_e, where D_h is the mean distance of the
    annotator's values to those of the others and D_e the expected disagreement of all. Alpha of all is the mean of
    these alphas (and of the unknown annotators'), weighted by shared votes (ours: it follows from splitting D_o by
    annotator).

    A low number is not a fault: a minority that agrees with itself scores as low as a careless annotator.

    Args:
        unit, value, level, both_orders: as in `krippendorff_alpha`.
        annotator: who gave each value, int `(votes,)` from 0; negative if unknown, which counts among the others but
            has no entry. Several values of one annotator on one unit share one vote.
        annotators: number of annotators.
        coverage: nominal coverage of the interval.

    Returns:
        columns of length `annotators`: `shared` (units with another annotator's value), `decided` (those of them
        where the others have a single most frequent value), `agreement`, `agreement_low`, `agreement_high` (None
        where nothing is decided) and `alpha` (None where nothing is shared or D_e is 0).

    Raises:
        PluralignError: as in `krippendorff_alpha`, an annotator of `annotators` or more, or `coverage` not between
            0 and 1.

    Examples:
        Three annotators on two units; the last one differs once. A fourth is alone on a unit.

        >>> table = annotator_agreement([0, 0, 0, 1, 1, 1, 2], [1, 1, 1, 2, 2, 1, 1], [0, 1, 2, 0, 1, 2, 3], 4)
        >>> table["shared"], table["decided"], table["agreement"]
        ([2, 2, 2, 0], [1, 1, 2, 0], [1.0, 1.0, 0.5, None])
        >>> [None if alpha is None else round(alpha, 3) for alpha in table["alpha"]]
        [0.531, 0.531, 0.062, None]
    """
    check_coverage(coverage)
    given = whole_numbers("annotator", annotator)
    if len(given) and given.max() >= annotators:
        raise PluralignError(f"annotator: found {given.max()}, expected less than annotators = {annotators}")
    votes = comparable(unit, value, annotator, level, both_orders)
    # One more row takes the votes of unknown annotators.
    who = np.where(given < 0, annotators, given)[votes.row]
    own = coincidences(votes, who, annotators + 1)
    alpha = alphas_of(own, own.sum(axis=0), level)[:annotators]

    top, matched = np.zeros(len(who)), np.zeros(len(who))
    single = np.zeros(len(who), dtype=bool)
    for k, share in enumerate(others(votes)):
        more, same = share > top + SAME, np.abs(share - top) <= SAME
        single = more | (single & ~same)
        matched = np.where(more, votes.value == k, matched)
        top = np.maximum(top, share)
    # An annotator's several values on one unit are decided together, so their shares add up to whole units.
    shared, decided, agreed = (
        np.bincount(who, weights=votes.share * part, minlength=annotators + 1)[:annotators].astype(np.float64)
        for part in (1.0, single, single * matched)
    )
    rate = np.divide(agreed, decided, out=np.full(annotators, np.nan), where=decided > 0)
    low, high = wilson_interval(agreed, decided, coverage)
    return {
        "shared": np.rint(shared).astype(np.int64).tolist(),
        "decided": np.rint(decided).astype(np.int64).tolist(),
        "agreement": _or_none(rate),
        "agreement_low": _or_none(low),
        "agreement_high": _or_none(high),
        "alpha": _or_none(alpha),
    }


def wilson_interval(successes: Floats, trials: Floats, coverage: float = 0.95) -> tuple[Floats, Floats]:
    """Wilson's score interval of shares `(shares,)`: all p with (p_hat - p)^2 <= z^2 p (1 - p) / n; nan if n is 0."""
    square = ndtri((1 + coverage) / 2) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        centre = (successes + square / 2) / (trials + square)
        half = np.sqrt(square * (successes * (1 - successes / trials) + square / 4)) / (trials + square)
    # At 0 and at n successes one end is exactly 0 or 1, but the root has rounding errors.
    return np.clip(centre - half, 0.0, 1.0), np.clip(centre + half, 0.0, 1.0)


def _or_none(values: Floats) -> list[float | None]:
    """Values with None for nan."""
    return [None if np.isnan(value) else value for value in values.tolist()]

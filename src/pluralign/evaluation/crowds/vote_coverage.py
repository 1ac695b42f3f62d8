"""Do votes lie where a predicted distribution expects them? Central intervals of beta-binomial counts."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtr, gammaln

from pluralign.core.errors import PluralignError
from pluralign.evaluation.pairs import Floats, Ints

# Beyond this concentration a Beta is numerically a point, and differences of log-gamma functions lose precision.
CERTAIN = 1e8

# A Beta needs parameters above 0; this value puts all its mass on 0.
LEAST = 1e-300


def count_coverage(
    predicted: Floats, votes: ArrayLike, level: float = 0.9, concentration: ArrayLike | None = None
) -> Floats:
    """Which part of each voted count lies in the model's central interval of that count.

    The model predicts for label i of an item with n votes that its share theta among all annotators is
    Beta(kappa mu_i, kappa (1 - mu_i)) and its count c among the n votes is Binomial(n, theta); without a concentration
    kappa, theta is mu_i itself. With F the distribution function of c, the count covers the interval [F(c - 1), F(c)],
    and

        coverage = |[F(c - 1), F(c)] intersected with [(1 - level) / 2, (1 + level) / 2]| / (F(c) - F(c - 1)):

    1 for a count well inside, 0 for one outside, a fraction for one on the edge. If the votes follow the model, the
    mean is exactly `level` for every n; plain intervals of counts cover too much, by far for few votes. A count that
    the model holds impossible has coverage 0.

    Source: counts as parts of the unit interval are those of the non-randomised probability integral transform
    (Czado, Gneiting and Held 2009, "Predictive model assessment for count data"); coverage by their overlap is ours.

    Args:
        predicted: mu, `(items, labels)`.
        votes: `(items, labels)`; counts that are not integers are rounded, n = round(sum c), at least 1, and
            round(n c / sum c).
        level: of the interval, between 0 and 1.
        concentration: kappa, above 0, one number or `(items,)`: how many votes the prediction is worth.

    Returns:
        `(items, labels)`, from 0 to 1.

    Raises:
        PluralignError: `level` or a concentration is out of range or has another shape.

    Examples:
        Of ten votes three were expected, three or eight observed; a model with low concentration allows for eight.

        >>> mu, votes = np.array([[0.3, 0.7]] * 2), np.array([[3, 7], [8, 2]])
        >>> count_coverage(mu, votes)[:, 0].tolist()
        [1.0, 0.0]
        >>> count_coverage(mu, votes, concentration=2.0)[:, 0].round(3).tolist()
        [1.0, 1.0]
    """
    if not 0 < level < 1:
        raise PluralignError(f"coverage_level is {level}, expected a number between 0 and 1")
    given = np.asarray(votes, dtype=np.float64)
    total = given.sum(axis=1, keepdims=True)
    n = np.maximum(np.rint(total), 1.0)
    share = np.divide(given, total, out=np.zeros_like(given), where=total > 0)
    count = np.rint(share * n).astype(np.int64)
    asked = np.broadcast_to(n, count.shape).astype(np.int64)
    below, upto = _binomial(count, asked, predicted)
    if concentration is not None:
        kappa = np.asarray(concentration, dtype=np.float64)
        if kappa.shape not in ((), (len(predicted),)):
            raise PluralignError(
                f"concentration: shape {kappa.shape}, expected one number or ({len(predicted)},), one per item"
            )
        if not (kappa > 0).all():
            raise PluralignError("concentration: expected numbers above 0")
        worth = np.broadcast_to(kappa.reshape(-1, 1), count.shape)
        spread = worth < CERTAIN
        below[spread], upto[spread] = _beta_binomial(
            count[spread], asked[spread], worth[spread] * predicted[spread], worth[spread] * (1 - predicted[spread])
        )
    low, high = (1 - level) / 2, (1 + level) / 2
    inside = np.clip(np.minimum(upto, high) - np.maximum(below, low), 0.0, None)
    mass = upto - below
    return np.clip(np.divide(inside, mass, out=np.zeros_like(mass), where=mass > 0), 0.0, 1.0)


def _binomial(count: Ints, asked: Ints, probability: Floats) -> tuple[Floats, Floats]:
    """F(c - 1) and F(c) of a binomial."""
    below = np.where(count > 0, bdtr(np.maximum(count - 1, 0), asked, probability), 0.0)
    return below, np.where(count >= asked, 1.0, bdtr(np.minimum(count, asked), asked, probability))


def _beta_binomial(count: Ints, asked: Ints, alpha: Floats, beta: Floats) -> tuple[Floats, Floats]:
    """F(c - 1) and F(c) of a beta-binomial, as sums of c + 1 terms, for all cells at once."""
    if not len(count):
        return np.zeros(0), np.zeros(0)
    a, b = np.maximum(alpha, LEAST), np.maximum(beta, LEAST)
    constant = gammaln(asked + 1.0) + gammaln(a + b) - gammaln(a) - gammaln(b) - gammaln(a + b + asked)
    ends = np.cumsum(count + 1)
    starts = ends - count - 1
    cell = np.repeat(np.arange(len(count)), count + 1)
    k = np.arange(ends[-1]) - starts[cell]
    left = asked[cell] - k
    terms = np.exp(
        constant[cell] + gammaln(k + a[cell]) + gammaln(left + b[cell]) - gammaln(k + 1.0) - gammaln(left + 1.0)
    )
    upto = np.minimum(np.add.reduceat(terms, starts), 1.0)
    return np.maximum(upto - terms[ends - 1], 0.0), upto

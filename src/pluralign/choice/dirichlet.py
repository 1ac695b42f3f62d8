"""The distribution of a crowd's votes over ordered labels, as a Dirichlet posterior per item.

With a prior q over d labels and a prior strength kappa, an item starts at a = kappa q. Votes c give the posterior
Dirichlet(a + c). Its mean mu is the training target; the marginal of each label's share is a beta distribution:

    mu_i = (a_i + c_i) / (a_0 + n)        share_i ~ Beta(a_i + c_i, a_0 - a_i + n - c_i)

with a_0 and n the sums of a and c. With d = 2 this is Beta-Bernoulli. All functions work in float64 and on any
number of items at once.

Source: "Aligning Crowd Feedback via Distributional Preference Reward Modeling", arXiv 2402.09764, for the idea: a
prior that votes update, beta distributions, and label smoothing towards the next most likely label. These formulas
are ours.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, gammaln

Floats = NDArray[np.float64]
ArrayOrTensor = TypeVar("ArrayOrTensor", bound=Any)  # this module also serves commands that do not load torch

PRIOR_FLOOR = 1e-3
"""The smallest prior share of a label: with a share of 0 a label would have no beta distribution."""

STRENGTHS = (0.05, 1000.0)
"""The smallest and the largest strength of a prior that is estimated, in votes."""

FEWEST_ITEMS = 10
"""Items with votes by two people or more that an estimate of the strength needs."""

SAME = 1e-12
"""Shares, priors and costs that differ by less count as tied: summing votes in another order changes this much."""


def prior_state(prior: ArrayLike, strength: float, floor: float = PRIOR_FLOOR) -> Floats:
    """The state before any vote: a = kappa q.

    Args:
        prior: q `(..., labels)`, at least 0. It is normalised, floored, and normalised again.
        strength: kappa, above 0: the number of votes that the prior is worth.
        floor: the smallest share of a label.

    Raises:
        ValueError: there are fewer than two labels, a number is negative or not finite, the sum is zero, or the
            strength is not above 0.

    Examples:
        >>> prior_state([3.0, 1.0], 2.0).tolist()
        [1.5, 0.5]
    """
    shares = np.asarray(prior, dtype=np.float64)
    if shares.ndim < 1 or shares.shape[-1] < 2:
        raise ValueError(f"prior: found shape {shares.shape}, expected (..., labels) with two labels or more")
    if not np.isfinite(shares).all() or (shares < 0).any() or (shares.sum(-1) <= 0).any():
        raise ValueError("prior: expected finite numbers, 0 or more, not all 0")
    if not (np.isfinite(strength) and strength > 0):
        raise ValueError(f"strength: found {strength}, expected a number above 0")
    shares = np.maximum(shares / shares.sum(-1, keepdims=True), floor)
    return np.asarray(strength * shares / shares.sum(-1, keepdims=True))


def estimated_strength(counts: ArrayLike, prior: ArrayLike | None = None) -> float | None:
    """The prior strength kappa that makes the votes most likely (empirical Bayes).

    Shares that are Dirichlet(kappa q) give votes c with the Dirichlet-multinomial likelihood

        L(kappa) = product over items of
            Gamma(kappa) / Gamma(kappa + n) product_i Gamma(kappa q_i + c_i) / Gamma(kappa q_i)

    up to a constant. A crowd that agrees on most items has a small kappa, one whose items have similar shares a
    large kappa. An item with a single vote says nothing about kappa.

    Args:
        counts: c `(items, labels)`, at least 0; fractions of votes are allowed.
        prior: q `(items, labels)` or `(labels,)`; `None` is uniform.

    Returns:
        kappa from 0.05 to 1000, or `None` if fewer than 10 items have more than one vote.

    Examples:
        >>> unanimous, divided = np.eye(2)[np.arange(40) % 2] * 6, np.full((40, 2), 3)
        >>> estimated_strength(unanimous) < 0.1, estimated_strength(divided) > 100
        (True, True)
    """
    votes = np.asarray(counts, dtype=np.float64)
    shares = np.broadcast_to(1.0 if prior is None else np.asarray(prior, dtype=np.float64), votes.shape)
    several = votes.sum(1) > 1 + SAME
    if several.sum() < FEWEST_ITEMS:
        return None
    votes, start = votes[several], prior_state(shares[several], 1.0)
    total = votes.sum(1)

    def loss(log_strength: float) -> float:
        strength = np.exp(log_strength)
        a = strength * start
        items = gammaln(strength) - gammaln(strength + total) + (gammaln(a + votes) - gammaln(a)).sum(1)
        return -float(items.sum())

    bounds = tuple(np.log(STRENGTHS))
    from scipy.optimize import minimize_scalar  # a quarter of the time of a small command

    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x))


def posterior_mean(state: ArrayLike, counts: ArrayLike = 0.0) -> Floats:
    """mu = (a + c) / (a_0 + n) of a state a and new votes c, all `(..., labels)`; fractions of votes are allowed.

    Examples:
        >>> posterior_mean([1.0, 1.0, 1.0], [7.0, 0.0, 0.0]).tolist()
        [0.8, 0.1, 0.1]
    """
    parameters = np.asarray(state, dtype=np.float64) + np.asarray(counts, dtype=np.float64)
    return np.asarray(parameters / parameters.sum(-1, keepdims=True))


def faded(state: ArrayLike, start: ArrayLike, decay: float, windows: ArrayLike = 1) -> Floats:
    """Let old votes fade at window boundaries while the prior stays: kappa q + decay^windows (a - kappa q).

    Args:
        state: a `(..., labels)`.
        start: kappa q `(..., labels)`; 0 if the state holds votes only.
        decay: the share of a vote that is left after one boundary, from 0 to 1.
        windows: the number of boundaries, whole numbers that broadcast against `(...)`.

    Raises:
        ValueError: the decay is not from 0 to 1, or a number of windows is negative.

    Examples:
        >>> faded([5.0, 1.0], [1.0, 1.0], 0.5, 2).tolist()
        [2.0, 1.0]
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"decay: found {decay}, expected a number from 0 to 1")
    boundaries = np.asarray(windows)
    if (boundaries < 0).any():
        raise ValueError("windows: expected 0 or more: votes do not fade backwards")
    prior = np.asarray(start, dtype=np.float64)
    left = np.power(float(decay), boundaries)[..., None]
    return np.asarray(prior + left * (np.asarray(state, dtype=np.float64) - prior))


def smoothed(
    distribution: ArrayLike, smoothing: float, prior: ArrayLike | None = None, cost: ArrayLike | None = None
) -> Floats:
    """Label smoothing towards the runner-up: what the top label has above 1 - eps moves to the second label.

    If several labels tie for second place, the one with the highest prior is taken, then the one with the lowest
    cost from the top label, then the first. If the top label itself is tied, it has at most 1/2 and nothing moves.

    Args:
        distribution: mu `(..., labels)`.
        smoothing: eps, at least 0 and less than 0.5.
        prior: q `(..., labels)`; `None` is uniform.
        cost: `(labels, labels)` between labels; `None` is the distance |i - j| on the scale.

    Raises:
        ValueError: the smoothing is out of range, or `cost` has the wrong shape.

    Examples:
        >>> smoothed([0.98, 0.01, 0.01], 0.05, prior=[0.2, 0.3, 0.5]).round(3).tolist()
        [0.95, 0.01, 0.04]
    """
    if not 0 <= smoothing < 0.5:
        raise ValueError(f"smoothing: found {smoothing}, expected a number from 0 to under 0.5")
    shares = np.array(distribution, dtype=np.float64)
    labels = shares.shape[-1]
    places = np.arange(labels)
    costs = abs(places[:, None] - places) if cost is None else np.asarray(cost, dtype=np.float64)
    if costs.shape != (labels, labels):
        raise ValueError(f"cost: found shape {costs.shape}, expected ({labels}, {labels}), one per pair of labels")
    flat = shares.reshape(-1, labels)
    priors = np.broadcast_to(1.0 if prior is None else np.asarray(prior, dtype=np.float64), shares.shape)
    top = flat.argmax(1)
    candidates = places != top[:, None]
    for value, sign in ((flat, 1.0), (priors.reshape(-1, labels), 1.0), (costs[top], -1.0)):
        ranked = np.where(candidates, sign * value, -np.inf)
        candidates &= ranked >= ranked.max(1, keepdims=True) - SAME
    rows = np.arange(len(flat))
    excess = np.maximum(flat[rows, top] - (1 - smoothing), 0.0)
    flat[rows, top] -= excess
    flat[rows, candidates.argmax(1)] += excess
    return flat.reshape(shares.shape)


def marginals(parameters: ArrayLike) -> tuple[Floats, Floats]:
    """The parameters of each label's beta distribution, from those of the posterior, a + c: `(..., labels)` each.

    Examples:
        >>> [side.tolist() for side in marginals([3.0, 2.0, 1.0])]
        [[3.0, 2.0, 1.0], [3.0, 4.0, 5.0]]
    """
    own = np.asarray(parameters, dtype=np.float64)
    # Summed, not subtracted from the total: next to a large a_i the difference would lose its digits.
    return own, own @ (1 - np.eye(own.shape[-1]))


def credible_interval(parameters: ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
    """Equal-tailed credible interval of each label's share, from its `marginals`: low and high, `(..., labels)` each.

    `level`, between 0 and 1, is the posterior probability of each single interval.

    Raises:
        ValueError: the level is not between 0 and 1.

    Examples:
        >>> low, high = credible_interval([8.0, 2.0])
        >>> low.round(3).tolist(), high.round(3).tolist()
        ([0.518, 0.028], [0.972, 0.482])
    """
    if not 0 < level < 1:
        raise ValueError(f"level: found {level}, expected a number between 0 and 1")
    own, others = marginals(parameters)
    return betaincinv(own, others, (1 - level) / 2), betaincinv(own, others, (1 + level) / 2)


def total_variation(p: ArrayOrTensor, q: ArrayOrTensor) -> ArrayOrTensor:
    """The share of the mass that must move between two distributions `(..., labels)`: sum_i |p_i - q_i| / 2, `(...)`.

    Both are arrays or both are tensors, and so is the result.

    Examples:
        >>> float(total_variation(np.array([0.5, 0.5, 0.0]), np.array([0.5, 0.25, 0.25])))
        0.25
    """
    return abs(p - q).sum(-1) / 2

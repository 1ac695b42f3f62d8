"""What a crowd would say, from its votes: a Dirichlet state for each item, and a sample weighted to a population.

With a prior q over d ordered labels and its strength kappa, an item begins at a = kappa q. Votes c make the
posterior Dirichlet(a + c), whose mean is the target of a model of the crowd and whose marginals are betas:

    mu_i = (a_i + c_i) / (a_0 + n)        share_i ~ Beta(a_i + c_i, a_0 - a_i + n - c_i)

with a_0 and n the sums of a and c. With d = 2 this is Beta-Bernoulli. The idea (a prior that votes update, its
betas, label smoothing towards the next label) is that of "Aligning Crowd Feedback via Distributional Preference
Reward Modeling", arXiv 2402.09764; these formulas are ours. All arrays are float64, any number of items at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv

Floats = NDArray[np.float64]

PRIOR_FLOOR = 1e-3
"""No label's prior share falls below this: a label of prior 0 would have no beta."""

SAME = 1e-12
"""Shares, priors and costs nearer than this are tied: sums of the same votes in another order differ so little."""


def prior_state(prior: ArrayLike, strength: float, floor: float = PRIOR_FLOOR) -> Floats:
    """a(0) = kappa q: the state before any vote.

    Args:
        prior: q `(..., labels)`, not negative; brought to sum 1, floored, and brought to sum 1 again.
        strength: kappa, above 0: as many votes as the prior weighs.
        floor: the smallest share of a label.

    Raises:
        ValueError: fewer than two labels, a number that is negative or not finite, a sum of zero, a strength that
            is not above 0.

    Examples:
        >>> prior_state([3.0, 1.0], 2.0).tolist()
        [1.5, 0.5]
    """
    given = np.asarray(prior, dtype=np.float64)
    if given.ndim < 1 or given.shape[-1] < 2:
        raise ValueError(f"prior: found shape {given.shape}, expected (..., labels) with two labels or more")
    if not np.isfinite(given).all() or (given < 0).any() or (given.sum(-1) <= 0).any():
        raise ValueError("prior: expected finite numbers, 0 or more, not all 0")
    if not (np.isfinite(strength) and strength > 0):
        raise ValueError(f"strength: found {strength}, expected a number above 0")
    shares = np.maximum(given / given.sum(-1, keepdims=True), floor)
    return np.asarray(strength * shares / shares.sum(-1, keepdims=True))


def posterior_mean(state: ArrayLike, counts: ArrayLike = 0.0) -> Floats:
    """mu = (a + c) / (a_0 + n): `(..., labels)`.

    Args:
        state: a `(..., labels)`.
        counts: c `(..., labels)`, votes by label since; they may be fractions of votes.

    Examples:
        >>> posterior_mean([1.0, 1.0, 1.0], [7.0, 0.0, 0.0]).tolist()
        [0.8, 0.1, 0.1]
    """
    found = np.asarray(state, dtype=np.float64) + np.asarray(counts, dtype=np.float64)
    return np.asarray(found / found.sum(-1, keepdims=True))


def faded(state: ArrayLike, start: ArrayLike, decay: float, windows: ArrayLike = 1) -> Floats:
    """a <- kappa q + decay^windows (a - kappa q): old votes fade over the boundaries of windows, the prior stays.

    Args:
        state: a `(..., labels)`.
        start: kappa q `(..., labels)`; 0 where the state holds votes alone.
        decay: what is left of a vote after one boundary, from 0 to 1.
        windows: how many boundaries, whole numbers that broadcast against `(...)`.

    Raises:
        ValueError: the decay is not from 0 to 1, or a number of windows is negative.

    Examples:
        >>> faded([5.0, 1.0], [1.0, 1.0], 0.5, 2).tolist()
        [2.0, 1.0]
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"decay: found {decay}, expected a number from 0 to 1")
    passed = np.asarray(windows)
    if (passed < 0).any():
        raise ValueError("windows: expected 0 or more: votes do not fade backwards")
    begun = np.asarray(start, dtype=np.float64)
    left = np.power(float(decay), passed)[..., None]
    return np.asarray(begun + left * (np.asarray(state, dtype=np.float64) - begun))


def smoothed(
    distribution: ArrayLike, smoothing: float, prior: ArrayLike | None = None, cost: ArrayLike | None = None
) -> Floats:
    """Label smoothing towards the runner-up: where the top label has more than 1 - eps, the excess moves there.

    Runners-up tie where nothing was voted for them; then the one with the higher prior is taken, of those the one
    nearer in cost to the top label, of those the first. A tied top label has at most 1/2 and needs no smoothing.

    Args:
        distribution: mu `(..., labels)`.
        smoothing: eps, from 0 to under 0.5.
        prior: q `(..., labels)`; `None` is uniform.
        cost: `(labels, labels)` between labels; `None` is the distance of their places |i - j|.

    Raises:
        ValueError: the smoothing is out of range, or the costs are not one per pair of labels.

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
    before = np.broadcast_to(1.0 if prior is None else np.asarray(prior, dtype=np.float64), shares.shape)
    top = flat.argmax(1)
    able = places != top[:, None]
    for value, sign in ((flat, 1.0), (before.reshape(-1, labels), 1.0), (costs[top], -1.0)):
        ranked = np.where(able, sign * value, -np.inf)
        able &= ranked >= ranked.max(1, keepdims=True) - SAME
    runner_up = able.argmax(1)
    rows = np.arange(len(flat))
    excess = np.maximum(flat[rows, top] - (1 - smoothing), 0.0)
    flat[rows, top] -= excess
    flat[rows, runner_up] += excess
    return flat.reshape(shares.shape)


def marginals(parameters: ArrayLike) -> tuple[Floats, Floats]:
    """The two parameters of each label's beta: a_i and the sum of the others', `(..., labels)` each.

    Args:
        parameters: of the posterior, a + c, `(..., labels)`.

    Examples:
        >>> [side.tolist() for side in marginals([3.0, 2.0, 1.0])]
        [[3.0, 2.0, 1.0], [3.0, 4.0, 5.0]]
    """
    found = np.asarray(parameters, dtype=np.float64)
    # The others are summed and not subtracted from the total, where a large a_i would drown them.
    return found, found @ (1 - np.eye(found.shape[-1]))


def credible_interval(parameters: ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
    """The equal-tailed credible interval of each label's share, from its beta: low and high `(..., labels)`.

    Args:
        parameters: of the posterior, a + c, `(..., labels)`.
        level: posterior probability of each interval by itself, between 0 and 1.

    Raises:
        ValueError: the level is not between 0 and 1.

    Examples:
        >>> low, high = credible_interval([8.0, 2.0])
        >>> low.round(3).tolist(), high.round(3).tolist()
        ([0.518, 0.028], [0.972, 0.482])
    """
    if not 0 < level < 1:
        raise ValueError(f"level: found {level}, expected a number between 0 and 1")
    one, others = marginals(parameters)
    return betaincinv(one, others, (1 - level) / 2), betaincinv(one, others, (1 + level) / 2)


def total_variation(one: ArrayLike, other: ArrayLike) -> Floats:
    """Half the sum of absolute differences of two distributions `(..., labels)`: the share that moved, `(...)`.

    Examples:
        >>> float(total_variation([0.5, 0.5, 0.0], [0.5, 0.25, 0.25]))
        0.25
    """
    difference = np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    return np.asarray(abs(difference).sum(-1) / 2)

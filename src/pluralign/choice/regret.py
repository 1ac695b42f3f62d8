"""Min-max regret: the mixture of policies that minimises the largest regret of any annotator type.

    R_ij = c_i (L_ii - L_ij)        min over w in the simplex of max over p of p' R w

L_ij is type i's mean utility of responses from type j's policy, c_i a priority. The adversary p may abstain (a row of
zeros).

Source: "DPO with Unobserved Preference Heterogeneity: The Necessity of Ternary Preferences", arXiv 2405.15065 and
2510.15716: the game, and `hedge`. The linear programme, and playing without the row of zeros, are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linprog

Floats = np.ndarray

_EXACT = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


@dataclass(frozen=True)
class Game:
    """A solution of the game.

    Args:
        weights: w of the mixture, `(policies,)`, on the simplex.
        adversary: p over the types, `(types,)`, on the simplex: the types that decide the mixture.
        value: max over types of R w, in units of R: the largest regret of a type under the mixture.
    """

    weights: Floats
    adversary: Floats
    value: float

    @property
    def value_with_abstention(self) -> float:
        """The value if the adversary may abstain: never negative.

        min over w of max(0, max(R w)) = max(0, min over w of max(R w)), so the row of zeros only changes the value.
        Where it binds, all mixtures with a negative value would be equally good; `weights` always solve the game
        without it.
        """
        return max(self.value, 0.0)


def regret_matrix(utility: ArrayLike, priority: ArrayLike | None = None) -> Floats:
    """R_ij = c_i (L_ii - L_ij).

    Args:
        utility: L `(..., types, policies)`, in nats; the first policies are the types' own, in their order.
        priority: c `(types,)`, at least 0; `None` is 1 for all.

    Raises:
        ValueError: shapes do not fit, a number is not finite, or a priority is negative.

    Examples:
        >>> regret_matrix([[2.0, -1.0], [0.0, 4.0]], priority=[1.0, 0.5])
        array([[0., 3.],
               [2., 0.]])
    """
    table = _finite(utility, "utility")
    types = table.shape[-2]
    if table.shape[-1] < types:
        raise ValueError(f"utility: found {table.shape}, expected the {types} types' own policies first")
    own = np.diagonal(table, axis1=-2, axis2=-1)[..., None]
    return priorities(types, priority)[:, None] * (own - table)


def priorities(types: int, priority: ArrayLike | None = None) -> Floats:
    """Priorities c `(types,)`, 1 by default; an error unless there is one finite number of at least 0 per type."""
    values = np.ones(types) if priority is None else np.asarray(priority, dtype=np.float64)
    if values.shape != (types,) or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"priority: found {values.tolist()}, expected {types} numbers, 0 or more, one per type")
    return values


def relative_priorities(utility: ArrayLike, priority: ArrayLike | None = None) -> Floats:
    """Priorities c_i / L_ii `(types,)`, with which a regret is a share of what a type has under its own policy.

    L_ii = KL(pi_i || pi_ref), so in nats the type that was tuned farthest from the reference dominates the game. A type
    that gains nothing from its own policy, L_ii <= 0, has nothing to lose and gets 0.

    Args:
        utility: L `(types, policies)`, in nats; the first policies are the types' own, in their order.
        priority: c `(types,)`; `None` is 1 for all.

    Examples:
        >>> relative_priorities([[2.0, -1.0], [0.0, 4.0]])
        array([0.5 , 0.25])
    """
    table = _matrix(utility, "utility")
    own = np.diagonal(table)[: len(table)]
    return np.where(own > 0, priorities(len(table), priority) / np.where(own > 0, own, 1.0), 0.0)


def percentiles(utilities: ArrayLike) -> Floats:
    """The share of a prompt's other candidates that a type likes less than a candidate, ties half.

    Args:
        utilities: u_k of the candidates `(types, ..., candidates)`, on any scale of each type's own.

    Returns:
        The same shape, from 0 to 1; 0.5 for a single candidate.

    Examples:
        >>> percentiles([[3.0, 1.0, 1.0]])
        array([[1.  , 0.25, 0.25]])
    """
    values = _finite(utilities, "utilities")
    others = values.shape[-1] - 1
    if not others:
        return np.full(values.shape, 0.5)
    above = values[..., :, None] - values[..., None, :]
    return np.asarray(((above > 0).sum(-1) + ((above == 0).sum(-1) - 1) / 2) / others)


def standings(utilities: ArrayLike, yardstick: ArrayLike) -> Floats:
    """The share of some other responses that a type likes less than a response, ties half: its win rate against them.

    Args:
        utilities: u_k of the responses `(types, ...)`.
        yardstick: u_k of the others, on the same scale `(types, others)`.

    Examples:
        >>> standings([[3.0, 1.0, 0.0]], [[0.0, 1.0, 2.0, 2.5]])
        array([[1.   , 0.375, 0.125]])
    """
    values, others = _finite(utilities, "utilities"), np.sort(_finite(yardstick, "yardstick"), -1)
    below = [
        np.searchsorted(known, own, side)
        for side in ("left", "right")
        for own, known in zip(values, others, strict=True)
    ]
    types = len(values)
    return np.asarray((np.stack(below[:types]) + np.stack(below[types:])) / (2 * others.shape[-1]))


def best_of_types(percentile: ArrayLike, weights: ArrayLike | None = None) -> np.ndarray:
    """Which candidate of each prompt to give to all types: `(...)`, the first of equally good ones.

    Args:
        percentile: from `percentiles` or `standings`, `(types, ..., candidates)`.
        weights: p `(types,)`: the candidate with the largest sum_k p_k F_k. `None`: the one whose smallest percentile
            is largest.

    Examples:
        >>> table = percentiles([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
        >>> int(best_of_types(table)), int(best_of_types(table, [0.9, 0.1]))
        (1, 0)
    """
    table = np.asarray(percentile, dtype=np.float64)
    score = table.min(0) if weights is None else np.tensordot(np.asarray(weights, dtype=np.float64), table, 1)
    return np.asarray(score.argmax(-1))


def best_of_weights(percentile: ArrayLike, priority: ArrayLike | None = None, steps: int = 500) -> Floats:
    """Weights p `(types,)` with which `best_of_types` serves the worst-off type best, averaged over prompts.

        max over choices of min over types of W_k,   W_k = mean over prompts of F_k(chosen candidate)

    By duality the choice maximises sum_k p_k F_k prompt by prompt, with p the adversary's weights in the game. They
    come from multiplicative weights against the best choice (Freund and Schapire 1999). With priorities c the
    adversary's gain is c_k (1 - W_k). The smallest percentile prompt by prompt (`weights=None` in `best_of_types`)
    protects every type in every single prompt, at the cost of a smaller mean.

    Args:
        percentile: from `percentiles` or `standings`, `(types, prompts, candidates)`.
        priority: c `(types,)`; `None` is 1 for all.
        steps: of the game.

    Returns:
        p_k c_k, scaled to sum to 1.

    Examples:
        Each candidate is one type's favourite; the second type's first choice costs the first type less.

        >>> table = np.array([[[1.0, 0.6, 0.0]], [[0.0, 0.5, 1.0]]])
        >>> weights = best_of_weights(table)
        >>> int(best_of_types(table, weights)[0])
        1
    """
    table = np.asarray(percentile, dtype=np.float64)
    if table.ndim != 3 or not table.size:
        raise ValueError(f"percentile: found {table.shape}, expected (types, prompts, candidates)")
    types = len(table)
    cost = priorities(types, priority)
    scale = float(cost.max()) or 1.0
    gain, total = np.zeros(types), np.zeros(types)
    rate = np.sqrt(8 * np.log(max(types, 2)) / steps)
    for _ in range(steps):
        adversary = _softmax(rate * gain)
        total += adversary
        chosen = best_of_types(table, adversary * cost)
        served = np.take_along_axis(table, chosen[None, :, None], 2).mean((1, 2))
        gain += cost * (1 - served) / scale
    weights = total * cost
    return np.asarray(weights / weights.sum()) if weights.any() else np.full(types, 1 / types)


def min_max_regret(regret: ArrayLike) -> Game:
    """The weights that minimise the largest regret, by a linear programme (HiGHS).

        min v  such that  R w <= v, w >= 0, sum w = 1

    Among several solutions one with the smallest sum of regrets is chosen, so that no type has regret that helps no
    other type. A matrix of zeros gives equal weights.

    Args:
        regret: R `(types, policies)`.

    Raises:
        ValueError: the matrix is empty or has numbers that are not finite.

    Examples:
        Type 1 has twice as much to lose and gets twice the weight.

        >>> game = min_max_regret([[0.0, 2.0], [1.0, 0.0]])
        >>> game.weights.round(6), game.adversary.round(6), round(game.value, 6)
        (array([0.666667, 0.333333]), array([0.333333, 0.666667]), 0.666667)
    """
    table = _matrix(regret)
    scaled, scale = _scaled(table)
    if not scale:
        return _even(table)
    weights, adversary, value = _solved(scaled)
    # The first solution may give a type more regret than necessary: at the same value, minimise the sum.
    simplex = {"A_eq": np.ones((1, scaled.shape[1])), "b_eq": [1.0]}
    better = linprog(scaled.sum(0), scaled, np.full(len(scaled), value), **simplex, method="highs-ds", options=_EXACT)
    if better.success:
        chosen = _on_simplex(better.x)
        if (scaled @ chosen).max() <= value + 1e-9 and scaled.sum(0) @ chosen < scaled.sum(0) @ weights - 1e-9:
            weights = chosen
    return Game(weights, adversary, float((table @ weights).max()))


def game_value(regret: ArrayLike) -> float:
    """The value of `min_max_regret` alone, without abstention; cheaper where there are many matrices.

    Examples:
        >>> round(game_value([[0.0, 2.0], [1.0, 0.0]]), 6)
        0.666667
    """
    scaled, scale = _scaled(_matrix(regret))
    return scale * _solved(scaled)[2] if scale else 0.0


def hedge(regret: ArrayLike, steps: int = 100_000) -> Game:
    """The same game by optimistic Hedge with step 5 / sqrt(T), as in the paper: both players' average strategies.

        w_(t+1)  proportional to  w_t exp(-eta (2 R' p_t - R' p_(t-1))),   p likewise with R w and the other sign

    Raises:
        ValueError: as in `min_max_regret`, or `steps`, T, is less than 1.

    Examples:
        >>> round(hedge([[0.0, 2.0], [1.0, 0.0]], steps=10_000).value, 2)
        0.67
    """
    if steps < 1:
        raise ValueError(f"steps: found {steps}, expected 1 or more")
    table = _matrix(regret)
    # Ours: the largest entry is scaled to 10, because a step of fixed size cycles if regrets are large. Step times
    # entry is at most 1/4, which bounds the players' sums of regrets (arXiv 1507.00407). Also ours: no row of zeros,
    # which only changes the value (`Game.value_with_abstention`).
    scaled, scale = _scaled(table)
    if not scale:
        return _even(table)
    types, policies = scaled.shape
    step = min(10 * 5 / np.sqrt(steps), 0.25)
    loss, gain = np.zeros(policies), np.zeros(types)
    last_loss, last_gain = loss, gain
    total_weights, total_adversary = np.zeros(policies), np.zeros(types)
    for _ in range(steps):
        weights = _softmax(-step * (loss + last_loss))
        adversary = _softmax(step * (gain + last_gain))
        last_loss, last_gain = adversary @ scaled, scaled @ weights
        loss = loss + last_loss
        gain = gain + last_gain
        total_weights += weights
        total_adversary += adversary
    weights = total_weights / steps
    return Game(weights, total_adversary / steps, float((table @ weights).max()))


def utilitarian(utility: ArrayLike, shares: ArrayLike) -> Floats:
    """Weights `(policies,)` that maximise the population's mean utility, sum_i eta_i sum_j L_ij w_j.

    The best policy has all the weight; equally good policies share it.

    Args:
        utility: L `(types, policies)`.
        shares: eta `(types,)`, multiplied by the priorities if there are any.

    Raises:
        ValueError: shapes do not fit.

    Examples:
        >>> utilitarian([[2.0, -1.0], [0.0, 4.0]], [0.9, 0.1])
        array([1., 0.])
    """
    table, eta = _matrix(utility, "utility"), np.asarray(shares, dtype=np.float64)
    if eta.shape != table.shape[:1]:
        raise ValueError(f"shares: found {eta.shape}, expected {table.shape[:1]}, one per type")
    average = eta @ table
    best = average >= average.max() - 1e-12 * max(np.abs(eta) @ np.abs(table).max(1), 1e-300)
    return best / best.sum()


def max_min_reward(utility: ArrayLike) -> Floats:
    """Weights `(policies,)` that maximise the smallest utility, min over i of sum_j L_ij w_j, L `(types, policies)`.

    This compares what types get, not what they could get: types whose own policy is close to the reference decide.

    Examples:
        >>> max_min_reward([[2.0, 0.0], [0.0, 1.0]]).round(6)
        array([0.333333, 0.666667])
    """
    return min_max_regret(-_matrix(utility, "utility")).weights


def _solved(scaled: Floats) -> tuple[Floats, Floats, float]:
    """Weights, adversary and value of a matrix scaled to 1."""
    types, policies = scaled.shape
    solution = linprog(
        np.r_[np.zeros(policies), 1.0],
        A_ub=np.c_[scaled, -np.ones(types)],
        b_ub=np.zeros(types),
        A_eq=np.r_[np.ones(policies), 0.0][None],
        b_eq=[1.0],
        bounds=[(0, None)] * policies + [(None, None)],
        method="highs-ds",
        options=_EXACT,
    )
    if not solution.success:
        raise ArithmeticError(f"the regret game could not be solved: {solution.message}")
    weights = _on_simplex(solution.x[:policies])
    return weights, _on_simplex(-solution.ineqlin.marginals), float((scaled @ weights).max())


def _on_simplex(values: Floats) -> Floats:
    values = np.maximum(values, 0.0)
    return values / values.sum()


def _softmax(values: Floats) -> Floats:
    values = np.exp(values - values.max())
    return values / values.sum()


def _scaled(table: Floats) -> tuple[Floats, float]:
    scale = float(np.abs(table).max())
    return (table / scale if scale else table), scale


def _even(table: Floats) -> Game:
    types, policies = table.shape
    return Game(np.full(policies, 1 / policies), np.full(types, 1 / types), 0.0)


def _matrix(values: ArrayLike, name: str = "regret") -> Floats:
    table = _finite(values, name)
    if table.ndim != 2:
        raise ValueError(f"{name}: found {table.shape}, expected (types, policies)")
    return table


def _finite(values: ArrayLike, name: str) -> Floats:
    table = np.asarray(values, dtype=np.float64)
    if table.ndim < 2 or not table.size or not np.isfinite(table).all():
        raise ValueError(f"{name}: expected finite numbers (types, policies), found an array of shape {table.shape}")
    return table

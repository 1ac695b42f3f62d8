"""Utilities and regrets of annotator types under policies from sampled responses: errors and intervals over prompts.

    L_ij = mean over prompts of m_ij(x),   m_ij(x) = mean over responses y ~ pi_j of log pi_i(y|x) - log pi_ref(y|x)

Responses to one prompt are not independent, so prompts are resampled. A regret is a difference on the same prompts, and
its error is that of the differences; the utility of a mixture of policies is the weighted mean of their columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pluralign.choice.regret import game_value, priorities
from pluralign.core.errors import PluralignError
from pluralign.evaluation.intervals import Resampling

Floats = np.ndarray


@dataclass(frozen=True)
class Estimate:
    """Numbers with percentile intervals over prompts; the ends are nan if there is one prompt."""

    value: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Regrets:
    """Utility and regret of each type under each policy, in nats per response; errors are nan if there is one prompt.

    Args:
        utility: L `(types, policies)`.
        utility_error: its standard errors.
        regret: R `(types, policies)`, priorities included.
        regret_error: its standard errors, paired over prompts.
        largest: the largest regret of each policy `(policies,)`. The maximum of noisy numbers is biased upwards, more
            so in a replicate than in the data: its interval measures spread.
    """

    utility: Floats
    utility_error: Floats
    regret: Floats
    regret_error: Floats
    largest: Estimate


def with_mixtures(values: ArrayLike, weights: ArrayLike) -> Floats:
    """Append the columns of mixtures to those of the policies: a mixture's mean is the weighted mean of its parts.

    Args:
        values: `(types, policies, prompts)`; the result is `(types, policies + mixtures, prompts)`.
        weights: `(mixtures, K)` over the first K policies.

    Examples:
        >>> with_mixtures(np.array([[[1.0], [3.0]]]), [[0.5, 0.5]])[0, :, 0].tolist()
        [1.0, 3.0, 2.0]
    """
    table, shares = _table(values), np.asarray(weights, dtype=np.float64)
    return np.concatenate([table, np.einsum("mk,tkp->tmp", shares, table[:, : shares.shape[1]])], axis=1)


def regret_table(
    log_ratios: ArrayLike,
    priority: ArrayLike | None = None,
    *,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Regrets:
    """Utilities, regrets and each policy's largest regret.

    Args:
        log_ratios: m, log pi_i - log pi_ref of responses of policy j, averaged within each prompt, in nats,
            `(types, policies, prompts)`; the first policies are the types' own, in their order.
        priority: c `(types,)`; `None` is 1 for all.
        replicates, level, seed: as in `pluralign.evaluation.intervals.Resampling`, over prompts.

    Raises:
        PluralignError: the shape does not fit or a number is not finite.
        ValueError: a priority is negative, or there is not one per type.

    Examples:
        Two prompts on which type 1 loses 1 and 3 nats under the policy of type 2.

        >>> ratios = np.array([[[2.0, 4.0], [1.0, 1.0]], [[0.0, 0.0], [1.0, 1.0]]])
        >>> table = regret_table(ratios, replicates=100)
        >>> table.regret.tolist(), table.regret_error.tolist()
        ([[0.0, 2.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]])
    """
    table = _table(log_ratios)
    differences = regrets_by_prompt(table, priority)
    utility = table.mean(-1)
    largest = largest_losses(differences, replicates=replicates, level=level, seed=seed)
    return Regrets(utility, _errors(table), differences.mean(-1), _errors(differences), largest)


def largest_losses(losses: ArrayLike, *, replicates: int = 1000, level: float = 0.95, seed: int = 0) -> Estimate:
    """The largest mean loss over types of each policy, with its interval: `(policies,)`.

    Args:
        losses: of each type under each policy `(types, policies, prompts)`: regrets, or one minus win rates.
        replicates, level, seed: as in `pluralign.evaluation.intervals.Resampling`, over prompts.

    Examples:
        >>> largest_losses(np.array([[[1.0, 2.0]], [[0.0, 1.0]]]), replicates=10).value
        array([1.5])
    """
    table = _table(losses)

    def largest(weights: Floats) -> Floats:
        return np.asarray(_weighted_means(table, weights).max(-2))

    ends = Resampling(np.arange(table.shape[-1]), replicates, level, seed).interval(largest)
    return _estimate(table.mean(-1).max(0), ends)


def game_interval(
    losses: ArrayLike, *, replicates: int = 200, level: float = 0.95, seed: int = 0
) -> tuple[float, float] | None:
    """Interval of the game's value without abstention; `None` with fewer than two prompts.

    Every replicate solves the game of the types' own policies again. Arguments as in `largest_losses`; the first
    policies are the types' own.

    Examples:
        >>> losses = np.array([[[0.0, 0.0], [2.0, 2.0]], [[2.0, 2.0], [0.0, 0.0]]])
        >>> game_interval(losses, replicates=3)
        (1.0, 1.0)
    """
    table = _table(losses)
    table = table[:, : len(table)]

    def value(weights: Floats) -> Floats:
        return np.array([game_value(means_of) for means_of in _weighted_means(table, weights)])

    ends = Resampling(np.arange(table.shape[-1]), replicates, level, seed).interval(value)
    return None if ends is None else (float(ends[0]), float(ends[1]))


def regrets_by_prompt(log_ratios: ArrayLike, priority: ArrayLike | None = None) -> Floats:
    """Regrets c_i (m_ii - m_ij) prompt by prompt, `(types, policies, prompts)`; arguments as in `regret_table`."""
    table = _table(log_ratios)
    types = len(table)
    if table.shape[1] < types:
        raise PluralignError(f"log_ratios: found {table.shape}, expected the {types} types' own policies first")
    own = table[np.arange(types), np.arange(types)][:, None]
    return np.asarray(priorities(types, priority)[:, None, None] * (own - table))


def preferred(first: ArrayLike, second: ArrayLike) -> Floats:
    """How often a response of the first policy has the higher utility, ties half: `(..., prompts)`.

    The mean over prompts is `pluralign.evaluation.policies.win_rate.win_rate`. The shares of each prompt are kept
    because those of a mixture are the weighted means of its parts'.

    Args:
        first: utilities of the first policy's responses, `(..., prompts, responses)`.
        second: of the second policy's responses to the same prompts, `(..., prompts, other responses)`.

    Examples:
        >>> preferred([[1.0, 3.0], [0.0, 0.0]], [[2.0], [0.0]]).tolist()
        [0.5, 0.5]
    """
    gaps = np.asarray(first, dtype=float)[..., :, None] - np.asarray(second, dtype=float)[..., None, :]
    return np.asarray(((gaps > 0) + (gaps == 0) / 2).mean((-1, -2)))


def means(values: ArrayLike, *, replicates: int = 1000, level: float = 0.95, seed: int = 0) -> Estimate:
    """Means over prompts of values `(types, policies, prompts)`, with their intervals.

    Examples:
        >>> means(np.full((1, 1, 4), 0.5), replicates=10).low
        array([[0.5]])
    """
    table = _table(values)
    resampling = Resampling(np.arange(table.shape[-1]), replicates, level, seed)
    return _estimate(table.mean(-1), resampling.interval(lambda weights: _weighted_means(table, weights)))


def _weighted_means(table: Floats, weights: Floats) -> Floats:
    """Weighted means over prompts: `(rows, types, policies)`."""
    sums = weights @ table.reshape(-1, table.shape[-1]).T
    return np.asarray(sums.reshape(-1, *table.shape[:-1]) / table.shape[-1])


def _errors(table: Floats) -> Floats:
    """Standard errors of means over prompts."""
    prompts = table.shape[-1]
    if prompts < 2:
        return np.full(table.shape[:-1], np.nan)
    return np.asarray(table.std(-1, ddof=1) / np.sqrt(prompts))


def _estimate(value: Floats, ends: tuple[Floats, Floats] | None) -> Estimate:
    """A value and its interval, nan without one."""
    return Estimate(value, *(ends or (np.full(value.shape, np.nan),) * 2))


def _table(values: ArrayLike) -> Floats:
    """Finite numbers `(types, policies, prompts)`, or an error."""
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 3 or not table.size:
        raise PluralignError(f"log_ratios: found {table.shape}, expected (types, policies, prompts)")
    if not np.isfinite(table).all():
        raise PluralignError("log_ratios: expected finite numbers, found others")
    return table

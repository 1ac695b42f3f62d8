"""Rank correlation of rewards with single rankings, and with the crowd's win shares."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from pluralign.evaluation.pairs import (
    UNRANKED,
    Floats,
    Ints,
    checked_rankings,
    judgment_blocks,
    rank_keys,
    unique_responses,
)

# Fewer responses have too few orders for a correlation to say anything.
FEWEST_RESPONSES = 3


def kendall_tau(rewards: ArrayLike, ranks: ArrayLike, offsets: ArrayLike, weight: ArrayLike) -> float | None:
    """Mean over judgments of Kendall's tau-b between rewards and ranks.

    tau_b = (C - D) / sqrt(N_u N_r): concordant minus discordant pairs, divided by the geometric mean of the numbers of
    pairs not tied in reward and not tied in rank. Responses that were not ranked are tied at the bottom. The mean is
    weighted by the judgments' weights and covers judgments with at least three ranked responses in which neither side
    is constant.

    Arguments and errors as in `pluralign.evaluation.pairs.pairs_of`.

    Returns:
        a number in [-1, 1], 1 when every reward follows its ranking; None when no judgment qualifies.

    Examples:
        >>> round(kendall_tau([3.0, 1.0, 2.0], [1, 2, 3], [0, 3], [1.0]), 3)
        0.333
    """
    no_prompt = np.zeros(np.size(weight), dtype=np.int64)
    reward, rank, place, _, reliability = checked_rankings(rewards, ranks, offsets, no_prompt, weight)
    key = rank_keys(rank)
    weighted, total = 0.0, 0.0
    for block, positions in judgment_blocks(place):
        judged = (rank[positions] > 0).sum(axis=1) >= FEWEST_RESPONSES
        block, positions = block[judged], positions[judged]
        first, second = np.triu_indices(positions.shape[1], k=1)
        values, keys = reward[positions], key[positions]
        by_reward = np.sign(values[:, first] - values[:, second])
        by_rank = np.sign(keys[:, second] - keys[:, first])
        untied = np.count_nonzero(by_reward, axis=1) * np.count_nonzero(by_rank, axis=1)
        defined = untied > 0
        tau = (by_reward * by_rank).sum(axis=1)[defined] / np.sqrt(untied[defined])
        weighted += float(reliability[block][defined] @ tau)
        total += float(reliability[block][defined].sum())
    return weighted / total if total > 0 else None


def crowd_spearman(
    rewards: ArrayLike,
    ranks: ArrayLike,
    offsets: ArrayLike,
    prompt: ArrayLike,
    weight: ArrayLike,
    response: ArrayLike,
) -> float | None:
    """Mean over prompts of Spearman's correlation between rewards and the crowd's win shares.

    The win share of a response is (wins + ties / 2) / comparisons over all judgments of its prompt, each comparison
    with its judgment's weight. Each prompt with at least three compared responses counts once, unless its rewards or
    its win shares are constant.

    Args:
        rewards, ranks, offsets, prompt, weight: as in `pluralign.evaluation.pairs.pairs_of`.
        response: id of the unique response at each position, int `(total,)`; ids count within a prompt.

    Returns:
        a number in [-1, 1]; None when no prompt qualifies.

    Raises:
        PluralignError: as in `pairs_of`, or one response of a prompt has two rewards.

    Examples:
        Two annotators agree on the worst response and disagree on the best; the rewards follow the first.

        >>> ranks, response = [1, 2, 3, 2, 1, 3], [0, 1, 2, 0, 1, 2]
        >>> round(crowd_spearman([2.0, 1.0, 0.0] * 2, ranks, [0, 3, 6], [5, 5], [1.0, 1.0], response), 3)
        0.866
    """
    reward, rank, place, cluster, reliability = checked_rankings(rewards, ranks, offsets, prompt, weight)
    judgment = np.repeat(np.arange(len(place) - 1), np.diff(place))
    at = cluster[judgment]
    item, first = unique_responses(response, reward, at)
    key = rank_keys(rank)
    better, same, shown = standing(judgment, key)
    ranked = key != UNRANKED
    points = np.where(ranked, shown - better - same + (same - 1) / 2, 0.0)
    comparisons = np.where(ranked, shown - 1, better)
    won = np.bincount(item, weights=reliability[judgment] * points, minlength=len(first))
    compared = np.bincount(item, weights=reliability[judgment] * comparisons, minlength=len(first))
    seen = compared > 0
    # Rounded, so that equal shares stay tied whatever the order of summation.
    share = np.round(won[seen] / compared[seen], 12)
    rho = spearman_within(at[first][seen], reward[first][seen], share)
    return float(rho.mean()) if len(rho) else None


def spearman_within(group: Ints, left: Floats, right: Floats) -> Floats:
    """Spearman's correlation in each group of at least three elements in which neither side is constant.

    It is the Pearson correlation of the midranks (ties share the mean of their ranks), `(qualifying groups,)` in the
    order of the group numbers.
    """
    code = np.unique(group, return_inverse=True)[1]
    centred: list[Floats] = []
    for side in (left, right):
        lower, same, size = standing(code, side)
        # Midranks of n elements have mean (n + 1) / 2, with ties or without.
        centred.append(lower + (same + 1) / 2 - (size + 1) / 2)
    sums = [np.bincount(code, weights=a * b) for a, b in ((centred[0],) * 2, (centred[1],) * 2, centred)]
    # Half-integers add without rounding, so a constant side gives a variance of exactly 0.
    kept = (np.bincount(code) >= FEWEST_RESPONSES) & (sums[0] > 0) & (sums[1] > 0)
    return sums[2][kept] / np.sqrt(sums[0][kept] * sums[1][kept])


def standing(group: Ints, value: Floats | Ints) -> tuple[Ints, Ints, Ints]:
    """For each value `(elements,)`: how many of its group are smaller, how many are equal to it, the group's size."""
    order = np.lexsort((value, group))
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(group[order]) != 0) | (value[order][1:] != value[order][:-1])
    run = np.empty(len(order), dtype=np.int64)
    run[order] = np.cumsum(new) - 1
    sizes = np.bincount(group)
    group_start = np.cumsum(sizes) - sizes
    return np.flatnonzero(new)[run] - group_start[group], np.bincount(run)[run], sizes[group]

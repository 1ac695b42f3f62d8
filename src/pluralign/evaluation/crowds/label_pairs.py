"""Votes on single responses as comparisons: which of two responses gets the better label in a random pair of votes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from pluralign.core.errors import PluralignError
from pluralign.evaluation.pairs import Pairs


def pairs_of_votes(rewards: ArrayLike, counts: ArrayLike, label_rewards: ArrayLike, prompt: ArrayLike) -> Pairs:
    """The strict pairs implied by votes on responses to the same prompt, with their reward margins.

    Of two responses a and b to a prompt, with one random vote on each, a wins with the share

        w(a > b) = sum over labels i, j with R_i > R_j of (share of i in a) (share of j in b)

    and loses with w(b > a); votes of equal reward have no winner. Two responses with n_a and n_b votes count as
    min(n_a, n_b) comparisons, and among k responses each pair counts 1 / (k - 1) of that, so that the influence of a
    vote does not grow with the number of responses.

    Args:
        rewards: a model's reward of each response, `(responses,)`.
        counts: votes by label, at least 0, `(responses, labels)`.
        label_rewards: R, `(labels,)`.
        prompt: of each response, int `(responses,)`.

    Returns:
        Two pairs for two responses: each as winner, weighted by its share. `judgment` numbers the pairs of responses.

    Raises:
        PluralignError: a shape does not fit, or a count or reward is out of range.

    Examples:
        Three of four annotators call the first response good, one of four the second.

        >>> pairs = pairs_of_votes([2.0, 0.5], [[1, 3], [3, 1]], [0.0, 1.0], [0, 0])
        >>> pairs.margin.tolist(), pairs.weight.tolist(), pairs.tied
        ([1.5, -1.5], [2.25, 0.25], 0)
    """
    reward = np.asarray(rewards, dtype=np.float64)
    votes = np.asarray(counts, dtype=np.float64)
    scale = np.asarray(label_rewards, dtype=np.float64)
    cluster = np.asarray(prompt, dtype=np.int64)
    if votes.shape != (len(reward), len(scale)) or cluster.shape != reward.shape:
        raise PluralignError(
            f"counts: shape {votes.shape} for {len(reward)} rewards, {len(scale)} labels and {len(cluster)} "
            "prompts, expected (responses, labels)"
        )
    if not (np.isfinite(votes).all() and (votes >= 0).all() and np.isfinite(reward).all()):
        raise PluralignError("counts, rewards: expected finite numbers, and counts of at least 0")
    total = votes.sum(1)
    voted = np.flatnonzero(total > 0)
    voted = voted[np.argsort(cluster[voted], kind="stable")]
    starts = np.flatnonzero(np.diff(cluster[voted], prepend=-1))
    better = (scale[:, None] > scale).astype(np.float64)
    firsts, seconds, sizes = [], [], []
    for group in np.split(voted, starts[1:]):
        first, second = np.triu_indices(len(group), k=1)
        firsts.append(group[first])
        seconds.append(group[second])
        sizes.append(np.minimum(total[group[first]], total[group[second]]) / max(len(group) - 1, 1))
    first, second = (np.concatenate(part).astype(np.int64) for part in (firsts, seconds))
    size = np.concatenate(sizes)
    share = votes / np.maximum(total, 1e-300)[:, None]
    orders = ((first, second), (second, first))
    wins = np.stack([np.einsum("pi,ij,pj->p", share[a], better, share[b]) * size for a, b in orders], 1)
    margin = (reward[first] - reward[second])[:, None] * np.array([1.0, -1.0])
    strict = wins > 0
    owner = np.broadcast_to(np.arange(len(first))[:, None], strict.shape)
    return Pairs(
        margin=margin[strict],
        judgment=owner[strict],
        weight=wins[strict],
        prompt=cluster[first][owner[strict]],
        judgments=len(first),
        tied=0,
        undecided=int((~strict.any(1)).sum()),
    )

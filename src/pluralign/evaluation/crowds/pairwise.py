"""Pairwise calibration of predicted label distributions: does a model split pairs of responses as the crowd does?"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from pluralign.evaluation.intervals import Resampling

LARGEST_BLOCK = 2**22
"""Pairs of a prompt's responses that are compared; of larger prompts, the first responses are."""


def pairwise_calibration(
    predicted: ArrayLike,
    votes: ArrayLike,
    rewards: ArrayLike,
    prompt: ArrayLike,
    *,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """Squared error of the share that rates one response higher than another to the same prompt.

    With a and b the shares of the labels of two responses, the share of the pairs of votes that rate the first one
    higher, ties counted half, is

        s = (1 + sum_ij sgn(R_i - R_j) a_i b_j) / 2

    and p is the same of the predictions. From n_a and n_b votes, s has about the variance

        v = (sum_i a_i (h_i - d)^2 / (n_a - 1) + sum_j b_j (g_j - d)^2 / (n_b - 1)) / 4,

    where d = 2 s - 1 and h_i, g_j are the expected signs given one of the two votes. The result, the mean over pairs of
    (p - s)^2 - v, estimates the pairwise calibration error (arXiv 2506.06298) against the whole crowd, and chance can
    make it negative.

    Args:
        predicted: mu `(items, labels)`.
        votes: counts `(items, labels)`; only items with two votes or more take part.
        rewards: of the labels, `(labels,)`.
        prompt: of each item, int `(items,)`; the clusters of the interval.
        replicates, level, seed: as in `pluralign.evaluation.intervals.Resampling`.

    Returns:
        `pairwise_pairs`, `pairwise_calibration` with its interval if there are two prompts, and `pairwise_noise`, the
        mean of v; empty if no prompt has two such items.

    Examples:
        >>> counts = [[60, 40], [40, 60]]
        >>> found = pairwise_calibration([[0.6, 0.4], [0.4, 0.6]], counts, [1.0, 0.0], [0, 0], replicates=0)
        >>> {name: round(value, 4) for name, value in found.items()}
        {'pairwise_pairs': 1, 'pairwise_calibration': -0.0012, 'pairwise_noise': 0.0012}
    """
    mu, counts = np.asarray(predicted, dtype=np.float64), np.asarray(votes, dtype=np.float64)
    worth, cluster = np.asarray(rewards, dtype=np.float64), np.asarray(prompt, dtype=np.int64)
    total = counts.sum(1)
    kept = np.flatnonzero(total > 1)
    shares = counts / np.maximum(total, 1)[:, None]
    sign = np.sign(worth[:, None] - worth)
    firsts, seconds = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    order = kept[np.argsort(cluster[kept], kind="stable")]
    for group in np.split(order, np.flatnonzero(np.diff(cluster[order])) + 1):
        first, second = np.triu_indices(min(len(group), int(np.sqrt(2 * LARGEST_BLOCK))), k=1)
        firsts.append(group[first])
        seconds.append(group[second])
    one, two = np.concatenate(firsts), np.concatenate(seconds)
    if not len(one):
        return {}

    def ahead(given: np.ndarray) -> np.ndarray:
        return np.asarray(((given[one] @ sign) * given[two]).sum(1))

    d = ahead(shares)
    spread = [
        (shares[own] * (side - d[:, None]) ** 2).sum(1) / (total[own] - 1)
        for own, side in ((one, shares[two] @ sign.T), (two, shares[one] @ sign))
    ]
    noise = (spread[0] + spread[1]) / 4
    square = (ahead(mu) - d) ** 2 / 4 - noise
    resampling = Resampling(cluster[one], replicates, level, seed)
    found = resampling.mean_intervals({"pairwise_calibration": (square, 1.0)})
    return {"pairwise_pairs": len(one), **found, "pairwise_noise": float(noise.mean())}

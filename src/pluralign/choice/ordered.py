"""Strength of preference as ordered outcomes: a cumulative logit on the difference of two utilities.

A pair has a latent difference u_a - u_b + e with e logistic, and thresholds 0 <= t_0 < t_1 < ... < t_(m-1) cut it into
ordered outcomes, the same on both sides (a swap of the two responses mirrors them):

    tie: |latent| < t_0;   a is preferred with strength k = 1 ... m: t_(k-1) <= latent < t_k, t_m infinite

    P(t < latent < t') = sigmoid(t' - d) - sigmoid(t - d),   d = u_a - u_b

With one strength and t_0 = 0 it is Bradley-Terry. A preference of unknown strength is latent > t_0, so judgments with
and without a strength share one likelihood.

Source: P. McCullagh (1980), "Regression models for ordinal data"; A. Agresti (1992), "Analysis of ordinal paired
comparison data". With m = 1 and t_0 > 0 it is the model of ties of P. Rao and L. Kupper (1967).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import logsigmoid

from pluralign.choice.plackett_luce import compared_pairs

UNKNOWN = 0
"""Strength of a preference whose strength is not known."""

FEWEST = 0.5
"""Judgments that each outcome has at least when thresholds are started, so that none starts at infinity."""


def ordered_pair_log_likelihood(utilities: Tensor, ranks: Tensor, strength: Tensor, thresholds: Tensor) -> Tensor:
    """Mean log-probability of the ordered outcomes over the pairs of each ranking, in nats.

    Args:
        utilities: `(..., judgments, responses)`.
        ranks: `(judgments, responses)`, as in `pluralign.choice.plackett_luce.log_likelihood`.
        strength: `(judgments,)` 1 ... m, or `UNKNOWN`; of a tie it has no meaning.
        thresholds: t `(m,)`, rising, t_0 >= 0.

    Returns:
        `(..., judgments)`; 0 for a judgment without a pair.

    Examples:
        >>> u, t = torch.tensor([[1.0, 0.0]] * 3), torch.tensor([0.5, 2.0])
        >>> ranks, strength = torch.tensor([[1, 2], [1, 2], [1, 1]]), torch.tensor([1, 2, 0])
        >>> ordered_pair_log_likelihood(u, ranks, strength, t).exp()
        tensor([0.3535, 0.2689, 0.1951])
    """
    first, second, compared, order = compared_pairs(ranks)
    difference = utilities[..., first] - utilities[..., second]
    toward = torch.where(order > 0, -difference, difference)  # the preferred response first
    cuts = thresholds.to(utilities)
    level = strength.unsqueeze(-1).expand(order.shape)
    tie = order == 0
    low = torch.where(tie, -cuts[0], cuts[(level - 1).clamp(min=0)])
    open_above = ~tie & ((level == UNKNOWN) | (level == len(cuts)))
    high = torch.where(tie, cuts[0], cuts[level.clamp(max=len(cuts) - 1)])
    each = torch.where(open_above, logsigmoid(toward - low), log_between(low - toward, high - toward))
    total = torch.where(compared, each, torch.zeros_like(each)).sum(-1)
    return total / compared.sum(-1).clamp(min=1).to(total.dtype)


def log_between(low: Tensor, high: Tensor) -> Tensor:
    """log(sigmoid(high) - sigmoid(low)) for low <= high, without cancellation; very low where they are equal.

    Examples:
        >>> log_between(torch.tensor([-1.0, 40.0]), torch.tensor([1.0, 41.0]))
        tensor([ -0.7719, -40.4587])
    """
    width = (high - low).clamp(min=torch.finfo(low.dtype).tiny)
    return logsigmoid(high) + logsigmoid(-low) + torch.log(-torch.expm1(-width))


def thresholds_of(gaps: Tensor, ties: bool) -> Tensor:
    """t `(m,)` from the logs of their gaps: `(m,)` with ties, else `(m - 1,)`, and t_0 is 0.

    Examples:
        >>> thresholds_of(torch.tensor([0.0, 0.0]), ties=False).tolist()
        [0.0, 1.0, 2.0]
    """
    widths = gaps.exp()
    return (widths if ties else torch.cat((widths.new_zeros(1), widths))).cumsum(0)


def starting_gaps(counts: ArrayLike) -> Tensor:
    """The logs of gaps at which equal utilities give every outcome its share, float64.

    Args:
        counts: `(m + 1,)` judgments that are ties and that have strength 1 ... m; without ties, t_0 is 0.

    Examples:
        >>> thresholds_of(starting_gaps([0.0, 10.0, 10.0]), ties=False).round(decimals=3).tolist()
        [0.0, 1.099]
    """
    given = np.asarray(counts, dtype=np.float64)
    ties = bool(given[0] > 0)
    kept = np.maximum(given if ties else given[1:], FEWEST)
    # P(|latent| < t) = 2 sigmoid(t) - 1 at equal utilities.
    inside = kept.cumsum()[:-1] / kept.sum()
    cuts = np.log1p(inside) - np.log1p(-inside)
    return torch.from_numpy(np.log(np.diff(cuts, prepend=0.0)))


def gap_curvature(gaps: Tensor, counts: ArrayLike, ties: bool) -> Tensor:
    """Minus the second derivative of the mean log-likelihood by the logs of the gaps, at equal utilities.

    Args:
        gaps: as in `thresholds_of`.
        counts: `(m + 1,)`, as in `starting_gaps`.
        ties: whether t_0 is free.
    """
    share = torch.as_tensor(np.asarray(counts, dtype=np.float64) / np.sum(counts))

    def mean(own: Tensor) -> Tensor:
        cuts = thresholds_of(own, ties)
        ranks = torch.tensor([[1, 1]] + [[1, 2]] * len(cuts))
        strength = torch.arange(len(cuts) + 1)
        each = ordered_pair_log_likelihood(torch.zeros(len(ranks), 2, dtype=torch.float64), ranks, strength, cuts)
        return -(share * torch.where(share > 0, each, torch.zeros_like(each))).sum()

    found: Tensor = torch.autograd.functional.hessian(mean, gaps)
    return found

"""Ties as outcomes with a probability of their own: Davidson's model of pairs, Davidson-Luce for rankings.

With utilities u and a tie parameter nu > 0, a pair has three outcomes:

    P(a > b) = e^(u_a) / Z,  P(b > a) = e^(u_b) / Z,  P(tie) = nu e^((u_a + u_b) / 2) / Z,   Z the sum of the three.

A ranking with ties is a sequence of choices of blocks. A block B is chosen out of the responses S that are left, out of
all subsets of at most D responses, D the length of nu plus 1:

    P(B | S) = nu_|B| exp(mean of u over B) / sum over T in S, |T| <= D of nu_|T| exp(mean of u over T),   nu_1 = 1

For nu -> 0 this is Plackett-Luce. Unlike `efron` and `breslow`, which treat a tie as an order that was lost, it
predicts that ties come, and the more often the closer two utilities are.

Source: R. Davidson (1970), "On extending the Bradley-Terry model to accommodate ties"; H. Turner, J. van Etten,
D. Firth, I. Kosmidis (2020), "Modelling rankings in R: the PlackettLuce package", and the Davidson-Luce model of
Firth, Kosmidis and Turner (2019) for blocks of any size.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from torch import Tensor

from pluralign.choice.plackett_luce import NOT_RANKED, compared_pairs, competition_places

Floats = NDArray[np.float64]

LARGEST_BLOCK = 4
"""The longest block of tied responses that has a probability."""

LOG_NU = (-12.0, 6.0)
"""Range of log nu where it is estimated."""


def davidson_log_likelihood(utilities: Tensor, ranks: Tensor, log_nu: Tensor, *, top: int | None = None) -> Tensor:
    """Log-probability of each ranking with its ties, in nats.

    Args:
        utilities: `(..., judgments, responses)`.
        ranks: `(judgments, responses)`, as in `pluralign.choice.plackett_luce.log_likelihood`.
        log_nu: log of the tie parameters of blocks of 2, 3 ... responses, `(D - 1,)`.
        top: stop after this many places; a block that starts within them is kept whole.

    Returns:
        `(..., judgments)`; 0 for a judgment without a ranked response.

    Raises:
        ValueError: a block is longer than D.

    Examples:
        >>> u, nu = torch.tensor([[1.0, 0.0]] * 3), torch.tensor([0.5]).log()
        >>> davidson_log_likelihood(u, torch.tensor([[1, 2], [2, 1], [1, 1]]), nu).exp()
        tensor([0.5984, 0.2201, 0.1815])
    """
    place = competition_places(ranks, top)
    n = place.shape[-1]
    ranked = place > 0
    tied = (place.unsqueeze(-1) == place.unsqueeze(-2)) & ranked.unsqueeze(-1)  # (judgments, row t, column s)
    size = tied.sum(-1)
    largest = len(log_nu) + 1
    if size.numel() and int(size.max()) > largest:
        raise ValueError(
            f"ranks: {int(size.max())} responses are tied, and davidson has probabilities for blocks of up to "
            f"{largest}: use ties: efron"
        )
    blocks = [block for length in range(1, min(largest, n) + 1) for block in combinations(range(n), length)]
    member = torch.zeros(len(blocks), n, dtype=utilities.dtype, device=utilities.device)
    for row, block in enumerate(blocks):
        member[row, list(block)] = 1 / len(block)
    worth = torch.cat((log_nu.new_zeros(1), log_nu)).to(utilities)
    log_weight = worth[torch.tensor([len(block) - 1 for block in blocks], device=utilities.device)]
    # A stage is told by the first response of its block; what is left is that block and everything behind it.
    first = ranked & ~(tied & torch.ones_like(tied).tril(-1)).any(-1)
    behind = place.unsqueeze(-2) >= place.unsqueeze(-1)
    left = (behind | (place == NOT_RANKED).unsqueeze(-2)) & ranked.unsqueeze(-1)
    possible = (~left).to(utilities.dtype) @ (member > 0).to(utilities.dtype).T == 0  # (judgments, stages, blocks)
    # Sums over blocks, not layers: autocast must not round them.
    with torch.autocast(utilities.device.type, enabled=False):
        mean = tied.to(utilities.dtype) @ utilities.unsqueeze(-1) / size.clamp(min=1).unsqueeze(-1)  # (..., stages, 1)
        values = (utilities @ member.T + log_weight).unsqueeze(-2) - mean
    lowest = torch.finfo(utilities.dtype).min
    total = torch.logsumexp(torch.where(possible, values, torch.full_like(values, lowest)), -1)
    each = worth[(size - 1).clamp(min=0)] - total
    return torch.where(first, each, torch.zeros_like(each)).sum(-1)


def davidson_pair_log_likelihood(utilities: Tensor, ranks: Tensor, log_nu: Tensor) -> Tensor:
    """Mean log-probability of the three outcomes over the pairs of each ranking, in nats: `(..., judgments)`.

    Pairs as in `pluralign.choice.plackett_luce.pair_log_likelihood`; the tie parameter is the first of `log_nu`.

    Examples:
        >>> u, nu = torch.tensor([[1.0, 0.0]]), torch.tensor([0.5]).log()
        >>> davidson_pair_log_likelihood(u, torch.tensor([[1, 1]]), nu).exp()
        tensor([0.1815])
    """
    first, second, compared, order = compared_pairs(ranks)
    half = (utilities[..., first] - utilities[..., second]) / 2
    tie = log_nu[0].to(utilities).expand_as(half)
    each = torch.where(order < 0, half, torch.where(order > 0, -half, tie))
    each = each - torch.logsumexp(torch.stack((half, tie, -half)), 0)
    total = torch.where(compared, each, torch.zeros_like(each)).sum(-1)
    return total / compared.sum(-1).clamp(min=1).to(total.dtype)


def log_outcomes(difference: ArrayLike, log_nu: float) -> Floats:
    """Log-probabilities of three outcomes, the first wins, a tie, the second wins: `(pairs, 3)` from u_a - u_b.

    Examples:
        >>> np.exp(log_outcomes([0.0, 1.0], np.log(2.0))).round(3).tolist()
        [[0.25, 0.5, 0.25], [0.387, 0.47, 0.143]]
    """
    half = np.asarray(difference, dtype=np.float64) / 2
    values = np.stack((half, np.full(half.shape, float(log_nu)), -half), -1)
    return np.asarray(values - logsumexp(values, -1, keepdims=True))


def estimated_log_nu(difference: ArrayLike, outcome: ArrayLike, weight: ArrayLike | None = None) -> float:
    """log nu that makes the outcomes of pairs most likely under given differences of utilities.

    Args:
        difference: u_a - u_b `(pairs,)`.
        outcome: 0 the first won, 1 a tie, 2 the second won, `(pairs,)`.
        weight: of each pair; `None` is 1.

    Returns:
        from -12 (no tie) to 6.

    Examples:
        >>> round(float(np.exp(estimated_log_nu([0.0, 0.0, 0.0], [0, 1, 2]))), 3)
        1.0
    """
    gap, which = np.asarray(difference, dtype=np.float64), np.asarray(outcome, dtype=np.int64)
    each = np.ones(len(gap)) if weight is None else np.asarray(weight, dtype=np.float64)

    def loss(log_nu: float) -> float:
        return -float(each @ log_outcomes(gap, log_nu)[np.arange(len(gap)), which])

    return float(minimize_scalar(loss, bounds=LOG_NU, method="bounded", options={"xatol": 1e-8}).x)

"""Mixtures of types over annotators: posteriors, mixture weights, tempering.

    gamma_hk proportional to (eta_k P_k(judgments of h))^(1/T)          E-step
    eta_k = sum_h w_h gamma_hk / sum_h w_h                              M-step

with w_h the population weight of an annotator, which stays out of the E-step; the reliability of a judgment is
part of its log-likelihood.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def responsibilities(
    log_likelihood: Tensor, log_weights: Tensor, *, temperature: float = 1.0, floor: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Posterior of the types and log-likelihood of each annotator.

    Args:
        log_likelihood: `(..., annotators, K)` log P_k(judgments of h), in nats.
        log_weights: log eta, `(..., K)` or `(..., annotators, K)`.
        temperature: T; 1 is the posterior, more is flatter.
        floor: no responsibility is below this; rows are renormalised after it.

    Returns:
        `(..., annotators, K)` and `(..., annotators)`, the latter at temperature 1 and without the floor. An
        annotator whom no type can explain gets the weights themselves and minus infinity.

    Examples:
        >>> likelihood, eta = torch.tensor([[0.2, 0.6]]), torch.tensor([0.5, 0.5])
        >>> gamma, log_likelihood = responsibilities(likelihood.log(), eta.log())
        >>> gamma, log_likelihood.exp()
        (tensor([[0.2500, 0.7500]]), tensor([0.4000]))
    """
    if log_weights.ndim < log_likelihood.ndim:
        log_weights = log_weights.unsqueeze(-2)
    joint = log_likelihood + log_weights
    total = torch.logsumexp(joint, -1)
    explained = torch.isfinite(total).unsqueeze(-1)
    gamma = torch.softmax(torch.where(explained, joint, log_weights.expand_as(joint)) / temperature, -1)
    if floor:
        gamma = gamma.clamp(min=floor)
        gamma = gamma / gamma.sum(-1, keepdim=True)
    return gamma, total


def mixture_weights(gamma: Tensor, population: Tensor | None = None, floor: float = 0.0) -> Tensor:
    """eta: `(..., annotators, K)` to `(..., K)`.

    Args:
        gamma: responsibilities.
        population: w_h `(annotators,)`; `None` is 1 for all.
        floor: no type's share is below this; renormalised after it.

    Examples:
        >>> mixture_weights(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
        tensor([0.7500, 0.2500])
    """
    weights = gamma.new_ones(gamma.shape[-2]) if population is None else population
    eta = torch.einsum("h,...hk->...k", weights, gamma) / weights.sum()
    if floor:
        eta = eta.clamp(min=floor)
        eta = eta / eta.sum(-1, keepdim=True)
    return eta


def temperatures(start: float, steps: int) -> list[float]:
    """A geometric way down from `start` to 1 in so many steps.

    Examples:
        >>> [round(t, 2) for t in temperatures(4.0, 3)]
        [4.0, 2.0, 1.0]
    """
    if steps < 2:
        return [1.0] * steps
    return [start ** (1 - step / (steps - 1)) for step in range(steps)]


def matched_types(found: Tensor, known: Tensor) -> Tensor:
    """The order of the found types in which they agree best with known ones, by the Hungarian method.

    Args:
        found: responsibilities `(annotators, K)`.
        known: responsibilities or one-hot types `(annotators, L)`.

    Returns:
        `(K,)`: the known type of each found one; -1 for those left over when K is more than L.

    Examples:
        >>> matched_types(torch.eye(2).flip(1), torch.eye(2)).tolist()
        [1, 0]
    """
    overlap = (found.T.double() @ known.double()).cpu().numpy()
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    order = torch.full((found.shape[1],), -1)
    order[torch.as_tensor(rows)] = torch.as_tensor(columns)
    return order

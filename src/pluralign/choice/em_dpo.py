"""Mixtures of types over annotators: posteriors, mixture weights, tempering.

    gamma_hk proportional to (eta_k P_k(judgments of h))^(1/T)          E-step
    eta_k = sum_h w_h gamma_hk / sum_h w_h                              M-step

with w_h the population weight of an annotator, which stays out of the E-step; the reliability of a judgment is
part of its log-likelihood.
"""

from __future__ import annotations

import numpy as np
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


def halves(annotator: np.ndarray, seed: int) -> np.ndarray:
    """Each annotator's judgments in two halves by a seeded draw; the odd one falls into either.

    Args:
        annotator: `(judgments,)` from 0.
        seed: of the draw.

    Returns:
        `(judgments,)`, 0 or 1.

    Examples:
        >>> np.bincount(halves(np.zeros(6, dtype=int), 0)).tolist()
        [3, 3]
    """
    draw = np.random.default_rng(seed)
    place = places_within(annotator, draw)
    first = draw.integers(2, size=annotator.max(initial=-1) + 1)
    return (place + first[annotator]) % 2


def places_within(annotator: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """`(judgments,)` from 0: each annotator's judgments in a random order.

    Examples:
        >>> sorted(places_within(np.array([4, 4, 1, 4]), np.random.default_rng(0))[[0, 1, 3]].tolist())
        [0, 1, 2]
    """
    shuffled = draw.permutation(len(annotator))
    order = shuffled[np.argsort(annotator[shuffled], kind="stable")]
    sorted_annotator = annotator[order]
    new = np.flatnonzero(np.diff(sorted_annotator, prepend=-1))
    start = np.repeat(new, np.diff(new, append=len(order)))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order)) - start
    return place


def drawn_types(gamma: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """A type for every annotator, drawn from his responsibilities `(annotators, K)`: `(annotators,)`.

    Examples:
        >>> drawn_types(np.array([[0.0, 1.0], [1.0, 0.0]]), np.random.default_rng(0)).tolist()
        [1, 0]
    """
    below = gamma.cumsum(1)
    return (draw.random((len(gamma), 1)) * below[:, -1:] >= below[:, :-1]).sum(1)


def row_weights(gamma: np.ndarray, reliability: np.ndarray) -> np.ndarray:
    """What the rows of an M-step count for a type: responsibilities over their mean.

        gamma_j / (sum_i w_i gamma_i / sum_i w_i)

    with w the reliability, so that the ordinary mean over rows of (weight * loss) is the mean loss under the
    responsibilities, and its size does not depend on the type's share. They must not be normalised again inside a
    batch: in a batch of one row that would lose them.

    Args:
        gamma: `(rows,)` of the type, each row's annotator's.
        reliability: `(rows,)`.

    Examples:
        >>> row_weights(np.array([0.2, 0.6]), np.ones(2)).round(12).tolist()
        [0.5, 1.5]
    """
    total = float(reliability @ gamma)
    return gamma * float(reliability.sum()) / total if total > 0 else np.zeros_like(gamma)


def likely(joint: np.ndarray, live: np.ndarray, below: float) -> tuple[np.ndarray, np.ndarray]:
    """Which types an annotator may still be of, and the odds of those that are given up.

    The posterior is a martingale: a type whose posterior is q now has on average the posterior q after all further
    judgments, so giving up those below a threshold errs by no more than it. Given up, a type keeps the odds it had.
    The likeliest type is never given up.

    Args:
        joint: log eta_k + log P_k(judgments so far) `(annotators, K)`, in nats.
        live: `(annotators, K)` bool, the types that are still scored.
        below: the posterior under which a type is given up.

    Returns:
        `(annotators, K)` bool, and the log-odds of every type against the live ones together.

    Examples:
        >>> live, odds = likely(np.log([[0.5, 0.499, 0.001]]), np.ones((1, 3), dtype=bool), 0.01)
        >>> live.tolist(), odds.round(1).tolist()
        ([[True, True, False]], [[-0.7, -0.7, -6.9]])
    """
    alive = np.where(live, joint, -np.inf)
    total = np.logaddexp.reduce(alive, 1, keepdims=True)
    # With many types all may be below.
    enough = np.minimum(np.log(below) + total, alive.max(1, keepdims=True)) if below > 0 else -np.inf
    kept = live & (joint >= enough)
    left = np.logaddexp.reduce(np.where(kept, joint, -np.inf), 1, keepdims=True)
    return kept, joint - left


def with_held_odds(joint: np.ndarray, live: np.ndarray, odds: np.ndarray) -> np.ndarray:
    """Joint log-probabilities in which the types that were given up keep their odds: `(annotators, K)`.

    Examples:
        >>> with_held_odds(np.log([[0.2, 0.1]]), np.array([[True, False]]), np.log([[1.0, 0.01]])).round(3).tolist()
        [[-1.609, -6.215]]
    """
    total = np.logaddexp.reduce(np.where(live, joint, -np.inf), 1, keepdims=True)
    return np.where(live, joint, total + odds)

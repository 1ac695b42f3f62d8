"""EM-DPO: expectation maximisation over annotators' latent types. The policies enter by their log-likelihoods only.

    E-step:  gamma_hk proportional to (eta_k product over h's judgments of P_k(judgment))^(1/T)
    M-step:  eta_k = sum_h w_h gamma_hk / sum_h w_h,  and type k's policy is trained with the weights `row_weights`

P_k is the probability of a judgment under type k's implicit utility u_k = beta (log pi_k - log pi_ref). A judgment's
reliability is part of its log-likelihood; the population weight w_h of an annotator stays out of the E-step.

Source: "DPO with Unobserved Preference Heterogeneity: The Necessity of Ternary Preferences", arXiv 2405.15065 and
2510.15716: the E-step at T = 1, eta_k = mean_h gamma_hk, and a DPO loss weighted by gamma_hk. Tempering, floors,
population weights, cross-fit halves (`halves`) and giving up unlikely types (`likely`) are ours. The latent-class
models of `pluralign.choice.latent_class` use the same E-step.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def responsibilities(
    log_likelihood: Tensor, log_weights: Tensor, *, temperature: float = 1.0, floor: float = 0.0
) -> tuple[Tensor, Tensor]:
    """E-step: posterior over types and log-likelihood of each annotator.

    Args:
        log_likelihood: `(..., annotators, K)` log P_k(judgments of h), in nats.
        log_weights: log eta, `(..., K)` or `(..., annotators, K)`.
        temperature: T; 1 gives the posterior, larger values flatten it.
        floor: the smallest responsibility; rows are renormalised afterwards.

    Returns:
        Responsibilities `(..., annotators, K)`, and log-likelihoods `(..., annotators)` at temperature 1 and without
        the floor. An annotator that no type can explain gets the mixture weights and minus infinity.

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
    """M-step for the shares of the types: eta_k = sum_h w_h gamma_hk / sum_h w_h, `(..., K)`.

    Args:
        gamma: responsibilities `(..., annotators, K)`.
        population: w_h `(annotators,)`; `None` is 1 for all.
        floor: the smallest share of a type; the shares are renormalised afterwards.

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
    """Annealing schedule: a geometric sequence of `steps` temperatures from `start` down to 1; a single one is `start`.

    Examples:
        >>> [round(t, 2) for t in temperatures(4.0, 3)], temperatures(4.0, 1)
        ([4.0, 2.0, 1.0], [4.0])
    """
    if steps < 2:
        return [start] * steps
    return [start ** (1 - step / (steps - 1)) for step in range(steps)]


def matched_types(fitted: Tensor, known: Tensor) -> Tensor:
    """Match fitted types to known ones so that they agree on as many annotators as possible (Hungarian method).

    Args:
        fitted: responsibilities `(annotators, K)`.
        known: responsibilities or one-hot types `(annotators, L)`.

    Returns:
        `(K,)`: the known type of each fitted one; -1 for those without a partner when K is larger than L.

    Examples:
        >>> matched_types(torch.eye(2).flip(1), torch.eye(2)).tolist()
        [1, 0]
    """
    overlap = (fitted.T.double() @ known.double()).cpu().numpy()
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    order = torch.full((fitted.shape[1],), -1)
    order[torch.as_tensor(rows)] = torch.as_tensor(columns)
    return order


def halves(annotator: np.ndarray, seed: int) -> np.ndarray:
    """Split each annotator's judgments into two random halves, 0 and 1, for cross-fitting: `(judgments,)`.

    `annotator` is `(judgments,)`, from 0. An odd judgment goes to either half at random.

    Examples:
        >>> np.bincount(halves(np.zeros(6, dtype=int), 0)).tolist()
        [3, 3]
    """
    rng = np.random.default_rng(seed)
    place = places_within(annotator, rng)
    first = rng.integers(2, size=annotator.max(initial=-1) + 1)
    return (place + first[annotator]) % 2


def evidence_weight(log_likelihood: np.ndarray, log_weights: np.ndarray, evidence: np.ndarray) -> float:
    """How much outside evidence on the annotators' types counts, from 0 to 1: the weight that predicts held-out
    judgments best,

        argmax over w in {0, 1/4, 1/2, 3/4, 1} of  sum_h log sum_k pi_hk(w) P_k(judgments of h),
        pi_hk(w) proportional to eta_k exp(w e_hk)

    Args:
        log_likelihood: log P_k of each annotator's held-out judgments `(annotators, K)`, in nats.
        log_weights: log eta `(K,)`.
        evidence: e `(annotators, K)`, log-odds beyond those of the shares.

    Examples:
        >>> likelihood = np.log([[0.9, 0.1], [0.2, 0.8]])
        >>> helpful = np.array([[1.0, -1.0], [-1.0, 1.0]])
        >>> even = np.log([0.5, 0.5])
        >>> evidence_weight(likelihood, even, helpful), evidence_weight(likelihood, even, -helpful)
        (1.0, 0.0)
    """
    grid = np.linspace(0, 1, 5)
    scores = []
    for weight in grid:
        prior = log_weights + weight * evidence
        prior = prior - np.logaddexp.reduce(prior, 1, keepdims=True)
        scores.append(np.logaddexp.reduce(prior + log_likelihood, 1).sum())
    return float(grid[int(np.argmax(scores))])


def places_within(annotator: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Number each annotator's judgments from 0 in a random order: `(judgments,)`."""
    shuffled = draw.permutation(len(annotator))
    order = shuffled[np.argsort(annotator[shuffled], kind="stable")]
    sorted_annotator = annotator[order]
    new = np.flatnonzero(np.diff(sorted_annotator, prepend=-1))
    start = np.repeat(new, np.diff(new, append=len(order)))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order)) - start
    return place


def drawn_types(gamma: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Draw a type for every annotator from their responsibilities `(annotators, K)`: `(annotators,)`.

    Examples:
        >>> drawn_types(np.array([[0.0, 1.0], [1.0, 0.0]]), np.random.default_rng(0)).tolist()
        [1, 0]
    """
    cumulative = gamma.cumsum(1)
    return (draw.random((len(gamma), 1)) * cumulative[:, -1:] >= cumulative[:, :-1]).sum(1)


def row_weights(gamma: np.ndarray, reliability: np.ndarray) -> np.ndarray:
    """Weights of the rows in the M-step of one type: responsibilities over their mean.

        gamma_j / (sum_i w_i gamma_i / sum_i w_i),   w the reliability

    The ordinary mean over rows of (weight * loss) is then the mean loss under the responsibilities, at a scale that
    does not depend on the type's share. Do not normalise them again inside a batch: with one row that cancels them.

    Both arguments are `(rows,)`; gamma is the responsibility of the type for each row's annotator.

    Examples:
        >>> row_weights(np.array([0.2, 0.6]), np.ones(2)).round(12).tolist()
        [0.5, 1.5]
    """
    total = float(reliability @ gamma)
    return gamma * float(reliability.sum()) / total if total > 0 else np.zeros_like(gamma)


def likely(joint: np.ndarray, live: np.ndarray, below: float) -> tuple[np.ndarray, np.ndarray]:
    """Drop the types that an annotator is very unlikely to belong to, so that they need no further scoring.

    The posterior is a martingale: a type with posterior q now has posterior q on average after all further judgments,
    so dropping types below a threshold errs by no more than the threshold. A dropped type keeps the odds it had. The
    most likely type is never dropped.

    Args:
        joint: log eta_k + log P_k(judgments so far) `(annotators, K)`, in nats.
        live: `(annotators, K)` bool, the types that are still scored.
        below: drop a type if its posterior is below this.

    Returns:
        The types still live `(annotators, K)` bool, and the log-odds of every type against the live ones together.

    Examples:
        >>> live, odds = likely(np.log([[0.5, 0.499, 0.001]]), np.ones((1, 3), dtype=bool), 0.01)
        >>> live.tolist(), odds.round(1).tolist()
        ([[True, True, False]], [[-0.7, -0.7, -6.9]])
    """
    alive = np.where(live, joint, -np.inf)
    total = np.logaddexp.reduce(alive, 1, keepdims=True)
    # With many types all posteriors may be below the threshold.
    enough = np.minimum(np.log(below) + total, alive.max(1, keepdims=True)) if below > 0 else -np.inf
    kept = live & (joint >= enough)
    left = np.logaddexp.reduce(np.where(kept, joint, -np.inf), 1, keepdims=True)
    return kept, joint - left


def with_held_odds(joint: np.ndarray, live: np.ndarray, odds: np.ndarray) -> np.ndarray:
    """Joint log-probabilities in which dropped types keep the odds from `likely`: `(annotators, K)`.

    Examples:
        >>> with_held_odds(np.log([[0.2, 0.1]]), np.array([[True, False]]), np.log([[1.0, 0.01]])).round(3).tolist()
        [[-1.609, -6.215]]
    """
    total = np.logaddexp.reduce(np.where(live, joint, -np.inf), 1, keepdims=True)
    return np.where(live, joint, total + odds)

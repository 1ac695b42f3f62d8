"""Starting points for expectation maximisation: random coefficients, or groups of annotators who agree."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import torch
from scipy.sparse.linalg import svds
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from pluralign.choice.latent_class.em import Fit, log_likelihoods, m_step
from pluralign.choice.latent_class.information import annotator_scores
from pluralign.choice.latent_class.problem import Problem

SPREAD = 1.5
"""Standard deviation, in utility, of what random starts add to the pooled coefficients."""

CLEAR = 0.9
"""A spectral start gives an annotator this responsibility for their group."""


def flat_fit(problem: Problem, restarts: int) -> Fit:
    """All coefficients 0, all types equally likely."""
    annotators, types, device = len(problem.population), problem.types, problem.population.device
    width = 0 if problem.covariates is None else problem.covariates.shape[1]
    shape = (restarts, annotators, types) if width else (restarts, types)
    return Fit(
        parameters=torch.zeros(restarts, problem.parameters, dtype=torch.float64, device=device),
        log_weights=torch.full(shape, 1 / types, dtype=torch.float64, device=device).log(),
        membership=torch.zeros(restarts, types - 1, width, dtype=torch.float64, device=device),
        gamma=torch.full((restarts, annotators, types), 1 / types, dtype=torch.float64, device=device),
        log_likelihood=torch.zeros(restarts, dtype=torch.float64, device=device),
        objective=torch.full((restarts,), -torch.inf, dtype=torch.float64, device=device),
    )


def pooled(problem: Problem) -> tuple[Tensor, Tensor]:
    """Coefficients of a one-type fit `(p,)`, and the mean square difference of two responses in a choice, in each."""
    if "pooled" not in problem.derived:
        single = _one_type(problem, problem.logit.parameters)
        fit = m_step(single, flat_fit(single, 1), steps=20)
        weights = single.likelihood.weights(single.population.unsqueeze(-1))
        here = single.likelihood.at(fit.parameters)
        worths = single.logit.features is None
        own = here.diagonal(weights)[0] if worths else here.curvature(weights)[0].diagonal()
        made = problem.summed(single.population @ single.likelihood.places).clamp(min=1)
        problem.derived["pooled"] = fit.parameters[0], 2 * own.clamp(min=0) / made
    shared, information = problem.derived["pooled"]
    return shared, information


def random_starts(problem: Problem, restarts: int, seed: int) -> Fit:
    """Random coefficients around the pooled ones."""
    shared, information = pooled(problem)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(restarts, problem.types, len(shared), generator=generator, dtype=torch.float64)
    live = information > 1e-9 * information.max()
    scale = torch.where(live, SPREAD / (information * live.sum()).clamp(min=1e-300).sqrt(), 0.0)
    if problem.logit.features is None:
        scale = torch.where(live, SPREAD, 0.0)
    return with_coefficients(problem, shared + noise.to(shared.device) * scale)


def with_coefficients(problem: Problem, beta: Tensor) -> Fit:
    """A start from coefficients `(R, K, p)`."""
    number = problem.gathered(torch.ones_like(beta[:1]))  # of coefficients that share a parameter
    return replace(flat_fit(problem, len(beta)), parameters=problem.gathered(beta) / number.clamp(min=1))


def annotator_embedding(problem: Problem, dimensions: int, seed: int) -> np.ndarray:
    """Annotators in the directions in which they deviate most from the pooled fit: `(annotators, dimensions)`.

    Each annotator is the gradient of their log-likelihood at the pooled coefficients, with every coordinate in units
    of its standard error, so that inner products measure agreement. The leading singular directions of these rows are
    returned; fewer if there are fewer annotators or coefficients.
    """
    shared, information = pooled(problem)
    places = problem.likelihood.places.unsqueeze(1).clamp(min=1)
    scores = annotator_scores(_one_type(problem, len(shared)), shared.view(1, 1, -1))
    rows = (scores / (information.clamp(min=1e-9 * float(information.max()) + 1e-300) * places).sqrt()).cpu().numpy()
    if not rows.any():
        return np.zeros((len(rows), min(dimensions, *rows.shape)))
    if min(rows.shape) <= dimensions + 1:
        left, values, _ = np.linalg.svd(rows, full_matrices=False)
        return (left * values)[:, :dimensions]
    left, values, _ = svds(rows, k=dimensions, random_state=seed)
    return (left * values)[:, ::-1]


def spectral_groups(problem: Problem, groups: int, seed: int) -> np.ndarray:
    """Groups of annotators with similar deviations: k-means on `annotator_embedding`, `(annotators,)` from 0."""
    rows = annotator_embedding(problem, groups, seed)
    with warnings.catch_warnings():
        # If annotators agree entirely there are fewer groups; the other starts are random anyway.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return np.asarray(KMeans(groups, n_init=5, random_state=seed).fit(rows).labels_)


def _one_type(problem: Problem, size: int) -> Problem:
    """The problem of fitting a single type with p free coefficients."""
    return replace(
        problem,
        covariates=None,
        slot=torch.arange(size, device=problem.population.device).unsqueeze(0),
        fixed=problem.fixed.new_zeros(1, size),
        likelihood=problem.likelihood.of_all(),
    )


def with_groups(problem: Problem, gamma: Tensor) -> Fit:
    """A start from responsibilities `(R, annotators, K)`."""
    flat = flat_fit(problem, len(gamma))
    if problem.logit.available is not None:
        # A type that does not consider what an annotator chose gets responsibility 0, whatever the start says.
        possible = explaining(problem).to(gamma.dtype)
        kept = gamma * possible
        kept = torch.where(kept.sum(-1, keepdim=True) > 0, kept, possible)
        gamma = kept / kept.sum(-1, keepdim=True)
    return m_step(problem, replace(flat, gamma=gamma), steps=5)


def explaining(problem: Problem) -> Tensor:
    """Whether a type considers all responses that an annotator chose, `(annotators, K)`."""
    shape = (1, problem.types, problem.logit.parameters)
    return torch.isfinite(log_likelihoods(problem, problem.fixed.new_zeros(shape))[0])


def spectral_start(problem: Problem, seed: int) -> Fit:
    """A start from `spectral_groups`; a noise type gets no group."""
    free = int((problem.slot >= 0).any(1).sum())
    groups = torch.as_tensor(spectral_groups(problem, free, seed), device=problem.population.device).long()
    gamma = torch.full((1, len(groups), problem.types), (1 - CLEAR) / max(1, problem.types - 1), dtype=torch.float64)
    gamma = gamma.to(groups.device).scatter(2, groups.view(1, -1, 1), CLEAR if problem.types > 1 else 1.0)
    return with_groups(problem, gamma)

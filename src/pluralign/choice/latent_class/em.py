"""Expectation maximisation for latent-class choice models, for a batch of restarts at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from pluralign.choice.em_dpo import mixture_weights, responsibilities
from pluralign.choice.latent_class.newton import Local, conjugate_gradients, maximise
from pluralign.choice.latent_class.problem import Problem

DENSE_PARAMETERS = 512
"""Newton steps in more parameters than this are solved by conjugate gradients."""

PART_CELLS = 2**26
"""Newton steps are solved part by part if the parts' Hessians have at most this many entries, and"""

PART_WORK = 2000
"""need at most this many multiplications per alternative of a choice; otherwise Hessian products are cheaper."""

LEAST_WEIGHT = 1e-12
"""The smallest share of a type, so that rounding cannot remove one for good."""


@dataclass(frozen=True)
class Fit:
    """R restarts.

    Args:
        parameters: free coefficients `(R, m)`.
        log_weights: log eta `(R, K)`, or `(R, annotators, K)` with covariates.
        membership: `(R, K - 1, q)` coefficients of the covariates for all types but the first; q = 0 without.
        gamma: responsibilities `(R, annotators, K)`.
        log_likelihood: `(R,)`.
        objective: `(R,)` log-likelihood plus log prior.
    """

    parameters: Tensor
    log_weights: Tensor
    membership: Tensor
    gamma: Tensor
    log_likelihood: Tensor
    objective: Tensor

    def chosen(self, restarts: Tensor) -> Fit:
        """Some of the restarts."""
        return Fit(*(value[restarts] for value in vars(self).values()))


def log_likelihoods(problem: Problem, beta: Tensor) -> Tensor:
    """log P_k(judgments of h) under coefficients `(R, K, p)`: `(R, annotators, K)`."""
    restarts, types, _ = beta.shape
    sums = problem.counts @ problem.logit.log_probabilities(beta.flatten(0, 1))
    return sums.view(-1, restarts, types).transpose(0, 1)


def e_step(problem: Problem, fit: Fit, temperature: float = 1.0) -> Fit:
    """Responsibilities and log-likelihood under the current parameters."""
    by_type = log_likelihoods(problem, problem.coefficients(fit.parameters))
    gamma, total = responsibilities(by_type, fit.log_weights, temperature=temperature)
    log_likelihood = total @ problem.population
    prior = (fit.parameters * problem.penalty(fit.parameters)).sum(-1) / 2
    return replace(fit, gamma=gamma, log_likelihood=log_likelihood, objective=log_likelihood - prior)


def choice_weights(problem: Problem, gamma: Tensor) -> Tensor:
    """Weight of every choice for every type: `(R, annotators, K)` to `(choices, R * K)`."""
    weighted = gamma * problem.population.unsqueeze(-1)
    return problem.back @ weighted.transpose(0, 1).flatten(1)


def m_step(problem: Problem, fit: Fit, *, steps: int = 50, tolerance: float = 1e-10) -> Fit:
    """Coefficients by Newton's method; mixture weights in closed form, or with covariates by Newton's method."""
    weights = choice_weights(problem, fit.gamma)
    parameters, _ = maximise(
        lambda point: _local(problem, point, weights), fit.parameters, steps=steps, tolerance=tolerance
    )
    if problem.covariates is None:
        eta = mixture_weights(fit.gamma, problem.population, floor=LEAST_WEIGHT)
        return replace(fit, parameters=parameters, log_weights=eta.log())
    membership = _membership(problem, problem.covariates, fit, steps)
    return replace(
        fit, parameters=parameters, membership=membership, log_weights=log_shares(problem.covariates, membership)
    )


def _local(problem: Problem, parameters: Tensor, weights: Tensor) -> Local:
    """The weighted log-likelihood of the choices less the prior, at `(R, m)` parameters."""
    restarts, size, types = len(parameters), problem.parameters, problem.types
    beta = problem.coefficients(parameters).flatten(0, 1)
    blocks = problem.logit.blocks(beta)
    value, gradient = problem.logit.value_and_gradient(blocks, weights)
    penalty = problem.penalty(parameters)
    value = value.view(restarts, types).sum(-1) - (parameters * penalty).sum(-1) / 2
    gradient = problem.gathered(gradient.view(restarts, types, -1)) - penalty
    # A type without weight, or a direction in which no choice varies, needs a curvature to divide by.
    least = problem.prior[0].clamp(min=1e-12)

    @cache
    def whole_curvature() -> Tensor:
        by_type = problem.logit.curvature(blocks, weights)
        joint = joint_curvature(problem, by_type.view(restarts, types, *by_type.shape[1:]))
        identity = torch.eye(size, dtype=joint.dtype, device=joint.device)
        return joint + torch.diag(least) - problem.coupled(identity)

    @cache
    def part_curvature() -> Tensor:
        return problem.logit.part_curvature(blocks, weights)

    def solve_whole(right: Tensor) -> Tensor:
        return torch.linalg.solve(whole_curvature(), right.unsqueeze(-1)).squeeze(-1)

    def solve_parts(right: Tensor) -> Tensor:
        return _solved_by_parts(problem, part_curvature(), right, least)

    def solve_by_products(right: Tensor) -> Tensor:
        diagonal = problem.gathered(problem.logit.diagonal(blocks, weights).view(restarts, types, -1)) + least

        def product(vectors: Tensor) -> Tensor:
            by_type = problem.logit.hessian_product(blocks, weights, problem.directions(vectors).flatten(0, 1))
            own = problem.gathered(by_type.view(restarts, types, -1)) + least * vectors
            return own - problem.coupled(vectors)

        return conjugate_gradients(product, right, diagonal)

    if _parts_are_cheaper(problem, len(beta)):
        return Local(value, gradient, solve_parts)
    dense = types * problem.logit.parameters <= DENSE_PARAMETERS
    return Local(value, gradient, solve_whole if dense else solve_by_products)


def _parts_are_cheaper(problem: Problem, vectors: int) -> bool:
    """Whether no coefficient is shared between types, and the parts' Hessians cost less than products with them."""
    parts = problem.logit.design.parts
    work = problem.logit.choices.response.numel() * PART_WORK
    cells = parts.count * parts.size**2
    not_shared = problem.parameters == int((problem.slot >= 0).sum())
    return not_shared and cells * parts.size <= work and cells * vectors <= PART_CELLS


def _solved_by_parts(problem: Problem, curvature: Tensor, right: Tensor, least: Tensor) -> Tensor:
    """Newton step if parts of the coefficients do not interact, and types at most through the prior."""
    parts, free = problem.logit.design.parts, problem.slot >= 0
    restarts, types = len(right), problem.types
    shape = (restarts * types, parts.count, parts.size)
    own = torch.zeros(types, parts.count, parts.size, dtype=torch.bool, device=right.device)
    own[:, parts.number, parts.place] = free
    own = own.repeat(restarts, 1, 1)
    both = own.unsqueeze(-1) & own.unsqueeze(-2)
    ridge = right.new_ones(types, parts.count, parts.size)
    ridge[:, parts.number, parts.place] = torch.where(free, problem.directions(least.unsqueeze(0))[0], 1.0)
    matrix = torch.where(both, curvature, 0.0) + torch.diag_embed(ridge.repeat(restarts, 1, 1))
    side = right.new_zeros(shape)
    side[:, parts.number, parts.place] = problem.directions(right).flatten(0, 1)
    b = problem.prior[1]
    if not bool(b.any()):
        step = torch.linalg.solve(matrix, side.unsqueeze(-1)).squeeze(-1)
    else:  # (A - U b U')^-1 with A block-diagonal over types and U adding them up (Woodbury)
        inverse = torch.where(both, torch.linalg.inv(matrix), 0.0).view(restarts, types, *matrix.shape[1:])
        coupling = right.new_zeros(parts.count, parts.size)
        coupling[parts.number, parts.place] = b
        alone = (inverse @ side.view(restarts, types, parts.count, parts.size, 1)).squeeze(-1)
        identity = torch.eye(parts.size, dtype=right.dtype, device=right.device)
        common = torch.linalg.solve(identity - inverse.sum(1) * coupling.unsqueeze(-2), alone.sum(1).unsqueeze(-1))
        step = alone + (inverse @ (coupling.unsqueeze(-1) * common).unsqueeze(1)).squeeze(-1)
        step = step.view(shape)
    return problem.gathered(step[:, parts.number, parts.place].view(restarts, types, -1))


def joint_curvature(problem: Problem, by_type: Tensor) -> Tensor:
    """Minus the Hessians of the types, `(R, K, p, p)`, in terms of the free parameters: `(R, m, m)`."""
    size = problem.parameters + 1
    joint = by_type.new_zeros(len(by_type), size * size)
    for kind, slots in enumerate(problem.slots):
        cells = slots.unsqueeze(1) * size + slots
        joint.index_add_(1, cells.flatten(), by_type[:, kind].flatten(1))
    return joint.view(-1, size, size)[:, :-1, :-1]


def log_shares(covariates: Tensor, membership: Tensor) -> Tensor:
    """log eta of each annotator: `(annotators, q)` and `(R, K - 1, q)` to `(R, annotators, K)`."""
    scores = torch.einsum("hq,rkq->rhk", covariates, membership)
    return torch.log_softmax(torch.nn.functional.pad(scores, (1, 0)), -1)


def _membership(problem: Problem, covariates: Tensor, fit: Fit, steps: int) -> Tensor:
    """Weighted multinomial logit of the responsibilities on the covariates, against the first type."""
    shape, population = fit.membership.shape, problem.population
    size = shape[1] * shape[2]
    if not size:
        return fit.membership

    def local(flat: Tensor) -> Local:
        log_eta = log_shares(covariates, flat.view(shape))
        eta = log_eta.exp()[..., 1:]
        value = torch.einsum("h,rhk->r", population, fit.gamma * log_eta)
        gradient = torch.einsum("h,rhk,hq->rkq", population, fit.gamma[..., 1:] - eta, covariates).flatten(1)
        spread = torch.diag_embed(eta) - eta.unsqueeze(-1) * eta.unsqueeze(-2)
        curvature = torch.einsum("h,rhkl,hp,hq->rkplq", population, spread, covariates, covariates)
        tiny = 1e-10 * torch.eye(size, dtype=flat.dtype, device=flat.device)
        joint = curvature.reshape(-1, size, size) + tiny
        return Local(value, gradient, lambda right: torch.linalg.solve(joint, right.unsqueeze(-1)).squeeze(-1))

    return maximise(local, fit.membership.flatten(1), steps=steps)[0].view(shape)


def moved_to(problem: Problem, fit: Fit) -> Fit:
    """The same parameters for the annotators of another problem.

    Raises:
        ValueError: the number of covariates differs.
    """
    width, expected = 0 if problem.covariates is None else problem.covariates.shape[1], fit.membership.shape[2]
    if width != expected:
        raise ValueError(f"covariates: found {width}, expected the {expected} that the model was fitted with")
    if problem.covariates is None:
        return fit
    return replace(fit, log_weights=log_shares(problem.covariates, fit.membership))


def by_share(problem: Problem, fit: Fit, movable: int) -> Fit:
    """One restart with its first `movable` types sorted by their share, largest first."""
    share = (fit.gamma[0] * problem.population.unsqueeze(1)).sum(0)
    order = torch.arange(problem.types, device=share.device)
    order[:movable] = torch.argsort(share[:movable], descending=True, stable=True)
    beta = problem.coefficients(fit.parameters)[:, order]
    parameters = fit.parameters.new_zeros(1, problem.parameters + 1)
    parameters[:, problem.slots.flatten()] = beta.flatten(1)
    first = fit.membership.new_zeros(len(fit.membership), 1, fit.membership.shape[2])
    membership = torch.cat((first, fit.membership), 1)[:, order]
    return replace(
        fit,
        parameters=parameters[:, :-1],
        log_weights=fit.log_weights[..., order],
        membership=membership[:, 1:] - membership[:, :1],
        gamma=fit.gamma[..., order],
    )

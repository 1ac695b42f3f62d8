"""Expectation maximisation of latent-class choice models, for a batch of restarts at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from pluralign.choice.em_dpo import mixture_weights, responsibilities
from pluralign.choice.latent_class.conditional_logit import ConditionalLogit
from pluralign.choice.latent_class.newton import Local, conjugate_gradients, maximise

DENSE_PARAMETERS = 512
"""Newton steps in more parameters than this are found by conjugate gradients."""

PART_CELLS = 2**26
"""Coefficients are solved for part by part where the parts' Hessians take no more numbers than this, and"""

PART_WORK = 2000
"""no more multiplications than this for each alternative of a choice; else Hessian products are cheaper."""

LEAST_WEIGHT = 1e-12
"""No type's share falls below this, so that none is lost for good by rounding."""


@dataclass(frozen=True)
class Problem:
    """What is fitted.

    Args:
        logit: over the different choices.
        counts: `(annotators, choices)` sparse CSR: how often, weighted by reliability, an annotator made a choice.
        back: its transpose.
        population: `(annotators,)` weight of each annotator in the mixture.
        covariates: `(annotators, q)`, or `None` for one share of each type.
        slot: `(K, p)` the number of the free parameter behind every coefficient; -1 where it is fixed.
        fixed: `(K, p)` the fixed coefficients, 0 elsewhere.
        ridge: precision of the normal prior on the free coefficients.
    """

    logit: ConditionalLogit
    counts: Tensor
    back: Tensor
    population: Tensor
    covariates: Tensor | None
    slot: Tensor
    fixed: Tensor
    ridge: float

    @property
    def types(self) -> int:
        """K."""
        return len(self.slot)

    @property
    def parameters(self) -> int:
        """m, free coefficients."""
        return int(self.slot.max()) + 1 if self.slot.numel() else 0


@dataclass(frozen=True)
class Fit:
    """R restarts.

    Args:
        parameters: `(R, m)`.
        log_weights: log eta `(R, K)`, or `(R, annotators, K)` with covariates.
        membership: `(R, K - 1, q)` coefficients of the covariates, the first type's being zero; q is 0 without.
        gamma: `(R, annotators, K)`.
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


def coefficients(problem: Problem, parameters: Tensor) -> Tensor:
    """`(R, m)` to `(R, K, p)`."""
    return directions(problem, parameters) + problem.fixed


def directions(problem: Problem, parameters: Tensor) -> Tensor:
    """How coefficients change with the parameters: as `coefficients`, the fixed ones 0."""
    padded = torch.cat((parameters, parameters.new_zeros(len(parameters), 1)), 1)
    return padded[:, problem.slot]


def gathered(problem: Problem, values: Tensor) -> Tensor:
    """Adds up what belongs to one parameter: `(R, K, p)` to `(R, m)`."""
    slots = torch.where(problem.slot < 0, problem.parameters, problem.slot).flatten()
    sums = values.new_zeros(len(values), problem.parameters + 1)
    return sums.index_add(1, slots, values.flatten(1))[:, :-1]


def log_likelihoods(problem: Problem, beta: Tensor) -> Tensor:
    """log P_k(judgments of h) under coefficients `(R, K, p)`: `(R, annotators, K)`."""
    restarts, types, _ = beta.shape
    found = problem.counts @ problem.logit.log_probabilities(beta.flatten(0, 1))
    return found.view(-1, restarts, types).transpose(0, 1)


def e_step(problem: Problem, fit: Fit, temperature: float = 1.0) -> Fit:
    """Responsibilities and log-likelihood under the parameters as they are."""
    found = log_likelihoods(problem, coefficients(problem, fit.parameters))
    gamma, total = responsibilities(found, fit.log_weights, temperature=temperature)
    log_likelihood = total @ problem.population
    prior = problem.ridge / 2 * fit.parameters.square().sum(-1)
    return replace(fit, gamma=gamma, log_likelihood=log_likelihood, objective=log_likelihood - prior)


def choice_weights(problem: Problem, gamma: Tensor) -> Tensor:
    """Weight of every choice for every type: `(R, annotators, K)` to `(choices, R * K)`."""
    weighted = gamma * problem.population.unsqueeze(-1)
    return problem.back @ weighted.transpose(0, 1).flatten(1)


def m_step(problem: Problem, fit: Fit, *, steps: int = 50, tolerance: float = 1e-10) -> Fit:
    """Coefficients by Newton, and mixture weights, in closed form or, with covariates, by Newton too."""
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
    beta = coefficients(problem, parameters).flatten(0, 1)
    blocks = problem.logit.blocks(beta)
    value, gradient = problem.logit.value_and_gradient(blocks, weights)
    value = value.view(restarts, types).sum(-1) - problem.ridge / 2 * parameters.square().sum(-1)
    gradient = gathered(problem, gradient.view(restarts, types, -1)) - problem.ridge * parameters
    # A type without weight, or a direction that no choice varies in, still has a curvature to divide by.
    least = max(problem.ridge, 1e-12)

    @cache
    def joint() -> Tensor:
        by_type = problem.logit.curvature(blocks, weights)
        found = joint_curvature(problem, by_type.view(restarts, types, *by_type.shape[1:]))
        return found + least * torch.eye(size, dtype=found.dtype, device=found.device)

    @cache
    def by_part() -> Tensor:
        return problem.logit.part_curvature(blocks, weights)

    def by_inverse(right: Tensor) -> Tensor:
        return torch.linalg.solve(joint(), right.unsqueeze(-1)).squeeze(-1)

    def by_parts(right: Tensor) -> Tensor:
        return _solved_by_parts(problem, by_part(), right, least)

    def by_products(right: Tensor) -> Tensor:
        diagonal = gathered(problem, problem.logit.diagonal(blocks, weights).view(restarts, types, -1)) + least

        def product(vectors: Tensor) -> Tensor:
            found = problem.logit.hessian_product(blocks, weights, directions(problem, vectors).flatten(0, 1))
            return gathered(problem, found.view(restarts, types, -1)) + least * vectors

        return conjugate_gradients(product, right, diagonal)

    if _apart(problem) and _by_parts(problem, len(beta)):
        return Local(value, gradient, by_parts)
    dense = types * problem.logit.parameters <= DENSE_PARAMETERS
    return Local(value, gradient, by_inverse if dense else by_products)


def _by_parts(problem: Problem, vectors: int) -> bool:
    """Whether the Hessians of all parts are cheaper than products with them."""
    parts = problem.logit.design.parts
    work = problem.logit.choices.response.numel() * PART_WORK
    cells = parts.count * parts.size**2
    return cells * parts.size <= work and cells * vectors <= PART_CELLS


def _apart(problem: Problem) -> bool:
    """Whether no coefficient is shared between types."""
    return problem.parameters == int((problem.slot >= 0).sum())


def _solved_by_parts(problem: Problem, curvature: Tensor, right: Tensor, least: float) -> Tensor:
    """Newton step where types, and parts of the coefficients, have nothing to do with each other."""
    parts, free = problem.logit.design.parts, problem.slot >= 0
    restarts, types = len(right), problem.types
    shape = (restarts * types, parts.count, parts.size)
    own = torch.zeros(types, parts.count, parts.size, dtype=torch.bool, device=right.device)
    own[:, parts.number, parts.place] = free
    own = own.repeat(restarts, 1, 1)
    both = own.unsqueeze(-1) & own.unsqueeze(-2)
    matrix = torch.where(both, curvature, 0.0) + torch.diag_embed(torch.where(own, least, 1.0).to(right.dtype))
    side = right.new_zeros(shape)
    side[:, parts.number, parts.place] = directions(problem, right).flatten(0, 1)
    found = torch.linalg.solve(matrix, side.unsqueeze(-1)).squeeze(-1)[:, parts.number, parts.place]
    return gathered(problem, found.view(restarts, types, -1))


def joint_curvature(problem: Problem, by_type: Tensor) -> Tensor:
    """Minus the Hessians of the types, `(R, K, p, p)`, in terms of the free parameters: `(R, m, m)`."""
    size = problem.parameters + 1
    joint = by_type.new_zeros(len(by_type), size * size)
    slots = torch.where(problem.slot < 0, size - 1, problem.slot)
    for kind in range(problem.types):
        cells = slots[kind].unsqueeze(1) * size + slots[kind]
        joint.index_add_(1, cells.flatten(), by_type[:, kind].flatten(1))
    return joint.view(-1, size, size)[:, :-1, :-1]


def log_shares(covariates: Tensor, membership: Tensor) -> Tensor:
    """log eta of each annotator: `(annotators, q)` and `(R, K - 1, q)` to `(R, annotators, K)`."""
    scores = torch.einsum("hq,rkq->rhk", covariates, membership)
    return torch.log_softmax(torch.nn.functional.pad(scores, (1, 0)), -1)


def _membership(problem: Problem, covariates: Tensor, fit: Fit, steps: int) -> Tensor:
    """Weighted multinomial logit of the responsibilities on the covariates; the first type is the base."""
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
        ValueError: the parameters are of another number of covariates.
    """
    found, expected = 0 if problem.covariates is None else problem.covariates.shape[1], fit.membership.shape[2]
    if found != expected:
        raise ValueError(f"covariates: found {found}, expected the {expected} that the model was fitted with")
    if problem.covariates is None:
        return fit
    return replace(fit, log_weights=log_shares(problem.covariates, fit.membership))


def by_share(problem: Problem, fit: Fit, movable: int) -> Fit:
    """One restart with its first so many types in the order of their share."""
    share = (fit.gamma[0] * problem.population.unsqueeze(1)).sum(0)
    order = torch.arange(problem.types, device=share.device)
    order[:movable] = torch.argsort(share[:movable], descending=True, stable=True)
    beta = coefficients(problem, fit.parameters)[:, order]
    slots = torch.where(problem.slot < 0, problem.parameters, problem.slot).flatten()
    parameters = fit.parameters.new_zeros(1, problem.parameters + 1)
    parameters[:, slots] = beta.flatten(1)
    membership = torch.nn.functional.pad(fit.membership, (0, 0, 1, 0))[:, order]
    return replace(
        fit,
        parameters=parameters[:, :-1],
        log_weights=fit.log_weights[..., order],
        membership=membership[:, 1:] - membership[:, :1],
        gamma=fit.gamma[..., order],
    )

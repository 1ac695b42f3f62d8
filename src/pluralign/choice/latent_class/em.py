"""Expectation maximisation for latent-class choice models, for a batch of restarts at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from pluralign.choice.em_dpo import mixture_weights, responsibilities
from pluralign.choice.latent_class.likelihood import LikelihoodAt, Weights, totals
from pluralign.choice.latent_class.newton import Local, conjugate_gradients, maximise
from pluralign.choice.latent_class.problem import Problem

DENSE_PARAMETERS = 512
"""Newton steps in more parameters than this are solved by conjugate gradients, but"""

DENSE_ALONE = 512
"""up to this many features of a single type."""

SAMPLE = 64
"""Rough curvatures are computed from about this many choices for each coefficient of a restart."""

LARGEST_CHANGE = 4.0
"""Most that `ascended` changes a utility by, in nats."""

ROUGH_STEPS = 3
"""Conjugate gradients in a step of `ascended`."""

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


def joined(fits: Sequence[Fit]) -> Fit:
    """The restarts of several fits."""
    return Fit(*(torch.cat(values) for values in zip(*(vars(fit).values() for fit in fits), strict=True)))


Solver = Callable[[Tensor], Tensor]
"""Maps `(R, m)` to about the inverse of minus a Hessian times it."""


def log_likelihoods(problem: Problem, beta: Tensor) -> Tensor:
    """log P_k(judgments of h) under coefficients `(R, K, p)`: `(R, annotators, K)`."""
    restarts, types, _ = beta.shape
    sums = problem.likelihood.at(beta.flatten(0, 1)).by_annotator()
    return sums.view(-1, restarts, types).transpose(0, 1)


def e_step(problem: Problem, fit: Fit, temperature: float = 1.0) -> Fit:
    """Responsibilities and log-likelihood under the current parameters."""
    return with_posterior(problem, fit, log_likelihoods(problem, problem.coefficients(fit.parameters)), temperature)


def with_posterior(problem: Problem, fit: Fit, by_type: Tensor, temperature: float = 1.0) -> Fit:
    """As `e_step`, from log P_k(judgments of h) `(R, annotators, K)`."""
    gamma, total = responsibilities(by_type, fit.log_weights, temperature=temperature)
    log_likelihood = problem.summed(total @ problem.population)
    prior = (fit.parameters * problem.penalty(fit.parameters)).sum(-1) / 2
    return replace(fit, gamma=gamma, log_likelihood=log_likelihood, objective=log_likelihood - prior)


def annotator_weights(problem: Problem, gamma: Tensor) -> Tensor:
    """Weight of every annotator for every type: `(R, annotators, K)` to `(annotators, R * K)`."""
    return (gamma * problem.population.unsqueeze(-1)).transpose(0, 1).flatten(1)


def choice_weights(problem: Problem, gamma: Tensor) -> Weights:
    """Weight of every choice for every type, from responsibilities `(R, annotators, K)`."""
    return problem.likelihood.weights(annotator_weights(problem, gamma))


def m_step(problem: Problem, fit: Fit, *, steps: int = 50, tolerance: float = 1e-10) -> Fit:
    """Coefficients by Newton's method; mixture weights in closed form, or with covariates by Newton's method."""
    weighted = annotator_weights(problem, fit.gamma)
    weights = problem.likelihood.weights(weighted)
    parameters, _ = maximise(
        lambda point: _local(problem, point, weighted, weights), fit.parameters, steps=steps, tolerance=tolerance
    )
    return _with_shares(problem, replace(fit, parameters=parameters), steps)


def ascended(problem: Problem, fit: Fit, temperature: float = 1.0, solver: Solver | None = None) -> tuple[Fit, Solver]:
    """One E-step and one damped Newton step: generalised expectation maximisation (Dempster, Laird & Rubin 1977).

    No utility changes by more than `LARGEST_CHANGE`; choices are evaluated once. Responsibilities and the objective are
    those before the step. The step solves with the curvature of an earlier one if its `solver` is given. Returns the
    fit and the solver.
    """
    restarts, types = len(fit.parameters), problem.types
    here = problem.likelihood.at(problem.coefficients(fit.parameters).flatten(0, 1))
    sums = here.by_annotator().view(-1, restarts, types).transpose(0, 1)
    fit = with_posterior(problem, fit, sums, temperature)
    weights = choice_weights(problem, fit.gamma)
    solver = conditioned(problem, here, weights, rough=True) if solver is None else solver
    step = _solved(problem, here, weights, _gradient(problem, fit.parameters, here, weights), solver, ROUGH_STEPS)
    change = problem.logit.utilities(problem.directions(step).flatten(0, 1)).abs()
    largest = change.amax(0).view(restarts, types).amax(1) if len(change) else change.new_zeros(restarts)
    parameters = fit.parameters + step * (LARGEST_CHANGE / largest.clamp(min=LARGEST_CHANGE)).unsqueeze(1)
    return _with_shares(problem, replace(fit, parameters=parameters), steps=1), solver


def _with_shares(problem: Problem, fit: Fit, steps: int) -> Fit:
    """Mixture weights in closed form, or with covariates by Newton's method."""
    if problem.covariates is None:
        shares = shares_of(problem, fit.gamma)
        return replace(fit, log_weights=mixture_weights(shares.unsqueeze(-2), floor=LEAST_WEIGHT).log())
    membership = _membership(problem, problem.covariates, fit, steps)
    return replace(fit, membership=membership, log_weights=log_shares(problem.covariates, membership))


def shares_of(problem: Problem, gamma: Tensor) -> Tensor:
    """Shares of the types among the annotators: `(R, annotators, K)` to `(R, K)`."""
    sums = torch.einsum("h,rhk->rk", problem.population, gamma)
    return problem.summed(sums) / problem.summed(problem.population.sum())


def _local(problem: Problem, parameters: Tensor, weighted: Tensor, weights: Weights) -> Local:
    """The log-likelihood less the prior at `(R, m)` parameters, with the weights of annotators and of choices."""
    here = problem.likelihood.at(problem.coefficients(parameters).flatten(0, 1))
    prior = (parameters * problem.penalty(parameters)).sum(-1) / 2
    by_type = torch.where(weighted > 0, weighted * here.by_annotator(), 0.0).sum(0)
    value = problem.summed(by_type).view(len(parameters), problem.types).sum(-1) - prior

    @cache
    def solver() -> Solver:
        return conditioned(problem, here, weights)

    def solve(right: Tensor) -> Tensor:
        return _solved(problem, here, weights, right, solver())

    return Local(value, _gradient(problem, parameters, here, weights), solve)


def _gradient(problem: Problem, parameters: Tensor, here: LikelihoodAt, weights: Weights) -> Tensor:
    """Of the weighted log-likelihood less the prior: `(R, m)`."""
    by_type = here.gradient(weights).view(len(parameters), problem.types, -1)
    return problem.gathered(by_type) - problem.penalty(parameters)


def _solved(
    problem: Problem, here: LikelihoodAt, weights: Weights, right: Tensor, solver: Solver, steps: int = 200
) -> Tensor:
    """The inverse of minus the Hessian of the complete data times `(R, m)`; a small one's `solver` is all it takes."""
    if is_dense(problem):
        return solver(right)
    hessian = here.hessian(weights)

    def product(vectors: Tensor) -> Tensor:
        by_type = hessian(problem.directions(vectors).flatten(0, 1))
        own = problem.gathered(by_type.view(len(right), problem.types, -1))
        return own + problem.least * vectors - problem.coupled(vectors)

    return conjugate_gradients(product, right, solver, steps=steps)


def is_dense(problem: Problem) -> bool:
    """Whether Hessians of the complete data are small enough to be solved as they are."""
    size, types = problem.logit.parameters, problem.types
    return types * size <= DENSE_PARAMETERS or (
        types == 1 and problem.logit.features is not None and size <= DENSE_ALONE
    )


def conditioned(problem: Problem, here: LikelihoodAt, weights: Weights, *, rough: bool = False) -> Solver:
    """A map from `(R, m)` to about the inverse of minus the Hessian of the complete data times it.

    If the Hessian is small, it is exact, or with `rough` that of a sample of the choices. With features it is that of
    choices at random in proportion to each type's weight, in the coordinates in which this is diagonal; with worths it
    is the diagonal alone. The prior's coupling of the types is exact in each (Sherman-Morrison).
    """
    restarts, types, size = here.vectors // problem.types, problem.types, problem.logit.parameters
    if is_dense(problem):
        by_type = here.sampled_curvature(weights, SAMPLE * types * size) if rough else here.curvature(weights)
        joint = joint_curvature(problem, by_type.view(restarts, types, size, size))
        identity = torch.eye(problem.parameters, dtype=joint.dtype, device=joint.device)
        whole = joint + torch.diag(problem.least) - problem.coupled(identity)
        factor, failed = torch.linalg.cholesky_ex(whole)
        if bool(failed.any()):
            return lambda right: torch.linalg.solve(whole, right.unsqueeze(-1)).squeeze(-1)
        return lambda right: torch.cholesky_solve(right.unsqueeze(-1), factor).squeeze(-1)
    turn = None
    if problem.logit.features is not None and problem.may_turn:
        values, turn = problem.likelihood.spectrum(problem.population)
        by_type = totals(weights).unsqueeze(1) * values
    else:
        by_type = here.diagonal(weights)
    diagonal = problem.gathered(by_type.view(restarts, types, size)) + problem.least
    _, b, column = problem.prior
    sums = diagonal.new_zeros(restarts, size).index_add(1, column, 1 / diagonal)
    factor = (b / (1 - b * sums).clamp(min=1e-12))[:, column]

    def turned(values: Tensor, by: Tensor | None) -> Tensor:
        return values if by is None else problem.gathered(problem.directions(values) @ by)

    def solve(right: Tensor) -> Tensor:
        alone = turned(right, turn) / diagonal
        common = alone.new_zeros(restarts, size).index_add(1, column, alone)[:, column]
        return turned(alone + factor * common / diagonal, None if turn is None else turn.mT)

    return solve


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
        value = problem.summed(torch.einsum("h,rhk->r", population, fit.gamma * log_eta))
        residual = fit.gamma[..., 1:] - eta
        gradient = problem.summed(torch.einsum("h,rhk,hq->rkq", population, residual, covariates)).flatten(1)
        spread = torch.diag_embed(eta) - eta.unsqueeze(-1) * eta.unsqueeze(-2)
        curvature = torch.einsum("h,rhkl,hp,hq->rkplq", population, spread, covariates, covariates)
        tiny = 1e-10 * torch.eye(size, dtype=flat.dtype, device=flat.device)
        joint = problem.summed(curvature).reshape(-1, size, size) + tiny
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
    share = shares_of(problem, fit.gamma)[0]
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

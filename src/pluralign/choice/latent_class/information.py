"""Observed information of latent-class choice models, by Louis' identity.

With s_hk the complete-data score of annotator h as type k and gamma_hk the posterior,

    score of h   s_h = sum_k gamma_hk s_hk
    information  I   = sum_h w_h ( sum_k gamma_hk (-H_hk) - [ sum_k gamma_hk s_hk s_hk' - s_h s_h' ] ) + prior

(Louis 1982), exact and in one pass. The parameters are the free coefficients, then the membership: logits of the
types against the first one, or the coefficients of the covariates.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from pluralign.choice.latent_class.em import (
    Fit,
    Solver,
    choice_weights,
    conditioned,
    joint_curvature,
    log_shares,
    with_posterior,
)
from pluralign.choice.latent_class.likelihood import LikelihoodAt, Weights
from pluralign.choice.latent_class.problem import Problem

EXACT = 1e-12
"""Newton decrement, relative to the objective, at which a fit has converged to its last digits."""

SAME_CONDITIONER = 3
"""Newton's method keeps the curvature that preconditions its steps for this many of them."""

MOST_PRODUCTS = 60
"""Products with the information in a Newton step."""


@dataclass(frozen=True)
class Information:
    """Derivatives at the parameters of one fit.

    Args:
        gradient: `(m,)` of the log-likelihood plus log prior.
        matrix: `(m, m)` minus its Hessian.
        complete: `(m, m)` minus the Hessian if the types were observed.
        outer: `(m, m)` sum_h w_h^2 s_h s_h', for robust standard errors.
    """

    gradient: Tensor
    matrix: Tensor
    complete: Tensor
    outer: Tensor

    @cached_property
    def spectrum(self) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenvalues and eigenvectors of the matrix in units in which its diagonal is 1, and these units `(m,)`."""
        units = self.matrix.diagonal().abs().clamp(min=1e-300).sqrt()
        values, vectors = torch.linalg.eigh(self.matrix / torch.outer(units, units))
        return values, vectors, units

    @cached_property
    def inverse(self) -> Tensor:
        """The pseudo-inverse of the matrix."""
        values, vectors, units = self.spectrum
        kept = values.abs() > torch.finfo(values.dtype).eps * len(values) * values.abs().max()
        vectors = vectors / units.unsqueeze(1)
        return (vectors * torch.where(kept, 1 / values, 0.0)) @ vectors.T


def observed_information(problem: Problem, fit: Fit) -> Information:
    """Gradient and observed information of the one restart in `fit`, whose gamma must be its posterior."""
    beta = problem.coefficients(fit.parameters)
    gamma, population = fit.gamma[0], problem.population
    free, types = problem.parameters, problem.types
    covariates = gamma.new_ones(len(gamma), 1) if problem.covariates is None else problem.covariates
    width = covariates.shape[1]
    size = free + (types - 1) * width
    here = problem.likelihood.at(beta[0])
    eta = fit.log_weights.expand(1, *gamma.shape)[0].exp()
    mean, outer = gamma.new_zeros(len(gamma), size), gamma.new_zeros(size, size)
    for kind in range(types):
        score = gamma.new_zeros(len(gamma), size)
        slots = problem.slot[kind]
        score[:, slots[slots >= 0]] = here.annotator_gradients(kind)[:, slots >= 0]
        for other in range(1, types):
            place = slice(free + (other - 1) * width, free + other * width)
            score[:, place] = (float(kind == other) - eta[:, other : other + 1]) * covariates
        mean += gamma[:, kind : kind + 1] * score
        outer += (score * (population * gamma[:, kind]).unsqueeze(1)).T @ score
    weighted = mean * population.unsqueeze(1)
    within = problem.summed(outer - weighted.T @ mean)
    weights = choice_weights(problem, fit.gamma)
    curvature = here.curvature(weights)
    complete = gamma.new_zeros(size, size)
    complete[:free, :free] = joint_curvature(problem, curvature.unsqueeze(0))[0]
    for first, second in itertools.product(range(1, types), repeat=2):
        spread = population * (float(first == second) * eta[:, first] - eta[:, first] * eta[:, second])
        rows = slice(free + (first - 1) * width, free + first * width)
        columns = slice(free + (second - 1) * width, free + second * width)
        complete[rows, columns] = problem.summed((covariates * spread.unsqueeze(1)).T @ covariates)
    gradient = problem.summed(population @ mean)
    gradient[:free] -= problem.penalty(fit.parameters)[0]
    complete[:free, :free] += problem.penalty(torch.eye(free, dtype=complete.dtype, device=complete.device))
    matrix = complete - within
    return Information(gradient, (matrix + matrix.T) / 2, complete, problem.summed(weighted.T @ weighted))


def annotator_scores(problem: Problem, beta: Tensor) -> Tensor:
    """Gradient of each annotator's log-likelihood under one coefficient vector `(1, 1, p)`: `(annotators, m)`."""
    return problem.gathered(problem.likelihood.at(beta[0]).annotator_gradients(0).unsqueeze(1))


def polished(
    problem: Problem, fit: Fit, *, steps: int = 100, tolerance: float = EXACT
) -> tuple[Fit, bool, list[float]]:
    """Newton's method on the likelihood itself, from the one restart in `fit`; whether it converged, and its trace.

    Expectation maximisation converges linearly, Newton's method quadratically. Steps solve with the observed
    information by conjugate gradients, preconditioned by the information of the complete data, so that the first of
    them is a step of expectation maximisation; they end where the information is not positive definite. It has
    converged where the Newton decrement g' I^-1 g / 2 is below `tolerance` times 1 + |objective|.
    """
    here = _At.of(problem, fit)
    trace, solver = [float(here.fit.log_likelihood[0])], None
    for number in range(steps):
        if number % SAME_CONDITIONER == 0 or solver is None:
            solver = conditioned(problem, here.likelihood, here.weights, rough=True)
        step, definite = here.newton_step(solver)
        found, slope = here.fit, float(here.gradient @ step)
        size = 1 + abs(float(found.objective[0]))
        if slope / 2 <= tolerance * size:
            return found, definite, trace
        del here  # a large panel is held once
        for scale in (1.0, 0.5, 0.25, 0.1, 0.03, 0.01):
            here = _At.of(problem, _moved(problem, found, scale * step))
            if float(here.fit.objective[0]) > float(found.objective[0]):
                break
        else:  # the objective no longer rises in its last digits
            return found, definite and slope / 2 <= 1e3 * tolerance * size, trace
        trace.append(float(here.fit.log_likelihood[0]))
    return here.fit, False, trace


@dataclass(frozen=True)
class _At:
    """The likelihood at a fit, whose gamma is its posterior."""

    problem: Problem
    fit: Fit
    likelihood: LikelihoodAt

    @classmethod
    def of(cls, problem: Problem, fit: Fit) -> _At:
        here = problem.likelihood.at(problem.coefficients(fit.parameters)[0])
        return cls(problem, with_posterior(problem, fit, here.by_annotator().unsqueeze(0)), here)

    @cached_property
    def weights(self) -> Weights:
        return choice_weights(self.problem, self.fit.gamma)

    @cached_property
    def covariates(self) -> Tensor:
        given = self.problem.covariates
        return self.fit.gamma.new_ones(self.fit.gamma.shape[1], 1) if given is None else given

    @cached_property
    def shares(self) -> Tensor:
        return self.fit.log_weights.expand(1, *self.fit.gamma.shape[1:])[0].exp()

    @cached_property
    def gradient(self) -> Tensor:
        """Of the log-likelihood plus log prior, in the free coefficients and the membership `(m,)`."""
        free = self.problem.gathered(self.likelihood.gradient(self.weights).unsqueeze(0))
        free = free - self.problem.penalty(self.fit.parameters)
        return torch.cat((free[0], self._membership(self.fit.gamma[0] - self.shares)))

    def _membership(self, residual: Tensor) -> Tensor:
        """What residuals `(annotators, K)` of the membership give its coefficients."""
        weighted = residual[:, 1:] * self.problem.population.unsqueeze(1)
        return self.problem.summed(weighted.T @ self.covariates).flatten()

    def newton_step(self, solve_free: Solver) -> tuple[Tensor, bool]:
        """About I^-1 g, and whether the information was positive definite in all directions that were tried.

        `solve_free` is about the inverse of the complete data's information for the free coefficients.
        """
        free = self.problem.parameters
        solve_membership = self._membership_solver()

        def conditioner(right: Tensor) -> Tensor:
            return torch.cat((solve_free(right[:free].unsqueeze(0))[0], solve_membership(right[free:])))

        solution, residual = torch.zeros_like(self.gradient), self.gradient
        direction = scaled = conditioner(residual)
        size = first = float(residual @ scaled)
        # Far from the optimum a rough step is good enough; near it the number of right digits doubles with each.
        wanted = min(0.1, max(1e-3, (max(first, 0.0) / (1 + abs(float(self.fit.objective[0])))) ** 0.5))
        for number in range(MOST_PRODUCTS):
            along = self._product(direction)
            bend = float(direction @ along)
            if bend <= 1e-14 * size:
                return (solution if number else direction), False
            solution, residual = solution + size / bend * direction, residual - size / bend * along
            scaled = conditioner(residual)
            new = float(residual @ scaled)
            if new <= wanted**2 * first:
                break
            direction, size = scaled + new / size * direction, new
        return solution, True

    def _product(self, vector: Tensor) -> Tensor:
        """The observed information times a vector `(m,)`: minus the change of the gradient along it."""
        problem, gamma, free = self.problem, self.fit.gamma[0], self.problem.parameters
        step = vector[:free].unsqueeze(0)
        along = self.likelihood.along(problem.directions(step)[0])
        scores = torch.nn.functional.pad(self.covariates @ vector[free:].view(-1, self.covariates.shape[1]).T, (1, 0))
        scores = scores - (self.shares * scores).sum(1, keepdim=True)
        change = along.by_annotator() + scores
        change = torch.where(gamma > 0, gamma * (change - (gamma * change).sum(1, keepdim=True)), 0.0)
        by_type = along.product(self.weights, change * problem.population.unsqueeze(1))
        own = problem.gathered(by_type.unsqueeze(0)) + problem.penalty(step)
        return torch.cat((own[0], -self._membership(change - self.shares * scores)))

    def _membership_solver(self) -> Callable[[Tensor], Tensor]:
        """Solves with the information about the membership if the types were observed."""
        types, width = self.shares.shape[1] - 1, self.covariates.shape[1]
        if not types:
            return lambda right: right
        eta = self.shares[:, 1:]
        spread = torch.diag_embed(eta) - eta.unsqueeze(-1) * eta.unsqueeze(-2)
        weighted = self.covariates * self.problem.population.unsqueeze(1)
        matrix = torch.einsum("hkl,hp,hq->kplq", spread, weighted, self.covariates).reshape(types * width, -1)
        matrix = self.problem.summed(matrix) + 1e-10 * torch.eye(
            types * width, dtype=matrix.dtype, device=matrix.device
        )
        return lambda right: torch.linalg.solve(matrix, right)


def _moved(problem: Problem, fit: Fit, step: Tensor) -> Fit:
    """The fit after a step in all parameters."""
    parameters = fit.parameters + step[: problem.parameters]
    rest = step[problem.parameters :]
    if problem.covariates is not None:
        membership = fit.membership + rest.view(fit.membership.shape)
        log_weights = log_shares(problem.covariates, membership)
        return replace(fit, parameters=parameters, membership=membership, log_weights=log_weights)
    logits = fit.log_weights + torch.cat((rest.new_zeros(1), rest))
    return replace(fit, parameters=parameters, log_weights=torch.log_softmax(logits, -1))

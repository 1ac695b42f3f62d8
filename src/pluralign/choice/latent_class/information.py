"""Observed information of latent-class choice models, by Louis' identity.

With s_hk the complete-data score of annotator h as type k and gamma_hk the posterior,

    score of h   s_h = sum_k gamma_hk s_hk
    information  I   = sum_h w_h ( sum_k gamma_hk (-H_hk) - [ sum_k gamma_hk s_hk s_hk' - s_h s_h' ] ) + prior

(Louis 1982), exact and in one pass. The parameters are the free coefficients, then the membership: logits of the
types against the first one, or the coefficients of the covariates.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pluralign.choice.latent_class.em import Fit, choice_weights, e_step, joint_curvature, log_shares
from pluralign.choice.latent_class.problem import Problem


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


def observed_information(problem: Problem, fit: Fit) -> Information:
    """Gradient and observed information of the one restart in `fit`, whose gamma must be its posterior."""
    beta = problem.coefficients(fit.parameters)
    gamma, population = fit.gamma[0], problem.population
    free, types = problem.parameters, problem.types
    covariates = gamma.new_ones(len(gamma), 1) if problem.covariates is None else problem.covariates
    width = covariates.shape[1]
    size = free + (types - 1) * width
    scores = _choice_scores(problem, beta)
    eta = fit.log_weights.expand(1, *gamma.shape)[0].exp()
    mean, outer = gamma.new_zeros(len(gamma), size), gamma.new_zeros(size, size)
    for kind in range(types):
        score = gamma.new_zeros(len(gamma), size)
        slots = problem.slot[kind]
        score[:, slots[slots >= 0]] = scores[kind][:, slots >= 0]
        for other in range(1, types):
            place = slice(free + (other - 1) * width, free + other * width)
            score[:, place] = (float(kind == other) - eta[:, other : other + 1]) * covariates
        mean += gamma[:, kind : kind + 1] * score
        outer += (score * (population * gamma[:, kind]).unsqueeze(1)).T @ score
    weighted = mean * population.unsqueeze(1)
    within = outer - weighted.T @ mean
    weights = choice_weights(problem, fit.gamma)
    curvature = problem.logit.curvature(problem.logit.blocks(beta[0]), weights)
    complete = gamma.new_zeros(size, size)
    complete[:free, :free] = joint_curvature(problem, curvature.unsqueeze(0))[0]
    for first, second in itertools.product(range(1, types), repeat=2):
        spread = population * (float(first == second) * eta[:, first] - eta[:, first] * eta[:, second])
        rows = slice(free + (first - 1) * width, free + first * width)
        columns = slice(free + (second - 1) * width, free + second * width)
        complete[rows, columns] = (covariates * spread.unsqueeze(1)).T @ covariates
    gradient = population @ mean
    gradient[:free] -= problem.penalty(fit.parameters)[0]
    complete[:free, :free] += problem.penalty(torch.eye(free, dtype=complete.dtype, device=complete.device))
    matrix = complete - within
    return Information(gradient, (matrix + matrix.T) / 2, complete, weighted.T @ weighted)


def _choice_scores(problem: Problem, beta: Tensor) -> list[Tensor]:
    """Gradient of log P_k(judgments of h) with respect to type k's coefficients: K times `(annotators, p)`."""
    choices, width = problem.logit.choices.response.shape
    p = beta.new_zeros(choices, width - 1, beta.shape[1])  # (choices, alternatives, K)
    for block in problem.logit.blocks(beta[0]):
        p[block.where] = block.p
    return [problem.logit.design.by_annotator(-p[..., kind], problem.counts) for kind in range(p.shape[-1])]


def annotator_scores(problem: Problem, beta: Tensor) -> Tensor:
    """Gradient of each annotator's log-likelihood under one coefficient vector `(1, 1, p)`: `(annotators, m)`."""
    return problem.gathered(_choice_scores(problem, beta)[0].unsqueeze(1))


def polished(problem: Problem, fit: Fit, *, steps: int = 30, tolerance: float = 1e-12) -> tuple[Fit, bool]:
    """Newton's method on the likelihood itself, from a fit by expectation maximisation; and whether it converged.

    Expectation maximisation converges linearly, Newton's method quadratically. It stops where minus the Hessian is not
    positive definite or a step does not raise the objective, and has converged where the Newton decrement is below
    `tolerance` times 1 + |objective|.
    """
    fit = e_step(problem, fit)
    for _ in range(steps):
        information = observed_information(problem, fit)
        factor, failed = torch.linalg.cholesky_ex(information.matrix)
        if int(failed) or not bool(torch.isfinite(factor).all()):
            break
        step = torch.cholesky_solve(information.gradient.unsqueeze(-1), factor)[:, 0]
        if float(information.gradient @ step) / 2 <= tolerance * (1 + abs(float(fit.objective[0]))):
            return fit, True
        for scale in (1.0, 0.5, 0.25, 0.1):
            moved = e_step(problem, _moved(problem, fit, scale * step))
            if float(moved.objective[0]) > float(fit.objective[0]):
                break
        else:
            break
        fit = moved
    return fit, False


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

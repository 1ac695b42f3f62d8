"""Posteriors of annotators' own coefficients under a normal prior: Laplace's approximation, importance sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.special import gammaincinv
from torch import Tensor

from pluralign.choice.annotator_blocks import Block, Sums

DEGREES = 5
"""Degrees of freedom of the Student t that importance sampling draws from."""


@dataclass(frozen=True)
class Prior:
    """Normal(theta_0, L L' + diag(d)) of the random coefficients, and the coefficients that are the same for all."""

    mean: Tensor
    loadings: Tensor
    variance: Tensor
    shared: Tensor

    def of(self, block: Block) -> tuple[Tensor, Tensor, Tensor]:
        """Mean `(n, q)`, loadings `(n, q, r)` and variance `(n, q)` of a block's coefficients; padding is N(0, 1)."""
        known = block.column >= 0
        column = block.column.clamp(min=0)
        mean = torch.where(known, self.mean[column], 0.0)
        loadings = torch.where(known.unsqueeze(-1), self.loadings[column], 0.0)
        return mean, loadings, torch.where(known, self.variance[column], 1.0)


@dataclass(frozen=True)
class Posterior:
    """The Laplace posterior of a block's annotators: mode, Cholesky factor of the precision, marginal likelihood."""

    mode: Tensor
    precision: Tensor
    log_likelihood: Tensor

    @property
    def covariance(self) -> Tensor:
        """`(n, q, q)`."""
        return torch.cholesky_inverse(self.precision)


def laplace(block: Block, prior: Prior, start: Tensor | None = None) -> Posterior:
    """Mode and curvature of each annotator's posterior, by Newton's method with step halving."""
    mean, loadings, variance = prior.of(block)
    sigma = loadings @ loadings.transpose(1, 2) + torch.diag_embed(variance)
    factor = torch.linalg.cholesky(sigma)
    inverse = torch.cholesky_inverse(factor)
    log_det = torch.diagonal(factor, dim1=1, dim2=2).log().sum(-1)

    def objective(theta: Tensor) -> tuple[Tensor, Sums]:
        value, p = block.log_likelihood(theta, prior.shared)
        moved = theta - mean
        return value - (moved.unsqueeze(1) @ inverse @ moved.unsqueeze(-1)).flatten() / 2, p

    theta = mean if start is None else start
    value, p = objective(theta)
    for _ in range(50):
        gradient = block.gradient(p, block.random) - (inverse @ (theta - mean).unsqueeze(-1)).squeeze(-1)
        precision = torch.linalg.cholesky(block.curvature(p, block.random, block.random) + inverse)
        step = torch.cholesky_solve(gradient.unsqueeze(-1), precision).squeeze(-1)
        decrement = (gradient * step).sum(-1)
        if bool((decrement <= 1e-10).all()):
            break
        scale = torch.ones_like(value)
        for _ in range(30):
            there, at = objective(theta + scale.unsqueeze(-1) * step)
            worse = ~(there >= value - 1e-12 * (1 + value.abs()))
            if not bool(worse.any()):
                break
            scale = torch.where(worse, scale / 2, scale)
        theta, value, p = theta + scale.unsqueeze(-1) * step, there, at
    precision = torch.linalg.cholesky(block.curvature(p, block.random, block.random) + inverse)
    half = torch.diagonal(precision, dim1=1, dim2=2).log().sum(-1)
    return Posterior(theta, precision, value - log_det - half)


def importance(block: Block, prior: Prior, posterior: Posterior, draws: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draws `(draws, n, q)` from a Student t around the Laplace posterior, whose tails are thicker than those of the
    posterior, and log P(judgments | theta) p(theta) / q(theta) of each `(draws, n)`.

    q is scaled so that the draws integrate the Laplace posterior exactly: where the posterior is normal, as it is
    without information, so is the marginal likelihood.
    """
    mean, loadings, variance = prior.of(block)
    factor = torch.linalg.cholesky(loadings @ loadings.transpose(1, 2) + torch.diag_embed(variance))
    size, precision = mean.shape[1], posterior.precision
    # Scrambled Sobol points: integrals converge faster than by random ones.
    uniform = torch.quasirandom.SobolEngine(size + 1, scramble=True, seed=seed).draw(draws, dtype=torch.float64)
    uniform = uniform.clamp(1e-9, 1 - 1e-9)
    chi2 = torch.as_tensor(gammaincinv(DEGREES / 2, uniform[:, :1].numpy())) * 2 / DEGREES
    student = (torch.special.ndtri(uniform[:, 1:]) / chi2.sqrt()).unsqueeze(1)
    moved = torch.linalg.solve_triangular(precision.transpose(1, 2), student.unsqueeze(-1), upper=True).squeeze(-1)
    theta = posterior.mode + moved
    value = torch.stack([block.log_likelihood(one, prior.shared)[0] for one in theta])
    whitened = torch.linalg.solve_triangular(factor, (theta - mean).unsqueeze(-1), upper=False).squeeze(-1)
    log_prior = -whitened.square().sum(-1) / 2 - torch.diagonal(factor, dim1=1, dim2=2).log().sum(-1)
    half = (DEGREES + size) / 2
    constant = math.lgamma(half) - math.lgamma(DEGREES / 2) + size / 2 * math.log(2 / DEGREES)  # against a normal
    squared = student.square().sum(-1)
    log_proposal = constant - half * torch.log1p(squared / DEGREES)
    log_proposal = log_proposal + torch.logsumexp(-squared / 2 - log_proposal, 0) - math.log(draws)
    log_proposal = log_proposal + torch.diagonal(precision, dim1=1, dim2=2).log().sum(-1)
    return theta, value + log_prior - log_proposal

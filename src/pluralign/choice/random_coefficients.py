"""Random-coefficients Plackett-Luce: annotators whose tastes differ by degrees.

Every annotator h has coefficients of their own, drawn from one normal distribution (the panel mixed logit of
Revelt & Train 1998, for rankings):

    theta_h ~ Normal(theta_0, Sigma),   Sigma = L L' + diag(d),   u = features @ theta_h  (or one worth per response)

The log-likelihood of an annotator's rankings is concave in theta_h, so the posterior has one mode, and a Laplace
approximation there gives the E-step of expectation maximisation; the M-step is that of factor analysis. With Sigma = 0
this is the one-type model, and beside the latent classes it answers whether annotators come in types or differ by
degrees: both are compared by the held-out marginal likelihood, which is computed by importance sampling from the
Laplace posterior.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from pluralign.choice.annotator_blocks import Block, blocks_of
from pluralign.choice.annotator_posteriors import Posterior, Prior, importance, laplace
from pluralign.choice.latent_class.panel import Panel

LEAST_VARIANCE = 1e-8
"""No variance of a random coefficient falls below this, so that Sigma can be inverted."""


class RandomCoefficientsPlackettLuce(BaseEstimator):
    """Annotators whose coefficients follow one normal distribution.

    Args:
        rank: columns r of L; 0 leaves a diagonal covariance.
        ties: `efron` or `breslow`.
        top: only the first `top` places of a ranking count.
        random: columns of the features whose coefficients differ between annotators; `None` is all. The others are
            the same for every annotator. Without features a worth is random or not by its response.
        common_variance: one d for all coefficients; otherwise each has its own.
        ridge: precision of the normal prior on theta_0, and
        loading_ridge: of that on the loadings; `None` takes `ridge`.
        moments: how the E-step finds an annotator's posterior mean and covariance: `laplace`, or `importance`, which
            corrects them by importance sampling and makes expectation maximisation that of the exact likelihood.
        draws: of each annotator's coefficients, for importance sampling.
        max_iterations: of expectation maximisation.
        tolerance: stop when the log-likelihood rises by less than this per judgment.
        seed: of the draws.

    Attributes:
        mean_: theta_0 `(p,)`; of a coefficient that is not random, its value.
        loadings_: L `(p, r)`, 0 where a coefficient is not random.
        variances_: d `(p,)`.
        log_likelihood_: marginal log-likelihood of the panel in nats, by Laplace's approximation.
        n_iter_: iterations.
        converged_: whether they ended before `max_iterations`.

    Raises:
        ValueError: a setting does not fit the panel.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> features, shown = rng.normal(size=(300, 2)), rng.permutation(np.arange(1200) % 300).reshape(400, 3)
        >>> person = np.repeat(np.arange(40), 10)
        >>> theta = [1.0, 0.0] + rng.normal(size=(40, 2)) * [1.0, 0.0]
        >>> utility = (features[shown] * theta[person][:, None]).sum(-1) + rng.gumbel(size=shown.shape)
        >>> panel = Panel(shown, (-utility).argsort(1).argsort(1) + 1, person, features)
        >>> model = RandomCoefficientsPlackettLuce(rank=1, common_variance=False).fit(panel)
        >>> bool(np.sqrt(model.covariance_[0, 0]) > 4 * np.sqrt(model.covariance_[1, 1]))
        True
    """

    mean_: np.ndarray
    loadings_: np.ndarray
    variances_: np.ndarray
    log_likelihood_: float
    n_iter_: int
    converged_: bool

    def __init__(
        self,
        rank: int = 2,
        *,
        ties: str = "efron",
        top: int | None = None,
        random: Sequence[int] | None = None,
        common_variance: bool = True,
        ridge: float = 1e-6,
        loading_ridge: float | None = None,
        moments: str = "laplace",
        draws: int = 256,
        max_iterations: int = 200,
        tolerance: float = 1e-5,
        seed: int = 0,
    ) -> None:
        self.rank = rank
        self.ties = ties
        self.top = top
        self.random = random
        self.common_variance = common_variance
        self.ridge = ridge
        self.loading_ridge = loading_ridge
        self.moments = moments
        self.draws = draws
        self.max_iterations = max_iterations
        self.tolerance = tolerance
        self.seed = seed

    def fit(self, panel: Panel) -> RandomCoefficientsPlackettLuce:
        """Fit the distribution of coefficients to a panel by expectation maximisation."""
        size = panel.response_count if panel.features is None else np.asarray(panel.features).shape[1]
        self._columns = np.arange(size) if self.random is None else np.asarray(sorted(self.random), dtype=np.int64)
        self._check(panel, size)
        blocks = self._blocks(panel)
        weight = torch.as_tensor(panel.weights)
        prior = self._start(blocks, weight)
        modes: list[Tensor | None] = [None] * len(blocks)
        places = max(1, panel.judgments)
        before, self.converged_ = -np.inf, False
        for iteration in range(self.max_iterations):
            self.n_iter_ = iteration + 1
            posteriors = [laplace(block, prior, start) for block, start in zip(blocks, modes, strict=True)]
            total = self._total(blocks, posteriors, weight)
            if total - before <= self.tolerance * places and self.n_iter_ > 1:
                self.converged_ = True
                break
            before, modes = total, [posterior.mode for posterior in posteriors]
            prior = self._m_step(blocks, posteriors, prior, weight)
        self._prior = prior
        self.log_likelihood_ = total
        mean, loadings, variances = np.zeros(size), np.zeros((size, self.rank)), np.zeros(size)
        mean[self._columns], mean[self._others(size)] = prior.mean.numpy(), prior.shared.numpy()
        loadings[self._columns], variances[self._columns] = prior.loadings.numpy(), prior.variance.numpy()
        self.mean_, self.loadings_, self.variances_ = mean, loadings, variances
        return self

    @property
    def covariance_(self) -> np.ndarray:
        """Sigma `(p, p)`."""
        return np.asarray(self.loadings_ @ self.loadings_.T + np.diag(self.variances_))

    def posterior(self, panel: Panel) -> tuple[np.ndarray, np.ndarray]:
        """Posterior mean `(annotators, p)` and covariance `(annotators, p, p)` of each annotator's coefficients.

        Coefficients that an annotator's judgments say nothing of keep the distribution given the others.
        """
        size = len(self.mean_)
        means = np.tile(self.mean_, (panel.annotators, 1))
        covariances = np.tile(self.covariance_, (panel.annotators, 1, 1))
        sigma = self.covariance_
        for block in self._blocks(panel):
            found = laplace(block, self._prior)
            for row, annotator in enumerate(block.annotator.tolist()):
                local = block.column[row] >= 0
                seen = self._columns[block.column[row][local].numpy()]
                inverse = np.linalg.pinv(sigma[np.ix_(seen, seen)], hermitian=True)
                gain = sigma[:, seen] @ inverse
                moved = found.mode[row][local].numpy() - self.mean_[seen]
                inner = found.covariance[row][local][:, local].numpy() - sigma[np.ix_(seen, seen)]
                means[annotator] = self.mean_ + gain @ moved
                covariances[annotator] = sigma + gain @ inner @ gain.T
        return means.reshape(-1, size), covariances

    def annotator_log_likelihood(self, panel: Panel) -> np.ndarray:
        """log of the integral of P(judgments of h | theta) over the distribution of theta: `(annotators,)`, in nats.

        By importance sampling with `draws` draws from each annotator's Laplace posterior; new annotators included.
        """
        found = np.zeros(panel.annotators)
        for block in self._blocks(panel):
            posterior = laplace(block, self._prior)
            _, log_weights = importance(block, self._prior, posterior, self.draws, self.seed)
            found[block.annotator.numpy()] = torch.logsumexp(log_weights, 0).numpy() - np.log(self.draws)
        return found

    def score(self, panel: Panel) -> float:
        """Mean log-likelihood of a judgment, in nats."""
        return float(self.annotator_log_likelihood(panel).sum() / max(1, panel.judgments))

    def sample_coefficients(self, annotators: int, seed: int = 0) -> np.ndarray:
        """Coefficients of new annotators, drawn from the fitted distribution: `(annotators, p)`."""
        draw = np.random.default_rng(seed)
        factors = draw.normal(size=(annotators, self.loadings_.shape[1])) @ self.loadings_.T
        own = draw.normal(size=(annotators, len(self.mean_))) * np.sqrt(self.variances_)
        return np.asarray(self.mean_ + factors + own)

    def _check(self, panel: Panel, size: int) -> None:
        if not panel.judgments:
            raise ValueError("panel: found no judgment, expected at least one")
        if panel.available is not None or panel.covariates is not None:
            raise ValueError("panel: availability and covariates belong to types, which this model does not have")
        if self.rank < 0 or self.draws < 1 or self.max_iterations < 1 or self.ridge < 0:
            raise ValueError("expected rank >= 0, draws >= 1, max_iterations >= 1 and ridge >= 0")
        if self.moments not in ("laplace", "importance"):
            raise ValueError(f"moments: found {self.moments!r}, expected laplace or importance")
        if len(self._columns) and not 0 <= self._columns[0] <= self._columns[-1] < size:
            raise ValueError(f"random: found {self._columns.tolist()}, expected columns from 0 to {size - 1}")

    def _others(self, size: int) -> np.ndarray:
        return np.setdiff1d(np.arange(size), self._columns)

    def _blocks(self, panel: Panel) -> list[Block]:
        return blocks_of(panel, self._columns, ties=self.ties, top=self.top)

    def _start(self, blocks: list[Block], weight: Tensor) -> Prior:
        """The one-type model, and a small variance around it."""
        random, shared = len(self._columns), blocks[0].fixed.shape[-1]
        start = Prior(
            torch.zeros(random, dtype=torch.float64),
            torch.zeros(random, self.rank, dtype=torch.float64),
            torch.full((random,), LEAST_VARIANCE, dtype=torch.float64),
            torch.zeros(shared, dtype=torch.float64),
        )
        mean, shared_values = _one_taste(blocks, start, weight, self.ridge)
        # Utilities start with a standard deviation near one half in each column of L, and in d.
        size = sum(float(block.random.square().sum()) for block in blocks)
        rows = sum(float((block.random != 0).any(-1).sum()) for block in blocks)
        scale = 0.5 * (max(rows, 1.0) / max(size, 1e-12)) ** 0.5
        generator = torch.Generator().manual_seed(self.seed)
        loadings = scale * torch.randn(random, self.rank, generator=generator, dtype=torch.float64)
        return Prior(mean, loadings, torch.full((random,), scale**2, dtype=torch.float64), shared_values)

    @staticmethod
    def _total(blocks: list[Block], posteriors: list[Posterior], weight: Tensor) -> float:
        pairs = zip(blocks, posteriors, strict=True)
        return float(sum((weight[block.annotator] * found.log_likelihood).sum() for block, found in pairs))

    def _m_step(self, blocks: list[Block], posteriors: list[Posterior], prior: Prior, weight: Tensor) -> Prior:
        """Factor analysis with missing coefficients; a Newton step for those that all annotators share."""
        random, rank = len(self._columns), self.rank
        inner = prior.mean.new_zeros(random, rank + 1, rank + 1)  # sum of E[(1, z)(1, z)'] over who saw a response
        outer = prior.mean.new_zeros(random, rank + 1)  # sum of E[theta (1, z)]
        square = prior.mean.new_zeros(random)  # sum of E[theta^2]
        spread, people = prior.mean.new_zeros(rank, rank), 0.0
        slope = prior.shared.new_zeros(len(prior.shared))
        bend = prior.shared.new_zeros(len(prior.shared), len(prior.shared))
        for block, posterior in zip(blocks, posteriors, strict=True):
            w = weight[block.annotator]
            mode, covariance = posterior.mode, posterior.covariance
            draws = None
            if self.moments == "importance":
                draws, log_weights = importance(block, prior, posterior, self.draws, self.seed)
                share = torch.softmax(log_weights, 0)
                mode = torch.einsum("sn,snq->nq", share, draws)
                covariance = torch.einsum("sn,snp,snq->npq", share, draws - mode, draws - mode)
            if len(prior.shared):
                if draws is None:
                    draws, share = posterior.mode.unsqueeze(0), torch.ones(1, len(mode), dtype=mode.dtype)
                for theta, part in zip(draws, share, strict=True):
                    _, p = block.log_likelihood(theta, prior.shared)
                    slope += (w * part) @ block.gradient(p, block.fixed)
                    bend += torch.einsum("n,npq->pq", w * part, block.curvature(p, block.fixed, block.fixed))
            mean, loadings, variance = prior.of(block)
            scaled = loadings / variance.unsqueeze(-1)
            middle = torch.linalg.inv(torch.eye(rank, dtype=mode.dtype) + loadings.transpose(1, 2) @ scaled)
            to_factor = middle @ scaled.transpose(1, 2)  # (n, r, q): E[z | theta] = to_factor (theta - mean)
            z = (to_factor @ (mode - mean).unsqueeze(-1)).squeeze(-1)
            carried = to_factor @ covariance  # (n, r, q)
            zz = middle + carried @ to_factor.transpose(1, 2) + z.unsqueeze(-1) * z.unsqueeze(-2)
            one = torch.cat((z.new_ones(len(z), 1), z), 1)
            ones = torch.cat((one.unsqueeze(1), torch.cat((z.unsqueeze(-1), zz), 2)), 1)
            theta_one = torch.cat((torch.zeros_like(mode).unsqueeze(-1), carried.transpose(1, 2)), 2)
            theta_one = theta_one + mode.unsqueeze(-1) * one.unsqueeze(1)
            squares = torch.diagonal(covariance, dim1=1, dim2=2) + mode.square()
            known = block.column >= 0
            index, owner = block.column[known], known.nonzero()[:, 0]
            inner.index_add_(0, index, w[owner, None, None] * ones[owner])
            outer.index_add_(0, index, w[owner, None] * theta_one[known])
            square.index_add_(0, index, w[owner] * squares[known])
            spread += torch.einsum("n,nrs->rs", w, zz)
            people += float(w.sum())
        loading_ridge = self.ridge if self.loading_ridge is None else self.loading_ridge
        precision = torch.diag(torch.tensor([self.ridge, *[loading_ridge] * rank], dtype=inner.dtype))
        penalty = prior.variance[:, None, None] * precision
        solved = torch.linalg.solve(inner + penalty + 1e-12 * torch.eye(rank + 1, dtype=inner.dtype), outer)
        number = inner[:, 0, 0].clamp(min=1e-12)
        residual = square - 2 * (solved * outer).sum(1) + torch.einsum("ji,jik,jk->j", solved, inner, solved)
        variance = (residual / number).clamp(min=LEAST_VARIANCE)
        if self.common_variance and random:
            variance = torch.full_like(variance, max(float(residual.sum() / number.sum()), LEAST_VARIANCE))
        loadings = solved[:, 1:]
        if rank:  # parameter expansion (Liu, Rubin, Wu 1998): z may have any covariance, which L then takes over
            loadings = loadings @ torch.linalg.cholesky(spread / max(people, 1e-12) + 1e-12 * torch.eye(rank))
        shared = prior.shared
        if len(shared):
            least = max(self.ridge, 1e-9)
            bend = bend + least * torch.eye(len(shared), dtype=bend.dtype)
            shared = shared + torch.linalg.solve(bend, slope - self.ridge * shared)
        return Prior(solved[:, 0], loadings, variance, shared)


def _one_taste(blocks: list[Block], start: Prior, weight: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Coefficients of the one-type model, random and shared, by Newton's method."""
    random, shared = len(start.mean), len(start.shared)
    size = random + shared
    values = torch.zeros(size, dtype=torch.float64)
    for _ in range(50):
        slope, bend = -ridge * values, (ridge + 1e-9) * torch.eye(size, dtype=torch.float64)
        for block in blocks:
            known = block.column >= 0
            theta = values.new_zeros(known.shape)
            theta[known] = values[block.column[known]]
            _, p = block.log_likelihood(theta, values[random:])
            w = weight[block.annotator]
            index = torch.where(known, block.column, size)
            index = torch.cat((index, torch.arange(random, size).expand(len(w), -1)), 1)
            rows = torch.cat((block.random, block.fixed), -1)
            padded_slope = torch.zeros(size + 1, dtype=torch.float64)
            padded_slope.index_add_(0, index.flatten(), (w.unsqueeze(1) * block.gradient(p, rows)).flatten())
            slope = slope + padded_slope[:size]
            cells = (index.unsqueeze(-1) * (size + 1) + index.unsqueeze(-2)).flatten()
            padded = torch.zeros((size + 1) ** 2, dtype=torch.float64)
            padded.index_add_(0, cells, (w[:, None, None] * block.curvature(p, rows, rows)).flatten())
            bend = bend + padded.view(size + 1, size + 1)[:size, :size]
        step = torch.linalg.solve(bend, slope)
        values = values + step
        if float(slope @ step) <= 1e-10:
            break
    return values[:random], values[random:]

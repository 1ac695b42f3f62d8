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

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import gammaincinv
from sklearn.base import BaseEstimator
from torch import Tensor

from pluralign.choice.latent_class.choice_sets import ChoiceSets, choice_sets
from pluralign.choice.latent_class.panel import Panel

CELLS = 2**23
"""Numbers that the feature differences of one block of annotators may take."""

MOST_PADDING = 2
"""A block may have this many times as many places as choices, and"""

UNPADDED = 4096
"""this many places more, before it is split."""

DEGREES = 5
"""Degrees of freedom of the Student t that importance sampling draws from."""

LEAST_VARIANCE = 1e-8
"""No variance of a random coefficient falls below this, so that Sigma can be inverted."""


@dataclass(frozen=True)
class Block:
    """Annotators of similar size with their choices (`choice_sets`), padded.

    n annotators, e choices of each, a responses and d places in a choice, q random and f shared coefficients.

    Args:
        annotator: `(n,)`.
        column: `(n, q)` the random coefficient behind each local one; -1 is padding.
        random: `(n, e * a, q)` features of the responses in the random coefficients, less those of the choice's first.
        fixed: `(n, e * a, f)` the same in the coefficients that all annotators share.
        tied: `(n, e, a)` 1 for the responses of the block T, else 0.
        others: `(n, e, a)` 1 for those of the set A; a place that is in neither is padding.
        share: `(n, e, d)` a_j.
        live: `(n, e, d)` 1 for a place, 0 for padding.
        times: `(n, e)` how often the choice was made, weighted by reliability.
    """

    annotator: Tensor
    column: Tensor
    random: Tensor
    fixed: Tensor
    tied: Tensor
    others: Tensor
    share: Tensor
    live: Tensor
    times: Tensor

    def log_likelihood(self, theta: Tensor, shared: Tensor) -> tuple[Tensor, Sums]:
        """`(..., n)` in nats under `(..., n, q)` coefficients, and what its derivatives need."""
        utility = (self.random @ theta.unsqueeze(-1)).squeeze(-1) + self.fixed @ shared
        utility = utility.view(*theta.shape[:-1], *self.tied.shape[1:])
        known = self.tied + self.others > 0
        top = utility.masked_fill(~known, -torch.inf).amax(-1, keepdim=True)
        inside = (utility - top).exp() * known
        taken, left = (inside * self.tied).sum(-1, keepdim=True), (inside * self.others).sum(-1, keepdim=True)
        total = left + self.share * taken
        chosen = ((utility - top) * self.tied).sum(-1) - (self.live * total.log()).sum(-1)
        return (self.times * chosen).sum(-1), Sums(inside, total)

    def gradient(self, sums: Sums, rows: Tensor) -> Tensor:
        """Of the log-likelihood in the coefficients of `rows`: `(n, columns)`."""
        residual = self.times.unsqueeze(-1) * self.tied - self._mass(sums)
        return (residual.flatten(1).unsqueeze(1) @ rows).squeeze(1)

    def curvature(self, sums: Sums, left: Tensor, right: Tensor) -> Tensor:
        """Minus the second derivative between two sets of coefficients: `(n, left columns, right columns)`."""
        n, e, a = sums.inside.shape
        inverse = self.times.unsqueeze(-1) * self.live / sums.total.square()
        both, one, two = ((self.share**power * inverse).sum(-1, keepdim=True) for power in range(3))
        (tied_left, others_left), (tied_right, others_right) = (
            [
                ((sums.inside * part).unsqueeze(2) @ rows.view(n, e, a, -1)).squeeze(2)
                for part in (self.tied, self.others)
            ]
            for rows in (left, right)
        )
        inner = others_left.transpose(1, 2) @ (both * others_right + one * tied_right)
        inner = inner + tied_left.transpose(1, 2) @ (one * others_right + two * tied_right)
        return (left * self._mass(sums).reshape(n, e * a, 1)).transpose(1, 2) @ right - inner

    def _mass(self, sums: Sums) -> Tensor:
        """Expected number of times that each response is taken: `(n, e, a)`."""
        inverse = self.times.unsqueeze(-1) * self.live / sums.total
        per_other, per_tied = inverse.sum(-1, keepdim=True), (self.share * inverse).sum(-1, keepdim=True)
        return sums.inside * (self.tied * per_tied + self.others * per_other)


class Sums(NamedTuple):
    """exp(u) of the responses, relative to the largest of each choice, `(..., n, e, a)`; D_j `(..., n, e, d)`."""

    inside: Tensor
    total: Tensor


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


def blocks_of(panel: Panel, columns: np.ndarray, *, ties: str = "efron", top: int | None = None) -> list[Block]:
    """A panel's choices annotator by annotator, in padded blocks.

    Args:
        panel: the judgments.
        columns: the random coefficients; without features, the responses whose worth is random.
        ties: `efron` or `breslow`.
        top: only the first `top` places count.
    """
    responses, ranks = torch.as_tensor(panel.response_ids), torch.as_tensor(panel.rank_values)
    sets = choice_sets(responses, ranks, panel.response_count, ties=ties, top=top)
    made = _padded(sets, ties)
    reliability = np.ones(panel.judgments) if panel.reliability is None else np.asarray(panel.reliability)
    judgment = sets.judgment.numpy()
    keys = panel.annotator_ids[judgment] * max(1, len(sets)) + sets.choice.numpy()
    pairs, place = np.unique(keys, return_inverse=True)
    times = np.bincount(place, reliability[judgment], minlength=len(pairs))
    pairs, times = pairs[times > 0], times[times > 0]
    person, choice = pairs // max(1, len(sets)), pairs % max(1, len(sets))
    who, start, count = np.unique(person, return_index=True, return_counts=True)
    alternatives = made.response.shape[1]
    worths = panel.features is None
    number = np.full(panel.response_count, -1)
    number[columns] = np.arange(len(columns)) if worths else -1
    order = np.argsort(count, kind="stable")
    blocks: list[Block] = []
    at = 0
    while at < len(order):
        wide, entries = 1, int(count[order[at]])
        real = entries
        while at + wide < len(order):
            entries = int(count[order[at + wide]])
            real += entries
            width = min(len(columns), entries * alternatives) if worths else len(columns)
            padded = (wide + 1) * entries
            if padded * alternatives * max(1, width) > CELLS or padded > MOST_PADDING * real + UNPADDED:
                break
            wide += 1
        members = order[at : at + wide]
        entry = start[members][:, None] + np.arange(count[members].max())
        there = np.arange(entry.shape[1]) < count[members][:, None]
        entry = np.where(there, entry, 0)
        own_times = np.where(there, times[entry], 0.0)
        blocks.append(_block(panel, made, columns, number, who[members], choice[entry], own_times))
        at += wide
    return blocks


class _Padded(NamedTuple):
    """All distinct choices: responses `(choices, a)`, T first, -1 is padding; numbers in T and in both `(choices,)`;
    a_j `(choices, d)`, 0 is padding."""

    response: Tensor
    tied: Tensor
    known: Tensor
    share: Tensor


def _padded(sets: ChoiceSets, ties: str) -> _Padded:
    tied, left = (torch.bincount(part.choice, minlength=len(sets)) for part in (sets.tied, sets.others))
    response = torch.full((len(sets), max(2, int((tied + left).max()) if len(sets) else 2)), -1)
    for part, start in ((sets.tied, torch.zeros_like(tied)), (sets.others, tied)):
        number = torch.bincount(part.choice, minlength=len(sets))
        within = torch.arange(len(part.choice)) - (number.cumsum(0) - number)[part.choice]
        response[part.choice, start[part.choice] + within] = part.response
    place = torch.arange(max(1, int(tied.max()) if len(sets) else 1)).double()
    share = (
        1 - place / tied.unsqueeze(1).clamp(min=1) if ties == "efron" else torch.ones(len(sets), len(place)).double()
    )
    return _Padded(response, tied, tied + left, torch.where(place < tied.unsqueeze(1), share, 0.0))


def _block(
    panel: Panel,
    made: _Padded,
    columns: np.ndarray,
    number: np.ndarray,
    annotator: np.ndarray,
    choice: np.ndarray,
    times: np.ndarray,
) -> Block:
    """The block of some annotators from their choices and how often they made them, `(n, e)`; 0 times is padding."""
    weight, chosen = torch.as_tensor(times), torch.as_tensor(choice)
    ids, place = made.response[chosen], torch.arange(made.response.shape[1])
    tied = (place < made.tied[chosen].unsqueeze(-1)).double()
    others = (place < made.known[chosen].unsqueeze(-1)).double() - tied
    share = made.share[chosen]
    live, share = (share > 0).double(), torch.where(share > 0, share, 1.0)
    n, e, a = ids.shape

    def differences(rows: Tensor) -> Tensor:
        return torch.where((ids >= 0).unsqueeze(-1), rows - rows[..., :1, :], 0.0).view(n, e * a, rows.shape[-1])

    who = torch.as_tensor(annotator)
    if panel.features is not None:
        features = torch.as_tensor(np.asarray(panel.features))
        shared_columns = np.setdiff1d(np.arange(features.shape[1]), columns)
        column = torch.arange(len(columns)).expand(n, -1)
        random, fixed = differences(features[:, columns][ids]), differences(features[:, shared_columns][ids])
        return Block(who, column, random, fixed, tied, others, share, live, weight)
    # Worths: the random coefficients of an annotator are the responses that they saw.
    table = torch.as_tensor(number)[ids]
    table = torch.where((ids >= 0) & (weight > 0).unsqueeze(-1), table, -1)
    seen = [torch.unique(row[row >= 0]) for row in table.flatten(1)]
    width = max(len(row) for row in seen)
    column = torch.full((n, width), -1)
    for row, own in enumerate(seen):
        column[row, : len(own)] = own
    ordered = torch.where(column < 0, torch.iinfo(torch.int64).max, column)
    own_worths = torch.zeros(n, e, a, width, dtype=torch.float64)
    if width:
        position = torch.searchsorted(ordered, table.flatten(1)).view(table.shape).clamp(max=width - 1)
        own_worths.scatter_(3, position.unsqueeze(-1), (table >= 0).double().unsqueeze(-1))
    shared_responses = np.setdiff1d(np.arange(panel.response_count), columns)
    shared = torch.eye(panel.response_count, dtype=torch.float64)[:, shared_responses]
    return Block(who, column, differences(own_worths), differences(shared[ids]), tied, others, share, live, weight)


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

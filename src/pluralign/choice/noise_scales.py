"""How noisily each annotator chooses: a scale per annotator, with shrinkage.

Annotator h of type k chooses with utilities s_h m u_k: s_h near 0 is a choice at random, a large s_h a consistent one.
With the shares eta_hk of the types, and P(j | u) the probability of judgment j under utilities u,

    L_h(s) = sum_k eta_hk product over h's judgments j of P(j | s m u_k)^(reliability of j)
    log L = sum_h w_h log (pi L_h(0) + (1 - pi) integral of L_h(s) dNormal(log s; 0, tau^2))

Scales are log-normal around 1, but for a share pi of careless annotators, who choose at random: without it, a few of
them widen the distribution of all. tau, pi and the common factor m are estimated by marginal likelihood. m corrects the
size of the given utilities, which a prior may have shrunk. (Scale heterogeneity in logit models: Fiebig, Keane,
Louviere & Wasi 2010; the careless share and the factor are ours.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.polynomial.chebyshev import chebpts1, chebvander
from scipy.optimize import minimize
from scipy.special import log_softmax, ndtr
from sklearn.base import BaseEstimator

from pluralign.choice.latent_class.estimator import LatentClassPlackettLuce
from pluralign.choice.latent_class.likelihood import Likelihood
from pluralign.choice.latent_class.panel import Panel

LOWEST, HIGHEST = math.log(0.01), math.log(20.0)
"""The range of log(s m); beyond it, likelihoods are those of its upper end and of choices at random."""

NARROWEST, WIDEST = 0.1, 3.0
"""Limits of tau; 0 is allowed as well."""

MOST_POINTS = 1024
"""Largest grid of log(s m); its step resolves the posterior of an annotator with 9,000 choices."""

SAMPLE = 5_000
"""tau and m are estimated from at most this many annotators, drawn at random."""

BLOCK = 2**23
"""Size of a block of annotators on the grid, in numbers."""

MOST_CARELESS = 0.5
"""Largest share of careless annotators that is tried."""

GAIN = 1e-6
"""A tau above 0 must gain more than this in log-likelihood."""

CARELESS_GAIN = 2.706
"""A careless share above 0 must gain this much: half the 1 % critical value of the likelihood-ratio test at the edge of
the parameter space (Self & Liang 1987). Without the test, 10 % of small simulated panels had a careless annotator."""

IMPOSSIBLE = -1e12
"""Log-likelihood of a type that cannot have made an annotator's choices: interpolation needs finite values."""


class NoiseScales(BaseEstimator):
    """Noise scales of annotators, given the utilities of their types.

    The log-likelihood of each annotator is computed at `nodes` scales and interpolated by Chebyshev polynomials in
    log s; integrals over s are sums over a fine grid. A type whose utilities are all equal ranks at random, and its
    annotators have the scale 0.

    Args:
        nodes: number of scales at which likelihoods are computed. 56 are exact to about 1e-9 times an annotator's
            number of judgments, 24 to about 1e-4 times it.
        threshold: an annotator below this scale is careless.
        coverage: of the credible intervals.
        seed: of the annotators that tau and m are estimated from, if there are more than `SAMPLE`.

    Attributes:
        scales_: `(annotators,)` posterior mean of s_h; all 1 if tau and pi are 0.
        standard_errors_: `(annotators,)` posterior standard deviation of s_h.
        low_, high_: `(annotators,)` ends of the central credible interval of s_h.
        careless_: `(annotators,)` posterior probability that s_h is below the threshold.
        alignment_: `(annotators,)` sum over choices of the utility chosen minus the mean utility of the alternatives,
            in standard deviations under random choice, for the type where it is largest (the score test of s_h = 0).
            Around 0 for random choices; far below 0 if the annotator chooses against the utilities of every type,
            which is another taste, not noise. NaN without an informative choice.
        careless_share_: pi.
        tau_: standard deviation of log s of the other annotators.
        factor_: m.
        log_likelihood_: marginal log-likelihood, in nats.
        log_likelihood_equal_: the same with tau = pi = 0 and an m of its own: all annotators are equally noisy.

    Raises:
        ValueError: a setting is out of range, or the model does not fit the panel.

    Examples:
        Thirty annotators who follow their utilities, and three who choose at random:

        >>> rng = np.random.default_rng(0)
        >>> pairs = np.stack([rng.permutation(6)[:2] for _ in range(33 * 30)])
        >>> annotator = np.repeat(np.arange(33), 30)
        >>> utility = np.where(annotator[:, None] < 30, 1.0, 0.0) * pairs + rng.gumbel(size=pairs.shape)
        >>> panel = Panel(pairs, (-utility).argsort(1).argsort(1) + 1, annotator)
        >>> noise = NoiseScales().fit(panel, LatentClassPlackettLuce(types=1).fit(panel))
        >>> np.argsort(noise.scales_)[:3].tolist(), np.flatnonzero(noise.careless_ > 0.9).tolist()
        ([32, 31, 30], [30, 31, 32])
    """

    scales_: np.ndarray
    standard_errors_: np.ndarray
    low_: np.ndarray
    high_: np.ndarray
    careless_: np.ndarray
    careless_share_: float
    alignment_: np.ndarray
    tau_: float
    factor_: float
    log_likelihood_: float
    log_likelihood_equal_: float

    def __init__(
        self, *, nodes: int = 56, threshold: float = 0.25, coverage: float = 0.95, seed: int = 0, device: str = "cpu"
    ) -> None:
        self.nodes = nodes
        self.threshold = threshold
        self.coverage = coverage
        self.seed = seed
        self.device = device

    def fit(self, panel: Panel, model: LatentClassPlackettLuce) -> NoiseScales:
        """Estimate the scales of a panel's annotators from the model that was fitted to the panel."""
        if self.nodes < 4 or not 0 < self.threshold < 1 or not 0 < self.coverage < 1:
            raise ValueError("expected nodes of 4 or more, and threshold and coverage between 0 and 1")
        likelihood = Likelihood.of(
            replace(panel, features=None, response_total=panel.response_count),
            ties=model.ties, top=model.top, device=self.device,
        )  # fmt: skip
        utilities = utilities_of(panel, model)
        curves = _curves(panel, model, likelihood, utilities, self.nodes)
        self.alignment_ = _alignment(likelihood, utilities)
        chosen = np.sort(np.random.default_rng(self.seed).permutation(panel.annotators)[:SAMPLE])
        population = panel.weights
        self._estimate(curves.of(chosen), population[chosen] * population.sum() / max(population[chosen].sum(), 1e-300))
        self._posterior(curves)
        return self

    def _estimate(self, curves: Curves, weight: np.ndarray) -> None:
        """Maximise the marginal likelihood, with and without different scales and careless annotators."""
        middle, narrow, share = (LOWEST + 1, HIGHEST - 1), math.log(NARROWEST), (0.0, MOST_CARELESS)
        largest, on_grid = curves.likelihood(curves.grid)

        def equal(at: Sequence[float]) -> float:
            peak, likelihood = curves.likelihood(np.array([at[0]]))
            return -float(weight @ (np.log(likelihood @ _prior(curves.grid, at[0], 0.0, at[1])) + peak))

        def different(at: Sequence[float]) -> float:
            return -float(weight @ (np.log(on_grid @ _prior(curves.grid, at[0], math.exp(at[2]), at[1])) + largest))

        def best(
            loss: Callable[[Sequence[float]], float], starts: list[list[float]], *bounds: tuple[float, float]
        ) -> Any:
            return min((minimize(loss, at, bounds=bounds) for at in starts), key=lambda fit: float(fit.fun))

        one = best(equal, [[0.0, 0.0]], middle, (0.0, 0.0))
        some = best(equal, [[one.x[0], 0.05]], middle, share)
        spreads = (narrow, math.log(WIDEST))
        spread = best(different, [[one.x[0], 0.0, tau] for tau in (narrow, -1.0, 0.0)], middle, (0.0, 0.0), spreads)
        starts = [[some.x[0], max(some.x[1], 0.01), -2.0], [spread.x[0], 0.05, spread.x[2]]]
        both = best(different, starts, middle, share, spreads)
        self.log_likelihood_equal_ = -float(one.fun)
        # The simpler model where the other one does not gain: the careless share must pass a test, tau must not.
        fits = [(one, 0.0), (spread, GAIN), (some, CARELESS_GAIN), (both, CARELESS_GAIN + GAIN)]
        fit = min(fits, key=lambda fit: float(fit[0].fun) + fit[1])[0]
        self.tau_ = math.exp(fit.x[2]) if len(fit.x) > 2 else 0.0
        self.log_likelihood_ = -float(fit.fun)
        self.factor_, self.careless_share_ = math.exp(fit.x[0]), float(fit.x[1])

    def _posterior(self, curves: Curves) -> None:
        """Set what the posterior of each annotator's scale says, in blocks of annotators."""
        location = math.log(self.factor_)
        points = curves.grid if self.tau_ else np.array([location])
        prior = _prior(curves.grid, location, self.tau_, self.careless_share_)
        scale = np.concatenate(([0.0, 0.0], np.exp(points - location), [math.exp(HIGHEST - location)]))
        tail, parts = (1 - self.coverage) / 2, []
        for block in curves.blocks():
            posterior = block.likelihood(points)[1] * prior
            posterior /= posterior.sum(1, keepdims=True)
            mean = posterior @ scale
            spread = np.sqrt((posterior @ scale**2 - mean**2).clip(0))
            careless = posterior @ (scale < self.threshold)
            cumulative = posterior.cumsum(1)
            low, high = (scale[(cumulative < share).sum(1).clip(max=len(scale) - 1)] for share in (tail, 1 - tail))
            parts.append(np.stack((mean, spread, low, high, careless)))
        self.scales_, self.standard_errors_, self.low_, self.high_, self.careless_ = np.concatenate(parts, 1)


def _prior(grid: np.ndarray, location: float, tau: float, careless: float) -> np.ndarray:
    """Weights of the columns of `Curves.likelihood`: at the grid, or with tau = 0 at the location alone."""
    if tau == 0:
        return np.array([1.0, careless, 1 - careless, 0.0])
    step = grid[1] - grid[0]
    inside = np.exp(-(((grid - location) / tau) ** 2) / 2) * step / (tau * math.sqrt(2 * math.pi))
    inside[[0, -1]] /= 2
    below, above = ndtr((LOWEST - location) / tau), ndtr((location - HIGHEST) / tau)
    share = 1 - careless
    return np.concatenate(([1.0, careless + share * below], share * inside, [share * above]))


@dataclass(frozen=True)
class Curves:
    """log of share times likelihood of annotators under each type, as functions of log(s m).

    Args:
        at_nodes: `(annotators, types, nodes)`, at Chebyshev points.
        at_zero: `(annotators, types)`, for choices at random.
        random: `(annotators,)`, under a type that ranks at random whatever the scale; minus infinity without one.
        grid: `(points,)` values of log(s m) that integrals sum over.
    """

    at_nodes: np.ndarray
    at_zero: np.ndarray
    random: np.ndarray
    grid: np.ndarray

    def of(self, annotators: np.ndarray | slice) -> Curves:
        """Those of some annotators."""
        return Curves(self.at_nodes[annotators], self.at_zero[annotators], self.random[annotators], self.grid)

    def blocks(self) -> Iterator[Curves]:
        """Blocks of annotators."""
        step = max(1, BLOCK // (len(self.grid) * self.at_nodes.shape[1]))
        for start in range(0, len(self.random), step):
            yield self.of(slice(start, start + step))

    def log_likelihood(self, points: np.ndarray) -> np.ndarray:
        """Sum over the types that do not rank at random, at values of log(s m): `(annotators, points)`."""
        nodes = self.at_nodes.shape[2]
        # Chebyshev interpolation at the roots: the discrete cosine transform of the values gives the coefficients.
        weights = chebvander(_unit(points), nodes - 1) * np.where(np.arange(nodes), 2, 1) / nodes
        matrix = weights @ chebvander(chebpts1(nodes), nodes - 1).T
        return _log_sum(self.at_nodes @ matrix.T)

    def likelihood(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Likelihoods of annotators over their largest one, and the log of that, `(annotators,)`.

        The columns: a type that ranks at random, s = 0, values of log(s m), and the upper end of the grid.
        """
        rows, largest = [], []
        for block in self.blocks():
            inside = block.log_likelihood(np.append(points, HIGHEST))
            values = np.column_stack((block.random, _log_sum(block.at_zero), inside))
            largest.append(values.max(1))
            rows.append(np.exp(values - largest[-1][:, None]))
        return np.concatenate(largest), np.concatenate(rows)


def _unit(points: np.ndarray) -> np.ndarray:
    """Values of log(s m) on the interval from -1 to 1."""
    return (2 * points - LOWEST - HIGHEST) / (HIGHEST - LOWEST)


def utilities_of(panel: Panel, model: LatentClassPlackettLuce) -> np.ndarray:
    """Utility of each response for each type `(K, responses)`, as fitted.

    Raises:
        ValueError: the model was fitted with other features or responses.
    """
    coefficients = np.asarray(model.coefficients_)
    size = panel.response_count if panel.features is None else np.asarray(panel.features).shape[1]
    if coefficients.shape[1] != size:
        kind = "responses" if panel.features is None else "features"
        raise ValueError(
            f"panel: found {size} {kind}, expected the {coefficients.shape[1]} that the model was fitted with"
        )
    return coefficients if panel.features is None else coefficients @ np.asarray(panel.features).T


def _curves(
    panel: Panel,
    model: LatentClassPlackettLuce,
    likelihood: Likelihood,
    utilities: np.ndarray,
    nodes: int,
) -> Curves:
    """Every annotator's log-likelihood under every type at the Chebyshev points."""
    worths = torch.as_tensor(utilities, device=likelihood.places.device)

    def at(scale: float) -> np.ndarray:
        return likelihood.at(worths * scale).by_annotator().cpu().numpy() + shares

    if panel.covariates is None:
        shares = np.log(np.maximum(np.asarray(model.mixture_weights_), 1e-300))[None]
    else:
        others = np.asarray(panel.covariates) @ np.asarray(model.membership_).T
        shares = log_softmax(np.concatenate((np.zeros((len(others), 1)), others), 1), axis=1)
    points = (chebpts1(nodes) * (HIGHEST - LOWEST) + LOWEST + HIGHEST) / 2
    at_nodes = np.stack([at(math.exp(point)) for point in points], 2)
    at_zero = at(0.0)
    impossible = ~np.isfinite(at_zero)
    at_nodes[impossible], at_zero[impossible] = IMPOSSIBLE, IMPOSSIBLE
    flat = np.ptp(utilities, axis=1) == 0
    none = np.full(len(at_zero), -np.inf)
    # The trapezoidal rule is exact to about 1e-8 if the step is a standard deviation. An annotator's n places and the
    # prior leave log s a precision of at most about 2 n + 1 / tau^2.
    precision = 2 * float(likelihood.places.amax()) + 1 / NARROWEST**2
    grid = np.linspace(LOWEST, HIGHEST, min(MOST_POINTS, math.ceil((HIGHEST - LOWEST) * math.sqrt(precision)) + 1))
    if flat.all():
        return Curves(at_nodes, at_zero, none, grid)
    return Curves(at_nodes[:, ~flat], at_zero[:, ~flat], _log_sum(at_zero[:, flat]) if flat.any() else none, grid)


def _log_sum(values: np.ndarray) -> np.ndarray:
    """log of the sum of exp over the second axis; several times faster than SciPy's, for finite values."""
    if values.shape[1] == 1:
        return values[:, 0]
    peak = values.max(1)
    return np.asarray(peak + np.log(np.exp(values - peak[:, None]).sum(1)))


def _alignment(likelihood: Likelihood, utilities: np.ndarray) -> np.ndarray:
    """The score test of random choice `(annotators,)`; see `NoiseScales.alignment_`."""
    worths = torch.as_tensor(utilities, device=likelihood.places.device)
    along = likelihood.of_all().at(torch.zeros_like(worths)).along(worths)
    score, variance = along.by_annotator().cpu().numpy(), along.variance().cpu().numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(variance > 0, score / np.sqrt(variance), np.nan)
    return np.asarray(np.fmax.reduce(found, axis=1))

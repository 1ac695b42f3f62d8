"""Latent-class Plackett-Luce: types of annotators who rank alike, fitted by expectation maximisation.

Type k ranks with utilities u_k = features @ coefficients_k (or one worth per response), and an annotator h is of
type k with probability eta_k (or by a multinomial logit of covariates):

    log L = sum_h w_h log sum_k eta_hk product over h's judgments j of P_k(j)^(reliability of j)

(Kamakura & Russell 1989; Bhat 1997; rankings as choices: Luce 1959). All restarts run in one batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from torch import Tensor

from pluralign.choice.em_dpo import responsibilities, temperatures
from pluralign.choice.latent_class import starts
from pluralign.choice.latent_class.em import (
    Fit,
    ascended,
    by_share,
    e_step,
    joined,
    log_likelihoods,
    m_step,
    moved_to,
    shares_of,
)
from pluralign.choice.latent_class.information import EXACT, Information, observed_information, polished
from pluralign.choice.latent_class.panel import Panel
from pluralign.choice.latent_class.problem import Problem, problem_of, slots_of
from pluralign.choice.latent_class.processes import annotators_before, from_first, sample_of

FOLLOWED = 3
"""Number of restarts that are run to convergence."""

ROUGH = 1e-5
"""Relative gain at which Newton's method on the likelihood takes over from expectation maximisation."""

SAME_CURVATURE = 3
"""Expectation maximisation keeps a curvature for this many steps: computing it takes most of the time."""

CELLS = 2**19
"""Restarts run together as long as their values for all choices are at most this many numbers."""

AGREEING = 0.98
"""A restart is not followed if it gives so large a share of annotators the same type as one that was."""

M_STEP = 1e-10
"""Newton's tolerance within expectation maximisation, where the next M-step continues from the same point."""

ALONE = 1e-16
"""Newton's tolerance where one M-step is the whole fit: coefficients are right to 1e-6 of a standard error."""

DRAFT_JUDGMENTS = 50_000
"""Restarts are compared on annotators with about this many judgments in total; the best are fitted on all."""

MOST_COVARIANCES = 2048
"""Standard errors are computed for at most this many free parameters."""


class LatentClassPlackettLuce(BaseEstimator):
    """Annotator types from choices and rankings.

    Args:
        types: K.
        ties: `efron` or `breslow`.
        top: only the first `top` places count.
        ridge: precision of the normal prior on coefficients; it keeps separable choices finite.
        common_ridge: precision of the normal prior on a common taste theta_0; coefficients are theta_0 + delta_k, and
            `ridge` is then that of the differences delta_k. One type is theta_0, nested in any number of types. `None`
            gives each type's coefficients their own prior.
        noise: the last type ranks at random (careless annotators).
        shared: columns of the features whose coefficient is the same for all types.
        fixed: `(K, p)` given coefficients, NaN where they are free.
        restarts: starting points, all in one batch: the first from groups of annotators who agree, the others random.
        coefficients_init: `(K, p)` to start from instead.
        responsibilities_init: `(annotators, K)` to start from instead.
        hottest: temperature at the beginning of the restarts; 1 is no annealing.
        max_iterations: of expectation maximisation.
        tolerance: stop if the objective rises by less than this times 1 + its size.
        precision: Newton decrement, relative to the objective, at which `polish` ends.
        polish: approach the optimum by rough steps and finish with Newton's method on the likelihood itself; `False`
            maximises in each M-step, which is plain expectation maximisation.
        seed: of the restarts.
        device: where to compute.

    Attributes:
        coefficients_: `(K, p)`; types are sorted by share, unless settings or starts distinguish them.
        mixture_weights_: `(K,)`.
        membership_: `(K - 1, q)` coefficients of the covariates against the first type.
        responsibilities_: `(annotators, K)`.
        log_likelihood_: in nats.
        bic_: -2 log L + free parameters * log(annotators).
        trace_: log-likelihood of the best restart at every iteration.
        n_iter_: iterations of expectation maximisation.
        converged_: whether they ended before `max_iterations`.
        n_parameters_: free coefficients, plus K - 1 shares or the coefficients of the covariates.
        fitted: the parameters as tensors.

    Raises:
        ValueError: a setting does not fit the panel.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> pairs = np.stack([rng.permutation(4)[:3] for _ in range(400)])
        >>> person = np.repeat(np.arange(40), 10)
        >>> worth = np.where(person[:, None] < 20, pairs, -pairs) * 2.0 + rng.gumbel(size=pairs.shape)
        >>> ranks = (-worth).argsort(1).argsort(1) + 1
        >>> model = LatentClassPlackettLuce(types=2).fit(Panel(pairs, ranks, person))
        >>> model.mixture_weights_.round(1), len(set(model.labels_[:20])), len(set(model.labels_[20:]))
        (array([0.5, 0.5]), 1, 1)
    """

    fitted: Fit
    coefficients_: np.ndarray
    mixture_weights_: np.ndarray
    membership_: np.ndarray
    responsibilities_: np.ndarray
    log_likelihood_: float
    bic_: float
    n_parameters_: int
    trace_: list[float]
    n_iter_: int
    converged_: bool

    def __init__(
        self,
        types: int = 2,
        *,
        ties: str = "efron",
        top: int | None = None,
        ridge: float = 1e-6,
        common_ridge: float | None = None,
        noise: bool = False,
        shared: Sequence[int] = (),
        fixed: ArrayLike | None = None,
        restarts: int = 10,
        coefficients_init: ArrayLike | None = None,
        responsibilities_init: ArrayLike | None = None,
        hottest: float = 3.0,
        max_iterations: int = 500,
        tolerance: float = 1e-7,
        polish: bool = True,
        precision: float = EXACT,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.types = types
        self.ties = ties
        self.top = top
        self.ridge = ridge
        self.common_ridge = common_ridge
        self.noise = noise
        self.shared = shared
        self.fixed = fixed
        self.restarts = restarts
        self.coefficients_init = coefficients_init
        self.responsibilities_init = responsibilities_init
        self.hottest = hottest
        self.max_iterations = max_iterations
        self.tolerance = tolerance
        self.polish = polish
        self.precision = precision
        self.seed = seed
        self.device = device

    def fit(self, panel: Panel) -> LatentClassPlackettLuce:
        """Fit the types to a panel. For a large panel, restarts run on part of it and the best on all of it."""
        self._check(panel)
        problem = self.problem(panel)
        self._check_choices(problem)
        if self.coefficients_init is not None or self.responsibilities_init is not None:
            fit = self._given(problem)
        else:
            part = self._draft(panel)

            def drafted() -> Fit:
                draft = problem if part is panel else self.problem(part)
                found = self._restarted(draft)
                # The best restart of a part alone goes on to all annotators.
                return found if draft is problem or not self.polish or self.types == 1 else self._polished(draft, found)

            fit = moved_to(problem, from_first(drafted) if panel.sharded else drafted())
        if self.polish and self.types > 1:
            fit = self._polished(problem, fit)
        else:
            fit = self._followed(problem, fit)
        return self._keep(problem, fit)

    def predict_proba(self, panel: Panel) -> np.ndarray:
        """Posterior `(annotators, K)` of a panel's annotators, including new ones, from their judgments."""
        return self._posterior(panel)[0].cpu().numpy()

    def predict(self, panel: Panel) -> np.ndarray:
        """The most probable type of each annotator, from 0."""
        return self.predict_proba(panel).argmax(1)

    def annotator_log_likelihood(self, panel: Panel) -> np.ndarray:
        """log sum_k eta_k P_k(judgments of h) of each annotator `(annotators,)`, in nats."""
        return self._posterior(panel)[1].cpu().numpy()

    def score(self, panel: Panel) -> float:
        """Mean log-likelihood of a judgment, in nats."""
        return float(self.annotator_log_likelihood(panel).sum() / max(1, panel.judgments))

    def covariance(self, panel: Panel, *, robust: bool = False) -> np.ndarray:
        """Covariance of the free coefficients and the membership, from the observed information.

        Args:
            panel: the fitted one.
            robust: use the sandwich I^-1 (sum_h w_h^2 s_h s_h') I^-1, which is also valid under population weights.

        Returns:
            `(m, m)`: free coefficients, type by type, then the membership (log eta_k / eta_1 without covariates).

        Raises:
            ValueError: there are more than `MOST_COVARIANCES` parameters.
        """
        information = self.information(panel)
        inverse = information.inverse
        return (inverse @ information.outer @ inverse if robust else inverse).cpu().numpy()

    def information(self, panel: Panel) -> Information:
        """The observed information of the fit, as in `covariance`; kept, so that it is computed once.

        Raises:
            ValueError: there are more than `MOST_COVARIANCES` parameters.
        """
        if self.n_parameters_ > MOST_COVARIANCES:
            raise ValueError(
                f"standard errors need a matrix of {self.n_parameters_} parameters, at most {MOST_COVARIANCES} are "
                "allowed: use features instead of one worth per response"
            )
        known, at, found = getattr(self, "_information", (None, None, None))
        if known is not panel or at is not self.fitted or found is None:
            problem = self.fitted_problem(panel)
            found = observed_information(problem, e_step(problem, moved_to(problem, self.fitted)))
            self._information = panel, self.fitted, found
        return found

    @property
    def labels_(self) -> np.ndarray:
        """The most probable type of each fitted annotator, from 0."""
        return np.asarray(self.responsibilities_).argmax(1)

    def _check(self, panel: Panel) -> None:
        """Check the settings against a panel."""
        if not panel.judgments:
            raise ValueError("panel: found no judgment, expected at least one")
        if panel.features is not None and not np.asarray(panel.features).shape[1]:
            raise ValueError("features: found no column, expected at least one")
        _, annotators = annotators_before(panel)
        if not 1 <= self.types <= annotators:
            raise ValueError(f"types: found {self.types}, expected 1 to {annotators}, the number of annotators")
        if self.noise and self.types < 2:
            raise ValueError("noise: needs at least 2 types, of which the last ranks at random")
        if panel.population is not None and not np.any(panel.population):
            raise ValueError("population: found only zeros, expected a positive weight")
        if self.restarts < 1 or self.max_iterations < 0 or self.ridge < 0 or self.hottest < 1:
            raise ValueError("expected restarts >= 1, max_iterations >= 0, ridge >= 0 and hottest >= 1")

    def _check_choices(self, problem: Problem) -> None:
        """Every annotator's choices are possible for some type."""
        if problem.logit.available is None:
            return
        lost = ~starts.explaining(problem).any(1)
        number = int(problem.summed(lost.sum()))
        if number:
            first = f"annotator {int(lost.int().argmax())}" if bool(lost.any()) else "an annotator of another process"
            raise ValueError(
                f"available: {first} chose responses that no single type considers ({number} such annotators)"
            )

    def problem(self, panel: Panel) -> Problem:
        """The panel's distinct choices, their counts, and the free coefficients."""
        return problem_of(
            panel,
            types=self.types,
            slots=lambda size: slots_of(self.types, size, self.fixed, self.shared, noise=self.noise),
            ties=self.ties,
            top=self.top,
            ridge=self.ridge,
            common_ridge=self.common_ridge,
            device=self.device,
        )

    def fitted_problem(self, panel: Panel) -> Problem:
        """As `problem`, for a panel with the features or responses that the model was fitted with.

        Raises:
            ValueError: it has other features, or responses that were not fitted.
        """
        size = self.coefficients_.shape[1]
        if panel.features is None and panel.response_count < size:
            panel = replace(panel, response_total=size)
        number = panel.response_count if panel.features is None else np.asarray(panel.features).shape[1]
        if number != size:
            kind = "responses" if panel.features is None else "features"
            raise ValueError(f"{kind}: found {number}, expected the {size} that the model was fitted with")
        return self.problem(panel)

    def _draft(self, panel: Panel) -> Panel:
        """Random annotators with about `DRAFT_JUDGMENTS` judgments in total, or the panel itself if it is small."""
        return sample_of(panel, DRAFT_JUDGMENTS, 10 * self.types, self.seed)

    def _given(self, problem: Problem) -> Fit:
        """The start that was given."""

        def tensor(values: ArrayLike | None, rows: int, columns: int, name: str) -> Tensor:
            start = torch.as_tensor(np.array(values, dtype=np.float64, order="C"), device=self.device)
            if start.shape != (rows, columns):
                raise ValueError(f"{name}: expected the shape {(rows, columns)}, found {tuple(start.shape)}")
            return start.unsqueeze(0)

        if self.coefficients_init is not None:
            beta = tensor(self.coefficients_init, self.types, problem.logit.parameters, "coefficients_init")
            return starts.with_coefficients(problem, beta)
        gamma = tensor(self.responsibilities_init, len(problem.population), self.types, "responsibilities_init")
        return starts.with_groups(problem, gamma)

    def _polished(self, problem: Problem, fit: Fit) -> Fit:
        """Approach the optima by expectation maximisation, end with Newton's method, and return the best."""
        before, traces, solver = torch.full_like(fit.objective, -torch.inf), [], None
        for step in range(self.max_iterations):
            fit, solver = ascended(problem, fit, solver=solver if step % SAME_CURVATURE else None)
            traces.append(fit.log_likelihood)
            if bool((fit.objective - before <= ROUGH * (1 + fit.objective.abs())).all()):
                break
            before = fit.objective
        fit = e_step(problem, fit)
        best: Fit | None = None
        for number in torch.argsort(fit.objective, descending=True).tolist():
            one = fit.chosen(torch.tensor([number], device=fit.objective.device))
            if best is not None and _agree(problem, best.gamma[0], one.gamma[0]):
                continue
            found, converged, trace = polished(problem, one, tolerance=self.precision)
            if best is None or float(found.objective[0]) > float(best.objective[0]):
                best, self.converged_ = found, converged
                self.trace_ = [float(values[number]) for values in traces] + trace
        assert best is not None
        self.n_iter_ = len(self.trace_) - 1
        if not self.converged_:
            trace, iterations = self.trace_, self.n_iter_
            best = self._followed(problem, best)
            self.trace_, self.n_iter_ = trace + self.trace_, iterations + self.n_iter_
        return best

    def _followed(self, problem: Problem, fit: Fit) -> Fit:
        """Run the restarts until none gains more than the tolerance, and return the best."""
        before = torch.full_like(fit.objective, -torch.inf)
        exact = ALONE if self.types == 1 else M_STEP
        traces: list[Tensor] = []
        most = self.max_iterations if self.types > 1 else min(self.max_iterations, 1)
        self.converged_ = self.types == 1 and most == 1  # one type is fitted by its first M-step
        for iteration in range(most + 1):
            self.n_iter_ = iteration
            fit = e_step(problem, fit)
            traces.append(fit.log_likelihood)
            if bool((fit.objective - before <= self.tolerance * (1 + fit.objective.abs())).all()):
                self.converged_ = True
                break
            if iteration < most:
                before, fit = fit.objective, m_step(problem, fit, tolerance=exact)
        best = fit.objective.argmax().unsqueeze(0)
        self.trace_ = [float(values[best]) for values in traces]
        return fit.chosen(best)

    def _restarted(self, draft: Problem) -> Fit:
        """The best restarts on a draft."""
        if self.types == 1:
            return starts.flat_fit(draft, 1)
        fit = starts.random_starts(draft, self.restarts, self.seed)
        spectral = starts.spectral_start(draft, self.seed)
        fit = joined([spectral, fit.chosen(torch.arange(1, self.restarts, device=fit.objective.device))])
        together = max(1, CELLS // max(1, self.types * len(draft.likelihood)))
        parts = torch.arange(self.restarts, device=fit.objective.device).split(together)
        fit = joined([self._warmed(draft, fit.chosen(part)) for part in parts])
        best = torch.argsort(fit.objective, descending=True)[:FOLLOWED]
        return fit.chosen(best)

    def _warmed(self, draft: Problem, fit: Fit) -> Fit:
        """Restarts after annealing and a few further steps."""
        solver = None
        for step, temperature in enumerate([*temperatures(self.hottest, 15), *[1.0] * 10]):
            fit, solver = ascended(draft, fit, temperature, solver if step % SAME_CURVATURE else None)
        return e_step(draft, fit)

    def _posterior(self, panel: Panel) -> tuple[Tensor, Tensor]:
        """Responsibilities `(annotators, K)` and log-likelihoods `(annotators,)` of a panel."""
        problem = self.fitted_problem(panel)
        fit = moved_to(problem, self.fitted)
        by_type = log_likelihoods(problem, problem.coefficients(fit.parameters))
        gamma, total = responsibilities(by_type, fit.log_weights)
        return gamma[0], total[0]

    def _keep(self, problem: Problem, fit: Fit) -> LatentClassPlackettLuce:
        """Set the fitted attributes."""
        distinguished = (self.fixed, self.coefficients_init, self.responsibilities_init, problem.logit.available)
        if all(value is None for value in distinguished):  # the types are interchangeable
            fit = by_share(problem, fit, self.types - self.noise)
        self.fitted = fit
        self.coefficients_ = problem.coefficients(fit.parameters)[0].cpu().numpy()
        self.mixture_weights_ = shares_of(problem, fit.gamma)[0].cpu().numpy()
        self.membership_ = fit.membership[0].cpu().numpy()
        self.responsibilities_ = fit.gamma[0].cpu().numpy()
        self.log_likelihood_ = float(fit.log_likelihood[0])
        self.n_parameters_ = problem.parameters + (self.types - 1) * max(1, fit.membership.shape[2])
        annotators = float(problem.summed(torch.ones_like(problem.population).sum()))
        self.bic_ = -2 * self.log_likelihood_ + self.n_parameters_ * math.log(annotators)
        return self


def _agree(problem: Problem, one: Tensor, other: Tensor) -> bool:
    """Whether responsibilities `(annotators, K)` are the same up to the order of the types, for nearly everybody."""
    return float(problem.summed(one.T @ other).amax(1).sum()) >= AGREEING * float(problem.summed(one.sum()))

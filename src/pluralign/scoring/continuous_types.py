"""Annotators between the types: a posterior over convex combinations of the types' utilities, without training.

Annotator h judges by sum_k lambda_hk u_k(x, y), with lambda_h on the simplex. The prior is Dirichlet(K eta), whose mean
are the shares eta; with equal shares it is uniform. The posterior given h's judgments j with weights w_j,

    p(lambda | h) proportional to Dirichlet(lambda; K eta) * product over j of P(j | sum_k lambda_k u_k)^w_j

is taken over points drawn from the prior. A hard type is a corner of the simplex. The policy that belongs to lambda is
the geometric pool of the types' policies, prod_k pi_k^lambda_k up to a constant of the prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pluralign.choice.em_dpo import halves
from pluralign.scoring.items import Items
from pluralign.scoring.mixtures import Mixture, ranking_log_likelihoods

Floats = NDArray[np.float64]

POINTS = 1024
"""Points of the simplex."""

_AT_ONCE = 32


@dataclass(frozen=True)
class ContinuumComparison:
    """Log-loss of judgments, in nats, predicted from the other half of the same annotator's judgments.

    Args:
        judgments: how many were predicted: those of annotators with two judgments or more.
        hard: by the most probable type.
        posterior: by all types, weighted by their posterior.
        continuous: by all convex combinations, weighted by theirs.
        gain: `hard` minus `continuous`.
        error: standard error of the gain over annotators.
    """

    judgments: int
    hard: float
    posterior: float
    continuous: float
    gain: float
    error: float

    @property
    def sentence(self) -> str:
        """The comparison in words."""
        better = "better than" if self.gain > self.error else "worse than" if self.gain < -self.error else "as well as"
        return (
            f"continuous weights predict {self.judgments} held-out judgments {better} hard types: log-loss "
            f"{self.continuous:.4f} against {self.hard:.4f} (gain {self.gain:+.4f} +- {self.error:.4f}); types "
            f"weighted by their posterior: {self.posterior:.4f}"
        )


class ContinuousTypes:
    """The posterior of annotators over convex combinations of the types' utilities.

    Args:
        utilities: of the unique responses, `(types, responses)`.
        items: the judgments.
        mixture: provides the likelihood.
        annotator: `(judgments,)` from 0.
        annotators: their number.
        prior: eta `(types,)`, summing to 1.
        points: number of points.
        seed: of the points and of the halves.

    Examples:
        >>> from pluralign.judgments import Judgments
        >>> from pluralign.scoring.items import items_of
        >>> rows = [{"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, 2]}] * 20
        >>> utilities, mixture = np.array([[2.0, 0.0], [0.0, 2.0]]), Mixture({"a": 0.5, "b": 0.5})
        >>> whose = np.zeros(20, dtype=int)
        >>> found = ContinuousTypes(utilities, items_of(Judgments.from_rows(rows)), mixture, whose, 2, [0.5, 0.5])
        >>> found.weights().round(1).tolist()
        [[0.9, 0.1], [0.5, 0.5]]
    """

    def __init__(
        self,
        utilities: ArrayLike,
        items: Items,
        mixture: Mixture,
        annotator: ArrayLike,
        annotators: int,
        prior: ArrayLike,
        *,
        points: int = POINTS,
        seed: int = 0,
    ) -> None:
        self.utilities = np.asarray(utilities, dtype=np.float64)
        self.items = items
        self.mixture = mixture
        self.annotator = np.asarray(annotator)
        self.annotators = annotators
        self.prior = np.asarray(prior, dtype=np.float64)
        self.seed = seed
        concentration = len(self.prior) * np.maximum(self.prior, 1e-6)
        self.points = np.random.default_rng(seed).dirichlet(concentration, points)

    def weights(self) -> Floats:
        """The posterior mean of lambda `(annotators, types)`; the prior mean for annotators without a judgment."""
        sums = np.concatenate([self._sums(found, None) for found in self._found(self.points)], 1)
        shares = _normalised(sums) @ self.points
        silent = np.bincount(self.annotator, minlength=self.annotators) == 0
        return np.where(silent[:, None], self.prior, shares)

    def comparison(self) -> ContinuumComparison | None:
        """How well hard types, posterior weights and continuous weights predict held-out judgments.

        The judgments of each annotator are split into two random halves, each predicted from the other. `None` if no
        annotator has two judgments.
        """
        half = halves(self.annotator, self.seed)
        several = np.bincount(self.annotator, minlength=self.annotators)[self.annotator] > 1
        if not several.any():
            return None
        points = [*self._found(self.points)]
        corners = ranking_log_likelihoods(self.utilities, self.items, self.mixture)
        with np.errstate(divide="ignore"):
            log_prior = np.log(self.prior)
        scores = {name: np.zeros(len(half)) for name in ("hard", "posterior", "continuous")}
        for side in (0, 1):
            rows = np.flatnonzero(half == side)
            gamma = _normalised(self._sums(corners, half != side) + log_prior)
            own = gamma[self.annotator[rows]]
            scores["hard"][rows] = corners[rows, own.argmax(1)]
            scores["posterior"][rows] = np.log((own * np.exp(corners[rows])).sum(1))
            posterior = _normalised(np.concatenate([self._sums(found, half != side) for found in points], 1))
            total = np.zeros(len(rows))
            for start, found in zip(range(0, len(self.points), _AT_ONCE), points, strict=True):
                own = posterior[self.annotator[rows], start : start + _AT_ONCE]
                total += (own * np.exp(found[rows])).sum(1)
            scores["continuous"][rows] = np.log(total)
        weight = np.where(several, self.items.weight, 0.0)
        losses = {name: -float(np.average(score, weights=weight)) for name, score in scores.items()}
        difference = np.bincount(self.annotator, weight * (scores["continuous"] - scores["hard"]), self.annotators)
        known = np.bincount(self.annotator, several, self.annotators) > 0
        spread = difference[known].std(ddof=1) if known.sum() > 1 else np.inf
        error = float(np.sqrt(known.sum()) * spread / weight.sum())
        gain = losses["hard"] - losses["continuous"]
        return ContinuumComparison(int(several.sum()), **losses, gain=gain, error=error)

    def _found(self, points: Floats) -> Iterator[Floats]:
        """log P of every judgment under some points `(judgments, points)`, a few points at a time."""
        for start in range(0, len(points), _AT_ONCE):
            mixed = points[start : start + _AT_ONCE] @ self.utilities
            yield ranking_log_likelihoods(mixed, self.items, self.mixture)

    def _sums(self, log_likelihoods: Floats, chosen: NDArray[np.bool_] | None) -> Floats:
        """Sums over each annotator's judgments, by reliability: `(annotators, columns)`."""
        weight = self.items.weight if chosen is None else self.items.weight * chosen
        columns = [np.bincount(self.annotator, weight * column, self.annotators) for column in log_likelihoods.T]
        return np.stack(columns, 1)


def _normalised(log_weights: Floats) -> Floats:
    """Weights that sum to 1 in each row."""
    shares = np.exp(log_weights - log_weights.max(1, keepdims=True))
    return np.asarray(shares / shares.sum(1, keepdims=True))

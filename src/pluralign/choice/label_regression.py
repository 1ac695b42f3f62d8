"""Soft-label logistic regression: a crowd's distribution over labels from fixed features, the baseline of DPRM.

mu(x) = softmax(B [x, 1]) maximises sum_i n_i sum_k s_ik log mu_k(x_i) - ridge / 2 sum of B^2 without the intercepts,
where s are the shares of the votes on item i and n_i is its weight. Features are scaled to mean 0 and variance 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

Floats = NDArray[np.float64]

RIDGES = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6)
"""Ridges that are compared, in votes."""

FOLDS = 5


@dataclass(frozen=True)
class LabelRegression:
    """A fitted regression.

    Args:
        mean: of the features `(d,)`.
        spread: their standard deviations `(d,)`.
        coefficients: B `(labels, d + 1)`, the intercepts last.
        ridge: what they were fitted with.
    """

    mean: Floats
    spread: Floats
    coefficients: Floats
    ridge: float

    @classmethod
    def fit(
        cls, features: ArrayLike, shares: ArrayLike, weight: ArrayLike, cluster: ArrayLike, seed: int = 0
    ) -> LabelRegression:
        """Fit to items; the ridge is the one of `RIDGES` with the best log-loss on five folds of the clusters.

        Args:
            features: `(items, d)`.
            shares: s `(items, labels)`, rows of sum 1.
            weight: n `(items,)`.
            cluster: `(items,)`, such as the prompts: what one fold holds together.
            seed: of the folds.

        Examples:
            >>> x = np.linspace(-2, 2, 60)[:, None]
            >>> shares = np.hstack([1 / (1 + np.exp(-x)), 1 / (1 + np.exp(x))])
            >>> fitted = LabelRegression.fit(x, shares, np.full(60, 100.0), np.arange(60))
            >>> fitted.predict([[1.0]]).round(2).tolist()
            [[0.73, 0.27]]
        """
        x, s = np.asarray(features, dtype=np.float64), np.asarray(shares, dtype=np.float64)
        n, group = np.asarray(weight, dtype=np.float64), np.unique(np.asarray(cluster), return_inverse=True)[1]
        mean, spread = x.mean(0), x.std(0)
        spread = np.where(spread > 0, spread, 1.0)
        z = np.hstack([(x - mean) / spread, np.ones((len(x), 1))])
        fold = np.random.default_rng(seed).permutation(group.max() + 1)[group] % FOLDS
        losses = np.zeros(len(RIDGES))
        for held in range(FOLDS) if group.max() else ():
            inside = fold == held
            b = np.zeros((s.shape[1], z.shape[1]))
            if not inside.any():
                continue
            for place in reversed(range(len(RIDGES))):  # from the strongest ridge on, each from the one before
                b = _fitted(z[~inside], s[~inside], n[~inside], RIDGES[place], b)
                losses[place] -= n[inside] @ (s[inside] * log_softmax(z[inside] @ b.T, 1)).sum(1)
        ridge = RIDGES[int(losses.argmin())] if group.max() else RIDGES[-1]
        return cls(mean, spread, _fitted(z, s, n, ridge, np.zeros((s.shape[1], z.shape[1]))), ridge)

    def predict(self, features: ArrayLike) -> Floats:
        """mu of each item: `(items, d)` to `(items, labels)`."""
        z = (np.asarray(features, dtype=np.float64) - self.mean) / self.spread
        return np.asarray(softmax(z @ self.coefficients[:, :-1].T + self.coefficients[:, -1], 1))


def _fitted(z: Floats, shares: Floats, weight: Floats, ridge: float, start: Floats) -> Floats:
    """B `(labels, d + 1)` that minimises the penalised log-loss."""
    kept = np.append(np.full(z.shape[1] - 1, ridge), 0.0)
    total = weight.sum()

    def objective(flat: Floats) -> tuple[float, Floats]:
        b = flat.reshape(start.shape)
        log_mu = log_softmax(z @ b.T, 1)
        loss = -float(weight @ (shares * log_mu).sum(1)) + float((kept * b * b).sum()) / 2
        slope = (weight[:, None] * (np.exp(log_mu) - shares)).T @ z + kept * b
        return loss / total, slope.ravel() / total

    options = {"maxiter": 500, "gtol": 1e-6}
    found = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options=options)
    return np.asarray(found.x).reshape(start.shape)

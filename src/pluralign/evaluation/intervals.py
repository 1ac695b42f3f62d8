"""Intervals of metrics by resampling clusters of observations; every interval of the package is computed here.

Observations that share a prompt are not independent, so a replicate draws whole prompts (or whatever the cluster is)
with replacement. A metric is a function of weighted sums. Callers sum their observations by `Resampling.group` and give
a function from weights of the groups to metrics; only this module decides how the weights are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike

from pluralign.core.errors import PluralignError
from pluralign.evaluation.pairs import Floats, Ints

# Weights held at once (times eight bytes, and as much again for the draws).
BLOCK_CELLS = 1 << 21

Metrics = Callable[[Floats], Mapping[str, Floats]]
"""From weights `(rows, groups)` to metrics, each `(rows, ...)`; nan marks a metric that is undefined in a row."""


class Resampling:
    """Draws of clusters with replacement, as many as there are, and percentile intervals over the replicates.

    Args:
        cluster: id of the cluster of each observation, int `(observations,)`.
        replicates: number of draws; 0 leaves the intervals out.
        level: nominal coverage, between 0 and 1.
        seed: random seed; the same seed gives the same intervals.
        cells: weights held at once; it bounds the memory and does not change the draws.

    Attributes:
        group: the group of each observation, int64 `(observations,)`. A group holds observations that have the same
            weight in every replicate; it is the unit in which callers sum.
        groups: number of groups.
        size: how many clusters each group stands for, float64 `(groups,)`: the weights of the estimate itself.

    Raises:
        PluralignError: `replicates` is negative or `level` is not between 0 and 1.

    Examples:
        The mean of five observations of three prompts, as a ratio of sums.

        >>> resampling = Resampling([7, 7, 8, 9, 9], replicates=100)
        >>> sums = resampling.sums(np.array([1.0, 0.0, 1.0, 1.0, 1.0]), np.ones(5))
        >>> metrics = resampling.intervals(lambda weights: {"mean": ratio(*(weights @ sums).T)})
        >>> {name: round(value, 3) for name, value in metrics.items()}
        {'mean': 0.8, 'mean_low': 0.5, 'mean_high': 1.0}
    """

    def __init__(
        self, cluster: ArrayLike, replicates: int = 1000, level: float = 0.95, seed: int = 0, cells: int = BLOCK_CELLS
    ) -> None:
        if replicates < 0:
            raise PluralignError(f"replicates is {replicates}, expected at least 0")
        if not 0 < level < 1:
            raise PluralignError(f"level is {level}, expected a number between 0 and 1")
        names, group = np.unique(np.asarray(cluster), return_inverse=True)
        self.group: Ints = group
        self.groups = len(names)
        self.size: Floats = np.ones(len(names))
        self._kinds = False
        self.replicates, self.level, self.seed, self.cells = replicates, level, seed, cells

    @classmethod
    def of_kinds(cls, count: ArrayLike, replicates: int = 1000, level: float = 0.95, seed: int = 0) -> Resampling:
        """Resampling of clusters that come in a few kinds; clusters of one kind have equal observations.

        Drawing how many clusters of each kind there are has the distribution of drawing the clusters one by one, at
        a cost that does not grow with their number. `count` holds the number of clusters of each kind, int `(kinds,)`;
        the kinds are the groups.

        Examples:
            >>> [weights.sum(axis=1).tolist() for weights in Resampling.of_kinds([30, 70], replicates=2).weights()]
            [[100.0, 100.0]]
        """
        size = np.asarray(count, dtype=np.float64)
        resampling = cls(np.arange(len(size)), replicates, level, seed)
        resampling.size, resampling._kinds = size, True
        return resampling

    def weights(self) -> Iterator[Floats]:
        """Weights of the groups, replicate by replicate, in blocks `(block, groups)`.

        There are none with fewer than two clusters: one cluster shows no variation.
        """
        clusters = int(self.size.sum())
        if clusters < 2:
            return
        generator = np.random.default_rng(self.seed)
        step = max(1, self.cells // self.groups)
        for start in range(0, self.replicates, step):
            rows = min(step, self.replicates - start)
            if self._kinds:
                yield generator.multinomial(clusters, self.size / clusters, size=rows).astype(np.float64)
                continue
            # Counting uniform draws is the multinomial, and much faster than its chain of binomials.
            drawn = generator.integers(self.groups, size=(rows, self.groups))
            drawn += np.arange(rows)[:, None] * self.groups
            counts = np.bincount(drawn.ravel(), minlength=rows * self.groups)
            yield counts.reshape(rows, self.groups).astype(np.float64)

    def sums(self, *columns: Floats) -> Floats:
        """Sums by group of columns of observations `(observations,)`: `(groups, columns)`."""
        sums = [np.bincount(self.group, weights=column, minlength=self.groups) for column in columns]
        return np.stack(sums, axis=1).astype(np.float64)

    def replicated(self, metrics: Metrics) -> dict[str, Floats]:
        """The metrics in every replicate, each `(replicates, ...)`; empty without replicates or with one cluster."""
        # Block by block: the sums of all replicates would be held at once otherwise.
        blocks = [metrics(weights) for weights in self.weights()]
        return {name: np.concatenate([block[name] for block in blocks]) for name in (blocks[0] if blocks else ())}

    def interval(self, metric: Callable[[Floats], Floats]) -> tuple[Floats, Floats] | None:
        """Low and high end, each `(...)`, of a metric `(rows, ...)` over the replicates; None if none defines it."""
        values = self.replicated(lambda weights: {"metric": metric(weights)})
        return percentiles(values["metric"], self.level) if values else None

    def intervals(self, metrics: Metrics) -> dict[str, float]:
        """Each metric, `(rows,)`, with the (1 - level) / 2 and the (1 + level) / 2 quantiles of its replicates.

        Returns:
            `NAME`, left out where it is undefined, and `NAME_low` and `NAME_high` over the replicates that define
            the metric, left out where none does.

        Examples:
            A share that only one of two clusters defines.

            >>> Resampling([4, 5]).intervals(lambda weights: {"a": ratio(weights[:, 0], 2 * weights[:, 0])})
            {'a': 0.5, 'a_low': 0.5, 'a_high': 0.5}
        """
        estimate = {name: float(value[0]) for name, value in metrics(self.size[None]).items()}
        result = {name: value for name, value in estimate.items() if not np.isnan(value)}
        for name, values in self.replicated(metrics).items():
            if (ends := percentiles(values, self.level)) is not None:
                result |= {f"{name}_low": float(ends[0]), f"{name}_high": float(ends[1])}
        return result

    def mean_intervals(self, means: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> dict[str, float]:
        """Ratios of sums over the observations, such as weighted means, with their `intervals`.

        Args:
            means: numerator and denominator of each, `(observations,)` or one number for all.

        Examples:
            >>> Resampling([0, 1], replicates=0).mean_intervals({"mean": ([1.0, 4.0], 1.0)})
            {'mean': 2.5}
        """
        if not means:
            return {}
        shape, names = self.group.shape, list(means)
        tops, bottoms = (
            self.sums(*(np.broadcast_to(np.asarray(means[name][part], dtype=np.float64), shape) for name in names))
            for part in (0, 1)
        )
        return self.intervals(lambda weights: dict(zip(names, ratio(weights @ tops, weights @ bottoms).T, strict=True)))


def percentiles(values: Floats, level: float) -> tuple[Floats, Floats] | None:
    """The (1 - level) / 2 and (1 + level) / 2 quantiles of replicates `(replicates, ...)`, each `(...)`.

    Replicates with a nan are left out; the result is None if no replicate remains.
    """
    defined = values[~np.isnan(values).any(axis=tuple(range(1, values.ndim)))]
    if not len(defined):
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Quotients, nan where the denominator is not above 0."""
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator > 0)

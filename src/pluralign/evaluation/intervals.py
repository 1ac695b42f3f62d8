"""Intervals of metrics over prompts and annotators; every interval of the package is computed here.

Observations that share a prompt (or whatever the cluster is) are not independent, and neither are those of one
annotator. Means have a closed-form variance for both. For other metrics a replicate draws whole prompts and whole
annotators with replacement. A metric is a function of weighted sums: callers sum their observations by
`Resampling.group` and give a function from weights of the groups to metrics; only this module decides how the weights
are drawn.

Sources: Cameron, Gelbach and Miller (2011), "Robust inference with multiway clustering", for means; Owen (2007), "The
pigeonhole bootstrap", for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from pluralign.core.errors import PluralignError
from pluralign.evaluation.pairs import Floats, Ints

# Weights held at once (times eight bytes, and as much again for the draws).
BLOCK_CELLS = 1 << 21

# With fewer prompts or annotators than this, they are taken as given: so few show little of what others would do.
FEWEST_LEVELS = 5

# The variance formula corrects for the estimated mean by at most the inverse of this.
LEAST_PART = 0.25

# Cells of prompts and annotators that replicates weigh one by one. If there are more, random sets of prompts and of
# annotators, so many of each, are drawn instead of single ones; their sums vary as much in expectation.
MOST_CELLS = 1 << 17
LARGEST_SETS = 362

# Draws for the interval of a sum of absolute values, and steps of bisection; they cost next to nothing.
NORMAL_DRAWS, HALVINGS = 4000, 20

Means = Mapping[str, tuple[ArrayLike, ArrayLike]]
"""Ratios of sums, by name: numerator and denominator, `(observations,)` or one number for all."""

Metrics = Callable[[Floats], Mapping[str, Floats]]
"""From weights `(rows, groups)` to metrics, each `(rows, ...)`; nan marks a metric that is undefined in a row."""


class Resampling:
    """Draws of clusters with replacement, as many as there are, and the intervals that follow.

    Without `annotator`, or where every annotator judged one cluster only, the clusters alone are drawn and intervals
    are percentiles over the replicates. Else prompts (the clusters) and annotators are crossed:

    - A ratio of sums has the variance V_prompt + V_annotator - V_cell, each over its own clusters of the residuals
      w (v - mean) / sum w, corrected for the estimated mean (G / (G - 1) for G equal clusters). A cell is
      a prompt with an annotator. The variance is never below the larger of the first two; the interval is the normal
      one, within the range of the observed values.
    - For other metrics the weight of a cell is the product of its prompt's and its annotator's multinomial counts (the
      pigeonhole bootstrap, slightly conservative). An annotator with a single prompt is nested in it and is drawn with
      it, and a prompt with a single annotator is drawn with that annotator.

    With fewer than five annotators the intervals are over prompts, given these annotators; with fewer than five
    prompts and at least five annotators they are over annotators, given these prompts.

    Args:
        cluster: id of the cluster of each observation, such as its prompt, int `(observations,)`.
        replicates: number of draws; 0 leaves the intervals out.
        level: nominal coverage, between 0 and 1.
        seed: random seed; the same seed gives the same intervals.
        cells: weights held at once; it bounds the memory and does not change the draws.
        annotator: id of the annotator of each observation, int `(observations,)`. Give an annotator without a name
            an id of their own (see `annotator_ids`).

    Attributes:
        group: the group of each observation, int64 `(observations,)`. A group holds observations that have the same
            weight in every replicate; it is the unit in which callers sum.
        groups: number of groups.
        size: how many clusters each group stands for, float64 `(groups,)`: the weights of the estimate itself.
        given: keys that say what the intervals take as given, each `True`: `intervals_given_annotators` or
            `intervals_given_prompts`.

    Raises:
        PluralignError: `replicates` is negative or `level` is not between 0 and 1.

    Examples:
        The mean of five observations of three prompts, as a ratio of sums.

        >>> resampling = Resampling([7, 7, 8, 9, 9], replicates=100)
        >>> sums = resampling.sums(np.array([1.0, 0.0, 1.0, 1.0, 1.0]), np.ones(5))
        >>> metrics = resampling.intervals(lambda weights: {"mean": ratio(*(weights @ sums).T)})
        >>> {name: round(value, 3) for name, value in metrics.items()}
        {'mean': 0.8, 'mean_low': 0.5, 'mean_high': 1.0}

        Six annotators judged the same six prompts, and each always says the same.

        >>> prompt, annotator = np.divmod(np.arange(36), 6)
        >>> resampling = Resampling(prompt, annotator=annotator)
        >>> metrics = resampling.mean_intervals({"mean": (annotator % 2, 1.0)})
        >>> {name: round(value, 3) for name, value in metrics.items()}
        {'mean': 0.5, 'mean_low': 0.062, 'mean_high': 0.938}
    """

    def __init__(
        self,
        cluster: ArrayLike,
        replicates: int = 1000,
        level: float = 0.95,
        seed: int = 0,
        cells: int = BLOCK_CELLS,
        *,
        annotator: ArrayLike | None = None,
    ) -> None:
        if replicates < 0:
            raise PluralignError(f"replicates is {replicates}, expected at least 0")
        if not 0 < level < 1:
            raise PluralignError(f"level is {level}, expected a number between 0 and 1")
        names, group = np.unique(np.asarray(cluster), return_inverse=True)
        self.replicates, self.level, self.seed, self.cells = replicates, level, seed, cells
        self.given: dict[str, bool] = {}
        self._kinds = False
        # Crossed designs: the clusters of the variance formula, and each factor's part in the groups' weights.
        self._ways: tuple[Ints, Ints, Ints] | None = None
        self._factors: list[_Factor] = []
        self._use(group, len(names))
        if annotator is not None:
            self._cross(group, np.unique(np.asarray(annotator), return_inverse=True)[1])

    def _use(self, group: Ints, groups: int) -> None:
        """Take these groups."""
        self.group, self.groups, self.size = group, groups, np.ones(groups)

    def _cross(self, prompt: Ints, who: Ints) -> None:
        """Decide which of prompts and annotators are drawn, and make the groups of a crossed design."""
        if not len(who):
            return
        prompts, annotators = int(prompt.max()) + 1, int(who.max()) + 1
        held, cell = np.unique(prompt * annotators + who, return_inverse=True)
        of_prompt, of_annotator = held // annotators, held % annotators
        several = np.bincount(of_annotator) > 1
        if not several.any():
            return
        if annotators < FEWEST_LEVELS:
            self.given["intervals_given_annotators"] = True
            return
        if prompts < FEWEST_LEVELS:
            self.given["intervals_given_prompts"] = True
        nested = np.bincount(of_prompt) == 1
        if prompts < FEWEST_LEVELS or nested.all():
            self._use(who, annotators)
            return
        self._ways = (prompt, who, cell)
        # A prompt of a single annotator is drawn with that annotator, unless the annotator is drawn with the prompt.
        drawn = np.ones(prompts, dtype=bool)
        drawn[of_prompt[several[of_annotator] & nested[of_prompt]]] = False
        limit = LARGEST_SETS if len(held) > MOST_CELLS else None
        slots = []
        for place, levels in ((of_prompt, drawn), (of_annotator, several)):
            factor = _Factor.of(levels, limit, self.seed)
            self._factors.append(factor)
            slots.append(factor.slot[place])
        columns = self._factors[1].drawn + 1
        kept, group_of_cell = np.unique(slots[0] * columns + slots[1], return_inverse=True)
        self._use(group_of_cell[cell], len(kept))
        for factor, slot in zip(self._factors, (kept // columns, kept % columns), strict=True):
            factor.slot = slot

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
        others = np.random.default_rng([self.seed, 1])
        step = max(1, self.cells // max([self.groups, *(factor.width for factor in self._factors)]))
        for start in range(0, self.replicates, step):
            rows = min(step, self.replicates - start)
            if self._kinds:
                yield generator.multinomial(clusters, self.size / clusters, size=rows).astype(np.float64)
            elif self._factors:
                prompts, annotators = self._factors
                yield prompts.weights(rows, generator) * annotators.weights(rows, others)
            else:
                yield _counts(rows, self.groups, generator)

    @property
    def crossed(self) -> bool:
        """Whether prompts and annotators are both drawn."""
        return self._ways is not None

    def covariance(self, influence: Floats, mass: Floats | None = None) -> Floats:
        """Covariance of several estimates from each observation's influence on them, `(estimates, estimates)`.

        The influence `(observations, estimates)` is the derivative by the observation's weight; for a mean it is
        w (v - mean) / sum w. In a crossed design this is V_prompt + V_annotator - V_cell, else it is over the clusters.
        `mass` is the weight of each observation, `(observations,)`; None is 1.
        """
        mass = np.ones(len(influence)) if mass is None else mass
        if self._ways is None:
            return _covariance(influence, self.group, mass)
        prompts, annotators, cells = (_covariance(influence, code, mass) for code in self._ways)
        return prompts + annotators - cells

    def half_width(self, influence: Floats, mass: Floats | None = None) -> float:
        """Half the normal interval of an estimate in a crossed design, from influences `(observations,)`.

        The arguments are those of `covariance`; the variance is never below that of prompts or of annotators.
        """
        assert self._ways is not None
        mass = np.ones(len(influence)) if mass is None else mass
        prompts, annotators, cells = (_covariance(influence[:, None], code, mass).item() for code in self._ways)
        variance = max(prompts + annotators - cells, prompts, annotators)
        return float(ndtri((1 + self.level) / 2) * np.sqrt(variance))

    def absolute_sum_ends(
        self, gaps: Floats, influence: Floats, mass: Floats | None = None
    ) -> tuple[float, float] | None:
        """Ends of the interval of sum |gap|, such as a calibration error over bins; None with fewer than two clusters.

        Noise does not cancel in a sum of absolute values: it is too large in a sample, and larger still in a resample,
        so that percentiles of resamples never hold a sum of 0. Instead the interval holds every t sum |gap| for which
        sum |gap| is neither in the lower nor in the upper (1 - level) / 2 of the sums sum |t gap + e|, e normal with
        the `covariance` of the gaps (a test inverted along the direction of the gaps; ours). It begins at 0 where
        noise alone could explain the gaps, and its high end is at least sum |gap|.

        Args:
            gaps: `(gaps,)`.
            influence: of each observation on each gap, `(observations, gaps)`.
            mass: as in `covariance`.
        """
        estimate = float(np.abs(gaps).sum())
        if not self.replicates or self.groups < 2:
            return None
        if not estimate > 0:
            return 0.0, 0.0
        noise = normal_draws(self.covariance(influence, mass), NORMAL_DRAWS, np.random.default_rng([self.seed, 3]))

        def scale(tail: float, most: float) -> float:
            """The scale of the gaps, from 0 to `most`, at which the estimate is this quantile of the sums."""
            low, high = 0.0, most
            for _ in range(HALVINGS):
                middle = (low + high) / 2
                above = np.quantile(np.abs(middle * gaps + noise).sum(axis=1), tail) > estimate
                low, high = (low, middle) if above else (middle, high)
            return high

        tail = (1 - self.level) / 2
        # Beyond this scale even the largest noise leaves the sum above the estimate.
        most = 1 + float(np.abs(noise).sum(axis=1).max()) / estimate
        explained = np.quantile(np.abs(noise).sum(axis=1), 1 - tail) > estimate
        return 0.0 if explained else scale(1 - tail, 1.0) * estimate, max(scale(tail, most), 1.0) * estimate

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

    def intervals(self, metrics: Metrics, means: Means | None = None) -> dict[str, float]:
        """Each metric, `(rows,)`, with the (1 - level) / 2 and the (1 + level) / 2 quantiles of its replicates.

        Args:
            metrics: the metrics of weights of the groups.
            means: those metrics that are ratios of sums over the observations: the variance formula serves them if
                prompts and annotators are crossed.

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
        closed = (means or {}) if self._ways is not None else {}

        def others(weights: Floats) -> Mapping[str, Floats]:
            return {name: values for name, values in metrics(weights).items() if name not in closed}

        if set(estimate) - set(closed):
            for name, values in self.replicated(others).items():
                if (ends := percentiles(values, self.level)) is not None:
                    result |= {f"{name}_low": float(ends[0]), f"{name}_high": float(ends[1])}
        return result | self._closed(closed)

    def mean_intervals(self, means: Means) -> dict[str, float]:
        """Ratios of sums over the observations, such as weighted means, with their `intervals`.

        Args:
            means: numerator and denominator of each, `(observations,)` or one number for all.

        Examples:
            >>> Resampling([0, 1], replicates=0).mean_intervals({"mean": ([1.0, 4.0], 1.0)})
            {'mean': 2.5}
        """
        if not means:
            return {}
        if self._ways is not None:
            return self._closed(means)
        names = list(means)
        tops, bottoms = (self.sums(*(self._each(means[name][part]) for name in names)) for part in (0, 1))
        return self.intervals(lambda weights: dict(zip(names, ratio(weights @ tops, weights @ bottoms).T, strict=True)))

    def _each(self, values: ArrayLike) -> Floats:
        """A number for each observation."""
        return np.broadcast_to(np.asarray(values, dtype=np.float64), self.group.shape)

    def _closed(self, means: Means) -> dict[str, float]:
        """Ratios with intervals by the variance formula for two ways of clustering."""
        result: dict[str, float] = {}
        for name, (numerator, denominator) in means.items():
            top, bottom = self._each(numerator), self._each(denominator)
            total = float(bottom.sum())
            if not total > 0:
                continue
            result[name] = estimate = float(top.sum()) / total
            if not self.replicates:
                continue
            half = self.half_width((top - estimate * bottom) / total, mass=bottom)
            seen = bottom > 0
            values = top[seen] / bottom[seen]
            result[f"{name}_low"] = max(estimate - half, min(float(values.min()), estimate))
            result[f"{name}_high"] = min(estimate + half, max(float(values.max()), estimate))
        return result


class _Factor:
    """Prompts or annotators of a crossed design: which are drawn, and where each cell or group finds its count.

    Args:
        slot: place of each cell or group among the drawn levels; `drawn` is the place of all that are not drawn.
        drawn: number of levels, or of random sets of them, that are drawn.
        levels: number of levels in all.
    """

    def __init__(self, slot: Ints, drawn: int, levels: int) -> None:
        self.slot, self.drawn, self.levels = slot, drawn, levels

    @property
    def width(self) -> int:
        """Levels of a draw: those that are drawn, and one or more for the others."""
        return max(self.levels, self.drawn + 1)

    @classmethod
    def of(cls, drawn: np.ndarray, limit: int | None, seed: int) -> _Factor:
        """From which levels are drawn, bool `(levels,)`, in at most `limit` random sets."""
        count = int(drawn.sum())
        slot = np.full(len(drawn), count)
        slot[drawn] = np.arange(count)
        if limit is None or count <= limit:
            # Draws of the other levels are thrown away; a few times as many are as good as all of them.
            return cls(slot, count, min(len(drawn), 10 * count + 10))
        slot[drawn] = np.random.default_rng([seed, 2]).permutation(count) % limit
        slot[~drawn] = limit
        return cls(slot, limit, limit)

    def weights(self, rows: int, generator: np.random.Generator) -> Floats:
        """How often the level of each group was drawn, `(rows, groups)`; 1 if it is not drawn."""
        counts = _counts(rows, self.width, generator)
        counts[:, self.drawn] = 1.0
        return counts[:, self.slot]


def _counts(rows: int, levels: int, generator: np.random.Generator) -> Floats:
    """How often each level comes in as many draws as there are levels, `(rows, levels)`."""
    # Counting uniform draws is the multinomial, and much faster than its chain of binomials.
    drawn = generator.integers(levels, size=(rows, levels))
    drawn += np.arange(rows)[:, None] * levels
    return np.bincount(drawn.ravel(), minlength=rows * levels).reshape(rows, levels).astype(np.float64)


def _covariance(residual: Floats, code: Ints, mass: Floats) -> Floats:
    """Covariance of sums of residuals `(observations, k)` whose clusters are independent, corrected for their means.

    With m the clusters' shares of the mass, residuals from an estimated mean of clusters with independent effects have
    only the part 1 - 2 sum m^3 / sum m^2 + sum m^2 of the variance: 1 - 1 / G for G equal clusters.
    """
    sums = np.stack([np.bincount(code, weights=column) for column in residual.T])
    shares = np.bincount(code, weights=mass) / mass.sum()
    squares = shares @ shares
    part = 1 - 2 * float((shares**3).sum()) / squares + squares
    # Where one cluster is nearly everything, there is next to nothing to estimate from.
    return np.asarray(sums @ sums.T) / max(part, LEAST_PART)


def normal_draws(covariance: Floats, draws: int, generator: np.random.Generator) -> Floats:
    """Normal draws `(draws, k)` with mean 0; negative eigenvalues of the covariance, which is an estimate, become 0."""
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(values.clip(0))
    return np.asarray(generator.normal(size=(draws, len(values))) @ root.T)


def annotator_ids(names: Sequence[str | None]) -> Ints:
    """An id for each annotator `(judgments,)`: from 0 for names, and a negative one of its own for each None.

    Examples:
        >>> annotator_ids(["bob", None, "ann", "bob", None]).tolist()
        [0, -2, 1, 0, -5]
    """
    code: dict[str, int] = {}
    ids = (-1 - row if name is None else code.setdefault(name, len(code)) for row, name in enumerate(names))
    return np.fromiter(ids, dtype=np.int64, count=len(names))


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

"""Draws of clusters with replacement, and percentile intervals over them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from pluralign.core.errors import PluralignError
from pluralign.evaluation.pairs import Floats

# Cluster counts held at once (times eight bytes, and as much again for the draws).
BLOCK_CELLS = 1 << 21


def drawn_counts(clusters: int, replicates: int, seed: int, cells: int = BLOCK_CELLS) -> Iterator[tuple[int, Floats]]:
    """How often each cluster is drawn, when as many are drawn with replacement as there are.

    A replicate is multinomial(clusters; uniform). They come in blocks of replicates, so that memory grows only
    with `cells`; the draws do not depend on the block size.

    Args:
        clusters: how many there are, at least 1.
        replicates: how many times to draw.
        seed: of the draws.
        cells: entries of the count matrix held at once.

    Yields:
        the first replicate of the block, and its counts `(block, clusters)`.

    Examples:
        >>> [(start, counts.sum(axis=1).tolist()) for start, counts in drawn_counts(3, 3, seed=0, cells=6)]
        [(0, [3.0, 3.0]), (2, [3.0])]
    """
    generator = np.random.default_rng(seed)
    step = max(1, cells // clusters)
    for start in range(0, replicates, step):
        rows = min(step, replicates - start)
        # Counting uniform draws is the multinomial, and much faster than its chain of binomials.
        drawn = generator.integers(clusters, size=(rows, clusters))
        drawn += np.arange(rows)[:, None] * clusters
        counts = np.bincount(drawn.ravel(), minlength=rows * clusters).reshape(rows, clusters)
        yield start, counts.astype(np.float64)


def resampled_sums(sums: Floats, replicates: int, seed: int, cells: int = BLOCK_CELLS) -> Floats:
    """Sums of clusters drawn with replacement, as many as there are, once per replicate.

    A replicate is counts @ sums with the counts of `drawn_counts`. Time grows with replicates x clusters.

    Args:
        sums: one row of sums per cluster, `(clusters, statistics)`.
        replicates: how many times to draw.
        seed: of the draws.
        cells: entries of the count matrix held at once.

    Returns:
        `(replicates, statistics)`.

    Examples:
        Every replicate draws three clusters.

        >>> resampled_sums(np.ones((3, 1)), replicates=4, seed=0).ravel().tolist()
        [3.0, 3.0, 3.0, 3.0]
    """
    totals = np.empty((replicates, sums.shape[1]))
    for start, counts in drawn_counts(len(sums), replicates, seed, cells):
        totals[start : start + len(counts)] = counts @ sums
    return totals


def percentile_intervals(values: Mapping[str, Floats], level: float) -> dict[str, float]:
    """The interval of each metric between the (1 - level) / 2 and the (1 + level) / 2 quantiles of its replicates.

    Args:
        values: replicates of each metric, `(replicates,)`; nan where a replicate leaves it undefined.
        level: coverage aimed at, between 0 and 1.

    Returns:
        `NAME_low` and `NAME_high`, over the replicates that define the metric; nothing where none does.

    Examples:
        >>> percentile_intervals({"a": np.array([3.0, np.nan, 1.0, 2.0]), "b": np.array([np.nan])}, 0.5)
        {'a_low': 1.5, 'a_high': 2.5}
    """
    intervals: dict[str, float] = {}
    for name, replicates in values.items():
        defined = replicates[~np.isnan(replicates)]
        if len(defined):
            low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
            intervals |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    return intervals


def check_resampling(replicates: int, level: float) -> None:
    """Refuse draws and levels that make no interval.

    Raises:
        PluralignError: `replicates` under 1, or `level` not between 0 and 1.

    Examples:
        >>> check_resampling(0, 0.95)
        Traceback (most recent call last):
        ...
        pluralign.core.errors.PluralignError: replicates is 0, expected at least 1
    """
    if replicates < 1:
        raise PluralignError(f"replicates is {replicates}, expected at least 1")
    if not 0 < level < 1:
        raise PluralignError(f"level is {level}, expected a number between 0 and 1")

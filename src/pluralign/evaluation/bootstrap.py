"""Percentile bootstrap intervals that resample prompts.

Judgments of one prompt share its responses, so they are not independent: whole prompts are drawn, with
replacement, and more judgments on the same prompts do not narrow an interval by themselves.
"""

from __future__ import annotations

import numpy as np

from pluralign.core.errors import PluralignError
from pluralign.evaluation.pairs import Floats, Pairs
from pluralign.evaluation.sums import metrics_of_sums, pair_sums

# Prompt counts held at once (times eight bytes, and as much again for the draws).
BLOCK_CELLS = 1 << 21


def resampled_sums(sums: Floats, replicates: int, seed: int, cells: int = BLOCK_CELLS) -> Floats:
    """Sums of clusters drawn with replacement, as many as there are, once per replicate.

    A replicate is n @ sums with n multinomial(clusters; uniform): a matrix product of counts and sums, in
    blocks of replicates. Time grows with replicates x clusters, memory only with `cells`; the draws do not
    depend on the block size.

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
    generator = np.random.default_rng(seed)
    clusters = len(sums)
    step = max(1, cells // clusters)
    totals = np.empty((replicates, sums.shape[1]))
    for start in range(0, replicates, step):
        rows = min(step, replicates - start)
        # Counting uniform draws is the multinomial, and much faster than its chain of binomials.
        drawn = generator.integers(clusters, size=(rows, clusters))
        drawn += np.arange(rows)[:, None] * clusters
        counts = np.bincount(drawn.ravel(), minlength=rows * clusters).reshape(rows, clusters)
        totals[start : start + rows] = counts.astype(np.float64) @ sums
    return totals


def bootstrap_intervals(
    pairs: Pairs, replicates: int = 1000, level: float = 0.95, seed: int = 0, bins: int = 10
) -> dict[str, float]:
    """Percentile intervals of accuracy, log-loss and calibration error over prompts.

    Each replicate draws as many prompts as have a strict pair, with replacement; the interval spans the
    (1 - level) / 2 and (1 + level) / 2 quantiles of the metric over the replicates. The calibration error
    is a sum of absolute values and thus biased upwards in small samples, in a replicate more than in the
    data: its interval is a measure of spread and may lie above the estimate.

    Args:
        pairs: strict pairs; `pairs.prompt` is the cluster.
        replicates: number of draws, at least 1.
        level: coverage aimed at, between 0 and 1.
        seed: of the draws; the same seed gives the same interval.
        bins: of the calibration error, an even number.

    Returns:
        `accuracy_low`, `accuracy_high`, `log_loss_low`, `log_loss_high`, `ece_low`, `ece_high`. With fewer
        than two prompts, and for a metric that is undefined, the keys are left out. Replicates in which a
        metric is undefined are passed over.

    Raises:
        PluralignError: `replicates` under 1, `level` not between 0 and 1, or `bins` odd or under 2.

    Examples:
        Four prompts that agree leave nothing to vary.

        >>> from pluralign.evaluation.pairs import pairs_of
        >>> pairs = pairs_of([1.0, 0.0] * 4, [1, 2] * 4, [0, 2, 4, 6, 8], [0, 1, 2, 3], [1.0] * 4)
        >>> interval = bootstrap_intervals(pairs, replicates=50)
        >>> interval["accuracy_low"], interval["accuracy_high"]
        (1.0, 1.0)
    """
    if replicates < 1:
        raise PluralignError(f"replicates is {replicates}, expected at least 1")
    if not 0 < level < 1:
        raise PluralignError(f"level is {level}, expected a number between 0 and 1")
    prompts, cluster = np.unique(pairs.prompt, return_inverse=True)
    if len(prompts) < 2:
        return {}
    sums = pair_sums(pairs, cluster, len(prompts), bins)
    intervals: dict[str, float] = {}
    for name, values in metrics_of_sums(resampled_sums(sums, replicates, seed)).items():
        defined = values[~np.isnan(values)]
        if len(defined):
            low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
            intervals |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    return intervals

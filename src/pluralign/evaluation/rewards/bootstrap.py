"""Percentile bootstrap intervals that resample prompts.

Judgments of one prompt share its responses, so they are not independent: whole prompts are drawn, with
replacement, and more judgments on the same prompts do not narrow an interval by themselves.
"""

from __future__ import annotations

import numpy as np

from pluralign.evaluation.calibration.reliability import check_bins
from pluralign.evaluation.intervals import check_resampling, drawn_counts, percentile_intervals
from pluralign.evaluation.pairs import Pairs
from pluralign.evaluation.rewards.metrics import RewardSums


def bootstrap_intervals(
    pairs: Pairs, replicates: int = 1000, level: float = 0.95, seed: int = 0, bins: int = 10
) -> dict[str, float]:
    """Percentile intervals of the metrics of rewards over prompts.

    Each replicate draws as many prompts as have a strict pair, with replacement; the interval spans the
    (1 - level) / 2 and (1 + level) / 2 quantiles of the metric over the replicates. A calibration error
    is a sum of absolute values and thus biased upwards in small samples, in a replicate more than in the
    data: its interval is a measure of spread and may lie above the estimate. Bins of equal mass stay those of the
    data in every replicate.

    Args:
        pairs: strict pairs; `pairs.prompt` is the cluster.
        replicates: number of draws, at least 1.
        level: coverage aimed at, between 0 and 1.
        seed: of the draws; the same seed gives the same interval.
        bins: of the calibration errors, an even number.

    Returns:
        `accuracy_low`, `accuracy_high`, and so on for every metric of
        `pluralign.evaluation.rewards.metrics.RewardSums.metrics`. With fewer than two prompts, and for a metric that is
        undefined, the keys are left out. Replicates in which a metric is undefined are passed over.

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
    check_resampling(replicates, level)
    check_bins(bins)
    prompts, cluster = np.unique(pairs.prompt, return_inverse=True)
    if len(prompts) < 2:
        return {}
    sums = RewardSums.of(pairs, cluster, len(prompts), bins)
    # Metrics block by block: the sums of all replicates would be held at once otherwise.
    blocks = [sums.metrics(counts) for _, counts in drawn_counts(len(prompts), replicates, seed)]
    return percentile_intervals({name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}, level)

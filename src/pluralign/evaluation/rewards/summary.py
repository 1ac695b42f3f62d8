"""All metrics of rewards against judgments, in one flat dict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from numpy.typing import ArrayLike

from pluralign.evaluation.calibration.crowd import crowd_calibration, crowd_pairs
from pluralign.evaluation.pairs import Floats, pairs_of
from pluralign.evaluation.rewards.metrics import pair_metrics
from pluralign.evaluation.rewards.rank_correlation import crowd_spearman, kendall_tau
from pluralign.evaluation.slices import sliced_metrics


def evaluate_rewards(
    rewards: ArrayLike,
    ranks: ArrayLike,
    offsets: ArrayLike,
    prompt: ArrayLike,
    weight: ArrayLike,
    *,
    response: ArrayLike | None = None,
    annotator: ArrayLike | None = None,
    slices: Mapping[str, Sequence[str | None]] | None = None,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    recalibration: Callable[[Floats], Floats] | None = None,
) -> dict[str, float]:
    """Pair metrics, rank correlations and crowd calibration, with intervals, and metrics per slice.

    Args:
        rewards, ranks, offsets, prompt, weight: as in `pluralign.evaluation.pairs.pairs_of`.
        response: id of the unique response at each position, int `(total,)`; needed for `spearman` and for the
            metrics of `pluralign.evaluation.calibration.crowd.crowd_calibration`.
        annotator: who made each judgment, int `(judgments,)`, as from `intervals.annotator_ids`; it makes the intervals
            cover prompts and annotators.
        slices: as in `pluralign.evaluation.slices.sliced_metrics`.
        replicates, level, seed: as in `pluralign.evaluation.intervals.Resampling`.
        recalibration: maps margins to log-odds, as in `pairs_of`; rank correlations use the rewards themselves.

    Returns:
        flat keys to finite Python numbers: those of `pluralign.evaluation.rewards.metrics.pair_metrics`;
        `kendall_tau` and `spearman`; those of `crowd_calibration`, if a pair of responses was judged at least twice;
        and per slice `accuracy/source=NAME` and so on. What is undefined is left out.

    Raises:
        PluralignError: an argument does not fit; the message names it.

    Examples:
        >>> metrics = evaluate_rewards([2.0, 1.0, 0.0], [1, 2, 3], [0, 3], [0], [1.0], response=[0, 1, 2])
        >>> metrics["accuracy"], metrics["kendall_tau"], metrics["spearman"], "accuracy_low" in metrics
        (1.0, 1.0, 1.0, False)
    """
    pairs = pairs_of(rewards, ranks, offsets, prompt, weight, recalibration, annotator)
    metrics = pair_metrics(pairs, replicates=replicates, level=level, seed=seed)
    correlations = {"kendall_tau": kendall_tau(rewards, ranks, offsets, weight)}
    if response is not None:
        correlations["spearman"] = crowd_spearman(rewards, ranks, offsets, prompt, weight, response)
        crowd = crowd_pairs(rewards, ranks, offsets, prompt, weight, response, recalibration, annotator)
        metrics |= crowd_calibration(crowd, replicates=replicates, level=level, seed=seed)
    metrics |= {name: value for name, value in correlations.items() if value is not None}
    return metrics | sliced_metrics(pairs, slices or {})

"""All that can be said of rewards against verdicts, in one flat dict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from numpy.typing import ArrayLike

from pluralign.evaluation.calibration.crowd import crowd_intervals, crowd_metrics, crowd_pairs
from pluralign.evaluation.pairs import Floats, pairs_of
from pluralign.evaluation.rewards.bootstrap import bootstrap_intervals
from pluralign.evaluation.rewards.metrics import reward_metrics
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
    slices: Mapping[str, Sequence[str | None]] | None = None,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    recalibration: Callable[[Floats], Floats] | None = None,
) -> dict[str, float]:
    """Metrics of `reward_metrics`, rank correlations, crowd calibration, intervals over prompts, and slices.

    Args:
        rewards: of each shown response, float `(total,)`, the judgments end to end.
        ranks: 1 best, equal = tie, 0 = shown but not ranked, int `(total,)`.
        offsets: where each judgment begins and the last one ends, int `(judgments + 1,)`.
        prompt: the cluster of each judgment, int `(judgments,)`.
        weight: of each judgment, `(judgments,)`.
        response: id of the unique response at each place, int `(total,)`; without it there is neither `spearman`
            nor what `pluralign.evaluation.calibration.crowd.crowd_metrics` says.
        slices: as in `pluralign.evaluation.slices.sliced_metrics`.
        replicates: bootstrap draws; 0 leaves the intervals out.
        level: coverage the intervals aim at.
        seed: of the bootstrap.
        recalibration: maps margins to log-odds before anything is said of them, as in `pairs_of`; rank correlations
            are those of the rewards.

    Returns:
        flat keys to finite Python numbers: those of `reward_metrics`; `kendall_tau` and `spearman`; those of
        `crowd_metrics`, where a pair of responses was judged twice or more; `accuracy_low`, `accuracy_high` and
        the same for every metric of `bootstrap_intervals` and `crowd_intervals`; and per slice
        `accuracy/source=NAME` and so on. What is undefined is left out.

    Raises:
        PluralignError: an argument does not fit; the message names it.

    Examples:
        >>> metrics = evaluate_rewards([2.0, 1.0, 0.0], [1, 2, 3], [0, 3], [0], [1.0], response=[0, 1, 2])
        >>> metrics["accuracy"], metrics["kendall_tau"], metrics["spearman"], "accuracy_low" in metrics
        (1.0, 1.0, 1.0, False)
    """
    pairs = pairs_of(rewards, ranks, offsets, prompt, weight, recalibration)
    metrics = reward_metrics(pairs)
    tau = kendall_tau(rewards, ranks, offsets, weight)
    if tau is not None:
        metrics["kendall_tau"] = tau
    if response is not None:
        rho = crowd_spearman(rewards, ranks, offsets, prompt, weight, response)
        if rho is not None:
            metrics["spearman"] = rho
        crowd = crowd_pairs(rewards, ranks, offsets, prompt, weight, response, recalibration)
        metrics |= crowd_metrics(crowd)
        if replicates:
            metrics |= crowd_intervals(crowd, replicates, level, seed)
    if replicates:
        metrics |= bootstrap_intervals(pairs, replicates, level, seed)
    return metrics | sliced_metrics(pairs, slices or {})

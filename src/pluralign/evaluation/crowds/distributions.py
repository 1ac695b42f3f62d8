"""Predicted distributions over labels against the votes of a crowd, on items that were held out.

An item is one (prompt, response). With mu predicted, c its votes, n = sum c and s = c / n the voted shares, every
metric but one is a weighted mean over the items. s is a sample of n votes: no prediction, not even the true shares,
has distance 0 to it, and with few votes much of each distance is that noise. Compare models on the same votes, not
with 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import xlogy

from pluralign.choice.transport import LabelCost, label_cost, transport_cost
from pluralign.core.errors import PluralignError
from pluralign.evaluation.calibration.binned import ratio
from pluralign.evaluation.calibration.reliability import bin_of
from pluralign.evaluation.crowds.vote_coverage import count_coverage
from pluralign.evaluation.crowds.vote_slices import VoteSlice
from pluralign.evaluation.intervals import check_resampling, percentile_intervals, resampled_sums
from pluralign.evaluation.pairs import Floats, Ints, real_numbers, whole_numbers

# The least probability that log-loss knows: a label that was held impossible and voted for costs 27.6 nats, not
# infinitely many.
FLOOR = 1e-12

# Probabilities and shares nearer than this are tied: sums of the same votes in another order differ so little.
SAME = 1e-9

# How far a predicted distribution may be from sum 1: float32, and half precision's last digit.
SUM_SLACK = 1e-2

MEANS = (
    "transport_cost",
    "total_variation",
    "log_loss",
    "vote_entropy",
    "log_loss_excess",
    "expected_reward_error",
    "expected_reward_bias",
    "interval_coverage",
    "majority_accuracy",
)
"""Metrics that are means of one number per item; `share_ece` is the one that is not."""


@dataclass(frozen=True)
class PredictedCrowds:
    """Items with at least one vote, and what the metrics are means of.

    Attributes:
        predicted: mu, rows of sum 1, float64 `(items, labels)`.
        share: the voted shares s, float64 `(items, labels)`.
        votes: n, float64 `(items,)`, above 0.
        weight: of each item, float64 `(items,)`.
        prompt: cluster of each item, int64 `(items,)`.
        values: of `MEANS`, each float64 `(items,)`.
        left_out: how many items had no vote.
    """

    predicted: Floats
    share: Floats
    votes: Floats
    weight: Floats
    prompt: Ints
    values: Mapping[str, Floats]
    left_out: int


def predicted_crowds(
    predicted: ArrayLike,
    votes: ArrayLike,
    rewards: ArrayLike,
    prompt: ArrayLike,
    *,
    cost: LabelCost | None = None,
    weight: ArrayLike | None = None,
    concentration: ArrayLike | None = None,
    coverage_level: float = 0.9,
) -> PredictedCrowds:
    """Compare each item's predicted distribution with its votes.

    Per item, with R the rewards of the labels:

    - `transport_cost`: OT(mu, s) under `cost`; `total_variation`: sum_i |mu_i - s_i| / 2.
    - `log_loss`: - sum_i s_i log mu_i, nats per vote (mu at least 1e-12); `vote_entropy`: - sum_i s_i log s_i;
      `log_loss_excess`: the first less the second, KL(s || mu).
    - `expected_reward_bias`: sum_i R_i (mu_i - s_i); `expected_reward_error`: its absolute value.
    - `interval_coverage`: mean over the labels of `pluralign.evaluation.crowds.vote_coverage.count_coverage`.
    - `majority_accuracy`: 1 if the label with the largest mu has the most votes; where either is tied 1/2 if a
      label is among the first of both; else 0.

    Args:
        predicted: mu, at least 0 with sum 1, `(items, labels)`.
        votes: c, counts or sums of weights, `(items, labels)`; with shares and n, their product. Items without a
            vote are left out.
        rewards: of the labels, `(labels,)`.
        prompt: the cluster of each item, int `(items,)`.
        cost: between labels; None is |R_i - R_j| + 0.1 [i != j].
        weight: of each item, at least 0, `(items,)`; None counts items equally, the sums of `votes` count votes
            equally.
        concentration: as in `count_coverage`: how many votes a prediction is worth; None is a prediction without
            doubt of its own.
        coverage_level: of the intervals of `interval_coverage`.

    Raises:
        PluralignError: an argument does not fit; the message names it.

    Examples:
        >>> crowds = predicted_crowds([[0.5, 0.5], [1.0, 0.0]], [[4, 0], [0, 0]], [1.0, -1.0], [0, 1])
        >>> {name: round(crowds.values[name].item(), 3) for name in ("transport_cost", "expected_reward_bias")}
        {'transport_cost': 1.05, 'expected_reward_bias': -1.0}
        >>> crowds.left_out
        1
    """
    mu, counts, cluster, importance, worth = _checked(predicted, votes, rewards, prompt, weight)
    between = label_cost(worth) if cost is None else cost
    if between.labels != len(worth):
        raise PluralignError(f"cost: {between.labels} labels, expected {len(worth)}, as there are rewards")
    total = counts.sum(axis=1)
    heard = total > 0
    kappa = None if concentration is None else np.asarray(concentration, dtype=np.float64)
    if kappa is not None and kappa.ndim:
        if kappa.shape != heard.shape:
            raise PluralignError(
                f"concentration: shape {kappa.shape}, expected one number or {heard.shape}, one per item"
            )
        kappa = kappa[heard]
    mu, counts, total = mu[heard], counts[heard], total[heard]
    share = counts / total[:, None]
    log_loss = -xlogy(share, np.maximum(mu, FLOOR)).sum(axis=1)
    entropy = -xlogy(share, share).sum(axis=1)
    bias = (mu - share) @ worth
    coverage = count_coverage(mu, counts, coverage_level, kappa)
    values = {
        "transport_cost": transport_cost(torch.from_numpy(mu), torch.from_numpy(share), between).numpy(),
        "total_variation": np.abs(mu - share).sum(axis=1) / 2,
        "log_loss": log_loss,
        "vote_entropy": entropy,
        "log_loss_excess": log_loss - entropy,
        "expected_reward_error": np.abs(bias),
        "expected_reward_bias": bias,
        "interval_coverage": coverage.mean(axis=1),
        "majority_accuracy": _same_top(mu, share),
    }
    return PredictedCrowds(
        predicted=mu,
        share=share,
        votes=total,
        weight=importance[heard],
        prompt=cluster[heard],
        values=values,
        left_out=int(np.count_nonzero(~heard)),
    )


def evaluate_distributions(
    predicted: ArrayLike,
    votes: ArrayLike,
    rewards: ArrayLike,
    prompt: ArrayLike,
    *,
    cost: LabelCost | None = None,
    weight: ArrayLike | None = None,
    concentration: ArrayLike | None = None,
    coverage_level: float = 0.9,
    slices: Iterable[VoteSlice] = (),
    bins: int = 10,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """All that can be said of predicted distributions against votes, in one flat dict.

    Args:
        predicted, votes, rewards, prompt, cost, weight, concentration, coverage_level: as in `predicted_crowds`.
        slices: votes of sources, groups or windows of time, as `pluralign.evaluation.crowds.vote_slices.sliced_votes`
            makes them; where a prediction was good in January and bad in June, people have drifted.
        bins: of `share_ece`.
        replicates: bootstrap draws over prompts; 0 leaves the intervals out.
        level: coverage that the bootstrap aims at.
        seed: of the bootstrap.

    Returns:
        those of `distribution_metrics`; `KEY_low` and `KEY_high` of `distribution_intervals`; and per slice
        `KEY/group=NAME` of every metric, `items` and `votes`, against the votes of the slice alone. What is
        undefined is left out.

    Raises:
        PluralignError: an argument does not fit; the message names it.

    Examples:
        >>> from pluralign.evaluation.crowds.vote_slices import sliced_votes, vote_counts
        >>> item, label, time = [0, 0, 1], [0, 1, 1], ["2025-01", "2025-02", "2025-02"]
        >>> metrics = evaluate_distributions(
        ...     [[0.5, 0.5], [0.0, 1.0]], vote_counts(item, label, 2, 2), [1.0, -1.0], [0, 1],
        ...     slices=sliced_votes(item, label, 2, 2, {"time": time}), replicates=0)
        >>> [metrics[key] for key in ("total_variation", "total_variation/time=2025-01", "votes/time=2025-02")]
        [0.0, 0.5, 2]
    """
    mu, cluster = np.asarray(predicted), np.asarray(prompt)
    importance = None if weight is None else np.asarray(weight)
    kappa = None if concentration is None else np.asarray(concentration)
    between = label_cost(rewards) if cost is None else cost

    def compared(counts: ArrayLike, items: Ints | slice) -> PredictedCrowds:
        return predicted_crowds(
            mu[items], counts, rewards, cluster[items],
            cost=between,
            weight=None if importance is None else importance[items],
            concentration=kappa if kappa is None or not kappa.ndim else kappa[items],
            coverage_level=coverage_level,
        )  # fmt: skip

    crowds = compared(votes, slice(None))
    metrics = distribution_metrics(crowds, bins)
    if replicates:
        metrics |= distribution_intervals(crowds, replicates, level, seed, bins)
    for one in slices:
        found = distribution_metrics(compared(one.votes, one.items), bins)
        metrics |= {f"{name}/{one.name}": value for name, value in found.items() if name != "left_out"}
    return metrics


def distribution_metrics(crowds: PredictedCrowds, bins: int = 10) -> dict[str, float]:
    """Weighted means over the items of the values of `predicted_crowds`, and the calibration of the shares.

    `share_ece` is the expected calibration error of the predicted shares. All (item, label) fall into bins of equal
    width by mu_i, and

        share_ece = sum_b |sum over (item, i) in b of w (mu_i - s_i)| / sum over all (item, i) of w.

    Noise of the votes cancels within a bin, so that it is small for the true shares even with few votes a head; it
    does not see whether the right items have the large shares.

    Args:
        crowds: the items.
        bins: of [0, 1], at least 1.

    Returns:
        `items`, `votes` (their sum), `left_out` (items without a vote), those of `MEANS`, and `share_ece`; without
        weight the counts alone.

    Raises:
        PluralignError: `bins` is under 1.

    Examples:
        >>> crowds = predicted_crowds([[0.6, 0.4], [0.6, 0.4]], [[4, 0], [1, 3]], [1.0, -1.0], [0, 1])
        >>> metrics = distribution_metrics(crowds)
        >>> {name: round(metrics[name], 3) for name in ("votes", "total_variation", "share_ece")}
        {'votes': 8, 'total_variation': 0.375, 'share_ece': 0.025}
    """
    sums = _sums(crowds, np.zeros(len(crowds.votes), dtype=np.int64), 1, bins)
    found = {name: float(v[0]) for name, v in _metrics_of_sums(sums).items() if not np.isnan(v[0])}
    total = float(crowds.votes.sum())
    return {
        "items": len(crowds.votes),
        "votes": int(total) if total.is_integer() else total,
        "left_out": crowds.left_out,
    } | found


def distribution_intervals(
    crowds: PredictedCrowds, replicates: int = 1000, level: float = 0.95, seed: int = 0, bins: int = 10
) -> dict[str, float]:
    """Percentile intervals of the metrics over prompts: responses of one prompt are drawn together.

    The interval of `share_ece`, a sum of absolute values, is biased upwards.

    Args:
        crowds: the items; `crowds.prompt` is the cluster.
        replicates: number of draws, at least 1.
        level: coverage aimed at, between 0 and 1.
        seed: of the draws.
        bins: of `share_ece`.

    Returns:
        `transport_cost_low`, `transport_cost_high`, and the same of all metrics; nothing with fewer than two
        prompts.

    Raises:
        PluralignError: `replicates` or `bins` under 1, or `level` not between 0 and 1.

    Examples:
        >>> crowds = predicted_crowds([[0.6, 0.4]] * 3, [[3, 1]] * 3, [1.0, -1.0], [0, 1, 2])
        >>> interval = distribution_intervals(crowds, replicates=50)
        >>> round(interval["total_variation_low"], 3), round(interval["total_variation_high"], 3)
        (0.15, 0.15)
    """
    check_resampling(replicates, level)
    prompts, cluster = np.unique(crowds.prompt, return_inverse=True)
    sums = _sums(crowds, cluster, len(prompts), bins)
    if len(prompts) < 2:
        return {}
    return percentile_intervals(_metrics_of_sums(resampled_sums(sums, replicates, seed)), level)


def _sums(crowds: PredictedCrowds, group: Ints, groups: int, bins: int) -> Floats:
    """Per group the sums of w, of w times each of `MEANS`, and of w (mu_i - s_i) / labels in each bin."""
    if bins < 1:
        raise PluralignError(f"bins is {bins}, expected at least 1")
    columns = [np.ones(len(group)), *(crowds.values[name] for name in MEANS)]
    means = [np.bincount(group, weights=crowds.weight * value, minlength=groups) for value in columns]
    labels = crowds.predicted.shape[1]
    place = bin_of(crowds.predicted, np.linspace(0.0, 1.0, bins + 1)) + group[:, None] * bins
    gap = crowds.weight[:, None] * (crowds.predicted - crowds.share) / labels
    gaps = np.bincount(place.ravel(), weights=gap.ravel(), minlength=groups * bins).reshape(groups, bins)
    return np.concatenate([np.stack(means, axis=1), gaps], axis=1).astype(np.float64)


def _metrics_of_sums(sums: Floats) -> dict[str, Floats]:
    """The metrics of each row of `_sums`, or of sums of such rows; nan where there is no weight."""
    weight, last = sums[:, 0], len(MEANS) + 1
    found = {name: ratio(sums[:, column], weight) for column, name in enumerate(MEANS, start=1)}
    return found | {"share_ece": ratio(np.abs(sums[:, last:]).sum(axis=1), weight)}


def _same_top(predicted: Floats, share: Floats) -> Floats:
    first, most = (values >= values.max(axis=1, keepdims=True) - SAME for values in (predicted, share))
    single = (first.sum(axis=1) == 1) & (most.sum(axis=1) == 1)
    return (first & most).any(axis=1) * np.where(single, 1.0, 0.5)


def _checked(
    predicted: ArrayLike, votes: ArrayLike, rewards: ArrayLike, prompt: ArrayLike, weight: ArrayLike | None
) -> tuple[Floats, Floats, Ints, Floats, Floats]:
    worth = real_numbers("rewards", rewards)
    mu, counts = (np.asarray(values, dtype=np.float64) for values in (predicted, votes))
    if mu.ndim != 2 or mu.shape[1] != len(worth):
        raise PluralignError(f"predicted: shape {mu.shape}, expected (items, {len(worth)}), as there are rewards")
    if counts.shape != mu.shape:
        raise PluralignError(f"votes: shape {counts.shape}, expected {mu.shape}, as predicted")
    for name, values in (("predicted", mu), ("votes", counts)):
        wrong = np.argwhere(~(np.isfinite(values) & (values >= 0)))
        if len(wrong):
            row, column = wrong[0]
            raise PluralignError(
                f"{name}[{row}, {column}] is {values[row, column]}, expected a finite number of at least 0"
            )
    sums = mu.sum(axis=1)
    off = np.flatnonzero(np.abs(sums - 1) > SUM_SLACK)
    if len(off):
        raise PluralignError(f"predicted[{off[0]}] has sum {sums[off[0]]:.4g}, expected 1: give probabilities")
    cluster = whole_numbers("prompt", prompt)
    importance = np.ones(len(mu)) if weight is None else real_numbers("weight", weight)
    for name, length in (("prompt", len(cluster)), ("weight", len(importance))):
        if length != len(mu):
            raise PluralignError(f"{name}: {length} values, expected {len(mu)}, one per item")
    if not (np.isfinite(importance).all() and (importance >= 0).all()):
        raise PluralignError("weight: expected finite numbers of at least 0")
    return mu / sums[:, None], counts, cluster, importance, worth

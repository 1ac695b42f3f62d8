"""Predicted distributions over labels against the votes of a crowd, on held-out items.

An item is one (prompt, response). With mu the prediction, c its votes, n = sum c and s = c / n the voted shares, every
metric but one is a weighted mean over the items. s is a sample of n votes: no prediction, not even the true shares, has
distance 0 to it, and with few votes much of each distance is that noise. Compare models on the same votes, not with 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import xlogy

from pluralign.choice.dirichlet import total_variation
from pluralign.choice.label_costs import LabelCost, label_cost
from pluralign.choice.transport import transport_cost
from pluralign.core.errors import PluralignError
from pluralign.evaluation.calibration.reliability import bin_of
from pluralign.evaluation.crowds.vote_coverage import count_coverage
from pluralign.evaluation.crowds.vote_slices import VoteSlice
from pluralign.evaluation.intervals import Resampling
from pluralign.evaluation.pairs import SAME, Floats, Ints, real_numbers, whole_numbers

# The smallest probability in a log-loss: a label with prediction 0 and a vote costs 27.6 nats, not infinitely many.
FLOOR = 1e-12

# How far the sum of a predicted distribution may be from 1: the last digit of half precision.
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
"""Metrics that are means of one number per item; `share_ece` is the only other one."""

JUMPING = ("interval_coverage", "majority_accuracy")
"""Those that a single vote can change by a jump."""

STEP = 1e-6
"""Weight of a vote that is added to an item, as a share of its votes, for the derivative of a distance."""


@dataclass(frozen=True)
class Votes:
    """The single votes behind the counts, each `(votes,)`.

    Attributes:
        item: the item, int.
        label: the label's index.
        annotator: ids as from `pluralign.evaluation.intervals.annotator_ids`, int.
        weight: of each vote, at least 0.
    """

    item: Ints
    label: Ints
    annotator: Ints
    weight: Floats

    def of_items(self, rows: np.ndarray) -> Votes:
        """The votes on some of the items, a mask `(items,)`, which are numbered anew."""
        kept = rows[self.item]
        number = np.cumsum(rows) - 1
        return Votes(number[self.item[kept]], self.label[kept], self.annotator[kept], self.weight[kept])


@dataclass(frozen=True)
class PredictedCrowds:
    """Items with at least one vote, and the values whose means are the metrics.

    Attributes:
        predicted: mu, rows of sum 1, float64 `(items, labels)`.
        share: the voted shares s, float64 `(items, labels)`.
        votes: n, float64 `(items,)`, above 0.
        weight: of each item, float64 `(items,)`.
        prompt: cluster of each item, int64 `(items,)`.
        values: of `MEANS`, each float64 `(items,)`.
        left_out: number of items without a vote.
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
      `log_loss_excess`: their difference, KL(s || mu).
    - `expected_reward_bias`: sum_i R_i (mu_i - s_i); `expected_reward_error`: its absolute value.
    - `interval_coverage`: mean over the labels of `pluralign.evaluation.crowds.vote_coverage.count_coverage`.
    - `majority_accuracy`: 1 if the label with the largest mu has the most votes, else 0; if either is tied, 1/2 if the
      two sets of labels overlap.

    Args:
        predicted: mu, at least 0 with sum 1, `(items, labels)`.
        votes: c, counts or sums of weights, `(items, labels)`. Items without a vote are left out.
        rewards: of the labels, `(labels,)`.
        prompt: the cluster of each item, int `(items,)`.
        cost: between labels; None is |R_i - R_j| + 0.1 [i != j].
        weight: of each item, at least 0, `(items,)`; None weighs items equally, the row sums of `votes` weigh votes
            equally.
        concentration: as in `count_coverage`: how many votes a prediction is worth; None is a prediction without
            uncertainty of its own.
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
    kept = total > 0
    jumping = {name: value[kept] for name, value in _jumping(mu, counts, coverage_level, concentration).items()}
    mu, counts, total = mu[kept], counts[kept], total[kept]
    share = counts / total[:, None]
    values = _distances(mu, share, worth, between) | jumping
    left_out = int(np.count_nonzero(~kept))
    return PredictedCrowds(mu, share, total, importance[kept], cluster[kept], values, left_out)


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
    voters: Votes | None = None,
) -> dict[str, float]:
    """All metrics of predicted distributions against votes, with intervals and slices, in one flat dict.

    With `voters`, the intervals are over prompts and annotators, by the variance formula of
    `pluralign.evaluation.intervals.Resampling`. The influence of a vote i on item j on the mean v of the values v_j is

        m_i (v_j - v + d_i),    m_i = w_j / sum w * (weight of i / votes of j),

    with d_i the derivative of v_j towards a share of 1 for the vote's label. `interval_coverage` and
    `majority_accuracy` jump instead: there d_i is (n - 1) (v_j - v_j without the vote), n the number of votes, minus
    its mean over the votes of the item. Where v_j is a mean over votes, this is the formula for the mean of all votes.

    Args:
        predicted, votes, rewards, prompt, cost, weight, concentration, coverage_level: as in `predicted_crowds`.
        slices: from `pluralign.evaluation.crowds.vote_slices.sliced_votes`. A prediction that is good in January and
            bad in June shows that the crowd has drifted.
        bins, replicates, level, seed: as in `distribution_metrics`.
        voters: the votes that `votes` counts; None, and other votes, leave annotators out.

    Returns:
        those of `distribution_metrics`, and per slice `KEY/group=NAME` of every metric, `items` and `votes`, against
        only the votes of the slice. What is undefined is left out.

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

    whole = compared(votes, slice(None))
    metrics = distribution_metrics(whole, bins, replicates=replicates, level=level, seed=seed)
    if voters is not None and replicates:
        kept = np.cumsum(np.asarray(votes, dtype=np.float64).sum(axis=1) > 0) - 1
        renumbered = replace(voters, item=kept[voters.item])
        kappa = kappa if kappa is None or not kappa.ndim else kappa[np.asarray(votes).sum(axis=1) > 0]
        worth = real_numbers("rewards", rewards)

        def smooth(shares: Floats) -> dict[str, Floats]:
            return _distances(whole.predicted, shares, worth, between)

        def jumping(counts: Floats) -> dict[str, Floats]:
            return _jumping(whole.predicted, counts, coverage_level, kappa)

        metrics |= _annotator_intervals(whole, renumbered, smooth, jumping, bins, replicates, level, seed)
    for part in slices:
        own = distribution_metrics(compared(part.votes, part.items), bins)
        metrics |= {f"{name}/{part.name}": value for name, value in own.items() if name != "left_out"}
    return metrics


def log_loss_gain(
    predicted: ArrayLike,
    baseline: ArrayLike,
    votes: ArrayLike,
    prompt: ArrayLike,
    *,
    voters: Votes | None = None,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """By how much predictions have a lower log-loss than a baseline's, in nats per vote, paired vote by vote.

        gain = mean over items of sum_k s_k (log mu_k - log b_k)

    with s the voted shares, mu the prediction and b that of the baseline (both at least 1e-12). It is 0 in expectation
    for a model that is no better, whatever the noise of the votes.

    Args:
        predicted, baseline: `(items, labels)`.
        votes: counts or sums of weights `(items, labels)`; items without a vote are left out.
        prompt: the cluster of each item, int `(items,)`.
        voters: the votes that `votes` counts; with them the interval is over prompts and annotators.
        replicates, level, seed: as in `pluralign.evaluation.intervals.Resampling`.

    Returns:
        `gain`, and `gain_low` and `gain_high` if there are two prompts.

    Examples:
        >>> gain = log_loss_gain([[0.8, 0.2]] * 2, [[0.5, 0.5]] * 2, [[4, 0], [0, 1]], [0, 1], replicates=0)
        >>> {name: round(value, 4) for name, value in gain.items()}
        {'gain': -0.2231}
    """
    counts = np.asarray(votes, dtype=np.float64)
    mu, b = (np.log(np.maximum(np.asarray(own, dtype=np.float64), FLOOR)) for own in (predicted, baseline))
    total = counts.sum(axis=1)
    if voters is None:
        item, label = np.nonzero(counts)
        weight, annotator = counts[item, label], None
    else:
        item, label, weight, annotator = voters.item, voters.label, voters.weight, voters.annotator
    mass = np.divide(weight, total[item], out=np.zeros(len(item)), where=total[item] > 0)
    resampling = Resampling(np.asarray(prompt)[item], replicates, level, seed, annotator=annotator)
    return resampling.mean_intervals({"gain": (mass * (mu - b)[item, label], mass)})


def _distances(mu: Floats, share: Floats, worth: Floats, between: LabelCost) -> dict[str, Floats]:
    """The values of `predicted_crowds` that have a derivative by the shares."""
    log_loss = -xlogy(share, np.maximum(mu, FLOOR)).sum(axis=1)
    entropy = -xlogy(share, share).sum(axis=1)
    bias = (mu - share) @ worth
    return {
        "transport_cost": transport_cost(torch.from_numpy(mu), torch.from_numpy(share), between).numpy(),
        "total_variation": total_variation(mu, share),
        "log_loss": log_loss,
        "vote_entropy": entropy,
        "log_loss_excess": log_loss - entropy,
        "expected_reward_error": np.abs(bias),
        "expected_reward_bias": bias,
    }


def _jumping(mu: Floats, counts: Floats, coverage_level: float, concentration: ArrayLike | None) -> dict[str, Floats]:
    """The values of `JUMPING`; items without a vote have any value."""
    coverage = count_coverage(mu, counts, coverage_level, concentration).mean(axis=1)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), FLOOR)
    return {"interval_coverage": coverage, "majority_accuracy": _same_top(mu, share)}


def _annotator_intervals(
    crowds: PredictedCrowds,
    votes: Votes,
    smooth: Callable[[Floats], dict[str, Floats]],
    jumping: Callable[[Floats], dict[str, Floats]],
    bins: int,
    replicates: int,
    level: float,
    seed: int,
) -> dict[str, float]:
    """Intervals over prompts and annotators; what they take as given.

    `smooth` gives the values of `MEANS` that are functions of the shares, `jumping` the others from counts.
    """
    total = crowds.weight.sum()
    heavy = votes.weight > 0
    item, label, weight = votes.item[heavy], votes.label[heavy], votes.weight[heavy]
    counts = np.zeros_like(crowds.share)
    np.add.at(counts, (item, label), weight)
    # Counts of an earlier state, or decayed ones, are not those of these votes.
    if not np.allclose(counts, crowds.share * crowds.votes[:, None]):
        return {}
    resampling = Resampling(crowds.prompt[item], replicates, level, seed, annotator=votes.annotator[heavy])
    if not resampling.crossed or not total > 0:
        return {key: value for key, value in resampling.given.items() if key == "intervals_given_annotators"}
    slopes = _slopes(crowds, counts, np.bincount(item, minlength=len(counts)), smooth, jumping)
    mass = (crowds.weight / total)[item] * weight / crowds.votes[item]
    intervals: dict[str, float] = {}
    for name, slope in slopes.items():
        values = crowds.values[name]
        mean = float(crowds.weight @ values / total)
        influence = mass * ((values - mean)[item] + slope[item, label])
        half = resampling.half_width(influence, mass)
        intervals[f"{name}_low"] = max(mean - half, float(values.min()))
        intervals[f"{name}_high"] = min(mean + half, float(values.max()))
    one_label = np.eye(counts.shape[1])[label]
    return intervals | _share_ece_interval(resampling, crowds.predicted[item], one_label, mass, bins)


def _slopes(
    crowds: PredictedCrowds,
    counts: Floats,
    voters: Ints,
    smooth: Callable[[Floats], dict[str, Floats]],
    jumping: Callable[[Floats], dict[str, Floats]],
) -> dict[str, Floats]:
    """By name, how much a vote for each label moves each item's value, d_i of `evaluate_distributions`: as `share`."""
    slopes = {name: np.zeros(counts.shape) for name in crowds.values}
    single = crowds.votes / voters
    for place in range(counts.shape[1]):
        moved = (1 - STEP) * crowds.share
        moved[:, place] += STEP
        for name, after in smooth(moved).items():
            slopes[name][:, place] = (after - crowds.values[name]) / STEP
        without = counts.copy()
        without[:, place] = np.maximum(without[:, place] - single, 0.0)
        possible = (voters > 1) & (counts[:, place] > 0)
        for name, after in jumping(without).items():
            slopes[name][:, place] = np.where(possible, (voters - 1) * (crowds.values[name] - after), 0.0)
    for name in JUMPING:
        slopes[name] -= (crowds.share * slopes[name]).sum(axis=1, keepdims=True)
    return slopes


def _share_ece_interval(
    resampling: Resampling, predicted: Floats, share: Floats, mass: Floats, bins: int
) -> dict[str, float]:
    """The interval of `share_ece` from rows of predictions and voted shares, or single votes, whose masses sum to 1."""
    rows, labels = predicted.shape
    cell = bin_of(predicted, np.linspace(0.0, 1.0, bins + 1)) + np.arange(rows)[:, None] * bins
    gaps = np.bincount(cell.ravel(), weights=((predicted - share) / labels).ravel(), minlength=rows * bins)
    by_row = gaps.astype(np.float64).reshape(rows, bins)
    gap = mass @ by_row
    ends = resampling.absolute_sum_ends(gap, mass[:, None] * (by_row - gap), mass)
    return {} if ends is None else {"share_ece_low": ends[0], "share_ece_high": ends[1]}


def distribution_metrics(
    crowds: PredictedCrowds, bins: int = 10, *, replicates: int = 0, level: float = 0.95, seed: int = 0
) -> dict[str, float]:
    """Weighted means over the items of the values of `predicted_crowds`, and the calibration of the shares.

    `share_ece` is the expected calibration error of the predicted shares. All (item, label) fall into bins of equal
    width by mu_i, and

        share_ece = sum_b |sum over (item, i) in b of w (mu_i - s_i)| / sum over all (item, i) of w.

    Noise of the votes cancels within a bin, so it is small for the true shares even with few votes per item; it does
    not show whether the right items have the large shares. Its interval is that of `Resampling.absolute_sum_ends`.

    Args:
        crowds: the items; `crowds.prompt` is the cluster of the intervals.
        bins: of [0, 1], at least 1.
        replicates, level, seed: as in `pluralign.evaluation.intervals.Resampling`.

    Returns:
        `items`, `votes` (their sum), `left_out` (items without a vote); those of `MEANS` and `share_ece`, with
        `KEY_low` and `KEY_high` if there are two prompts. Without weight, only the counts.

    Raises:
        PluralignError: `bins` is under 1, or as in `Resampling`.
    """
    if bins < 1:
        raise PluralignError(f"bins is {bins}, expected at least 1")
    resampling = Resampling(crowds.prompt, replicates, level, seed)
    weight, total = crowds.weight, float(crowds.weight.sum())
    votes = float(crowds.votes.sum())
    metrics: dict[str, float] = {
        "items": len(crowds.votes),
        "votes": int(votes) if votes.is_integer() else votes,
        "left_out": crowds.left_out,
    }
    if not total > 0:
        return metrics
    metrics |= resampling.mean_intervals({name: (weight * crowds.values[name], weight) for name in MEANS})
    cell = bin_of(crowds.predicted, np.linspace(0.0, 1.0, bins + 1))
    gap = (weight / total)[:, None] * (crowds.predicted - crowds.share) / crowds.predicted.shape[1]
    metrics["share_ece"] = float(np.abs(np.bincount(cell.ravel(), weights=gap.ravel())).sum())
    return metrics | _share_ece_interval(resampling, crowds.predicted, crowds.share, weight / total, bins)


def _same_top(predicted: Floats, share: Floats) -> Floats:
    """`majority_accuracy` of each item."""
    first, most = (values >= values.max(axis=1, keepdims=True) - SAME for values in (predicted, share))
    single = (first.sum(axis=1) == 1) & (most.sum(axis=1) == 1)
    return (first & most).any(axis=1) * np.where(single, 1.0, 0.5)


def _checked(
    predicted: ArrayLike, votes: ArrayLike, rewards: ArrayLike, prompt: ArrayLike, weight: ArrayLike | None
) -> tuple[Floats, Floats, Ints, Floats, Floats]:
    """The arguments of `predicted_crowds` as arrays, or an error that names the argument that does not fit."""
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

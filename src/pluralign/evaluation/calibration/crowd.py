"""Calibration against a crowd: is a response preferred by the share of annotators that its reward predicts?

Where several annotators judged the same two responses, the target is the share of their votes, not a single winner.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from pluralign.evaluation.annotators.voted_pairs import majority, tallies, vote_weights, voted_pairs
from pluralign.evaluation.calibration.reliability import bin_of, equal_width_edges
from pluralign.evaluation.intervals import Resampling
from pluralign.evaluation.pairs import SAME, Floats, Ints, checked_rankings, unique_responses, whole_numbers

# A share of fewer votes has no estimate of its variance.
FEWEST_VOTES = 2


@dataclass(frozen=True)
class PairVotes:
    """The single votes on the pairs of a crowd, those of weight 0 left out; each `(votes,)`.

    Attributes:
        pair: the pair, int64.
        value: 1 for the first response, 1/2 for a tie, 0 for the second, float64.
        part: the vote's weight as a share of the pair's, float64.
        without: the winner of the pair without this vote, as `CrowdPairs.winner`, int64.
        annotator: ids as from `pluralign.evaluation.intervals.annotator_ids`, int64.
    """

    pair: Ints
    value: Floats
    part: Floats
    without: Ints
    annotator: Ints


@dataclass(frozen=True)
class CrowdPairs:
    """Pairs of a prompt's responses with at least two votes; a vote for a tie is half a vote for either response.

    Attributes:
        margin: predicted log-odds that an annotator prefers the first response, float64 `(pairs,)`.
        share: weighted share of the votes for the first response, in [0, 1], float64 `(pairs,)`.
        votes: number of judgments with a weight above 0 that compared the two, int64 `(pairs,)`.
        noise: estimated variance of `share` as a mean of randomly drawn votes, float64 `(pairs,)`.
        winner: 1 if more votes prefer the first response, -1 the second, 0 for equal votes, int64 `(pairs,)`.
        prompt: cluster of each pair, int64 `(pairs,)`.
        voters: the single votes with their annotators; None takes annotators out of the intervals.
    """

    margin: Floats
    share: Floats
    votes: Ints
    noise: Floats
    winner: Ints
    prompt: Ints
    voters: PairVotes | None = None


def crowd_pairs(
    rewards: ArrayLike,
    ranks: ArrayLike,
    offsets: ArrayLike,
    prompt: ArrayLike,
    weight: ArrayLike,
    response: ArrayLike,
    recalibration: Callable[[Floats], Floats] | None = None,
    annotator: ArrayLike | None = None,
) -> CrowdPairs:
    """The pairs that were judged at least twice, with their votes and reward margins.

    A judgment votes on every pair of its responses that it compares (`annotators.voted_pairs`), with its full weight
    on each. Judgments of weight 0 do not vote. With votes v_i in {0, 1/2, 1} of weights w_i, W their sum and
    n = W^2 / sum w_i^2,

        share = sum w_i v_i / W,    noise = sum w_i (v_i - share)^2 / W / (n - 1),

    which is share (1 - share) / (votes - 1) for equal weights without ties, and unbiased for equal weights.

    Args:
        rewards, ranks, offsets, prompt, weight, recalibration, annotator: as in `pluralign.evaluation.pairs.pairs_of`.
        response: id of the unique response at each position, int `(total,)`; ids count within a prompt.

    Raises:
        PluralignError: as in `pairs_of`, or one response of a prompt has two rewards.

    Examples:
        Three judgments of one pair, two to one, and a tie.

        >>> ranks, offsets = [1, 2, 1, 2, 2, 1, 1, 1], [0, 2, 4, 6, 8]
        >>> crowd = crowd_pairs([1.0, 0.0] * 4, ranks, offsets, [0] * 4, [1.0] * 4, [5, 6] * 4)
        >>> crowd.margin.tolist(), crowd.share.tolist(), crowd.votes.tolist(), crowd.winner.tolist()
        ([1.0], [0.625], [4], [1])
    """
    reward, rank, place, cluster, reliability = checked_rankings(rewards, ranks, offsets, prompt, weight)
    at = np.repeat(cluster, np.diff(place))
    item, first = unique_responses(response, reward, at)
    votes = voted_pairs(item, rank, place)
    tally = tallies(votes, reliability)
    heavy = vote_weights(votes, reliability)
    count = np.bincount(votes.unit[heavy > 0], minlength=len(tally))
    squares = np.bincount(votes.unit, weights=heavy**2, minlength=len(tally))
    unit = np.flatnonzero(count >= FEWEST_VOTES)
    ahead, even, total = tally[unit, 0], tally[unit, 1], tally[unit].sum(axis=1)
    share = (ahead + even / 2) / total
    # Rounding may leave a unanimous crowd a variance slightly below 0.
    variance = np.maximum((ahead + even / 4) / total - share**2, 0.0)
    effective = total**2 / squares[unit]
    # If one vote outweighs all others, the variance cannot be estimated.
    several = effective > 1 + SAME
    noise = np.divide(variance, effective - 1, out=np.zeros_like(variance), where=several)
    margin = reward[first][votes.first[unit]] - reward[first][votes.second[unit]]
    voters = None
    if annotator is not None:
        who = whole_numbers("annotator", annotator, len(place) - 1, " from offsets")[votes.judgment]
        pair = np.full(len(tally), -1)
        pair[unit] = np.arange(len(unit))
        voters = _pair_votes(pair[votes.unit], votes.value, heavy, who, tally[unit])
    return CrowdPairs(
        margin=margin if recalibration is None else recalibration(margin),
        share=share,
        votes=count[unit],
        noise=noise,
        winner=-majority(tally[unit]),
        prompt=at[first][votes.first[unit]],
        voters=voters,
    )


def _pair_votes(pair: Ints, value: Ints, weight: Floats, annotator: Ints, tally: Floats) -> PairVotes:
    """The votes with a weight on pairs of the crowd, from their pairs (-1 for others) and `VotedPairs.value`."""
    kept = np.flatnonzero((pair >= 0) & (weight > 0))
    pair, value, weight = pair[kept], value[kept], weight[kept]
    others = tally[pair]
    others[np.arange(len(kept)), value + 1] -= weight
    return PairVotes(
        pair, (1 - value) / 2, weight / tally[pair].sum(axis=1), -majority(others.clip(0)), annotator[kept]
    )


def crowd_calibration(
    crowd: CrowdPairs, bins: int = 10, *, replicates: int = 0, level: float = 0.95, seed: int = 0
) -> dict[str, float]:
    """How far predicted shares are from the votes; every pair counts once, whatever its number of votes.

    With p = sigmoid(margin), s the share and both orders of each pair:

    - `crowd_pairs`, `crowd_votes`, `crowd_split`: the pairs, their votes, and the pairs without a majority.
    - `crowd_ece`: expected calibration error of p against s, over bins of equal width; pairs with margin 0 are left
      out, as in `ece`.
    - `crowd_brier`: mean of (p - s)^2.
    - `crowd_noise`: the part of `crowd_brier` that even the true shares would have, because s is a sample of votes:
      the mean of `CrowdPairs.noise`.
    - `pairwise_calibration`: `crowd_brier` - `crowd_noise`, an unbiased estimate of the mean of (p - s*)^2, with s* the
      share of the whole crowd: the pairwise calibration error of "Pairwise Calibrated Rewards for Pluralistic
      Alignment" (arXiv 2506.06298). Chance can make it negative.
    - `crowd_ece_majority`: as `crowd_ece`, against 1 where the majority prefers the response and 0 elsewhere; split
      pairs are left out.
    - `crowd_accuracy`: share of pairs with a majority that the rewards order the same way; equal rewards count half.

    With `crowd.voters` the intervals are over prompts and annotators (`Resampling`). The influence of a vote i on pair
    j is part_i / pairs times (r_j + d_i), with r_j the pair's residual and d_i its derivative towards the vote; for the
    majority, which jumps, d_i is (n - 1) (r_j - r_j without the vote) minus its mean over the n votes of the pair. The
    intervals of the calibration errors are those of `Resampling.absolute_sum_ends`.

    Args:
        crowd: the pairs; `crowd.prompt` is the cluster of the intervals.
        bins: of [0, 1], an even number.
        replicates, level, seed: as in `pluralign.evaluation.intervals.Resampling`.

    Returns:
        flat keys, with `KEY_low` and `KEY_high` for all but the counts if there are two prompts; empty without pairs,
        and an undefined value is left out.

    Raises:
        PluralignError: `bins` is odd or under 2, or as in `Resampling`.

    Examples:
        Three of four annotators prefer the response that the model expects 73 % of annotators to prefer.

        >>> ranks = [1, 2, 1, 2, 1, 2, 2, 1]
        >>> crowd = crowd_pairs([1.0, 0.0] * 4, ranks, [0, 2, 4, 6, 8], [0] * 4, [1.0] * 4, [5, 6] * 4)
        >>> metrics = {name: round(value, 4) for name, value in crowd_calibration(crowd).items()}
        >>> metrics["crowd_ece"], metrics["crowd_brier"], metrics["crowd_noise"], metrics["crowd_ece_majority"]
        (0.0189, 0.0004, 0.0625, 0.2689)
    """
    edges = equal_width_edges(bins)
    votes = crowd.voters or _one_vote_each(crowd)
    who = None if crowd.voters is None else votes.annotator
    resampling = Resampling(crowd.prompt[votes.pair], replicates, level, seed, annotator=who)
    if not len(crowd.margin):
        return {}
    residuals = _Residuals(crowd, votes, edges)
    metrics: dict[str, float] = {
        "crowd_pairs": len(crowd.margin),
        "crowd_votes": int(crowd.votes.sum()),
        "crowd_split": int(np.count_nonzero(crowd.winner == 0)),
    }
    metrics |= Resampling(crowd.prompt, replicates, level, seed).mean_intervals(residuals.means)
    if resampling.crossed and replicates:
        for name in set(residuals.means) & set(metrics):
            half = resampling.half_width(residuals.of_mean(name, metrics[name]), votes.part)
            ends = [metrics[name] - half, metrics[name] + half]
            least = -1.0 if name == "pairwise_calibration" else 0.0
            metrics |= {f"{name}_low": max(ends[0], least), f"{name}_high": min(ends[1], 1.0)}
    for name, majority_wins in (("crowd_ece", False), ("crowd_ece_majority", True)):
        if (gaps := residuals.gaps(majority_wins)) is not None:
            gap, influence = gaps
            metrics[name] = float(np.abs(gap).sum())
            if (bounds := resampling.absolute_sum_ends(gap, influence, votes.part)) is not None:
                metrics |= {f"{name}_low": bounds[0], f"{name}_high": bounds[1]}
    return metrics | (resampling.given if replicates else {})


def _one_vote_each(crowd: CrowdPairs) -> PairVotes:
    """Each pair as a single vote with its share, for intervals over prompts."""
    pairs = len(crowd.margin)
    return PairVotes(np.arange(pairs), crowd.share, np.ones(pairs), crowd.winner, np.arange(pairs))


class _Residuals:
    """Metrics of pairs and the influence of each vote on them.

    Attributes:
        means: numerator and denominator of each metric that is a ratio of sums, `(pairs,)`.
    """

    def __init__(self, crowd: CrowdPairs, votes: PairVotes, edges: Floats) -> None:
        self.crowd, self.votes = crowd, votes
        self.side = np.sign(crowd.margin)
        self.confidence = expit(np.abs(crowd.margin))
        self.bin = np.eye(len(edges) - 1)[bin_of(self.confidence, edges)]
        self.count = np.bincount(votes.pair, minlength=len(crowd.margin))
        squares, every = (expit(crowd.margin) - crowd.share) ** 2, np.ones(len(self.side))
        self.means = {
            "crowd_brier": (squares, every),
            "crowd_noise": (crowd.noise, every),
            "pairwise_calibration": (squares - crowd.noise, every),
            "crowd_accuracy": self._right(crowd.winner, self.side),
        }

    def of_mean(self, name: str, mean: float) -> Floats:
        """The influence of each vote on a mean, `(votes,)`."""
        if name == "pairwise_calibration":
            return self.of_mean("crowd_brier", self._mean("crowd_brier")) - self.of_mean(
                "crowd_noise", self._mean("crowd_noise")
            )
        crowd, votes = self.crowd, self.votes
        value, weight = self.means[name]
        residual = (value - mean * weight)[votes.pair]
        ahead = votes.value - crowd.share[votes.pair]
        if name == "crowd_brier":
            slope = 2 * ahead * (crowd.share - expit(crowd.margin))[votes.pair]
        elif name == "crowd_noise":
            slope = (ahead**2 / self._others()) - residual - mean
        else:
            correct, decided = self._right(votes.without, self.side[votes.pair])
            slope = self._jump((residual - correct + mean * decided)[:, None])[:, 0]
        return np.asarray(votes.part * (residual + slope) / weight.sum())

    def _mean(self, name: str) -> float:
        value, weight = self.means[name]
        return float(value.sum() / weight.sum())

    def gaps(self, majority_wins: bool) -> tuple[Floats, Floats] | None:
        """By bin the sum of gaps as a share of all pairs that count, and the influence of each vote on it."""
        crowd, votes, side = self.crowd, self.votes, self.side
        of, untied = votes.pair, np.abs(side)
        if not majority_wins:
            counted, shift = untied, np.where(side > 0, crowd.share, 1 - crowd.share) - self.confidence
        else:
            counted, shift = untied * (crowd.winner != 0), (1 + side * crowd.winner) / 2 - self.confidence
        if not counted.sum() > 0:
            return None
        gap = (counted * shift) @ self.bin / counted.sum()
        if majority_wins:
            residual = self._gap(counted, shift, np.arange(len(side)), gap)[of]
            after = untied[of] * (votes.without != 0)
            moved = (1 + side[of] * votes.without) / 2 - self.confidence[of]
            residual += self._jump(residual - self._gap(after, moved, of, gap))
        else:
            moved = np.where(side[of] > 0, votes.value, 1 - votes.value) - self.confidence[of]
            residual = self._gap(untied[of], moved, of, gap)
        return gap, votes.part[:, None] * residual / counted.sum()

    def _gap(self, counted: Floats, shift: Floats, pair: Ints, gap: Floats) -> Floats:
        """Residuals of the gaps by bin, `(rows, bins)`."""
        return np.asarray(counted[:, None] * (shift[:, None] * self.bin[pair] - gap))

    def _right(self, winner: Ints, side: Floats) -> tuple[Floats, Floats]:
        """Whether the rewards order a pair as its majority does (1/2 for equal rewards), and whether it has one."""
        decided = (winner != 0).astype(np.float64)
        return decided * (1 + side * winner) / 2, decided

    def _others(self) -> Floats:
        """Votes on the pair of each vote beside it, as many equal ones as are worth as much; 1 or more."""
        squares = np.bincount(self.votes.pair, weights=self.votes.part**2, minlength=len(self.count))
        worth = np.divide(1.0, squares, out=np.full(len(squares), 2.0), where=squares > 0)
        return np.asarray(np.maximum(worth - 1, 1.0)[self.votes.pair])

    def _jump(self, change: Floats) -> Floats:
        """d_i from the residuals with minus those without each vote, `(votes, columns)`."""
        pair, part = self.votes.pair, self.votes.part
        slope = (self.count[pair] - 1)[:, None] * change
        mean = np.stack([np.bincount(pair, weights=part * column) for column in slope.T], axis=1)
        return np.asarray(slope - mean[pair])

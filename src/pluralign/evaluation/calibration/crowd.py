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
from pluralign.evaluation.intervals import Resampling, ratio
from pluralign.evaluation.pairs import SAME, Floats, Ints, checked_rankings, unique_responses

# A share of fewer votes has no estimate of its variance.
FEWEST_VOTES = 2

# Columns of `_sums`; the bins follow twice, for gaps to the share and to the majority.
PAIRS, SQUARES, NOISE, UNTIED, DECIDED, CORRECT, DECIDED_UNTIED, GAPS = range(8)


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
    """

    margin: Floats
    share: Floats
    votes: Ints
    noise: Floats
    winner: Ints
    prompt: Ints


def crowd_pairs(
    rewards: ArrayLike,
    ranks: ArrayLike,
    offsets: ArrayLike,
    prompt: ArrayLike,
    weight: ArrayLike,
    response: ArrayLike,
    recalibration: Callable[[Floats], Floats] | None = None,
) -> CrowdPairs:
    """The pairs that were judged at least twice, with their votes and reward margins.

    A judgment votes on every pair of its responses that it compares (`annotators.voted_pairs`), with its full weight
    on each. Judgments of weight 0 do not vote. With votes v_i in {0, 1/2, 1} of weights w_i, W their sum and
    n = W^2 / sum w_i^2,

        share = sum w_i v_i / W,    noise = sum w_i (v_i - share)^2 / W / (n - 1),

    which is share (1 - share) / (votes - 1) for equal weights without ties, and unbiased for equal weights.

    Args:
        rewards, ranks, offsets, prompt, weight, recalibration: as in `pluralign.evaluation.pairs.pairs_of`.
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
    return CrowdPairs(
        margin=margin if recalibration is None else recalibration(margin),
        share=share,
        votes=count[unit],
        noise=noise,
        winner=-majority(tally[unit]),
        prompt=at[first][votes.first[unit]],
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
    resampling = Resampling(crowd.prompt, replicates, level, seed)
    sums = _sums(crowd, resampling.group, resampling.groups, bins)
    if not len(crowd.margin):
        return {}
    return {
        "crowd_pairs": len(crowd.margin),
        "crowd_votes": int(crowd.votes.sum()),
        "crowd_split": int(np.count_nonzero(crowd.winner == 0)),
    } | resampling.intervals(lambda weights: _metrics(weights @ sums))


def _sums(crowd: CrowdPairs, group: Ints, groups: int, bins: int) -> Floats:
    """Sums over the pairs of each group that determine the metrics, `(groups, 7 + bins)`.

    With c = sigmoid(|margin|), s' and y' the share and the majority for the response that the model prefers, the
    columns are: the number of pairs; the sums of (p - s)^2 and of the noise; the number with a margin other than 0; of
    the pairs with a majority the number, how many are right, and how many have a margin other than 0; then for each bin
    of c the sums of s' - c and, over pairs with a majority, of y' - c.
    """
    edges = equal_width_edges(bins)
    width = len(edges) - 1
    side = np.sign(crowd.margin)
    confidence = expit(np.abs(crowd.margin))
    decided = crowd.winner != 0
    agrees = (1 + side * crowd.winner) / 2
    columns = {
        PAIRS: np.ones(len(side)),
        SQUARES: (expit(crowd.margin) - crowd.share) ** 2,
        NOISE: crowd.noise,
        UNTIED: np.abs(side),
        DECIDED: decided.astype(np.float64),
        CORRECT: decided * agrees,
        DECIDED_UNTIED: decided * np.abs(side),
    }
    sums = np.zeros((groups, GAPS))
    for column, value in columns.items():
        sums[:, column] = np.bincount(group, weights=value, minlength=groups)
    share = np.where(side > 0, crowd.share, 1 - crowd.share)
    cell = group * width + bin_of(confidence, edges)
    gaps = ((share - confidence) * np.abs(side), (agrees - confidence) * decided * np.abs(side))
    binned = [np.bincount(cell, weights=gap, minlength=groups * width).reshape(groups, width) for gap in gaps]
    return np.concatenate([sums, *binned], axis=1)


def _metrics(sums: Floats) -> dict[str, Floats]:
    """The metrics of each row of `_sums`, or of sums of such rows; nan marks what is undefined."""
    to_share, to_majority = np.hsplit(np.abs(sums[:, GAPS:]), 2)
    return {
        "crowd_ece": ratio(to_share.sum(axis=1), sums[:, UNTIED]),
        "crowd_brier": ratio(sums[:, SQUARES], sums[:, PAIRS]),
        "crowd_noise": ratio(sums[:, NOISE], sums[:, PAIRS]),
        "pairwise_calibration": ratio(sums[:, SQUARES] - sums[:, NOISE], sums[:, PAIRS]),
        "crowd_ece_majority": ratio(to_majority.sum(axis=1), sums[:, DECIDED_UNTIED]),
        "crowd_accuracy": ratio(sums[:, CORRECT], sums[:, DECIDED]),
    }

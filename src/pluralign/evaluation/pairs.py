"""Rankings as strict pairs of responses, on which a reward model is evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pluralign.core.errors import PluralignError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# The key of a response that was shown but not ranked: worse than every rank.
UNRANKED = np.iinfo(np.int64).max

# Beyond this, sums of margins could overflow.
LARGEST_REWARD = 1e100

# Sums of weights are equal if they differ by less than this share of their total: the order of adding is not fixed.
SAME = 1e-9

# Pairs held at once while they are formed: bounds the memory beside the result.
BLOCK_CELLS = 1 << 20


@dataclass(frozen=True)
class Pairs:
    """The strict comparisons that rankings contain.

    Attributes:
        margin: reward of the winner minus reward of the loser, or the log-odds that a recalibration makes of it,
            float64 `(pairs,)`.
        judgment: index of the judgment of each pair, int64 `(pairs,)`, ascending.
        weight: the judgment's weight divided by its number of strict pairs, float64 `(pairs,)`, so that a judgment
            counts once however long its ranking is.
        prompt: cluster of each pair, int64 `(pairs,)`.
        judgments: number of judgments read, with or without a strict pair.
        tied: number of pairs that the annotator ranked equal; they have no winner and are left out.
        undecided: number of judgments without a strict pair.
        annotator: who judged each pair, int64 `(pairs,)`; each judgment without a known annotator has a number of
            its own. None takes annotators out of the intervals.
    """

    margin: Floats
    judgment: Ints
    weight: Floats
    prompt: Ints
    judgments: int
    tied: int
    undecided: int
    annotator: Ints | None = None


def pairs_of(
    rewards: ArrayLike,
    ranks: ArrayLike,
    offsets: ArrayLike,
    prompt: ArrayLike,
    weight: ArrayLike,
    recalibration: Callable[[Floats], Floats] | None = None,
    annotator: ArrayLike | None = None,
) -> Pairs:
    """The strict pairs of ranked responses with their reward margins.

    A response with a better rank beats one with a worse rank. Every ranked response beats every response that was
    shown but not ranked; two responses without a rank are not compared.

    Args:
        rewards: reward of each shown response, judgments concatenated, float `(total,)`.
        ranks: 1 is best, equal ranks are a tie, 0 is shown but not ranked, int `(total,)`.
        offsets: judgment j occupies `offsets[j]` to `offsets[j + 1]`, int `(judgments + 1,)`.
        prompt: cluster of each judgment, int `(judgments,)`.
        weight: reliability of each judgment, at least 0, float `(judgments,)`.
        recalibration: an odd function from margins `(pairs,)` to log-odds; None leaves the margins as they are.
        annotator: who made each judgment, int `(judgments,)` as from `intervals.annotator_ids`.

    Raises:
        PluralignError: a shape does not fit, a rank is negative or not an integer, a weight is negative or not
            finite, or a reward is not a finite number.

    Examples:
        One ranking a > b > c (c not ranked) and one tie.

        >>> pairs = pairs_of([2.0, 0.5, 1.0, 3.0, 3.5], [1, 2, 0, 1, 1], [0, 3, 5], [7, 8], [1.0, 1.0])
        >>> pairs.margin.tolist(), pairs.judgment.tolist()
        ([1.5, 1.0, -0.5], [0, 0, 0])
        >>> pairs.weight.round(3).tolist(), pairs.tied, pairs.undecided
        ([0.333, 0.333, 0.333], 1, 1)
    """
    reward, rank, place, cluster, reliability = checked_rankings(rewards, ranks, offsets, prompt, weight)
    who = None if annotator is None else whole_numbers("annotator", annotator, len(place) - 1, " from offsets")
    key = rank_keys(rank)
    margins: list[Floats] = []
    owners: list[Ints] = []
    tied = 0
    for block, positions in judgment_blocks(place):
        first, second = np.triu_indices(positions.shape[1], k=1)
        keys, values = key[positions], reward[positions]
        key_first, key_second = keys[:, first], keys[:, second]
        strict = key_first != key_second
        tied += int(np.count_nonzero(~strict & (key_first != UNRANKED)))
        gap = values[:, first] - values[:, second]
        margins.append(np.where(key_first < key_second, gap, -gap)[strict])
        owners.append(np.repeat(block, strict.sum(axis=1)))
    margin = np.concatenate([np.zeros(0), *margins])
    judgment = np.concatenate([np.zeros(0, dtype=np.int64), *owners])
    # Blocks come by length; the caller's order makes the result independent of the block size.
    order = np.argsort(judgment, kind="stable")
    margin, judgment = margin[order], judgment[order]
    judgments = len(place) - 1
    strict_pairs = np.bincount(judgment, minlength=judgments)
    return Pairs(
        margin=margin if recalibration is None else recalibration(margin),
        judgment=judgment,
        weight=reliability[judgment] / strict_pairs[judgment],
        prompt=cluster[judgment],
        judgments=judgments,
        tied=tied,
        undecided=int(np.count_nonzero(strict_pairs == 0)),
        annotator=None if who is None else who[judgment],
    )


def rank_keys(ranks: Ints) -> Ints:
    """Ranks as sortable keys: smaller is better, and "not ranked" (0) comes after every rank."""
    return np.where(ranks == 0, UNRANKED, ranks)


def judgment_blocks(offsets: Ints, cells: int = BLOCK_CELLS) -> Iterator[tuple[Ints, Ints]]:
    """Judgments of equal length together, in blocks of at most `cells` pairs (and at least one judgment).

    Yields:
        `(block,)` judgment indices and `(block, length)` positions in the concatenated arrays. Judgments of fewer
        than two responses have no pair and are skipped.

    Examples:
        >>> [(b.tolist(), p.tolist()) for b, p in judgment_blocks(np.array([0, 2, 5, 7]))]
        [([0, 2], [[0, 1], [5, 6]]), ([1], [[2, 3, 4]])]
    """
    lengths = np.diff(offsets)
    by_length = np.argsort(lengths, kind="stable")
    distinct, starts = np.unique(lengths[by_length], return_index=True)
    for length, members in zip(distinct.tolist(), np.split(by_length, starts[1:]), strict=False):
        if length < 2:
            continue
        step = max(1, cells // (length * (length - 1) // 2))
        for start in range(0, len(members), step):
            block = members[start : start + step]
            yield block, offsets[block][:, None] + np.arange(length)


def checked_rankings(
    rewards: ArrayLike, ranks: ArrayLike, offsets: ArrayLike, prompt: ArrayLike, weight: ArrayLike
) -> tuple[Floats, Ints, Ints, Ints, Floats]:
    """The five arrays of `pairs_of` as float64 and int64, or an error that names the array that does not fit."""
    place = whole_numbers("offsets", offsets)
    if len(place) == 0 or place[0] != 0 or np.any(np.diff(place) < 0):
        raise PluralignError("offsets: expected to start at 0 and never to fall, one more than judgments")
    total, judgments = int(place[-1]), len(place) - 1
    reward = real_numbers("rewards", rewards, total, " from offsets")
    rank = whole_numbers("ranks", ranks, total, " from offsets")
    cluster = whole_numbers("prompt", prompt, judgments, " from offsets")
    reliability = real_numbers("weight", weight, judgments, " from offsets")
    _require("rewards", reward, np.abs(reward) <= LARGEST_REWARD, "a finite number (at most 1e+100)")
    _require("ranks", rank, rank >= 0, "1 (best) and up, or 0 for not ranked")
    _require("weight", reliability, (reliability >= 0) & (reliability < np.inf), "a finite number, at least 0")
    return reward, rank, place, cluster, reliability


def unique_responses(response: ArrayLike, rewards: Floats, prompt: Ints) -> tuple[Ints, Ints]:
    """Number the unique responses of all prompts by prompt and id, and check that each of them has one reward.

    The arguments are ids, rewards and prompts at each position, `(total,)`; ids count within a prompt. The results are
    the number of the response at each position, `(total,)`, and the first position of each response, `(unique,)`.
    """
    unique = whole_numbers("response", response, len(rewards), " from offsets")
    ids, code = np.unique(unique, return_inverse=True)
    key = np.unique(prompt, return_inverse=True)[1] * len(ids) + code
    _, first, number = np.unique(key, return_index=True, return_inverse=True)
    differs = np.flatnonzero(rewards != rewards[first][number])
    if len(differs):
        at = int(differs[0])
        raise PluralignError(
            f"rewards[{at}] is {rewards[at]}, but response {unique[at]} of prompt {prompt[at]} "
            f"also has {rewards[first][number][at]}, expected one reward per response"
        )
    return number, first


def numbered_values(values: Ints) -> tuple[Ints, Ints]:
    """The distinct values in order, and the number of each value among them; without sorting if values are small.

    Examples:
        >>> [part.tolist() for part in numbered_values(np.array([3, 1, 3, 0]))]
        [[0, 1, 3], [2, 1, 2, 0]]
    """
    if not len(values) or values.min() < 0 or values.max() >= len(values):
        distinct, number = np.unique(values, return_inverse=True)
        return distinct, number
    counts = np.bincount(values)
    distinct = np.flatnonzero(counts)
    counts[distinct] = np.arange(len(distinct))
    return distinct, counts[values]


def whole_numbers(name: str, values: ArrayLike, length: int | None = None, source: str = "") -> Ints:
    """A one-dimensional int64 array; an error names the argument, and `source` says what its length must follow."""
    array = np.asarray(values)
    # An empty list has no integer type of its own.
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise PluralignError(f"{name}: {array.dtype} of shape {array.shape}, expected whole numbers in one dimension")
    _require_length(name, array, length, source)
    return array.astype(np.int64, copy=False)


def real_numbers(name: str, values: ArrayLike, length: int | None = None, source: str = "") -> Floats:
    """A one-dimensional float64 array; errors as in `whole_numbers`."""
    array = np.asarray(values)
    real = np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)
    if array.ndim != 1 or not real:
        raise PluralignError(f"{name}: {array.dtype} of shape {array.shape}, expected numbers in one dimension")
    _require_length(name, array, length, source)
    return array.astype(np.float64, copy=False)


def _require_length(name: str, array: NDArray[Any], length: int | None, source: str) -> None:
    if length is not None and len(array) != length:
        raise PluralignError(f"{name}: shape ({len(array)},), expected ({length},){source}")


def _require(name: str, array: NDArray[Any], good: NDArray[np.bool_], expected: str) -> None:
    """Raise an error that names the first value that is not good."""
    if not good.all():
        at = int(np.argmin(good))
        raise PluralignError(f"{name}[{at}] is {array[at]}, expected {expected}")

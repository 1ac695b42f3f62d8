"""Rankings as strict pairs: what a reward model is scored on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pluralign.core.errors import PluralignError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Stands for "shown but not ranked": worse than every rank.
UNRANKED = np.iinfo(np.int64).max

# Past this, sums of margins could overflow; no reward model means such a number.
LARGEST_REWARD = 1e100

# Pair cells held at once while pairs are formed: bounds the memory beside the result.
BLOCK_CELLS = 1 << 20


@dataclass(frozen=True)
class Pairs:
    """The strict comparisons that rankings hold.

    Attributes:
        margin: reward of the winner minus reward of the loser, or the log-odds that a recalibration makes of it,
            float64 `(pairs,)`.
        judgment: index of the judgment each pair comes from, int64 `(pairs,)`, ascending.
        weight: the judgment's weight over its number of strict pairs, float64 `(pairs,)`,
            so that a judgment counts once however long its ranking is.
        prompt: cluster of each pair, int64 `(pairs,)`.
        judgments: how many judgments were read, with or without a strict pair.
        tied: pairs the annotator ranked equal; they have no winner and are left out.
        undecided: judgments without any strict pair.
    """

    margin: Floats
    judgment: Ints
    weight: Floats
    prompt: Ints
    judgments: int
    tied: int
    undecided: int


def pairs_of(
    rewards: ArrayLike,
    ranks: ArrayLike,
    offsets: ArrayLike,
    prompt: ArrayLike,
    weight: ArrayLike,
    recalibration: Callable[[Floats], Floats] | None = None,
) -> Pairs:
    """The strict pairs of ranked responses, with the margin a reward model gives each of them.

    A response ranked better wins over one ranked worse; every ranked response wins over one that was
    shown but not ranked; two that are not ranked are not compared.

    Args:
        rewards: reward of each shown response, judgments laid end to end, float `(total,)`.
        ranks: 1 is best, equal ranks are a tie, 0 is shown but not ranked, int `(total,)`.
        offsets: judgment j holds the places `offsets[j]` to `offsets[j + 1]`, int `(judgments + 1,)`.
        prompt: cluster of each judgment, int `(judgments,)`.
        weight: reliability of each judgment, at least 0, float `(judgments,)`.
        recalibration: maps margins `(pairs,)` to log-odds, an odd function; None leaves them as they are.

    Raises:
        PluralignError: a shape does not fit, a rank is negative or not whole, a weight is negative or
            not finite, or a reward is not a finite number.

    Examples:
        One ranking a > b > c (c not ranked) and one tie.

        >>> pairs = pairs_of([2.0, 0.5, 1.0, 3.0, 3.5], [1, 2, 0, 1, 1], [0, 3, 5], [7, 8], [1.0, 1.0])
        >>> pairs.margin.tolist(), pairs.judgment.tolist()
        ([1.5, 1.0, -0.5], [0, 0, 0])
        >>> pairs.weight.round(3).tolist(), pairs.tied, pairs.undecided
        ([0.333, 0.333, 0.333], 1, 1)
    """
    reward, rank, place, cluster, reliability = checked_rankings(rewards, ranks, offsets, prompt, weight)
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
    )


def rank_keys(ranks: Ints) -> Ints:
    """Ranks as sortable keys, smaller is better, with "not ranked" (0) behind every rank.

    Examples:
        >>> (rank_keys(np.array([2, 0, 1])) == UNRANKED).tolist()
        [False, True, False]
    """
    return np.where(ranks == 0, UNRANKED, ranks)


def judgment_blocks(offsets: Ints, cells: int = BLOCK_CELLS) -> Iterator[tuple[Ints, Ints]]:
    """Judgments of one length at a time, in blocks of at most `cells` pairs (one judgment at the least).

    Yields:
        `(block,)` judgment indices and `(block, length)` places in the flat arrays. Judgments of fewer
        than two responses hold no pair and are passed over.

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
    """The five arrays of `pairs_of` as float64 and int64, or a message that names the one at fault.

    Raises:
        PluralignError: as `pairs_of` says.

    Examples:
        >>> checked_rankings([1.0, float("nan")], [1, 2], [0, 2], [0], [1.0])
        Traceback (most recent call last):
        ...
        pluralign.core.errors.PluralignError: rewards[1] is nan, expected a finite number (at most 1e+100)
    """
    place = whole_numbers("offsets", offsets)
    if len(place) == 0 or place[0] != 0 or np.any(np.diff(place) < 0):
        raise PluralignError("offsets: expected to start at 0 and never to fall, one more than judgments")
    total, judgments = int(place[-1]), len(place) - 1
    reward = real_numbers("rewards", rewards)
    rank = whole_numbers("ranks", ranks)
    cluster = whole_numbers("prompt", prompt)
    reliability = real_numbers("weight", weight)
    for name, array, expected in (
        ("rewards", reward, total),
        ("ranks", rank, total),
        ("prompt", cluster, judgments),
        ("weight", reliability, judgments),
    ):
        if len(array) != expected:
            raise PluralignError(f"{name}: shape ({len(array)},), expected ({expected},) from offsets")
    _refuse("rewards", reward, np.abs(reward) <= LARGEST_REWARD, "a finite number (at most 1e+100)")
    _refuse("ranks", rank, rank >= 0, "1 (best) and up, or 0 for not ranked")
    _refuse("weight", reliability, (reliability >= 0) & (reliability < np.inf), "a finite number, at least 0")
    return reward, rank, place, cluster, reliability


def whole_numbers(name: str, values: ArrayLike) -> Ints:
    """A one-dimensional int64 array; `name` is how a complaint calls it.

    Raises:
        PluralignError: another dimension, or numbers that are not of an integer type.

    Examples:
        >>> whole_numbers("ranks", [1.5])
        Traceback (most recent call last):
        ...
        pluralign.core.errors.PluralignError: ranks: float64 of shape (1,), expected whole numbers in one dimension
    """
    array = np.asarray(values)
    # An empty list has no integer type of its own.
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise PluralignError(f"{name}: {array.dtype} of shape {array.shape}, expected whole numbers in one dimension")
    return array.astype(np.int64)


def real_numbers(name: str, values: ArrayLike) -> Floats:
    """A one-dimensional float64 array; `name` is how a complaint calls it.

    Raises:
        PluralignError: another dimension, or what is no number.

    Examples:
        >>> real_numbers("weight", [1, 2.5]).tolist()
        [1.0, 2.5]
    """
    array = np.asarray(values)
    real = np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)
    if array.ndim != 1 or not real:
        raise PluralignError(f"{name}: {array.dtype} of shape {array.shape}, expected numbers in one dimension")
    return array.astype(np.float64)


def _refuse(name: str, array: NDArray[Any], good: NDArray[np.bool_], expected: str) -> None:
    if not good.all():
        at = int(np.argmin(good))
        raise PluralignError(f"{name}[{at}] is {array[at]}, expected {expected}")

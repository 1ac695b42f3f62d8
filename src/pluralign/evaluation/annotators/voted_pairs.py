"""Votes on pairs of responses: rankings as units judged by several annotators, and their majorities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pluralign.core.errors import PluralignError
from pluralign.evaluation.pairs import (
    SAME,
    UNRANKED,
    Floats,
    Ints,
    checked_rankings,
    judgment_blocks,
    numbered_values,
    rank_keys,
    whole_numbers,
)

# Two ids must fit into one sortable int64 key.
LARGEST_ID = 3_000_000_000


@dataclass(frozen=True)
class VotedPairs:
    """Each unordered pair of responses that was compared is a unit; a judgment votes on its pairs.

    Attributes:
        first, second: the two responses of each unit, `first < second`, int64 `(units,)`, in sorted order.
        unit: unit of each vote, int64 `(votes,)`.
        value: -1 where the first response is better, 0 tied, 1 where the second is, int64 `(votes,)`.
        judgment: index of the judgment each vote comes from, int64 `(votes,)`, ascending.
        judgments: number of judgments read, with or without a vote.
    """

    first: Ints
    second: Ints
    unit: Ints
    value: Ints
    judgment: Ints
    judgments: int


def voted_pairs(response: ArrayLike, ranks: ArrayLike, offsets: ArrayLike) -> VotedPairs:
    """All pair votes that rankings contain.

    A response with a better rank beats one with a worse rank, equal ranks tie, and every ranked response beats one that
    was shown but not ranked. Two responses without a rank are not compared, nor is a response with itself. A judgment
    of n ranked responses casts n (n - 1) / 2 votes.

    Args:
        response: id of the unique response at each position, judgments concatenated, int `(total,)`. An id belongs to
            one prompt, so that two responses share a unit only if they answer the same prompt.
        ranks, offsets: as in `pluralign.evaluation.pairs.pairs_of`.

    Raises:
        PluralignError: a shape does not fit, a rank is negative or not an integer, or an id is negative or over 3e9.

    Examples:
        One judgment of three responses, the last one not ranked; then the other order of the first two.

        >>> votes = voted_pairs([4, 7, 5, 7, 4], [1, 2, 0, 1, 2], [0, 3, 5])
        >>> list(zip(votes.first.tolist(), votes.second.tolist()))
        [(4, 5), (4, 7), (5, 7)]
        >>> votes.unit.tolist(), votes.value.tolist(), votes.judgment.tolist()
        ([1, 0, 2, 1], [-1, -1, 1, 1], [0, 0, 0, 1])
    """
    judgments = max(np.size(offsets) - 1, 0)
    none, one = (np.broadcast_to(value, size) for value, size in ((0.0, np.size(ranks)), (1.0, judgments)))
    _, rank, place, _, _ = checked_rankings(none, ranks, offsets, np.broadcast_to(0, judgments), one)
    unique = whole_numbers("response", response, len(rank), " from offsets")
    if len(unique) and not 0 <= unique.min() <= unique.max() <= LARGEST_ID:
        raise PluralignError(f"response: ids {unique.min()} to {unique.max()}, expected 0 to {LARGEST_ID}")
    base = int(unique.max(initial=0)) + 1
    empty = np.zeros(0, dtype=np.int64)
    pairs, values, owners = [empty], [empty], [empty]
    for block, positions in judgment_blocks(place):
        left, right = np.triu_indices(positions.shape[1], k=1)
        ids, keys = unique[positions], rank_keys(rank[positions])
        id_left, id_right, key_left, key_right = ids[:, left], ids[:, right], keys[:, left], keys[:, right]
        compared = (id_left != id_right) & ((key_left != UNRANKED) | (key_right != UNRANKED))
        value = (key_left > key_right).astype(np.int64) - (key_left < key_right)
        pairs.append((np.minimum(id_left, id_right) * base + np.maximum(id_left, id_right))[compared])
        values.append(np.where(id_left < id_right, value, -value)[compared])
        owners.append(np.repeat(block, compared.sum(axis=1)))
    judgment, pair, value = (np.concatenate(parts) for parts in (owners, pairs, values))
    if (np.diff(judgment) < 0).any():
        # Blocks come by length; the caller's order makes the result independent of the block size.
        order = np.argsort(judgment, kind="stable")
        judgment, pair, value = judgment[order], pair[order], value[order]
    distinct, unit = numbered_values(pair)
    return VotedPairs(
        first=distinct // base,
        second=distinct % base,
        unit=unit,
        value=value,
        judgment=judgment,
        judgments=judgments,
    )


def tallies(votes: VotedPairs, weight: ArrayLike | None = None) -> Floats:
    """Weight of the votes for the first response, for a tie and for the second, per unit: `(units, 3)`.

    Args:
        votes: the pair votes.
        weight: reliability of each judgment, at least 0, `(judgments,)`; None is 1 for each.

    Raises:
        PluralignError: `weight` has another length, or a value is negative or not finite.

    Examples:
        >>> tallies(voted_pairs([0, 1, 0, 1], [1, 2, 1, 1], [0, 2, 4]), [2.0, 0.5]).tolist()
        [[2.0, 0.5, 0.0]]
    """
    cell, count = votes.unit * 3 + votes.value + 1, len(votes.first) * 3
    sums = np.bincount(cell, weights=vote_weights(votes, weight), minlength=count)
    return sums.reshape(-1, 3).astype(np.float64)


def vote_weights(votes: VotedPairs, weight: ArrayLike | None) -> Floats:
    """The weight of each vote, that of its judgment, float64 `(votes,)`; errors as in `tallies`."""
    if weight is None:
        return np.ones(len(votes.unit))
    given = np.asarray(weight, dtype=np.float64)
    if given.shape != (votes.judgments,):
        raise PluralignError(f"weight: shape {given.shape}, expected ({votes.judgments},), one per judgment")
    if not ((given >= 0) & (given < np.inf)).all():
        raise PluralignError("weight: expected finite numbers of at least 0, found others")
    return given[votes.judgment]


def majority(tally: Floats) -> Ints:
    """Which response more votes prefer: -1 the first, 1 the second, 0 for equal votes; ties count for neither.

    Examples:
        >>> majority(np.array([[2.0, 5.0, 1.0], [0.1 + 0.2, 0.0, 0.3], [0.0, 0.0, 1.0]])).tolist()
        [-1, 0, 1]
    """
    gap = tally[:, 2] - tally[:, 0]
    return np.where(np.abs(gap) <= SAME * tally.sum(axis=1), 0, np.sign(gap)).astype(np.int64)


@dataclass(frozen=True)
class Margins:
    """How clear the majorities are, over the units with at least two votes.

    Attributes:
        unit: those units, int64 `(pairs,)`.
        margin: |votes for the first - votes for the second| / votes, in [0, 1], float64 `(pairs,)`.
        edges: edges of equal bins of [0, 1], float64 `(bins + 1,)`; the last bin is closed above.
        counts: units in each bin, int64 `(bins,)`.
        mean: mean margin; None without units, like the two shares below.
        unanimous: share of units whose votes all prefer the same response (margin 1).
        tied: share of units with equal votes for both responses (margin 0).
    """

    unit: Ints
    margin: Floats
    edges: Floats
    counts: Ints
    mean: float | None
    unanimous: float | None
    tied: float | None


def majority_margins(votes: VotedPairs, weight: ArrayLike | None = None, bins: int = 10) -> Margins:
    """The majority's lead in each pair: |w_first - w_second| / (w_first + w_tied + w_second).

    Units with a single vote and units whose votes all have weight 0 are left out.

    Arguments and errors as in `tallies`; `bins` of the histogram is at least 1.

    Examples:
        Three judgments of one pair, two to one; a second pair that only one of them shows.

        >>> votes = voted_pairs([0, 1, 0, 1, 0, 1, 2], [1, 2, 1, 2, 2, 1, 3], [0, 2, 4, 7])
        >>> margins = majority_margins(votes, bins=4)
        >>> margins.margin.round(3).tolist(), margins.counts.tolist(), margins.unanimous, margins.tied
        ([0.333], [0, 1, 0, 0], 0.0, 0.0)
    """
    if bins < 1:
        raise PluralignError(f"bins is {bins}, expected at least 1")
    tally = tallies(votes, weight)
    total = tally.sum(axis=1)
    unit = np.flatnonzero((np.bincount(votes.unit, minlength=len(total)) >= 2) & (total > 0))
    margin = np.abs(tally[unit, 2] - tally[unit, 0]) / total[unit]
    # Sums of weights have rounding errors; the two ends are meant exactly.
    margin = np.where(margin <= SAME, 0.0, np.where(margin >= 1 - SAME, 1.0, margin))
    edges = np.linspace(0.0, 1.0, bins + 1)
    mean, unanimous, tied = (float(part.mean()) if len(unit) else None for part in (margin, margin == 1, margin == 0))
    return Margins(unit, margin, edges, np.histogram(margin, edges)[0], mean, unanimous, tied)


def comparison_components(votes: VotedPairs, prompt: ArrayLike) -> Ints:
    """Which responses of a prompt can be compared: the connected components of the graph of compared pairs.

    Two responses of one prompt are linked, directly or through others, exactly if they have the same number. No
    judgment links two components, so their utilities cannot be put on one scale.

    Args:
        votes: the pair votes; a vote for a tie also links its pair.
        prompt: prompt of each response, int `(responses,)`; the ids of `votes` are indices into it.

    Returns:
        component of each response, numbered from 0 within its prompt by first appearance, int64 `(responses,)`. A
        response that was never compared is a component of its own.

    Raises:
        PluralignError: an id has no prompt, or a pair spans two prompts.

    Examples:
        Of four responses to one prompt, the first is compared with the last only.

        >>> votes = voted_pairs([0, 3, 1, 2], [1, 2, 1, 1], [0, 2, 4])
        >>> comparison_components(votes, [5, 5, 5, 5]).tolist()
        [0, 1, 1, 0]
    """
    cluster = prompts_of(votes, prompt)
    responses = len(cluster)
    if not responses:
        return cluster
    links = coo_array((np.ones(len(votes.first)), (votes.first, votes.second)), shape=(responses, responses))
    label = connected_components(links, directed=False)[1]
    # Number the components by the first response of each, prompt by prompt.
    start = np.unique(label, return_index=True)[1]
    order = np.lexsort((start, cluster[start]))
    sizes = np.unique(cluster[start], return_counts=True)[1]
    number = np.empty(len(start), dtype=np.int64)
    number[order] = np.arange(len(start)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return number[label]


def prompts_of(votes: VotedPairs, prompt: ArrayLike) -> Ints:
    """The prompt of each response, int64 `(responses,)`; every id needs one, and every pair must be of one prompt."""
    cluster = whole_numbers("prompt", prompt)
    largest = int(votes.second.max(initial=-1))
    if largest >= len(cluster):
        raise PluralignError(f"prompt: shape ({len(cluster)},), expected at least ({largest + 1},) from the ids")
    apart = np.flatnonzero(cluster[votes.first] != cluster[votes.second])
    if len(apart):
        a, b = int(votes.first[apart[0]]), int(votes.second[apart[0]])
        raise PluralignError(f"responses {a} and {b} were compared, but are of prompts {cluster[a]} and {cluster[b]}")
    return cluster

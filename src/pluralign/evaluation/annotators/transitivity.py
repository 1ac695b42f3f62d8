"""Do the votes follow one order? Intransitive triples, Condorcet winners and top cycles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from pluralign.evaluation.annotators.voted_pairs import VotedPairs, majority, prompts_of, tallies
from pluralign.evaluation.pairs import Floats, Ints

# Triples are counted by sparse products. A component of at least this many nodes is faster as a dense product if its
# paths of two steps are more than this share of nodes^3.
DENSE_NODES, DENSE_SHARE = 64, 0.01

# Paths of two steps held at once by the sparse products.
BLOCK_PATHS = 1 << 22


def intransitive_triples(votes: VotedPairs, weight: ArrayLike | None = None) -> dict[str, float]:
    """How many triples of responses the majority cannot order.

    Over the triples {a, b, c} of which all three pairs were compared: a triple is *cyclic* if its strict majorities
    form a cycle (a over b, b over c, c over a). It is *intransitive* if the majority relation with ties is not an order
    with ties: cyclic, or a over b while b ties with c and c with a, or a over c over b while a and b tie. If each
    majority were the toss of a coin, without ties, a quarter of the triples would be cyclic. Few votes per pair
    produce cycles and ties by themselves; read the shares together with the margins.

    Source: circular triads, Kendall and Babington Smith, "On the Method of Paired Comparisons" (1940).

    Arguments and errors as in `pluralign.evaluation.annotators.voted_pairs.tallies`.

    Returns:
        `triples`, `cyclic_triples`, `intransitive_triples` and, if there is a triple, their shares `cyclic_share` and
        `intransitive_share`.

    Examples:
        Three judgments: a over b over c, b over c over a, c over a over b. The majorities form a cycle.

        >>> from pluralign.evaluation.annotators.voted_pairs import voted_pairs
        >>> votes = voted_pairs([0, 1, 2] * 3, [1, 2, 3, 3, 1, 2, 2, 3, 1], [0, 3, 6, 9])
        >>> intransitive_triples(votes)
        {'triples': 1, 'cyclic_triples': 1, 'intransitive_triples': 1,
         'cyclic_share': 1.0, 'intransitive_share': 1.0}
    """
    nodes = int(votes.second.max(initial=-1)) + 1
    sums = _triples_at(votes.first, votes.second, majority(tallies(votes, weight)), nodes).sum(axis=0)
    triples, cyclic, tied = (int(total) for total in sums // (6, 3, 1))
    metrics: dict[str, float] = {
        "triples": triples,
        "cyclic_triples": cyclic,
        "intransitive_triples": cyclic + tied,
    }
    if triples:
        metrics |= {"cyclic_share": cyclic / triples, "intransitive_share": (cyclic + tied) / triples}
    return metrics


@dataclass(frozen=True)
class Condorcet:
    """The majority relation of each prompt with a compared pair.

    Attributes:
        prompt: those prompts, in order, int64 `(prompts,)`.
        responses: number of the prompt's responses that were compared, int64 `(prompts,)`.
        winner: the response that a strict majority prefers to every other one of them, -1 if there is none, int64
            `(prompts,)`.
        top_cycle: size of the Smith set, the smallest set of responses each of which beats every response outside by a
            strict majority, int64 `(prompts,)`; a pair that ties or was not compared has no winner. 1 exactly if there
            is a Condorcet winner.
        largest_cycle: size of the largest strongly connected component of the strict majority relation, int64
            `(prompts,)`: 1 if the strict majorities have no cycle of any length, at least 3 otherwise.
    """

    prompt: Ints
    responses: Ints
    winner: Ints
    top_cycle: Ints
    largest_cycle: Ints


def condorcet(votes: VotedPairs, prompt: ArrayLike, weight: ArrayLike | None = None) -> Condorcet:
    """Condorcet winner, Smith set and cycles of each prompt's majority relation.

    The Smith set needs no graph: with d the wins minus the losses of each of n responses in falling order, its size is
    the least k >= 1 with d_1 + .. + d_k = k (n - k), because wins and losses cancel inside a set and k (n - k) is
    reached only if each member beats each outsider (ours, after Landau's score condition).

    Arguments and errors as in `intransitive_triples` and, for `prompt`,
    `pluralign.evaluation.annotators.voted_pairs.comparison_components`.

    Examples:
        Prompt 0: the majorities form a cycle, and all three beat the fourth response. Prompt 1: one pair, one vote.

        >>> from pluralign.evaluation.annotators.voted_pairs import voted_pairs
        >>> response, ranks = [0, 1, 2, 3] * 3 + [4, 5], [1, 2, 3, 4, 3, 1, 2, 4, 2, 3, 1, 4, 2, 1]
        >>> result = condorcet(voted_pairs(response, ranks, [0, 4, 8, 12, 14]), [0, 0, 0, 0, 1, 1])
        >>> result.winner.tolist(), result.top_cycle.tolist(), result.largest_cycle.tolist()
        ([-1, 5], [3, 1], [3, 1])
    """
    cluster = prompts_of(votes, prompt)
    sign = majority(tallies(votes, weight))
    better, worse = _strict(votes.first, votes.second, sign)
    count = len(cluster)
    lead = np.bincount(better, minlength=count) - np.bincount(worse, minlength=count)
    seen = np.flatnonzero(np.bincount(np.concatenate([votes.first, votes.second]), minlength=count))
    order = seen[np.lexsort((-lead[seen], cluster[seen]))]
    prompts, start, sizes = np.unique(cluster[order], return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(start, sizes) + 1
    running = np.cumsum(lead[order])
    # Leads cancel within a prompt, so the running sum begins each prompt at 0.
    closed = np.flatnonzero(running == place * (np.repeat(sizes, sizes) - place))
    top_cycle = place[closed[np.searchsorted(closed, start)]]

    largest = np.zeros(len(prompts), dtype=np.int64)
    if len(order):
        component = connected_components(_matrix(better, worse, count), directed=True, connection="strong")[1]
        size = np.bincount(component)[component[order]]
        largest = np.maximum.reduceat(size, start).astype(np.int64)
    return Condorcet(
        prompt=prompts,
        responses=sizes,
        winner=np.where(top_cycle == 1, order[start], -1),
        top_cycle=top_cycle,
        largest_cycle=largest,
    )


def _strict(first: Ints, second: Ints, sign: Ints) -> tuple[Ints, Ints]:
    """The better and the worse end of each pair that does not tie."""
    strict = sign != 0
    return np.where(sign < 0, first, second)[strict], np.where(sign < 0, second, first)[strict]


def _triples_at(first: Ints, second: Ints, sign: Ints, nodes: int) -> Ints:
    """Per node, `(nodes, 3)`: triples with all pairs compared, cyclic triples, triples that ties make intransitive.

    Summed over the nodes, the columns count each triple six times, three times and once.
    """
    counts = np.zeros((nodes, 3), dtype=np.int64)
    if not nodes:
        return counts
    both = (np.concatenate([first, second]), np.concatenate([second, first]))
    linked = _matrix(*both, nodes)
    label = connected_components(linked, directed=False)[1]
    # The nodes of a component are neighbours, so that it is a block on the diagonal.
    order = np.argsort(label, kind="stable")
    place = np.empty(nodes, dtype=np.int64)
    place[order] = np.arange(nodes)
    better, worse = _strict(place[first], place[second], sign)
    strict = _matrix(better, worse, nodes)
    tie_first, tie_second = place[first][sign == 0], place[second][sign == 0]
    tied = _matrix(np.concatenate([tie_first, tie_second]), np.concatenate([tie_second, tie_first]), nodes)

    neighbours = np.bincount(both[0], minlength=nodes)
    paths = (linked @ neighbours)[order]
    sizes = np.bincount(label)
    ends = np.cumsum(sizes)
    per_component = np.add.reduceat(paths, ends - sizes)
    dense = (sizes >= DENSE_NODES) & (per_component > DENSE_SHARE * sizes.astype(np.float64) ** 3)
    for end, size in zip(ends[dense].tolist(), sizes[dense].tolist(), strict=True):
        block = slice(end - size, end)
        # float32 is exact here (whole numbers up to `size`) and twice as fast.
        ahead, level = (m[block, block].toarray().astype(np.float32) for m in (strict, tied))
        counts[order[block]] = _closed_paths(ahead, level, ahead, level, ahead.T)
    rest = np.flatnonzero(np.repeat(~dense, sizes))
    backwards = strict.T.tocsr()
    for rows in _blocks(rest, paths[rest]):
        counts[order[rows]] = _closed_paths(strict[rows], tied[rows], strict, tied, backwards[rows])
    return counts


def _closed_paths(ahead: Any, level: Any, strict: Any, tied: Any, behind: Any) -> NDArray[np.int64]:
    """Closed paths of three steps from some rows, for dense and sparse matrices alike, `(rows, 3)`.

    `ahead`, `level` and `behind` are rows of the strict relation, of the ties, and of the transposed strict relation.
    """
    two_ahead = ahead @ strict
    compared = ahead + behind + level
    everything = strict + strict.T + tied
    columns = (
        (compared @ everything) * compared,
        two_ahead * behind,
        # a over b while both tie with c; then a over c over b while a ties with b.
        (level @ tied) * ahead + two_ahead * level,
    )
    return np.stack([np.asarray(c.sum(axis=1, dtype=np.float64)) for c in columns], axis=1).astype(np.int64)


def _matrix(row: Ints, column: Ints, nodes: int) -> csr_array:
    """Ones at the given places."""
    return csr_array((np.ones(len(row), dtype=np.int64), (row, column)), shape=(nodes, nodes))


def _blocks(rows: Ints, paths: Floats | Ints) -> Iterator[Ints]:
    """Consecutive rows with about `BLOCK_PATHS` paths of two steps together."""
    part = np.cumsum(paths) // BLOCK_PATHS
    yield from (block for block in np.split(rows, np.flatnonzero(np.diff(part)) + 1) if len(block))

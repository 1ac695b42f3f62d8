"""Is there one order behind the votes? Intransitive triples, Condorcet winners and top cycles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from pluralign.core.errors import PluralignError
from pluralign.evaluation.annotators.voted_pairs import VotedPairs, majority, prompts_of, tallies, vote_weights
from pluralign.evaluation.pairs import Floats, Ints, whole_numbers

# Triples are counted by sparse products, but a component of at least this many nodes, compared so densely that its
# paths of two steps are more than this share of nodes^3, is faster as a dense product.
DENSE_NODES, DENSE_SHARE = 64, 0.01

# Paths of two steps held at once by the sparse products.
BLOCK_PATHS = 1 << 22


def intransitive_triples(votes: VotedPairs, weight: ArrayLike | None = None) -> dict[str, float]:
    """How many triples of responses the majority cannot put in order.

    Over the triples {a, b, c} of which all three pairs were compared: a triple is *cyclic* where strict
    majorities go round (a over b, b over c, c over a). It is *intransitive* where the majority relation with ties
    is no order with ties: cyclic, or a over b while b and c as well as c and a tie, or a over c over b while a and
    b tie. Where each majority falls by the toss of a coin, without ties, a quarter of the triples is cyclic.
    A small number of votes alone makes cycles and ties; read the shares beside the margins.

    Source: circular triads, Kendall and Babington Smith, "On the Method of Paired Comparisons" (1940).

    Args:
        votes: the pair votes.
        weight: reliability of each judgment, at least 0, `(judgments,)`; 1 each where it is None.

    Returns:
        `triples`, `cyclic_triples`, `intransitive_triples` and, with a triple at least, their shares
        `cyclic_share` and `intransitive_share`.

    Raises:
        PluralignError: `weight` has another length, or holds something negative or not finite.

    Examples:
        Three people: a over b over c, b over c over a, c over a over b. Majorities go round.

        >>> from pluralign.evaluation.annotators.voted_pairs import voted_pairs
        >>> votes = voted_pairs([0, 1, 2] * 3, [1, 2, 3, 3, 1, 2, 2, 3, 1], [0, 3, 6, 9])
        >>> intransitive_triples(votes)
        {'triples': 1, 'cyclic_triples': 1, 'intransitive_triples': 1,
         'cyclic_share': 1.0, 'intransitive_share': 1.0}
    """
    nodes = int(votes.second.max(initial=-1)) + 1
    sums = _triples_at(votes.first, votes.second, majority(tallies(votes, weight)), nodes).sum(axis=0)
    triples, cyclic, tied = (int(total) for total in sums // (6, 3, 1))
    found: dict[str, float] = {
        "triples": triples,
        "cyclic_triples": cyclic,
        "intransitive_triples": cyclic + tied,
    }
    if triples:
        found |= {"cyclic_share": cyclic / triples, "intransitive_share": (cyclic + tied) / triples}
    return found


def annotator_intransitivity(
    votes: VotedPairs, annotator: ArrayLike, annotators: int, weight: ArrayLike | None = None
) -> dict[str, list[int] | list[float | None]]:
    """The same triples within each person's own votes: does one person contradict himself or herself?

    Where a person voted on a pair more than once, the majority of those votes counts. One ranking is
    transitive by its form, so this says something about people who judged pairs or overlapping lists.

    Args:
        votes: the pair votes.
        annotator: who gave each judgment, int `(judgments,)` from 0; negative is left out.
        annotators: how many there are.
        weight: as in `intransitive_triples`.

    Returns:
        columns of length `annotators`: `triples`, `cyclic_triples`, `intransitive_triples`, and
        `intransitive_share`, None where there is no triple.

    Raises:
        PluralignError: `annotator` has another length or holds `annotators` or more, or as
            `intransitive_triples` says.

    Examples:
        >>> from pluralign.evaluation.annotators.voted_pairs import voted_pairs
        >>> votes = voted_pairs([0, 1, 1, 2, 2, 0], [1, 2, 1, 2, 1, 2], [0, 2, 4, 6])
        >>> annotator_intransitivity(votes, [0, 0, 0], 2)["intransitive_share"]
        [1.0, None]
    """
    who = whole_numbers("annotator", annotator)
    if len(who) != votes.judgments:
        raise PluralignError(f"annotator: shape ({len(who)},), expected ({votes.judgments},), one per judgment")
    if len(who) and who.max() >= annotators:
        raise PluralignError(f"annotator: found {who.max()}, expected less than annotators = {annotators}")
    person = who[votes.judgment]
    known = person >= 0
    person, unit, value = person[known], votes.unit[known], votes.value[known]

    # One unit per (person, pair), one node per (person, response).
    own, own_unit = np.unique(person * max(len(votes.first), 1) + unit, return_inverse=True)
    weights = vote_weights(votes, weight)[known]
    cells = np.bincount(own_unit * 3 + value + 1, weights=weights, minlength=len(own) * 3).astype(np.float64)
    holder, pair = np.divmod(own, max(len(votes.first), 1))
    base = int(votes.second.max(initial=-1)) + 1
    ends = np.concatenate([holder * base + votes.first[pair], holder * base + votes.second[pair]])
    names, node = np.unique(ends, return_inverse=True)
    at = _triples_at(node[: len(own)], node[len(own) :], majority(cells.reshape(-1, 3)), len(names))
    triples, cyclic, tied = (
        np.rint(np.bincount(names // max(base, 1), weights=column, minlength=annotators)).astype(np.int64) // times
        for column, times in zip(at.T, (6, 3, 1), strict=True)
    )
    shares = zip((cyclic + tied).tolist(), triples.tolist(), strict=True)
    return {
        "triples": triples.tolist(),
        "cyclic_triples": cyclic.tolist(),
        "intransitive_triples": (cyclic + tied).tolist(),
        "intransitive_share": [part / whole if whole else None for part, whole in shares],
    }


@dataclass(frozen=True)
class Condorcet:
    """What majorities say about each prompt with a compared pair.

    Attributes:
        prompt: those prompts, in order, int64 `(prompts,)`.
        responses: responses of the prompt that somebody compared, int64 `(prompts,)`.
        winner: the response that a strict majority prefers to every other one of them, -1 if none does, int64
            `(prompts,)`.
        top_cycle: size of the Smith set, the smallest set of responses each of which beats every response outside
            by a strict majority, int64 `(prompts,)`; a pair that ties or was not compared is not beaten. 1 exactly
            if there is a winner.
        largest_cycle: size of the largest strongly connected component of the strict majority relation, int64
            `(prompts,)`: responses of which each leads back to itself through the others. 1 exactly if the
            strict majorities hold no cycle of any length, 3 or more otherwise.
    """

    prompt: Ints
    responses: Ints
    winner: Ints
    top_cycle: Ints
    largest_cycle: Ints


def condorcet(votes: VotedPairs, prompt: ArrayLike, weight: ArrayLike | None = None) -> Condorcet:
    """Condorcet winner, Smith set and cycles of each prompt's majority relation.

    The Smith set takes no graph: with d the wins less the losses of each of n responses in falling order, its
    size is the least k >= 1 with d_1 + .. + d_k = k (n - k), for inside a set wins and losses cancel, and
    k (n - k) is reached only where each member beats each outsider (ours, after Landau's score condition).

    Args:
        votes: the pair votes.
        prompt: prompt of each response, int `(responses,)`; the ids of `votes` are indices into it.
        weight: reliability of each judgment, at least 0, `(judgments,)`; 1 each where it is None.

    Raises:
        PluralignError: an id has no prompt, a pair spans two prompts, or as `intransitive_triples` says.

    Examples:
        Prompt 0: the majorities go round, and all three beat the fourth response. Prompt 1: one pair, one vote.

        >>> from pluralign.evaluation.annotators.voted_pairs import voted_pairs
        >>> response, ranks = [0, 1, 2, 3] * 3 + [4, 5], [1, 2, 3, 4, 3, 1, 2, 4, 2, 3, 1, 4, 2, 1]
        >>> found = condorcet(voted_pairs(response, ranks, [0, 4, 8, 12, 14]), [0, 0, 0, 0, 1, 1])
        >>> found.winner.tolist(), found.top_cycle.tolist(), found.largest_cycle.tolist()
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
        links = csr_array((np.ones(len(better)), (better, worse)), shape=(count, count))
        component = connected_components(links, directed=True, connection="strong")[1]
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
    """Per node, `(nodes, 3)`: triples with all pairs compared, cyclic ones, ones that ties make intransitive.

    Summed over the nodes, the columns count each triple six times, three times, and once.
    """
    found = np.zeros((nodes, 3), dtype=np.int64)
    if not nodes:
        return found
    both = (np.concatenate([first, second]), np.concatenate([second, first]))
    linked = csr_array((np.ones(len(both[0]), dtype=np.int64), both), shape=(nodes, nodes))
    label = connected_components(linked, directed=False)[1]
    # Nodes of one component side by side, so that it is a block on the diagonal.
    order = np.argsort(label, kind="stable")
    place = np.empty(nodes, dtype=np.int64)
    place[order] = np.arange(nodes)
    better, worse = _strict(place[first], place[second], sign)
    one, two = place[first][sign == 0], place[second][sign == 0]
    strict = _matrix(better, worse, nodes)
    tied = _matrix(np.concatenate([one, two]), np.concatenate([two, one]), nodes)

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
        found[order[block]] = _closed_paths(ahead, level, ahead, level, ahead.T)
    rest = np.flatnonzero(np.repeat(~dense, sizes))
    backwards = strict.T.tocsr()
    for rows in _blocks(rest, paths[rest]):
        found[order[rows]] = _closed_paths(strict[rows], tied[rows], strict, tied, backwards[rows])
    return found


def _closed_paths(ahead: Any, level: Any, strict: Any, tied: Any, behind: Any) -> NDArray[np.int64]:
    """Closed paths of three steps from some rows, for dense and sparse matrices alike, `(rows, 3)`.

    `ahead`, `level`, `behind`: the rows of the strict relation, of the ties, and of the transposed strict relation.
    """
    two_ahead = ahead @ strict
    compared = ahead + behind + level
    everything = strict + strict.T + tied
    columns = (
        (compared @ everything) * compared,
        two_ahead * behind,
        # a over b with both level with c; then a over c over b with a level with b.
        (level @ tied) * ahead + two_ahead * level,
    )
    return np.stack([np.asarray(c.sum(axis=1, dtype=np.float64)) for c in columns], axis=1).astype(np.int64)


def _matrix(row: Ints, column: Ints, nodes: int) -> csr_array:
    return csr_array((np.ones(len(row), dtype=np.int64), (row, column)), shape=(nodes, nodes))


def _blocks(rows: Ints, paths: Floats | Ints) -> Iterator[Ints]:
    """Consecutive rows with about `BLOCK_PATHS` paths of two steps together."""
    part = np.cumsum(paths) // BLOCK_PATHS
    yield from (block for block in np.split(rows, np.flatnonzero(np.diff(part)) + 1) if len(block))

"""Intransitive triples, Condorcet winners and cycles, against plain loops and networkx."""

from itertools import combinations, permutations

import networkx as nx
import numpy as np
import pytest

from pluralign.evaluation.annotators import transitivity
from pluralign.evaluation.annotators.transitivity import condorcet, intransitive_triples
from pluralign.evaluation.annotators.voted_pairs import majority, tallies, voted_pairs


def relation(rng, prompts, most, tie=0.2, miss=0.2):
    """Votes that make a random majority relation: one vote for each compared pair."""
    response, ranks, offsets, prompt = [], [], [0], []
    for p in range(prompts):
        ids = range(len(prompt), len(prompt) + int(rng.integers(1, most + 1)))
        prompt += [p] * len(ids)
        for a, b in combinations(ids, 2):
            if rng.random() > miss:
                response += [a, b]
                ranks += [1, 1] if rng.random() < tie else [1, 2] if rng.random() < 0.5 else [2, 1]
                offsets.append(len(response))
    return voted_pairs(response, ranks, offsets), np.array(prompt)


def beats_of(votes):
    sign = majority(tallies(votes))
    known = {}
    for a, b, s in zip(votes.first.tolist(), votes.second.tolist(), sign.tolist(), strict=True):
        known[a, b], known[b, a] = -s, s
    return known


def loop_triples(known):
    nodes = sorted({a for a, _ in known})
    triples = cyclic = broken = 0
    for trio in combinations(nodes, 3):
        if all(pair in known for pair in combinations(trio, 2)):
            triples += 1
            orders = list(permutations(trio))
            cyclic += any(known[a, b] == known[b, c] == known[c, a] == 1 for a, b, c in orders)
            # An order with ties exists exactly if "at least as good" is transitive.
            broken += any(known[a, b] >= 0 and known[b, c] >= 0 and known[a, c] < 0 for a, b, c in orders)
    return triples, cyclic, broken


def counted(found):
    return found["triples"], found["cyclic_triples"], found["intransitive_triples"]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("nodes", "share", "paths"),
    [(64, 0.01, 1 << 22), (3, 0.0, 1 << 22), (64, 0.01, 5)],
    ids=["usual", "dense", "blocks"],
)
def test_triples_equal_plain_loops(monkeypatch, seed, nodes, share, paths):
    monkeypatch.setattr(transitivity, "DENSE_NODES", nodes)
    monkeypatch.setattr(transitivity, "DENSE_SHARE", share)
    monkeypatch.setattr(transitivity, "BLOCK_PATHS", paths)
    votes, _ = relation(np.random.default_rng(seed), 12, 8)
    expected = loop_triples(beats_of(votes))
    assert min(expected) > 3
    found = intransitive_triples(votes)
    assert counted(found) == expected
    assert found["cyclic_share"] == expected[1] / expected[0]


def test_large_prompt_takes_the_dense_path_and_a_quarter_of_random_triples_is_cyclic():
    rng = np.random.default_rng(0)
    n = 300
    first, second = np.triu_indices(n, 1)
    flip = rng.random(len(first)) < 0.5
    votes = voted_pairs(
        np.stack([first, second], 1).ravel(),
        np.where(flip[:, None], [1, 2], [2, 1]).ravel(),
        np.arange(len(first) + 1) * 2,
    )
    found = intransitive_triples(votes)
    wins = np.bincount(np.where(flip, first, second), minlength=n)
    triples = n * (n - 1) * (n - 2) // 6
    # Kendall and Babington Smith: a triple is transitive exactly if one of its three beats the other two.
    assert counted(found) == (triples, triples - (wins * (wins - 1) // 2).sum(), found["cyclic_triples"])
    assert found["cyclic_share"] == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("seed", range(6))
def test_condorcet_equals_search_over_all_sets(seed):
    votes, prompt = relation(np.random.default_rng(seed), 25, 6, tie=0.1, miss=0.1)
    known = beats_of(votes)
    found = condorcet(votes, prompt)
    seen = {a for a, _ in known}
    assert found.prompt.tolist() == sorted({int(prompt[a]) for a in seen})
    for at, p in enumerate(found.prompt.tolist()):
        nodes = [a for a in np.flatnonzero(prompt == p).tolist() if a in seen]
        winners = [a for a in nodes if all(known.get((a, b)) == 1 for b in nodes if b != a)]
        dominant = [
            size for size in range(1, len(nodes) + 1) for inner in combinations(nodes, size)
            if all(known.get((a, b)) == 1 for a in inner for b in nodes if b not in inner)
        ]  # fmt: skip
        graph = nx.DiGraph([pair for pair, sign in known.items() if sign == 1 and pair[0] in nodes])
        largest = max((len(part) for part in nx.strongly_connected_components(graph)), default=1)
        assert found.responses[at] == len(nodes)
        assert found.winner[at] == (winners[0] if winners else -1)
        assert found.top_cycle[at] == dominant[0]
        assert found.largest_cycle[at] == largest
    assert (found.largest_cycle >= 3).any()
    assert (found.winner >= 0).any()


def test_a_ranking_is_transitive(rankings, global_ids):
    data = rankings(0)
    for judgment in range(len(data["offsets"]) - 1):
        places = slice(data["offsets"][judgment], data["offsets"][judgment + 1])
        votes = voted_pairs(data["response"][places], data["ranks"][places], [0, places.stop - places.start])
        assert intransitive_triples(votes)["intransitive_triples"] == 0

"""Pair votes, majorities and comparison components, against plain loops and networkx."""

from collections import defaultdict
from itertools import combinations

import networkx as nx
import numpy as np
import pytest

from pluralign.core.errors import PluralignError
from pluralign.evaluation.annotators.agreement import krippendorff_alpha
from pluralign.evaluation.annotators.transitivity import condorcet, intransitive_triples
from pluralign.evaluation.annotators.voted_pairs import (
    comparison_components,
    majority,
    majority_margins,
    tallies,
    voted_pairs,
)


def loop_votes(data, response):
    votes = []
    for j in range(len(data["offsets"]) - 1):
        places = range(data["offsets"][j], data["offsets"][j + 1])
        for a, b in combinations(places, 2):
            (one, rank_one), (two, rank_two) = sorted((response[p], data["ranks"][p] or 99) for p in (a, b))
            if one != two and (rank_one, rank_two) != (99, 99):
                votes.append((j, int(one), int(two), int(np.sign(rank_one - rank_two))))
    return sorted(votes)


@pytest.mark.parametrize("seed", range(4))
def test_pair_votes_equal_plain_loops(rankings, global_ids, seed):
    data = rankings(seed)
    response, _ = global_ids(data)
    votes = voted_pairs(response, data["ranks"], data["offsets"])
    found = zip(votes.judgment, votes.first[votes.unit], votes.second[votes.unit], votes.value, strict=True)
    assert sorted(tuple(map(int, vote)) for vote in found) == loop_votes(data, response)
    assert (votes.first < votes.second).all()
    assert (np.diff(votes.judgment) >= 0).all()
    weights = tallies(votes, data["weight"])
    assert weights.sum() == pytest.approx(data["weight"][votes.judgment].sum())


def test_a_response_is_not_compared_with_itself():
    votes = voted_pairs([3, 3, 1], [1, 2, 1], [0, 3])
    assert (votes.first.tolist(), votes.second.tolist(), votes.unit.tolist()) == ([1], [3], [0, 0])
    assert votes.value.tolist() == [0, -1]


@pytest.mark.parametrize("weighted", [False, True])
def test_margins_equal_plain_loops(rankings, global_ids, weighted):
    data = rankings(2, judgments=200)
    response, _ = global_ids(data)
    votes = voted_pairs(response, data["ranks"], data["offsets"])
    weight = data["weight"] if weighted else None
    found = majority_margins(votes, weight, bins=8)
    expected = []
    for u in range(len(votes.first)):
        at = votes.unit == u
        w = data["weight"][votes.judgment[at]] if weighted else np.ones(at.sum())
        if at.sum() >= 2:
            expected.append(abs(float(w @ votes.value[at])) / w.sum())
    assert found.margin == pytest.approx(expected)
    assert found.counts.sum() == len(expected)
    assert found.unanimous == pytest.approx(np.mean(np.isclose(expected, 1)))
    assert found.tied == pytest.approx(np.mean(np.isclose(expected, 0)))
    assert 0 < found.tied < 1


def test_margins_at_the_ends_are_exact_in_any_order_of_adding():
    weight = [0.1, 0.2, 0.3]
    clear = voted_pairs([0, 1] * 3, [1, 2] * 3, [0, 2, 4, 6])
    even = voted_pairs([0, 1] * 3, [1, 2, 1, 2, 2, 1], [0, 2, 4, 6])
    assert majority_margins(clear, weight).unanimous == 1.0
    assert majority_margins(even, weight).tied == 1.0
    assert majority(tallies(even, weight)).tolist() == [0]
    assert len(majority_margins(clear, [0.0] * 3).unit) == 0
    all_tied = voted_pairs([0, 1] * 2, [1, 1] * 2, [0, 2, 4])
    assert (majority_margins(all_tied).tied, majority_margins(all_tied).unanimous) == (1.0, 0.0)


def test_components_equal_networkx(rankings, global_ids):
    data = rankings(3, judgments=12)
    response, prompt = global_ids(data)
    votes = voted_pairs(response, data["ranks"], data["offsets"])
    label = comparison_components(votes, prompt)
    graph = nx.Graph(zip(votes.first.tolist(), votes.second.tolist(), strict=True))
    graph.add_nodes_from(range(len(prompt)))
    expected = {frozenset(part) for part in nx.connected_components(graph)}
    parts = defaultdict(set)
    for at, key in enumerate(zip(prompt.tolist(), label.tolist(), strict=True)):
        parts[key].add(at)
    assert {frozenset(part) for part in parts.values()} == expected
    for p in np.unique(prompt):
        first_seen = list(dict.fromkeys(label[prompt == p].tolist()))
        assert first_seen == list(range(len(first_seen)))


def test_no_votes_give_defined_results():
    for response, ranks, offsets in (([], [], [0]), ([5, 6], [0, 0], [0, 2]), ([2], [1], [0, 1])):
        votes = voted_pairs(response, ranks, offsets)
        assert len(votes.unit) == len(votes.first) == 0
        assert krippendorff_alpha(votes.unit, votes.value, both_orders=True) is None
        margins = majority_margins(votes)
        assert (margins.mean, margins.unanimous, margins.tied, margins.counts.sum()) == (None, None, None, 0)
        assert intransitive_triples(votes) == {"triples": 0, "cyclic_triples": 0, "intransitive_triples": 0}
        assert len(condorcet(votes, np.zeros(7, dtype=int)).prompt) == 0
        assert comparison_components(votes, np.zeros(3, dtype=int)).tolist() == [0, 1, 2]
        assert comparison_components(votes, []).tolist() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0], [1, 2], [0, 2]), "response: shape (1,), expected (2,) from offsets"),
        (([-1, 0], [1, 2], [0, 2]), "response: ids -1 to 0"),
        (([0, 1], [1, -2], [0, 2]), "ranks[1] is -2"),
        (([0, 1], [1, 2], []), "offsets"),
    ],
)
def test_bad_rankings_name_the_argument(arguments, message):
    with pytest.raises(PluralignError) as error:
        voted_pairs(*arguments)
    assert message in str(error.value)


def test_bad_weights_and_prompts_are_refused():
    votes = voted_pairs([0, 1], [1, 2], [0, 2])
    with pytest.raises(PluralignError, match="weight: shape"):
        tallies(votes, [1.0, 2.0])
    with pytest.raises(PluralignError, match="weight: expected finite"):
        intransitive_triples(votes, [float("nan")])
    with pytest.raises(PluralignError, match="expected at least"):
        condorcet(votes, [0])
    with pytest.raises(PluralignError, match="prompts 0 and 1"):
        comparison_components(votes, [0, 1])
    with pytest.raises(PluralignError, match="bins is 0"):
        majority_margins(votes, bins=0)

"""Agreement and transitivity against published numbers, another library, and plain loops."""

import csv
import gzip
from collections import Counter, defaultdict
from itertools import combinations, permutations
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.metrics.agreement import AnnotationTask
from scipy.stats import binomtest

from pluralign.core.errors import PluralignError
from pluralign.evaluation.annotators import transitivity
from pluralign.evaluation.annotators.agreement import alpha_interval, krippendorff_alpha
from pluralign.evaluation.annotators.peers import annotator_agreement, wilson_interval
from pluralign.evaluation.annotators.transitivity import annotator_intransitivity, condorcet, intransitive_triples
from pluralign.evaluation.annotators.voted_pairs import (
    comparison_components,
    majority,
    majority_margins,
    tallies,
    voted_pairs,
)
from pluralign.judgments import read
from pluralign.scoring.items import items_of
from pluralign.workflows.importing import import_files

LEVELS = ("nominal", "ordinal")
CONVARG = Path(__file__).parents[2] / "examples" / "mappings" / "convarg.yaml"

# Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability": observers by units, 0 is missing.
PUBLISHED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
        [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
    ]
)


def long_form(table):
    annotator, unit = np.nonzero(table)
    return unit, table[annotator, unit], annotator


# ---- alpha


@pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("ordinal", 0.815)])
def test_alpha_of_krippendorffs_example(level, published):
    unit, value, annotator = long_form(PUBLISHED)
    assert krippendorff_alpha(unit, value, level=level) == pytest.approx(published, abs=5e-4)
    assert krippendorff_alpha(unit, value, annotator, level=level) == pytest.approx(published, abs=5e-4)


def test_alpha_of_krippendorffs_two_observers():
    one, two = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    assert krippendorff_alpha([*range(10)] * 2, one + two) == pytest.approx(0.095, abs=5e-4)


def ordinal_distance(unit, value):
    """Krippendorff's squared ordinal distance, summed rank by rank over the values that can be compared."""
    several = Counter(unit)
    count = Counter(v for u, v in zip(unit, value, strict=True) if several[u] > 1)

    def distance(c, k):
        low, high = sorted((c, k))
        return (sum(count[g] for g in range(low, high + 1)) - (count[c] + count[k]) / 2) ** 2

    return distance


def nltk_alpha(unit, value, annotator, level):
    data = [tuple(map(int, row)) for row in zip(annotator, unit, value, strict=True)]
    distance = ordinal_distance([d[1] for d in data], [d[2] for d in data])
    task = AnnotationTask(data, **({} if level == "nominal" else {"distance": distance}))
    return task.alpha()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("seed", range(4))
def test_alpha_equals_nltk_with_missing_values(level, seed):
    rng = np.random.default_rng(seed)
    table = rng.integers(1, 6, size=(1, 30)) + rng.integers(0, 3, size=(6, 30))
    table[rng.random(table.shape) < 0.5] = 0
    unit, value, annotator = long_form(table)
    expected = nltk_alpha(unit, value, annotator, level)
    assert krippendorff_alpha(unit * 7 - 50, value, annotator, level=level) == pytest.approx(expected, rel=1e-12)


def loop_alpha(rows, level):
    """By loops over votes of two people; several values of one person on one unit share one vote."""
    people, times = defaultdict(set), Counter()
    for unit, _, annotator in rows:
        people[unit].add(annotator)
        times[unit, annotator] += 1
    pairs = Counter()
    for u, c, h in rows:
        for v, k, g in rows:
            if u == v and h != g:
                pairs[c, k] += 1 / times[u, h] / times[v, g] / (len(people[u]) - 1)
    margin = Counter()
    for (c, _), weight in pairs.items():
        margin[c] += weight
    total = sum(margin.values())

    def distance(c, k):
        low, high = sorted((c, k))
        between = sum(weight for g, weight in margin.items() if low <= g <= high)
        return float(c != k) if level == "nominal" else (between - (margin[c] + margin[k]) / 2) ** 2

    if len(margin) < 2:
        return None
    observed = sum(weight * distance(c, k) for (c, k), weight in pairs.items()) / total
    expected = sum(margin[c] * margin[k] * distance(c, k) for c in margin for k in margin)
    return 1 - observed * total * (total - 1) / expected


votes_of_few = st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 1), st.integers(0, 3)), max_size=14)


@settings(max_examples=150, deadline=None)
@given(rows=votes_of_few, level=st.sampled_from(LEVELS), mirrored=st.booleans())
def test_alpha_equals_plain_loops_with_repeated_values(rows, level, mirrored):
    columns = [np.array(column, dtype=int) for column in zip(*rows, strict=True)] or [np.zeros(0, dtype=int)] * 3
    both = rows + [(unit + 10, -value, annotator) for unit, value, annotator in rows] if mirrored else rows
    expected = loop_alpha(both, level)
    found = krippendorff_alpha(*columns, level=level, both_orders=mirrored)
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-10))


@pytest.mark.parametrize("level", LEVELS)
def test_limits_of_alpha(level):
    rng = np.random.default_rng(0)
    unit = np.repeat(np.arange(2000), 5)
    truth = rng.integers(4, size=2000)[unit]
    assert krippendorff_alpha(unit, truth, level=level) == 1.0
    # The standard error is about 1 / sqrt(20,000 pairs); here 4 of them.
    assert krippendorff_alpha(unit, rng.integers(4, size=10_000), level=level) == pytest.approx(0, abs=0.03)
    assert krippendorff_alpha([0, 0, 1, 1], [1, 2, 2, 1], level=level) == pytest.approx(-0.5)


@pytest.mark.parametrize("level", LEVELS)
def test_alpha_knows_no_order_of_rows_and_ordinal_alpha_no_spacing(level):
    unit, value, annotator = long_form(PUBLISHED)
    alpha = krippendorff_alpha(unit, value, annotator, level=level)
    order = np.random.default_rng(0).permutation(len(unit))
    assert krippendorff_alpha(unit[order], value[order], annotator[order], level=level) == pytest.approx(alpha)
    assert krippendorff_alpha(unit, value**3, annotator, level=level) == pytest.approx(alpha)


def test_unknown_annotators_are_different_people():
    unit, value, _ = long_form(PUBLISHED)
    assert krippendorff_alpha(unit, value, np.full(len(unit), -1)) == krippendorff_alpha(unit, value)


@pytest.mark.parametrize(
    ("unit", "value", "annotator"),
    [
        ([], [], []),
        ([0, 1, 2], [1, 2, 1], [0, 0, 0]),
        ([0, 0], [1, 2], [3, 3]),
        ([0, 0, 1, 1], [5, 5, 5, 5], [0, 1, 0, 1]),
    ],
    ids=["empty", "no shared unit", "one person twice", "no variation"],
)
@pytest.mark.parametrize("level", LEVELS)
def test_undefined_alpha_is_none(unit, value, annotator, level):
    assert krippendorff_alpha(unit, value, annotator, level=level) is None
    assert alpha_interval(unit, value, annotator, level=level, replicates=5) is None
    table = annotator_agreement(unit, value, annotator, 4, level=level)
    assert table["alpha"] == [None] * 4


def test_shares_of_thirds_leave_no_speck_of_variation():
    # 49 shares of 1/49 do not add up to 1 exactly; only the value 2 ever meets another person's value.
    unit, value, annotator = [0] * 50 + [1] * 2, [2] * 50 + [5, 6], [0] * 49 + [1] + [0] * 2
    assert krippendorff_alpha(unit, value, annotator) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": [1]}, "value: shape (1,), expected (2,), one per vote"),
        ({"annotator": [1]}, "annotator: shape (1,), expected (2,)"),
        ({"level": "interval"}, "level is 'interval', expected one of nominal, ordinal"),
        ({"value": [1.0, float("nan")]}, "value: float64 of shape (2,), expected whole numbers"),
    ],
)
def test_bad_input_names_the_argument(change, message):
    with pytest.raises(PluralignError) as error:
        krippendorff_alpha(**{"unit": [0, 0], "value": [1, 2], **change})
    assert message in str(error.value)


# ---- interval


def test_interval_covers_and_agrees_with_resampling_by_hand():
    rng = np.random.default_rng(3)
    unit = np.repeat(np.arange(60), 3)
    value = np.where(rng.random(180) < 0.7, rng.integers(3, size=60)[unit], rng.integers(3, size=180))
    by_hand = []
    for _ in range(600):
        drawn = rng.integers(60, size=60)
        places = (drawn[:, None] * 3 + np.arange(3)).ravel()
        by_hand.append(krippendorff_alpha(np.repeat(np.arange(60), 3), value[places], level="ordinal"))
    low, high = alpha_interval(unit, value, level="ordinal", replicates=4000)
    alpha = krippendorff_alpha(unit, value, level="ordinal")
    assert low < alpha < high
    # Quantiles of 600 draws have an error of about a tenth of the interval's width.
    assert [low, high] == pytest.approx(np.quantile(by_hand, [0.025, 0.975]), abs=0.15 * (high - low))


def test_the_two_ways_to_draw_give_one_interval(monkeypatch):
    rng = np.random.default_rng(4)
    unit, value = np.repeat(np.arange(400), 2), rng.integers(2, size=800)
    kinds = alpha_interval(unit, value, replicates=4000)
    monkeypatch.setattr("pluralign.evaluation.annotators.agreement.ALIKE", 10**9)
    singles = alpha_interval(unit, value, replicates=4000)
    assert kinds != singles
    assert kinds == pytest.approx(singles, abs=0.1 * (kinds[1] - kinds[0]))


def test_clusters_widen_the_interval_and_the_seed_fixes_it():
    rng = np.random.default_rng(5)
    unit, value = np.repeat(np.arange(40), 2), rng.integers(2, size=80)
    # Each unit ten times over, as if it were ten: only the cluster knows.
    copies = np.repeat(unit, 10) * 10 + np.tile(np.arange(10), 80)
    many, cluster = np.repeat(value, 10), np.repeat(unit, 10)
    alone, together = alpha_interval(copies, many), alpha_interval(copies, many, cluster=cluster)
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])
    assert alpha_interval(copies, many, cluster=cluster) == together
    # Units of one vote say nothing and are not drawn, wherever they stand.
    lonely = np.arange(30)
    padded = [np.concatenate(two) for two in ((10_000 + lonely, copies), (lonely % 2, many), (1000 + lonely, cluster))]
    assert alpha_interval(padded[0], padded[1], cluster=padded[2]) == together
    assert alpha_interval(unit, value, cluster=np.zeros(80, dtype=int)) is None
    with pytest.raises(PluralignError, match="cluster: shape"):
        alpha_interval(unit, value, cluster=[0])
    with pytest.raises(PluralignError, match="replicates is 0"):
        alpha_interval(unit, value, replicates=0)


# ---- annotators


@pytest.mark.parametrize("seed", range(3))
def test_annotators_equal_plain_loops(seed):
    rng = np.random.default_rng(seed)
    unit, value, annotator = rng.integers(12, size=90), rng.integers(-1, 2, size=90), rng.integers(-1, 7, size=90)
    table = annotator_agreement(unit, value, annotator, 8)
    person = np.where(annotator < 0, 100 + np.arange(90), annotator)
    for h in range(8):
        shared = decided = agreed = 0.0
        for u in range(12):
            mine = value[(unit == u) & (person == h)]
            others = {g: value[(unit == u) & (person == g)] for g in set(person[unit == u]) - {h}}
            if not len(mine) or not others:
                continue
            counts = [round(sum(float(np.mean(v == k)) for v in others.values()), 9) for k in (-1, 0, 1)]
            shared += 1
            if counts.count(max(counts)) == 1:
                decided += 1
                agreed += float(np.mean(mine == counts.index(max(counts)) - 1))
        assert (table["shared"][h], table["decided"][h]) == (shared, decided)
        assert table["agreement"][h] == (pytest.approx(agreed / decided) if decided else None)
    assert table["shared"][7] == 0
    assert table["agreement_low"][7] is None


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("mirrored", [False, True])
def test_alpha_is_the_mean_of_the_annotators_alphas(level, mirrored):
    rng = np.random.default_rng(7)
    unit, value, annotator = rng.integers(40, size=300), rng.integers(-1, 2, size=300), rng.integers(9, size=300)
    table = annotator_agreement(unit, value, annotator, 9, level=level, both_orders=mirrored)
    alpha = krippendorff_alpha(unit, value, annotator, level=level, both_orders=mirrored)
    assert np.average(table["alpha"], weights=table["shared"]) == pytest.approx(alpha, abs=1e-12)


def test_a_random_clicker_stands_out():
    rng = np.random.default_rng(8)
    truth = rng.integers(2, size=400)
    votes = np.stack(
        [np.where(rng.random(400) < 0.9, truth, 1 - truth) for _ in range(5)] + [rng.integers(2, size=400)]
    )
    table = annotator_agreement(np.tile(np.arange(400), 6), votes.ravel(), np.repeat(np.arange(6), 400), 6)
    assert min(table["alpha"][:5]) > 0.5 > abs(table["alpha"][5]) + 0.3
    assert table["agreement_high"][5] < min(table["agreement_low"][:5])


def test_wilson_equals_scipy():
    for good, all_ in ((0, 5), (3, 9), (12, 12), (40, 70)):
        low, high = wilson_interval(np.array([float(good)]), np.array([float(all_)]), 0.9)
        expected = binomtest(good, all_).proportion_ci(0.9, method="wilson")
        assert (low[0], high[0]) == (
            pytest.approx(expected.low, abs=1e-12),
            pytest.approx(expected.high, abs=1e-12),
        )


# ---- pair votes


def global_ids(data):
    """The conftest's ids count within a prompt; make them global, and give the prompt of each."""
    prompts = np.unique(data["prompt"])
    at = np.searchsorted(prompts, data["prompt"])
    response = data["response"] + 9 * np.repeat(at, np.diff(data["offsets"]))
    return response.astype(int), np.repeat(prompts, 9)


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
def test_pair_votes_equal_plain_loops(rankings, seed):
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


@pytest.mark.parametrize("level", LEVELS)
def test_alpha_of_pairs_does_not_depend_on_the_numbering(rankings, level):
    data = rankings(1, judgments=300)
    response, _ = global_ids(data)
    rng = np.random.default_rng(0)
    found = set()
    for renamed in (response, rng.permutation(response.max() + 1)[response]):
        votes = voted_pairs(renamed, data["ranks"], data["offsets"])
        found.add(round(krippendorff_alpha(votes.unit, votes.value, level=level, both_orders=True), 12))
    assert len(found) == 1
    # Chosen listed first and numbered first: the plain alpha sees no variation to agree on, and says so wrongly.
    agreed = voted_pairs(np.tile(np.arange(20), 3), np.tile([1, 2], 30), np.arange(31) * 2)
    assert krippendorff_alpha(agreed.unit, agreed.value) is None
    assert krippendorff_alpha(agreed.unit, agreed.value, both_orders=True, level=level) == 1.0
    # A second voter who agrees four times in five: D_o = 0.2, D_e = 0.18 from the plain values, 0.5 from both orders.
    unit, value = np.repeat(np.arange(10_000), 2), np.tile([-1, -1, -1, -1, -1, -1, -1, -1, -1, 1], 2000)
    assert krippendorff_alpha(unit, value, level=level) == pytest.approx(1 - 0.2 / 0.18, abs=1e-3)
    assert krippendorff_alpha(unit, value, level=level, both_orders=True) == pytest.approx(0.6, abs=1e-3)


def test_no_votes_give_defined_results():
    for response, ranks, offsets in (([], [], [0]), ([5, 6], [0, 0], [0, 2]), ([2], [1], [0, 1])):
        votes = voted_pairs(response, ranks, offsets)
        assert len(votes.unit) == len(votes.first) == 0
        assert krippendorff_alpha(votes.unit, votes.value, both_orders=True) is None
        margins = majority_margins(votes)
        assert (margins.mean, margins.unanimous, margins.tied, margins.counts.sum()) == (None, None, None, 0)
        assert intransitive_triples(votes) == {"triples": 0, "cyclic_triples": 0, "intransitive_triples": 0}
        table = annotator_intransitivity(votes, np.zeros(votes.judgments, dtype=int), 2)
        assert table["intransitive_share"] == [None, None]
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


def test_bad_weights_prompts_and_annotators_are_refused():
    votes = voted_pairs([0, 1], [1, 2], [0, 2])
    with pytest.raises(PluralignError, match="weight: shape"):
        tallies(votes, [1.0, 2.0])
    with pytest.raises(PluralignError, match="weight: expected finite"):
        intransitive_triples(votes, [float("nan")])
    with pytest.raises(PluralignError, match="expected at least"):
        condorcet(votes, [0])
    with pytest.raises(PluralignError, match="prompts 0 and 1"):
        comparison_components(votes, [0, 1])
    with pytest.raises(PluralignError, match="expected less than annotators = 1"):
        annotator_intransitivity(votes, [1], 1)
    with pytest.raises(PluralignError, match="one per judgment"):
        annotator_intransitivity(votes, [0, 0], 1)
    with pytest.raises(PluralignError, match="expected less than annotators = 2"):
        annotator_agreement([0], [1], [2], 2)
    with pytest.raises(PluralignError, match="coverage is 2"):
        annotator_agreement([0], [1], [0], 1, coverage=2)
    with pytest.raises(PluralignError, match="bins is 0"):
        majority_margins(votes, bins=0)


@pytest.mark.parametrize("weighted", [False, True])
def test_margins_equal_plain_loops(rankings, weighted):
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


def test_components_equal_networkx(rankings):
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


# ---- transitivity


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


def test_annotators_triples_equal_each_persons_own(rankings):
    rng = np.random.default_rng(1)
    judgments = 1500
    pairs = (
        np.array([rng.choice(6, size=2, replace=False) for _ in range(judgments)])
        + 6 * rng.integers(3, size=judgments)[:, None]
    )
    ranks = np.array([[1, 2], [2, 1], [1, 1]])[rng.integers(3, size=judgments)]
    annotator = rng.integers(-1, 9, size=judgments)
    offsets = np.arange(judgments + 1) * 2
    votes = voted_pairs(pairs.ravel(), ranks.ravel(), offsets)
    table = annotator_intransitivity(votes, annotator, 10)
    for h in range(10):
        own = annotator == h
        alone = voted_pairs(pairs[own].ravel(), ranks[own].ravel(), offsets[: own.sum() + 1])
        assert tuple(table[key][h] for key in ("triples", "cyclic_triples", "intransitive_triples")) == counted(
            intransitive_triples(alone)
        )
    assert table["triples"][9] == 0
    assert table["intransitive_share"][9] is None
    # A ranking is transitive by its form.
    data = rankings(0)
    response, _ = global_ids(data)
    votes = voted_pairs(response, data["ranks"], data["offsets"])
    table = annotator_intransitivity(votes, np.arange(votes.judgments), votes.judgments)
    assert sum(table["triples"]) > 20
    assert sum(table["intransitive_triples"]) == 0


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


# ---- real data


def test_alpha_of_the_rte_crowd_equals_nltk(shared_data):
    with gzip.open(shared_data / "crowd_labels" / "rte_snow2008_labels.csv.gz", "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    unit = np.array([int(row["orig_id"]) for row in rows])
    annotator = np.unique([row["worker"] for row in rows], return_inverse=True)[1]
    value = np.array([int(row["response"]) for row in rows])
    assert len(rows) == 8000
    alpha = krippendorff_alpha(unit, value, annotator)
    assert alpha == pytest.approx(nltk_alpha(unit, value, annotator, "nominal"), rel=1e-12)
    # Two values: all distances between different ones are equal.
    assert krippendorff_alpha(unit, value, annotator, level="ordinal") == pytest.approx(alpha, rel=1e-12)
    low, high = alpha_interval(unit, value, annotator)
    assert low < alpha < high
    table = annotator_agreement(unit, value, annotator, annotator.max() + 1)
    assert sum(table["shared"]) == 8000
    assert np.average(table["alpha"], weights=table["shared"]) == pytest.approx(alpha, rel=1e-12)


def test_agreement_of_the_argument_crowd(shared_data, tmp_path):
    import_files(
        [shared_data / "convarg_crowd" / "judgments.csv.gz"],
        tmp_path / "all.parquet",
        format="mapping",
        mapping=str(CONVARG),
        on_error="skip",
        rejects=tmp_path / "rejects",
    )
    judgments = read(tmp_path / "all.parquet")
    items = items_of(judgments)
    votes = voted_pairs(items.response, items.ranks, items.offsets)
    assert len(votes.unit) == items.judgments
    alpha = krippendorff_alpha(votes.unit, votes.value, level="ordinal", both_orders=True)
    low, high = alpha_interval(
        votes.unit, votes.value, None, items.item[votes.first][votes.unit], level="ordinal", both_orders=True
    )
    assert 0 < low < alpha < high < 1
    margins = majority_margins(votes, items.weight)
    assert margins.counts.sum() == len(margins.unit) > 1000
    triples = intransitive_triples(votes, items.weight)
    # The collection's authors found its argument graphs close to transitive; a toss of coins gives 0.25.
    assert 0 < triples["cyclic_share"] < 0.05
    found = condorcet(votes, items.item, items.weight)
    assert len(found.prompt) == len(items.prompts)
    assert ((found.top_cycle == 1) == (found.winner >= 0)).all()
    assert comparison_components(votes, items.item).max() >= 0

import collections
import itertools

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import chisquare

from pluralign.core.errors import PluralignError
from pluralign.judgments.population import (
    DEFAULT_TYPES,
    PROMPTS,
    TRAITS,
    Town,
    TypeSpec,
    compose,
    label_thresholds,
    simulate,
    traits,
    utilities,
)

ONE = (TypeSpec("one", 1.0, (0.5, 1.0, -0.7, 0.4, -0.5, 0.8)),)


def row_utilities(town, row, kind, time=0.0):
    return np.array([utilities(town, text, time)[kind] for text in row["responses"]])


def test_composed_traits_are_the_computed_ones_and_answers_are_many_and_short():
    rng = np.random.default_rng(0)
    answers = [compose(PROMPTS[turn % len(PROMPTS)], rng) for turn in range(6000)]
    for answer in answers:
        np.testing.assert_array_equal(answer.traits, traits(answer.text))
    words = [len(answer.text.split()) for answer in answers]
    assert min(words) >= 10
    assert max(words) <= 45
    assert len({answer.text for answer in answers}) > 5000
    # Each of the five marks is a fair coin: within five standard errors of a half.
    np.testing.assert_allclose(np.mean([a.traits[1:] for a in answers], axis=0), 0.5, atol=5 * 0.5 / 6000**0.5)


@pytest.mark.parametrize(
    ("text", "trait"),
    [("Please do.", "courtesy"), ("Room 7.", "number"), ("For example, tea.", "example"),
     ("MAYBE so.", "hedging"), ("Only kidding.", "joke")],
)  # fmt: skip
def test_each_rule_finds_its_trait_alone(text, trait):
    assert [name for name, value in zip(TRAITS, traits(text), strict=True) if value == 1] == [trait]


def test_utility_is_the_product_of_weights_and_traits():
    town = Town(types=(*DEFAULT_TYPES, TypeSpec("late", 1, (0.0,) * 6, (0, 1, 0, 0, 0, 0))))
    text = "Thank you, it takes 5 minutes."
    expected = [np.dot(kind.weights, traits(text)) for kind in town.types]
    np.testing.assert_allclose(utilities(town, text), expected, atol=1e-12)
    assert utilities(town, text, time=0.5)[-1] == 0.5
    assert len(simulate(Town(annotators=1)).utilities(text)) == 3


@pytest.mark.parametrize("noise", [1.0, 2.0])
def test_pairs_follow_the_sigmoid_of_the_difference(noise):
    town = Town(types=ONE, annotators=60, judgments_per_annotator=100, responses=2, overlap=0.0, noise=noise, seed=1)
    gaps, wins = [], []
    for row in simulate(town).judgments.rows():
        first, second = row_utilities(town, row, 0)
        gaps.append((first - second) / noise)
        wins.append(row["ranks"] == [1, 2])
    expected = 1 / (1 + np.exp(-np.array(gaps)))
    bins = np.digitize(gaps, np.quantile(gaps, np.arange(1, 10) / 10))
    # The number of wins in each tenth of the gaps, in standard errors of its expectation.
    z = [
        (np.sum(np.array(wins)[bins == b]) - expected[bins == b].sum())
        / np.sqrt((expected * (1 - expected))[bins == b].sum())
        for b in range(10)
    ]
    assert np.square(z).sum() < 29.6  # the 0.999 quantile of chi-square with ten degrees


def test_triples_follow_plackett_luce():
    town = Town(types=ONE, annotators=3000, judgments_per_annotator=1, overlap=1.0, seed=2)
    judgments = simulate(town).judgments
    utility = row_utilities(town, judgments.row(0), 0)
    orders = list(itertools.permutations(range(3)))
    expected = [softmax(utility)[a] * softmax(utility[[b, c]])[0] for a, b, c in orders]
    counts = collections.Counter(tuple(np.argsort(ranks).tolist()) for ranks in judgments.column("ranks"))
    assert chisquare([counts[order] for order in orders], 3000 * np.array(expected)).pvalue > 1e-3


def test_without_noise_ranks_sort_by_utility():
    town = Town(noise=0.0, responses=4)
    simulation = simulate(town)
    for row in simulation.judgments.rows():
        utility = row_utilities(town, row, simulation.type_index[row["annotator"]]).round(9)
        assert row["ranks"] == [1 + int((utility > own).sum()) for own in utility]


@pytest.mark.parametrize("top", [1, 2])
def test_top_keeps_the_first_ranks_of_the_same_ranking(top):
    whole = simulate(Town(responses=4)).judgments.column("ranks")
    cut = simulate(Town(responses=4, top=top)).judgments.column("ranks")
    assert cut == [[rank if rank <= top else None for rank in ranks] for ranks in whole]


def test_tie_gap_joins_close_ones_and_a_large_one_joins_all():
    assert all(ranks == [1, 1, 1] for ranks in simulate(Town(tie_gap=1e6)).judgments.column("ranks"))
    ranks = simulate(Town(tie_gap=0.5)).judgments.column("ranks")
    tied = np.mean([len(set(found)) < 3 for found in ranks])
    assert 0.1 < tied < 0.9
    assert all(len(set(found)) == 3 for found in simulate(Town()).judgments.column("ranks"))


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_careless_annotators_choose_and_label_uniformly(noise):
    town = Town(annotators=300, careless=1.0, noise=noise, labels="also")
    simulation = simulate(town)
    assert len(simulation.careless) == 300
    first = np.bincount([ranks.index(1) for ranks in simulation.judgments.column("ranks")])
    assert chisquare(first).pvalue > 1e-3
    labels = collections.Counter(label for row in simulation.judgments.column("labels") for label in row)
    assert chisquare([labels[label] for label in "12345"]).pvalue > 1e-3


@pytest.mark.parametrize(
    ("annotators", "expected"), [(60, (30, 18, 12)), (10, (5, 3, 2)), (7, (4, 2, 1)), (1, (1, 0, 0))]
)
def test_shares_are_kept_by_largest_remainder(annotators, expected):
    simulation = simulate(Town(annotators=annotators, judgments_per_annotator=1, careless=0.3))
    counts = collections.Counter(simulation.types.values())
    assert tuple(counts[kind.name] for kind in DEFAULT_TYPES) == expected
    assert len(simulation.careless) == round(0.3 * annotators)
    for row in simulation.judgments.rows():
        assert row["group"] == simulation.types[row["annotator"]]
        assert DEFAULT_TYPES[simulation.type_index[row["annotator"]]].name == row["group"]


@pytest.mark.parametrize(("overlap", "low", "high"), [(0.0, 720, 720), (0.5, 310, 440), (1.0, 12, 12)])
def test_overlap_sets_how_many_choice_sets_there_are(overlap, low, high):
    rows = simulate(Town(overlap=overlap)).judgments.rows()
    assert low <= len({(row["prompt"], *row["responses"]) for row in rows}) <= high


def test_drift_moves_choices_with_time():
    kind = TypeSpec("turning", 1.0, (0, -3.0, 0, 0, 0, 0), drift=(0, 6.0, 0, 0, 0, 0))
    town = Town(types=(kind,), annotators=100, responses=2)
    early, late = [], []
    for row in simulate(town).judgments.rows():
        courtesy = [traits(text)[1] for text in row["responses"]]
        if courtesy[0] != courtesy[1]:
            year = row["time"].timetuple().tm_yday / 365
            side = early if year < 0.25 else late if year > 0.75 else []
            side.append(courtesy[row["ranks"].index(1)])
    # sigmoid(-3) to sigmoid(-1.5) at first, the reverse at the end.
    assert np.mean(early) < 0.2
    assert np.mean(late) > 0.8
    assert simulate(Town(annotators=2)).judgments.column("time") == [None] * 24


@pytest.mark.parametrize("scale", ["1-to-5", "agree-pass-disagree", "binary", "hh-6"])
def test_labels_rise_with_utility_and_are_equally_frequent(scale):
    town = Town(annotators=150, labels="only", label_scale=scale, responses=2)
    simulation = simulate(town)
    judgments = simulation.judgments
    found = judgments.label_scale
    assert judgments.column("ranks") == [None] * len(judgments)
    pairs = collections.defaultdict(list)
    for row in judgments.rows():
        kind = simulation.type_index[row["annotator"]]
        rewards = [found.reward(label) for label in row["labels"]]
        pairs[kind] += zip(row_utilities(town, row, kind), rewards, strict=True)
    # Within a type only: each type has thresholds of its own, so labels of two types are on two scales.
    for kind in range(3):
        by_utility = np.array(sorted(pairs[kind]))
        by_fifth = [part[:, 1].mean() for part in np.array_split(by_utility, 5)]
        assert by_fifth == sorted(by_fifth)
    counts = collections.Counter(label for labels in judgments.column("labels") for label in labels)
    share = np.array([counts[label] for label in found.labels]) / counts.total()
    np.testing.assert_allclose(share, 1 / len(found.labels), atol=0.04)  # thresholds and judgments are samples
    assert label_thresholds(town).shape == (3, len(found.labels) - 1)


def test_labels_beside_ranks_agree_with_them():
    for row in simulate(Town(labels="also")).judgments.rows():
        by_rank = [int(row["labels"][place]) for place in np.argsort(row["ranks"])]
        assert by_rank == sorted(by_rank, reverse=True)


def test_the_same_seed_gives_the_same_judgments_and_noise_leaves_the_choice_sets():
    first = simulate(Town()).judgments
    assert first.fingerprint == simulate(Town()).judgments.fingerprint
    assert first.fingerprint != simulate(Town(seed=1)).judgments.fingerprint
    quiet = simulate(Town(noise=0.0, labels="also")).judgments
    assert quiet.column("responses") == first.column("responses")
    assert quiet.column("group") == first.column("group")


@pytest.mark.parametrize("responses", [1, 2, 6])
def test_responses_differ_within_a_judgment(responses):
    for row in simulate(Town(responses=responses, annotators=20)).judgments.rows():
        assert len(set(row["responses"])) == responses


@pytest.mark.parametrize(
    ("field", "value"),
    [("annotators", 0), ("responses", 0), ("top", 4), ("overlap", 1.5), ("noise", -1.0), ("noise", float("nan")),
     ("careless", 2), ("tie_gap", -1), ("labels", "yes"), ("types", ()), ("types", ONE + ONE), ("seed", -1),
     ("judgments_per_annotator", 0)],
)  # fmt: skip
def test_values_out_of_range_are_named(field, value):
    with pytest.raises(PluralignError, match=f"town, {field}: found .* expected"):
        Town(**{field: value})


def test_types_are_checked():
    with pytest.raises(PluralignError, match=r"type 'a', weights: .* 6 finite numbers"):
        TypeSpec("a", 1, (1.0,))
    with pytest.raises(PluralignError, match="type 'a', drift"):
        TypeSpec("a", 1, (1.0,) * 6, (float("inf"),) * 6)
    with pytest.raises(PluralignError, match="type 'a', share"):
        TypeSpec("a", 0, (1.0,) * 6)

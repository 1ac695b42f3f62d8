"""Krippendorff's alpha against published numbers, NLTK and plain loops; its interval against resampling by hand."""

import csv
import gzip
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.metrics.agreement import AnnotationTask

from pluralign.core.errors import PluralignError
from pluralign.evaluation.annotators.agreement import (
    alpha_interval,
    alphas_of,
    coincidences,
    comparable,
    krippendorff_alpha,
    vote_influences,
)
from pluralign.evaluation.annotators.peers import annotator_agreement
from pluralign.evaluation.annotators.transitivity import condorcet, intransitive_triples
from pluralign.evaluation.annotators.voted_pairs import comparison_components, majority_margins, voted_pairs
from pluralign.judgments import read
from pluralign.scoring.items import items_of
from pluralign.workflows.importing import import_files

LEVELS = ("nominal", "ordinal")
CONVARG = Path(__file__).parents[3] / "examples" / "mappings" / "convarg.yaml"

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
    assert krippendorff_alpha(unit * 7 - 50, value, annotator, level=level) == pytest.approx(
        expected, rel=1e-12, abs=1e-12
    )


def loop_alpha(rows, level):
    """By loops over votes of two annotators; several values of one annotator on one unit share one vote."""
    judges, times = defaultdict(set), Counter()
    for unit, _, annotator in rows:
        judges[unit].add(annotator)
        times[unit, annotator] += 1
    pairs = Counter()
    for u, c, h in rows:
        for v, k, g in rows:
            if u == v and h != g:
                pairs[c, k] += 1 / times[u, h] / times[v, g] / (len(judges[u]) - 1)
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


def test_unknown_annotators_are_different():
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
    ids=["empty", "no shared unit", "one annotator twice", "no variation"],
)
@pytest.mark.parametrize("level", LEVELS)
def test_undefined_alpha_is_none(unit, value, annotator, level):
    assert krippendorff_alpha(unit, value, annotator, level=level) is None
    assert alpha_interval(unit, value, annotator, level=level, replicates=5) is None
    table = annotator_agreement(unit, value, annotator, 4, level=level)
    assert table["alpha"] == [None] * 4


def test_shares_of_thirds_leave_no_speck_of_variation():
    # 49 shares of 1/49 do not add up to 1 exactly; only the value 2 ever meets another annotator's value.
    unit, value, annotator = [0] * 50 + [1] * 2, [2] * 50 + [5, 6], [0] * 49 + [1] + [0] * 2
    assert krippendorff_alpha(unit, value, annotator) is None


@pytest.mark.parametrize("level", LEVELS)
def test_alpha_of_pairs_does_not_depend_on_the_numbering(rankings, global_ids, level):
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


# The interval.


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
    with pytest.raises(PluralignError, match="replicates is -1"):
        alpha_interval(unit, value, replicates=-1)


def crowd(rng, units=30, annotators=12, spread=1.0):
    """Each annotator's label on each unit, from the unit's and the annotator's own leaning."""
    unit, annotator = (part.ravel() for part in np.divmod(np.arange(units * annotators), annotators))
    leaning = rng.normal(size=units)[unit] + spread * rng.normal(size=annotators)[annotator]
    return unit, (leaning + rng.logistic(scale=0.5, size=len(unit)) > 0).astype(int), annotator


@pytest.mark.parametrize("both_orders", [False, True])
@pytest.mark.parametrize("level", LEVELS)
def test_influences_add_up_to_those_of_the_units(level, both_orders):
    """Against alpha with the coincidences of one unit weighed a little more."""
    rng = np.random.default_rng(6)
    unit, value, annotator = rng.integers(9, size=120), rng.integers(-1, 2, size=120), rng.integers(7, size=120)
    votes = comparable(unit, value, annotator, level, both_orders)
    by_unit = np.bincount(votes.unit, weights=vote_influences(votes, level))
    tables = coincidences(votes, votes.unit, 9)
    for u in range(9):
        more, less = (np.tensordot(1 + sign * 1e-5 * (np.arange(9) == u), tables, 1) for sign in (1, -1))
        slope = (alphas_of(more[None], more, level)[0] - alphas_of(less[None], less, level)[0]) / 2e-5
        assert by_unit[u] == pytest.approx(slope, abs=1e-4)


def test_the_influence_of_an_annotator_is_the_change_of_alpha_without_them():
    rng = np.random.default_rng(8)
    unit, value, annotator = crowd(rng, 60, 40)
    votes = comparable(unit, value, annotator, "nominal", False)
    influence = np.bincount(annotator[votes.row], weights=vote_influences(votes, "nominal"))
    alpha = krippendorff_alpha(unit, value, annotator)
    kept = [annotator != name for name in range(40)]
    change = [alpha - krippendorff_alpha(unit[rest], value[rest], annotator[rest]) for rest in kept]
    assert influence == pytest.approx(np.array(change), abs=0.1 * np.abs(change).max())


def test_intervals_over_units_and_annotators_cover_alpha():
    rng = np.random.default_rng(7)
    truth = np.mean([krippendorff_alpha(*crowd(rng, 400, 200)) for _ in range(10)])
    covered = np.zeros(2)
    for _ in range(100):
        data = crowd(rng)
        both = alpha_interval(*data, replicates=200)
        alone = alpha_interval(*data[:2], replicates=200)
        covered += [low <= truth <= high for low, high in (both, alone)]
    assert 88 <= covered[0] <= 99
    assert covered[1] < covered[0] - 5


# Real data.


def test_alpha_of_the_rte_crowd_equals_nltk(shared_data):
    with gzip.open(shared_data / "crowd_labels" / "rte_snow2008_labels.csv.gz", "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    unit = np.array([int(row["orig_id"]) for row in rows])
    annotator = np.unique([row["worker"] for row in rows], return_inverse=True)[1]
    value = np.array([int(row["response"]) for row in rows])
    assert len(rows) == 8000
    alpha = krippendorff_alpha(unit, value, annotator)
    assert alpha == pytest.approx(nltk_alpha(unit, value, annotator, "nominal"), rel=1e-12, abs=1e-12)
    # Two values: all distances between different ones are equal.
    assert krippendorff_alpha(unit, value, annotator, level="ordinal") == pytest.approx(alpha, rel=1e-12, abs=1e-12)
    low, high = alpha_interval(unit, value, annotator)
    assert low < alpha < high
    table = annotator_agreement(unit, value, annotator, annotator.max() + 1)
    assert sum(table["shared"]) == 8000
    assert np.average(table["alpha"], weights=table["shared"]) == pytest.approx(alpha, rel=1e-12, abs=1e-12)


def test_agreement_of_the_argument_crowd(shared_data, tmp_path):
    import_files(
        [shared_data / "convarg_crowd" / "judgments.csv.gz"],
        tmp_path / "all.parquet",
        format="mapping",
        mapping=str(CONVARG),
        on_error="skip",
        rejects=tmp_path / "rejects.jsonl",
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

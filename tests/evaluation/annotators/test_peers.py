"""Each annotator's agreement with the others, against plain loops and scipy."""

import numpy as np
import pytest
from scipy.stats import binomtest

from pluralign.core.errors import PluralignError
from pluralign.evaluation.annotators.agreement import krippendorff_alpha
from pluralign.evaluation.annotators.peers import annotator_agreement, wilson_interval


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


@pytest.mark.parametrize("level", ["nominal", "ordinal"])
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


def test_bad_annotators_and_coverages_are_refused():
    with pytest.raises(PluralignError, match="expected less than annotators = 2"):
        annotator_agreement([0], [1], [2], 2)
    with pytest.raises(PluralignError, match="coverage is 2"):
        annotator_agreement([0], [1], [0], 1, coverage=2)

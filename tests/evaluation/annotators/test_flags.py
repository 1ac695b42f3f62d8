"""Straight-liners and copies: planted ones are flagged, honest annotators are not."""

import numpy as np
import pytest
from scipy.stats import binom

from pluralign.core.errors import PluralignError
from pluralign.evaluation.annotators.flags import near_copies, straight_liners
from simulated_panels import simulated_panel

TOWNS = 40


def ranked_set(panel):
    """The judged sets of responses as units, and the orders given to them as values."""
    shown = np.sort(panel.response_ids, 1)
    orders = np.take_along_axis(panel.rank_values, np.argsort(panel.response_ids, 1), 1)
    unit, value = (np.unique(rows, axis=0, return_inverse=True)[1] for rows in (shown, orders))
    return unit, value


def town(seed, **settings):
    beta = np.random.default_rng(seed).normal(size=(3, 7)) * 2
    return simulated_panel(beta, worths=True, seed=seed, **settings)


def test_the_p_value_is_that_of_the_binomial():
    rng = np.random.default_rng(0)
    places, annotator = rng.integers(3, size=(40, 20)), np.repeat(np.arange(40), 20)
    places[3] = 2
    p = straight_liners(places.ravel(), np.full(800, 3), annotator, 40)
    others = np.mean(np.delete(places, 3, 0) == 2)
    votes = 39 * 20
    chance = max((others * votes + others) / (votes + 1), 1 / 3)
    assert p[3] == pytest.approx(3 * binom.sf(19, 20, chance))
    assert p[3] < 0.05 / 40
    assert (np.delete(p, 3) == 1).all()


def test_a_straight_liner_needs_eight_judgments():
    place, annotator = [0] * 7 + [1] * 8 + [0, 1] * 20, [0] * 7 + [1] * 8 + [2] * 40
    p = straight_liners(place, [5] * 55, annotator, 4)
    assert np.isnan(p[[0, 3]]).all()
    assert p[1] < 1e-2
    assert p[2] == 1


def test_nobody_stands_out_where_everyone_chooses_the_first_place():
    place, annotator = np.zeros(600, dtype=int), np.repeat(np.arange(30), 20)
    assert straight_liners(place, np.full(600, 2), annotator, 30).min() > 0.5


def test_agreeing_with_everyone_is_no_straight_line():
    rng = np.random.default_rng(1)
    popular = rng.random((20, 30)) < 0.98  # 30 statements that nearly all agree with, 20 annotators
    split = rng.random((20, 30)) < 0.5
    place = np.concatenate((popular, split), 1).astype(int)
    place[0, 30:] = -1  # the first annotator saw the popular ones only
    unit = np.tile(np.arange(60), 20)
    p = straight_liners(place.ravel(), np.full(1200, 2), np.repeat(np.arange(20), 60), 20, unit=unit)
    assert p.min() > 0.05
    place[1] = 1  # always agrees, also where others are divided
    p = straight_liners(place.ravel(), np.full(1200, 2), np.repeat(np.arange(20), 60), 20, unit=unit)
    assert p.argmin() == 1
    assert p[1] < 0.05 / 20


def test_few_honest_towns_have_a_straight_liner():
    flagged = 0
    for seed in range(TOWNS):
        panel, _ = town(seed, annotators=60, judgments=12)
        first = panel.rank_values.argmin(1)
        p = straight_liners(first, np.full(len(first), 3), panel.annotator_ids, 60)
        flagged += bool((p < 0.05 / 60).any())
    assert flagged <= 0.05 * TOWNS


@pytest.mark.parametrize("named", [True, False])
def test_few_honest_towns_have_a_copy(named):
    """Three kinds with strong tastes: annotators of a kind agree on most of what they share."""
    flagged = 0
    for seed in range(TOWNS):
        panel, kind = town(seed, annotators=60, judgments=80)
        unit, value = ranked_set(panel)
        copies = near_copies(unit, value, panel.annotator_ids, 60, group=kind if named else None)
        assert copies.tested > 1000
        flagged += bool(len(copies.first))
    assert flagged <= 0.05 * TOWNS


def test_a_copy_is_found_among_honest_annotators():
    found = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        panel, kind = town(seed, annotators=40, judgments=80)
        unit, value = ranked_set(panel)
        annotator = panel.annotator_ids
        # Annotator 40 repeats the judgments of annotator 5, but for one in twenty.
        copied = np.flatnonzero(annotator == 5)
        given = np.where(rng.random(len(copied)) < 0.05, rng.integers(value.max() + 1, size=len(copied)), value[copied])
        copies = near_copies(
            np.append(unit, unit[copied]), np.append(value, given), np.append(annotator, np.full(len(copied), 40)), 41,
            group=np.append(kind, kind[5]),
        )  # fmt: skip
        pairs = set(zip(copies.first.tolist(), copies.second.tolist(), strict=True))
        found += (5, 40) in pairs
        assert len(pairs) <= 1
    assert found >= 5


def test_pairs_with_few_shared_units_are_not_tested():
    copies = near_copies(np.tile(np.arange(9), 2), np.zeros(18, dtype=int), np.repeat([0, 1], 9), 2)
    assert copies.tested == 0
    assert len(copies.first) == 0
    assert near_copies([], [], [], 0).tested == 0


def test_numbers_of_copies_are_counts():
    rng = np.random.default_rng(0)
    values = rng.integers(4, size=(12, 25))
    values[7] = values[2]
    values[7, 0] = (values[2, 0] + 1) % 4
    copies = near_copies(np.tile(np.arange(25), 12), values.ravel(), np.repeat(np.arange(12), 25), 12)
    assert (copies.first.tolist(), copies.second.tolist()) == ([2], [7])
    assert (copies.shared.tolist(), copies.agreed.tolist()) == ([25], [24])


def test_the_order_of_the_votes_does_not_matter():
    rng = np.random.default_rng(0)
    values = rng.integers(3, size=(15, 30))
    values[9] = values[0]
    unit, annotator = np.tile(np.arange(30), 15), np.repeat(np.arange(15), 30)
    order = rng.permutation(450)
    one = near_copies(unit, values.ravel(), annotator, 15)
    other = near_copies(unit[order], values.ravel()[order], annotator[order], 15)
    assert one.p_value == pytest.approx(other.p_value)
    assert one.first.tolist() == other.first.tolist() == [0]


def test_bad_arguments_are_named():
    with pytest.raises(PluralignError, match="annotator"):
        straight_liners([0], [2], [3], 3)
    with pytest.raises(PluralignError, match="value"):
        near_copies([0, 1], [0], [0, 1], 2)

"""The E-step in stages: plain sums where nothing is given up, held odds where something is, and what is computed."""

import numpy as np
import pytest

from pluralign.choice.em_dpo import places_within
from pluralign.judgments import Judgments
from pluralign.scoring.items import items_of
from pluralign.training.em_dpo.e_step import EStep, TypeUtilities


def log_sum(values):
    return np.logaddexp.reduce(values)


def scored(annotator, told, prior, drop_below, rows=None, seed=0):
    """An E-step over judgments whose log-likelihoods are known, and how many were asked of each stage and type."""
    step = EStep(annotator, prior, drop_below)
    rows = np.arange(len(annotator)) if rows is None else rows
    asked = []
    for stage in step.stages(rows, places_within(annotator[rows], np.random.default_rng(seed))):
        for kind in range(told.shape[1]):
            mine = step.asked(stage, kind)
            asked.append((stage, kind, mine))
            step.add(mine, kind, told[mine, kind])
        step.settle()
    return step, asked


def people(seed, annotators=7, judgments=80, types=3, scale=2.0):
    draw = np.random.default_rng(seed)
    prior = np.log(draw.dirichlet(np.ones(types)))
    return draw.integers(annotators, size=judgments), -scale * draw.random((judgments, types)), prior


@pytest.mark.parametrize("shared", [True, False])
def test_without_giving_up_it_is_plain_sums(shared):
    annotator, told, prior = people(0)
    own = prior if shared else np.random.default_rng(1).normal(size=(7, 3)) * 9
    step, asked = scored(annotator, told, own, 0.0)
    expected = np.array([told[annotator == person].sum(0) for person in range(7)])
    np.testing.assert_allclose(step.log_likelihood, expected, rtol=1e-12)
    assert step.live.all()
    assert step.scored.tolist() == [80] * 3
    assert all(np.array_equal(stage, mine) for stage, _, mine in asked)


def test_who_is_not_scored_stays_untouched():
    annotator, told, prior = people(0)
    rows = np.flatnonzero(annotator != 4)
    step, _ = scored(annotator, told, prior, 0.01, rows)
    assert step.touched.tolist() == [True] * 4 + [False] + [True] * 2
    np.testing.assert_array_equal(step.log_likelihood[4], 0)
    assert step.log_likelihood[step.touched].all()


def test_stages_double_and_hold_every_judgment_once():
    annotator = np.repeat([0, 1, 2], [21, 3, 1])
    step = EStep(annotator, np.log([0.5, 0.5]), 0.01)
    rows = np.random.default_rng(0).permutation(25)
    stages = list(step.stages(rows, places_within(annotator[rows], np.random.default_rng(1))))
    assert sorted(np.concatenate(stages).tolist()) == list(range(25))
    assert [np.bincount(annotator[stage], minlength=3).tolist() for stage in stages] == [
        [2, 2, 1], [2, 1, 0], [4, 0, 0], [8, 0, 0], [5, 0, 0]
    ]  # fmt: skip
    assert not list(EStep(annotator, np.log([0.5, 0.5]), 0.01).stages(np.array([], int), np.array([], int)))


@pytest.mark.parametrize("seed", range(5))
def test_a_type_that_is_given_up_keeps_its_odds(seed):
    """Annotator by annotator, by loops: odds against the types that are left, as they were when it was given up."""
    annotator, told, prior = people(seed, annotators=4, judgments=60, types=4, scale=6.0)
    step, asked = scored(annotator, told, prior, 0.05, seed=seed)
    stages = [stage for stage, kind, _ in asked if kind == 0]
    given_up = 0
    for person in range(4):
        live, sums, leavings = [0, 1, 2, 3], prior.copy(), []
        for stage in stages:
            mine = stage[annotator[stage] == person]
            for kind in live:
                sums[kind] += told[mine, kind].sum()
            total = log_sum([sums[kind] for kind in live])
            gone = {kind: sums[kind] for kind in live if sums[kind] - total < np.log(0.05)}
            live = [kind for kind in live if kind not in gone]
            if gone:
                left = log_sum([sums[kind] for kind in live])
                leavings.append((live, {kind: value - left for kind, value in gone.items()}))
        given_up += 4 - len(live)
        assert np.flatnonzero(step.live[person]).tolist() == live
        expected = {kind: sums[kind] for kind in live}
        for others, odds in leavings[::-1]:  # what was left then may have been given up since, at its own odds
            total = log_sum([expected[kind] for kind in others])
            expected |= {kind: total + value for kind, value in odds.items()}
        np.testing.assert_allclose(step.log_likelihood[person] + prior, [expected[k] for k in range(4)], rtol=1e-10)
    assert given_up > 2


def test_what_was_given_up_is_asked_no_more():
    annotator, told = np.zeros(12, int), np.tile([-0.1, -3.0], (12, 1))
    step, asked = scored(annotator, told, np.log([0.5, 0.5]), 0.01)
    assert [len(mine) for _, kind, mine in asked if kind == 1] == [2, 0, 0, 0]
    assert step.scored.tolist() == [12, 2]
    strict, _ = scored(annotator, told, np.log([0.5, 0.5]), 1e-9)
    assert strict.scored.tolist() == [12, 8], "0.1^2 ... until the odds are under 1e-9"
    assert step.log_likelihood[0, 1] - step.log_likelihood[0, 0] == pytest.approx(-5.8)


def test_each_value_is_computed_once_when_it_is_first_needed():
    """A crowd on few texts: u_k of every text that is asked for, whoever asks."""
    texts = [f"answer {number}" for number in range(6)]
    rows = [
        {"prompt": "Tea?", "responses": texts[start : start + 3], "ranks": [1, 2, 3], "annotator": f"w{person}"}
        for person in range(20)
        for start in (0, 3)
    ]
    items = items_of(Judgments.from_rows(rows))
    reference, calls = -np.arange(6.0), []

    def compute(kind, responses):
        calls.extend((kind, response) for response in responses.tolist())
        found = np.full(6, np.nan)  # right only for those asked for
        found[responses] = 10.0 * kind + responses
        return found

    values = TypeUtilities(2, 0.5, reference, compute)
    first = np.flatnonzero(items.response[items.offsets[:-1]] == 0)
    for judgments in (first[:1], first, np.arange(items.judgments), np.arange(items.judgments)):
        for kind in (0, 1):
            found = values.of(kind, items, judgments)
            shown = np.unique(np.concatenate([items.response[items.shown(one)] for one in judgments]))
            np.testing.assert_allclose(found[shown], 0.5 * (10.0 * kind + shown - reference[shown]))
    assert sorted(calls) == [(kind, response) for kind in (0, 1) for response in range(6)]
    assert values.count == 12
    assert calls[:6] == [(kind, response) for kind in (0, 1) for response in range(3)]

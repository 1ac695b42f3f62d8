"""Annotators between the types: the posterior over convex combinations against quadrature, and held-out predictions."""

import numpy as np
import pytest
from scipy.special import expit

from pluralign.judgments import Judgments
from pluralign.scoring.continuous_types import ContinuousTypes
from pluralign.scoring.items import items_of
from pluralign.scoring.mixtures import Mixture, ranking_log_likelihoods

TWO = Mixture({"a": 0.5, "b": 0.5})


def judged(weights, each, seed=0):
    """Pairs of new texts with utilities (u, -u) scaled, judged by each annotator's convex combination."""
    draw = np.random.default_rng(seed)
    rows, utilities = [], []
    for person, weight in enumerate(weights):
        for turn in range(each):
            own = 2.5 * draw.normal(size=(2, 2))  # (types, responses)
            gap = np.array([weight, 1 - weight]) @ (own[:, 0] - own[:, 1])
            first = draw.random() < expit(gap)
            rows.append(
                {"prompt": "Tea?", "responses": [f"{person} {turn} {one}" for one in "ab"]}
                | {"ranks": [1, 2] if first else [2, 1], "annotator": f"w{person}"}
            )
            utilities.append(own)
    items = items_of(Judgments.from_rows(rows))
    place = {text: number for number, text in enumerate(text for row in rows for text in row["responses"])}
    order = [place[text] for text in items.responses]
    return items, np.concatenate(utilities, 1)[:, order], np.repeat(np.arange(len(weights)), each)


@pytest.mark.parametrize("prior", [[0.5, 0.5], [0.8, 0.2]])
def test_the_posterior_mean_is_that_of_quadrature(prior):
    items, utilities, whose = judged([1.0, 0.5, 0.0], 6)
    items.weight[:3] = 2.0
    found = ContinuousTypes(utilities, items, TWO, whose, 4, prior, points=60_000).weights()
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(found[3], prior, rtol=1e-12)
    grid = (np.arange(20_000) + 0.5) / 20_000
    density = grid ** (2 * prior[0] - 1) * (1 - grid) ** (2 * prior[1] - 1)
    for person in range(3):
        likelihood = density.copy()
        for judgment in np.flatnonzero(whose == person):
            shown = items.shown(judgment)
            gaps = utilities[:, items.response[shown]] @ np.array([1.0, -1.0])
            sign = 1.0 if items.ranks[shown][0] == 1 else -1.0
            likelihood *= expit(sign * (grid * gaps[0] + (1 - grid) * gaps[1])) ** items.weight[judgment]
        assert found[person, 0] == pytest.approx((grid @ likelihood) / likelihood.sum(), abs=0.01)


def test_a_corner_of_the_simplex_is_a_type():
    items, utilities, whose = judged([0.5] * 4, 3)
    types = ContinuousTypes(utilities, items, TWO, whose, 4, [0.5, 0.5], points=64)
    expected = ranking_log_likelihoods(utilities, items, TWO)
    np.testing.assert_array_equal(np.concatenate([*types._found(np.eye(2))], 1), expected)


def test_people_in_between_are_predicted_better_by_continuous_weights_and_pure_types_are_not():
    between, pure = judged([0.5] * 40, 16), judged([1.0, 0.0] * 20, 16)
    found = []
    for items, utilities, whose in (between, pure):
        compared = ContinuousTypes(utilities, items, TWO, whose, 40, [0.5, 0.5]).comparison()
        assert compared.judgments == 640
        assert compared.gain == pytest.approx(compared.hard - compared.continuous)
        found.append(compared)
    assert found[0].gain > 2 * found[0].error
    assert "better than hard types" in found[0].sentence
    assert found[1].gain < found[1].error
    assert found[1].hard < 0.6 < np.log(2)


def test_nobody_is_predicted_from_nothing():
    items, utilities, whose = judged([0.5] * 5, 1)
    assert ContinuousTypes(utilities, items, TWO, whose, 5, [0.5, 0.5]).comparison() is None

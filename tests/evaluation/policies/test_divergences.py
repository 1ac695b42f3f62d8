"""Divergences of preference matching: their limits, textbook sums and figures by hand."""

import itertools
import math

import numpy as np
import pytest
from scipy.special import expit, softmax

from pluralign.evaluation.policies.divergences import (
    bernoulli_gap,
    bernoulli_js,
    bernoulli_kl,
    list_divergences,
    minority_mass,
)


def test_kl_grows_by_the_log_odds_and_js_stops_at_ln_2():
    a = np.linspace(-3, 3, 13)
    far = np.array([50.0, 100.0, 200.0, 1e4])
    for margin in a:
        kl = bernoulli_kl(np.full(4, margin), far)
        # Each further nat of log-odds costs the probability of the other answer.
        assert np.diff(kl) / np.diff(far) == pytest.approx(expit(-margin))
        assert (bernoulli_js(np.full(4, margin), far) <= math.log(2)).all()
    assert bernoulli_js(np.array([1e4]), np.array([-1e4])) == pytest.approx(math.log(2))
    assert bernoulli_gap(np.array([1e4]), np.array([-1e4])) == pytest.approx(1)


def test_pair_forms_are_list_forms_of_two_and_textbook_sums():
    draw = np.random.default_rng(3)
    a, b = draw.normal(size=(2, 200)) * 4
    p, q = expit(a), expit(b)
    kl, js, tv = list_divergences(np.stack([a, 0 * a], 1), np.stack([b, 0 * b], 1))
    for found, listed, plain in (
        (bernoulli_kl(a, b), kl, p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))),
        (bernoulli_gap(a, b), tv, np.abs(p - q)),
    ):
        # The plain sums lose digits where a probability is next to 1.
        np.testing.assert_allclose(found, plain, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(found, listed, rtol=1e-9, atol=1e-12)
    middle = (p + q) / 2
    plain = sum(x * np.log(x / m) / 2 for x, m in ((p, middle), (q, middle), (1 - p, 1 - middle), (1 - q, 1 - middle)))
    np.testing.assert_allclose(bernoulli_js(a, b), plain, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(bernoulli_js(a, b), js, rtol=1e-9, atol=1e-12)


def test_minority_mass_by_hand():
    rewards = np.log([[0.5, 0.3, 0.2], [0.6, 0.2, 0.2]])
    policy = np.log([[0.85, 0.05, 0.1], [0.2, 0.7, 0.1]])
    kept, held = minority_mass(rewards, policy)
    np.testing.assert_allclose(kept, [0.05 + 0.1, 0.2 + 0.1], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(held, [0.5, 0.4], rtol=1e-9, atol=1e-12)


def test_a_tie_for_the_best_response_does_not_depend_on_the_order():
    tied, policy = np.log([0.4, 0.4, 0.2]), np.log([0.7, 0.2, 0.1])
    found = [minority_mass(tied[list(order)], policy[list(order)]) for order in itertools.permutations(range(3))]
    # Either of the two best may be the one left out: kept is .1 + (.4 + .2) / 2.
    np.testing.assert_allclose(found, [[0.4, 0.6]] * 6, rtol=1e-9, atol=1e-12)


def test_lists_are_compared_after_their_softmax():
    draw = np.random.default_rng(0)
    rewards, log_probs = draw.normal(size=4) * 2, draw.normal(size=4) * 5 - 30
    p, q = softmax(rewards), softmax(log_probs)
    kl, _, tv = list_divergences(rewards, log_probs)
    np.testing.assert_allclose([kl, tv], [(p * np.log(p / q)).sum(), np.abs(p - q).sum() / 2], rtol=1e-9, atol=1e-12)

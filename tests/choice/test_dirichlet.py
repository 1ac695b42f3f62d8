"""The crowd's posterior: order of votes, betas against scipy, fading, smoothing by hand."""

import numpy as np
import pytest
from scipy import stats

from pluralign.choice.dirichlet import (
    credible_interval,
    faded,
    marginals,
    posterior_mean,
    prior_state,
    smoothed,
    total_variation,
)
from pluralign.judgments.scales import BUILT_IN_SCALES

HH6 = np.array(BUILT_IN_SCALES["hh-6"].rewards)


@pytest.fixture
def draw():
    return np.random.default_rng(0)


def test_the_prior_is_scaled_floored_and_keeps_its_strength():
    found = prior_state([[2.0, 2.0, 0.0], [1.0, 1.0, 1.0]], 6.0)
    np.testing.assert_allclose(found.sum(1), 6.0, rtol=1e-15)
    np.testing.assert_allclose(found[1], 2.0)
    # 0.5, 0.5 and the floor 0.001 have the sum 1.001.
    np.testing.assert_allclose(found[0], 6 * np.array([0.5, 0.5, 0.001]) / 1.001)


def test_the_mean_is_a_weighted_mean_of_prior_and_votes(draw):
    prior, counts = draw.dirichlet(np.ones(6), 20), draw.integers(0, 9, (20, 6)).astype(float)
    found = posterior_mean(prior_state(prior, 4.0, floor=0.0), counts)
    n = counts.sum(1, keepdims=True)
    shares = np.divide(counts, n, out=np.zeros_like(counts), where=n > 0)
    np.testing.assert_allclose(found, (4 * prior + n * shares) / (4 + n), rtol=1e-14)


def test_updates_in_any_order_and_chunking_agree(draw):
    start = prior_state(draw.dirichlet(np.ones(5)), 5.0)
    votes = np.eye(5)[draw.integers(0, 5, 60)] * draw.uniform(0.1, 2, (60, 1))
    whole = posterior_mean(start, votes.sum(0))
    for _ in range(5):
        state = start
        for chunk in np.split(draw.permutation(votes), sorted(draw.integers(0, 60, 6))):
            state = state + chunk.sum(0)
        np.testing.assert_allclose(posterior_mean(state), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_marginals_are_the_betas_of_scipy(level, draw):
    a, c = draw.uniform(0.01, 3, (50, 6)), draw.integers(0, 1000, (50, 6))
    one, others = marginals(a + c)
    a0, n = a.sum(1, keepdims=True), c.sum(1, keepdims=True)
    np.testing.assert_allclose(one, a + c)
    np.testing.assert_allclose(others, a0 - a + n - c, rtol=1e-12)
    low, high = credible_interval(a + c, level)
    beta = stats.beta(a + c, a0 - a + n - c)
    np.testing.assert_allclose(low, beta.ppf((1 - level) / 2), rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose(high, beta.ppf((1 + level) / 2), rtol=1e-9)
    np.testing.assert_allclose(beta.cdf(high) - beta.cdf(low), level, rtol=1e-9)


def test_a_huge_majority_keeps_the_others_beta():
    """Subtracting from the total would leave 1e9 + 0.1 - 1e9 with seven digits."""
    _, others = marginals([1e9, 0.1])
    assert others[0] == 0.1


def test_two_labels_are_beta_bernoulli(draw):
    """Beta(kappa q, kappa (1 - q)) and k of n successes: the textbook's posterior."""
    q, k, n = 0.3, 7, 10
    state = prior_state([q, 1 - q], 4.0) + np.array([k, n - k])
    posterior = stats.beta(4 * q + k, 4 * (1 - q) + n - k)
    assert posterior_mean(state)[0] == pytest.approx(posterior.mean(), rel=1e-14)
    low, high = credible_interval(state)
    np.testing.assert_allclose([low[0], high[0]], posterior.interval(0.95), rtol=1e-10)
    np.testing.assert_allclose([1 - high[1], 1 - low[1]], [low[0], high[0]], rtol=1e-10)


def test_old_votes_fade_and_the_prior_stays(draw):
    start = prior_state(draw.dirichlet(np.ones(4), 3), 4.0)
    state = start + draw.integers(0, 9, (3, 4))
    np.testing.assert_allclose(faded(state, start, 0.7, 0), state)
    np.testing.assert_allclose(faded(state, start, 1.0, 5), state)
    np.testing.assert_allclose(faded(state, start, 0.0, 1), start)
    twice = faded(faded(state, start, 0.7), start, 0.7)
    np.testing.assert_allclose(twice, faded(state, start, 0.7, 2), rtol=1e-14)
    np.testing.assert_allclose(twice, start + 0.49 * (state - start), rtol=1e-14)
    each = faded(state, start, 0.7, [0, 1, 2])
    np.testing.assert_allclose(each[2], twice[2])
    np.testing.assert_allclose(each[0], state[0])


def test_unanimous_votes_order_responses_by_reward():
    """Equal n and prior, before smoothing: expected rewards stand as R does; labels 3 and 4 of hh-6 tie."""
    expected = posterior_mean(prior_state(np.full(6, 1 / 6), 6.0), 10 * np.eye(6)) @ HH6
    gaps = np.diff(expected)
    assert gaps[2] == pytest.approx(0, abs=1e-15)
    assert (gaps[[0, 1, 3, 4]] < 0).all()


SMOOTHING = {
    "no excess": ([0.9, 0.06, 0.04], {}, [0.9, 0.06, 0.04]),
    "excess to the runner-up": ([0.98, 0.015, 0.005], {}, [0.95, 0.045, 0.005]),
    "only the excess": ([0.951, 0.0, 0.049], {}, [0.95, 0.0, 0.05]),
    "a tie: higher prior": ([0.0, 1.0, 0.0], {"prior": [0.2, 0.5, 0.3]}, [0.0, 0.95, 0.05]),
    "a tie: nearer in cost": ([0.0, 0.0, 1.0], {"cost": [[0, 1, 2], [1, 0, 3], [2, 3, 0]]}, [0.05, 0.0, 0.95]),
    "prior before cost": (
        [0.0, 0.0, 1.0],
        {"cost": [[0, 1, 2], [1, 0, 3], [2, 3, 0]], "prior": [0.2, 0.3, 0.5]},
        [0.0, 0.05, 0.95],
    ),
    "a tie: places as cost": ([1.0, 0.0, 0.0], {}, [0.95, 0.05, 0.0]),
    "a tie: the first": ([0.0, 1.0, 0.0], {}, [0.05, 0.95, 0.0]),
    "a tie but for rounding": ([0.0, 1.0 - 3e-17, 3e-17], {}, [0.05, 0.95, 0.0]),
    "two on top": ([0.5, 0.5, 0.0], {}, [0.5, 0.5, 0.0]),
}


@pytest.mark.parametrize("name", SMOOTHING)
def test_smoothing_by_hand(name):
    given, options, expected = SMOOTHING[name]
    np.testing.assert_allclose(smoothed(given, 0.05, **options), expected, atol=1e-12)
    batch = smoothed([[given], [given]], 0.05, **options)
    np.testing.assert_allclose(batch, [[expected], [expected]], atol=1e-12)


def test_smoothing_keeps_mass_and_the_order(draw):
    given = draw.dirichlet(np.full(6, 0.05), 500)
    before = given.copy()
    found = smoothed(given, 0.2)
    np.testing.assert_array_equal(given, before)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-14)
    assert found.max() <= 0.8 + 1e-15
    assert (found.argmax(1) == given.argmax(1)).all()
    np.testing.assert_allclose(smoothed(given, 0.0), given)
    assert ((found != given).any(1) == (given.max(1) > 0.8)).all()


def test_total_variation_is_the_largest_difference_of_an_event(draw):
    one, other = draw.dirichlet(np.ones(4), 10), draw.dirichlet(np.ones(4), 10)
    events = np.array([[bits >> label & 1 for label in range(4)] for bits in range(16)])
    np.testing.assert_allclose(total_variation(one, other), ((one - other) @ events.T).max(1), rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: prior_state([1.0], 1.0), "two labels or more"),
        (lambda: prior_state([0.0, 0.0], 1.0), "not all 0"),
        (lambda: prior_state([-1.0, 2.0], 1.0), "0 or more"),
        (lambda: prior_state([1.0, 2.0], 0.0), "strength: found 0.0"),
        (lambda: faded([1.0, 1.0], [1.0, 1.0], 1.1), "decay: found 1.1"),
        (lambda: faded([1.0, 1.0], [1.0, 1.0], 0.5, -1), "backwards"),
        (lambda: smoothed([0.5, 0.5], 0.5), "smoothing: found 0.5"),
        (lambda: smoothed([0.5, 0.5], 0.1, cost=np.zeros((3, 3))), "expected (2, 2)"),
        (lambda: credible_interval([1.0, 1.0], 1.0), "level: found 1.0"),
    ],
)
def test_what_makes_no_sense_is_refused(call, expected):
    with pytest.raises(ValueError, match=expected.replace("(", r"\(").replace(")", r"\)")):
        call()

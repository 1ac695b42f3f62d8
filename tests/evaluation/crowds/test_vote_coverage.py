"""Coverage of voted counts: exact under the model, and that of scipy's beta-binomial."""

import numpy as np
import pytest
from scipy import stats

from pluralign.evaluation.crowds.vote_coverage import count_coverage


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("kappa", [None, 0.5, 4.0, 300.0, 1e7, 1e12])
@pytest.mark.parametrize("n", [1, 2, 10, 100])
def test_counts_drawn_as_the_model_says_are_covered_at_the_level(n, kappa, level):
    """Summed over all counts with their probabilities: exact for every n, as no plain interval of counts is."""
    counts = np.arange(n + 1)
    votes = np.stack([counts, n - counts], axis=1)
    for p in (0.001, 0.2, 0.5, 0.93, 1.0):
        mu = np.tile([p, 1 - p], (n + 1, 1))
        dist = (
            stats.binom(n, p)
            if kappa is None or kappa > 1e8 or p == 1
            else stats.betabinom(n, kappa * p, kappa * (1 - p))
        )
        covered = count_coverage(mu, votes, level, kappa)
        assert covered.min() >= 0
        assert covered.max() <= 1
        # At a concentration of 1e7 log-gamma functions are exact to 1e-8.
        assert dist.pmf(counts) @ covered[:, 0] == pytest.approx(level, abs=1e-6)


@pytest.mark.parametrize("kappa", [0.3, 5.0, 80.0])
def test_coverage_is_that_of_the_beta_binomial(kappa):
    draw = np.random.default_rng(7)
    mu = draw.dirichlet(np.full(6, 0.8), size=40)
    votes = np.stack([draw.multinomial(n, draw.dirichlet(5 * p + 0.1)) for n, p in zip(range(1, 41), mu, strict=True)])
    n = votes.sum(1, keepdims=True)
    dist = stats.betabinom(n, kappa * mu, kappa * (1 - mu))
    below, upto = dist.cdf(votes - 1), dist.cdf(votes)
    expected = np.clip(np.minimum(upto, 0.9) - np.maximum(below, 0.1), 0, None) / (upto - below)
    np.testing.assert_allclose(count_coverage(mu, votes, 0.8, kappa), expected, atol=1e-9)
    each = np.linspace(0.5, 2, len(mu)) * kappa
    alone = [count_coverage(mu[[i]], votes[[i]], 0.8, each[i])[0] for i in range(len(mu))]
    np.testing.assert_allclose(count_coverage(mu, votes, 0.8, each), alone, atol=1e-12)


def test_weighted_votes_are_rounded_to_whole_ones():
    mu = np.array([[0.5, 0.5]] * 3)
    found = count_coverage(mu, [[2.0, 8.0], [2.1, 7.8], [0.04, 0.36]])
    np.testing.assert_array_equal(found[0], found[1])
    assert 0 < found[0, 0] < 1
    np.testing.assert_array_equal(found[2], count_coverage(mu[:1], [[0, 1]])[0])

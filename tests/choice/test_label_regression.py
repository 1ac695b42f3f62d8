"""Soft-label logistic regression."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from pluralign.choice.label_regression import RIDGES, LabelRegression


def crowd(items=200, width=4, seed=0):
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(items, width)) * [1, 5, 0.1, 1] + [0, 3, 0, 0]
    true = softmax(((x - x.mean(0)) / x.std(0)) @ draw.normal(size=(width, 3)), 1)
    counts = np.stack([draw.multinomial(20, row) for row in true])
    return x, counts / 20, true


def test_it_is_the_minimum_of_the_penalised_log_loss():
    x, shares, true = crowd()
    n = np.full(len(x), 20.0)
    fitted = LabelRegression.fit(x, shares, n, np.arange(len(x)))
    z = np.hstack([(x - fitted.mean) / fitted.spread, np.ones((len(x), 1))])
    mu = fitted.predict(x)
    np.testing.assert_allclose(mu, softmax(z @ fitted.coefficients.T, 1), rtol=1e-12)
    penalty = fitted.ridge * fitted.coefficients
    penalty[:, -1] = 0
    slope = (n[:, None] * (mu - shares)).T @ z + penalty
    assert np.abs(slope).max() < 1e-4 * n.sum()
    assert np.abs(mu - true).mean() < 0.04
    assert fitted.ridge <= RIDGES[1], "strong features want little shrinking"


def test_features_that_say_nothing_give_the_marginal():
    _, shares, _ = crowd()
    noise = np.random.default_rng(1).normal(size=(200, 40))
    fitted = LabelRegression.fit(noise, shares, np.full(200, 20.0), np.arange(200))
    mean = shares.mean(0)
    assert np.abs(fitted.predict(noise) - mean).mean() < 0.06
    loss = -(shares * log_softmax(np.log(fitted.predict(noise)), 1)).sum(1).mean()
    assert loss <= -(mean * np.log(mean)).sum()


def test_units_of_features_and_weights_split_in_copies_change_nothing():
    x, shares, _ = crowd(60)
    group = np.arange(60) // 2
    found = LabelRegression.fit(x, shares, np.full(60, 4.0), group).predict(x)
    scaled = LabelRegression.fit(1000 * x - 7, shares, np.full(60, 4.0), group).predict(1000 * x - 7)
    np.testing.assert_allclose(scaled, found, atol=1e-4)
    twice = [np.repeat(own, 2, 0) for own in (x, shares, np.full(60, 2.0), group)]
    np.testing.assert_allclose(LabelRegression.fit(*twice).predict(x), found, atol=1e-4)


@pytest.mark.parametrize("items", [2, 3])
def test_a_handful_of_items_is_fitted_too(items):
    x, shares, _ = crowd(items)
    assert np.isfinite(LabelRegression.fit(x, shares, np.ones(items), np.zeros(items)).predict(x)).all()

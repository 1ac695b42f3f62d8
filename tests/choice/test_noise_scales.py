"""Noise scales of annotators: planted ones are found, equal ones stay equal, the quadrature is exact."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import expit, logsumexp
from scipy.stats import norm

from pluralign.choice.latent_class.estimator import LatentClassPlackettLuce
from pluralign.choice.latent_class.panel import Panel
from pluralign.choice.noise_scales import NoiseScales, utilities_of
from pluralign.choice.plackett_luce import log_likelihood

BETA = np.array([[2.0, 0.0, -1.0, 1.0], [-1.0, 2.0, 1.0, 0.0]])


def panel_of(scales, beta=BETA, judgments=12, shown=3, seed=0):
    """Rankings by annotators of types in turn, with the given scales `(annotators,)`."""
    rng = np.random.default_rng(seed)
    scales = np.asarray(scales, dtype=float)
    annotator = np.repeat(np.arange(len(scales)), judgments)
    responses = np.arange(len(annotator) * shown).reshape(-1, shown)
    features = rng.normal(size=(responses.size, beta.shape[1]))
    utilities = np.einsum("jnp,jp->jn", features[responses], beta[annotator % len(beta)]) * scales[annotator][:, None]
    ranks = (-(utilities + rng.gumbel(size=utilities.shape))).argsort(1).argsort(1) + 1
    return Panel(responses, ranks, annotator, features)


def fitted(panel, types=2):
    return LatentClassPlackettLuce(types, ridge=1.0, restarts=4).fit(panel)


def test_careless_annotators_have_the_smallest_scales():
    scales = np.ones(60)
    scales[:6] = [0.0, 0.05, 0.05, 0.0, 0.05, 0.0]
    panel = panel_of(scales, judgments=20)
    noise = NoiseScales().fit(panel, fitted(panel))
    assert set(np.argsort(noise.scales_)[:6]) == set(range(6))
    assert (noise.careless_[:6] > 0.9).all()
    assert (noise.careless_[6:] < 0.1).all()
    assert noise.careless_share_ == pytest.approx(0.1, abs=0.03)
    assert (np.abs(noise.alignment_[:6]) < 3).all()
    assert (noise.alignment_[6:] > 3).all()


def test_equally_noisy_annotators_have_the_scale_1():
    spreads = []
    for seed in range(5):
        panel = panel_of(np.ones(60), seed=seed)
        noise = NoiseScales(nodes=24).fit(panel, fitted(panel))
        spreads.append(noise.tau_)
        assert noise.careless_share_ == 0
        assert np.abs(noise.scales_ - 1).mean() < 0.15
        if noise.tau_ == 0:
            assert (noise.scales_ == 1).all()
            assert noise.log_likelihood_ == noise.log_likelihood_equal_
    assert min(spreads) == 0
    # A single log scale is known to about 0.4 here, so tau^2 to 0.4^2 sqrt(2 / 60) = 0.03.
    assert max(spreads) < (3 * 0.03) ** 0.5


def test_planted_scales_are_recovered_with_shrinkage():
    planted = np.exp(0.6 * np.random.default_rng(1).normal(size=200))
    panel = panel_of(planted, judgments=30)
    noise = NoiseScales(nodes=32).fit(panel, fitted(panel))
    assert noise.tau_ == pytest.approx(0.6, abs=0.12)
    estimate = np.log(noise.scales_)
    assert np.corrcoef(estimate, np.log(planted))[0, 1] > 0.85
    assert estimate.std() < np.log(planted).std()
    relative = planted / np.exp(np.log(planted).mean())
    assert np.mean((noise.low_ < relative) & (relative < noise.high_)) > 0.88
    assert noise.log_likelihood_ > noise.log_likelihood_equal_ + 50


@pytest.mark.parametrize("types", [1, 2])
def test_the_marginal_likelihood_is_that_of_a_dense_grid(types):
    panel = panel_of(np.exp(0.7 * np.random.default_rng(2).normal(size=25)), judgments=25)
    panel = replace(panel, reliability=np.random.default_rng(3).choice([0.5, 1.0, 2.0], size=panel.judgments))
    model = fitted(panel, types)
    noise = NoiseScales().fit(panel, model)
    assert noise.tau_ > 0.1
    z = np.linspace(-9 * noise.tau_, 9 * noise.tau_, 601)
    u = torch.from_numpy(utilities_of(panel, model))[:, torch.from_numpy(panel.response_ids)]
    ranks = torch.from_numpy(panel.rank_values)
    curves = np.zeros((types, panel.annotators, len(z)))
    for kind in range(types):
        for place, scale in enumerate(np.exp(z) * noise.factor_):
            of_judgment = log_likelihood(u[kind] * scale, ranks).numpy() * panel.reliability
            curves[kind, :, place] = np.bincount(panel.annotator_ids, of_judgment)
    of_annotator = logsumexp(curves + np.log(model.mixture_weights_)[:, None, None], axis=0)
    density = norm.logpdf(z, scale=noise.tau_) + np.log(z[1] - z[0])
    assert noise.careless_share_ == 0
    expected = logsumexp(of_annotator + density, axis=1)
    assert noise.log_likelihood_ == pytest.approx(expected.sum(), abs=1e-6)
    posterior = np.exp(of_annotator + density - expected[:, None])
    assert np.allclose(noise.scales_, posterior @ np.exp(z), atol=1e-6)


def test_the_order_of_annotators_and_judgments_does_not_matter():
    panel = panel_of(np.exp(0.6 * np.random.default_rng(4).normal(size=30)))
    model = fitted(panel)
    first = NoiseScales(nodes=24).fit(panel, model)
    rng = np.random.default_rng(5)
    rows, number = rng.permutation(panel.judgments), rng.permutation(panel.annotators)
    mixed = replace(
        panel,
        responses=panel.response_ids[rows],
        ranks=panel.rank_values[rows],
        annotator=number[panel.annotator_ids[rows]],
    )
    second = NoiseScales(nodes=24).fit(mixed, model)
    assert second.tau_ == pytest.approx(first.tau_, abs=1e-4)
    assert np.allclose(second.scales_[number], first.scales_, atol=1e-4)
    assert np.allclose(second.alignment_[number], first.alignment_)


def test_an_annotator_with_the_opposite_taste_is_not_taken_for_a_careless_one():
    panel = panel_of(np.append(np.ones(40), -1.0), beta=BETA[:1], judgments=20)
    noise = NoiseScales(nodes=24).fit(panel, fitted(panel, 1))
    assert noise.alignment_[40] < -4


def test_a_type_that_ranks_at_random_has_the_scale_0():
    scales = np.ones(40)
    scales[30:] = 0.0
    panel = panel_of(scales, beta=BETA[:1], judgments=20)
    model = LatentClassPlackettLuce(2, ridge=1.0, noise=True).fit(panel)
    noise = NoiseScales(nodes=24).fit(panel, model)
    assert (noise.scales_[30:] < 0.1).all()
    assert (noise.scales_[:30] > 0.9).all()


def test_worths_and_types_that_do_not_consider_all_responses():
    rng = np.random.default_rng(0)
    responses = np.stack([rng.permutation(6)[:3] for _ in range(240)])
    utility = responses + rng.gumbel(size=responses.shape)
    panel = Panel(
        responses, (-utility).argsort(1).argsort(1) + 1, np.repeat(np.arange(20), 12),
        available=[[True] * 6, [True] * 5 + [False]],
    )  # fmt: skip
    noise = NoiseScales(nodes=24).fit(panel, LatentClassPlackettLuce(2, ridge=1.0, restarts=2).fit(panel))
    assert np.isfinite(noise.scales_).all()
    assert np.isfinite(noise.log_likelihood_)


def test_a_model_of_other_features_is_refused():
    panel = panel_of(np.ones(6))
    model = fitted(panel, 1)
    with pytest.raises(ValueError, match="features: found 3|3 features"):
        NoiseScales().fit(replace(panel, features=np.asarray(panel.features)[:, :3]), model)
    with pytest.raises(ValueError, match="nodes"):
        NoiseScales(nodes=1).fit(panel, model)


def test_the_efficient_weight_of_a_judgment_is_the_scale():
    """Weighted fits with one scale for all: the error of the direction of the utilities is smallest for weight s."""
    x, mass = np.polynomial.hermite_e.hermegauss(80)
    mass = mass / mass.sum()
    scales = np.array([0.2, 1.0])

    def error(weights):
        """Asymptotic variance of the angle, for pairs with normal features and utility 0.8 s x along the truth."""
        truth = expit(0.8 * scales[:, None] * x)
        size = brentq(lambda c: weights @ ((truth - expit(c * x)) * x @ mass), 1e-3, 5)
        p = expit(size * x)
        slope = weights.sum() * (p * (1 - p) @ mass)
        return weights**2 @ (((truth - p) ** 2 + truth * (1 - truth)) @ mass) / (slope * size) ** 2

    equal, scale, square = (error(scales**power) for power in (0, 1, 2))
    assert scale < square
    assert scale < equal
    assert scale < 1.001 * min(error(np.array([weight, 1.0])) for weight in np.linspace(0, 1, 201))

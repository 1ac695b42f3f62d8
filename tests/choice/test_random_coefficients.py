"""Random coefficients: the one-type limit, quadrature and a dense grid as oracles, recovery, posteriors."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp
from scipy.stats import norm

from pluralign.choice.latent_class import LatentClassPlackettLuce, Panel
from pluralign.choice.random_coefficients import RandomCoefficientsPlackettLuce
from published_panels import swissmetro

MEAN = np.array([1.0, -0.5, 0.0])


def drawn(annotators, judgments, covariance, seed=0, worths=False):
    """Rankings of three by annotators whose coefficients are normal around `MEAN`."""
    rng = np.random.default_rng(seed)
    theta = rng.multivariate_normal(MEAN, covariance, size=annotators)
    person = np.repeat(np.arange(annotators), judgments)
    if worths:
        shown, features = np.stack([rng.permutation(3) for _ in person]), None
        utilities = np.take_along_axis(theta[person], shown, 1)
    else:
        shown = np.arange(len(person) * 3).reshape(-1, 3)
        features = rng.normal(size=(shown.size, 3))
        utilities = np.einsum("jnp,jp->jn", features[shown], theta[person])
    ranks = (-(utilities + rng.gumbel(size=utilities.shape))).argsort(1).argsort(1) + 1
    return Panel(shown, ranks, person, features, response_total=3 if worths else None), theta


@pytest.mark.parametrize("worths", [False, True])
def test_without_random_coefficients_it_is_the_one_type_model(worths):
    panel, _ = drawn(20, 6, np.eye(3), worths=worths)
    model = RandomCoefficientsPlackettLuce(rank=0, random=[], ridge=0.1).fit(panel)
    single = LatentClassPlackettLuce(1, ridge=0.1).fit(panel)
    np.testing.assert_allclose(model.mean_, single.coefficients_[0], atol=1e-6)
    assert model.log_likelihood_ == pytest.approx(single.log_likelihood_, abs=1e-6)
    assert model.annotator_log_likelihood(panel).sum() == pytest.approx(single.log_likelihood_, abs=1e-6)


@pytest.mark.parametrize("worths", [False, True])
def test_a_planted_covariance_is_recovered(worths):
    """By importance sampling; Laplace's approximation alone leaves variances about a quarter too small here."""
    covariance = np.outer([1.0, 1.0, 0.0], [1.0, 1.0, 0.0]) + 0.3 * np.eye(3)
    panel, _ = drawn(300, 15, covariance, worths=worths)
    settings = {"common_variance": False, "moments": "importance", "draws": 64, "max_iterations": 60, "tolerance": 1e-4}
    model = RandomCoefficientsPlackettLuce(rank=1, **settings).fit(panel)
    if worths:  # only differences of worths are identified
        contrast = np.eye(3) - 1 / 3
        found, planted = contrast @ model.covariance_ @ contrast, contrast @ covariance @ contrast
        np.testing.assert_allclose(contrast @ model.mean_, contrast @ MEAN, atol=0.2)
    else:
        found, planted = model.covariance_, covariance
        np.testing.assert_allclose(model.mean_, MEAN, atol=0.2)
    np.testing.assert_allclose(found, planted, atol=0.35)


def grid_log_likelihood(panel, mean, column, deviation):
    """Marginal log-likelihood of each annotator of a panel of single choices, one normal coefficient: a dense grid."""
    points = np.linspace(-8, 8, 1001)
    weights = np.exp(-(points**2) / 2)
    shown, features = panel.rank_values > -1, np.asarray(panel.features)[panel.response_ids]
    chosen = (panel.rank_values == 1).argmax(1)[:, None]
    totals = []
    for point in points:
        theta = mean + deviation * point * (np.arange(len(mean)) == column)
        utility = np.where(shown, features @ theta, -np.inf)
        log_p = np.take_along_axis(utility, chosen, 1)[:, 0] - logsumexp(utility, 1)
        totals.append(np.bincount(panel.annotator_ids, log_p))
    return logsumexp(np.stack(totals) + np.log(weights / weights.sum())[:, None], axis=0)


def test_the_marginal_likelihood_of_swissmetro_is_that_of_a_dense_grid(shared_data):
    """752 travellers with a normal coefficient of time: importance sampling against numerical integration."""
    panel = swissmetro(shared_data / "choice_panel")
    model = RandomCoefficientsPlackettLuce(rank=0, random=[2], common_variance=False, max_iterations=100).fit(panel)
    expected = grid_log_likelihood(panel, model.mean_, 2, np.sqrt(model.variances_[2]))
    sampled = model.annotator_log_likelihood(panel)
    assert np.abs(sampled - expected).mean() < 0.03
    assert sampled.sum() == pytest.approx(expected.sum(), abs=2)
    assert expected.sum() > -5331.252 + 900, "much better than the published logit without random coefficients"


def test_annotators_may_be_numbered_in_any_order():
    panel, _ = drawn(30, 6, 0.5 * np.eye(3))
    order = np.random.default_rng(1).permutation(30)
    turned = panel.of_annotators(order)
    first = RandomCoefficientsPlackettLuce(rank=1).fit(panel)
    second = RandomCoefficientsPlackettLuce(rank=1).fit(turned)
    np.testing.assert_allclose(second.covariance_, first.covariance_, atol=1e-6)
    means, _ = first.posterior(panel)
    np.testing.assert_allclose(second.posterior(turned)[0], means[order], atol=1e-5)


def test_posteriors_follow_the_judgments():
    panel, theta = drawn(60, 40, np.eye(3))
    model = RandomCoefficientsPlackettLuce(rank=2, common_variance=False).fit(panel)
    means, covariances = model.posterior(panel)
    assert np.corrcoef(means.ravel(), theta.ravel())[0, 1] > 0.9
    assert (np.linalg.eigvalsh(covariances) > 0).all()
    spread = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
    assert np.mean(np.abs(means - theta) < 2 * spread) > 0.85
    silent = panel.of_annotators([0])
    new = Panel(silent.responses, np.full(silent.rank_values.shape, -1), silent.annotator, silent.features)
    np.testing.assert_allclose(model.posterior(new)[0][0], model.mean_, atol=1e-9)


def test_importance_sampling_improves_the_fit_where_posteriors_are_skewed():
    """Few judgments and a large variance: the moments by importance sampling reach a higher exact likelihood."""
    rng = np.random.default_rng(3)
    person = np.repeat(np.arange(150), 4)
    features = rng.normal(size=(1200, 1))
    shown = np.arange(1200).reshape(-1, 2)
    theta = 3 * rng.normal(size=150)
    utility = features[shown][..., 0] * theta[person][:, None] + rng.gumbel(size=shown.shape)
    panel = Panel(shown, (-utility).argsort(1).argsort(1) + 1, person, features)

    def exact(moments):
        model = RandomCoefficientsPlackettLuce(0, common_variance=False, moments=moments, max_iterations=60).fit(panel)
        return grid_log_likelihood(panel, model.mean_, 0, np.sqrt(model.variances_[0])).sum()

    assert exact("importance") >= exact("laplace") - 1e-3


def test_coefficients_are_drawn_from_the_fitted_distribution():
    panel, _ = drawn(40, 8, np.eye(3))
    model = RandomCoefficientsPlackettLuce(rank=1).fit(panel)
    sample = model.sample_coefficients(40_000)
    np.testing.assert_allclose(sample.mean(0), model.mean_, atol=0.05)
    np.testing.assert_allclose(np.cov(sample.T), model.covariance_, atol=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"rank": -1}, "rank >= 0"), ({"moments": "exact"}, "laplace or importance"), ({"random": [9]}, "columns from 0")],
)
def test_wrong_settings_are_named(settings, message):
    panel, _ = drawn(4, 2, np.eye(3))
    with pytest.raises(ValueError, match=message):
        RandomCoefficientsPlackettLuce(**settings).fit(panel)


def simulated_log_likelihood(panel, normals):
    """The log-likelihood of (mean, deviation of time) of a mixed logit, simulated with these draws for each person."""
    shown, chosen = panel.rank_values > -1, panel.rank_values == 1
    features = np.asarray(panel.features)[panel.response_ids]

    def of(parameters):
        utility = features @ parameters[:4] + parameters[4] * normals[:, None, None] * features[..., 2]
        log_p = utility[:, chosen] - logsumexp(np.where(shown, utility, -np.inf), axis=2)
        order = np.flatnonzero(np.diff(panel.annotator_ids, prepend=-1))
        return float((logsumexp(np.add.reduceat(log_p, order, axis=1), axis=0) - np.log(len(normals))).sum())

    return of


def test_estimates_of_swissmetro_are_those_of_maximum_simulated_likelihood(shared_data):
    """A mixed logit of 75 travellers by a quasi-Newton method over 400 quasi-random draws for each of them."""
    panel = swissmetro(shared_data / "choice_panel").of_annotators(np.arange(0, 750, 10))
    settings = {"common_variance": False, "moments": "importance", "max_iterations": 120, "tolerance": 1e-6}
    model = RandomCoefficientsPlackettLuce(rank=0, random=[2], **settings).fit(panel)
    draws = norm.ppf((np.arange(400) + 0.5) / 400)
    simulated = simulated_log_likelihood(panel, draws)
    start = np.array([-0.5, -0.5, -1.0, -1.0, 1.0])
    found = minimize(lambda parameters: -simulated(parameters), start, method="BFGS", options={"gtol": 0.05})
    ours = np.append(model.mean_, np.sqrt(model.variances_[2]))
    assert simulated(ours) > -found.fun - 0.5
    np.testing.assert_allclose(ours, np.append(found.x[:4], abs(found.x[4])), rtol=0.08, atol=0.08)

"""Observed information and standard errors, against automatic differentiation and simulation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.autograd.functional import hessian

from pluralign.choice.latent_class import em, likelihood
from pluralign.choice.latent_class.em import ascended, choice_weights, conditioned, e_step, log_shares, m_step
from pluralign.choice.latent_class.estimator import LatentClassPlackettLuce
from pluralign.choice.latent_class.information import observed_information, polished
from pluralign.choice.latent_class.starts import with_coefficients
from pluralign.choice.plackett_luce import log_likelihood

TRUTH = np.array([[1.5, -1.0, 0.5], [-1.0, 1.0, 0.5]])
CASES = ("plain", "worths", "weights", "covariates", "three types", "fixed, shared and noise")


def case(kind, simulate):
    """A panel, a model, and a point that is no optimum: free coefficients and membership in one vector."""
    rng = np.random.default_rng(CASES.index(kind))
    settings, truth, types = {"ridge": 0.3}, TRUTH, 2
    if kind in ("three types", "fixed, shared and noise"):
        types = 3
    if kind == "fixed, shared and noise":
        fixed = np.full((3, 3), np.nan)
        fixed[0, 0] = 0.8
        settings |= {"fixed": fixed, "shared": [2], "noise": True}
    panel, _ = simulate(truth, annotators=25, judgments=4, worths=kind == "worths")
    if kind == "weights":
        panel = replace(panel, population=rng.random(25) * 3, reliability=rng.random(panel.judgments) * 2)
    if kind in ("covariates", "fixed, shared and noise"):
        panel = replace(panel, covariates=rng.normal(size=(25, 2)))
    model = LatentClassPlackettLuce(types, **settings)
    problem = model.problem(panel)
    width = 1 if panel.covariates is None else 2
    point = torch.tensor(rng.normal(size=problem.parameters + (types - 1) * width))
    return panel, problem, point


def at(problem, point):
    """The fit with these parameters."""
    fit = with_coefficients(problem, torch.zeros(1, problem.types, problem.logit.parameters).double())
    rest = point[problem.parameters :]
    if problem.covariates is None:
        log_weights, membership = torch.log_softmax(torch.cat((rest.new_zeros(1), rest)), 0)[None], fit.membership
    else:
        membership = rest.view(fit.membership.shape)
        log_weights = log_shares(problem.covariates, membership)
    parameters = point[None, : problem.parameters]
    return e_step(problem, replace(fit, parameters=parameters, log_weights=log_weights, membership=membership))


def objective_of(panel, problem):
    """Marginal log-likelihood of whole rankings plus log prior, and the annotators' terms."""
    shown, ranks = torch.as_tensor(panel.response_ids), torch.as_tensor(panel.rank_values)
    person = torch.as_tensor(panel.annotator_ids)
    reliability = torch.ones(len(ranks)) if panel.reliability is None else torch.as_tensor(panel.reliability)

    def each(point):
        free, rest = point[: problem.parameters], point[problem.parameters :]
        beta = problem.coefficients(free[None])[0]
        utilities = beta if panel.features is None else beta @ torch.as_tensor(panel.features).T
        by_judgment = torch.stack([log_likelihood(row[shown], ranks) for row in utilities], 1)
        whole = torch.zeros(panel.annotators, problem.types, dtype=torch.float64)
        whole = whole.index_add(0, person, by_judgment * reliability.double()[:, None])
        x = torch.ones(panel.annotators, 1, dtype=torch.float64)
        x = x if panel.covariates is None else torch.as_tensor(panel.covariates)
        scores = x @ rest.view(problem.types - 1, -1).T
        return torch.logsumexp(whole + torch.log_softmax(torch.nn.functional.pad(scores, (1, 0)), 1), 1)

    def objective(point):
        prior = problem.ridge / 2 * point[: problem.parameters].square().sum()
        return (problem.population * each(point)).sum() - prior

    return objective, each


@pytest.mark.parametrize("kind", CASES)
def test_gradient_and_information_are_those_of_the_marginal_log_likelihood(kind, simulate):
    panel, problem, point = case(kind, simulate)
    objective, each = objective_of(panel, problem)
    fit = at(problem, point)
    found = observed_information(problem, fit)
    torch.testing.assert_close(fit.objective[0], objective(point), rtol=1e-11, atol=0)
    start = point.clone().requires_grad_()
    gradient = torch.autograd.grad(objective(start), start)[0]
    torch.testing.assert_close(found.gradient, gradient, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.matrix, -hessian(objective, point), rtol=1e-9, atol=1e-8)
    scores = torch.autograd.functional.jacobian(each, point) * problem.population.unsqueeze(1)
    torch.testing.assert_close(found.outer, scores.T @ scores, rtol=1e-9, atol=1e-8)
    # Not seeing the types can only lose information, about every direction.
    assert torch.linalg.eigvalsh(found.complete - found.matrix).min() > -1e-8


@pytest.mark.parametrize("kind", CASES)
def test_polished_fits_are_at_rest(kind, simulate):
    """The Newton decrement g' I^-1 g / 2 vanishes and I is positive definite: an optimum of the likelihood."""
    panel, problem, _ = case(kind, simulate)
    start = np.random.default_rng(1).normal(size=(1, problem.types, problem.logit.parameters))
    fit = e_step(problem, with_coefficients(problem, torch.tensor(start)))
    for _ in range(40):
        fit = at(problem, _ascended(problem, fit))
    found, optimum, trace = polished(problem, fit)
    objective, _ = objective_of(panel, problem)
    point = _point(problem, found)
    slope = torch.autograd.functional.jacobian(objective, point)
    information = -hessian(objective, point)
    assert optimum
    assert torch.linalg.eigvalsh(information).min() > 0
    assert slope @ torch.linalg.solve(information, slope) < 1e-8
    assert found.objective[0] >= fit.objective[0]
    assert trace[-1] == found.log_likelihood[0]


def _point(problem, fit):
    if problem.covariates is not None:
        return torch.cat((fit.parameters[0], fit.membership.flatten()))
    return torch.cat((fit.parameters[0], fit.log_weights[0, 1:] - fit.log_weights[0, 0]))


def _ascended(problem, fit):
    return _point(problem, m_step(problem, fit))


def test_types_in_another_order_permute_the_covariance(simulate):
    panel, _ = simulate(TRUTH)
    one = LatentClassPlackettLuce(2, coefficients_init=TRUTH).fit(panel).covariance(panel)
    two = LatentClassPlackettLuce(2, coefficients_init=TRUTH[::-1]).fit(panel).covariance(panel)
    order = [3, 4, 5, 0, 1, 2]
    np.testing.assert_allclose(two[:6, :6], one[np.ix_(order, order)], rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(two[6, 6], one[6, 6], rtol=1e-7)


def test_robust_errors_agree_with_the_models_own_where_it_is_true(simulate):
    """The sandwich's relative error is about sqrt(2 / annotators) = 0.04 for normal scores; 0.25 is far beyond."""
    panel, _ = simulate(TRUTH, annotators=1500, judgments=4)
    model = LatentClassPlackettLuce(2, coefficients_init=TRUTH).fit(panel)
    own, robust = model.covariance(panel), model.covariance(panel, robust=True)
    assert np.abs(np.diag(robust) / np.diag(own) - 1).max() < 0.25
    # Doubling every weight doubles the information, but not what is known.
    heavy = replace(panel, population=np.full(1500, 2.0))
    double = LatentClassPlackettLuce(2, coefficients_init=TRUTH).fit(heavy)
    np.testing.assert_allclose(double.covariance(heavy), own / 2, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(double.covariance(heavy, robust=True), robust, rtol=1e-4, atol=1e-8)


def test_standard_errors_are_the_spread_of_estimates(simulate):
    """Over 80 simulated panels: mean squared z is 1 but for sqrt(2 / 80) = 0.16, and each bias below 4 errors."""
    truth = np.append(TRUTH.flatten(), 0.0)
    scaled = []
    for seed in range(80):
        panel, _ = simulate(
            TRUTH,
            annotators=100,
            judgments=5,
            types=np.random.default_rng(1000 + seed).integers(0, 2, 100),
            seed=seed,
        )
        model = LatentClassPlackettLuce(2, coefficients_init=TRUTH).fit(panel)
        log_weights = model.fitted.log_weights[0].numpy()
        estimate = np.append(model.coefficients_.flatten(), log_weights[1] - log_weights[0])
        scaled.append((estimate - truth) / np.sqrt(np.diag(model.covariance(panel))))
    z = np.array(scaled)
    assert np.abs(np.square(z).mean(0) - 1).max() < 4 * 0.16
    assert abs(np.square(z).mean() - 1) < 0.2
    assert np.abs(z.mean(0)).max() < 4 / np.sqrt(80)


def test_too_many_parameters_are_refused(simulate):
    panel, _ = simulate(np.zeros((1, 1100)), worths=True, annotators=4, judgments=3)
    model = LatentClassPlackettLuce(2, max_iterations=1, restarts=1, polish=False).fit(panel)
    with pytest.raises(ValueError, match="matrix of 2201 parameters, at most 2048"):
        model.covariance(panel)


@pytest.mark.parametrize("kind", CASES)
def test_choices_in_blocks_give_the_same(kind, simulate, monkeypatch):
    panel, problem, point = case(kind, simulate)
    monkeypatch.setattr(likelihood, "BLOCK", 4)
    in_blocks = replace(problem, likelihood=likelihood.Likelihood.of(panel))
    assert len(in_blocks.likelihood) == len(problem.likelihood)
    assert len(in_blocks.likelihood.blocks) > 2
    torch.testing.assert_close(in_blocks.likelihood.places, problem.likelihood.places)
    one, other = at(problem, point), at(in_blocks, point)
    torch.testing.assert_close(other.gamma, one.gamma, rtol=1e-12, atol=1e-14)
    for name in ("gradient", "matrix", "complete", "outer"):
        found, expected = (getattr(observed_information(*each), name) for each in ((in_blocks, other), (problem, one)))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    for step in (m_step, lambda *each: ascended(*each)[0], lambda *each: polished(*each)[0]):
        found, expected = step(in_blocks, other), step(problem, one)
        torch.testing.assert_close(found.parameters, expected.parameters, rtol=1e-8, atol=1e-8)
    for dense in (0, 512):  # solved by conjugate gradients, from pairs of responses or not, and as they are
        monkeypatch.setattr(em, "DENSE_PARAMETERS", dense)
        monkeypatch.setattr(em, "DENSE_ALONE", dense)
        weights = [choice_weights(each, one.gamma) for each in (in_blocks, problem)]
        right = torch.ones(1, problem.parameters, dtype=torch.float64)
        here = [each.likelihood.at(problem.coefficients(one.parameters)[0]) for each in (in_blocks, problem)]
        found, expected = (conditioned(problem, *each)(right) for each in zip(here, weights, strict=True))
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)

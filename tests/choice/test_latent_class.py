"""Laws of the latent-class model."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from pluralign.choice.em_dpo import matched_types
from pluralign.choice.latent_class import em
from pluralign.choice.latent_class import estimator as latent_class
from pluralign.choice.latent_class.em import e_step, m_step
from pluralign.choice.latent_class.estimator import LatentClassPlackettLuce
from pluralign.choice.latent_class.panel import Panel
from pluralign.choice.latent_class.starts import random_starts
from pluralign.choice.plackett_luce import log_likelihood

TRUTH = np.array([[1.5, -1.0, 0.5], [-1.0, 1.0, 0.5]])
THREE = np.array([[2.0, 0.0, 0.0], [-1.0, 2.0, 0.0], [-1.0, -1.0, 2.0]])


def judgment_log_likelihoods(panel, beta, ties="efron"):
    """log P of every judgment under one coefficient vector, by `plackett_luce.log_likelihood`."""
    utilities = beta if panel.features is None else torch.as_tensor(panel.features) @ beta
    shown = torch.as_tensor(np.where(panel.rank_values >= 0, panel.response_ids, 0))
    return log_likelihood(utilities[shown], torch.as_tensor(panel.rank_values), ties=ties)


def marginal(panel, coefficients, shares):
    """log sum_k eta_k P_k of every annotator, from whole rankings."""
    joint = []
    for beta, share in zip(coefficients, shares, strict=True):
        found = judgment_log_likelihoods(panel, torch.as_tensor(beta))
        summed = torch.zeros(panel.annotators, dtype=torch.float64)
        joint.append(summed.index_add(0, torch.as_tensor(panel.annotator_ids), found) + np.log(share))
    return torch.logsumexp(torch.stack(joint), 0)


@pytest.mark.parametrize("worths", [False, True])
def test_the_log_likelihood_is_the_mixture_of_whole_rankings(simulate, worths):
    panel, _ = simulate(TRUTH, worths=worths)
    model = LatentClassPlackettLuce(2).fit(panel)
    shares = np.exp(model.fitted.log_weights[0].numpy())
    expected = marginal(panel, model.coefficients_, shares)
    np.testing.assert_allclose(model.annotator_log_likelihood(panel), expected, rtol=1e-11)
    np.testing.assert_allclose(model.log_likelihood_, expected.sum(), rtol=1e-11)
    np.testing.assert_allclose(model.score(panel), expected.sum() / panel.judgments, rtol=1e-11)
    np.testing.assert_allclose(model.mixture_weights_, shares, atol=1e-6)  # a fixed point of the M-step
    assert model.n_parameters_ == 7
    np.testing.assert_allclose(model.bic_, -2 * expected.sum() + 7 * np.log(40), rtol=1e-11)


@pytest.mark.parametrize("worths", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_objective_never_falls(simulate, seed, worths):
    panel, _ = simulate(THREE, seed=seed, worths=worths)
    model = LatentClassPlackettLuce(3, ridge=0.01)
    problem = model.problem(panel)
    fit = e_step(problem, random_starts(problem, 4, seed))
    for _ in range(25):
        before, fit = fit.objective, e_step(problem, m_step(problem, fit))
        assert (fit.objective >= before - 1e-10 * before.abs()).all()
    start = np.random.default_rng(seed).normal(size=(3, 3))
    trace = LatentClassPlackettLuce(3, ridge=0.0, polish=False, coefficients_init=start).fit(panel).trace_
    assert len(trace) > 4
    assert (np.diff(trace) >= -1e-10 * abs(trace[0])).all()


@pytest.mark.parametrize("polish", [False, True])
def test_annotators_in_another_order_only_change_places(simulate, polish):
    panel, _ = simulate(TRUTH)
    order = np.random.default_rng(0).permutation(panel.annotators)
    settings = {"coefficients_init": TRUTH, "polish": polish}
    one = LatentClassPlackettLuce(2, **settings).fit(panel)
    two = LatentClassPlackettLuce(2, **settings).fit(panel.of_annotators(order))
    np.testing.assert_allclose(two.responsibilities_, one.responsibilities_[order], atol=1e-10)
    np.testing.assert_allclose(two.mixture_weights_, one.mixture_weights_, atol=1e-10)
    np.testing.assert_allclose(two.coefficients_, one.coefficients_, atol=1e-10)


@pytest.mark.parametrize("polish", [False, True])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_types_in_another_order_only_change_places(simulate, order, polish):
    panel, _ = simulate(THREE)
    order = list(order)
    one = LatentClassPlackettLuce(3, coefficients_init=THREE, polish=polish).fit(panel)
    two = LatentClassPlackettLuce(3, coefficients_init=THREE[order], polish=polish).fit(panel)
    np.testing.assert_allclose(two.responsibilities_, one.responsibilities_[:, order], atol=1e-10)
    np.testing.assert_allclose(two.mixture_weights_, one.mixture_weights_[order], atol=1e-10)
    np.testing.assert_allclose(two.coefficients_, one.coefficients_[order], atol=1e-10)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_one_type_is_the_plain_fit(simulate, ties):
    panel, _ = simulate(TRUTH)
    ranks = np.random.default_rng(0).integers(0, 3, panel.rank_values.shape)  # ties and responses not ranked
    panel = replace(panel, ranks=np.where(np.arange(len(ranks))[:, None] % 3 == 0, ranks, panel.rank_values))

    def loss(beta):
        at = torch.tensor(beta, requires_grad=True)
        value = -judgment_log_likelihoods(panel, at, ties).sum() + 0.5 * at.square().sum() / 2
        return value.item(), torch.autograd.grad(value, at)[0].numpy()

    expected = minimize(loss, np.zeros(3), jac=True, method="BFGS", options={"gtol": 1e-9})
    model = LatentClassPlackettLuce(1, ties=ties, ridge=0.5).fit(panel)
    assert model.converged_
    np.testing.assert_allclose(model.coefficients_[0], expected.x, atol=1e-8)
    plain = judgment_log_likelihoods(panel, torch.tensor(expected.x), ties).sum()
    np.testing.assert_allclose(model.log_likelihood_, plain, rtol=1e-10)
    np.testing.assert_array_equal(model.responsibilities_, 1.0)


def test_top_counts_only_the_first_places(simulate):
    panel, _ = simulate(TRUTH)
    cut = replace(panel, ranks=np.where(panel.rank_values > 1, 0, panel.rank_values))
    settings = {"types": 2, "coefficients_init": TRUTH}
    one, two = (
        LatentClassPlackettLuce(**settings, top=1).fit(panel),
        LatentClassPlackettLuce(**settings).fit(cut),
    )
    np.testing.assert_allclose(one.coefficients_, two.coefficients_, atol=1e-10)


def test_more_types_never_fit_worse_and_planted_ones_are_found(simulate):
    panel, kinds = simulate(THREE, annotators=90)
    found = [LatentClassPlackettLuce(types).fit(panel) for types in (1, 2, 3)]
    assert np.diff([model.log_likelihood_ for model in found]).min() > 0
    order = matched_types(torch.as_tensor(found[2].responsibilities_), torch.eye(3)[torch.as_tensor(kinds)])
    assert (order.numpy()[found[2].labels_] == kinds).mean() > 0.95
    assert np.abs(found[2].coefficients_ - THREE[order.numpy()]).max() < 0.5  # standard errors are about 0.15
    assert (np.diff(found[2].mixture_weights_) <= 0).all()


@pytest.mark.parametrize("polish", [False, True])
def test_fixed_and_shared_coefficients_are_kept(simulate, polish):
    panel, _ = simulate(TRUTH)
    fixed = np.full((2, 3), np.nan)
    fixed[0, 0] = 0.7
    model = LatentClassPlackettLuce(2, fixed=fixed, shared=[2], polish=polish).fit(panel)
    assert model.coefficients_[0, 0] == 0.7
    assert model.coefficients_[0, 2] == model.coefficients_[1, 2] != 0
    assert model.n_parameters_ == 4 + 1
    gradient = torch.tensor(model.coefficients_, requires_grad=True)
    shares = np.exp(model.fitted.log_weights[0].numpy())
    marginal(panel, gradient, shares).sum().backward()
    slope = gradient.grad.numpy()
    # The free directions are at rest: a decrement of 1e-12 |log L| leaves slopes of 1e-4. The fixed one need not be.
    tolerance = 1e-3 if polish else 0.05
    assert np.abs([slope[0, 1], slope[1, 0], slope[1, 1], slope[:, 2].sum()]).max() < tolerance
    assert abs(slope[0, 0]) > 1


def test_sharing_all_columns_is_one_type(simulate):
    panel, _ = simulate(TRUTH)
    one = LatentClassPlackettLuce(1).fit(panel)
    two = LatentClassPlackettLuce(2, shared=range(3)).fit(panel)
    np.testing.assert_allclose(two.coefficients_, np.repeat(one.coefficients_, 2, 0), atol=1e-6)
    np.testing.assert_allclose(two.log_likelihood_, one.log_likelihood_, rtol=1e-9)


@pytest.mark.parametrize("worths", [False, True])
def test_the_noise_type_stays_at_zero_and_takes_those_who_click_at_random(simulate, worths):
    kinds = np.repeat([0, 1, 2], [40, 30, 25])
    truth = np.concatenate((TRUTH * 1.5, np.zeros((1, 3)))) if not worths else np.array(
        [[2.0, 1.0, 0.0, -1.0, -2.0], [-2.0, -1.0, 0.0, 1.0, 2.0], [0.0] * 5]
    )  # fmt: skip
    panel, _ = simulate(truth, types=kinds, annotators=95, judgments=12, worths=worths)
    model = LatentClassPlackettLuce(3, noise=True).fit(panel)
    assert (model.coefficients_[2] == 0).all()
    assert ((model.labels_ == 2) == (kinds == 2)).mean() > 0.95
    assert model.mixture_weights_[0] > model.mixture_weights_[1]
    assert model.mixture_weights_[2] == pytest.approx(25 / 95, abs=0.05)


def test_covariates_recover_a_planted_logit(simulate):
    """Membership within 4 standard errors of the truth, and nobody's share the same."""
    rng = np.random.default_rng(0)
    covariates = np.stack((np.ones(800), rng.normal(size=800)), 1)
    planted = np.array([0.5, -1.2])
    kinds = (rng.random(800) < 1 / (1 + np.exp(-covariates @ planted))).astype(int)
    panel, _ = simulate(TRUTH, types=kinds, annotators=800, judgments=5, covariates=covariates)
    model = LatentClassPlackettLuce(2, coefficients_init=TRUTH).fit(panel)
    errors = np.sqrt(np.diag(model.covariance(panel)))[-2:]
    assert errors.max() < 0.15
    assert (np.abs(model.membership_[0] - planted) < 4 * errors).all()
    free = LatentClassPlackettLuce(2).fit(panel)
    assert free.log_likelihood_ == pytest.approx(model.log_likelihood_, rel=1e-9)
    assert free.n_parameters_ == 6 + 2


@pytest.mark.parametrize("settings", [{}, {"noise": True}, {"shared": [1]}, {"types": 4, "max_iterations": 5}])
@pytest.mark.parametrize("with_covariates", [False, True])
def test_types_are_put_in_the_order_of_their_share_with_all_that_is_theirs(simulate, settings, with_covariates):
    """What is kept of a fit gives its responsibilities again, whatever the order the types were found in."""
    kinds = np.repeat([0, 1, 2], [10, 20, 50])
    covariates = np.stack((np.ones(80), np.random.default_rng(0).normal(size=80) + kinds), 1)
    panel, _ = simulate(THREE, annotators=80, types=kinds, covariates=covariates if with_covariates else None)
    for seed in range(3):
        model = LatentClassPlackettLuce(**{"types": 3, "seed": seed} | settings).fit(panel)
        movable = model.types - model.noise
        assert (np.diff(model.mixture_weights_[:movable]) <= 0).all()
        np.testing.assert_allclose(model.predict_proba(panel), model.responsibilities_, atol=1e-9)
        if with_covariates:
            scores = np.pad(covariates @ model.membership_.T, ((0, 0), (1, 0)))
            shares = np.exp(scores - np.log(np.exp(scores).sum(1, keepdims=True)))
            np.testing.assert_allclose(np.exp(model.fitted.log_weights[0].numpy()), shares, rtol=1e-9, atol=1e-12)


def test_a_constant_as_covariate_is_one_share_for_all(simulate):
    panel, _ = simulate(TRUTH, types=np.arange(40) % 3 % 2)
    constant = replace(panel, covariates=np.ones((40, 1)))
    one, two = (
        LatentClassPlackettLuce(2, coefficients_init=TRUTH).fit(panel),
        LatentClassPlackettLuce(2, coefficients_init=TRUTH).fit(constant),
    )
    np.testing.assert_allclose(two.coefficients_, one.coefficients_, atol=1e-6)
    np.testing.assert_allclose(
        two.membership_, [[np.log(one.mixture_weights_[1] / one.mixture_weights_[0])]], atol=1e-5
    )
    assert LatentClassPlackettLuce(1).fit(constant).log_likelihood_ == pytest.approx(
        LatentClassPlackettLuce(1).fit(panel).log_likelihood_, rel=1e-12
    )


def test_what_a_type_does_not_consider_is_as_if_not_shown(simulate):
    worths = np.array([[0.0, 1.0, -1.0, 0.5, 0.0], [1.0, -1.0, 1.0, 0.0, -0.5]])
    panel, kinds = simulate(worths, worths=True, judgments=6)
    ranks = np.where(panel.rank_values == 1, 1, 0)
    # The first type never takes response 0: those judgments show it the other two only.
    first = kinds[panel.annotator_ids] == 0
    took = ((panel.response_ids == 0) & (ranks == 1)).any(1) & first
    second = panel.rank_values == 2
    ranks = np.where(took[:, None], np.where(second, 1, 0), ranks)
    available = np.ones((2, 5), dtype=bool)
    available[0, 0] = False
    panel = replace(panel, ranks=ranks, available=available)
    start = {"responsibilities_init": np.eye(2)[kinds]}
    model = LatentClassPlackettLuce(2, **start).fit(panel)
    unseen = replace(panel, available=None, ranks=np.where((panel.response_ids == 0) & (ranks == 0), -1, ranks))
    each = [
        judgment_log_likelihoods(unseen, torch.as_tensor(model.coefficients_[0])),
        judgment_log_likelihoods(panel, torch.as_tensor(model.coefficients_[1])),
    ]
    chose = torch.as_tensor(((panel.response_ids == 0) & (ranks == 1)).any(1))
    each[0] = torch.where(chose, -torch.inf, each[0])
    log_eta = model.fitted.log_weights[0]
    joint = torch.stack(
        [
            torch.zeros(40, dtype=torch.float64).index_add(0, torch.as_tensor(panel.annotator_ids), found)
            for found in each
        ],
        1,
    )
    expected = torch.softmax(joint + log_eta, 1)
    np.testing.assert_allclose(model.responsibilities_, expected, atol=1e-10)
    assert (model.responsibilities_[np.unique(panel.annotator_ids[chose.numpy()]), 0] == 0).all()
    np.testing.assert_allclose(model.log_likelihood_, torch.logsumexp(joint + log_eta, 1).sum().item(), rtol=1e-11)
    default = LatentClassPlackettLuce(2).fit(panel)
    assert default.log_likelihood_ >= model.log_likelihood_ - 1e-6


def test_a_judgment_of_reliability_zero_says_nothing_even_if_it_is_impossible(simulate):
    panel, _ = simulate(np.array([[1.0, 0.0, -1.0]]), worths=True)
    available = np.array([[False, True, True], [True, True, True]])
    took = ((panel.response_ids == 0) & (panel.rank_values < 3)).any(1) & (panel.annotator_ids < 20)
    ignored = replace(panel, available=available, reliability=1.0 - took)
    left_out = replace(
        panel,
        available=available,
        responses=panel.response_ids[~took],
        ranks=panel.rank_values[~took],
        annotator=panel.annotator_ids[~took],
        population=np.ones(40),
    )
    one, two = (LatentClassPlackettLuce(2).fit(made) for made in (ignored, left_out))
    assert one.log_likelihood_ == pytest.approx(two.log_likelihood_, rel=1e-9)
    np.testing.assert_allclose(one.responsibilities_, two.responsibilities_, atol=1e-5)


def test_a_start_that_availability_forbids_is_mended(simulate):
    """Responsibilities for a type that cannot explain an annotator move to one that can."""
    panel, _ = simulate(np.array([[1.0, 0.0, -1.0, 0.0]]), worths=True)
    available = np.ones((2, 4), dtype=bool)
    available[0, 0] = False
    panel = replace(panel, available=available)
    wrong = np.tile([1.0, 0.0], (panel.annotators, 1))
    model = LatentClassPlackettLuce(2, responsibilities_init=wrong, max_iterations=0, polish=False).fit(panel)
    alone = LatentClassPlackettLuce(1).fit(replace(panel, available=None))
    np.testing.assert_allclose(model.coefficients_[1], alone.coefficients_[0], atol=1e-6)
    assert np.isfinite(model.log_likelihood_)


def test_drafts_lead_to_the_same_optimum(simulate, monkeypatch):
    panel, _ = simulate(TRUTH, annotators=200)
    expected = LatentClassPlackettLuce(2).fit(panel)
    monkeypatch.setattr(latent_class, "DRAFT_JUDGMENTS", 500)
    model = LatentClassPlackettLuce(2)
    assert model._draft(panel).judgments == pytest.approx(500, abs=8)
    np.testing.assert_allclose(model.fit(panel).coefficients_, expected.coefficients_, atol=1e-8)
    covariates = np.random.default_rng(0).normal(size=(200, 1))
    assert LatentClassPlackettLuce(2).fit(replace(panel, covariates=covariates)).converged_


def test_rough_curvatures_lead_to_the_same_optimum(simulate, monkeypatch):
    panel, _ = simulate(TRUTH, annotators=200)
    exact = LatentClassPlackettLuce(2).fit(panel)
    monkeypatch.setattr(em, "SAMPLE", 10)
    rough = LatentClassPlackettLuce(2).fit(panel)
    np.testing.assert_allclose(rough.coefficients_, exact.coefficients_, atol=1e-5)
    assert rough.converged_
    assert rough.log_likelihood_ == pytest.approx(exact.log_likelihood_, abs=1e-6)


def test_starts_reach_one_optimum_whatever_the_seed(simulate):
    panel, _ = simulate(THREE, annotators=90)
    values = [LatentClassPlackettLuce(3, seed=seed).fit(panel).log_likelihood_ for seed in range(4)]
    np.testing.assert_allclose(values, values[0], rtol=1e-9)


def test_new_annotators_are_judged_by_bayes_rule(simulate):
    panel, _ = simulate(TRUTH)
    model = LatentClassPlackettLuce(2).fit(panel)
    new, kinds = simulate(TRUTH, annotators=30, seed=5)
    shares = np.exp(model.fitted.log_weights[0].numpy())
    whole = marginal(new, model.coefficients_, shares)
    for kind in range(2):
        own = marginal(new, model.coefficients_[[kind]], shares[[kind]])
        np.testing.assert_allclose(model.predict_proba(new)[:, kind], (own - whole).exp(), rtol=1e-9, atol=1e-12)
    order = matched_types(torch.as_tensor(model.predict_proba(new)), torch.eye(2)[torch.as_tensor(kinds)])
    assert (order.numpy()[model.predict(new)] == kinds).mean() > 0.9
    silent = Panel(np.zeros((0, 2)), np.zeros((0, 2)), [], features=panel.features, population=np.ones(3))
    np.testing.assert_allclose(model.predict_proba(silent), np.tile(shares, (3, 1)), rtol=1e-12)


def test_new_judgments_need_not_show_every_response(simulate):
    """Ids keep their worths where the last ones do not occur."""
    worths = np.array([[2.0, 1.0, 0.0, -1.0, -2.0, 0.5], [-2.0, -1.0, 0.0, 1.0, 2.0, -0.5]])
    panel, _ = simulate(worths, worths=True)
    model = LatentClassPlackettLuce(2).fit(panel)
    kept = (panel.response_ids < 4).all(1)
    few = Panel(panel.response_ids[kept], panel.rank_values[kept], panel.annotator_ids[kept], population=np.ones(40))
    assert few.response_count == 4
    expected = model.predict_proba(replace(few, response_total=6))
    np.testing.assert_array_equal(model.predict_proba(few), expected)
    assert model.covariance(few).shape == (13, 13)


def test_predictions_refuse_what_was_not_fitted(simulate):
    panel, _ = simulate(TRUTH, covariates=np.ones((40, 1)))
    model = LatentClassPlackettLuce(2).fit(panel)
    with pytest.raises(ValueError, match="covariates: found 0, expected the 1"):
        model.predict_proba(replace(panel, covariates=None))
    with pytest.raises(ValueError, match="features: found 2, expected the 3"):
        model.predict_proba(replace(panel, features=np.asarray(panel.features)[:, :2]))
    with pytest.raises(ValueError, match="responses: found 960, expected the 3"):
        model.predict_proba(replace(panel, features=None))

"""How many types: planted numbers are found, and one type is an answer."""

import numpy as np
import pytest
from sklearn.base import clone

from pluralign.choice.latent_class.estimator import LatentClassPlackettLuce
from pluralign.choice.latent_class.selection import PATIENCE, Selection, select_types

PLANTED = np.array([[2.0, 0.0, 0.0], [-1.0, 2.0, 0.0], [-1.0, -1.0, 2.0]])
QUICK = {"restarts": 2, "max_iterations": 100}


@pytest.mark.parametrize(("types", "worths"), [(1, True), (1, False), (2, True), (2, False), (3, False)])
def test_planted_types_are_counted(simulate, types, worths):
    panel, _ = simulate(PLANTED[:types], annotators=48, judgments=6, worths=worths)
    found = select_types(panel, range(1, 7), **QUICK)
    assert found.chosen == types
    assert len(found.model.mixture_weights_) == types
    assert types < found.types[-1] <= types + PATIENCE  # the search ends after one or two that gain nothing
    if types > 1:
        assert found.gain_of(types).exceeds()


@pytest.mark.parametrize("weights", [np.ones(9), np.linspace(0.5, 3, 9)])
def test_held_out_numbers_are_those_of_the_folds(simulate, weights):
    """Leaving one annotator out at a time: what it says is worked out fold by fold."""
    panel, _ = simulate(PLANTED[:2], annotators=9, population=weights)
    found = select_types(panel, [1, 2], folds=100, **QUICK)
    each = np.zeros((2, 9))
    for row, types in enumerate((1, 2)):
        for out in range(9):
            own = found.models[row]
            model = LatentClassPlackettLuce(types, ridge=own.ridge, common_ridge=own.common_ridge, **QUICK)
            model.fit(panel.of_annotators([who for who in range(9) if who != out]))
            each[row, out] = weights[out] * model.annotator_log_likelihood(panel.of_annotators([out]))[0]
    places = panel.judgments * weights.mean()
    # Fits on folds end at a Newton decrement of 1e-7, so held-out numbers are right to about its root times a gradient.
    np.testing.assert_allclose(found.held_out, each.sum(1) / places, rtol=1e-5)
    gain = each[1] - each[0]
    np.testing.assert_allclose(found.gain, [0, gain.sum() / places], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.gain_error[1], gain.std(ddof=1) * 3 / places, rtol=1e-5, atol=1e-5)


def test_a_gain_must_exceed_so_many_errors(simulate):
    panel, _ = simulate(PLANTED[:2], annotators=40)
    assert select_types(panel, [1, 2], errors=1.0, **QUICK).chosen == 2
    assert select_types(panel, [1, 2], errors=1e6, **QUICK).chosen == 1


def test_one_type_is_nested_in_two(simulate):
    """Equal likelihoods where the ridge of the differences lets them be nothing, in every way of solving."""
    for worths in (False, True):
        panel, _ = simulate(PLANTED[:2], annotators=30, judgments=6, worths=worths)
        single = LatentClassPlackettLuce(1, ridge=0.5).fit(panel)
        both = LatentClassPlackettLuce(2, ridge=1e7, common_ridge=0.5).fit(panel)
        assert both.log_likelihood_ == pytest.approx(single.log_likelihood_, abs=1e-5)
        np.testing.assert_allclose(both.coefficients_, np.repeat(single.coefficients_, 2, 0), atol=1e-5)


@pytest.mark.parametrize("worths", [False, True])
def test_the_prior_is_a_common_taste_that_was_maximised_over(simulate, worths):
    panel, _ = simulate(PLANTED[:2], annotators=30, judgments=6, worths=worths)
    ridge, common = 2.0, 0.5
    model = LatentClassPlackettLuce(2, ridge=ridge, common_ridge=common).fit(panel)
    theta = model.coefficients_
    centre = ridge * theta.sum(0) / (common + 2 * ridge)
    penalty = ridge / 2 * ((theta - centre) ** 2).sum() + common / 2 * (centre**2).sum()
    assert float(model.fitted.objective[0]) == pytest.approx(model.log_likelihood_ - penalty, abs=1e-8)


def test_one_kind_of_annotators_is_one_type(simulate):
    """The null case: a larger number of types must not win by shrinking less."""
    for seed in range(4):
        panel, _ = simulate(PLANTED[:1], annotators=48, judgments=8, seed=seed)
        found = select_types(panel, range(1, 5), **QUICK)
        assert found.chosen == 1
        assert not found.gain_of(2).exceeds()


def test_numbers_too_large_for_the_folds_are_left_out(simulate):
    panel, _ = simulate(PLANTED[:2], annotators=5, judgments=3)
    found = select_types(panel, range(1, 9), folds=2, errors=-1e9, **QUICK)  # every number is taken
    assert found.types.tolist() == [1, 2]
    with pytest.raises(ValueError, match="expected a number up to 2, the annotators that are fitted in each fold"):
        select_types(panel, [3, 4], folds=2)
    with pytest.raises(ValueError, match="found fewer than two"):
        select_types(panel.of_annotators([0]))


def test_the_folds_work_with_covariates_weights_and_silent_annotators(simulate):
    rng = np.random.default_rng(0)
    panel, _ = simulate(PLANTED[:2], annotators=30)
    panel = panel.of_annotators(range(30))
    kept = panel.annotator_ids < 24  # the last 6 say nothing
    silent = type(panel)(
        panel.response_ids[kept],
        panel.rank_values[kept],
        panel.annotator_ids[kept],
        features=panel.features,
        reliability=rng.random(kept.sum()) + 0.5,
        population=rng.random(30),
        covariates=np.stack((np.ones(30), rng.normal(size=30)), 1),
    )
    found = select_types(silent, [1, 2], folds=25, **QUICK)
    assert found.chosen == 2
    assert np.isfinite([found.held_out, found.gain, found.gain_error, found.bic]).all()


def test_models_are_scikit_learn_estimators():
    settings = {"types": 3, "noise": True, "ridge": 0.1, "shared": (1,), "seed": 4}
    model = LatentClassPlackettLuce(**settings)
    copied = clone(model)
    assert copied is not model
    assert copied.get_params() == model.get_params()
    assert {name: model.get_params()[name] for name in settings} == settings
    assert model.set_params(types=2).types == 2


def test_a_given_number_is_a_selection_of_one(simulate):
    panel, _ = simulate(PLANTED[:2])
    model = LatentClassPlackettLuce(2).fit(panel)
    found = Selection.of_one(model)
    assert found.chosen == 2
    assert found.model is model
    assert found.bic == [model.bic_]

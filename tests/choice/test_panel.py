"""What a panel refuses, and degenerate panels that a fit must survive with finite numbers."""

import itertools
import time
from dataclasses import replace

import numpy as np
import pytest

from pluralign.choice.latent_class.estimator import LatentClassPlackettLuce
from pluralign.choice.latent_class.identification import design, evidence, identification
from pluralign.choice.latent_class.panel import Panel

PAIRS = {"responses": [[0, 1], [1, 2]], "ranks": [[1, 2], [2, 1]], "annotator": [0, 1]}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"annotator": [0, -1]}, "annotator: expected ids from 0 to 0, found -1"),
        ({"population": [1.0]}, "annotator: expected ids from 0 to 0, found 1"),
        ({"covariates": [[1.0]]}, "annotator: expected ids from 0 to 0, found 1"),
        ({"features": [[0.0], [1.0]]}, "responses: expected ids from 0 to 1, found 2"),
        ({"response_total": 2}, "responses: expected ids from 0 to 1, found 2"),
        ({"responses": [[0, 1], [-1, 2]]}, "responses: expected ids from 0 to 2, found -1"),
        ({"features": [[0.0], [1.0], [np.nan]]}, "features: found a value that is not finite"),
        ({"covariates": [[0.0], [np.inf]]}, "covariates: found a value that is not finite"),
        ({"reliability": [np.nan, 1]}, "reliability: found a value that is not finite"),
        ({"reliability": [-1, 1]}, "reliability: expected 0 or more, found -1"),
        ({"population": [-1, 1]}, "population: expected 0 or more, found -1"),
        ({"ranks": [[1, np.nan], [1, 2]]}, "ranks: expected whole numbers"),
        ({"annotator": [0.5, 1]}, "annotator: expected whole numbers"),
        ({"ranks": [[1, 2, 3], [1, 2, 3]]}, r"responses: expected the shape of ranks \(2, 3\), found \(2, 2\)"),
        ({"annotator": [0, 1, 1]}, r"expected the shape \(3, None\), found \(2, 2\)"),
        ({"annotator": 0}, r"annotator: expected 1 dimensions, found the shape \(\)"),
        ({"responses": [0, 1]}, r"responses: expected 2 dimensions, found the shape \(2,\)"),
        ({"features": [0.0, 1.0, 2.0]}, "features: expected 2 dimensions"),
        ({"reliability": [1.0]}, r"reliability: expected the shape \(2,\), found \(1,\)"),
        ({"available": [[True, True]]}, r"available: expected the shape \(None, 3\), found \(1, 2\)"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        Panel(**PAIRS | wrong)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"types": 0}, "types: found 0, expected 1 to 2"),
        ({"types": 3}, "types: found 3, expected 1 to 2, the number of annotators"),
        ({"types": 1, "noise": True}, "noise: needs at least 2 types"),
        ({"types": 1, "restarts": 0}, "expected restarts >= 1"),
        ({"types": 1, "ridge": -1.0}, "ridge >= 0"),
        ({"types": 1, "ties": "marginal"}, "ties: found 'marginal', expected efron or breslow"),
        ({"types": 2, "fixed": [[0.0] * 3]}, r"fixed: expected the shape \(2, 3\), found \(1, 3\)"),
        ({"types": 2, "shared": [3]}, r"shared: found \[3\], expected columns from 0 to 2"),
        ({"types": 2, "coefficients_init": [[0.0] * 3]}, r"coefficients_init: expected the shape \(2, 3\)"),
        ({"types": 2, "responsibilities_init": [[1.0] * 2]}, r"responsibilities_init: expected the shape \(2, 2\)"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        LatentClassPlackettLuce(**settings).fit(Panel(**PAIRS))


def test_panels_that_nothing_can_be_fitted_to_are_named():
    with pytest.raises(ValueError, match="found no judgment"):
        LatentClassPlackettLuce(1).fit(Panel(np.zeros((0, 2)), np.zeros((0, 2)), []))
    with pytest.raises(ValueError, match="features: found no column"):
        LatentClassPlackettLuce(1).fit(Panel(**PAIRS, features=np.zeros((3, 0))))
    with pytest.raises(ValueError, match="population: found only zeros"):
        LatentClassPlackettLuce(1).fit(Panel(**PAIRS, population=[0, 0]))
    with pytest.raises(ValueError, match="available: found 1 rows, expected one for each of the 2 types"):
        LatentClassPlackettLuce(2).fit(Panel(**PAIRS, available=[[True] * 3]))
    with pytest.raises(ValueError, match="available: annotator 1 chose responses that no single type considers"):
        LatentClassPlackettLuce(2).fit(Panel(**PAIRS, available=[[True, True, False]] * 2))


def test_some_of_the_annotators_keep_all_that_is_theirs(simulate):
    rng = np.random.default_rng(0)
    panel, _ = simulate(
        [[1.0, -1.0]],
        annotators=10,
        judgments=3,
        reliability=rng.random(30),
        population=rng.random(10),
        covariates=rng.random((10, 2)),
    )
    chosen = [7, 2, 5]
    some = panel.of_annotators(chosen)
    for number, who in enumerate(chosen):
        old, new = panel.annotator_ids == who, some.annotator_ids == number
        for name in ("responses", "ranks", "reliability"):
            np.testing.assert_array_equal(getattr(some, name)[new], getattr(panel, name)[old])
        assert some.population[number] == panel.population[who]
        np.testing.assert_array_equal(some.covariates[number], panel.covariates[who])
    assert some.judgments == 9
    assert some.response_count == panel.response_count


def finite(panel, types, **settings):
    """A fit all of whose numbers are finite."""
    model = LatentClassPlackettLuce(types, **settings).fit(panel)
    for value in (
        model.coefficients_, model.mixture_weights_, model.membership_, model.responsibilities_,
        model.log_likelihood_, model.bic_, model.trace_, model.covariance(panel), model.predict_proba(panel),
    ):  # fmt: skip
        assert np.isfinite(value).all()
    np.testing.assert_allclose(model.responsibilities_.sum(1), 1)
    np.testing.assert_allclose(model.mixture_weights_.sum(), 1)
    return model


def degenerate():
    rng = np.random.default_rng(0)
    pairs = np.arange(80).reshape(40, 2)
    strict = np.tile([1, 2], (40, 1))
    person = np.arange(40) // 4
    features = rng.normal(size=(80, 2))
    above = np.where(np.arange(80)[:, None] % 2, features - 5, features + 5)  # the first always has more
    one_each = np.arange(40)
    return {
        "one judgment each": Panel(pairs, strict, one_each, features),
        "all tied": Panel(pairs, np.ones((40, 2)), person, features),
        "nothing ranked": Panel(pairs, np.zeros((40, 2)), person, features),
        "separable": Panel(pairs, strict, person, above),
        "separable worths": Panel(np.tile([0, 1], (40, 1)), strict, person),
        "collinear": Panel(pairs, strict, person, features[:, [0, 1, 0]]),
        "constant": Panel(pairs, strict, person, np.ones((80, 2))),
        "disconnected": Panel(pairs % 8, strict, person),
        "one response shown": Panel(pairs[:, :1], strict[:, :1], person, features),
        "one response among pairs": Panel(
            pairs, np.where(np.arange(40)[:, None] % 2, [1, -1], strict), person, features
        ),
        "one pair by all": Panel(np.tile([0, 1], (40, 1)), rng.permuted(strict, axis=1), person),
        "the same response twice": Panel(np.tile([0, 0, 1], (40, 1)), np.tile([1, 2, 3], (40, 1)), person),
        "silent annotators": Panel(pairs, strict, person, features, population=np.ones(20)),
        "weights of zero": Panel(pairs, strict, person, features, population=np.arange(10) > 4),
        "judgments of zero": Panel(pairs, strict, person, features, reliability=np.arange(40) % 4 > 2),
        "huge features": Panel(pairs, strict, person, features * 1e6),
        "tiny features": Panel(pairs, strict, person, features * 1e-6),
        "as many types as annotators": Panel(pairs[:3], strict[:3], [0, 1, 2], features),
        "two annotators": Panel(pairs, strict, person % 2, features),
    }


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("name", "types"),
    [(n, k) for n, k in itertools.product(degenerate(), (1, 2, 3)) if k <= degenerate()[n].annotators],
)
def test_degenerate_panels_give_finite_fits(name, types):
    panel = degenerate()[name]
    model = finite(panel, types)
    verdict = identification(design(panel), evidence(model, panel) if types > 1 else None)
    assert verdict.verdict in ("identified", "weak", "not identified")
    if name in ("all tied", "nothing ranked"):
        np.testing.assert_allclose(model.coefficients_, 0, atol=1e-3)
    if name.startswith("separable"):
        assert model.log_likelihood_ > -0.01


def test_one_annotator_has_one_type(simulate):
    panel, _ = simulate([[1.0, -1.0]], annotators=1, judgments=30)
    model = finite(panel, 1)
    assert model.responsibilities_.tolist() == [[1.0]]
    with pytest.raises(ValueError, match="types: found 2, expected 1 to 1, the number of annotators"):
        LatentClassPlackettLuce(2).fit(panel)


def test_features_in_any_order_in_memory(simulate):
    panel, _ = simulate([[1.0, -1.0], [-1.0, 0.5]])
    turned = replace(
        panel, features=np.asarray(panel.features)[::-1], responses=panel.response_count - 1 - panel.response_ids
    )
    init = np.array([[-1.0, 0.5], [1.0, -1.0]])[::-1]
    one, two = (LatentClassPlackettLuce(2, coefficients_init=init).fit(p) for p in (panel, turned))
    np.testing.assert_allclose(one.coefficients_, two.coefficients_, atol=1e-8)


def test_a_hundred_thousand_annotators_take_seconds():
    """Equal choices are counted, so 10^5 pairs of 10 responses cost as much as 90."""
    rng = np.random.default_rng(0)
    number = 100_000
    worths = np.linspace(-1, 1, 10)
    pairs = np.stack((rng.integers(0, 5, 2 * number), rng.integers(5, 10, 2 * number)), 1)
    person = np.repeat(np.arange(number), 2)
    utilities = worths[pairs] * np.where(person % 2, 2, -2)[:, None] + rng.gumbel(size=pairs.shape)
    panel = Panel(pairs, (-utilities).argsort(1).argsort(1) + 1, person)
    start = time.perf_counter()
    model = LatentClassPlackettLuce(2, max_iterations=10).fit(panel)
    assert time.perf_counter() - start < 60  # about 3 seconds on one core
    assert np.isfinite(model.coefficients_).all()
    found = model.coefficients_ - model.coefficients_.mean(1, keepdims=True)
    expected = np.stack((worths, -worths)) * 2
    expected = expected if found[0, 9] > 0 else -expected
    np.testing.assert_allclose(found, expected, atol=0.3)

"""Types or degrees: the continuum that matches fitted types, and the verdict between the two."""

import numpy as np
import pytest

from pluralign.choice.latent_class.continuum import continuum_log_likelihood, matched_normal
from pluralign.choice.latent_class.estimator import LatentClassPlackettLuce
from pluralign.choice.latent_class.identification import design, identification
from pluralign.choice.latent_class.panel import Panel
from pluralign.choice.latent_class.selection import Gain, Selection, select_types

PLANTED = np.array([[2.0, 0.0, 0.0], [-1.0, 2.0, 0.0], [-1.0, -1.0, 2.0]])


def panel_of(theta, seed=0, judgments=12):
    """Rankings of three among 200 responses with normal features, by annotators with the given coefficients."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(200, theta.shape[1]))
    person = np.repeat(np.arange(len(theta)), judgments)
    shown = np.stack([rng.permutation(200)[:3] for _ in person])
    utility = (features[shown] * theta[person][:, None]).sum(-1) + rng.gumbel(size=shown.shape)
    return Panel(shown, (-utility).argsort(1).argsort(1) + 1, person, features)


@pytest.mark.parametrize("worths", [True, False])
def test_the_likelihood_of_the_continuum_is_its_integral(simulate, worths):
    """Against a fine grid over the only direction of two types."""
    panel, _ = simulate(PLANTED[:2], annotators=12, judgments=5, worths=worths)
    model = LatentClassPlackettLuce(2, ridge=0.5).fit(panel)
    mean, loadings = matched_normal(model)
    grid = np.linspace(-7, 7, 141)
    each = []
    for z in grid:
        at = LatentClassPlackettLuce(
            1, coefficients_init=(mean + loadings[:, 0] * z)[None], max_iterations=0, polish=False
        )
        each.append(at.fit(panel).annotator_log_likelihood(panel))
    density = np.exp(-(grid**2) / 2)[:, None] / np.exp(-(grid**2) / 2).sum()
    exact = np.log((np.exp(each) * density).sum(0))
    found = continuum_log_likelihood(model, panel, draws=1024)[0]
    np.testing.assert_allclose(found, exact, atol=3e-3)


def test_a_continuum_without_spread_is_one_taste(simulate):
    panel, _ = simulate(PLANTED[:2], annotators=12, judgments=5)
    model = LatentClassPlackettLuce(2, ridge=0.5).fit(panel)
    taste = matched_normal(model)[0][None]
    one = LatentClassPlackettLuce(1, coefficients_init=taste, max_iterations=0, polish=False).fit(panel)
    found = continuum_log_likelihood(model, panel, (1e-4,), draws=0)[0]
    np.testing.assert_allclose(found, one.annotator_log_likelihood(panel), atol=1e-5)


def test_without_information_the_continuum_is_chance(simulate):
    """Nothing but chance can be said of responses without features: no error of the integral may look like a gain."""
    panel, _ = simulate(PLANTED, annotators=18, judgments=5)
    model = LatentClassPlackettLuce(3, ridge=0.5).fit(panel)
    blank = Panel(panel.response_ids, panel.rank_values, panel.annotator_ids, np.zeros_like(panel.features))
    expected = LatentClassPlackettLuce(1).fit(blank).annotator_log_likelihood(blank)
    np.testing.assert_allclose(continuum_log_likelihood(model, blank)[0], expected, rtol=1e-12)


def test_a_type_that_ranks_at_random_stays_a_type(simulate):
    panel, _ = simulate(PLANTED[:1], annotators=12, judgments=5)
    model = LatentClassPlackettLuce(2, noise=True, ridge=0.5).fit(panel)
    found = continuum_log_likelihood(model, panel)[0]  # one taste and noise have no direction to differ in
    np.testing.assert_allclose(found, model.annotator_log_likelihood(panel), atol=1e-9)


def test_camps_are_types_and_one_taste_is_one():
    rng = np.random.default_rng(0)
    camps = panel_of(PLANTED[np.arange(60) % 3])
    found = select_types(camps, range(1, 5), restarts=4)
    assert (found.chosen, found.heterogeneity) == (3, "types")
    same = panel_of(np.repeat(PLANTED[:1], 60, 0), seed=rng.integers(100))
    assert select_types(same, range(1, 5), restarts=4).heterogeneity == "one taste"


def test_degrees_are_a_continuum():
    """People spread along one direction, with enough judgments to see that they are not in two camps."""
    spread = np.random.default_rng(1).normal(size=200)[:, None] * np.array([[2.5, 0.0, 0.0]])
    found = select_types(panel_of(spread + np.array([0.0, 1.0, 0.0]), judgments=24), range(1, 4), restarts=4)
    assert found.heterogeneity == "continuum"


def selection(one, two, continuum):
    """Held-out log-likelihoods of 40 annotators that differ from those of one type by constants and a little noise."""
    noise = np.random.default_rng(0).normal(size=(3, 40)) * 0.01
    scores = np.stack([one + noise[0], two + noise[1]])
    chosen = 2 if two > one + 0.1 else 1
    none = np.full(2, np.nan)
    return Selection(np.array([1, 2]), none, none, none, none, [], chosen, scores, 40.0, continuum + noise[2])


@pytest.mark.parametrize(
    ("one", "two", "continuum", "expected"),
    [
        (0.0, 0.0, 0.0, "one taste"),
        (0.0, 1.0, 0.5, "types"),
        (0.0, 1.0, 1.0, "undecided"),
        (0.0, 1.0, 1.5, "continuum"),
        (0.0, 0.0, 1.0, "continuum"),
    ],
)
def test_the_verdict_compares_held_out_judgments(one, two, continuum, expected):
    assert selection(one, two, continuum).heterogeneity == expected


@pytest.mark.parametrize(
    ("gain", "continuum", "heterogeneity", "verdict", "sentence"),
    [
        (
            0.001,
            -0.01,
            "one taste",
            "one type",
            "No types: one taste predicts held-out judgments as well as 2 types do",
        ),
        (0.3, -0.05, "types", "identified", "Types: 2 types predict held-out judgments better than one taste does"),
        (0.3, 0.1, "continuum", "weak", "People differ by degrees, not in camps: a continuum of tastes"),
        (0.3, 0.0, "undecided", "identified", "Types, or degrees: 2 types predict held-out judgments better"),
    ],
)
def test_the_sentence_names_the_answer(gain, continuum, heterogeneity, verdict, sentence):
    collected = design(panel_of(PLANTED[np.arange(20) % 3]))
    found = identification(
        collected, types=2, gain=Gain(gain, 0.01), heterogeneity=heterogeneity, continuum=Gain(continuum, 0.01)
    )
    assert (found.verdict, found.heterogeneity) == (verdict, heterogeneity)
    assert found.sentence.startswith(sentence)
    assert found.sentence.endswith("Train one policy.") == (heterogeneity == "one taste")

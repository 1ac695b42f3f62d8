"""Estimates that others have published or that other programs find."""

import json

import choix
import networkx
import numpy as np
import pytest
import torch

from pluralign.choice.latent_class.estimator import LatentClassPlackettLuce
from pluralign.choice.latent_class.panel import Panel, components
from pluralign.choice.plackett_luce import log_likelihood
from published_panels import swissmetro, travel_modes


@pytest.fixture(scope="module")
def reference(shared_data):
    return json.loads((shared_data / "choice_panel" / "REFERENCE.json").read_text())


@pytest.fixture(scope="module")
def travellers(shared_data):
    return swissmetro(shared_data / "choice_panel")


def test_swissmetro_logit(travellers, reference):
    """Biogeme's example b01a, printed to three digits."""
    expected = reference["swissmetro_b01a_MNL"]
    assert (travellers.judgments, travellers.annotators) == (6768, 752)
    equal = LatentClassPlackettLuce(1, max_iterations=0, ridge=0.0).fit(travellers)
    assert equal.log_likelihood_ == pytest.approx(expected["LL0"], abs=1e-3)
    model = LatentClassPlackettLuce(1, ridge=0.0).fit(travellers)
    assert model.log_likelihood_ == pytest.approx(expected["LL"], abs=1e-3)
    names = ("asc_train", "asc_car", "b_time", "b_cost")
    np.testing.assert_allclose(model.coefficients_[0], [expected[name] for name in names], atol=0.01)


def test_swissmetro_two_types_whatever_the_seed(travellers):
    """The best optimum of the plain two-class panel likelihood over 40 random starts of a quasi-Newton method."""
    for seed in range(3):
        model = LatentClassPlackettLuce(2, seed=seed).fit(travellers)
        assert model.converged_
        assert model.log_likelihood_ == pytest.approx(-4318.8398, abs=1e-3)
        np.testing.assert_allclose(model.mixture_weights_, [0.786, 0.214], atol=1e-3)
    shares = np.exp(model.fitted.log_weights[0].numpy())
    utilities = torch.as_tensor(model.coefficients_ @ np.asarray(travellers.features).T)
    found = log_likelihood(
        utilities[:, torch.as_tensor(travellers.response_ids)], torch.as_tensor(travellers.rank_values)
    )
    whole = torch.zeros(2, 752, dtype=torch.float64).index_add(1, torch.as_tensor(travellers.annotator_ids), found)
    plain = torch.logsumexp(whole + torch.as_tensor(shares).log()[:, None], 0).sum().item()
    assert plain == pytest.approx(model.log_likelihood_, abs=1e-8)


def test_travel_modes_follow_the_published_trace(shared_data, reference):
    """The LCCM package's example: choice sets, coefficients and covariates differ between the classes."""
    expected = reference["lccm_qualtrics_2class"]
    panel, settings = travel_modes(shared_data / "choice_panel", expected)
    assert (panel.judgments, panel.annotators) == (expected["n_obs"], expected["n_ind"])
    trace = expected["EM_trace_from_given_start"]
    steps = {"max_iterations": len(trace) - 1, "tolerance": 0.0, "polish": False}
    followed = LatentClassPlackettLuce(**settings, **steps).fit(panel)
    np.testing.assert_allclose(followed.trace_, trace, atol=1e-4)


def test_travel_modes_reach_the_published_estimates(shared_data, reference):
    """Printed where the package stopped, within 2e-4 of the optimum: about 0.01 in what is known least."""
    expected = reference["lccm_qualtrics_2class"]
    panel, settings = travel_modes(shared_data / "choice_panel", expected)
    model = LatentClassPlackettLuce(**settings).fit(panel)
    assert model.converged_
    assert model.n_parameters_ == expected["n_par"]
    assert model.log_likelihood_ == pytest.approx(expected["LL"], abs=2e-3)
    first, second = expected["class1"], expected["class2"]
    np.testing.assert_allclose(
        model.coefficients_[0, [0, 1, 2, 5, 6]],
        [first[n] for n in list(first)[1:5]][:3] + list(first.values())[-2:],
        atol=2e-3,
    )
    np.testing.assert_allclose(model.coefficients_[0, 3], list(first.values())[4], atol=1e-2)
    np.testing.assert_allclose(model.coefficients_[1, 7:], list(second.values())[1:], atol=3e-3)
    np.testing.assert_allclose(model.membership_[0], list(expected["membership_class2"].values()), atol=3e-3)
    with_more = LatentClassPlackettLuce(2, fixed=settings["fixed"], ridge=1e-6, seed=1).fit(panel)
    assert with_more.log_likelihood_ >= expected["LL"] - 2e-3


def test_worths_equal_choix():
    """Maximum likelihood over 3,000 rankings of 4 of 20, by its iterative spectral method."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=20)
    shown = np.stack([rng.permutation(20)[:4] for _ in range(3000)])
    order = np.take_along_axis(shown, (-(truth[shown] + rng.gumbel(size=shown.shape))).argsort(1), 1)
    expected = choix.ilsr_rankings(20, order.tolist(), tol=1e-12)
    panel = Panel(order, np.tile([1, 2, 3, 4], (3000, 1)), np.arange(3000))
    found = LatentClassPlackettLuce(1, ridge=1e-9).fit(panel).coefficients_[0]
    np.testing.assert_allclose(found - found.mean(), expected - expected.mean(), atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_connected_parts_equal_networkx(seed):
    rng = np.random.default_rng(seed)
    responses = rng.integers(0, 60, (30, 3))
    ranks = rng.integers(-1, 3, (30, 3))
    graph = networkx.Graph()
    for row, shown in zip(responses, ranks >= 0, strict=True):
        graph.add_nodes_from(row[shown].tolist())
        graph.add_edges_from(zip(row[shown].tolist(), row[shown][1:].tolist(), strict=False))
    label = components(Panel(responses, ranks, np.zeros(30), response_total=60))
    expected = sorted(sorted(part) for part in networkx.connected_components(graph))
    assert sorted(np.flatnonzero(label == part).tolist() for part in range(label.max() + 1)) == expected
    assert set(np.flatnonzero(label == -1)) == set(range(60)) - set(graph.nodes)

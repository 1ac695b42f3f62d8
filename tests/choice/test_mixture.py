"""Mixtures of types over annotators: the E-step by hand, tempering, and the two kinds of weight."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pluralign.choice.latent_class import LatentClassPlackettLuce
from pluralign.choice.mixture import matched_types, mixture_weights, responsibilities, temperatures
from pluralign.choice.panel import Panel

TRUTH = np.array([[1.5, -1.0, 0.5], [-1.0, 1.0, 0.5]])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_two_annotators_by_hand():
    """Worths (1, 0) and (-2, 0), shares .25 and .75 after a start at equal shares and one M-step left out."""
    panel = Panel([[0, 1], [0, 1], [0, 1]], [[1, 2], [1, 2], [2, 1]], [0, 0, 1])
    start = [[1.0, 0.0], [-2.0, 0.0]]
    model = LatentClassPlackettLuce(2, coefficients_init=start, max_iterations=0, polish=False).fit(panel)
    first, second = sigmoid(1) ** 2, sigmoid(-2) ** 2
    third, fourth = sigmoid(-1), sigmoid(2)
    expected = [[first / (first + second), second / (first + second)]]
    expected += [[third / (third + fourth), fourth / (third + fourth)]]
    np.testing.assert_allclose(model.responsibilities_, expected, rtol=1e-12)
    total = np.log((first + second) / 2) + np.log((third + fourth) / 2)
    np.testing.assert_allclose(model.log_likelihood_, total, rtol=1e-12)
    np.testing.assert_allclose(model.mixture_weights_, np.mean(expected, 0), rtol=1e-12)


def test_shares_enter_the_posterior_and_temperature_flattens_it():
    likelihood = torch.tensor([[0.2, 0.6], [0.5, 0.1]], dtype=torch.float64)
    eta = torch.tensor([0.25, 0.75], dtype=torch.float64)
    for temperature in (1.0, 2.0, 7.0):
        gamma, total = responsibilities(likelihood.log(), eta.log(), temperature=temperature)
        joint = (likelihood * eta) ** (1 / temperature)
        torch.testing.assert_close(gamma, joint / joint.sum(1, keepdim=True))
        torch.testing.assert_close(total, (likelihood * eta).sum(1).log())
    flat, _ = responsibilities(likelihood.log(), eta.log(), temperature=1e9)
    torch.testing.assert_close(flat, torch.full_like(flat, 0.5))
    own = torch.tensor([[0.1, 0.9], [0.8, 0.2]], dtype=torch.float64)
    gamma, _ = responsibilities(likelihood.log(), own.log())
    torch.testing.assert_close(gamma, likelihood * own / (likelihood * own).sum(1, keepdim=True))


def test_a_floor_keeps_every_type_and_no_type_at_all_leaves_the_shares():
    likelihood = torch.tensor([[0.0, -1000.0], [-torch.inf, -torch.inf]], dtype=torch.float64)
    eta = torch.tensor([0.3, 0.7], dtype=torch.float64)
    gamma, total = responsibilities(likelihood, eta.log(), floor=0.01)
    torch.testing.assert_close(gamma[0], torch.tensor([1, 0.01], dtype=torch.float64) / 1.01)
    torch.testing.assert_close(gamma[1], eta)
    torch.testing.assert_close(total[0], eta[0].log())
    assert total[1] == -torch.inf


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 4))
def test_responsibilities_are_distributions(seed, types):
    draw = torch.Generator().manual_seed(seed)
    likelihood = -1000 * torch.rand(3, 5, types, dtype=torch.float64, generator=draw)
    eta = torch.rand(3, types, dtype=torch.float64, generator=draw)
    gamma, _ = responsibilities(likelihood, (eta / eta.sum(-1, keepdim=True)).log(), temperature=1.5)
    torch.testing.assert_close(gamma.sum(-1), torch.ones(3, 5, dtype=torch.float64))
    shares = mixture_weights(gamma, torch.rand(5, dtype=torch.float64, generator=draw), floor=1e-6)
    torch.testing.assert_close(shares.sum(-1), torch.ones(3, dtype=torch.float64))


def test_population_weights_the_shares():
    gamma = torch.tensor([[1.0, 0.0], [0.2, 0.8]])
    torch.testing.assert_close(mixture_weights(gamma, torch.tensor([3.0, 1.0])), torch.tensor([0.8, 0.2]))
    torch.testing.assert_close(mixture_weights(torch.eye(2)[:1], floor=0.1), torch.tensor([1 / 1.1, 0.1 / 1.1]))


@pytest.mark.parametrize("steps", [0, 1, 2, 15])
def test_temperatures_fall_geometrically_to_one(steps):
    found = temperatures(3.0, steps)
    assert len(found) == steps
    if steps:
        assert found[-1] == 1
    if steps > 1:
        assert found[0] == 3
        np.testing.assert_allclose(np.diff(np.log(found)), -np.log(3) / (steps - 1))


@pytest.mark.parametrize(("found_types", "known_types"), [(2, 2), (4, 4), (4, 3), (2, 4)])
def test_matched_types_have_the_largest_overlap_of_all_matchings(found_types, known_types):
    draw = torch.Generator().manual_seed(found_types * 10 + known_types)
    for _ in range(20):
        found = torch.rand(30, found_types, generator=draw)
        known = torch.rand(30, known_types, generator=draw)
        overlap = found.T.double() @ known.double()
        places = [*range(known_types), *[-1] * found_types]
        best = max(
            sum(overlap[row, column].item() for row, column in enumerate(order) if column >= 0)
            for order in set(itertools.permutations(places, found_types))
        )
        order = matched_types(found, known).tolist()
        used = [column for column in order if column >= 0]
        assert len(set(used)) == len(used) == min(found_types, known_types)
        assert sum(overlap[row, column].item() for row, column in enumerate(order) if column >= 0) == (
            pytest.approx(best, rel=1e-12)
        )


def fitted(panel, **settings):
    return LatentClassPlackettLuce(2, coefficients_init=TRUTH, **settings).fit(panel)


@pytest.mark.parametrize("polish", [False, True])
def test_an_annotator_of_weight_two_counts_twice_but_is_no_surer(simulate, polish):
    panel, _ = simulate(TRUTH)
    weights = np.ones(panel.annotators)
    weights[3] = 2
    own = np.flatnonzero(panel.annotator_ids == 3)
    twice = replace(
        panel,
        responses=np.concatenate((panel.responses, panel.response_ids[own])),
        ranks=np.concatenate((panel.ranks, panel.rank_values[own])),
        annotator=np.concatenate((panel.annotator, np.full(len(own), panel.annotators))),
    )
    settings = {"polish": polish, "max_iterations": 20}
    one, two = fitted(replace(panel, population=weights), **settings), fitted(twice, **settings)
    plain = fitted(panel, **settings)
    np.testing.assert_allclose(one.coefficients_, two.coefficients_, atol=1e-9)
    np.testing.assert_allclose(one.mixture_weights_, two.mixture_weights_, atol=1e-9)
    np.testing.assert_allclose(one.responsibilities_, two.responsibilities_[:-1], atol=1e-9)
    np.testing.assert_allclose(one.log_likelihood_, two.log_likelihood_, rtol=1e-11)
    assert np.abs(one.mixture_weights_ - plain.mixture_weights_).max() > 1e-3
    first = {"max_iterations": 0, "polish": False}
    weighted = fitted(replace(panel, population=weights), **first)
    np.testing.assert_array_equal(weighted.responsibilities_, fitted(panel, **first).responsibilities_)


@pytest.mark.parametrize("polish", [False, True])
def test_a_judgment_of_reliability_two_is_that_judgment_given_twice(simulate, polish):
    panel, _ = simulate(TRUTH, judgments=2)
    reliability = np.ones(panel.judgments)
    reliability[[0, 7, 30]] = 2, 3, 0
    times = np.repeat(np.arange(panel.judgments), reliability.astype(int))
    repeated = replace(
        panel,
        responses=panel.response_ids[times],
        ranks=panel.rank_values[times],
        annotator=panel.annotator_ids[times],
    )
    settings = {"polish": polish, "max_iterations": 20}
    one, two = fitted(replace(panel, reliability=reliability), **settings), fitted(repeated, **settings)
    np.testing.assert_allclose(one.responsibilities_, two.responsibilities_, atol=1e-9)
    np.testing.assert_allclose(one.coefficients_, two.coefficients_, atol=1e-9)
    np.testing.assert_allclose(one.log_likelihood_, two.log_likelihood_, rtol=1e-11)
    first = {"max_iterations": 0, "polish": False}
    one, plain = fitted(replace(panel, reliability=reliability), **first), fitted(panel, **first)
    assert np.abs(one.responsibilities_ - plain.responsibilities_).max() > 1e-3


def test_weights_that_are_scaled_change_only_the_log_likelihood(simulate):
    panel, _ = simulate(TRUTH)
    one = fitted(panel, ridge=0.0)
    tenth = fitted(replace(panel, population=np.full(panel.annotators, 0.1)), ridge=0.0)
    np.testing.assert_allclose(tenth.coefficients_, one.coefficients_, atol=1e-5)
    np.testing.assert_allclose(tenth.log_likelihood_ * 10, one.log_likelihood_, rtol=1e-9)

"""Mixtures of types over annotators: the E-step by hand, tempering, and the two kinds of weight."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pluralign.choice.em_dpo import (
    drawn_types,
    halves,
    likely,
    matched_types,
    mixture_weights,
    places_within,
    responsibilities,
    row_weights,
    temperatures,
)
from pluralign.choice.latent_class.estimator import LatentClassPlackettLuce
from pluralign.choice.latent_class.panel import Panel

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


@pytest.mark.parametrize("polish", [False, True])
def test_types_and_annotators_in_another_order_are_the_same(simulate, polish):
    """From given responsibilities, full batch: gamma, eta and coefficients are permuted."""
    truth = np.array([[2.0, -1.0, 0.5], [-1.0, 1.5, 0.5], [0.0, 0.5, -2.0]])
    panel, _ = simulate(truth, annotators=30, judgments=6, types=np.repeat([0, 1, 2], [15, 10, 5]))
    draw = np.random.default_rng(0)
    start = draw.dirichlet(np.ones(3), 30)
    settings = {"types": 3, "ridge": 0.1, "polish": polish, "max_iterations": 30}
    one = LatentClassPlackettLuce(responsibilities_init=start, **settings).fit(panel)
    types, people = np.array([2, 0, 1]), draw.permutation(30)
    other = LatentClassPlackettLuce(responsibilities_init=start[:, types], **settings).fit(panel)
    np.testing.assert_allclose(other.responsibilities_, one.responsibilities_[:, types], atol=1e-10)
    np.testing.assert_allclose(other.mixture_weights_, one.mixture_weights_[types], atol=1e-10)
    np.testing.assert_allclose(other.coefficients_, one.coefficients_[types], atol=1e-9)
    place = np.empty(30, int)
    place[people] = np.arange(30)  # annotator people[i] is called i
    renamed = replace(panel, annotator=place[panel.annotator_ids])
    other = LatentClassPlackettLuce(responsibilities_init=start[people], **settings).fit(renamed)
    np.testing.assert_allclose(other.responsibilities_, one.responsibilities_[people], atol=1e-10)
    np.testing.assert_allclose(other.mixture_weights_, one.mixture_weights_, atol=1e-10)
    assert np.ptp(one.mixture_weights_) > 0.01
    assert np.abs(one.responsibilities_ - start).max() > 0.1


# What an M-step trains on.


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(0, 1000))
def test_halves_of_each_annotator_are_equal_but_for_one(annotator, seed):
    found = halves(np.array(annotator), seed)
    assert set(found.tolist()) <= {0, 1}
    for person in set(annotator):
        mine = found[np.array(annotator) == person]
        assert abs(int((mine == 0).sum()) - int((mine == 1).sum())) <= 1
    np.testing.assert_array_equal(halves(np.array(annotator), seed), found)


def test_single_judgments_fall_into_either_half():
    """Fair coins: of 2,000 a share of one half with a standard error of .011; odd ones over are no other."""
    for annotator in (np.arange(2000), np.repeat(np.arange(2000), 3)):
        first = np.array([found.sum() for found in np.split(halves(annotator, 0), 2000)])
        more = first > np.bincount(annotator) / 2
        assert abs(more.mean() - 0.5) < 4 * 0.5 / np.sqrt(2000)
    pairs = np.stack([halves(np.repeat(np.arange(3), 2), seed) for seed in range(200)])
    assert 60 < pairs[:, 0].sum() < 140, "which of two judgments falls into which half is drawn"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=40), st.integers(0, 1000))
def test_places_number_each_annotator_s_judgments(annotator, seed):
    found = places_within(np.array(annotator, dtype=int), np.random.default_rng(seed))
    for person in set(annotator):
        mine = found[np.array(annotator) == person]
        assert sorted(mine.tolist()) == list(range(len(mine)))


def test_types_are_drawn_as_often_as_they_are_probable():
    draw = np.random.default_rng(0)
    gamma = np.array([[0.5, 0.3, 0.2], [0.0, 1.0, 0.0], [0.1, 0.0, 0.9]])
    found = np.stack([drawn_types(gamma, draw) for _ in range(4000)])
    shares = np.stack([(found == kind).mean(0) for kind in range(3)], 1)
    assert (np.abs(shares - gamma) <= 4 * np.sqrt(gamma * (1 - gamma) / 4000)).all(), "never what cannot be"


def test_row_weights_make_the_mean_that_of_the_responsibilities():
    draw = np.random.default_rng(0)
    gamma, reliability, losses = draw.random(20), draw.random(20), draw.random(20)
    weights = row_weights(gamma, reliability)
    mean = (reliability * weights * losses).sum() / reliability.sum()
    assert mean == pytest.approx(np.average(losses, weights=reliability * gamma), rel=1e-12)
    np.testing.assert_allclose(row_weights(gamma / 7, reliability), weights, rtol=1e-12)
    np.testing.assert_array_equal(row_weights(np.ones(20), reliability).astype(np.float32), 1)
    np.testing.assert_array_equal(row_weights(np.zeros(3), np.ones(3)), 0)


def test_types_under_the_threshold_are_given_up_but_never_all():
    joint, everyone = np.log([[0.34, 0.33, 0.33], [0.9, 0.06, 0.04]]), np.ones((2, 3), dtype=bool)
    assert likely(joint, everyone, 0.05)[0].tolist() == [[True] * 3, [True, True, False]]
    assert likely(joint, everyone, 0.4)[0].tolist() == [[True, False, False]] * 2
    assert likely(joint, everyone, 0.0)[0].all()
    one = likely(joint, np.array([[False, True, True]] * 2), 0.45)[0]
    assert one.tolist() == [[False, True, True], [False, True, False]], "the posterior among those left"

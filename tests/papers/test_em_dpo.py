"""Truth tests of EM-DPO, identification and min-max regret, arXiv 2405.15065 and 2510.15716.

"DPO with Unobserved Preference Heterogeneity: The Necessity of Ternary Preferences": the E-step by hand, one type is
DPO to the bit, first losses, what pairs and triples identify, and the regret game against its optimality conditions.
"""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from em_dpo_setup import losses_of, make, people, tensors_of
from mixtures import Plain
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
    with_held_odds,
)
from pluralign.choice.latent_class.estimator import LatentClassPlackettLuce
from pluralign.choice.latent_class.identification import design, evidence, identification
from pluralign.choice.latent_class.panel import Panel
from pluralign.choice.regret import (
    game_value,
    hedge,
    max_min_reward,
    min_max_regret,
    priorities,
    regret_matrix,
    utilitarian,
)
from pluralign.training.em_dpo.e_step import EStep

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
        assert found[0] == 3
    if steps > 1:
        assert found[-1] == 1
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


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 8), st.floats(0.0, 0.499))
def test_the_likeliest_type_is_never_given_up(seed, types, below):
    """With three types of a third each all are under 0.4."""
    draw = np.random.default_rng(seed)
    joint = draw.normal(size=(5, types)) * draw.choice([0.0, 0.1, 10.0, 1000.0])
    live = draw.random((5, types)) < 0.7
    live[:, 0] = True
    kept, odds = likely(joint, live, below)
    assert (kept <= live).all()
    best = np.where(live, joint, -np.inf).argmax(1)
    assert kept[np.arange(5), best].all()
    assert np.isfinite(odds).all()
    alive = np.where(live, joint, -np.inf)
    posterior = np.exp(alive - np.logaddexp.reduce(alive, 1, keepdims=True))
    enough = live & (posterior >= below * (1 + 1e-9))
    assert (enough <= kept).all()
    np.testing.assert_allclose(with_held_odds(joint, kept, odds)[live], joint[live], rtol=1e-9, atol=1e-9)


def test_the_posterior_of_what_is_given_up_is_right_on_average():
    """A type's posterior is a martingale: among those given up at q it is in the end q on average, and so is truth.

    3,000 simulated annotators of three types with 32 yes-or-no verdicts each; four standard errors.
    """
    draw = np.random.default_rng(0)
    eta, chance, people, turns = np.array([0.5, 0.3, 0.2]), np.array([0.7, 0.5, 0.35]), 3000, 32
    kinds = draw.choice(3, size=people, p=eta)
    annotator = np.repeat(np.arange(people), turns)
    yes = draw.random(len(annotator)) < chance[kinds[annotator]]
    told = np.where(yes[:, None], np.log(chance), np.log1p(-chance))
    step = EStep(annotator, np.log(eta), 0.1)
    given_up_at = np.full((people, 3), np.nan)
    for stage in step.stages(np.arange(len(annotator)), np.tile(np.arange(turns), people)):
        for kind in range(3):
            mine = step.asked(stage, kind)
            step.add(mine, kind, told[mine, kind])
        before = step.live.copy()
        joint = np.log(eta) + step.log_likelihood
        now = np.exp(joint - np.logaddexp.reduce(joint, 1, keepdims=True))
        step.settle()
        given_up_at = np.where(before & ~step.live, now, given_up_at)
    gone = ~np.isnan(given_up_at)
    assert gone.sum() > 3000
    exact = np.log(eta) + told.reshape(people, turns, 3).sum(1)
    exact = np.exp(exact - np.logaddexp.reduce(exact, 1, keepdims=True))
    for truth in (exact[gone], (np.eye(3)[kinds] > 0)[gone].astype(float)):
        error = truth - given_up_at[gone]
        assert abs(error.mean()) < 4 * error.std() / np.sqrt(gone.any(1).sum())
    assert given_up_at[gone].max() < 0.1
    joint = np.log(eta) + step.log_likelihood
    gamma = np.exp(joint - np.logaddexp.reduce(joint, 1, keepdims=True))
    np.testing.assert_allclose(gamma[gone], given_up_at[gone], rtol=1e-9, atol=1e-12, err_msg="it stays at q")
    assert (np.abs(gamma - exact).mean(0) < 0.1).all(), "the others gain no more than what was given up"
    assert (gamma.argmax(1) == exact.argmax(1)).mean() > 0.9
    assert step.scored.sum() < 0.7 * told.size, "and much is saved"


# What judgments can identify.

THETA = np.array([1.5, -1.0, 0.5, 1.0])
OPPOSITE = np.stack((THETA, -THETA))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("shown", "judgments", "least", "most", "verdict"),
    [
        (2, 1, 2.0, np.inf, "not identified"),
        (3, 1, 0.0, 0.5, "identified"),
        (2, 4, 0.0, 0.6, "identified"),
    ],
)
def test_opposite_tastes_in_4000_judgments(simulate, shown, judgments, least, most, verdict, seed):
    """Sum of both parameter errors after matching (Fox et al. 2012; arXiv 2510.15716)."""
    annotators = 4000 // judgments
    kinds = np.random.default_rng(seed).integers(0, 2, annotators)
    panel, _ = simulate(OPPOSITE, annotators=annotators, judgments=judgments, shown=shown, types=kinds, seed=seed)
    model = LatentClassPlackettLuce(2).fit(panel)
    numbers = evidence(model, panel)
    found = identification(design(panel), numbers)
    error = min(np.linalg.norm(model.coefficients_[order] - OPPOSITE, axis=1).sum() for order in ([0, 1], [1, 0]))
    assert least < error < most
    assert found.verdict == verdict
    assert (numbers.left > 0.1) == (verdict == "identified")
    assert (found.advice == "") == (verdict == "identified")


# The regret game.


def random_regret(types: int, seed: int, scale: float = 1.0) -> np.ndarray:
    """Of utilities in which each type likes its own policy, with noise large enough for regrets under zero."""
    rng = np.random.default_rng(seed)
    utility = rng.normal(size=(types, types)) + np.diag(rng.uniform(0.5, 3.0, types))
    return regret_matrix(scale * utility, rng.uniform(0.2, 2.0, types))


MATRICES = [
    random_regret(types, seed, scale) for types in (1, 2, 3, 8) for seed in range(6) for scale in (1e-6, 1, 300)
]


@pytest.mark.parametrize("regret", MATRICES)
def test_the_programme_meets_the_optimality_conditions(regret):
    game = min_max_regret(regret)
    scale = max(np.abs(regret).max(), 1e-300)
    for players in (game.weights, game.adversary):
        assert (players >= 0).all()
        assert players.sum() == pytest.approx(1, abs=1e-12)
    assert (regret @ game.weights).max() == pytest.approx(game.value, abs=1e-8 * scale)
    assert (regret.T @ game.adversary).min() == pytest.approx(game.value, abs=1e-8 * scale)
    assert game_value(regret) == pytest.approx(game.value, abs=1e-8 * scale)


def test_two_policies_as_by_a_grid():
    for seed in range(5):
        regret = np.random.default_rng(seed).normal(size=(4, 2))
        grid = np.linspace(0, 1, 20_001)
        values = (regret @ np.stack([grid, 1 - grid])).max(0)
        game = min_max_regret(regret)
        assert game.value <= values.min() + 1e-12
        assert game.value == pytest.approx(values.min(), abs=1e-3)
        assert game.weights[0] == pytest.approx(grid[values.argmin()], abs=1e-3)


@pytest.mark.parametrize(("types", "scale"), [(2, 1.0), (8, 200.0)])
def test_hedge_reaches_the_value(types, scale):
    regret = random_regret(types, 5, scale)
    exact, averaged = min_max_regret(regret), hedge(regret)
    assert exact.value - 1e-9 * scale <= averaged.value <= exact.value + 1e-3 * np.abs(regret).max()
    assert (averaged.adversary @ regret).min() >= exact.value - 1e-3 * np.abs(regret).max()


def test_permuting_the_types_permutes_the_mixture():
    for seed in range(20):
        regret = np.random.default_rng(seed).uniform(0.1, 2, (5, 5))
        np.fill_diagonal(regret, 0)
        order = np.random.default_rng(seed + 100).permutation(5)
        first, second = min_max_regret(regret), min_max_regret(regret[np.ix_(order, order)])
        np.testing.assert_allclose(second.weights, first.weights[order], atol=1e-10)
        np.testing.assert_allclose(second.adversary, first.adversary[order], atol=1e-10)


def test_an_exact_game_has_no_negative_value_and_abstaining_changes_only_the_value():
    """An adversary that plays the mixture's own weights gets a sum of Jeffreys divergences, which are 0 or more."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        policies = rng.dirichlet(np.ones(6), 4)
        utility = np.log(policies / rng.dirichlet(np.ones(6))) @ policies.T  # L_ij = sum_y pi_j log pi_i / ref
        game = min_max_regret(regret_matrix(utility))
        assert game.value >= -1e-12
    noisy = min_max_regret([[0.0, -1.0], [-2.0, 0.0]])
    assert noisy.value == pytest.approx(-2 / 3)
    assert noisy.value_with_abstention == 0.0
    assert noisy.weights == pytest.approx([1 / 3, 2 / 3])


def test_nobody_gives_up_anything_for_nothing():
    """Type 1 cannot be helped; of the mixtures that do not hurt it, the one that serves type 2 is taken."""
    game = min_max_regret([[1.0, 1.0], [0.5, 0.0], [0.3, 0.1]])
    assert game.value == pytest.approx(1.0)
    assert game.weights == pytest.approx([0.0, 1.0])


def test_degenerate_games_are_defined():
    one = min_max_regret([[0.0]])
    assert (one.weights.tolist(), one.adversary.tolist(), one.value) == ([1.0], [1.0], 0.0)
    for solve in (min_max_regret, hedge):
        even = solve(np.zeros((3, 3)))
        assert even.weights.tolist() == pytest.approx([1 / 3] * 3)
        assert even.value == 0.0
    ignored = min_max_regret(regret_matrix([[2.0, 0.0], [0.0, 5.0]], [1.0, 0.0]))
    assert ignored.weights == pytest.approx([1.0, 0.0]), "a type without priority is not minded"
    assert ignored.value == 0.0


def test_policies_of_several_aims():
    utility = np.array([[3.0, -1.0], [-1.0, 1.0]])
    assert utilitarian(utility, [0.2, 0.8]).tolist() == [0.0, 1.0]
    assert utilitarian(utility, [0.5, 0.5]).tolist() == [1.0, 0.0]
    assert utilitarian([[1.0, 1.0, 0.0]], [1.0]).tolist() == [0.5, 0.5, 0.0], "ties are shared"
    reward = max_min_reward(utility)
    assert reward == pytest.approx([1 / 3, 2 / 3])
    grid = np.linspace(0, 1, 10_001)
    assert (utility @ reward).min() >= (utility @ np.stack([grid, 1 - grid])).min(0).max() - 1e-9


def test_what_does_not_fit_is_refused():
    for call, words in (
        (lambda: regret_matrix([[1.0], [2.0]]), "own policies first"),
        (lambda: regret_matrix([[1.0]], [-1.0]), "priority"),
        (lambda: priorities(2, [1.0]), "2 numbers"),
        (lambda: min_max_regret([[np.nan]]), "finite"),
        (lambda: min_max_regret(np.zeros((1, 1, 1))), "expected \\(types, policies\\)"),
        (lambda: hedge([[1.0]], 0), "steps"),
        (lambda: utilitarian([[1.0]], [0.5, 0.5]), "one per type"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


# In the trainer.


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("shown", [2, 3])
def test_one_type_is_dpo_to_the_bit(shown, dropout, tiny_model, tmp_path):
    """Losses and weights over several epochs of unequal weights with accumulation, dropout's draws included."""
    rows = people(annotators=5, each=7, shown=shown, weight=lambda person, turn: 0.1 + turn % 3)
    values = {
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 2,
        "disable_dropout": False,
    }
    plain = make(tiny_model, rows, tmp_path / "dpo", dropout=dropout, plain=True, **values)
    plain.train()
    ours = make(tiny_model, rows, tmp_path / "em", dropout=dropout, types=1, start="latent-class", **values)
    ours.train()
    assert len(losses_of(ours)) == 12
    assert losses_of(ours) == losses_of(plain)
    expected, found = tensors_of(plain, 0), tensors_of(ours, 0)
    assert expected.keys() == found.keys()
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name
    assert len(ours.rounds) == 1, "no round but the start: no E-step"
    np.testing.assert_array_equal(ours.responsibilities, 1)
    np.testing.assert_array_equal(ours.mixture_weights, 1)


FIRST = [
    (2, {}, math.log(2)),
    (2, {"loss_type": "sigmoid"}, math.log(2)),
    (4, {}, math.log(24)),
    (4, {"top": 2}, math.log(12)),
    (4, {"top": 1}, math.log(4)),
]


@pytest.mark.parametrize(
    ("shown", "values", "expected", "routing"), [*((*case, "dense") for case in FIRST), (*FIRST[3], "sampled")]
)
def test_first_losses_are_those_of_equal_utilities(shown, values, expected, routing, tiny_model, tmp_path):
    """In every M-step from the reference, for every type, and the factors of a full batch average to 1."""
    rows = people(annotators=6, each=2, shown=shown, types=3, weight=lambda person, turn: 1.0 + person % 3)
    trainer = make(
        tiny_model, rows, tmp_path, types=3, start="dirichlet", routing=routing, rounds=1, floor=0.0,
        round_epochs=3, per_device_train_batch_size=16, learning_rate=0.03, num_train_epochs=3, **values,
    )  # fmt: skip
    met = []
    inner = trainer.compute_loss
    trainer.compute_loss = lambda model, inputs, *a, **k: met.append(inputs["type"]) or inner(model, inputs, *a, **k)
    trainer.train()
    found = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(found) == len(met)
    first = {}
    for entry, kind in zip(found, met, strict=True):
        first.setdefault((entry["m_step"], kind), entry["loss"])
    assert {number for number, _ in first} == {1, 2, 0}, "one on each half, then the last"
    if routing == "dense":
        assert len(first) == 9
    assert list(first.values()) == pytest.approx([expected] * len(first), rel=1e-5)
    assert found[-1]["loss"] != pytest.approx(expected, rel=1e-5), "something was learned since"


def test_every_adapter_is_in_the_optimiser_and_moves_and_the_base_stays(tiny_model, tmp_path):
    trainer = make(tiny_model, people(annotators=9, types=3), tmp_path, types=3, learning_rate=1e-2, rounds=2)
    before = {name: tensor.detach().clone() for name, tensor in trainer.model.named_parameters()}
    starts, ends, known, moments = [], [], [], []

    class Watch(transformers.TrainerCallback):
        def on_train_begin(self, args, state, control, optimizer, **_):
            mine = {id(one) for group in optimizer.param_groups for one in group["params"]}
            known.append({name for name, one in trainer.model.named_parameters() if id(one) in mine})
            starts.append([tensors_of(trainer, kind) for kind in range(3)])
            moments.append(len(optimizer.state))

        def on_train_end(self, *_, **__):
            ends.append([tensors_of(trainer, kind) for kind in range(3)])

    trainer.add_callback(Watch())
    trainer.train()
    adapters = {name for name in before if "lora_" in name}
    assert known == [adapters] * 5
    assert moments == [0] * 5, "every M-step has an optimiser of its own"
    assert all(any(f".type-{kind}." in name for name in adapters) for kind in (1, 2, 3))
    moved = {name for name, tensor in trainer.model.named_parameters() if not torch.equal(tensor, before[name])}
    assert moved == adapters
    # The first round starts from the reference on either half, the second where the first left that half, and the
    # last M-step from the reference again.
    for m_step, expected in enumerate([[starts[0][0]] * 3] * 2 + [ends[0], ends[1], [starts[0][0]] * 3]):
        for found, kind in zip(starts[m_step], expected, strict=True):
            assert kind.keys() == found.keys()
            for name, tensor in found.items():
                assert torch.equal(tensor, kind[name]), (m_step, name)


def by_hand(base, folder, rows, beta, top=None, loss_type="plackett-luce"):
    """log P_k of each judgment `(judgments, types)` by plain forward passes and the definition."""
    reference, types = Plain(base), [Plain(base, folder / f"type-{kind}") for kind in (1, 2)]
    found = np.zeros((len(rows), len(types)))
    for number, row in enumerate(rows):
        order = np.argsort(row["ranks"])
        bottom = [reference.log_prob(row["prompt"], text) for text in row["responses"]]
        for kind, model in enumerate(types):
            up = [model.log_prob(row["prompt"], text) for text in row["responses"]]
            u = [beta * (up[one] - bottom[one]) for one in order]
            if loss_type == "sigmoid":
                pairs = [-math.log1p(math.exp(b - a)) for place, a in enumerate(u) for b in u[place + 1 :]]
                found[number, kind] = np.sum(pairs)
            else:
                for place in range(len(u) - 1 if top is None else top):
                    found[number, kind] += u[place] - math.log(sum(math.exp(v) for v in u[place:]))
    return found


def posterior(rows, told, log_eta, chosen):
    """gamma of each annotator from some judgments, by loops."""
    names = list(dict.fromkeys(row["annotator"] for row in rows))
    joint = {name: np.array(log_eta, dtype=float) for name in names}
    for number in chosen:
        joint[rows[number]["annotator"]] += rows[number].get("weight", 1.0) * told[number]
    gamma = np.array([np.exp(joint[name] - np.logaddexp.reduce(joint[name])) for name in names])
    return gamma, sum(np.logaddexp.reduce(one) for one in joint.values())


def trained_and_kept(trainer, folder):
    """Train, with a folder of the adapters as they were after each M-step."""
    inner = trainer._m_step

    def m_step(place, number, *others, **named):
        done = inner(place, number, *others, **named)
        trainer.save_model(str(folder / str(number)))
        return done

    trainer._m_step = m_step
    trainer.train()
    return trainer


@pytest.mark.parametrize("values", [{}, {"top": 1}, {"loss_type": "sigmoid"}])
def test_e_step_by_hand(values, base, tmp_path):
    """Scored on what was trained on: plain peft, plain forward passes, plain loops; dropout is off in it."""
    rows = people(annotators=4, each=4, weight=lambda person, turn: [1.0, 0.5, 2.0][turn % 3])
    trainer = make(
        base, rows, tmp_path / "run", scoring="train", drop_below=0.0, floor=0.0, rounds=2, dropout=0.2,
        learning_rate=2e-2, round_epochs=2, **values,
    )  # fmt: skip
    trained_and_kept(trainer, tmp_path)
    for number in (1, 2):
        told = by_hand(base, tmp_path / str(number), rows, 0.5, **values)
        before, after = trainer.rounds[number - 1], trainer.rounds[number]
        gamma, total = posterior(rows, told, before.log_weights, range(len(rows)))
        np.testing.assert_allclose(after.gamma, gamma, rtol=1e-3, atol=1e-6)
        assert np.abs(gamma - np.exp(before.log_weights)).max() > 0.05, "the judgments say something"
        np.testing.assert_allclose(np.exp(after.log_weights), gamma.mean(0), rtol=1e-4, atol=1e-6)
        assert after.record["log_likelihood"] == pytest.approx(total, rel=1e-4)
        assert after.record["log_likelihood_per_judgment"] == pytest.approx(total / len(rows), rel=1e-4)
        assert after.record["scored_values"] == 2 * 3 * len(rows)


def test_cross_fit_multiplies_the_likelihoods_of_both_halves_under_the_other_one_s_adapters(base, tmp_path):
    """From a random start, which is no evidence. M-steps 1 and 2 are those of the first round's halves."""
    rows = people(annotators=5, each=5)[:-4]  # the last annotator made one judgment only
    trainer = make(
        base, rows, tmp_path / "run", start="dirichlet", drop_below=0.0, floor=0.0, rounds=2, temperature=1.0,
        learning_rate=2e-2, round_epochs=2,
    )  # fmt: skip
    trained_and_kept(trainer, tmp_path)
    half = halves(np.array([int(row["annotator"][1:]) for row in rows]), 42)
    assert trainer.kept.round == 2
    for number in (1, 2):
        told = [by_hand(base, tmp_path / str(2 * number - 1 + side), rows, 0.5) for side in (0, 1)]
        held_out = np.where((half == 1)[:, None], told[0], told[1])
        before, after = trainer.rounds[number - 1], trainer.rounds[number]
        expected, total = posterior(rows, held_out, before.log_weights, range(len(rows)))
        np.testing.assert_allclose(after.gamma, expected, rtol=1e-3, atol=1e-6)
        assert after.record["log_likelihood"] == pytest.approx(total, rel=1e-4)
        one, _ = posterior(rows, held_out, before.log_weights, np.flatnonzero(half == 0))
        assert np.abs(one - expected).max() > 1e-3, "both halves count"
    np.testing.assert_allclose(trainer.mixture_weights, trainer.responsibilities.mean(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("helps", [True, False])
def test_a_start_that_knows_something_is_evidence_in_the_e_step(helps, base, tmp_path):
    """Groups as they are, or given at random: the weight is the one that predicts held-out judgments best."""
    rows = people(annotators=6, each=6)
    if not helps:
        for row in rows:
            row["group"] = "g1" if row["annotator"] in ("w0", "w1", "w2") else "g2"
    trainer = make(
        base, rows, tmp_path / "run", drop_below=0.0, floor=0.0, rounds=2, learning_rate=2e-2, round_epochs=6
    )
    trainer.train()
    for before, after in itertools.pairwise(trainer.rounds):
        evidence = np.log(trainer.rounds[0].gamma.clip(1e-3)) - trainer.rounds[0].log_weights
        scores = {}
        for weight in (0, 0.25, 0.5, 0.75, 1):
            prior = np.exp(before.log_weights + weight * evidence)
            prior /= prior.sum(1, keepdims=True)
            scores[weight] = np.log((prior * np.exp(after.log_likelihood)).sum(1)).sum()
        found = after.record["start_weight"]
        assert found == max(scores, key=scores.get)
        joint = before.log_weights + found * evidence + after.log_likelihood
        expected = np.exp(joint - np.logaddexp.reduce(joint, 1, keepdims=True))
        np.testing.assert_allclose(after.gamma, expected, rtol=1e-9)
    assert (trainer.rounds[1].record["start_weight"] > 0) == helps

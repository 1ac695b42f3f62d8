"""Ordered strengths: outcomes sum to 1, Bradley-Terry and Rao-Kupper as special cases, a fit by other code, recovery."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit

from pluralign.choice.ordered import (
    gap_curvature,
    log_between,
    ordered_pair_log_likelihood,
    starting_gaps,
    thresholds_of,
)
from pluralign.choice.plackett_luce import pair_log_likelihood

CUTS = torch.tensor([0.4, 1.0, 2.5], dtype=torch.float64)
OUTCOMES = torch.tensor([[1, 2]] * 3 + [[2, 1]] * 3 + [[1, 1]]), torch.tensor([1, 2, 3, 1, 2, 3, 0])


def gaps(count, seed=0, scale=2.0):
    return scale * torch.randn(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def both_sides(difference):
    return torch.stack((difference, torch.zeros_like(difference)), -1)


@pytest.mark.parametrize("difference", [-30.0, -1.3, 0.0, 2.0, 30.0])
def test_the_outcomes_of_a_pair_sum_to_one_and_a_swap_mirrors_them(difference):
    ranks, strength = OUTCOMES
    sides = both_sides(torch.full((7,), difference, dtype=torch.float64))
    found = ordered_pair_log_likelihood(sides, ranks, strength, CUTS)
    assert found.exp().sum().item() == pytest.approx(1, abs=1e-12)
    swapped = ordered_pair_log_likelihood(sides.flip(1), ranks.flip(1), strength, CUTS)
    torch.testing.assert_close(swapped, found)


def test_one_strength_is_bradley_terry_and_with_ties_rao_and_kupper():
    sides, ranks = both_sides(gaps(20)), torch.tensor([[1, 2], [2, 1]] * 10)
    for strength in (torch.ones(20, dtype=torch.int64), torch.zeros(20, dtype=torch.int64)):
        found = ordered_pair_log_likelihood(sides, ranks, strength, torch.zeros(1))
        torch.testing.assert_close(found, pair_log_likelihood(sides, ranks))
    theta, worth = 1.7, both_sides(gaps(20)).exp().numpy()  # in Rao and Kupper's form
    wins = worth[:, 0] / (worth[:, 0] + theta * worth[:, 1])
    ties = (theta**2 - 1) * worth.prod(1) / ((worth[:, 0] + theta * worth[:, 1]) * (theta * worth[:, 0] + worth[:, 1]))
    cut, none = torch.tensor([np.log(theta)]), torch.ones(20, dtype=torch.int64)
    for ranks, expected in (([1, 2], wins), ([1, 1], ties)):
        found = ordered_pair_log_likelihood(sides, torch.tensor([ranks] * 20), none, cut)
        np.testing.assert_allclose(found.exp(), expected, rtol=1e-6)


def test_an_unknown_strength_is_the_sum_of_all_strengths():
    sides = both_sides(gaps(3).repeat_interleave(4).reshape(3, 4)[:, 0])
    each = [
        ordered_pair_log_likelihood(sides, torch.tensor([[1, 2]] * 3), torch.full((3,), level), CUTS).exp()
        for level in (0, 1, 2, 3)
    ]
    torch.testing.assert_close(each[0], sum(each[1:]))


def test_rankings_count_as_their_pairs_and_gradients_are_exact():
    utilities, cuts = gaps(12).reshape(4, 3).requires_grad_(), CUTS.clone().requires_grad_()
    ranks = torch.tensor([[1, 2, 3], [1, 1, 2], [1, 0, -1], [0, 0, 0]])
    strength = torch.tensor([0, 0, 2, 1])
    found = ordered_pair_log_likelihood(utilities, ranks, strength, cuts)
    pair = ordered_pair_log_likelihood(utilities[:1, :2], torch.tensor([[1, 2]]), torch.zeros(1).long(), cuts)
    others = [
        ordered_pair_log_likelihood(utilities[:1, [a, b]], torch.tensor([[1, 2]]), torch.zeros(1).long(), cuts)
        for a, b in ((0, 2), (1, 2))
    ]
    assert found[0].item() == pytest.approx((pair + sum(others)).item() / 3)
    assert found[3].item() == 0
    assert torch.autograd.gradcheck(lambda u, t: ordered_pair_log_likelihood(u, ranks, strength, t), (utilities, cuts))


def test_extreme_differences_are_finite():
    low, high = torch.tensor([800.0, -801.0, 5.0]), torch.tensor([801.0, -800.0, 5.0])
    found = log_between(low.requires_grad_(), high)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(low.grad).all()


def simulated(count, seed=0):
    """Features, ranks and strengths of pairs under known coefficients and thresholds."""
    draw = np.random.default_rng(seed)
    x, beta = draw.normal(size=(count, 3)), np.array([1.0, -0.5, 0.3])
    latent = x @ beta + draw.logistic(size=count)
    level = np.searchsorted(CUTS.numpy(), np.abs(latent), side="right")  # 0 is a tie
    ranks = np.where(level[:, None] == 0, [1, 1], np.where(latent[:, None] > 0, [1, 2], [2, 1]))
    return x, ranks, level, beta


def test_the_maximum_is_that_of_an_ordinal_regression_and_recovers_the_truth():
    """The oracle has a category for each outcome, free thresholds on one side and differences of distribution functions."""
    x, ranks, level, beta = simulated(3000)
    category = np.where(ranks[:, 0] > ranks[:, 1], -level, level) + 3  # 0 ... 6

    def oracle(values):
        inner = np.cumsum(np.exp(values[3:]))
        cuts = np.concatenate(([-np.inf], -inner[::-1], inner, [np.inf]))
        d = x @ values[:3]
        return -np.log(expit(cuts[category + 1] - d) - expit(cuts[category] - d)).mean()

    expected = minimize(oracle, np.zeros(6), method="BFGS").x

    def ours(values):
        free = torch.tensor(values, requires_grad=True)
        sides = both_sides(torch.from_numpy(x) @ free[:3])
        cuts = thresholds_of(free[3:], ties=True)
        loss = -ordered_pair_log_likelihood(sides, torch.from_numpy(ranks), torch.from_numpy(level), cuts).mean()
        loss.backward()
        return loss.item(), free.grad.numpy()

    found = minimize(ours, np.zeros(6), jac=True, method="BFGS").x
    np.testing.assert_allclose(found, expected, atol=2e-4)
    np.testing.assert_allclose(found[:3], beta, atol=0.12)
    np.testing.assert_allclose(np.cumsum(np.exp(found[3:])), CUTS, rtol=0.1)


@pytest.mark.parametrize("counts", [[30.0, 50.0, 15.0, 5.0], [0.0, 60.0, 40.0]])
def test_the_start_is_the_maximum_at_equal_utilities(counts):
    start, ties = starting_gaps(counts), counts[0] > 0
    weight = torch.tensor(counts, dtype=torch.float64) / sum(counts)

    def mean(values):
        cuts = thresholds_of(values, ties)
        ranks = torch.tensor([[1, 1]] + [[1, 2]] * len(cuts))
        sides = torch.zeros(len(ranks), 2, dtype=torch.float64)
        each = ordered_pair_log_likelihood(sides, ranks, torch.arange(len(ranks)), cuts)
        return (weight * torch.where(weight > 0, each, 0.0)).sum()

    slope = torch.autograd.functional.jacobian(mean, start)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-8, rtol=0)
    assert (torch.linalg.eigvalsh(gap_curvature(start, counts, ties)) > 0).all()

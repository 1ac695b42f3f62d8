"""Davidson's ties: the published fit, three outcomes that sum to 1, Plackett-Luce without ties, all weak orders."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from pluralign.choice.davidson import (
    davidson_log_likelihood,
    davidson_pair_log_likelihood,
    estimated_log_nu,
    log_outcomes,
)
from pluralign.choice.plackett_luce import log_likelihood, pair_log_likelihood
from published_panels import PUDDING


def random(judgments, n, seed=0, scale=1.0):
    return scale * torch.randn(judgments, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_published_fit_of_the_puddings():
    """Worths and tie parameter as in Davidson (1970) and the R package PlackettLuce, to their printed digits."""
    pairs = [(i - 1, j - 1, ranks, count) for i, j, *counts in PUDDING
             for ranks, count in zip(((1, 2), (2, 1), (1, 1)), counts, strict=True)]  # fmt: skip
    first, second = (torch.tensor([pair[side] for pair in pairs]) for side in (0, 1))
    ranks, count = torch.tensor([pair[2] for pair in pairs]), torch.tensor([float(pair[3]) for pair in pairs]).double()

    def objective(values):
        free = torch.tensor(values, requires_grad=True)
        utilities = torch.cat((free[:5], -free[:5].sum().reshape(1)))
        loss = -count @ davidson_log_likelihood(torch.stack((utilities[first], utilities[second]), 1), ranks, free[5:])
        loss.backward()
        return loss.item(), free.grad.numpy()

    found = minimize(objective, np.zeros(6), jac=True, method="L-BFGS-B", options={"gtol": 1e-10, "ftol": 1e-15}).x
    worth = np.exp(np.append(found[:5], -found[:5].sum()))
    np.testing.assert_allclose(worth / worth.sum(), [0.1388, 0.1730, 0.1617, 0.1654, 0.1587, 0.2024], atol=6e-5)
    assert np.exp(found[5]) == pytest.approx(0.7468, abs=6e-5)


def weak_orders(n):
    """All rankings of n responses with ties, as ranks 1, 2 ... without gaps."""
    return [ranks for ranks in product(range(1, n + 1), repeat=n) if set(ranks) == set(range(1, max(ranks) + 1))]


@pytest.mark.parametrize("n", [2, 3, 4])
def test_the_probabilities_of_all_weak_orders_sum_to_one(n):
    log_nu = torch.tensor([0.7, -0.4, 0.2], dtype=torch.float64)[: n - 1]
    orders = torch.tensor(weak_orders(n))
    for utilities in random(5, n, scale=2.0):
        found = davidson_log_likelihood(utilities.expand(len(orders), n), orders, log_nu)
        assert found.exp().sum().item() == pytest.approx(1, abs=1e-12)
    three = log_outcomes(random(50, 1, scale=3.0)[:, 0].numpy(), 0.3)
    np.testing.assert_allclose(np.exp(three).sum(1), 1, rtol=1e-12)


def test_without_ties_it_is_plackett_luce():
    ranks = torch.tensor([[1, 2, 3, 4], [4, 0, 1, 0], [2, 1, -1, -1], [1, 0, 0, -1]])
    utilities = random(4, 4, scale=3.0)
    none = torch.full((3,), -60.0, dtype=torch.float64)
    torch.testing.assert_close(davidson_log_likelihood(utilities, ranks, none), log_likelihood(utilities, ranks))
    for top in (1, 2):
        torch.testing.assert_close(
            davidson_log_likelihood(utilities, ranks, none, top=top), log_likelihood(utilities, ranks, top=top)
        )
    torch.testing.assert_close(
        davidson_pair_log_likelihood(utilities, ranks, none), pair_log_likelihood(utilities, ranks)
    )


def test_pairs_by_hand_and_shifts_do_nothing():
    utilities, log_nu = random(6, 2), torch.tensor([0.4], dtype=torch.float64)
    ranks = torch.tensor([[1, 2], [2, 1], [1, 1], [1, 0], [0, 1], [3, 3]])
    found = davidson_log_likelihood(utilities, ranks, log_nu)
    expected = log_outcomes((utilities[:, 0] - utilities[:, 1]).numpy(), 0.4)[range(6), [0, 2, 1, 0, 2, 1]]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    torch.testing.assert_close(davidson_pair_log_likelihood(utilities, ranks, log_nu), found)
    torch.testing.assert_close(davidson_log_likelihood(utilities + 7, ranks, log_nu), found)


def test_gradients_are_exact_and_that_of_nu_is_observed_minus_expected():
    utilities, log_nu = random(6, 4).requires_grad_(), torch.tensor([0.3, -0.5], dtype=torch.float64).requires_grad_()
    ranks = torch.tensor([[1, 2, 2, 3], [1, 1, 1, 0], [1, 2, 3, -1], [0, 0, 0, 0], [2, 2, 1, 1], [1, 0, 0, -1]])
    assert torch.autograd.gradcheck(lambda u, nu: davidson_log_likelihood(u, ranks, nu), (utilities, log_nu))
    assert torch.autograd.gradcheck(lambda u, nu: davidson_pair_log_likelihood(u, ranks, nu), (utilities, log_nu))
    pairs = random(50, 2)
    tie = torch.tensor([[1, 1], [1, 2]]).repeat(25, 1)
    nu = torch.tensor([0.2], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(davidson_log_likelihood(pairs, tie, nu).sum(), nu)
    chances = np.exp(log_outcomes((pairs[:, 0] - pairs[:, 1]).numpy(), 0.2))[:, 1]
    assert slope.item() == pytest.approx(25 - chances.sum(), rel=1e-9)


def test_autocast_changes_nothing():
    utilities, ranks = random(5, 3).float(), torch.tensor([[1, 1, 2]] * 5)
    expected = davidson_log_likelihood(utilities, ranks, torch.tensor([0.5]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(davidson_log_likelihood(utilities, ranks, torch.tensor([0.5])), expected)


def test_large_utilities_are_finite():
    utilities = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    for ranks in ([[1, 2, 3]], [[3, 1, 2]], [[1, 1, 2]]):
        davidson_log_likelihood(utilities, torch.tensor(ranks), torch.tensor([0.0])).sum().backward()
    assert torch.isfinite(utilities.grad).all()


def test_nu_is_recovered_and_a_block_that_is_too_long_is_refused():
    draw = np.random.default_rng(0)
    gap = draw.normal(size=20_000)
    chances = np.exp(log_outcomes(gap, np.log(0.8)))
    outcome = (draw.random(20_000)[:, None] > chances.cumsum(1)).sum(1)
    assert np.exp(estimated_log_nu(gap, outcome)) == pytest.approx(0.8, rel=0.05)
    assert estimated_log_nu(gap, np.zeros(20_000, dtype=int)) < -9
    with pytest.raises(ValueError, match="3 responses are tied, and davidson has probabilities for blocks of up to 2"):
        davidson_log_likelihood(torch.zeros(1, 3), torch.tensor([[1, 1, 1]]), torch.zeros(1))

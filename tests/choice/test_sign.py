"""The sign estimator (arXiv 2510.23965): bounds, gradients, and the order of a mixed population."""

import numpy as np
import torch

from pluralign.choice.plackett_luce import pair_log_likelihood
from pluralign.choice.sign import sign_score

MEAN, SPREAD = np.array([1.0, 1.0]), 3.0
"""Half of the people have the taste (1, 1 + 3) and half (1, 1 - 3): symmetric around (1, 1)."""

RESPONSES = torch.tensor([[0.0, 0.0], [-0.6, 0.8], [0.9, -0.7]], dtype=torch.float64)
"""Mean utilities 0, .2 and .2: the first is the worst on average."""


def choices(count=100_000, seed=0):
    """Differences of features `(pairs, 2)`, the preferred response first."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(count, 2))
    taste = MEAN + np.array([0.0, SPREAD]) * draw.choice([-1, 1], size=(count, 1))
    won = draw.random(count) < 1 / (1 + np.exp(-(x * taste).sum(1)))
    return torch.from_numpy(np.where(won[:, None], x, -x))


def fitted(score, x, steps=300):
    """The weights of a linear reward that maximise a mean score of pairs."""
    w = torch.full((2,), 0.1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([w], lr=0.05)
    ranks = torch.tensor([[1, 2]]).expand(len(x), 2)
    for _ in range(steps):
        optimizer.zero_grad()
        margin = x @ w
        (-score(torch.stack((margin, torch.zeros_like(margin)), 1), ranks).mean()).backward()
        optimizer.step()
    return w.detach()


def test_a_mixed_population_is_ranked_rightly_where_bradley_terry_is_wrong():
    x = choices()
    plain, sign = fitted(pair_log_likelihood, x), fitted(sign_score, x)
    truth = torch.from_numpy(MEAN)
    order = (RESPONSES @ truth).argsort().tolist()
    assert (RESPONSES @ sign).argsort()[0] == order[0] == 0
    assert (RESPONSES @ plain).argsort()[0] == 1  # disliked by the fit, liked by the mean of the people
    probe = torch.from_numpy(np.random.default_rng(1).normal(size=(4000, 2)))
    wrong = {name: ((probe @ w > 0) != (probe @ truth > 0)).double().mean().item()
             for name, w in (("plain", plain), ("sign", sign))}  # fmt: skip
    assert wrong["plain"] > 0.1
    assert wrong["sign"] < 0.05


def test_where_all_agree_both_have_one_order():
    draw = np.random.default_rng(2)
    x = draw.normal(size=(20_000, 2))
    won = draw.random(len(x)) < 1 / (1 + np.exp(-x @ MEAN))
    x = torch.from_numpy(np.where(won[:, None], x, -x))
    for score in (pair_log_likelihood, sign_score):
        w = fitted(score, x)
        assert abs(w[0] / w[1] - 1) < 0.1


def test_it_is_the_share_of_wrong_orders_for_large_utilities_and_ties_do_nothing():
    utilities = 1e4 * torch.tensor([[3.0, 1.0, 2.0], [1.0, 1.0, 0.0]])
    ranks = torch.tensor([[1, 2, 3], [1, 1, 1]])
    utilities.requires_grad_()
    found = sign_score(utilities, ranks)
    torch.testing.assert_close(found, torch.tensor([-1 / 3, -1 / 2]))
    found.sum().backward()
    assert torch.equal(utilities.grad, torch.zeros_like(utilities))
    small = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    mixed = torch.tensor([[1, 2, 2], [1, 0, 0], [2, 1, -1], [3, 2, 1], [0, 0, 0]])
    assert torch.autograd.gradcheck(lambda u: sign_score(u, mixed), (small,))

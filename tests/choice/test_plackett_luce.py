"""Truths of the choice models (methods: common ground)."""

import itertools
import math

import choix
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid

from pluralign.choice.plackett_luce import log_likelihood, pair_log_likelihood

TIES = ("efron", "breslow", "average", "marginal")


def plain(utilities, order):
    """The textbook product, in float64, for a list of positions from best to worst."""
    left, total = list(order[0]) + list(order[1]), 0.0
    for best in order[0]:
        total += utilities[best] - math.log(sum(math.exp(utilities[s]) for s in left))
        left.remove(best)
    return total


def utilities_of(*shape, seed=0, scale=2.0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize("responses", [1, 2, 3, 5])
def test_full_and_top_rankings_equal_the_textbook_product(responses):
    for seed in range(5):
        u = utilities_of(1, responses, seed=seed)
        order = torch.randperm(responses, generator=torch.Generator().manual_seed(seed)).tolist()
        for ranked in range(1, responses + 1):
            ranks = torch.zeros(1, responses, dtype=torch.long)
            for position, response in enumerate(order[:ranked]):
                ranks[0, response] = position + 1
            expected = plain(u[0].tolist(), (order[:ranked], order[ranked:]))
            torch.testing.assert_close(log_likelihood(u, ranks), torch.tensor([expected]).double())
            full = torch.zeros(1, responses, dtype=torch.long)
            full[0, order] = torch.arange(1, responses + 1)
            torch.testing.assert_close(log_likelihood(u, full, top=ranked), log_likelihood(u, ranks))


@pytest.mark.parametrize("ties", TIES)
def test_probabilities_of_all_strict_rankings_sum_to_one(ties):
    u = utilities_of(4).expand(24, 4)
    ranks = torch.tensor(list(itertools.permutations(range(1, 5))))
    torch.testing.assert_close(log_likelihood(u, ranks, ties=ties).exp().sum(), torch.tensor(1.0).double())


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("objective", [log_likelihood, pair_log_likelihood])
def test_two_responses_are_bradley_terry_to_the_bit(objective, ties):
    u = torch.randn(100, 2, generator=torch.Generator().manual_seed(1)) * 30
    ranks = torch.tensor([[1, 2], [2, 1], [1, 0], [0, 1]]).repeat(25, 1)
    winner_first = torch.tensor([1.0, -1.0, 1.0, -1.0]).repeat(25)
    assert torch.equal(objective(u, ranks, ties=ties), logsigmoid(winner_first * (u[:, 0] - u[:, 1])))
    padded = torch.nn.functional.pad(ranks, (0, 2), value=-1)
    wide = torch.nn.functional.pad(u, (0, 2), value=7.0)
    assert torch.equal(objective(wide, padded, ties=ties), objective(u, ranks, ties=ties))


def test_a_tied_pair_under_each_option():
    u = utilities_of(6, 2)
    ranks = torch.ones(6, 2, dtype=torch.long)
    both = logsigmoid(u[:, 0] - u[:, 1]) + logsigmoid(u[:, 1] - u[:, 0])
    for objective in (log_likelihood, pair_log_likelihood):
        torch.testing.assert_close(objective(u, ranks, ties="efron"), both + math.log(2))
        torch.testing.assert_close(objective(u, ranks, ties="breslow"), both)
        torch.testing.assert_close(objective(u, ranks, ties="average"), both / 2)
        torch.testing.assert_close(objective(u, ranks, ties="marginal"), torch.full((6,), math.log(0.5)).double())


@pytest.mark.parametrize("blocks", [[[0], [1, 2], [3]], [[1, 3], [0, 2]], [[2, 0, 1], [3]], [[3], [0, 1, 2]]])
@pytest.mark.parametrize("unranked", [0, 2])
def test_exact_ties_equal_enumeration(blocks, unranked):
    u = utilities_of(1, 4 + unranked)
    ranks = torch.zeros(1, 4 + unranked, dtype=torch.long)
    for rank, block in enumerate(blocks, start=1):
        ranks[0, block] = rank
    rest = list(range(4, 4 + unranked))
    orders = itertools.product(*(itertools.permutations(block) for block in blocks))
    logs = torch.tensor([plain(u[0].tolist(), (list(itertools.chain(*o)), rest)) for o in orders]).double()
    torch.testing.assert_close(log_likelihood(u, ranks, ties="average")[0], logs.mean())
    torch.testing.assert_close(log_likelihood(u, ranks, ties="marginal")[0], logs.logsumexp(0) - math.log(len(logs)))


def test_efron_and_breslow_equal_their_formulas():
    u = utilities_of(1, 4)
    e = u[0].exp()
    ranks = torch.tensor([[1, 2, 2, 2]])
    block = e[1:].sum()
    numerator = u.sum() - e.sum().log()
    expected = {
        "breslow": numerator - 3 * block.log(),
        "efron": numerator - sum(torch.log(block * (1 - step / 3)) for step in range(3)),
    }
    for ties, value in expected.items():
        torch.testing.assert_close(log_likelihood(u, ranks, ties=ties)[0], value)


def test_a_long_block_is_refused_by_the_exact_options():
    for ties in ("average", "marginal"):
        with pytest.raises(ValueError, match="at most 3, found 4"):
            log_likelihood(torch.zeros(1, 4), torch.ones(1, 4, dtype=torch.long), ties=ties)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6), st.sampled_from(TIES))
def test_laws_for_random_judgments(seed, responses, ties):
    """Shifts do not matter, responses may be listed in any order, rank values only by their order."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(3, responses, dtype=torch.float64, generator=generator)
    ranks = torch.randint(-1, 4, (3, responses), generator=generator)
    if ties in ("average", "marginal") and any((row == r).sum() > 3 for row in ranks for r in (1, 2, 3)):
        ranks = ranks.clamp(max=0)
    for objective in (log_likelihood, pair_log_likelihood):
        value = objective(u, ranks, ties=ties)
        assert torch.isfinite(value).all()
        torch.testing.assert_close(objective(u + 3.7, ranks, ties=ties), value)
        order = torch.randperm(responses, generator=generator)
        torch.testing.assert_close(objective(u[:, order], ranks[:, order], ties=ties), value)
        torch.testing.assert_close(objective(u, torch.where(ranks > 0, ranks * 7, ranks), ties=ties), value)
        types = torch.stack((u, u * 2))
        torch.testing.assert_close(objective(types, ranks, ties=ties)[1], objective(u * 2, ranks, ties=ties))


@pytest.mark.parametrize("ties", TIES)
def test_gradients_are_right_and_padding_gets_none(ties):
    ranks = torch.tensor([[1, 2, 2, 0, -1], [1, 0, 0, 0, 0], [3, 1, 2, -1, -1], [1, 1, -1, -1, -1]])
    u = utilities_of(4, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: log_likelihood(x, ranks, ties=ties), (u,))
    log_likelihood(u, ranks, ties=ties).sum().backward()
    assert (u.grad[ranks == -1] == 0).all()


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_extreme_utilities_stay_finite(ties, dtype):
    ranks = torch.tensor([[1, 2, 3], [3, 2, 1], [1, 1, 2], [1, 0, 0], [1, -1, -1], [0, 0, 0]])
    u = torch.tensor([1e4, 0.0, -1e4], dtype=dtype).repeat(6, 1).requires_grad_()
    for objective in (log_likelihood, pair_log_likelihood):
        u.grad = None
        value = objective(u, ranks, ties=ties)
        value.sum().backward()
        assert torch.isfinite(value).all()
        assert torch.isfinite(u.grad).all()
        assert value[0] == 0
        assert value[1] <= -1e4


def test_extreme_gradients_are_exact():
    """The worst ranking of utilities (1e4, 0, -1e4): each wrong place costs the whole gap, gradients are +-1."""
    u = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    log_likelihood(u, torch.tensor([[3, 2, 1]])).sum().backward()
    assert u.grad.tolist() == [[-2.0, 1.0, 1.0]]


def test_equal_utilities_give_the_first_loss():
    """What an untrained model must score: ln n!/(n-q)! for q ranked places of n."""
    ranks = torch.tensor([[1, 2, 3, 4], [1, 2, 0, 0], [1, 0, 0, -1]])
    expected = [math.log(24), math.log(12), math.log(3)]
    equal = torch.zeros(ranks.shape, dtype=torch.float64)
    torch.testing.assert_close(-log_likelihood(equal, ranks), torch.tensor(expected, dtype=torch.float64))
    first_two = -log_likelihood(equal[:1], ranks[:1], top=2)
    torch.testing.assert_close(first_two, torch.tensor([math.log(12)], dtype=torch.float64))


def test_worths_found_by_ascent_equal_choix():
    """Maximum likelihood over item worths agrees with an outside implementation."""
    generator = np.random.default_rng(0)
    truth = generator.normal(size=6)
    rankings = [
        tuple(items[np.argsort(-(truth[items] + generator.gumbel(size=4)))])
        for items in (generator.choice(6, 4, replace=False) for _ in range(400))
    ]
    expected = choix.ilsr_rankings(6, rankings)
    items = torch.tensor(np.array(rankings))
    ranks = torch.arange(1, 5).expand(400, 4)
    worths = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([worths], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = -log_likelihood(worths[items], ranks).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    found = (worths - worths.mean()).detach().numpy()
    np.testing.assert_allclose(found, expected - expected.mean(), atol=1e-5)


def test_bad_arguments_are_named():
    u, ranks = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="ties: found 'cox'"):
        log_likelihood(u, ranks, ties="cox")
    with pytest.raises(ValueError, match=r"ranks \(2, 2\)"):
        log_likelihood(u, ranks[:, :2])
    with pytest.raises(ValueError, match="floating"):
        log_likelihood(u.long(), ranks)
    with pytest.raises(ValueError, match="top: found 0"):
        log_likelihood(u, ranks, top=0)


def test_opposite_votes_smooth_every_strict_pair_by_their_share():
    """(1 - e) log sigmoid(margin) + e log sigmoid(-margin); one number, or one for each pair; ties untouched."""
    utilities = torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    ranks = torch.tensor([[1, 2, 2]])
    shares = torch.tensor([[0.1, 0.4, 0.9]], dtype=torch.float64)
    found = pair_log_likelihood(utilities, ranks, opposite=shares)
    first, second = utilities[0, 0] - utilities[0, 1], utilities[0, 0] - utilities[0, 2]
    tied = log_likelihood(utilities[:, 1:], torch.tensor([[1, 1]]))
    expected = 0.9 * logsigmoid(first) + 0.1 * logsigmoid(-first)
    expected = (expected + 0.6 * logsigmoid(second) + 0.4 * logsigmoid(-second) + tied) / 3
    torch.testing.assert_close(found, expected)
    same = pair_log_likelihood(utilities, ranks, opposite=0.25)
    torch.testing.assert_close(same, pair_log_likelihood(utilities, ranks, opposite=torch.full((1, 3), 0.25)))
    assert torch.equal(pair_log_likelihood(utilities, ranks, opposite=0.0), pair_log_likelihood(utilities, ranks))

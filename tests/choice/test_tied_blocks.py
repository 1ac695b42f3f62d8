"""Exact probabilities of blocks of ties, against the sum over all orders and against simulation."""

import itertools

import numpy as np
import pytest
import torch

from pluralign.choice.latent_class.choice_sets import choice_sets
from pluralign.choice.latent_class.estimator import LatentClassPlackettLuce
from pluralign.choice.latent_class.panel import Panel
from pluralign.choice.latent_class.power import power_curve
from pluralign.choice.latent_class.tied_blocks import block_log_p
from pluralign.choice.plackett_luce import log_likelihood


@pytest.mark.parametrize("scale", [0.5, 2.0, 12.0])
@pytest.mark.parametrize("tied", [1, 2, 4])
def test_it_is_the_sum_over_all_orders_of_the_block(tied, scale):
    utilities = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(tied)) * scale
    ranks = torch.tensor([[1] * tied + [2] * (7 - tied)])
    sets = choice_sets(torch.arange(7).unsqueeze(0), ranks, 7)
    block = int((torch.bincount(sets.tied.choice) == tied).nonzero()[0])  # the other is what comes last
    orders = torch.tensor([[*order, *[0] * (7 - tied)] for order in itertools.permutations(range(1, tied + 1))])
    for vector, own in enumerate(utilities.T):
        expected = torch.logsumexp(
            log_likelihood(own.expand(len(orders), 7), orders), 0
        )  # an order of the block, the others not ranked
        torch.testing.assert_close(block_log_p(sets, utilities)[block, vector], expected, rtol=0, atol=1e-4)


def test_long_blocks_of_unlike_responses_stay_finite_and_sum_to_one():
    utilities = torch.linspace(-4, 4, 60, dtype=torch.float64).unsqueeze(1)
    rng = np.random.default_rng(0)
    first = rng.permuted(np.tile(np.arange(60), (4000, 1)), axis=1)[:, :30]
    drawn = utilities[:, 0].numpy() + rng.gumbel(size=(4000, 60))
    best = np.sort(np.argsort(-drawn, 1)[:, :30], 1)
    for rows in (first[:50], best[:50]):
        ranks = np.full((50, 60), 2)
        np.put_along_axis(ranks, rows, 1, 1)
        sets = choice_sets(torch.arange(60).expand(50, 60), torch.tensor(ranks), 60)
        assert torch.isfinite(block_log_p(sets, utilities)).all()
    pairs = choice_sets(torch.tensor([[3, 50], [50, 3]]), torch.tensor([[1, 2], [1, 2]]), 60)
    assert abs(float(block_log_p(pairs, utilities).exp().sum()) - 1) < 1e-5


def test_nobody_finds_more_than_who_knows_the_types():
    """Rankings of long blocks of ties: Efron's approximation is poor there, and must not set the ceiling."""
    rng = np.random.default_rng(0)
    tastes = rng.normal(size=(2, 24)) * 1.5
    drawn = np.repeat(tastes, 60, 0) + rng.gumbel(size=(120, 24))
    ranks = 1 + (drawn.argsort(1).argsort(1) < 12)  # the better half tied, the worse half tied
    panel = Panel(np.tile(np.arange(24), (120, 1)), ranks, np.arange(120))
    model = LatentClassPlackettLuce(2, ridge=0.1, seed=0).fit(panel)
    powers = power_curve(model, panel, judgments=(1, 2, 4), lengths=(None,), replicates=3, annotators=200)
    for power in powers:
        assert power.accuracy <= power.ceiling + 0.05  # three simulations of 200 annotators
    assert powers[-1].ceiling > 0.9

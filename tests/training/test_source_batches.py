"""Orders of judgments of several sources: shares of steps, epochs that go on, and what decides them."""

import numpy as np
import pytest
import torch

from pluralign.core.errors import PluralignError
from pluralign.judgments import Judgments
from pluralign.scoring.items import items_of
from pluralign.training.more.source_batches import BalancedSampler, ProportionalSampler, SourceCollator, members_of

SIZES = (3, 20, 41)


def town(sizes=SIZES):
    """Judgments of several sources in mixed order, several of them on each prompt."""
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    rows = [
        {"prompt": f"Number {number % 7}?", "responses": ["yes", "no"], "ranks": [1, 2], "source": f"s{source}"}
        for number, source in enumerate(order)
    ]
    items = items_of(Judgments.from_rows(rows))
    return items, order, members_of(order, [f"s{number}" for number in range(len(sizes))])


def test_balanced_any_so_many_in_a_row_are_one_of_each():
    items, source, members = town()
    sampler = BalancedSampler(items, members, 50, 4, (7,))
    drawn = source[list(sampler)]
    assert len(drawn) == len(sampler) == 150
    for start in range(148):
        assert sorted(drawn[start : start + 3]) == [0, 1, 2]


@pytest.mark.parametrize("draws", [1, 5, 20, 41, 100])
def test_balanced_epochs_go_on_where_the_last_one_stopped(draws):
    """After any number of draws, every judgment of a source has come equally often or once more."""
    items, source, members = town()
    sampler = BalancedSampler(items, members, draws, 4, (7,))
    count = np.zeros(items.judgments, dtype=int)
    for epoch in range(9):
        sampler.set_epoch(epoch)
        drawn = np.array(list(sampler))
        np.testing.assert_array_equal(np.bincount(source[drawn], minlength=3), draws)
        count += np.bincount(drawn, minlength=items.judgments)
        for own, size in zip(members, SIZES, strict=True):
            assert count[own].sum() == (epoch + 1) * draws
            assert count[own].min() == (epoch + 1) * draws // size
            assert np.ptp(count[own]) <= 1


@pytest.mark.parametrize("kind", ["balanced", "proportional"])
def test_the_seed_and_the_epoch_alone_decide_the_order(kind):
    items, _, members = town()

    def sampler(*seed):
        if kind == "balanced":
            return BalancedSampler(items, members, 15, 4, seed)
        return ProportionalSampler(items, members, 4, seed)

    one, other = sampler(1), sampler(1)
    orders = []
    for epoch in range(4):
        one.set_epoch(epoch)
        orders.append(list(one))
    other.set_epoch(3)  # as a resumed run does, without the epochs before
    assert list(other) == orders[3]
    assert list(other) == orders[3], "the same as often as it is asked"
    other.set_epoch(1)
    assert list(other) == orders[1]
    assert list(sampler(2)) != orders[0]
    assert len({tuple(order) for order in orders}) == 4


def test_balanced_passes_through_a_source_have_orders_of_their_own():
    items, source, members = town()
    sampler = BalancedSampler(items, members, 40, 1, (0,))
    drawn = np.array(list(sampler))
    second = drawn[source[drawn] == 1]
    assert sorted(second[:20]) == sorted(second[20:]) == members[1].tolist()
    assert second[:20].tolist() != second[20:].tolist()


@pytest.mark.parametrize("sizes", [SIZES, (30, 10), (5, 5, 5, 5, 60)])
def test_proportional_each_comes_once_and_sources_are_spread_evenly(sizes):
    """A window over a time T of the epoch holds within 1 of n_k T of each source; so its m judgments hold within
    (1 - p) + p (K - 1) of p m, p the source's share, which for two sources is 1."""
    items, source, members = town(sizes)
    for seed in range(5):
        sampler = ProportionalSampler(items, members, 4, (seed,))
        for epoch in range(3):
            sampler.set_epoch(epoch)
            drawn = np.array(list(sampler))
            assert len(sampler) == len(drawn) == sum(sizes)
            assert sorted(drawn) == list(range(sum(sizes)))
            passed = np.zeros((len(drawn) + 1, len(sizes)))
            passed[1:] = np.cumsum(np.eye(len(sizes))[source[drawn]], 0)
            share = np.array(sizes) / sum(sizes)
            for length in (1, 4, 8, 16, len(drawn)):
                counts = passed[length:] - passed[:-length]
                assert (np.abs(counts - share * length) <= 1 + share * (len(sizes) - 2) + 1e-9).all()


def test_judgments_on_one_prompt_stand_together_within_a_source():
    """In groups, as the reward trainers' sampler puts them."""
    items, source, members = town((40, 40))
    for sampler in (
        BalancedSampler(items, members, 40, 5, (0,)),
        ProportionalSampler(items, members, 5, (0,)),
    ):
        drawn = np.array(list(sampler))
        for number in (0, 1):
            prompts = items.prompt[drawn[source[drawn] == number]]
            changes = int((np.diff(prompts) != 0).sum())
            assert changes <= 7 * 3, "at most three groups of a prompt's five or six judgments"
    plain = np.array(list(BalancedSampler(items, members, 40, 1, (0,))))
    assert (np.diff(items.prompt[plain[source[plain] == 0]]) != 0).sum() > 21


def test_a_judgment_without_a_source_is_refused():
    with pytest.raises(PluralignError, match=r"source: 2 of 3 judgments have none: fill the column `source`"):
        members_of(np.array([1, 0, 1]), ["a"])
    with pytest.raises(PluralignError, match="3 of 3"):
        members_of(np.array([0, 0, 0]), [])


def test_the_collator_says_how_much_of_a_judgment_belongs_to_each_source():
    shares = torch.tensor([[1.0, 0.0], [0.25, 0.75]])
    collator = SourceCollator(lambda batch: {"weight": torch.ones(len(batch))}, np.array([1, 0, 1]), shares)
    found = collator([2, 1, 2])
    assert found.keys() == {"weight", "membership"}
    assert found["membership"].tolist() == [[0.25, 0.75], [1.0, 0.0], [0.25, 0.75]]

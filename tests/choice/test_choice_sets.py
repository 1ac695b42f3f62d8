"""Blocks of ties taken from sets: the choices multiply to the ranking, and equal ones are kept once."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exploded import exploded
from pluralign.choice.latent_class import choice_sets as module
from pluralign.choice.latent_class.choice_sets import choice_sets
from pluralign.choice.latent_class.conditional_logit import ConditionalLogit
from pluralign.choice.plackett_luce import log_likelihood

IDS = 9


def random_rankings(seed, judgments=12, shown=6):
    """Rankings of 1 to 6 responses: some ranked, some tied, some not ranked, the rest not shown."""
    rng = np.random.default_rng(seed)
    responses = np.stack([rng.permutation(IDS)[:shown] for _ in range(judgments)])
    ranks = rng.integers(0, 5, responses.shape)
    length = rng.integers(1, shown + 1, judgments)
    ranks[rng.random(responses.shape).argsort(1) >= length[:, None]] = -1
    return torch.tensor(responses), torch.tensor(ranks)


def spelled_out(sets):
    """Judgment, tied and other responses of every choice that was made, whatever the numbering."""
    members = [[[] for _ in range(len(sets))] for _ in range(2)]
    for lists, part in zip(members, (sets.tied, sets.others), strict=True):
        for choice, response in zip(part.choice.tolist(), part.response.tolist(), strict=True):
            lists[choice].append(response)
    return sorted(
        (judgment, tuple(sorted(members[0][choice])), tuple(sorted(members[1][choice])))
        for judgment, choice in zip(sets.judgment.tolist(), sets.choice.tolist(), strict=True)
    )


@pytest.mark.parametrize("scale", [2.0, 500.0])
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["efron", "breslow"]), st.sampled_from([None, 1, 2, 4]))
def test_the_choices_of_a_ranking_multiply_to_it(scale, seed, ties, top):
    responses, ranks = random_rankings(seed)
    utilities = torch.randn(IDS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * scale
    sets = choice_sets(responses, ranks, IDS, ties=ties, top=top)
    log_p = ConditionalLogit(sets, None, IDS).at(utilities.unsqueeze(1)).log_p[:, 0]
    found = torch.zeros(len(ranks), dtype=torch.float64).index_add(0, sets.judgment, log_p[sets.choice])
    expected = log_likelihood(utilities[responses], ranks, ties=ties, top=top)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["efron", "breslow"]), st.sampled_from([None, 1, 2, 4]))
def test_the_places_of_a_ranking_multiply_to_it(seed, ties, top):
    responses, ranks = random_rankings(seed)
    utilities = torch.randn(IDS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2
    sets = choice_sets(responses, ranks, IDS, ties=ties, top=top)
    places = exploded(sets)
    scores = utilities[places.response.clamp(min=0)]
    by_place = scores[:, 0] - torch.logsumexp(scores + places.log_share, 1)
    by_choice = torch.zeros(len(sets), dtype=torch.float64).index_add(0, places.choice, by_place)
    found = torch.zeros(len(ranks), dtype=torch.float64).index_add(0, sets.judgment, by_choice[sets.choice])
    expected = log_likelihood(utilities[responses], ranks, ties=ties, top=top)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_equal_choices_are_kept_once_and_counted():
    rng = np.random.default_rng(0)
    orders = [rng.permutation(5)[:3].tolist() for _ in range(300)]
    sets = choice_sets(torch.tensor(orders), torch.tensor([[1, 2, 3]] * 300), 5)
    expected = Counter()
    for best, second, last in orders:
        expected[((best,), tuple(sorted((second, last))))] += 1
        expected[((second,), (last,))] += 1
    assert Counter(row[1:] for row in spelled_out(sets)) == expected
    assert len(sets) == len(expected)


def test_a_block_of_ties_is_one_choice_whatever_the_order_of_its_responses():
    sets = choice_sets(torch.tensor([[0, 1, 2, 3], [3, 1, 0, 2]]), torch.tensor([[1, 1, 2, 2], [2, 1, 1, 2]]), 4)
    assert spelled_out(sets) == [(0, (0, 1), (2, 3)), (0, (2, 3), ()), (1, (0, 1), (2, 3)), (1, (2, 3), ())]
    assert len(sets) == 2
    assert sets.share.flatten().tolist() == [0.5, 0.5]


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_colliding_hashes_do_not_merge_choices(ties, monkeypatch):
    responses, ranks = random_rankings(2, judgments=200)
    expected = choice_sets(responses, ranks, IDS, ties=ties)
    mixed = module._mixed
    monkeypatch.setattr(module, "_mixed", lambda values, seed: mixed(values, seed) if seed == 2 else values * 0)
    found = choice_sets(responses, ranks, IDS, ties=ties)
    assert spelled_out(found) == spelled_out(expected)
    assert len(found) == len(expected)


def test_small_blocks_give_the_same(monkeypatch):
    responses, ranks = random_rankings(3, judgments=50)
    expected = choice_sets(responses, ranks, IDS)
    for cells in (1, 36 * 7):
        monkeypatch.setattr(module, "CELLS", cells)
        assert spelled_out(choice_sets(responses, ranks, IDS)) == spelled_out(expected)


def test_the_order_of_responses_and_ids_that_are_not_shown_do_not_matter():
    responses, ranks = random_rankings(4)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    garbage = torch.where(ranks == -1, torch.tensor([-7, 0, 10**9, 3, -1, 8]), responses)
    expected = spelled_out(choice_sets(responses, ranks, IDS))
    assert spelled_out(choice_sets(responses[:, order], ranks[:, order], IDS)) == expected
    assert spelled_out(choice_sets(garbage, ranks, IDS)) == expected


def test_judgments_that_say_nothing_have_no_choice():
    alone = choice_sets(torch.tensor([[3], [4]]), torch.tensor([[1], [0]]), 9)
    unranked = choice_sets(torch.tensor([[3, 4], [4, 5]]), torch.tensor([[0, 0], [-1, -1]]), 9)
    none = choice_sets(torch.zeros(0, 3, dtype=torch.long), torch.zeros(0, 3, dtype=torch.long), 9)
    for found in (alone, unranked, none):
        assert len(found) == len(found.judgment) == len(found.choice) == 0


def test_bad_arguments_are_named():
    responses, ranks = random_rankings(5)
    with pytest.raises(ValueError, match="ties: found 'average'"):
        choice_sets(responses, ranks, IDS, ties="average")
    with pytest.raises(ValueError, match="expected .judgments, shown. twice"):
        choice_sets(responses[:, :2], ranks, IDS)
    with pytest.raises(ValueError, match="top: found 0"):
        choice_sets(responses, ranks, IDS, top=0)

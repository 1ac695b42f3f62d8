"""Rankings as choices: the choices multiply to the ranking, and equal ones are kept once."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pluralign.choice.latent_class import exploded as module
from pluralign.choice.latent_class.exploded import exploded
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


def sums_over_choices(choices, utilities, judgments):
    """sum log P of the choices of each judgment, straight from the formula."""
    scores = utilities[choices.response.clamp(min=0)]
    log_p = scores[:, 0] - torch.logsumexp(scores + choices.log_share, 1)
    return torch.zeros(judgments, dtype=torch.float64).index_add(0, choices.judgment, log_p[choices.choice])


def spelled_out(choices):
    """Judgment, responses and shares of every place, in an order that does not depend on the numbering."""
    rows = zip(
        choices.judgment.tolist(),
        choices.response[choices.choice].tolist(),
        choices.log_share[choices.choice].tolist(),
        strict=True,
    )
    return sorted(rows)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["efron", "breslow"]), st.sampled_from([None, 1, 2, 4]))
def test_the_choices_of_a_ranking_multiply_to_it(seed, ties, top):
    responses, ranks = random_rankings(seed)
    utilities = torch.randn(IDS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2
    found = sums_over_choices(exploded(responses, ranks, ties=ties, top=top), utilities, len(ranks))
    expected = log_likelihood(utilities[responses], ranks, ties=ties, top=top)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_equal_choices_are_kept_once_and_counted():
    rng = np.random.default_rng(0)
    orders = [rng.permutation(5)[:3].tolist() for _ in range(300)]
    found = exploded(torch.tensor(orders), torch.tensor([[1, 2, 3]] * 300))
    expected = Counter()
    for best, second, last in orders:
        expected[(best, *sorted((second, last)))] += 1
        expected[(second, last, -1)] += 1
    counts = torch.bincount(found.choice).tolist()
    assert dict(zip(map(tuple, found.response.tolist()), counts, strict=True)) == expected


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_every_row_is_different(ties):
    responses, ranks = random_rankings(1, judgments=2000)
    found = exploded(responses, ranks, ties=ties)
    rows = {(*r, *s) for r, s in zip(found.response.tolist(), found.log_share.tolist(), strict=True)}
    assert len(rows) == len(found) < len(found.choice)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_colliding_hashes_do_not_merge_choices(ties, monkeypatch):
    responses, ranks = random_rankings(2, judgments=200)
    expected = exploded(responses, ranks, ties=ties)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "randint", lambda low, high, size, **_: torch.zeros(size, dtype=torch.int64))
        found = exploded(responses, ranks, ties=ties)
    assert spelled_out(found) == spelled_out(expected)
    assert len(found) == len(expected)


def test_small_blocks_give_the_same(monkeypatch):
    responses, ranks = random_rankings(3, judgments=50)
    expected = exploded(responses, ranks)
    for cells in (1, 36 * 7):
        monkeypatch.setattr(module, "CELLS", cells)
        found = exploded(responses, ranks)
        assert spelled_out(found) == spelled_out(expected)


def test_the_order_of_responses_and_ids_that_are_not_shown_do_not_matter():
    """Under Efron's rule the order decides which tied response takes which share, but not the product of them."""
    responses, ranks = random_rankings(4)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    garbage = torch.where(ranks == -1, torch.tensor([-7, 0, 10**9, 3, -1, 8]), responses)
    expected = spelled_out(exploded(responses, ranks, ties="breslow"))
    assert spelled_out(exploded(responses[:, order], ranks[:, order], ties="breslow")) == expected
    assert spelled_out(exploded(garbage, ranks, ties="breslow")) == expected


def test_judgments_that_say_nothing_have_no_choice():
    alone = exploded(torch.tensor([[3], [4]]), torch.tensor([[1], [0]]))
    unranked = exploded(torch.tensor([[3, 4], [4, 5]]), torch.tensor([[0, 0], [-1, -1]]))
    none = exploded(torch.zeros(0, 3, dtype=torch.long), torch.zeros(0, 3, dtype=torch.long))
    for found in (alone, unranked, none):
        assert len(found) == len(found.judgment) == len(found.choice) == 0


def test_bad_arguments_are_named():
    responses, ranks = random_rankings(5)
    with pytest.raises(ValueError, match="ties: found 'average'"):
        exploded(responses, ranks, ties="average")
    with pytest.raises(ValueError, match="expected .judgments, shown. twice"):
        exploded(responses[:, :2], ranks)
    with pytest.raises(ValueError, match="top: found 0"):
        exploded(responses, ranks, top=0)

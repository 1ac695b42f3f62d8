"""Votes on single responses as comparisons."""

import numpy as np
import pytest

from pluralign.core.errors import PluralignError
from pluralign.evaluation.calibration.recalibration import fit_temperature
from pluralign.evaluation.crowds.label_pairs import pairs_of_votes

SCALE = np.array([-1.0, 0.0, 0.0, 2.0])  # two labels of equal reward


def test_shares_are_those_of_drawing_a_vote_on_each():
    counts = np.array([[2, 1, 1, 4], [3, 0, 2, 1]])
    pairs = pairs_of_votes([0.7, -0.1], counts, SCALE, [5, 5])
    first, second = (np.repeat(SCALE, row) for row in counts)
    won = (first[:, None] > second).mean()
    lost = (first[:, None] < second).mean()
    np.testing.assert_allclose(pairs.weight, [6 * won, 6 * lost], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(pairs.margin, [0.8, -0.8], rtol=1e-12, atol=1e-12)
    assert (pairs.judgments, pairs.undecided, pairs.prompt.tolist()) == (1, 0, [5, 5])


def test_order_and_prompts_do_not_matter_and_a_prompt_counts_as_its_votes():
    generator = np.random.default_rng(0)
    rewards, counts = generator.normal(size=7), generator.integers(0, 4, (7, 4))
    prompt = np.array([0, 1, 0, 1, 1, 2, 0])
    counts[6] = 0  # without a vote
    whole = pairs_of_votes(rewards, counts, SCALE, prompt)
    order = generator.permutation(7)
    turned = pairs_of_votes(rewards[order], counts[order], SCALE, prompt[order])
    told = [sorted(zip(one.margin.round(12), one.weight.round(12), strict=True)) for one in (whole, turned)]
    # A pair may come the other way round; winner and loser do not.
    assert told[0] == told[1]
    assert whole.judgments == 1 + 3  # prompt 0: one pair; 1: three; 2: none
    assert set(whole.prompt.tolist()) <= {0, 1}


def test_equal_rewards_have_no_winner():
    pairs = pairs_of_votes([1.0, 2.0], [[0, 3, 0, 0], [0, 0, 3, 0]], SCALE, [0, 0])
    assert (len(pairs.margin), pairs.undecided) == (0, 1)


def test_the_temperature_of_a_crowd_that_follows_the_rewards_is_found():
    """Votes good or bad with log-odds u: the odds that a random vote on a is better than one on b are exp(u_a - u_b)."""
    utility = np.linspace(-1.5, 1.5, 6)
    share = 1 / (1 + np.exp(-utility))
    counts = 1e6 * np.stack([1 - share, share], 1)
    pairs = pairs_of_votes(3.0 * utility, counts, [0.0, 1.0], np.zeros(6, dtype=int))
    assert fit_temperature(pairs.margin, pairs.weight) == pytest.approx(3.0, rel=1e-6)


def test_shapes_and_counts_are_checked():
    with pytest.raises(PluralignError, match=r"counts: shape \(2, 2\) for 2 rewards, 4 labels"):
        pairs_of_votes([1.0, 2.0], [[1, 2], [2, 1]], SCALE, [0, 0])
    with pytest.raises(PluralignError, match="counts of at least 0"):
        pairs_of_votes([1.0, 2.0], [[1, 2], [2, -1]], [0.0, 1.0], [0, 0])

"""Vote shares: weighted, ties half, unranked responses behind the ranked ones."""

import numpy as np
import pytest

from pluralign.core.errors import PluralignError
from pluralign.judgments import BUILT_IN_SCALES, Judgments
from pluralign.judgments.votes import votes_of
from pluralign.scoring.items import items_of
from pluralign.scoring.votes import PairVotes


def test_shares_are_weighted_counts():
    texts = ["a", "b", "c"]
    rows = [
        {"prompt": "p", "responses": texts, "ranks": [1, 2, 3], "weight": 2.0},  # a>b, a>c, b>c
        {"prompt": "p", "responses": ["b", "a"], "ranks": [1, 1], "weight": 1.0},  # a=b
        {"prompt": "p", "responses": ["c", "a"], "ranks": [1, None], "weight": 3.0},  # c>a
        {"prompt": "q", "responses": texts, "ranks": [3, 2, 1]},  # another prompt, other texts
    ]
    items = items_of(Judgments.from_rows(rows))
    votes = PairVotes.of(items)
    against = votes.opposite(np.array([[0, 1, 2], [1, 0, 0]]), np.array([[1, 2, 3], [2, 1, -1]]))
    np.testing.assert_allclose(against[0], [0.5 / 3, 3 / 5, 0])  # b over a, c over a, c over b
    np.testing.assert_allclose(against[1], [0.5 / 3, 0, 0])  # the same pair turned round; padding


def test_a_vote_state_gives_its_posterior_means():
    """Whichever response is numbered lower here and comes first there; a pair that is not in it is refused."""
    rows = [
        {"prompt": "p", "responses": ["z", "a"], "ranks": [1, 2]},  # numbered z 0, a 1; in the state A is a
        {"prompt": "p", "responses": ["a", "m"], "ranks": [1, 1]},
    ]
    crowd = [rows[0]] * 3 + [{**rows[0], "ranks": [2, 1]}, rows[1]]
    state = votes_of(Judgments.from_rows(crowd), strength=2.0)
    votes = PairVotes.of_state(items_of(Judgments.from_rows(rows)), state)
    against = votes.opposite(np.array([[0, 1], [1, 0]]), np.array([[1, 2], [1, 2]]))
    np.testing.assert_allclose(against, [[1 - 4 / 6], [4 / 6]])
    more = items_of(Judgments.from_rows([*rows, {**rows[0], "prompt": "q"}]))
    with pytest.raises(
        PluralignError, match=r"1 of 3 pairs are not in the vote state \(the first is 'q' \| 'z' \| 'a'\)"
    ):
        PairVotes.of_state(more, state)


def test_a_state_of_labels_gives_no_pairs():
    labelled = Judgments.from_rows([{"prompt": "p", "responses": ["a"], "labels": ["1"]}], BUILT_IN_SCALES["binary"])
    pairs = items_of(Judgments.from_rows([{"prompt": "p", "responses": ["a", "b"], "ranks": [1, 2]}]))
    with pytest.raises(PluralignError, match="need a state of kind pairs"):
        PairVotes.of_state(pairs, votes_of(labelled))

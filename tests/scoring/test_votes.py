"""Vote shares: weighted, ties half, unranked responses behind the ranked ones."""

import numpy as np

from pluralign.judgments import Judgments
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

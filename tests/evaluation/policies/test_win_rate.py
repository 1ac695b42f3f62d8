"""Win rates: counted by hand, one policy's gain the other's loss."""

import numpy as np
import pytest

from pluralign.core.errors import PluralignError
from pluralign.evaluation.policies.win_rate import win_rate


def test_every_pair_of_answers_counts_and_ties_count_half():
    first, second = [[1.0, 3.0], [0.0, 5.0]], [[2.0, 3.0], [0.0, 0.0]]
    # Prompt 1: 1<2, 1<3, 3>2, 3=3: 1.5 of 4. Prompt 2: 0=0, 0=0, 5>0, 5>0: 3 of 4.
    assert win_rate(first, second, replicates=0)["win_rate"] == pytest.approx((1.5 / 4 + 3 / 4) / 2)


def test_what_one_wins_the_other_loses():
    draw = np.random.default_rng(0)
    first, second = draw.normal(size=(50, 3)).round(1), draw.normal(0.3, size=(50, 4)).round(1)
    one, other = win_rate(first, second), win_rate(second, first)
    assert one["win_rate"] + other["win_rate"] == pytest.approx(1)
    assert one["win_rate_low"] + other["win_rate_high"] == pytest.approx(1)
    assert one["win_rate_low"] < one["win_rate"] < one["win_rate_high"]
    assert win_rate(first, first)["win_rate"] == pytest.approx(0.5)


def test_intervals_cover():
    draw = np.random.default_rng(1)
    hits = 0
    for seed in range(200):
        gaps = draw.normal(0.5, size=(40, 1))
        found = win_rate(gaps, np.zeros((40, 1)), replicates=200, seed=seed)
        hits += found["win_rate_low"] <= 0.6914624612740131 <= found["win_rate_high"]
    assert 0.88 <= hits / 200 <= 0.99


def test_what_does_not_fit_is_said():
    with pytest.raises(PluralignError, match="of the same prompts"):
        win_rate([[1.0]], [[1.0], [2.0]])
    with pytest.raises(PluralignError, match="finite numbers"):
        win_rate([[float("nan")]], [[1.0]])
    assert win_rate([[1.0]], [[0.0]]) == {"win_rate": 1.0}

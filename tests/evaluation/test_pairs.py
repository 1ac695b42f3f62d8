from itertools import combinations

import numpy as np
import pytest

from pluralign.core.errors import PluralignError
from pluralign.evaluation.pairs import judgment_blocks, pairs_of

FIVE = ("rewards", "ranks", "offsets", "prompt", "weight")


@pytest.mark.parametrize("seed", range(5))
def test_pairs_equal_a_plain_loop(rankings, loop_pairs, seed):
    data = rankings(seed)
    pairs = pairs_of(*(data[name] for name in FIVE))
    expected = sorted(loop_pairs(data), key=lambda row: (row[1], row[0]))
    order = np.lexsort((pairs.margin, pairs.judgment))
    np.testing.assert_array_equal(pairs.margin[order], [row[0] for row in expected])
    np.testing.assert_array_equal(pairs.judgment, [row[1] for row in expected])
    np.testing.assert_allclose(pairs.weight, [row[2] for row in expected], rtol=1e-15, atol=1e-15)
    np.testing.assert_array_equal(pairs.prompt, data["prompt"][pairs.judgment])
    tied = sum(
        data["ranks"][a] == data["ranks"][b] > 0
        for low, high in zip(data["offsets"][:-1], data["offsets"][1:], strict=True)
        for a, b in combinations(range(low, high), 2)
    )
    assert pairs.tied == tied
    assert pairs.judgments == len(data["weight"])
    assert pairs.undecided == pairs.judgments - len({row[1] for row in expected})


def test_each_judgment_counts_its_weight_once(rankings):
    data = rankings(1)
    pairs = pairs_of(*(data[name] for name in FIVE))
    total = np.bincount(pairs.judgment, weights=pairs.weight, minlength=pairs.judgments)
    decided = np.bincount(pairs.judgment, minlength=pairs.judgments) > 0
    np.testing.assert_allclose(total, np.where(decided, data["weight"], 0.0))


def test_best_of_n_is_the_top_over_all_others():
    pairs = pairs_of([1.0, 5.0, 2.0, 3.0], [0, 1, 0, 0], [0, 4], [0], [1.0])
    assert sorted(pairs.margin.tolist()) == [2.0, 3.0, 4.0]
    assert pairs.tied == 0


def test_blocks_cover_each_judgment_once_at_any_size(rankings):
    offsets = rankings(3)["offsets"]
    for cells in (1, 20, 1000):
        seen = [
            (int(j), tuple(place))
            for block, places in judgment_blocks(offsets, cells)
            for j, place in zip(block, places, strict=True)
        ]
        assert len(seen) == len(set(seen)) == np.count_nonzero(np.diff(offsets) >= 2)
        assert all(p == tuple(range(offsets[j], offsets[j + 1])) for j, p in seen)
        assert all(
            len(b) * (places.shape[1] * (places.shape[1] - 1) // 2) <= cells or len(b) == 1
            for b, places in judgment_blocks(offsets, cells)
        )


def test_nothing_at_all():
    pairs = pairs_of([], [], [0], [], [])
    assert (len(pairs.margin), pairs.judgments, pairs.tied, pairs.undecided) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": [1.0, np.nan]}, r"rewards\[1\] is nan"),
        ({"rewards": [np.inf, 1.0]}, r"rewards\[0\] is inf"),
        ({"rewards": [1.0, 2.0, 3.0]}, r"rewards: shape \(3,\), expected \(2,\)"),
        ({"rewards": ["a", "b"]}, "rewards: .* expected numbers"),
        ({"ranks": [1, -1]}, r"ranks\[1\] is -1"),
        ({"ranks": [1.0, 2.0]}, "ranks: float64"),
        ({"offsets": [1, 2]}, "offsets: expected to start at 0"),
        ({"offsets": []}, "offsets: expected to start at 0"),
        ({"offsets": [0, 3, 2]}, "offsets: .* never to fall"),
        ({"prompt": [0, 1]}, r"prompt: shape \(2,\), expected \(1,\)"),
        ({"weight": [-1.0]}, r"weight\[0\] is -1.0"),
        ({"weight": [np.inf]}, r"weight\[0\] is inf"),
    ],
)
def test_errors_name_the_argument(change, message):
    good = {"rewards": [1.0, 0.0], "ranks": [1, 2], "offsets": [0, 2], "prompt": [0], "weight": [1.0]}
    with pytest.raises(PluralignError, match=message):
        pairs_of(**(good | change))

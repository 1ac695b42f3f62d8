import math

import numpy as np
import pytest

from pluralign.core.errors import PluralignError
from pluralign.evaluation.pairs import Pairs, pairs_of
from pluralign.evaluation.rewards.metrics import pair_metrics
from pluralign.evaluation.rewards.over_rewarding import over_rewarding, weighted_quantile

FIVE = ("rewards", "ranks", "offsets", "prompt", "weight")


def of_margins(margin, weight=None) -> Pairs:
    margin = np.asarray(margin, dtype=float)
    count = len(margin)
    each = np.ones(count) if weight is None else np.asarray(weight, dtype=float)
    return Pairs(margin, np.arange(count), each, np.arange(count), count, 0, 0)


def test_figures_by_hand():
    # Wrong by 1, 3 (heavy) and 5; right by 2 and 4; one tie of rewards.
    pairs = of_margins([2.0, 4.0, -1.0, -3.0, -5.0, 0.0], [1.0, 3.0, 1.0, 2.0, 1.0, 2.0])
    (row,) = over_rewarding(pairs, replicates=0)
    assert row == pytest.approx(
        {
            "slice": "all",
            "pairs": 6,
            "accuracy": 0.5,
            "gap_right": (2 + 12) / 4,
            "gap_wrong": (1 + 6 + 5) / 4,
            "ratio": 3 / 3.5,
            "wrong_median": 3.0,
            "wrong_p90": 5.0,
            # sigmoid(|m|) is 0.9 at 2.197.
            "sure_wrong": 3 / 4,
        }
    )


@pytest.mark.parametrize("seed", range(3))
def test_rows_equal_plain_loops_over_their_judgments(rankings, loop_pairs, seed):
    data = rankings(seed)
    rng = np.random.default_rng(seed)
    source = [None if name == "none" else str(name) for name in rng.choice(["b", "a", "none"], size=60)]
    group = [str(name) for name in rng.choice(["x=1", "old/new"], size=60)]
    rows = over_rewarding(pairs_of(*(data[name] for name in FIVE)), {"source": source, "group": group}, replicates=0)
    names = ["all", "source=a", "source=b", "group=old/new", "group=x=1"]
    assert [row["slice"] for row in rows] == names
    members = [range(60)]
    members += [[j for j in range(60) if source[j] == name] for name in ("a", "b")]
    members += [[j for j in range(60) if group[j] == name] for name in ("old/new", "x=1")]
    for row, judgments in zip(rows, members, strict=True):
        part = [(m, w) for m, j, w in loop_pairs(data) if j in set(judgments)]
        right = [(m, w) for m, w in part if m > 0]
        wrong = [(-m, w) for m, w in part if m < 0]
        heavy = sum(w for _, w in wrong)
        assert row["pairs"] == len(part)
        assert row["gap_right"] == pytest.approx(sum(m * w for m, w in right) / sum(w for _, w in right))
        assert row["gap_wrong"] == pytest.approx(sum(m * w for m, w in wrong) / heavy)
        assert row["ratio"] == pytest.approx(row["gap_wrong"] / row["gap_right"])
        sure = sum(w for m, w in wrong if 1 / (1 + math.exp(-m)) >= 0.9)
        assert row["sure_wrong"] == pytest.approx(sure / heavy)
        for key, share in (("wrong_median", 0.5), ("wrong_p90", 0.9)):
            under = sum(w for m, w in wrong if m <= row[key])
            below = sum(w for m, w in wrong if m < row[key])
            assert below < share * heavy * (1 + 1e-6)
            assert under >= share * heavy * (1 - 1e-6)


def test_all_pairs_agree_with_the_flat_metrics(rankings):
    pairs = pairs_of(*(rankings(4)[name] for name in FIVE))
    row, metrics = over_rewarding(pairs, replicates=0)[0], pair_metrics(pairs)
    for name in ("pairs", "accuracy", "gap_right", "gap_wrong", "sure_wrong"):
        assert row[name] == pytest.approx(metrics[name], rel=1e-12, abs=1e-12)


def test_twice_the_rewards_make_twice_the_gaps_at_one_accuracy(rankings):
    data = rankings(5)
    once, twice = (
        over_rewarding(pairs_of(scale * data["rewards"], *(data[name] for name in FIVE[1:])), replicates=50)[0]
        for scale in (1, 2)
    )
    for name in ("gap_right", "gap_right_high", "gap_wrong", "gap_wrong_low", "wrong_median", "wrong_p90"):
        assert twice[name] == pytest.approx(2 * once[name])
    for name in ("accuracy", "accuracy_low", "ratio"):
        assert twice[name] == pytest.approx(once[name])
    assert twice["sure_wrong"] > once["sure_wrong"]


def test_intervals_cover_the_truth_at_about_their_level():
    rng = np.random.default_rng(0)
    # margin ~ N(0.5, 1.5): the mean of a truncated normal is known.
    mean, spread = 0.5, 1.5
    pdf = math.exp(-((mean / spread) ** 2) / 2) / math.sqrt(2 * math.pi)
    below = (1 - math.erf(mean / spread / math.sqrt(2))) / 2
    truth = {
        "accuracy": 1 - below,
        "gap_right": mean + spread * pdf / (1 - below),
        "gap_wrong": -mean + spread * pdf / below,
        "sure_wrong": (1 - math.erf((math.log(9) + mean) / spread / math.sqrt(2))) / 2 / below,
    }
    covered = dict.fromkeys(truth, 0)
    for seed in range(200):
        (row,) = over_rewarding(of_margins(rng.normal(mean, spread, size=400)), replicates=200, seed=seed)
        for name, value in truth.items():
            covered[name] += row[f"{name}_low"] <= value <= row[f"{name}_high"]
    # Binomial(200, 0.95) has standard deviation 3.1; some 20 sure and wrong pairs of 150 lose a little more.
    assert all(175 <= count <= 199 for count in covered.values()), covered


def test_what_is_undefined_is_left_out():
    assert over_rewarding(of_margins([])) == [{"slice": "all", "pairs": 0}]
    assert over_rewarding(of_margins([0.0, 0.0]), replicates=0) == [{"slice": "all", "pairs": 2, "accuracy": 0.5}]
    (row,) = over_rewarding(of_margins([1.0, 2.0]), replicates=20)
    assert not any("wrong" in name or name == "ratio" for name in row)
    (single,) = over_rewarding(of_margins([-1.0]))
    assert not any(name.endswith(("_low", "_high")) for name in single)
    rows = over_rewarding(of_margins([1.0, -1.0]), {"source": ["a", None], "group": [None, None]}, replicates=20)
    assert [row["slice"] for row in rows] == ["all", "source=a"]
    assert all(math.isfinite(value) for row in rows for value in row.values() if not isinstance(value, str))


def test_weighted_quantiles():
    values = np.array([4.0, 1.0, 3.0, 2.0])
    for share, expected in ((0.25, 1.0), (0.26, 2.0), (0.5, 2.0), (0.75, 3.0), (1.0, 4.0)):
        assert weighted_quantile(values, np.full(4, 0.1), share) == expected
    assert weighted_quantile(values, np.array([1.0, 0.0, 0.0, 0.0]), 0.1) == 4.0
    assert weighted_quantile(values, np.zeros(4), 0.5) is None


def test_errors_name_the_argument():
    with pytest.raises(PluralignError, match="source: 1 values, expected 2"):
        over_rewarding(of_margins([1.0, 2.0]), {"source": ["a"]})
    with pytest.raises(PluralignError, match="replicates is -1"):
        over_rewarding(of_margins([1.0]), replicates=-1)

import math

import numpy as np
import pytest

from pluralign.evaluation.calibration.reliability import calibration_error
from pluralign.evaluation.pairs import pairs_of
from pluralign.evaluation.rewards.metrics import reward_metrics

FIVE = ("rewards", "ranks", "offsets", "prompt", "weight")


@pytest.mark.parametrize("seed", range(4))
def test_metrics_equal_a_plain_loop(rankings, loop_pairs, seed):
    data = rankings(seed)
    pairs = pairs_of(*(data[name] for name in FIVE))
    metrics = reward_metrics(pairs)
    rows = loop_pairs(data)
    total = sum(weight for _, _, weight in rows)
    score = sum(weight * (1.0 if m > 0 else 0.5 if m == 0 else 0.0) for m, _, weight in rows)
    loss = sum(weight * math.log(1 + math.exp(-m)) for m, _, weight in rows)
    assert metrics["accuracy"] == pytest.approx(score / total, rel=1e-12)
    assert metrics["log_loss"] == pytest.approx(loss / total, rel=1e-12)
    assert metrics["mean_margin"] == pytest.approx(sum(w * m for m, _, w in rows) / total, rel=1e-10)
    assert metrics["ece"] == pytest.approx(calibration_error(pairs), rel=1e-12)
    assert metrics["pairs"] == len(rows)
    assert metrics["reward_ties"] == sum(m == 0 for m, _, _ in rows) > 0


def test_log_loss_is_exact_at_huge_margins():
    for margin, loss in ((1e4, 0.0), (-1e4, 1e4), (-50.0, 50.0), (40.0, math.exp(-40))):
        pairs = pairs_of([margin, 0.0], [1, 2], [0, 2], [0], [1.0])
        assert reward_metrics(pairs)["log_loss"] == pytest.approx(loss, rel=1e-12)


def test_constant_rewards_toss_a_coin(rankings):
    data = rankings(0) | {"rewards": np.full(len(rankings(0)["rewards"]), 0.3)}
    metrics = reward_metrics(pairs_of(*(data[name] for name in FIVE)))
    assert metrics["accuracy"] == pytest.approx(0.5)
    assert metrics["log_loss"] == pytest.approx(math.log(2))
    assert metrics["mean_margin"] == 0.0
    assert metrics["reward_ties"] == metrics["pairs"] > 0
    assert "ece" not in metrics


def test_reversed_rewards_mirror_the_accuracy(rankings):
    data = rankings(2)
    ahead = reward_metrics(pairs_of(*(data[name] for name in FIVE)))
    behind = reward_metrics(pairs_of(-data["rewards"], *(data[name] for name in FIVE[1:])))
    assert ahead["accuracy"] + behind["accuracy"] == pytest.approx(1.0)
    assert ahead["mean_margin"] == pytest.approx(-behind["mean_margin"])


@pytest.mark.parametrize("weight", [[0.0], [1.0]])
@pytest.mark.parametrize("ranks", [[1, 2], [1, 1], [0, 0]])
def test_undefined_is_left_out_never_nan(weight, ranks):
    metrics = reward_metrics(pairs_of([1.0, 0.0], ranks, [0, 2], [0], weight))
    assert all(math.isfinite(value) for value in metrics.values())
    assert ("accuracy" in metrics) == (weight == [1.0] and ranks == [1, 2])
    assert metrics["pairs"] + metrics["undecided_judgments"] == 1
    assert metrics["tied_pairs"] == (ranks == [1, 1])

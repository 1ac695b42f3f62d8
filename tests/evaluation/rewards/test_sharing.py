"""A source under the shared model and under its own."""

import numpy as np
import pytest

from pluralign.core.errors import PluralignError
from pluralign.evaluation.pairs import pairs_of
from pluralign.evaluation.rewards.metrics import pair_metrics
from pluralign.evaluation.rewards.sharing import sharing_gain


def test_gains_are_the_differences_of_the_metrics_of_the_source():
    draw = np.random.default_rng(0)
    count = 200
    ranks, offsets = np.tile([1, 2], count), np.arange(count + 1) * 2
    sources = [("a", "b", None)[number % 3] for number in range(count)]
    prompt, weight = draw.integers(40, size=count), draw.random(count) + 0.5
    annotator = draw.integers(15, size=count)
    shared, own = (
        pairs_of(draw.normal(size=2 * count), ranks, offsets, prompt, weight, None, annotator) for _ in range(2)
    )
    mine = np.array([source == "b" for source in sources])
    expected = []
    for pairs in (shared, own):
        rewards = np.stack((pairs.margin[mine], np.zeros(mine.sum())), 1).ravel()
        alone = pairs_of(rewards, ranks[: 2 * mine.sum()], offsets[: mine.sum() + 1], prompt[mine], weight[mine])
        expected.append(pair_metrics(alone))
    found = sharing_gain(shared, own, sources, "b")
    gain = expected[1]["log_loss"] - expected[0]["log_loss"]
    assert found["sharing_log_loss_gain/source=b"] == pytest.approx(gain)
    assert found["sharing_accuracy_gain/source=b"] == pytest.approx(expected[0]["accuracy"] - expected[1]["accuracy"])
    assert found["sharing_log_loss_gain/source=b_low"] < gain < found["sharing_log_loss_gain/source=b_high"]
    same = sharing_gain(shared, shared, sources, "a")
    assert set(same.values()) == {0.0}
    with pytest.raises(PluralignError, match="no pair is of the source 'c'; the files have: a, b"):
        sharing_gain(shared, own, sources, "c")

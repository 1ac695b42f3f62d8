"""What annotators put first, by a policy's log-probabilities: values by hand, length, ties, intervals."""

import numpy as np
import pytest

from pluralign.core.errors import PluralignError
from pluralign.evaluation.policies.first_choices import first_choice_metrics

KEY = "first_choice_log_loss"


def measured(log_probs, tokens, ranks, shown, prompt=None, weight=None, annotators=None):
    offsets = np.concatenate(([0], np.cumsum(shown)))
    count = len(shown)
    return first_choice_metrics(
        log_probs,
        tokens,
        ranks,
        offsets,
        np.zeros(count, dtype=int) if prompt is None else prompt,
        np.ones(count) if weight is None else weight,
        [None] * count if annotators is None else annotators,
    )


def test_values_by_hand():
    probabilities = np.array([0.2, 0.3, 0.5, 0.6, 0.4])
    found = measured(np.log(probabilities), [1, 1, 1, 2, 4], [2, 1, 3, 1, 2], [3, 2], weight=[3.0, 1.0])
    assert found[KEY] == pytest.approx(-(3 * np.log(0.3) + np.log(0.6)) / 4)
    mean = np.exp(np.log([0.6, 0.4]) / [2, 4])
    assert found[f"{KEY}_per_token"] == pytest.approx(-(3 * np.log(0.3) + np.log(mean[0] / mean.sum())) / 4)
    assert found[f"{KEY}/uniform"] == pytest.approx((3 * np.log(3) + np.log(2)) / 4)


def test_tied_firsts_share_and_unranked_responses_are_rivals():
    log_probs = np.log([0.5, 0.1, 0.4])
    assert measured(log_probs, [1, 1, 1], [1, 1, 2], [3])[KEY] == pytest.approx(-np.log([0.5, 0.1]).mean())
    assert measured(log_probs, [1, 1, 1], [0, 2, 3], [3])[KEY] == pytest.approx(-np.log(0.1))


def test_a_judgment_without_ranks_does_not_count():
    found = measured(np.log([0.5, 0.5, 0.9, 0.1]), [1] * 4, [0, 0, 1, 2], [2, 2])
    assert found[KEY] == pytest.approx(-np.log(0.9))


def test_length_alone_decides_whole_texts_and_not_their_tokens():
    draw = np.random.default_rng(0)
    length = draw.integers(5, 60, (200, 4))
    ranks = np.tile([1, 2, 3, 4], (200, 1))
    found = measured((-3.0 * length).ravel(), length.ravel(), ranks.ravel(), [4] * 200, prompt=np.arange(200))
    assert found[KEY] > 30
    assert found[f"{KEY}_per_token"] == pytest.approx(np.log(4))
    assert found[f"{KEY}_low"] < found[KEY] < found[f"{KEY}_high"]


def test_shapes_are_checked():
    with pytest.raises(PluralignError, match="offsets: found 1, expected one more than the 1 judgments"):
        first_choice_metrics([0.0], [1], [1], [0], [0], [1.0], [None])

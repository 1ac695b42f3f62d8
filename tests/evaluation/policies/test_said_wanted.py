"""What is said against what people want: kinds by hand, shares that count prompts once, intervals that cover."""

import numpy as np
import pytest

from pluralign.core.errors import PluralignError
from pluralign.evaluation.policies.said_wanted import kinds_by_likeness, kinds_by_reward, said_and_wanted


def test_a_kind_is_the_type_that_favours_a_response_relative_to_all_of_its_prompt():
    draw = np.random.default_rng(0)
    rewards, item = draw.normal(size=(3, 40)), np.repeat(np.arange(4), 10)
    choice = np.stack([np.exp(own) / [np.exp(own[item == place]).sum() for place in item] for own in rewards])
    found = kinds_by_reward(rewards, item)
    assert found.tolist() == choice.argmax(0).tolist()
    shifts = draw.normal(size=(3, 4))[:, item]
    assert kinds_by_reward(rewards + shifts, item).tolist() == found.tolist(), "a constant per prompt says nothing"


def test_judged_responses_are_their_own_kinds_and_others_join_the_nearest_of_their_prompt():
    features = np.array([[1, 0], [0, 1], [3, 1], [1, 0], [0.2, 5]])
    item, judged = [0, 0, 0, 1, 1], [True, True, False, True, False]
    assert kinds_by_likeness(features, item, judged).tolist() == [0, 1, 0, 3, 3]
    with pytest.raises(PluralignError, match="prompt 1 has no judged response"):
        kinds_by_likeness(features, item, [True, True, False, False, False])


def test_shares_count_every_prompt_once():
    """A prompt with many judgments is not wanted more than one with few."""
    wanted, prompt = [0] * 9 + [1], [0] * 9 + [1]
    found = said_and_wanted([0, 1, 1, 1], [0, 0, 1, 1], wanted, prompt, np.ones(10), [None] * 10, ["a", "b"])
    assert found["wanted/kind=a"] == pytest.approx(0.5)
    assert found["said/kind=a"] == pytest.approx(0.25)
    assert found["said_wanted_tv"] == pytest.approx(0.25)
    weighted = said_and_wanted([0, 1], [0, 0], [0, 1], [0, 0], [3.0, 1.0], ["x", "y"], ["a", "b"])
    assert weighted["wanted/kind=a"] == pytest.approx(0.75)


def test_intervals_hold_the_truth_and_equal_sides_are_near():
    draw = np.random.default_rng(1)
    truth, held = np.array([0.5, 0.3, 0.2]), 0
    for _ in range(20):
        prompts = np.arange(60)
        said = draw.choice(3, size=240, p=truth)
        wanted = draw.choice(3, size=240, p=truth)
        names = [f"w{number}" for number in draw.integers(20, size=240)]
        found = said_and_wanted(
            said, np.repeat(prompts, 4), wanted, np.repeat(prompts, 4), np.ones(240), names, ["a", "b", "c"],
            replicates=200,
        )  # fmt: skip
        assert found["said_wanted_tv"] < 0.15
        held += found["said/kind=a_low"] <= 0.5 <= found["said/kind=a_high"]
    assert held >= 16


def test_sides_that_do_not_fit_are_refused():
    with pytest.raises(PluralignError, match="expected a prompt for each response"):
        said_and_wanted([0, 1], [0], [0], [0], [1.0], [None], ["a", "b"])
    with pytest.raises(PluralignError, match="on both sides"):
        said_and_wanted([], [], [0], [0], [1.0], [None], ["a"])
    with pytest.raises(PluralignError, match="rewards: found shape"):
        kinds_by_reward([[1.0, 2.0]], [0])

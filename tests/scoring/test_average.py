"""Averages of reward models: the mean of what each says, read by its own tokenizer."""

import numpy as np
import pytest
from scipy.special import expit

from pluralign.core.errors import PluralignError
from pluralign.evaluation.calibration.recalibration import Recalibration
from pluralign.scoring.items import items_of_texts
from pluralign.scoring.recalibrated import write_recalibration
from pluralign.scoring.reward_models import AveragedRewardModel, build_reward_model, load_reward_model, mean_rewards
from rewarded import write_reward_model

ITEMS = items_of_texts(["Tea?", "Say something:"], [["good cat", "bad rain", "milk"], ["sun", "good " * 40]])


@pytest.fixture
def folders(tiny_model, tiny_encoder, tmp_path):
    """A causal model, an encoder with another tokenizer, and one with a lower limit."""
    build_reward_model(tiny_model, max_length=16, max_response_length=6).save(tmp_path / "short")
    return [
        write_reward_model(tiny_model, tmp_path / "causal", 1),
        write_reward_model(tiny_encoder, tmp_path / "encoder", 2),
        tmp_path / "short",
    ]


def test_an_average_is_the_mean_of_its_parts(folders):
    parts = [load_reward_model(folder, device="cpu") for folder in folders]
    assert len({len(part.tokenizer) for part in parts}) == 2
    expected = np.mean([part.score_items(ITEMS) for part in parts], axis=0)
    average = load_reward_model(folders, device="cpu")
    assert isinstance(average, AveragedRewardModel)
    # Sums in another order differ by the rounding of float64.
    np.testing.assert_allclose(average.score_items(ITEMS), expected, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(mean_rewards(iter(parts), ITEMS), expected, rtol=1e-13, atol=1e-15)
    answers = ["good cat", "bad rain", "milk"]
    rewards = np.mean([part.score("Tea?", answers) for part in parts], axis=0)
    np.testing.assert_allclose(average.score("Tea?", answers), rewards, rtol=1e-13, atol=1e-15)
    probability = average.preference_probability("Tea?", answers)
    np.testing.assert_allclose(probability, expit(rewards[:, None] - rewards), rtol=1e-12)


def test_an_average_of_one_is_that_one(folders):
    alone = load_reward_model(folders[0], device="cpu").score_items(ITEMS)
    np.testing.assert_array_equal(load_reward_model((folders[0],), device="cpu").score_items(ITEMS), alone)


def test_temperatures_count_in_an_average_and_curves_cannot(folders):
    raw = load_reward_model(folders, device="cpu")
    parts = [part.score_items(ITEMS) for part in raw.models]
    write_recalibration(folders[1], Recalibration("temperature", temperature=4.0))
    found = load_reward_model(folders, device="cpu").score_items(ITEMS)
    np.testing.assert_allclose(found, (parts[0] + parts[1] / 4 + parts[2]) / 3, rtol=1e-13, atol=1e-15)
    again = load_reward_model(folders, raw=True, device="cpu").score_items(ITEMS)
    np.testing.assert_array_equal(again, raw.score_items(ITEMS))
    write_recalibration(folders[1], Recalibration("isotonic", knots=((1.0, 1.0),)))
    with pytest.raises(PluralignError, match="model 2 of the average has an isotonic recalibration"):
        load_reward_model(folders, device="cpu").score_items(ITEMS)


def test_an_average_of_nothing_is_refused():
    for make in (lambda: load_reward_model([]), lambda: mean_rewards([], ITEMS)):
        with pytest.raises(PluralignError, match="needs at least one reward model"):
            make()

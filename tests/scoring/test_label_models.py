"""Models that predict labels: their rewards by hand, saved and loaded, and what has the wrong head."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from labelled import SCALE
from pluralign.core.errors import PluralignError
from pluralign.evaluation.calibration.recalibration import Recalibration
from pluralign.judgments import BUILT_IN_SCALES, Judgments, LabelScale
from pluralign.scoring.items import items_of_responses, items_of_texts
from pluralign.scoring.recalibrated import write_recalibration
from pluralign.scoring.reward_models import LabelModel, RewardModel, build_reward_model, load_reward_model

HH = BUILT_IN_SCALES["hh-6"]
PROMPT, RESPONSES = "Say something about tea:", ["good cat", "bad dog in the rain and the sun", "milk"]


@pytest.fixture
def model(tiny_model):
    torch.manual_seed(0)
    built = build_reward_model(tiny_model, label_scale=HH)
    with torch.no_grad():
        built.model.score.weight.normal_()
    return built


@pytest.fixture
def saved(model, tmp_path):
    model.save(tmp_path / "saved")
    return tmp_path / "saved"


def test_rewards_of_a_distribution_by_hand(model):
    mu = np.array([[0.5, 0.2, 0.1, 0.1, 0.0, 0.1], [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]])
    # R = 1, .5, -1, -1, -1.5, -3
    np.testing.assert_allclose(model.rewards_of(mu), [0.5 + 0.1 - 0.1 - 0.1 - 0.3, -3.0], atol=1e-12)
    for level, expected in (
        (0.1, -3.0),
        (0.2, -1.0),
        (0.3, -1.0),
        (0.31, 0.5),
        (0.5, 0.5),
        (0.51, 1.0),
        (1.0, 1.0),
    ):
        cautious = LabelModel(model.model, model.tokenizer, model.limits, scale=HH, level=level)
        np.testing.assert_array_equal(cautious.rewards_of(mu), [expected, -3.0], err_msg=str(level))


def test_moments_are_those_of_the_distribution(model):
    items = items_of_texts([PROMPT], [RESPONSES])
    mu, rewards = model.distributions(items), np.array(HH.rewards)
    assert mu.shape == (3, 6)
    np.testing.assert_allclose(mu.sum(1), 1, rtol=1e-12)
    mean = mu @ rewards
    np.testing.assert_allclose(model.expected_reward(items), mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(model.score(PROMPT, RESPONSES), mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(model.variance(items), mu @ rewards**2 - mean**2, rtol=1e-9, atol=1e-12)
    order = np.argsort(rewards, kind="stable")
    cumulative = mu[:, order].cumsum(1)
    for q in (0.1, 0.5, 0.9):
        expected = rewards[order][(cumulative >= q).argmax(1)]
        np.testing.assert_array_equal(model.quantile(items, q), expected)
    probability = model.preference_probability(PROMPT, RESPONSES)
    np.testing.assert_allclose(probability + probability.T, 1)


def test_what_is_saved_says_its_labels_and_loads(model, saved):
    config = json.loads((saved / "config.json").read_text())
    assert config["id2label"] == {str(place): label for place, label in enumerate(HH.labels)}
    assert config["pluralign"]["label_scale"] == HH.as_dict()
    loaded, cautious = load_reward_model(saved, device="cpu"), load_reward_model(saved, quantile=0.2, device="cpu")
    assert isinstance(loaded, LabelModel)
    assert loaded.scale == HH
    items = items_of_texts([PROMPT], [RESPONSES])
    np.testing.assert_allclose(loaded.distributions(items), model.distributions(items), rtol=1e-6)
    np.testing.assert_array_equal(cautious.score_items(items), loaded.quantile(items, 0.2))
    plain = AutoModelForSequenceClassification.from_pretrained(saved).eval()
    tokenizer = AutoTokenizer.from_pretrained(saved)
    batch = tokenizer([PROMPT + text + tokenizer.eos_token for text in RESPONSES], return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = plain(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    # Float32 logits of size one, whose rounding is a share of their size.
    np.testing.assert_allclose(logits.double().softmax(-1).numpy(), model.distributions(items), rtol=2e-5)


@pytest.mark.parametrize("kind", ["tiny_model", "tiny_encoder"])
def test_a_distribution_does_not_depend_on_its_batch(kind, request):
    built = build_reward_model(request.getfixturevalue(kind), label_scale=HH)
    items = items_of_texts([PROMPT], [RESPONSES])
    together = built.distributions(items)
    alone = np.concatenate([built.distributions(items_of_texts([PROMPT], [[text]])) for text in RESPONSES])
    np.testing.assert_allclose(alone, together, rtol=1e-5)
    np.testing.assert_allclose(built.distributions(items, layout="flat"), together, rtol=1e-5)


def test_a_temperature_divides_the_expected_reward_and_no_quantile(saved):
    write_recalibration(saved, Recalibration("temperature", temperature=2.0))
    raw = load_reward_model(saved, raw=True, device="cpu").score(PROMPT, RESPONSES)
    np.testing.assert_allclose(load_reward_model(saved, device="cpu").score(PROMPT, RESPONSES), raw / 2, atol=1e-12)
    cautious = load_reward_model(saved, quantile=0.5, device="cpu")
    assert cautious.recalibration is None
    assert set(cautious.score(PROMPT, RESPONSES)) <= set(HH.rewards)
    assert load_reward_model(saved, device="cpu").distributions(items_of_texts([PROMPT], [RESPONSES])).shape == (
        3,
        6,
    )


def test_an_average_takes_expected_rewards(saved):
    single = load_reward_model(saved, device="cpu").score(PROMPT, RESPONSES)
    average = load_reward_model([saved, saved], device="cpu")
    np.testing.assert_allclose(average.score(PROMPT, RESPONSES), single, atol=1e-12)


def test_training_goes_on_from_a_head_of_the_same_labels_only(saved, tiny_model, tmp_path):
    again = build_reward_model(saved, label_scale=LabelScale("by another name", HH.labels, HH.rewards))
    items = items_of_texts([PROMPT], [RESPONSES])
    np.testing.assert_allclose(
        again.distributions(items), load_reward_model(saved, device="cpu").distributions(items), rtol=1e-6
    )
    with pytest.raises(PluralignError, match=r"a head for the labels 'hh-6' .* expected one for 'agree-pass-disagree'"):
        build_reward_model(saved, label_scale=SCALE)
    with pytest.raises(PluralignError, match="expected one for one output"):
        build_reward_model(saved)
    build_reward_model(tiny_model).save(tmp_path / "scalar")
    with pytest.raises(PluralignError, match="one output and no labels"):
        build_reward_model(tmp_path / "scalar", label_scale=SCALE)


def test_what_has_no_quantile_is_said(saved, tiny_model, tmp_path):
    build_reward_model(tiny_model).save(tmp_path / "scalar")
    assert type(load_reward_model(tmp_path / "scalar", device="cpu")) is RewardModel
    with pytest.raises(PluralignError, match="predicts no labels"):
        load_reward_model(tmp_path / "scalar", quantile=0.2)
    for level in (0.0, 1.5, -0.1):
        with pytest.raises(PluralignError, match="quantile: found"):
            load_reward_model(saved, quantile=level)


def test_a_classifier_of_several_classes_without_our_labels_is_no_reward_model(tiny_model, tmp_path):
    config = AutoConfig.from_pretrained(tiny_model)
    config.num_labels = 3
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path)
    with pytest.raises(PluralignError, match="not a reward model"):
        load_reward_model(tmp_path)


def test_a_config_that_was_tampered_with_is_named(saved):
    config = json.loads((saved / "config.json").read_text())
    config["pluralign"]["label_scale"] = SCALE.as_dict()
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(PluralignError, match="'agree-pass-disagree' has 3 labels and the model's head 6 outputs"):
        load_reward_model(saved)


def test_items_of_responses_stand_by_prompt_and_keep_their_order():
    items = items_of_responses(["a", "b", "a"], ["x", "x", "y"], np.array([1.0, 2.0, 3.0]))
    assert (items.prompts, items.responses, items.item.tolist()) == (["a", "b"], ["x", "y", "x"], [0, 0, 1])
    assert [items.responses[place] for place in items.response] == ["x", "x", "y"]
    assert items.prompt.tolist() == [0, 1, 0]
    assert items.weight.tolist() == [1.0, 2.0, 3.0]
    chat = [{"role": "user", "content": "Tea?"}]
    answer = [{"role": "assistant", "content": "Yes"}]
    assert items_of_responses([chat, chat], [answer, chat], np.ones(2)).prompts == [chat]


def test_the_scale_of_a_table_is_compared_by_labels_and_rewards():
    assert SCALE.same_labels(LabelScale("other", SCALE.labels, SCALE.rewards))
    assert not SCALE.same_labels(LabelScale("other", SCALE.labels[::-1], SCALE.rewards))
    assert not SCALE.same_labels(LabelScale("other", SCALE.labels, (2.0, 0.0, -1.0)))
    assert Judgments.from_rows([{"responses": ["a"], "labels": ["pass"]}], SCALE).label_scale == SCALE

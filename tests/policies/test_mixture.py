"""Mixtures of policies: their log-probabilities by hand, whose answers are drawn, and folders that say too little."""

import json
import shutil

import numpy as np
import pytest

from architectures import write_model
from mixtures import Plain, write_mixture
from pluralign.core.errors import PluralignError
from pluralign.policies.loading import load_policy
from pluralign.policies.mixture import MixturePolicy
from pluralign.scoring.items import items_of_texts
from pluralign.scoring.mixtures import Mixture, read_mixture

WEIGHTS = {"type-1": 0.7, "type-2": 0.3}
PROMPTS = ["Say something about tea:", "Rain or sun?"]
RESPONSES = [["good cat", "bad dog in the rain"], ["sun sun sun", "milk"]]


@pytest.fixture(scope="module")
def base(tiny_model, tmp_path_factory):
    return write_model("llama", tiny_model, tmp_path_factory.mktemp("mixtures") / "base")


@pytest.fixture(scope="module")
def folder(base):
    return write_mixture(base, base.parent / "mixture", WEIGHTS, beta=0.5, loss_type="sigmoid", top=2)


@pytest.fixture(scope="module")
def policy(folder):
    return load_policy(folder, device="cpu")


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def test_log_probs_are_those_of_the_adapters_added_up(policy, base, folder):
    tokens = policy.tokenize(items_of_texts(PROMPTS, RESPONSES))
    texts = [(prompt, one) for prompt, group in zip(PROMPTS, RESPONSES, strict=True) for one in group]
    adapters = np.array([[Plain(base, folder / name).log_prob(*text) for text in texts] for name in WEIGHTS])
    np.testing.assert_allclose(policy.adapter_values(tokens), adapters, rtol=1e-5)
    np.testing.assert_allclose(
        policy.reference_values(tokens), [Plain(base).log_prob(*text) for text in texts], rtol=1e-5
    )
    by_hand = np.log(0.7 * np.exp(adapters[0]) + 0.3 * np.exp(adapters[1]))
    np.testing.assert_allclose(policy.values(tokens), by_hand, rtol=1e-5)
    assert np.abs(adapters[0] - adapters[1]).max() > 0.1


def test_answers_are_drawn_from_the_adapters_by_their_weights(policy, base, folder):
    count = 400
    drawn = policy.sample(PROMPTS, n=count, max_new_tokens=2, batch=200)
    names = [sample.adapter for group in drawn for sample in group]
    error = np.sqrt(0.7 * 0.3 / len(names))
    assert names.count("type-1") / len(names) == pytest.approx(0.7, abs=4 * error)
    # The first tokens of each adapter's answers follow that adapter, and not another.
    plain = {name: Plain(base, folder / name) for name in WEIGHTS}
    ids = plain["type-1"].tokenizer(PROMPTS[0])["input_ids"]
    for name in WEIGHTS:
        own = [sample.token_ids[0] for sample in drawn[0] if sample.adapter == name]
        scores = {one: np.mean([model.of_tokens(ids, [token]) for token in own]) for one, model in plain.items()}
        assert max(scores, key=scores.get) == name
    # A sample's log-probability is the mixture's, whoever gave the answer.
    sample = drawn[0][0]
    each = [plain[name].of_tokens(ids, sample.token_ids) for name in WEIGHTS]
    expected = np.log(0.7 * np.exp(each[0]) + 0.3 * np.exp(each[1]))
    assert sample.log_prob == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert policy.sample(PROMPTS, n=3, max_new_tokens=2, seed=4) == policy.sample(
        PROMPTS, n=3, max_new_tokens=2, seed=4
    )


def test_an_adapter_without_weight_is_never_drawn_and_adds_nothing(copy):
    Mixture({"type-1": 0.0, "type-2": 1.0}).write(copy)
    policy = load_policy(copy, device="cpu")
    assert {sample.adapter for sample in policy.sample(PROMPTS[:1], n=20, max_new_tokens=2)[0]} == {"type-2"}
    tokens = policy.tokenize(items_of_texts(PROMPTS, RESPONSES))
    np.testing.assert_allclose(policy.values(tokens), policy.adapter_values(tokens)[1], rtol=1e-12)


def test_weights_that_miss_one_by_rounding_are_drawn_from(copy):
    Mixture({"type-1": 0.7, "type-2": 0.3000005}).write(copy)
    policy = load_policy(copy, device="cpu")
    assert policy.weights.sum() == pytest.approx(1, abs=1e-15)
    assert len(policy.sample(PROMPTS[:1], n=4, max_new_tokens=2)[0]) == 4


def test_a_folder_holds_what_was_written(folder, policy):
    assert read_mixture(folder) == Mixture(WEIGHTS, 0.5, "sigmoid", "efron", 2)
    assert isinstance(policy, MixturePolicy)
    assert policy.mixture == read_mixture(folder)
    assert list(policy.model.peft_config) == list(WEIGHTS)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weights": {}}, "expected shares that sum to 1"),
        ({"weights": {"type-1": 0.7, "type-2": 0.2}}, "expected shares that sum to 1"),
        ({"weights": {"type-1": 1.5, "type-2": -0.5}}, "expected shares that sum to 1"),
        ({"weights": {"type-1": "1.0"}}, "expected shares that sum to 1"),
        ({"weights": {"type-1": float("nan"), "type-2": 1.0}}, "expected shares that sum to 1"),
        ({"beta": 0}, "beta of a mixture: found 0, expected a number above 0"),
        ({"loss_type": "hinge"}, "loss_type of a mixture: found 'hinge', expected one of plackett-luce, sigmoid"),
        ({"ties": "none"}, "ties of a mixture: found 'none', expected one of efron"),
        ({"top": 0}, "top of a mixture: found 0, expected a whole number"),
        ({"weights": [1.0]}, "not a valid mixture"),
        ({"colour": "red"}, "not a valid mixture"),
    ],
)
def test_a_wrong_value_is_named_with_its_file(values, message, copy):
    (copy / "mixture.json").write_text(json.dumps({"weights": WEIGHTS} | values))
    with pytest.raises(PluralignError, match=message) as fault:
        load_policy(copy, device="cpu")
    assert str(copy / "mixture.json") in str(fault.value)


def test_folders_that_are_no_mixture_are_named(copy, folder):
    with pytest.raises(PluralignError, match=r"type-1: .*mixture.json is missing"):
        read_mixture(folder / "type-1")
    with pytest.raises(PluralignError, match="is a mixture, which has its own adapters"):
        load_policy(folder, adapters={"a": folder / "type-1"})
    (copy / "mixture.json").write_text("{")
    with pytest.raises(PluralignError, match="not valid JSON"):
        read_mixture(copy)
    Mixture(WEIGHTS).write(copy)
    stored = copy / "type-2" / "adapter_config.json"
    config = json.loads(stored.read_text())
    stored.write_text(json.dumps(config | {"base_model_name_or_path": "another"}))
    with pytest.raises(PluralignError, match="different bases"):
        read_mixture(copy)
    shutil.rmtree(copy / "type-2")
    with pytest.raises(PluralignError, match=r"type-2: .*adapter_config.json is missing"):
        load_policy(copy, device="cpu")

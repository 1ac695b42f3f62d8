"""Policies: what they draw is what they are, and how likely it was is computed, not remembered."""

from collections import Counter
from dataclasses import replace

import numpy as np
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from architectures import write_model
from pluralign.core.errors import PluralignError
from pluralign.policies.loading import load_policy
from pluralign.scoring.items import items_of_texts

PROMPTS = ["Say something about tea:", "Rain or sun?", "", "cat " * 40]
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


@pytest.fixture(scope="module")
def folder(tiny_model, tmp_path_factory):
    return write_model("llama", tiny_model, tmp_path_factory.mktemp("policies") / "base")


@pytest.fixture(scope="module")
def policy(folder):
    return load_policy(folder, device="cpu")


def by_hand(model, prompt_ids, token_ids):
    ids = torch.tensor([prompt_ids + token_ids])
    with torch.no_grad():
        log_probs = torch.log_softmax(model(input_ids=ids).logits[0, :-1].double(), -1)
    each = log_probs.gather(-1, ids[0, 1:, None])[:, 0]
    return each[max(len(prompt_ids) - 1, 0) :].sum().item()


def test_log_probs_of_samples_are_those_of_the_plain_model(policy, folder):
    drawn = policy.sample(PROMPTS, n=3, max_new_tokens=12, temperature=0.7, top_p=0.9)
    assert [len(group) for group in drawn] == [3] * len(PROMPTS)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for prompt, group in zip(PROMPTS, drawn, strict=True):
        ids = tokenizer(prompt)["input_ids"][-(96 - 12) :]
        for sample in group:
            assert 1 <= len(sample.token_ids) <= 12
            assert sample.finished == (sample.token_ids[-1] == tokenizer.eos_token_id)
            assert sample.log_prob == pytest.approx(by_hand(plain, ids, sample.token_ids), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
    "stored",
    [
        {"top_k": 1, "repetition_penalty": 1.7, "temperature": 0.1},
        {"min_p": 0.15, "num_beams": 3, "epsilon_cutoff": 0.02, "typical_p": 0.5},
        {"do_sample": True, "num_return_sequences": 2, "stop_strings": ["a"], "return_dict_in_generate": True},
        {"suppress_tokens": list(range(100)), "sequence_bias": [[[200], 20.0]], "no_repeat_ngram_size": 1},
    ],
)
@pytest.mark.parametrize("adapted", [False, True])
def test_draws_follow_the_policy_whatever_its_generation_config_says(adapted, stored, folder):
    """One token, many times: total variation from the model's own probabilities as small as chance makes it."""
    policy = load_policy(folder, device="cpu")
    if adapted:
        config = peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
        policy = replace(policy, model=peft.get_peft_model(policy.model, config))
    own = policy.model.generation_config
    own.update(**stored)
    count = 4000
    drawn = policy.sample(PROMPTS[:1], n=count, max_new_tokens=1, batch=count)[0]
    ids = torch.tensor([policy.tokenizer(PROMPTS[0])["input_ids"]])
    with torch.no_grad():
        expected = torch.softmax(policy.model(input_ids=ids).logits[0, -1].double(), -1).numpy()
    found = np.zeros_like(expected)
    for token, times in Counter(sample.token_ids[0] for sample in drawn).items():
        found[token] = times / count
    chance = np.sqrt(expected * (1 - expected) / count).sum() / 2 * np.sqrt(2 / np.pi)
    assert np.abs(found - expected).sum() / 2 < 1.3 * chance
    assert np.exp([sample.log_prob for sample in drawn]) == pytest.approx(
        [expected[sample.token_ids[0]] for sample in drawn], rel=1e-4
    )
    assert policy.model.generation_config is own
    assert "generation_config" not in vars(policy.model) or not adapted


def test_a_seed_gives_the_same_answers_and_leaves_other_draws_alone(policy):
    torch.manual_seed(5)
    before = torch.rand(3)
    torch.manual_seed(5)
    first = policy.sample(PROMPTS[:2], n=2, max_new_tokens=8, seed=1)
    assert torch.equal(torch.rand(3), before)
    assert policy.sample(PROMPTS[:2], n=2, max_new_tokens=8, seed=1) == first
    assert policy.sample(PROMPTS[:2], n=2, max_new_tokens=8, seed=2) != first


def test_chat_prompts_are_answered_by_messages(folder):
    policy = load_policy(folder, device="cpu")
    policy.tokenizer.chat_template = TEMPLATE
    chat = [{"role": "user", "content": "Tea?"}]
    ((sample,),) = policy.sample([chat], max_new_tokens=6)
    ids = policy.tokenizer("<user>Tea?\n<assistant>")["input_ids"]
    assert sample.log_prob == pytest.approx(by_hand(policy.model, ids, sample.token_ids), rel=1e-5, abs=1e-5)
    (message,) = sample.response
    assert message["role"] == "assistant"
    assert message["content"] == policy.tokenizer.decode(sample.token_ids, skip_special_tokens=True)


def test_a_base_serves_several_adapters(folder, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for seed, name in enumerate(("a", "b")):
        torch.manual_seed(seed)
        config = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        peft.get_peft_model(base, config).save_pretrained(tmp_path / name)
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    items = items_of_texts(["Tea?"], [["good cat", "bad dog in the rain"]])
    policy = load_policy(folder, adapters={"a": tmp_path / "a", "b": tmp_path / "b"}, device="cpu")
    found = {"first": policy.log_probs(items)}
    for name in ("a", "b", None):
        with policy.using(name):
            found[name] = policy.log_probs(items)
    expected = {name: load_policy(tmp_path / name, device="cpu").log_probs(items) for name in ("a", "b")}
    expected |= {None: load_policy(folder, device="cpu").log_probs(items), "first": expected["a"]}
    for name, log_probs in expected.items():
        np.testing.assert_allclose(found[name], log_probs, rtol=1e-5, err_msg=str(name))
    np.testing.assert_array_equal(policy.log_probs(items), found["first"], err_msg="as it was before")
    assert np.abs(found["a"] - found["b"]).max() > 1e-2


def test_what_cannot_be_done_is_said(policy, folder, tmp_path):
    with pytest.raises(PluralignError, match="leaves no room for a prompt in 96 tokens"):
        policy.sample(PROMPTS, max_new_tokens=96)
    with pytest.raises(PluralignError, match="no adapter 'a'; there are: none"):
        policy.using("a")
    with pytest.raises(PluralignError, match=r"adapter_config\.json is missing"):
        load_policy(folder, adapters={"a": tmp_path})
    with pytest.raises(PluralignError, match="no chat template"):
        policy.sample([[{"role": "user", "content": "Tea?"}]], max_new_tokens=4)
    assert policy.sample([], max_new_tokens=4) == []

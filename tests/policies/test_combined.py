"""One policy from several adapters: a merged adapter, pooled logits, and the best of n by the types' judges."""

import json

import numpy as np
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from architectures import write_model
from mixtures import Plain, write_mixture
from pluralign.choice.regret import best_of_types, percentiles
from pluralign.core.errors import PluralignError
from pluralign.policies.best_of import BestOfPolicy, best_of_groups, shares_below, write_best_of, yardstick_of
from pluralign.policies.loading import load_policy
from pluralign.policies.merging import merged_policy, why_not_merged, write_merged
from pluralign.policies.policy import Policy, Sample
from pluralign.policies.pooled import PooledPolicy
from pluralign.scoring.items import items_of_texts
from pluralign.scoring.mixtures import Mixture
from pluralign.scoring.type_judges import FeatureJudge

NAMES = ["type-1", "type-2", "type-3"]
PROMPTS = ["Say something about tea:", "Rain or sun?"]
RESPONSES = [["good cat", "bad dog in the rain"], ["sun sun sun", "milk"]]
WEIGHTS = {"type-1": 1.2, "type-2": 0.7, "type-3": -0.3}


@pytest.fixture(scope="module")
def base(tiny_model, tmp_path_factory):
    return write_model("llama", tiny_model, tmp_path_factory.mktemp("combined") / "base")


@pytest.fixture(scope="module")
def folder(base):
    return write_mixture(base, base.parent / "run", dict.fromkeys(NAMES, 1 / 3))


@pytest.fixture(scope="module")
def policy(folder):
    return load_policy(folder, device="cpu")


@pytest.fixture(scope="module")
def tokens(policy):
    return policy.tokenize(items_of_texts(PROMPTS, RESPONSES))


def pooled(policy, weights):
    mixture = Mixture(weights, combination="pooled")
    return PooledPolicy(policy.model, policy.tokenizer, policy.limits, mixture=mixture)


@pytest.mark.parametrize("kind", range(3))
def test_weight_on_one_type_is_the_policy_of_that_type(kind, policy, tokens):
    """lambda = e_k: the same log-probabilities to 1e-6, merged and pooled, and pooled draws the same responses."""
    weights = {name: float(place == kind) for place, name in enumerate(NAMES)}
    own = policy.adapter_values(tokens)[kind]
    with merged_policy(policy, weights) as merged:
        np.testing.assert_allclose(merged.values(tokens), own, rtol=1e-6)
    pool = pooled(policy, weights)
    assert pool.parts == {NAMES[kind]: 1.0}
    np.testing.assert_allclose(pool.values(tokens), own, rtol=1e-6)
    with policy.using(NAMES[kind]):
        drawn = Policy(policy.model, policy.tokenizer, policy.limits).sample(PROMPTS, n=3, max_new_tokens=4, seed=1)
    again = pool.sample(PROMPTS, n=3, max_new_tokens=4, seed=1)
    assert [[one.token_ids for one in group] for group in again] == [[one.token_ids for one in g] for g in drawn]


def test_the_merged_weights_are_the_sum_of_the_adapters(policy, base, folder, tokens):
    """Against a base to whose matrices the products B A were added by hand."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for name, weight in WEIGHTS.items():
        adapted = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder / name)
        for key, module in adapted.base_model.model.named_modules():
            if hasattr(module, "lora_A"):
                own = module.scaling["default"] * module.lora_B["default"].weight @ module.lora_A["default"].weight
                with torch.no_grad():
                    model.get_submodule(key).weight += weight * own
    before = policy.adapter_values(tokens)
    with merged_policy(policy, WEIGHTS) as merged:
        plain = Policy(model, policy.tokenizer, policy.limits)
        ids = [0] * len(tokens.item)
        assert len(ids) == 4
        by_hand = [
            plain_log_prob(plain.model, tokens.prompt_ids[item], response)
            for item, response in zip(tokens.item, tokens.response_ids, strict=True)
        ]
        np.testing.assert_allclose(merged.values(tokens), by_hand, rtol=1e-5)
        assert merged.model.peft_config["default"].r == 6, "the ranks add up"
    np.testing.assert_array_equal(policy.adapter_values(tokens), before)
    assert list(policy.model.peft_config) == NAMES, "the policy is left as it was"


def plain_log_prob(model, prompt, response):
    ids = torch.tensor([[*prompt, *response]])
    with torch.no_grad():
        log_probs = torch.log_softmax(model(input_ids=ids).logits[0, :-1].double(), -1)
    return log_probs.gather(-1, ids[0, 1:, None])[len(prompt) - 1 :].sum().item()


def test_rslora_is_not_scaled_twice(base, tmp_path):
    for seed, name in enumerate(NAMES[:2]):
        torch.manual_seed(seed)
        config = peft.LoraConfig(
            r=4, target_modules="all-linear", init_lora_weights=False, use_rslora=True, task_type="CAUSAL_LM"
        )
        peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(tmp_path / name)
    Mixture(dict.fromkeys(NAMES[:2], 0.5)).write(tmp_path)
    policy = load_policy(tmp_path, device="cpu")
    tokens = policy.tokenize(items_of_texts(PROMPTS, RESPONSES))
    with merged_policy(policy, {"type-1": 0.0, "type-2": 1.0}) as merged:
        np.testing.assert_allclose(merged.values(tokens), policy.adapter_values(tokens)[1], rtol=1e-6)


def test_a_merged_folder_is_a_plain_adapter(policy, base, tokens, tmp_path):
    write_merged(policy, WEIGHTS, tmp_path / "merge")
    with merged_policy(policy, WEIGHTS) as merged:
        expected = merged.values(tokens)
    np.testing.assert_allclose(load_policy(tmp_path / "merge", device="cpu").values(tokens), expected, rtol=1e-6)
    plain = Plain(base, tmp_path / "merge")
    np.testing.assert_allclose(plain.log_prob(PROMPTS[0], RESPONSES[0][0]), expected[0], rtol=1e-5)
    assert not (tmp_path / "merge" / "default").exists()


def test_what_is_no_sum_is_not_merged(policy, folder):
    config = policy.model.peft_config["type-2"]
    for option, value, words in (("use_dora", True, "use_dora"), ("bias", "all", "bias: all")):
        before = getattr(config, option)
        setattr(config, option, value)
        assert words in why_not_merged(policy)
        with pytest.raises(PluralignError, match="cannot be merged"), merged_policy(policy, WEIGHTS):
            pass
        setattr(config, option, before)
    assert why_not_merged(policy) is None


def test_pooled_log_probs_by_hand(policy, base, folder, tokens):
    """log softmax(z_ref + sum_k lambda_k (z_k - z_ref)) token by token, from plain models."""
    models = {name: Plain(base, folder / name).model for name in NAMES} | {None: Plain(base).model}
    rest = 1 - sum(WEIGHTS.values())
    expected = []
    for item, response in zip(tokens.item, tokens.response_ids, strict=True):
        prompt = tokens.prompt_ids[item]
        ids = torch.tensor([[*prompt, *response]])
        with torch.no_grad():
            logits = {name: model(input_ids=ids).logits[0, :-1].double() for name, model in models.items()}
        sums = sum(weight * logits[name] for name, weight in WEIGHTS.items()) + rest * logits[None]
        log_probs = torch.log_softmax(sums, -1).gather(-1, ids[0, 1:, None])
        expected.append(log_probs[len(prompt) - 1 :].sum().item())
    pool = pooled(policy, WEIGHTS)
    assert pool.parts == WEIGHTS | {None: pytest.approx(rest)}
    np.testing.assert_allclose(pool.values(tokens), expected, rtol=1e-5)


@pytest.mark.parametrize("stored", [{}, {"repetition_penalty": 1.7, "num_beams": 3, "suppress_tokens": [*range(100)]}])
def test_pooled_responses_follow_the_pooled_distribution(stored, policy, base, folder, monkeypatch):
    """First tokens: as often as the pooled model says, for every token that is likely enough to be counted."""
    monkeypatch.setattr(policy.model.get_base_model(), "generation_config", GenerationConfig(**stored))
    pool, count = pooled(policy, WEIGHTS), 3000
    drawn = pool.sample(PROMPTS[1:], n=count, max_new_tokens=1, batch=1000)[0]
    vocabulary = len(policy.tokenizer)
    seen = np.bincount([one.token_ids[0] for one in drawn], minlength=vocabulary) / count
    exact = np.zeros(vocabulary)
    for one in {one.token_ids[0]: one for one in drawn}.values():
        exact[one.token_ids[0]] = np.exp(one.log_prob)
    error = np.sqrt(exact * (1 - exact) / count)
    assert (np.abs(seen - exact) <= 4.5 * error + 1e-12).all()
    assert pool.sample(PROMPTS, n=2, max_new_tokens=3, seed=4) == pool.sample(PROMPTS, n=2, max_new_tokens=3, seed=4)
    cold = pool.sample(PROMPTS[1:], n=20, max_new_tokens=1, temperature=1e-4)[0]
    assert {one.token_ids[0] for one in cold} == {int(exact.argmax())}


def test_a_pooled_folder_is_a_policy(folder, policy, tokens, tmp_path):
    import shutil

    copy = shutil.copytree(folder, tmp_path / "pooled")
    Mixture(WEIGHTS, combination="pooled").write(copy)
    loaded = load_policy(copy, device="cpu")
    assert isinstance(loaded, PooledPolicy)
    np.testing.assert_allclose(loaded.values(tokens), pooled(policy, WEIGHTS).values(tokens), rtol=1e-6)
    for weights, words in (({"type-1": float("inf")}, "finite numbers"), ({}, "finite numbers")):
        (copy / "mixture.json").write_text(json.dumps({"weights": weights, "combination": "pooled"}))
        with pytest.raises(PluralignError, match=words):
            load_policy(copy, device="cpu")
    (copy / "mixture.json").write_text(json.dumps({"weights": {"type-1": 1.0}, "combination": "blend"}))
    with pytest.raises(PluralignError, match="expected one of mixture, pooled"):
        load_policy(copy, device="cpu")


JUDGE = FeatureJudge(["type-1", "type-2"], {"sun": [1.0, -1.0], "rain": [-1.0, 1.0]}, {})


def test_the_best_of_n_by_hand():
    """Type 1 likes sun, type 2 rain; the text with both words is nobody's last choice."""
    texts = ["sun", "rain", "sun rain", "tea"]
    drawn = [[Sample(text, [1], 0.0, True) for text in texts * 2]]
    chosen = best_of_groups(["?"], drawn, JUDGE, None, 4)
    values = JUDGE.utilities(items_of_texts(["?"], [texts]))
    table = percentiles(values)
    np.testing.assert_allclose(table, [[1, 0, 0.5, 0.5], [0, 1, 0.5, 0.5]])
    assert [one.response for one in chosen[0]] == ["sun rain", "sun rain"], "the first of equally good ones, twice"
    leaning = best_of_groups(["?"], drawn, JUDGE, {"type-1": 0.9, "type-2": 0.1}, 8)
    assert [one.response for one in leaning[0]] == ["sun"]
    assert best_of_types(table).tolist() == 2


def test_on_a_yardstick_candidates_are_compared_with_the_base():
    """Among these candidates type 1's percentiles favour `sun`; the base never says rain, so for type 2 rain counts."""
    texts = ["sun", "sun rain", "rain"]
    drawn = [[Sample(text, [1], 0.0, True) for text in texts]]
    yardstick = yardstick_of([[0.0, 0.0, 2.0], [-1.0, -1.0, -0.5]])
    table = shares_below(JUDGE.utilities(items_of_texts(["?"], [texts])), yardstick)
    np.testing.assert_allclose(table, [[0.75, 0.25, 0], [0.25, 1, 1]], atol=0.01)
    (best,) = best_of_groups(["?"], drawn, JUDGE, {"type-1": 0.5, "type-2": 0.5}, 3, yardstick)[0]
    assert best.response == "sun rain"


def test_a_best_of_folder_is_a_policy(policy, base, tmp_path):
    weights = {"type-1": 0.5, "type-2": 0.5}
    yardstick = yardstick_of([[0.0, 1.0], [0.5, 2.0]])
    write_best_of(policy, tmp_path / "best", base=str(base), n=3, weights=weights, judges=JUDGE, yardstick=yardstick)
    loaded = load_policy(tmp_path / "best", device="cpu")
    np.testing.assert_allclose(loaded.yardstick, yardstick)
    assert isinstance(loaded, BestOfPolicy)
    assert (loaded.n, loaded.weights, loaded.limits.max_length) == (3, weights, policy.limits.max_length)
    found = loaded.sample(PROMPTS, n=2, max_new_tokens=3, seed=5)
    drawn = load_policy(base, device="cpu").sample(PROMPTS, n=6, max_new_tokens=3, seed=5)
    assert found == best_of_groups(PROMPTS, drawn, JUDGE, weights, 3, yardstick)
    with pytest.raises(PluralignError, match="has its own base"):
        load_policy(tmp_path / "best", adapters={"a": base})

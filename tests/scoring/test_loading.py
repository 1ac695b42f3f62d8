"""Models that are gone, damaged or of another size: one line that names the folder."""

import json
import shutil

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pluralign.core.errors import PluralignError
from pluralign.policies.loading import load_policy
from pluralign.scoring.adapters import sort_adapter_config
from pluralign.scoring.causal_models import load_causal_model
from pluralign.scoring.items import items_of_texts
from pluralign.scoring.mixtures import read_mixture
from pluralign.scoring.reward_models import build_reward_model, load_reward_model

ITEMS = items_of_texts(["Tea?"], [["good cat", "bad dog"]])


@pytest.fixture
def model(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "model")


@pytest.fixture
def adapter(model, tmp_path):
    loaded = load_causal_model(model)
    tuned = peft.get_peft_model(loaded.model, peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    tuned.save_pretrained(tmp_path / "adapter")
    tuned.config.save_pretrained(tmp_path / "adapter")
    loaded.tokenizer.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def refused(load, folder, expected):
    with pytest.raises(PluralignError, match=expected):
        load(folder)


def test_weights_that_are_gone_or_damaged(model):
    weights = (model / "model.safetensors").read_bytes()
    for damaged in (weights[: len(weights) // 2], b"", b"x" * 100):
        (model / "model.safetensors").write_bytes(damaged)
        for load in (load_causal_model, build_reward_model, load_policy):
            refused(load, model, "model: the weights of the model cannot be loaded")
    (model / "model.safetensors").unlink()
    refused(load_causal_model, model, "model: the weights of the model cannot be loaded")
    (model / "config.json").write_text("[" * 5000)
    refused(load_causal_model, model, "no model can be loaded")


def test_a_base_that_is_gone(adapter, model):
    shutil.rmtree(model)
    refused(load_causal_model, adapter, f"{model}: the weights of the model cannot be loaded")
    refused(load_policy, adapter, f"{model}: the weights of the model cannot be loaded")
    (adapter / "adapter_config.json").write_text("{}")
    refused(load_causal_model, adapter, "adapter_config.json cannot be read")


def test_tokens_beyond_the_embeddings_are_refused(model):
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["good cat"])
    tokenizer.save_pretrained(model)
    policy = load_causal_model(model)
    with pytest.raises(PluralignError, match=r"gives the token \d+ \('good cat'\), the model has \d+ embeddings"):
        policy.log_probs(ITEMS)
    plain = AutoModelForCausalLM.from_pretrained(model)
    plain.resize_token_embeddings(len(tokenizer))
    plain.save_pretrained(model)
    assert load_causal_model(model).log_probs(ITEMS).shape == (2,)


def test_a_mixture_names_folders_of_its_own(tmp_path):
    for name in ("../x", "/etc", "..", "", "a\\b"):
        (tmp_path / "mixture.json").write_text(json.dumps({"weights": {name: 1.0}, "penalty": {"mode": "kl"}}))
        refused(read_mixture, tmp_path, "expected the name of a folder in it")
    (tmp_path / "mixture.json").write_text('{"weights": ' * 5000)
    refused(read_mixture, tmp_path, "is not valid JSON")


def test_the_modules_of_an_adapter_are_sorted(adapter):
    sort_adapter_config(adapter)
    found = json.loads((adapter / "adapter_config.json").read_text())["target_modules"]
    assert found == sorted(found)
    assert len(found) > 3
    assert load_causal_model(adapter).log_probs(ITEMS).shape == (2,)


def test_a_damaged_reward_model_is_one_line(model, tmp_path):
    build_reward_model(model).save(tmp_path / "reward")
    (tmp_path / "reward" / "model.safetensors").write_bytes(b"x")
    refused(load_reward_model, tmp_path / "reward", "reward: the weights of the model cannot be loaded")


def test_a_model_with_broken_weights_gives_no_values(model, tmp_path):
    built = build_reward_model(model)
    with torch.no_grad():
        built.model.score.weight.fill_(float("nan"))
    built.save(tmp_path / "reward")
    with pytest.raises(PluralignError, match="values that are not finite to 2 of 2 responses"):
        load_reward_model(tmp_path / "reward", device="cpu").score_items(ITEMS)

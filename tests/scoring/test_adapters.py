"""Merged adapters: the same log-probabilities, and not a bit left behind."""

import peft
import pytest
import torch
from peft.utils.warning import PeftWarning

from architectures import write_model
from pluralign.scoring.adapters import can_merge, merged
from pluralign.scoring.causal_models import CausalModel, load_causal_model
from pluralign.scoring.items import items_of_texts

TEXTS = items_of_texts(["Say something:", "Tea?"], [["good tea", "bad rain", "cat"], ["sun", "milk and tea"]])


def adapted(tiny_model, **config):
    loaded = load_causal_model(tiny_model)
    torch.manual_seed(0)
    config = {"target_modules": "all-linear", "init_lora_weights": False, "task_type": "CAUSAL_LM", **config}
    settings = peft.LoraConfig(**config)
    model = peft.get_peft_model(loaded.model, settings, adapter_name="one")
    model.add_adapter("two", settings)
    return CausalModel(model, loaded.tokenizer, loaded.limits)


@pytest.mark.parametrize("adapter", ["one", "two"])
def test_merged_is_the_adapter_and_leaves_nothing_behind(tiny_model, adapter):
    policy = adapted(tiny_model)
    model = policy.model
    model.set_adapter(adapter)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    beside = policy.log_probs(TEXTS)
    with model.disable_adapter():
        assert abs(policy.log_probs(TEXTS) - beside).max() > 1e-2, "the adapter does something"
    assert can_merge(model, adapter)
    with merged(model, adapter):
        assert policy.log_probs(TEXTS) == pytest.approx(beside, rel=2e-6)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert (policy.log_probs(TEXTS) == beside).all()


def test_a_fault_in_between_leaves_nothing_behind(tiny_model):
    model = adapted(tiny_model).model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(KeyError), merged(model, "one"):
        raise KeyError
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("config", "dtype"), [({}, torch.bfloat16), ({"use_dora": True}, None)])
def test_what_would_not_be_exact_is_not_merged(tiny_model, config, dtype):
    model = adapted(tiny_model, **config).model
    assert not can_merge(model.to(dtype) if dtype else model, "one")
    assert not can_merge(model, "absent")


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("tied", [True, False])
def test_a_head_is_merged_unless_its_weight_also_embeds(tied, tiny_model, tmp_path):
    folder = write_model("grouped-queries" if tied else "llama", tiny_model, tmp_path / "model")
    policy = adapted(folder, target_modules=["q_proj", "lm_head"])
    beside = policy.log_probs(TEXTS)
    assert can_merge(policy.model, "one") is not tied
    with merged(policy.model, "one"):
        assert bool(abs(policy.log_probs(TEXTS) - beside).max() > 1e-2) is tied


def test_an_adapter_with_a_bias_is_not_merged(tiny_model):
    with pytest.warns(PeftWarning, match="lora_bias"):
        model = adapted(tiny_model, lora_bias=True).model
    assert not can_merge(model, "one")

"""Reward models: pooled right, saved so that others load them, scored the same whatever the batch."""

import numpy as np
import peft
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, T5Config

from architectures import write_model
from pluralign.core.errors import PluralignError
from pluralign.judgments import Judgments
from pluralign.scoring.items import items_of
from pluralign.scoring.loading import is_encoder
from pluralign.scoring.pooling import pool
from pluralign.scoring.reward_models import build_reward_model, load_reward_model

PROMPT, RESPONSES = "Say something about tea:", ["good cat", "bad dog in the rain and the sun", "milk"]


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gpt2", "neox", "opt"])
@pytest.mark.parametrize("pad", ["own", "none", "end"])
def test_plain_sequence_classifiers_give_the_same_rewards(name, pad, tiny_model, tmp_path):
    write_model(name, tiny_model, tmp_path / "base", pad)
    reward_model = build_reward_model(tmp_path / "base")
    reward_model.save(tmp_path / "saved")
    ours = load_reward_model(tmp_path / "saved", device="cpu")
    found = ours.score(PROMPT, RESPONSES)
    np.testing.assert_allclose(found, reward_model.score(PROMPT, RESPONSES), rtol=1e-6, atol=1e-7)
    assert len(set(found)) == len(RESPONSES)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    stored = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert stored.pad_token_id is not None
    assert stored.pad_token_id != stored.eos_token_id
    for side in ("right", "left"):
        stored.padding_side = side
        batch = stored([PROMPT + text + stored.eos_token for text in RESPONSES], return_tensors="pt", padding=True)
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        if side == "left":  # other libraries pad on the left with positions from the mask
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
            if name == "opt":
                continue  # OPT makes its positions from the mask itself
        with torch.no_grad():
            rewards = plain(**inputs).logits[:, 0].numpy()
        np.testing.assert_allclose(rewards, found, rtol=1e-5, atol=1e-6)
    assert type(plain).__module__.startswith("transformers")
    assert plain.num_labels == 1


def test_an_encoder_pools_the_mean_and_comes_back_as_saved(tiny_encoder, tmp_path):
    built = build_reward_model(tiny_encoder)
    assert is_encoder(built.model.config)
    built.save(tmp_path)
    loaded = load_reward_model(tmp_path, device="cpu")
    np.testing.assert_array_equal(loaded.score(PROMPT, RESPONSES), built.score(PROMPT, RESPONSES))
    ids = built.tokenize(
        items_of(Judgments.from_rows([{"prompt": PROMPT, "responses": RESPONSES, "ranks": [1, 2, 3]}]))
    )
    with torch.no_grad():
        states = built.model.bert(input_ids=torch.tensor([ids.sequence(0)])).last_hidden_state
        expected = built.model.score(states.mean(1))
    np.testing.assert_allclose(built.score(PROMPT, RESPONSES)[0], expected.item(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["tiny_model", "tiny_encoder"])
def test_a_reward_does_not_depend_on_its_batch(kind, request):
    reward_model = build_reward_model(request.getfixturevalue(kind))
    rows = [{"prompt": PROMPT, "responses": RESPONSES, "ranks": [1, 2, 3]}]
    items = items_of(Judgments.from_rows(rows))
    together = reward_model.score_items(items)
    # Float32 sums err by parts of the largest reward, however near to zero a single one is.
    slack = 1e-5 * np.abs(together).max()
    np.testing.assert_allclose(reward_model.score_items(items, max_tokens=1), together, rtol=1e-5, atol=slack)
    alone = [reward_model.score(PROMPT, [text])[0] for text in RESPONSES]
    np.testing.assert_allclose(alone, together, rtol=1e-5, atol=slack)


def test_pooling_takes_tokens_not_padding():
    states = torch.arange(12.0).reshape(2, 3, 2)
    for mask, last in (([1, 1, 0], 1), ([0, 1, 1], 2), ([1, 0, 0], 0)):
        masks = torch.tensor([mask, [1, 1, 1]])
        assert torch.equal(pool(states, masks, "last")[0], states[0, last])
        kept = states[0][torch.tensor(mask).bool()]
        torch.testing.assert_close(pool(states, masks, "mean")[0], kept.mean(0))


def test_token_limits_are_stored_with_the_model(tiny_model, tmp_path):
    build_reward_model(tiny_model, max_length=16, max_response_length=6).save(tmp_path)
    loaded = load_reward_model(tmp_path, device="cpu")
    assert (loaded.limits.max_length, loaded.limits.response) == (16, 6)
    long = "rain " * 60
    rewards = loaded.score(PROMPT, [long, long + "sun"])
    assert rewards[0] == pytest.approx(rewards[1], rel=1e-5, abs=1e-6), "both are cut to the same six tokens"


def test_an_adapter_folder_loads(tiny_model, tmp_path):
    built = build_reward_model(tiny_model)
    adapted = peft.get_peft_model(built.model, peft.LoraConfig(task_type="SEQ_CLS", init_lora_weights=False))
    whole = type(built)(adapted, built.tokenizer, built.limits)
    whole.save(tmp_path)
    loaded = load_reward_model(tmp_path, device="cpu")
    np.testing.assert_allclose(loaded.score(PROMPT, RESPONSES), whole.score(PROMPT, RESPONSES), rtol=1e-5, atol=1e-7)


def test_an_adapters_base_is_loaded_with_the_given_options(tiny_model, tmp_path, monkeypatch):
    built = build_reward_model(tiny_model)
    adapted = peft.get_peft_model(built.model, peft.LoraConfig(task_type="SEQ_CLS"))
    type(built)(adapted, built.tokenizer, built.limits).save(tmp_path)
    seen, load = [], PreTrainedModel.from_pretrained.__func__

    def noted(kind, name, *args, **options):
        seen.append((str(name), options["revision"], options["trust_remote_code"]))
        return load(kind, name, *args, **options)

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(noted))
    load_reward_model(tmp_path, revision="v2", trust_remote_code=True, device="cpu")
    assert seen == [(str(tiny_model), "v2", True)]


def test_other_peoples_reward_models_score(tiny_model, tmp_path):
    """A plain sequence classifier that this project did not write."""
    config = AutoConfig.from_pretrained(tiny_model)
    config.num_labels = 1
    torch.manual_seed(1)
    plain = AutoModelForSequenceClassification.from_config(config).eval()
    plain.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.save_pretrained(tmp_path)
    ids = tokenizer(PROMPT + RESPONSES[0] + tokenizer.eos_token, return_tensors="pt")["input_ids"]
    expected = plain(input_ids=ids).logits.item()
    assert load_reward_model(tmp_path, device="cpu").score(PROMPT, RESPONSES)[0] == pytest.approx(
        expected, rel=1e-5, abs=1e-6
    )


def test_what_cannot_be_a_reward_model_is_said(tiny_model, tmp_path):
    with pytest.raises(PluralignError, match="not a reward model"):
        load_reward_model(tiny_model)
    with pytest.raises(PluralignError, match="no model can be loaded"):
        load_reward_model(tmp_path)
    with pytest.raises(PluralignError, match="more than the 96 tokens"):
        build_reward_model(tiny_model, max_length=97)
    T5Config(d_model=8, num_layers=1, num_heads=1, d_kv=8, d_ff=8, vocab_size=40).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path)
    with pytest.raises(PluralignError, match="neither causal nor masked"):
        build_reward_model(tmp_path)

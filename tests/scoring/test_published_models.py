"""What tokenizers and configs of published models do: their turns, end tokens, padding, start tokens and templates."""

import json

import numpy as np
import peft
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from architectures import write_model
from pluralign.policies.loading import load_policy
from pluralign.scoring.causal_models import causal_model, load_causal_model
from pluralign.scoring.forward import block_values
from pluralign.scoring.items import items_of_texts
from pluralign.scoring.loading import set_pad_token
from pluralign.scoring.reward_models import build_reward_model, load_reward_model
from pluralign.scoring.tokens import TokenLimits, prompt_tokens, tokenize, turn_end
from pluralign.scoring.trees import lay_out

START, END = "<|im_start|>", "<|im_end|>"
SYSTEM = "{% if messages and messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PHI = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
COMMAND = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|end|><|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>assistant\n{% endif %}"
)
LLAMA = (
    "{% for m in messages %}{{ bos_token if loop.first }}<{{ m.role }}>\n\n{{ m.content | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n\n{% endif %}"
)
PROMPT = [{"role": "user", "content": "Tea?"}]
ANSWERS = [[{"role": "assistant", "content": text}] for text in ("good cat", "bad dog in the rain")]
ITEMS = items_of_texts([PROMPT], [ANSWERS])
LONG = items_of_texts([PROMPT], [[[{"role": "assistant", "content": "good " * 40}]]])


@pytest.fixture
def chat_model(tiny_model, tmp_path):
    """Folder of a tiny chat model as SmolLM2: ChatML with a system turn, its start token as BOS, and END that pads."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_special_tokens({"bos_token": START, "eos_token": END, "pad_token": END})
    tokenizer.chat_template = SYSTEM + CHATML
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return write_model("grouped-queries", tmp_path / "tokenizer", tmp_path / "model")


def by_hand(folder, tokens):
    """log pi(y|x) from the plain model, one response at a time, the end token included."""
    model, found = AutoModelForCausalLM.from_pretrained(folder).eval(), []
    for response, item in enumerate(tokens.item):
        ids, start = torch.tensor([tokens.sequence(response)]), len(tokens.prompt_ids[item])
        with torch.no_grad():
            log_probs = torch.log_softmax(model(input_ids=ids).logits[0, :-1].double(), -1)
        found.append(log_probs.gather(-1, ids[0, 1:, None])[start - 1 :].sum().item())
    return found


def test_a_turn_is_the_template_up_to_its_end(chat_model):
    """No start token before that of the template, and no line break after the end, which sampling never draws."""
    policy = load_causal_model(chat_model)
    tokenizer = policy.tokenizer
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, tokenizer.bos_token_id)]
    )
    tokens = policy.tokenize(ITEMS)
    for response, answer in enumerate(ANSWERS):
        text = tokenizer.apply_chat_template(PROMPT + answer, tokenize=False)
        assert text.count("Be kind.") == 1
        assert text.endswith(END + "\n")
        whole = tokenizer(text.removesuffix("\n"), add_special_tokens=False)["input_ids"]
        assert tokens.sequence(response) == whole
        assert whole[-1] == tokenizer.pad_token_id == tokenizer.eos_token_id
    np.testing.assert_allclose(policy.values(tokens), by_hand(chat_model, tokens), rtol=1e-6)
    # A reward model reads what other libraries give it, the line break included.
    tokens = build_reward_model(chat_model).tokenize(ITEMS)
    text = tokenizer.apply_chat_template(PROMPT + ANSWERS[0], tokenize=False)
    assert tokens.sequence(0) == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_the_end_token_of_earlier_turns_is_trained_though_it_also_pads(chat_model):
    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    options = {"pad_token_id": tokenizer.pad_token_id, "tie_word_embeddings": False}
    model = AutoModelForCausalLM.from_pretrained(chat_model, **options)
    assert model.get_input_embeddings().padding_idx == tokenizer.eos_token_id
    policy = causal_model(model, tokenizer)
    tokens = policy.tokenize(ITEMS)
    layout = policy.layout(tokens)
    block_values(model, lay_out(tokens, [[0]], layout), layout).sum().backward()
    assert model.get_input_embeddings().weight.grad[tokenizer.eos_token_id].norm() > 0


def test_every_declared_end_token_ends_a_response(chat_model):
    policy = load_policy(chat_model, device="cpu")
    first, other, last = (policy.tokenizer.convert_tokens_to_ids(token) for token in (END, "a", "<|end|>"))
    assert policy.ends == (first,)
    policy.model.config.eos_token_id = [first, other]
    policy.model.generation_config = GenerationConfig(eos_token_id=[last])
    assert policy.ends == (first, other, last)
    drawn = policy.sample([PROMPT], n=200, max_new_tokens=24)[0]
    assert {sample.token_ids[-1] for sample in drawn if sample.finished} == {first, other, last}
    for sample in drawn:
        assert set(sample.token_ids[:-1]).isdisjoint(policy.ends)
        assert sample.finished == (sample.token_ids[-1] in policy.ends)
    # The template's own: Gemma's tokenizer has another end token than its turns.
    policy.tokenizer.eos_token = "<|end|>"
    policy.model.config.eos_token_id = policy.model.generation_config.eos_token_id = last
    assert policy.ends == (last, first)


def test_a_reward_model_takes_a_spare_token_to_pad_and_adds_no_row(chat_model, tmp_path):
    rows = AutoModelForCausalLM.from_pretrained(chat_model).get_input_embeddings().num_embeddings
    built = build_reward_model(chat_model)
    assert built.tokenizer.pad_token == "<|pad|>"
    assert built.model.config.pad_token_id == built.tokenizer.pad_token_id
    assert built.model.get_input_embeddings().num_embeddings == rows
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="SEQ_CLS")
    adapter = peft.get_peft_model(built.model, config)
    adapter.save_pretrained(tmp_path / "adapter")
    built.tokenizer.save_pretrained(tmp_path / "adapter")
    adapter.config.save_pretrained(tmp_path / "adapter")
    keys = peft.utils.load_peft_weights(str(tmp_path / "adapter"))
    assert not any("embed" in key for key in keys)
    assert load_reward_model(tmp_path / "adapter", device="cpu").score_items(ITEMS).shape == (2,)


@pytest.mark.parametrize(
    ("specials", "pad", "rows"),
    [
        (["<pad>", "<unk>"], "<pad>", 0), (["<tool>", "<reserved_0>"], "<reserved_0>", 0), (["<s>"], "<s>", 0),
        ([], "<|pad|>", 1),
    ],
)  # fmt: skip
def test_what_pads_where_only_the_end_token_is_named(specials, pad, rows, chat_model):
    words = {word: number for number, word in enumerate(["</s>", *specials, "tea"])}
    inner = Tokenizer(models.WordLevel(words, unk_token="tea"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="</s>")
    tokenizer.add_special_tokens({"extra_special_tokens": specials})
    model = AutoModelForCausalLM.from_pretrained(chat_model)
    model.resize_token_embeddings(len(words))
    model.config.eos_token_id = [tokenizer.eos_token_id]
    set_pad_token(model, tokenizer)
    assert tokenizer.pad_token == pad
    assert model.get_input_embeddings().num_embeddings == len(words) + rows


def test_a_tokenizer_with_more_tokens_than_the_model_serves_the_others(chat_model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    rows = len(tokenizer)
    tokenizer.add_tokens([f"extra {number}" for number in range(5)])
    tokenizer.save_pretrained(chat_model)
    for load in (build_reward_model, load_causal_model):
        loaded = load(chat_model)
        assert np.isfinite(loaded.values(loaded.tokenize(ITEMS))).all()
        assert loaded.model.get_input_embeddings().num_embeddings == rows


def test_padding_beyond_the_embeddings_is_the_end_token(chat_model, tmp_path):
    """As in models tuned with a new padding token that were not resized."""
    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    prompts = [PROMPT, [{"role": "user", "content": "Rain or sun?"}]]
    items = items_of_texts(prompts, [ANSWERS, ANSWERS])
    plain = load_policy(chat_model, device="cpu")
    expected, drawn = plain.log_probs(items), plain.sample(prompts, max_new_tokens=8)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(chat_model)
    policy = load_policy(chat_model, device="cpu")
    np.testing.assert_array_equal(policy.log_probs(items), expected)
    assert policy.sample(prompts, max_new_tokens=8) == drawn
    policy.save(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").pad_token == END


def test_an_empty_chat_begins_with_the_turns_that_the_template_adds(chat_model):
    policy = load_causal_model(chat_model)
    tokens = policy.tokenize(items_of_texts([[]], [ANSWERS]))
    begin = f"{START}system\nBe kind.{END}\n{START}assistant\n"
    assert policy.tokenizer.decode(tokens.prompt_ids[0]) == begin
    assert policy.tokenizer.decode(tokens.response_ids[0]) == "good cat" + END


def test_templates_that_read_contents_as_parts_get_parts(chat_model):
    policy = load_causal_model(chat_model)
    plain = policy.tokenize(ITEMS)
    parts = "{% for part in m.content %}{{ part.text }}{% endfor %}"
    policy.tokenizer.chat_template = SYSTEM + CHATML.replace("{{ m.content }}", parts)
    tokens = policy.tokenize(ITEMS)
    assert (tokens.prompt_ids, tokens.response_ids) == (plain.prompt_ids, plain.response_ids)


@pytest.mark.parametrize(
    ("template", "end", "written"),
    [
        (PHI, END, f"{END}\n<|pad|>"),
        (COMMAND, f"<|end|>{END}", f"<|end|>{END}"),
        (CHATML, END, f"{END}\n"),
        (GEMMA, END, f"{END}\n"),
        (LLAMA, END, END),
    ],
    ids=["phi-3", "command-r7b", "chatml", "gemma", "llama-3"],
)
def test_a_turn_ends_with_the_token_that_ends_it_within_a_chat(template, end, written, chat_model):
    """Phi-3's template writes the end token after the whole chat, which sampling never reaches."""
    policy = load_causal_model(chat_model)
    tokenizer = policy.tokenizer
    tokenizer.chat_template, tokenizer.eos_token = template, "<|pad|>"
    tokenizer.bos_token = "<|start|>"
    drawn = items_of_texts([PROMPT], [[ANSWERS[0], ANSWERS[0]]], [[False, True]])
    whole, cut = (tokenizer.decode(ids) for ids in policy.tokenize(drawn).response_ids)
    assert (whole, cut) == ("good cat" + end, "good cat")
    assert turn_end(tokenizer) == tokenizer.convert_tokens_to_ids(END)
    read = tokenize(ITEMS, tokenizer, TokenLimits(96), encoder=False).response_ids
    assert tokenizer.decode(read[0]) == "good cat" + written
    # Cut, a response keeps what the template writes after it where a reward model reads it, and nothing for a policy.
    short = TokenLimits(96, len(read[1]) - 1)
    kept = tokenize(ITEMS, tokenizer, short, encoder=False)
    assert tokenizer.decode(kept.response_ids[1]) == "bad dog in the" + written
    assert kept.cut_responses == 1
    assert END not in tokenizer.decode(tokenize(LONG, tokenizer, short, encoder=False, policy=True).response_ids[0])


@pytest.mark.parametrize("template", [GEMMA, LLAMA, PHI], ids=["gemma", "llama-3", "phi-3"])
def test_a_prompt_that_is_cut_keeps_the_start_token_of_its_template(template, chat_model):
    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    tokenizer.chat_template = template
    start = [] if template == PHI else [tokenizer.bos_token_id]
    prompts = [[{"role": "user", "content": "tea rain " * length}] for length in (1, 40)]
    whole = prompt_tokens(prompts, tokenizer, 500)
    items = items_of_texts(prompts, [ANSWERS] * 2)
    assert [ids.count(tokenizer.bos_token_id) for ids in whole] == [len(start)] * 2
    assert tokenize(items, tokenizer, TokenLimits(500), encoder=False).prompt_ids == whole
    for room in (len(whole[0]), 2):
        assert prompt_tokens(prompts, tokenizer, room)[1] == start + whole[1][len(whole[1]) - room + len(start) :]
    found = tokenize(items, tokenizer, TokenLimits(len(whole[0]) + 20), encoder=False)
    assert found.lengths().max() == len(whole[0]) + 20
    assert found.cut_prompts == 1
    kept = found.prompt_ids[1][len(start) :]
    assert found.prompt_ids == [whole[0], start + whole[1][len(whole[1]) - len(kept) :]]


@pytest.mark.parametrize("name", ["llama", "grouped-queries"])
def test_a_merged_adapter_keeps_tied_embeddings_tied(name, tiny_model, tmp_path):
    folder = write_model(name, tiny_model, tmp_path / "base")
    policy = load_causal_model(folder)
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    tuned = peft.get_peft_model(policy.model, config)
    items = items_of_texts(["Tea?"], [["good cat", "bad dog"]])
    expected = load_causal_model(folder).log_probs(items)
    policy = type(policy)(tuned, policy.tokenizer, policy.limits)
    adapted = policy.log_probs(items)
    assert np.abs(adapted - expected).max() > 1e-2
    merged = tuned.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    policy.tokenizer.save_pretrained(tmp_path / "merged")
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"] is (name != "llama")
    np.testing.assert_allclose(load_causal_model(tmp_path / "merged").log_probs(items), adapted, rtol=1e-5)

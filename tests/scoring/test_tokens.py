"""Tokens: prompt and response join to the plain sequence, cuts are exact and counted."""

from dataclasses import replace

import pytest
from tokenizers import processors
from transformers import AutoTokenizer

from pluralign.core.errors import PluralignError
from pluralign.judgments import Judgments
from pluralign.scoring.items import items_of, items_of_texts
from pluralign.scoring.tokens import TokenLimits, lost_texts, prompt_tokens, tokenize


def items(prompt, *responses):
    row = {"prompt": prompt, "responses": list(responses), "ranks": list(range(1, len(responses) + 1))}
    return items_of(Judgments.from_rows([row]))


@pytest.fixture(scope="module")
def causal(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def encoder(tiny_encoder):
    return AutoTokenizer.from_pretrained(tiny_encoder)


def test_causal_sequences_are_the_joint_text_and_its_end(causal):
    found = tokenize(items("Say something:\n", "good cat", "bad dog"), causal, TokenLimits(96), encoder=False)
    for index, response in enumerate(("good cat", "bad dog")):
        expected = causal("Say something:\n" + response)["input_ids"] + [causal.eos_token_id]
        assert found.sequence(index) == expected
    assert (found.cut_prompts, found.cut_responses) == (0, 0)


def test_tokens_that_merge_over_the_boundary_keep_one_prompt(causal):
    """`go` + `od` would be one token; the prompt's tokens must not depend on the response."""
    found = tokenize(items("go", "od", "at"), causal, TokenLimits(96), encoder=False)
    assert found.prompt_ids == [causal("go")["input_ids"]]
    assert causal.decode(found.sequence(0)[:-1]) == "good"


def test_encoder_sequences_are_pairs(encoder):
    found = tokenize(items("tea", "good cat", "sun"), encoder, TokenLimits(96), encoder=True)
    tokens = encoder.convert_ids_to_tokens(found.sequence(1))
    assert tokens == ["[CLS]", "tea", "[SEP]", "sun", "[SEP]"]
    bare = tokenize(items("", "good cat", "sun"), encoder, TokenLimits(96), encoder=True)
    assert encoder.convert_ids_to_tokens(bare.sequence(1)) == ["[CLS]", "sun", "[SEP]"]


@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_long_prompts_are_cut_on_the_left_alike_for_all_responses(kind, request):
    tokenizer = request.getfixturevalue(kind)
    prompt = " ".join(["rain"] * 50 + ["tea"] * 4)
    limits = TokenLimits(24)
    found = tokenize(items(prompt, "good " * 9, "bad"), tokenizer, limits, encoder=kind == "encoder")
    whole = tokenize(items(prompt, "good " * 9, "bad"), tokenizer, TokenLimits(500), encoder=kind == "encoder")
    assert found.cut_prompts == 1
    assert found.lengths().max() == 24
    special = 1 if kind == "encoder" else 0  # [CLS] stays in front
    kept = found.prompt_ids[0][special:]
    assert kept == whole.prompt_ids[0][-len(kept) :]
    assert found.prompt_ids[0][:special] == whole.prompt_ids[0][:special]


def test_a_cut_response_has_no_end_for_a_policy(causal):
    """Neither training nor scoring teaches or asks a policy to end where a text goes on."""
    end = causal.eos_token_id
    whole = items("Tea?", "good " * 50, "bad")
    found = tokenize(whole, causal, TokenLimits(20, 8), encoder=False, policy=True)
    assert found.response_ids[0][-1] != end
    assert found.response_ids[1][-1] == end, "it was not cut"
    with_end = tokenize(whole, causal, TokenLimits(20, 8), encoder=False).response_ids[0]
    assert with_end == [*found.response_ids[0][:-1], end]
    exact = tokenize(items("Tea?", "good cat", "sun"), causal, TokenLimits(20, 8), encoder=False, policy=True)
    assert exact.response_ids[0][-1] == end


def test_a_response_that_was_cut_where_it_was_drawn_has_no_end_for_a_policy(causal):
    drawn = items_of_texts(["Tea?", "Rain?"], [["good cat", "good cat"], ["bad"]], [[True, False], [True]])
    limits = TokenLimits(96)
    cut, whole, other = tokenize(drawn, causal, limits, encoder=False, policy=True).response_ids
    assert whole == [*cut, causal.eos_token_id]
    assert causal.eos_token_id not in other
    assert tokenize(drawn, causal, limits, encoder=False).response_ids[0] == whole, "a reward model reads an end"
    assert drawn.fingerprint() != replace(drawn, unfinished=None).fingerprint()
    tokenizer = AutoTokenizer.from_pretrained(causal.name_or_path)
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    said = [[{"role": "assistant", "content": "good"}] for _ in range(2)]
    chat = items_of_texts([[{"role": "user", "content": "Tea?"}]], [said], [[True, False]])
    cut, whole = tokenize(chat, tokenizer, limits, encoder=False, policy=True).response_ids
    assert whole == [*cut, tokenizer.eos_token_id]


def test_long_responses_are_cut_on_the_right_and_keep_their_end(causal):
    found = tokenize(items("Tea?", "good " * 50, "bad"), causal, TokenLimits(20, 8), encoder=False)
    assert found.cut_responses == 1
    assert len(found.response_ids[0]) == 8
    assert found.response_ids[0][-1] == causal.eos_token_id
    assert (
        found.response_ids[0][:-1] == causal("Tea?" + "good " * 50)["input_ids"][len(causal("Tea?")["input_ids"]) :][:7]
    )


@pytest.mark.parametrize("kind", ["causal", "encoder"])
@pytest.mark.parametrize("prompt", ["", "rain " * 50])
@pytest.mark.parametrize("longest", [6, 20, 24])
def test_nothing_is_longer_than_the_limit(kind, prompt, longest, request):
    tokenizer = request.getfixturevalue(kind)
    found = tokenize(items(prompt, "good " * 50, "bad"), tokenizer, TokenLimits(24, longest), kind == "encoder")
    assert found.lengths().max() <= 24
    assert max(len(ids) for ids in found.response_ids) <= longest
    assert found.cut_responses == 1


def test_chat_messages_go_through_the_template(causal):
    tokenizer = AutoTokenizer.from_pretrained(causal.name_or_path)
    messages = [{"role": "user", "content": "Tea?"}]
    answers = [[{"role": "assistant", "content": text}] for text in ("Yes", "No")]
    with pytest.raises(PluralignError, match="no chat template"):
        tokenize(items(messages, *answers), tokenizer, TokenLimits(96), encoder=False)
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    found = tokenize(items(messages, *answers), tokenizer, TokenLimits(96), encoder=False)
    assert tokenizer.decode(found.prompt_ids[0]) == "<user>Tea?<|end|><assistant>"
    assert tokenizer.decode(found.response_ids[1]) == "No<|end|>"
    tokenizer.chat_template = "{{ messages | length }} turns {{ messages[0].content }}"
    with pytest.raises(PluralignError, match="differently when a response follows"):
        tokenize(items(messages, *answers), tokenizer, TokenLimits(96), encoder=False)


def test_templates_see_names_and_calls_of_tools(causal):
    tokenizer = AutoTokenizer.from_pretrained(causal.name_or_path)
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}{% if m.name %} {{ m.name }}{% endif %}>{{ m.content }}"
        "{% for call in m.tool_calls or [] %}[{{ call.function.name }}{% for key, value in call.function.arguments.items() %}"
        " {{ key }}={{ value }}{% endfor %}]{% endfor %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    call = {"type": "function", "function": {"name": "weather", "arguments": '{"town": "Delft", "days": 2}'}}
    prompt = [
        {"role": "user", "content": "Warm?", "name": "ann"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "9 degrees", "tool_call_id": "c1", "name": "weather"},
    ]
    answers = [{"role": "assistant", "content": "", "tool_calls": [call]}], [{"role": "assistant", "content": "No"}]
    found = tokenize(items(prompt, *answers), tokenizer, TokenLimits(400), encoder=False)
    shown = "[weather town=Delft days=2]"
    assert tokenizer.decode(found.prompt_ids[0]) == (
        f"<user ann>Warm?<assistant>{shown}<tool weather>9 degrees<assistant>"
    )
    assert [tokenizer.decode(ids) for ids in found.response_ids] == [shown, "No"]


def test_a_start_token_in_the_text_is_not_doubled(causal):
    tokenizer = AutoTokenizer.from_pretrained(causal.name_or_path)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    plain = tokenize(items("Tea?", "good", "bad"), tokenizer, TokenLimits(96), encoder=False)
    given = tokenize(items("<s>Tea?", "good", "bad"), tokenizer, TokenLimits(96), encoder=False)
    assert plain.prompt_ids[0][0] == tokenizer.bos_token_id
    assert given.prompt_ids == plain.prompt_ids
    assert given.response_ids == plain.response_ids
    assert prompt_tokens(["<s>Tea?", "Tea?"], tokenizer, 50) == [plain.prompt_ids[0]] * 2


def test_texts_that_are_alike_or_empty_as_tokens_are_counted_and_named(causal):
    long = "good " * 40
    some = items("Tea?", long + "cat", long + "dog", "bad")
    lines = lost_texts(some, tokenize(some, causal, TokenLimits(40), encoder=False), causal)
    assert len(lines) == 1
    assert lines[0].startswith("1 of 3 responses have the same tokens as another response to their prompt")
    assert lost_texts(some, tokenize(some, causal, TokenLimits(500), encoder=False), causal) == []
    some = items("Tea?", causal.eos_token, "bad")
    (line,) = lost_texts(some, tokenize(some, causal, TokenLimits(96), encoder=False), causal)
    assert line == f"1 of 2 responses have no tokens but special ones; the first is {causal.eos_token!r}"
    tokenizer = AutoTokenizer.from_pretrained(causal.name_or_path)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content | trim }}|{% endfor %}"
    some = items(
        [{"role": "user", "content": "Tea?"}], *([{"role": "assistant", "content": text}] for text in ("a", " a"))
    )
    assert "have the same tokens" in lost_texts(some, tokenize(some, tokenizer, TokenLimits(96), False), tokenizer)[0]


def test_a_template_that_raises_is_one_line(causal):
    tokenizer = AutoTokenizer.from_pretrained(causal.name_or_path)
    messages = [{"role": "system", "content": "Hi"}]
    answer = [[{"role": "assistant", "content": text}] for text in ("Yes", "No")]
    for template in (
        "{{ raise_exception('no system role') }}",
        "{{ messages[5].content.x }}",
        "{% if %}",
        "{{ 1 / 0 }}",
    ):
        tokenizer.chat_template = template
        with pytest.raises(PluralignError, match="cannot render the messages .*Hi") as caught:
            tokenize(items(messages, *answer), tokenizer, TokenLimits(96), encoder=False)
        assert "\n" not in str(caught.value)

"""Supervised fine-tuning data and models from scratch."""

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from pluralign.core.errors import PluralignError
from pluralign.demo.from_scratch import make_tokenizer
from pluralign.judgments import BUILT_IN_SCALES, Judgments
from pluralign.training.sft import SFTConfig, SFTTrainer, completions


def test_best_keeps_the_first_ranks_once_and_all_keeps_every_text():
    rows = [
        {"prompt": "Tea?", "responses": ["yes", "no", "maybe"], "ranks": [1, 2, 1]},
        {"prompt": "Tea?", "responses": ["yes", "never"], "ranks": [1, None]},
    ]
    judgments = Judgments.from_rows(rows)
    assert completions(judgments)["completion"] == ["yes", "maybe"]
    assert completions(judgments, "all")["completion"] == ["yes", "no", "maybe", "never"]


def test_labels_and_empty_prompts():
    scale = BUILT_IN_SCALES["agree-pass-disagree"]
    rows = [{"prompt": "", "responses": ["a", "b"], "labels": ["pass", "agree"]}]
    assert completions(Judgments.from_rows(rows, scale)).to_list() == [{"text": "b"}]
    nothing = [{"prompt": "", "responses": ["a", "b"], "labels": ["pass", "disagree"]}]
    with pytest.raises(PluralignError, match="no response is left"):
        completions(Judgments.from_rows(nothing, scale))


def test_messages_keep_their_form():
    rows = [
        {
            "prompt": [{"role": "user", "content": "Tea?"}],
            "responses": [[{"role": "assistant", "content": text}] for text in ("yes", "no")],
            "ranks": [2, 1],
        }
    ]
    (row,) = completions(Judgments.from_rows(rows)).to_list()
    assert row["completion"] == [{"role": "assistant", "content": "no"}]


def test_a_model_from_scratch_loads_like_any_other(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    text = "good cat, héllo 🐦\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert model.config.vocab_size == len(tokenizer)
    assert make_tokenizer(["a b"], 300).get_vocab() == make_tokenizer(["a b"], 300).get_vocab()


def test_an_end_token_that_also_pads_is_learned(tiny_model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.pad_token = tokenizer.eos_token
    rows = [
        {"prompt": "Tea?", "responses": [text, "no"], "ranks": [1, 2]} for text in ("yes", "yes, and milk, and rain")
    ]
    args = SFTConfig(str(tmp_path), report_to="none", use_cpu=True)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    trainer = SFTTrainer(model, args, train_dataset=Judgments.from_rows(rows), processing_class=tokenizer)
    batch = trainer.data_collator(list(trainer.train_dataset))
    for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        end = ids.index(tokenizer.eos_token_id)
        assert labels[end] == tokenizer.eos_token_id
        assert set(labels[end + 1 :]) <= {-100}


@pytest.mark.parametrize("prompt", [[{"role": "user", "content": "Tea?"}], []], ids=["prompt", "no prompt"])
def test_templates_that_read_contents_as_parts_get_parts(prompt, tiny_model, tmp_path):
    text = "{% for m in messages %}<{{ m.role }}>{{ m.content }};\n{% endfor %}"
    text += "{% if add_generation_prompt %}<assistant>{% endif %}"
    parts = text.replace("{{ m.content }}", "{% for part in m.content %}{{ part.text }}{% endfor %}")
    answers = [[{"role": "assistant", "content": text}] for text in ("yes, and milk", "no")]
    judgments = Judgments.from_rows([{"prompt": prompt, "responses": answers, "ranks": [1, 2]}])
    found = []
    for template in (text, parts):
        tokenizer = AutoTokenizer.from_pretrained(tiny_model)
        tokenizer.chat_template = template
        model = AutoModelForCausalLM.from_pretrained(tiny_model)
        args = SFTConfig(str(tmp_path), report_to="none", use_cpu=True)
        trainer = SFTTrainer(model, args, train_dataset=judgments, processing_class=tokenizer)
        found.append((trainer.train_dataset["input_ids"][0], trainer.train_dataset["labels"][0]))
    assert found[0] == found[1]
    assert "yes, and milk" in tokenizer.decode(found[1][0])

"""Best-of-n: what is kept against each answer scored alone, what is written, and fine-tuning on it."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import transformers
import yaml
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import pluralign
from architectures import write_model
from mixtures import Plain, write_mixture
from pluralign.core.errors import PluralignError
from pluralign.judgments import Judgments, read
from pluralign.scoring.items import items_of_texts
from pluralign.scoring.reward_models import RewardModel, build_reward_model
from pluralign.training.sft import completions
from pluralign.workflows.best_of import best_of
from pluralign.workflows.train.run import train

EXAMPLE = Path(__file__).parents[2] / "examples" / "hh-best-of.yaml"
LETTERS = "abcdef? "
PROMPTS = ["a?", "b?", "cd?", "ab?", "fe?", "e?", "dcb?", "aa?", "bd?", "f?"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A random model of letters and a space: answers end soon, repeat each other, and some say nothing."""
    folder = tmp_path_factory.mktemp("best-of")
    vocabulary = {word: index for index, word in enumerate(["<|pad|>", "<|end|>", *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")
    fast.model_max_length = 48
    fast.save_pretrained(folder / "tokenizer")
    return write_model("llama", folder / "tokenizer", folder / "base")


@pytest.fixture(scope="module")
def reward(base):
    """A reward model with a random head."""
    torch.manual_seed(3)
    folder = base.parent / "judge"
    build_reward_model(base).save(folder)
    return folder


@pytest.fixture(scope="module")
def prompts(base):
    path = base.parent / "prompts.parquet"
    rows = [{"prompt": prompt, "responses": ["ab", "c"], "ranks": [1, 2]} for prompt in PROMPTS for _ in range(2)]
    Judgments.from_rows(rows).write(path)
    return path


@pytest.fixture(scope="module")
def found(base, reward, prompts):
    out = base.parent / "best.parquet"
    metrics = best_of(base, prompts, out, reward=reward, n=6, max_new_tokens=3)
    return out, metrics


@pytest.fixture
def said(caplog):
    transformers.utils.logging.enable_propagation()
    yield lambda: caplog.text
    transformers.utils.logging.disable_propagation()


def draws(out):
    return pq.read_table(f"{out}.answers.parquet").to_pylist()


def test_cut_responses_are_left_out_if_asked(base, reward, prompts, tmp_path, said):
    options = {"reward": reward, "n": 8, "max_new_tokens": 3}
    whole, ended = tmp_path / "whole.parquet", tmp_path / "ended.parquet"
    best_of(base, prompts, whole, **options)
    assert "leave them out with --finished-only" in said()
    metrics = best_of(base, prompts, ended, finished_only=True, **options)
    finished = {(one["prompt"], one["response"]) for one in draws(ended) if one["finished"] and one["response"].strip()}
    kept = {(row["prompt"], text) for row in read(ended).rows() for text in row["responses"]}
    everything = {(row["prompt"], text) for row in read(whole).rows() for text in row["responses"]}
    assert kept == finished < everything
    assert metrics["unfinished_best"] == 0 < metrics["unfinished"]
    assert "empty or cut" in said()
    with pytest.raises(PluralignError, match="or cut at 1 tokens: raise --max-new-tokens"):
        best_of(base, prompts, tmp_path / "none.parquet", finished_only=True, reward=reward, n=1, max_new_tokens=1)


def test_the_best_is_that_of_each_answer_scored_alone(found, reward):
    out, metrics = found
    answers, judge = draws(out), pluralign.load_reward_model(reward, device="cpu")
    assert len(answers) == len(PROMPTS) * 6
    by_prompt = [answers[start : start + 6] for start in range(0, len(answers), 6)]
    rows = {row["prompt"]: row for row in read(out).rows()}
    best, first = [], []
    for number, (prompt, group) in enumerate(zip(PROMPTS, by_prompt, strict=True)):
        assert {(one["prompt_number"], one["prompt"]) for one in group} == {(number, prompt)}
        said = [one for one in group if one["response"].strip()]
        for one in group:
            assert (one["reward"] is None) == (one not in said)
            if one in said:
                # float32 sums in another layout.
                alone = judge.score(prompt, [one["response"]])[0]
                assert one["reward"] == pytest.approx(alone, abs=1e-5)
        if not said:
            assert prompt not in rows
            continue
        top = max(one["reward"] for one in said)
        assert [one["best"] for one in group] == [one["reward"] == top for one in group]
        distinct = list(dict.fromkeys(one["response"] for one in said))
        assert rows[prompt]["responses"] == distinct
        winners = {one["response"] for one in said if one["reward"] == top}
        assert rows[prompt]["ranks"] == [1 if text in winners else None for text in distinct]
        assert (rows[prompt]["source"], rows[prompt]["annotator"]) == ("best-of-6", "judge")
        best.append(top)
        first.append(said[0]["reward"])
    assert metrics["mean_reward/best"] == pytest.approx(np.mean(best))
    assert metrics["mean_reward/first"] == pytest.approx(np.mean(first))
    assert metrics["rows"] == len(rows) == len(PROMPTS) - metrics["prompts_without_answer"]
    assert metrics["unfinished"] == pytest.approx(1 - np.mean([one["finished"] for one in answers]))
    assert metrics["empty_answers"] == pytest.approx(np.mean([one["reward"] is None for one in answers]))
    assert metrics["empty_answers"] > 0, "a case that this model gives"


def test_log_probabilities_are_of_what_was_drawn(found, base):
    plain = Plain(base)
    end, ids = plain.tokenizer.eos_token_id, plain.tokenizer
    checked = 0
    for one in draws(found[0]):
        tokens = ids(one["response"])["input_ids"] + [end] * one["finished"]
        if len(tokens) == one["tokens"]:  # else a padding token was drawn, which the text does not show
            checked += 1
            log_prob = plain.of_tokens(ids(one["prompt"])["input_ids"], tokens)
            assert one["log_prob"] == pytest.approx(log_prob, abs=2e-4)
    assert checked > 30


def test_the_same_seed_draws_the_same_and_replaces_what_was_there(found, base, reward, prompts, tmp_path):
    out, other = found[0], tmp_path / "best.parquet"
    other.write_text("old")
    options = {"reward": reward, "n": 6, "max_new_tokens": 3}
    assert best_of(base, [prompts], other, **options) == found[1]
    for ending in ("", ".answers.parquet"):
        assert (tmp_path / f"best.parquet{ending}").read_bytes() == (out.parent / f"{out.name}{ending}").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.parquet", "best.parquet.answers.parquet"]
    best_of(base, prompts, tmp_path / "other.jsonl", seed=1, **options)
    assert [one["response"] for one in draws(tmp_path / "other.jsonl")] != [one["response"] for one in draws(out)]


def test_softmax_ranks_one_text_of_each_prompt_first(found, base, reward, prompts, tmp_path):
    options = {"reward": reward, "n": 6, "max_new_tokens": 3}
    metrics = best_of(base, prompts, tmp_path / "drawn.parquet", select="softmax", **options)
    rows = list(read(tmp_path / "drawn.parquet").rows())
    assert all(row["ranks"].count(1) == 1 and row["source"] == "softmax-of-6" for row in rows)
    assert metrics["mean_reward/all"] == found[1]["mean_reward/all"], "of the same samples"
    assert metrics["mean_reward/best"] < found[1]["mean_reward/best"]
    cold = best_of(base, prompts, tmp_path / "cold.parquet", select="softmax", beta=1e-9, **options)
    assert cold["mean_reward/best"] == found[1]["mean_reward/best"], "the largest reward"
    assert len(completions(read(tmp_path / "drawn.parquet"))) == len(rows), "a teacher for sft"


def test_one_draw_is_the_policy_itself(base, reward, prompts, tmp_path):
    metrics = best_of(base, prompts, tmp_path / "one.jsonl", reward=reward, n=1, max_new_tokens=6)
    assert metrics["kl_bound"] == 0
    assert metrics["mean_reward/first"] == metrics["mean_reward/all"] == metrics["mean_reward/best"]
    rows = list(read(tmp_path / "one.jsonl").rows())
    assert len(rows) == metrics["rows"]
    assert all(row["ranks"] == [1] for row in rows)


def test_max_prompts_and_mixtures(base, reward, prompts, tmp_path):
    mixture = write_mixture(base, tmp_path / "mixture", {"type-1": 0.5, "type-2": 0.5})
    out = tmp_path / "best.parquet"
    metrics = best_of(mixture, prompts, out, reward=reward, n=8, max_new_tokens=4, max_prompts=3)
    assert metrics["prompts"] == 3
    assert {one["adapter"] for one in draws(out)} == {"type-1", "type-2"}
    asked = list(dict.fromkeys(one["prompt"] for one in draws(out)))
    assert asked == [prompt for prompt in PROMPTS if prompt in asked], "in the order of the file"


def test_messages_are_answered_with_messages(base, reward, tmp_path):
    folders = []
    for folder in (base, reward):
        model = (pluralign.load_policy if folder == base else pluralign.load_reward_model)(folder, device="cpu")
        model.tokenizer.chat_template = "{% for one in messages %}{{ one['content'] }}{% endfor %}"
        model.save(tmp_path / folder.name)
        folders.append(tmp_path / folder.name)
    rows = [
        {
            "prompt": [{"role": "user", "content": prompt}],
            "responses": [[{"role": "assistant", "content": "c"}]],
            "ranks": [1],
        }
        for prompt in PROMPTS
    ]
    Judgments.from_rows(rows).write(tmp_path / "chat.parquet")
    out = tmp_path / "best.parquet"
    best_of(folders[0], tmp_path / "chat.parquet", out, reward=folders[1], n=4, max_new_tokens=4)
    assert read(out).form == "messages"
    for row in read(out).rows():
        assert all(one["role"] == "assistant" and one["content"].strip() for (one,) in row["responses"])
    assert {one["prompt"][0]["role"] for one in draws(out)} == {"user"}


def test_equal_rewards_share_the_first_rank(base, reward, prompts, tmp_path, monkeypatch):
    lengths = lambda self, items: np.array([float(len(text)) for text in items.responses])  # noqa: E731
    monkeypatch.setattr(RewardModel, "score_items", lengths)
    best_of(base, prompts, tmp_path / "best.parquet", reward=reward, n=8, max_new_tokens=2)
    shared = 0
    for row in read(tmp_path / "best.parquet").rows():
        longest = max(map(len, row["responses"]))
        assert row["ranks"] == [1 if len(text) == longest else None for text in row["responses"]]
        shared += row["ranks"].count(1) > 1
    assert shared
    monkeypatch.setattr(RewardModel, "score_items", lambda self, items: np.full(len(items.responses), np.inf))
    before = (tmp_path / "best.parquet").read_bytes()
    with pytest.raises(PluralignError, match="judge: .*not finite"):
        best_of(base, prompts, tmp_path / "best.parquet", reward=reward, n=2, max_new_tokens=2)
    assert (tmp_path / "best.parquet").read_bytes() == before


def test_what_is_cut_or_empty_is_said(base, reward, prompts, tmp_path, said, monkeypatch):
    metrics = best_of(base, prompts, tmp_path / "best.parquet", reward=reward, n=4, max_new_tokens=1)
    assert metrics["unfinished"] > 0.1
    assert f"{100 * metrics['unfinished']:.0f} % of the responses were cut at 1 tokens" in said()
    assert metrics["empty_answers"] > 0
    assert "of the responses are empty" in said()
    assert sum(one["reward"] is None for one in draws(tmp_path / "best.parquet")) > 0, "they are kept there"
    monkeypatch.setattr("pluralign.workflows.best_of._text", lambda response: "")
    with pytest.raises(PluralignError, match=r"all of its 40 responses are empty"):
        best_of(base, prompts, tmp_path / "none.parquet", reward=reward, n=4, max_new_tokens=1)
    assert not list(tmp_path.glob("*none*"))


def test_settings_and_files_that_do_not_fit_are_refused(base, reward, prompts, tmp_path):
    for options, expected in (
        ({"n": 0}, "n: found 0, expected 1 or more"),
        ({"max_new_tokens": 0}, "max_new_tokens: found 0"),
        ({"max_prompts": 0}, "max_prompts: found 0"),
        ({"temperature": 0.0}, "temperature: found 0.0"),
        ({"select": "worst"}, "select: found 'worst', expected one of best, softmax"),
        ({"select": "softmax", "beta": 0.0}, "beta: found 0.0"),
        ({"temperature": float("nan")}, "temperature: found nan"),
        ({"reward": base}, "base: is not a reward model"),
        ({"reward": tmp_path / "nowhere"}, "nowhere: no such folder"),
        ({"out": tmp_path / "best.csv"}, "best.csv: the name must end in"),
        ({"max_new_tokens": 48}, "max_new_tokens: 48 leaves no room for a prompt"),
    ):
        with pytest.raises(PluralignError, match=expected):
            best_of(base, prompts, **{"out": tmp_path / "best.parquet", "reward": reward, **options})
    assert not list(tmp_path.iterdir())


def test_fine_tuning_on_the_best_learns_them(base, reward, prompts, tmp_path):
    """The recipe with the example's config: the loss on the best answers falls, and new answers are better."""
    options = {"reward": reward, "n": 16, "max_new_tokens": 8}
    best = best_of(base, prompts, tmp_path / "best.parquet", **options)
    learned = completions(read(tmp_path / "best.parquet"))
    assert len(learned) >= best["rows"]
    config = yaml.safe_load(EXAMPLE.read_text())
    config |= {
        "model_name_or_path": str(base), "train_files": [str(tmp_path / "best.parquet")], "output_dir": str(tmp_path / "tuned"),
        "num_train_epochs": 40, "learning_rate": 3e-3, "warmup_steps": 0, "max_length": 48, "per_device_train_batch_size": 8,
        "save_strategy": "no", "report_to": "none", "use_cpu": True,
    }  # fmt: skip
    (tmp_path / "tune.yaml").write_text(yaml.safe_dump(config))
    train(tmp_path / "tune.yaml")
    items = items_of_texts(learned["prompt"], [[text] for text in learned["completion"]])
    before, after = (
        -pluralign.load_policy(folder, device="cpu").log_probs(items).mean() for folder in (base, tmp_path / "tuned")
    )
    assert after < 0.5 * before
    again = best_of(tmp_path / "tuned", prompts, tmp_path / "again.parquet", seed=5, **options)
    error = np.hypot(again["mean_reward/all_se"], best["mean_reward/all_se"])
    assert again["mean_reward/all"] > best["mean_reward/all"] + 2 * error

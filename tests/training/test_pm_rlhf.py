"""Online preference matching: what is charged, equality with TRL, refusals, runs from YAML."""

import json

import numpy as np
import peft
import pytest
import torch
import transformers
import trl
import yaml
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
)
from transformers.modeling_outputs import CausalLMOutput

import pluralign
from matching_setup import LORA, logged, online_settings, prompts, token_model, tuned, words
from pluralign.choice.preference_matching import Penalty, flattened
from pluralign.core.errors import PluralignError
from pluralign.judgments import BUILT_IN_SCALES, Judgments
from pluralign.scoring.implicit_rewards import load_implicit_reward
from pluralign.scoring.items import items_of_texts
from pluralign.scoring.reward_models import build_reward_model
from pluralign.training.preference_matching.reward_functions import load_rewards, reward_function
from pluralign.training.preference_matching.rlhf import ChargedReference, PMRLHFTrainer
from pluralign.workflows.train.run import train
from rewarded import write_reward_model

# What is charged ----------------------------------------------------------------------------------------------


class Table(torch.nn.Module):
    """A reference whose log-probabilities are given."""

    def __init__(self, log_probs):
        super().__init__()
        self.log_probs = log_probs

    def forward(self, **_):
        return trl.trainer.utils.FusedCausalLMOutput(log_probs=self.log_probs.clone())


@pytest.mark.parametrize(
    ("penalty", "expected", "inside"),
    [
        (Penalty("kl"), [[0.0, 0.3, 0.2, 0.9], [0.0, 0.8, 0.0, 0.0]], 0),
        (Penalty("pm"), [[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]], 4),
        (Penalty("conditional", 0.5), [[0.0, 0.3, 0.2, 0.0], [0.0, 0.0, 0.0, 0.0]], 2),
        (Penalty("conditional", 0.5, "sequence"), [[0.0, 0.3, 0.2, 0.9], [0.0, 0.0, 0.0, 0.0]], 1),
        (Penalty("conditional", 0.15, "sequence-minimum"), [[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]], 4),
        (Penalty("conditional", 0.25, "sequence-minimum"), [[0.0, 0.3, 0.2, 0.9], [0.0, 0.0, 0.0, 0.0]], 1),
    ],
)
def test_only_tokens_of_responses_are_charged(penalty, expected, inside):
    # A prompt of two tokens; the first answer is cut off after three tokens, the second ended after one. The
    # geometric mean of .3, .2 and .9 is .378.
    labels = torch.tensor([[-100, -100, 5, 6, 7], [-100, -100, 1, -100, -100]])
    given = torch.tensor([[0.0, 0.3, 0.2, 0.9], [0.0, 0.8, 0.0, 0.0]])
    log_probs = torch.where(given > 0, given.log(), torch.zeros(()))
    reference = ChargedReference(None if penalty.mode == "pm" else Table(log_probs), penalty)
    found = reference(labels=labels, fused_lm_head=True).log_probs
    wanted = torch.tensor(expected)
    assert torch.equal(found, torch.where(wanted > 0, wanted.log(), torch.zeros(())))
    counts = reference.counted()
    if penalty.mode != "kl":
        assert counts.tolist() == [inside, 4]
    assert reference.counted().tolist() == [0, 0]


class Logits(torch.nn.Module):
    """A reference whose logits are given."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, input_ids, logits_to_keep):
        return CausalLMOutput(logits=self.logits[:, -logits_to_keep:])


@pytest.mark.parametrize("gate", ["token", "sequence"])
def test_flattened_charges_shares_of_the_references_logits(gate):
    generator, end, penalty = torch.Generator().manual_seed(0), 1, Penalty(alpha=0.1, gate=gate)
    logits = 2 * torch.randn(2, 5, 6, generator=generator)
    labels = torch.tensor([[-100, -100, 5, 0, 1], [-100, -100, 3, 1, -100]])
    reference = ChargedReference(Logits(logits.clone()), penalty, [end])
    found = reference(input_ids=None, labels=labels, fused_lm_head=True).log_probs
    own = logits.log_softmax(-1)[:, :-1]
    flat = flattened(own, penalty.alpha, [end])
    for row, ids in enumerate(labels[:, 1:].tolist()):
        there = [place for place, token in enumerate(ids) if token != -100]
        passes = np.mean([float(own[row, place, ids[place]]) for place in there]) > np.log(penalty.alpha)
        chosen = flat if gate == "token" or passes else own
        wanted = [float(chosen[row, place, token]) if place in there else 0.0 for place, token in enumerate(ids)]
        np.testing.assert_allclose(found[row], wanted, rtol=1e-5, atol=1e-6)
    assert 0 < reference.counted()[0] < 5


def test_the_logged_penalty_is_that_of_the_answers(tiny_model, tmp_path):
    """Recomputed one answer at a time, without padding, from the tokens that the reward function saw."""
    seen = []

    def keep(prompts, completions, completion_ids, **_):
        seen.append((prompts, completion_ids))
        return words(prompts, completions)

    alpha = 0.0035  # of 320 tokens of an untrained model, about half are likelier
    trainer = tuned(str(tiny_model), tmp_path, keep, mode="conditional", alpha=alpha, max_steps=1, learning_rate=0.0)
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_model), AutoModelForCausalLM.from_pretrained(tiny_model)
    ((texts, answers),) = seen
    total, inside, count = 0.0, 0, 0
    for text, ids in zip(texts, answers, strict=True):
        before = tokenizer(text)["input_ids"]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([before + ids])).logits[0, len(before) - 1 : -1].double()
        log_probs = logits.log_softmax(-1).gather(-1, torch.tensor(ids).unsqueeze(-1)).squeeze(-1)
        likely = log_probs > np.log(alpha)
        total += float(log_probs[likely].sum())  # nothing is learned yet: outside, log pi - log pi_ref is 0
        inside += int(likely.sum())
        count += len(ids)
    assert 0.1 < inside / count < 0.9
    assert logged(trainer, "penalty")[0] == pytest.approx(total / count, rel=1e-4)
    assert logged(trainer, "inside")[0] == pytest.approx(inside / count)
    assert not logged(trainer, "kl")


@pytest.mark.parametrize("mode", ["conditional", "flattened"])
def test_adapters_and_full_models_have_the_same_penalty(mode, tiny_model, tmp_path):
    alpha = {"mode": mode, "alpha": 0.0035, "max_steps": 1}
    full = tuned(str(tiny_model), tmp_path / "full", **alpha)
    adapter = tuned(str(tiny_model), tmp_path / "adapter", peft_config=peft.LoraConfig(**LORA), **alpha)
    for name in ("penalty", "inside", "reward"):
        assert logged(full, name)[0] == pytest.approx(logged(adapter, name)[0], rel=1e-5)


def test_a_given_reference_is_used(tiny_model, tmp_path):
    other = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        other.get_input_embeddings().weight.mul_(3.0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    args = online_settings(tmp_path, mode="kl", max_steps=1)
    trainer = PMRLHFTrainer(str(tiny_model), words, args, prompts(), processing_class=tokenizer, ref_model=other)
    trainer.train()
    assert abs(logged(trainer, "kl")[0]) > 0.01
    model, _ = token_model()
    with pytest.raises(PluralignError, match="ref_model: mode pm "):
        PMRLHFTrainer(str(tiny_model), words, online_settings(tmp_path, mode="pm"), prompts(), ref_model=other)
    with pytest.raises(PluralignError, match=r"ref_model: has 4 tokens"):
        PMRLHFTrainer(str(tiny_model), words, args, prompts(), processing_class=tokenizer, ref_model=model)


def test_plain_matching_keeps_and_runs_no_reference(tiny_model, tmp_path):
    trainer = tuned(str(tiny_model), tmp_path, mode="pm", max_steps=1)
    assert trainer.ref_model.run is None
    assert not list(trainer.ref_model.parameters())
    assert logged(trainer, "inside") == [1.0]
    # E log pi of an untrained model over 320 tokens: about minus its entropy.
    assert logged(trainer, "penalty")[0] == pytest.approx(-np.log(320), abs=0.2)


# Refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting",
    [
        {"normalize_advantages": True},
        {"temperature": 0.7},
        {"top_p": 0.9},
        {"top_k": 20},
        {"min_p": 0.1},
        {"repetition_penalty": 1.1},
        {"mask_truncated_completions": True},
        {"generation_kwargs": {"num_beams": 4}},
        {"generation_kwargs": {"suppress_tokens": [3]}},
        {"vllm_structured_outputs_regex": "yes|no"},
    ],
    ids=str,
)
def test_what_breaks_the_match_is_refused(setting, tmp_path):
    (name,) = setting
    named = name if name != "generation_kwargs" else next(iter(setting[name]))
    with pytest.raises(ValueError, match=named):
        online_settings(tmp_path, **setting)
    online_settings(tmp_path, allow_mismatch=True, **setting)


def test_neutral_settings_pass_and_others_are_never_allowed(tmp_path):
    online_settings(
        tmp_path, generation_kwargs={"top_p": 1.0, "use_cache": True}, top_k=0, reward_clip_range=[-5.0, 5.0]
    )
    for wrong in ({"beta": 0.0}, {"alpha": 0.0}, {"mode": "dpo"}, {"gate": "word"}, {"sync_ref_model": True}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            online_settings(tmp_path, allow_mismatch=True, **wrong)


def test_a_trainer_needs_a_reward_and_one_adapter(tiny_model, tmp_path):
    with pytest.raises(PluralignError, match="there is no reward"):
        PMRLHFTrainer(str(tiny_model), None, online_settings(tmp_path), prompts())
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), peft.LoraConfig(**LORA))
    with pytest.raises(PluralignError, match="is an adapter already"):
        PMRLHFTrainer(model, words, online_settings(tmp_path), prompts(), peft_config=peft.LoraConfig(**LORA))


# Rewards ------------------------------------------------------------------------------------------------------


def test_a_mode_without_a_length_of_its_own_warns_and_stops_where_nothing_ends(tiny_model, tmp_path, caplog):
    transformers.utils.logging.enable_propagation()
    trainer = PMRLHFTrainer(str(tiny_model), words, online_settings(tmp_path, mode="conditional"), prompts())
    transformers.utils.logging.disable_propagation()
    assert caplog.text.count("their length tends to max_completion_length, 6 tokens") == 1
    trainer.log({"completions/clipped_ratio": 0.3})
    trainer.log({"completions/clipped_ratio": 0.8})
    with pytest.raises(PluralignError, match="length: 95 % of the responses run to the limit of 6 tokens"):
        trainer.log({"completions/clipped_ratio": 0.95})
    trainer.args.stop_if_endless = False
    trainer.log({"completions/clipped_ratio": 0.95})


def test_rewards_are_the_models_own(tiny_model, tmp_path):
    folder = write_reward_model(tiny_model, tmp_path / "reward")
    model = pluralign.load_reward_model(folder, device="cpu")
    score = reward_function(load_rewards(str(folder), device="cpu"), "reward")
    asked = ["Tea?", "Rain?", "Tea?", "Tea?"]
    found = score(prompts=asked, completions=[" yes", " no", " no", " yes"], completion_ids=None)
    tea, rain = model.score("Tea?", [" yes", " no"]), model.score("Rain?", [" no"])
    np.testing.assert_allclose(found, [tea[0], rain[0], tea[1], tea[0]], rtol=0, atol=1e-5)
    other = write_reward_model(tiny_model, tmp_path / "other", seed=1)
    mean = load_rewards([str(folder), str(other)], device="cpu").score_items(items_of_texts(["Rain?"], [[" no"]]))
    expected = (rain + pluralign.load_reward_model(other, device="cpu").score("Rain?", [" no"])) / 2
    np.testing.assert_allclose(mean, expected, rtol=0, atol=1e-5)
    assert reward_function(model)(prompts=["Tea?"], completions=[""]) != [None]  # the answer ended at once


def test_completions_that_were_cut_are_scored_without_an_end():
    class Ends:
        def score_items(self, items):
            return np.where(items.unfinished, 1.0, 2.0) * [len(text) for text in items.responses]

    score = reward_function(Ends(), end_tokens=lambda: [0, 7])
    given = {"prompts": ["Tea?"] * 4, "completions": ["yes", "yes", "no", "yes"]}
    assert score(**given, completion_ids=[[5, 7], [5, 6], [3, 0], [5, 0]]) == [6.0, 3.0, 4.0, 6.0]


@pytest.mark.parametrize("content", ["{{ m['content'] }}", "{% for part in m.content %}{{ part.text }}{% endfor %}"])
def test_chat_prompts_are_scored_as_messages(content, tiny_model, tmp_path):
    class Words:
        def score_items(self, items):
            assert all(prompt[-1]["role"] == "user" for prompt in items.prompts)
            assert all(answer[0]["role"] == "assistant" for answer in items.responses)
            assert all(isinstance(prompt[-1]["content"], str) for prompt in items.prompts)
            return np.array([float(len(answer[0]["content"].split())) for answer in items.responses])

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = f"{{% for m in messages %}}{content};\n{{% endfor %}}"
    chat = Dataset.from_list([{"prompt": [{"role": "user", "content": row["prompt"]}]} for row in prompts()])
    trainer = tuned(
        str(tiny_model), tmp_path, reward_function(Words(), "words"), tokenizer=tokenizer, data=chat, max_steps=1
    )
    assert logged(trainer, "rewards/words/mean")[0] > 0
    (read,) = trainer._tokenize_prompts([chat[0]["prompt"]])[0]
    assert tokenizer.decode(read) == chat[0]["prompt"][0]["content"] + ";\n"


def test_a_reward_that_is_no_number_stops(tmp_path):
    class Broken:
        def score_items(self, items):
            return np.full(len(items.responses), np.nan)

    with pytest.raises(PluralignError, match="not finite"):
        reward_function(Broken())(prompts=["Tea?"], completions=["Yes"])


def test_labels_need_a_temperature(tiny_model, tmp_path):
    build_reward_model(tiny_model, label_scale=BUILT_IN_SCALES["agree-pass-disagree"]).save(tmp_path / "crowd")
    with pytest.raises(PluralignError, match="pluralign calibrate on held-out votes"):
        load_rewards(str(tmp_path / "crowd"), device="cpu")
    load_rewards(str(tmp_path / "crowd"), allow_mismatch=True, device="cpu")
    # Whatever the untrained model likes, people like better, but for a few.
    of = pluralign.load_reward_model(tmp_path / "crowd", raw=True, device="cpu").score
    texts = sorted(["good cat", "bad dog"], key=lambda text: float(of("Say something about number 3:", [text])[0]))
    rows = [
        {"prompt": f"Say something about number {n}:", "responses": [text], "labels": [label], "annotator": f"w{n}"}
        for n in range(12)
        for text, label in ((texts[1], "agree" if n % 3 else "pass"), (texts[0], "disagree" if n % 4 else "agree"))
    ]
    Judgments.from_rows(rows, BUILT_IN_SCALES["agree-pass-disagree"]).write(tmp_path / "votes.parquet")
    fitted = pluralign.calibrate(tmp_path / "crowd", str(tmp_path / "votes.parquet"))
    model = load_rewards(str(tmp_path / "crowd"), device="cpu")
    raw = pluralign.load_reward_model(tmp_path / "crowd", raw=True, device="cpu").score("Tea?", ["good", "bad"])
    items = items_of_texts(["Tea?"], [["good", "bad"]])
    np.testing.assert_allclose(model.score_items(items), raw / fitted.temperature, rtol=1e-6)
    with pytest.raises(PluralignError, match="a quantile of labels' rewards"):
        load_rewards(str(tmp_path / "crowd"), quantile=0.2, device="cpu")


# Runs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tiny_model, tmp_path, town_rows):
    """A file of judgments, a reward model, and how a run's YAML is written."""
    Judgments.from_rows(town_rows[:64]).write(tmp_path / "train.parquet")
    write_reward_model(tiny_model, tmp_path / "reward")

    def write(name, **values):
        content = {
            "objective": "pm-rlhf", "model_name_or_path": str(tiny_model), "reward_model": str(tmp_path / "reward"),
            "train_files": [str(tmp_path / "train.parquet")], "output_dir": str(tmp_path / name),
            "per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 6, "max_steps": 4,
            "learning_rate": 1e-3, "use_cpu": True, "report_to": "none", "logging_steps": 1, "save_steps": 2,
        } | values  # fmt: skip
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(content))
        return file

    return write


def test_a_yaml_runs_from_end_to_end(written, tmp_path):
    metrics = train(written("matched", eval_files=[str(tmp_path / "train.parquet")], alpha=0.004))
    told = {"train_reward", "train_penalty", "train_inside", "train_entropy", "train_mean_length", "pm_divergence"}
    assert told <= metrics.keys()
    assert metrics == json.loads((tmp_path / "matched" / "metrics.json").read_text())
    answers = [json.loads(line) for line in (tmp_path / "matched" / "answers.jsonl").read_text().splitlines()]
    rewards = [answer["reward"] for answer in answers if answer["by"] == "policy"]
    assert np.mean(rewards) == pytest.approx(metrics["mean_reward/policy"])
    plots = json.loads((tmp_path / "matched" / "matching.json").read_text())["lists"]
    assert [plot["on"] for plot in plots] == ["policy", "reference"]
    policy = pluralign.load_policy(tmp_path / "matched", device="cpu")
    stored = policy.model.config.pluralign
    assert stored["penalty"] == vars(Penalty(alpha=0.004))
    assert (stored["objective"], stored["beta"]) == ("pm-rlhf", 1.0)
    assert len(policy.sample(["Say"], n=2, max_new_tokens=4)[0]) == 2
    assert train(tmp_path / "matched.yaml") == metrics  # finished: nothing is done again
    (tmp_path / "reward" / "calibration.json").write_text(json.dumps({"method": "temperature", "temperature": 2.0}))
    with pytest.raises(PluralignError, match="these files have changed since: .*calibration.json"):
        train(tmp_path / "matched.yaml")


def test_a_tuned_policy_gives_the_reward_of_its_type(written, tiny_model, tmp_path):
    common = {"objective": "dpo", "max_length": 64, "beta": 0.5, "reward_model": None}
    lora = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["all-linear"]}
    for name, extra in (("full", {}), ("adapter", lora)):
        content = yaml.safe_load(written(name, **common, **extra).read_text())
        for key in ("reward_model", "num_generations", "max_completion_length"):
            content.pop(key)
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
        train(tmp_path / f"{name}.yaml")
        items = items_of_texts(["Say something about number 3:"], [["good cat", "bad dog sun"]])
        tuned_policy = pluralign.load_policy(tmp_path / name, device="cpu")
        base = pluralign.load_policy(tiny_model, max_length=64, device="cpu")
        expected = 0.5 * (tuned_policy.log_probs(items) - base.log_probs(items))
        assert np.abs(expected).max() > 0.01
        found = load_implicit_reward(tmp_path / name, device="cpu").score_items(items)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)  # float32 sums of a few tokens
    with pytest.raises(PluralignError, match="neither a reward model nor a policy tuned on"):
        load_rewards(str(tiny_model))


def test_what_a_run_cannot_do_is_said(written, tmp_path):
    for values, message in (
        ({"top_p": 0.9}, "top_p: found 0.9"),
        ({"per_device_train_batch_size": 128}, "found 20 prompts, .* 32"),
        ({"max_completion_length": 96}, "no prompt is left of 20"),
    ):
        with pytest.raises(PluralignError, match=message):
            train(written(message[:3], **values))
    content = yaml.safe_load(written("none").read_text())
    content.pop("reward_model")
    (tmp_path / "none.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(PluralignError, match="the key 'reward_model' is missing"):
        train(tmp_path / "none.yaml")

"""Aggregating types: utilities against enumeration, the mixture that is written, the price of being one policy."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import peft
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import pluralign
from architectures import write_model
from commands import blocks
from mixtures import Plain, write_mixture
from pluralign.choice.regret import min_max_regret, regret_matrix, standings
from pluralign.core.errors import PluralignError
from pluralign.core.files import write_parquet
from pluralign.judgments import Judgments, read
from pluralign.policies.policy import Policy
from pluralign.reports.aggregation import (
    AggregatedType,
    AggregationPage,
    PolicyOutcome,
    SolvedGame,
    TypeOutcome,
    Value,
)
from pluralign.scoring.items import items_of_texts
from pluralign.scoring.mixtures import RESPONSIBILITIES, read_mixture, responsibilities_table
from pluralign.training.sft import completions
from pluralign.workflows.aggregate.checks import judges_of, priority_of
from pluralign.workflows.aggregate.contents import warnings_of
from pluralign.workflows.aggregate.judges import LEAST_HELD_OUT, judges_from, second_judge
from pluralign.workflows.aggregate.run import aggregate
from pluralign.workflows.aggregate.tuning import best_trial, search
from pluralign.workflows.report import report

LETTERS = "abcdef?"
NOTHING = Value(None, None, None)
TUNING = ["ac?", "bb?", "ef?", "de?", "cf?", "aba?"]
PROMPTS = ["a?", "b?", "cd?", "ab?", "fe?", "e?", "dcb?", "aa?", "bd?", "f?"]
SHARES = {"type-1": 0.5, "type-2": 0.3, "type-3": 0.2}
GAME = {"max_new_tokens": 8, "criterion": "regret", "offer": ["mixture"]}
"""The paper's game alone."""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A random model of letters: nine tokens, so that answers end soon and can be listed."""
    folder = tmp_path_factory.mktemp("aggregate")
    vocabulary = {word: index for index, word in enumerate(["<|pad|>", "<|end|>", *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")
    fast.model_max_length = 48
    fast.save_pretrained(folder / "tokenizer")
    return write_model("llama", folder / "tokenizer", folder / "base")


def write_run(base, folder, shares=SHARES, **config):
    write_mixture(base, folder, shares, beta=0.3)
    rows = [
        {"prompt": prompt, "responses": ["ab", "c"], "ranks": [1, 2], "annotator": who}
        for prompt in TUNING
        for who in "xy"
    ]
    Judgments.from_rows(rows).write(folder / "people.parquet")
    Judgments.from_rows([{"prompt": prompt, "responses": ["a"], "ranks": [1]} for prompt in PROMPTS]).write(
        folder / "held.parquet"
    )
    content = {"objective": "em-dpo", "model_name_or_path": str(base), "output_dir": str(folder)}
    content |= {"train_files": [str(folder / "people.parquet")], "eval_files": [str(folder / "held.parquet")], **config}
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    (folder / "metrics.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def people(base, tmp_path_factory):
    return write_run(base, tmp_path_factory.mktemp("runs") / "people")


@pytest.fixture(scope="module")
def other(base, people, tmp_path_factory):
    """A plain policy to compare with: the first type's, merged into the model."""
    folder = tmp_path_factory.mktemp("others") / "merged"
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    peft.PeftModel.from_pretrained(model, people / "type-1").merge_and_unload().save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def found(people, other, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "aggregated"
    metrics = aggregate(people, folder, samples=6, policies={"merged": other}, **GAME)
    return folder, metrics


def exact_utilities(base, run, names, prompts):
    """L_ij of answers of one token, over the whole vocabulary and some prompts: `(types, policies)`."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = []
    for adapter in [*(run / name for name in names), None]:
        model = Plain(base, adapter).model
        with torch.no_grad():
            logits = [
                model(input_ids=torch.tensor([tokenizer(prompt)["input_ids"]])).logits[0, -1] for prompt in prompts
            ]
        rows.append(torch.log_softmax(torch.stack(logits).double(), -1).numpy())
    log_probs = np.stack(rows)  # (types and base, prompts, tokens)
    return np.einsum("jxt,ixt->ij", np.exp(log_probs), log_probs[:-1] - log_probs[-1:]) / len(prompts)


def test_sampled_utilities_are_those_of_all_answers(base, people, tmp_path):
    """Answers of one token: each L_ij within what its standard error allows, and so the mixture."""
    folder = tmp_path / "out"
    metrics = aggregate(people, folder, samples=100, **GAME | {"max_new_tokens": 1})
    exact = exact_utilities(base, people, SHARES, PROMPTS)
    answers = pq.read_table(folder / "answers.parquet")
    by = np.array(answers["by"].to_pylist())
    for column, policy in enumerate([*SHARES, "base"]):
        for row in range(3):
            drawn = answers[f"utility_{row + 1}"].to_numpy()[by == policy].reshape(len(PROMPTS), 100)
            # The prompts are the same in both, so the answers alone vary.
            error = np.sqrt((drawn.var(1, ddof=1) / 100).sum()) / len(PROMPTS)
            assert metrics[f"utility/{policy}/type={row + 1}"] == pytest.approx(exact[row, column], abs=4.5 * error)
    assert (np.diag(exact) > 0).all(), "a divergence of a type's policy from the base"
    assert (exact[:, -1] < 0).all(), "and of the base from it"
    # The weights are those of other prompts.
    regret = regret_matrix(exact_utilities(base, people, SHARES, TUNING)[:, :3])
    game = min_max_regret(regret)
    weights = [metrics[f"mixture_weights/type={kind}"] for kind in (1, 2, 3)]
    assert metrics["game_value"] == pytest.approx(game.value, abs=0.15 * np.abs(regret).max())
    assert (regret @ weights).max() <= game.value + 0.3 * np.abs(regret).max()


def test_utilities_are_of_the_tokens_that_were_drawn(base, people, found):
    """Each answer again by a plain forward pass, the end token included where it was drawn."""
    answers = pq.read_table(found[0] / "answers.parquet").to_pylist()
    tokenizer = AutoTokenizer.from_pretrained(base)
    plain = {name: Plain(base, people / name) for name in SHARES} | {"base": Plain(base)}
    checked = 0
    for one in answers[::7]:
        ids = tokenizer(one["response"])["input_ids"] + [tokenizer.eos_token_id] * one["finished"]
        if len(ids) != one["tokens"]:  # a padding token was drawn, which the text does not show
            continue
        checked += 1
        ahead = tokenizer(one["prompt"])["input_ids"]
        log_prob = {name: model.of_tokens(ahead, ids) for name, model in plain.items()}
        for kind, name in enumerate(SHARES, 1):
            assert one[f"utility_{kind}"] == pytest.approx(log_prob[name] - log_prob["base"], abs=2e-4)
        assert one["log_prob"] == pytest.approx(log_prob["type-1" if one["by"] == "merged" else one["by"]], abs=2e-4)
    assert checked > 20


def test_what_is_written_agrees(found, people):
    folder, metrics = found
    story = json.loads((folder / "aggregate.json").read_text())
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert all(isinstance(value, str) or math.isfinite(value) for value in metrics.values())
    names = [policy["name"] for policy in story["policies"]]
    assert names == [*SHARES, "base", "mixture", "population", "utilitarian", "max-min-reward", "merged"]
    assert (metrics["prompts"], metrics["tuning_prompts"], metrics["answers"]) == (10, 6, 5 * 10 * 6)
    utility = np.array([[metrics[f"utility/{name}/type={kind}"] for name in names] for kind in (1, 2, 3)])
    regret = np.array([[metrics[f"regret/{name}/type={kind}"] for name in names] for kind in (1, 2, 3)])
    np.testing.assert_allclose(regret, np.diag(utility)[:, None] - utility, atol=1e-9)
    np.testing.assert_allclose(utility[:, names.index("population")], utility[:, :3] @ list(SHARES.values()))
    weights = np.array([metrics[f"mixture_weights/type={kind}"] for kind in (1, 2, 3)])
    np.testing.assert_allclose(utility[:, names.index("mixture")], utility[:, :3] @ weights)
    assert metrics["game_value"] == max(metrics["game_value_without_abstention"], 0)
    largest = dict(zip(names, regret.max(0), strict=True))
    for name in names:
        assert metrics[f"max_regret/{name}"] == pytest.approx(largest[name])
        relative = (regret[:, names.index(name)] / np.diag(utility)).max()
        assert metrics[f"max_relative_regret/{name}"] == pytest.approx(relative)
        rates = [metrics[f"win_rate/{name}/type={kind}"] for kind in (1, 2, 3)]
        assert metrics[f"worst_win_rate/{name}"] == pytest.approx(min(rates))
        low, high = (metrics[f"worst_win_rate/{name}{end}"] for end in ("_low", "_high"))
        assert low <= metrics[f"worst_win_rate/{name}"] + 1e-12
        assert low <= high
    deployable = [*SHARES, "base", "mixture"]
    assert metrics["winner"] == min(deployable, key=largest.get)
    for kind in (1, 2, 3):
        assert metrics[f"win_rate/base/type={kind}"] == pytest.approx(0.5)
        assert metrics[f"win_rate/type-{kind}/type={kind}"] > 0.5
        parts = [metrics[f"win_rate/type-{part}/type={kind}"] for part in (1, 2, 3)]
        assert metrics[f"win_rate/mixture/type={kind}"] == pytest.approx(weights @ parts)
        own = metrics[f"win_rate/type-{kind}/type={kind}/against=merged"]
        assert own > 0.5 or kind == 1  # merged is the first type's own policy
        assert f"win_rate/merged/type={kind}/against=merged" not in metrics
    error = 4 * metrics["regret/merged/type=1_se"]
    assert metrics["regret/merged/type=1"] == pytest.approx(0, abs=error), "the first type's own policy, drawn again"


def test_the_mixture_is_a_policy_with_the_new_weights(found, people):
    folder, metrics = found
    policy = pluralign.load_policy(folder / "mixture", device="cpu")
    weights = [metrics[f"mixture_weights/type={kind}"] for kind in (1, 2, 3)]
    assert policy.weights == pytest.approx(weights)
    assert policy.mixture.beta == 0.3, "what else the run's mixture says is kept"
    for name in SHARES:
        for file in ("adapter_model.safetensors", "adapter_config.json"):
            assert (folder / "mixture" / name / file).read_bytes() == (people / name / file).read_bytes()
    samples = policy.sample(["a?"], n=400, max_new_tokens=2)[0]
    drawn = [np.mean([sample.adapter == name for sample in samples]) for name in SHARES]
    assert drawn == pytest.approx(weights, abs=0.1)


def test_the_order_and_names_of_types_do_not_matter(base, people, found, tmp_path):
    """The same adapters in another order: the same answers and the same weights, by name."""
    swapped = {name: SHARES[name] for name in ("type-3", "type-1", "type-2")}
    again = tmp_path / "swapped"
    write_run(base, again, SHARES)
    mixture = json.loads((again / "mixture.json").read_text()) | {"weights": swapped}
    (again / "mixture.json").write_text(json.dumps(mixture))
    metrics = aggregate(again, tmp_path / "out", samples=6, **GAME)
    for key, value in metrics.items():
        if not key.endswith(("_low", "_high")) and key not in ("answers", "criterion", "winner"):
            assert value == pytest.approx(found[1][key], abs=1e-6), key


def test_a_priority_is_a_weight_on_regret(people, found, tmp_path):
    metrics = aggregate(people, tmp_path / "out", samples=6, priority={"2": 3, "type-3": 0}, **GAME)
    plain = found[1]
    assert metrics["regret/type-1/type=2"] == pytest.approx(3 * plain["regret/type-1/type=2"])
    assert metrics["regret/type-1/type=2_se"] == pytest.approx(3 * plain["regret/type-1/type=2_se"])
    assert metrics["regret/type-1/type=3"] == 0
    assert metrics["mixture_weights/type=2"] > plain["mixture_weights/type=2"]


def test_hedge_finds_the_same_value(people, found, tmp_path):
    metrics = aggregate(people, tmp_path / "out", samples=6, hedge=True, **GAME)
    assert metrics["game_value"] == pytest.approx(found[1]["game_value"], rel=5e-3)


def test_one_type_leaves_nothing_to_aggregate(base, tmp_path):
    run = write_run(base, tmp_path / "one", {"type-1": 1.0})
    assert aggregate(run, tmp_path / "out") == {"types": 1}
    assert not (tmp_path / "out").exists()


def test_the_example_of_the_documentation_holds_for_one_type(tiny_model, tmp_path, monkeypatch):
    """Without a winner the policy of the run is loaded."""
    write_mixture(tiny_model, tmp_path / "runs" / "types", {"type-1": 1.0})
    (source,) = blocks((Path(__file__).parents[2] / "docs" / "aggregation.md").read_text(), "python")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(source.partition("policy.sample")[0], names)  # 128 tokens are too many for so small a model
    assert names["metrics"] == {"types": 1}
    assert names["policy"].mixture.weights == {"type-1": 1.0}


def test_one_prompt_is_defined(people, tmp_path):
    rows = [{"prompt": "a?", "responses": ["a"], "ranks": [1]}]
    Judgments.from_rows(rows).write(tmp_path / "one.jsonl")
    options = {"prompts": tmp_path / "one.jsonl", "tuning_prompts": tmp_path / "one.jsonl", "samples": 2, "trials": 2}
    metrics = aggregate(people, tmp_path / "out", max_new_tokens=4, offer=["mixture", "merge"], **options)
    assert (metrics["prompts"], metrics["tuning_prompts"]) == (1, 1)
    assert "game_value_low" not in metrics
    assert "worst_win_rate/merge_low" not in metrics
    assert "regret/base/type=1_se" not in metrics
    warnings = json.loads((tmp_path / "out" / "aggregate.json").read_text())["warnings"]
    assert "one prompt, so errors" in warnings[0]
    assert "one prompt for tuning and for measuring" in warnings[-1]


def test_prompts_come_once_and_apart_from_those_of_tuning(people, tmp_path):
    rows = [{"prompt": prompt, "responses": ["a"], "ranks": [1]} for prompt in ("dd?", "dd?", "ee?", "ac?", "bb?")]
    Judgments.from_rows(rows).write(tmp_path / "others.jsonl")
    few = {"samples": 1, "max_new_tokens": 2, "offer": ["mixture"]}
    metrics = aggregate(people, tmp_path / "out", prompts=tmp_path / "others.jsonl", **few)
    asked = pq.read_table(tmp_path / "out" / "answers.parquet")["prompt"].to_pylist()
    assert asked == ["dd?", "ee?", "ac?", "bb?"] * 4
    assert metrics["tuning_prompts"] == 4, "of six, two are held out"
    same = {"prompts": tmp_path / "others.jsonl", "tuning_prompts": tmp_path / "others.jsonl"}
    metrics = aggregate(people, tmp_path / "same", **same, **few)
    assert (metrics["prompts"], metrics["tuning_prompts"]) == (2, 2), "half and half"
    aggregate(people, tmp_path / "few", max_prompts=3, **few)
    asked = pq.read_table(tmp_path / "few" / "answers.parquet")["prompt"].to_pylist()
    assert asked[:3] == [prompt for prompt in PROMPTS if prompt in asked]


@pytest.fixture(scope="module")
def everything(base, tmp_path_factory):
    """Every policy that is offered, and the distilled ones, with judges: x likes "ab" in type 1, y "c" in the others."""
    run = write_run(base, tmp_path_factory.mktemp("judged") / "people")
    gamma = np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
    write_parquet(responsibilities_table(["x", "y"], np.ones(2, dtype=int), gamma), run / RESPONSIBILITIES)
    rows = [
        {"prompt": prompt, "responses": ["a b", "c"], "ranks": ranks, "annotator": who}
        for prompt in TUNING
        for who, ranks in (("x", [1, 2]), ("y", [2, 1]))
    ]
    Judgments.from_rows(rows).write(run / "people.parquet")
    folder = tmp_path_factory.mktemp("out") / "together"
    metrics = aggregate(run, folder, **EVERYTHING)
    return run, folder, metrics


EVERYTHING = {"samples": 2, "candidates": 4, "trials": 4, "max_new_tokens": 6, "distill": ["best-of"]}
EVERYTHING |= {"distill_samples": 4}


def test_every_policy_is_measured_and_the_best_is_marked(everything):
    _, folder, metrics = everything
    offered = ["mixture", "merge", "pooled", "best-of"]
    story = json.loads((folder / "aggregate.json").read_text())
    assert [policy["name"] for policy in story["policies"]] == [
        *SHARES, "base", *offered, "best-of-distilled", "population", "utilitarian", "max-min-reward",
    ]  # fmt: skip
    losses = {policy["name"]: policy["loss"]["value"] for policy in story["policies"]}
    assert losses["base"] == pytest.approx(0.5)
    for name, loss in losses.items():
        assert loss == pytest.approx(1 - metrics[f"worst_win_rate/{name}"])
    assert losses[metrics["winner"]] == min(losses[name] for name in [*SHARES, "base", *offered, "best-of-distilled"])
    tuned = json.loads((folder / "tuning.json").read_text())
    assert (len(tuned["trials"]["merge"]), len(tuned["trials"]["pooled"])) == (4, 2)
    best = min(tuned["trials"]["merge"], key=lambda trial: max(trial["losses"]))
    assert best["weights"] == tuned["merge"] == [metrics[f"merge_weights/type={kind}"] for kind in (1, 2, 3)]
    flagged = [warning for warning in story["warnings"] if warning.startswith("best-of-distilled is worse")]
    assert bool(flagged) == (losses["best-of-distilled"] > 0.5)


def test_every_reason_for_distrust_is_said_once(everything, tmp_path, caplog):
    """The judges that measure have chosen, and a distilled policy that learned too fast is worse than the base."""
    run, _, _ = everything
    spoilt = EVERYTHING | {"offer": ["mixture", "best-of"], "distill_learning_rate": 1.0, "distill_epochs": 5}
    metrics = aggregate(run, tmp_path / "out", **spoilt)
    assert metrics["worst_win_rate/best-of-distilled"] < 0.5
    said = caplog.messages
    for beginning in ("best-of-distilled is worse than the base by win-rate", "The judges that choose also measure"):
        assert sum(line.startswith(beginning) for line in said) == 1, beginning
    warnings = json.loads((tmp_path / "out" / "aggregate.json").read_text())["warnings"]
    assert [said.count(warning) for warning in warnings] == [1] * len(warnings)


def test_every_policy_is_a_folder_that_loads_and_is_evaluated(everything, base, tmp_path):
    """By its own log-probabilities, if it has some: x and y oppose each other on one pair, so margins tell."""
    run, folder, _ = everything
    items = items_of_texts(TUNING, [["a b", "c"]] * len(TUNING))
    reference = pluralign.load_policy(base, device="cpu").log_probs(items)
    Judgments.from_rows([row for row in read(run / "people.parquet").rows() if row["annotator"] == "x"]).write(
        tmp_path / "x.parquet"
    )
    for name in ("mixture", "merge", "pooled", "best-of", "best-of-distilled"):
        policy = pluralign.load_policy(folder / name, device="cpu")
        assert len(policy.sample(["a?"], n=2, max_new_tokens=3)[0]) == 2
        if name == "best-of":
            continue
        metrics = pluralign.evaluate(folder / name, tmp_path / "x.parquet", tmp_path / name, beta=1.0)
        first, second = (policy.log_probs(items) - reference).reshape(len(TUNING), 2).T
        assert metrics["mean_margin"] == pytest.approx(np.mean(first - second), abs=1e-5), name
        assert abs(metrics["mean_margin"]) > 5e-5, name
    for name in ("merge", "best-of-distilled"):
        peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder / name)


def test_best_of_is_evaluated_by_its_responses_alone(everything, base, tmp_path, monkeypatch):
    """It has no log-probability: without a reward model it is refused before a model is loaded; with one, nothing is
    reported that takes log-probabilities."""
    run, folder, _ = everything
    policy, people = folder / "best-of", str(run / "people.parquet")
    with monkeypatch.context() as patch:
        patch.setattr("pluralign.workflows.evaluate.load_parts", None)
        with pytest.raises(PluralignError, match="no log-probability of its own.* Give --reward FOLDER.*--distill"):
            pluralign.evaluate(policy, people, tmp_path / "out")
        with pytest.raises(PluralignError, match="without an implicit reward that beta could scale"):
            pluralign.evaluate(policy, people, tmp_path / "out", reward="judge", beta=1.0)
    assert not (tmp_path / "out").exists()
    with pytest.raises(PluralignError, match="no log-probability of its own"):
        pluralign.load_policy(policy, device="cpu").log_probs(items_of_texts(["a?"], [["a"]]))
    pluralign.build_reward_model(base).save(tmp_path / "judge")
    options = {"reward": str(tmp_path / "judge"), "samples": 3, "max_new_tokens": 4, "kinds": str(run)}
    metrics = pluralign.evaluate(policy, people, tmp_path / "out", **options)
    absent = ("accuracy", "log_loss", "pm_divergence", "minority_mass", "saturation", "pair_kl", "first_choice")
    assert not [key for key in metrics if key.startswith(absent)]
    assert "entropy" not in metrics
    assert {"entropy/reference", "reference_perplexity", "distinct_1", "said_wanted_tv", "judgments"} <= metrics.keys()
    answers = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert {row["policy_log_prob"] for row in answers} == {None}
    drawn = pluralign.load_policy(policy, device="cpu").sample(TUNING, n=3, max_new_tokens=4)
    assert [row["response"] for row in answers if row["by"] == "policy"] == [
        sample.response for group in drawn for sample in group
    ]
    rewards = {by: np.array([row["reward"] for row in answers if row["by"] == by]) for by in ("policy", "reference")}
    own, other = (rewards[by].reshape(len(TUNING), 3) for by in ("policy", "reference"))
    signs = np.sign(own[:, :, None] - other[:, None, :])
    assert metrics["win_rate"] == pytest.approx(0.5 + signs.mean() / 2)
    assert metrics["mean_reward/policy"] == pytest.approx(own.mean())
    assert "is judged by its responses alone" in (tmp_path / "out" / "README.md").read_text()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "What does the policy say?" in page
    assert "Do the odds of the policy" not in page
    stored = json.loads((policy / "best_of.json").read_text())
    copy = tmp_path / "copy"
    shutil.copytree(policy, copy)
    found = pluralign.evaluate(copy, people, tmp_path / "again", **options)
    assert found["win_rate"] == metrics["win_rate"]
    (copy / "best_of.json").write_text(json.dumps(stored | {"n": 1}))
    with pytest.raises(PluralignError, match=r"these files have changed since: .*best_of\.json"):
        pluralign.evaluate(copy, people, tmp_path / "again", **options)


def test_best_of_by_the_smallest_share_needs_no_weights(everything, tmp_path, monkeypatch):
    """Its folder has no weights, its draws are those of the rule, and it needs no search for weights."""
    run, folder, _ = everything
    few = EVERYTHING | {"offer": ["best-of"], "distill": []}
    with monkeypatch.context() as patch:
        patch.setattr("pluralign.workflows.aggregate.tuning.best_of_weights", None)
        metrics = aggregate(run, tmp_path / "out", best_of_rule="smallest", **few)
    assert "worst_win_rate/best-of" in metrics
    assert not [key for key in metrics if key.startswith("best_of_weights")]
    policy = pluralign.load_policy(tmp_path / "out" / "best-of", device="cpu")
    weighted = pluralign.load_policy(folder / "best-of", device="cpu")
    assert (policy.weights, policy.n, len(weighted.weights)) == (None, 4, 3)
    drawn = Policy(policy.model, policy.tokenizer, policy.limits).sample(["a?"], n=4, max_new_tokens=3, seed=1)
    utilities = policy.judges.utilities(items_of_texts(["a?"], [[sample.response for sample in drawn[0]]]))
    best = int(standings(utilities, policy.yardstick).min(0).argmax())
    assert policy.sample(["a?"], n=1, max_new_tokens=3, seed=1)[0][0].response == drawn[0][best].response


def test_held_out_judgments_measure_where_there_are_enough(everything, tmp_path):
    """Judges of the held-out judgments differ from those that choose, and their name is told."""
    run, _, _ = everything
    mixture, posteriors = read_mixture(run), {"x": np.array([1.0, 0.0, 0.0]), "y": np.array([0.0, 0.5, 0.5])}
    rows = [
        {"prompt": f"{turn}?", "responses": ["a b", "c d"], "ranks": [1, 2], "annotator": who}
        for turn in range(2 * LEAST_HELD_OUT)
        for who in ("x", "y")
    ]
    Judgments.from_rows(rows).write(tmp_path / "many.parquet")
    Judgments.from_rows(rows[: 2 * LEAST_HELD_OUT]).write(tmp_path / "few.parquet")
    shares = mixture.weights
    assert second_judge([str(tmp_path / "few.parquet")], None, posteriors, shares, 0) is None
    train = [str(run / "people.parquet")]
    found = judges_from(run, mixture, None, train, [str(tmp_path / "many.parquet")], None, 0, False)
    assert found.name == "words and traits, fitted to held-out judgments"
    assert found.warning is None
    items = items_of_texts(["?"], [["a b", "c"]])
    chosen, measured = (judge.utilities(items) for judge in (found.choosing, found.measuring))
    assert chosen[1, 0] < chosen[1, 1], "y liked c better in training"
    assert measured[1, 0] > measured[1, 1], "and a b in the held-out judgments"
    alone = judges_from(run, mixture, None, train, [], None, 0, False)
    assert alone.measuring is alone.choosing
    assert "flatters best-of" in alone.warning


def test_a_stopped_aggregation_of_everything_ends_the_same(everything, tmp_path, monkeypatch):
    run, _, metrics = everything

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pluralign.workflows.aggregate.run.distill_policy", killed)
        with pytest.raises(KeyboardInterrupt):
            aggregate(run, tmp_path / "cut", **EVERYTHING)
    with monkeypatch.context() as patch:
        patch.setattr("pluralign.workflows.aggregate.run.tune", killed)
        again = aggregate(run, tmp_path / "cut", **EVERYTHING)
    timed = {key for key in metrics if "train_loss" in key}
    assert {key: again[key] for key in metrics if key not in timed} == {
        key: value for key, value in metrics.items() if key not in timed
    }


def test_without_judges_best_of_is_not_offered(people, tmp_path, caplog):
    options = {"samples": 1, "max_new_tokens": 3, "trials": 1, "offer": ["mixture", "best-of"]}
    aggregate(people, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "best-of").exists()
    (said,) = [line for line in caplog.messages if line.startswith("best-of is not offered, because it needs judges")]
    assert json.loads((tmp_path / "out" / "aggregate.json").read_text())["warnings"][-1] == said


def test_the_search_finds_weights_off_the_simplex():
    target = np.array([1.2, 1.1, 0.4])
    trials = search(lambda weights: 1 + (weights - target) ** 2 - 0.3 * weights, 3, 60)
    exact = 1 + (target - target) ** 2 - 0.3 * target
    assert max(best_trial(trials).losses) <= exact.max() + 0.02
    assert len(trials) == 60
    assert trials[0].weights == pytest.approx([3**-0.5] * 3)
    one = search(lambda weights: np.abs(weights - target), 3, 1, target)
    assert one[0].losses == [0.0, 0.0, 0.0]


def test_judges_are_named_by_type():
    with pytest.raises(PluralignError, match="type-2: no reward model"):
        judges_of({"1": "a"}, ["type-1", "type-2"])
    with pytest.raises(PluralignError, match="judge: no type '3'"):
        judges_of({"3": "a"}, ["type-1", "type-2"])


def test_a_mixture_is_distilled_into_one_policy(people, tmp_path):
    """After training on its draws one adapter is nearer to the mixture than the base is."""
    folder = tmp_path / "out"
    options = {"samples": 4, **GAME, "distill": True, "distill_samples": 60, "distill_epochs": 2.0}
    options |= {"distill_learning_rate": 2e-2, "policies": {}}
    metrics = aggregate(people, folder, **options)
    draws = read(folder / "mixture-draws.parquet")
    assert len(draws) == metrics["distill_draws/mixture"] == 6 * 60 - metrics["distill_left_out/mixture"]
    texts = [(row["prompt"], row["responses"][0]) for row in draws.rows()]
    assert len(set(texts)) < len(texts), "draws keep their multiplicity"
    resolved = yaml.safe_load((folder / "mixture-distilled" / "config.yaml").read_text())
    assert (resolved["objective"], resolved["responses"], resolved["lora_r"]) == ("sft", "draws", 2)
    assert resolved["max_length"] == 48
    tuned = peft.PeftConfig.from_pretrained(str(folder / "mixture-distilled"))
    like = peft.PeftConfig.from_pretrained(str(people / "type-1"))
    assert (tuned.r, tuned.target_modules) == (like.r, like.target_modules)
    assert "regret/mixture-distilled/type=2" in metrics
    assert metrics["max_regret/mixture-distilled_low"] <= metrics["max_regret/mixture-distilled_high"]
    assert set(pq.read_table(folder / "answers.parquet")["by"].to_pylist()) == {*SHARES, "base", "mixture-distilled"}

    mixture = pluralign.load_policy(folder / "mixture", device="cpu")
    fresh = mixture.sample(PROMPTS, n=30, max_new_tokens=8, seed=99)
    fresh = [[one for one in group if one.finished and one.response] for group in fresh]
    items = pluralign.scoring.items.items_of_texts(PROMPTS, [[one.response for one in group] for group in fresh])
    likelihood = {
        name: pluralign.load_policy(path, device="cpu").log_probs(items).mean()
        for name, path in (("distilled", folder / "mixture-distilled"), ("base", resolved["model_name_or_path"]))
    }
    assert likelihood["distilled"] > likelihood["base"] + 0.3
    assert aggregate(people, folder, **options) == metrics


def test_a_stopped_aggregation_is_taken_up(people, tmp_path, monkeypatch):
    """Killed before the page: the answers are not drawn again, and the end is the same."""
    options = {"samples": 2, **GAME}
    whole = aggregate(people, tmp_path / "whole", **options)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pluralign.workflows.aggregate.run.aggregation_page", killed)
        with pytest.raises(KeyboardInterrupt):
            aggregate(people, tmp_path / "cut", **options)
    with monkeypatch.context() as patch:
        patch.setattr("pluralign.workflows.aggregate.run.draw_answers", killed)
        patch.setattr("pluralign.workflows.aggregate.run.tune", killed)
        assert aggregate(people, tmp_path / "cut", **options) == whole
        assert aggregate(people, tmp_path / "cut", **options) == whole, "a finished one is left alone"
    with pytest.raises(PluralignError, match=r"these keys differ: samples \(2 before, 3 now\)"):
        aggregate(people, tmp_path / "cut", **options | {"samples": 3})
    for name in ("aggregate.json", "metrics.json", "report.html"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_page_is_drawn_here_and_by_report(found, tmp_path):
    folder, _ = found
    own = (folder / "report.html").read_text()
    report(folder, tmp_path / "page.html")
    again = (tmp_path / "page.html").read_text()
    for words in ("nats per response", "mixture", "merged"):
        assert words in own
        assert words in again
    report([folder, folder], tmp_path / "two.html")
    card = (folder / "README.md").read_text()
    assert "load_policy" in card
    assert "win rate against base" in card


def test_what_cannot_be_aggregated_is_one_clear_error(base, people, tiny_model, tmp_path):
    def refused(words, run=people, **options):
        with pytest.raises(PluralignError, match=words):
            aggregate(run, tmp_path / "out", **{"max_new_tokens": 4, **options})
        assert not (tmp_path / "out").exists()

    refused("no such folder", tmp_path / "none")
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.yaml").write_text("objective: dpo\n")
    refused("is not finished .* run its command again", unfinished)
    (unfinished / "metrics.json").write_text("{}")
    refused("is not a run of em-dpo .* found a folder of the objective dpo", unfinished)
    refused("no type 'type-4'; there are: type-1", priority={"type-4": 1.0})
    refused("expected 3 numbers", priority=[1.0, 2.0])
    refused("every type has 0", priority=[0, 0, 0])
    refused("has other tokens", policies={"tiny": tiny_model})
    refused("the name 'base' is taken", policies={"base": base})
    refused("found the name 'a/b'", policies={"a/b": base})
    refused("the name 'merge' is taken", policies={"merge": base})
    refused("criterion: found 'nats', expected win-rate", criterion="nats")
    refused("offer: found 'merged', expected mixture, merge, .*did you mean 'merge'", offer=["merged"])
    refused("distill: found 'pooled', expected mixture", offer=["mixture"], distill=["pooled"])
    refused("best_of_rule: found 'least', expected weighted, smallest", best_of_rule="least")
    refused("knows no priorities", best_of_rule="smallest", priority=[1.0, 2.0, 1.0])
    refused("samples: found 0", samples=0)
    refused("candidates: found 0", candidates=0)
    refused("max_new_tokens: found 0", max_new_tokens=0)
    refused("distill_epochs: found 0", distill=True, distill_epochs=0)
    refused("leaves no room for a prompt", max_new_tokens=48)
    (tmp_path / "empty.jsonl").write_text("")
    refused("empty.jsonl: the file is empty", prompts=tmp_path / "empty.jsonl")
    bare = tmp_path / "bare"
    write_mixture(base, bare, {"type-1": 0.5, "type-2": 0.5})
    refused("give some with --prompts", bare)


def test_priorities_go_by_name_or_number():
    names = ["type-1", "type-2"]
    assert priority_of(None, names).tolist() == [1, 1]
    assert priority_of([2, 3], names).tolist() == [2, 3]
    assert priority_of({"type-2": 4, "1": 0}, names).tolist() == [0, 4]
    with pytest.raises(PluralignError, match="priority: found"):
        priority_of({"1": -1}, names)


def test_chats_are_answered_and_distilled(base, tmp_path):
    run = write_run(base, tmp_path / "run", {"type-1": 0.5, "type-2": 0.5})
    template = "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    for name in ("type-1", "type-2"):
        tokenizer = AutoTokenizer.from_pretrained(run / name)
        tokenizer.chat_template = template
        tokenizer.save_pretrained(run / name)
    rows = [
        {
            "prompt": [{"role": "user", "content": prompt}],
            "responses": [[{"role": "assistant", "content": "a"}]],
            "ranks": [1],
        }
        for prompt in PROMPTS[:4]
    ]
    Judgments.from_rows(rows).write(tmp_path / "chats.parquet")
    options = {"distill": True, "distill_prompts": tmp_path / "chats.parquet", "distill_samples": 8, "trials": 1}
    options |= {"offer": ["mixture", "merge"], "tuning_prompts": tmp_path / "chats.parquet"}
    metrics = aggregate(
        run, tmp_path / "out", prompts=tmp_path / "chats.parquet", samples=2, max_new_tokens=8, **options
    )
    assert metrics["distill_draws/mixture"] > 0
    answers = pq.read_table(tmp_path / "out" / "answers.parquet")
    assert pa.types.is_list(answers.schema.field("response").type)
    assert "user: " in (tmp_path / "out" / "report.html").read_text()


def test_draws_of_which_none_can_be_learned_are_refused(people, tmp_path):
    """With one token an answer is cut, or empty."""
    with pytest.raises(PluralignError, match="none of 12 responses is finished within 1 tokens"):
        aggregate(people, tmp_path / "out", samples=1, distill=True, distill_samples=2, **GAME | {"max_new_tokens": 1})


def test_draws_are_learned_as_often_as_they_stand():
    rows = [{"prompt": "a?", "responses": ["b"], "ranks": [1]}] * 3
    rows += [{"prompt": "a?", "responses": ["b", "c"], "ranks": [2, 1]}]
    judgments = Judgments.from_rows(rows)
    assert completions(judgments, "draws")["completion"] == ["b", "b", "b", "b", "c"]
    assert completions(judgments, "all")["completion"] == ["b", "c"]
    assert completions(judgments)["completion"] == ["b", "c"]


def test_numbers_that_are_due_to_chance_raise_warnings():
    """A negative game, an interval that includes zero, a type that prefers another's responses, cut responses."""

    def warned(value=0.2, low=0.1, without_abstention=0.2, regret=0.0, unfinished=0.0, loss=0.4, winner="type-1"):
        first, second = (TypeOutcome(1.0, 0.1, of_type, 0.1, 0.5, 0.4, 0.6) for of_type in (regret, 0.0))
        kinds = {"type-1": "own", "type-2": "own", "base": "base", "merge-distilled": "distilled"}
        shares = {"type-1": unfinished}
        policies = [
            PolicyOutcome(
                name, kind, None, 0.0, 0.0, 0.0, NOTHING, NOTHING,
                Value(loss if kind == "distilled" else 0.5, None, None), 3.0, shares.get(name, 0.0),
                [first if name == "type-2" else second, second],
            )
            for name, kind in kinds.items()
        ]  # fmt: skip
        types = [AggregatedType(name, f"type-{name}", 0.5, 1.0) for name in "12"]
        game = SolvedGame(value, low, 0.3, without_abstention, [0.5, 0.5], "linear programme")
        return warnings_of(
            AggregationPage("run", "win-rate", "", winner, 9, 9, 4, 8, types, policies, game, [], [], [], [])
        )

    assert warned() == []
    assert "includes zero" in warned(low=0.0)[0]
    assert "below zero" in warned(value=0.0, low=0.0, without_abstention=-0.1)[0]
    (words,) = warned(regret=-0.3)
    assert "Type 1 prefers the responses of type-2" in words
    (words,) = warned(loss=0.6)
    assert "merge-distilled is worse than the base by win-rate (0.600, base 0.500" in words
    (words,) = warned(winner="base")
    assert "no policy serves the worst-off type better than the base" in words
    (words,) = warned(unfinished=0.25)
    assert "25 % of the responses of type-1 were cut at 8 tokens" in words


def test_known_groups_give_up_the_mean_of_their_members(base, tmp_path):
    """Groups of the training file: half of one is of the first type, the other half of the second."""
    run = write_run(base, tmp_path / "people")
    names = ["ann", "bob", "cat"]
    gamma = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.2, 0.0, 0.8]])
    write_parquet(responsibilities_table(names, np.ones(3, dtype=int), gamma), run / RESPONSIBILITIES)
    rows = [
        {"prompt": prompt, "responses": ["a", "b"], "ranks": [1, 2], "annotator": name, "group": group}
        for prompt in PROMPTS[:2]
        for name, group in zip([*names, "new"], ["old", "old", "young", "old"], strict=True)
    ]
    pluralign.Judgments.from_rows(rows).write(tmp_path / "train.parquet")
    settings = yaml.safe_load((run / "config.yaml").read_text()) | {"train_files": [str(tmp_path / "train.parquet")]}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    metrics = aggregate(run, tmp_path / "out", samples=2, **GAME)
    for policy in ("type-1", "base", "mixture"):
        regret = [metrics[f"regret/{policy}/type={kind}"] for kind in (1, 2, 3)]
        wins = [metrics[f"win_rate/{policy}/type={kind}"] for kind in (1, 2, 3)]
        assert metrics[f"regret/{policy}/group=old"] == pytest.approx((regret[0] + regret[1]) / 2)
        assert metrics[f"regret/{policy}/group=young"] == pytest.approx(0.2 * regret[0] + 0.8 * regret[2])
        assert metrics[f"win_rate/{policy}/group=old"] == pytest.approx((wins[0] + wins[1]) / 2)
        assert metrics[f"regret/{policy}/group=old_low"] <= metrics[f"regret/{policy}/group=old"]
    story = json.loads((tmp_path / "out" / "aggregate.json").read_text())
    assert [(block["group"], block["annotators"]) for block in story["groups"]] == [("old", 2), ("young", 1)]

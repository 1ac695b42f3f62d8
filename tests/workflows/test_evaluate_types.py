"""`pluralign.evaluate` on a run with types and on a mixture: by whose policy everyone is judged, and how well."""

import json
import math
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

import pluralign
from architectures import write_model
from mixtures import Plain, write_mixture, write_run
from pluralign.core.errors import PluralignError
from pluralign.evaluation.annotators.types import type_accuracy
from pluralign.judgments.table import Judgments
from pluralign.scoring.items import items_of
from pluralign.scoring.measured import reward_metrics, typed_metrics
from pluralign.scoring.mixtures import Mixture
from pluralign.workflows.evaluate import evaluate
from pluralign.workflows.report import report

WEIGHTS = {"type-1": 0.6, "type-2": 0.4}
PEOPLE = {"ann": [0.8, 0.2], "bob": [0.1, 0.9], "cat": [0.3, 0.7], None: [0.5, 0.5]}
GROUPS = {"ann": "old", "bob": "young", "cat": "old", "new": "young"}
BETA = 0.7


@pytest.fixture(scope="module")
def base(tiny_model, tmp_path_factory):
    return write_model("llama", tiny_model, tmp_path_factory.mktemp("types") / "base")


@pytest.fixture(scope="module")
def run(base):
    return write_run(base, base.parent / "run", WEIGHTS, PEOPLE, beta=BETA)


@pytest.fixture(scope="module")
def judgments(town_rows):
    """Pairs and rankings of three known people, two new ones and two nobodies."""
    names = ["ann", "bob", "cat", "new", "newer", None]
    rows = [dict(row, annotator=names[number % 6], weight=1 + number % 2) for number, row in enumerate(town_rows[:40])]
    return Judgments.from_rows([row | {"group": GROUPS.get(row["annotator"])} for row in rows])


@pytest.fixture(scope="module")
def file(judgments, base):
    judgments.write(base.parent / "judgments.parquet")
    return base.parent / "judgments.parquet"


@pytest.fixture(scope="module")
def found(run, file):
    return evaluate(run, file, run.parent / "evaluated")


@pytest.fixture(scope="module")
def utilities(base, run, judgments):
    """By plain forward passes, `(types, responses)`."""
    items = items_of(judgments)
    texts = [(items.prompts[item], text) for item, text in zip(items.item, items.responses, strict=True)]
    models = [Plain(base), *(Plain(base, run / name) for name in WEIGHTS)]
    log_probs = np.array([[model.log_prob(*text) for text in texts] for model in models])
    return BETA * (log_probs[1:] - log_probs[0])


def accuracy_and_log_loss(judgments, of_judgment):
    """By loops over pairs; `of_judgment` gives a judgment's utilities `(responses,)` or leaves it out."""
    items, sums = items_of(judgments), np.zeros(3)
    for one in range(items.judgments):
        own = of_judgment(one)
        if own is None:
            continue
        u, ranks = own[items.response[items.shown(one)]], items.ranks[items.shown(one)]
        gaps = [u[a] - u[b] for a in range(len(u)) for b in range(len(u)) if ranks[a] < ranks[b]]
        if gaps:
            losses = [math.log1p(math.exp(-gap)) for gap in gaps]
            sums += items.weight[one] * np.array([1, np.mean([gap > 0 for gap in gaps]), np.mean(losses)])
    return (sums[1:] / sums[0]).tolist()


def test_everyone_is_judged_by_his_own_type(found, judgments, utilities):
    annotators = judgments.column("annotator")
    kinds = [{"bob": 1, "cat": 1}.get(name, 0) for name in annotators]
    whole = accuracy_and_log_loss(judgments, lambda one: utilities[kinds[one]])
    assert [found["accuracy"], found["log_loss"]] == pytest.approx(whole, rel=1e-4)
    for kind in (0, 1):
        own = accuracy_and_log_loss(judgments, lambda one, kind=kind: utilities[kind] if kinds[one] == kind else None)
        slices = [found[f"{metric}/type={kind + 1}"] for metric in ("accuracy", "log_loss")]
        assert slices == pytest.approx(own, rel=1e-4)
    assert found["types"] == 2
    assert found["unknown_annotators"] == 2 + annotators.count(None)
    assert found["accuracy_low"] <= found["accuracy"] <= found["accuracy_high"]
    assert {"ece", "ece/type=1", "accuracy/source=a", "accuracy/group=old", "kendall_tau"} <= found.keys()
    assert "spearman" not in found, "a response has a reward for each type"


def test_every_group_is_judged_by_every_type(found, judgments, utilities):
    groups = judgments.column("group")
    for kind, name in enumerate(WEIGHTS):
        for group in ("old", "young"):
            own = accuracy_and_log_loss(
                judgments, lambda one, kind=kind, group=group: utilities[kind] if groups[one] == group else None
            )
            keys = [f"{metric}/policy={name}/group={group}" for metric in ("accuracy", "log_loss")]
            assert [found[key] for key in keys] == pytest.approx(own, rel=1e-4)


def test_the_mixture_s_log_loss_weighs_types_by_what_is_believed(run, judgments, utilities):
    """Pairs by hand; and where the types agree it is the loss of either."""
    pairs = judgments.select(
        [
            one
            for one, row in enumerate(judgments.rows())
            if len(row["responses"]) == 2 and row["ranks"] in ([1, 2], [2, 1])
        ]
    )
    items, whole = items_of(pairs), items_of(judgments)
    own = utilities[:, [whole.responses.index(text) for text in items.responses]]
    people, mixture = {name: np.array(shares) for name, shares in PEOPLE.items()}, Mixture(WEIGHTS, beta=BETA)
    metrics, _ = typed_metrics(pairs, items, own, mixture, people)
    losses = []
    for one, name in enumerate(pairs.column("annotator")):
        u = own[:, items.response[items.shown(one)]]
        gap = (u[:, 0] - u[:, 1]) * (1 if items.ranks[items.shown(one)][0] == 1 else -1)
        shares = PEOPLE[name] if name in ("ann", "bob", "cat") else list(WEIGHTS.values())
        losses.append(-math.log(sum(share / (1 + math.exp(-g)) for share, g in zip(shares, gap, strict=True))))
    assert len(losses) > 5
    assert metrics["mixture_log_loss"] == pytest.approx(np.average(losses, weights=items.weight), rel=1e-9)
    same, _ = typed_metrics(pairs, items, own[[0, 0]], mixture, people)
    assert same["mixture_log_loss"] == pytest.approx(same["log_loss"], rel=1e-9)
    plain = reward_metrics(pairs, items, own[0])
    assert {key: value for key, value in same.items() if key in plain} == {
        key: value for key, value in plain.items() if key != "spearman"
    }


def test_types_are_matched_with_groups(found):
    """ann is of type 1, bob and cat of type 2; ann and cat are old, bob is young: two of three at best.

    Nothing was found out about new, whose group is known, so he does not count.
    """
    assert found["type_accuracy"] == pytest.approx(2 / 3)
    assert found["type_accuracy_low"] <= 2 / 3 <= found["type_accuracy_high"]
    assert found["type_accuracy_low"] < found["type_accuracy_high"]


def test_the_share_matched_is_that_of_the_best_naming():
    kinds = np.random.default_rng(0).integers(3, size=200)
    names = np.array(["x", "y", "z"])[kinds]
    for order in ([0, 1, 2], [2, 0, 1]):
        exact = type_accuracy(np.array(order)[kinds], names.tolist(), 3)
        assert set(exact.values()) == {1.0}
    noisy = np.where(np.arange(200) % 4 == 0, (kinds + 1) % 3, kinds)
    share = type_accuracy(noisy, names.tolist(), 3)
    assert share["type_accuracy"] == 0.75
    assert share["type_accuracy_low"] < 0.72 < 0.78 < share["type_accuracy_high"]
    assert type_accuracy(noisy, names.tolist(), 5)["type_accuracy"] == 0.75, "types that nobody is of"
    both = np.where(kinds == 2, "y", names).tolist()
    largest = max(np.sum(kinds == 1), np.sum(kinds == 2))
    assert type_accuracy(kinds, both, 3)["type_accuracy"] == (np.sum(kinds == 0) + largest) / 200
    hidden = [name if place < 100 else None for place, name in enumerate(names.tolist())]
    assert type_accuracy(noisy, hidden, 3) == type_accuracy(noisy[:100], names[:100].tolist(), 3)
    assert type_accuracy(kinds, [None] * 200, 3) == {}
    assert type_accuracy([1], ["old"], 2) == {"type_accuracy": 1.0}
    with pytest.raises(PluralignError, match="types 0 to 2, expected 0 to 1"):
        type_accuracy(kinds, names.tolist(), 2)


def test_the_folder_holds_what_other_evaluations_hold(found, run, file, judgments, utilities, tmp_path):
    folder = run.parent / "evaluated"
    assert json.loads((folder / "metrics.json").read_text()) == found
    assert {"reliability.json", "annotators.parquet", "config.yaml"} <= {one.name for one in folder.iterdir()}
    people = pq.read_table(folder / "annotators.parquet").to_pydict()
    assert people["annotator"] == ["ann", "bob", "cat", "new", "newer"]
    names = judgments.column("annotator")
    by_bob = accuracy_and_log_loss(judgments, lambda one: utilities[1] if names[one] == "bob" else None)
    assert [people["accuracy"][1], people["log_loss"][1]] == pytest.approx(by_bob, rel=1e-4)
    card = (folder / "README.md").read_text()
    cell = f"{found['accuracy/policy=type-2/group=old']:.3g} ({found['log_loss/policy=type-2/group=old']:.3g})"
    assert "| group | type-1 | type-2 |" in card
    assert any(line.startswith("| old |") and line.endswith(f"| {cell} |") for line in card.splitlines())
    assert "| mixture_log_loss |" in card
    report([folder], tmp_path / "page.html")
    assert "Accuracy by type" in (tmp_path / "page.html").read_text()
    assert evaluate(run, file, folder) == found


def test_a_changed_run_is_not_taken_for_the_old(base, file, tmp_path):
    run = write_run(base, tmp_path / "run", WEIGHTS, PEOPLE)
    evaluate(run, file, tmp_path / "out")
    Mixture({"type-1": 0.2, "type-2": 0.8}).write(run)
    with pytest.raises(PluralignError, match=r"these files have changed since: .*mixture\.json"):
        evaluate(run, file, tmp_path / "out")


def test_without_groups_and_known_people_there_is_still_a_result(run, judgments, tmp_path):
    rows = [row | {"group": None, "annotator": None} for row in judgments.rows()]
    Judgments.from_rows(rows).write(tmp_path / "nobody.parquet")
    metrics = evaluate(run, tmp_path / "nobody.parquet", tmp_path / "out")
    assert metrics["unknown_annotators"] == len(rows)
    assert "type_accuracy" not in metrics
    assert not [key for key in metrics if "policy=" in key]
    assert "accuracy/type=1" in metrics
    assert "accuracy/type=2" not in metrics
    assert all(math.isfinite(value) for value in metrics.values())


def test_one_adapter_is_evaluated_as_any_policy(run, file, judgments, utilities, tmp_path):
    metrics = evaluate(run / "type-2", file, tmp_path / "out", beta=BETA)
    expected = accuracy_and_log_loss(judgments, lambda one: utilities[1])
    assert [metrics["accuracy"], metrics["log_loss"]] == pytest.approx(expected, rel=1e-4)
    assert "types" not in metrics


def test_a_mixture_without_people_is_one_policy(base, file, judgments, utilities, tmp_path):
    """log sum_k w_k pi_k / pi_ref = log sum_k w_k exp(u_k / beta)."""
    folder = write_mixture(base, tmp_path / "mixture", {"type-1": 0.25, "type-2": 0.75}, beta=BETA)
    metrics = evaluate(folder, file, tmp_path / "out")
    whole = BETA * np.log(np.array([0.25, 0.75]) @ np.exp(utilities / BETA))
    expected = accuracy_and_log_loss(judgments, lambda one: whole)
    assert [metrics["accuracy"], metrics["log_loss"]] == pytest.approx(expected, rel=1e-4)
    assert "spearman" in metrics
    assert not {"types", "mixture_log_loss", "accuracy/type=1"} & metrics.keys()
    halved = evaluate(folder, file, tmp_path / "halved", beta=BETA / 2)
    assert halved["mean_margin"] == pytest.approx(metrics["mean_margin"] / 2, rel=1e-4)


@pytest.mark.parametrize("kind", [1, 2])
def test_a_pooled_copy_of_a_run_is_one_policy(run, file, kind, tmp_path):
    """With all weight on one type it has that type's numbers, for annotators of every type."""
    copy = shutil.copytree(run, tmp_path / "pooled")
    weights = {name: float(name == f"type-{kind}") for name in WEIGHTS}
    Mixture(weights, beta=BETA, combination="pooled").write(copy)
    metrics = evaluate(copy, file, tmp_path / "out")
    alone = evaluate(run / f"type-{kind}", file, tmp_path / "alone", beta=BETA)
    assert metrics.keys() == alone.keys()
    assert metrics == pytest.approx(alone, rel=1e-4, abs=1e-6)
    with pytest.raises(PluralignError, match="is not a finished run of em-dpo"):
        evaluate(run, file, tmp_path / "kinds", kinds=str(copy), reward="judge")
    with pytest.raises(PluralignError, match="is one pooled policy"):
        pluralign.aggregate(copy, tmp_path / "together")


def test_a_pooled_policy_is_judged_by_its_own_log_probabilities(base, run, file, judgments, tmp_path):
    copy = shutil.copytree(run, tmp_path / "pooled")
    Mixture({"type-1": 0.3, "type-2": 0.7}, beta=BETA, combination="pooled").write(copy)
    items = items_of(judgments)
    texts = [(items.prompts[item], text) for item, text in zip(items.item, items.responses, strict=True)]
    plain = Plain(base)
    own = BETA * (pluralign.load_policy(copy, device="cpu").log_probs(items) - [plain.log_prob(*one) for one in texts])
    metrics = evaluate(copy, file, tmp_path / "out")
    expected = accuracy_and_log_loss(judgments, lambda one: own)
    assert [metrics["accuracy"], metrics["log_loss"]] == pytest.approx(expected, rel=1e-4)


def test_a_reward_model_judges_the_mixture_s_answers(run, file, tiny_model, tmp_path):
    judge = pluralign.build_reward_model(tiny_model)
    judge.save(tmp_path / "judge")
    metrics = evaluate(run, file, tmp_path / "out", reward=str(tmp_path / "judge"), samples=2, max_new_tokens=4)
    assert metrics["win_rate_low"] <= metrics["win_rate"] <= metrics["win_rate_high"]
    assert {"mixture_log_loss", "accuracy/type=1", "mean_reward/policy"} <= metrics.keys()
    answers = (tmp_path / "out" / "answers.jsonl").read_text().splitlines()
    assert len(answers) == 2 * 2 * metrics["prompts"]

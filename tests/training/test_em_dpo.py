"""EM-DPO: one type is DPO to the bit, the E-step by hand, halves that never meet, and what is written."""

import itertools
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import peft
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
import transformers
from transformers import AutoModelForCausalLM

import pluralign
from em_dpo_setup import lora, losses_of, make, people, tensors_of
from mixtures import Plain
from pluralign.choice.em_dpo import halves
from pluralign.choice.plackett_luce import log_likelihood
from pluralign.core.errors import PluralignError
from pluralign.judgments import Judgments
from pluralign.policies.mixture import MixturePolicy
from pluralign.training import console
from pluralign.training.em_dpo import trainer as em_dpo
from pluralign.training.em_dpo import typed_trainer
from pluralign.training.em_dpo.adapters import copied_weights
from pluralign.training.em_dpo.config import EMDPOConfig
from pluralign.training.em_dpo.e_step import EStep
from pluralign.training.em_dpo.plan import plan_of
from pluralign.training.em_dpo.trainer import EMDPOTrainer


def test_steps_of_one_type_do_not_touch_the_others(tiny_model, tmp_path):
    """Though Adam has moments of theirs and decays weights."""
    trainer = make(
        tiny_model, people(), tmp_path, rounds=0, learning_rate=1e-2, weight_decay=0.1, num_train_epochs=2,
        per_device_train_batch_size=4, gradient_accumulation_steps=2,
    )  # fmt: skip
    states, kinds = [], []
    inner = trainer.compute_loss
    trainer.compute_loss = lambda model, inputs, *a, **k: kinds.append(inputs["type"]) or inner(model, inputs, *a, **k)

    class Watch(transformers.TrainerCallback):
        def on_step_begin(self, *_, **__):
            states.append([tensors_of(trainer, kind) for kind in range(2)])

    trainer.add_callback(Watch())
    trainer.train()
    states.append([tensors_of(trainer, kind) for kind in range(2)])
    steps = np.array(kinds).reshape(-1, 2)
    assert (steps[:, 0] == steps[:, 1]).all(), "a step is of one type"
    assert set(steps[:, 0]) == {0, 1}
    for step, kind in enumerate(steps[:, 0]):
        for other in range(2):
            same = all(torch.equal(states[step][other][key], states[step + 1][other][key]) for key in states[0][0])
            assert same == (other != kind)


def test_a_step_may_be_divided_and_evaluated_between(tiny_model, tmp_path):
    """Steps of eight as one or four micro-batches, the last of each type filled up; evaluation in between."""
    rows = people(annotators=5, each=2, weight=lambda person, turn: 1.0 + turn % 3)
    found = []
    for number, values in enumerate(
        ({}, {"eval_strategy": "steps", "eval_steps": 5}, {"gradient_accumulation_steps": 4})
    ):
        values = {"per_device_train_batch_size": 8 // values.get("gradient_accumulation_steps", 1), **values}
        table = Judgments.from_rows(rows)
        trainer = make(
            tiny_model, table, tmp_path / str(number), evaluated=table, rounds=1, learning_rate=0.05, optim="sgd",
            num_train_epochs=2, routing="dense", **values,
        )  # fmt: skip
        trainer.train()
        found.append((losses_of(trainer), [tensors_of(trainer, kind) for kind in range(2)], trainer.responsibilities))
    for number, (losses, adapters, gamma) in enumerate(found):
        np.testing.assert_allclose(losses, found[0][0], rtol=0 if number == 1 else 1e-5)
        np.testing.assert_allclose(gamma, found[0][2], rtol=0 if number == 1 else 1e-4)
        for kind, expected in enumerate(found[0][1]):
            for name, weight in expected.items():
                torch.testing.assert_close(adapters[kind][name], weight, rtol=1e-4, atol=1e-6)
    assert np.ptp(found[0][2]) > 0.01


def test_the_best_adapters_are_loaded_at_the_end(tiny_model, tmp_path):
    """Of all types, from the checkpoint with the least loss on held-out judgments."""
    table, other = Judgments.from_rows(people()), Judgments.from_rows(people(each=2, seed=5))
    trainer = make(
        tiny_model, table, tmp_path, evaluated=other, rounds=0, learning_rate=0.1, lr_scheduler_type="constant",
        load_best_model_at_end=True, eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1,
    )  # fmt: skip
    trainer.train()
    told = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry and not entry["m_step"]]
    best = int(np.argmin(told)) + 1
    assert best < len(told), "the last one is not the best"
    checkpoint = tmp_path / "rounds" / "final" / f"checkpoint-{best}"
    for kind in range(2):
        file = safetensors.torch.load_file(checkpoint / f"type-{kind + 1}" / "adapter_model.safetensors")
        found = tensors_of(trainer, kind)
        assert file.keys() == found.keys()
        for name, weight in found.items():
            assert torch.equal(file[name], weight), name
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(told), rel=1e-6)


@pytest.mark.parametrize(("scoring", "start"), [("crossfit", "groups"), ("crossfit", "dirichlet"), ("train", "groups")])
def test_the_start_does_not_decide_which_types_are_given_up(scoring, start, tiny_model, tmp_path, monkeypatch):
    """Only shares and judgments do: a start that is wrong would have its own types confirmed."""
    priors = []

    class Noted(EStep):
        def __init__(self, annotator, prior, drop_below):
            priors.append((prior, drop_below))
            super().__init__(annotator, prior, drop_below)

    monkeypatch.setattr(em_dpo, "EStep", Noted)
    trainer = make(
        tiny_model, people(annotators=4, each=4), tmp_path, scoring=scoring, start=start, drop_below=0.02, rounds=2
    )
    trainer.train()
    assert len(priors) == 2
    for before, (prior, drop_below) in zip(trainer.rounds, priors, strict=False):
        np.testing.assert_array_equal(prior, before.log_weights)
        assert drop_below == 0.02


# The E-step by hand.


@pytest.mark.parametrize("rounds", [1, 3])
def test_a_set_of_adapters_never_scores_a_row_that_trained_it(rounds, tiny_model, tmp_path, monkeypatch):
    """In this round or in any before it."""
    rows = people(annotators=6, each=7)[:-6]
    trainer = make(tiny_model, rows, tmp_path, rounds=rounds)
    trained, scored, mine = {}, [], set()
    inner_rows, inner_stages, inner_m_step = typed_trainer.typed_rows, EStep.stages, trainer._m_step

    def key(tensors):
        return tuple(tensors[name].sum().item() for name in sorted(tensors))

    def typed_rows(*args):
        found = inner_rows(*args)
        read = set(np.concatenate(found.members).tolist())
        assert read == set(args[3].tolist())
        mine.update(read)
        return found

    def m_step(*args, **named):
        tensors = args[6]
        mine.clear()
        mine.update(() if tensors is None else trained[key(tensors)])
        done = inner_m_step(*args, **named)
        trained[key(copied_weights(trainer.policy.model, trainer.adapters))] = set(mine)
        return done

    def stages(self, chosen, place):
        scored.append((key(copied_weights(trainer.policy.model, trainer.adapters)), set(chosen.tolist())))
        return inner_stages(self, chosen, place)

    trainer._m_step = m_step
    monkeypatch.setattr(typed_trainer, "typed_rows", typed_rows)
    monkeypatch.setattr(EStep, "stages", stages)
    trainer.train()
    every, annotator = set(range(len(rows))), np.array([int(row["annotator"][1:]) for row in rows])
    assert len(scored) == 2 * rounds
    for adapters, told in scored:
        assert trained[adapters]
        assert not trained[adapters] & told
        assert trained[adapters] | told == every
        counts = [np.bincount(annotator[list(part)], minlength=6) for part in (trained[adapters], told)]
        assert np.abs(counts[0] - counts[1]).max() <= 1
    for (first, one), (second, other) in zip(scored[::2], scored[1::2], strict=True):
        assert first != second
        assert one | other == every
        assert not one & other
    assert mine == every, "the last M-step reads all judgments"


def test_an_e_step_reads_each_text_once_for_each_type_it_may_be_of(tiny_model, tmp_path):
    """A crowd on the same texts: as many values as texts and types, however many judged them."""
    same = people(annotators=1, each=5)
    rows = [
        {**row, "ranks": row["ranks"] if person % 2 else row["ranks"][::-1], "annotator": f"w{person}"}
        | {"group": f"g{person % 2}"}
        for person in range(12)
        for row in same
    ]
    trainer = make(tiny_model, rows, tmp_path, scoring="train", drop_below=0.0, rounds=1)
    asked = []
    inner = trainer._values

    def values(tokens, model=None, responses=None):
        asked.append((trainer.model.active_adapter, responses))
        return inner(tokens, model, responses)

    trainer._values = values
    trainer.train()
    for name in trainer.adapters:
        read = np.concatenate([responses for adapter, responses in asked if adapter == name])
        assert sorted(read.tolist()) == list(range(15)), name
    assert trainer.rounds[1].record["scored_values"] == 30
    assert trainer.rounds[1].record["scored_judgments"] == 60


def test_at_most_so_many_judgments_of_an_annotator_are_scored(tiny_model, tmp_path):
    trainer = make(tiny_model, people(annotators=4, each=9), tmp_path, scoring="train", rounds=1, most_scored=3)
    trainer.train()
    assert trainer.rounds[1].record["scored_judgments"] == 12
    assert trainer.rounds[1].scored.all()


def test_temperatures_and_floors_of_the_rounds(tiny_model, tmp_path):
    """The posterior is flattened at first and is itself at last, when no floor is left; a single one is flattened."""
    rows = people(annotators=6, each=8)
    trainer = make(
        tiny_model, rows, tmp_path, scoring="train", drop_below=0.0, floor=0.2, temperature=4.0, rounds=2,
        learning_rate=2e-2,
    )  # fmt: skip
    trainer.train()
    assert trainer.plan.temperatures == [4.0, 1.0]
    for number, temperature, floor in ((1, 4.0, 0.2), (2, 1.0, 0.0)):
        joint = (trainer.rounds[number].log_likelihood + trainer.rounds[number - 1].log_weights) / temperature
        gamma = np.exp(joint - np.logaddexp.reduce(joint, 1, keepdims=True)).clip(min=floor)
        expected = gamma / gamma.sum(1, keepdims=True)
        np.testing.assert_allclose(trainer.rounds[number].gamma, expected, rtol=1e-9)
    assert trainer.rounds[1].gamma.min() >= 0.2 / 1.2
    assert trainer.responsibilities.min() < 0.1
    once = make(tiny_model, rows, tmp_path / "once", scoring="train", drop_below=0.0, temperature=4.0, rounds=1)
    once.train()
    joint = (once.rounds[1].log_likelihood + once.rounds[0].log_weights) / 4
    np.testing.assert_allclose(
        once.responsibilities, np.exp(joint - np.logaddexp.reduce(joint, 1, keepdims=True)), rtol=1e-9
    )


# Names mean nothing.


def permuted(found, order):
    return [found[kind] for kind in order]


def test_types_in_another_order_are_the_same_types(base, tmp_path):
    """Groups renamed. In full batches of plain gradient descent the types' steps commute, up to rounding."""
    rows = people(annotators=7, each=4, types=3)
    names, order = {"g1": "g3", "g2": "g1", "g3": "g2"}, [2, 0, 1]
    values = {
        "types": 3, "routing": "dense", "per_device_train_batch_size": 32, "optim": "sgd", "num_train_epochs": 4,
        "lr_scheduler_type": "constant", "learning_rate": 0.03, "rounds": 2, "max_grad_norm": 0.0,
    }  # fmt: skip
    first = make(base, rows, tmp_path / "first", **values)
    second = make(base, [row | {"group": names[row["group"]]} for row in rows], tmp_path / "second", **values)
    for trainer in (first, second):
        trainer.train()
    np.testing.assert_allclose(second.responsibilities[:, order], first.responsibilities, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(second.mixture_weights[order], first.mixture_weights, rtol=1e-4)
    assert np.ptp(first.responsibilities, axis=0).min() > 0.05
    for kind in range(3):
        expected, found = tensors_of(first, kind), tensors_of(second, order[kind])
        moved = math.sqrt(sum((expected[key] - first._untrained[k]).norm() ** 2
                              for key, k in zip(expected, first._untrained, strict=True)))  # fmt: skip
        apart = math.sqrt(sum((expected[key] - found[key]).norm() ** 2 for key in expected))
        assert apart <= 1e-3 * moved


def test_annotators_in_another_order_are_the_same_annotators(base, tmp_path):
    """Rows shuffled and people renamed, all judgments scored: halves are drawn by the order of the rows."""
    rows = people(annotators=6, each=4)
    order = np.random.default_rng(0).permutation(len(rows))
    names = {f"w{person}": f"h{(person * 5 + 2) % 6}" for person in range(6)}
    others = [rows[place] | {"annotator": names[rows[place]["annotator"]]} for place in order]
    values = {
        "routing": "dense", "per_device_train_batch_size": 24, "optim": "sgd", "num_train_epochs": 4,
        "lr_scheduler_type": "constant", "learning_rate": 0.03, "rounds": 2, "max_grad_norm": 0.0,
        "scoring": "train", "drop_below": 0.0,
    }  # fmt: skip
    found = []
    for number, table in enumerate((rows, others)):
        trainer = make(base, table, tmp_path / str(number), **values)
        trainer.train()
        found.append(trainer)
    for name, gamma in found[0].posteriors.items():
        np.testing.assert_allclose(found[1].posteriors[names[name]], gamma, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found[1].mixture_weights, found[0].mixture_weights, rtol=1e-4)
    assert [names[name] for name in found[0].posteriors] != list(found[1].posteriors), "another order"


# What is warned of and refused.


@pytest.fixture
def said(caplog):
    transformers.utils.logging.enable_propagation()
    yield lambda: caplog.text
    transformers.utils.logging.disable_propagation()


def test_types_without_judgments_stay_and_are_warned_of(tiny_model, tmp_path, said):
    """One of four judgments of each of four people is too little for the second type to be trained."""
    rows = [row | {"group": "g1"} for row in people(annotators=5, each=4)]
    for person in range(4):
        rows[4 * person]["group"] = "g2"
    trainer = make(tiny_model, rows, tmp_path, rounds=0, skip_below=0.3, routing="sparse")
    trainer.train()
    for name, weight in tensors_of(trainer, 1).items():
        if "lora_B" in name:
            assert not weight.any(), name
    assert any(weight.any() for name, weight in tensors_of(trainer, 0).items() if "lora_B" in name)
    assert "final: no judgment trains type-2" in said()
    _, utilities = trainer.score(Judgments.from_rows(rows))
    np.testing.assert_allclose(utilities[1], 0, atol=1e-4)
    assert np.abs(utilities[0]).max() > 0.01


def test_a_type_of_less_than_one_annotator_is_dropped_and_the_verdict_follows(tiny_model, tmp_path, said):
    """One judgment of one person out of 20: a twentieth of a person."""
    rows = [row | {"group": "g1"} for row in people(annotators=5, each=4)]
    rows[4]["group"] = "g2"
    trainer = make(tiny_model, rows, tmp_path / "one", rounds=0)
    before = trainer.verdict
    trainer.train()
    trainer.save_model()
    assert "type 2 of 2 lost its last annotator and was dropped; 1 left" in said()
    assert trainer.adapters == ["type-1"]
    np.testing.assert_array_equal(trainer.responsibilities, 1)
    np.testing.assert_array_equal(trainer.mixture_weights, 1)
    assert trainer.verdict.verdict == "one type"
    assert trainer.verdict.reason.startswith(before.reason)
    assert trainer.training_metrics()["types"] == 1
    assert f"one type: one adapter is tuned on everybody's judgments ({trainer.verdict.reason})" in said()
    written = json.loads((tmp_path / "one" / "types.json").read_text())
    assert written["kept"]["dropped"] == [2]
    assert written["identification"]["verdict"] == "one type"
    assert not (tmp_path / "one" / "type-2").exists()
    assert pluralign.load_policy(tmp_path / "one", device="cpu").mixture.weights == {"type-1": 1.0}
    # Of three, the middle one.
    rows = people(annotators=6, each=4, types=3)
    for row in rows:
        row["group"] = "g1" if row["group"] == "g2" else row["group"]
    rows[4]["group"] = "g2"
    three = make(tiny_model, rows, tmp_path / "three", rounds=1, types=3, learning_rate=1e-6)
    three.rounds[0].gamma[:, 1] *= 0.1
    three.train()
    assert three.kept.dropped == (2,)
    kept = three.rounds[1].gamma[:, [0, 2]]
    np.testing.assert_allclose(three.responsibilities, kept / kept.sum(1, keepdims=True), rtol=1e-9)
    np.testing.assert_allclose(three.mixture_weights, three.responsibilities.mean(0), rtol=1e-9)
    assert three.verdict.verdict != "one type"
    assert any(weight.any() for name, weight in tensors_of(three, 1).items() if "lora_B" in name)


def test_people_of_one_type_get_one_adapter_and_are_told_so(tiny_model, tmp_path, said):
    """Twenty-four people of one taste, whose number of types is chosen."""
    rows = people(annotators=24, each=6, types=1)
    trainer = make(tiny_model, rows, tmp_path, types="auto", start="latent-class", dimensions=6)
    trainer.train()
    trainer.save_model()
    assert trainer.verdict.verdict == "one type"
    sentence = f"one type: one adapter is tuned on everybody's judgments ({trainer.verdict.reason})"
    assert trainer.training_metrics()["sentence"] == sentence
    assert sentence in said()
    assert trainer.adapters == ["type-1"]
    np.testing.assert_array_equal(np.sort(trainer._routed.members[0]), np.arange(len(rows)))


def test_a_type_that_dies_out_is_warned_of(tiny_model, tmp_path, said):
    rows = people(annotators=24, each=2)
    rows = [row | {"group": "g2" if row["annotator"] in ("w3", "w5") else "g1"} for row in rows]
    trainer = make(tiny_model, rows, tmp_path, rounds=1, learning_rate=1e-6)
    trainer.train()
    share = trainer.mixture_weights[1]  # of the start's 1/12, of which the evidence of the start forgets a part
    assert 0.05 < share < 1 / 12
    assert f"round 1: a type is dying out ({1 - share:.0%}, {share:.0%}); fewer types" in said()
    even = make(tiny_model, people(annotators=4, each=2), tmp_path / "even", rounds=1, learning_rate=1e-6)
    before = said().count("dying out")
    even.train()
    assert said().count("dying out") == before


def test_what_cannot_be_trained_is_said(tiny_model, tmp_path):
    rows = people(annotators=3, each=2)
    with pytest.raises(PluralignError, match="types: found 4, expected 1 to 3, the number of annotators"):
        make(tiny_model, rows, tmp_path, types=4, start="latent-class")
    with pytest.raises(PluralignError, match="sequential has no meaning with several types"):
        make(tiny_model, rows, tmp_path, train_sampling_strategy="sequential")
    with pytest.raises(PluralignError, match="auto_find_batch_size: a step holds judgments of one type"):
        make(tiny_model, rows, tmp_path, auto_find_batch_size=True)
    args = EMDPOConfig(str(tmp_path), types=2, start="groups", use_cpu=True, report_to="none")
    with pytest.raises(PluralignError, match="no training judgments were given"):
        EMDPOTrainer(tiny_model, args=args)
    table = Judgments.from_rows(rows)
    with pytest.raises(PluralignError, match="optimizers: every M-step makes its own"):
        EMDPOTrainer(tiny_model, args=args, train_dataset=table, optimizers=(None, None))
    prompt = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(PluralignError, match="found PromptTuningConfig, expected a LoraConfig"):
        EMDPOTrainer(tiny_model, args=args, train_dataset=table, peft_config=prompt)
    tuned = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), lora())
    with pytest.raises(PluralignError, match="has an adapter already; merge it first"):
        EMDPOTrainer(tuned, args=args, train_dataset=table)


def degenerate():
    ties = [row | {"ranks": [1, 1, 1]} for row in people(annotators=4, each=3)]
    return {
        "one annotator": (people(annotators=1, each=6), {"types": 1, "start": "latent-class"}),
        "one annotator, number open": (people(annotators=1, each=6), {"types": "auto", "start": "latent-class"}),
        "one judgment each": (people(annotators=12, each=1), {}),
        "two people of one judgment": (people(annotators=2, each=1), {}),
        "all ties": (ties, {}),
        "all ties, from features": (ties, {"start": "latent-class"}),
        "nobody has an id": ([row | {"annotator": None} for row in people(annotators=4, each=3)], {}),
        "weights of zero": ([row | {"weight": float(row["annotator"] != "w1")} for row in people(4, 3)], {}),
        "all agree": (people(annotators=6, each=4, types=1), {"start": "kmeans"}),
    }


@pytest.mark.parametrize("name", list(degenerate()))
def test_degenerate_tables_end_in_numbers(name, tiny_model, tmp_path):
    rows, values = degenerate()[name]
    table = Judgments.from_rows(rows)
    trainer = make(tiny_model, table, tmp_path, evaluated=table, rounds=2, **values)
    trainer.train()
    trainer.save_model()
    np.testing.assert_allclose(trainer.responsibilities.sum(1), 1, rtol=1e-9)
    np.testing.assert_allclose(trainer.mixture_weights.sum(), 1, rtol=1e-9)
    assert all(torch.isfinite(weight).all() for weight in trainer.model.parameters())
    assert all(math.isfinite(value) for value in trainer.evaluate().values())
    written = [(tmp_path / file).read_text() for file in ("types.json", "mixture.json")]
    assert not any("NaN" in text or "Infinity" in text for text in written)
    made = pq.read_table(tmp_path / "responsibilities.parquet").column("judgments").to_pylist()
    assert sum(made) == len(rows)


def test_a_round_without_any_judgment_to_train_on_changes_nothing(tiny_model, tmp_path):
    """Two people of one judgment each, which fell into the same half."""
    rows = people(annotators=2, each=1)
    half = halves(np.array([0, 1]), 42)
    assert half[0] == half[1]
    trainer = make(tiny_model, rows, tmp_path, rounds=2, learning_rate=0.03)
    trainer.train()
    for before, after in itertools.pairwise(trainer.rounds):
        np.testing.assert_array_equal(after.gamma, before.gamma)
        assert after.record["scored_judgments"] == 0
    assert {entry["m_step"] for entry in trainer.state.log_history} == {0, 1 + half[0], 3 + half[0]}


# What is written.


@pytest.fixture(scope="module")
def run(base, tmp_path_factory):
    """A finished run on known and unknown people, and its table."""
    rows = people(annotators=8, each=6)
    rows[5]["annotator"] = None
    table = Judgments.from_rows(rows)
    trainer = make(
        base, table, tmp_path_factory.mktemp("em-run") / "run", rounds=2, learning_rate=1e-2, num_train_epochs=2
    )
    trainer.train()
    trainer.save_model()
    return trainer, table, Path(trainer.args.output_dir)


def test_each_type_loads_in_plain_peft(run, base):
    trainer, table, folder = run
    items, utilities = trainer.score(table)
    reference = Plain(base)
    for kind, name in enumerate(trainer.adapters):
        plain = Plain(base, folder / name)
        for response in range(0, len(items.responses), 7):
            text = (items.prompts[items.item[response]], items.responses[response])
            expected = plain.log_prob(*text)
            found = utilities[kind, response] / 0.5 + reference.log_prob(*text)
            assert found == pytest.approx(expected, rel=1e-5)
        config = json.loads((folder / name / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(base)
        assert {"model_config.json", "tokenizer.json", "adapter_model.safetensors"} <= {
            file.name for file in (folder / name).iterdir()
        }
    assert np.abs(utilities[0] - utilities[1]).max() > 0.1
    assert not [file for file in folder.rglob("*") if file.suffix in (".bin", ".pt", ".pth", ".pkl")]


def test_the_folder_is_a_mixture(run, base):
    trainer, table, folder = run
    policy = pluralign.load_policy(folder, device="cpu")
    assert isinstance(policy, MixturePolicy)
    assert policy.mixture == trainer.mixture
    np.testing.assert_allclose(policy.weights, trainer.mixture_weights, rtol=1e-6)
    items, utilities = trainer.score(table)
    tokens = policy.tokenize(items)
    found = 0.5 * (policy.adapter_values(tokens) - policy.reference_values(tokens))
    np.testing.assert_allclose(found, utilities, rtol=1e-4, atol=1e-4)


def test_who_is_of_which_type_is_written(run):
    trainer, table, folder = run
    found = pq.read_table(folder / "responsibilities.parquet").to_pydict()
    names = table.column("annotator")
    assert found["annotator"] == list(dict.fromkeys(names))  # the one without an id where he came first
    assert found["judgments"] == [names.count(name) for name in found["annotator"]]
    shares = np.stack([found["probability_1"], found["probability_2"]], 1)
    np.testing.assert_array_equal(shares, trainer.responsibilities)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-12)
    assert found["type"] == (1 + shares.argmax(1)).tolist()
    assert trainer.posteriors.keys() == {name for name in names if name is not None}
    text = (folder / "types.json").read_text()
    written = json.loads(text, parse_constant=lambda value: pytest.fail(f"types.json holds {value}"))
    assert written["identification"] == json.loads((folder / "identification.json").read_text())
    assert [one["round"] for one in written["rounds"]] == [0, 1, 2]
    np.testing.assert_allclose(written["rounds"][-1]["mixture_weights"], trainer.mixture_weights, rtol=1e-12)


def test_evaluation_judges_everyone_by_his_own_type(run):
    """The eval loss is the mean over judgments under the most probable type; strangers go by the largest."""
    trainer, _, _ = run
    rows = [*people(annotators=8, each=1, seed=3), *people(annotators=1, each=4, seed=4)]
    rows = [row | {"annotator": "new" if place >= 8 else row["annotator"]} for place, row in enumerate(rows)]
    other = Judgments.from_rows(rows)
    items, utilities = trainer.score(other)
    losses = []
    for judgment in range(items.judgments):
        name = other.column("annotator")[items.row[judgment]]
        kind = int(trainer.posteriors.get(name, trainer.mixture_weights).argmax())
        shown = items.shown(judgment)
        own = torch.from_numpy(utilities[kind, items.response[shown]])[None]
        losses.append(-log_likelihood(own, torch.from_numpy(items.ranks[shown])[None]).item())
    before = len(trainer.state.log_history)
    assert trainer.evaluate(other)["eval_loss"] == pytest.approx(np.mean(losses), rel=1e-9)
    assert len(trainer.state.log_history) == before + 1


def test_identification_is_written_before_training_begins(tiny_model, tmp_path):
    found = []

    class Look(transformers.TrainerCallback):
        def on_train_begin(self, *_, **__):
            found.append(json.loads((tmp_path / "identification.json").read_text()))

    rows = people(annotators=10, each=1, shown=2)
    trainer = make(tiny_model, rows, tmp_path, rounds=1, callbacks=[Look()])
    trainer.train()
    assert len(found) == 3
    assert found[0]["verdict"] == "not identified"
    assert found[0]["reason"]
    assert found[0]["advice"]
    assert vars(trainer.verdict) == found[0]


def test_steps_of_log_lines_run_on_through_the_m_steps(tiny_model, tmp_path):
    seen = []

    class Tracker(transformers.TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):
            if "loss" in logs:
                seen.append(state.global_step)

    trainer = make(tiny_model, people(annotators=5, each=4), tmp_path, rounds=2, callbacks=[Tracker()])
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in history] == seen == list(range(1, len(history) + 1))
    assert {entry["m_step"] for entry in history} == {1, 2, 3, 4, 0}
    records = [one.record.get("steps", 0) for one in trainer.rounds]
    assert sum(records) == sum(entry["m_step"] > 0 for entry in history)


def test_lines_of_progress_are_of_the_m_step_that_runs(tiny_model, tmp_path, monkeypatch, capsys):
    """Its own steps of its own total; by a clock on which every step takes a second."""
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=itertools.count().__next__))
    trainer = make(tiny_model, people(annotators=5, each=4), tmp_path, rounds=2)
    trainer.train()
    said = capsys.readouterr().err
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    expected = []
    for m_step, folder in ((1, "1/half-0"), (2, "1/half-1"), (3, "2/half-0"), (4, "2/half-1"), (0, "final")):
        judgments = 10 if m_step else 20
        steps = sum(entry["m_step"] == m_step for entry in history)
        assert steps > 1
        expected.append(f"{tmp_path / 'rounds' / folder}: tuning on {judgments} judgments")
        left = [(step, steps - step) for step in range(1, steps + 1)]
        expected += [f"step {step} of {steps}; 1 steps a second, {after} s left" for step, after in left]
    lines = [line for line in said.splitlines() if re.match("step |.*: tuning on ", line)]
    assert [re.sub(": loss [^;]+", "", line) for line in lines] == expected


# Rounds only where they help.


def supported(trainer, known):
    """As if the features had predicted held-out annotators with, or without, these types."""
    trainer.plan = plan_of(trainer.args, len(trainer.adapters), known)
    return trainer


def random_groups(rows, seed=0):
    """The same judgments, with groups that mean nothing."""
    names = list(dict.fromkeys(row["annotator"] for row in rows))
    drawn = dict(zip(names, np.random.default_rng(seed).permutation(len(names)) % 2, strict=True))
    return [row | {"group": f"g{drawn[row['annotator']] + 1}"} for row in rows]


def test_a_start_that_predicts_held_out_annotators_is_kept_without_rounds(tiny_model, tmp_path):
    trainer = make(tiny_model, people(annotators=12, each=6), tmp_path, start="latent-class", dimensions=6)
    assert trainer.args.rounds == "auto"
    supported(trainer, True).train()
    assert [one.record["round"] for one in trainer.rounds] == [0]
    assert trainer.kept.round == 0
    assert "predict held-out annotators better" in trainer.kept.reason
    assert {entry["m_step"] for entry in trainer.state.log_history} == {0}


def test_rounds_are_taken_from_a_poor_start_and_kept_where_held_out_judgments_gain(base, tmp_path):
    """Groups at random, as of a start whose features see nothing: the rounds find the people's words."""
    rows = people(annotators=8, each=24, shown=3)
    values = {"most_rounds": 5, "learning_rate": 2e-2, "temperature": 1.0}
    trainer = make(base, random_groups(rows), tmp_path, **values)
    trainer.train()
    assert trainer.kept.round >= 2
    assert trainer.kept.gain > trainer.kept.error > 0
    known = np.eye(2)[[int(name[1:]) % 2 for name in trainer.annotators]]
    agree = (trainer.responsibilities.argmax(1) == known.argmax(1)).mean()
    start = (trainer.rounds[0].gamma.argmax(1) == known.argmax(1)).mean()
    assert max(start, 1 - start) < 0.9
    assert max(agree, 1 - agree) == 1
    written = trainer.training_metrics()
    assert written["kept_round"] == trainer.kept.round
    assert written["rounds"] == len(trainer.rounds) - 1


def test_where_rounds_do_not_help_the_start_is_kept(tiny_model, tmp_path):
    """People who are right in their groups: rounds may agree, but gain nothing over the groups tuned as long."""
    rows = people(annotators=8, each=6)
    trainer = make(tiny_model, rows, tmp_path, most_rounds=3, learning_rate=1e-2)
    trainer.train()
    assert len(trainer.rounds) > 1
    assert trainer.kept.round == 0
    assert trainer.kept.gain is None or trainer.kept.gain <= trainer.kept.error
    np.testing.assert_array_equal(trainer.responsibilities, trainer.rounds[0].gamma)


def test_rounds_that_say_nothing_are_warned_of(tiny_model, tmp_path, said):
    """At a rate of next to nothing every type judges as the reference does, to which all responses are alike."""
    rows = people(annotators=4, each=2)
    idle = make(tiny_model, rows, tmp_path / "idle", rounds=1, learning_rate=1e-12)
    idle.train()
    record = idle.rounds[1].record
    assert record["log_likelihood"] == pytest.approx(record["reference_log_likelihood"], rel=1e-6)
    scored = record["scored_judgments"]
    shown = {len(row["responses"]) for row in rows}
    assert len(shown) == 1
    assert record["reference_log_likelihood"] == pytest.approx(-scored * math.log(math.factorial(shown.pop())))
    assert "predict judgments no better than the reference" in said()

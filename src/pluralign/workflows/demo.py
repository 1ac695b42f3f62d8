"""`demo`: a simulated town, its kinds of people, one reward over two sources, what is fair to all."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from transformers.utils import logging

from pluralign.core.errors import PluralignError
from pluralign.core.files import atomic_write
from pluralign.core.runs import read_metrics
from pluralign.evaluation.win_rate import win_rate
from pluralign.judgments.population import Simulation, Town, simulate
from pluralign.judgments.split import split
from pluralign.judgments.table import Judgments
from pluralign.policies.loading import load_policy
from pluralign.scoring.items import Items, items_of
from pluralign.scoring.mixtures import RESPONSIBILITIES
from pluralign.training.from_scratch import make_causal_model
from pluralign.workflows.aggregate import aggregate
from pluralign.workflows.aggregate_story import regret_lines
from pluralign.workflows.audit import audit
from pluralign.workflows.calibrate import calibrate
from pluralign.workflows.evaluate import evaluate, reward_metrics
from pluralign.workflows.report import report
from pluralign.workflows.train import train

logger = logging.get_logger(__name__)

TOWN = {"annotators": 90, "judgments_per_annotator": 16, "responses": 3, "overlap": 0.2}
"""The demo's town: three kinds of people, 90 of them, who rank three answers 16 times each."""


PLACES = {"market": {"brief": 0.8}, "school": {"warm": 0.8, "thorough": 0.8}}
"""Where people were asked, and the share of a kind that was asked there; the others were at the other place."""

CONTEXT = 160
"""Tokens that the demo's language model can read, and"""

ANSWER = 80
"""the longest answer that it is asked for."""


def demo(out: str | os.PathLike[str], seed: int = 0, **town: Any) -> str:
    """Simulate a town, audit it, train a language model on its answers, reward model and policies on its rankings.

    Everything is written to `out`: the data, the YAML files, the runs. A second call takes up what is done.

    Args:
        out: the folder.
        seed: of the town and of all training.
        town: overrides of `TOWN`.

    Returns:
        The table of who is served, and where the results lie.
    """
    folder = Path(out)
    simulation = simulate(Town(**{**TOWN, **town}, seed=seed))
    train_part, held_part = split(asked_somewhere(simulation, seed), by="prompt", test=0.3, seed=seed)
    tuning_part, test_part = split(held_part, by="prompt", test=0.5, seed=seed)
    for name, part in {"train": train_part, "tuning": tuning_part, "test": test_part}.items():
        part.write(folder / f"{name}.parquet")
    found = audit(str(folder / "train.parquet"), folder / "audit", most_types=5, simulations=1, seed=seed)
    base = folder / "untrained"
    if not (base / "model.safetensors").exists():
        texts = [text for row in simulation.judgments.rows() for text in [row["prompt"], *row["responses"]]]
        make_causal_model(
            texts, base, vocab_size=1024, hidden_size=96, layers=3, heads=4, context=CONTEXT, seed=seed
        )
    common: dict[str, Any] = {
        "train_files": [str(folder / "train.parquet")],
        "eval_files": [str(folder / "test.parquet")],
        "seed": seed,
        "save_strategy": "no",
        "report_to": "none",
        "lr_scheduler_type": "cosine",
    }
    language_model = {
        "objective": "sft",
        "model_name_or_path": str(base),
        "output_dir": str(folder / "language-model"),
        "responses": "all",
        "per_device_train_batch_size": 32,
        "learning_rate": 3e-3,
        "num_train_epochs": 2,
        "max_length": CONTEXT,
    }
    reward = {
        "objective": "more",
        "normalize": "none",  # of two gradients of length 1 the middle is the shortest, whatever they are
        "model_name_or_path": str(folder / "language-model"),
        "output_dir": str(folder / "reward"),
        "per_device_train_batch_size": 16,
        "learning_rate": 5e-4,
        "num_train_epochs": 3,
    }
    tuning = {"per_device_train_batch_size": 16, "learning_rate": 2e-3, "num_train_epochs": 2, "beta": 1.0}
    policy = {
        "objective": "dpo",
        "model_name_or_path": str(folder / "language-model"),
        "output_dir": str(folder / "policy"),
        "use_peft": True,
        "lora_target_modules": ["all-linear"],
        **tuning,
    }
    people = {
        "objective": "em-dpo",
        "model_name_or_path": str(folder / "language-model"),
        "output_dir": str(folder / "people"),
        **tuning,
    }
    configs = {"language-model": language_model, "reward": reward, "policy": policy, "people": people}
    for name, config in configs.items():
        with atomic_write(folder / f"{name}.yaml", "w") as file:
            yaml.safe_dump({**config, **common}, file, sort_keys=False)
        train(folder / f"{name}.yaml")
    temperature = fitted_temperature(folder / "reward", folder / "tuning.parquet")
    recalibrated = evaluate(folder / "reward", str(folder / "test.parquet"), folder / "reward-evaluation")
    regrets = aggregate(
        folder / "people",
        folder / "together",
        policies={"dpo": folder / "policy"},
        samples=4,
        max_new_tokens=ANSWER,
        distill=True,
        distill_epochs=3,
        distill_learning_rate=2e-3,
        seed=seed,
    )
    names = {
        "DPO": folder / "policy",
        "own type's": folder / "people",
        "mixture": folder / "together" / "mixture",
        "distilled": folder / "together" / "distilled",
    }
    wins = answers_preferred(simulation, names, folder / "language-model", items_of(test_part), seed)
    metrics = {name: read_metrics(folder / name) for name in ("reward", "policy", "people")}
    pages = ("audit", "reward", "reward-evaluation", "policy", "people", "together")
    report([folder / name for name in pages], folder / "report.html")
    return "\n".join(
        [
            "",
            *kinds_found(found, folder / "audit" / "audit.json"),
            "",
            *confidence(metrics["reward"], recalibrated, temperature),
            "",
            *served(simulation, items_of(test_part), metrics, test_part),
            "",
            *given_up(regrets, types_by_kind(simulation, folder / "people")),
            "",
            *liked(simulation, wins),
            "",
            f"look at:        {folder / 'report.html'}",
            f"judgments:      {folder / 'train.parquet'}, {folder / 'tuning.parquet'}, {folder / 'test.parquet'}",
            f"audit:          {folder / 'audit'}   (pluralign audit {folder / 'train.parquet'})",
            f"language model: {folder / 'language-model'}   (pluralign train {folder / 'language-model.yaml'})",
            f"reward model:   {folder / 'reward'}   (pluralign train {folder / 'reward.yaml'})",
            f"  calibrated:   pluralign calibrate {folder / 'reward'} {folder / 'tuning.parquet'}",
            f"DPO policy:     {folder / 'policy'}   (pluralign train {folder / 'policy.yaml'})",
            f"types' policies: {folder / 'people'}  (pluralign train {folder / 'people.yaml'})",
            f"one for all:    {folder / 'together'}   (pluralign aggregate {folder / 'people'} ... --distill)",
            "results:        README.md and metrics.json in each of these folders",
        ]
    )


def asked_somewhere(simulation: Simulation, seed: int) -> Judgments:
    """The town's judgments, each from one of two sources: the place where its person was asked."""
    draw = np.random.default_rng(seed)
    market, school = PLACES
    place = {}
    for name, kind in simulation.types.items():
        usual = market if kind in PLACES[market] else school
        place[name] = usual if draw.random() < PLACES[usual][kind] else (school if usual == market else market)
    return Judgments.from_rows([{**row, "source": place[row["annotator"]]} for row in simulation.judgments.rows()])


def answers_preferred(
    simulation: Simulation, policies: Mapping[str, Path], base: Path, items: Items, seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    """How often each kind of person finds each policy's answers better than the base's, with intervals.

    A run of types answers each kind of person by the policy of the type that most of them are of.
    """

    def answers(model: Path, adapter: str | None = None) -> np.ndarray:
        policy = load_policy(model if adapter is None else model / adapter, max_length=CONTEXT)
        drawn = policy.sample(items.prompts, n=4, max_new_tokens=ANSWER, seed=seed)
        return np.array([[simulation.utilities(sample.response) for sample in group] for group in drawn])

    before = answers(base)  # (prompts, answers, kinds)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, model in policies.items():
        if (model / RESPONSIBILITIES).exists():
            own = types_by_kind(simulation, model)
            drawn = {adapter: answers(model, adapter) for adapter in set(own.values())}
            of_kind = {kind: drawn[adapter] for kind, adapter in own.items()}
        else:
            of_kind = dict.fromkeys([kind.name for kind in simulation.town.types], answers(model))
        found[name] = {
            kind.name: win_rate(of_kind[kind.name][:, :, index], before[:, :, index], seed=seed)
            for index, kind in enumerate(simulation.town.types)
        }
    return found


def types_by_kind(simulation: Simulation, run: Path) -> dict[str, str]:
    """The type that most people of each kind were found to be of, by the name of its adapter."""
    rows = pq.read_table(run / RESPONSIBILITIES).to_pylist()
    found = {}
    for kind in simulation.town.types:
        votes = Counter(row["type"] for row in rows if simulation.types.get(row["annotator"]) == kind.name)
        found[kind.name] = f"type-{votes.most_common(1)[0][0]}"
    return found


def kinds_found(metrics: Mapping[str, Any], story: Path) -> list[str]:
    """The audit's verdict, and how the types that it found fall over the kinds that the town was made of."""
    groups = json.loads(story.read_text(encoding="utf-8"))["groups"]
    types = range(1, metrics["types"] + 1)
    lines = [
        f"Who are they? {metrics['types']} types of people found from the rankings alone "
        f"({metrics['identification']}; adjusted Rand index {metrics['groups_adjusted_rand']:.2f})",
        "",
        f"{'kind of person':<16}" + "".join(f"{f'type {kind}':>10}" for kind in types),
    ]
    for group in groups:
        lines.append(f"{group['group']:<16}" + "".join(f"{share:>10.0%}" for share in group["shares"]))
    return lines


def fitted_temperature(reward: Path, tuning: Path) -> float:
    """The temperature now stored with the reward; 1, and said so, where a tiny town's reward is of no use."""
    try:
        return calibrate(reward, str(tuning)).temperature or 1.0
    except PluralignError as fault:
        logger.warning(f"{reward}: stays as it was trained: {fault}")
        return 1.0


def confidence(before: Mapping[str, Any], after: Mapping[str, Any], temperature: float) -> list[str]:
    """How far the reward's confidence is from how often it is right, as trained and with its temperature."""

    def cell(metrics: Mapping[str, Any], key: str) -> str:
        value = f"{metrics[key]:.3f}"
        return f"{value} [{metrics['ece_low']:.3f}, {metrics['ece_high']:.3f}]" if key == "ece" else value

    lines = [
        "How sure may the reward be? (one reward over two sources; calibration error on pairs held out)",
        "",
        f"{'source':<16}{'weight':>8}{'accuracy':>20}{'error':>22}{f'at temperature {temperature:.2f}':>24}",
    ]
    for place in PLACES:
        part = f"/source={place}"
        weight, accuracy = before[f"weight{part}"], before[f"accuracy{part}"]
        errors = f"{cell(before, f'ece{part}'):>22}{cell(after, f'ece{part}'):>24}"
        lines.append(f"{place:<16}{weight:>8.2f}{accuracy:>20.3f}{errors}")
    errors = f"{cell(before, 'ece'):>22}{cell(after, 'ece'):>24}"
    return [*lines, f"{'both':<16}{'':>8}{before['accuracy']:>20.3f}{errors}"]


def served(
    simulation: Simulation, items: Items, metrics: Mapping[str, Mapping[str, Any]], judgments: Judgments
) -> list[str]:
    """How often the one reward, the one policy, and the own type's policy agree with each kind of person.

    A person's rankings are noisy, so that not even their own utility agrees with all of them: that column is the
    most that any reward can reach for that kind of person.
    """
    columns = ("reward", "DPO policy", "own type's policy", "own utility")
    lines = [
        "Whom does one reward for all, and one policy for all, serve? (pairs ranked as the person did, held out)",
        "",
        f"{'kind of person':<16}{'share':>8}" + "".join(f"{name:>20}" for name in columns),
    ]
    runs = ("reward", "policy", "people")
    for index, kind in enumerate(simulation.town.types):
        key = f"accuracy/group={kind.name}"
        own = np.array([simulation.utilities(str(text))[index] for text in items.responses])
        reached = [*(metrics[name][key] for name in runs), reward_metrics(judgments, items, own)[key]]
        cells = "".join(f"{value:>20.3f}" for value in reached)
        lines.append(f"{kind.name:<16}{kind.share:>8.0%}{cells}")
    lines.append(f"{'everyone':<16}{'':>8}" + "".join(f"{metrics[name]['accuracy']:>20.3f}" for name in runs))
    return lines


def given_up(metrics: Mapping[str, Any], types: Mapping[str, str]) -> list[str]:
    """Each type's regret under every policy, and which kind of person each type is."""
    known = ", ".join(f"{adapter} is mostly {kind}" for kind, adapter in types.items())
    title = f"What does each type give up under each policy, against its own? ({known})"
    return [title, "", *regret_lines(metrics)]


def liked(simulation: Simulation, wins: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    """How often each kind of person likes each policy's answers better than those before."""
    lines = [
        "Whose answers got better? (share that each kind of person prefers to the language model's own)",
        "",
        f"{'kind of person':<16}{'share':>8}" + "".join(f"{name:>20}" for name in wins),
    ]
    for kind in simulation.town.types:
        cells = "".join(f"{_with_interval(found[kind.name]):>20}" for found in wins.values())
        lines.append(f"{kind.name:<16}{kind.share:>8.0%}{cells}")
    return lines


def _with_interval(found: Mapping[str, float]) -> str:
    return f"{found['win_rate']:.2f} [{found['win_rate_low']:.2f}, {found['win_rate_high']:.2f}]"

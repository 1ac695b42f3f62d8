"""`demo`: a simulated town of three kinds of people, who they are, and whom one reward and one policy serve."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pluralign.core.files import atomic_write
from pluralign.core.runs import read_metrics
from pluralign.evaluation.win_rate import win_rate
from pluralign.judgments.population import Simulation, Town, simulate
from pluralign.judgments.split import split
from pluralign.judgments.table import Judgments
from pluralign.policies.loading import load_policy
from pluralign.scoring.items import Items, items_of
from pluralign.training.from_scratch import make_causal_model
from pluralign.workflows.audit import audit
from pluralign.workflows.evaluate import reward_metrics
from pluralign.workflows.report import report
from pluralign.workflows.train import train

TOWN = {"annotators": 90, "judgments_per_annotator": 16, "responses": 3, "overlap": 0.2}
"""The demo's town: three kinds of people, 90 of them, who rank three answers 16 times each."""


CONTEXT = 160
"""Tokens that the demo's language model can read."""


def demo(out: str | os.PathLike[str], seed: int = 0, **town: Any) -> str:
    """Simulate a town, audit it, train a language model on its answers, reward model and policy on its rankings.

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
    train_part, test_part = split(simulation.judgments, by="prompt", test=0.25, seed=seed)
    train_part.write(folder / "train.parquet")
    test_part.write(folder / "test.parquet")
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
        "objective": "plackett-luce",
        "model_name_or_path": str(folder / "language-model"),
        "output_dir": str(folder / "reward"),
        "per_device_train_batch_size": 16,
        "learning_rate": 5e-4,
        "num_train_epochs": 3,
    }
    policy = {
        "objective": "dpo",
        "model_name_or_path": str(folder / "language-model"),
        "output_dir": str(folder / "policy"),
        "per_device_train_batch_size": 32,
        "learning_rate": 2e-4,
        "num_train_epochs": 2,
    }
    for name, config in (("language-model", language_model), ("reward", reward), ("policy", policy)):
        with atomic_write(folder / f"{name}.yaml", "w") as file:
            yaml.safe_dump({**config, **common}, file, sort_keys=False)
        train(folder / f"{name}.yaml")
    wins = answers_preferred(simulation, folder / "policy", folder / "language-model", items_of(test_part), seed)
    metrics = {name: read_metrics(folder / name) for name in ("reward", "policy")}
    report([folder / name for name in ("audit", "reward", "policy")], folder / "report.html")
    return "\n".join(
        [
            "",
            *kinds_found(found, folder / "audit" / "audit.json"),
            "",
            *served(simulation, items_of(test_part), metrics, wins, test_part),
            "",
            f"look at:        {folder / 'report.html'}",
            f"judgments:      {folder / 'train.parquet'}, {folder / 'test.parquet'}",
            f"audit:          {folder / 'audit'}   (pluralign audit {folder / 'train.parquet'})",
            f"language model: {folder / 'language-model'}   (pluralign train {folder / 'language-model.yaml'})",
            f"reward model:   {folder / 'reward'}   (pluralign train {folder / 'reward.yaml'})",
            f"DPO policy:     {folder / 'policy'}   (pluralign train {folder / 'policy.yaml'})",
            f"results:        README.md and metrics.json in {folder / 'reward'} and {folder / 'policy'}",
        ]
    )


def answers_preferred(
    simulation: Simulation, policy: Path, base: Path, items: Items, seed: int
) -> dict[str, dict[str, float]]:
    """How often each kind of person finds the policy's answers better than the base's, with intervals."""
    found = []
    for model in (policy, base):
        drawn = load_policy(model, max_length=CONTEXT).sample(items.prompts, n=4, max_new_tokens=80, seed=seed)
        found.append(
            np.array([[simulation.utilities(sample.response) for sample in group] for group in drawn])
        )  # (prompts, answers, kinds)
    return {
        kind.name: win_rate(found[0][:, :, index], found[1][:, :, index], seed=seed)
        for index, kind in enumerate(simulation.town.types)
    }


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


def served(
    simulation: Simulation,
    items: Items,
    metrics: Mapping[str, Mapping[str, Any]],
    wins: Mapping[str, Mapping[str, float]],
    judgments: Judgments,
) -> list[str]:
    """How often the one reward and the one policy agree with each kind of person, and who likes its answers.

    A person's rankings are noisy, so that not even their own utility agrees with all of them: that column is the
    most that any reward can reach for that kind of person.
    """
    lines = [
        "Whom does one reward for all, and one policy for all, serve? (prompts that were held out)",
        "",
        f"{'':<24}{'pairs ranked as the person did':>42}{'answers better':>20}",
        f"{'kind of person':<16}{'share':>8}{'reward':>12}{'DPO policy':>14}{'own utility':>16}{'than before':>20}",
    ]
    for index, kind in enumerate(simulation.town.types):
        key = f"accuracy/group={kind.name}"
        own = np.array([simulation.utilities(str(text))[index] for text in items.responses])
        reached = [metrics["reward"][key], metrics["policy"][key], reward_metrics(judgments, items, own)[key]]
        cells = "".join(f"{value:>{width}.3f}" for value, width in zip(reached, (12, 14, 16), strict=True))
        lines.append(f"{kind.name:<16}{kind.share:>8.0%}{cells}{_with_interval(wins[kind.name]):>20}")
    everyone = [metrics[name]["accuracy"] for name in ("reward", "policy")]
    lines.append(f"{'everyone':<16}{'':>8}{everyone[0]:>12.3f}{everyone[1]:>14.3f}")
    return lines


def _with_interval(found: Mapping[str, float]) -> str:
    return f"{found['win_rate']:.2f} [{found['win_rate_low']:.2f}, {found['win_rate_high']:.2f}]"

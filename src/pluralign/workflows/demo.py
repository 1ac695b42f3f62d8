"""`demo`: a simulated town of three kinds of people, and whom one average reward serves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pluralign.core.files import atomic_write
from pluralign.core.runs import read_metrics
from pluralign.judgments.population import Simulation, Town, simulate
from pluralign.judgments.split import split
from pluralign.scoring.items import Items, items_of
from pluralign.training.from_scratch import make_causal_model
from pluralign.workflows.evaluate import reward_metrics
from pluralign.workflows.train import train

TOWN = {"annotators": 90, "judgments_per_annotator": 16, "responses": 3, "overlap": 0.2}
"""The demo's town: three kinds of people, 90 of them, who rank three answers 16 times each."""


def demo(out: str | os.PathLike[str], seed: int = 0, **town: Any) -> str:
    """Simulate a town, train a small language model on its answers and a reward model on its rankings.

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
    base = folder / "untrained"
    if not (base / "model.safetensors").exists():
        texts = [text for row in simulation.judgments.rows() for text in [row["prompt"], *row["responses"]]]
        make_causal_model(texts, base, vocab_size=1024, hidden_size=96, layers=3, heads=4, context=160, seed=seed)
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
        "max_length": 160,
    }
    reward = {
        "objective": "plackett-luce",
        "model_name_or_path": str(folder / "language-model"),
        "output_dir": str(folder / "reward"),
        "per_device_train_batch_size": 16,
        "learning_rate": 5e-4,
        "num_train_epochs": 3,
    }
    for name, config in (("language-model", language_model), ("reward", reward)):
        with atomic_write(folder / f"{name}.yaml", "w") as file:
            yaml.safe_dump({**config, **common}, file, sort_keys=False)
        train(folder / f"{name}.yaml")
    return "\n".join(
        [
            "",
            *served(simulation, items_of(test_part), read_metrics(folder / "reward"), test_part),
            "",
            f"judgments:      {folder / 'train.parquet'}, {folder / 'test.parquet'}",
            f"language model: {folder / 'language-model'}   (pluralign train {folder / 'language-model.yaml'})",
            f"reward model:   {folder / 'reward'}   (pluralign train {folder / 'reward.yaml'})",
            f"results:        {folder / 'reward' / 'README.md'}, {folder / 'reward' / 'metrics.json'}",
        ]
    )


def served(simulation: Simulation, items: Items, metrics: dict[str, Any], judgments: Any) -> list[str]:
    """How often the one average reward agrees with each kind of person, beside that kind's own utility.

    A person's rankings are noisy, so that not even their own utility agrees with all of them: the last column
    is the most that any reward can reach for that kind of person.
    """
    ceilings = {}
    for index, kind in enumerate(simulation.town.types):
        own = np.array([simulation.utilities(str(text))[index] for text in items.responses])
        ceilings[kind.name] = reward_metrics(judgments, items, own)[f"accuracy/group={kind.name}"]
    lines = [
        "Whom does the one average reward serve? (held-out prompts; share of pairs ranked as the person did)",
        "",
        f"{'kind of person':<16}{'share':>8}{'average reward':>17}{'own utility':>14}",
    ]
    for kind in simulation.town.types:
        reached = metrics[f"accuracy/group={kind.name}"]
        lines.append(f"{kind.name:<16}{kind.share:>8.0%}{reached:>17.3f}{ceilings[kind.name]:>14.3f}")
    lines.append(f"{'everyone':<16}{'':>8}{metrics['accuracy']:>17.3f}")
    return lines

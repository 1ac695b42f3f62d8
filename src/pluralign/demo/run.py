"""`demo`: a simulated town, its kinds of people, one reward, a crowd, what is fair to all, whose answers come."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from transformers.utils import logging

from pluralign.core.errors import PluralignError
from pluralign.core.files import atomic_write
from pluralign.core.runs import read_metrics
from pluralign.demo.configs import configs
from pluralign.demo.crowd import rated, said
from pluralign.demo.matching import histograms, whose_answers
from pluralign.demo.people import ANSWER, CONTEXT, answers_preferred, asked_somewhere, types_by_kind
from pluralign.demo.tables import confidence, given_up, kinds_found, liked, served
from pluralign.judgments.population import Town, simulate
from pluralign.judgments.split import split
from pluralign.scoring.items import items_of
from pluralign.training.from_scratch import make_causal_model
from pluralign.workflows.aggregate.run import aggregate
from pluralign.workflows.audit.run import audit
from pluralign.workflows.calibrate import calibrate
from pluralign.workflows.evaluate import evaluate
from pluralign.workflows.report import report
from pluralign.workflows.train.run import train

logger = logging.get_logger(__name__)

TOWN = {"annotators": 90, "judgments_per_annotator": 16, "responses": 3, "overlap": 0.2}
"""The demo's town: three kinds of people, 90 of them, who rank three answers 16 times each."""


def demo(out: str | os.PathLike[str], seed: int = 0, **town: Any) -> str:
    """Simulate a town, audit it, train a language model on its answers, reward model and policies on its rankings.

    A model of the crowd is trained on the labels that the town gives besides.

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
    ratings = rated(simulation, folder, seed)
    base = folder / "untrained"
    if not (base / "model.safetensors").exists():
        texts = [text for row in simulation.judgments.rows() for text in [row["prompt"], *row["responses"]]]
        make_causal_model(texts, base, vocab_size=1024, hidden_size=96, layers=3, heads=4, context=CONTEXT, seed=seed)
    for name, config in configs(folder, base, ratings.config, seed).items():
        with atomic_write(folder / f"{name}.yaml", "w") as file:
            yaml.safe_dump(config, file, sort_keys=False)
        train(folder / f"{name}.yaml")
        if name == "reward":
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
    answered = {
        "DPO": folder / "policy",
        "KL-RLHF": folder / "rlhf",
        "matching (pm-dpo)": folder / "matched",
    }
    prompts = sorted(set(test_part.column("prompt")))
    chosen = whose_answers(simulation, answered, folder / "language-model", folder / "reward", prompts, seed)
    wins = answers_preferred(simulation, names, folder / "language-model", items_of(test_part), seed)
    metrics = {name: read_metrics(folder / name) for name in ("reward", "crowd", "policy", "people")}
    pages = ("audit", "reward", "reward-evaluation", "crowd", "policy", "people", "together", "rlhf", "matched")
    report([folder / name for name in pages], folder / "report.html")
    return "\n".join(
        [
            "",
            *kinds_found(found, folder / "audit" / "audit.json"),
            "",
            *confidence(metrics["reward"], recalibrated, temperature),
            "",
            *said(simulation, ratings, metrics["crowd"], folder / "crowd", seed),
            "",
            *served(simulation, items_of(test_part), metrics, test_part),
            "",
            *given_up(regrets, types_by_kind(simulation, folder / "people")),
            "",
            *liked(simulation, wins),
            "",
            *histograms(simulation, chosen, len(prompts)),
            "",
            f"look at:        {folder / 'report.html'}",
            f"judgments:      {folder / 'train.parquet'}, {folder / 'tuning.parquet'}, {folder / 'test.parquet'}",
            f"audit:          {folder / 'audit'}   (pluralign audit {folder / 'train.parquet'})",
            f"language model: {folder / 'language-model'}   (pluralign train {folder / 'language-model.yaml'})",
            f"reward model:   {folder / 'reward'}   (pluralign train {folder / 'reward.yaml'})",
            f"  calibrated:   pluralign calibrate {folder / 'reward'} {folder / 'tuning.parquet'}",
            f"crowd's votes:  {ratings.state}   (pluralign votes update {ratings.state} FILE)",
            f"crowd's model:  {folder / 'crowd'}   (pluralign train {folder / 'crowd.yaml'})",
            f"DPO policy:     {folder / 'policy'}   (pluralign train {folder / 'policy.yaml'})",
            f"types' policies: {folder / 'people'}  (pluralign train {folder / 'people.yaml'})",
            f"one for all:    {folder / 'together'}   (pluralign aggregate {folder / 'people'} ... --distill)",
            f"KL-RLHF:        {folder / 'rlhf'}   (pluralign train {folder / 'rlhf.yaml'})",
            f"matching:       {folder / 'matched'}   (pluralign train {folder / 'matched.yaml'})",
            "results:        README.md and metrics.json in each of these folders",
        ]
    )


def fitted_temperature(reward: Path, tuning: Path) -> float:
    """The temperature now stored with the reward; 1, and said so, where a tiny town's reward is of no use."""
    try:
        return calibrate(reward, str(tuning)).temperature or 1.0
    except PluralignError as fault:
        logger.warning(f"{reward}: stays as it was trained: {fault}")
        return 1.0

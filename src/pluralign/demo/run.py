"""`demo`: simulate a town, train every kind of model on it, and tell how well each serves the town's groups."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from transformers.utils import logging

from pluralign.core.errors import PluralignError
from pluralign.core.files import atomic_write
from pluralign.core.progress import say, silenced
from pluralign.core.records import read_json, read_record
from pluralign.core.runs import read_metrics
from pluralign.demo import answers, story, tables
from pluralign.demo.comparison import ANSWER, CONTEXT, DPO, WinRates, compare_lists, compare_said, win_rates
from pluralign.demo.from_scratch import make_causal_model
from pluralign.demo.town import TOWN, Ratings, rated, types_by_group, with_sources
from pluralign.judgments.population import Simulation, Town, simulate
from pluralign.judgments.split import split
from pluralign.judgments.table import Judgments
from pluralign.reports.plots import ReliabilityBin
from pluralign.scoring.items import items_of
from pluralign.workflows.aggregate.run import aggregate
from pluralign.workflows.audit.run import audit
from pluralign.workflows.calibrate import calibrate
from pluralign.workflows.evaluate import evaluate
from pluralign.workflows.report import report
from pluralign.workflows.train.run import train

logger = logging.get_logger(__name__)

LANGUAGE_MODEL = "language-model"
"""The folder of the language model that every other run starts from."""

TABLES = "tables.txt"
"""The file with all tables of the demo."""

RUNS = {
    LANGUAGE_MODEL: "trained on all responses",
    "audit": "the annotator types in the training data",
    "reward": "one reward model for two sources",
    "reward-evaluation": "the calibrated reward model on test data",
    "crowd": "a model of the crowd's labels",
    "policy": "one DPO policy",
    "types": "a policy per annotator type",
    "together": "one policy for all types: mixture, merge and best-of",
    "rlhf": "KL-RLHF on the reward model",
    "matched": "preference matching, one policy",
    "people": "preference matching by annotator type",
}
"""The run folders, in the order in which they are made, and what they hold."""


@dataclass(frozen=True)
class Prepared:
    """What the demo starts from; all of it lies in the folder, with a YAML file for each run of `configs`."""

    simulation: Simulation
    ratings: Ratings
    parts: dict[str, Judgments]  # train, tuning and test
    configs: dict[str, dict[str, Any]]  # of the training runs, in the order of their dependencies


@dataclass(frozen=True)
class Told:
    """What the demo found, as lines of text."""

    answers: list[str]  # each question of the page, with its answer in a sentence or two
    tables: list[str]  # the numbers behind them
    files: list[str]  # where everything is


def prepare(out: str | os.PathLike[str], seed: int = 0, **town: Any) -> Prepared:
    """Write the town's judgments and labels, the YAML files of all runs, and the language model, trained.

    Args:
        out: the folder.
        seed: random seed of the town and of all training.
        town: overrides of `TOWN`.
    """
    folder = Path(out)
    simulation = simulate(Town(**{**TOWN, **town}, seed=seed))
    train_part, held_part = split(with_sources(simulation, seed), by="prompt", test=0.3, seed=seed)
    tuning_part, test_part = split(held_part, by="prompt", test=0.5, seed=seed)
    parts = {"train": train_part, "tuning": tuning_part, "test": test_part}
    for name, part in parts.items():
        part.write(folder / f"{name}.parquet")
    ratings = rated(simulation, folder, seed)
    untrained = folder / "untrained"
    if not (untrained / "model.safetensors").exists():
        texts = [text for row in simulation.judgments.rows() for text in [row["prompt"], *row["responses"]]]
        make_causal_model(
            texts, untrained, vocab_size=1024, hidden_size=96, layers=3, heads=4, context=CONTEXT, seed=seed
        )
    runs = configs(folder, untrained, ratings.config, seed)
    for name, config in runs.items():
        with atomic_write(folder / f"{name}.yaml", "w") as file:
            yaml.safe_dump(config, file, sort_keys=False)
    train(folder / f"{LANGUAGE_MODEL}.yaml")
    return Prepared(simulation, ratings, parts, runs)


def demo_data(out: str | os.PathLike[str], seed: int = 0, **town: Any) -> str:
    """Write what the demo starts from and stop: data, YAML files and the language model; see `prepare`.

    Returns:
        What is in the folder, as text.
    """
    if not (Path(out) / "language-model" / "metrics.json").exists():
        say("training a language model on all responses")
    with silenced():
        prepared = prepare(out, seed, **town)
    folder = Path(out)
    files = ", ".join(f"{name}.parquet" for name in prepared.parts)
    return "\n".join(
        [
            f"judgments:          {files} in {folder}",
            f"labels:             {', '.join(file.name for file in prepared.ratings.files)}, ratings-test.parquet",
            f"language model:     {folder / LANGUAGE_MODEL}",
            f"configs:            {', '.join(f'{name}.yaml' for name in prepared.configs)}",
            f"next: pluralign audit {folder / 'train.parquet'} --out audit",
        ]
    )


def demo(out: str | os.PathLike[str], seed: int = 0, **town: Any) -> Told:
    """Simulate a town, audit it, and train a language model, a reward model, a crowd model and policies on it.

    Everything is written to `out`: the data, the YAML files, the runs, a page and the tables. A second call reuses
    finished runs.

    Args:
        out: the folder.
        seed: random seed of the town and of all training.
        town: overrides of `TOWN`.

    Returns:
        What was found.
    """
    folder = Path(out)
    with _stage(LANGUAGE_MODEL):
        prepared = prepare(folder, seed, **town)
    with _stage("audit"):
        audited = audit(str(folder / "train.parquet"), folder / "audit", most_types=5, simulations=1, seed=seed)
    for name in prepared.configs:
        if name != LANGUAGE_MODEL:  # it is trained already
            with _stage(name):
                train(folder / f"{name}.yaml")
        if name == "reward":
            with _stage("reward-evaluation"):
                temperature = _fitted_temperature(folder / "reward", folder / "tuning.parquet")
                calibrated = evaluate(folder / "reward", str(folder / "test.parquet"), folder / "reward-evaluation")
        if name == "types":
            with _stage("together"):
                together = aggregate(
                    folder / "types",
                    folder / "together",
                    policies={DPO: folder / "policy"},
                    offer=("mixture", "merge", "best-of"),
                    candidates=16,
                    trials=6,
                    max_tuning_prompts=32,
                    max_new_tokens=ANSWER,
                    distill=["best-of"],
                    distill_samples=1,
                    distill_epochs=3,
                    distill_learning_rate=2e-3,
                    seed=seed,
                )
    say("comparing what the policies say with the truth about the town")
    with silenced():
        return _told(folder, seed, prepared, audited, temperature, calibrated, together)


def _told(
    folder: Path,
    seed: int,
    prepared: Prepared,
    audited: Mapping[str, Any],
    temperature: float,
    calibrated: Mapping[str, Any],
    together: Mapping[str, Any],
) -> Told:
    """Compare the finished runs with the truth, and write the page and the tables."""
    simulation, ratings, test_part = prepared.simulation, prepared.ratings, prepared.parts["test"]
    matched = {
        DPO: folder / "policy",
        "KL-RLHF": folder / "rlhf",
        "matching (pm-dpo)": folder / "matched",
    }
    said_by = {**matched, "matching by type": folder / "people"}
    prompts, test_items = sorted(set(test_part.column("prompt"))), items_of(test_part)
    choices = compare_lists(simulation, matched, folder / LANGUAGE_MODEL, folder / "reward", prompts, seed)
    said = compare_said(simulation, said_by, folder / LANGUAGE_MODEL, prompts, seed)
    metrics = {name: read_metrics(folder / name) for name in ("reward", "crowd", "policy", "types")}
    labels = tables.label_rows(simulation, ratings, metrics["crowd"], seed)
    agreement = tables.accuracies(simulation, test_items, metrics, test_part)
    wins = {} if together["types"] == 1 else win_rates(simulation, folder / "types", folder / "together", seed)
    groups = read_json(folder / "audit" / "audit.json")["groups"]
    bins = read_record(folder / "reward-evaluation" / "reliability.json", list[ReliabilityBin])
    pages = [
        story.types_section(audited, groups),
        story.calibration_section(bins, temperature),
        story.labels_section(labels),
        story.served_section(agreement),
        *([story.fair_section(wins, together["winner"])] if wins else []),
        story.said_section(simulation, choices, said),
    ]
    with atomic_write(folder / "report.html", "w") as file:
        file.write(story.story_page(pages, _run_pages(folder)))
    found = [
        answers.types_answer(audited),
        answers.calibration_answer(metrics["reward"], calibrated, temperature),
        answers.labels_answer(labels),
        answers.served_answer(agreement),
        answers.fair_answer(wins, together.get("winner", "")),
        answers.said_answer(simulation, said),
    ]
    sections = [
        tables.types_found(audited, groups),
        tables.calibration(metrics["reward"], calibrated, temperature),
        tables.labels_predicted(labels, ratings, folder / "crowd"),
        tables.served(simulation, agreement, metrics),
        tables.histograms(simulation, choices, len(prompts)),
        *_for_all(simulation, folder, together, wins),
        tables.said(simulation, said, len(prompts)),
    ]
    lines = [line for section in sections for line in [*section, ""]]
    with atomic_write(folder / TABLES, "w") as file:
        file.write("\n".join(lines))
    files = [
        f"page with pictures: {folder / 'report.html'}",
        f"all tables:         {folder / TABLES}",
        f"judgments:          {folder / 'train.parquet'}, tuning.parquet, test.parquet",
        f"runs:               {folder}/NAME with NAME as above; each has report.html, README.md and metrics.json",
        f"to repeat a run:    pluralign train {folder / 'policy.yaml'} --output_dir NEW",
        f"to add votes:       pluralign votes update {ratings.state} FILE",
    ]
    told = [line for question, *sentences in found for line in [question, *(f"  {one}" for one in sentences), ""]]
    return Told(told, lines, files)


@contextlib.contextmanager
def _stage(name: str) -> Iterator[None]:
    """Say which run begins; what it would say itself stands in its folder."""
    say(f"{list(RUNS).index(name) + 1} of {len(RUNS)}: {name} ({RUNS[name]})")
    with silenced():
        yield


def _run_pages(folder: Path) -> list[tuple[str, str, str]]:
    """The page of each finished run, written where its command has not: name, relative address, what the run is."""
    made = [name for name in RUNS if (folder / name / "metrics.json").exists()]
    for name in made:
        if not (folder / name / "report.html").exists():
            report(folder / name, folder / name / "report.html")
    return [(name, f"{name}/report.html", RUNS[name]) for name in made]


def _for_all(
    simulation: Simulation, folder: Path, together: Mapping[str, Any], wins: Mapping[str, WinRates]
) -> list[list[str]]:
    """The sections of one policy for all types, if there are several."""
    if not wins:
        return [["There is a single annotator type, so one policy serves everybody."]]
    return [
        tables.one_policy(together, types_by_group(simulation, folder / "types")),
        tables.fair_policy(simulation, wins, together["winner"]),
    ]


def configs(folder: Path, untrained: Path, ratings: Mapping[str, Any], seed: int) -> dict[str, dict[str, Any]]:
    """The config of each training run, by the name of its folder, in the order of their dependencies.

    The reward model must be calibrated before `rlhf` uses it. `ratings` are the data keys of the `dprm` config.
    """
    base = {"model_name_or_path": str(folder / LANGUAGE_MODEL)}
    tuning = {"per_device_train_batch_size": 16, "learning_rate": 2e-3, "num_train_epochs": 3, "beta": 1.0}
    own: dict[str, dict[str, Any]] = {
        LANGUAGE_MODEL: {
            "objective": "sft",
            "model_name_or_path": str(untrained),
            "responses": "all",
            "per_device_train_batch_size": 32,
            "learning_rate": 3e-3,
            "num_train_epochs": 2,
            "max_length": CONTEXT,
        },
        "reward": {
            "objective": "more",
            **base,
            "normalize": "none",  # two gradients of length 1 always get equal weights
            "per_device_train_batch_size": 16,
            "learning_rate": 5e-4,
            "num_train_epochs": 3,
        },
        "crowd": {
            "objective": "dprm",
            **base,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-3,
            "num_train_epochs": 12,
            **ratings,
        },
        "policy": {
            "objective": "dpo",
            **base,
            "use_peft": True,
            "lora_target_modules": ["all-linear"],
            **tuning,
        },
        "types": {"objective": "em-dpo", **base, **tuning},
        "rlhf": {
            "objective": "pm-rlhf",
            "mode": "kl",
            **base,
            "reward_model": str(folder / "reward"),
            "beta": 1.0,
            "num_generations": 4,
            "per_device_train_batch_size": 32,
            "max_completion_length": ANSWER,
            "learning_rate": 1e-3,
            "max_steps": 30,
        },
        "matched": {
            "objective": "pm-dpo",
            "mode": "pm",  # the responses are given, so the policy cannot drift to meaningless text
            "length_checks": 0,
            **base,
            "per_device_train_batch_size": 16,
            "learning_rate": 1e-3,
            "num_train_epochs": 4,
        },
        "people": {
            "objective": "pm-dpo",
            "matching_by": "type",
            "length_checks": 0,
            **base,
            **tuning,
            "num_train_epochs": 2,
        },
    }
    common = {
        "train_files": [str(folder / "train.parquet")],
        "eval_files": [str(folder / "test.parquet")],
        "seed": seed,
        "save_strategy": "no",
        "report_to": "none",
        "lr_scheduler_type": "cosine",
    }
    # The keys of a run come first in its file, and override the common ones.
    return {name: {**config, "output_dir": str(folder / name), **common, **config} for name, config in own.items()}


def _fitted_temperature(reward: Path, tuning: Path) -> float:
    """The temperature that calibration stores with the reward model; 1 if the data of a tiny town do not allow it."""
    try:
        return calibrate(reward, str(tuning)).temperature or 1.0
    except PluralignError as fault:
        logger.warning(f"{reward}: is not calibrated: {fault}")
        return 1.0

"""Predicted crowds: DPRM's losses against constants, the majority's label and Bradley-Terry, on held-out items.

The model is MiniLM with frozen lower layers that are computed once per text (`frozen_layers.py`). All losses start from
the same head and see the items in the same order; only the loss differs between `ce`, `w1`, `ot` and `energy`, whose
targets are the shares of the votes. `paper` is `preset: paper`: `ot`, a prior of one vote per label, smoothing, items
that count equally. `logistic` is soft-label logistic regression on the encoder's frozen mean state.
`majority` is `ce` on the label with the most votes. `marginal` predicts the mean shares of the training items for every
item, and `medians` the medians of their cumulative shares, the best constant for a transport cost without a step.
`bradley-terry` learns from pairs of the same training items, reads as many texts, and predicts nothing for single ones.
With `--model smollm2` the model is SmolLM2-135M-Instruct with LoRA.

Predictions are stored by source and seed; a stopped run continues where it was. `summary.py` computes means and
intervals from them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from scipy.special import expit

from pluralign.choice.label_regression import LabelRegression
from pluralign.scoring.features import text_features
from pluralign.scoring.items import items_of_texts
from pluralign.scoring.reward_models import build_reward_model
from pluralign.training.dprm.config import DPRMConfig
from pluralign.training.dprm.trainer import DPRMTrainer
from pluralign.training.reward_trainer import BradleyTerryConfig, BradleyTerryTrainer

from ..common.data import encoder
from ..common.options import Option, parsed, parts
from ..common.pretrained import SMOLLM2, pretrained
from ..common.results import OUT, Clock, store
from ..common.training import LORA, QUIET
from .frozen_layers import remember_lower_layers
from .sources import SOURCES, TRAINING_PAIRS, Source, source
from .summary import choice_shares, evaluated, summary

LOSSES = ("ce", "w1", "ot", "energy")
ROWS = ("marginal", "medians", "logistic", "majority", *LOSSES, "paper", "bradley-terry")

SETTINGS: dict[str, tuple[float, float]] = {
    "polis-statements": (3e-4, 6),
    "polis-conversations": (3e-4, 6),
    "alphanli": (3e-4, 3),
    "snli": (3e-4, 3),
    "rte": (3e-4, 3),
    "helpsteer2": (3e-4, 2),
    "subpop": (3e-4, 3),
}
"""Learning rate and epochs of each source, the same for all rows. `--tune` chose those of statements and of SNLI on a
part of seed 0's training items (the fewest epochs within 0.01 of the best); SNLI's are used wherever two texts are read
together."""

GRID = ((3e-4, 1.0), (3e-4, 0.6), (1e-3, 1.0), (1e-3, 0.5))
"""Of `--tune`: learning rates, and epochs relative to `LONGEST`."""

LONGEST = {"polis-statements": 10, "snli": 5}


SMOLLM2_SETTING = (1e-3, 3)
"""Learning rate and epochs of SmolLM2, fixed before any run."""


def folder_of(options: argparse.Namespace) -> str:
    return encoder() if options.model == "minilm" else str(pretrained(SMOLLM2))


def built(crowd: Source, options: argparse.Namespace, seed: int, labels: bool) -> tuple[Any, dict[str, Any]]:
    """The model with a head for the labels or for one reward, and what a trainer is given of it."""
    transformers.set_seed(seed)
    made = build_reward_model(
        folder_of(options), max_length=crowd.max_length, label_scale=crowd.scale if labels else None
    )
    given = {"processing_class": made.tokenizer}
    if options.model == "minilm":
        remember_lower_layers(made.model, options.frozen)
    else:
        given["peft_config"] = peft.LoraConfig(**LORA, task_type="SEQ_CLS")
    return made.model, given


def arguments(options: argparse.Namespace, seed: int, setting: tuple[float, float]) -> dict[str, Any]:
    return QUIET | {
        "output_dir": str(OUT / options.name / "run"), "learning_rate": setting[0], "num_train_epochs": setting[1],
        "per_device_train_batch_size": options.batch, "warmup_steps": 4, "bf16": options.bf16, "use_cpu": True,
        "seed": seed, "logging_strategy": "no",
    }  # fmt: skip


def predictions(
    row: str, crowd: Source, train: np.ndarray, test: np.ndarray, seed: int, setting: Any, options: Any
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Predicted shares of each held-out item `(items, labels)`, and of each pair for its first item `(pairs,)`."""
    pairs = crowd.own_pairs(test)
    if row in ("marginal", "medians"):
        each = crowd.counts[train] / crowd.counts[train].sum(1, keepdims=True)
        # Labels are in the order of their rewards, up or down, so cumulative shares follow the line.
        shares = each.mean(0) if row == "marginal" else np.diff(np.median(each.cumsum(1), 0), prepend=0.0)
        mu = np.tile(shares, (len(test), 1))
        return mu, choice_shares(crowd, mu, test, pairs)
    if row == "logistic":
        items = items_of_texts(crowd.prompt, [[text] for text in crowd.response])
        states = text_features(items, folder_of(options), reads="prompt+response", cache=OUT / "cache")
        votes = crowd.counts[train].sum(1)
        fitted = LabelRegression.fit(
            states[train], crowd.counts[train] / votes[:, None], votes, crowd.cluster[train], seed
        )
        mu = fitted.predict(states[test])
        return mu, choice_shares(crowd, mu, test, pairs)
    if row == "bradley-terry":
        return bradley_terry(crowd, train, test, pairs, seed, setting, options)
    model, about = built(crowd, options, seed, labels=True)
    given: dict[str, Any] = {"loss": row if row in LOSSES else "ce"}
    if row == "paper":
        given = {"preset": "paper"}
    args = DPRMConfig(**arguments(options, seed, setting), **given)
    judgments = crowd.judgments(train, majority=row == "majority")
    trainer = DPRMTrainer(model, args=args, train_dataset=judgments, **about)
    trainer.train()
    items = items_of_texts([crowd.prompt[item] for item in test], [[crowd.response[item]] for item in test])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.bf16):
        mu = trainer.label_model.distributions(items)
    return mu, choice_shares(crowd, mu, test, pairs)


def bradley_terry(
    crowd: Source, train: np.ndarray, test: np.ndarray, pairs: np.ndarray, seed: int, setting: Any, options: Any
) -> tuple[None, np.ndarray]:
    compared = crowd.own_pairs(train)
    most = TRAINING_PAIRS if crowd.by == "response" else len(compared)
    compared = compared[np.sort(np.random.default_rng(seed).permutation(len(compared))[:most])]
    model, about = built(crowd, options, seed, labels=False)
    # A pair with votes for both is two rows on the same texts. As many texts are read as for the other methods.
    reads = setting[1] * len(train) / (2 * len(compared))
    given = arguments(options, seed, (setting[0], reads))
    args = BradleyTerryConfig(**given, judgments_per_group=2)
    trainer = BradleyTerryTrainer(model, args=args, train_dataset=crowd.compared(compared), **about)
    trainer.train()
    texts = [(crowd.response[int(first)], crowd.response[int(second)]) for first, second in pairs[:, :2]]
    items = items_of_texts([crowd.prompt[int(first)] for first in pairs[:, 0]], texts)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.bf16):
        rewards = trainer.reward_model.score_items(items).reshape(-1, 2)
    return None, expit(rewards[:, 0] - rewards[:, 1])


def rows_of(crowd: Source, wanted: Sequence[str]) -> list[str]:
    """The rows that differ: with two labels `w1` is `ot` up to a factor, with one vote an item `majority` is `ce`."""
    redundant = {
        "w1": len(crowd.scale.labels) == 2,
        "majority": crowd.counts.sum(1).max() == 1,
        "bradley-terry": not len(crowd.pairs),
    }
    return [row for row in ROWS if row in wanted and not redundant.get(row)]


def run(name: str, seed: int, options: argparse.Namespace) -> None:
    """Compute all rows of a source and a seed that are not stored yet."""
    crowd = source(name)
    file = OUT / options.name / f"{name}-{seed}.json"
    setting = SETTINGS[name] if options.model == "minilm" else SMOLLM2_SETTING
    splits = list(crowd.parts(seed, most=options.items))
    test = np.concatenate([held for _, held in splits])
    pairs = np.concatenate([crowd.own_pairs(held) for _, held in splits])
    entry: dict[str, Any] = {"setting": list(setting), "train": len(splits[0][0]), "rows": {}}
    if file.exists():
        entry = json.loads(file.read_text())
        if entry["setting"] != list(setting):
            raise SystemExit(f"{file} was made with other settings: remove it")
    entry |= {"test": test.tolist(), "pairs": pairs.tolist()}
    for row in rows_of(crowd, options.rows):
        if row in entry["rows"]:
            continue
        clock = Clock()
        folds = [predictions(row, crowd, train, held, seed, setting, options) for train, held in splits]
        mu, first = (
            None if fold[0] is None else np.concatenate([np.asarray(part) for part in fold]).round(6).tolist()
            for fold in zip(*folds, strict=True)
        )
        entry["rows"][row] = {"predicted": mu, "first": first, "seconds": clock()}
        file.write_text(json.dumps(entry))
        metrics = {key: round(value, 4) for key, value in evaluated(crowd, entry, row).items()}
        print(name, seed, f"{row:<14}", metrics, clock(), flush=True)


def tune(name: str, options: argparse.Namespace) -> None:
    """Compare settings on the training items of seed 0: transport cost of `ce` and `ot` relative to the marginal's."""
    crowd = source(name)
    train = next(crowd.parts(0))[0]
    inner, held = next(crowd.parts(1, among=train))
    for rate, part in GRID:
        setting = (rate, part * LONGEST[name])
        costs = []
        clock = Clock()
        for row in ("marginal", "ce", "ot"):
            mu, _ = predictions(row, crowd, inner, held, 0, setting, options)
            entry = {"test": held.tolist(), "pairs": [], "rows": {row: {"predicted": mu, "first": None}}}
            metrics = evaluated(crowd, entry, row)
            costs.append((metrics["transport_cost"], metrics["log_loss"]))
        relative = np.array(costs[1:]) / costs[0]
        print(name, setting, "transport ce, ot:", relative[:, 0].round(3), "log-loss:", relative[:, 1].round(3),
              "mean", relative[:, 0].mean().round(4), clock(), flush=True)  # fmt: skip


def main() -> None:
    options = parsed(
        __doc__,
        seeds=[0, 1, 2, 3, 4],
        sources=parts(SOURCES, "Only these sources."),
        rows=parts(ROWS, "Only these rows."),
        batch=(32, "Items of a step (Bradley-Terry: judgments)."),
        frozen=(0, "Frozen layers of the six."),
        items=([2000, 1000], "Training items and held-out items, at most."),
        bf16=True,
        tune=(False, "Try the settings of GRID and stop."),
        summary=(False, "Only summarise the stored predictions."),
        model=Option("minilm", "The model.", ("minilm", "smollm2")),
        name="crowds",
    )
    folder: Path = OUT / options.name
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if options.tune:
        for name in LONGEST:
            tune(name, options)
        return
    if not options.summary:
        for seed in options.seeds:
            for name in options.sources:
                run(name, seed, options)
    summaries = {name: summary(source(name), name, folder, ROWS) for name in SOURCES}
    results = {name: own for name, own in summaries.items() if own}
    store(options.name, {"options": vars(options), "sources": results})

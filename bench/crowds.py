"""Predicted crowds: DPRM's losses against a constant, the majority's label and Bradley-Terry, on items held out.

MiniLM, its lower layers as they are and read once for each text (`frozen_layers.py`), from the same head and in the
same order whatever the loss; only the loss differs between `ce`, `w1`, `ot` and `energy`. `majority` is `ce` on the
label that most voted for. `marginal` says the mean shares of the training items of every item, and `medians` the
medians of their cumulative shares, the best constant for a transport cost without a step. `bradley-terry` learns
from pairs of the same training items, reads as many texts, and says nothing of a single one.

What is stored are predictions, by source and seed; a stopped run goes on where it was. `crowd_summary.py` makes
means and intervals of them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from common import OUT, Clock, encoder, store
from crowd_sources import SOURCES, TRAINING_PAIRS, Source, source
from crowd_summary import choice_shares, evaluated, summary
from frozen_layers import remember_lower_layers
from scipy.special import expit

from pluralign.scoring.items import items_of_texts
from pluralign.scoring.reward_models import build_reward_model
from pluralign.training.dprm.config import DPRMConfig
from pluralign.training.dprm.trainer import DPRMTrainer
from pluralign.training.reward_trainer import BradleyTerryConfig, BradleyTerryTrainer

LOSSES = ("ce", "w1", "ot", "energy")
ROWS = ("marginal", "medians", "majority", *LOSSES, "bradley-terry")

SETTINGS: dict[str, tuple[float, float]] = {
    "polis-statements": (3e-4, 6),
    "polis-conversations": (3e-4, 6),
    "alphanli": (3e-4, 3),
    "snli": (3e-4, 3),
    "rte": (3e-4, 3),
    "helpsteer2": (3e-4, 2),
}
"""Learning rate and epochs by source, the same for all rows: `--tune` chose those of statements and of SNLI, by a
part of seed 0's training items, the fewest epochs within 0.01 of the best; NLI's serve wherever two texts are
read together."""

GRID = ((3e-4, 1.0), (3e-4, 0.6), (1e-3, 1.0), (1e-3, 0.5))
"""Of `--tune`: learning rates, and epochs relative to `LONGEST`."""

LONGEST = {"polis-statements": 10, "snli": 5}


def built(crowd: Source, options: argparse.Namespace, seed: int, labels: bool) -> Any:
    """MiniLM with a head for the labels or for one reward."""
    transformers.set_seed(seed)
    made = build_reward_model(encoder(), max_length=crowd.max_length, label_scale=crowd.scale if labels else None)
    remember_lower_layers(made.model, options.frozen)
    return made


def arguments(options: argparse.Namespace, seed: int, setting: tuple[float, float]) -> dict[str, Any]:
    return {
        "output_dir": str(OUT / options.name / "run"),
        "learning_rate": setting[0],
        "num_train_epochs": setting[1],
        "per_device_train_batch_size": options.batch,
        "warmup_steps": 4,
        "bf16": options.bf16,
        "use_cpu": True,
        "seed": seed,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }


def predictions(
    row: str, crowd: Source, train: np.ndarray, test: np.ndarray, seed: int, setting: Any, options: Any
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Shares of each held-out item `(items, labels)`, and of each of its pairs for the first `(pairs,)`."""
    pairs = crowd.own_pairs(test)
    if row in ("marginal", "medians"):
        each = crowd.counts[train] / crowd.counts[train].sum(1, keepdims=True)
        # Scales stand in the order of their rewards, up or down, so that cumulative shares run along the line.
        shares = each.mean(0) if row == "marginal" else np.diff(np.median(each.cumsum(1), 0), prepend=0.0)
        mu = np.tile(shares, (len(test), 1))
        return mu, choice_shares(crowd, mu, test, pairs)
    if row == "bradley-terry":
        return bradley_terry(crowd, train, test, pairs, seed, setting, options)
    made = built(crowd, options, seed, labels=True)
    given: dict[str, Any] = {"loss": row} if row in LOSSES else {"loss": "ce", "smoothing": 0.0}
    if row == "majority" or crowd.counts.sum(1).max() == 1:  # a single verdict is taken as it is
        given |= {"prior_strength": 1e-3, "smoothing": 0.0}
    args = DPRMConfig(**arguments(options, seed, setting), **given)
    judgments = crowd.judgments(train, majority=row == "majority")
    trainer = DPRMTrainer(made.model, args, judgments, processing_class=made.tokenizer)
    trainer.train()
    items = items_of_texts([crowd.prompt[one] for one in test], [[crowd.response[one]] for one in test])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.bf16):
        mu = trainer.label_model.distributions(items)
    return mu, choice_shares(crowd, mu, test, pairs)


def bradley_terry(
    crowd: Source, train: np.ndarray, test: np.ndarray, pairs: np.ndarray, seed: int, setting: Any, options: Any
) -> tuple[None, np.ndarray]:
    learnt = crowd.own_pairs(train)
    most = TRAINING_PAIRS if crowd.by == "response" else len(learnt)
    learnt = learnt[np.sort(np.random.default_rng(seed).permutation(len(learnt))[:most])]
    made = built(crowd, options, seed, labels=False)
    # A pair with votes for both is two rows on the same two texts. As many texts are read as for the other rows.
    reads = setting[1] * len(train) / (2 * len(learnt))
    given = arguments(options, seed, (setting[0], reads))
    args = BradleyTerryConfig(**given, judgments_per_group=2)
    trainer = BradleyTerryTrainer(made.model, args, crowd.compared(learnt), processing_class=made.tokenizer)
    trainer.train()
    texts = [(crowd.response[int(one)], crowd.response[int(other)]) for one, other in pairs[:, :2]]
    items = items_of_texts([crowd.prompt[int(one)] for one in pairs[:, 0]], texts)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.bf16):
        rewards = trainer.reward_model.score_items(items).reshape(-1, 2)
    return None, expit(rewards[:, 0] - rewards[:, 1])


def rows_of(crowd: Source) -> list[str]:
    """Those that make sense: of two labels `w1` is `ot` up to a factor, of one vote an item `majority` is `ce`."""
    senseless = {
        "w1": len(crowd.scale.labels) == 2,
        "majority": crowd.counts.sum(1).max() == 1,
        "bradley-terry": not len(crowd.pairs),
    }
    return [row for row in ROWS if not senseless.get(row)]


def run(name: str, seed: int, options: argparse.Namespace) -> None:
    """All rows of a source and a seed that are not stored yet."""
    crowd = source(name)
    file = OUT / options.name / f"{name}-{seed}.json"
    setting = SETTINGS[name]
    splits = list(crowd.parts(seed))
    test = np.concatenate([held for _, held in splits])
    pairs = np.concatenate([crowd.own_pairs(held) for _, held in splits])
    found: dict[str, Any] = {"setting": list(setting), "train": len(splits[0][0]), "rows": {}}
    if file.exists():
        found = json.loads(file.read_text())
        if found["setting"] != list(setting):
            raise SystemExit(f"{file} was made with other settings: remove it")
    found |= {"test": test.tolist(), "pairs": pairs.tolist()}
    for row in rows_of(crowd):
        if row in found["rows"]:
            continue
        clock = Clock()
        parts = [predictions(row, crowd, train, held, seed, setting, options) for train, held in splits]
        mu, first = (
            None if one[0] is None else np.concatenate([np.asarray(part) for part in one]).round(6).tolist()
            for one in zip(*parts, strict=True)
        )
        found["rows"][row] = {"predicted": mu, "first": first, "seconds": clock()}
        file.write_text(json.dumps(found))
        told = evaluated(crowd, found, row)
        print(name, seed, f"{row:<14}", {key: round(value, 4) for key, value in told.items()}, clock(), flush=True)


def tune(name: str, options: argparse.Namespace) -> None:
    """Settings by the training items of seed 0 alone: transport cost of `ce` and `ot` by that of the marginal."""
    crowd = source(name)
    train = next(crowd.parts(0))[0]
    learnt, held = next(crowd.parts(1, among=train))
    for rate, part in GRID:
        setting = (rate, part * LONGEST[name])
        costs = []
        clock = Clock()
        for row in ("marginal", "ce", "ot"):
            mu, _ = predictions(row, crowd, learnt, held, 0, setting, options)
            entry = {"test": held.tolist(), "pairs": [], "rows": {row: {"predicted": mu, "first": None}}}
            told = evaluated(crowd, entry, row)
            costs.append((told["transport_cost"], told["log_loss"]))
        relative = np.array(costs[1:]) / costs[0]
        print(name, setting, "transport ce, ot:", relative[:, 0].round(3), "log-loss:", relative[:, 1].round(3),
              "mean", relative[:, 0].mean().round(4), clock(), flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--sources", nargs="*", default=list(SOURCES), choices=list(SOURCES))
    parser.add_argument("--batch", type=int, default=32, help="items (pairs: verdicts) of a step")
    parser.add_argument("--frozen", type=int, default=5, help="how many of the six layers stay as they are")
    parser.add_argument("--no-bf16", dest="bf16", action="store_false")
    parser.add_argument("--tune", action="store_true", help="try the settings of GRID and end")
    parser.add_argument("--summary", action="store_true", help="only what is stored, however much that is")
    parser.add_argument("--name", default="crowds")
    options = parser.parse_args()
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
    found = {name: summary(source(name), name, folder, ROWS) for name in SOURCES}
    store(options.name, {"options": vars(options), "sources": {name: one for name, one in found.items() if one}})


if __name__ == "__main__":
    main()

"""A training step of DPRM beside one of Bradley-Terry that reads the same texts.

Bradley-Terry reads pairs of responses to a prompt; DPRM reads each of these responses as an item that ten annotators
labelled: as many responses, the same tokens, in the same trees or rows. The models are MiniLM (arguments of ConvArg)
and an untrained Llama of 4 layers and width 256 (random words). All trainers take their steps in turn in one process.
Medians are reported of the clock and of processor time, which other work on the machine disturbs less. A step includes
collation and the optimiser.
"""

from __future__ import annotations

import argparse
from statistics import median, quantiles
from typing import Any

import numpy as np
import torch
import transformers

from pluralign.judgments import Judgments, LabelScale
from pluralign.training.dprm.config import DPRMConfig
from pluralign.training.dprm.trainer import DPRMTrainer
from pluralign.training.reward_trainer import BradleyTerryConfig, BradleyTerryTrainer

from ..common.data import encoder, load
from ..common.options import parsed
from ..common.results import store
from ..common.training import QUIET, Task, random_llama, rows_of
from .stepping import Stepper, in_turn

TASK = Task("pairs, prompt 48 + 32", 48, 32, judgments=1, accumulation=1, vocabulary=8192)
BASE = "bradley-terry"
KINDS: dict[str, tuple[str, int]] = {
    BASE: ("", 0),
    **{f"dprm, {loss}": (loss, 5) for loss in ("ot", "w1", "energy", "ce")},
    "dprm, ot, many labels": ("ot", 101),
}
"""Name to loss and number of labels."""

VOTES = 10


def pairs_of(model: str, count: int) -> list[dict[str, Any]]:
    """Pairs of responses; no response is in two pairs."""
    if model == "Llama":
        return rows_of(TASK, count)
    pairs: list[dict[str, Any]] = []
    used: set[str] = set()
    for row in load("convarg")[0].rows():
        if len(pairs) < count and not used.intersection(row["responses"]):
            used.update(row["responses"])
            pairs.append({"prompt": row["prompt"], "responses": list(row["responses"]), "ranks": [1, 2]})
    return pairs


def trainer_of(kind: str, folder: str, pairs: list[dict[str, Any]], batch: int) -> Any:
    """A trainer on the same texts in the same order."""
    common: dict[str, Any] = QUIET | {
        "max_length": 256, "use_cpu": True, "train_sampling_strategy": "sequential", "max_steps": 1000,
    }  # fmt: skip
    loss, labels = KINDS[kind]
    transformers.set_seed(0)
    if not loss:
        config = BradleyTerryConfig("unused", per_device_train_batch_size=batch, **common)
        return BradleyTerryTrainer(folder, args=config, train_dataset=Judgments.from_rows(pairs))
    names = tuple(str(place) for place in range(labels))
    scale = LabelScale("places", names, tuple(np.linspace(-1, 1, labels).tolist()))
    draw = np.random.default_rng(labels)
    rows = [
        {"prompt": row["prompt"], "responses": row["responses"], "labels": draw.choice(names, 2).tolist()}
        for row in pairs
        for _ in range(VOTES)
    ]
    table = Judgments.from_rows([{**row, "annotator": f"h{place % VOTES}"} for place, row in enumerate(rows)], scale)
    args: Any = {"loss": loss, "per_device_train_batch_size": 2 * batch, **common}
    return DPRMTrainer(folder, args=DPRMConfig("unused", **args), train_dataset=table)


def size_of(batch: Any) -> tuple[int, int]:
    """The tokens that a batch occupies, padding included, and its responses."""
    return sum(block["input_ids"].numel() for block in batch["blocks"]), int(batch["index"].max()) + 1


def measured(model: str, folder: str, options: argparse.Namespace) -> dict[str, Any]:
    pairs = pairs_of(model, 4 * options.pairs)
    steppers = {kind: Stepper(trainer_of(kind, folder, pairs, options.pairs)) for kind in KINDS}
    sizes = {kind: size_of(stepper.batch()) for kind, stepper in steppers.items()}
    if len(set(sizes.values())) > 1:
        raise SystemExit(f"{model}: the objectives read different batches: {sizes}")
    times = in_turn({kind: stepper.step for kind, stepper in steppers.items()}, options.repeats)
    kinds = []
    for kind, (_, labels) in KINDS.items():
        both = list(zip(times[kind], times[BASE], strict=True))
        row: dict[str, Any] = {"name": kind, "labels": labels}
        row |= {key: median(getattr(step, name) for step in times[kind]) for key, name in
                (("seconds", "clock"), ("collation", "collation"))}  # fmt: skip
        row |= {
            key: quantiles([getattr(own, key) / getattr(other, key) for own, other in both], n=4)
            for key in ("clock", "work")
        }
        kinds.append(row)
    return {"model": model, "tokens": sizes[BASE][0], "responses": sizes[BASE][1], "kinds": kinds}


def main() -> None:
    options = parsed(__doc__, pairs=(8, "Pairs in a step."), repeats=30)
    rows = []
    for model, folder in (("MiniLM", encoder()), ("Llama", random_llama(256, 4, TASK.vocabulary))):
        rows.append(measured(model, str(folder), options))
        print(rows[-1], flush=True)
        store("dprm_step", {"options": vars(options), "threads": torch.get_num_threads(), "rows": rows})

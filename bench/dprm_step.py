"""What a training step of DPRM costs beside one of Bradley-Terry that reads the same texts.

Bradley-Terry sees pairs of responses to a prompt, DPRM each of these responses as an item that ten people labelled:
as many responses, the same tokens, in the same trees or rows. From MiniLM (real arguments of ConvArg) and from an
untrained Llama of 4 layers, 256 wide (random words). All trainers are one process and take their steps in turn, so
that a ratio compares neighbours in time; medians are told, of the clock and of the processor's time, which other
work on the machine disturbs less. A step is everything from the batch's numbers to the optimiser's step.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import torch
import transformers
from common import encoder, load, store
from speed import Task, make_model, rows_of

from pluralign.judgments import Judgments, LabelScale
from pluralign.training.dprm.config import DPRMConfig
from pluralign.training.dprm.trainer import DPRMTrainer
from pluralign.training.reward_trainer import BradleyTerryConfig, BradleyTerryTrainer

TASK = Task("pairs, prompt 48 + 32", 48, 32, judgments=1, accumulation=1, vocabulary=8192)
KINDS: dict[str, tuple[str, int]] = {
    "bradley-terry": ("", 0),
    "dprm, ot": ("ot", 5),
    "dprm, w1": ("w1", 5),
    "dprm, energy": ("energy", 5),
    "dprm, ce": ("ce", 5),
    "dprm, ot, many labels": ("ot", 101),
}
"""Name to loss and number of labels; the first is what the others are held against."""

VOTES = 10
WARM = 2


def pairs_of(model: str, count: int) -> list[dict[str, Any]]:
    """Pairs of responses, each to a prompt of its own or of its topic."""
    if model == "Llama":
        return rows_of(TASK, count)
    found: dict[str, dict[str, Any]] = {}
    for row in load("convarg")[0].rows():
        if len(found) < count and not any(text in found for text in row["responses"]):
            one, other = row["responses"]
            found[one] = found[other] = {"prompt": row["prompt"], "responses": [one, other], "ranks": [1, 2]}
    return list({id(row): row for row in found.values()}.values())[:count]


def trainer_of(kind: str, folder: str, pairs: list[dict[str, Any]], batch: int) -> Any:
    """A trainer on the same texts in the same order."""
    common: dict[str, Any] = {
        "max_length": 256, "use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True,
        "train_sampling_strategy": "sequential", "max_steps": 1000,
    }  # fmt: skip
    loss, labels = KINDS[kind]
    transformers.set_seed(0)
    if not loss:
        config = BradleyTerryConfig("unused", per_device_train_batch_size=batch, **common)
        return BradleyTerryTrainer(folder, config, Judgments.from_rows(pairs))
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
    return DPRMTrainer(folder, DPRMConfig("unused", **args), table)


class Stepping:
    """A trainer that takes one optimiser step at a time."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        trainer.create_optimizer_and_scheduler(1000)
        self.place = 0

    def batch(self) -> dict[str, Any]:
        """The next judgments or items, as the model reads them."""
        size, total = self.trainer.args.per_device_train_batch_size, self.trainer.train_items.judgments
        chosen = [(self.place + offset) % total for offset in range(size)]
        self.place += size
        return dict(self.trainer.data_collator(chosen))

    def step(self) -> tuple[float, float, float]:
        """Seconds of one step, by the clock and of the processor, and seconds of its collation."""
        trainer = self.trainer
        start, work = time.perf_counter(), time.process_time()
        batch = self.batch()
        read = time.perf_counter()
        total = trainer._get_num_items_in_batch([batch], trainer.args.device)
        trainer.training_step(trainer.model, batch, total)
        trainer.optimizer.step()
        trainer.model.zero_grad()
        return time.perf_counter() - start, time.process_time() - work, read - start


def tokens_of(batch: dict[str, Any]) -> tuple[int, int]:
    """Token places that a batch is laid out in, and its responses."""
    return sum(block["input_ids"].numel() for block in batch["blocks"]), int(batch["index"].max()) + 1


def measured(model: str, folder: str, options: argparse.Namespace) -> dict[str, Any]:
    pairs = pairs_of(model, 4 * options.pairs)
    ready = {kind: Stepping(trainer_of(kind, folder, pairs, options.pairs)) for kind in KINDS}
    read = {kind: tokens_of(stepping.batch()) for kind, stepping in ready.items()}
    if len(set(read.values())) > 1:
        raise SystemExit(f"{model}: the objectives do not read the same: {read}")
    times: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in KINDS}
    for turn in range(WARM + options.repeats):
        for kind in list(KINDS)[:: 1 if turn % 2 else -1]:
            found = ready[kind].step()
            if turn >= WARM:
                times[kind].append(found)
    first = next(iter(KINDS))
    kinds = []
    for kind, (_, labels) in KINDS.items():
        pairs_of_steps = list(zip(times[kind], times[first], strict=True))
        clock, work = (quantiles([one[part] / other[part] for one, other in pairs_of_steps], n=4) for part in (0, 1))
        seconds, _, collation = (median(found[part] for found in times[kind]) for part in range(3))
        kinds.append(
            {
                "name": kind,
                "labels": labels,
                "seconds": seconds,
                "collation": collation,
                "clock": clock,
                "work": work,
            }
        )
    return {"model": model, "tokens": read[first][0], "responses": read[first][1], "kinds": kinds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=8, help="in a step")
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    folders: dict[str, Path | str] = {"MiniLM": encoder(), "Llama": make_model(256, 4, TASK.vocabulary)}
    rows = []
    for model, folder in folders.items():
        row = measured(model, str(folder), options)
        print(row, flush=True)
        rows.append(row)
        store("dprm_step", {"options": vars(options), "threads": torch.get_num_threads(), "rows": rows})


if __name__ == "__main__":
    main()

"""What a step of MORE costs beside a step with uniform weights, and beside plain Plackett-Luce training.

An untrained Llama of 4 layers, 256 wide, reads 64 pairs a step (80 for five sources, as in the paper), in one
piece or in four micro-batches. The three trainers are one process and take their steps
in turn, on the same batches: a ratio compares neighbours in time, and the median is told. Peak memory is that of a
process of its own that takes a few steps.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import transformers
from common import OUT, in_own_process, store
from em_cost import peak
from speed import Task, make_model, rows_of

from pluralign.judgments import Judgments
from pluralign.training.more.config import MOREConfig
from pluralign.training.more.trainer import MORETrainer
from pluralign.training.reward_trainer import PlackettLuceConfig, PlackettLuceTrainer

TASK = Task("pairs, prompt 48 + 32", 48, 32, judgments=64, accumulation=1, vocabulary=8192)
KINDS = ("plain", "uniform", "more")
CASES = ((1, 64, 1), (2, 64, 1), (5, 80, 1), (16, 64, 1), (64, 64, 1), (5, 80, 4))
"""Sources, judgments of a step, micro-batches."""
WARM = 2


def trainer_of(kind: str, sources: int, batch: int, parts: int, steps: int, model: Path) -> Any:
    """A trainer on judgments of so many sources; all see the same order of the same rows."""
    rows = rows_of(TASK, 1 + steps * batch // TASK.judgments)[: steps * batch]
    table = Judgments.from_rows([{**row, "source": f"s{place % sources:02}"} for place, row in enumerate(rows)])
    common: dict[str, Any] = {
        "per_device_train_batch_size": batch // parts, "gradient_accumulation_steps": parts, "max_length": 256,
        "use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "max_steps": steps,
        "train_sampling_strategy": "sequential",
    }  # fmt: skip
    transformers.set_seed(0)
    if kind == "plain":
        return PlackettLuceTrainer(str(model), PlackettLuceConfig("unused", **common), table)
    return MORETrainer(str(model), MOREConfig("unused", weights=kind, **common), table)


class Stepping:
    """A trainer that takes one optimiser step at a time."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        trainer.create_optimizer_and_scheduler(1000)
        size = trainer.args.per_device_train_batch_size
        self.rows = list(range(trainer.train_items.judgments))
        self.size, self.place = size, 0

    def step(self) -> float:
        """Seconds of one step, the collation left out: it is the same work for all."""
        trainer = self.trainer
        parts = []
        for _ in range(trainer.args.gradient_accumulation_steps):
            chosen = [self.rows[(self.place + offset) % len(self.rows)] for offset in range(self.size)]
            self.place += self.size
            parts.append(trainer.data_collator(chosen))
        start = time.perf_counter()
        total = trainer._get_num_items_in_batch(parts, trainer.args.device)
        for part in parts:
            trainer.training_step(trainer.model, part, total)
        trainer.optimizer.step()
        trainer.model.zero_grad()
        return time.perf_counter() - start


def measured(sources: int, batch: int, parts: int, repeats: int, model: Path) -> dict[str, Any]:
    """Median seconds of a step of each kind, and median ratios to the uniform step beside it."""
    ready = {kind: Stepping(trainer_of(kind, sources, batch, parts, 4, model)) for kind in KINDS}
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for turn in range(WARM + repeats):
        for kind in KINDS if turn % 2 else KINDS[::-1]:
            seconds = ready[kind].step()
            if turn >= WARM:
                times[kind].append(seconds)
    ratios = {
        kind: median(a / b for a, b in zip(times[kind], times["uniform"], strict=True)) for kind in ("plain", "more")
    }
    return {"seconds": {kind: median(found) for kind, found in times.items()}, "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--only", choices=("memory",), help="measure the memory of stored rows again")
    parser.add_argument("--job", help="for the process of its own that measures memory")
    options = parser.parse_args()
    model = make_model(256, 4, TASK.vocabulary)
    if options.job:
        given = json.loads(options.job)
        stepping = Stepping(trainer_of(steps=4, model=model, **given))
        for _ in range(3):
            stepping.step()
        print(json.dumps({"peak": 2**10 * peak()}))
        return
    before = json.loads((OUT / "more_cost.json").read_text())["rows"] if options.only else []
    rows = []
    for place, (sources, batch, parts) in enumerate(CASES):
        row = {"sources": sources, "batch": batch, "parts": parts}
        row |= before[place] if options.only else measured(sources, batch, parts, options.repeats, model)
        row["peak"] = {
            kind: in_own_process(__file__, {"kind": kind, "sources": sources, "batch": batch, "parts": parts})["peak"]
            for kind in KINDS
        }
        print(row, flush=True)
        rows.append(row)
        store("more_cost", {"options": vars(options), "rows": rows})


if __name__ == "__main__":
    main()

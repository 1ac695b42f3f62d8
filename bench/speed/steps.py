"""Seconds and memory of a training step: prompt trees against flat rows and against TRL, on random texts.

Each measurement is a process of its own, so its peak memory is its own. The methods of a task run one after the other
and the whole is repeated, so a ratio compares neighbours in time. A step lasts from the end of one optimiser step to
the end of the next, loading of the batch included; the first steps are left out. All methods of a task read the same
judgments in the same number of steps; reference log-probabilities are computed beforehand.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..common.options import parsed
from ..common.results import in_own_process, peak_memory, store
from ..common.training import PLAIN, Task, random_llama, rows_of, temporary

RANKINGS = Task("rankings of 4, prompt 192 + response 48", 192, 48, 4, 4, judgments=6, accumulation=4)
CROWD = Task("10 judgments on the same 4 responses, 192 + 48", 192, 48, 2, 4, 10, judgments=20, accumulation=4)
TASKS = (
    RANKINGS,
    Task("pairs, prompt 256 + 64", 256, 64, judgments=12),
    Task("pairs, prompt 16 + 128, ragged", 16, 128, ragged=True, judgments=16),
    CROWD,
    replace(RANKINGS, name="rankings of 4, 192 + 48, vocabulary of 8,192", vocabulary=8192),
    replace(CROWD, name="10 judgments on the same 4, 192 + 48, vocabulary of 8,192", vocabulary=8192),
)
TREES, FLAT, SAME_ROWS, TRL = "ours, trees", "ours, flat, each text once", "ours, flat, TRL's rows", "TRL"


def pairs_of(task: Task, steps: int) -> list[dict[str, str]]:
    """The adjacent pairs of every ranking, one row each, as TRL takes them."""
    return [
        {"prompt": row["prompt"], "chosen": better, "rejected": worse}
        for row in rows_of(task, steps)
        for better, worse in zip(row["responses"], row["responses"][1:], strict=False)
    ]


def measure(task: dict[str, Any], objective: str, method: str, model: str, steps: int, warm: int) -> dict[str, float]:
    """Mean and standard deviation of the seconds per step, and the process's peak memory in GiB."""
    import transformers

    ends: list[float] = []

    class Ends(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    make = _trl if method == TRL else _ours
    trainer = make(Task(**task), objective, method, warm + steps, model)
    trainer.add_callback(Ends())
    trainer.train()
    seconds = np.diff(ends)[warm - 1 :]
    return {"seconds": float(seconds.mean()), "spread": float(seconds.std()), "peak": peak_memory()}


def _common(task: Task, steps: int, batch: int) -> dict[str, Any]:
    return temporary(
        per_device_train_batch_size=batch, max_steps=steps, gradient_accumulation_steps=task.accumulation,
        learning_rate=1e-5, logging_steps=1000, max_length=None, train_sampling_strategy="sequential", **PLAIN,
    )  # fmt: skip


def _ours(task: Task, objective: str, method: str, steps: int, model: str) -> Any:
    import torch

    import pluralign

    values = _common(task, steps, task.judgments) | {"layout": "tree" if method == TREES else "flat"}
    rows = rows_of(task, steps)
    if method == SAME_ROWS:
        # Each pair's prompt gets a first word of its own, so that no two pairs share a text.
        rows = [
            {"prompt": f"w{index % 1000} {row['prompt'].split(' ', 1)[1]}", "ranks": [1, 2],
             "responses": [row["chosen"], row["rejected"]]}
            for index, row in enumerate(pairs_of(task, steps))
        ]  # fmt: skip
        values["per_device_train_batch_size"] *= task.ranking - 1
    judgments = pluralign.Judgments.from_rows(rows)
    if objective == "dpo":
        return pluralign.DPOTrainer(model, args=pluralign.DPOConfig(**values), train_dataset=judgments)
    values["model_init_kwargs"] = {"dtype": torch.float32}
    return pluralign.BradleyTerryTrainer(model, args=pluralign.BradleyTerryConfig(**values), train_dataset=judgments)


def _trl(task: Task, objective: str, method: str, steps: int, model: str) -> Any:
    import datasets
    import trl

    values = _common(task, steps, task.judgments * (task.ranking - 1))
    dataset = datasets.Dataset.from_list(pairs_of(task, steps))
    if objective == "dpo":
        args = trl.DPOConfig(**values, precompute_ref_log_probs=True)
        return trl.DPOTrainer(model, args=args, train_dataset=dataset)
    return trl.RewardTrainer(model, trl.RewardConfig(**values), train_dataset=dataset)


def measured(task: Task, objective: str, method: str, options: argparse.Namespace) -> dict[str, float]:
    """`measure` in a process of its own, with an empty cache."""
    model: Path = random_llama(options.hidden, options.layers, task.vocabulary)
    given = {"task": asdict(task), "objective": objective, "method": method, "model": str(model)}
    given |= {"steps": options.steps, "warm": options.warm}
    return in_own_process(measure, given, PLURALIGN_CACHE=tempfile.mkdtemp())


def tasks(options: argparse.Namespace) -> None:
    """Every task with every method, several times in turn."""
    rows = []
    for task in TASKS:
        shared = task.responses > 2
        for objective in ("dpo",) if shared else ("dpo", "reward"):
            methods = [TREES, FLAT, SAME_ROWS, TRL] if shared else [TREES, FLAT, TRL]
            runs: dict[str, list[dict[str, float]]] = {method: [] for method in methods}
            for _ in range(options.repeats):
                for method in methods:
                    runs[method].append(measured(task, objective, method, options))
                    print(task.name, objective, method, runs[method][-1], flush=True)
            rows.append({"task": task.name, "objective": objective, "runs": runs})
            store("speed", {"options": vars(options), "rows": rows})


def curves(options: argparse.Namespace) -> None:
    """How the ratios change with what the judgments share."""
    ranked = {size: Task("", 192, 48, size, size, judgments=max(1, 12 // size)) for size in (2, 4, 16, 64)}
    crowds = {count: Task("", 192, 48, 2, 4, count, judgments=count) for count in (1, 5, 20, 50)}
    prompts = {share: Task("", int(320 * share), 320 - int(320 * share), judgments=8) for share in (0.1, 0.5, 0.9)}
    points = {
        "judgments on the same 4 responses, 192 + 48": crowds,
        "responses in a ranking, 192 + 48": ranked,
        "prompt's share of 320 tokens, pairs": prompts,
    }
    found: dict[str, list[Any]] = {}
    for name, values in points.items():
        for value, task in values.items():
            once = replace(task, accumulation=1)
            seconds = {kind: measured(once, "dpo", kind, options)["seconds"] for kind in (TREES, SAME_ROWS, TRL)}
            found.setdefault(name, []).append({"value": value, **seconds})
            print(name, found[name][-1], flush=True)
            store("speed_curves", found)


def main() -> None:
    options = parsed(
        __doc__, steps=1, warm=1, repeats=2, hidden=384, layers=6, curves=(False, "Measure the curves instead.")
    )
    (curves if options.curves else tasks)(options)

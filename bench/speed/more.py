"""A step of MORE beside a step with uniform weights and beside plain Plackett-Luce training.

An untrained Llama of 4 layers and width 256 reads 64 pairs a step (80 for five sources, as in the paper), in one piece
or in four micro-batches. The three trainers take their steps in turn in one process, on the same batches; medians are
reported, without collation, which is the same work for all. Peak memory is that of a process of its own that takes a
few steps.
"""

from __future__ import annotations

from statistics import median
from typing import Any

import transformers

from pluralign.judgments import Judgments
from pluralign.training.more.config import MOREConfig
from pluralign.training.more.trainer import MORETrainer
from pluralign.training.reward_trainer import PlackettLuceConfig, PlackettLuceTrainer

from ..common.options import parsed
from ..common.results import in_own_process, peak_memory, store
from ..common.training import QUIET, Task, random_llama, rows_of
from .stepping import Stepper, in_turn

TASK = Task("pairs, prompt 48 + 32", 48, 32, judgments=64, accumulation=1, vocabulary=8192)
KINDS = ("plain", "uniform", "more")
CASES = ((1, 64, 1), (2, 64, 1), (5, 80, 1), (16, 64, 1), (64, 64, 1), (5, 80, 4))
"""Sources, judgments per step, micro-batches."""


def stepper(kind: str, sources: int, batch: int, parts: int, steps: int = 4) -> Stepper:
    """A trainer on judgments of several sources; all kinds read the same rows in the same order."""
    model = str(random_llama(256, 4, TASK.vocabulary))
    rows = rows_of(TASK, 1 + steps * batch // TASK.judgments)[: steps * batch]
    table = Judgments.from_rows([{**row, "source": f"s{place % sources:02}"} for place, row in enumerate(rows)])
    common: dict[str, Any] = QUIET | {
        "per_device_train_batch_size": batch // parts, "gradient_accumulation_steps": parts, "max_length": 256,
        "use_cpu": True, "max_steps": steps, "train_sampling_strategy": "sequential",
    }  # fmt: skip
    transformers.set_seed(0)
    if kind == "plain":
        return Stepper(PlackettLuceTrainer(model, args=PlackettLuceConfig("unused", **common), train_dataset=table))
    return Stepper(MORETrainer(model, args=MOREConfig("unused", weights=kind, **common), train_dataset=table))


def measured(case: dict[str, int], repeats: int) -> dict[str, Any]:
    """Median seconds per step of each kind, and median ratios to the uniform step beside it."""
    steps = in_turn({kind: stepper(kind, **case).step for kind in KINDS}, repeats)
    times = {kind: [seconds.computing for seconds in found] for kind, found in steps.items()}
    ratios = {kind: median(a / b for a, b in zip(times[kind], times["uniform"], strict=True)) for kind in KINDS}
    return {"seconds": {kind: median(found) for kind, found in times.items()}, "ratios": ratios}


def peak(**case: Any) -> float:
    """The peak memory in MiB of a process that takes three steps."""
    run = stepper(**case)
    for _ in range(3):
        run.step()
    return 2**10 * peak_memory()


def main() -> None:
    options = parsed(__doc__, repeats=10)
    rows = []
    for sources, batch, parts in CASES:
        case = {"sources": sources, "batch": batch, "parts": parts}
        row = case | measured(case, options.repeats)
        row["peak"] = {kind: in_own_process(peak, case | {"kind": kind}) for kind in KINDS}
        print(row, flush=True)
        rows.append(row)
        store("more_cost", {"options": vars(options), "rows": rows})

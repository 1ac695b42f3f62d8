"""Optimiser steps of several trainers in one process, taken in turn so that ratios compare neighbours in time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


def in_turn(runs: Mapping[str, Callable[[], T]], repeats: int, warm: int = 2) -> dict[str, list[T]]:
    """The results of runs that alternate, forwards and backwards; the first turns are left out."""
    found: dict[str, list[T]] = {name: [] for name in runs}
    for turn in range(warm + repeats):
        for name in list(runs)[:: 1 if turn % 2 else -1]:
            result = runs[name]()
            if turn >= warm:
                found[name].append(result)
    return found


@dataclass(frozen=True)
class Seconds:
    """Of one step: wall clock, processor time, and the part of the clock that collation took."""

    clock: float
    work: float
    collation: float

    @property
    def computing(self) -> float:
        """The clock without collation."""
        return self.clock - self.collation


class Stepper:
    """A trainer that takes one optimiser step at a time, over its judgments in order."""

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.place = trainer, 0
        trainer.create_optimizer_and_scheduler(1000)

    def batch(self) -> Any:
        """The next micro-batch, as the model reads it."""
        size, total = self.trainer.args.per_device_train_batch_size, self.trainer.train_items.judgments
        chosen = [(self.place + offset) % total for offset in range(size)]
        self.place += size
        return self.trainer.data_collator(chosen)

    def step(self) -> Seconds:
        trainer = self.trainer
        start, work = time.perf_counter(), time.process_time()
        parts = [dict(self.batch()) for _ in range(trainer.args.gradient_accumulation_steps)]
        collated = time.perf_counter()
        total = trainer._get_num_items_in_batch(parts, trainer.args.device)
        for part in parts:
            trainer.training_step(trainer.model, part, total)
        trainer.optimizer.step()
        trainer.model.zero_grad()
        return Seconds(time.perf_counter() - start, time.process_time() - work, collated - start)

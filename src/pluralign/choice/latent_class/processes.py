"""Annotators who are sharded over the processes of `torch.distributed`: sums over all of them, and samples of them."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed
from numpy.typing import ArrayLike
from torch import Tensor

from pluralign.choice.latent_class.panel import Panel
from pluralign.core.processes import names_lost_process

LEAST_ANNOTATORS = 20
"""A panel with fewer annotators per process is not sharded: every process works on all of it."""

Result = TypeVar("Result")


@contextlib.contextmanager
def launched(work: str) -> Iterator[int | None]:
    """The number of this process where a launcher such as `torchrun` started several; `None` if it is alone.

    They are a group of `torch.distributed` meanwhile.

    Args:
        work: what the processes do together.

    Raises:
        TrainingError: another process has stopped.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield None
        return
    # The others wait while the first process works alone; that one has ended is seen by its closed connections.
    torch.distributed.init_process_group("gloo", timeout=datetime.timedelta(days=1))
    try:
        with names_lost_process(work, "run the same command again"):
            yield torch.distributed.get_rank()
    finally:
        torch.distributed.destroy_process_group()


def dealt(panel: Panel) -> Panel:
    """This process's annotators of a panel that every process holds, so that all have about as many judgments.

    Small panels stay whole, and so do all panels in a single process.
    """
    if not torch.distributed.is_initialized():
        return panel
    processes = torch.distributed.get_world_size()
    if processes == 1 or panel.annotators < processes * LEAST_ANNOTATORS:
        return panel
    made = np.bincount(panel.annotator_ids, minlength=panel.annotators).cumsum()
    ends = np.searchsorted(made, panel.judgments * np.arange(1, processes) / processes)
    own = np.split(np.arange(panel.annotators), ends)[torch.distributed.get_rank()]
    return replace(panel.of_annotators(own), sharded=True)


def of_everyone(panel: Panel, values: np.ndarray) -> np.ndarray:
    """Values of a panel's annotators `(annotators, ...)`; of a sharded panel those of all processes, in each."""
    return np.concatenate(_of_all(values)) if panel.sharded else values


def from_first(make: Callable[[], Result]) -> Result:
    """What `make` returns in the first process, in all of them."""
    found = [make() if torch.distributed.get_rank() == 0 else None]
    torch.distributed.broadcast_object_list(found)
    return found[0]  # type: ignore[return-value]


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of the processes' values, the same in each."""
    whole = values.clone(memory_format=torch.contiguous_format)
    torch.distributed.all_reduce(whole)
    return whole


def annotators_before(panel: Panel) -> tuple[int, int]:
    """How many annotators the earlier processes hold, and how many there are; of a panel that is not sharded, all."""
    if not panel.sharded:
        return 0, panel.annotators
    numbers = _of_all(panel.annotators)
    return sum(numbers[: torch.distributed.get_rank()]), sum(numbers)


def sample_of(panel: Panel, judgments: int, least: int, seed: int) -> Panel:
    """Random annotators with about so many judgments, and at least so many annotators; all if there are no more.

    The sample of a sharded panel is gathered in every process: it is the one that a single process would draw.
    """
    before, annotators = annotators_before(panel)
    made = np.bincount(panel.annotator_ids, minlength=panel.annotators)
    counts = np.concatenate(_of_all(made)) if panel.sharded else made
    if counts.sum() <= judgments:
        return gathered(panel) if panel.sharded else panel
    order = np.random.default_rng(seed).permutation(annotators)
    number = max(least, int(np.searchsorted(counts[order].cumsum(), judgments)))
    chosen = np.sort(order[:number])
    own = panel.of_annotators(chosen[(chosen >= before) & (chosen < before + panel.annotators)] - before)
    return gathered(own) if panel.sharded else own


def gathered(panel: Panel) -> Panel:
    """All annotators of a sharded panel, in every process."""
    before, _ = annotators_before(panel)
    width = max(_of_all(panel.rank_values.shape[1]))

    def padded(values: np.ndarray, filling: int) -> np.ndarray:
        return np.pad(values, ((0, 0), (0, width - values.shape[1])), constant_values=filling)

    def joined(values: ArrayLike) -> np.ndarray:
        return np.concatenate(_of_all(np.asarray(values)))

    return replace(
        panel,
        responses=joined(padded(panel.response_ids, 0)),
        ranks=joined(padded(panel.rank_values, -1)),
        annotator=joined(panel.annotator_ids + before),
        reliability=None if panel.reliability is None else joined(panel.reliability),
        population=joined(panel.weights),
        covariates=None if panel.covariates is None else joined(panel.covariates),
        response_total=panel.response_count,
        sharded=False,
    )


def _of_all(value: Any) -> list[Any]:
    """The values of all processes, by rank."""
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values

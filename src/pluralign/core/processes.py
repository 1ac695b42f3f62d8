"""Work that several processes share."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from pluralign.core.errors import PluralignError, TrainingError, one_line
from pluralign.core.progress import CONSOLE

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], processes: int
) -> Generator[Result, None, None]:
    """The results of a function for all items, in their order, computed by several processes.

    The processes say nothing, and end with this one. If the results are not read to their end, they are stopped. One
    process is this one.

    Args:
        function: a function of a module.
        items: its arguments.
        processes: how many work at the same time.

    Raises:
        PluralignError: one of the processes was killed.
    """
    if processes == 1:
        yield from map(function, items)
        return
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")  # forked threads of Arrow may hang
    pool = ProcessPoolExecutor(min(processes, len(items)), context, initializer=_begin)
    whole = False
    try:
        yield from pool.map(function, items)
        whole = True
    except BrokenProcessPool as fault:
        raise PluralignError(
            f"one of {processes} processes has ended before its work was done: it was killed, memory ran out, or a "
            "script that starts processes lacks `if __name__ == '__main__':`; nothing was written"
        ) from fault
    finally:
        if not whole:
            for child in {*multiprocessing.active_children()} - others:
                child.terminate()
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def names_lost_process(work: str, then: str) -> Iterator[None]:
    """Say so in one line if another process of `torch.distributed` no longer answers.

    Args:
        work: what the processes do together.
        then: what the person can do.

    Raises:
        TrainingError: another process has stopped.
    """
    try:
        yield
    except RuntimeError as fault:
        lost = any(kind.__name__ == "DistError" for kind in type(fault).__mro__)
        if not (lost or "gloo/" in str(fault) or "NCCL" in str(fault)):
            raise
        raise TrainingError(
            f"another process of this {work} has stopped: see its own message ({one_line(str(fault))}); {then}"
        ) from fault


def _begin() -> None:
    """Start a process: it is silent, and ends when its parent does; the parent stops it when it is interrupted."""
    CONSOLE.quiet = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: Any) -> None:
    parent.join()
    os._exit(1)

"""Work that several processes of this machine share."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from pluralign.core.errors import PluralignError
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

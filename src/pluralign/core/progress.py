"""What a command says on the error stream: lines, and progress with the time left, as a bar on a terminal."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")

PAUSE = 30.0
"""Seconds between lines of progress where there is no terminal; shorter work prints none."""


@dataclass
class Console:
    """How much is said: nothing if `quiet`; also by the steps of a command, if `verbose`."""

    quiet: bool = False
    verbose: bool = False


CONSOLE = Console()
"""The settings of this process."""


@contextmanager
def silenced() -> Iterator[None]:
    """Say nothing and warn of nothing within a context, unless the console is verbose."""
    if CONSOLE.verbose:
        yield
        return
    own = logging.getLogger("pluralign")
    before = CONSOLE.quiet, own.level
    CONSOLE.quiet = True
    own.setLevel(logging.ERROR)
    try:
        yield
    finally:
        CONSOLE.quiet = before[0]
        own.setLevel(before[1])


def say(line: str) -> None:
    """Print a line on the error stream, unless the console is quiet."""
    if not CONSOLE.quiet:
        print(line, file=sys.stderr, flush=True)


def track(
    items: Iterable[Item], description: str, total: int | None = None, size: Callable[[Item], int] = lambda item: 1
) -> Iterator[Item]:
    """Iterate over `items` and show progress on the error stream: a bar on a terminal, elsewhere a line per `PAUSE`.

    `total` counts what `size` gives for an item.

    Examples:
        >>> list(track([1, 2], "counting"))
        [1, 2]
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    if CONSOLE.quiet or not sys.stderr.isatty():
        yield from _lines(items, description, total, size)
        return
    import rich.console
    from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

    text, bar, _, time_left = Progress.get_default_columns()
    columns = (text, bar, MofNCompleteColumn(), TimeElapsedColumn(), time_left)
    with Progress(*columns, console=rich.console.Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=total)
        for item in items:
            yield item
            progress.advance(task, size(item))


def _lines(items: Iterable[Item], description: str, total: int | None, size: Callable[[Item], int]) -> Iterator[Item]:
    """Say at most once in `PAUSE` seconds how far the work is."""
    start = told = time.monotonic()
    done = 0
    for item in items:
        yield item
        done, now = done + size(item), time.monotonic()
        if done and now - told >= PAUSE:
            told, passed = now, now - start
            left = "" if total is None else f" of {total}, about {passed / done * (total - done):.0f} s left"
            say(f"{description}: {done}{left} ({passed:.0f} s so far)")

"""Progress with the time left: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

Item = TypeVar("Item")

PAUSE = 30.0
"""Seconds between lines where there is no terminal; shorter work prints none."""


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Iterate over `items` and show progress on the error stream: a bar on a terminal, elsewhere a line per `PAUSE`.

    Examples:
        >>> list(track([1, 2], "counting"))
        [1, 2]
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    if not sys.stderr.isatty():
        yield from _lines(items, description, total)
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

    text, bar, _, time_left = Progress.get_default_columns()
    columns = (text, bar, MofNCompleteColumn(), TimeElapsedColumn(), time_left)
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(items, total=total, description=description)


def _lines(items: Iterable[Item], description: str, total: int | None) -> Iterator[Item]:
    """Say at most once in `PAUSE` seconds how far the work is."""
    start = told = time.monotonic()
    for number, item in enumerate(items):
        now = time.monotonic()
        if number and now - told >= PAUSE:
            told, passed = now, now - start
            left = "" if total is None else f" of {total}, about {passed / number * (total - number):.0f} s left"
            print(f"{description}: {number}{left} ({passed:.0f} s so far)", file=sys.stderr, flush=True)
        yield item

"""Votes as counts, of everyone and of slices: a source's, a group's, a month's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from pluralign.core.errors import PluralignError, nearest
from pluralign.evaluation.pairs import Floats, Ints, real_numbers, whole_numbers
from pluralign.evaluation.slices import coded

Window = Literal["year", "month", "day"]


@dataclass(frozen=True)
class VoteSlice:
    """The votes of a slice, on the items that it voted on.

    Attributes:
        name: of the slice, as `group=young` or `time=2025-01`.
        items: the items it voted on, int64 `(voted,)`, ascending.
        votes: its counts on them, float64 `(voted, labels)`.
    """

    name: str
    items: Ints
    votes: Floats


def vote_counts(item: ArrayLike, label: ArrayLike, items: int, labels: int, weight: ArrayLike | None = None) -> Floats:
    """How many votes each label of each item has.

    Args:
        item: of each vote, int `(votes,)`, from 0.
        label: place on the scale of each vote, int `(votes,)`, from 0.
        items: how many there are.
        labels: how many there are.
        weight: what each vote counts, at least 0, `(votes,)`; None is 1.

    Returns:
        `(items, labels)`.

    Raises:
        PluralignError: arrays that do not fit, or numbers out of range.

    Examples:
        >>> vote_counts([0, 0, 1], [2, 2, 0], items=3, labels=3).tolist()
        [[0.0, 0.0, 2.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    on, what, worth = _checked(item, label, items, labels, weight)
    return _counted(on, what, worth, items, labels)


def sliced_votes(
    item: ArrayLike,
    label: ArrayLike,
    items: int,
    labels: int,
    columns: Mapping[str, Sequence[str | None]],
    weight: ArrayLike | None = None,
) -> Iterator[VoteSlice]:
    """The counts of each slice's own votes, slice by slice.

    An item that two groups voted on is in both slices, each time with the votes of that group alone.

    Args:
        item, label, items, labels, weight: as in `vote_counts`.
        columns: for each column (such as "source", "group" or "time", see `time_names`) its value for every vote,
            `(votes,)`; a vote whose value is None is in no slice of that column.

    Yields:
        slices, values in sorted order; one whose votes have no weight is left out.

    Raises:
        PluralignError: as in `vote_counts`, or a column that does not fit.

    Examples:
        >>> slices = sliced_votes([0, 0, 1], [0, 1, 1], 2, 2, {"group": ["young", "old", "old"]})
        >>> [(one.name, one.items.tolist(), one.votes.tolist()) for one in slices]
        [('group=old', [0, 1], [[0.0, 1.0], [0.0, 1.0]]), ('group=young', [0], [[1.0, 0.0]])]
    """
    on, what, worth = _checked(item, label, items, labels, weight)
    for column, values in columns.items():
        names, code = coded(column, values, len(on))
        order = np.argsort(code, kind="stable")
        bounds = np.searchsorted(code[order], np.arange(len(names) + 1))
        for k, name in enumerate(names):
            own = order[bounds[k] : bounds[k + 1]]
            voted, place = np.unique(on[own], return_inverse=True)
            counts = _counted(place, what[own], worth[own], len(voted), labels)
            heard = counts.sum(axis=1) > 0
            if heard.any():
                yield VoteSlice(f"{column}={name}", voted[heard], counts[heard])


def time_names(times: ArrayLike, window: Window = "month") -> list[str | None]:
    """The window of each time as a name that sorts by time: `2025`, `2025-01` or `2025-01-31`.

    Args:
        times: datetime64 or ISO 8601 texts without a zone, `(votes,)`, taken as UTC; NaT and None have no window.
        window: how long one is.

    Raises:
        PluralignError: unknown window, or what is no time.

    Examples:
        >>> time_names(["2025-01-31T23:59", None, "2025-02-01"])
        ['2025-01', None, '2025-02']
    """
    if window not in get_args(Window):
        known = get_args(Window)
        raise PluralignError(f"window is '{window}', expected one of {', '.join(known)}{nearest(str(window), known)}")
    try:
        moments = np.asarray(times, dtype="datetime64[s]")
    except ValueError as fault:
        raise PluralignError(f"times: {fault}, expected datetime64 or ISO 8601") from fault
    unit: Literal["Y", "M", "D"] = "Y" if window == "year" else "M" if window == "month" else "D"
    names = np.datetime_as_string(moments, unit=unit, casting="unsafe").tolist()
    return [None if missing else name for name, missing in zip(names, np.isnat(moments).tolist(), strict=True)]


def _counted(item: Ints, label: Ints, weight: Floats, items: int, labels: int) -> Floats:
    cells = np.bincount(item * labels + label, weights=weight, minlength=items * labels)
    return cells.astype(np.float64).reshape(items, labels)


def _checked(
    item: ArrayLike, label: ArrayLike, items: int, labels: int, weight: ArrayLike | None
) -> tuple[Ints, Ints, Floats]:
    on, what = whole_numbers("item", item), whole_numbers("label", label)
    worth = np.ones(len(on)) if weight is None else real_numbers("weight", weight)
    for name, values in (("label", what), ("weight", worth)):
        if len(values) != len(on):
            raise PluralignError(f"{name}: {len(values)} values, expected {len(on)}, one per vote")
    for name, values, size in (("item", on, items), ("label", what, labels)):
        wrong = np.flatnonzero((values < 0) | (values >= size))
        if len(wrong):
            raise PluralignError(f"{name}[{wrong[0]}] is {values[wrong[0]]}, expected 0 to {size - 1}")
    wrong = np.flatnonzero(~(np.isfinite(worth) & (worth >= 0)))
    if len(wrong):
        raise PluralignError(f"weight[{wrong[0]}] is {worth[wrong[0]]}, expected a finite number of at least 0")
    return on, what, worth

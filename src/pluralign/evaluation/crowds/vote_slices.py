"""Vote counts, of all votes and of slices by source, group or time."""

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
    """The votes of a slice.

    Attributes:
        name: of the slice, as `group=young` or `time=2025-01`.
        items: the items with a vote of the slice, int64 `(voted,)`, ascending.
        votes: its counts on those items, float64 `(voted, labels)`.
    """

    name: str
    items: Ints
    votes: Floats


def vote_counts(item: ArrayLike, label: ArrayLike, items: int, labels: int, weight: ArrayLike | None = None) -> Floats:
    """The number of votes for each label of each item.

    Args:
        item: of each vote, int `(votes,)`, from 0 to `items` - 1.
        label: of each vote as its index on the scale, int `(votes,)`, from 0 to `labels` - 1.
        weight: of each vote, at least 0, `(votes,)`; None is 1.

    Returns:
        `(items, labels)`.

    Raises:
        PluralignError: arrays that do not fit, or numbers out of range.

    Examples:
        >>> vote_counts([0, 0, 1], [2, 2, 0], items=3, labels=3).tolist()
        [[0.0, 0.0, 2.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    at, choice, mass = _checked(item, label, items, labels, weight)
    return _counted(at, choice, mass, items, labels)


def sliced_votes(
    item: ArrayLike,
    label: ArrayLike,
    items: int,
    labels: int,
    columns: Mapping[str, Sequence[str | None]],
    weight: ArrayLike | None = None,
) -> Iterator[VoteSlice]:
    """The vote counts of each slice.

    An item with votes of two groups is in both slices, each time with only the votes of that group.

    Args:
        item, label, items, labels, weight: as in `vote_counts`.
        columns: for each column (such as "source", "group" or "time", see `time_names`) its value for every vote,
            `(votes,)`; a vote whose value is None is in no slice of that column.

    Yields:
        slices, values in sorted order; a slice whose votes have no weight is left out.

    Raises:
        PluralignError: as in `vote_counts`, or a column that does not fit.

    Examples:
        >>> slices = sliced_votes([0, 0, 1], [0, 1, 1], 2, 2, {"group": ["young", "old", "old"]})
        >>> [(part.name, part.items.tolist(), part.votes.tolist()) for part in slices]
        [('group=old', [0, 1], [[0.0, 1.0], [0.0, 1.0]]), ('group=young', [0], [[1.0, 0.0]])]
    """
    at, choice, mass = _checked(item, label, items, labels, weight)
    for column, values in columns.items():
        names, code = coded(column, values, len(at))
        order = np.argsort(code, kind="stable")
        bounds = np.searchsorted(code[order], np.arange(len(names) + 1))
        for k, name in enumerate(names):
            own = order[bounds[k] : bounds[k + 1]]
            voted, place = np.unique(at[own], return_inverse=True)
            counts = _counted(place, choice[own], mass[own], len(voted), labels)
            kept = counts.sum(axis=1) > 0
            if kept.any():
                yield VoteSlice(f"{column}={name}", voted[kept], counts[kept])


def time_names(times: ArrayLike, window: Window = "month") -> list[str | None]:
    """The window of each time as a name that sorts by time: `2025`, `2025-01` or `2025-01-31`.

    Args:
        times: datetime64 or ISO 8601 texts without a zone, `(votes,)`, taken as UTC; NaT and None have no window.
        window: length of a window.

    Raises:
        PluralignError: an unknown window, or a value that is not a time.

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
    """Sums of weights by item and label."""
    cells = np.bincount(item * labels + label, weights=weight, minlength=items * labels)
    return cells.astype(np.float64).reshape(items, labels)


def _checked(
    item: ArrayLike, label: ArrayLike, items: int, labels: int, weight: ArrayLike | None
) -> tuple[Ints, Ints, Floats]:
    """The arguments of `vote_counts` as arrays, or an error that names the argument that does not fit."""
    at, choice = whole_numbers("item", item), whole_numbers("label", label)
    mass = np.ones(len(at)) if weight is None else real_numbers("weight", weight)
    for name, values in (("label", choice), ("weight", mass)):
        if len(values) != len(at):
            raise PluralignError(f"{name}: {len(values)} values, expected {len(at)}, one per vote")
    for name, values, size in (("item", at, items), ("label", choice, labels)):
        wrong = np.flatnonzero((values < 0) | (values >= size))
        if len(wrong):
            raise PluralignError(f"{name}[{wrong[0]}] is {values[wrong[0]]}, expected 0 to {size - 1}")
    wrong = np.flatnonzero(~(np.isfinite(mass) & (mass >= 0)))
    if len(wrong):
        raise PluralignError(f"weight[{wrong[0]}] is {mass[wrong[0]]}, expected a finite number of at least 0")
    return at, choice, mass

"""Coincidences: how often a vote for one value meets another person's vote on the same unit.

They determine every number of agreement. Alpha takes the coincidences of all votes, a bootstrap replicate those of
the clusters drawn, an annotator's alpha his or her own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from pluralign.core.errors import PluralignError
from pluralign.evaluation.pairs import Floats, Ints, whole_numbers

Level = Literal["nominal", "ordinal"]


@dataclass(frozen=True)
class Comparable:
    """The votes on units that two people or more judged.

    Attributes:
        row: place of each vote in the arrays given, int64 `(votes,)`.
        unit, value: codes from 0, int64 `(votes,)`.
        person: code of (unit, annotator), int64 `(votes,)`.
        share: 1 / number of values this person gave to the unit, float64 `(votes,)`.
        people: how many people judged the unit, float64 `(votes,)`.
        categories: the distinct values in order, int64 `(categories,)`.
        both_orders: every value counts as its negative as well.
    """

    row: Ints
    unit: Ints
    value: Ints
    person: Ints
    share: Floats
    people: Floats
    categories: Ints
    both_orders: bool


def comparable(
    unit: ArrayLike, value: ArrayLike, annotator: ArrayLike | None, level: str, both_orders: bool
) -> Comparable:
    """The votes that can be compared with another person's, from the arguments of `krippendorff_alpha`.

    Raises:
        PluralignError: arrays of different lengths or not whole numbers, or an unknown level.

    Examples:
        The second unit has one person's value only.

        >>> votes = comparable([7, 7, 7, 9], [1, 2, 2, 1], [0, 1, 1, 0], "nominal", False)
        >>> votes.row.tolist(), votes.share.tolist(), votes.people.tolist()
        ([0, 1, 2], [1.0, 0.5, 0.5], [2.0, 2.0, 2.0])
    """
    if level not in get_args(Level):
        raise PluralignError(f"level is {level!r}, expected one of {', '.join(get_args(Level))}")
    about, said = whole_numbers("unit", unit), whole_numbers("value", value)
    same_length(len(about), value=said)
    about = np.unique(about, return_inverse=True)[1]
    if annotator is None:
        person, times = np.arange(len(about)), np.ones(len(about))
    else:
        who = whole_numbers("annotator", annotator)
        same_length(len(about), annotator=who)
        # An unknown annotator is nobody else's self: codes below every known one, each used once.
        who = np.where(who < 0, -1 - np.arange(len(who)), who)
        who = np.unique(who, return_inverse=True)[1]
        person = np.unique(about * (int(who.max(initial=0)) + 1) + who, return_inverse=True)[1]
        times = np.bincount(person)[person].astype(np.float64)
    people = np.rint(np.bincount(about, weights=1 / times)).astype(np.int64)[about]
    row = np.flatnonzero(people >= 2)
    said = said[row]
    categories = np.unique(np.concatenate([said, -said]) if both_orders else said)
    return Comparable(
        row=row,
        unit=np.unique(about[row], return_inverse=True)[1],
        value=np.searchsorted(categories, said),
        person=person[row],
        share=1 / times[row],
        people=people[row].astype(np.float64),
        categories=categories,
        both_orders=both_orders,
    )


def others(votes: Comparable) -> Iterator[Floats]:
    """For each category in turn, the share of the other people on each vote's unit who chose it.

    Yields:
        float64 `(votes,)`, `categories` times.

    Examples:
        >>> votes = comparable([0, 0, 0], [4, 4, 5], None, "nominal", False)
        >>> [share.tolist() for share in others(votes)]
        [[0.5, 0.5, 1.0], [0.5, 0.5, 0.0]]
    """
    for k in range(len(votes.categories)):
        chosen = votes.share * (votes.value == k)
        everyone = np.bincount(votes.unit, weights=chosen)[votes.unit]
        self = np.bincount(votes.person, weights=chosen)[votes.person]
        yield (everyone - self) / (votes.people - 1)


def coincidences(votes: Comparable, group: Ints, groups: int) -> Floats:
    """How often each group's votes c meet other people's votes k: the sum over its votes c of that share.

    Args:
        votes: the votes.
        group: group of each vote, int from 0 `(votes,)`.
        groups: how many there are.

    Returns:
        `(groups, categories, categories)`.

    Examples:
        >>> votes = comparable([0, 0, 0], [4, 4, 5], None, "nominal", False)
        >>> coincidences(votes, np.zeros(3, dtype=int), 1).tolist()
        [[[1.0, 1.0], [1.0, 0.0]]]
    """
    categories = len(votes.categories)
    found = np.zeros((groups, categories, categories))
    cell = group * categories + votes.value
    for k, share in enumerate(others(votes)):
        sums = np.bincount(cell, weights=votes.share * share, minlength=groups * categories)
        found[:, :, k] = sums.reshape(groups, categories)
    return found + found[:, ::-1, ::-1] if votes.both_orders else found


def alphas_of(observed: Floats, everyone: Floats, level: str) -> Floats:
    """1 - D_o / D_e of each group, with D_o from its coincidences and D_e from those of all.

    Args:
        observed: `(groups, categories, categories)`.
        everyone: `(categories, categories)`.
        level: "nominal" or "ordinal".

    Returns:
        `(groups,)`; nan marks an alpha that is not defined, for the caller to leave out.

    Examples:
        >>> everyone = np.array([[2.0, 1.0], [1.0, 2.0]])
        >>> alphas_of(np.stack([everyone, np.zeros((2, 2))]), everyone, "nominal").round(3).tolist()
        [0.444, nan]
    """
    margin = everyone.sum(axis=1)
    total = margin.sum()
    # A value that meets nobody else's has a margin of exactly 0: it is a sum less the same sum.
    if np.count_nonzero(margin) < 2:
        return np.full(len(observed), np.nan)
    if level == "ordinal":
        midrank = np.cumsum(margin) - margin / 2
        distance = ((midrank[:, None] - midrank) / total) ** 2
    else:
        distance = 1 - np.eye(len(margin))
    expected = margin @ distance @ margin / (total * (total - 1))
    pairs = observed.sum(axis=(1, 2))
    disagreement = np.einsum("gck,ck->g", observed, distance)
    return 1 - np.divide(disagreement, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0) / expected


def same_length(votes: int, **arrays: Ints) -> None:
    """Refuse arrays that do not have one element per vote.

    Examples:
        >>> same_length(2, value=np.zeros(3, dtype=int))
        Traceback (most recent call last):
        ...
        pluralign.core.errors.PluralignError: value: shape (3,), expected (2,), one per vote
    """
    for name, array in arrays.items():
        if len(array) != votes:
            raise PluralignError(f"{name}: shape ({len(array)},), expected ({votes},), one per vote")


def check_coverage(coverage: float) -> None:
    """Refuse a coverage that is not between 0 and 1.

    Examples:
        >>> check_coverage(95)
        Traceback (most recent call last):
        ...
        pluralign.core.errors.PluralignError: coverage is 95, expected a number between 0 and 1
    """
    if not 0 < coverage < 1:
        raise PluralignError(f"coverage is {coverage}, expected a number between 0 and 1")

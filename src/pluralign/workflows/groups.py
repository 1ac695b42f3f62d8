"""The known group of each annotator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import TypeVar

import numpy as np

from pluralign.judgments.codes import by_appearance

Annotator = TypeVar("Annotator", bound=Hashable)


def majority_groups(annotators: Iterable[Annotator], groups: Iterable[str | None]) -> dict[Annotator, str]:
    """The group that most judgments of each annotator name; annotators whose judgments name none are left out.

    Both arguments have a value per judgment.

    Examples:
        >>> majority_groups(["ann", "ann", "ann", "bob"], ["old", "young", "old", None])
        {'ann': 'old'}
    """
    votes: dict[Annotator, Counter[str]] = {}
    for annotator, group in zip(annotators, groups, strict=True):
        if group is not None:
            votes.setdefault(annotator, Counter())[group] += 1
    return {annotator: counts.most_common(1)[0][0] for annotator, counts in votes.items()}


def majority_codes(annotators: np.ndarray, groups: np.ndarray, size: int) -> np.ndarray:
    """The same for numbers: the group of each of `size` annotators, -1 where no judgment names one (group -1).

    Examples:
        >>> majority_codes(np.array([0, 0, 0, 1]), np.array([1, 0, 1, -1]), 2).tolist()
        [1, -1]
    """
    count = int(groups.max(initial=-1)) + 1
    named = groups >= 0
    pairs, place = by_appearance(annotators[named] * count + groups[named])
    owner, group = np.divmod(pairs, max(count, 1))
    order = np.lexsort((-np.bincount(place, minlength=len(pairs)), owner))  # of equal counts, the first to appear
    found = np.full(size, -1)
    found[owner[order][::-1]] = group[order][::-1]
    return found

"""The known group of each annotator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import TypeVar

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

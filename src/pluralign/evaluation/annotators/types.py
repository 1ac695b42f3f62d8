"""How well inferred annotator types match known groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike

from pluralign.choice.em_dpo import matched_types
from pluralign.core.errors import PluralignError
from pluralign.evaluation.intervals import Resampling
from pluralign.evaluation.pairs import Floats, whole_numbers
from pluralign.evaluation.slices import coded


def type_accuracy(
    fitted: ArrayLike,
    known: Sequence[str | None],
    types: int,
    *,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """Share of annotators whose type is matched with their group, under the best matching of types and groups.

    The matching is one to one, by the Hungarian method; annotators of a type or a group without a partner count as
    wrong. Choosing the best matching biases the share upwards if annotators are few: with two types and two groups it
    is never under 0.5. The interval is a percentile bootstrap over annotators with a new matching in each replicate.

    Args:
        fitted: type of each annotator, int from 0, `(annotators,)`.
        known: group of each annotator, `(annotators,)`; annotators with None are left out.
        types: number of types.
        replicates, level, seed: as in `pluralign.evaluation.intervals.Resampling`.

    Returns:
        `type_accuracy`, and with at least two annotators `type_accuracy_low` and `type_accuracy_high`; empty if no
        group is known.

    Raises:
        PluralignError: lengths do not fit, or a type is out of range.

    Examples:
        >>> type_accuracy([1, 1, 0, 0], ["old", "old", "young", "old"], 2, replicates=0)
        {'type_accuracy': 0.75}
    """
    kind = whole_numbers("fitted", fitted)
    names, group = coded("group", known, len(kind))
    if len(kind) and not 0 <= kind.min() <= kind.max() < types:
        raise PluralignError(f"fitted: types {kind.min()} to {kind.max()}, expected 0 to {types - 1}")
    kind, group = kind[group >= 0], group[group >= 0]
    if not len(kind):
        return {}
    # Annotators of equal type and group are interchangeable: the counts of the cells are what is drawn.
    counts = np.bincount(kind * len(names) + group, minlength=types * len(names))

    def accuracy(weights: Floats) -> dict[str, Floats]:
        return {"type_accuracy": np.array([_matched(row.reshape(types, -1)) for row in weights])}

    return Resampling.of_kinds(counts, replicates, level, seed).intervals(accuracy)


def _matched(table: Floats) -> float:
    """The share of the annotators in the cells of the best matching; table `(types, groups)`."""
    partner = matched_types(torch.eye(len(table)), torch.from_numpy(table)).numpy()
    matched = partner >= 0
    return float(table[np.flatnonzero(matched), partner[matched]].sum() / table.sum())

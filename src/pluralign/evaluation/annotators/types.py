"""How well types that were found match groups that are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike

from pluralign.choice.em_dpo import matched_types
from pluralign.core.errors import PluralignError
from pluralign.evaluation.pairs import Ints, whole_numbers
from pluralign.evaluation.slices import coded


def type_accuracy(
    found: ArrayLike,
    known: Sequence[str | None],
    types: int,
    *,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """Share of annotators whose type stands for their group, under the matching of types and groups that is best.

    The matching is one to one, by the Hungarian method; a type or a group without a partner is right for nobody.
    The best matching makes the share too large by chance where annotators are few: with two types and two groups
    it is never under 0.5. The interval is a percentile bootstrap over annotators that matches anew each time.

    Args:
        found: type of each annotator, int from 0, `(annotators,)`.
        known: group of each annotator, `(annotators,)`; None is left out.
        types: how many there are.
        replicates: bootstrap draws; 0 leaves the interval out.
        level: coverage the interval aims at.
        seed: of the bootstrap.

    Returns:
        `type_accuracy`, and with two annotators or more `type_accuracy_low` and `type_accuracy_high`; nothing
        where no group is known.

    Raises:
        PluralignError: lengths do not fit, or a type is not among those there are.

    Examples:
        >>> type_accuracy([1, 1, 0, 0], ["old", "old", "young", "old"], 2, replicates=0)
        {'type_accuracy': 0.75}
    """
    kind = whole_numbers("found", found)
    names, group = coded("group", known, len(kind))
    if len(kind) and not 0 <= kind.min() <= kind.max() < types:
        raise PluralignError(f"found: types {kind.min()} to {kind.max()}, expected 0 to {types - 1}")
    kind, group = kind[group >= 0], group[group >= 0]
    if not len(kind):
        return {}
    cells = types * len(names)
    counts = np.bincount(kind * len(names) + group, minlength=cells)
    metrics = {"type_accuracy": _matched(counts, types)}
    if replicates and len(kind) > 1:
        # Annotators of one type and group are alike here, so drawing them is drawing the cells' counts.
        drawn = np.random.default_rng(seed).multinomial(len(kind), counts / len(kind), size=replicates)
        low, high = np.quantile([_matched(one, types) for one in drawn], [(1 - level) / 2, (1 + level) / 2])
        metrics |= {"type_accuracy_low": float(low), "type_accuracy_high": float(high)}
    return metrics


def _matched(counts: Ints, types: int) -> float:
    """The share on the best matching's cells; counts `(types * groups,)`."""
    table = counts.reshape(types, -1)
    partner = matched_types(torch.eye(types), torch.from_numpy(table)).numpy()
    matched = partner >= 0
    return float(table[np.flatnonzero(matched), partner[matched]].sum() / table.sum())

"""How far apart two labels are: costs on a line, with or without a step, and costs of one's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pluralign.core.errors import PluralignError, nearest

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
CostKind = Literal["reward-gap", "index"]

DELTA = 0.1
"""What two different labels cost at least, so that labels of one reward can be told apart."""

SLACK = 1e-9
"""Share of the largest cost by which rounding may break symmetry or the triangle inequality."""


@dataclass(frozen=True, eq=False)
class LabelCost:
    """Cost of moving a unit of probability from one label to another; `label_cost` makes it.

    Attributes:
        matrix: the cost of every pair of labels, float64 `(labels, labels)`.
        places: where the labels lie on a line, float64 `(labels,)`, if the cost of i and j is
            |places_i - places_j| + delta [i != j]; None for any other cost.
        delta: the step of such a cost, at least 0.
    """

    matrix: Floats
    places: Floats | None = None
    delta: float = 0.0

    @property
    def labels(self) -> int:
        """How many there are."""
        return len(self.matrix)

    @cached_property
    def order(self) -> Ints:
        """The labels from the lowest place on the line to the highest, `(labels,)`; as they are without a line."""
        return np.argsort(np.arange(self.labels) if self.places is None else self.places, kind="stable")

    @cached_property
    def gaps(self) -> Floats:
        """Distances of neighbours on the line, float64 `(labels - 1,)`; empty without a line."""
        return np.zeros(0) if self.places is None else np.diff(self.places[self.order])

    @cached_property
    def negative_type(self) -> bool:
        """Whether e' C e <= 0 for all e of sum 0, which makes the energy of a difference at least 0.

        Costs on a line have it, with or without a step, and so has every metric of up to four labels.
        """
        if self.places is not None:
            return True
        centring = np.eye(self.labels) - 1 / self.labels
        largest = np.linalg.eigvalsh(centring @ self.matrix @ centring)[-1]
        return bool(largest <= SLACK * self.labels * self.matrix.max())


def label_cost(rewards: ArrayLike, kind: CostKind | ArrayLike = "reward-gap", delta: float = DELTA) -> LabelCost:
    """The cost between the labels of a scale.

    - `reward-gap`: |R_i - R_j| + delta [i != j]. With delta = 0 labels of one reward have distance 0, and a
      transport loss cannot tell them apart.
    - `index`: |i - j|, the distance of the labels' places on the scale; without a step.
    - a matrix: any metric, or pseudo-metric (different labels may have distance 0); without a step.

    Args:
        rewards: of the labels, `(labels,)`, two or more.
        kind: one of the above.
        delta: the step of `reward-gap`, in units of reward, at least 0; the others do not use it.

    Raises:
        PluralignError: unknown kind, rewards or delta that are not as said, or a matrix that is not square with a
            row per label, or not finite, or negative, or has a diagonal other than 0, or is not symmetric, or
            breaks the triangle inequality; the message names the labels (counted from 1).

    Examples:
        >>> label_cost([1.0, 0.5, -1.0]).matrix.tolist()
        [[0.0, 0.6, 2.1], [0.6, 0.0, 1.6], [2.1, 1.6, 0.0]]
        >>> label_cost([1.0, 0.5, -1.0], "index").matrix.tolist()
        [[0.0, 1.0, 2.0], [1.0, 0.0, 1.0], [2.0, 1.0, 0.0]]
        >>> label_cost([1.0, 0.5, -1.0], [[0, 1, 5], [1, 0, 2], [5, 2, 0]])
        Traceback (most recent call last):
        ...
        pluralign.core.errors.PluralignError: cost of labels 1 and 3 is 5, expected at most 3, the way by label 2
    """
    worth = np.array(rewards, dtype=np.float64)
    if worth.ndim != 1 or len(worth) < 2 or not np.isfinite(worth).all():
        raise PluralignError(f"rewards: expected two or more finite numbers, one per label, found {worth.tolist()}")
    if not isinstance(kind, str):
        return LabelCost(_checked(kind, len(worth)))
    if kind not in get_args(CostKind):
        known = get_args(CostKind)
        raise PluralignError(f"cost is '{kind}', expected one of {', '.join(known)}, or a matrix{nearest(kind, known)}")
    if not (math.isfinite(delta) and delta >= 0):
        raise PluralignError(f"delta is {delta}, expected a number of at least 0")
    step = delta if kind == "reward-gap" else 0.0
    places = worth if kind == "reward-gap" else np.arange(len(worth), dtype=np.float64)
    matrix = np.abs(places[:, None] - places) + step * (1 - np.eye(len(worth)))
    return LabelCost(matrix, places, step)


def _checked(given: ArrayLike, labels: int) -> Floats:
    if isinstance(given, Sequence):
        lengths = {len(row) if isinstance(row, Sequence | np.ndarray) else 0 for row in given}
        if lengths != {labels}:
            raise PluralignError(f"cost: expected {labels} rows of {labels} numbers, a row per label")
    matrix = np.array(given, dtype=np.float64)
    if matrix.shape != (labels, labels):
        raise PluralignError(f"cost: expected ({labels}, {labels}), a row per label, found {matrix.shape}")
    slack = SLACK * np.abs(matrix).max()

    def refuse(wrong: NDArray[np.bool_], expected: str) -> None:
        if wrong.any():
            i, j = np.argwhere(wrong)[0]
            raise PluralignError(f"cost of labels {i + 1} and {j + 1} is {matrix[i, j]:g}, expected {expected}")

    refuse(~np.isfinite(matrix), "a finite number")
    refuse(matrix < 0, "at least 0")
    refuse(np.diag(np.diag(matrix)) != 0, "0")
    opposite = np.argwhere(np.abs(matrix - matrix.T) > slack)
    if len(opposite):
        i, j = opposite[0]
        raise PluralignError(
            f"cost of labels {i + 1} and {j + 1} is {matrix[i, j]:g}, but {matrix[j, i]:g} the other way, "
            "expected the same"
        )
    ways = matrix[:, :, None] + matrix[None]  # (from, by, to)
    by, shortest = ways.argmin(1), ways.min(1)
    longer = np.argwhere(matrix > shortest + slack)
    if len(longer):
        i, j = longer[0]
        raise PluralignError(
            f"cost of labels {i + 1} and {j + 1} is {matrix[i, j]:g}, expected at most {shortest[i, j]:g}, "
            f"the way by label {by[i, j] + 1}"
        )
    return (matrix + matrix.T) / 2

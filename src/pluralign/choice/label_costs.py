"""The cost of moving probability from one label to another, for the transport losses of DPRM.

Source: arXiv 2402.09764 compares losses with label distances; its costs could not be recovered, these are ours.
"""

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
"""The least cost between two different labels, so that a loss distinguishes labels with the same reward."""

SLACK = 1e-9
"""Share of the largest cost by which rounding may break symmetry or the triangle inequality."""


@dataclass(frozen=True, eq=False)
class LabelCost:
    """Cost of moving a unit of probability from one label to another; made by `label_cost`.

    Attributes:
        matrix: the cost of every pair of labels, float64 `(labels, labels)`.
        places: positions of the labels on a line, float64 `(labels,)`, if the cost of i and j is
            |places_i - places_j| + delta [i != j]; None for any other cost.
        delta: the step of such a cost, at least 0.
    """

    matrix: Floats
    places: Floats | None = None
    delta: float = 0.0

    @property
    def labels(self) -> int:
        """Number of labels."""
        return len(self.matrix)

    @cached_property
    def order(self) -> Ints:
        """Labels from the lowest position on the line to the highest, `(labels,)`; unchanged without a line."""
        return np.argsort(np.arange(self.labels) if self.places is None else self.places, kind="stable")

    @cached_property
    def gaps(self) -> Floats:
        """Distances between neighbours on the line, float64 `(labels - 1,)`; empty without a line."""
        return np.zeros(0) if self.places is None else np.diff(self.places[self.order])

    @cached_property
    def negative_type(self) -> bool:
        """Whether e' C e <= 0 for all e with sum 0, so that the energy of a difference is at least 0.

        It holds for costs on a line, with or without a step, and for every metric on up to four labels.
        """
        if self.places is not None:
            return True
        centring = np.eye(self.labels) - 1 / self.labels
        largest = np.linalg.eigvalsh(centring @ self.matrix @ centring)[-1]
        return bool(largest <= SLACK * self.labels * self.matrix.max())


def label_cost(rewards: ArrayLike, kind: CostKind | ArrayLike = "reward-gap", delta: float = DELTA) -> LabelCost:
    """The cost between the labels of a scale.

    - `reward-gap`: |R_i - R_j| + delta [i != j]. With delta = 0, labels with the same reward have distance 0 and a
      transport loss cannot tell them apart.
    - `index`: |i - j|, the distance between the labels' positions on the scale; without a step.
    - a matrix: any metric, or pseudo-metric (different labels may have distance 0); without a step.

    Args:
        rewards: of the labels, `(labels,)`, two or more.
        kind: one of the above.
        delta: the step of `reward-gap`, in units of reward, at least 0; the other costs do not use it.

    Raises:
        PluralignError: the kind is unknown, rewards or delta are not as described, or the matrix is not square with
            one row per label, not finite, negative, without a zero diagonal, not symmetric, or breaks the triangle
            inequality. The message names the labels, counted from 1.

    Examples:
        >>> label_cost([1.0, 0.5, -1.0]).matrix.tolist()
        [[0.0, 0.6, 2.1], [0.6, 0.0, 1.6], [2.1, 1.6, 0.0]]
        >>> label_cost([1.0, 0.5, -1.0], "index").matrix.tolist()
        [[0.0, 1.0, 2.0], [1.0, 0.0, 1.0], [2.0, 1.0, 0.0]]
        >>> label_cost([1.0, 0.5, -1.0], [[0, 1, 5], [1, 0, 2], [5, 2, 0]])
        Traceback (most recent call last):
        ...
        pluralign.core.errors.PluralignError: cost of labels 1 and 3 is 5, expected at most 3, the cost via label 2
    """
    worth = np.array(rewards, dtype=np.float64)
    if worth.ndim != 1 or len(worth) < 2 or not np.isfinite(worth).all():
        raise PluralignError(f"rewards: expected two or more finite numbers, one per label, found {worth.tolist()}")
    if not isinstance(kind, str):
        return LabelCost(_metric(kind, len(worth)))
    if kind not in get_args(CostKind):
        known = get_args(CostKind)
        raise PluralignError(f"cost is '{kind}', expected one of {', '.join(known)}, or a matrix{nearest(kind, known)}")
    if not (math.isfinite(delta) and delta >= 0):
        raise PluralignError(f"delta is {delta}, expected a number of at least 0")
    step = delta if kind == "reward-gap" else 0.0
    places = worth if kind == "reward-gap" else np.arange(len(worth), dtype=np.float64)
    matrix = np.abs(places[:, None] - places) + step * (1 - np.eye(len(worth)))
    return LabelCost(matrix, places, step)


def _metric(given: ArrayLike, labels: int) -> Floats:
    """A cost matrix, checked."""
    if isinstance(given, Sequence):
        lengths = {len(row) if isinstance(row, Sequence | np.ndarray) else 0 for row in given}
        if lengths != {labels}:
            raise PluralignError(f"cost: expected {labels} rows of {labels} numbers, a row per label")
    matrix = np.array(given, dtype=np.float64)
    if matrix.shape != (labels, labels):
        raise PluralignError(f"cost: expected ({labels}, {labels}), a row per label, found {matrix.shape}")
    if not np.isfinite(matrix).all():
        i, j = np.argwhere(~np.isfinite(matrix))[0]
        raise PluralignError(f"cost of labels {i + 1} and {j + 1} is {matrix[i, j]:g}, expected a finite number")
    slack = SLACK * np.abs(matrix).max()
    routes = matrix[:, :, None] + matrix[None]  # (from, via, to)
    by, shortest = routes.argmin(1), routes.min(1)
    for wrong, expected in (
        (matrix < 0, "at least 0"),
        (np.diag(np.diag(matrix)) != 0, "0"),
        (np.abs(matrix - matrix.T) > slack, "{opposite:g} as in the other direction"),
        (matrix > shortest + slack, "at most {shortest:g}, the cost via label {by}"),
    ):
        if wrong.any():
            i, j = np.argwhere(wrong)[0]
            wanted = expected.format(opposite=matrix[j, i], shortest=shortest[i, j], by=by[i, j] + 1)
            raise PluralignError(f"cost of labels {i + 1} and {j + 1} is {matrix[i, j]:g}, expected {wanted}")
    return (matrix + matrix.T) / 2

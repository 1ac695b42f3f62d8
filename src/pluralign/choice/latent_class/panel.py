"""Judgments of annotators as arrays, the input of latent-class models, and the connected parts of what they compare."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pluralign.choice.plackett_luce import NOT_SHOWN


@dataclass(frozen=True)
class Panel:
    """Judgments of annotators; the arrays are checked once, here.

    Args:
        responses: `(judgments, shown)` response ids from 0; any value where none is shown.
        ranks: `(judgments, shown)`, as in `pluralign.choice.plackett_luce.log_likelihood`.
        annotator: `(judgments,)` from 0.
        features: `(responses, p)`; `None` gives each response a worth of its own.
        reliability: `(judgments,)` multiplies a judgment's log-likelihood; `None` is 1.
        population: `(annotators,)` weight of an annotator in the mixture; `None` is 1.
        covariates: `(annotators, q)` that the membership depends on, including a constant if wanted; `None` gives all
            annotators the same shares.
        available: `(K, responses)` bool, the responses that a type considers; `None` is all.
        response_total: number of responses; `None` is the number of rows of `features`, or the highest id plus one.
        sharded: whether this process of `torch.distributed` holds only some of the annotators, numbered after those of
            earlier ranks; what is fitted is then the panel of all processes.

    Raises:
        ValueError: shapes do not fit, an id is out of range, or a number is negative or not finite.

    Examples:
        >>> panel = Panel([[0, 1], [1, 2]], [[1, 2], [2, 1]], [0, 0])
        >>> panel.judgments, panel.annotators, panel.response_count
        (2, 1, 3)
    """

    responses: ArrayLike
    ranks: ArrayLike
    annotator: ArrayLike
    features: ArrayLike | None = None
    reliability: ArrayLike | None = None
    population: ArrayLike | None = None
    covariates: ArrayLike | None = None
    available: ArrayLike | None = None
    response_total: int | None = None
    sharded: bool = False
    derived: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What models computed from these judgments and need again."""

    def __post_init__(self) -> None:
        for name, axes in AXES.items():
            if vars(self)[name] is not None:
                object.__setattr__(self, name, _array(name, vars(self)[name], axes))
        if self.response_ids.shape != self.rank_values.shape:
            raise ValueError(
                f"responses: expected the shape of ranks {self.rank_values.shape}, found {self.response_ids.shape}"
            )
        judgments, annotators, responses = len(self.annotator_ids), self.annotators, self.response_count
        expected = {
            "ranks": (judgments, None),
            "responses": (judgments, None),
            "reliability": (judgments,),
            "population": (annotators,),
            "covariates": (annotators, None),
            "available": (None, responses),
        }
        for name, shape in expected.items():
            value = vars(self)[name]
            if value is not None and any(n not in (None, m) for n, m in zip(shape, value.shape, strict=True)):
                raise ValueError(f"{name}: expected the shape {shape}, found {value.shape} (None: any number)")
        for name in ("features", "reliability", "population", "covariates"):
            value = vars(self)[name]
            if value is not None and not np.isfinite(value).all():
                place = tuple(np.argwhere(~np.isfinite(value))[0].tolist())
                raise ValueError(f"{name}: found a value that is not finite, at {place}")
            if name in ("reliability", "population") and value is not None and (value < 0).any():
                raise ValueError(f"{name}: expected 0 or more, found {value.min()}")
        shown = self.response_ids[self.rank_values > NOT_SHOWN]
        for name, ids, number in (("annotator", self.annotator_ids, annotators), ("responses", shown, responses)):
            if ids.size and (ids.min() < 0 or ids.max() >= number):
                wrong = ids.min() if ids.min() < 0 else ids.max()
                raise ValueError(f"{name}: expected ids from 0 to {number - 1}, found {wrong}")

    @property
    def response_ids(self) -> np.ndarray:
        """`(judgments, shown)`."""
        return np.asarray(self.responses)

    @property
    def rank_values(self) -> np.ndarray:
        """`(judgments, shown)`."""
        return np.asarray(self.ranks)

    @property
    def annotator_ids(self) -> np.ndarray:
        """`(judgments,)`."""
        return np.asarray(self.annotator)

    @property
    def judgments(self) -> int:
        """Number of judgments."""
        return len(self.annotator_ids)

    @property
    def weights(self) -> np.ndarray:
        """Population weight of each annotator `(annotators,)`."""
        return np.ones(self.annotators) if self.population is None else np.asarray(self.population)

    @property
    def annotators(self) -> int:
        """Number of annotators, including those without a judgment."""
        if self.population is not None:
            return len(np.asarray(self.population))
        if self.covariates is not None:
            return len(np.asarray(self.covariates))
        return int(self.annotator_ids.max()) + 1 if self.judgments else 0

    @property
    def response_count(self) -> int:
        """Number of responses."""
        if self.features is not None:
            return len(np.asarray(self.features))
        if self.response_total is not None:
            return self.response_total
        shown = self.response_ids[self.rank_values > NOT_SHOWN]
        return int(shown.max()) + 1 if shown.size else 0

    def of_annotators(self, chosen: ArrayLike) -> Panel:
        """The judgments of some annotators, renumbered in the order given.

        Examples:
            >>> Panel([[0, 1], [1, 2]], [[1, 2], [2, 1]], [0, 1]).of_annotators([1]).responses.tolist()
            [[1, 2]]
        """
        chosen = np.asarray(chosen)
        number = np.full(self.annotators, -1)
        number[chosen] = np.arange(len(chosen))
        kept = number[self.annotator_ids] >= 0

        def some(value: ArrayLike | None, rows: np.ndarray) -> np.ndarray | None:
            return None if value is None else np.asarray(value)[rows]

        return replace(
            self,
            responses=self.response_ids[kept],
            ranks=self.rank_values[kept],
            annotator=number[self.annotator_ids[kept]],
            reliability=some(self.reliability, kept),
            population=self.weights[chosen],
            covariates=some(self.covariates, chosen),
            response_total=self.response_count,
        )


def components(panel: Panel) -> np.ndarray:
    """The connected part of the comparison graph of each response `(responses,)`; -1 if it was not shown.

    Examples:
        >>> panel = Panel([[0, 1], [2, 3], [3, 0]], [[1, 2], [1, 2], [0, 0]], [0, 0, 0], response_total=5)
        >>> components(panel).tolist()
        [0, 0, 0, 0, -1]
    """
    shown = panel.rank_values > NOT_SHOWN
    first = np.where(shown, panel.response_ids, np.iinfo(np.int64).max).min(1, keepdims=True)
    first, other = np.broadcast_to(first, shown.shape)[shown], panel.response_ids[shown]
    part = np.full(panel.response_count, -1)
    used = np.unique(other)
    part[used] = np.unique(connected_parts(first, other, panel.response_count)[used], return_inverse=True)[1]
    return part


def connected_parts(first: np.ndarray, second: np.ndarray, size: int) -> np.ndarray:
    """The connected part of each of `size` nodes `(size,)`, given the two ends of every edge."""
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(size, size))
    return connected_components(graph, directed=False)[1].astype(np.int64)


AXES = {
    "responses": 2,
    "ranks": 2,
    "annotator": 1,
    "features": 2,
    "reliability": 1,
    "population": 1,
    "covariates": 2,
    "available": 2,
}
"""Number of dimensions of a panel's arrays."""


def _array(name: str, value: ArrayLike, axes: int) -> np.ndarray:
    """An argument as an array with the right dimensions and dtype; ids and ranks must be whole numbers."""
    array = np.asarray(value)
    if array.ndim != axes:
        raise ValueError(f"{name}: expected {axes} dimensions, found the shape {array.shape}")
    if name == "available":
        return array.astype(np.bool_)
    if name not in ("responses", "ranks", "annotator"):
        return array.astype(np.float64, copy=False)
    if array.dtype.kind not in "iub" and array.size and not (array.astype(np.float64) % 1 == 0).all():
        raise ValueError(f"{name}: expected whole numbers, found others")
    return array.astype(np.int64, copy=False)

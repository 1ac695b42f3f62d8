"""Judgments of annotators as arrays: what latent-class models are fitted to."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import ArrayLike

from pluralign.choice.plackett_luce import NOT_SHOWN


@dataclass(frozen=True)
class Panel:
    """Judgments of annotators, checked when made.

    Args:
        responses: `(judgments, shown)` response ids from 0; anything where none is shown.
        ranks: `(judgments, shown)`, as in `pluralign.choice.plackett_luce.log_likelihood`.
        annotator: `(judgments,)` from 0.
        features: `(responses, p)`; `None` gives each response a worth of its own.
        reliability: `(judgments,)` multiplies a judgment's log-likelihood; `None` is 1.
        population: `(annotators,)` weight of an annotator in the mixture; `None` is 1.
        covariates: `(annotators, q)` that the membership depends on, a constant included if wanted; `None` is one
            share of each type for all.
        available: `(K, responses)` bool, the responses that a type considers; `None` is all.
        response_total: how many responses there are; `None` is the features' rows, else the highest id and one.

    Raises:
        ValueError: shapes do not fit, an id is out of range, or a number is not finite.

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

    def __post_init__(self) -> None:
        kinds = {"responses": np.int64, "ranks": np.int64, "annotator": np.int64, "available": np.bool_}
        for field in fields(self):
            value = vars(self)[field.name]
            if value is not None and field.name != "response_total":
                object.__setattr__(self, field.name, np.asarray(value, dtype=kinds.get(field.name, np.float64)))
        judgments, annotators, responses = len(self.annotator_ids), self.annotators, self.response_count
        expected = {
            "ranks": (judgments, None),
            "responses": (judgments, None),
            "annotator": (judgments,),
            "features": (None, None),
            "reliability": (judgments,),
            "population": (annotators,),
            "covariates": (annotators, None),
            "available": (None, responses),
        }
        for name, shape in expected.items():
            value = vars(self)[name]
            if value is None:
                continue
            if value.ndim != len(shape) or any(
                n is not None and n != m for n, m in zip(shape, value.shape, strict=True)
            ):
                raise ValueError(f"{name}: expected the shape {shape}, found {value.shape} (None: any number)")
            if value.dtype == np.float64 and not np.isfinite(value).all():
                raise ValueError(
                    f"{name}: found a value that is not finite, at {tuple(np.argwhere(~np.isfinite(value))[0])}"
                )
        if self.response_ids.shape != self.rank_values.shape:
            raise ValueError(
                f"responses: expected the shape of ranks {self.rank_values.shape}, found {self.response_ids.shape}"
            )
        shown = self.response_ids[self.rank_values > NOT_SHOWN]
        if judgments and (
            self.annotator_ids.min() < 0 or (shown.size and (shown.min() < 0 or shown.max() >= responses))
        ):
            raise ValueError(
                f"expected annotators from 0 and responses from 0 to {responses - 1}, the features' rows"
            )
        for name in ("reliability", "population"):
            value = vars(self)[name]
            if value is not None and (value < 0).any():
                raise ValueError(f"{name}: expected 0 or more, found {value.min()}")

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
        """How many judgments."""
        return len(self.annotator_ids)

    @property
    def annotators(self) -> int:
        """How many annotators; those without a judgment between others count."""
        if self.population is not None:
            return len(np.asarray(self.population))
        if self.covariates is not None:
            return len(np.asarray(self.covariates))
        return int(self.annotator_ids.max()) + 1 if self.judgments else 0

    @property
    def response_count(self) -> int:
        """How many responses."""
        if self.features is not None:
            return len(np.asarray(self.features))
        if self.response_total is not None:
            return self.response_total
        shown = self.response_ids[self.rank_values > NOT_SHOWN]
        return int(shown.max()) + 1 if shown.size else 0

    def of_annotators(self, chosen: ArrayLike) -> Panel:
        """The judgments of some annotators, who are numbered anew in the order given.

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
            population=np.ones(len(chosen)) if self.population is None else some(self.population, chosen),
            covariates=some(self.covariates, chosen),
            response_total=self.response_count,
        )

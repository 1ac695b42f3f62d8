"""Batches of an M-step: each optimiser step holds judgments that train one type, with their factors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from pluralign.choice.em_dpo import drawn_types, row_weights
from pluralign.training.batches import EpochSampler, JudgmentCollator

Routing = Literal["sparse", "sampled", "dense"]


@dataclass(frozen=True)
class TypedRows:
    """The judgments that train each type in an M-step, and their factors.

    Args:
        members: for each type, the judgments that train its policy.
        weights: `(K, judgments)` factor of each judgment's loss, float32; its mean over a type's members is 1.
    """

    members: list[np.ndarray]
    weights: np.ndarray


def typed_rows(
    gamma: np.ndarray,
    annotator: np.ndarray,
    reliability: np.ndarray,
    rows: np.ndarray,
    routing: Routing,
    skip_below: float,
    draw: np.random.Generator,
) -> TypedRows:
    """Route the judgments of an M-step to the types.

    `dense` gives every judgment to every type with its responsibility; `sparse` leaves out those whose
    responsibility is too small; `sampled` draws one type for each annotator, so that each judgment is read once.
    Divided by judgments times eta_k, the expected gradient of a draw is the dense one.

    Args:
        gamma: `(annotators, K)`.
        annotator: `(judgments,)` from 0.
        reliability: `(judgments,)`.
        rows: the judgments of the M-step.
        routing: `sparse`, `sampled` or `dense`.
        skip_below: for `sparse`, the least responsibility.
        draw: used by `sampled` alone.

    Examples:
        >>> gamma, ones = np.array([[0.9, 0.1], [0.0, 1.0]]), np.ones(2)
        >>> rows = typed_rows(gamma, np.arange(2), ones, np.arange(2), "sparse", 0.05, np.random.default_rng(0))
        >>> [members.tolist() for members in rows.members], rows.weights.astype(float).round(2).tolist()
        ([[0], [0, 1]], [[1.0, 0.0], [0.18, 1.82]])
    """
    types = gamma.shape[1]
    if routing == "sampled":
        gamma = np.eye(types)[drawn_types(gamma, draw)]
    weights = np.zeros((types, len(annotator)), dtype=np.float32)
    members = []
    for kind in range(types):
        of_rows = gamma[annotator[rows], kind]
        chosen = rows[of_rows >= skip_below] if routing == "sparse" else rows
        chosen = chosen[gamma[annotator[chosen], kind] > 0]
        weights[kind, chosen] = row_weights(gamma[annotator[chosen], kind], reliability[chosen])
        members.append(chosen)
    return TypedRows(members, weights)


class TypedSampler(EpochSampler):
    """The judgments of an M-step in optimiser steps of one type each, with the types' steps in random order.

    An entry is `type * judgments + judgment`; the last step of a type is padded with `-1 - type`. With a single type
    the order is that of its sampler, without padding.

    Args:
        samplers: one for each type, over its judgments.
        judgments: the number of all judgments.
        step: judgments of an optimiser step, over all processes.
        seed: seed of the order of the types' steps.
    """

    def __init__(self, samplers: Sequence[Any], judgments: int, step: int, seed: tuple[int, ...]) -> None:
        self.samplers = samplers
        self.judgments = judgments
        self.step = step
        self.seed = seed

    @property
    def _steps(self) -> list[int]:
        return [-(-len(sampler) // self.step) for sampler in self.samplers]

    def __len__(self) -> int:
        return len(self.samplers[0]) if len(self.samplers) == 1 else self.step * sum(self._steps)

    def __iter__(self) -> Iterator[int]:
        if len(self.samplers) == 1:
            yield from self.samplers[0]
            return
        turns = np.repeat(np.arange(len(self.samplers)), self._steps)
        orders = [iter(sampler) for sampler in self.samplers]
        for kind in np.random.default_rng((*self.seed, self.epoch)).permutation(turns).tolist():
            for _ in range(self.step):
                judgment = next(orders[kind], None)
                yield -1 - kind if judgment is None else kind * self.judgments + judgment


@dataclass(frozen=True)
class TypedCollator:
    """A batch of one type's judgments as `JudgmentCollator` lays them out; `weights` as in `TypedRows`."""

    collator: JudgmentCollator
    weights: np.ndarray

    def __call__(self, batch: list[int]) -> dict[str, Any]:
        """The collator's batch with its `type` and the judgments' `factor` `(judgments,)`."""
        judgments = self.weights.shape[1]
        kinds = {entry // judgments if entry >= 0 else -1 - entry for entry in batch}
        (kind,) = kinds
        chosen = [entry % judgments for entry in batch if entry >= 0]
        # A batch of padding alone still goes through the model, because all processes call it equally often.
        laid_out = self.collator(chosen or [0])
        if not chosen:
            laid_out["weight"] = torch.zeros_like(laid_out["weight"])
        return laid_out | {"type": kind, "factor": torch.from_numpy(self.weights[kind, chosen or [0]])}

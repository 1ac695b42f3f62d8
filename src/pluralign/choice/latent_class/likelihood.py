"""The likelihood of annotators' judgments under many coefficient vectors at once, in blocks of distinct choices.

With n_hs how often annotator h made choice s, weighted by reliability,

    log P(judgments of h) = sum_s n_hs log P(s)

and with annotators' weights w_h a choice has the weight sum_h n_hs w_h. What has a value for each choice and vector
(`conditional_logit`) is made for one block of choices after the other, so that memory follows the block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from operator import add
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pluralign.choice.latent_class.choice_sets import choice_sets, compressed
from pluralign.choice.latent_class.conditional_logit import LEAST, ConditionalLogit, Point, Slope
from pluralign.choice.latent_class.panel import Panel
from pluralign.choice.latent_class.processes import sum_over_processes
from pluralign.choice.plackett_luce import NOT_SHOWN

BLOCK = 2**16
"""Distinct choices in a block."""

SAMPLED = 1.5
"""A curvature from a sample of the choices is used if no feature's second moment is off by more than this factor."""

Weights = Iterable[Tensor]
"""The weight of each choice for B vectors, `(choices, B)` of each block."""


@dataclass(frozen=True)
class Block:
    """Some distinct choices and who made them.

    Args:
        logit: over the choices.
        counts: `(annotators, choices)` sparse, n_hs.
        back: its transpose.
    """

    logit: ConditionalLogit
    counts: Tensor
    back: Tensor


@dataclass(frozen=True)
class Likelihood:
    """Annotators' judgments.

    Args:
        blocks: their distinct choices; at least one block.
        sharded: as in `Panel`; derivatives of weighted sums over annotators are then those of all processes.
        derived: what was computed from these and is needed again.
    """

    blocks: tuple[Block, ...]
    sharded: bool = False
    derived: dict[str, Any] = field(default_factory=dict, init=False, compare=False)

    @classmethod
    def of(cls, panel: Panel, *, ties: str = "efron", top: int | None = None, device: str = "cpu") -> Likelihood:
        """Of a panel; `ties` and `top` as in `choice_sets`."""

        def whole(values: ArrayLike) -> Tensor:
            return torch.as_tensor(np.asarray(values, dtype=np.int64), device=device)

        responses, size, features = panel.response_ids, panel.response_count, None
        available = None if panel.available is None else torch.tensor(np.asarray(panel.available), device=device)
        if panel.features is not None:  # responses that nobody was shown cost as much as the others
            shown = torch.as_tensor(np.bincount(responses[panel.rank_values > NOT_SHOWN], minlength=size))
            seen = np.flatnonzero(sum_over_processes(shown) if panel.sharded else shown)
            place = np.zeros(size, dtype=np.int64)
            place[seen] = np.arange(len(seen))
            responses, size = place[responses], len(seen)
            features = torch.tensor(np.asarray(panel.features, dtype=np.float64)[seen], device=device)
            available = None if available is None else available[:, torch.as_tensor(seen, device=device)]
        sets = choice_sets(whole(responses), whole(panel.ranks), size, ties=ties, top=top)
        reliability = np.ones(panel.judgments) if panel.reliability is None else np.asarray(panel.reliability)
        times = torch.as_tensor(reliability, dtype=torch.float64, device=device)[sets.judgment]
        made = (times > 0).nonzero().flatten()  # an entry of zero would turn a choice with probability zero into NaN
        made = made[torch.argsort(sets.choice[made], stable=True)]
        which, often = sets.choice[made], times[made]
        who = whole(panel.annotator)[sets.judgment[made]]
        starts = range(0, max(1, len(sets)), BLOCK)
        cuts = torch.searchsorted(which, which.new_tensor([*starts, len(sets)])).tolist()
        blocks = []
        for start, first, last in zip(starts, cuts, cuts[1:], strict=False):
            own = sets.between(start, min(start + BLOCK, len(sets)))
            rows, columns, values = who[first:last], which[first:last] - start, often[first:last]
            counts = compressed(rows, columns, values, (panel.annotators, len(own)))
            back = compressed(columns, rows, values, (len(own), panel.annotators))
            blocks.append(Block(ConditionalLogit(own, features, size, available), counts, back))
        return cls(tuple(blocks), panel.sharded)

    def summed(self, values: Tensor) -> Tensor:
        """Sums over the annotators of this process as those over all annotators."""
        return sum_over_processes(values) if self.sharded else values

    def __len__(self) -> int:
        return sum(len(block.logit.choices) for block in self.blocks)

    @property
    def logit(self) -> ConditionalLogit:
        """What all blocks have in common: features, responses and what types consider."""
        return self.blocks[0].logit

    @cached_property
    def places(self) -> Tensor:
        """Places in the choices of each annotator, weighted: `(annotators,)`."""
        return _sum(block.counts @ block.logit.choices.places for block in self.blocks)

    def of_all(self) -> Likelihood:
        """The same without a limit on what types consider."""
        if self.logit.available is None:
            return self
        return Likelihood(tuple(replace(block, logit=block.logit.of_all()) for block in self.blocks), self.sharded)

    def weights(self, by_annotator: Tensor) -> Weights:
        """The weight of each choice, from those of the annotators `(annotators, B)`."""
        if len(self.blocks) == 1:
            return [self.blocks[0].back @ by_annotator]
        return _OnDemand(self.blocks, by_annotator)

    def empty(self, columns: int) -> list[Tensor] | list[None]:
        """Memory for what is kept of each block, `(choices, columns)`; a single block needs none.

        Several blocks get parts of one tensor, because many small ones would leave gaps in memory.
        """
        if len(self.blocks) == 1:
            return [None]
        whole = torch.empty(len(self), columns, dtype=torch.float64, device=self.places.device)
        return list(whole.split([len(block.logit.choices) for block in self.blocks]))

    def at(self, coefficients: Tensor) -> LikelihoodAt:
        """The likelihood at coefficients `(B, p)`."""
        return LikelihoodAt(self, self.logit.utilities(coefficients))

    def spectrum(self, population: Tensor) -> tuple[Tensor, Tensor]:
        """Eigenvalues per unit of weight and eigenvectors of minus the Hessian of choices at random: `(p,)`, `(p, p)`.

        Annotators' weights `(annotators,)` count the first time; others give about the same.
        """
        if "spectrum" not in self.derived:
            own = self.weights(population.unsqueeze(1))
            here = self.of_all().at(population.new_zeros(1, self.logit.parameters))
            values, turn = torch.linalg.eigh(here.curvature(own)[0])
            self.derived["spectrum"] = values.clamp(min=0) / self.summed(totals(own)).clamp(min=LEAST), turn
        values, turn = self.derived["spectrum"]
        return values, turn


@dataclass(frozen=True)
class _OnDemand:
    """Weights of the choices in many blocks, which are not kept."""

    blocks: tuple[Block, ...]
    by_annotator: Tensor

    def __iter__(self) -> Iterator[Tensor]:
        return (block.back @ self.by_annotator for block in self.blocks)


class LikelihoodAt:
    """The likelihood at utilities `(responses, B)`; what several derivatives need is computed once."""

    def __init__(self, likelihood: Likelihood, utilities: Tensor) -> None:
        self.likelihood, self.logit = likelihood, likelihood.logit
        self.points: list[Point] = []
        for block, out in zip(likelihood.blocks, likelihood.empty(utilities.shape[1]), strict=True):
            self.points.append(block.logit.at(utilities, self.points[0] if self.points else None, out))
        self._mass: tuple[Weights, Tensor] | None = None

    @property
    def vectors(self) -> int:
        """B."""
        return self.points[0].utilities.shape[1]

    def _each(self, weights: Weights) -> Iterator[tuple[Point, Tensor]]:
        return zip(self.points, weights, strict=True)

    def by_annotator(self) -> Tensor:
        """log P(judgments of h) `(annotators, B)`, in nats; minus infinity where a response is not available."""
        return _sum(
            block.counts @ point.log_p for block, point in zip(self.likelihood.blocks, self.points, strict=True)
        )

    def mass(self, weights: Weights) -> Tensor:
        """sum_s w_s sum_j P_sj of each response: `(responses, B)`; kept for the last weights."""
        if self._mass is None or self._mass[0] is not weights:
            self._mass = weights, _sum(point.mass(own) for point, own in self._each(weights))
        return self._mass[1]

    def gradient(self, weights: Weights) -> Tensor:
        """Of the weighted log-likelihood: `(B, p)`."""
        chosen = _sum(point.chosen(own) for point, own in self._each(weights))
        return self.likelihood.summed(self.logit.collected(chosen - self.mass(weights)))

    def hessian(self, weights: Weights) -> Callable[[Tensor], Tensor]:
        """Products of minus the Hessian of the weighted log-likelihood with one vector each: `(B, p)` to `(B, p)`."""
        if not all(point.in_pairs for point in self.points):
            return lambda vectors: self.along(vectors).product(weights)
        products = [point.product_in_pairs(own) for point, own in self._each(weights)]

        def product(vectors: Tensor) -> Tensor:
            change = self.logit.utilities(vectors)
            return self.likelihood.summed(self.logit.collected(_sum(each(change) for each in products)))

        return product

    def curvature(self, weights: Weights) -> Tensor:
        """Minus the Hessian of the weighted log-likelihood: `(B, p, p)`."""
        return self.likelihood.summed(_sum(point.curvature(own) for point, own in self._each(weights)))

    def sampled_curvature(self, weights: Weights, number: int) -> Tensor:
        """About `curvature`, from every n-th choice so that about `number` are left.

        It is exact if there are not many more, if the sample misses what a feature's curvature comes from, or if
        annotators are sharded.
        """
        step = len(self.likelihood) // max(1, number)
        if step < 2 or self.logit.available is not None or self.likelihood.sharded:
            return self.curvature(weights)
        points = [point.logit.every(step).at(point.utilities, point) for point in self.points]
        own = [part[::step].clone() for part in weights]
        scale = totals(weights) / totals(own).clamp(min=LEAST)
        sample = list(zip(points, [part * scale for part in own], strict=True))
        ratio = (_sum(point.diagonal(part) for point, part in sample) + LEAST) / (self.diagonal(weights) + LEAST)
        if bool(((ratio < 1 / SAMPLED) | (ratio > SAMPLED)).any()):
            return self.curvature(weights)
        return _sum(point.curvature(part) for point, part in sample)

    def diagonal(self, weights: Weights) -> Tensor:
        """An upper bound of the diagonal of minus the Hessian, `(B, p)`; exact without features."""
        return self.likelihood.summed(_sum(point.diagonal(own) for point, own in self._each(weights)))

    def along(self, vectors: Tensor) -> Along:
        """Derivatives along one vector for each of the B: `(B, p)`."""
        return Along(self, self.logit.utilities(vectors))

    def annotator_gradients(self, vector: int) -> Tensor:
        """Gradient of each annotator's log-likelihood under one of the B vectors, `(annotators, p)`."""
        blocks = zip(self.likelihood.blocks, self.points, strict=True)
        return _sum(point.annotator_gradients(block.counts, vector) for block, point in blocks)


class Along:
    """Derivatives along changes of the utilities `(responses, B)`."""

    def __init__(self, here: LikelihoodAt, change: Tensor) -> None:
        self.here, self.change = here, change
        kept = here.likelihood.empty(change.shape[1])
        self.slopes = [Slope(point, change, out) for point, out in zip(here.points, kept, strict=True)]

    def by_annotator(self) -> Tensor:
        """Derivative of each annotator's log-likelihood, `(annotators, B)`."""
        return self._counted(slope.log_p() for slope in self.slopes)

    def variance(self) -> Tensor:
        """Minus the second derivative of each annotator's log-likelihood, `(annotators, B)`."""
        return self._counted(slope.variance() for slope in self.slopes)

    def _counted(self, values: Iterable[Tensor]) -> Tensor:
        blocks = self.here.likelihood.blocks
        return _sum(block.counts @ own for block, own in zip(blocks, values, strict=True))

    def product(self, weights: Weights, changes: Tensor | None = None) -> Tensor:
        """Minus the change of the weighted gradient: `(B, p)`.

        `changes` `(annotators, B)` are those of the annotators' weights along the same direction.
        """
        blocks = zip(self.slopes, weights, self.here.likelihood.blocks, strict=True)
        found = self.here.mass(weights) * self.change
        for slope, own, block in blocks:
            found += slope.flow(own, None if changes is None else block.back @ changes)
        return self.here.likelihood.summed(self.here.logit.collected(found))


def totals(weights: Weights) -> Tensor:
    """The sum over all choices: `(B,)`."""
    return _sum(own.sum(0) for own in weights)


def _sum(values: Iterable[Tensor]) -> Tensor:
    return reduce(add, values)

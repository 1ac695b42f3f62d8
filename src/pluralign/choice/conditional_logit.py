"""Weighted conditional logit: value, gradient and curvature of many coefficient vectors at once.

    log P(choice s) = u_chosen - log sum_i a_si exp(u_i),   u = features @ coefficients          (McFadden 1974)

In terms of the differences d_si = x_i - x_chosen of the features and P_si = P(i | s):

    gradient     = - sum_s w_s sum_i P_si d_si
    - Hessian    =   sum_s w_s (sum_i P_si d_si d_si' - m_s m_s'),   m_s = sum_i P_si d_si
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pluralign.choice.exploded import CELLS, Choices
from pluralign.choice.sparse import sparse_pair

DENSE_WORK = 2**31
"""Hessians of worths are made where one takes no more multiplications than this."""

KEPT_CELLS = 2**26
"""What every pass needs (differences of features, probabilities) is kept up to so many numbers, else made anew."""


@dataclass(frozen=True)
class Block:
    """A run of choices: their log-probabilities `(choices, B)` and P of the others `(choices, alternatives, B)`."""

    where: slice
    differences: Tensor
    back: Tensor
    log_p: Tensor
    p: Tensor


@dataclass(frozen=True)
class ConditionalLogit:
    """A conditional logit over different choices, for B coefficient vectors (types, restarts) at once.

    Args:
        choices: from `pluralign.choice.exploded.exploded`.
        features: `(responses, p)` float64; `None` gives every response a worth of its own (p = responses).
        responses: how many responses there are.
        available: `(types, responses)` bool, what each type knows, repeated along the B vectors; `None` is all.
    """

    choices: Choices
    features: Tensor | None
    responses: int
    available: Tensor | None = None

    @property
    def parameters(self) -> int:
        """p."""
        return self.responses if self.features is None else self.features.shape[1]

    @cached_property
    def _width(self) -> int:
        return self.choices.response.shape[1] - 1

    @property
    def dense(self) -> bool:
        """Whether Hessians are within reach; where not, `hessian_product` gives Newton steps."""
        return self.features is not None or len(self.choices) * self.parameters**2 <= DENSE_WORK

    @cached_property
    def _step(self) -> int:
        """Choices in a block."""
        columns = min(self.parameters, 512) if self.features is None else self._width * self.parameters
        return max(1, CELLS // 64 // max(1, columns))

    @cached_property
    def _kept(self) -> list[tuple[Tensor, Tensor]]:
        """Differences of all blocks, if there is room for them."""
        size = len(self.choices) * self._width * (2 if self.features is None else self.parameters)
        if size > KEPT_CELLS:
            return []
        return [self._differences(slice(at, at + self._step)) for at in range(0, len(self.choices), self._step)]

    def _differences(self, where: slice) -> tuple[Tensor, Tensor]:
        """x_i - x_chosen of the alternatives in a block `(choices * alternatives, p)`, and its transpose."""
        response = self.choices.response[where].clamp(min=0)
        chosen, others = response[:, :1].expand(-1, self._width).flatten(), response[:, 1:].flatten()
        if self.features is not None:
            found = self.features[others] - self.features[chosen]
            return found, found.T
        row = torch.arange(len(others), device=response.device).repeat(2)
        ones = torch.ones(len(others), dtype=torch.float64, device=response.device)
        columns, signs = torch.cat((others, chosen)), torch.cat((ones, -ones))
        return sparse_pair(row, columns, signs, (len(others), self.responses))

    def blocks(self, coefficients: Tensor) -> Iterable[Block]:
        """Log-probabilities and probabilities for coefficients `(B, p)`, in blocks, to go through many times."""
        if len(self.choices) * self._width * len(coefficients) <= KEPT_CELLS:
            return list(self._blocks(coefficients))
        return _Again(lambda: self._blocks(coefficients))

    def _blocks(self, coefficients: Tensor) -> Iterator[Block]:
        vectors = coefficients.T.contiguous()
        for number, start in enumerate(range(0, len(self.choices), self._step)):
            where = slice(start, min(start + self._step, len(self.choices)))
            differences, back = self._kept[number] if self._kept else self._differences(where)
            scores = (differences @ vectors).view(where.stop - start, self._width, -1)
            scores = scores + self.choices.log_share[where, 1:].unsqueeze(-1)
            own = self.choices.log_share[where, :1].expand(-1, scores.shape[-1])
            if self.available is not None:
                known = self.available.T[
                    self.choices.response[where].clamp(min=0)
                ]  # (choices, alternatives, types)
                known = known.repeat(1, 1, scores.shape[-1] // known.shape[-1])
                scores = scores.masked_fill(~known[:, 1:], -torch.inf)
            total = torch.logaddexp(own, torch.logsumexp(scores, 1) if self._width > 1 else scores[:, 0])
            p = (scores - total.unsqueeze(1)).exp()
            log_p = -total
            if self.available is not None:
                log_p = log_p.masked_fill(~known[:, 0], -torch.inf)
            yield Block(where, differences, back, log_p, p)

    def log_probabilities(self, coefficients: Tensor) -> Tensor:
        """`(choices, B)`, in nats; minus infinity where the chosen response is not available."""
        found = coefficients.new_empty(len(self.choices), len(coefficients))
        for block in self.blocks(coefficients):
            found[block.where] = block.log_p
        return found

    def value_and_gradient(self, blocks: Iterable[Block], weights: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted log-likelihood `(B,)` and its gradient `(B, p)`.

        Args:
            blocks: of the coefficients, from `blocks`.
            weights: `(choices, B)`; choices of weight 0 are passed over.
        """
        value, gradient = weights.new_zeros(weights.shape[1]), weights.new_zeros(self.parameters, weights.shape[1])
        for block in blocks:
            weight = weights[block.where]
            value += torch.where(weight > 0, weight * block.log_p, 0.0).sum(0)
            gradient -= block.back @ (weight.unsqueeze(1) * block.p).flatten(0, 1)
        return value, gradient.T

    def curvature(self, blocks: Iterable[Block], weights: Tensor) -> Tensor:
        """Minus the Hessian of the weighted log-likelihood, `(B, p, p)`: as `value_and_gradient`."""
        size, vectors = self.parameters, weights.shape[1]
        outer = weights.new_zeros(vectors, size, size)
        for block in blocks:
            outer += self._outer(block, weights[block.where])
        return outer

    def _outer(self, block: Block, weight: Tensor) -> Tensor:
        if self.features is None:
            return self._outer_of_worths(block, weight)
        mass = weight.unsqueeze(1) * block.p  # (choices, alternatives, B)
        if self._width == 1:
            return _gram(block.differences, (mass - mass * block.p)[:, 0])
        within = block.differences.view(*mass.shape[:2], -1)
        found = _gram(block.differences, mass.flatten(0, 1))
        for vector in range(mass.shape[-1]):
            mean = torch.einsum("sn,snp->sp", block.p[..., vector], within)
            found[vector] -= (mean * weight[:, vector : vector + 1]).T @ mean
        return found

    def _outer_of_worths(self, block: Block, weight: Tensor) -> Tensor:
        """With indicators as features: sum_s w_s (diag P_s - P_s P_s')."""
        response = self.choices.response[block.where].clamp(min=0)
        found = []
        for vector in range(weight.shape[1]):
            own = 1 - block.p[..., vector].sum(1, keepdim=True)
            p = torch.cat((own, block.p[..., vector]), 1)
            rows = p.new_zeros(len(p), self.parameters).scatter_add_(1, response, p)
            weighted = (rows * weight[:, vector : vector + 1]).T
            found.append(torch.diag(weighted.sum(1)) - weighted @ rows)
        return torch.stack(found)

    def hessian_product(self, blocks: Iterable[Block], weights: Tensor, vectors: Tensor) -> Tensor:
        """Minus the Hessian times a vector each: `(B, p)` to `(B, p)`, with the blocks of the coefficients."""
        found = vectors.new_zeros(self.parameters, len(vectors))
        for block in blocks:
            along = (block.differences @ vectors.T.contiguous()).view(block.p.shape)
            centred = along - (block.p * along).sum(1, keepdim=True)
            found += block.back @ (weights[block.where].unsqueeze(1) * block.p * centred).flatten(0, 1)
        return found.T

    def diagonal(self, blocks: Iterable[Block], weights: Tensor) -> Tensor:
        """An upper bound of the diagonal of minus the Hessian, `(B, p)`: sum_s w_s sum_i P_si d_si^2."""
        found = weights.new_zeros(self.parameters, weights.shape[1])
        for block in blocks:
            squares = block.back * block.back if self.features is not None else block.back.abs()
            found += squares @ (weights[block.where].unsqueeze(1) * block.p).flatten(0, 1)
        return found.T


@dataclass(frozen=True)
class _Again:
    """Blocks made anew at every pass, where there is no room to keep them."""

    make: Callable[[], Iterator[Block]]

    def __iter__(self) -> Iterator[Block]:
        return self.make()


def _gram(rows: Tensor, weights: Tensor) -> Tensor:
    """`(rows, p)` and `(rows, B)` to `(B, p, p)`: sum_r w_rb x_r x_r'."""
    return torch.stack([(rows * weight.unsqueeze(1)).T @ rows for weight in weights.T])

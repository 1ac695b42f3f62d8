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
from torch.nn.functional import softplus

from pluralign.choice.latent_class.designs import KEPT_CELLS, FeatureDesign, WorthDesign
from pluralign.choice.latent_class.exploded import Choices


@dataclass(frozen=True)
class Block:
    """A run of choices: their log-probabilities `(choices, B)` and P of the others `(choices, alternatives, B)`."""

    where: slice
    log_p: Tensor
    p: Tensor


@dataclass(frozen=True)
class ConditionalLogit:
    """A conditional logit over different choices, for B coefficient vectors (types, restarts) at once.

    Args:
        choices: from `pluralign.choice.latent_class.exploded.exploded`.
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
        return self.design.parameters

    @cached_property
    def design(self) -> FeatureDesign | WorthDesign:
        """How utilities depend on coefficients."""
        if self.features is None:
            return WorthDesign(self.choices.response, self.responses)
        return FeatureDesign(self.choices.response, self.features)

    def blocks(self, coefficients: Tensor) -> Iterable[Block]:
        """Log-probabilities and probabilities for coefficients `(B, p)`, in blocks, to go through many times."""
        if self.choices.response.numel() * len(coefficients) <= KEPT_CELLS:
            return list(self._blocks(coefficients))
        return _Again(lambda: self._blocks(coefficients))

    def _blocks(self, coefficients: Tensor) -> Iterator[Block]:
        vectors, step = coefficients.T.contiguous(), self.design.step
        for start in range(0, len(self.choices), step):
            where = slice(start, min(start + step, len(self.choices)))
            scores = self.design.scores(vectors, where) + self.choices.log_share[where, 1:].unsqueeze(-1)
            own = self.choices.log_share[where, :1].expand(-1, scores.shape[-1])
            if self.available is not None:
                # (choices, alternatives, types)
                known = self.available.T[self.choices.response[where].clamp(min=0)]
                known = known.repeat(1, 1, scores.shape[-1] // known.shape[-1])
                scores = scores.masked_fill(~known[:, 1:], -torch.inf)
            total = _log_total(own, scores)
            p = (scores - total.unsqueeze(1)).exp()
            log_p = -total
            if self.available is not None:
                log_p = log_p.masked_fill(~known[:, 0], -torch.inf)
            yield Block(where, log_p, p)

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
            gradient -= self.design.collected(weight.unsqueeze(1) * block.p, block.where)
        return value, gradient.T

    def part_curvature(self, blocks: Iterable[Block], weights: Tensor) -> Tensor:
        """Minus the Hessian, part by part, `(B, parts, size, size)`: as `value_and_gradient`.

        Rows and columns follow `design.parts.place`; those beyond a part's own size are 0.
        """
        parts = self.design.parts
        found = weights.new_zeros(weights.shape[1], parts.count, parts.size, parts.size)
        for block in blocks:
            self.design.add_curvature(found, block.p, weights[block.where], block.where)
        return found

    def curvature(self, blocks: Iterable[Block], weights: Tensor) -> Tensor:
        """Minus the Hessian of the weighted log-likelihood, `(B, p, p)`: as `value_and_gradient`."""
        own, parts = self.part_curvature(blocks, weights), self.design.parts
        if parts.count == 1:
            return own[:, 0, parts.place.unsqueeze(1), parts.place]
        outer = weights.new_zeros(weights.shape[1], self.parameters, self.parameters)
        for part in range(parts.count):
            inside = (parts.number == part).nonzero()[:, 0]
            outer[:, inside.unsqueeze(1), inside] = own[:, part, : len(inside), : len(inside)]
        return outer

    def hessian_product(self, blocks: Iterable[Block], weights: Tensor, vectors: Tensor) -> Tensor:
        """Minus the Hessian times a vector each: `(B, p)` to `(B, p)`, with the blocks of the coefficients."""
        found, columns = vectors.new_zeros(self.parameters, len(vectors)), vectors.T.contiguous()
        for block in blocks:
            along = self.design.scores(columns, block.where)
            centred = along - (block.p * along).sum(1, keepdim=True)
            found += self.design.collected(weights[block.where].unsqueeze(1) * block.p * centred, block.where)
        return found.T

    def diagonal(self, blocks: Iterable[Block], weights: Tensor) -> Tensor:
        """An upper bound of the diagonal of minus the Hessian, `(B, p)`: sum_s w_s sum_i P_si d_si^2."""
        found = weights.new_zeros(self.parameters, weights.shape[1])
        for block in blocks:
            found += self.design.collected_squares(weights[block.where].unsqueeze(1) * block.p, block.where)
        return found.T


@dataclass(frozen=True)
class _Again:
    """Blocks made anew at every pass, where there is no room to keep them."""

    make: Callable[[], Iterator[Block]]

    def __iter__(self) -> Iterator[Block]:
        return self.make()


def _log_total(own: Tensor, scores: Tensor) -> Tensor:
    """log(exp(own) + sum_i exp(scores_i)): `(choices, B)` and `(choices, alternatives, B)` to `(choices, B)`."""
    if scores.shape[1] > 16:
        return torch.logaddexp(own, torch.logsumexp(scores, 1))
    total = own
    for column in range(scores.shape[1]):  # one by one: twice as fast as torch's logaddexp, and as exact
        total = total + softplus(scores[:, column] - total, threshold=40)
    return total

"""Weighted conditional logit: value, gradient and curvature for many coefficient vectors at once.

    log P(choice s) = u_chosen - log sum_i a_si exp(u_i),   u = features @ coefficients          (McFadden 1974)

In terms of the feature differences d_si = x_i - x_chosen and P_si = P(i | s):

    gradient     = - sum_s w_s sum_i P_si d_si
    - Hessian    =   sum_s w_s (sum_i P_si d_si d_si' - m_s m_s'),   m_s = sum_i P_si d_si

Utilities are linear in features (`FeatureDesign`) or one worth per response (`WorthDesign`). A worth is the feature
"this response", whose differences are never written out.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from pluralign.choice.latent_class.exploded import Choices
from pluralign.choice.latent_class.panel import connected_parts

CELLS = 2**18
"""Size of a block of choices in numbers: small enough for a processor's cache."""

KEPT_CELLS = 2**26
"""Feature differences and probabilities are kept up to this size in numbers; beyond it each pass recomputes them."""


@dataclass(frozen=True)
class Parts:
    """Groups of coefficients; those of different parts never appear in the same choice.

    Args:
        number: `(p,)` the part of each coefficient.
        place: `(p,)` its position within the part.
        count: number of parts.
        size: of the largest part.
    """

    number: Tensor
    place: Tensor
    count: int
    size: int


class FeatureDesign:
    """u = features @ coefficients.

    Args:
        response: `(choices, 1 + alternatives)` the chosen response, then the others; below 0 where there is none.
        features: `(responses, p)`.
    """

    def __init__(self, response: Tensor, features: Tensor) -> None:
        self.response, self.features = response, features
        self.parameters = features.shape[1]
        self.step = max(1, CELLS // max(1, (response.shape[1] - 1) * self.parameters))

    @cached_property
    def parts(self) -> Parts:
        """A single part."""
        place = torch.arange(self.parameters, device=self.response.device)
        return Parts(torch.zeros_like(place), place, 1, self.parameters)

    @cached_property
    def _kept(self) -> list[Tensor]:
        size = len(self.response) * (self.response.shape[1] - 1) * self.parameters
        if size > KEPT_CELLS:
            return []
        return [self._differences(slice(at, at + self.step)) for at in range(0, len(self.response), self.step)]

    def _differences(self, where: slice) -> Tensor:
        shown = self.response[where].clamp(min=0)
        return self.features[shown[:, 1:]] - self.features[shown[:, :1]]

    def rows(self, where: slice) -> Tensor:
        """x_i - x_chosen in a block, `(block, alternatives, p)`."""
        return self._kept[where.start // self.step] if self._kept else self._differences(where)

    def scores(self, vectors: Tensor, where: slice) -> Tensor:
        """(x_i - x_chosen)' v: `(p, B)` to `(block, alternatives, B)`."""
        rows = self.rows(where)
        return (rows.flatten(0, 1) @ vectors).view(*rows.shape[:2], -1)

    def collected(self, mass: Tensor, where: slice) -> Tensor:
        """sum_s sum_i m_si (x_i - x_chosen): `(block, alternatives, B)` to `(p, B)`."""
        return self.rows(where).flatten(0, 1).T @ mass.flatten(0, 1)

    def collected_squares(self, mass: Tensor, where: slice) -> Tensor:
        """As `collected`, with the squared differences."""
        return self.rows(where).flatten(0, 1).square().T @ mass.flatten(0, 1)

    @cached_property
    def _edges(self) -> tuple[Tensor, Tensor, Tensor]:
        """Pairs of responses in one choice `(2, edges)`, the edge of each pair of places `(choices, pairs)`, places.

        The edge of a pair with an empty place is the number of edges.
        """
        first, second = torch.triu_indices(self.response.shape[1], self.response.shape[1], 1)
        one, two = self.response[:, first], self.response[:, second]
        key = torch.minimum(one, two) * len(self.features) + torch.maximum(one, two)
        there = torch.minimum(one, two) >= 0
        keys, place = torch.unique(key[there], return_inverse=True)
        edge = torch.full_like(key, len(keys))
        edge[there] = place
        ends = torch.stack((keys // len(self.features), keys % len(self.features)))
        return ends, edge, torch.stack((first, second))

    def curvature_sums(self, vectors: int) -> Tensor:
        """Zeros for `add_curvature`: `(B, edges + 1)`."""
        return self.features.new_zeros(vectors, self._edges[0].shape[1] + 1)

    def add_curvature(self, sums: Tensor, p: Tensor, weight: Tensor, where: slice) -> None:
        """Add w_s P_si P_sj of a block to the edge of i and j; P is `(block, alternatives, B)`, w `(block, B)`."""
        _, edge, (first, second) = self._edges
        edges = edge[where].flatten()
        for vector, row in enumerate(sums):
            own = p[..., vector]
            full = torch.cat((1 - own.sum(1, keepdim=True), own), 1)
            row.index_add_(0, edges, (full[:, first] * full[:, second] * weight[:, vector : vector + 1]).flatten())

    def curvature_of(self, sums: Tensor) -> Tensor:
        """X' L X with L the Laplacian of the edges' weights: `(B, 1, p, p)`.

        sum_i P_i x_i x_i' - m m' = sum_(i<j) P_i P_j (x_i - x_j)(x_i - x_j)', so the cost follows the responses and the
        compared pairs, not the choices.
        """
        (one, two), count = self._edges[0], len(self.features)
        rows, columns = torch.cat((one, two)), torch.cat((two, one))
        order = torch.argsort(rows, stable=True)
        starts = torch.cat((rows.new_zeros(1), torch.bincount(rows, minlength=count).cumsum(0)))
        found = sums.new_empty(len(sums), 1, self.parameters, self.parameters)
        for vector, values in enumerate(sums[:, :-1]):
            both = torch.cat((values, values))
            degree = values.new_zeros(count).index_add_(0, rows, both)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
                adjacency = torch.sparse_csr_tensor(
                    starts, columns[order], both[order], (count, count), check_invariants=False
                )
            found[vector, 0] = self.features.T @ (degree.unsqueeze(1) * self.features - adjacency @ self.features)
        return found

    def by_annotator(self, mass: Tensor, counts: Tensor) -> Tensor:
        """sum_s c_hs sum_i m_si (x_i - x_chosen): m `(choices, alternatives)`, c sparse, to `(annotators, p)`."""
        by_choice = mass.new_empty(len(mass), self.parameters)
        for start in range(0, len(mass), self.step):
            where = slice(start, min(start + self.step, len(mass)))
            by_choice[where] = torch.einsum("sn,snp->sp", mass[where], self.rows(where))
        return counts @ by_choice


class WorthDesign:
    """u = coefficients: as `FeatureDesign` with the identity matrix as features.

    Args:
        response: as in `FeatureDesign`.
        responses: number of responses.
    """

    def __init__(self, response: Tensor, responses: int) -> None:
        self.given, self.response, self.parameters = response, response.clamp(min=0), responses
        self.step = max(1, CELLS // (8 * response.shape[1]))

    @cached_property
    def parts(self) -> Parts:
        """The connected parts of the comparison graph."""
        shown = self.given[:, 1:] >= 0
        chosen, other = self.given[:, :1].expand_as(shown)[shown], self.given[:, 1:][shown]
        label = connected_parts(chosen.cpu().numpy(), other.cpu().numpy(), self.parameters)
        sizes = np.bincount(label)
        place = np.empty_like(label)
        place[np.argsort(label, kind="stable")] = np.arange(len(label)) - np.repeat(sizes.cumsum() - sizes, sizes)
        number, place_in_part = (torch.as_tensor(values, device=self.response.device) for values in (label, place))
        return Parts(number, place_in_part, len(sizes), int(sizes.max(initial=1)))

    def scores(self, vectors: Tensor, where: slice) -> Tensor:
        """v_i - v_chosen: `(p, B)` to `(block, alternatives, B)`."""
        shown = self.response[where]
        values = vectors.index_select(0, shown.flatten()).view(*shown.shape, -1)
        return values[:, 1:] - values[:, :1]

    def collected(self, mass: Tensor, where: slice) -> Tensor:
        """As `FeatureDesign.collected`: mass at a response as an alternative, minus that of its own alternatives."""
        return self._sums(torch.cat((-mass.sum(1, keepdim=True), mass), 1), where)

    def collected_squares(self, mass: Tensor, where: slice) -> Tensor:
        """As `collected`, with the squared differences."""
        return self._sums(torch.cat((mass.sum(1, keepdim=True), mass), 1), where)

    def curvature_sums(self, vectors: int) -> Tensor:
        """Zeros for `add_curvature`: `(B, parts, size, size)`."""
        parts = self.parts
        return torch.zeros(
            vectors, parts.count, parts.size, parts.size, dtype=torch.float64, device=self.response.device
        )

    def curvature_of(self, sums: Tensor) -> Tensor:
        """What `add_curvature` made, as it is."""
        return sums

    def add_curvature(self, total: Tensor, p: Tensor, weight: Tensor, where: slice) -> None:
        """Add sum_s w_s (diag P_s - P_s P_s') of a block to `(B, parts, size, size)`, in place."""
        parts, shown = self.parts, self.response[where]
        place = parts.place[shown]
        start = parts.number[shown[:, :1]] * parts.size**2
        cells = (start.unsqueeze(2) + place.unsqueeze(2) * parts.size + place.unsqueeze(1)).flatten()
        diagonal = (start + place * (parts.size + 1)).flatten()
        for vector, sums in enumerate(total.view(len(total), -1)):
            full = torch.cat((1 - p[..., vector].sum(1, keepdim=True), p[..., vector]), 1)
            weighted = full * weight[:, vector : vector + 1]
            sums.index_add_(0, diagonal, weighted.flatten())
            sums.index_add_(0, cells, -(weighted.unsqueeze(2) * full.unsqueeze(1)).flatten())

    def by_annotator(self, mass: Tensor, counts: Tensor) -> Tensor:
        """As `FeatureDesign.by_annotator`."""
        annotators = len(counts)
        starts, choice = counts.crow_indices(), counts.col_indices()
        annotator = torch.repeat_interleave(torch.arange(annotators, device=mass.device), starts.diff())
        full = torch.cat((-mass.sum(1, keepdim=True), mass), 1)[choice] * counts.values().unsqueeze(1)
        cells = annotator.unsqueeze(1) * self.parameters + self.response[choice]
        sums = mass.new_zeros(annotators * self.parameters)
        return sums.index_add_(0, cells.flatten(), full.flatten()).view(annotators, self.parameters)

    def _sums(self, mass: Tensor, where: slice) -> Tensor:
        shown = self.response[where].flatten()
        sums = mass.new_zeros(mass.shape[-1], self.parameters)
        # One vector at a time: index_add_ is many times slower along rows.
        for row, values in zip(sums, mass.flatten(0, 1).T, strict=True):
            row.index_add_(0, shown, values)
        return sums.T


@dataclass(frozen=True)
class Block:
    """A block of choices: log-probabilities `(choices, B)` and P of the alternatives `(choices, alternatives, B)`."""

    where: slice
    log_p: Tensor
    p: Tensor


@dataclass(frozen=True)
class ConditionalLogit:
    """A conditional logit over the distinct choices, for B coefficient vectors (types, restarts) at once.

    Args:
        choices: from `pluralign.choice.latent_class.exploded.exploded`.
        features: `(responses, p)` float64; `None` gives every response a worth of its own (p = responses).
        responses: number of responses.
        available: `(types, responses)` bool, the responses that each type considers, repeated along the B vectors;
            `None` is all.
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
        """Log-probabilities and probabilities for coefficients `(B, p)`, in blocks that can be iterated many times."""
        if self.choices.response.numel() * len(coefficients) <= KEPT_CELLS:
            return list(self._blocks(coefficients))
        return _Recomputed(lambda: self._blocks(coefficients))

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
        log_p = coefficients.new_empty(len(self.choices), len(coefficients))
        for block in self.blocks(coefficients):
            log_p[block.where] = block.log_p
        return log_p

    def value_and_gradient(self, blocks: Iterable[Block], weights: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted log-likelihood `(B,)` and its gradient `(B, p)`.

        Args:
            blocks: of the coefficients, from `blocks`.
            weights: `(choices, B)`; choices with weight 0 are skipped.
        """
        value, gradient = weights.new_zeros(weights.shape[1]), weights.new_zeros(self.parameters, weights.shape[1])
        for block in blocks:
            weight = weights[block.where]
            value += torch.where(weight > 0, weight * block.log_p, 0.0).sum(0)
            gradient -= self.design.collected(weight.unsqueeze(1) * block.p, block.where)
        return value, gradient.T

    def part_curvature(self, blocks: Iterable[Block], weights: Tensor) -> Tensor:
        """Minus the Hessian of each part, `(B, parts, size, size)`, in the order of `design.parts.place`, 0 beyond."""
        sums = self.design.curvature_sums(weights.shape[1])
        for block in blocks:
            self.design.add_curvature(sums, block.p, weights[block.where], block.where)
        return self.design.curvature_of(sums)

    def curvature(self, blocks: Iterable[Block], weights: Tensor) -> Tensor:
        """Minus the Hessian of the weighted log-likelihood, `(B, p, p)`."""
        own, parts = self.part_curvature(blocks, weights), self.design.parts
        if parts.count == 1:
            return own[:, 0, parts.place.unsqueeze(1), parts.place]
        outer = weights.new_zeros(weights.shape[1], self.parameters, self.parameters)
        for part in range(parts.count):
            inside = (parts.number == part).nonzero()[:, 0]
            outer[:, inside.unsqueeze(1), inside] = own[:, part, : len(inside), : len(inside)]
        return outer

    def hessian_product(self, blocks: Iterable[Block], weights: Tensor, vectors: Tensor) -> Tensor:
        """Minus the Hessian times one vector each: `(B, p)` to `(B, p)`."""
        product, columns = vectors.new_zeros(self.parameters, len(vectors)), vectors.T.contiguous()
        for block in blocks:
            along = self.design.scores(columns, block.where)
            centred = along - (block.p * along).sum(1, keepdim=True)
            product += self.design.collected(weights[block.where].unsqueeze(1) * block.p * centred, block.where)
        return product.T

    def diagonal(self, blocks: Iterable[Block], weights: Tensor) -> Tensor:
        """An upper bound of the diagonal of minus the Hessian, `(B, p)`: sum_s w_s sum_i P_si d_si^2."""
        bound = weights.new_zeros(self.parameters, weights.shape[1])
        for block in blocks:
            bound += self.design.collected_squares(weights[block.where].unsqueeze(1) * block.p, block.where)
        return bound.T


@dataclass(frozen=True)
class _Recomputed:
    """Blocks that are too large to keep and are recomputed at every pass."""

    make: Callable[[], Iterator[Block]]

    def __iter__(self) -> Iterator[Block]:
        return self.make()


def _log_total(own: Tensor, scores: Tensor) -> Tensor:
    """log(exp(own) + sum_i exp(scores_i)): `(choices, B)` and `(choices, alternatives, B)` to `(choices, B)`."""
    if scores.shape[1] > 16:
        return torch.logaddexp(own, torch.logsumexp(scores, 1))
    total = own
    for column in range(scores.shape[1]):  # one by one: twice as fast as torch's logaddexp, and equally exact
        total = total + softplus(scores[:, column] - total, threshold=40)
    return total

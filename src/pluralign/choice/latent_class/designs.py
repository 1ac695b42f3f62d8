"""How utilities depend on coefficients: linear in features, or a worth for every response.

Both say, for choices s with alternatives i, what x_i - x_chosen does to a vector of coefficients and what is
gathered from numbers at the alternatives. A worth is the feature "this response", whose differences are never
written down.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

CELLS = 2**18
"""Numbers that a block of choices may take: what fits a processor's cache."""

KEPT_CELLS = 2**26
"""What every pass needs (differences of features, probabilities) is kept up to so many numbers, else made anew."""


@dataclass(frozen=True)
class Parts:
    """Coefficients that have to do with each other: those of different parts never meet in a choice.

    Args:
        number: `(p,)` the part of each coefficient.
        place: `(p,)` its place within the part.
        count: how many parts.
        size: of the largest.
    """

    number: Tensor
    place: Tensor
    count: int
    size: int


class FeatureDesign:
    """u = features @ coefficients.

    Args:
        response: `(choices, 1 + alternatives)` the chosen response and the others; below 0 where there is none.
        features: `(responses, p)`.
    """

    def __init__(self, response: Tensor, features: Tensor) -> None:
        self.response, self.features = response, features
        self.parameters = features.shape[1]
        self.step = max(1, CELLS // max(1, (response.shape[1] - 1) * self.parameters))

    @cached_property
    def parts(self) -> Parts:
        """All in one."""
        place = torch.arange(self.parameters, device=self.response.device)
        return Parts(torch.zeros_like(place), place, 1, self.parameters)

    @cached_property
    def _kept(self) -> list[Tensor]:
        size = len(self.response) * (self.response.shape[1] - 1) * self.parameters
        if size > KEPT_CELLS:
            return []
        return [self._made(slice(at, at + self.step)) for at in range(0, len(self.response), self.step)]

    def _made(self, where: slice) -> Tensor:
        shown = self.response[where].clamp(min=0)
        return self.features[shown[:, 1:]] - self.features[shown[:, :1]]

    def rows(self, where: slice) -> Tensor:
        """x_i - x_chosen in a block, `(block, alternatives, p)`."""
        return self._kept[where.start // self.step] if self._kept else self._made(where)

    def scores(self, vectors: Tensor, where: slice) -> Tensor:
        """(x_i - x_chosen)' v: `(p, B)` to `(block, alternatives, B)`."""
        rows = self.rows(where)
        return (rows.flatten(0, 1) @ vectors).view(*rows.shape[:2], -1)

    def collected(self, mass: Tensor, where: slice) -> Tensor:
        """sum_s sum_i m_si (x_i - x_chosen): `(block, alternatives, B)` to `(p, B)`."""
        return self.rows(where).flatten(0, 1).T @ mass.flatten(0, 1)

    def collected_squares(self, mass: Tensor, where: slice) -> Tensor:
        """The same with squares of the differences."""
        return self.rows(where).flatten(0, 1).square().T @ mass.flatten(0, 1)

    def add_curvature(self, total: Tensor, p: Tensor, weight: Tensor, where: slice) -> None:
        """Adds sum_s w_s (sum_i P_si d_si d_si' - m_s m_s') of a block to `(B, 1, p, p)`, in place.

        Args:
            total: what it is added to.
            p: P `(block, alternatives, B)`.
            weight: w `(block, B)`.
            where: the block.
        """
        rows = self.rows(where)
        mass = weight.unsqueeze(1) * p
        if mass.shape[1] == 1:
            total[:, 0] += _gram(rows[:, 0], (mass - mass * p)[:, 0])
            return
        total[:, 0] += _gram(rows.flatten(0, 1), mass.flatten(0, 1))
        for vector in range(mass.shape[-1]):
            mean = torch.einsum("sn,snp->sp", p[..., vector], rows)
            total[vector, 0] -= (mean * weight[:, vector : vector + 1]).T @ mean

    def by_person(self, mass: Tensor, counts: Tensor) -> Tensor:
        """sum_s c_hs sum_i m_si (x_i - x_chosen) of each annotator: `(choices, alternatives)` to `(annotators, p)`.

        Args:
            mass: the m.
            counts: c `(annotators, choices)`, sparse in compressed rows.
        """
        found = mass.new_empty(len(mass), self.parameters)
        for start in range(0, len(mass), self.step):
            where = slice(start, min(start + self.step, len(mass)))
            found[where] = torch.einsum("sn,snp->sp", mass[where], self.rows(where))
        return counts @ found


class WorthDesign:
    """u = coefficients: as `FeatureDesign` with the identity for features.

    Args:
        response: as there.
        responses: how many there are.
    """

    def __init__(self, response: Tensor, responses: int) -> None:
        self.given, self.response, self.parameters = response, response.clamp(min=0), responses
        self.step = max(1, CELLS // (8 * response.shape[1]))

    @cached_property
    def parts(self) -> Parts:
        """The connected parts of the comparison graph."""
        shown = self.given[:, 1:] >= 0
        ends = self.given[:, :1].expand_as(shown)[shown], self.given[:, 1:][shown]
        row, column = (end.cpu().numpy() for end in ends)
        graph = coo_array((np.ones(len(row)), (row, column)), shape=(self.parameters, self.parameters))
        count, label = connected_components(graph, directed=False)
        order = np.argsort(label, kind="stable")
        sizes = np.bincount(label, minlength=count)
        place = np.empty(self.parameters, dtype=np.int64)
        place[order] = np.arange(self.parameters) - np.repeat(sizes.cumsum() - sizes, sizes)
        device = self.response.device
        return Parts(
            torch.as_tensor(label.astype(np.int64), device=device),
            torch.as_tensor(place, device=device),
            int(count),
            int(sizes.max(initial=1)),
        )

    def scores(self, vectors: Tensor, where: slice) -> Tensor:
        """v_i - v_chosen: `(p, B)` to `(block, alternatives, B)`."""
        shown = self.response[where]
        found = vectors.index_select(0, shown.flatten()).view(*shown.shape, -1)
        return found[:, 1:] - found[:, :1]

    def collected(self, mass: Tensor, where: slice) -> Tensor:
        """What stands at a response as an alternative, less at all alternatives to it: to `(p, B)`."""
        return self._sums(torch.cat((-mass.sum(1, keepdim=True), mass), 1), where)

    def collected_squares(self, mass: Tensor, where: slice) -> Tensor:
        """The same with squares of the differences."""
        return self._sums(torch.cat((mass.sum(1, keepdim=True), mass), 1), where)

    def add_curvature(self, total: Tensor, p: Tensor, weight: Tensor, where: slice) -> None:
        """Adds sum_s w_s (diag P_s - P_s P_s') of a block to `(B, parts, size, size)`, in place."""
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

    def by_person(self, mass: Tensor, counts: Tensor) -> Tensor:
        """As `FeatureDesign.by_person`."""
        people = len(counts)
        starts, choice = counts.crow_indices(), counts.col_indices()
        person = torch.repeat_interleave(torch.arange(people, device=mass.device), starts.diff())
        full = torch.cat((-mass.sum(1, keepdim=True), mass), 1)[choice] * counts.values().unsqueeze(1)
        cells = person.unsqueeze(1) * self.parameters + self.response[choice]
        found = mass.new_zeros(people * self.parameters)
        return found.index_add_(0, cells.flatten(), full.flatten()).view(people, self.parameters)

    def _sums(self, mass: Tensor, where: slice) -> Tensor:
        shown = self.response[where].flatten()
        found = mass.new_zeros(mass.shape[-1], self.parameters)
        # One vector at a time: along rows, index_add_ is many times slower.
        for row, values in zip(found, mass.flatten(0, 1).T, strict=True):
            row.index_add_(0, shown, values)
        return found.T


def _gram(rows: Tensor, weights: Tensor) -> Tensor:
    """`(rows, p)` and `(rows, B)` to `(B, p, p)`: sum_r w_rb x_r x_r'."""
    return torch.stack([(rows * weight.unsqueeze(1)).T @ rows for weight in weights.T])

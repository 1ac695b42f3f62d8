"""How utilities depend on coefficients: linear in features, or a worth for every response.

Both say, for choices s with alternatives i, what x_i - x_chosen does to a vector of coefficients and what is
gathered from numbers at the alternatives. A worth is the feature "this response", whose differences are never
written down.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

CELLS = 2**18
"""Numbers that a block of choices may take: what fits a processor's cache."""

KEPT_CELLS = 2**26
"""What every pass needs (differences of features, probabilities) is kept up to so many numbers, else made anew."""


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
        self.response, self.parameters = response.clamp(min=0), responses
        self.step = max(1, CELLS // (8 * response.shape[1]))

    def rows(self, where: slice) -> Tensor:
        """x_i - x_chosen in a block, `(block, alternatives, p)`."""
        shown = self.response[where]
        found = torch.zeros(*shown[:, 1:].shape, self.parameters, dtype=torch.float64, device=shown.device)
        found.scatter_(2, shown[:, 1:].unsqueeze(2), 1.0)
        return found.scatter_add_(
            2, shown[:, :1].expand_as(shown[:, 1:]).unsqueeze(2), -torch.ones_like(found[..., :1])
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
        for row, values in zip(
            found, mass.flatten(0, 1).T, strict=True
        ):  # along rows, index_add_ is many times slower
            row.index_add_(0, shown, values)
        return found.T

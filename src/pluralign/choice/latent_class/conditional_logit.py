"""Weighted conditional logit: value, gradient and curvature for many coefficient vectors at once.

A choice takes a block T of d tied responses before the set A (`choice_sets`). With e_i = exp(u_i), u = features @
coefficients, S_T and S_A the sums of e over T and A, and D_j = S_A + a_j S_T (McFadden 1974; Efron 1977),

    log P        = sum_(i in T) u_i - sum_j log D_j
    d log P / du = 1_T - e (1_A sum_j 1 / D_j + 1_T sum_j a_j / D_j)

All of it is products of two sparse matrices, which mark T and A, with a matrix that has a row for each response: the
cost follows the members of the distinct choices, and features enter only once for each response. With X the features,
W the weights and m_j = (sum_(i in A) e_i x_i + a_j sum_(i in T) e_i x_i) / D_j, minus the Hessian is

    X' diag(mass) X - sum_s w_s sum_j m_sj m_sj'  =  X' L X

with L the Laplacian of the responses that occur in a choice together, each pair weighted by sum_s w_s sum_j P_i P_k.
Without features every response has a worth of its own, and X is the identity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import scipy.sparse
import torch
from torch import Tensor

from pluralign.choice.latent_class.choice_sets import ChoiceSets, Members
from pluralign.choice.latent_class.compared_pairs import Edges

WIDE = 300.0
"""If utilities differ by more than this, exponentials are taken relative to the largest of each choice."""

EDGE_WORK = 4
"""Hessians are made from pairs of responses if an average choice has fewer pairs than p times this, or than p^2 divided
by this, with p features. Their products with vectors are, if there are also fewer distinct pairs than this times the
members of all choices."""

MOST_EDGES = 2**24
"""With more pairs than this, Hessians are made from the choices' mean features."""

LEAST = 1e-150
"""The smallest sum of exponentials: that of a choice whose responses are not available, and whose weight is 0."""


@dataclass(frozen=True)
class ConditionalLogit:
    """A conditional logit over the distinct choices, for B coefficient vectors (types, restarts) at once.

    Args:
        choices: from `pluralign.choice.latent_class.choice_sets.choice_sets`.
        features: `(responses, p)` float64; `None` gives every response a worth of its own (p = responses).
        responses: number of responses.
        available: `(types, responses)` bool, the responses that each type considers, repeated along the B vectors;
            `None` is all.
        derived: what was computed from these and is needed again.
    """

    choices: ChoiceSets
    features: Tensor | None
    responses: int
    available: Tensor | None = None
    derived: dict[str, Any] = field(default_factory=dict, init=False, compare=False)

    @property
    def parameters(self) -> int:
        """p."""
        return self.responses if self.features is None else self.features.shape[1]

    def utilities(self, vectors: Tensor) -> Tensor:
        """X v: `(B, p)` to `(responses, B)`."""
        return vectors.T.contiguous() if self.features is None else self.features @ vectors.T

    def collected(self, values: Tensor) -> Tensor:
        """X' times values of the responses: `(responses, B)` to `(B, p)`."""
        return values.T if self.features is None else values.T @ self.features

    def of_all(self) -> ConditionalLogit:
        """The same without a limit on what types consider."""
        return self if self.available is None else replace(self, available=None)

    def at(self, utilities: Tensor, like: Point | None = None, out: Tensor | None = None) -> Point:
        """The logit at utilities `(responses, B)`; `like` is a point at the same ones, of other choices.

        `out` `(choices, B)` is memory for what the point keeps.
        """
        return Point(self, utilities, like, out)

    def every(self, step: int) -> ConditionalLogit:
        """The logit over every `step`-th choice; kept, so that its pairs are found once."""
        key = f"every {step}"
        if key not in self.derived:
            self.derived[key] = replace(self, choices=self.choices.every(step))
        return self.derived[key]

    @cached_property
    def few_edges(self) -> bool:
        """Whether Hessians are cheaper from pairs of responses than from the choices' mean features."""
        sizes = torch.bincount(self.choices.others.choice, minlength=len(self.choices)).double() + self.choices.places
        pairs = float((sizes * (sizes - 1)).sum()) / 2
        most = self.parameters * max(EDGE_WORK, self.parameters / EDGE_WORK)
        return pairs <= min(MOST_EDGES, most * max(1, len(self.choices)))

    @cached_property
    def edges(self) -> Edges:
        """The pairs of responses that occur in a choice together."""
        return Edges.of(self.choices, self.responses)


class Point:
    """A logit at utilities `(responses, B)`; what several derivatives need is computed once."""

    top: Tensor
    wide: bool
    exponentials: Tensor

    def __init__(self, logit: ConditionalLogit, utilities: Tensor, like: Point | None, out: Tensor | None) -> None:
        self.logit, self.choices, self.utilities = logit, logit.choices, utilities
        known = None
        if logit.available is not None:
            known = logit.available.T.repeat(1, utilities.shape[1] // len(logit.available))
            utilities = utilities.masked_fill(~known, -torch.inf)
        self._known = known
        self.top, self.wide = _range(utilities, known) if like is None else (like.top, like.wide)
        self.shift = self.top
        if self.wide:
            self.shift = _largest(utilities, self.choices)
            self._inside = {
                id(part): (utilities[part.response] - self.shift[part.choice]).exp()
                for part in (self.choices.tied, self.choices.others)
            }
        else:
            self.exponentials = (utilities - self.top).exp() if like is None else like.exponentials
        ones = torch.ones_like(self.utilities)
        tied, others = self.sums(self.choices.tied, ones), self.sums(self.choices.others, ones)
        rows = self.choices.of_further
        # Where nothing is available the choice is impossible; its weight is 0, and its sum must not be.
        self.further = (others[rows] + self.choices.share * tied[rows]).clamp_(min=LEAST)
        """D_j of the places after the first of a block of ties: `(places, B)`."""
        self.inverse = torch.reciprocal(tied.add_(others).clamp_(min=LEAST), out=out)
        """1 / D_0: `(choices, B)`."""

    def sums(self, part: Members, values: Tensor, vector: int | None = None) -> Tensor:
        """sum_i e_i v_i over the members of each choice: `(responses, B)` to `(choices, B)`.

        With a `vector`, all columns are values for this one of the B.
        """
        if not self.wide:
            own = self.exponentials if vector is None else self.exponentials[:, vector : vector + 1]
            return part.matrix @ (own * values)
        inside = self._inside[id(part)]
        inside = inside if vector is None else inside[:, vector : vector + 1]
        sums = values.new_zeros(len(self.choices), values.shape[1])
        return sums.index_add_(0, part.choice, inside * values[part.response])

    def spread(self, part: Members, values: Tensor) -> Tensor:
        """e_i sum of the values of the choices that i is a member of: `(choices, B)` to `(responses, B)`."""
        if not self.wide:
            return self.exponentials * (part.back @ values)
        sums = values.new_zeros(len(self.utilities), values.shape[1])
        return sums.index_add_(0, part.response, self._inside[id(part)] * values[part.choice])

    def over_places(self, first: Tensor, further: Tensor | None) -> Tensor:
        """Sum over the places of each choice, from the first ones `(choices, B)` and the others `(places, B)`."""
        return first if self.choices.further is None or further is None else first + self.choices.further @ further

    @property
    def log_p(self) -> Tensor:
        """`(choices, B)`, in nats; minus infinity where a chosen response is not available."""
        sets = self.choices
        found = sets.tied.matrix @ self.utilities
        found -= sets.places.unsqueeze(1) * self.shift
        found += self.over_places(self.inverse.log(), None if sets.further is None else -self.further.log())
        if self._known is not None:
            found = found.masked_fill(sets.tied.matrix @ (~self._known).to(found.dtype) > 0, -torch.inf)
        return found

    @cached_property
    def per_tied(self) -> Tensor:
        """sum_j a_j / D_j, `(choices, B)`."""
        return self.over_places(
            self.inverse, None if self.choices.further is None else self.choices.share / self.further
        )

    @cached_property
    def per_other(self) -> Tensor:
        """sum_j 1 / D_j, `(choices, B)`."""
        return self.per_tied if self.choices.further is None else self.over_places(self.inverse, 1 / self.further)

    def mass(self, weights: Tensor) -> Tensor:
        """sum_s w_s sum_j P_sj of each response: `(choices, B)` to `(responses, B)`."""
        found = self.spread(self.choices.tied, weights * self.per_tied)
        return found.add_(self.spread(self.choices.others, weights * self.per_other))

    def chosen(self, weights: Tensor) -> Tensor:
        """sum_s w_s of the choices that took each response: `(choices, B)` to `(responses, B)`."""
        return self.choices.tied.back @ weights

    @property
    def in_pairs(self) -> bool:
        """Whether products with the Hessian are cheaper from pairs of responses."""
        return (
            not self.wide and self.logit.few_edges and len(self.logit.edges.first) <= EDGE_WORK * self.choices.members
        )

    def product_in_pairs(self, weights: Tensor) -> Callable[[Tensor], Tensor]:
        """Products of minus the Hessian in the utilities with changes of them: both `(responses, B)`."""
        edges = self.logit.edges
        pairs = edges.weights(self._seconds(weights), self.exponentials)
        return lambda change: edges.product(pairs, change)

    def curvature(self, weights: Tensor) -> Tensor:
        """Minus the Hessian of the weighted log-likelihood: `(choices, B)` to `(B, p, p)`."""
        if self.logit.few_edges and not self.wide:
            edges = self.logit.edges
            return edges.quadratic(edges.weights(self._seconds(weights), self.exponentials), self.logit.features)
        return self._from_means(weights)

    def _seconds(self, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """w_s times the sums over j of 1 / D_j^2, a_j / D_j^2 and a_j^2 / D_j^2, each `(choices, B)`."""
        first = weights * self.inverse.square()
        if self.choices.further is None:
            return first, first, first
        inverse, share = 1 / self.further.square(), self.choices.share
        return tuple(first + weights * (self.choices.further @ (share**power * inverse)) for power in range(3))  # type: ignore[return-value]

    def _from_means(self, weights: Tensor) -> Tensor:
        """X' diag(mass) X less the outer products of the means of each choice, which may be large."""
        x = torch.eye(len(self.utilities), dtype=weights.dtype, device=weights.device)
        x = x if self.logit.features is None else self.logit.features
        found = weights.new_empty(weights.shape[1], x.shape[1], x.shape[1])
        mass, seconds = self.mass(weights), self._seconds(weights)
        for vector in range(len(found)):
            tied, others = (self.sums(part, x, vector) for part in (self.choices.tied, self.choices.others))
            both, one, two = (part[:, vector : vector + 1] for part in seconds)
            found[vector] = x.T @ (mass[:, vector : vector + 1] * x)
            found[vector] -= others.T @ (both * others + one * tied) + tied.T @ (one * others + two * tied)
        return found

    def diagonal(self, weights: Tensor) -> Tensor:
        """An upper bound of the diagonal of minus the Hessian, `(B, p)`: sum_s w_s sum_j sum_i P_sij x_i^2.

        Without features it is exact.
        """
        mass = self.mass(weights)
        if self.logit.features is not None:
            return mass.T @ self.logit.features.square()
        both, _, two = self._seconds(weights)
        squares = self._squares(self.choices.others, both) + self._squares(self.choices.tied, two)
        return (mass - squares).clamp(min=0).T

    def _squares(self, part: Members, values: Tensor) -> Tensor:
        if not self.wide:
            return self.exponentials.square() * (part.back @ values)
        sums = values.new_zeros(len(self.utilities), values.shape[1])
        return sums.index_add_(0, part.response, self._inside[id(part)].square() * values[part.choice])

    def annotator_gradients(self, counts: Tensor, vector: int) -> Tensor:
        """Gradient of each annotator's log-likelihood under one of the B vectors, `(annotators, p)`.

        Args:
            counts: `(annotators, choices)` sparse.
            vector: which of them.
        """
        shape = (len(self.choices), len(self.utilities))
        parts = []
        for part, per, chosen in (
            (self.choices.tied, self.per_tied, 1.0),
            (self.choices.others, self.per_other, 0.0),
        ):
            inside = self._inside[id(part)] if self.wide else self.exponentials[part.response]
            values = chosen - per[part.choice, vector] * inside[:, vector]
            places = (part.choice.cpu().numpy(), part.response.cpu().numpy())
            parts.append(scipy.sparse.coo_array((values.cpu().numpy(), places), shape=shape))
        made = _as_scipy(counts) @ (parts[0] + parts[1]).tocsr()
        features = self.logit.features
        dense = made.toarray() if features is None else made @ features.cpu().numpy()
        return torch.as_tensor(dense, device=self.utilities.device)


class Slope:
    """Derivatives of a `Point` along changes of the utilities `(responses, B)`; `out` as in `ConditionalLogit.at`."""

    def __init__(self, point: Point, change: Tensor, out: Tensor | None = None) -> None:
        self.point, self.change = point, change
        sets = point.choices
        tied, others = point.sums(sets.tied, change), point.sums(sets.others, change)
        self._further = None
        if sets.further is not None:
            rows = sets.of_further
            self._further = (others[rows] + sets.share * tied[rows]) / point.further
        self._first = torch.mul(tied.add_(others), point.inverse, out=out)

    def log_p(self) -> Tensor:
        """Derivative of the log-probabilities, `(choices, B)`."""
        taken = self.point.choices.tied.matrix @ self.change
        return taken - self.point.over_places(self._first, self._further)

    def variance(self) -> Tensor:
        """Minus the second derivative of the log-probabilities, `(choices, B)`."""
        point, sets = self.point, self.point.choices
        tied, others = (point.sums(part, self.change.square()) for part in (sets.tied, sets.others))
        further = None
        if sets.further is not None and self._further is not None:
            rows = sets.of_further
            further = (others[rows] + sets.share * tied[rows]) / point.further - self._further.square()
        return point.over_places((tied + others) * point.inverse - self._first.square(), further)

    def flow(self, weights: Tensor, changes: Tensor | None = None) -> Tensor:
        """Minus the change of the weighted gradient, in the utilities, less `mass` times the change: `(responses, B)`.

        `changes` `(choices, B)` are those of the weights along the same direction.
        """
        point, sets = self.point, self.point.choices

        def of_sums(share: Tensor | float, per: Tensor) -> Tensor:
            own = self._first * point.inverse
            if sets.further is not None and self._further is not None:
                own += sets.further @ (share * self._further / point.further)
            own *= weights
            return own if changes is None else own.sub_(changes * per)

        tied = of_sums(sets.share, point.per_tied)
        others = tied if sets.further is None else of_sums(1.0, point.per_other)
        found = point.spread(sets.tied, tied).add_(point.spread(sets.others, others)).neg_()
        return found if changes is None else found.sub_(point.chosen(changes))


def _range(utilities: Tensor, known: Tensor | None) -> tuple[Tensor, bool]:
    """The largest utility of each vector `(B,)`, and whether some differ by more than `WIDE`."""
    finite = utilities if known is None else utilities.masked_fill(~known, 0.0)
    if not len(finite):
        return finite.new_zeros(finite.shape[1]), False
    top = finite.amax(0)
    return top, bool((top - finite.amin(0) > WIDE).any())


def _largest(utilities: Tensor, choices: ChoiceSets) -> Tensor:
    """The largest utility in each choice, `(choices, B)`; 0 if nothing is available."""
    found = utilities.new_full((len(choices), utilities.shape[1]), -torch.inf)
    for part in (choices.tied, choices.others):
        index = part.choice.long().unsqueeze(1).expand(-1, utilities.shape[1])
        found.scatter_reduce_(0, index, utilities[part.response], "amax")
    return torch.where(torch.isfinite(found), found, 0.0)


def _as_scipy(matrix: Tensor) -> scipy.sparse.csr_array:
    parts = (matrix.values(), matrix.col_indices(), matrix.crow_indices())
    return scipy.sparse.csr_array(tuple(part.cpu().numpy() for part in parts), shape=tuple(matrix.shape))

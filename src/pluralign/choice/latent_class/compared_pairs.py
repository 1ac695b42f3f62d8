"""The Laplacian of the responses that are compared: second derivatives of conditional logits from pairs of responses.

With w_s the weight of choice s and P_i the probability of response i, minus the Hessian in the utilities is

    L = sum_(i < k) l_ik (1_i - 1_k) (1_i - 1_k)',   l_ik = sum_s w_s sum_j P_sij P_skj

so products with it, and X' L X for features X, cost as much as there are pairs that occur together.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from pluralign.choice.latent_class.choice_sets import ChoiceSets, compressed

DIFFERENCES = 8
"""With fewer pairs for each response than this, Hessians are sums over differences of features."""

BLOCK = 2**12
"""Pairs whose differences of features are made at once."""


@dataclass(frozen=True)
class Edges:
    """The pairs of responses that occur in a choice together.

    Args:
        first, second: `(pairs,)`.
        within: three sparse matrices `(pairs, choices)`: both in A, one in A and one in T, both in T.
        joined: their sum.
        order: `(2 pairs,)` the pair behind each entry of the symmetric matrix of pairs, by rows.
        starts, columns: of that matrix in compressed rows.
    """

    first: Tensor
    second: Tensor
    within: tuple[Tensor, Tensor, Tensor]
    joined: Tensor
    order: Tensor
    starts: Tensor
    columns: Tensor

    def adjacency(self, values: Tensor) -> Tensor:
        """The symmetric matrix `(responses, responses)` with these values `(pairs,)`."""
        size = len(self.starts) - 1
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            return torch.sparse_csr_tensor(
                self.starts, self.columns, values[self.order], (size, size), check_invariants=False
            )

    @classmethod
    def of(cls, choices: ChoiceSets, responses: int) -> Edges:
        """Those of some choices."""
        others, tied = ((part.choice.long(), part.response.long()) for part in (choices.others, choices.tied))
        lists = [_pairs(*others, *others), _pairs(*others, *tied), _pairs(*tied, *tied)]
        keys = torch.cat([torch.minimum(one, two) * responses + torch.maximum(one, two) for _, one, two in lists])
        unique, number = torch.unique(keys, return_inverse=True)
        shape, ones = (len(unique), len(choices)), torch.ones(len(number), dtype=torch.float64, device=number.device)
        sizes = [len(choice) for choice, _, _ in lists]
        occurs = torch.cat([choice for choice, _, _ in lists])
        parts = zip(number.split(sizes), occurs.split(sizes), ones.split(sizes), strict=True)
        inside, mixed, together = (compressed(*part, shape) for part in parts)
        first, second = unique // responses, unique % responses
        rows, columns = torch.cat((first, second)), torch.cat((second, first))
        order = torch.argsort(rows, stable=True)
        starts = torch.cat((rows.new_zeros(1), torch.bincount(rows, minlength=responses).cumsum(0)))
        joined = compressed(number, occurs, ones, shape)
        return cls(
            first, second, (inside, mixed, together), joined, order % max(1, len(unique)), starts, columns[order]
        )

    def weights(self, seconds: tuple[Tensor, Tensor, Tensor], exponentials: Tensor) -> Tensor:
        """l_ik of each pair for B vectors, `(pairs, B)`.

        Args:
            seconds: w_s times the sums over j of 1 / D_j^2, a_j / D_j^2 and a_j^2 / D_j^2, each `(choices, B)`; the
                same tensor three times without ties.
            exponentials: of the utilities, `(responses, B)`.
        """
        if seconds[0] is seconds[1]:
            pairs = self.joined @ seconds[0]
        else:
            others, mixed, tied = (own @ part for own, part in zip(self.within, seconds, strict=True))
            pairs = others + mixed + tied
        return pairs * exponentials[self.first] * exponentials[self.second]

    def product(self, pairs: Tensor, utilities: Tensor) -> Tensor:
        """L times one vector each: weights `(pairs, B)` and `(responses, B)` to `(responses, B)`."""
        flow = pairs * (utilities[self.first] - utilities[self.second])
        sums = torch.zeros_like(utilities)
        return sums.index_add_(0, self.first, flow).index_add_(0, self.second, -flow)

    def quadratic(self, pairs: Tensor, features: Tensor | None) -> Tensor:
        """X' L X for features `(responses, p)`, or L itself: weights `(pairs, B)` to `(B, p, p)`."""
        responses = len(self.starts) - 1
        if features is not None and len(pairs) <= DIFFERENCES * responses:
            return self._from_differences(pairs, features)
        size = responses if features is None else features.shape[1]
        found = pairs.new_empty(pairs.shape[1], size, size)
        for vector, values in enumerate(pairs.T.contiguous()):
            degree = values.new_zeros(responses).index_add_(0, self.first, values).index_add_(0, self.second, values)
            if features is None:
                cells = found[vector].zero_().view(-1)
                cells[self.first * size + self.second] = -values
                cells[self.second * size + self.first] = -values
                found[vector].diagonal().add_(degree)
            else:
                found[vector] = features.T @ (degree.unsqueeze(1) * features - self.adjacency(values) @ features)
        return found

    def _from_differences(self, pairs: Tensor, features: Tensor) -> Tensor:
        """The same as the sum over pairs of l_ik (x_i - x_k) (x_i - x_k)'."""
        found = pairs.new_zeros(pairs.shape[1], features.shape[1], features.shape[1])
        for first, second, own in zip(*(part.split(BLOCK) for part in (self.first, self.second, pairs)), strict=True):
            gap = features[first] - features[second]
            for vector, values in enumerate(own.split(1, 1)):
                found[vector].addmm_((gap * values).T, gap)
        return found


def _pairs(choice: Tensor, response: Tensor, other: Tensor, another: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Choice and both responses of every pair with a member of each list; a pair within one list once."""
    number = int(max(choice.max() if len(choice) else -1, other.max() if len(other) else -1)) + 1
    sizes = torch.bincount(other, minlength=number)
    times = sizes[choice]
    first = torch.repeat_interleave(torch.arange(len(choice), device=choice.device), times)
    offset = torch.arange(len(first), device=choice.device) - (times.cumsum(0) - times)[first]
    second = (sizes.cumsum(0) - sizes)[choice[first]] + offset
    if choice is other:
        kept = first < second
        first, second = first[kept], second[kept]
    return choice[first], response[first], another[second]

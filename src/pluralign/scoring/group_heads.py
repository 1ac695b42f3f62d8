"""Predictions for known groups by one head: what all groups share, and what each deviates from it.

The head of a label model with G groups and L labels has (1 + G) L outputs, rows W_0 for all groups and W_g for the
deviation of group g, its embedding among the heads. With z the pooled state of a text,

    mu_g(x, y) = softmax((W_0 + W_g) z(x, y)),   mu(x, y) = sum_g share_g mu_g(x, y)

mu is post-stratified: the distribution of a population in which the groups have the given shares. A text is read once
for all groups. Training shrinks deviations to 0 (`group_shrinkage`), so that a group with few votes has the common
prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from pluralign.core.errors import PluralignError, one_line

GROUPS = "groups"
"""Key of a model's settings with its groups and their shares."""


@dataclass(frozen=True)
class Groups:
    """The groups that a head tells apart.

    Args:
        names: in the order of the head's rows.
        shares: of each in the population; they sum to 1.
    """

    names: tuple[str, ...]
    shares: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.names)

    def logits(self, outputs: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of a group for each item, and its deviation from the common ones: `(items, labels)` each.

        Args:
            outputs: of the head, `(items, (1 + groups) labels)`.
            group: `(items,)` from 0; one past the last stands for no group, whose logits are the common ones.
        """
        rows = outputs.unflatten(-1, (1 + len(self), -1))
        none = torch.zeros_like(rows[:, :1])
        deviation = torch.cat((rows[:, 1:], none), 1)[torch.arange(len(rows), device=rows.device), group]
        return rows[:, 0] + deviation, deviation

    def distributions(self, outputs: np.ndarray) -> np.ndarray:
        """mu_g of each response: `(responses, (1 + groups) labels)` to `(responses, groups, labels)`.

        Examples:
            >>> Groups(("a", "b"), (0.5, 0.5)).distributions(np.log([[3.0, 1.0, 1.0, 1.0, 1.0, 3.0]])).round(2).tolist()
            [[[0.75, 0.25], [0.5, 0.5]]]
        """
        rows = outputs.reshape(len(outputs), 1 + len(self), -1)
        return np.asarray(softmax(rows[:, :1] + rows[:, 1:], -1))

    def population(self, outputs: np.ndarray) -> np.ndarray:
        """mu of each response: `(responses, labels)`."""
        return np.asarray(np.einsum("g,rgl->rl", np.array(self.shares), self.distributions(outputs)))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a config."""
        return {"names": list(self.names), "shares": list(self.shares)}

    @classmethod
    def from_dict(cls, values: Any, place: str) -> Groups:
        """The inverse of `as_dict`.

        Raises:
            PluralignError: the values do not fit; names `place`.
        """
        try:
            return cls(tuple(map(str, values["names"])), population_shares(values["shares"]))
        except (TypeError, KeyError, ValueError) as fault:
            raise PluralignError(f"{place}: found {one_line(values)}, expected names and shares of groups") from fault


def population_shares(given: Sequence[float]) -> tuple[float, ...]:
    """Shares scaled to the sum 1.

    Raises:
        ValueError: one is negative or not finite, or all are 0.
    """
    shares = np.asarray(given, dtype=np.float64)
    if not (np.isfinite(shares).all() and (shares >= 0).all() and shares.sum() > 0):
        raise ValueError(f"shares: found {list(given)}, expected numbers, 0 or more, not all 0")
    return tuple((shares / shares.sum()).tolist())

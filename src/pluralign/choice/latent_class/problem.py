"""What expectation maximisation works on: a panel's distinct choices, who made them, and the free coefficients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pluralign.choice.latent_class.conditional_logit import ConditionalLogit
from pluralign.choice.latent_class.likelihood import Likelihood
from pluralign.choice.latent_class.panel import Panel


@dataclass(frozen=True, eq=False)
class Problem:
    """What is fitted.

    Args:
        likelihood: of the judgments.
        population: `(annotators,)` weight of each annotator in the mixture.
        covariates: `(annotators, q)`, or `None` if all annotators have the same shares.
        slot: `(K, p)` the number of the free parameter behind every coefficient; -1 where it is fixed.
        fixed: `(K, p)` the fixed coefficients, 0 elsewhere.
        ridge: precision of the normal prior on the free coefficients; with `common_ridge`, on their differences from a
            common taste theta_0.
        common_ridge: precision of the normal prior on theta_0; `None` gives every coefficient a prior of its own.
        derived: what was computed from these and is needed again.
    """

    likelihood: Likelihood
    population: Tensor
    covariates: Tensor | None
    slot: Tensor
    fixed: Tensor
    ridge: float
    common_ridge: float | None = None
    derived: dict[str, Any] = field(default_factory=dict, init=False)

    @property
    def logit(self) -> ConditionalLogit:
        """Features, responses and what types consider."""
        return self.likelihood.logit

    def summed(self, values: Tensor) -> Tensor:
        """Sums over annotators, as in `Likelihood.summed`."""
        return self.likelihood.summed(values)

    @cached_property
    def types(self) -> int:
        """K."""
        return len(self.slot)

    @cached_property
    def parameters(self) -> int:
        """m, the number of free coefficients."""
        return int(self.slot.max()) + 1 if self.slot.numel() else 0

    @cached_property
    def slots(self) -> Tensor:
        """`slot` with m, an extra place to be cut off, in place of -1."""
        return torch.where(self.slot < 0, self.parameters, self.slot)

    @cached_property
    def plain(self) -> bool:
        """Whether every coefficient is a parameter of its own, in order."""
        number = self.slot.numel()
        return self.parameters == number and bool((self.slot.flatten() == torch.arange(number).to(self.slot)).all())

    def coefficients(self, parameters: Tensor) -> Tensor:
        """`(R, m)` to `(R, K, p)`."""
        return self.directions(parameters) + self.fixed

    def directions(self, parameters: Tensor) -> Tensor:
        """How coefficients change with the parameters: as `coefficients`, with 0 for the fixed ones."""
        if self.plain:
            return parameters.view(-1, *self.slot.shape)
        padded = torch.cat((parameters, parameters.new_zeros(len(parameters), 1)), 1)
        return padded[:, self.slot]

    @cached_property
    def prior(self) -> tuple[Tensor, Tensor, Tensor]:
        """The prior's precision diag(a) - sum_j b_j 1_j 1_j', 1_j marking the types' coefficients of column j.

        Maximising over theta_0 in ridge sum_k (theta_k - theta_0)^2 + common_ridge theta_0^2 leaves a quadratic form in
        the n coefficients of a column with a = ridge and b = ridge^2 / (common_ridge + n ridge). A coefficient that is
        alone in its column is theta_0 itself: a = common_ridge, b = 0.

        Returns:
            a `(m,)`, b `(p,)`, and the column of each parameter `(m,)`.
        """
        slots, size = self.slots, self.slot.shape[1]
        column = torch.zeros(self.parameters + 1, dtype=torch.long, device=slots.device)
        column[slots.flatten()] = torch.arange(size, device=slots.device).repeat(self.types)
        column = column[:-1]
        number = torch.bincount(column, minlength=size).double()
        if self.common_ridge is None:
            return self.fixed.new_full((self.parameters,), self.ridge), self.fixed.new_zeros(size), column
        coupled = number > 1
        b = torch.where(coupled, self.ridge**2 / (self.common_ridge + number * self.ridge + 1e-300), 0.0)
        a = torch.full_like(number, self.common_ridge).masked_fill(coupled, self.ridge)[column]
        return a, b, column

    @cached_property
    def least(self) -> Tensor:
        """Diagonal of the prior's precision `(m,)`, above 0 for what neither data nor prior determine."""
        return self.prior[0].clamp(min=1e-12)

    @cached_property
    def may_turn(self) -> bool:
        """Whether each type's coefficients are all free and its own, or all fixed, so that features may be rotated."""
        free = self.slot >= 0
        return bool((free.all(1) | ~free.any(1)).all()) and self.parameters == int(free.sum())

    def penalty(self, parameters: Tensor) -> Tensor:
        """The prior's precision times parameters `(R, m)`; half its product with them is minus the log prior."""
        a, _, _ = self.prior
        return a * parameters - self.coupled(parameters)

    def coupled(self, parameters: Tensor) -> Tensor:
        """sum_j b_j 1_j 1_j' times parameters `(R, m)`."""
        if self.common_ridge is None:
            return torch.zeros_like(parameters)
        _, b, column = self.prior
        sums = parameters.new_zeros(len(parameters), len(b)).index_add(1, column, parameters)
        return (b * sums)[:, column]

    def gathered(self, values: Tensor) -> Tensor:
        """Sum of the values that belong to each parameter: `(R, K, p)` to `(R, m)`."""
        if self.plain:
            return values.reshape(len(values), -1)
        sums = values.new_zeros(len(values), self.parameters + 1)
        return sums.index_add(1, self.slots.flatten(), values.flatten(1))[:, :-1]


def problem_of(
    panel: Panel,
    *,
    types: int,
    slots: Callable[[int], tuple[np.ndarray, np.ndarray]],
    ties: str = "efron",
    top: int | None = None,
    ridge: float = 1e-6,
    common_ridge: float | None = None,
    device: str = "cpu",
) -> Problem:
    """The problem of fitting K types to a panel; `slots` maps the number of coefficients p to `slots_of`.

    Raises:
        ValueError: `ties`, `top`, or the panel's `available` does not fit.
    """

    if panel.available is not None and len(np.asarray(panel.available)) != types:
        found = len(np.asarray(panel.available))
        raise ValueError(f"available: found {found} rows, expected one for each of the {types} types")
    key = ("choices", ties, top, device)
    if key not in panel.derived:
        panel.derived[key] = Likelihood.of(panel, ties=ties, top=top, device=device)
    likelihood = panel.derived[key]
    slot, fixed = slots(likelihood.logit.parameters)

    def real(values: ArrayLike) -> Tensor:
        return torch.tensor(np.asarray(values, dtype=np.float64), device=device)

    return Problem(
        likelihood=likelihood,
        population=real(panel.weights),
        covariates=None if panel.covariates is None else real(panel.covariates),
        slot=torch.as_tensor(slot, device=device),
        fixed=real(fixed),
        ridge=ridge,
        common_ridge=common_ridge,
    )


def slots_of(
    types: int, size: int, fixed: ArrayLike | None = None, shared: Sequence[int] = (), *, noise: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The free parameter behind each coefficient (-1 if fixed), and the fixed coefficients: both `(K, p)`.

    `fixed` `(K, p)` is NaN where coefficients are free; columns in `shared` have one parameter for all types; `noise`
    sets the last type's coefficients to 0.

    Raises:
        ValueError: `fixed` has the wrong shape, or a shared column is not one of the p.

    Examples:
        >>> slots_of(2, 3, shared=[1])[0].tolist()
        [[0, 1, 2], [3, 1, 4]]
    """
    given = np.full((types, size), np.nan) if fixed is None else np.array(fixed, dtype=np.float64)
    if given.shape != (types, size):
        raise ValueError(f"fixed: expected the shape {(types, size)}, found {given.shape}")
    if any(not 0 <= column < size for column in shared):
        raise ValueError(f"shared: found {list(shared)}, expected columns from 0 to {size - 1}")
    if noise:
        given[-1] = 0.0
    owner = np.arange(types * size).reshape(types, size)
    for column in shared:
        owner[:, column] = owner[0, column]
    free = np.isnan(given)
    slot = np.full((types, size), -1)
    slot[free] = np.unique(owner[free], return_inverse=True)[1]
    return slot, np.where(free, 0.0, given)

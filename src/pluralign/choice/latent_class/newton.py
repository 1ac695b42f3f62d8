"""Newton's method with step halving, for a batch of concave problems at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

NEAR = 1e-4
"""After a step whose decrement is below this part of the value, its Hessian is used again."""

ROUNDING = 1e-13
"""A value that falls by no more than this part of itself has not fallen."""


@dataclass(frozen=True)
class Local:
    """A function at a point: value `(B,)`, gradient `(B, m)`, and what solves with minus its Hessian."""

    value: Tensor
    gradient: Tensor
    solve: Callable[[Tensor], Tensor]


def maximise(
    local: Callable[[Tensor], Local],
    start: Tensor,
    *,
    steps: int = 50,
    tolerance: float = 1e-12,
    halvings: int = 30,
) -> tuple[Tensor, Tensor]:
    """Maximise concave functions of `(B, m)` parameters.

    Args:
        local: parameters `(B, m)` to the functions there.
        start: `(B, m)`.
        steps: at most so many.
        tolerance: stop where the Newton decrement g' H^-1 g / 2 of every problem is below this times 1 + |value|.
        halvings: of a step that does not raise its value, at most.

    Returns:
        parameters `(B, m)` and values `(B,)`; but for rounding, no value is below its start.

    Examples:
        >>> def parabola(x):
        ...     return Local(-((x - 3) ** 2).sum(-1), -2 * (x - 3), lambda gradient: gradient / 2)
        >>> maximise(parabola, torch.zeros(1, 1))[0].item()
        3.0
    """
    point, here = start, local(start)
    solve, decrement = here.solve, torch.full_like(here.value, torch.inf)
    for _ in range(steps):
        # So near the optimum the Hessian hardly changes any more, and the last one serves.
        fresh = bool((decrement > NEAR * (1 + here.value.abs())).any())
        solve = here.solve if fresh else solve
        step = solve(here.gradient)
        decrement = (here.gradient * step).sum(-1) / 2
        small = tolerance * (1 + here.value.abs())
        if bool((decrement <= small).all()):
            break
        scale = torch.ones_like(here.value)
        for _ in range(halvings):
            there = local(point + scale.unsqueeze(-1) * step)
            worse = ~(there.value >= here.value - ROUNDING * (1 + here.value.abs()))
            if not bool(worse.any()):
                break
            scale = torch.where(worse, scale / 2, scale)
        else:
            scale = torch.where(worse, 0.0, scale)
            there = local(point + scale.unsqueeze(-1) * step)
        point, here = point + scale.unsqueeze(-1) * step, there
        # Near the optimum a full step squares the decrement: the next need not be computed to be known as small.
        known = decrement.square() if fresh else decrement
        if not bool((scale > 0).any()) or bool(((scale == 1) & (known <= small)).all()):
            break
    return point, here.value


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    right: Tensor,
    diagonal: Tensor,
    *,
    steps: int = 200,
    tolerance: float = 1e-8,
) -> Tensor:
    """Solve A x = b for a batch of positive definite A by conjugate gradients, preconditioned by a diagonal.

    Args:
        product: `(B, m)` to A times each, `(B, m)`.
        right: b `(B, m)`.
        diagonal: near A's diagonal, positive, `(B, m)`.
        steps: at most so many.
        tolerance: of the residual's norm, against b's.

    Examples:
        >>> two = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
        >>> conjugate_gradients(lambda x: x @ two, torch.tensor([[3.0, 4.0]]), torch.ones(1, 2)).round(decimals=4)
        tensor([[1., 1.]])
    """
    found, residual = torch.zeros_like(right), right
    direction = residual / diagonal
    size = (residual * direction).sum(-1, keepdim=True)
    wanted = tolerance * right.norm(dim=-1)
    for _ in range(steps):
        if bool((residual.norm(dim=-1) <= wanted).all()):
            break
        along = product(direction)
        length = (direction * along).sum(-1, keepdim=True)
        step = torch.where(length > 0, size / length, 0.0)
        found, residual = found + step * direction, residual - step * along
        scaled = residual / diagonal
        new = (residual * scaled).sum(-1, keepdim=True)
        direction = scaled + torch.where(size > 0, new / size, 0.0) * direction
        size = new
    return found

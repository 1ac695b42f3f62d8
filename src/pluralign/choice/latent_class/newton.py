"""Newton's method with step halving, for a batch of concave problems at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

NEAR = 1e-4
"""After a step whose decrement is below this share of the value, the Hessian is reused."""

ROUNDING = 1e-13
"""A value that falls by no more than this share of itself counts as not fallen."""


@dataclass(frozen=True)
class Local:
    """A function at a point: value `(B,)`, gradient `(B, m)`, and a solver for minus its Hessian."""

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
    """Maximise B concave functions of `(B, m)` parameters, each from its own start.

    It stops if the Newton decrement g' H^-1 g / 2 of every problem is below `tolerance` times 1 + |value|; a step that
    lowers its value is halved. Returns parameters `(B, m)` and values `(B,)`, none below its start up to rounding.

    Examples:
        >>> def parabola(x):
        ...     return Local(-((x - 3) ** 2).sum(-1), -2 * (x - 3), lambda gradient: gradient / 2)
        >>> maximise(parabola, torch.zeros(1, 1))[0].item()
        3.0
    """
    point, current = start, local(start)
    solve, decrement = current.solve, torch.full_like(current.value, torch.inf)
    for _ in range(steps):
        # Near the optimum the Hessian hardly changes, and the last one is good enough.
        fresh = bool((decrement > NEAR * (1 + current.value.abs())).any())
        solve = current.solve if fresh else solve
        step = solve(current.gradient)
        decrement = (current.gradient * step).sum(-1) / 2
        small = tolerance * (1 + current.value.abs())
        if bool((decrement <= small).all()):
            break
        scale = torch.ones_like(current.value)
        for _ in range(halvings):
            moved = local(point + scale.unsqueeze(-1) * step)
            worse = ~(moved.value >= current.value - ROUNDING * (1 + current.value.abs()))
            if not bool(worse.any()):
                break
            scale = torch.where(worse, scale / 2, scale)
        else:
            scale = torch.where(worse, 0.0, scale)
            moved = local(point + scale.unsqueeze(-1) * step)
        point, current = point + scale.unsqueeze(-1) * step, moved
        # Near the optimum a full step squares the decrement, so the next one is known to be small beforehand.
        expected = decrement.square() if fresh else decrement
        if not bool((scale > 0).any()) or bool(((scale == 1) & (expected <= small)).all()):
            break
    return point, current.value


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    right: Tensor,
    conditioner: Callable[[Tensor], Tensor],
    *,
    steps: int = 200,
    tolerance: float = 1e-8,
) -> Tensor:
    """Solve A x = b for B positive definite A by preconditioned conjugate gradients.

    `product` maps `(B, m)` to A times each row, `conditioner` to about A^-1 times it;
    `tolerance` is the residual's norm relative to b's.

    Examples:
        >>> two = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
        >>> conjugate_gradients(lambda x: x @ two, torch.tensor([[3.0, 4.0]]), lambda x: x).round(decimals=4)
        tensor([[1., 1.]])
    """
    solution, residual = torch.zeros_like(right), right
    direction = conditioner(residual)
    size = (residual * direction).sum(-1, keepdim=True)
    wanted = tolerance * right.norm(dim=-1)
    for _ in range(steps):
        if bool((residual.norm(dim=-1) <= wanted).all()):
            break
        along = product(direction)
        length = (direction * along).sum(-1, keepdim=True)
        step = torch.where(length > 0, size / length, 0.0)
        solution, residual = solution + step * direction, residual - step * along
        scaled = conditioner(residual)
        new = (residual * scaled).sum(-1, keepdim=True)
        direction = scaled + torch.where(size > 0, new / size, 0.0) * direction
        size = new
    return solution

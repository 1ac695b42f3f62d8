"""Optimal transport between distributions over the labels under any metric, with POT and exact gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from pluralign.core.errors import PluralignError

Floats = NDArray[np.float64]


def metric_transport(predicted: Tensor, target: Tensor, matrix: Floats, least: float = 0.0) -> Tensor:
    """OT(mu_s, mu_t) under a (pseudo-)metric, item by item, in float64 on the CPU; differentiable once.

    The gradient with respect to mu_s is the dual potential f, known up to a constant and given with mean 0: the
    gradient along the simplex. With respect to mu_t it is -f.

    Args:
        predicted: mu_s, `(..., labels)`.
        target: mu_t, of the same shape and dtype.
        matrix: the metric, `(labels, labels)`; `pluralign.choice.label_costs.label_cost` checks it.
        least: where no more than this share of the mass has to move, the cost is 0 and so is the gradient.

    Returns:
        `(...)`, in the metric's units and the dtype of `predicted`.

    Raises:
        PluralignError: POT (extra `pot`) is missing, a number is not finite, or POT cannot solve the problem.

    Examples:
        Labels on a ring of four, one step apart: half of the mass moves one step, the rest two.

        >>> ring = np.array([[0, 1, 2, 1], [1, 0, 1, 2], [2, 1, 0, 1], [1, 2, 1, 0]], dtype=float)
        >>> mu = torch.tensor([[0.0, 0.25, 0.5, 0.25]], requires_grad=True)
        >>> cost = metric_transport(mu, torch.tensor([[1.0, 0.0, 0.0, 0.0]]), ring)
        >>> cost.sum().backward()
        >>> cost.item(), mu.grad.tolist()
        (1.5, [[-1.0, 0.0, 1.0, 0.0]])
    """
    found: Tensor = _MetricTransport.apply(predicted, target, matrix, least)
    return found


class _MetricTransport(torch.autograd.Function):
    """Transport under any (pseudo-)metric, by network simplex; the backward pass hands out the dual potential."""

    @staticmethod
    def forward(ctx: Any, predicted: Tensor, target: Tensor, matrix: Floats, least: float) -> Tensor:
        difference = predicted.detach().double().cpu() - target.detach().double().cpu()
        flat = difference.reshape(-1, len(matrix)).numpy()
        costs, potentials = _solved(flat, matrix, least)
        ctx.save_for_backward(torch.from_numpy(potentials).reshape(predicted.shape).to(predicted))
        return torch.from_numpy(costs).reshape(predicted.shape[:-1]).to(predicted)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, None, None]:
        (potentials,) = ctx.saved_tensors
        found = grads[0].unsqueeze(-1) * potentials
        return found, -found, None, None


def _solved(difference: Floats, matrix: Floats, least: float) -> tuple[Floats, Floats]:
    """Transport costs `(items,)` and potentials of mean 0 `(items, labels)` of differences e = mu_s - mu_t.

    Under a pseudo-metric the shared mass stays where it is, and only what is too much (e > 0) moves to where it
    lacks (e < 0). With v the potential of the latter, f_i = min over j with e_j < 0 of C_ij - v_j is 1-Lipschitz,
    defined on every label and optimal: OT = sum_i f_i e_i.
    """
    emd2 = _pot_solver()
    costs, potentials = np.zeros(len(difference)), np.zeros_like(difference)
    for item, row in enumerate(difference):
        if not np.isfinite(row).all():
            raise PluralignError(f"predicted or target: item {item + 1} is not finite")
        surplus, lack = np.flatnonzero(row > 0), np.flatnonzero(row < 0)
        # Either sum is the mass that moves, but for rounding.
        mass = min(row[surplus].sum(), -row[lack].sum())
        if mass <= least:
            continue
        given, wanted = row[surplus] / row[surplus].sum(), row[lack] / row[lack].sum()
        _, told = emd2(given, wanted, matrix[np.ix_(surplus, lack)], log=True)
        if told["warning"] is not None:
            raise PluralignError(f"item {item + 1}: POT did not solve the transport problem: {told['warning']}")
        potential = (matrix[:, lack] - told["v"]).min(1)
        potentials[item] = potential - potential.mean()
        costs[item] = potentials[item] @ row
    return costs, potentials


def _pot_solver() -> Any:
    try:
        from ot import emd2
    except ImportError as fault:
        raise PluralignError(
            "a cost matrix of one's own needs the package POT: pip install 'pluralign[pot]'; "
            "the costs 'reward-gap' and 'index' do not"
        ) from fault
    return emd2

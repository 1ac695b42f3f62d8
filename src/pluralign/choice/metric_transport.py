"""Optimal transport between distributions over labels under any metric, solved by POT, with exact gradients.

Part of the transport loss of DPRM (arXiv 2402.09764); the dual gradient for a general cost matrix is ours.
"""

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

    The gradient with respect to mu_s is the dual potential f. It is known up to a constant and returned with mean 0,
    which is the gradient along the simplex. With respect to mu_t it is -f.

    Args:
        predicted: mu_s, `(..., labels)`.
        target: mu_t, of the same shape and dtype.
        matrix: the metric, `(labels, labels)`, checked by `pluralign.choice.label_costs.label_cost`.
        least: if no more than this share of the mass has to move, the cost and its gradient are 0.

    Returns:
        `(...)`, in the metric's units and the dtype of `predicted`.

    Raises:
        PluralignError: POT (extra `pot`) is missing, a number is not finite, or POT cannot solve the problem.

    Examples:
        Labels on a ring of four, one step apart: half of the mass moves one step, a quarter two steps.

        >>> ring = np.array([[0, 1, 2, 1], [1, 0, 1, 2], [2, 1, 0, 1], [1, 2, 1, 0]], dtype=float)
        >>> mu = torch.tensor([[0.0, 0.25, 0.5, 0.25]], requires_grad=True)
        >>> cost = metric_transport(mu, torch.tensor([[1.0, 0.0, 0.0, 0.0]]), ring)
        >>> cost.sum().backward()
        >>> cost.item(), mu.grad.tolist()
        (1.5, [[-1.0, 0.0, 1.0, 0.0]])
    """
    costs: Tensor = _MetricTransport.apply(predicted, target, matrix, least)
    return costs


class _MetricTransport(torch.autograd.Function):
    """Transport by network simplex; the backward pass uses the dual potential."""

    @staticmethod
    def forward(ctx: Any, predicted: Tensor, target: Tensor, matrix: Floats, least: float) -> Tensor:
        difference = predicted.detach().double().cpu() - target.detach().double().cpu()
        costs, potentials = _solved(difference.reshape(-1, len(matrix)).numpy(), matrix, least)
        ctx.save_for_backward(torch.from_numpy(potentials).reshape(predicted.shape).to(predicted))
        return torch.from_numpy(costs).reshape(predicted.shape[:-1]).to(predicted)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, None, None]:
        (potentials,) = ctx.saved_tensors
        gradient = grads[0].unsqueeze(-1) * potentials
        return gradient, -gradient, None, None


def _solved(difference: Floats, matrix: Floats, least: float) -> tuple[Floats, Floats]:
    """Transport costs `(items,)` and potentials with mean 0 `(items, labels)` of differences e = mu_s - mu_t."""
    # Under a pseudo-metric the shared mass stays where it is; only the surplus (e > 0) moves to where mass is missing
    # (e < 0). With v the potential of the latter, f_i = min over j with e_j < 0 of C_ij - v_j is 1-Lipschitz, defined
    # on every label and optimal: OT = sum_i f_i e_i.
    emd2 = _pot_solver()
    costs, potentials = np.zeros(len(difference)), np.zeros_like(difference)
    for item, row in enumerate(difference):
        if not np.isfinite(row).all():
            raise PluralignError(f"predicted or target: item {item + 1} is not finite")
        surplus, missing = np.flatnonzero(row > 0), np.flatnonzero(row < 0)
        # Both sums are the mass that moves; they differ by rounding only.
        if min(row[surplus].sum(), -row[missing].sum()) <= least:
            continue
        from_mass, to_mass = row[surplus] / row[surplus].sum(), row[missing] / row[missing].sum()
        _, log = emd2(from_mass, to_mass, matrix[np.ix_(surplus, missing)], log=True)
        if log["warning"] is not None:
            raise PluralignError(f"item {item + 1}: POT did not solve the transport problem: {log['warning']}")
        potential = (matrix[:, missing] - log["v"]).min(1)
        potentials[item] = potential - potential.mean()
        costs[item] = potentials[item] @ row
    return costs, potentials


def _pot_solver() -> Any:
    """POT's exact solver."""
    try:
        from ot import emd2
    except ImportError as fault:
        raise PluralignError(
            "a custom cost matrix needs the package POT: pip install 'pluralign[pot]'; "
            "the costs 'reward-gap' and 'index' do not"
        ) from fault
    return emd2

"""DPRM's losses: between a predicted distribution over ordered labels and the distribution of a crowd's votes.

With mu_s predicted, mu_t the target and C the cost between labels, the optimal transport cost is

    OT(mu_s, mu_t) = min over plans P >= 0 with rows mu_s and columns mu_t of sum_ij P_ij C_ij.

For C_ij = |R_i - R_j| + delta [i != j], with the labels sorted by R, it needs no solver:

    OT = sum_k (R_(k+1) - R_(k)) |CDF_s(k) - CDF_t(k)| + delta / 2 sum_i |mu_s,i - mu_t,i|,

because the shared mass stays where it is, and all other mass pays the step wherever it goes. Against the one-hot best
label it is R_best - E[R] + delta (1 - mu_best): at delta = 0 raising the expected reward lowers the cost; for
delta > 0 the same holds for the rewards R_i - delta [i != best].

Source: arXiv 2402.09764 compares cross-entropy, Wasserstein and optimal-transport losses. Its costs and formulas
could not be recovered; those here are ours, and so is `energy`.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.autograd.function import once_differentiable

from pluralign.choice.label_costs import CostKind, Floats, LabelCost
from pluralign.core.errors import PluralignError, nearest

DistributionLoss = Literal["ot", "w1", "energy", "ce"]

DEFAULT_COST: dict[DistributionLoss, CostKind] = {
    "ot": "reward-gap",
    "w1": "index",
    "energy": "reward-gap",
    "ce": "reward-gap",
}
"""The default cost of each loss. Cross-entropy uses none; its transport metrics are reported under this one."""

ROUNDING = 8
"""Probabilities that differ by at most this many units of rounding count as equal."""


def distribution_loss(
    logits: Tensor, targets: Tensor, *, loss: DistributionLoss = "ot", cost: LabelCost | None = None
) -> Tensor:
    """Loss of each item's predicted distribution mu_s = softmax(logits).

    - `ot`, `w1`: `transport_cost` under `cost`. The two differ in their default cost (`DEFAULT_COST`).
    - `energy`: `energy` under `cost`.
    - `ce`: `soft_cross_entropy`, which ignores how far apart labels are.

    Each has its minimum, with gradient 0, at mu_s = mu_t. Softmax and sums use at least float32, also under autocast;
    logits of +-50 give finite values and gradients. A label whose softmax is 0 gets no gradient, except under `ce`.

    Args:
        logits: `(items, labels)`, any floating dtype; more leading dimensions are allowed.
        targets: mu_t, of the same shape, at least 0 with sum 1.
        loss: `ot`, `w1`, `energy` or `ce`.
        cost: between labels; not needed for `ce`.

    Returns:
        `(items,)`, float32, or float64 if the logits are; `ce` in nats, the others in the cost's units.

    Raises:
        PluralignError: the loss is unknown, shapes do not fit, a cost is missing or cannot be used with the loss, or
            a custom cost is given and POT is not installed.

    Examples:
        >>> from pluralign.choice.label_costs import label_cost
        >>> cost = label_cost([1.0, 0.5, -1.0])
        >>> logits, targets = torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]])
        >>> {loss: round(distribution_loss(logits, targets, loss=loss, cost=cost).item(), 3)
        ...  for loss in ("ot", "energy", "ce")}
        {'ot': 0.9, 'energy': 0.422, 'ce': 1.099}
    """
    if loss not in get_args(DistributionLoss):
        known = get_args(DistributionLoss)
        raise PluralignError(f"loss is '{loss}', expected one of {', '.join(known)}{nearest(str(loss), known)}")
    _check(logits, targets, "logits", "targets", None if loss == "ce" else cost)
    if loss != "ce" and cost is None:
        raise PluralignError(f"loss '{loss}' needs a cost between labels: see label_cost")
    # Autocast would multiply matrices in half precision.
    with torch.autocast(logits.device.type, enabled=False):
        wide = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
        if loss == "ce" or cost is None:
            return soft_cross_entropy(wide, targets)
        predicted = wide.softmax(-1)
        return energy(predicted, targets, cost) if loss == "energy" else transport_cost(predicted, targets, cost)


def transport_cost(predicted: Tensor, target: Tensor, cost: LabelCost) -> Tensor:
    """OT(mu_s, mu_t) under a cost between labels, differentiable once.

    Costs on a line (`reward-gap`, `index`) use the closed form above, in time linear in the labels. Any other cost is
    solved item by item by `metric_transport`. At a kink the gradient is a subgradient: 0 if the difference is only
    rounding, otherwise one of the optimal ones.

    Args:
        predicted: mu_s, `(..., labels)`.
        target: mu_t, of the same shape. Both must sum to 1; the closed form does not check it.
        cost: between labels.

    Returns:
        `(...)`, in the cost's units and the dtype of `predicted`.

    Raises:
        PluralignError: shapes do not fit, or POT is missing or cannot solve the problem.

    Examples:
        >>> from pluralign.choice.label_costs import label_cost
        >>> mu, best = torch.tensor([0.9, 0.0, 0.1]), torch.tensor([1.0, 0.0, 0.0])
        >>> round(transport_cost(mu, best, label_cost([1.0, 0.5, -1.0])).item(), 3)
        0.21
    """
    _check(predicted, target, "predicted", "target", cost)
    if cost.places is None:
        least = ROUNDING * torch.finfo(predicted.dtype).eps
        return metric_transport(predicted, target.to(predicted), cost.matrix, least)
    difference = predicted - target.to(predicted)
    on_line = (_magnitude(_cumulative(difference, cost)) * _like(cost.gaps, difference)).sum(-1)
    return on_line + cost.delta / 2 * _magnitude(difference).sum(-1) if cost.delta else on_line


def metric_transport(predicted: Tensor, target: Tensor, matrix: Floats, least: float = 0.0) -> Tensor:
    """OT(mu_s, mu_t) under a (pseudo-)metric, item by item, in float64 on the CPU; differentiable once.

    The gradient with respect to mu_s is the dual potential f. It is known up to a constant and returned with mean 0,
    which is the gradient along the simplex. With respect to mu_t it is -f. Arguments as in `transport_cost`, and:

    Args:
        matrix: the metric, `(labels, labels)`, checked by `pluralign.choice.label_costs.label_cost`.
        least: if no more than this share of the mass has to move, the cost and its gradient are 0.

    Raises:
        PluralignError: POT (extra `pot`) is missing, a number is not finite, or POT cannot solve the problem.
    """
    costs: Tensor = _MetricTransport.apply(predicted, target, matrix, least)
    return costs


def energy(predicted: Tensor, target: Tensor, cost: LabelCost) -> Tensor:
    """Half the energy distance, e' (-C) e / 2 with e = mu_s - mu_t. It is smooth.

    On a line it is sum_k (R_(k+1) - R_(k)) (CDF_s(k) - CDF_t(k))^2 + delta / 2 sum_i e_i^2. Without the second term
    labels with the same reward cannot be told apart; with it, e = 0 is the only zero.

    Arguments as in `transport_cost`, with a cost of negative type (`LabelCost.negative_type`).

    Raises:
        PluralignError: shapes do not fit, or the cost is not of negative type and the energy could be negative.

    Examples:
        >>> from pluralign.choice.label_costs import label_cost
        >>> mu, best = torch.tensor([0.9, 0.0, 0.1]), torch.tensor([1.0, 0.0, 0.0])
        >>> round(energy(mu, best, label_cost([1.0, 0.5, -1.0])).item(), 4)
        0.021
    """
    _check(predicted, target, "predicted", "target", cost)
    difference = predicted - target.to(predicted)
    if cost.places is not None:
        on_line = (_cumulative(difference, cost).square() * _like(cost.gaps, difference)).sum(-1)
        return on_line + cost.delta / 2 * difference.square().sum(-1)
    if not cost.negative_type:
        raise PluralignError(
            "cost: not of negative type, so the energy of a difference could be negative; use the loss 'ot'"
        )
    return -(difference @ _like(cost.matrix, difference) * difference).sum(-1) / 2


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """- sum_i mu_t,i log softmax(logits)_i, in nats, `(...)`; both arguments are `(..., labels)`."""
    return -(targets.to(logits) * logits.log_softmax(-1)).sum(-1)


def expected_reward(mu: Tensor, rewards: ArrayLike | Tensor) -> Tensor:
    """E[R] = sum_i R_i mu_i, `(...)`, in units of reward, with mu `(..., labels)` and R `(labels,)`.

    Raises:
        PluralignError: there is not one reward per label.

    Examples:
        >>> expected_reward(torch.tensor([0.5, 0.25, 0.25]), [1.0, 0.5, -1.0]).item()
        0.375
    """
    return (mu * _rewards(rewards, mu)).sum(-1)


def reward_variance(mu: Tensor, rewards: ArrayLike | Tensor) -> Tensor:
    """Var[R] = sum_i mu_i (R_i - E[R])^2: how much annotators disagree, in units of reward squared, `(...)`.

    Examples:
        >>> reward_variance(torch.tensor([0.5, 0.5]), [1.0, -1.0]).item()
        1.0
    """
    worth = _rewards(rewards, mu)
    centre = (mu * worth).sum(-1, keepdim=True)
    return (mu * (worth - centre).square()).sum(-1)


def reward_quantile(mu: Tensor, rewards: ArrayLike | Tensor, q: float) -> Tensor:
    """The smallest reward whose cumulative probability reaches q, up to rounding: min {R_i : P(R <= R_i) >= q}.

    It is a step function of mu and has no gradient. q is above 0 and at most 1: 0.5 is the (lower) median, a small q is
    risk-averse. Shapes as in `expected_reward`.

    Raises:
        PluralignError: q is out of range, or there is not one reward per label.

    Examples:
        >>> mu = torch.tensor([0.5, 0.3, 0.2])
        >>> [reward_quantile(mu, [1.0, 0.5, -1.0], q).item() for q in (0.2, 0.5, 0.51, 1.0)]
        [-1.0, 0.5, 1.0, 1.0]
    """
    if not 0 < q <= 1:
        raise PluralignError(f"q is {q}, expected a number above 0, at most 1")
    worth, order = _rewards(rewards, mu).sort(stable=True)
    cumulative = mu.detach()[..., order].double().cumsum(-1)
    slack = ROUNDING * torch.finfo(mu.dtype).eps
    # Without the last label, which reaches every q whatever the rounding of the sum.
    below = (cumulative[..., :-1] < q - slack).sum(-1)
    return worth[below]


def _cumulative(difference: Tensor, cost: LabelCost) -> Tensor:
    """CDF_s - CDF_t at all labels but the last, in the order of the line: `(..., labels - 1)`."""
    if not np.array_equal(cost.order, np.arange(cost.labels)):
        difference = difference[..., torch.as_tensor(cost.order, device=difference.device)]
    return difference[..., :-1].cumsum(-1)


def _magnitude(difference: Tensor) -> Tensor:
    """|x|, with gradient 0 where x is only rounding: its sign would be arbitrary there."""
    size = difference.abs()
    return torch.where(size > ROUNDING * torch.finfo(size.dtype).eps, size, size.detach())


def _rewards(rewards: ArrayLike | Tensor, mu: Tensor) -> Tensor:
    """Rewards of the labels as a tensor like `mu`, one per label."""
    worth = torch.as_tensor(rewards, dtype=mu.dtype, device=mu.device)
    if worth.shape != mu.shape[-1:]:
        raise PluralignError(f"rewards: shape {tuple(worth.shape)}, expected {tuple(mu.shape[-1:])}, one per label")
    return worth


def _like(values: Floats, tensor: Tensor) -> Tensor:
    """An array as a tensor of the same dtype and device as another."""
    return torch.as_tensor(values, dtype=tensor.dtype, device=tensor.device)


def _check(one: Tensor, other: Tensor, name: str, other_name: str, cost: LabelCost | None) -> None:
    """Two distributions have one shape, and a cost its labels."""
    if one.ndim < 1 or one.shape != other.shape:
        raise PluralignError(f"{other_name}: shape {tuple(other.shape)}, expected that of {name}, {tuple(one.shape)}")
    if not one.dtype.is_floating_point:
        raise PluralignError(f"{name}: found {one.dtype}, expected floating-point numbers")
    if cost is not None and one.shape[-1] != cost.labels:
        raise PluralignError(f"cost: {cost.labels} labels, expected {one.shape[-1]} as in the distributions")


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
    try:
        from ot import emd2
    except ImportError as fault:
        raise PluralignError(
            "a custom cost matrix needs the package POT: pip install 'pluralign[pot]'; "
            "the costs 'reward-gap' and 'index' do not"
        ) from fault
    # Under a pseudo-metric the shared mass stays where it is; only the surplus (e > 0) moves to where mass is missing
    # (e < 0). With v the potential of the latter, f_i = min over j with e_j < 0 of C_ij - v_j is 1-Lipschitz, defined
    # on every label and optimal: OT = sum_i f_i e_i.
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

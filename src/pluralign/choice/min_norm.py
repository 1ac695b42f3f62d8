"""Weights of several sources' losses: the min-norm point of their gradients at a linear reward head.

With a reward r(x, y) = w . z(x, y), the gradient of a source's mean loss with respect to w needs no backward pass:

    g_k = sum over judgments j of k: a_j sum over responses i: (d loss_j / d u_ji) z_ji  /  sum over j of k: a_j

with a_j the judgment's weight and u its utilities. The weights of the sources are (arXiv 2312.07401)

    lambda = argmin over the simplex of || sum_k lambda_k g_k ||^2
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import nnls
from scipy.sparse.csgraph import connected_components
from torch import Tensor

Floats = NDArray[np.float64]
Normalize = Literal["l2", "none"]

NO_GRADIENT = 1e-12
"""A source whose gradient is shorter than this share of the longest one has none."""

SAME_GRADIENT = 1e-13
"""Two gradients are the same where the square of their difference is less than this share of their squares."""


def residuals(losses: Tensor, utilities: Tensor) -> Tensor:
    """d loss_j / d u_ji of every judgment: what is left between the verdict and its probability.

    For a pair it is -sigmoid(-(u_w - u_l)) at the winner and its opposite at the loser; for a ranking of q places
    sum over t <= q of (p_ts - [s = t]); ties have their own. All sum to zero over a judgment, so that a bias of the
    head changes nothing.

    Args:
        losses: `(judgments,)`, computed from `utilities`.
        utilities: `(judgments, responses)`, with a gradient; the graph behind them is not gone through.

    Returns:
        `(judgments, responses)`, without a gradient.

    Examples:
        >>> from pluralign.choice.plackett_luce import log_likelihood
        >>> u = torch.tensor([[0.0, 0.0]], requires_grad=True)
        >>> residuals(-log_likelihood(u, torch.tensor([[1, 2]])), u)
        tensor([[-0.5000,  0.5000]])
    """
    (found,) = torch.autograd.grad(losses.sum(), utilities, retain_graph=True)
    return found.detach()


def gradient_sums(residual: Tensor, index: Tensor, states: Tensor, membership: Tensor) -> Tensor:
    """Sum over judgments of their gradients at the head, for every source: `(sources, d)`.

    The residuals are first gathered on the unique responses, so that the cost follows those and not the judgments.

    Args:
        residual: `(judgments, responses)`, as `residuals` gives.
        index: `(judgments, responses)` the row of `states` of each response.
        states: `(unique responses, d)` pooled states.
        membership: `(judgments, sources)` how much of each judgment belongs to each source, times its weight.

    Examples:
        >>> half = torch.tensor([[-0.5, 0.5]])
        >>> gradient_sums(half, torch.tensor([[0, 1]]), torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.ones(1, 1))
        tensor([[ 1., -1.]])
    """
    sources = membership.shape[1]
    on_response = residual.new_zeros(len(states), sources)
    each = (residual.unsqueeze(-1) * membership.unsqueeze(1)).reshape(-1, sources)
    return on_response.index_add(0, index.reshape(-1), each).T @ states.to(residual.dtype)


def gramian(gradients: Tensor) -> Floats:
    """Inner products of gradients `(sources, d)`, in float64: `(sources, sources)`."""
    exact = gradients.detach().double()
    return np.asarray((exact @ exact.T).cpu().numpy(), dtype=np.float64)


def min_norm_weights(gramian: ArrayLike, *, normalize: Normalize = "l2", present: ArrayLike | None = None) -> Floats:
    """The point of the simplex where the weighted sum of gradients is shortest.

    With G = A'A and s^2 = trace(G) / K, lambda = y / sum y for y = argmin over y >= 0 of
    ||(A / s) y||^2 + (sum y - 1)^2, a problem of non-negative least squares that is solved exactly; Frank-Wolfe,
    which the paper uses, comes to a halt at a gap of about 1e-5 on hard Gramians.

    Args:
        gramian: inner products of the sources' gradients, `(sources, sources)`.
        normalize: `l2` brings every gradient to length 1 first, as the paper's authors do; `none` solves the argmin
            as it is written, and only then the weighted step lowers every source's loss.
        present: `(sources,)` bool, which sources have judgments; `None` is all.

    Returns:
        `(sources,)`, at least 0 with sum 1. Sources that are absent or without a gradient get 0; where no source
        has a gradient, those present share equally, and so do sources with the same gradient.

    Raises:
        ValueError: the Gramian is not square or not finite, `present` does not fit it, or no source is.

    Examples:
        Orthogonal gradients of length 1 and 2:

        >>> min_norm_weights([[1.0, 0.0], [0.0, 4.0]], normalize="none").round(6).tolist()
        [0.8, 0.2]
        >>> min_norm_weights([[1.0, 0.0], [0.0, 4.0]]).round(6).tolist()
        [0.5, 0.5]

    Source: arXiv 2312.07401, with an exact solver in place of Frank-Wolfe.
    """
    given = np.asarray(gramian, dtype=np.float64)
    if given.ndim != 2 or given.shape[0] != given.shape[1] or not len(given):
        raise ValueError(f"gramian: expected (sources, sources), found {given.shape}")
    if not np.isfinite(given).all():
        raise ValueError("gramian: expected finite numbers: a gradient is infinite or not a number")
    here = np.ones(len(given), dtype=bool) if present is None else np.asarray(present, dtype=bool)
    if here.shape != given.shape[:1]:
        raise ValueError(f"present: expected {given.shape[:1]}, found {here.shape}")
    if not here.any():
        raise ValueError("present: no source has a judgment")
    lengths = np.sqrt(np.clip(given.diagonal(), 0, None))
    live = np.flatnonzero(here & (lengths > NO_GRADIENT * lengths[here].max()))
    weights = np.zeros(len(given))
    if not len(live):
        weights[here] = 1 / here.sum()
        return weights
    chosen = given[np.ix_(live, live)]
    if normalize == "l2":
        chosen = chosen / np.outer(lengths[live], lengths[live])
    weights[live] = _shortest(chosen)
    return weights


def _shortest(gramian: Floats) -> Floats:
    sources = len(gramian)
    scaled = gramian / (gramian.trace() / sources)
    values, vectors = np.linalg.eigh((scaled + scaled.T) / 2)
    factor = np.sqrt(np.clip(values, 0, None))[:, None] * vectors.T  # factor' factor = scaled
    rows = np.vstack((factor, np.ones((1, sources))))
    aim = np.append(np.zeros(sources), 1.0)
    found, _ = nnls(rows, aim, maxiter=30 * sources)
    # Which of several equal gradients takes the weight is the solver's whim, and makes no difference to the sum.
    squares = gramian.diagonal()
    both = squares[:, None] + squares
    same = both - 2 * gramian <= SAME_GRADIENT * both
    count, group = connected_components(same, directed=False)
    share = np.bincount(group, found, count) / np.bincount(group, minlength=count)
    return np.asarray(share[group] / found.sum(), dtype=np.float64)


def duality_gap(gramian: ArrayLike, weights: ArrayLike) -> float:
    """lambda' G lambda - min_k (G lambda)_k: 0 exactly at the min-norm point (its KKT conditions).

    Examples:
        >>> duality_gap([[1.0, 0.0], [0.0, 4.0]], [0.8, 0.2]) < 1e-15
        True
    """
    inner = np.asarray(gramian, dtype=np.float64) @ np.asarray(weights, dtype=np.float64)
    return float(np.asarray(weights) @ inner - inner.min())

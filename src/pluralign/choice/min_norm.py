"""MORE: weight several sources' losses by the min-norm point of their gradients at a linear reward head.

With a reward r(x, y) = w . z(x, y), the gradient of a source's mean loss with respect to w needs no backward pass:

    g_k = sum over judgments j of k: a_j sum over responses i: (d loss_j / d u_ji) z_ji  /  sum over j of k: a_j

with a_j the judgment's weight and u its utilities. The weights of the sources are

    lambda = argmin over the simplex of || sum_k lambda_k g_k ||^2

Source: "On Diversified Preferences of Large Language Model Alignment", arXiv 2312.07401, for the objective and for
normalising the gradients. The paper solves it by Frank-Wolfe; the exact solver, and gradients of rankings and ties,
are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import nnls
from scipy.sparse.csgraph import connected_components
from torch import Tensor

Floats = NDArray[np.float64]
Normalize = Literal["l2", "none"]
GramianKind = Literal["averaged", "half-batch"]

NO_GRADIENT = 1e-12
"""A source counts as having no gradient if its gradient is shorter than this share of the longest one."""

LEAST_SQUARE = 1e-3
"""The square of a gradient whose estimate is not above 0, as a share of the largest one."""

SAME_GRADIENT = 1e-13
"""Two gradients count as the same if the square of their difference is below this share of their squares."""


def residuals(losses: Tensor, utilities: Tensor) -> Tensor:
    """d loss_j / d u_ji of every judgment: the predicted probability minus the outcome.

    For a pair it is -sigmoid(-(u_w - u_l)) at the winner and the opposite at the loser; for a ranking with q places
    it is the sum over t <= q of (p_ts - [s = t]). The residuals of a judgment sum to zero, so a bias of the head
    changes nothing.

    Args:
        losses: `(judgments,)`, computed from `utilities`.
        utilities: `(judgments, responses)`, part of a graph. The pass stops here and does not go further back.

    Examples:
        >>> from pluralign.choice.plackett_luce import log_likelihood
        >>> u = torch.tensor([[0.0, 0.0]], requires_grad=True)
        >>> residuals(-log_likelihood(u, torch.tensor([[1, 2]])), u)
        tensor([[-0.5000,  0.5000]])
    """
    return torch.autograd.grad(losses.sum(), utilities, retain_graph=True)[0].detach()


def gradient_sums(residual: Tensor, index: Tensor, states: Tensor, membership: Tensor) -> Tensor:
    """Sum over judgments of their gradients at the head, for every source: `(sources, d)`.

    The residuals are first added up per unique response, so the cost follows unique responses and not judgments.

    Args:
        residual: `(judgments, responses)`, from `residuals`.
        index: `(judgments, responses)` the row of `states` of each response.
        states: `(unique responses, d)` pooled states.
        membership: `(judgments, sources)` how much of each judgment belongs to each source, times its weight.

    Examples:
        >>> half = torch.tensor([[-0.5, 0.5]])
        >>> gradient_sums(half, torch.tensor([[0, 1]]), torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.ones(1, 1))
        tensor([[ 1., -1.]])
    """
    sources = membership.shape[1]
    each = (residual.unsqueeze(-1) * membership.unsqueeze(1)).reshape(-1, sources)
    by_response = residual.new_zeros(len(states), sources).index_add(0, index.reshape(-1), each)
    return by_response.T @ states.to(residual.dtype)


def gramian(gradients: Tensor) -> Floats:
    """Inner products of gradients `(sources, d)`, in float64: `(sources, sources)`."""
    exact = gradients.detach().double()
    return np.asarray((exact @ exact.T).cpu().numpy(), dtype=np.float64)


class SmoothedGramian:
    """Inner products of the sources' gradients over several steps, without most of the noise of a single step.

    A gradient from a few judgments is its expectation plus noise, and the noise of different sources is nearly
    orthogonal: the Gramian of one step is nearly diagonal, whatever the sources have in common. With a the share of a
    new value, each value x_t that is present enters a moving average that is corrected for its start at 0:

        m_t = (1 - a) m_(t-1) + a x_t,    c_t = (1 - a) c_(t-1) + a,    mean = m_t / c_t

    - `averaged`: x is the gradient of a source; the result is the Gramian of the means.
    - `half-batch`: x is the symmetric part of (g_k of one half of the step's judgments) . (g_l of the other half).
      Noise of independent halves is independent, so every x, also a square on the diagonal, is an unbiased estimate.

    Args:
        share: a, above 0, at most 1.
        kind: one of the above.
        state: what `state` of another one returned, to continue from it.

    Raises:
        ValueError: the share is out of range, or the kind unknown.

    Examples:
        Two sources; the second one is absent from the second step.

        >>> smoothed = SmoothedGramian(0.5)
        >>> _ = smoothed.add(torch.tensor([[[3.0, 0.0], [0.0, 1.0]]]), torch.tensor([[True, True]]))
        >>> smoothed.add(torch.tensor([[[0.0, 3.0], [0.0, 0.0]]]), torch.tensor([[True, False]])).round(3).tolist()
        [[5.0, 2.0], [2.0, 1.0]]
    """

    def __init__(
        self, share: float = 1.0, kind: GramianKind = "averaged", state: Mapping[str, Tensor] | None = None
    ) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share: found {share}, expected above 0, at most 1")
        if kind not in get_args(GramianKind):
            raise ValueError(f"kind: found {kind!r}, expected {' or '.join(get_args(GramianKind))}")
        self.share, self.kind = share, kind
        self.state: dict[str, Tensor] = dict(state or {})
        """`sum` (m) and `mass` (c), empty before the first step; float64."""

    @property
    def halves(self) -> int:
        """Parts that a step's judgments are divided into."""
        return 1 if self.kind == "averaged" else 2

    def add(self, gradients: Tensor, present: Tensor) -> Floats:
        """Add a step and return the Gramian of all steps so far, float64 `(sources, sources)`.

        Args:
            gradients: mean gradient of each source in each part of the step, `(halves, sources, d)`.
            present: which have a judgment, bool `(halves, sources)`.
        """
        own = gradients.detach().double()
        if self.kind == "averaged":
            value, seen = own[0], present[0].unsqueeze(-1)
        else:
            cross = own[0] @ own[1].T
            both = present[0].unsqueeze(-1) & present[1]
            value, seen = (cross + cross.T) / 2, both & both.T
        if not self.state:
            self.state = {"sum": torch.zeros_like(value), "mass": torch.zeros(seen.shape).to(value)}
        for name, new in (("sum", value), ("mass", torch.ones_like(self.state["mass"]))):
            old = self.state[name].to(value)
            self.state[name] = torch.where(seen, old + self.share * (new - old), old)
        mass = self.state["mass"]
        mean = self.state["sum"] / mass.where(mass > 0, torch.ones_like(mass))
        return gramian(mean) if self.kind == "averaged" else _with_positive_squares(mean.cpu().numpy())


def _with_positive_squares(products: Floats) -> Floats:
    """Estimated inner products, where a source whose square is not above 0 has an unknown direction."""
    squares = products.diagonal()
    unknown = squares <= 0
    least = LEAST_SQUARE * squares.max(initial=0.0)
    result = np.where(unknown[:, None] | unknown, 0.0, products)
    lengths = np.sqrt(np.where(unknown, least, squares))
    bound = np.outer(lengths, lengths)
    return np.asarray(np.clip(result, -bound, bound) + np.diag(np.where(unknown, least, 0.0)))


def min_norm_weights(gramian: ArrayLike, *, normalize: Normalize = "l2", present: ArrayLike | None = None) -> Floats:
    """The point of the simplex at which the weighted sum of gradients is shortest.

    With G = A'A and s^2 = trace(G) / K, lambda = y / sum y for y = argmin over y >= 0 of
    ||(A / s) y||^2 + (sum y - 1)^2. This non-negative least-squares problem is solved exactly; the paper's
    Frank-Wolfe iteration stalls at a gap of about 1e-5 on hard Gramians.

    Args:
        gramian: inner products of the sources' gradients, `(sources, sources)`.
        normalize: `l2` scales every gradient to length 1 first, as the paper's authors do; `none` solves the
            problem as written, and only then does the weighted step lower every source's loss.
        present: `(sources,)` bool, which sources have judgments; `None` is all.

    Returns:
        `(sources,)`, at least 0 with sum 1. Sources that are absent or without a gradient get 0. If no source has a
        gradient, the sources present share equally; so do sources with the same gradient.

    Raises:
        ValueError: the Gramian is not square or not finite, `present` has the wrong shape, or no source is present.

    Examples:
        Orthogonal gradients of length 1 and 2:

        >>> min_norm_weights([[1.0, 0.0], [0.0, 4.0]], normalize="none").round(6).tolist()
        [0.8, 0.2]
        >>> min_norm_weights([[1.0, 0.0], [0.0, 4.0]]).round(6).tolist()
        [0.5, 0.5]

    """
    products = np.asarray(gramian, dtype=np.float64)
    if products.ndim != 2 or products.shape[0] != products.shape[1] or not len(products):
        raise ValueError(f"gramian: expected (sources, sources), found {products.shape}")
    if not np.isfinite(products).all():
        raise ValueError("gramian: expected finite numbers: a gradient is infinite or not a number")
    judged = np.ones(len(products), dtype=bool) if present is None else np.asarray(present, dtype=bool)
    if judged.shape != products.shape[:1]:
        raise ValueError(f"present: expected {products.shape[:1]}, found {judged.shape}")
    if not judged.any():
        raise ValueError("present: no source has a judgment")
    lengths = np.sqrt(np.clip(products.diagonal(), 0, None))
    live = np.flatnonzero(judged & (lengths > NO_GRADIENT * lengths[judged].max()))
    if not len(live):
        return judged / judged.sum()
    chosen = products[np.ix_(live, live)]
    if normalize == "l2":
        chosen = chosen / np.outer(lengths[live], lengths[live])
    weights = np.zeros(len(products))
    weights[live] = _shortest(chosen)
    return weights


def _shortest(gramian: Floats) -> Floats:
    """The min-norm weights of gradients that are not zero."""
    sources = len(gramian)
    scaled = gramian / (gramian.trace() / sources)
    values, vectors = np.linalg.eigh((scaled + scaled.T) / 2)
    factor = np.sqrt(np.clip(values, 0, None))[:, None] * vectors.T  # factor' factor = scaled
    rows = np.vstack((factor, np.ones((1, sources))))
    solution, _ = nnls(rows, np.append(np.zeros(sources), 1.0), maxiter=30 * sources)
    # The solver may give the weight of equal gradients to any of them; the sum is the same, so share it equally.
    squares = gramian.diagonal()
    both = squares[:, None] + squares
    same = both - 2 * gramian <= SAME_GRADIENT * both
    count, group = connected_components(same, directed=False)
    share = np.bincount(group, solution, count) / np.bincount(group, minlength=count)
    return np.asarray(share[group] / solution.sum(), dtype=np.float64)

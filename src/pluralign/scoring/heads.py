"""Log-probabilities of given tokens in one buffer of logits, in pieces for large batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

LOGITS_AT_ONCE = 2**25
"""Number of logits computed in one piece: larger pieces do not fit the caches."""

LOGITS_KEPT = 2**27
"""Up to this many logits are kept for the backward pass; beyond it, each piece is recomputed there."""


class _ChosenLogProb(torch.autograd.Function):
    """log softmax(logits)[target], in the buffer of the logits: one exponential, no other tensor of that size.

    d log p_target / d logits = onehot(target) - softmax(logits). Plain autograd would hold logits, log-softmax and two
    gradients.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        logits.sub_(logits.amax(-1, keepdim=True))
        chosen = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        total = logits.exp_().sum(-1)
        ctx.save_for_backward(logits, total, targets)
        return chosen - total.log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        exponentials, total, targets = ctx.saved_tensors
        gradient = exponentials.mul_((-upstream / total).unsqueeze(-1))
        gradient.scatter_add_(-1, targets.unsqueeze(-1), upstream.unsqueeze(-1))
        return gradient, None


def token_log_probs(
    head: Callable[[Tensor], Tensor],
    states: Tensor,
    targets: Tensor,
    vocabulary: int,
    at_once: int = LOGITS_AT_ONCE,
    kept: int = LOGITS_KEPT,
) -> Tensor:
    """log softmax(head(state))[target] for every state, in nats.

    Args:
        head: maps states to new logits, which are overwritten.
        states: `(tokens, d)`.
        targets: `(tokens,)` token ids.
        vocabulary: number of logits per state.
        at_once: maximum number of logits per piece.
        kept: maximum number of logits kept for the backward pass; above it, the head is computed again there, one
            piece at a time.

    Returns:
        `(tokens,)`, float32 (float64 for float64 states).

    Examples:
        >>> head, states, targets = torch.nn.Linear(3, 7), torch.randn(4, 3), torch.tensor([0, 1, 2, 3])
        >>> whole = torch.log_softmax(head(states), -1)[torch.arange(4), targets]
        >>> torch.allclose(token_log_probs(head, states, targets, 7, at_once=14), whole, atol=1e-6)
        True
    """

    def chosen(states: Tensor, targets: Tensor) -> Tensor:
        logits = head(states)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        found: Tensor = _ChosenLogProb.apply(logits, targets)
        return found

    size = max(1, at_once // vocabulary)
    parts = list(zip(states.split(size), targets.split(size), strict=True))
    if len(states) * vocabulary <= kept or not torch.is_grad_enabled():
        return torch.cat([chosen(part, aim) for part, aim in parts])
    return torch.cat(
        [checkpoint(chosen, part, aim, use_reentrant=False, preserve_rng_state=False) for part, aim in parts]
    )

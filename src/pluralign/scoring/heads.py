"""Log-probabilities of given tokens in one buffer of logits, in pieces for large batches."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from pluralign.choice.preference_matching import with_shares

LOGITS_AT_ONCE = 2**25
"""Number of logits computed in one piece: larger pieces do not fit the caches."""

LOGITS_KEPT = 2**27
"""Up to this many logits are kept for the backward pass; beyond it, each piece is recomputed there."""


class _ChosenLogProb(torch.autograd.Function):
    """log softmax(logits)[target], in the buffer of the logits, where autograd would hold four tensors of that size.

    d log p_target / d logits = onehot(target) - softmax(logits).
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
    head: Any, states: Tensor, targets: Tensor, vocabulary: int, at_once: int = LOGITS_AT_ONCE, kept: int = LOGITS_KEPT
) -> Tensor:
    """log softmax(head(state))[target] in nats: `(tokens, d)` states and `(tokens,)` targets to `(tokens,)`.

    Float32, or float64 for float64 states. The head's logits, `vocabulary` per state, are overwritten. A piece has at
    most `at_once` logits; if there are more than `kept` in all, the backward pass computes each piece again.
    """

    def chosen(states: Tensor, targets: Tensor) -> Tensor:
        logits = head(states)
        log_probs: Tensor = _ChosenLogProb.apply(logits if logits.dtype == torch.float64 else logits.float(), targets)
        return log_probs

    compute: Callable[..., Tensor] = chosen
    if len(states) * vocabulary > kept and torch.is_grad_enabled():
        compute = functools.partial(checkpoint, chosen, use_reentrant=False, preserve_rng_state=False)
    size = max(1, at_once // vocabulary)
    return torch.cat([compute(*part) for part in zip(states.split(size), targets.split(size), strict=True)])


def token_shares(
    head: Any,
    states: Tensor,
    targets: Tensor,
    vocabulary: int,
    alpha: float,
    ends: Sequence[int],
    at_once: int = LOGITS_AT_ONCE,
) -> Tensor:
    """log softmax(head(state))[target] and what the flattened reference gives it, without gradient: `(tokens, 2)`.

    Both in nats, as in `choice.preference_matching.with_shares`: nan for targets that are not inside.
    """
    size = max(1, at_once // vocabulary)
    parts = []
    with torch.no_grad():
        for some, chosen in zip(states.split(size), targets.split(size), strict=True):
            logits = head(some)
            pair = with_shares(logits if logits.dtype == torch.float64 else logits.float(), chosen, alpha, ends)
            parts.append(torch.stack(pair, -1))
    return torch.cat(parts)

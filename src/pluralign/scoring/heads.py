"""Log-probabilities of given tokens, without keeping logits of all tokens at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LOGITS_AT_ONCE = 2**26
"""Up to so many logits are kept for the backward pass; beyond, they are computed twice, a chunk at a time."""


def token_log_probs(
    head: Callable[[Tensor], Tensor],
    states: Tensor,
    targets: Tensor,
    vocabulary: int,
    at_once: int = LOGITS_AT_ONCE,
) -> Tensor:
    """log softmax(head(state))[target] for every state, in nats.

    One pass where the logits are few. Otherwise chunks whose logits are made again in the backward pass: a third
    more work for the head, and memory of one chunk instead of all.

    Args:
        head: states to logits.
        states: `(tokens, d)`.
        targets: `(tokens,)` token ids.
        vocabulary: how many logits a state has.
        at_once: the most logits to hold.

    Returns:
        `(tokens,)`, float32 (float64 for float64 states).

    Examples:
        >>> head, states = torch.nn.Linear(3, 7), torch.randn(4, 3)
        >>> whole = token_log_probs(head, states, torch.tensor([0, 1, 2, 3]), 7)
        >>> torch.allclose(whole, token_log_probs(head, states, torch.tensor([0, 1, 2, 3]), 7, at_once=14))
        True
    """

    def chosen(states: Tensor, targets: Tensor) -> Tensor:
        logits = head(states)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return torch.log_softmax(logits, -1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)

    size = max(1, at_once // vocabulary)
    if len(states) <= size:
        return chosen(states, targets)
    parts = zip(states.split(size), targets.split(size), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([chosen(part, aim) for part, aim in parts])
    return torch.cat(
        [checkpoint(chosen, part, aim, use_reentrant=False, preserve_rng_state=False) for part, aim in parts]
    )

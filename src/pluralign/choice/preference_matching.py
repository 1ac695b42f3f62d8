"""Preference matching: a policy whose odds are those of the reward (arXiv 2405.16455).

Tuning a policy by E[r(x, y)] less beta times a penalty on log pi has the optimum

    kl            pi* proportional to exp(r / beta) pi_ref(y)             the reference's odds stay for ever
    pm            pi* proportional to exp(r / beta)                       penalty log pi(y)
    conditional   pi* proportional to exp(r / beta) prod_{t outside} pi_ref(y_t)

A token of a response is inside if the reference finds it likely, pi_ref(y_t | ...) > alpha. Inside, the penalty is
log pi(y_t); outside, log pi(y_t) - log pi_ref(y_t). Between two responses that are wholly inside the odds are those
of exp(r / beta); one token outside charges a response for what the reference thinks of that token. `kl` is nothing
inside, `pm` is everything. What distinguishes the three is therefore one number for each response, the charged part
of its reference log-probability.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from pluralign.core.errors import PluralignError

Mode = Literal["kl", "pm", "conditional"]
Gate = Literal["token", "sequence", "sequence-minimum"]


@dataclass(frozen=True)
class Penalty:
    """On what log pi is charged.

    Args:
        mode: `kl` has no token inside, `pm` all of them, `conditional` those that the reference finds likely.
        alpha: of `conditional`, above 0: inside is what has more than this probability. From 1 on nothing is.
        gate: `token` asks each token; `sequence` asks a response whole, by the geometric mean of its tokens'
            probabilities; `sequence-minimum` by the least of them.

    Raises:
        PluralignError: there is no such mode or gate, or alpha is not above 0.

    Examples:
        >>> Penalty("conditional", alpha=0.0)
        Traceback (most recent call last):
        ...
        pluralign.core.errors.PluralignError: alpha: found 0.0, expected a number above 0 (mode: kl has no token
        inside, mode: pm has all)
    """

    mode: Mode = "conditional"
    alpha: float = 0.1
    gate: Gate = "token"

    def __post_init__(self) -> None:
        for name, found, kind in (("mode", self.mode, Mode), ("gate", self.gate, Gate)):
            if found not in get_args(kind):
                raise PluralignError(f"{name}: found {found!r}, expected one of {', '.join(get_args(kind))}")
        number = isinstance(self.alpha, int | float) and not isinstance(self.alpha, bool)
        if not (number and self.alpha > 0):
            hint = "(mode: kl has no token inside, mode: pm has all)"
            raise PluralignError(f"alpha: found {self.alpha!r}, expected a number above 0 {hint}")


def inside(
    reference_log_probs: Tensor,
    owner: Tensor,
    responses: int,
    penalty: Penalty,
) -> Tensor:
    """Which tokens are inside, where the penalty does without the reference.

    Args:
        reference_log_probs: `(tokens,)` log pi_ref(y_t | ...) in nats, of all responses one after the other or in
            any order.
        owner: `(tokens,)` the response of each token, from 0.
        responses: how many there are.
        penalty: mode, threshold and gate.

    Returns:
        `(tokens,)` bool.

    Source: the authors' code (per token); the gates of whole responses are this project's.

    Examples:
        >>> log_probs, owner = torch.tensor([0.9, 0.05, 0.5, 0.4]).log(), torch.tensor([0, 0, 1, 1])
        >>> inside(log_probs, owner, 2, Penalty()).tolist()
        [True, False, True, True]
        >>> inside(log_probs, owner, 2, Penalty(gate="sequence")).tolist()  # geometric means .21 and .45
        [True, True, True, True]
        >>> inside(log_probs, owner, 2, Penalty(gate="sequence-minimum")).tolist()
        [False, False, True, True]
    """
    if penalty.mode != "conditional":
        return torch.full_like(reference_log_probs, penalty.mode == "pm", dtype=torch.bool)
    asked = reference_log_probs.double()
    if penalty.gate == "sequence":
        total = asked.new_zeros(responses).index_add(0, owner, asked)
        asked = (total / owner.bincount(minlength=responses).clamp(min=1))[owner]
    elif penalty.gate == "sequence-minimum":
        asked = asked.new_zeros(responses).scatter_reduce(0, owner, asked, "amin")[owner]
    return asked > torch.tensor(penalty.alpha, dtype=asked.dtype).log()


def inside_mask(reference_log_probs: Tensor, mask: Tensor, penalty: Penalty) -> Tensor:
    """`inside` of padded rows.

    Args:
        reference_log_probs: `(responses, tokens)`, in nats, padded anyhow.
        mask: `(responses, tokens)`, true or 1 where there is a token of the response.
        penalty: mode, threshold and gate.

    Returns:
        `(responses, tokens)` bool, false at padding.

    Examples:
        >>> log_probs, mask = torch.tensor([[0.9, 0.05, 1.0], [0.5, 0.4, 0.02]]).log(), torch.ones(2, 3)
        >>> mask[0, 2] = 0  # the first response has two tokens
        >>> inside_mask(log_probs, mask, Penalty()).tolist()
        [[True, False, False], [True, True, False]]
    """
    there = mask.bool()
    owner = torch.arange(len(there), device=there.device).unsqueeze(-1).expand_as(there)[there]
    found = inside(reference_log_probs[there], owner, len(there), penalty)
    return torch.zeros_like(there).masked_scatter(there, found)


def charged(
    reference_log_probs: Tensor,
    mask: Tensor,
    penalty: Penalty,
) -> Tensor:
    """log pi_ref(y_t | ...) of the tokens outside, 0 of those inside: what the penalty takes off log pi(y_t).

    Args:
        reference_log_probs: `(responses, tokens)`, in nats, padded anyhow.
        mask: `(responses, tokens)`, true or 1 where there is a token of the response.
        penalty: mode, threshold and gate.

    Returns:
        `(responses, tokens)`, 0 at padding.

    Examples:
        >>> log_probs, mask = torch.tensor([[0.9, 0.05, 1.0], [0.5, 0.4, 0.02]]).log(), torch.ones(2, 3)
        >>> mask[0, 2] = 0  # the first response has two tokens
        >>> charged(log_probs, mask, Penalty()).sum(-1).exp()
        tensor([0.0500, 0.0200])
    """
    return reference_log_probs.masked_fill(inside_mask(reference_log_probs, mask, penalty) | ~mask.bool(), 0.0)


def matched_log_probs(rewards: Tensor, charged_reference: Tensor, beta: float = 1.0) -> Tensor:
    """The optimum over a list of responses: log pi*(y) = r(y) / beta + charged(y) - log sum.

    Args:
        rewards: `(..., responses)` in log-odds.
        charged_reference: `(..., responses)` the charged reference log-probability of each response, in nats:
            log pi_ref(y) for KL-regularised tuning, 0 for preference matching.
        beta: of the penalty, above 0.

    Returns:
        `(..., responses)`, in nats.

    Source: arXiv 2405.16455, Section 3 for `pm`; `conditional` is derived in docs/preference-matching.md.

    Examples:
        >>> rewards, reference = torch.tensor([1.0, 0.5, 0.0]), torch.tensor([0.9, 0.0999, 0.0001]).log()
        >>> matched_log_probs(rewards, reference).exp()  # the third answer is forgotten
        tensor([9.3689e-01, 6.3076e-02, 3.8296e-05])
        >>> matched_log_probs(rewards, torch.zeros(3)).exp()
        tensor([0.5065, 0.3072, 0.1863])
    """
    return torch.log_softmax(rewards / beta + charged_reference, -1)

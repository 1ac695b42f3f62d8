"""Preference matching: a policy whose odds between responses follow the reward.

Maximising E[r(x, y)] - beta * penalty, with a penalty on log pi, has the optimum

    kl            pi* proportional to exp(r / beta) pi_ref(y)             penalty log pi(y) - log pi_ref(y)
    pm            pi* proportional to exp(r / beta)                       penalty log pi(y)
    conditional   pi* proportional to exp(r / beta) prod_{t outside} pi_ref(y_t)

A token is *inside* if its reference probability pi_ref(y_t | ...) is above alpha. Its penalty is log pi(y_t) inside,
and log pi(y_t) - log pi_ref(y_t) outside. Two responses with all tokens inside have the odds of exp(r / beta); every
token outside multiplies a response's weight by its reference probability. In `kl` no token is inside, in `pm` all
are. So the modes differ in one number per response: the charged part of its reference log-probability.

Source: "On the Algorithmic Bias of Aligning LLMs with RLHF: Preference Collapse and Matching Regularization",
arXiv 2405.16455: `pm` with beta = 1, and `conditional` per token as in the authors' code. The optimum of `conditional`
(derived in docs/preference-matching.md) and the gates for whole responses are ours.
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
    """The penalty on log pi.

    Args:
        mode: `kl` has no token inside, `pm` has all, `conditional` those with a reference probability above alpha.
        alpha: threshold of `conditional`, above 0. From 1 on no token is inside.
        gate: `token` decides for each token; `sequence` for a whole response, by the geometric mean of its tokens'
            probabilities; `sequence-minimum` by the smallest of them.

    Raises:
        PluralignError: the mode or the gate is unknown, or alpha is not above 0.

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
        for name, value, kind in (("mode", self.mode, Mode), ("gate", self.gate, Gate)):
            if value not in get_args(kind):
                raise PluralignError(f"{name}: found {value!r}, expected one of {', '.join(get_args(kind))}")
        number = isinstance(self.alpha, int | float) and not isinstance(self.alpha, bool)
        if not (number and self.alpha > 0):
            hint = "(mode: kl has no token inside, mode: pm has all)"
            raise PluralignError(f"alpha: found {self.alpha!r}, expected a number above 0 {hint}")


def inside(reference_log_probs: Tensor, owner: Tensor, responses: int, penalty: Penalty) -> Tensor:
    """Which tokens are inside, so that the penalty leaves out their reference probability: `(tokens,)` bool.

    Args:
        reference_log_probs: `(tokens,)` log pi_ref(y_t | ...) of all responses, in nats, in any order.
        owner: `(tokens,)` the response of each token, from 0.
        responses: number of responses.
        penalty: mode, threshold and gate.

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
    compared = reference_log_probs.double()
    if penalty.gate == "sequence":
        total = compared.new_zeros(responses).index_add(0, owner, compared)
        compared = (total / owner.bincount(minlength=responses).clamp(min=1))[owner]
    elif penalty.gate == "sequence-minimum":
        compared = compared.new_zeros(responses).scatter_reduce(0, owner, compared, "amin")[owner]
    return compared > torch.tensor(penalty.alpha, dtype=compared.dtype).log()


def inside_mask(reference_log_probs: Tensor, mask: Tensor, penalty: Penalty) -> Tensor:
    """`inside` for padded rows: `(responses, tokens)` bool, false at padding; arguments as in `charged`."""
    tokens = mask.bool()
    owner = torch.arange(len(tokens), device=tokens.device).unsqueeze(-1).expand_as(tokens)[tokens]
    flat = inside(reference_log_probs[tokens], owner, len(tokens), penalty)
    return torch.zeros_like(tokens).masked_scatter(tokens, flat)


def charged(reference_log_probs: Tensor, mask: Tensor, penalty: Penalty) -> Tensor:
    """What the penalty subtracts from log pi(y_t): log pi_ref(y_t | ...) for tokens outside, 0 for tokens inside.

    Args:
        reference_log_probs: `(responses, tokens)`, in nats, with any padding.
        mask: `(responses, tokens)`, true or 1 at the tokens of the response; the result is 0 elsewhere.
        penalty: mode, threshold and gate.

    Examples:
        >>> log_probs, mask = torch.tensor([[0.9, 0.05, 1.0], [0.5, 0.4, 0.02]]).log(), torch.ones(2, 3)
        >>> mask[0, 2] = 0  # the first response has two tokens
        >>> charged(log_probs, mask, Penalty()).sum(-1).exp()
        tensor([0.0500, 0.0200])
    """
    return reference_log_probs.masked_fill(inside_mask(reference_log_probs, mask, penalty) | ~mask.bool(), 0.0)


def matched_log_probs(rewards: Tensor, charged_reference: Tensor, beta: float = 1.0) -> Tensor:
    """The optimum over a list of responses: log pi*(y) = r(y) / beta + charged(y) - log sum, in nats.

    Args:
        rewards: `(..., responses)` in log-odds.
        charged_reference: `(..., responses)` the sum of `charged` over the tokens of each response, in nats:
            log pi_ref(y) for KL-regularised tuning, 0 for preference matching.
        beta: coefficient of the penalty, above 0.


    Examples:
        >>> rewards, reference = torch.tensor([1.0, 0.5, 0.0]), torch.tensor([0.9, 0.0999, 0.0001]).log()
        >>> matched_log_probs(rewards, reference).exp()  # the third response almost vanishes
        tensor([9.3689e-01, 6.3076e-02, 3.8296e-05])
        >>> matched_log_probs(rewards, torch.zeros(3)).exp()
        tensor([0.5065, 0.3072, 0.1863])
    """
    return torch.log_softmax(rewards / beta + charged_reference, -1)

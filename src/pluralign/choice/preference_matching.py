"""Preference matching: a policy whose odds between responses follow the reward.

Maximising E[r(x, y)] - beta * (log pi(y) - c(y)), where c(y) = sum over t of c_t is the *charged* part of the
reference, has the optimum

    pi* proportional to exp(r / beta) exp(c(y))

The modes differ in c_t alone. A token is *inside* if its reference probability pi_ref(y_t | ...) is above alpha:

    kl            log pi_ref(y_t)                               RLHF
    pm            0                                             the paper's plain matching
    conditional   0 inside, log pi_ref(y_t) outside             the paper's matching on text
    tempered      g log pi_ref(y_t)                             g = 1 is kl, g = 0 is pm
    flattened     log(m_t / |S_t|) inside, log pi_ref(y_t) outside and for the end token

S_t are the tokens inside without the end token, m_t is their reference mass. Under `flattened` the weights exp(c_t) of
a step sum to 1: the target is RLHF towards a reference whose likely tokens are equally likely, so it has a length of
its own. Under `pm` and `conditional` they sum to more than 1, so the weight of long responses has no bound.

Sources: "On the Algorithmic Bias of Aligning LLMs with RLHF: Preference Collapse and Matching Regularization",
arXiv 2405.16455 (`pm` with beta = 1, and `conditional` per token as in the authors' code); soft preference learning,
arXiv 2511.08594 (`tempered`). `flattened` and the gates for whole responses are ours (docs/preference-matching.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from pluralign.core.errors import PluralignError

Mode = Literal["flattened", "tempered", "conditional", "kl", "pm"]
Gate = Literal["token", "sequence", "sequence-minimum"]


@dataclass(frozen=True)
class Penalty:
    """The penalty log pi(y) - c(y).

    Args:
        mode: which part c(y) of the reference's log-probability is charged; see the module.
        alpha: threshold of `flattened` and `conditional`, above 0. From 1 on no token is inside.
        gate: `token` decides for each token. `sequence` and `sequence-minimum` let tokens be inside only in responses
            that are inside as a whole: by the geometric mean of their tokens' probabilities, or by the smallest of
            them. Under `conditional` all tokens of such a response are inside.
        reference_weight: g of `tempered`, from 0 to 1.

    Raises:
        PluralignError: the mode or the gate is unknown, or a number is out of range.

    Examples:
        >>> Penalty("conditional", alpha=0.0)
        Traceback (most recent call last):
        ...
        pluralign.core.errors.PluralignError: alpha: found 0.0, expected a number above 0 (mode: kl has no token
        inside, mode: pm has all)
    """

    mode: Mode = "flattened"
    alpha: float = 0.05
    gate: Gate = "token"
    reference_weight: float = 0.5

    def __post_init__(self) -> None:
        for name, value, kind in (("mode", self.mode, Mode), ("gate", self.gate, Gate)):
            if value not in get_args(kind):
                raise PluralignError(f"{name}: found {value!r}, expected one of {', '.join(get_args(kind))}")
        if not (_is_number(self.alpha) and self.alpha > 0):
            hint = "(mode: kl has no token inside, mode: pm has all)"
            raise PluralignError(f"alpha: found {self.alpha!r}, expected a number above 0 {hint}")
        if not (_is_number(self.reference_weight) and 0 <= self.reference_weight <= 1):
            hint = "(1 is mode: kl, 0 is mode: pm)"
            raise PluralignError(f"reference_weight: found {self.reference_weight!r}, expected 0 to 1 {hint}")

    @property
    def charges_all(self) -> bool:
        """Whether c(y) = log pi_ref(y): `kl`, and the other modes where they equal it."""
        if self.mode == "tempered":
            return self.reference_weight == 1
        return self.mode == "kl" or (self.mode != "pm" and self.alpha >= 1)

    @property
    def charges_none(self) -> bool:
        """Whether c(y) = 0, so that there is no reference: `pm`, and `tempered` with weight 0."""
        return self.mode == "pm" or (self.mode == "tempered" and self.reference_weight == 0)

    def length_warning(self, limit: str) -> str | None:
        """What happens to length where the weights exp(c_t) of a step sum to more than 1; `limit` is where it ends."""
        if self.mode not in ("pm", "conditional", "tempered") or self.charges_all:
            return None
        return (
            f"mode: {self.mode}: the target gives more weight to longer responses: on free text their length tends to "
            f"{limit}, however short the reference's are. mode: flattened keeps the reference's length"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def flattened(reference_log_probs: Tensor, alpha: float, ends: Sequence[int]) -> Tensor:
    """The flattened reference: `(..., vocabulary)` log-probabilities in which all tokens inside are equally likely.

    Tokens with a probability above alpha, the end token excepted, share their mass m: each gets m / |S|. All others
    keep their probability. Source: ours.

    Args:
        reference_log_probs: `(..., vocabulary)`, normalised, in nats.
        alpha: the threshold, above 0.
        ends: ids of the tokens that end a response; models have one, several or none.

    Examples:
        >>> flattened(torch.tensor([0.4, 0.2, 0.1, 0.3]).log(), alpha=0.15, ends=[3]).exp()
        tensor([0.3000, 0.3000, 0.1000, 0.3000])
    """
    within, share = _shares(reference_log_probs.exp(), alpha, ends)
    return torch.where(within, share.unsqueeze(-1), reference_log_probs)


def with_shares(logits: Tensor, targets: Tensor, alpha: float, ends: Sequence[int]) -> tuple[Tensor, Tensor]:
    """log pi_ref of targets, and what `flattened` gives those inside: both `(tokens,)`, in nats.

    Args:
        logits: `(tokens, vocabulary)` of the reference, float32 or float64; overwritten.
        targets: `(tokens,)` ids.
        alpha: the threshold, above 0.
        ends: ids of the tokens that end a response; models have one, several or none.

    Returns:
        `log_probs`; and `shares`, log(m / |S|) of targets inside, nan for the others.

    Examples:
        >>> logits = torch.tensor([[0.4, 0.2, 0.1, 0.3]]).log().repeat(3, 1)
        >>> log_probs, shares = with_shares(logits, torch.tensor([0, 2, 3]), alpha=0.15, ends=[3])
        >>> log_probs.exp(), shares.exp()
        (tensor([0.4000, 0.1000, 0.3000]), tensor([0.3000,    nan,    nan]))
    """
    at = targets.unsqueeze(-1)
    logits.sub_(logits.amax(-1, keepdim=True))
    chosen = logits.gather(-1, at).squeeze(-1)
    total = logits.exp_().sum(-1, keepdim=True)
    within, share = _shares(logits.div_(total), alpha, ends)
    log_probs = chosen - total.squeeze(-1).log()
    return log_probs, share.masked_fill(~within.gather(-1, at).squeeze(-1), torch.nan)


def _shares(probs: Tensor, alpha: float, ends: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Which tokens are inside `(..., vocabulary)`, and log(m / |S|) `(...)`; nothing of it where none is."""
    within = probs > alpha
    within[..., list(ends)] = False
    count = within.sum(-1)
    return within, (probs * within).sum(-1).log() - count.to(probs.dtype).log()


def inside(
    reference_log_probs: Tensor, owner: Tensor, responses: int, penalty: Penalty, shares: Tensor | None = None
) -> Tensor:
    """Which tokens are inside: `(tokens,)` bool; all under `pm`, none under `kl` and `tempered`.

    Args:
        reference_log_probs: `(tokens,)` log pi_ref(y_t | ...) of all responses, in nats, in any order.
        owner: `(tokens,)` the response of each token, from 0.
        responses: number of responses.
        penalty: mode, threshold and gate.
        shares: `(tokens,)` from `with_shares`; `flattened` needs them.

    Examples:
        >>> log_probs, owner = torch.tensor([0.9, 0.05, 0.5, 0.4]).log(), torch.tensor([0, 0, 1, 1])
        >>> inside(log_probs, owner, 2, Penalty("conditional")).tolist()
        [True, False, True, True]
        >>> inside(log_probs, owner, 2, Penalty("conditional", gate="sequence")).tolist()  # means .21 and .45
        [True, True, True, True]
        >>> inside(log_probs, owner, 2, Penalty("conditional", gate="sequence-minimum")).tolist()
        [False, False, True, True]
    """
    if penalty.mode not in ("flattened", "conditional") or penalty.charges_all:
        return torch.full_like(reference_log_probs, penalty.charges_none, dtype=torch.bool)
    likely = None if penalty.mode == "conditional" else ~_given(shares).isnan()
    if likely is not None and penalty.gate == "token":
        return likely
    compared = reference_log_probs.double()
    if penalty.gate == "sequence":
        total = compared.new_zeros(responses).index_add(0, owner, compared)
        compared = (total / owner.bincount(minlength=responses).clamp(min=1))[owner]
    elif penalty.gate == "sequence-minimum":
        compared = compared.new_zeros(responses).scatter_reduce(0, owner, compared, "amin")[owner]
    passes = compared > torch.tensor(penalty.alpha, dtype=compared.dtype).log()
    return passes if likely is None else passes & likely


def charged_tokens(
    reference_log_probs: Tensor, owner: Tensor, responses: int, penalty: Penalty, shares: Tensor | None = None
) -> Tensor:
    """The charged part c_t of each token, in nats: `(tokens,)`; arguments as in `inside`.

    Examples:
        >>> log_probs, owner = torch.tensor([0.9, 0.05, 0.5, 0.4]).log(), torch.tensor([0, 0, 1, 1])
        >>> charged_tokens(log_probs, owner, 2, Penalty("conditional")).exp()
        tensor([1.0000, 0.0500, 1.0000, 1.0000])
        >>> charged_tokens(log_probs, owner, 2, Penalty("tempered", reference_weight=0.5)).exp()
        tensor([0.9487, 0.2236, 0.7071, 0.6325])
    """
    if penalty.mode == "tempered":
        return penalty.reference_weight * reference_log_probs
    within = inside(reference_log_probs, owner, responses, penalty, shares)
    if penalty.mode == "flattened" and not penalty.charges_all:
        return torch.where(within, _given(shares), reference_log_probs)
    return reference_log_probs.masked_fill(within, 0.0)


def _given(shares: Tensor | None) -> Tensor:
    if shares is None:
        raise PluralignError("shares: mode flattened needs the whole distribution of the reference: see `with_shares`")
    return shares


def inside_mask(reference_log_probs: Tensor, mask: Tensor, penalty: Penalty, shares: Tensor | None = None) -> Tensor:
    """`inside` for padded rows: `(responses, tokens)` bool, false at padding; arguments as in `charged`."""
    tokens, flat = _flat(reference_log_probs, mask, shares)
    return torch.zeros_like(tokens).masked_scatter(tokens, inside(*flat[:2], len(tokens), penalty, flat[2]))


def charged(reference_log_probs: Tensor, mask: Tensor, penalty: Penalty, shares: Tensor | None = None) -> Tensor:
    """The charged part c_t of each token of padded rows: `(responses, tokens)`, in nats.

    Args:
        reference_log_probs: `(responses, tokens)`, in nats, with any padding.
        mask: `(responses, tokens)`, true or 1 at the tokens of the response; the result is 0 elsewhere.
        penalty: mode, threshold and gate.
        shares: `(responses, tokens)` from `with_shares`; `flattened` needs them.

    Examples:
        >>> log_probs, mask = torch.tensor([[0.9, 0.05, 1.0], [0.5, 0.4, 0.02]]).log(), torch.ones(2, 3)
        >>> mask[0, 2] = 0  # the first response has two tokens
        >>> charged(log_probs, mask, Penalty("conditional")).sum(-1).exp()
        tensor([0.0500, 0.0200])
    """
    tokens, flat = _flat(reference_log_probs, mask, shares)
    values = charged_tokens(*flat[:2], len(tokens), penalty, flat[2])
    return torch.zeros_like(reference_log_probs).masked_scatter(tokens, values)


def _flat(
    reference_log_probs: Tensor, mask: Tensor, shares: Tensor | None
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor | None]]:
    """The mask as bool, and log-probabilities, owners and shares of its tokens, row by row."""
    tokens = mask.bool()
    owner = torch.arange(len(tokens), device=tokens.device).unsqueeze(-1).expand_as(tokens)[tokens]
    return tokens, (reference_log_probs[tokens], owner, None if shares is None else shares[tokens])


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

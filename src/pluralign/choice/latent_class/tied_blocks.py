"""The probability, to 1e-4 nats, that a block of responses comes before the others, in any order within.

With clocks that ring after exponential times of rates e_i = exp(u_i), a block T comes before the set A if all clocks of
T ring before the first of A. With S_A the sum over A and t = S_A times the moment of that,

    P(T before A) = integral_0^inf exp(-t) product_(i in T) (1 - exp(-t e_i / S_A)) dt

(Kalbfleisch & Prentice 1973, for tied failure times). Efron's formula approximates it, well for blocks of a few.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pluralign.choice.latent_class.choice_sets import ChoiceSets

STEP = 0.5
"""Step of log t; the integrand is analytic, so that the trapezoidal rule is right to 1e-4 nats."""

FROM, TO = -13.0, 6.5
"""Range of log t: for blocks of up to some hundred responses nothing lies outside."""


def block_log_p(sets: ChoiceSets, utilities: Tensor) -> Tensor:
    """log P(T before A) of each choice at utilities `(responses, B)`: `(choices, B)`, in nats.

    Examples:
        >>> from pluralign.choice.latent_class.choice_sets import choice_sets
        >>> sets = choice_sets(torch.tensor([[0, 1, 2]]), torch.tensor([[1, 1, 2]]), 3)
        >>> alike = block_log_p(sets, torch.zeros(3, 1, dtype=torch.float64))
        >>> round(alike[0].exp().item(), 5)  # the third of three that are alike comes last
        0.33333
    """
    rates = (utilities - utilities.amax(0)).exp()
    left = sets.others.matrix @ rates
    tied = sets.tied
    relative = rates[tied.response] / left[tied.choice].clamp(min=1e-300)
    found = torch.full_like(left, -torch.inf)
    for log_t in torch.arange(FROM, TO, STEP, dtype=left.dtype, device=left.device):
        rung = (-torch.expm1(-relative * log_t.exp())).clamp(min=1e-300).log()
        inside = (log_t - log_t.exp()).expand_as(left).index_add(0, tied.choice, rung)
        found = torch.logaddexp(found, inside)
    return torch.where(left > 0, found + math.log(STEP), 0.0)  # what comes last is certain

"""Choices with a row for each place of a block of ties: an oracle that follows the definition."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pluralign.choice.latent_class.choice_sets import ChoiceSets


@dataclass(frozen=True)
class Places:
    """Choices as rows, one for each place of a block of ties: log P = u_chosen - log sum_i a_i exp(u_i).

    Args:
        choice: `(rows,)` rising, the choice in `ChoiceSets`.
        response: `(rows, alternatives)` the chosen response, then the others; -1 where there is none.
        log_share: `(rows, alternatives)` float64, log a; minus infinity where there is none.
    """

    choice: Tensor
    response: Tensor
    log_share: Tensor


def exploded(sets: ChoiceSets) -> Places:
    """Spell out the places of every choice."""
    tied, left = (torch.bincount(part.choice, minlength=len(sets)) for part in (sets.tied, sets.others))
    choice = torch.repeat_interleave(torch.arange(len(sets), device=tied.device), tied)
    place = (torch.arange(len(choice), device=tied.device) - (tied.cumsum(0) - tied)[choice]).unsqueeze(1)
    column = torch.arange(max(2, int((tied + left).max()) if len(sets) else 2), device=tied.device)
    of_tied, of_others = tied[choice].unsqueeze(1), left[choice].unsqueeze(1)
    first = (tied.cumsum(0) - tied)[choice].unsqueeze(1) + (place + column) % of_tied
    then = (left.cumsum(0) - left)[choice].unsqueeze(1) + column - of_tied
    inside, known = column < of_tied, column < of_tied + of_others
    others = torch.cat((sets.others.response, sets.others.response.new_zeros(1)))
    response = torch.where(inside, sets.tied.response[first], others[then.clamp(0, len(others) - 1)])
    share = torch.cat((sets.share[:, 0], sets.share.new_ones(1)))
    further = ((tied - 1).cumsum(0) - (tied - 1))[choice].unsqueeze(1) + place - 1
    log_share = torch.where(inside & (place > 0), share[further.clamp(0, len(share) - 1)].log(), 0.0)
    return Places(choice, response.masked_fill(~known, -1), log_share.masked_fill(~known, -torch.inf))

"""Rankings as choices: every ranked place is a choice among the responses not yet ranked.

The exploded logit (Luce 1959; Beggs, Cardell & Hausman 1981): with utilities u and shares a,

    log P(choice s) = u_chosen - log sum over alternatives i of a_si exp(u_i)

and the log-likelihood of a ranking is the sum over its choices. Shares are 1, or below 1 inside tied blocks by
Efron's rule, as in `pluralign.choice.plackett_luce`. Equal choices are kept once, so the cost of a model follows the
number of distinct choices, not of judgments.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pluralign.choice.plackett_luce import NOT_RANKED, competition_places

CELLS = 2**24
"""Size of a block of rankings, in numbers."""


@dataclass(frozen=True)
class Choices:
    """The distinct choices in some judgments, and which judgment made which.

    Args:
        response: `(choices, alternatives)`: the chosen response, then the others by id; -1 where there is none.
        log_share: `(choices, alternatives)` float64, log a; minus infinity where there is none.
        judgment: `(places,)` the judgment of every ranked place.
        choice: `(places,)` the choice of every ranked place.
    """

    response: Tensor
    log_share: Tensor
    judgment: Tensor
    choice: Tensor

    def __len__(self) -> int:
        return len(self.response)


def exploded(responses: Tensor, ranks: Tensor, *, ties: str = "efron", top: int | None = None) -> Choices:
    """Split rankings into choices. Choices with a single alternative carry no information and are left out.

    Args:
        responses: `(judgments, shown)` integer ids; any value where none is shown.
        ranks, ties, top: as in `pluralign.choice.plackett_luce.log_likelihood`; `ties` is `efron` or `breslow`.

    Raises:
        ValueError: shapes do not fit, or `ties` or `top` is out of range.

    Examples:
        >>> made = exploded(torch.tensor([[7, 8, 9], [9, 7, 8]]), torch.tensor([[2, 1, 3], [3, 1, 2]]))
        >>> sorted(made.response.tolist()), made.judgment.tolist()
        ([[7, 8, 9], [7, 9, -1], [8, 7, 9], [8, 9, -1]], [0, 0, 1, 1])
    """
    if ties not in ("efron", "breslow"):
        raise ValueError(f"ties: found {ties!r}, expected efron or breslow")
    if responses.shape != ranks.shape or ranks.ndim != 2:
        raise ValueError(f"expected (judgments, shown) twice, found {tuple(responses.shape)}, {tuple(ranks.shape)}")
    if top is not None and top < 1:
        raise ValueError(f"top: found {top}, expected 1 or more")
    parts = [_places(responses[block], ranks[block], ties, top) for block in _blocks(*ranks.shape)]
    judgment = torch.cat([part[0] + block.start for part, block in zip(parts, _blocks(*ranks.shape), strict=True)])
    response, log_share = torch.cat([part[1] for part in parts]), torch.cat([part[2] for part in parts])
    widest = max(2, int((log_share > -torch.inf).sum(-1).max())) if len(response) else 2
    response, log_share, choice = _unique(response[:, :widest], log_share[:, :widest])
    return Choices(response, log_share, judgment, choice)


def _blocks(judgments: int, shown: int) -> Iterator[slice]:
    """Slices of at most `CELLS` numbers."""
    size = max(1, CELLS // max(1, shown) ** 2)
    for start in range(0, max(1, judgments), size):  # without judgments, one empty block
        yield slice(start, min(start + size, judgments))


def _places(responses: Tensor, ranks: Tensor, ties: str, top: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Judgment, responses with the chosen one first, and log shares, for every place with an alternative."""
    place = competition_places(ranks, top)
    own, other = place.unsqueeze(-1), place.unsqueeze(-2)
    ranked = place > 0
    tied = (other == own) & ranked.unsqueeze(-1)
    available = ((other > own) | (other == NOT_RANKED) | tied) & ranked.unsqueeze(-1)
    judgment, column = (ranked & (available.sum(-1) > 1)).nonzero(as_tuple=True)
    kept = available[judgment, column]
    log_share = torch.zeros(kept.shape, dtype=torch.float64, device=ranks.device)
    if ties == "efron":
        before = (tied & torch.ones_like(tied).tril(-1)).sum(-1)
        left = 1 - before.double() / tied.sum(-1).clamp(min=1).double()
        log_share = torch.where(tied[judgment, column], left.log()[judgment, column].unsqueeze(-1), log_share)
    log_share = log_share.masked_fill(~kept, -torch.inf)
    shown = responses[judgment]
    order = shown.masked_fill(~kept, torch.iinfo(shown.dtype).max)
    order = order.scatter(1, column.unsqueeze(1), torch.iinfo(shown.dtype).min).argsort(1)
    return judgment, shown.gather(1, order), log_share.gather(1, order)


def _unique(response: Tensor, log_share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The distinct rows, and the number of each row among them."""
    seed = torch.Generator().manual_seed(0)
    limits = torch.iinfo(torch.int64)
    factors = torch.randint(limits.min, limits.max, (2, response.shape[1]), generator=seed).to(response.device)
    ids = response.masked_fill(log_share == -torch.inf, -1)
    # Integers wrap, so the sum is a hash of the row. Sorting hashes is many times faster than sorting rows.
    key = (ids * factors[0] + log_share.view(torch.int64) * factors[1]).sum(1)
    values, number = torch.unique(key, return_inverse=True)
    places = torch.arange(len(number), device=number.device)
    first = torch.full_like(values, len(number)).scatter_reduce_(0, number, places, "amin")
    same = (ids[first][number] == ids).all() & (log_share[first][number] == log_share).all()
    if bool(same):
        return ids[first], log_share[first], number
    # Two different rows have the same hash: sort the rows themselves.
    rows, number = torch.unique(torch.cat((ids, log_share.view(torch.int64)), 1), dim=0, return_inverse=True)
    width = ids.shape[1]
    return rows[:, :width], rows[:, width:].contiguous().view(torch.float64), number

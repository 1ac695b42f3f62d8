"""The Plackett-Luce model of rankings: full, top-q and tied. Rankings of two are Bradley-Terry.

A ranking of n responses with utilities u has the probability

    P(y_(1) > y_(2) > ...) = product over ranked places t of exp(u_(t)) / sum over s not yet ranked of exp(u_s)

(Luce 1959; Plackett 1975). Everything is computed from differences of utilities, and every place as a log-sigmoid.
A ranking of two is therefore exactly `logsigmoid(u_a - u_b)`, and utilities of +-1e4 give finite, accurate values and
gradients.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

Ties = Literal["efron", "breslow", "average", "marginal"]

NOT_RANKED = 0
"""Rank of a response that was shown but not ranked. It is worse than every ranked one: only in the denominators."""

NOT_SHOWN = -1
"""Rank of padding: the response is no part of the judgment."""

EXACT_TIES_UP_TO = 3
"""The longest block of tied responses whose orders are enumerated."""


def log_likelihood(utilities: Tensor, ranks: Tensor, *, ties: Ties = "efron", top: int | None = None) -> Tensor:
    """Log-probability of each ranking, in nats.

    Place t of a ranking adds `-log(sum over s of a_ts exp(u_s - u_t))`, where `a_ts` is 1 for the responses not
    yet ranked, 0 for those ranked before, and inside a block of m tied responses depends on `ties`:

    - `efron` (default): `1 - l/m` at the l-th place of the block, l = 0 ... m-1 (Efron 1977), in whatever order.
    - `breslow`: 1, so the whole block stays in each of its denominators (Breslow 1974).
    - `average`: mean log-likelihood over the orders of the block; exact, blocks of at most 3.
    - `marginal`: log of the mean probability over the orders; exact, blocks of at most 3. A tied pair then
      carries no information about its utilities.

    `efron` and `breslow` are pseudo-likelihoods that pull tied utilities together. Time and memory grow with
    the square of the number of responses.

    Args:
        utilities: `(..., judgments, responses)`, any floating dtype; the rankings apply to all leading dimensions.
        ranks: `(judgments, responses)`, integers: 1 is best, equal ranks are tied, `NOT_RANKED` (0) was shown
            and is worse than every ranked one, `NOT_SHOWN` (-1) is padding.
        ties: how to treat a block of equal ranks.
        top: stop after this many places (1 is "best of n"); a block that starts within them is kept whole.

    Returns:
        `(..., judgments)`, of the dtype of `utilities`; 0 for a judgment without a ranked response.

    Raises:
        ValueError: shapes or dtypes do not fit, `ties` is unknown, or a block is too long for an exact option.

    Examples:
        >>> u = torch.tensor([[2.0, 0.0, -1.0]])
        >>> log_likelihood(u, torch.tensor([[1, 2, 3]])).exp()
        tensor([0.6169])
        >>> log_likelihood(u, torch.tensor([[1, 2, -1]])) == logsigmoid(u[:, 0] - u[:, 1])
        tensor([True])
    """
    _check(utilities, ranks, ties, top)
    place = competition_places(ranks, top)
    if ties in ("efron", "breslow"):
        return _log_places(utilities, place, ties).sum(-1)
    return _over_orders(utilities, place, ties)


def pair_log_likelihood(
    utilities: Tensor, ranks: Tensor, *, ties: Ties = "efron", opposite: Tensor | float = 0.0
) -> Tensor:
    """Mean Bradley-Terry log-probability over the pairs of each ranking, in nats.

    The pairs of a ranking are all pairs of shown responses of which at least one is ranked. A strict pair adds
    `log sigmoid(u_w - u_l)`, a tied pair its `log_likelihood` under `ties`. With a share e of opposite votes a strict
    pair adds `(1 - e) log sigmoid(u_w - u_l) + e log sigmoid(u_l - u_w)`, the label smoothing of conservative DPO.

    Arguments and errors as in `log_likelihood`, and:

    Args:
        opposite: e, one number for all or `(judgments, pairs)` in the order of
            `torch.triu_indices(responses, responses, 1)`; from 0 to 1.

    Returns:
        `(..., judgments)`; 0 for a judgment without a pair. For two responses it equals `log_likelihood`.

    Examples:
        >>> u = torch.tensor([[1.0, 0.0, 0.0]])
        >>> pair_log_likelihood(u, torch.tensor([[1, 0, 0]])) == logsigmoid(torch.tensor(1.0))
        tensor([True])
    """
    _check(utilities, ranks, ties, None)
    first, second, shown, ordered = compared_pairs(ranks)
    difference = utilities[..., first] - utilities[..., second]  # (..., judgments, pairs)
    ahead, behind = logsigmoid(difference), logsigmoid(-difference)
    if ties == "marginal":
        tied = torch.full_like(difference, -math.log(2))
    elif ties == "average":
        tied = (ahead + behind) / 2
    else:
        tied = ahead + behind + (math.log(2) if ties == "efron" else 0.0)
    if isinstance(opposite, Tensor) or opposite:
        ahead, behind = ahead + opposite * (behind - ahead), behind + opposite * (ahead - behind)
    each = torch.where(ordered < 0, ahead, torch.where(ordered > 0, behind, tied))
    total = torch.where(shown, each, torch.zeros_like(each)).sum(-1)
    return total / shown.sum(-1).clamp(min=1).to(total.dtype)


def pair_sides(values: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values of the better and of the worse response, for every strict pair of a ranking.

    Arguments and errors as in `log_likelihood`; the values may also be log-probabilities.

    Returns:
        The better and the worse value `(..., judgments, pairs)`, and a mask `(judgments, pairs)` of the strict pairs.

    Examples:
        >>> better, worse, strict = pair_sides(torch.tensor([[1.0, 3.0, 0.0]]), torch.tensor([[2, 1, 0]]))
        >>> better[strict].tolist(), worse[strict].tolist()
        ([3.0, 1.0, 3.0], [1.0, 0.0, 0.0])
    """
    _check(values, ranks, "efron", None)
    first, second, shown, ordered = compared_pairs(ranks)
    one, two = values[..., first], values[..., second]
    return torch.where(ordered <= 0, one, two), torch.where(ordered <= 0, two, one), shown & (ordered != 0)


def pair_margins(utilities: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Utility of the better minus the worse response of each pair, and a mask of the strict pairs: as `pair_sides`."""
    better, worse, strict = pair_sides(utilities, ranks)
    return better - worse, strict


def competition_places(ranks: Tensor, top: int | None = None) -> Tensor:
    """Places as in a competition: 1 + the number of strictly better ranked responses.

    `ranks` is `(judgments, responses)`, as in `log_likelihood`, and so is the result: responses not ranked or not shown
    keep their codes. A response whose block starts after place `top` counts as not ranked.

    Examples:
        >>> competition_places(torch.tensor([[5, 2, 5, 9, -1]]), top=2).tolist()
        [[2, 1, 2, 0, -1]]
    """
    ranked = ranks > 0
    better = (ranks.unsqueeze(-1) > ranks.unsqueeze(-2)) & ranked.unsqueeze(-2)
    place = torch.where(ranked, better.sum(-1) + 1, ranks.clamp(min=NOT_SHOWN))
    return place if top is None else torch.where(place > top, torch.full_like(place, NOT_RANKED), place)


def _check(utilities: Tensor, ranks: Tensor, ties: str, top: int | None) -> None:
    """Check the arguments of a public function."""
    if ties not in get_args(Ties):
        raise ValueError(f"ties: found {ties!r}, expected one of {', '.join(get_args(Ties))}")
    if ranks.ndim != 2 or ranks.is_floating_point() or utilities.shape[-2:] != ranks.shape:
        raise ValueError(
            f"expected integer ranks (judgments, responses) and utilities (..., judgments, responses), found "
            f"ranks {tuple(ranks.shape)} of {ranks.dtype} and utilities {tuple(utilities.shape)}"
        )
    if not utilities.is_floating_point():
        raise ValueError(f"utilities: expected a floating dtype, found {utilities.dtype}")
    if top is not None and top < 1:
        raise ValueError(f"top: found {top}, expected 1 or more")


def compared_pairs(ranks: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All pairs of columns of `(judgments, responses)` ranks, as in `log_likelihood`.

    Returns:
        The first and the second column `(pairs,)`; a mask `(judgments, pairs)` of the pairs that a judgment compares;
        and `(judgments, pairs)` -1 where the first is better, 0 where they tie, 1 where the second is better.

    Examples:
        >>> first, second, compared, order = compared_pairs(torch.tensor([[2, 1, 0], [1, 1, -1]]))
        >>> first.tolist(), second.tolist(), order[compared].tolist()
        ([0, 0, 1], [1, 2, 2], [1, -1, -1, 0])
    """
    first, second = torch.triu_indices(ranks.shape[-1], ranks.shape[-1], 1, device=ranks.device)
    pairs = torch.stack((ranks[:, first], ranks[:, second]), -1)  # (judgments, pairs, 2)
    compared = (pairs > NOT_SHOWN).all(-1) & (pairs > NOT_RANKED).any(-1)
    last = torch.where(pairs > 0, pairs, torch.full_like(pairs, torch.iinfo(pairs.dtype).max))
    ordered = (last[..., 0] > last[..., 1]).to(torch.int8) - (last[..., 0] < last[..., 1]).to(torch.int8)
    return first, second, compared, ordered


def _log_places(utilities: Tensor, place: Tensor, ties: str) -> Tensor:
    """Log-probability of each response's place: `(..., judgments, responses)`, 0 where not ranked."""
    ranked = place > 0
    own_place, other = place.unsqueeze(-1), place.unsqueeze(-2)  # row t, column s
    behind = (other > own_place) | (other == NOT_RANKED)
    tied = (other == own_place) & ranked.unsqueeze(-1)
    itself = torch.eye(place.shape[-1], dtype=torch.bool, device=place.device)
    in_denominator = (behind | tied) & ~itself & ranked.unsqueeze(-1)
    share = torch.ones_like(in_denominator, dtype=utilities.dtype)
    if ties == "efron":
        before = (tied & torch.ones_like(tied).tril(-1)).sum(-1)  # place inside the block, by position
        left = 1 - before.to(utilities.dtype) / tied.sum(-1).clamp(min=1).to(utilities.dtype)
        share = torch.where(tied, left.unsqueeze(-1), share)
    own = share.diagonal(dim1=-2, dim2=-1).log()
    # The sum over the others is a log-sum-exp of differences; the response itself enters by the log-sigmoid.
    # A finite stand-in for -inf keeps the gradient of places with nothing behind them at zero, not NaN.
    lowest = torch.finfo(utilities.dtype).min
    gaps = utilities.unsqueeze(-2) - utilities.unsqueeze(-1) + share.log()
    others = torch.logsumexp(torch.where(in_denominator, gaps, torch.full_like(gaps, lowest)), -1)
    alone = ~in_denominator.any(-1)
    each = logsigmoid(own - torch.where(alone, torch.full_like(others, lowest), others)) - own
    return torch.where(ranked, each, torch.zeros_like(each))


def _over_orders(utilities: Tensor, place: Tensor, ties: str) -> Tensor:
    """Log-likelihood averaged over the orders inside each block of tied responses."""
    tied = (place.unsqueeze(-1) == place.unsqueeze(-2)) & (place > 0).unsqueeze(-1)
    longest = int(tied.sum(-1).max()) if tied.numel() else 0
    if longest > EXACT_TIES_UP_TO:
        raise ValueError(
            f"ties={ties!r} enumerates the orders of tied responses and allows blocks of at most {EXACT_TIES_UP_TO}, "
            f"found {longest} tied responses: use 'efron'"
        )
    within = (tied & torch.ones_like(tied).tril(-1)).sum(-1)  # position inside the block
    blocks = []
    for order in itertools.permutations(range(EXACT_TIES_UP_TO)):
        # Places are at least a block's length apart, so adding less than that only breaks ties.
        key = torch.tensor(order, device=place.device)[within.clamp(max=EXACT_TIES_UP_TO - 1)]
        strict = torch.where(place > 0, place * EXACT_TIES_UP_TO + key, place)
        each = _log_places(utilities, strict, "breslow")
        blocks.append((tied.to(each.dtype) @ each.unsqueeze(-1)).squeeze(-1))  # sum over the block
    orders = torch.stack(blocks)
    block = orders.mean(0) if ties == "average" else torch.logsumexp(orders, 0) - math.log(len(blocks))
    block = torch.where(tied.sum(-1) > 1, block, orders[0])  # nothing to average: the strict value to the bit
    first = (place > 0) & (within == 0)
    return torch.where(first, block, torch.zeros_like(block)).sum(-1)

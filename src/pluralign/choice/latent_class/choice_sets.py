"""Judgments as choices from sets: a block of tied responses, taken before the others that are left.

With utilities u, a block T of d tied responses, the set A of responses left after it, and shares a_0 ... a_(d-1),

    log P(T before A) = sum_(i in T) u_i - sum_j log(S_A + a_j S_T),   S_T = sum_(i in T) exp(u_i), S_A likewise

where a_j = 1 - j / d (Efron 1977), or 1 (Breslow 1974); without ties it is the logit's log P(i). A ranking's
log-likelihood is the sum over its blocks (the exploded logit: Luce 1959; Beggs, Cardell & Hausman 1981). Equal choices
are kept once, so the cost follows the number of distinct choices, and a block of ties costs as much as one response.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pluralign.choice.plackett_luce import NOT_RANKED, NOT_SHOWN, competition_places

CELLS = 2**24
"""Size of a block of rankings, in numbers."""


@dataclass(frozen=True)
class Members:
    """Which responses belong to each choice.

    Args:
        choice: `(members,)` int32, rising.
        response: `(members,)` int32.
        shape: numbers of choices and of responses.
    """

    choice: Tensor
    response: Tensor
    shape: tuple[int, int]

    @cached_property
    def matrix(self) -> Tensor:
        """`(choices, responses)` of ones, in compressed rows."""
        return _in_rows(self.choice, self.response, self._ones, self.shape)

    @cached_property
    def back(self) -> Tensor:
        """Its transpose."""
        order = torch.argsort(self.response, stable=True)
        return _in_rows(self.response, self.choice[order], self._ones, self.shape[::-1])

    @cached_property
    def _ones(self) -> Tensor:
        return torch.ones(len(self.choice), dtype=torch.float64, device=self.choice.device)

    def between(self, start: int, stop: int) -> Members:
        """Those of some choices in a row."""
        first, last = torch.searchsorted(self.choice, self.choice.new_tensor([start, stop])).tolist()
        return Members(
            self.choice[first:last] - start, self.response[first:last].clone(), (stop - start, self.shape[1])
        )

    def every(self, step: int) -> Members:
        """Those of every `step`-th choice."""
        kept = self.choice % step == 0
        choices, responses = self.shape
        return Members(self.choice[kept] // step, self.response[kept], (-(-choices // step), responses))


@dataclass(frozen=True)
class ChoiceSets:
    """The distinct choices in some judgments, and which judgment made which.

    Args:
        tied: the responses of each block T; a single one unless there are ties.
        others: the responses of each set A.
        places: `(choices,)` float64, d.
        further: `(choices, places)` sparse: which choice has the places after its first; `None` without ties.
        of_further: `(places,)` the choice of each of them.
        share: `(places, 1)` float64, their a_j.
        judgment: `(made,)` the judgment of every choice that was made.
        choice: `(made,)` its number.
    """

    tied: Members
    others: Members
    places: Tensor
    further: Tensor | None
    of_further: Tensor
    share: Tensor
    judgment: Tensor
    choice: Tensor

    def __len__(self) -> int:
        return len(self.places)

    def between(self, start: int, stop: int) -> ChoiceSets:
        """Some choices in a row, without who made them."""
        kept = (self.of_further >= start) & (self.of_further < stop)
        return self._some(
            self.tied.between(start, stop), self.others.between(start, stop), self.places[start:stop].clone(),
            self.of_further[kept] - start, self.share[kept],
        )  # fmt: skip

    def every(self, step: int) -> ChoiceSets:
        """Every `step`-th choice, from the first, without who made it."""
        kept = self.of_further % step == 0
        return self._some(
            self.tied.every(step), self.others.every(step), self.places[::step], self.of_further[kept] // step,
            self.share[kept],
        )  # fmt: skip

    def _some(self, tied: Members, others: Members, places: Tensor, of_further: Tensor, share: Tensor) -> ChoiceSets:
        nobody = self.judgment[:0]
        further = _places_of(of_further, len(places))
        return ChoiceSets(tied, others, places, further, of_further, share, nobody, nobody)

    @property
    def members(self) -> int:
        """Responses in all distinct choices together."""
        return len(self.tied.response) + len(self.others.response)


def choice_sets(
    responses: Tensor, ranks: Tensor, number: int, *, ties: str = "efron", top: int | None = None
) -> ChoiceSets:
    """Split rankings into choices. A single response left alone is no choice and is left out.

    Args:
        responses: `(judgments, shown)` integer ids; any value where none is shown.
        ranks, ties, top: as in `pluralign.choice.plackett_luce.log_likelihood`; `ties` is `efron` or `breslow`.
        number: of responses; ids are below it.

    Raises:
        ValueError: shapes do not fit, or `ties` or `top` is out of range.

    Examples:
        >>> made = choice_sets(torch.tensor([[0, 1, 2], [0, 1, 2]]), torch.tensor([[1, 2, 3], [1, 1, 2]]), 3)
        >>> made.places.tolist(), made.judgment.tolist()
        ([1.0, 2.0, 1.0], [0, 0, 1])
    """
    if ties not in ("efron", "breslow"):
        raise ValueError(f"ties: found {ties!r}, expected efron or breslow")
    if responses.shape != ranks.shape or ranks.ndim != 2:
        raise ValueError(f"expected (judgments, shown) twice, found {tuple(responses.shape)}, {tuple(ranks.shape)}")
    if top is not None and top < 1:
        raise ValueError(f"top: found {top}, expected 1 or more")
    shown = responses.masked_fill(ranks <= NOT_SHOWN, 0)
    place = torch.cat([competition_places(ranks[block], top) for block in _blocks(*ranks.shape)])
    parts = [_made(place[block]) for block in _blocks(*ranks.shape)]
    judgment = torch.cat([part + block.start for (part, _), block in zip(parts, _blocks(*ranks.shape), strict=True)])
    level = torch.cat([own for _, own in parts])
    keys = torch.cat(
        [
            _keys(shown[judgment[rows]], place[judgment[rows]], level[rows])
            for rows in _blocks(len(level), ranks.shape[1])
        ]
    )
    first, choice = _distinct(keys)
    lists = [
        _listed(shown[judgment[first[rows]]], place[judgment[first[rows]]], level[first[rows]], rows.start)
        for rows in _blocks(len(first), ranks.shape[1])
    ]
    tied, others = (torch.cat([both[kind] for both in lists], 1).int() for kind in (0, 1))
    shape = (len(first), number)
    places = torch.bincount(tied[0], minlength=len(first))
    of_further = torch.repeat_interleave(torch.arange(len(first), device=ranks.device), (places - 1).clamp(min=0))
    starts = (places - 1).clamp(min=0).cumsum(0)
    number_of = (
        torch.arange(len(of_further), device=ranks.device) - (starts - (places - 1).clamp(min=0))[of_further] + 1
    )
    share = torch.ones(len(of_further), 1, dtype=torch.float64, device=ranks.device)
    if ties == "efron":
        share = 1 - (number_of.double() / places[of_further].double()).unsqueeze(1)
    return ChoiceSets(
        tied=Members(tied[0], tied[1], shape),
        others=Members(others[0], others[1], shape),
        places=places.double(),
        further=_places_of(of_further, len(first)),
        of_further=of_further,
        share=share,
        judgment=judgment,
        choice=choice,
    )


def compressed(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """A sparse matrix in compressed rows; entries in the same place add up when it is multiplied."""
    order = torch.argsort(rows, stable=True)
    return _in_rows(rows, columns[order], values[order], shape)


def _in_rows(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """A sparse matrix from its columns and values, sorted by their rows; short indices halve its size."""
    starts = torch.cat((rows.new_zeros(1).long(), torch.bincount(rows, minlength=shape[0]).cumsum(0)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(starts.int(), columns.int(), values, shape, check_invariants=False)


def _places_of(of_further: Tensor, choices: int) -> Tensor | None:
    """The sparse matrix `(choices, places)` of which choice has which further place; `None` without any."""
    if not len(of_further):
        return None
    columns = torch.arange(len(of_further), device=of_further.device)
    ones = torch.ones(len(of_further), dtype=torch.float64, device=of_further.device)
    return compressed(of_further, columns, ones, (choices, len(of_further)))


def _blocks(rows: int, width: int) -> Iterator[slice]:
    """Slices of rows, of at most `CELLS` pairs of columns."""
    size = max(1, CELLS // max(1, width) ** 2)
    for start in range(0, max(1, rows), size):  # without rows, one empty block
        yield slice(start, min(start + size, rows))


def _made(place: Tensor) -> tuple[Tensor, Tensor]:
    """Judgment and place of every block of ties that leaves or contains an alternative."""
    rising, order = place.sort(dim=1, stable=True)
    first = torch.ones_like(rising, dtype=torch.bool)
    first[:, 1:] = rising[:, 1:] != rising[:, :-1]
    behind = torch.arange(place.shape[1], 0, -1, device=place.device)  # itself and the later places
    left = behind + (place == NOT_RANKED).sum(1, keepdim=True)
    made = torch.zeros_like(first).scatter_(1, order, first & (rising > 0) & (left > 1))
    judgment, column = made.nonzero(as_tuple=True)
    return judgment, place[judgment, column]


def _kinds(place: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """Which columns belong to the block, and which are left after it."""
    own = level.unsqueeze(1)
    return place == own, (place > own) | (place == NOT_RANKED)


def _keys(shown: Tensor, place: Tensor, level: Tensor) -> Tensor:
    """Two hashes of each choice that do not depend on the order of its columns: `(choices, 2)`."""
    tied, others = _kinds(place, level)
    found = []
    for seed in (1, 2):
        mixed = _mixed(shown + 1, seed)
        found.append((tied * mixed).sum(1) + (others * _mixed(mixed, seed)).sum(1))
    return torch.stack(found, 1)


def _mixed(values: Tensor, seed: int) -> Tensor:
    """Well-spread 64-bit numbers, one to one (splitmix64; integers wrap)."""
    values = values + seed * 3935559000370003845
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        values = (values ^ ((values >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return values ^ ((values >> 31) & ((1 << 33) - 1))


def _distinct(keys: Tensor) -> tuple[Tensor, Tensor]:
    """The first place of each distinct row, and the number of each row among these."""
    values, number = torch.unique(keys[:, 0], return_inverse=True)
    first = _first(number, len(values))
    if not bool((keys[:, 1][first][number] == keys[:, 1]).all()):  # two choices share the first hash
        values, number = torch.unique(keys, dim=0, return_inverse=True)
        first = _first(number, len(values))
    return first, number


def _first(number: Tensor, distinct: int) -> Tensor:
    places = torch.arange(len(number), device=number.device)
    return places.new_full((distinct,), len(number)).scatter_reduce_(0, number, places, "amin")


def _listed(shown: Tensor, place: Tensor, level: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """Choice and response of every member of T, and of A: each `(2, members)`."""
    lists = []
    for kind in _kinds(place, level):
        choice, column = kind.nonzero(as_tuple=True)
        lists.append(torch.stack((choice + start, shown[choice, column])))
    return lists[0], lists[1]

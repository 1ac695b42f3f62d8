"""Annotators' choices in padded blocks, with the log-likelihood of each annotator's own coefficients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pluralign.choice.latent_class.choice_sets import ChoiceSets, choice_sets
from pluralign.choice.latent_class.panel import Panel

CELLS = 2**23
"""Numbers that the feature differences of one block of annotators may take."""

MOST_PADDING = 2
"""A block may have this many times as many places as choices, and"""

UNPADDED = 4096
"""this many places more, before it is split."""


@dataclass(frozen=True)
class Block:
    """Annotators of similar size with their choices (`choice_sets`), padded.

    n annotators, e choices of each, a responses and d places in a choice, q random and f shared coefficients.

    Args:
        annotator: `(n,)`.
        column: `(n, q)` the random coefficient behind each local one; -1 is padding.
        random: `(n, e * a, q)` features of the responses in the random coefficients, less those of the choice's first.
        fixed: `(n, e * a, f)` the same in the coefficients that all annotators share.
        tied: `(n, e, a)` 1 for the responses of the block T, else 0.
        others: `(n, e, a)` 1 for those of the set A; a place that is in neither is padding.
        share: `(n, e, d)` a_j.
        live: `(n, e, d)` 1 for a place, 0 for padding.
        times: `(n, e)` how often the choice was made, weighted by reliability.
    """

    annotator: Tensor
    column: Tensor
    random: Tensor
    fixed: Tensor
    tied: Tensor
    others: Tensor
    share: Tensor
    live: Tensor
    times: Tensor

    def log_likelihood(self, theta: Tensor, shared: Tensor) -> tuple[Tensor, Sums]:
        """`(..., n)` in nats under `(..., n, q)` coefficients, and what its derivatives need."""
        utility = (self.random @ theta.unsqueeze(-1)).squeeze(-1) + self.fixed @ shared
        utility = utility.view(*theta.shape[:-1], *self.tied.shape[1:])
        known = self.tied + self.others > 0
        top = utility.masked_fill(~known, -torch.inf).amax(-1, keepdim=True)
        inside = (utility - top).exp() * known
        taken, left = (inside * self.tied).sum(-1, keepdim=True), (inside * self.others).sum(-1, keepdim=True)
        total = left + self.share * taken
        chosen = ((utility - top) * self.tied).sum(-1) - (self.live * total.log()).sum(-1)
        return (self.times * chosen).sum(-1), Sums(inside, total)

    def gradient(self, sums: Sums, rows: Tensor) -> Tensor:
        """Of the log-likelihood in the coefficients of `rows`: `(n, columns)`."""
        residual = self.times.unsqueeze(-1) * self.tied - self._mass(sums)
        return (residual.flatten(1).unsqueeze(1) @ rows).squeeze(1)

    def curvature(self, sums: Sums, left: Tensor, right: Tensor) -> Tensor:
        """Minus the second derivative between two sets of coefficients: `(n, left columns, right columns)`."""
        n, e, a = sums.inside.shape
        inverse = self.times.unsqueeze(-1) * self.live / sums.total.square()
        both, one, two = ((self.share**power * inverse).sum(-1, keepdim=True) for power in range(3))
        (tied_left, others_left), (tied_right, others_right) = (
            [
                ((sums.inside * part).unsqueeze(2) @ rows.view(n, e, a, -1)).squeeze(2)
                for part in (self.tied, self.others)
            ]
            for rows in (left, right)
        )
        inner = others_left.transpose(1, 2) @ (both * others_right + one * tied_right)
        inner = inner + tied_left.transpose(1, 2) @ (one * others_right + two * tied_right)
        return (left * self._mass(sums).reshape(n, e * a, 1)).transpose(1, 2) @ right - inner

    def _mass(self, sums: Sums) -> Tensor:
        """Expected number of times that each response is taken: `(n, e, a)`."""
        inverse = self.times.unsqueeze(-1) * self.live / sums.total
        per_other, per_tied = inverse.sum(-1, keepdim=True), (self.share * inverse).sum(-1, keepdim=True)
        return sums.inside * (self.tied * per_tied + self.others * per_other)


class Sums(NamedTuple):
    """exp(u) of the responses, relative to the largest of each choice, `(..., n, e, a)`; D_j `(..., n, e, d)`."""

    inside: Tensor
    total: Tensor


def blocks_of(panel: Panel, columns: np.ndarray, *, ties: str = "efron", top: int | None = None) -> list[Block]:
    """A panel's choices annotator by annotator, in padded blocks.

    Args:
        panel: the judgments.
        columns: the random coefficients; without features, the responses whose worth is random.
        ties: `efron` or `breslow`.
        top: only the first `top` places count.
    """
    responses, ranks = torch.as_tensor(panel.response_ids), torch.as_tensor(panel.rank_values)
    sets = choice_sets(responses, ranks, panel.response_count, ties=ties, top=top)
    made = _padded(sets, ties)
    reliability = np.ones(panel.judgments) if panel.reliability is None else np.asarray(panel.reliability)
    judgment = sets.judgment.numpy()
    keys = panel.annotator_ids[judgment] * max(1, len(sets)) + sets.choice.numpy()
    pairs, place = np.unique(keys, return_inverse=True)
    times = np.bincount(place, reliability[judgment], minlength=len(pairs))
    pairs, times = pairs[times > 0], times[times > 0]
    person, choice = pairs // max(1, len(sets)), pairs % max(1, len(sets))
    who, start, count = np.unique(person, return_index=True, return_counts=True)
    alternatives = made.response.shape[1]
    worths = panel.features is None
    number = np.full(panel.response_count, -1)
    number[columns] = np.arange(len(columns)) if worths else -1
    order = np.argsort(count, kind="stable")
    blocks: list[Block] = []
    at = 0
    while at < len(order):
        wide, entries = 1, int(count[order[at]])
        real = entries
        while at + wide < len(order):
            entries = int(count[order[at + wide]])
            real += entries
            width = min(len(columns), entries * alternatives) if worths else len(columns)
            padded = (wide + 1) * entries
            if padded * alternatives * max(1, width) > CELLS or padded > MOST_PADDING * real + UNPADDED:
                break
            wide += 1
        members = order[at : at + wide]
        entry = start[members][:, None] + np.arange(count[members].max())
        there = np.arange(entry.shape[1]) < count[members][:, None]
        entry = np.where(there, entry, 0)
        own_times = np.where(there, times[entry], 0.0)
        blocks.append(_block(panel, made, columns, number, who[members], choice[entry], own_times))
        at += wide
    return blocks


class _Padded(NamedTuple):
    """All distinct choices: responses `(choices, a)`, T first, -1 is padding; numbers in T and in both `(choices,)`;
    a_j `(choices, d)`, 0 is padding."""

    response: Tensor
    tied: Tensor
    known: Tensor
    share: Tensor


def _padded(sets: ChoiceSets, ties: str) -> _Padded:
    tied, left = (torch.bincount(part.choice, minlength=len(sets)) for part in (sets.tied, sets.others))
    response = torch.full((len(sets), max(2, int((tied + left).max()) if len(sets) else 2)), -1)
    for part, start in ((sets.tied, torch.zeros_like(tied)), (sets.others, tied)):
        number = torch.bincount(part.choice, minlength=len(sets))
        within = torch.arange(len(part.choice)) - (number.cumsum(0) - number)[part.choice]
        response[part.choice, start[part.choice] + within] = part.response.long()
    place = torch.arange(max(1, int(tied.max()) if len(sets) else 1)).double()
    share = (
        1 - place / tied.unsqueeze(1).clamp(min=1) if ties == "efron" else torch.ones(len(sets), len(place)).double()
    )
    return _Padded(response, tied, tied + left, torch.where(place < tied.unsqueeze(1), share, 0.0))


def _block(
    panel: Panel,
    made: _Padded,
    columns: np.ndarray,
    number: np.ndarray,
    annotator: np.ndarray,
    choice: np.ndarray,
    times: np.ndarray,
) -> Block:
    """The block of some annotators from their choices and how often they made them, `(n, e)`; 0 times is padding."""
    weight, chosen = torch.as_tensor(times), torch.as_tensor(choice)
    ids, place = made.response[chosen], torch.arange(made.response.shape[1])
    tied = (place < made.tied[chosen].unsqueeze(-1)).double()
    others = (place < made.known[chosen].unsqueeze(-1)).double() - tied
    share = made.share[chosen]
    live, share = (share > 0).double(), torch.where(share > 0, share, 1.0)
    n, e, a = ids.shape

    def differences(rows: Tensor) -> Tensor:
        return torch.where((ids >= 0).unsqueeze(-1), rows - rows[..., :1, :], 0.0).view(n, e * a, rows.shape[-1])

    who = torch.as_tensor(annotator)
    if panel.features is not None:
        features = torch.as_tensor(np.asarray(panel.features))
        shared_columns = np.setdiff1d(np.arange(features.shape[1]), columns)
        column = torch.arange(len(columns)).expand(n, -1)
        random, fixed = differences(features[:, columns][ids]), differences(features[:, shared_columns][ids])
        return Block(who, column, random, fixed, tied, others, share, live, weight)
    # Worths: the random coefficients of an annotator are the responses that they saw.
    table = torch.as_tensor(number)[ids]
    table = torch.where((ids >= 0) & (weight > 0).unsqueeze(-1), table, -1)
    seen = [torch.unique(row[row >= 0]) for row in table.flatten(1)]
    width = max(len(row) for row in seen)
    column = torch.full((n, width), -1)
    for row, own in enumerate(seen):
        column[row, : len(own)] = own
    ordered = torch.where(column < 0, torch.iinfo(torch.int64).max, column)
    own_worths = torch.zeros(n, e, a, width, dtype=torch.float64)
    if width:
        position = torch.searchsorted(ordered, table.flatten(1)).view(table.shape).clamp(max=width - 1)
        own_worths.scatter_(3, position.unsqueeze(-1), (table >= 0).double().unsqueeze(-1))
    shared_responses = np.setdiff1d(np.arange(panel.response_count), columns)
    shared = torch.eye(panel.response_count, dtype=torch.float64)[:, shared_responses]
    return Block(who, column, differences(own_worths), differences(shared[ids]), tied, others, share, live, weight)

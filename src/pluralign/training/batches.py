"""Judgments in batches: each unique response of a batch is read once, the judgments point at its value."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from pluralign.choice.plackett_luce import NOT_SHOWN
from pluralign.scoring.items import Items
from pluralign.scoring.tokens import TokenizedItems
from pluralign.scoring.trees import Layout, blocks_of, lay_out


class JudgmentIndices(Dataset[int]):
    """The numbers of the judgments, which a sampler orders and a batch holds."""

    def __init__(self, judgments: int) -> None:
        self.judgments = judgments

    def __len__(self) -> int:
        return self.judgments

    def __getitem__(self, index: int) -> int:
        return index


class EpochSampler(Sampler[int]):
    """A sampler, perhaps of other samplers, whose order depends on the epoch."""

    epoch = 0
    samplers: Sequence[Any] = ()

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose order comes next."""
        self.epoch = epoch
        for sampler in self.samplers:
            sampler.set_epoch(epoch)


PADDING = -1
"""The entry of an order that stands for no judgment."""


class PaddedSampler(EpochSampler):
    """The order of another sampler, padded until every process has the same number of whole batches.

    Without it the last batches would be filled with judgments from the beginning, which would count twice.

    Args:
        sampler: the order to pad.
        multiple: judgments of a batch, over all processes.

    Examples:
        >>> list(PaddedSampler([4, 2, 0], 4))
        [4, 2, 0, -1]
    """

    def __init__(self, sampler: Any, multiple: int) -> None:
        self.sampler = sampler
        self.multiple = multiple
        self.samplers = [sampler] if isinstance(sampler, EpochSampler) else []

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.multiple) * self.multiple

    def __iter__(self) -> Iterator[int]:
        yield from self.sampler
        yield from [PADDING] * (len(self) - len(self.sampler))


@dataclass(frozen=True)
class PaddedCollator:
    """A collator of batches that may hold `PADDING`, for which nothing is read."""

    collator: Callable[[list[int]], dict[str, Any]]

    def __call__(self, batch: list[int]) -> dict[str, Any]:
        """The collator's batch of the judgments; a batch of padding alone is the first judgment with weight 0."""
        chosen = [entry for entry in batch if entry != PADDING]
        laid_out = self.collator(chosen or [0])
        # Processes call the model equally often, so one without a judgment calls it too.
        return laid_out if chosen else laid_out | {"weight": torch.zeros_like(laid_out["weight"])}


class JudgmentSampler(EpochSampler):
    """A random order in which judgments that share responses form groups.

    Within an item, responses get random places, and judgments are sorted by the Z-order (Morton 1966) of the places
    of their responses. Neighbours then share responses at every scale, and identical sets stand together: g judgments
    in a row on an item with all pairs judged show about sqrt(g) responses. The order is cut into groups from a random
    start, and the groups of all items are shuffled. Every judgment comes once per epoch.

    Args:
        items: the judgments.
        group: the most judgments in a group; 1 is a plain shuffle.
        seed: seed of the order, one number or several; every epoch has its own order.
        members: the judgments to order; `None` is all.
    """

    def __init__(
        self, items: Items, group: int, seed: int | tuple[int, ...], members: np.ndarray | None = None
    ) -> None:
        self.items = items
        self.group = group
        self.seed = seed if isinstance(seed, tuple) else (seed,)
        chosen = np.arange(items.judgments) if members is None else members
        prompt = items.prompt[chosen]
        order = np.argsort(prompt, kind="stable")
        self._members = len(chosen)
        self._of_item = np.split(chosen[order], np.flatnonzero(np.diff(prompt[order])) + 1)

    def __len__(self) -> int:
        return self._members

    def __iter__(self) -> Iterator[int]:
        draw = np.random.default_rng((*self.seed, self.epoch))
        groups: list[np.ndarray] = []
        for members in self._of_item:
            if len(members) == 1 or self.group == 1:
                groups.extend(members[:, None])
                continue
            members = self._sorted(draw.permutation(members), draw)
            start = int(draw.integers(self.group))
            cuts = np.split(members, range(start, len(members), self.group))
            groups.extend(cut for cut in cuts if len(cut))
        for index in draw.permutation(len(groups)):
            yield from groups[index].tolist()

    def _sorted(self, members: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """The judgments of one item, sorted by the Z-order of random places of their responses."""
        shown = [self.items.response[self.items.shown(judgment)] for judgment in members]
        first = min(int(responses.min()) for responses in shown)
        places = draw.permutation(1 + max(int(responses.max()) for responses in shown) - first)
        bits = len(places).bit_length()
        keys = [_z_order(np.sort(places[responses - first]).tolist(), bits) for responses in shown]
        return members[sorted(range(len(members)), key=keys.__getitem__)]


def _z_order(places: list[int], bits: int) -> tuple[int, int]:
    """The number of places, and their bits interleaved from the highest down."""
    key = 0
    for bit in range(bits - 1, -1, -1):
        for place in places:
            key = key << 1 | place >> bit & 1
    return len(places), key


def judgment_arrays(items: Items, batch: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The responses and ranks of some judgments: `(judgments, most responses)` each, padded with `NOT_SHOWN`."""
    width = max(items.offsets[judgment + 1] - items.offsets[judgment] for judgment in batch)
    responses = np.zeros((len(batch), width), dtype=np.int64)
    ranks = np.full((len(batch), width), NOT_SHOWN, dtype=np.int64)
    for row, judgment in enumerate(batch):
        shown = items.shown(judgment)
        responses[row, : shown.stop - shown.start] = items.response[shown]
        ranks[row, : shown.stop - shown.start] = items.ranks[shown]
    return responses, ranks


@dataclass(frozen=True)
class JudgmentCollator:
    """Lays out the unique responses of a batch of judgments in blocks, with each judgment's places in them.

    Args:
        items: the judgments.
        tokens: the token ids of their texts.
        layout: how texts become rows.
        sources: `(judgments,)` number of each judgment's source.
        opposite: from responses and ranks of a batch, `(judgments, responses)` each, the share of votes against
            each pair, `(judgments, pairs)`; `None` takes judgments as they are.
        columns: further numbers of each judgment, name to `(judgments,)`.
    """

    items: Items
    tokens: TokenizedItems
    layout: Layout
    sources: np.ndarray
    opposite: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __call__(self, batch: list[int]) -> dict[str, Any]:
        """`blocks`; `response` (responses,) in the order of the blocks; and by judgment `index`, `ranks`
        (judgments, responses), `judgment`, `weight`, `source` (judgments,) and `opposite` (judgments, pairs); and the
        columns."""
        responses, ranks = judgment_arrays(self.items, batch)
        unique = np.unique(responses[ranks != NOT_SHOWN])
        blocks = [lay_out(self.tokens, rows, self.layout) for rows in blocks_of(self.tokens, unique, self.layout)]
        order = torch.cat([block["response"] for block in blocks])
        place = np.zeros(int(unique[-1]) + 1, dtype=np.int64)
        place[order.numpy()] = np.arange(len(order))
        inputs: dict[str, Any] = {
            "blocks": blocks,
            "response": order,
            "index": torch.from_numpy(place[np.where(ranks != NOT_SHOWN, responses, unique[0])]),
            "ranks": torch.from_numpy(ranks),
            "judgment": torch.tensor(batch),
            "weight": torch.from_numpy(self.items.weight[batch]).float(),
            "source": torch.from_numpy(self.sources[batch]),
        }
        if self.opposite is not None:
            inputs["opposite"] = torch.from_numpy(self.opposite(responses, ranks)).float()
        return inputs | {name: torch.from_numpy(column[batch]) for name, column in self.columns.items()}

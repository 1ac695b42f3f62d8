"""Judgments of several sources in an order in which every step holds some of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from pluralign.core.errors import PluralignError
from pluralign.scoring.items import Items
from pluralign.training.batches import JudgmentCollator, JudgmentSampler


class BalancedSampler(Sampler[int]):
    """The same number of judgments of every source in turn, so that any K in a row are one of each.

    Every source goes through its own judgments again and again, each time in a new order: a source with fewer than
    an epoch draws comes several times, one with more goes on in the next epoch. Nothing but the seed and the epoch
    decides the order.

    Args:
        items: the judgments.
        members: of each source, its judgments.
        draws: judgments of each source in an epoch.
        group: the most judgments on one prompt of a source that stand together.
        seed: of all orders.
    """

    def __init__(
        self, items: Items, members: Sequence[np.ndarray], draws: int, group: int, seed: tuple[int, ...]
    ) -> None:
        self.samplers = [JudgmentSampler(items, group, (*seed, source), own) for source, own in enumerate(members)]
        self.draws = draws
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.draws * len(self.samplers)

    def __iter__(self) -> Iterator[int]:
        streams = [self._stream(sampler, self.epoch * self.draws) for sampler in self.samplers]
        for _ in range(self.draws):
            for stream in streams:
                yield next(stream)

    @staticmethod
    def _stream(sampler: JudgmentSampler, start: int) -> Iterator[int]:
        """A source's judgments from its `start`-th draw on, without end."""
        past, skipped = divmod(start, len(sampler))
        while True:
            sampler.set_epoch(past)
            order = list(sampler)
            yield from order[skipped:]
            past, skipped = past + 1, 0


class ProportionalSampler(Sampler[int]):
    """Every judgment once, each source spread evenly over the epoch: steps hold sources by their sizes.

    Args:
        items: the judgments.
        members: of each source, its judgments.
        group: the most judgments on one prompt of a source that stand together.
        seed: of all orders.
    """

    def __init__(self, items: Items, members: Sequence[np.ndarray], group: int, seed: tuple[int, ...]) -> None:
        self.samplers = [JudgmentSampler(items, group, (*seed, source), own) for source, own in enumerate(members)]
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The epoch whose order comes next."""
        self.epoch = epoch
        for sampler in self.samplers:
            sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return sum(len(sampler) for sampler in self.samplers)

    def __iter__(self) -> Iterator[int]:
        draw = np.random.default_rng((*self.seed, self.epoch))
        places = [(np.arange(len(own)) + draw.random()) / len(own) for own in self.samplers]
        order = np.concatenate([np.array(list(own)) for own in self.samplers])
        yield from order[np.argsort(np.concatenate(places), kind="stable")].tolist()


def members_of(sources: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
    """The judgments of each source, by the number of each judgment's source.

    Raises:
        PluralignError: a judgment has no source (a number past the last).

    Examples:
        >>> [own.tolist() for own in members_of(np.array([0, 1, 0]), ["a", "b"])]
        [[0, 2], [1]]
    """
    without = int((sources >= len(names)).sum())
    if without:
        raise PluralignError(
            f"source: {without} of {len(sources)} judgments have none: fill the column `source`, or give one file "
            "(in Python: one entry of a dict) for each source"
        )
    return [np.flatnonzero(sources == number) for number in range(len(names))]


@dataclass(frozen=True)
class SourceCollator:
    """A batch as `JudgmentCollator` lays it out, with how much of each judgment belongs to each source.

    Args:
        collator: of the judgments.
        row: `(judgments,)` each judgment's row of `shares`.
        shares: `(rows, sources)`, float32; rows sum to 1.
    """

    collator: JudgmentCollator
    row: np.ndarray
    shares: torch.Tensor

    def __call__(self, batch: list[int]) -> dict[str, Any]:
        """What the collator gives, and `membership` `(judgments, sources)`."""
        return self.collator(batch) | {"membership": self.shares[torch.from_numpy(self.row[batch])]}

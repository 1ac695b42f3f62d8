"""The order of judgments of several sources, with some of each source in every step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pluralign.core.errors import PluralignError
from pluralign.scoring.items import Items
from pluralign.training.batches import EpochSampler, JudgmentCollator, JudgmentSampler


class BalancedSampler(EpochSampler):
    """The sources in turn, so that any K judgments in a row are one of each source.

    Each source runs through its own judgments again and again, each time in a new order: a small source repeats
    within an epoch, a large one continues in the next. The order depends on the seed and the epoch alone.

    Args:
        items: the judgments.
        members: the judgments of each source.
        draws: judgments of each source per epoch.
        group: the most judgments on one prompt of a source that stand together.
        seed: seed of all orders.
    """

    def __init__(
        self, items: Items, members: Sequence[np.ndarray], draws: int, group: int, seed: tuple[int, ...]
    ) -> None:
        self.samplers = [JudgmentSampler(items, group, (*seed, source), own) for source, own in enumerate(members)]
        self.draws = draws

    def __len__(self) -> int:
        return self.draws * len(self.samplers)

    def __iter__(self) -> Iterator[int]:
        streams = [self._stream(sampler, self.epoch * self.draws) for sampler in self.samplers]
        for _ in range(self.draws):
            for stream in streams:
                yield next(stream)

    @staticmethod
    def _stream(sampler: JudgmentSampler, start: int) -> Iterator[int]:
        """The judgments of a source from its `start`-th draw on, without end."""
        past, skipped = divmod(start, len(sampler))
        while True:
            sampler.set_epoch(past)
            order = list(sampler)
            yield from order[skipped:]
            past, skipped = past + 1, 0


class ProportionalSampler(EpochSampler):
    """Every judgment once, with each source spread evenly over the epoch, so that steps hold sources by size.

    Arguments as in `BalancedSampler`.
    """

    def __init__(self, items: Items, members: Sequence[np.ndarray], group: int, seed: tuple[int, ...]) -> None:
        self.samplers = [JudgmentSampler(items, group, (*seed, source), own) for source, own in enumerate(members)]
        self.seed = seed

    def __len__(self) -> int:
        return sum(len(sampler) for sampler in self.samplers)

    def __iter__(self) -> Iterator[int]:
        draw = np.random.default_rng((*self.seed, self.epoch))
        places = [(np.arange(len(own)) + draw.random()) / len(own) for own in self.samplers]
        order = np.concatenate([np.array(list(own)) for own in self.samplers])
        yield from order[np.argsort(np.concatenate(places), kind="stable")].tolist()


def members_of(sources: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
    """The judgments of each source, from the number of each judgment's source.

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
    """A batch as `JudgmentCollator` lays it out, with the share of each judgment that belongs to each source.

    `row` `(judgments,)` is each judgment's row of `shares` `(rows, sources)`, float32; rows sum to 1.
    """

    collator: JudgmentCollator
    row: np.ndarray
    shares: torch.Tensor

    def __call__(self, batch: list[int]) -> dict[str, Any]:
        """The collator's batch with `membership` `(judgments, sources)`."""
        return self.collator(batch) | {"membership": self.shares[torch.from_numpy(self.row[batch])]}

"""Judgments in batches: each unique response of a batch is one row, the judgments point at rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pluralign.choice.plackett_luce import NOT_SHOWN
from pluralign.scoring.items import Items
from pluralign.scoring.reward_models import pad_rows
from pluralign.scoring.tokens import TokenizedItems


class JudgmentIndices(Dataset[int]):
    """The numbers of the judgments: what a sampler shuffles and a batch holds."""

    def __init__(self, judgments: int) -> None:
        self.judgments = judgments

    def __len__(self) -> int:
        return self.judgments

    def __getitem__(self, index: int) -> int:
        return index


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
class FlatCollator:
    """Lays a batch of judgments out flat: one padded row per unique response in it.

    Args:
        items: the judgments.
        tokens: their texts' ids.
        pad_token_id: fills the rows.
    """

    items: Items
    tokens: TokenizedItems
    pad_token_id: int

    def __call__(self, batch: list[int]) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask` (rows, tokens); `index`, `ranks` (judgments, responses); `weight`."""
        responses, ranks = judgment_arrays(self.items, batch)
        unique = np.unique(responses[ranks != NOT_SHOWN])
        index = np.searchsorted(unique, np.where(ranks != NOT_SHOWN, responses, unique[0]))
        rows = pad_rows([self.tokens.sequence(response) for response in unique], self.pad_token_id)
        return {
            **rows,
            "index": torch.from_numpy(index),
            "ranks": torch.from_numpy(ranks),
            "weight": torch.from_numpy(self.items.weight[batch]).float(),
        }

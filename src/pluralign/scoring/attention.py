"""The attention mask of prompt trees, for SDPA, eager attention and FlexAttention, with sliding windows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def sees(branch: Tensor, position: Tensor | None = None, window: int | None = None) -> Tensor:
    """Which earlier tokens each token attends to: `(rows, tokens)` branches to `(rows, 1, tokens, tokens)`, bool.

    Token i attends to token j if j does not come after i and j is in the prompt (branch 0) or in i's own branch; with
    a window, only if it is fewer than `window` positions `(rows, tokens)` before i. Padding (-1) attends to itself, so
    that no row of the mask is empty.
    """
    earlier = torch.ones(branch.shape[1], branch.shape[1], dtype=torch.bool, device=branch.device).tril()
    own = branch.unsqueeze(1) == branch.unsqueeze(2)
    seen = earlier & (own | (branch == 0).unsqueeze(1))
    if window is not None and position is not None:
        seen = seen & (position.unsqueeze(2) - position.unsqueeze(1) < window)
    return seen.unsqueeze(1)


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask as numbers to add to attention scores: 0 where it is true, the lowest number elsewhere."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


def block_mask(branch: Tensor, position: Tensor | None = None, window: int | None = None) -> Any:
    """The mask as a `BlockMask` for FlexAttention, which skips fully masked blocks."""
    from torch.nn.attention.flex_attention import create_block_mask

    def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own = branch[row, key] == branch[row, query]
        seen = (query >= key) & (own | (branch[row, key] == 0))
        if window is not None and position is not None:
            seen = seen & (position[row, query] - position[row, key] < window)
        return seen

    rows, width = branch.shape
    return create_block_mask(visible, rows, None, width, width, device=str(branch.device))

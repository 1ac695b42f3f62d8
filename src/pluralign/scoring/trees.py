"""Prompt trees: a row holds a prompt once and its responses as branches, so that cost follows unique tokens.

Position ids restart at the prompt's end in every branch, and a branch attends to the prompt and itself, so that each
response is read as if it were alone after its prompt. The flat layout has one branch per row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pluralign.scoring.tokens import TokenizedItems

Reads = Literal["tokens", "last", "pooled"]
Mask = Literal["bool", "additive", "blocks"]

SLIDING = "sliding_attention"
"""The name that transformers gives to layers whose attention has a window."""

MAX_TOKENS_PER_ROW = 4096
FLEX_BLOCK = 128
"""FlexAttention computes whole blocks of so many tokens; rows of whole blocks have few different lengths, for each of
which it would be compiled."""

BLOCK_TOKENS = {"cpu": 48.0, "cuda": 1024.0}
"""Cost of one more model call, in tokens, by device type."""


@dataclass(frozen=True)
class Layout:
    """How responses are laid out in rows and blocks (batches of rows of similar length) for one model.

    Args:
        reads: what is read from the model: `tokens` the states that predict the response's tokens, `last` the state of
            its last token, `pooled` the model's own pooled state (one response per row).
        pad_token_id: pads rows.
        tree: whether a row may hold several responses.
        max_tokens_per_row: maximum tokens of a tree; a single response may be longer.
        attention_tokens: row length at which attention costs as much as all else; infinite if it skips masked blocks.
        block_tokens: cost of one more model call, in tokens.
        mask: form of the attention mask: `bool` (SDPA), `additive` (eager), `blocks` (FlexAttention).
        window: tokens that layers with sliding attention attend to, where trees keep to it.
        layer_kinds: the kinds of attention of a model's layers, if each kind takes a mask of its own.
        full_logits: let the model compute logits at every position, for heads that are more than one linear layer.
    """

    reads: Reads
    pad_token_id: int
    tree: bool = False
    max_tokens_per_row: int = MAX_TOKENS_PER_ROW
    attention_tokens: float = math.inf
    block_tokens: float = 48.0
    mask: Mask = "bool"
    window: int | None = None
    layer_kinds: tuple[str, ...] = ()
    full_logits: bool = False

    def row_lengths(self, tokens: TokenizedItems, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """`(rows,)` tokens in each row."""
        prompts = [len(tokens.prompt_ids[tokens.item[row[0]]]) for row in rows]
        responses = [sum(len(tokens.response_ids[response]) for response in row) for row in rows]
        # With `tokens`, the last token of each response predicts nothing and is not read.
        unread = [len(row) if self.reads == "tokens" else 0 for row in rows]
        return np.array(prompts) + np.array(responses) - np.array(unread)


def plan_rows(tokens: TokenizedItems, responses: np.ndarray, layout: Layout) -> list[list[int]]:
    """Which sorted `responses` share a row: those of one item, as many as reduce the cost.

    With a prompt of P tokens, and attention that costs as much as everything else at a row length of A, the cost per
    response token of a tree is minimal when its responses have `sqrt(P (A + P))` tokens together. An item gets the
    cheaper of the two whole numbers of rows around that. Its responses are assigned in order of length, so that the
    branches of a row have similar lengths.
    """
    if not layout.tree:
        return [[int(response)] for response in responses]
    rows: list[list[int]] = []
    for members in np.split(responses, np.flatnonzero(np.diff(tokens.item[responses])) + 1):
        prompt = len(tokens.prompt_ids[tokens.item[members[0]]])
        lengths = np.array([len(tokens.response_ids[response]) for response in members])
        rows.extend(_deal(members, lengths, prompt, layout))
    return rows


def _deal(members: np.ndarray, lengths: np.ndarray, prompt: int, layout: Layout) -> list[list[int]]:
    """The rows of one item with a prompt of `prompt` tokens."""
    total, attention = int(lengths.sum()), layout.attention_tokens
    count = 1
    if math.isfinite(attention):
        best = total / max(1.0, math.sqrt(prompt * (attention + prompt)))

        def cost(rows: int) -> float:
            length = prompt + total / rows
            return rows * length * (1 + length / attention)

        candidates = {min(len(members), max(1, whole)) for whole in (math.floor(best), math.ceil(best))}
        count = min(sorted(candidates), key=cost)
    target = max(total / count, 1)
    rows: list[list[int]] = []
    filled = 0
    for index in np.argsort(-lengths, kind="stable"):
        length = int(lengths[index])
        if not rows or prompt + filled + length > layout.max_tokens_per_row or filled + length / 2 > target:
            rows.append([])
            filled = 0
        rows[-1].append(int(members[index]))
        filled += length
    return rows


def plan_blocks(lengths: np.ndarray, block_tokens: float, max_tokens: float = math.inf) -> list[np.ndarray]:
    """Split rows, sorted by length, into blocks that minimise the cost of padding and of model calls together.

    Exact by dynamic programming: a block of rows costs `block_tokens + rows * longest` and has at most `max_tokens`
    padded tokens, unless a single row has more. Returns the indices of the rows of each block, longest first.
    """
    order = np.argsort(-lengths, kind="stable")
    if math.isinf(block_tokens) and math.isinf(max_tokens):
        return [order]
    longest = lengths[order]
    least = np.zeros(len(order) + 1)
    start_of = np.zeros(len(order) + 1, dtype=np.int64)
    for end in range(1, len(order) + 1):
        # A block that ends here has rows at least as long as its last one, which bounds how many fit.
        fits = max_tokens / max(int(longest[end - 1]), 1)
        first = 0 if math.isinf(fits) else max(0, end - max(1, int(fits)))
        starts = np.arange(first, end)
        padded = (end - starts) * longest[first:end]
        costs = least[first:end] + block_tokens + padded
        costs[(padded > max_tokens) & (starts < end - 1)] = math.inf
        start_of[end] = first + int(np.argmin(costs))
        least[end] = costs[start_of[end] - first]
    cuts = [len(order)]
    while cuts[-1]:
        cuts.append(int(start_of[cuts[-1]]))
    return [order[low:high] for low, high in pairwise(reversed(cuts))]


def lay_out(tokens: TokenizedItems, rows: Sequence[Sequence[int]], layout: Layout) -> dict[str, Tensor]:
    """A block of rows as tensors, padded on the right.

    Returns:
        `input_ids` and `branch` (0 prompt, 1 ... branches, -1 padding), each `(rows, tokens)`; `position_ids`
        `(rows, tokens)`, if a row has several branches; `response` `(responses,)`, the responses row by row; and where
        to read, as indices into the flattened `(rows * tokens)`: `last` `(responses,)`, or `sources` `(predicted,)`
        with their `targets` (token ids) and `owner` (index into `response`). The last token of a prompt predicts the
        first token of its responses, which is left out if the prompt is empty.
    """
    width = max(1, int(layout.row_lengths(tokens, rows).max()))
    shared = any(len(row) > 1 for row in rows)
    if shared and layout.mask == "blocks":
        width = -(-width // FLEX_BLOCK) * FLEX_BLOCK
    ids = np.full((len(rows), width), layout.pad_token_id, dtype=np.int64)
    branch = np.full((len(rows), width), -1, dtype=np.int64)
    position = np.zeros((len(rows), width), dtype=np.int64)
    last: list[int] = []
    sources: list[np.ndarray] = []
    targets: list[list[int]] = []
    for number, row in enumerate(rows):
        prompt = tokens.prompt_ids[tokens.item[row[0]]]
        start = len(prompt)
        ids[number, :start], branch[number, :start], position[number, :start] = prompt, 0, np.arange(start)
        at = start
        for twig, response in enumerate(row, start=1):
            text = tokens.response_ids[response]
            read = text[:-1] if layout.reads == "tokens" else text
            end = at + len(read)
            ids[number, at:end], branch[number, at:end] = read, twig
            position[number, at:end] = start + np.arange(end - at)
            before = [start - 1] if start else []
            predicted = text[1 - len(before) :]
            sources.append(number * width + np.array([*before, *range(at, end)], dtype=np.int64)[: len(predicted)])
            targets.append(predicted)
            last.append(number * width + max(end - 1, 0))
            at = end
    block = {"input_ids": torch.from_numpy(ids), "branch": torch.from_numpy(branch)}
    block["response"] = torch.tensor([response for row in rows for response in row])
    if shared:
        block["position_ids"] = torch.from_numpy(position)
    if layout.reads == "tokens":
        counts = torch.tensor([len(text) for text in targets])
        block["sources"] = torch.from_numpy(np.concatenate(sources))
        block["targets"] = torch.tensor([token for text in targets for token in text], dtype=torch.long)
        block["owner"] = torch.repeat_interleave(torch.arange(len(counts)), counts)
    else:
        block["last"] = torch.tensor(last)
    return block


def blocks_of(
    tokens: TokenizedItems, responses: np.ndarray, layout: Layout, max_tokens: float = math.inf
) -> list[list[list[int]]]:
    """The blocks, each a list of rows, in which sorted `responses` are read; none without responses."""
    if not len(responses):  # one of several processes may have none
        return []
    rows = plan_rows(tokens, responses, layout)
    planned = plan_blocks(layout.row_lengths(tokens, rows), layout.block_tokens, max_tokens)
    return [[rows[index] for index in block] for block in planned]

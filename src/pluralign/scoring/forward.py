"""A model's output for each response, one number or one logit per label, from one pass over blocks of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pluralign.choice.preference_matching import Penalty, charged_tokens
from pluralign.core.errors import PluralignError
from pluralign.core.progress import track
from pluralign.scoring.attention import additive, block_mask, sees
from pluralign.scoring.tokens import TokenizedItems
from pluralign.scoring.trees import SLIDING, Layout, blocks_of, lay_out

MAX_TOKENS_PER_BATCH = 16384

Reader = Callable[[nn.Module, dict[str, Tensor], Layout], Tensor]
"""Function of a model, a block and its layout that returns one row per response of the block, `(responses, ...)`."""


def seen_by(block: dict[str, Tensor], layout: Layout) -> dict[str, Any]:
    """The attention mask and position ids of a block, in the form that the model's attention takes."""
    branch = block["branch"]
    if "position_ids" not in block:  # one response per row: the model makes its own mask, which is faster
        return {"attention_mask": (branch >= 0).long()}
    position = block["position_ids"]
    window = layout.window if layout.window is not None and branch.shape[1] > layout.window else None
    if window is None or not layout.layer_kinds:
        return {"attention_mask": _mask(branch, position, window, layout), "position_ids": position}
    masks = {kind: _mask(branch, position, window if kind == SLIDING else None, layout) for kind in layout.layer_kinds}
    return {"attention_mask": masks, "position_ids": position}


def _mask(branch: Tensor, position: Tensor, window: int | None, layout: Layout) -> Any:
    """The mask of a tree in the form of a layout."""
    if layout.mask == "blocks":
        return block_mask(branch, position, window)
    mask = sees(branch, position, window)
    return additive(mask, torch.float32) if layout.mask == "additive" else mask


def block_token_log_probs(model: nn.Module, block: dict[str, Tensor], layout: Layout, **options: Any) -> Tensor:
    """`(predicted,)` log-probability of each predicted token of a block, in nats; options of `with_log_probs`."""
    output = model(
        input_ids=block["input_ids"],
        **seen_by(block, layout),
        sources=block["sources"],
        targets=block["targets"],
        full_logits=layout.full_logits,
        **options,
    )
    return output.logits


def block_values(model: nn.Module, block: dict[str, Tensor], layout: Layout) -> Tensor:
    """`(responses,)` log-probabilities or rewards of a block; `(responses, outputs)` logits if a model has several."""
    if layout.reads == "tokens":
        return response_sums(block_token_log_probs(model, block, layout), block)
    return block_states(model, block, layout)[0]


def block_charges(
    model: nn.Module, block: dict[str, Tensor], layout: Layout, penalty: Penalty, ends: Sequence[int]
) -> Tensor:
    """`(responses,)` what a penalty charges of each response, in nats; `ends` are the ids of end tokens.

    If it charges all, these are `block_values`.
    """
    shares = None
    if penalty.mode == "flattened" and not penalty.charges_all:
        pairs = block_token_log_probs(model, block, layout, flatten=(penalty.alpha, ends))
        log_probs, shares = pairs.unbind(-1)
    else:
        log_probs = block_token_log_probs(model, block, layout)
    return response_sums(charged_tokens(log_probs, block["owner"], len(block["response"]), penalty, shares), block)


def response_sums(log_probs: Tensor, block: dict[str, Tensor]) -> Tensor:
    """Sums over the predicted tokens of each response of a block: `(predicted,)` to `(responses,)`."""
    sums = torch.zeros(len(block["response"]), dtype=log_probs.dtype, device=log_probs.device)
    return sums.index_add(0, block["owner"], log_probs)


def block_states(model: nn.Module, block: dict[str, Tensor], layout: Layout) -> tuple[Tensor, Any]:
    """`block_values` of a reward model, and the pooled states `(responses, d)` that its head reads."""
    inputs = {"input_ids": block["input_ids"], **seen_by(block, layout)}
    if layout.reads == "last":
        inputs["last"] = block["last"]
    output = model(**inputs)
    logits = output.logits.float()
    return logits[:, 0] if logits.shape[1] == 1 else logits, output.hidden_states


def score_tokens(
    model: Any,
    tokens: TokenizedItems,
    layout: Layout,
    responses: np.ndarray | None = None,
    max_tokens: int = MAX_TOKENS_PER_BATCH,
    read: Reader = block_values,
    most: Callable[[int], int] | None = None,
) -> np.ndarray:
    """Values of responses, each computed once, without gradient.

    Args:
        model: a reward model or a causal model of `pluralign.scoring`.
        tokens: the texts.
        layout: from `choose_layout`.
        responses: sorted subset of responses; `None` is all.
        max_tokens: maximum padded tokens of one batch (a single row may be longer).
        read: computes the values of a block.
        most: from this process's number of blocks, the largest of all processes'. A process with fewer repeats a
            response, because processes that share sharded weights must call the model together.

    Returns:
        `(all responses,)`, or `(all responses, outputs)` for a model with several outputs; float64, 0 outside the
        subset.

    Raises:
        PluralignError: a value is not finite.
    """
    outputs = 1 if layout.reads == "tokens" else model.config.num_labels
    values = np.zeros((len(tokens.response_ids), outputs) if outputs > 1 else len(tokens.response_ids))
    chosen = np.arange(len(values)) if responses is None else responses
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    blocks = blocks_of(tokens, chosen, layout, max_tokens)
    repeated = 0 if most is None else most(len(blocks)) - len(blocks)
    with torch.no_grad():
        for rows in track(blocks, "Scoring"):
            block = {name: value.to(device) for name, value in lay_out(tokens, rows, layout).items()}
            values[block["response"].cpu().numpy()] = read(model, block, layout).double().cpu().numpy()
        for _ in range(repeated):
            read(model, {name: value.to(device) for name, value in lay_out(tokens, [[0]], layout).items()}, layout)
    model.train(training)
    broken = ~np.isfinite(values).reshape(len(values), -1).all(1)
    if broken.any():
        raise PluralignError(
            f"the model gives values that are not finite to {int(broken.sum())} of {len(chosen)} responses: its "
            "weights are broken, or too large for the precision that it is loaded in"
        )
    return values

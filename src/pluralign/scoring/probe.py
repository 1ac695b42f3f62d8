"""Check on a few texts that a loaded model reads prompt trees correctly, and choose the layout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import peft
import torch
from torch import Tensor, nn
from transformers.utils import logging

from pluralign.core.errors import PluralignError, one_line
from pluralign.scoring.forward import block_token_log_probs, block_values
from pluralign.scoring.tokens import TokenizedItems
from pluralign.scoring.trees import BLOCK_TOKENS, SLIDING, Layout, Mask, Reads, lay_out, plan_rows

logger = logging.get_logger(__name__)

LayoutName = Literal["auto", "tree", "flat"]

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
"""Maximum root mean square difference, in nats per token, or relative to the rewards' root mean square."""
HALF_TOLERANCE = 0.1
"""The same for shorter formats."""


def plain_model(model: Any) -> Any:
    """The model inside an adapter."""
    return model.get_base_model() if isinstance(model, peft.PeftModel) else model


def choose_layout(
    model: Any, tokens: TokenizedItems, reads: Reads, pad_token_id: int, name: LayoutName, max_tokens_per_row: int
) -> Layout:
    """The layout for some texts: trees if the model computes the same values with them as without.

    The model reads a few items (including the longest) as trees and flat. Models with recurrent state, or another use
    of the mask, give different values; they stay flat, and the reason is logged. Sliding windows, in all layers or in
    some, are part of the mask of a tree; where a model does not take it so, trees serve texts within the window. On a
    GPU, FlexAttention is tried first if the architecture supports it. `name` is `auto`, `flat` for one response per
    row, or `tree` for an error if trees are not possible; the other arguments are those of `Layout`.

    Raises:
        PluralignError: `tree` is requested and the model computes other values with trees.
    """
    device = next(model.parameters()).device.type
    block_tokens = BLOCK_TOKENS.get(device, BLOCK_TOKENS["cuda"])
    flat = Layout(reads, pad_token_id, max_tokens_per_row=max_tokens_per_row, block_tokens=block_tokens)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            if reads == "tokens":
                flat = replace(flat, full_logits=not _linear_head(model, tokens, flat))
            return flat if name == "flat" else _tree_or(flat, model, tokens, name, device)
    finally:
        model.train(training)


def _tree_or(flat: Layout, model: Any, tokens: TokenizedItems, name: str, device: str) -> Layout:
    reason = "it pools by itself or is a bidirectional encoder"
    if flat.reads != "pooled":
        plain = plain_model(model)
        tree = replace(flat, tree=True, attention_tokens=_attention_tokens(plain))
        for attempt in _attempts(plain, tree, device):
            reason = _difference(model, tokens, flat, attempt)
            if not reason:
                return attempt
            if attempt.mask == "blocks":
                logger.info(f"FlexAttention is not used: {reason}")
            elif attempt.window is not None:
                logger.info(f"the sliding window cannot be part of the mask: {reason}")
    if name == "tree":
        raise PluralignError(f"layout: this model cannot read prompt trees: {reason}; use auto or flat")
    logger.warning(f"layout: flat, one response per row, because this model cannot read prompt trees: {reason}")
    return flat


def _attempts(plain: Any, tree: Layout, device: str) -> Iterator[Layout]:
    """Attention implementations to try; the model keeps the last one."""
    used = plain.config._attn_implementation
    windowed = _with_windows(plain, tree)
    if device == "cuda" and plain._supports_flex_attn:
        plain.set_attn_implementation("flex_attention")
        yield replace(windowed, mask="blocks", attention_tokens=float("inf"))
        plain.set_attn_implementation(used)
    dense: Mask = "additive" if used == "eager" else "bool"
    yield replace(windowed, mask=dense)
    if windowed != tree:
        yield replace(tree, mask=dense)


def _with_windows(plain: Any, tree: Layout) -> Layout:
    """The layout with the sliding window of the model, if all its layers have a window or none."""
    config = plain.config.get_text_config()
    window, kinds = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    if window is None or (kinds and SLIDING not in kinds) or set(kinds or ()) - {SLIDING, "full_attention"}:
        return tree
    return replace(tree, window=int(window), layer_kinds=tuple(sorted(set(kinds or ()))))


def _attention_tokens(plain: Any) -> float:
    """Row length at which attention over the whole row costs as much as all linear layers of the backbone.

    A token costs 2 floating-point operations per weight, and 4 T d per layer in attention over T tokens.
    """
    backbone, config = plain.base_model, plain.config.get_text_config()
    embeddings = sum(module.weight.numel() for module in backbone.modules() if isinstance(module, nn.Embedding))
    weights = sum(weight.numel() for weight in backbone.parameters()) - embeddings
    return max(1.0, weights / (2 * config.num_hidden_layers * config.hidden_size))


def _tolerance(model: nn.Module) -> float:
    weight = next(model.parameters())
    # A model that accelerate prepared for mixed precision reads in it wherever it is called.
    autocast = torch.is_autocast_enabled(weight.device.type) or hasattr(model, "_original_forward")
    return HALF_TOLERANCE if autocast else TOLERANCE.get(weight.dtype, HALF_TOLERANCE)


def _probe_items(tokens: TokenizedItems) -> list[np.ndarray]:
    """The responses of a few items with several: those with the longest sequence, the largest, median and smallest."""
    counts = np.bincount(tokens.item, minlength=len(tokens.prompt_ids))
    several = np.flatnonzero(counts > 1)
    if not len(several):
        return []
    sizes = np.bincount(tokens.item, [len(ids) for ids in tokens.response_ids], len(tokens.prompt_ids))
    longest = tokens.item[np.argmax(np.where(counts[tokens.item] > 1, tokens.lengths(), -1))]
    ranked = several[np.argsort(sizes[several], kind="stable")]
    chosen = dict.fromkeys(int(item) for item in (longest, ranked[-1], ranked[len(ranked) // 2], ranked[0]))
    return [np.flatnonzero(tokens.item == item) for item in chosen]


def _read(model: Any, tokens: TokenizedItems, rows: list[list[int]], layout: Layout) -> Tensor:
    """Values of the responses of one block, per token or per response, in the order of the responses."""
    device = next(model.parameters()).device
    block = {name: value.to(device) for name, value in lay_out(tokens, rows, layout).items()}
    by_token = layout.reads == "tokens"
    values = (block_token_log_probs if by_token else block_values)(model, block, layout)
    owner = block["response"][block["owner"]] if by_token else block["response"]
    return values[torch.sort(owner, stable=True).indices].double()


def _difference(model: Any, tokens: TokenizedItems, flat: Layout, tree: Layout) -> str:
    """Why trees cannot be used; empty if they can."""
    tolerance = _tolerance(model)
    for responses in _probe_items(tokens):
        # The row with the most responses, so that branches far from their prompt are compared too.
        row = max(plan_rows(tokens, responses, tree), key=len)
        row = row if len(row) > 1 else responses[:2].tolist()
        try:
            as_tree = _read(model, tokens, [row], tree)
        except Exception as fault:
            return f"the attention mask is rejected ({type(fault).__name__}: {one_line(str(fault))})"
        alone = torch.cat([_read(model, tokens, [[response]], flat) for response in sorted(row)])
        gap = (as_tree - alone).square().mean().sqrt().item()
        unit = 1.0 if flat.reads == "tokens" else max(alone.square().mean().sqrt().item(), 1e-12)
        if not gap <= tolerance * unit:
            return f"values differ by {gap / unit:.2g} (root mean square), more than {tolerance:g}"
    return ""


def _linear_head(model: Any, tokens: TokenizedItems, flat: Layout) -> bool:
    """Whether the logits are the output embeddings alone (no soft cap, no scale after them)."""
    head = plain_model(model).get_output_embeddings()
    if head is None:
        return False
    shortest = [[int(np.argmin(tokens.lengths()))]]
    for context in (nullcontext(), _large_logits(head)):
        with context:
            ours, whole = (_read(model, tokens, shortest, replace(flat, full_logits=full)) for full in (False, True))
        if not (ours - whole).square().mean().sqrt() <= _tolerance(model):
            return False
    return True


@contextmanager
def _large_logits(head: nn.Module) -> Iterator[None]:
    """Within a context, the head gives from -1000 to 1000 for any text: no cap or scale is lost in rounding."""

    def large(module: nn.Module, states: Any, logits: Tensor) -> Tensor:
        return torch.linspace(-1000, 1000, logits.shape[-1]).to(logits).repeat(*logits.shape[:-1], 1)

    hook = head.register_forward_hook(large)
    try:
        yield
    finally:
        hook.remove()

"""An encoder whose lower layers stay as they are gives each text the same states for ever: read once, kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

KEPT: dict[tuple[int, bytes], Tensor] = {}
"""States by number of layers and token ids, for all models of this process: they start from one encoder."""


class RememberedStates(nn.Module):
    """Stands where a BERT's embeddings were; gives the states above them and the lower layers.

    Args:
        embeddings: the encoder's own.
        layers: the lower layers.
    """

    def __init__(self, embeddings: Any, layers: Any) -> None:
        super().__init__()
        self.word_embeddings = embeddings.word_embeddings  # what the trainer looks for
        # In a tuple, so that they are neither trained nor counted nor cast.
        self.below = (embeddings.eval(), [layer.eval() for layer in layers])

    def forward(self, input_ids: Tensor, **ignored: Any) -> Tensor:
        """`(rows, tokens)` ids, padded on the right with 0, to states `(rows, tokens, d)`."""
        lengths = (input_ids != 0).sum(1).tolist()
        rows = [self.states(row[:length]) for row, length in zip(input_ids, lengths, strict=True)]
        return nn.utils.rnn.pad_sequence([row.float() for row in rows], batch_first=True).to(input_ids.device)

    @torch.no_grad()
    def states(self, ids: Tensor) -> Tensor:
        """`(tokens, d)` in half precision."""
        embeddings, layers = self.below
        key = (len(layers), ids.numpy().tobytes())
        if key not in KEPT:
            with torch.autocast("cpu", enabled=False):
                states = embeddings(input_ids=ids[None])
                for layer in layers:
                    found = layer(states)
                    states = found[0] if isinstance(found, tuple) else found
            KEPT[key] = states[0].half()
        return KEPT[key]


def remember_lower_layers(model: Any, layers: int) -> None:
    """Freeze the embeddings and so many layers of a reward model on BERT, and keep what they say of each text."""
    bert = model.bert
    for part in (bert.embeddings, *bert.encoder.layer[:layers]):
        part.requires_grad_(False)
    bert.embeddings = RememberedStates(bert.embeddings, bert.encoder.layer[:layers])
    bert.encoder.layer = bert.encoder.layer[layers:]

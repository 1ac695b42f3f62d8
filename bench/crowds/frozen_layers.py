"""The states above an encoder's frozen lower layers: they never change, so they are computed once per text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..common.training import freeze_lower_layers

CACHE: dict[tuple[int, bytes], Tensor] = {}
"""States by number of layers and token ids, for all models of this process; all start from the same encoder."""


class RememberedStates(nn.Module):
    """Replaces a BERT's embeddings; returns the states above them and above the frozen layers.

    Args:
        embeddings: those of the encoder.
        layers: the frozen layers.
    """

    def __init__(self, embeddings: Any, layers: Any) -> None:
        super().__init__()
        self.word_embeddings = embeddings.word_embeddings  # what the trainer looks for
        # In a tuple, not as submodules, so that they are neither trained nor counted nor cast.
        self.below = (embeddings.eval(), [layer.eval() for layer in layers])

    def forward(self, input_ids: Tensor, **ignored: Any) -> Tensor:
        """States `(rows, tokens, d)` of ids `(rows, tokens)` padded on the right with 0."""
        lengths = (input_ids != 0).sum(1).tolist()
        rows = [self.states(row[:length]) for row, length in zip(input_ids, lengths, strict=True)]
        return nn.utils.rnn.pad_sequence([row.float() for row in rows], batch_first=True).to(input_ids.device)

    @torch.no_grad()
    def states(self, ids: Tensor) -> Tensor:
        """The states `(tokens, d)` of one text in half precision."""
        embeddings, layers = self.below
        key = (len(layers), ids.numpy().tobytes())
        if key not in CACHE:
            with torch.autocast("cpu", enabled=False):
                states = embeddings(input_ids=ids[None])
                for layer in layers:
                    output = layer(states)
                    states = output[0] if isinstance(output, tuple) else output
            CACHE[key] = states[0].half()
        return CACHE[key]


def remember_lower_layers(model: Any, layers: int) -> None:
    """Freeze the embeddings and lower layers of a reward model on BERT and cache their states of each text."""
    freeze_lower_layers(model, layers)
    bert = model.bert
    bert.embeddings = RememberedStates(bert.embeddings, bert.encoder.layer[:layers])
    bert.encoder.layer = bert.encoder.layer[layers:]

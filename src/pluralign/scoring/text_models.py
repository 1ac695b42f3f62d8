"""The shared base of reward models and policies: a model, its tokenizer and limits, one value per response."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from pluralign.scoring.adapters import sort_adapter_config, without_card
from pluralign.scoring.forward import MAX_TOKENS_PER_BATCH, score_tokens
from pluralign.scoring.items import Items
from pluralign.scoring.library_output import quiet_libraries
from pluralign.scoring.loading import is_encoder, save_config
from pluralign.scoring.probe import LayoutName, choose_layout
from pluralign.scoring.tokens import TokenizedItems, TokenLimits, check_embedded, lost_texts, tokenize
from pluralign.scoring.trees import MAX_TOKENS_PER_ROW, Layout, Reads

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class TextModel:
    """A model that computes one value per response.

    Args:
        model: the transformer, or an adapter on it.
        tokenizer: pads on the right.
        limits: maximum tokens of prompts and responses.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    limits: TokenLimits
    _proven: dict[tuple[str, int], tuple[int, Layout]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def reads(self) -> Reads:
        """What is read from the model's output."""
        raise NotImplementedError

    def tokenize(self, items: Items, name: str = "texts") -> TokenizedItems:
        """Token ids as this model reads them; warns of texts, called `name`, that are cut, alike or empty as tokens.

        Raises:
            PluralignError: the tokenizer gives a token that the model has no embedding for.
        """
        encoder = is_encoder(self.model.config)
        tokens = tokenize(items, self.tokenizer, self.limits, encoder, policy=self.reads == "tokens")
        check_embedded(name, chain(tokens.prompt_ids, tokens.response_ids), self.model, self.tokenizer)
        if tokens.cut_prompts or tokens.cut_responses:
            logger.warning(
                f"{name}: {tokens.cut_prompts} of {len(items.prompts)} prompts were cut on the left and "
                f"{tokens.cut_responses} of {len(items.responses)} responses on the right, to "
                f"{self.limits.max_length} tokens (responses to {self.limits.response}): "
                "raise max_length or max_response_length to keep them whole"
            )
        for line in lost_texts(items, tokens, self.tokenizer):
            logger.warning(f"{name}: {line}")
        return tokens

    def layout(
        self, tokens: TokenizedItems, name: LayoutName = "auto", max_tokens_per_row: int = MAX_TOKENS_PER_ROW
    ) -> Layout:
        """The layout for some texts, from `choose_layout`; reused for texts that are not longer."""
        prompts = np.array([len(ids) for ids in tokens.prompt_ids])
        responses = np.bincount(tokens.item, [len(ids) for ids in tokens.response_ids], len(prompts))
        longest = int((prompts + responses).max())
        before, layout = self._proven.get((name, max_tokens_per_row), (0, None))
        if layout is None or (layout.tree and longest > before):
            pad = self.tokenizer.pad_token_id or 0  # padding is masked by position, any token will do
            layout = choose_layout(self.model, tokens, self.reads, pad, name, max_tokens_per_row)
            self._proven[name, max_tokens_per_row] = (longest, layout)
        return layout

    def values(
        self, tokens: TokenizedItems, layout: LayoutName | Layout = "auto", max_tokens: int = MAX_TOKENS_PER_BATCH
    ) -> np.ndarray:
        """Value of every unique response, each computed once: `(responses,)`, float64.

        `layout` is `auto`, `tree`, `flat`, or a chosen layout. A batch has at most `max_tokens` padded tokens, unless a
        single row has more.
        """
        chosen = layout if isinstance(layout, Layout) else self.layout(tokens, layout)
        return score_tokens(self.model, tokens, chosen, max_tokens=max_tokens)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write weights (safetensors), config and tokenizer."""
        with quiet_libraries(), without_card(folder):
            self.model.save_pretrained(folder)
        if not isinstance(self.model, PreTrainedModel):  # an adapter: keep the settings beside it
            save_config(self.model.config, folder)
            sort_adapter_config(folder)
        self.tokenizer.save_pretrained(folder)

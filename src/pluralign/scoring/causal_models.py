"""Causal language models that compute the log-probabilities of responses, with logits only where they are needed."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.modeling_outputs import CausalLMOutput

from pluralign.choice.preference_matching import Penalty
from pluralign.core.errors import PluralignError
from pluralign.scoring.forward import block_charges, score_tokens
from pluralign.scoring.heads import token_log_probs, token_shares
from pluralign.scoring.items import Items
from pluralign.scoring.loading import (
    SETTINGS,
    adapter_base,
    end_ids,
    is_adapter,
    is_encoder,
    limits_of,
    load_parts,
    read_chat_template,
    train_end_token,
    weight_errors,
)
from pluralign.scoring.probe import plain_model
from pluralign.scoring.text_models import TextModel
from pluralign.scoring.tokens import TokenizedItems, turn_end
from pluralign.scoring.trees import Reads


class _WithLogProbs:
    """Mix-in for a causal model: given `sources` and `targets`, it returns their log-probabilities."""


def with_log_probs(model: Any) -> Any:
    """Let a causal model, or an adapter on one, compute the log-probabilities of chosen tokens; modified in place.

    `model(..., sources=(predicted,), targets=(predicted,))` returns in `logits` the `(predicted,)` log-probabilities of
    the targets under the states at the sources (indices into the flattened `(rows * tokens)`), and computes logits
    only there; with `full_logits=True` the model computes its own logits everywhere. With `flatten=(alpha, ends)` it
    returns `(predicted, 2)`, as in `token_shares`, without gradient. Other calls are unchanged.

    Raises:
        PluralignError: its `forward` was replaced by another library.
    """
    plain = plain_model(model)
    if isinstance(plain, _WithLogProbs):
        return model
    if "forward" in vars(plain):
        fault = "another library has replaced its forward (TRL's trainers do)"
        raise PluralignError(f"model: {fault}: save it and load it again")
    kind = type(plain)

    @functools.wraps(kind.forward)
    def forward(
        self: Any,
        *args: Any,
        sources: Tensor | None = None,
        targets: Tensor | None = None,
        full_logits: bool = False,
        flatten: tuple[float, Sequence[int]] | None = None,
        **kwargs: Any,
    ) -> Any:
        if sources is None or targets is None:
            return kind.forward(self, *args, **kwargs)
        kwargs |= {"use_cache": False}
        kwargs.pop("labels", None)
        if full_logits:
            states = kind.forward(self, *args, **kwargs).logits.flatten(0, 1)
            # The readers overwrite the head's output, and these logits are a view that must not be overwritten.
            head, vocabulary = torch.clone, states.shape[-1]
        else:
            states = self.base_model(*args, **kwargs).last_hidden_state.flatten(0, 1)
            head, vocabulary = self.get_output_embeddings(), self.config.get_text_config().vocab_size
        if flatten is not None:
            return CausalLMOutput(logits=token_shares(head, states[sources], targets, vocabulary, *flatten))
        return CausalLMOutput(logits=token_log_probs(head, states[sources], targets, vocabulary))

    body = {"__module__": __name__, "forward": forward}
    plain.__class__ = type(kind.__name__, (_WithLogProbs, kind), body)
    return model


@dataclass(frozen=True)
class CausalModel(TextModel):
    """A causal language model with its tokenizer and token limits; the value of a response is log pi(y|x).

    log pi(y|x) is the sum of the log-probabilities of the response's tokens, its end token included, in nats.
    """

    @property
    def reads(self) -> Reads:
        """The states that predict the response's tokens."""
        return "tokens"

    @property
    def ends(self) -> tuple[int, ...]:
        """Ids of the tokens that end a response: the tokenizer's end token, those of the model's configs (a list in
        many chat models), and the one with which the chat template ends a turn."""
        plain = plain_model(self.model)
        declared = [*end_ids(plain.config.get_text_config()), *end_ids(plain.generation_config)]
        ends = dict.fromkeys([self.tokenizer.eos_token_id, *declared, turn_end(self.tokenizer)])
        return tuple(int(end) for end in ends if end is not None)

    def log_probs(self, items: Items, **options: Any) -> np.ndarray:
        """log pi(y|x) of every unique response: `(responses,)`, float64; options as in `TextModel.values`."""
        return self.values(self.tokenize(items), **options)

    def charges(self, tokens: TokenizedItems, penalty: Penalty) -> np.ndarray:
        """What a penalty charges when this model is the reference: `(responses,)`, in nats."""
        if penalty.charges_none:
            return np.zeros(len(tokens.item))
        read = functools.partial(block_charges, penalty=penalty, ends=self.ends)
        return score_tokens(self.model, tokens, self.layout(tokens), read=read)


def causal_model(
    model: Any, tokenizer: Any, max_length: int | None = None, max_response_length: int | None = None
) -> CausalModel:
    """A model in memory (or an adapter on one) with its tokenizer, ready to compute log-probabilities.

    Raises:
        PluralignError: it is not a causal language model, or cannot read `max_length` tokens.
    """
    config = model.config
    if is_encoder(config) or plain_model(model).get_output_embeddings() is None:
        raise PluralignError("model: expected a causal language model, found one without a language-model head")
    tokenizer.padding_side = "right"
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= model.get_input_embeddings().num_embeddings:
        # Padding is masked by position, so the end token can pad; a new token would change every probability.
        tokenizer.pad_token = tokenizer.eos_token
    train_end_token(model, tokenizer)
    limits = limits_of(config, tokenizer, max_length, max_response_length)
    stored = {"max_length": limits.max_length, "max_response_length": limits.response}
    setattr(config, SETTINGS, {**(getattr(config, SETTINGS, None) or {}), **stored})
    return CausalModel(with_log_probs(model), tokenizer, limits)


def load_causal_model(
    model_name_or_path: str | os.PathLike[str],
    *,
    max_length: int | None = None,
    max_response_length: int | None = None,
    chat_template_path: str | None = None,
    adapter_name: str = "default",
    revision: str = "main",
    trust_remote_code: bool = False,
    **model_kwargs: Any,
) -> CausalModel:
    """Load a causal language model from a folder or the hub; an adapter's folder loads the adapter on its base.

    Args:
        model_name_or_path: a folder or a hub id.
        max_length: tokens of prompt and response; default: as tuned, else the context, at most 1024.
        max_response_length: tokens of a response; default: three quarters of `max_length`.
        chat_template_path: a Jinja file, or a folder or hub id whose tokenizer has the template.
        adapter_name: the adapter's name in memory.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run code that comes with the model. Only for code you have read.
        model_kwargs: passed to `from_pretrained` (dtype, attn_implementation, quantization_config ...).

    Raises:
        PluralignError: no such model, not a causal one, or it cannot read `max_length` tokens.
    """
    hub = {"revision": revision, "trust_remote_code": trust_remote_code}
    folder, base = Path(model_name_or_path), str(model_name_or_path)
    adapter = is_adapter(folder)
    if adapter:
        base = adapter_base(folder)
    config, tokenizer = load_parts(model_name_or_path, hub)
    if chat_template_path is not None:
        tokenizer.chat_template = read_chat_template(chat_template_path, hub)
    if is_encoder(config):
        raise PluralignError(f"{model_name_or_path}: is a bidirectional encoder; a policy must be a causal model")
    model_kwargs = {"dtype": torch.float32, **model_kwargs}
    with weight_errors(base):
        model: Any = AutoModelForCausalLM.from_pretrained(base, config=config, **hub, **model_kwargs)
    if adapter:
        with weight_errors(folder):
            model = peft.PeftModel.from_pretrained(model, str(folder), adapter_name=adapter_name)
    return causal_model(model, tokenizer, max_length, max_response_length)

"""Configs, tokenizers and token limits of models, from a folder, the hub or memory."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.tokenization_utils_base import TOKENIZER_CONFIG_FILE
from transformers.utils import CONFIG_NAME

from pluralign.core.errors import PluralignError
from pluralign.core.files import write_json
from pluralign.core.model_names import check_model_name
from pluralign.core.records import read_json, read_text
from pluralign.scoring.library_output import quiet_libraries
from pluralign.scoring.tokens import TokenLimits, model_context, special_ids

SETTINGS = "pluralign"
"""The key of our settings (token limits, pooling) in a model's config."""

TIE_NU = "tie_nu"
"""Key of a model's settings with the parameters of its ties (`pluralign.choice.davidson`)."""

STRENGTHS = "strengths"
"""Key of a model's settings with its strengths of preference and the thresholds between them
(`pluralign.choice.ordered`)."""

ADAPTER_SETTINGS = "model_config.json"
"""The file beside an adapter with the config of base and adapter together. It is not called `config.json`, because
transformers expects the weights of a whole model beside that."""

DEFAULT_MAX_LENGTH = 1024


def load_parts(source: str | os.PathLike[str], hub: dict[str, Any]) -> tuple[Any, PreTrainedTokenizerBase]:
    """Config and tokenizer of a model, from a folder or the hub; the tokenizer pads on the right.

    What an adapter's folder does not hold is its base's.

    Raises:
        PluralignError: there is no such model.
    """
    check_model_name(source)
    folder = Path(source)
    base = adapter_base(folder) if is_adapter(folder) else source
    try:
        config = AutoConfig.from_pretrained(folder if (folder / CONFIG_NAME).exists() else base, **hub)
        if (folder / ADAPTER_SETTINGS).exists():
            config = type(config).from_dict(read_json(folder / ADAPTER_SETTINGS))
        own_tokenizer = base == source or (folder / TOKENIZER_CONFIG_FILE).exists()
        tokenizer = AutoTokenizer.from_pretrained(source if own_tokenizer else base, **hub)
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as fault:
        if folder.exists():
            raise PluralignError(f"{source}: no model can be loaded from this folder: {fault}") from fault
        reason = str(fault).partition("\n")[0]
        raise PluralignError(f"{source}: no such folder, and nothing of the hub can be loaded: {reason}") from fault
    tokenizer.padding_side = "right"
    return config, tokenizer


def save_config(config: Any, folder: str | os.PathLike[str]) -> None:
    """Write a model's config where `load_parts` finds it: beside an adapter as `ADAPTER_SETTINGS`."""
    if is_adapter(folder):
        write_json(Path(folder) / ADAPTER_SETTINGS, json.loads(config.to_json_string()))
    else:
        config.save_pretrained(folder)


@contextlib.contextmanager
def weight_errors(source: str | os.PathLike[str]) -> Iterator[None]:
    """Load weights without a bar, and turn what that raises (files gone, damaged or of another model) into one error
    that names `source`.
    """
    try:
        with quiet_libraries():
            yield
    except (PluralignError, torch.OutOfMemoryError):
        raise
    except (OSError, ValueError, RuntimeError, LookupError, SafetensorError) as fault:
        raise PluralignError(f"{source}: the weights of the model cannot be loaded: {fault}") from fault


def adapter_base(folder: str | os.PathLike[str]) -> str:
    """The base model of an adapter's folder: a folder or a hub id.

    Raises:
        PluralignError: its `adapter_config.json` is damaged.
    """
    try:
        base = peft.PeftConfig.from_pretrained(str(folder)).base_model_name_or_path
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as fault:
        raise PluralignError(f"{folder}: adapter_config.json cannot be read: {fault}") from fault
    if not isinstance(base, str):
        raise PluralignError(f"{folder}: adapter_config.json cannot be read: it names no base_model_name_or_path")
    return base


def is_adapter(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds an adapter."""
    return (Path(folder) / "adapter_config.json").exists()


def read_chat_template(source: str, hub: dict[str, Any]) -> str:
    """A chat template from a Jinja file, or from the tokenizer of a folder or hub id."""
    path = Path(source)
    if path.is_file():
        return read_text(path)
    template = load_parts(source, hub)[1].chat_template
    if not isinstance(template, str):
        raise PluralignError(f"chat_template_path: {source} has no chat template")
    return template


def set_pad_token(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give model and tokenizer a padding token other than the end token.

    `AutoModelForSequenceClassification` reads the last token that is not padding, which must be the end token. Another
    special token of the tokenizer pads if there is one, so that the embeddings keep their size and an adapter fits its
    base elsewhere; else `<|pad|>` is added.
    """
    embeddings = model.get_input_embeddings()
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        spare = _spare_token(model.config, tokenizer, embeddings.num_embeddings)
        if spare is None:
            tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
        else:
            tokenizer.pad_token = spare
    pad = tokenizer.pad_token_id
    if pad >= embeddings.num_embeddings:
        model.resize_token_embeddings(pad + 1)
    train_end_token(model, tokenizer)
    model.config.get_text_config().pad_token_id = pad


def end_ids(config: Any) -> list[int]:
    """The ids of end tokens that a model's config or generation config declares: none, one or a list."""
    ends = getattr(config, "eos_token_id", None)
    return [] if ends is None else list(ends) if isinstance(ends, list | tuple) else [ends]


def train_end_token(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let the embedding of the end token be trained where the model's config also pads with it.

    torch keeps gradients from the embedding of a padding token. Here padding is masked by position.
    """
    embeddings = model.get_input_embeddings()
    if isinstance(embeddings, nn.Embedding) and embeddings.padding_idx == tokenizer.eos_token_id:
        embeddings.padding_idx = None


_SPARE_NAMES = ("pad", "unk", "reserved", "unused")
"""Parts of the names of special tokens that texts do not hold, the best to pad with first."""


def _spare_token(config: Any, tokenizer: PreTrainedTokenizerBase, embeddings: int) -> str | None:
    """A special token of the tokenizer that never ends a text, to pad with."""
    used = {tokenizer.eos_token_id, *end_ids(config.get_text_config())}
    template = str(tokenizer.chat_template or "")
    names = {
        place: str(tokenizer.convert_ids_to_tokens(place))
        for place in special_ids(tokenizer) - used
        if place < embeddings
    }
    # The template may write its tokens last; the start token is only ever first.
    spare = {name: place for place, name in names.items() if name not in template or name == tokenizer.bos_token}

    def rank(name: str) -> tuple[bool, int, int]:
        kinds = [number for number, part in enumerate(_SPARE_NAMES) if part in name.lower()]
        if name == tokenizer.unk_token:
            kinds.append(_SPARE_NAMES.index("unk"))
        return name == tokenizer.bos_token, min(kinds, default=len(_SPARE_NAMES)), spare[name]

    return min(spare, key=rank, default=None)


def is_encoder(config: Any) -> bool:
    """Whether a model is a bidirectional encoder (BERT-like)."""
    kind = config.model_type
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return not getattr(config, "is_decoder", False)
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return False
    raise PluralignError(f"models of type '{kind}' are neither causal nor masked language models: choose another")


def limits_of(
    config: Any, tokenizer: Any, max_length: int | None = None, max_response_length: int | None = None
) -> TokenLimits:
    """The requested token limits; else those stored in the config; else the context, at most 1024 tokens.

    Raises:
        PluralignError: the model cannot read `max_length` tokens.
    """
    stored = getattr(config, SETTINGS, None) or {}
    context = model_context(config, tokenizer)
    longest = max_length or stored.get("max_length") or min(context, DEFAULT_MAX_LENGTH)
    if longest > context:
        raise PluralignError(f"max_length: {longest} is more than the {context} tokens the model can read: lower it")
    if max_response_length is None and max_length is None:
        max_response_length = stored.get("max_response_length")
    return TokenLimits(longest, max_response_length)


def on_device(model: Any, device: str | torch.device | None) -> Any:
    """The model in evaluation mode on a device; default: a GPU if there is one."""
    return model.eval().to(device or ("cuda" if torch.cuda.is_available() else "cpu"))

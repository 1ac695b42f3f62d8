"""Reward models: a transformer, a pooled state, and one linear layer without a bias.

r(x, y) = w . z(x, y), with z the state of the last token (causal models) or the mean state (encoders). The
pooling and the token limits are stored in the model's config, so that scoring can never differ from training.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
)

from pluralign.core.errors import PluralignError
from pluralign.core.progress import track
from pluralign.judgments.table import Judgments
from pluralign.scoring.items import Items, items_of
from pluralign.scoring.tokens import TokenizedItems, TokenLimits, batches_by_length, model_context, tokenize

SETTINGS = "pluralign"
"""The key of the model's config under which pooling and token limits stand."""

DEFAULT_MAX_LENGTH = 1024
MAX_TOKENS_PER_BATCH = 16384


def pool(states: Tensor, attention_mask: Tensor, pooling: str) -> Tensor:
    """One state per row: `(rows, tokens, d)` and `(rows, tokens)` to `(rows, d)`.

    Args:
        states: hidden states.
        attention_mask: 1 where a token is, 0 where padding is, on either side.
        pooling: `"last"` takes the state of the last token, `"mean"` the mean over tokens.

    Examples:
        >>> states = torch.tensor([[[1.0], [3.0], [9.0]]])
        >>> mask = torch.tensor([[1, 1, 0]])
        >>> pool(states, mask, "last").item(), pool(states, mask, "mean").item()
        (3.0, 2.0)
    """
    if pooling == "mean":
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        return (states * mask).sum(1) / mask.sum(1)
    positions = torch.arange(attention_mask.shape[1], device=states.device)
    last = (attention_mask * positions).argmax(1)
    return states[torch.arange(len(states), device=states.device), last]


class _Pooled:
    """Mixed into a transformer with a `score` layer: its output is the score of the pooled state."""

    def forward(
        self: Any, input_ids: Tensor, attention_mask: Tensor, labels: None = None, **inputs: Any
    ) -> SequenceClassifierOutput:
        backbone = getattr(self, self.base_model_prefix)
        states = backbone(input_ids=input_ids, attention_mask=attention_mask, **inputs).last_hidden_state
        return SequenceClassifierOutput(logits=self.score(pool(states, attention_mask, _pooling(self.config))))


class _EncoderHead(_Pooled):
    def __init__(self: Any, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        backbone = MODEL_MAPPING[type(config)]
        try:  # BERT's own pooling layer would be trained by nobody
            setattr(self, self.base_model_prefix, backbone(config, add_pooling_layer=False))
        except TypeError:
            setattr(self, self.base_model_prefix, backbone(config))
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.post_init()


def is_encoder(config: Any) -> bool:
    """Whether a model reads text in both directions (BERT and its kin)."""
    kind = config.model_type
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return not getattr(config, "is_decoder", False)
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return False
    raise PluralignError(f"models of type '{kind}' are neither causal nor masked language models: choose another")


def write_settings(config: Any, limits: TokenLimits) -> None:
    """Store pooling and token limits in a model's config."""
    pooling = "mean" if is_encoder(config) else "last"
    stored = {"pooling": pooling, "max_length": limits.max_length, "max_response_length": limits.response}
    setattr(config, SETTINGS, stored)


def _pooling(config: Any) -> str:
    return str(getattr(config, SETTINGS)["pooling"])


def reward_model_class(config: Any, new_head: bool = False) -> type[PreTrainedModel]:
    """The class of the reward model on a config's architecture; `new_head` where the checkpoint has none yet.

    Causal architectures keep the layout and the name of their sequence classifier, so that
    `AutoModelForSequenceClassification` loads what is saved and gives the same rewards.

    Raises:
        PluralignError: the architecture has no sequence classifier with a linear `score` layer.
    """
    body: dict[str, Any] = {"__module__": __name__}
    if new_head:
        body["_keys_to_ignore_on_load_missing"] = [r"^score\."]
        body["_keys_to_ignore_on_load_unexpected"] = [r"^lm_head\.", r"^embed_out\.", r"^cls\.", r"(^|\.)pooler\."]
    if is_encoder(config):
        backbone = MODEL_MAPPING[type(config)]
        family = next(base for base in backbone.__mro__ if PreTrainedModel in base.__bases__)
        return type(f"{backbone.__name__}ForReward", (_EncoderHead, family), body)
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise PluralignError(f"models of type '{config.model_type}' have no sequence classifier: choose another")
    plain = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
    return type(plain.__name__, (_Pooled, plain), body)


@dataclass(frozen=True)
class RewardModel:
    """A reward model with its tokenizer, ready to score.

    Args:
        model: gives one logit per row.
        tokenizer: pads on the right.
        limits: the token limits it was trained under.

    Load one and score with it:

        reward_model = pluralign.load_reward_model("runs/my-reward")
        reward_model.score("Tea?", ["Yes, please.", "No."])
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    limits: TokenLimits

    def tokenize(self, items: Items) -> TokenizedItems:
        """Token ids as this model reads them."""
        return tokenize(items, self.tokenizer, self.limits, is_encoder(self.model.config))

    def score_items(self, items: Items, max_tokens: int = MAX_TOKENS_PER_BATCH) -> np.ndarray:
        """Reward of every unique response: `(responses,)`, float64."""
        return score_tokens(self.model, self.tokenize(items), self.tokenizer.pad_token_id, max_tokens)

    def score(self, prompt: Any, responses: Sequence[Any]) -> np.ndarray:
        """Rewards of responses to one prompt: `(responses,)`, float64."""
        row = {"prompt": prompt, "responses": list(responses), "ranks": [1] * len(responses)}
        return self.score_items(items_of(Judgments.from_rows([row]), keep_all=True))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write weights (safetensors), config and tokenizer."""
        self.model.save_pretrained(folder)
        if not isinstance(self.model, PreTrainedModel):  # an adapter: keep pooling and limits beside it
            self.model.config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def score_tokens(
    model: nn.Module, tokens: TokenizedItems, pad_token_id: int, max_tokens: int = MAX_TOKENS_PER_BATCH
) -> np.ndarray:
    """Rewards of tokenized responses, each scored once, in batches of like length: `(responses,)`, float64."""
    rewards = np.zeros(len(tokens.response_ids))
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    batches = list(batches_by_length(tokens.lengths(), max_tokens))
    with torch.no_grad():
        for batch in track(batches, "Scoring"):
            inputs = pad_rows([tokens.sequence(index) for index in batch], pad_token_id)
            logits = model(**{name: tensor.to(device) for name, tensor in inputs.items()}).logits
            rewards[batch] = logits[:, 0].double().cpu().numpy()
    model.train(training)
    return rewards


def pad_rows(rows: Sequence[Sequence[int]], pad_token_id: int) -> dict[str, Tensor]:
    """Rows of ids as `input_ids` and `attention_mask`, padded on the right: `(rows, longest)` each."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_token_id)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.as_tensor(row)
        mask[index, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def build_reward_model(
    model_name_or_path: str | os.PathLike[str],
    *,
    max_length: int | None = None,
    max_response_length: int | None = None,
    chat_template_path: str | None = None,
    revision: str = "main",
    trust_remote_code: bool = False,
    **model_kwargs: Any,
) -> RewardModel:
    """Put a reward head on a language model or an encoder, from a folder or the hub.

    Args:
        model_name_or_path: a folder or a hub id.
        max_length: tokens of prompt and response; `None` is the model's context, at most `DEFAULT_MAX_LENGTH`.
        max_response_length: tokens of a response; `None` is three quarters of `max_length`.
        chat_template_path: a Jinja file, or a folder or hub id whose tokenizer has the template.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run code that comes with the model. Only for code you have read.
        model_kwargs: passed to `from_pretrained` (dtype, attn_implementation, quantization_config ...).

    Raises:
        PluralignError: no such model, or it cannot hold `max_length` tokens.
    """
    hub = {"revision": revision, "trust_remote_code": trust_remote_code}
    config, tokenizer = load_parts(model_name_or_path, hub)
    context = model_context(config, tokenizer)
    if max_length is not None and max_length > context:
        raise PluralignError(
            f"max_length: {max_length} is more than the {context} tokens {model_name_or_path} can read: lower it"
        )
    if chat_template_path is not None:
        tokenizer.chat_template = read_chat_template(chat_template_path, hub)
    limits = TokenLimits(max_length or min(context, DEFAULT_MAX_LENGTH), max_response_length)
    config.num_labels = 1
    write_settings(config, limits)
    kwargs = {"dtype": torch.float32, **model_kwargs}
    model = reward_model_class(config, new_head=True).from_pretrained(
        model_name_or_path, config=config, **hub, **kwargs
    )
    set_pad_token(model, tokenizer)
    return RewardModel(model, tokenizer, limits)


def load_reward_model(
    model_name_or_path: str | os.PathLike[str],
    *,
    revision: str = "main",
    trust_remote_code: bool = False,
    device: str | torch.device | None = None,
    **model_kwargs: Any,
) -> RewardModel:
    """Load a reward model: a run or model folder of pluralign, an adapter folder, or any one-logit classifier.

    Args:
        model_name_or_path: a folder or a hub id.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run code that comes with the model. Only for code you have read.
        device: where to put it; `None` takes a GPU when there is one.
        model_kwargs: passed to `from_pretrained`.

    Raises:
        PluralignError: there is no such model, or it does not give one reward per text.
    """
    hub = {"revision": revision, "trust_remote_code": trust_remote_code}
    config, tokenizer = load_parts(model_name_or_path, hub)
    kwargs = {"dtype": torch.float32, **model_kwargs}
    stored = getattr(config, SETTINGS, None)
    adapter = Path(model_name_or_path) / "adapter_config.json"
    if config.num_labels != 1 or (stored is None and not _is_classifier(config)):
        raise PluralignError(
            f"{model_name_or_path}: not a reward model (it has no head with one output): train one, or give a "
            "sequence classifier with num_labels = 1"
        )
    if adapter.exists():
        import peft

        base = peft.PeftConfig.from_pretrained(str(model_name_or_path)).base_model_name_or_path
        headless = reward_model_class(config).from_pretrained(base, config=config, **kwargs)
        if headless.get_input_embeddings().num_embeddings < config.vocab_size:
            headless.resize_token_embeddings(config.vocab_size)
        model: Any = peft.PeftModel.from_pretrained(headless, str(model_name_or_path))
    elif stored is not None:
        model = reward_model_class(config).from_pretrained(model_name_or_path, config=config, **hub, **kwargs)
    else:
        from transformers import AutoModelForSequenceClassification

        model = AutoModelForSequenceClassification.from_pretrained(model_name_or_path, **hub, **kwargs)
    set_pad_token(model, tokenizer)
    limits = (
        TokenLimits(stored["max_length"], stored["max_response_length"])
        if stored
        else TokenLimits(min(model_context(config, tokenizer), 8192))
    )
    model.eval().to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return RewardModel(model, tokenizer, limits)


def _is_classifier(config: Any) -> bool:
    return any("ForSequenceClassification" in name for name in config.architectures or [])


def load_parts(source: str | os.PathLike[str], hub: dict[str, Any]) -> tuple[Any, PreTrainedTokenizerBase]:
    """Config and tokenizer of a model, from a folder or the hub; the tokenizer pads on the right.

    Raises:
        PluralignError: there is no such model.
    """
    try:
        config = AutoConfig.from_pretrained(source, **hub)
        tokenizer = AutoTokenizer.from_pretrained(source, **hub)
    except (OSError, ValueError) as fault:
        kind = "folder" if Path(source).exists() else "folder or hub id"
        raise PluralignError(f"{source}: no model can be loaded from this {kind}: {fault}") from fault
    tokenizer.padding_side = "right"
    return config, tokenizer


def read_chat_template(source: str, hub: dict[str, Any]) -> str:
    """A chat template from a Jinja file, or from the tokenizer of a folder or hub id.

    Raises:
        PluralignError: there is none.
    """
    path = Path(source)
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = load_parts(source, hub)[1].chat_template
    if not isinstance(template, str):
        raise PluralignError(f"chat_template_path: {source} has no chat template")
    return template


def set_pad_token(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give model and tokenizer a padding token that is not the end token.

    `AutoModelForSequenceClassification` finds the last token as the last one that is not padding, so padding
    must not be the token that ends a response.
    """
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    embeddings = model.get_input_embeddings()
    if len(tokenizer) > embeddings.num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id

"""Reward models: a transformer, a pooled state, and one linear layer without a bias.

r(x, y) = w . z(x, y), with z the state of the last token (causal models) or the mean state (encoders). The
pooling and the token limits are stored in the model's config, so that scoring can never differ from training.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import peft
import torch
from scipy.special import expit
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, MODEL_MAPPING

from pluralign.core.errors import PluralignError
from pluralign.evaluation.recalibration import Recalibration
from pluralign.scoring.averaged import AveragedRewardModel
from pluralign.scoring.items import Items, items_of_texts
from pluralign.scoring.loading import (
    SETTINGS,
    is_encoder,
    limits_of,
    load_parts,
    on_device,
    read_chat_template,
    set_pad_token,
)
from pluralign.scoring.probe import plain_model
from pluralign.scoring.recalibrated import read_recalibration, remove_recalibration, write_recalibration
from pluralign.scoring.text_models import TextModel
from pluralign.scoring.tokens import TokenLimits, model_context
from pluralign.scoring.trees import Reads

LONGEST_OF_OTHERS = 8192
"""Token limit of reward models that others trained and that store none."""


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
        self: Any,
        input_ids: Tensor,
        attention_mask: Any,
        last: Tensor | None = None,
        labels: None = None,
        **inputs: Any,
    ) -> SequenceClassifierOutput:
        """One score per row; with `last` `(responses,)`, one per place in the flattened `(rows * tokens)`.

        The `hidden_states` of the output are the pooled states under the scores, `(rows or responses, d)`.
        """
        backbone = getattr(self, self.base_model_prefix)
        states = backbone(input_ids=input_ids, attention_mask=attention_mask, **inputs).last_hidden_state
        if last is None:
            pooled = pool(states, attention_mask, getattr(self.config, SETTINGS)["pooling"])
        else:
            pooled = states.flatten(0, 1)[last]
        return SequenceClassifierOutput(logits=self.score(pooled), hidden_states=pooled)


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


def write_settings(config: Any, limits: TokenLimits) -> None:
    """Store pooling and token limits in a model's config."""
    pooling = "mean" if is_encoder(config) else "last"
    stored = {"pooling": pooling, "max_length": limits.max_length, "max_response_length": limits.response}
    setattr(config, SETTINGS, stored)


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
class RewardModel(TextModel):
    """A reward model with its tokenizer, ready to score.

    Args:
        model: gives one logit per row.
        tokenizer: pads on the right.
        limits: the token limits it was trained under.
        recalibration: turns margins into log-odds; None leaves them as the model was trained. `values` is raw
            in any case.

    Load one and score with it:

        reward_model = pluralign.load_reward_model("runs/my-reward")
        reward_model.score("Tea?", ["Yes, please.", "No."])
    """

    recalibration: Recalibration | None = None

    @property
    def reads(self) -> Reads:
        """`last`: the state of a response's last token; `pooled` where the model pools by itself."""
        ours = isinstance(plain_model(self.model), _Pooled)
        ours = ours and getattr(self.model.config, SETTINGS)["pooling"] == "last"
        return "last" if ours else "pooled"

    @property
    def temperature(self) -> float | None:
        """What `score` and `score_items` divide rewards by, so that their differences are log-odds."""
        return None if self.recalibration is None else self.recalibration.temperature

    @property
    def margin_map(self) -> Callable[[Any], np.ndarray] | None:
        """What differences of `score` have yet to go through to be log-odds: an isotonic recalibration, or None.

        Such a map takes differences only; the rewards themselves stay raw.
        """
        return None if self.temperature is not None else self.recalibration

    def score_items(self, items: Items, **options: Any) -> np.ndarray:
        """Reward of every unique response: `(responses,)`, float64; options as in `TextModel.values`.

        Divided by the temperature where the model has one.
        """
        rewards = self.values(self.tokenize(items), **options)
        return rewards if self.temperature is None else rewards / self.temperature

    def score(self, prompt: Any, responses: Sequence[Any]) -> np.ndarray:
        """Rewards of responses to one prompt, as in `score_items`: `(responses,)`, float64."""
        return self.score_items(items_of_texts([prompt], [responses]))

    def preference_probability(self, prompt: Any, responses: Sequence[Any]) -> np.ndarray:
        """P[i, j] = sigmoid(g(r_i - r_j)), that response i is preferred over j: `(responses, responses)`, float64.

        g is the model's recalibration, whichever it is, or nothing. P[i, j] + P[j, i] = 1.
        """
        rewards = self.score(prompt, responses)
        margins = rewards[:, None] - rewards
        return np.asarray(expit(margins if self.margin_map is None else self.margin_map(margins)))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write weights (safetensors), config, tokenizer and recalibration; without one, an old file of it goes."""
        remove_recalibration(folder)  # before the weights, so that it never stands beside others than its own
        super().save(folder)
        if self.recalibration is not None:
            write_recalibration(folder, self.recalibration)


def as_reward_model(model: Any) -> Any:
    """A causal sequence classifier of `transformers` as ours: it pools what it is told to, and may read trees."""
    plain = plain_model(model)
    if not isinstance(plain, _Pooled) and not is_encoder(plain.config):
        body = {"__module__": __name__}
        plain.__class__ = type(type(plain).__name__, (_Pooled, type(plain)), body)
    return model


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
    limits = limits_of(config, tokenizer, max_length, max_response_length)
    if chat_template_path is not None:
        tokenizer.chat_template = read_chat_template(chat_template_path, hub)
    config.num_labels = 1
    write_settings(config, limits)
    kwargs = {"dtype": torch.float32, **model_kwargs}
    model = reward_model_class(config, new_head=True).from_pretrained(
        model_name_or_path, config=config, **hub, **kwargs
    )
    set_pad_token(model, tokenizer)
    return RewardModel(model, tokenizer, limits)


@overload
def load_reward_model(
    model_name_or_path: str | os.PathLike[str],
    *,
    raw: bool = ...,
    revision: str = ...,
    trust_remote_code: bool = ...,
    device: str | torch.device | None = ...,
    **model_kwargs: Any,
) -> RewardModel: ...


@overload
def load_reward_model(
    model_name_or_path: list[Any] | tuple[Any, ...],
    *,
    raw: bool = ...,
    revision: str = ...,
    trust_remote_code: bool = ...,
    device: str | torch.device | None = ...,
    **model_kwargs: Any,
) -> AveragedRewardModel: ...


def load_reward_model(
    model_name_or_path: str | os.PathLike[str] | list[Any] | tuple[Any, ...],
    *,
    raw: bool = False,
    revision: str = "main",
    trust_remote_code: bool = False,
    device: str | torch.device | None = None,
    **model_kwargs: Any,
) -> RewardModel | AveragedRewardModel:
    """Load a reward model: a run or model folder of pluralign, an adapter folder, or any one-logit classifier.

    A folder's `calibration.json` comes with it as `RewardModel.recalibration`.

    Args:
        model_name_or_path: a folder or a hub id; a list of them is their average.
        raw: leave a stored recalibration aside.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run code that comes with the model. Only for code you have read.
        device: where to put it; `None` takes a GPU when there is one.
        model_kwargs: passed to `from_pretrained`.

    Raises:
        PluralignError: there is no such model, it does not give one reward per text, or its `calibration.json` is
            damaged.
    """
    if isinstance(model_name_or_path, list | tuple):
        options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code, "device": device}
        loaded = (load_reward_model(name, raw=raw, **options, **model_kwargs) for name in model_name_or_path)
        return AveragedRewardModel(tuple(loaded))
    recalibration = None if raw else read_recalibration(model_name_or_path)
    hub = {"revision": revision, "trust_remote_code": trust_remote_code}
    config, tokenizer = load_parts(model_name_or_path, hub)
    kwargs = {"dtype": torch.float32, **model_kwargs}
    stored = getattr(config, SETTINGS, None)
    adapter = Path(model_name_or_path) / "adapter_config.json"
    if not is_reward_model(config):
        raise PluralignError(
            f"{model_name_or_path}: not a reward model (it has no head with one output): train one, or give a "
            "sequence classifier with num_labels = 1"
        )
    if adapter.exists():
        base = peft.PeftConfig.from_pretrained(str(model_name_or_path)).base_model_name_or_path
        headless = reward_model_class(config).from_pretrained(base, config=config, **kwargs)
        if headless.get_input_embeddings().num_embeddings < config.vocab_size:
            headless.resize_token_embeddings(config.vocab_size)
        model: Any = peft.PeftModel.from_pretrained(headless, str(model_name_or_path))
    elif stored is not None:
        model = reward_model_class(config).from_pretrained(model_name_or_path, config=config, **hub, **kwargs)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(model_name_or_path, **hub, **kwargs)
    set_pad_token(model, tokenizer)
    if stored is None:
        longest = min(model_context(config, tokenizer), LONGEST_OF_OTHERS)
        write_settings(model.config, TokenLimits(longest))
        model = as_reward_model(model)
    limits = limits_of(model.config, tokenizer)
    return RewardModel(on_device(model, device), tokenizer, limits, recalibration=recalibration)


def is_reward_model(config: Any) -> bool:
    """Whether a model of this config gives one reward per text."""
    pools = "pooling" in (getattr(config, SETTINGS, None) or {})
    return config.num_labels == 1 and (pools or _is_classifier(config))


def _is_classifier(config: Any) -> bool:
    return any("ForSequenceClassification" in name for name in config.architectures or [])

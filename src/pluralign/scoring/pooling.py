"""Transformers with a linear head on their pooled state.

z(x, y) is the state of the last token (causal models) or the mean state (encoders). Pooling, token limits and the
head's labels are stored in the model's config, so that scoring matches training.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, MODEL_MAPPING

from pluralign.core.errors import PluralignError
from pluralign.judgments.scales import LabelScale
from pluralign.scoring.group_heads import GROUPS, Groups
from pluralign.scoring.loading import SETTINGS, is_encoder
from pluralign.scoring.probe import plain_model
from pluralign.scoring.tokens import TokenLimits

LABEL_SCALE = "label_scale"
"""The key of a head's labels in the settings."""


def pool(states: Tensor, attention_mask: Tensor, pooling: str) -> Tensor:
    """`(rows, d)` the state of each row's `last` token, or the `mean` over its tokens, padded on either side."""
    if pooling == "mean":
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        return (states * mask).sum(1) / mask.sum(1)
    positions = torch.arange(attention_mask.shape[1], device=states.device)
    last = (attention_mask * positions).argmax(1)
    return states[torch.arange(len(states), device=states.device), last]


class Pooled:
    """Mix-in for a transformer with a `score` layer: it returns the score of the pooled state."""

    def forward(
        self: Any,
        input_ids: Tensor,
        attention_mask: Any,
        last: Tensor | None = None,
        labels: None = None,
        **inputs: Any,
    ) -> SequenceClassifierOutput:
        """One score per row; with `last` `(responses,)`, one per index into the flattened `(rows * tokens)`.

        The `hidden_states` of the output are the pooled states, `(rows or responses, d)`.
        """
        backbone = getattr(self, self.base_model_prefix)
        states = backbone(input_ids=input_ids, attention_mask=attention_mask, **inputs).last_hidden_state
        if last is None:
            pooled = pool(states, attention_mask, getattr(self.config, SETTINGS)["pooling"])
        else:
            pooled = states.flatten(0, 1)[last]
        return SequenceClassifierOutput(logits=self.score(pooled), hidden_states=pooled)


class _EncoderHead(Pooled):
    def __init__(self: Any, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        backbone = MODEL_MAPPING[type(config)]
        try:  # BERT's own pooling layer would stay untrained
            setattr(self, self.base_model_prefix, backbone(config, add_pooling_layer=False))
        except TypeError:
            setattr(self, self.base_model_prefix, backbone(config))
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.post_init()


def write_settings(config: Any, limits: TokenLimits) -> None:
    """Store pooling and token limits in a model's config."""
    lengths = {"max_length": limits.max_length, "max_response_length": limits.response}
    setattr(config, SETTINGS, {"pooling": "mean" if is_encoder(config) else "last"} | lengths)


def write_label_scale(config: Any, scale: LabelScale, groups: Groups | None = None) -> None:
    """Store a label scale in a model's config, after `write_settings`; the head then has one output per label.

    With groups it also has one per group and label (`pluralign.scoring.group_heads`).
    """
    labels = [
        *scale.labels,
        *(f"{label} ({name})" for name in (groups.names if groups else ()) for label in scale.labels),
    ]
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: place for place, label in enumerate(labels)}
    settings = getattr(config, SETTINGS)
    settings[LABEL_SCALE] = scale.as_dict()
    settings.pop(GROUPS, None)
    if groups is not None:
        settings[GROUPS] = groups.as_dict()


def groups_of(config: Any) -> Groups | None:
    """The groups that a head tells apart; `None` if there are none.

    Raises:
        PluralignError: they are damaged.
    """
    stored = (getattr(config, SETTINGS, None) or {}).get(GROUPS)
    return None if stored is None else Groups.from_dict(stored, "config.json, pluralign.groups")


def label_scale_of(config: Any) -> LabelScale | None:
    """The label scale stored in a model's config; `None` if its head predicts no labels.

    Raises:
        PluralignError: the scale is damaged, or its number of labels is not the head's.
    """
    stored = (getattr(config, SETTINGS, None) or {}).get(LABEL_SCALE)
    if stored is None:
        return None
    scale = LabelScale.from_dict(stored, "config.json, pluralign.label_scale")
    groups = groups_of(config)
    if len(scale.labels) * (1 + (len(groups) if groups else 0)) != config.num_labels:
        raise PluralignError(
            f"config.json: the label scale '{scale.name}' has {len(scale.labels)} labels and the model's head "
            f"{config.num_labels} outputs: was the file changed?"
        )
    return scale


def reward_model_class(config: Any, new_head: bool = False) -> type[PreTrainedModel]:
    """The class of the reward model on a config's architecture; `new_head` if the checkpoint has none yet.

    Causal architectures keep the layout and the name of their sequence classifier, so that
    `AutoModelForSequenceClassification` loads the saved model and returns the same rewards.

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
    return type(plain.__name__, (Pooled, plain), body)


def as_reward_model(model: Any) -> Any:
    """A causal sequence classifier of `transformers` as a `Pooled` model, which can read trees."""
    plain = plain_model(model)
    if not isinstance(plain, Pooled) and not is_encoder(plain.config):
        body = {"__module__": __name__}
        plain.__class__ = type(type(plain).__name__, (Pooled, type(plain)), body)
    return model

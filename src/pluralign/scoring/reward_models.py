"""Reward models: a transformer, a pooled state, and one linear layer without a bias.

r(x, y) = w . z(x, y), where z is the pooled state (`pluralign.scoring.pooling`). A label model has one row of weights
per label of a scale, mu(x, y) = softmax(W z(x, y)); its reward is a summary of the predicted distribution.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
import peft
import torch
from scipy.special import expit, softmax
from transformers import AutoModelForSequenceClassification

from pluralign.choice.transport import expected_reward, reward_quantile, reward_variance
from pluralign.core.errors import PluralignError
from pluralign.evaluation.calibration.recalibration import Recalibration
from pluralign.judgments.scales import LabelScale
from pluralign.scoring.group_heads import Groups
from pluralign.scoring.items import Items, items_of_texts
from pluralign.scoring.loading import (
    SETTINGS,
    TIE_NU,
    adapter_base,
    is_adapter,
    is_encoder,
    limits_of,
    load_parts,
    on_device,
    read_chat_template,
    set_pad_token,
    weight_errors,
)
from pluralign.scoring.pooling import (
    Pooled,
    as_reward_model,
    groups_of,
    label_scale_of,
    reward_model_class,
    write_label_scale,
    write_settings,
)
from pluralign.scoring.probe import plain_model
from pluralign.scoring.recalibrated import read_recalibration, remove_recalibration, write_recalibration
from pluralign.scoring.text_models import TextModel
from pluralign.scoring.tokens import TokenizedItems, TokenLimits, model_context
from pluralign.scoring.trees import Reads

ANNOTATOR_SCALES = "annotator_scales.json"
"""The file of a run that holds the scales of its annotators (`evaluation.calibration.group_scales.GroupScales`)."""

LONGEST_OF_OTHERS = 8192
"""Token limit of reward models from other libraries, which store none."""


@dataclass(frozen=True)
class RewardModel(TextModel):
    """A reward model with its tokenizer, ready to score.

    Args:
        recalibration: maps margins to log-odds, or `None`. `values` returns raw rewards in any case.

    Load a model and score responses:

        reward_model = pluralign.load_reward_model("runs/my-reward")
        reward_model.score("Tea?", ["Yes, please.", "No."])
    """

    recalibration: Recalibration | None = None

    @property
    def reads(self) -> Reads:
        """`last`: the state of a response's last token; `pooled` if the model pools by itself."""
        ours = isinstance(plain_model(self.model), Pooled)
        return "last" if ours and getattr(self.model.config, SETTINGS)["pooling"] == "last" else "pooled"

    @property
    def tie_nu(self) -> list[float]:
        """Davidson's tie parameters of blocks of 2, 3 ... responses; empty for a model that does not predict ties."""
        return list((getattr(self.model.config, SETTINGS, None) or {}).get(TIE_NU, ()))

    @property
    def temperature(self) -> float | None:
        """`score` and `score_items` divide rewards by this, so that their differences are log-odds."""
        return None if self.recalibration is None else self.recalibration.temperature

    @property
    def margin_map(self) -> Callable[[Any], np.ndarray] | None:
        """The map from differences of rewards to log-odds, if the model has an isotonic recalibration."""
        return None if self.temperature is not None else self.recalibration

    def score_items(self, items: Items, **options: Any) -> np.ndarray:
        """Reward of every unique response, `scaled`: `(responses,)`, float64; options as in `TextModel.values`."""
        return self.scaled(self.values(self.tokenize(items), **options))

    def scaled(self, rewards: np.ndarray) -> np.ndarray:
        """Raw rewards divided by the temperature if the model has one."""
        return rewards if self.temperature is None else rewards / self.temperature

    def score(self, prompt: Any, responses: Sequence[Any]) -> np.ndarray:
        """Rewards of responses to one prompt, as in `score_items`: `(responses,)`, float64."""
        return self.score_items(items_of_texts([prompt], [responses]))

    def preference_probability(self, prompt: Any, responses: Sequence[Any]) -> np.ndarray:
        """P[i, j] = sigmoid(g(r_i - r_j)), that response i is preferred over j: `(responses, responses)`, float64.

        g is the model's isotonic recalibration, or the identity.
        """
        rewards = self.score(prompt, responses)
        margins = rewards[:, None] - rewards
        return np.asarray(expit(margins if self.margin_map is None else self.margin_map(margins)))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write weights (safetensors), config, tokenizer and recalibration; a stale recalibration is removed."""
        remove_recalibration(folder)  # first, so that it is never found beside other weights
        super().save(folder)
        if self.recalibration is not None:
            write_recalibration(folder, self.recalibration)


@dataclass(frozen=True)
class LabelModel(RewardModel):
    """A reward model that predicts a crowd's distribution over ordered labels for a response (DPRM, arXiv 2402.09764).

    mu(x, y) = softmax(W z(x, y)), in float64. Its reward is the expected one, sum_i R_i mu_i, or a quantile: the
    smallest reward whose cumulative probability reaches a level. A low level is risk-averse.

    Args:
        scale: the labels and their rewards R.
        level: the quantile used as the reward, above 0 and at most 1; `None` uses the expected reward.
        groups: the groups that the head tells apart; predictions are then those of a population with their shares
            (`pluralign.scoring.group_heads`).

    Load a model and predict distributions:

        model = pluralign.load_reward_model("runs/my-dprm")
        model.distributions(pluralign.items_of(judgments))
    """

    scale: LabelScale = field(kw_only=True)
    level: float | None = field(default=None, kw_only=True)
    groups: Groups | None = field(default=None, kw_only=True)

    @property
    def rewards(self) -> torch.Tensor:
        """R `(labels,)`, float64."""
        return torch.tensor(self.scale.rewards, dtype=torch.float64)

    def values(self, tokens: TokenizedItems, *args: Any, **options: Any) -> np.ndarray:
        """Reward of every unique response: `(responses,)`, float64; arguments as in `TextModel.values`."""
        return self.rewards_of(self.predicted(super().values(tokens, *args, **options)))

    def predicted(self, outputs: np.ndarray) -> np.ndarray:
        """mu `(responses, labels)` from the outputs of the head."""
        return np.asarray(softmax(outputs, -1) if self.groups is None else self.groups.population(outputs))

    def rewards_of(self, distributions: np.ndarray) -> np.ndarray:
        """Rewards of predicted distributions, expected or quantile: `(responses, labels)` to `(responses,)`."""
        if self.level is None:
            return self._summary(expected_reward, distributions)
        return self._summary(reward_quantile, distributions, self.level)

    def _summary(self, summary: Callable[..., torch.Tensor], distributions: np.ndarray, *args: Any) -> np.ndarray:
        return np.asarray(summary(torch.from_numpy(distributions), self.rewards, *args).numpy())

    def distributions(self, items: Items, **options: Any) -> np.ndarray:
        """mu of every unique response: `(responses, labels)`, float64; options as in `TextModel.values`."""
        return self.predicted(super().values(self.tokenize(items), **options))

    def group_distributions(self, items: Items, **options: Any) -> np.ndarray:
        """mu_g of every unique response and group: `(responses, groups, labels)`, float64.

        Raises:
            PluralignError: the model tells no groups apart.
        """
        if self.groups is None:
            raise PluralignError("the model tells no groups apart: train it with by_group: true")
        return self.groups.distributions(super().values(self.tokenize(items), **options))

    def expected_reward(self, items: Items, **options: Any) -> np.ndarray:
        """sum_i R_i mu_i of every unique response: `(responses,)`."""
        return self._summary(expected_reward, self.distributions(items, **options))

    def variance(self, items: Items, **options: Any) -> np.ndarray:
        """sum_i mu_i (R_i - E[R])^2 of every unique response: `(responses,)`."""
        return self._summary(reward_variance, self.distributions(items, **options))

    def quantile(self, items: Items, q: float, **options: Any) -> np.ndarray:
        """The smallest reward whose cumulative probability reaches q, of every unique response: `(responses,)`."""
        return self._summary(reward_quantile, self.distributions(items, **options), q)


def mean_rewards(models: Iterable[RewardModel], items: Items, **options: Any) -> np.ndarray:
    """Mean over models of the reward of every unique response: `(responses,)`, float64.

    r(x, y) = sum_k r_k(x, y) / K, the baseline "Averaging" of MORE (arXiv 2312.07401). Each r_k is what the model's
    `score_items` returns for `options`. With a generator of models, only one is in memory at a time.

    Raises:
        PluralignError: there is no model, or one has an isotonic recalibration, which maps margins, not rewards.
    """
    total, count = np.zeros(len(items.responses)), 0
    for model in models:
        if model.margin_map is not None:
            raise PluralignError(
                f"model {count + 1} of the average has an isotonic recalibration, which maps margins, not single "
                "rewards: ignore it (--raw, or raw=True), or calibrate with the method temperature"
            )
        total += model.score_items(items, **options)
        count += 1
    if count == 0:
        raise PluralignError("an average needs at least one reward model")
    return total / count


@dataclass(frozen=True)
class AveragedRewardModel:
    """Several reward models as one: their mean reward. Architectures and tokenizers may differ.

    Load some and score with them:

        average = pluralign.load_reward_model(["runs/helpful", "runs/harmless"])
        average.score("Tea?", ["Yes, please.", "No."])
    """

    models: tuple[RewardModel, ...]

    def __post_init__(self) -> None:
        if not self.models:
            raise PluralignError("an average needs at least one reward model")

    def score_items(self, items: Items, **options: Any) -> np.ndarray:
        """Mean reward of every unique response, see `mean_rewards`: `(responses,)`, float64."""
        return mean_rewards(self.models, items, **options)

    def score(self, prompt: Any, responses: Sequence[Any]) -> np.ndarray:
        """Mean rewards of responses to one prompt: `(responses,)`, float64."""
        return self.score_items(items_of_texts([prompt], [responses]))

    def preference_probability(self, prompt: Any, responses: Sequence[Any]) -> np.ndarray:
        """P[i, j] = sigmoid(r_i - r_j), that response i is preferred over j: `(responses, responses)`, float64."""
        rewards = self.score(prompt, responses)
        return np.asarray(expit(rewards[:, None] - rewards))


def build_reward_model(
    model_name_or_path: str | os.PathLike[str],
    *,
    label_scale: LabelScale | None = None,
    groups: Groups | None = None,
    max_length: int | None = None,
    max_response_length: int | None = None,
    chat_template_path: str | None = None,
    revision: str = "main",
    trust_remote_code: bool = False,
    **model_kwargs: Any,
) -> RewardModel:
    """Put a reward head on a language model or an encoder, from a folder or the hub.

    Arguments that are not listed are those of `load_causal_model`.

    Args:
        model_name_or_path: a folder or a hub id.
        label_scale: give the head one output per label of this scale and return a `LabelModel`.
        groups: with a label scale, groups that the head tells apart; it starts without differences between them.

    Raises:
        PluralignError: no such model, it cannot read `max_length` tokens, or it already has a different head.
    """
    hub = {"revision": revision, "trust_remote_code": trust_remote_code}
    config, tokenizer = load_parts(model_name_or_path, hub)
    limits = limits_of(config, tokenizer, max_length, max_response_length)
    if chat_template_path is not None:
        tokenizer.chat_template = read_chat_template(chat_template_path, hub)
    _check_head(model_name_or_path, config, label_scale, groups)
    trained = groups is not None and groups_of(config) is not None
    if is_adapter(model_name_or_path):
        if not is_reward_model(config):
            raise PluralignError(f"{model_name_or_path}: is an adapter of a policy: merge it into its base first")
        continued: Any = _adapted(model_name_or_path, config, True, hub, model_kwargs)
        write_settings(continued.config, limits)
        if label_scale is not None:
            write_label_scale(continued.config, label_scale, groups)
        set_pad_token(continued, tokenizer)
        if label_scale is None:
            return RewardModel(continued, tokenizer, limits)
        return LabelModel(continued, tokenizer, limits, scale=label_scale, groups=groups)
    config.num_labels = 1
    write_settings(config, limits)
    if label_scale is not None:
        write_label_scale(config, label_scale, groups)
    options = {"config": config, "dtype": torch.float32, **hub, **model_kwargs}
    with weight_errors(model_name_or_path):
        model = reward_model_class(config, new_head=True).from_pretrained(model_name_or_path, **options)
    set_pad_token(model, tokenizer)
    if label_scale is None:
        return RewardModel(model, tokenizer, limits)
    if groups is not None and not trained:
        with torch.no_grad():
            model.score.weight[len(label_scale.labels) :] = 0
    return LabelModel(model, tokenizer, limits, scale=label_scale, groups=groups)


def _check_head(name: object, config: Any, scale: LabelScale | None, groups: Groups | None) -> None:
    """A checkpoint with a head is trained further, so its head must be the requested one."""
    others = getattr(config, SETTINGS, None) is None
    if not is_reward_model(config) or (others and is_encoder(config)):  # heads of other libraries' encoders are dropped
        return
    stored = label_scale_of(config)
    if stored is None and scale is not None:
        raise PluralignError(f"{name}: has a head with one output and no labels: start from its base model")
    if stored is not None and (scale is None or not stored.same_labels(scale)):
        wanted = "one output" if scale is None else f"'{scale.name}' ({', '.join(scale.labels)})"
        raise PluralignError(
            f"{name}: has a head for the labels '{stored.name}' ({', '.join(stored.labels)}), expected one for "
            f"{wanted}: start from its base model"
        )
    own = groups_of(config)
    if stored is not None and (None if own is None else own.names) != (None if groups is None else groups.names):
        known = "no groups" if own is None else ", ".join(own.names)
        raise PluralignError(
            f"{name}: has a head for {known}, and by_group asks for other ones: start from its base model"
        )


@overload
def load_reward_model(model_name_or_path: str | os.PathLike[str], **options: Any) -> RewardModel: ...


@overload
def load_reward_model(model_name_or_path: list[Any] | tuple[Any, ...], **options: Any) -> AveragedRewardModel: ...


def load_reward_model(
    model_name_or_path: str | os.PathLike[str] | list[Any] | tuple[Any, ...],
    *,
    raw: bool = False,
    quantile: float | None = None,
    revision: str = "main",
    trust_remote_code: bool = False,
    device: str | torch.device | None = None,
    **model_kwargs: Any,
) -> RewardModel | AveragedRewardModel:
    """Load a reward model: a run or model folder of pluralign, an adapter folder, or any one-logit classifier.

    A folder's `calibration.json` is loaded as `RewardModel.recalibration`. A model that predicts labels is returned as
    a `LabelModel`.

    Args:
        model_name_or_path: a folder or a hub id; a list gives their average.
        raw: ignore a stored recalibration.
        quantile: for models that predict labels: use this quantile of the predicted distribution as the reward instead
            of its mean; a stored recalibration, which was fitted to the mean, is ignored.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run code that comes with the model. Only for code you have read.
        device: default: a GPU if there is one.
        model_kwargs: passed to `from_pretrained`.

    Raises:
        PluralignError: there is no such model, it does not return one reward per text, its `calibration.json` is
            damaged, or `quantile` is given for a model that predicts no labels.
    """
    if isinstance(model_name_or_path, list | tuple):
        options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code, "device": device}
        options |= {"raw": raw, "quantile": quantile}
        loaded = (load_reward_model(name, **options, **model_kwargs) for name in model_name_or_path)
        return AveragedRewardModel(tuple(loaded))
    recalibration = None if raw or quantile is not None else read_recalibration(model_name_or_path)
    hub = {"revision": revision, "trust_remote_code": trust_remote_code}
    config, tokenizer = load_parts(model_name_or_path, hub)
    model_kwargs = {"dtype": torch.float32, **model_kwargs}
    stored = getattr(config, SETTINGS, None)
    if not is_reward_model(config):
        raise PluralignError(
            f"{model_name_or_path}: not a reward model (it has no head with one output): train one, or use a "
            "sequence classifier with num_labels = 1"
        )
    check_quantile(model_name_or_path, config, quantile)
    if is_adapter(model_name_or_path):
        model: Any = _adapted(model_name_or_path, config, False, hub, model_kwargs)
    else:
        with weight_errors(model_name_or_path):
            if stored is not None:
                kind = reward_model_class(config)
                model = kind.from_pretrained(model_name_or_path, config=config, **hub, **model_kwargs)
            else:
                model = AutoModelForSequenceClassification.from_pretrained(model_name_or_path, **hub, **model_kwargs)
    set_pad_token(model, tokenizer)
    if stored is None:
        write_settings(model.config, TokenLimits(min(model_context(config, tokenizer), LONGEST_OF_OTHERS)))
        model = as_reward_model(model)
    parts = (on_device(model, device), tokenizer, limits_of(model.config, tokenizer))
    scale = label_scale_of(config)
    if scale is None:
        return RewardModel(*parts, recalibration=recalibration)
    return LabelModel(*parts, recalibration=recalibration, scale=scale, level=quantile, groups=groups_of(model.config))


def _adapted(
    folder: str | os.PathLike[str], config: Any, trainable: bool, hub: dict[str, Any], model_kwargs: dict[str, Any]
) -> Any:
    """The adapter of a reward model on its base, which gets the embeddings that the run had added."""
    base = adapter_base(folder)
    wanted = config.get_text_config().vocab_size
    plain = copy.deepcopy(config)
    plain.get_text_config().vocab_size = load_parts(base, hub)[0].get_text_config().vocab_size
    with weight_errors(base):
        headless = reward_model_class(config).from_pretrained(
            base, config=plain, **hub, **{"dtype": torch.float32, **model_kwargs}
        )
    if headless.get_input_embeddings().num_embeddings < wanted:
        headless.resize_token_embeddings(wanted)
    with weight_errors(folder):
        return peft.PeftModel.from_pretrained(headless, str(folder), is_trainable=trainable)


def check_quantile(name: object, config: Any, quantile: float | None) -> None:
    """Check a quantile against a model's config before the model is loaded.

    Raises:
        PluralignError: it is out of range, or the model predicts no labels.
    """
    if quantile is None:
        return
    if not 0 < quantile <= 1:
        raise PluralignError(f"quantile: found {quantile}, expected a number above 0, at most 1")
    if label_scale_of(config) is None:
        raise PluralignError(f"{name}: predicts no labels, so a quantile of its reward does not exist")


def is_reward_model(config: Any) -> bool:
    """Whether a model with this config returns one reward per text, or labels with rewards."""
    if label_scale_of(config) is not None:
        return True
    ours = "pooling" in (getattr(config, SETTINGS, None) or {})
    classifies = any("ForSequenceClassification" in name for name in config.architectures or [])
    return config.num_labels == 1 and (ours or classifies)

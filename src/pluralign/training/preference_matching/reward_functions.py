"""Reward functions in TRL's form, from reward models and from the implicit rewards of tuned policies."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from pluralign.core.errors import PluralignError
from pluralign.scoring.implicit_rewards import load_implicit_reward
from pluralign.scoring.items import items_of_texts
from pluralign.scoring.loading import load_parts
from pluralign.scoring.mixtures import is_mixture
from pluralign.scoring.reward_models import (
    AveragedRewardModel,
    LabelModel,
    RewardModel,
    is_reward_model,
    load_reward_model,
)
from pluralign.scoring.scorers import MeanReward, Scorer

logger = logging.get_logger(__name__)

RewardFunction = Callable[..., list[float]]
"""`f(prompts=..., completions=..., **columns)` gives a reward for each completion."""


def reward_function(
    scorer: Scorer, name: str = "reward", end_tokens: Callable[[], Collection[int]] | None = None
) -> RewardFunction:
    """A scorer as a reward function in TRL's form.

    Each different (prompt, completion) is scored once, a prompt's completions together.

    Args:
        scorer: a reward model, an average of several, or an implicit reward; rewards should be log-odds.
        name: its name in TRL's logs, `rewards/NAME/mean`.
        end_tokens: gives the ids that end a completion. A completion whose `completion_ids` end in another was cut,
            and an implicit reward then reads no end after it.

    Raises:
        PluralignError: when called, a reward is not finite.

    Examples:
        >>> class Length:
        ...     def score_items(self, items):
        ...         return np.array([float(len(text)) for text in items.responses])
        >>> reward_function(Length())(prompts=["Tea?", "Rain?", "Tea?"], completions=["Yes", "No", "Yes"])
        [3.0, 2.0, 3.0]
    """

    def score(prompts: Sequence[Any], completions: Sequence[Any], completion_ids: Any = None, **_: Any) -> list[float]:
        ends = None if end_tokens is None or completion_ids is None else set(end_tokens())
        cut = [ends is not None and ids[-1] not in ends for ids in completion_ids or [[]] * len(completions)]
        asked: dict[str, Any] = {}
        responses: dict[str, dict[tuple[str, bool], Any]] = {}
        keys = [(_key(prompt), (_key(text), end)) for prompt, text, end in zip(prompts, completions, cut, strict=True)]
        for (prompt_key, text_key), prompt, text in zip(keys, prompts, completions, strict=True):
            asked[prompt_key] = prompt
            responses.setdefault(prompt_key, {})[text_key] = text
        groups = responses.values()
        items = items_of_texts(
            list(asked.values()),
            [list(texts.values()) for texts in groups],
            None if ends is None else [[unfinished for _, unfinished in texts] for texts in groups],
        )
        rewards = scorer.score_items(items)
        if not np.isfinite(rewards).all():
            raise PluralignError(f"{name}: gives rewards that are not finite")
        places = [(prompt_key, text_key) for prompt_key, texts in responses.items() for text_key in texts]
        reward_of = dict(zip(places, rewards.tolist(), strict=True))
        return [reward_of[key] for key in keys]

    score.__name__ = name
    return score


def load_rewards(
    names: str | Sequence[str],
    *,
    quantile: float | None = None,
    allow_mismatch: bool = False,
    trust_remote_code: bool = False,
    device: str | torch.device | None = None,
) -> Scorer:
    """Load reward models or tuned policies as one scorer, and check that its rewards are log-odds.

    Args:
        names: folders or hub ids of reward models, or of policies tuned by DPO or EM-DPO; several are averaged.
        quantile: for models that predict labels: use this quantile as the reward, not the mean.
        allow_mismatch: only warn if rewards are not log-odds.
        trust_remote_code: run code that comes with the models. Only for code you have read.
        device: where to put them; `None` takes a GPU when there is one.

    Raises:
        PluralignError: one cannot be loaded, or its rewards are not log-odds.
    """
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "device": device}
    scorers: list[Scorer] = []
    for name in [names] if isinstance(names, str) else names:
        hub = {"revision": "main", "trust_remote_code": trust_remote_code}
        if is_mixture(name) or not is_reward_model(load_parts(name, hub)[0]):
            scorers.append(load_implicit_reward(name, **options))
            continue
        model = load_reward_model(name, quantile=quantile, **options)
        if reason := not_log_odds(model, name):
            if not allow_mismatch:
                raise PluralignError(f"{reason} (allow_mismatch: true takes the rewards as they are)")
            logger.warning(f"{reason}; its rewards are taken as they are")
        scorers.append(model)
    if not scorers:
        raise PluralignError("reward_model: found no name, expected one or more")
    return scorers[0] if len(scorers) == 1 else MeanReward(tuple(scorers))


def reward_name(names: str | Sequence[str]) -> str:
    """A short name of the rewards, for the logs.

    Examples:
        >>> reward_name("runs/reward/"), reward_name(["runs/a", "runs/b"])
        ('reward', 'mean-of-2')
    """
    several = [names] if isinstance(names, str) else names
    return Path(os.path.normpath(several[0])).name if len(several) == 1 else f"mean-of-{len(several)}"


def not_log_odds(model: RewardModel | AveragedRewardModel, name: object = "the reward model") -> str | None:
    """Why differences of a model's rewards are not log-odds, and the fix; nothing if they may be.

    A model trained on comparisons gives log-odds by its loss, and better ones with a stored temperature.
    """
    if isinstance(model, AveragedRewardModel):
        return next((reason for member in model.models if (reason := not_log_odds(member, name))), None)
    if model.margin_map is not None:
        return (
            f"{name}: has an isotonic recalibration, which maps margins and gives no reward of a single response: run "
            "pluralign calibrate with the method temperature"
        )
    if isinstance(model, LabelModel) and model.temperature is None:
        what = "a quantile of labels' rewards is" if model.level is not None else "labels' rewards are"
        return (
            f"{name}: {what} on the scale of the labels, not in log-odds: run pluralign calibrate on held-out "
            "votes, which stores a temperature for the mean"
        )
    return None


def _key(text: Any) -> str:
    return json.dumps(text, ensure_ascii=False)

"""Implicit rewards of policies that were tuned on judgments."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import yaml

from pluralign.choice.preference_matching import Penalty
from pluralign.core.errors import PluralignError
from pluralign.core.runs import CONFIG
from pluralign.scoring.causal_models import CausalModel, causal_model, load_causal_model
from pluralign.scoring.items import Items, items_of_texts
from pluralign.scoring.loading import SETTINGS, load_parts, on_device
from pluralign.scoring.mixtures import base_of, is_mixture, read_mixture
from pluralign.scoring.reference import stored_penalty

TUNED = ("dpo", "em-dpo", "pm-dpo")
"""Objectives whose policies have an implicit reward in log-odds of judgments."""


@dataclass(frozen=True)
class ImplicitReward:
    """r(x, y) = beta (log pi(y|x) - charged log pi_ref(y|x)): the log-odds that DPO fitted to the judgments.

    Args:
        policy: the tuned policy.
        reference: the model it was tuned from; `None` is the policy without its adapter.
        beta: the inverse temperature of tuning.
        penalty: which part of the reference's log-probability is charged; in DPO all of it (`kl`).

    Load the implicit reward of one annotator type and score responses:

        reward = load_implicit_reward("runs/people/type-2")
        reward.score("Tea?", ["Yes, please.", "No."])
    """

    policy: CausalModel
    reference: CausalModel | None
    beta: float
    penalty: Penalty = field(default_factory=lambda: Penalty("kl"))

    def score_items(self, items: Items) -> np.ndarray:
        """Reward of every unique response: `(responses,)`, float64."""
        tokens = self.policy.tokenize(items)
        values = self.policy.values(tokens)
        frozen = self.reference or self.policy
        off = contextlib.nullcontext() if self.reference is not None else self.policy.model.disable_adapter()
        with off:
            charged = frozen.charges(tokens, self.penalty)
        return np.asarray(self.beta * (values - charged))

    def score(self, prompt: Any, responses: Sequence[Any]) -> np.ndarray:
        """Rewards of responses to one prompt: `(responses,)`, float64."""
        return self.score_items(items_of_texts([prompt], [responses]))


def load_implicit_reward(
    model_name_or_path: str | os.PathLike[str],
    *,
    reference: str | os.PathLike[str] | None = None,
    trust_remote_code: bool = False,
    device: str | torch.device | None = None,
    **model_kwargs: Any,
) -> ImplicitReward:
    """Load the implicit reward of a policy tuned by `dpo` or `pm-dpo`, or of one type of `em-dpo`.

    Args:
        model_name_or_path: its folder; for a type, `RUN/type-2`.
        reference: the model it was tuned from, if the folder does not say.
        trust_remote_code: run code that comes with the model. Only for code you have read.
        device: device to load to; default: a GPU if there is one.
        model_kwargs: passed to `from_pretrained`.

    Raises:
        PluralignError: the folder holds no such policy, or several; or its reference cannot be found or has another
            vocabulary.
    """
    if is_mixture(model_name_or_path):
        names = ", ".join(str(Path(model_name_or_path) / name) for name in read_mixture(model_name_or_path).weights)
        raise PluralignError(f"{model_name_or_path}: holds one reward per annotator type: give one of {names}")
    hub = {"revision": "main", "trust_remote_code": trust_remote_code}
    settings = getattr(load_parts(model_name_or_path, hub)[0], SETTINGS, None) or {}
    if settings.get("objective") not in TUNED:
        raise PluralignError(
            f"{model_name_or_path}: is neither a reward model nor a policy tuned by {', '.join(TUNED)}, so it has "
            "no reward: give another model"
        )
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, **model_kwargs}
    policy = _ready(load_causal_model(model_name_or_path, **options), device)
    penalty = stored_penalty(settings, str(model_name_or_path))
    found = str(reference or reference_of(model_name_or_path))
    adapter = isinstance(policy.model, peft.PeftModel)
    if penalty.mode == "pm" or (adapter and found == base_of(model_name_or_path)):
        frozen = policy if penalty.mode == "pm" else None
        return ImplicitReward(policy, frozen, settings["beta"], penalty)
    frozen = _ready(load_causal_model(found, max_length=policy.limits.max_length, **options), device)
    if frozen.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        raise PluralignError(
            f"{found}: has another vocabulary than {model_name_or_path}, so it cannot be the reference"
        )
    return ImplicitReward(policy, frozen, settings["beta"], penalty)


def _ready(loaded: CausalModel, device: str | torch.device | None) -> CausalModel:
    limits = loaded.limits
    model = on_device(loaded.model, device)
    return causal_model(model, loaded.tokenizer, limits.max_length, limits.max_response_length)


def reference_of(model: str | os.PathLike[str]) -> str:
    """The model that a policy was tuned from: the base of its adapters, or the model of its run.

    Raises:
        PluralignError: the folder does not say.
    """
    if is_mixture(model):
        return base_of(Path(model) / next(iter(read_mixture(model).weights)))
    config = Path(model) / CONFIG
    if config.exists():
        return str(yaml.safe_load(config.read_text(encoding="utf-8"))["model_name_or_path"])
    if (Path(model) / "adapter_config.json").exists():
        return base_of(model)
    raise PluralignError(f"{model}: does not say which model it was tuned from: give it with --reference")

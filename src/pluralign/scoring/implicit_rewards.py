"""Implicit rewards of policies that were tuned on judgments."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch

from pluralign.choice.preference_matching import Penalty
from pluralign.core.errors import PluralignError
from pluralign.core.runs import CONFIG, read_config
from pluralign.scoring.causal_models import CausalModel, load_causal_model
from pluralign.scoring.items import Items, items_of_texts
from pluralign.scoring.loading import SETTINGS, load_parts, on_device
from pluralign.scoring.mixtures import base_of, is_mixture, read_mixture
from pluralign.scoring.reference import stored_penalty

IMPLICIT_REWARD = "implicit_reward"
"""The key of a tuned policy's settings that is false if its implicit reward is not in log-odds of judgments."""


@dataclass(frozen=True)
class ImplicitReward:
    """r(x, y) = beta (log pi(y|x) - c(x, y)): the log-odds that DPO fitted to the judgments.

    Args:
        policy: the tuned policy.
        reference: the model it was tuned from; `None` is the policy without its adapter.
        beta: the inverse temperature of tuning.
        penalty: which part c of the reference's log-probability is charged; DPO charges all of it (`kl`).

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
        if self.reference is not None:
            charged = self.reference.charges(tokens, self.penalty)
        else:
            with self.policy.model.disable_adapter():
                charged = self.policy.charges(tokens, self.penalty)
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
        device: default: a GPU if there is one.
        model_kwargs: passed to `from_pretrained`.

    Raises:
        PluralignError: the folder holds no such policy, or several; or its reference cannot be found or has another
            vocabulary.
    """
    if is_mixture(model_name_or_path):
        names = ", ".join(str(Path(model_name_or_path) / name) for name in read_mixture(model_name_or_path).weights)
        raise PluralignError(f"{model_name_or_path}: holds one reward per annotator type: give one of {names}")
    config, _ = load_parts(model_name_or_path, {"revision": "main", "trust_remote_code": trust_remote_code})
    settings = getattr(config, SETTINGS, None) or {}
    if not ("beta" in settings and settings.get(IMPLICIT_REWARD, True)):
        raise PluralignError(
            f"{model_name_or_path}: is neither a reward model nor a policy tuned on judgments, so it has no reward: "
            "give another model"
        )
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, **model_kwargs}
    policy = load_causal_model(model_name_or_path, **options)
    on_device(policy.model, device)
    penalty = stored_penalty(settings, str(model_name_or_path))
    name = str(reference or reference_of(model_name_or_path))
    adapter = isinstance(policy.model, peft.PeftModel)
    if penalty.charges_none or (adapter and name == base_of(model_name_or_path)):
        return ImplicitReward(policy, policy if penalty.charges_none else None, settings["beta"], penalty)
    frozen = load_causal_model(name, max_length=policy.limits.max_length, **options)
    on_device(frozen.model, device)
    if frozen.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        raise PluralignError(f"{name}: has another vocabulary than {model_name_or_path}, so it cannot be the reference")
    return ImplicitReward(policy, frozen, settings["beta"], penalty)


def reference_of(model: str | os.PathLike[str]) -> str:
    """The model that a policy was tuned from: the base of its adapters, or the model of its run.

    Raises:
        PluralignError: the folder does not say.
    """
    if is_mixture(model):
        return base_of(Path(model) / next(iter(read_mixture(model).weights)))
    config = Path(model) / CONFIG
    if config.exists():
        settings = read_config(Path(model))
        if settings.get("reference_adapter") == "off":
            return base_of(model)
        return str(settings["model_name_or_path"])
    if (Path(model) / "adapter_config.json").exists():
        return base_of(model)
    raise PluralignError(f"{model}: does not say which model it was tuned from: give it with --reference")

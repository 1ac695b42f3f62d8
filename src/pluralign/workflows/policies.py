"""A policy beside its reference: implicit rewards of judged responses, and whose own answers are better."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pluralign.core.errors import PluralignError
from pluralign.core.runs import CONFIG
from pluralign.evaluation.win_rate import win_rate
from pluralign.policies.loading import load_policy
from pluralign.policies.mixture import MixturePolicy
from pluralign.policies.policy import Sample
from pluralign.scoring.items import Items, items_of_texts
from pluralign.scoring.loading import SETTINGS
from pluralign.scoring.mixtures import base_of, is_mixture, read_mixture
from pluralign.scoring.reference import reference_log_probs
from pluralign.scoring.reward_models import RewardModel

DEFAULT_BETA = 0.1


def reference_of(model: str | os.PathLike[str]) -> str:
    """What a policy was tuned from: the base of its adapters, or the model of its run.

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
    raise PluralignError(f"{model}: does not say what it was tuned from: give the reference with --reference")


def against_reference(
    model: str | os.PathLike[str],
    items: Items,
    reference: str | None,
    beta: float | None,
    reward_model: RewardModel | None,
    samples: int,
    max_new_tokens: int,
    seed: int,
    revision: str,
    trust_remote_code: bool,
    by_type: bool = False,
) -> tuple[np.ndarray, dict[str, float], list[dict[str, Any]]]:
    """Implicit rewards `(responses,)`; win rate and means of the answers; and the answers themselves.

    With `by_type` the policy is a mixture, and the implicit rewards are each adapter's, `(adapters, responses)`.
    Policy and reference are in memory one after the other. Answers are drawn only where there is a reward model.
    """
    policy = load_policy(model, revision=revision, trust_remote_code=trust_remote_code)
    vocabulary = policy.tokenizer.get_vocab()
    tokens = policy.tokenize(items)
    if isinstance(policy, MixturePolicy):
        tuned_with = policy.mixture.beta
        log_probs = policy.adapter_values(tokens) if by_type else policy.values(tokens)
    else:
        tuned_with = getattr(policy.model.config, SETTINGS).get("beta", DEFAULT_BETA)
        log_probs = policy.values(tokens)
    draw = {"n": samples, "max_new_tokens": max_new_tokens, "seed": seed}
    drawn = [] if reward_model is None else policy.sample(items.prompts, **draw)
    limits = policy.limits.max_length
    del policy
    name = reference or reference_of(model)
    frozen = load_policy(name, max_length=limits, trust_remote_code=trust_remote_code)
    if frozen.tokenizer.get_vocab() != vocabulary:
        raise PluralignError(
            f"{name}: has other tokens than {model}, so it cannot be its reference: give another one"
        )
    utilities = (tuned_with if beta is None else beta) * (log_probs - reference_log_probs(frozen, tokens))
    if reward_model is None:
        return utilities, {}, []
    others = frozen.sample(items.prompts, **draw)
    compared, answers = compare(items.prompts, {"policy": drawn, "reference": others}, reward_model, seed)
    return utilities, compared, answers


def compare(
    prompts: list[Any], drawn: dict[str, list[list[Sample]]], reward_model: RewardModel, seed: int = 0
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Win rate of the first of two policies under a reward, and each one's mean reward and length in tokens."""
    metrics: dict[str, float] = {}
    rewards: list[np.ndarray] = []
    answers: list[dict[str, Any]] = []
    for name, of_prompts in drawn.items():
        texts = [[sample.response for sample in group] for group in of_prompts]
        found = reward_model.score_items(items_of_texts(prompts, texts))
        rewards.append(found.reshape(len(prompts), -1))
        flat = [(prompt, one) for prompt, group in zip(prompts, of_prompts, strict=True) for one in group]
        metrics[f"mean_reward/{name}"] = float(found.mean())
        metrics[f"mean_length/{name}"] = float(np.mean([len(one.token_ids) for _, one in flat]))
        answers += [
            {
                "prompt": prompt,
                "response": one.response,
                "by": name,
                "log_prob": one.log_prob,
                "reward": float(value),
                "finished": one.finished,
            }
            for (prompt, one), value in zip(flat, found, strict=True)
        ]
    return win_rate(*rewards, seed=seed) | metrics, answers

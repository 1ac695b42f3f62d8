"""A policy beside its reference: implicit rewards of judged responses, and whose own answers are better."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from pluralign.choice.preference_matching import Penalty
from pluralign.core.errors import PluralignError
from pluralign.evaluation.policies.win_rate import win_rate
from pluralign.policies.loading import load_policy
from pluralign.policies.mixture import MixturePolicy
from pluralign.policies.policy import Sample
from pluralign.scoring.implicit_rewards import reference_of
from pluralign.scoring.items import Items, items_of_texts
from pluralign.scoring.loading import SETTINGS
from pluralign.scoring.reference import reference_charges, stored_penalty
from pluralign.scoring.reward_models import RewardModel
from pluralign.scoring.tokens import TokenizedItems, prompt_tokens
from pluralign.training.preference_matching.reward_functions import Scorer

DEFAULT_BETA = 0.1


@dataclass(frozen=True)
class Draws:
    """Answers that one model drew to every prompt, and what is said of each.

    Args:
        samples: as many to each prompt.
        rewards: `(prompts, answers)`.
        log_probs: log pi(y|x) of the tokens as drawn under the policy, in nats, `(prompts, answers)`.
        reference_log_probs: those under its reference, `(prompts, answers)`.
    """

    samples: Sequence[Sequence[Sample]]
    rewards: np.ndarray
    log_probs: np.ndarray
    reference_log_probs: np.ndarray


@dataclass(frozen=True)
class Beside:
    """A policy beside its reference.

    Args:
        utilities: implicit rewards of the judged responses, `(responses,)`; by type `(adapters, responses)`.
        log_probs: log pi(y|x) of those responses under the policy, in nats, `(responses,)`.
        reference_log_probs: those under its reference; None where no answers were drawn.
        draws: of `policy` and of `reference`; empty where no answers were drawn.
    """

    utilities: np.ndarray
    log_probs: np.ndarray
    reference_log_probs: np.ndarray | None = None
    draws: Mapping[str, Draws] = field(default_factory=dict)


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
) -> Beside:
    """Implicit rewards and log-probabilities of judged responses, and answers of both to their prompts.

    The implicit reward is that of the policy's own tuning: beta (log pi(y|x) - what its penalty charges of
    log pi_ref(y|x)), in DPO all of it. A policy tuned without a reference needs one for its answers only.
    With `by_type` the policy is a mixture, and the implicit rewards are each adapter's, `(adapters, responses)`.
    Policy and reference are in memory one after the other, the policy once more for what it says of the reference's
    answers. Answers are drawn only where there is a reward model.
    """
    load: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    policy = load_policy(model, **load)
    vocabulary = policy.tokenizer.get_vocab()
    tokens = policy.tokenize(items)
    if isinstance(policy, MixturePolicy):
        tuned_with, penalty = policy.mixture.beta, policy.mixture.penalty
        log_probs = policy.adapter_values(tokens) if by_type else policy.values(tokens)
        together = policy.mixed(log_probs) if by_type else log_probs
    else:
        settings = getattr(policy.model.config, SETTINGS)
        tuned_with, penalty = settings.get("beta", DEFAULT_BETA), stored_penalty(settings, str(model))
        log_probs = together = policy.values(tokens)
    draw = {"n": samples, "max_new_tokens": max_new_tokens, "seed": seed}
    drawn = [] if reward_model is None else policy.sample(items.prompts, **draw)
    limits = policy.limits.max_length
    del policy
    scale = tuned_with if beta is None else beta
    if penalty.mode == "pm" and reward_model is None:
        return Beside(scale * log_probs, together)
    name = reference or reference_of(model)
    frozen = load_policy(name, max_length=limits, trust_remote_code=trust_remote_code)
    if frozen.tokenizer.get_vocab() != vocabulary:
        raise PluralignError(f"{name}: has other tokens than {model}, so it cannot be its reference: give another one")
    utilities = scale * (log_probs - reference_charges(frozen, tokens, penalty))
    if reward_model is None:
        return Beside(utilities, together)
    others = frozen.sample(items.prompts, **draw)
    room = limits - max_new_tokens
    frozen_log_probs = [frozen.values(drawn_tokens(items.prompts, drawn, frozen.tokenizer, room)), _own(others)]
    given = reference_charges(frozen, tokens, Penalty("kl"))
    del frozen
    policy = load_policy(model, **load)
    log_probs_of = [_own(drawn), policy.values(drawn_tokens(items.prompts, others, policy.tokenizer, room))]
    del policy
    draws = {
        name: scored(items.prompts, samples_of, reward_model, own, of_reference)
        for name, samples_of, own, of_reference in zip(
            ("policy", "reference"), (drawn, others), log_probs_of, frozen_log_probs, strict=True
        )
    }
    return Beside(utilities, together, given, draws)


def drawn_tokens(
    prompts: Sequence[Any], samples: Sequence[Sequence[Sample]], tokenizer: PreTrainedTokenizerBase, room: int
) -> TokenizedItems:
    """Answers as token ids exactly as they were drawn, after their prompts cut as they were when they were drawn.

    A text that is tokenized again may give other tokens, with another probability.

    Args:
        prompts: texts, or lists of messages.
        samples: as many to each prompt.
        tokenizer: of the policy that drew them.
        room: tokens that drawing left to a prompt.
    """
    item = np.repeat(np.arange(len(prompts)), [len(group) for group in samples])
    answers = [one.token_ids for group in samples for one in group]
    return TokenizedItems(prompt_tokens(prompts, tokenizer, room), answers, item, 0, 0)


def scored(
    prompts: Sequence[Any],
    samples: Sequence[Sequence[Sample]],
    reward_model: Scorer,
    log_probs: np.ndarray,
    reference_log_probs: np.ndarray,
) -> Draws:
    """Answers with their rewards; log-probabilities are `(answers,)`, prompt by prompt."""
    texts = [[one.response for one in group] for group in samples]
    shape = (len(prompts), -1)
    found = reward_model.score_items(items_of_texts(prompts, texts))
    return Draws(samples, found.reshape(shape), log_probs.reshape(shape), reference_log_probs.reshape(shape))


def compare(draws: Mapping[str, Draws], seed: int = 0) -> dict[str, float]:
    """Win rate of the first of two policies under a reward, and each one's mean reward and length in tokens."""
    metrics: dict[str, float] = {}
    for name, own in draws.items():
        metrics[f"mean_reward/{name}"] = float(own.rewards.mean())
        metrics[f"mean_length/{name}"] = float(np.mean([len(one.token_ids) for group in own.samples for one in group]))
    return win_rate(*(own.rewards for own in draws.values()), seed=seed) | metrics


def answer_rows(prompts: Sequence[Any], draws: Mapping[str, Draws]) -> list[dict[str, Any]]:
    """The rows of `answers.jsonl`: every answer, who gave it, how likely it was, and its reward."""
    return [
        {
            "prompt": prompts[place],
            "response": one.response,
            "by": name,
            "log_prob": one.log_prob,
            "policy_log_prob": float(own.log_probs[place, number]),
            "reference_log_prob": float(own.reference_log_probs[place, number]),
            "tokens": len(one.token_ids),
            "reward": float(own.rewards[place, number]),
            "finished": one.finished,
        }
        for name, own in draws.items()
        for place, group in enumerate(own.samples)
        for number, one in enumerate(group)
    ]


def _own(samples: Sequence[Sequence[Sample]]) -> np.ndarray:
    """What the model that drew them says of its answers: `(answers,)`."""
    return np.array([one.log_prob for group in samples for one in group])

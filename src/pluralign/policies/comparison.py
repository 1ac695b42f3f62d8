"""A policy and its reference: implicit rewards of judged responses, and new responses of both to the same prompts."""

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
from pluralign.policies.policy import Policy, Sample
from pluralign.scoring.implicit_rewards import reference_of
from pluralign.scoring.items import Items, items_of_texts
from pluralign.scoring.loading import SETTINGS
from pluralign.scoring.reference import reference_charges, stored_penalty
from pluralign.scoring.reward_models import RewardModel
from pluralign.scoring.scorers import Scorer
from pluralign.scoring.tokens import TokenizedItems, prompt_tokens

DEFAULT_BETA = 0.1


@dataclass(frozen=True)
class Draws:
    """Responses that one model drew to every prompt, with rewards and log-probabilities.

    Args:
        samples: the same number for each prompt.
        rewards: `(prompts, responses)`.
        log_probs: log pi(y|x) of the tokens as drawn under the policy, in nats, `(prompts, responses)`; None if the
            policy has none.
        reference_log_probs: the same under its reference.
    """

    samples: Sequence[Sequence[Sample]]
    rewards: np.ndarray
    log_probs: np.ndarray | None
    reference_log_probs: np.ndarray


@dataclass(frozen=True)
class Beside:
    """A policy beside its reference.

    Args:
        utilities: implicit rewards of the judged responses, `(responses,)`; by type `(adapters, responses)`.
        log_probs: log pi(y|x) of those responses under the policy, in nats, `(responses,)`.
        tokens: of those responses, `(responses,)`.
        reference_log_probs: the log-probabilities under its reference; None where no responses were drawn.
        adapter_log_probs: under each adapter of a typed run, `(adapters, responses)`; None for other policies.
        draws: of `policy` and of `reference`; empty where no responses were drawn.
    """

    utilities: np.ndarray
    log_probs: np.ndarray
    tokens: np.ndarray
    reference_log_probs: np.ndarray | None = None
    adapter_log_probs: np.ndarray | None = None
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
    """Implicit rewards and log-probabilities of judged responses, and new responses of both models to their prompts.

    The implicit reward is that of the policy's own tuning: beta (log pi(y|x) - the part of log pi_ref(y|x) that its
    penalty charges), which in DPO is all of it. A policy tuned without a reference needs one for new responses only.
    With `by_type` the policy is a mixture, and there are implicit rewards for each adapter, `(adapters, responses)`.
    Policy and reference are in memory one after the other; the policy is loaded once more to score the reference's
    responses. Responses are drawn only if there is a reward model.
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
    lengths = np.array([len(ids) for ids in tokens.response_ids])
    draw = {"n": samples, "max_new_tokens": max_new_tokens, "seed": seed}
    drawn = [] if reward_model is None else policy.sample(items.prompts, **draw)
    limits = policy.limits.max_length
    del policy
    scale = tuned_with if beta is None else beta
    if penalty.charges_none and reward_model is None:
        return Beside(scale * log_probs, together, lengths)
    name = reference or reference_of(model)
    frozen = load_policy(name, max_length=limits, trust_remote_code=trust_remote_code)
    if frozen.tokenizer.get_vocab() != vocabulary:
        raise PluralignError(f"{name}: has other tokens than {model}, so it cannot be its reference: give another one")
    utilities = scale * (log_probs - reference_charges(frozen, tokens, penalty))
    if reward_model is None:
        return Beside(utilities, together, lengths)
    others = frozen.sample(items.prompts, **draw)
    prompt_limit = limits - max_new_tokens
    frozen_log_probs = [
        frozen.values(drawn_tokens(items.prompts, drawn, frozen.tokenizer, prompt_limit)),
        _own_log_probs(others),
    ]
    given = reference_charges(frozen, tokens, Penalty("kl"))
    del frozen
    policy = load_policy(model, **load)
    policy_log_probs = [
        _own_log_probs(drawn),
        policy.values(drawn_tokens(items.prompts, others, policy.tokenizer, prompt_limit)),
    ]
    del policy
    draws = {
        name: scored(items.prompts, group, reward_model, *both)
        for name, group, *both in zip(
            ("policy", "reference"), (drawn, others), policy_log_probs, frozen_log_probs, strict=True
        )
    }
    return Beside(utilities, together, lengths, given, log_probs if by_type else None, draws)


def drawn_in_turn(
    model: str | os.PathLike[str],
    prompts: Sequence[Any],
    reference: str | None,
    reward_model: RewardModel,
    samples: int,
    max_new_tokens: int,
    seed: int,
    revision: str,
    trust_remote_code: bool,
) -> dict[str, Draws]:
    """Responses of a policy without log-probabilities and of its reference, which are in memory one after the other."""
    draw = {"n": samples, "max_new_tokens": max_new_tokens, "seed": seed}
    policy = load_policy(model, revision=revision, trust_remote_code=trust_remote_code)
    vocabulary, limits = policy.tokenizer.get_vocab(), policy.limits.max_length
    drawn = {"policy": policy.sample(prompts, **draw)}
    del policy
    name = reference or reference_of(model)
    frozen = load_policy(name, max_length=limits, trust_remote_code=trust_remote_code)
    if frozen.tokenizer.get_vocab() != vocabulary:
        raise PluralignError(f"{name}: has other tokens than {model}, so it cannot be its reference: give another one")
    drawn["reference"] = frozen.sample(prompts, **draw)
    given = {
        who: frozen.values(drawn_tokens(prompts, group, frozen.tokenizer, limits - max_new_tokens))
        for who, group in drawn.items()
    }
    return {who: scored(prompts, group, reward_model, None, given[who]) for who, group in drawn.items()}


def drawn_by_both(
    policy: Policy,
    reference: Policy,
    reward: Scorer,
    prompts: Sequence[Any],
    *,
    samples: int,
    max_new_tokens: int,
    seed: int,
) -> dict[str, Draws]:
    """Responses that a policy and its reference draw, with rewards and both log-probabilities.

    Arguments and errors are those of `pluralign.policies.matching.matching_metrics`.
    """
    if reference.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        raise PluralignError("reference: has other tokens than the policy, so it cannot be its reference")
    if samples < 1:
        raise PluralignError(f"samples: found {samples}, expected 1 or more")
    draws = {}
    for name, model in (("policy", policy), ("reference", reference)):
        drawn = model.sample(prompts, n=samples, max_new_tokens=max_new_tokens, seed=seed)
        tokens = drawn_tokens(prompts, drawn, model.tokenizer, model.limits.max_length - max_new_tokens)
        draws[name] = scored(prompts, drawn, reward, policy.values(tokens), reference.values(tokens))
    return draws


def drawn_tokens(
    prompts: Sequence[Any], samples: Sequence[Sequence[Sample]], tokenizer: PreTrainedTokenizerBase, prompt_limit: int
) -> TokenizedItems:
    """Responses as the token ids that were drawn, after their prompts, cut as they were for sampling.

    A text that is tokenized again may give other tokens, with another probability.

    Args:
        prompts: texts, or lists of messages.
        samples: the same number for each prompt.
        tokenizer: of the policy that drew them.
        prompt_limit: the most tokens of a prompt.
    """
    item = np.repeat(np.arange(len(prompts)), [len(group) for group in samples])
    responses = [sample.token_ids for group in samples for sample in group]
    return TokenizedItems(prompt_tokens(prompts, tokenizer, prompt_limit), responses, item, 0, 0)


def scored(
    prompts: Sequence[Any],
    samples: Sequence[Sequence[Sample]],
    reward: Scorer,
    log_probs: np.ndarray | None,
    reference_log_probs: np.ndarray,
) -> Draws:
    """Responses with their rewards; log-probabilities are flat, prompt by prompt."""
    texts = [[sample.response for sample in group] for group in samples]
    cut = [[not sample.finished for sample in group] for group in samples]
    shape = (len(prompts), -1)
    rewards = reward.score_items(items_of_texts(prompts, texts, cut))
    own = None if log_probs is None else log_probs.reshape(shape)
    return Draws(samples, rewards.reshape(shape), own, reference_log_probs.reshape(shape))


def compare(draws: Mapping[str, Draws], seed: int = 0) -> dict[str, float]:
    """Win rate of the first of two policies under a reward, and each policy's mean reward and length in tokens."""
    metrics: dict[str, float] = {}
    for name, own in draws.items():
        lengths = [len(sample.token_ids) for group in own.samples for sample in group]
        metrics[f"mean_reward/{name}"] = float(own.rewards.mean())
        metrics[f"mean_length/{name}"] = float(np.mean(lengths))
    return win_rate(*(own.rewards for own in draws.values()), seed=seed) | metrics


def answer_rows(prompts: Sequence[Any], draws: Mapping[str, Draws]) -> list[dict[str, Any]]:
    """The rows of `answers.jsonl`: each response with the model that drew it, log-probabilities and reward."""
    return [
        {
            "prompt": prompts[place],
            "response": sample.response,
            "by": name,
            "log_prob": sample.log_prob,
            "policy_log_prob": None if own.log_probs is None else float(own.log_probs[place, number]),
            "reference_log_prob": float(own.reference_log_probs[place, number]),
            "tokens": len(sample.token_ids),
            "reward": float(own.rewards[place, number]),
            "finished": sample.finished,
        }
        for name, own in draws.items()
        for place, group in enumerate(own.samples)
        for number, sample in enumerate(group)
    ]


def _own_log_probs(samples: Sequence[Sequence[Sample]]) -> np.ndarray:
    """Log-probabilities that the sampling model itself gave: `(responses,)`."""
    return np.array([sample.log_prob for group in samples for sample in group])

"""Responses of the types' policies, their base and other policies, and the utility of each for each type."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pluralign.core.errors import PluralignError
from pluralign.core.fingerprint import fingerprint
from pluralign.judgments.table import text_columns
from pluralign.policies.loading import load_policy
from pluralign.policies.mixture import MixturePolicy
from pluralign.policies.policy import Policy, Sample
from pluralign.scoring.items import items_of_texts
from pluralign.scoring.tokens import TokenizedItems, prompt_tokens
from pluralign.scoring.type_judges import TypeJudges

BASE = "base"
"""The name of the model from which the types' policies were tuned."""


def draw_answers(
    run: Path,
    prompts: Sequence[Any],
    further: Mapping[str, str | os.PathLike[str]],
    *,
    own: bool = True,
    judges: TypeJudges | None = None,
    samples: int,
    max_new_tokens: int,
    seed: int,
    trust_remote_code: bool = False,
) -> pa.Table:
    """Draw responses, score each under the policy of every type and the base, and let the types' judges rate it.

    Other policies are loaded one after the other, and never at the same time as those of the types.
    With `own`, responses are also drawn from the policies of the types and from their base.

    Returns:
        a row per response, policy by policy and prompt by prompt: `prompt`, `response`, `by` (the policy), `log_prob`
        under that policy, `tokens`, `finished`, and for each type `utility_K` = log pi_K(y|x) - log pi_ref(y|x) in
        nats, where log pi_ref counts only as far as the penalty of the run includes it, and `judged_K`, the utility by
        the type's judge (`utility_K` without judges).

    Raises:
        PluralignError: a policy cannot be loaded, has another tokenizer, or is too short for the responses.
    """
    options: dict[str, Any] = {"n": samples, "max_new_tokens": max_new_tokens}
    policy = policy_of_types(run, trust_remote_code)
    limits, vocabulary = policy.limits, policy.tokenizer.get_vocab()
    drawn: dict[str, list[list[Sample]]] = {}
    if own:
        # A mixture draws an adapter for each response; the same model as a plain policy uses the active one.
        plain = Policy(policy.model, policy.tokenizer, policy.limits)
        for name in [*policy.mixture.weights, BASE]:
            with plain.using(None if name == BASE else name):
                drawn[name] = plain.sample(prompts, seed=seed_of(seed, name), **options)
        del plain
    if further:
        del policy
        for name, folder in further.items():
            other = load_policy(folder, max_length=limits.max_length, trust_remote_code=trust_remote_code)
            if other.tokenizer.get_vocab() != vocabulary:
                raise PluralignError(
                    f"{folder}: has other tokens than {run}, so its responses cannot be scored under the policies of "
                    "the types: give a policy with the same tokenizer"
                )
            drawn[name] = other.sample(prompts, seed=seed_of(seed, name), **options)
            del other
        policy = policy_of_types(run, trust_remote_code)
    ids = prompt_tokens(prompts, policy.tokenizer, limits.max_length - max_new_tokens)
    answers = [sample for groups in drawn.values() for group in groups for sample in group]
    prompt = np.tile(np.repeat(np.arange(len(prompts)), samples), len(drawn))
    utilities = log_ratios_of(policy, ids, [sample.token_ids for sample in answers], prompt)
    columns: dict[str, Any] = {
        **text_columns([prompts[index] for index in prompt], [sample.response for sample in answers]),
        "by": np.repeat(list(drawn), len(prompts) * samples),
        "log_prob": [sample.log_prob for sample in answers],
        "tokens": [len(sample.token_ids) for sample in answers],
        "finished": [sample.finished for sample in answers],
    }
    judged = utilities
    if judges is not None:
        texts = [[one.response for one in group] for groups in drawn.values() for group in groups]
        judged = judges.utilities(items_of_texts(list(prompts) * len(drawn), texts))
    for name, rows in (("utility", utilities), ("judged", judged)):
        columns |= {f"{name}_{kind + 1}": row for kind, row in enumerate(rows)}
    return pa.table(columns)


def log_ratios_of(
    policy: MixturePolicy, prompt_ids: list[list[int]], answers: Sequence[list[int]], prompt: np.ndarray
) -> np.ndarray:
    """log pi_k(y|x) - log pi_ref(y|x) of drawn tokens, in nats; repeated responses are scored once.

    As in tuning, log pi_ref(y|x) is subtracted only as far as the penalty of the mixture includes it.

    `answers` are token ids as drawn, since tokenizing their texts again could give other tokens; `prompt`, of shape
    `(responses,)`, is the prompt of each. The result is `(types, responses)`, float64.
    """
    place: dict[tuple[int, ...], int] = {}
    keys = [(int(of), *answer) for of, answer in zip(prompt, answers, strict=True)]
    for key in sorted(set(keys)):  # prompt by prompt
        place[key] = len(place)
    unique = TokenizedItems(prompt_ids, [list(key[1:]) for key in place], np.array([key[0] for key in place]), 0, 0)
    ratios = policy.adapter_values(unique) - policy.reference_charges(unique)
    return np.asarray(ratios[:, [place[key] for key in keys]])


def utilities_by(answers: pa.Table, names: Sequence[str], prompts: int, column: str = "utility") -> np.ndarray:
    """Utilities of the responses of some policies: `(types, policies, prompts, samples)`.

    `column` is `utility` (log-ratios in nats) or `judged`.
    """
    types = sum(name.startswith(f"{column}_") for name in answers.column_names)
    by = np.array(answers.column("by").to_pylist())
    utilities = np.stack([answers.column(f"{column}_{kind + 1}").to_numpy() for kind in range(types)])
    return np.stack([utilities[:, by == name].reshape(types, prompts, -1) for name in names], axis=1)


def seed_of(seed: int, name: str) -> int:
    """The seed of a policy: with the same seed, the responses of two policies would not be independent.

    Examples:
        >>> seed_of(0, "base") == seed_of(0, "base"), seed_of(0, "base") == seed_of(0, "type-1")
        (True, False)
    """
    return int(fingerprint(seed, name)[:8], 16)


def policy_of_types(run: Path, trust_remote_code: bool = False) -> MixturePolicy:
    """The policies of a run's types.

    Raises:
        PluralignError: the run holds one policy.
    """
    policy = load_policy(run, trust_remote_code=trust_remote_code)
    if not isinstance(policy, MixturePolicy):
        raise PluralignError(f"{run}: holds one policy, and the policies of several types were expected")
    return policy

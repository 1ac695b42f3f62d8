"""Policies compared with the truth about the town: whose preferences they reproduce, and who likes their responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from pluralign.demo.town import candidates, population_choices, types_by_group
from pluralign.evaluation.policies.divergences import list_divergences, minority_mass
from pluralign.evaluation.policies.win_rate import win_rate
from pluralign.judgments.population import Simulation
from pluralign.policies.loading import load_policy
from pluralign.scoring.items import Items, items_of_texts
from pluralign.scoring.mixtures import RESPONSIBILITIES
from pluralign.scoring.reward_models import load_reward_model

CONTEXT = 160
"""Maximum tokens of the demo's language model."""

ANSWER = 80
"""Maximum tokens of a sampled response."""

LISTED = 12
"""Composed responses per prompt, from which policies and the town choose."""


def win_rates(
    simulation: Simulation, policies: Mapping[str, Path], base: Path, items: Items, seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    """How often each group prefers each policy's responses to those of the base model, with intervals.

    A run with a policy per type answers each group by the type that holds most of its annotators.
    """

    def utilities(model: Path, adapter: str | None = None) -> np.ndarray:
        policy = load_policy(model if adapter is None else model / adapter, max_length=CONTEXT)
        samples = policy.sample(items.prompts, n=4, max_new_tokens=ANSWER, seed=seed)
        return np.array([[simulation.utilities(sample.response) for sample in group] for group in samples])

    groups = [group.name for group in simulation.town.types]
    before = utilities(base)  # (prompts, samples, groups)
    rates: dict[str, dict[str, dict[str, float]]] = {}
    for name, model in policies.items():
        if (model / RESPONSIBILITIES).exists():
            own = types_by_group(simulation, model)
            by_adapter = {adapter: utilities(model, adapter) for adapter in set(own.values())}
            after = {group: by_adapter[adapter] for group, adapter in own.items()}
        else:
            after = dict.fromkeys(groups, utilities(model))
        rates[name] = {
            group: win_rate(after[group][:, :, index], before[:, :, index], seed=seed)
            for index, group in enumerate(groups)
        }
    return rates


def list_metrics(population: np.ndarray, types: np.ndarray, log_probs: np.ndarray) -> dict[str, Any]:
    """How a policy chooses from lists of responses, compared with the town; all arrays are `(prompts, responses)`.

    `population` and `types` come from `population_choices`; `log_probs` is log pi(y|x), up to a constant per prompt.
    Returns the `shares` of each type's responses, `total_variation` to the town (mean over prompts), `minority_mass`,
    and `largest`, the mean share of the likeliest response.

    Examples:
        >>> metrics = list_metrics(np.log([[0.6, 0.4]]), np.array([[0, 1]]), np.log([[0.9, 0.1]]))
        >>> [round(share, 3) for share in metrics["shares"]], round(metrics["total_variation"], 3)
        ([0.9, 0.1], 0.3)
        >>> round(metrics["minority_mass"], 3)
        0.25
    """
    policy = softmax(log_probs, axis=-1)
    kept, held = minority_mass(population, log_probs)
    return {
        "shares": [float(policy[types == kind].sum() / len(policy)) for kind in range(int(types.max()) + 1)],
        "total_variation": float(list_divergences(population, log_probs)[2].mean()),
        "minority_mass": float(kept.sum() / held.sum()),
        "largest": float(policy.max(-1).mean()),
    }


def compare_lists(
    simulation: Simulation,
    policies: Mapping[str, Path],
    base: Path,
    reward: Path,
    prompts: Sequence[str],
    seed: int,
) -> dict[str, dict[str, Any]]:
    """What the town and policies choose from the same lists of responses; see `list_metrics`.

    The two optima over the lists at beta 1, softmax(r + log pi_ref) and softmax(r), are what KL-RLHF and preference
    matching aim at. `base` is the language model that the policies were tuned from.
    """
    texts = candidates(prompts, LISTED, seed)
    population, types = population_choices(simulation, texts)
    items = items_of_texts(list(prompts), texts)

    def log_probs(folder: Path) -> np.ndarray:
        return load_policy(folder, max_length=CONTEXT).log_probs(items).reshape(len(prompts), -1)

    reference = log_probs(base)
    rewards = load_reward_model(reward).score_items(items).reshape(len(prompts), -1)
    rows = {
        "population": population,
        "language model": reference,
        "optimum of KL-RLHF": rewards + reference,
        "optimum of matching": rewards,
        **{name: log_probs(folder) for name, folder in policies.items()},
    }
    return {name: list_metrics(population, types, row) for name, row in rows.items()}

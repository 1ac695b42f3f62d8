"""Policies compared with the truth about the town: whose preferences they reproduce, and who likes their responses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy.special import softmax

from pluralign.demo.town import candidates, chosen_shares, log_choices, population_choices, types_by_group
from pluralign.evaluation.intervals import Resampling
from pluralign.evaluation.policies.divergences import list_divergences, minority_mass
from pluralign.evaluation.policies.regret import largest_losses, means, preferred, with_mixtures
from pluralign.judgments.population import Simulation
from pluralign.policies.comparison import drawn_tokens
from pluralign.policies.loading import load_policy
from pluralign.policies.policy import Policy, Sample
from pluralign.scoring.items import items_of_texts
from pluralign.scoring.reward_models import load_reward_model
from pluralign.workflows.aggregate.answers import BASE
from pluralign.workflows.aggregate.tuning import MIXTURE

CONTEXT = 160
"""Maximum tokens of the demo's language model."""

ANSWER = 80
"""Maximum tokens of a sampled response."""

LISTED = 12
"""Composed responses per prompt, from which policies and the town choose."""

SAID = 6
"""Responses that a policy draws to each prompt."""


DPO = "DPO"
"""The name of the demo's plain DPO policy."""

OWN = "own type's"
"""Every group answered by the policy of the type that holds most of its annotators."""


@dataclass(frozen=True)
class WinRates:
    """How often a policy's responses are preferred to those of the base model, by true utilities, with intervals.

    `groups` has `win_rate`, `win_rate_low` and `win_rate_high` of each group, `worst` the same of the worst-off one.
    """

    groups: dict[str, dict[str, float]]
    worst: dict[str, float]


def win_rates(simulation: Simulation, run: Path, together: Path, seed: int) -> dict[str, WinRates]:
    """How often each group prefers the responses in an aggregation to those of the base, policy by policy.

    The utilities are the true ones. A mixture's rate is the weighted mean of its parts', and `OWN` gives every group
    the policy of the type that holds most of its annotators.
    """
    story = json.loads((together / "aggregate.json").read_text(encoding="utf-8"))
    table = pq.read_table(together / "answers.parquet", columns=["by", "response"])
    by, responses = np.array(table.column("by").to_pylist()), table.column("response").to_pylist()
    true = {text: simulation.utilities(text) for text in set(responses)}
    utilities = np.array([true[text] for text in responses]).T  # (groups, responses)
    names = list(dict.fromkeys(by.tolist()))
    shape = (len(utilities), 1, story["prompts"], -1)
    drawn = np.concatenate([utilities[:, by == name].reshape(shape) for name in names], 1)
    better = preferred(drawn, drawn[:, [names.index(BASE)]])  # (groups, policies, prompts)
    mixtures = {
        policy["name"]: policy["weights"]
        for policy in story["policies"]
        if policy["name"] == MIXTURE or policy["kind"] == "compared"
    }
    parts = [kind["policy"] for kind in story["types"]]
    order = [*parts, *(name for name in names if name not in parts)]
    better = with_mixtures(better[:, [names.index(name) for name in order]], np.array(list(mixtures.values())))
    adapters = types_by_group(simulation, run)
    groups = [group.name for group in simulation.town.types]
    own = np.stack([better[place, order.index(adapters[group])] for place, group in enumerate(groups)])
    better = np.concatenate([better, own[:, None]], 1)
    rates, worst = means(better, seed=seed), largest_losses(1 - better, seed=seed)

    def shown(value: float, low: float, high: float) -> dict[str, float]:
        ends = {"win_rate_low": float(low), "win_rate_high": float(high)} if np.isfinite(low) else {}
        return {"win_rate": float(value), **ends}

    return {
        name: WinRates(
            {
                group: shown(rates.value[row, place], rates.low[row, place], rates.high[row, place])
                for row, group in enumerate(groups)
            },
            shown(1 - worst.value[place], 1 - worst.high[place], 1 - worst.low[place]),
        )
        for place, name in enumerate([*order, *mixtures, OWN])
    }


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


def said_metrics(
    simulation: Simulation, prompts: Sequence[str], samples: Sequence[Sequence[Sample]], base: Policy, seed: int
) -> dict[str, Any]:
    """Which types' responses a policy says, compared with what the town chooses from everything that it composes.

    Args:
        simulation: the town.
        prompts: what was asked.
        samples: responses that a policy drew to each prompt.
        base: the language model whose perplexity tells whether they are still language.
        seed: of the intervals, which are over prompts.

    Returns:
        `shares` of the types with `shares_low` and `shares_high`; `total_variation` to the town's shares with `_low`
        and `_high`, which hold the distance that remains without the noise of drawing; `mean_length` in tokens;
        `unfinished`, the share that was cut; `perplexity` per token under the base.
    """
    flat = [sample for group in samples for sample in group]
    kinds = log_choices(simulation, [sample.response for sample in flat]).argmax(axis=0)
    of_kind = (kinds[:, None] == np.arange(len(simulation.town.types))).astype(float)  # (responses, types)
    shares = of_kind.mean(0)
    prompt = np.repeat(np.arange(len(samples)), [len(group) for group in samples])
    resampling = Resampling(prompt, seed=seed)
    means = resampling.mean_intervals({str(kind): (column, 1.0) for kind, column in enumerate(of_kind.T)})
    gaps = shares - np.array(chosen_shares(simulation))
    ends = resampling.absolute_sum_ends(gaps, (of_kind - shares) / len(flat))
    tokens = drawn_tokens(prompts, samples, base.tokenizer, base.limits.max_length - ANSWER)
    count = sum(len(sample.token_ids) for sample in flat)
    metrics: dict[str, Any] = {
        "shares": shares.tolist(),
        "total_variation": float(np.abs(gaps).sum() / 2),
        "mean_length": count / len(flat),
        "unfinished": float(np.mean([not sample.finished for sample in flat])),
        "perplexity": float(np.exp(-base.values(tokens).sum() / count)),
    }
    if ends is not None:
        metrics |= {"total_variation_low": ends[0] / 2, "total_variation_high": ends[1] / 2}
        for end in ("low", "high"):
            metrics[f"shares_{end}"] = [means[f"{kind}_{end}"] for kind in range(len(shares))]
    return metrics


def compare_said(
    simulation: Simulation, policies: Mapping[str, Path], base: Path, prompts: Sequence[str], seed: int
) -> dict[str, dict[str, Any]]:
    """`said_metrics` of the language model `base` and of policies that were tuned from it."""
    reference = load_policy(base, max_length=CONTEXT)
    rows = {}
    for name, folder in {"language model": base, **policies}.items():
        policy = load_policy(folder, max_length=CONTEXT)
        samples = policy.sample(prompts, n=SAID, max_new_tokens=ANSWER, seed=seed)
        rows[name] = said_metrics(simulation, prompts, samples, reference, seed)
    return rows

"""Does a policy match its reward model? Metrics on answers drawn, on its reference's answers, and on given ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pluralign.core.errors import PluralignError
from pluralign.core.files import atomic_write, write_json
from pluralign.evaluation.policies.answer_lists import AnswerLists, MarginMap, matching_over, pair_plots
from pluralign.evaluation.policies.drawn_texts import distinct, entropy, perplexity
from pluralign.policies.policy import Policy
from pluralign.scoring.items import Items
from pluralign.scoring.reward_models import RewardModel
from pluralign.training.preference_matching.reward_functions import Scorer
from pluralign.workflows.evaluate.policies import Beside, Draws, answer_rows, compare, drawn_tokens, scored

MATCHING = "matching.json"
"""The file of an evaluation that holds histograms of pair probabilities, and points of margins."""

GIVEN = "given"
"""What the lists of responses that people judged are called."""

Slices = Mapping[str, Sequence[str | None]]
"""For each column, such as `source`, its value for every judgment."""


def matching_metrics(
    policy: Policy,
    reference: Policy,
    reward: Scorer,
    prompts: Sequence[Any],
    *,
    samples: int = 2,
    max_new_tokens: int = 128,
    seed: int = 0,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Let a policy and its reference answer prompts, and tell how far the policy is from its reward model.

    Log-probabilities are of the tokens as they were drawn, at temperature 1 and untruncated. All three models are
    in memory; `pluralign evaluate` loads policy and reference one after the other.

    Args:
        policy: what is judged.
        reference: what it was tuned from, with the same tokens.
        reward: gives rewards in log-odds by `score_items`: a reward model (its stored temperature divides them, its
            isotonic recalibration goes on margins), an average of some, a tuned policy's implicit reward.
        prompts: texts, or lists of messages.
        samples: answers to each prompt from either; a single one leaves out what needs pairs.
        max_new_tokens: the longest answer.
        seed: of the answers and of the bootstrap.

    Returns:
        the metrics of docs/matching-metrics.md but for those `on=given`, with `win_rate` and means as `evaluate`
        has them; and the rows of `answers.jsonl`.

    Raises:
        PluralignError: the models have other tokens, or `max_new_tokens` leaves no room for a prompt.

    Compare a tuned policy with what it was tuned from:

        metrics, answers = matching_metrics(
            pluralign.load_policy("runs/policy"), pluralign.load_policy("base"),
            pluralign.load_reward_model("runs/reward"), ["Tea?", "Rain or sun?"],
        )
    """
    draws = drawn_by_both(policy, reference, reward, prompts, samples=samples, max_new_tokens=max_new_tokens, seed=seed)
    return compare(draws, seed) | of_draws(draws, margin_map_of(reward), {}, seed)[0], answer_rows(prompts, draws)


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
    """What a policy and its reference answer, with rewards and both log-probabilities; arguments as above.

    Raises:
        PluralignError: as of `matching_metrics`.
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


def write_matching(folder: Path, answers: Sequence[Mapping[str, Any]], plots: Sequence[Mapping[str, Any]]) -> None:
    """Write `answers.jsonl` and `matching.json` into a folder."""
    with atomic_write(folder / "answers.jsonl", "w") as file:
        file.writelines(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)
    write_json(folder / MATCHING, {"lists": list(plots)})


def of_judgments(
    items: Items,
    rewards: np.ndarray,
    log_probs: np.ndarray,
    reference_log_probs: np.ndarray,
    margin_map: MarginMap | None = None,
    slices: Slices | None = None,
    seed: int = 0,
    suffix: str = "",
) -> tuple[dict[str, float], dict[str, Any]]:
    """How far a policy is from its reward model on responses that people judged; nothing is drawn.

    What a judgment shows is a list, and counts once by its weight; whom the person preferred does not enter.

    Args:
        items: the judgments.
        rewards: of the unique responses, in log-odds, `(responses,)`.
        log_probs: log pi(y|x) of them, in nats, `(responses,)`.
        reference_log_probs: log pi_ref(y|x), `(responses,)`.
        margin_map: what differences of rewards have yet to go through to be log-odds.
        slices: columns whose values get metrics of their own.
        seed: of the bootstrap.
        suffix: of the metrics' names.

    Returns:
        the metrics of `pluralign.evaluation.policies.answer_lists.matching_over`, and what `pair_plots` there gives.

    Examples:
        >>> from pluralign.judgments.table import Judgments
        >>> from pluralign.scoring.items import items_of
        >>> rows = [{"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, 2]}] * 3
        >>> values = np.array([1.0, 0.0])
        >>> found, _ = of_judgments(items_of(Judgments.from_rows(rows)), values, values - 9, np.zeros(2))
        >>> found["pm_divergence"], found["pm_divergence/reference"], found["minority_mass"]
        (0.0, 1.0, 1.0)
    """
    shown = items.response
    lists = AnswerLists.of(
        rewards[shown],
        log_probs[shown],
        reference_log_probs[shown],
        shown,
        items.offsets,
        items.prompt,
        items.weight,
    )
    weights = {name: items.weight * inside for name, inside in _inside(slices or {}).items()}
    metrics = matching_over(lists, margin_map, slices=weights, suffix=suffix, seed=seed)
    return metrics, pair_plots(lists, margin_map)


def of_draws(
    draws: Mapping[str, Draws], margin_map: MarginMap | None, slices: Mapping[str, np.ndarray], seed: int = 0
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Metrics of the answers that a policy and its reference drew, and what the plots need of either.

    Args:
        draws: of `policy` and of `reference`.
        margin_map: what differences of rewards have yet to go through to be log-odds.
        slices: by name, such as `source=chat`, whether each prompt is in the slice, `(prompts,)`.
        seed: of the bootstraps.
    """
    metrics: dict[str, float] = {}
    plots = []
    for name, own in draws.items():
        lists = _lists(own)
        mine = name == "policy"
        metrics |= matching_over(
            lists, margin_map, slices=slices if mine else {}, suffix="" if mine else f"/on={name}", seed=seed
        )
        metrics |= _texts(own, own.log_probs if mine else own.reference_log_probs, "" if mine else f"/{name}", seed)
        plots.append({"on": name, **pair_plots(lists, margin_map)})
    return metrics, plots


def matching_beside(
    beside: Beside, items: Items, reward_model: RewardModel, slices: Slices, seed: int = 0
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """All metrics of matching of a policy whose answers were drawn, and what `matching.json` holds.

    Args:
        beside: the policy beside its reference.
        items: the judgments whose prompts were answered.
        reward_model: that scored the answers.
        slices: columns whose values get metrics of their own.
        seed: of the bootstraps.
    """
    if beside.reference_log_probs is None:
        raise PluralignError("beside: no answers were drawn: give a reward model")
    margin_map = margin_map_of(reward_model)
    prompts = len(items.prompts)
    answered = {
        name: (np.bincount(items.prompt[inside], minlength=prompts) > 0).astype(float)
        for name, inside in _inside(slices).items()
    }
    metrics, plots = of_draws(beside.draws, margin_map, answered, seed)
    rewards = reward_model.score_items(items)
    found, plot = of_judgments(
        items, rewards, beside.log_probs, beside.reference_log_probs, margin_map, slices, seed, f"/on={GIVEN}"
    )
    return metrics | found, [*plots, {"on": GIVEN, **plot}]


def margin_map_of(reward: Scorer) -> MarginMap | None:
    """What differences of rewards have yet to go through to be log-odds; only a reward model has such a map."""
    return reward.margin_map if isinstance(reward, RewardModel) else None


def reward_note(name: str, reward_model: RewardModel) -> str:
    """For the card: how the rewards of the model that judges became log-odds."""
    if reward_model.temperature is not None:
        done = f"are divided by its stored temperature {reward_model.temperature:.4g}."
        return f"Rewards of `{name}` {done}"
    if reward_model.margin_map is not None:
        done = "go through its stored isotonic recalibration: pairs alone are judged."
        return f"Differences of rewards of `{name}` {done}"
    return (
        f"`{name}` has no stored recalibration: its rewards are taken as log-odds as they are, and matching is no "
        "better than that. `pluralign calibrate` finds a temperature."
    )


def _lists(draws: Draws) -> AnswerLists:
    """The answers to each prompt as a list; answers are told apart by their tokens."""
    prompts, n = draws.rewards.shape
    place: dict[tuple[int, ...], int] = {}
    answer = [place.setdefault(tuple(one.token_ids), len(place)) for group in draws.samples for one in group]
    return AnswerLists.of(
        draws.rewards.ravel(),
        draws.log_probs.ravel(),
        draws.reference_log_probs.ravel(),
        np.array(answer, dtype=np.int64),
        np.arange(0, prompts * n + 1, n),
        np.arange(prompts),
        np.ones(prompts),
    )


def _texts(draws: Draws, own_log_probs: np.ndarray, suffix: str, seed: int) -> dict[str, float]:
    """What the answers are like by themselves: variety, gibberish, and how many were cut."""
    prompts, n = draws.rewards.shape
    flat = [one for group in draws.samples for one in group]
    lengths = np.array([len(one.token_ids) for one in flat])
    prompt = np.repeat(np.arange(prompts), n)
    found = entropy(own_log_probs.ravel(), lengths, prompt, seed=seed)
    under = perplexity(draws.reference_log_probs.ravel(), lengths, prompt, seed=seed)
    found |= {f"reference_{key}": value for key, value in under.items()}
    for n_gram in (1, 2):
        if (share := distinct([one.token_ids for one in flat], n_gram)) is not None:
            found[f"distinct_{n_gram}"] = share
    found["unfinished"] = float(np.mean([not one.finished for one in flat]))
    return _named(found, suffix)


def _named(metrics: Mapping[str, float], suffix: str) -> dict[str, float]:
    """Metrics under a suffix, which stands before `_low` and `_high`."""
    named = {}
    for key, value in metrics.items():
        end = next((one for one in ("_low", "_high") if key.endswith(one)), "")
        named[key.removesuffix(end) + suffix + end] = value
    return named


def _inside(slices: Slices) -> dict[str, np.ndarray]:
    """For each value of each column, whether each judgment has it: `(judgments,)`."""
    return {
        f"{column}={name}": np.array([value == name for value in values])
        for column, values in slices.items()
        for name in sorted({value for value in values if value is not None})
    }

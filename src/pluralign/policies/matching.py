"""How far a policy is from its reward model (preference matching, arXiv 2405.16455).

Measured on responses that the policy draws, on those of its reference, and on responses that annotators judged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pluralign.core.errors import PluralignError
from pluralign.core.files import atomic_write, write_json
from pluralign.evaluation.policies.answer_lists import AnswerLists, MarginMap, matching_over, pair_plots
from pluralign.evaluation.policies.drawn_texts import distinct, entropy, perplexity
from pluralign.evaluation.policies.said_wanted import said_and_wanted
from pluralign.policies.comparison import Beside, Draws, answer_rows, compare, drawn_by_both
from pluralign.policies.policy import Policy
from pluralign.scoring.items import Items, items_of_texts
from pluralign.scoring.reward_models import RewardModel
from pluralign.scoring.scorers import Scorer

MATCHING = "matching.json"
"""The file of an evaluation that holds histograms of pair probabilities and points of margins."""

GIVEN = "given"
"""The name of the lists of responses that annotators judged."""

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
    """Draw responses of a policy and its reference, and measure how far the policy is from its reward model.

    Log-probabilities are those of the tokens as they were drawn, at temperature 1 and untruncated. All three models
    are in memory; `pluralign evaluate` loads policy and reference one after the other.

    Args:
        policy: the policy to measure.
        reference: the model it was tuned from, with the same tokens.
        reward: gives rewards in log-odds by `score_items`: a reward model (a stored temperature divides rewards, an
            isotonic recalibration applies to margins), an average of some, or a policy's implicit reward.
        prompts: texts, or lists of messages.
        samples: responses of each model to each prompt; with a single one, metrics of pairs are left out.
        max_new_tokens: the longest response.
        seed: seed of sampling and of the bootstrap.

    Returns:
        the metrics of docs/matching-metrics.md except those `on=given`, with `win_rate` and means as in `evaluate`;
        and the rows of `answers.jsonl`.

    Raises:
        PluralignError: the models have other tokens, or `max_new_tokens` leaves no space for a prompt.

    Compare a tuned policy with the model that it was tuned from:

        metrics, answers = matching_metrics(
            pluralign.load_policy("runs/policy"), pluralign.load_policy("base"),
            pluralign.load_reward_model("runs/reward"), ["Tea?", "Rain or sun?"],
        )
    """
    draws = drawn_by_both(policy, reference, reward, prompts, samples=samples, max_new_tokens=max_new_tokens, seed=seed)
    return compare(draws, seed) | of_draws(draws, margin_map_of(reward), {}, seed)[0], answer_rows(prompts, draws)


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
    tokens: np.ndarray | None = None,
    by_judgment: np.ndarray | None = None,
) -> tuple[dict[str, float], dict[str, Any]]:
    """How far a policy is from its reward model on responses that annotators judged; nothing is drawn.

    Each judgment is a list of responses and counts once, by its weight; the annotator's ranking is not used.

    Args:
        items: the judgments.
        rewards: of the unique responses, in log-odds, `(responses,)`.
        log_probs: their log pi(y|x), in nats, `(responses,)`.
        reference_log_probs: their log pi_ref(y|x), `(responses,)`.
        margin_map: turns differences of rewards into log-odds; `None` if they are log-odds already.
        slices: columns to slice the metrics by.
        seed: seed of the bootstrap.
        suffix: appended to the metrics' names.
        tokens: of the unique responses, `(responses,)`, for `minority_mass_per_token`.
        by_judgment: log pi(y|x) of the shown responses in the place of `log_probs`, `(shown,)` as `items.response`,
            where judgments are read under different policies.

    Returns:
        the metrics of `pluralign.evaluation.policies.answer_lists.matching_over`, and its `pair_plots`.

    Examples:
        >>> from pluralign.judgments.table import Judgments
        >>> from pluralign.scoring.items import items_of
        >>> rows = [{"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, 2]}] * 3
        >>> values = np.array([1.0, 0.0])
        >>> metrics, _ = of_judgments(items_of(Judgments.from_rows(rows)), values, values - 9, np.zeros(2))
        >>> metrics["pm_divergence"], metrics["pm_divergence/reference"], metrics["minority_mass"]
        (0.0, 1.0, 1.0)
    """
    shown = items.response
    lists = AnswerLists.of(
        rewards[shown],
        log_probs[shown] if by_judgment is None else by_judgment,
        reference_log_probs[shown],
        shown,
        items.offsets,
        items.prompt,
        items.weight,
    )
    weights = {name: items.weight * inside for name, inside in _inside(slices or {}).items()}
    metrics = matching_over(lists, margin_map, slices=weights, suffix=suffix, seed=seed)
    if tokens is not None:
        metrics |= _mass_per_token(lists, tokens[shown], margin_map, suffix, seed)
    return metrics, pair_plots(lists, margin_map)


def of_draws(
    draws: Mapping[str, Draws], margin_map: MarginMap | None, slices: Mapping[str, np.ndarray], seed: int = 0
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Metrics of the responses that a policy and its reference drew, and the data of the plots for each.

    Without log-probabilities of the policy, of the responses alone.

    Args:
        draws: of `policy` and of `reference`.
        margin_map: turns differences of rewards into log-odds; `None` if they are log-odds already.
        slices: by name, such as `source=chat`, whether each prompt is in the slice, `(prompts,)`.
        seed: seed of the bootstraps.
    """
    metrics: dict[str, float] = {}
    plots = []
    for name, own in draws.items():
        is_policy = name == "policy"
        if own.log_probs is not None:
            lists = _lists(own, own.log_probs)
            suffix = "" if is_policy else f"/on={name}"
            metrics |= matching_over(lists, margin_map, slices=slices if is_policy else {}, suffix=suffix, seed=seed)
            counts = np.array([len(sample.token_ids) for group in own.samples for sample in group])
            metrics |= _mass_per_token(lists, counts, margin_map, suffix, seed)
            plots.append({"on": name, **pair_plots(lists, margin_map)})
        log_probs = own.log_probs if is_policy else own.reference_log_probs
        metrics |= _texts(own, log_probs, "" if is_policy else f"/{name}", seed)
    return metrics, plots


def _mass_per_token(
    lists: AnswerLists, tokens: np.ndarray, margin_map: MarginMap | None, suffix: str, seed: int
) -> dict[str, float]:
    """`minority_mass_per_token`: minority mass with log pi(y) / tokens in place of log pi(y)."""
    each = replace(lists, log_probs=lists.log_probs / tokens, reference_log_probs=lists.reference_log_probs / tokens)
    found = matching_over(each, margin_map, seed=seed)
    kept = {key: value for key, value in found.items() if key.startswith("minority_mass")}
    return _named({key.replace("mass", "mass_per_token"): value for key, value in kept.items()}, suffix)


Kinds = Callable[[Items, np.ndarray], np.ndarray]
"""The kind of each response `(responses,)`, from items and which of their responses were judged."""


def said_beside(
    draws: Draws, items: Items, annotators: Sequence[str | None], kinds: Kinds, names: Sequence[str], seed: int = 0
) -> dict[str, float]:
    """Shares of kinds among drawn responses and among those that annotators put first.

    Args:
        draws: of the policy, to the prompts of the judgments.
        items: the judgments.
        annotators: of each judgment.
        kinds: tells the kind of each response.
        names: of the kinds; empty where the judged responses themselves are the kinds.
        seed: seed of the bootstrap.

    Returns:
        the metrics of `pluralign.evaluation.policies.said_wanted.said_and_wanted`.
    """
    members = [np.flatnonzero(items.item == item) for item in range(len(items.prompts))]
    judged_texts = [[items.responses[place] for place in own] for own in members]
    drawn_texts = [[sample.response for sample in group] for group in draws.samples]
    cut = [[not sample.finished for sample in group] for group in draws.samples]
    together = items_of_texts(
        items.prompts,
        [a + b for a, b in zip(judged_texts, drawn_texts, strict=True)],
        [[False] * len(a) + b for a, b in zip(judged_texts, cut, strict=True)],
    )
    judged = np.concatenate(
        [np.arange(len(a) + len(b)) < len(a) for a, b in zip(judged_texts, drawn_texts, strict=True)]
    )
    found = kinds(together, judged)
    of_judged = np.empty(len(items.responses), dtype=np.int64)
    of_judged[np.concatenate(members)] = found[judged]
    first, owner, weight = [], [], []
    for judgment in range(items.judgments):
        shown, ranks = items.response[items.shown(judgment)], items.ranks[items.shown(judgment)]
        best = shown[ranks == ranks[ranks > 0].min()]
        first += best.tolist()
        owner += [judgment] * len(best)
        weight += [items.weight[judgment] / len(best)] * len(best)
    return said_and_wanted(
        found[~judged],
        together.item[~judged],
        of_judged[first],
        items.prompt[owner],
        weight,
        [annotators[judgment] for judgment in owner],
        names or [str(place) for place in range(len(found))],
        seed=seed,
    )


def matching_beside(
    beside: Beside,
    items: Items,
    reward_model: RewardModel,
    slices: Slices,
    seed: int = 0,
    types: np.ndarray | None = None,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """All matching metrics of a policy whose responses were drawn, and the content of `matching.json`.

    Args:
        beside: the policy beside its reference.
        items: the judgments whose prompts the responses answer.
        reward_model: the one that scored the responses.
        slices: columns to slice the metrics by.
        seed: seed of the bootstraps.
        types: in a typed run, the type of each judgment's annotator, from 0, `(judgments,)`: each judgment is then
            also read under the policy of its type, with slices `type=K`.
    """
    if beside.reference_log_probs is None:
        raise PluralignError("beside: no responses were drawn: give a reward model")
    margin_map = margin_map_of(reward_model)
    prompts = len(items.prompts)
    answered = {
        name: (np.bincount(items.prompt[inside], minlength=prompts) > 0).astype(float)
        for name, inside in _inside(slices).items()
    }
    metrics, plots = of_draws(beside.draws, margin_map, answered, seed)
    rewards = reward_model.score_items(items)
    on_given, plot = of_judgments(
        items,
        rewards,
        beside.log_probs,
        beside.reference_log_probs,
        margin_map,
        slices,
        seed,
        f"/on={GIVEN}",
        beside.tokens,
    )
    if types is not None and beside.adapter_log_probs is not None:
        under = beside.adapter_log_probs[np.repeat(types, np.diff(items.offsets)), items.response]
        own = {**slices, "type": [str(kind + 1) for kind in types]}
        on_given |= of_judgments(
            items,
            rewards,
            beside.log_probs,
            beside.reference_log_probs,
            margin_map,
            own,
            seed,
            f"/on={GIVEN}-by-type",
            by_judgment=under,
        )[0]
    return metrics | on_given, [*plots, {"on": GIVEN, **plot}]


def margin_map_of(reward: Scorer) -> MarginMap | None:
    """The map that turns differences of rewards into log-odds; only a reward model can have one."""
    return reward.margin_map if isinstance(reward, RewardModel) else None


def _lists(draws: Draws, log_probs: np.ndarray) -> AnswerLists:
    """The responses to each prompt as a list; two responses are the same if their tokens are."""
    prompts, n = draws.rewards.shape
    place: dict[tuple[int, ...], int] = {}
    answer = [place.setdefault(tuple(sample.token_ids), len(place)) for group in draws.samples for sample in group]
    return AnswerLists.of(
        draws.rewards.ravel(),
        log_probs.ravel(),
        draws.reference_log_probs.ravel(),
        np.array(answer, dtype=np.int64),
        np.arange(0, prompts * n + 1, n),
        np.arange(prompts),
        np.ones(prompts),
    )


def _texts(draws: Draws, own_log_probs: np.ndarray | None, suffix: str, seed: int) -> dict[str, float]:
    """Metrics of the responses alone: entropy, perplexity under the reference, variety, share of unfinished ones."""
    prompts, n = draws.rewards.shape
    flat = [sample for group in draws.samples for sample in group]
    lengths = np.array([len(sample.token_ids) for sample in flat])
    prompt = np.repeat(np.arange(prompts), n)
    metrics = {} if own_log_probs is None else entropy(own_log_probs.ravel(), lengths, prompt, seed=seed)
    under = perplexity(draws.reference_log_probs.ravel(), lengths, prompt, seed=seed)
    metrics |= {f"reference_{key}": value for key, value in under.items()}
    for n_gram in (1, 2):
        if (share := distinct([sample.token_ids for sample in flat], n_gram)) is not None:
            metrics[f"distinct_{n_gram}"] = share
    metrics["unfinished"] = float(np.mean([not sample.finished for sample in flat]))
    return _named(metrics, suffix)


def _named(metrics: Mapping[str, float], suffix: str) -> dict[str, float]:
    """Metrics with a suffix, placed before `_low` and `_high`."""
    named = {}
    for key, value in metrics.items():
        end = next((bound for bound in ("_low", "_high") if key.endswith(bound)), "")
        named[key.removesuffix(end) + suffix + end] = value
    return named


def _inside(slices: Slices) -> dict[str, np.ndarray]:
    """For each value of each column, whether each judgment has it: `(judgments,)`."""
    return {
        f"{column}={name}": np.array([value == name for value in values])
        for column, values in slices.items()
        for name in sorted({value for value in values if value is not None})
    }

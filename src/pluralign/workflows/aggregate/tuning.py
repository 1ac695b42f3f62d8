"""The weights of every way to combine types, chosen on tuning prompts by a criterion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from pluralign.choice import regret as game_theory
from pluralign.choice.regret import best_of_weights, relative_priorities
from pluralign.evaluation.policies.regret import Floats, game_interval, preferred, regrets_by_prompt
from pluralign.policies.best_of import shares_below, yardstick_of
from pluralign.policies.merging import merged_policy
from pluralign.policies.mixture import MixturePolicy
from pluralign.policies.policy import Policy, Sample
from pluralign.policies.pooled import PooledPolicy
from pluralign.scoring.items import items_of_texts
from pluralign.scoring.tokens import prompt_tokens
from pluralign.scoring.type_judges import FeatureJudge, TypeJudges
from pluralign.workflows.aggregate.answers import BASE, log_ratios_of, seed_of

Criterion = Literal["win-rate", "regret", "relative-regret"]
BestOfRule = Literal["weighted", "smallest"]

MIXTURE, MERGE, POOLED, BEST_OF = "mixture", "merge", "pooled", "best-of"
OFFERED = (MIXTURE, MERGE, POOLED, BEST_OF)
"""The ways to combine types, in the order of the tables."""

POPULATION, UTILITARIAN, MAX_MIN = "population", "utilitarian", "max-min-reward"
COMPARED = (POPULATION, UTILITARIAN, MAX_MIN)
"""Other mixtures of the types' policies, for comparison."""


@dataclass(frozen=True)
class Trial:
    """One step of a search: the weights, and the loss of each type on the tuning prompts."""

    weights: list[float]
    losses: list[float]


@dataclass(frozen=True)
class BestOf:
    """How `best-of` chooses.

    Args:
        weights: p of each type; None goes by the smallest share.
        yardstick: as in `BestOfPolicy`.
    """

    weights: list[float] | None
    yardstick: list[list[float]] | None


@dataclass(frozen=True)
class Tuned:
    """What was chosen on the tuning prompts; the content of `tuning.json`.

    Args:
        mixtures: weights `(types,)` of the aggregated and the compared mixtures.
        adversary: of the mixture's game, `(types,)`.
        value: of that game, in units of the criterion, without abstention.
        low, high: ends of its interval over prompts; None with one prompt.
        merge, pooled: lambda of each type; None if not offered.
        best_of: None if not offered.
        trials: of the searches for `merge` and `pooled`.
        own_utility: L_ii of each type, in nats.
    """

    mixtures: dict[str, list[float]]
    adversary: list[float]
    value: float
    low: float | None
    high: float | None
    merge: list[float] | None
    pooled: list[float] | None
    best_of: BestOf | None
    trials: dict[str, list[Trial]]
    own_utility: list[float]


def tune(
    policy: MixturePolicy,
    prompts: Sequence[Any],
    judges: TypeJudges | None,
    *,
    offer: Sequence[str],
    criterion: Criterion,
    priority: Floats,
    samples: int,
    candidates: int,
    best_of_rule: BestOfRule,
    trials: int,
    max_new_tokens: int,
    hedge: bool,
    seed: int,
) -> Tuned:
    """Draw responses to the tuning prompts and choose all weights.

    The loss of type i under policy j is c_i (1 - W_ij) with W the judged win rate against the base (`win-rate`),
    c_i (L_ii - L_ij) (`regret`), or that over L_ii (`relative-regret`). The mixture minimises the largest loss by a
    linear programme; the weights of `merge` and `pooled` by trials (`search`); those of `best-of` maximise the worst
    type's judged win rate whatever the criterion.

    Args:
        policy: the run with the policies of the types.
        prompts: the tuning prompts.
        judges: of the types; None judges win rates by the types' own policies.
        offer: names of `OFFERED`.
        criterion, priority: see above; priority c `(types,)`.
        samples: responses per prompt in a trial and from each type's policy.
        candidates: n of `best-of`, and the number of the base's responses per prompt.
        best_of_rule: how `best-of` chooses; `smallest` needs no weights.
        trials: of the search for `merge`; half as many for `pooled`.
        max_new_tokens: maximum number of tokens of a response.
        hedge: solve the mixture's game by optimistic Hedge.
        seed: random seed of the responses.
    """
    bench = _Bench(policy, prompts, judges, samples, candidates, max_new_tokens, seed)
    names = list(policy.mixture.weights)
    for name in names:
        with policy.using(name):
            bench.add(name, bench.plain)
    utility, wins = (np.stack([of[name] for name in names], 1) for of in (bench.utility, bench.wins))
    losses = losses_by_prompt(criterion, utility, wins, priority)
    table = losses.mean(-1)
    game = game_theory.hedge(table) if hedge else game_theory.min_max_regret(table)
    ends = game_interval(losses, seed=seed)
    shares, means = policy.weights, utility.mean(-1)
    own = np.diagonal(means)

    def measure(combined: Policy) -> Floats:
        return bench.losses(combined, criterion, priority, own)

    tried: dict[str, list[Trial]] = {}
    if MERGE in offer:
        tried[MERGE] = search(lambda weights: _measured(merged_policy, policy, weights, measure), len(names), trials)
    if POOLED in offer:
        start = np.array(best_trial(tried[MERGE]).weights) if MERGE in offer else None
        few = max(1, trials // 2)
        tried[POOLED] = search(lambda weights: _measured(_pooled, policy, weights, measure), len(names), few, start)
    best: BestOf | None = None
    if BEST_OF in offer and judges is not None:
        # Judges that read prompts have another scale for every prompt, so they compare candidates with each other.
        yardstick = yardstick_of(bench.base) if isinstance(judges, FeatureJudge) else None
        weights: list[float] | None = None
        if best_of_rule == "weighted":
            weights = best_of_weights(shares_below(bench.base[..., :candidates], yardstick), priority).tolist()
        best = BestOf(weights, None if yardstick is None else yardstick.tolist())
    return Tuned(
        mixtures={
            MIXTURE: game.weights.tolist(),
            POPULATION: shares.tolist(),
            UTILITARIAN: game_theory.utilitarian(means, shares * priority).tolist(),
            MAX_MIN: game_theory.max_min_reward(means).tolist(),
        },
        adversary=game.adversary.tolist(),
        value=game.value,
        low=None if ends is None else ends[0],
        high=None if ends is None else ends[1],
        merge=best_trial(tried[MERGE]).weights if MERGE in tried else None,
        pooled=best_trial(tried[POOLED]).weights if POOLED in tried else None,
        best_of=best,
        trials=tried,
        own_utility=own.tolist(),
    )


def losses_by_prompt(criterion: Criterion, utility: Floats, wins: Floats, priority: Floats) -> Floats:
    """The loss of each type under each policy `(types, policies, prompts)`; smaller is better.

    Args:
        criterion: see `tune`.
        utility: m, log pi_i - log pi_ref of policy j's responses, in nats `(types, policies, prompts)`; the first
            policies are the types' own.
        wins: win rates against the base, of the same shape.
        priority: c `(types,)`.

    Examples:
        >>> wins = np.array([[[0.8], [0.4]], [[0.5], [0.9]]])
        >>> losses_by_prompt("win-rate", wins, wins, np.array([1.0, 2.0]))[:, :, 0].round(2).tolist()
        [[0.2, 0.6], [1.0, 0.2]]
    """
    if criterion == "win-rate":
        return np.asarray(priority[:, None, None] * (1 - wins))
    if criterion == "relative-regret":
        priority = relative_priorities(utility.mean(-1), priority)
    return regrets_by_prompt(utility, priority)


def search(measure: Callable[[Floats], Floats], types: int, trials: int, start: Floats | None = None) -> list[Trial]:
    """Search weights, one for each type and 0 or more, that minimise the largest loss.

    A move gives weight to the types that lose more than the average and takes it from the others, or makes all weights
    larger or smaller. A move that helps is repeated; when none does, the step is halved. The weights need not sum to
    1: the policies of opposed types partly cancel when they are added, and a sum above 1 makes up for it.

    Args:
        measure: from weights `(types,)` to the losses of the types `(types,)`.
        types: K.
        trials: how often to measure.
        start: weights; default: 1 / sqrt(K) each, between the average and the sum.

    Examples:
        >>> trials = search(lambda weights: abs(weights - np.array([1.0, 0.5])), 2, 40)
        >>> bool(max(best_trial(trials).losses) < 0.1)
        True
    """
    weights = np.full(types, types**-0.5) if start is None else start
    losses = measure(weights)
    made = [Trial(weights.tolist(), losses.tolist())]
    step, failed, move = 0.5, 0, 0
    while len(made) < trials:
        excess = losses - losses.mean()
        towards = excess / max(np.abs(excess).max(), 1e-12)
        moved = (np.maximum(weights + step * towards, 0.0), weights * (1 + step), weights / (1 + step))[move]
        found = measure(moved)
        made.append(Trial(moved.tolist(), found.tolist()))
        if found.max() < losses.max():
            weights, losses, failed = moved, found, 0
            continue
        failed, move = failed + 1, (move + 1) % 3
        if failed == 3:
            step, failed = step / 2, 0
    return made


def best_trial(trials: Sequence[Trial]) -> Trial:
    """The trial with the smallest largest loss."""
    return min(trials, key=lambda trial: max(trial.losses))


class _Bench:
    """The tuning prompts with the base's responses to them, against which every trial is measured."""

    def __init__(
        self, policy: MixturePolicy, prompts: Sequence[Any], judges: TypeJudges | None, samples: int, candidates: int,
        max_new_tokens: int, seed: int,
    ) -> None:  # fmt: skip
        self.policy, self.prompts, self.judges, self.samples = policy, prompts, judges, samples
        self.options = {"max_new_tokens": max_new_tokens, "seed": seed_of(seed, "tuning")}
        # A mixture draws an adapter for each response; the same model as a plain policy uses the active one.
        self.plain = Policy(policy.model, policy.tokenizer, policy.limits)
        with policy.using(None):
            drawn = self.plain.sample(
                prompts, n=max(candidates, samples), max_new_tokens=max_new_tokens, seed=seed_of(seed, f"tuning {BASE}")
            )
        self.ids = prompt_tokens(prompts, policy.tokenizer, policy.limits.max_length - max_new_tokens)
        self.base = self._judged(drawn)
        self.utility: dict[str, Floats] = {}
        self.wins: dict[str, Floats] = {}

    def add(self, name: str, policy: Policy) -> None:
        """Draw from a policy, and keep its utilities and win rates: `(types, prompts)`."""
        drawn = policy.sample(self.prompts, n=self.samples, **self.options)
        self.utility[name], self.wins[name] = self._ratios(drawn).mean(-1), preferred(self._judged(drawn), self.base)

    def losses(self, policy: Policy, criterion: Criterion, priority: Floats, own: Floats) -> Floats:
        """The loss of each type under a policy: `(types,)`; `own` is L_ii."""
        drawn = policy.sample(self.prompts, n=self.samples, **self.options)
        if criterion == "win-rate":
            return np.asarray(priority * (1 - preferred(self._judged(drawn), self.base).mean(-1)))
        if criterion == "relative-regret":
            priority = relative_priorities(np.diag(own), priority)
        return np.asarray(priority * (own - self._ratios(drawn).mean((-2, -1))))

    def _judged(self, drawn: Sequence[Sequence[Sample]]) -> Floats:
        """Utilities of the types by their judges: `(types, prompts, responses)`."""
        if self.judges is None:
            return self._ratios(drawn)
        items = items_of_texts(self.prompts, [[sample.response for sample in group] for group in drawn])
        return np.asarray(self.judges.utilities(items).reshape(-1, len(self.prompts), len(drawn[0])))

    def _ratios(self, drawn: Sequence[Sequence[Sample]]) -> Floats:
        """log pi_k - log pi_ref: `(types, prompts, responses)`, in nats."""
        prompt = np.repeat(np.arange(len(self.prompts)), len(drawn[0]))
        answers = [sample.token_ids for group in drawn for sample in group]
        return log_ratios_of(self.policy, self.ids, answers, prompt).reshape(-1, len(self.prompts), len(drawn[0]))


def _measured(
    combine: Callable[[MixturePolicy, Mapping[str, float]], AbstractContextManager[Policy]],
    policy: MixturePolicy,
    weights: Floats,
    measure: Callable[[Policy], Floats],
) -> Floats:
    with combine(policy, dict(zip(policy.mixture.weights, weights.tolist(), strict=True))) as combined:
        return measure(combined)


def _pooled(policy: MixturePolicy, weights: Mapping[str, float]) -> AbstractContextManager[Policy]:
    mixture = replace(policy.mixture, weights=dict(weights), combination="pooled")
    return nullcontext(PooledPolicy(policy.model, policy.tokenizer, policy.limits, mixture=mixture))

"""The content of an aggregation's page: mixtures, regrets and win rates of each policy, and its metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pluralign.choice import regret as game_theory
from pluralign.choice.regret import Game, regret_matrix
from pluralign.evaluation.policies import regret as estimates
from pluralign.evaluation.policies.regret import Floats, means, preferred, with_mixtures
from pluralign.judgments.reading import read
from pluralign.policies.routing import is_typed_run
from pluralign.reports import aggregation as page
from pluralign.scoring.mixtures import read_responsibilities
from pluralign.workflows.aggregate.answers import BASE, utilities_by
from pluralign.workflows.groups import majority_groups

POPULATION, UTILITARIAN, EGALITARIAN, MAX_MIN = "population", "utilitarian", "egalitarian", "max-min-reward"
MIXTURES = (POPULATION, UTILITARIAN, EGALITARIAN, MAX_MIN)
"""Mixtures of the types' own policies that are compared; `EGALITARIAN` is the aggregated policy."""

_EXAMPLES = 4
_MANY_UNFINISHED = 0.1


@dataclass(frozen=True)
class Setting:
    """What is aggregated and how: the run with the policies of the types, and the settings of the command."""

    run: str
    types: Sequence[str]  # names of the policies
    shares: np.ndarray  # eta (types,)
    priority: np.ndarray  # c (types,)
    prompts: int
    samples: int  # to each prompt from each policy
    max_new_tokens: int
    hedge: bool  # whether Hedge solves the game
    seed: int  # of the bootstrap


@dataclass(frozen=True)
class KnownGroup:
    """A known group of the annotators that a run was tuned on; `shares` `(types,)` is the mean of their posteriors."""

    name: str
    annotators: int
    shares: Floats


def known_groups(run: Path, files: Sequence[str], types: int, label_scale: str | None) -> list[KnownGroup]:
    """The known groups of a run's annotators, from those of its training files that exist."""
    present = [file for file in files if Path(file).is_file()]
    if not present or not is_typed_run(run):
        return []
    posteriors = read_responsibilities(run, types)
    judgments = read(present, label_scale)
    members: dict[str, list[Floats]] = {}
    for name, group in majority_groups(judgments.column("annotator"), judgments.column("group")).items():
        if name in posteriors:
            members.setdefault(group, []).append(posteriors[name])
    return [KnownGroup(name, len(members[name]), np.mean(members[name], axis=0)) for name in sorted(members)]


def solve(answers: pa.Table, setting: Setting) -> tuple[Game, dict[str, np.ndarray]]:
    """The solved game, and the weights `(types,)` of each mixture that is compared."""
    utility = utilities_by(answers, setting.types, setting.prompts).mean((-2, -1))
    regret = regret_matrix(utility, setting.priority)
    game = game_theory.hedge(regret) if setting.hedge else game_theory.min_max_regret(regret)
    weights = (
        setting.shares,
        game_theory.utilitarian(utility, setting.shares * setting.priority),
        game.weights,
        game_theory.max_min_reward(utility),
    )
    return game, dict(zip(MIXTURES, weights, strict=True))


def aggregation_contents(
    answers: pa.Table,
    setting: Setting,
    further: Sequence[str],
    game: Game,
    mixtures: Mapping[str, np.ndarray],
    groups: Sequence[KnownGroup] = (),
) -> page.AggregationPage:
    """The content of `aggregate.json`.

    `answers` are those of `draw_answers`, `game` and `mixtures` those of `solve`; `further` names the policies
    other than those of the types and the base.
    """
    drawers = [*setting.types, BASE, *further]
    utilities = utilities_by(answers, drawers, setting.prompts)  # (types, policies, prompts, samples)
    own, weights = len(setting.types), np.stack(list(mixtures.values()))
    ratios = with_mixtures(utilities.mean(-1), weights)
    regrets = estimates.regret_table(ratios, setting.priority, seed=setting.seed)
    rates = _wins_against(utilities, own, weights, setting.seed)
    between = estimates.game_interval(ratios, setting.priority, seed=setting.seed)
    lengths, unfinished = _lengths(answers, drawers, weights)
    names = [*drawers, *mixtures]
    kinds = ["own"] * own + ["base"] + ["further"] * len(further) + ["mixture"] * len(mixtures)
    order = [*range(own + 1), *range(len(drawers), len(names)), *range(own + 1, len(drawers))]
    # In the order of the fields of `TypeOutcome`.
    outcomes = [regrets.utility, regrets.utility_error, regrets.regret, regrets.regret_error]
    outcomes += [rates.value, rates.low, rates.high]
    policies = [
        page.PolicyOutcome(
            name=names[place],
            kind=kinds[place],
            weights=mixtures[names[place]].tolist() if kinds[place] == "mixture" else None,
            max_regret=_number(regrets.largest.value[place]),
            low=_number(regrets.largest.low[place]),
            high=_number(regrets.largest.high[place]),
            mean_length=lengths[place],
            unfinished=unfinished[place],
            types=[page.TypeOutcome(*(_number(of[kind, place]) for of in outcomes)) for kind in range(own)],
        )
        for place in order
    ]
    against = []
    for name in further:
        wins = _wins_against(utilities, drawers.index(name), weights, setting.seed)
        for place in (place for place in order if names[place] != name):
            for kind, type_name in enumerate(setting.types):
                rate = (_number(of[kind, place]) for of in (wins.value, wins.low, wins.high))
                against.append(page.WinRate(names[place], name, label(type_name), *rate))
    by_prompt = (setting.priority[:, None, None] * (ratios[range(own), range(own)][:, None] - ratios))[:, order]
    liked = with_mixtures(preferred(utilities, utilities[:, [own]]), weights)[:, order]
    contents = page.AggregationPage(
        run=setting.run,
        prompts=setting.prompts,
        samples=setting.samples,
        max_new_tokens=setting.max_new_tokens,
        types=[
            page.AggregatedType(label(name), name, float(share), float(priority))
            for name, share, priority in zip(setting.types, setting.shares, setting.priority, strict=True)
        ],
        policies=policies,
        game=page.SolvedGame(
            value=game.value_with_abstention,
            low=None if between is None else max(between[0], 0.0),
            high=None if between is None else max(between[1], 0.0),
            without_abstention=game.value,
            adversary=game.adversary.tolist(),
            solver="optimistic Hedge" if setting.hedge else "linear programme",
        ),
        against=against,
        groups=group_outcomes(groups, [names[place] for place in order], by_prompt, liked, setting.seed),
        examples=_examples(answers, drawers, setting),
        warnings=[],
    )
    return replace(contents, warnings=warnings_of(contents))


def group_outcomes(
    groups: Sequence[KnownGroup], names: Sequence[str], regrets: Floats, wins: Floats, seed: int
) -> list[page.GroupOutcome]:
    """Regret and win rate of each group under each policy, with intervals over prompts.

    The regret of a group is the mean over its members, sum_k p_k R_kj with p the mean of their posteriors. `regrets`
    (nats per response) and `wins` (shares of responses preferred to the base's) are `(types, policies, prompts)`.

    Examples:
        >>> two = [KnownGroup("old", 3, np.array([0.5, 0.5]))]
        >>> regrets = np.array([[[0.0, 0.0]], [[2.0, 4.0]]])
        >>> group_outcomes(two, ["a"], regrets, np.ones((2, 1, 2)), 0)[0].policies[0].regret
        1.5
    """
    if not groups:
        return []
    shares = np.stack([group.shares for group in groups])
    lost = means(np.einsum("gk,kjp->gjp", shares, regrets), seed=seed)
    liked = means(np.einsum("gk,kjp->gjp", shares, wins), seed=seed)
    one_prompt = regrets.shape[-1] < 2
    return [
        page.GroupOutcome(
            group=group.name,
            annotators=group.annotators,
            shares=group.shares.tolist(),
            policies=[
                page.GroupPolicy(
                    name=name,
                    regret=float(lost.value[row, column]),
                    low=None if one_prompt else float(lost.low[row, column]),
                    high=None if one_prompt else float(lost.high[row, column]),
                    win_rate=float(liked.value[row, column]),
                )
                for column, name in enumerate(names)
            ],
        )
        for row, group in enumerate(groups)
    ]


def warnings_of(contents: page.AggregationPage) -> list[str]:
    """Reasons to distrust the numbers."""
    warnings = []
    game, types = contents.game, contents.types
    if contents.prompts < 2:
        warnings.append("There is only one prompt, so errors cannot be estimated: give more prompts.")
    if game.without_abstention < 0:
        warnings.append(
            "The value of the game is below zero, which only happens by chance: the weights of the mixture are those "
            "of the game in which the adversary may not abstain, and other responses would give other weights. Draw "
            "more responses."
        )
    elif game.low is not None and game.low <= 0 < game.value:
        warnings.append(
            "The interval of the game's value includes zero: the responses do not show that any type has to give "
            "something up. Draw more responses before you rely on the weights."
        )
    for place, kind in enumerate(types):
        for policy in contents.policies[: len(types)]:
            regret, error = policy.types[place].regret, policy.types[place].regret_se
            if regret is not None and error is not None and regret < -2 * error:
                warnings.append(
                    f"Type {kind.type} prefers the responses of {policy.name} to those of its own policy: its policy "
                    "was not tuned far enough towards its preferences."
                )
    for policy in contents.policies:
        if policy.unfinished > _MANY_UNFINISHED and policy.kind != "mixture":
            warnings.append(
                f"{round(100 * policy.unfinished)} % of the responses of {policy.name} were cut at "
                f"{contents.max_new_tokens} tokens: their utilities are those of incomplete responses. Raise "
                "--max-new-tokens."
            )
    return warnings


def aggregate_metrics(contents: page.AggregationPage, answers: pa.Table) -> dict[str, Any]:
    """The flat metrics of an aggregation, without those that are undefined."""
    game = contents.game
    metrics: dict[str, Any] = {
        "types": len(contents.types),
        "prompts": contents.prompts,
        "samples": contents.samples,
        "answers": answers.num_rows,
        **_with_ends("game_value", game.value, game),
        "game_value_without_abstention": game.without_abstention,
    }
    for policy in contents.policies:
        name = policy.name
        if policy.weights is not None and name == EGALITARIAN:
            weights = zip(contents.types, policy.weights, strict=True)
            metrics |= {f"mixture_weights/type={kind.type}": weight for kind, weight in weights}
        metrics |= _with_ends(f"max_regret/{name}", policy.max_regret, policy)
        metrics |= {f"mean_length/{name}": policy.mean_length, f"unfinished/{name}": policy.unfinished}
        for kind, outcome in zip(contents.types, policy.types, strict=True):
            at = f"{name}/type={kind.type}"
            metrics |= {f"regret/{at}": outcome.regret, f"regret/{at}_se": outcome.regret_se}
            metrics |= {f"utility/{at}": outcome.utility, f"utility/{at}_se": outcome.utility_se}
            metrics |= _with_ends(f"win_rate/{at}", outcome.win_rate, outcome)
    for group in contents.groups:
        for of_group in group.policies:
            at = f"{of_group.name}/group={group.group}"
            metrics |= _with_ends(f"regret/{at}", of_group.regret, of_group)
            metrics[f"win_rate/{at}"] = of_group.win_rate
    for rate in contents.against:
        at = f"win_rate/{rate.policy}/type={rate.type}/against={rate.against}"
        metrics |= _with_ends(at, rate.win_rate, rate)
    return {key: value for key, value in metrics.items() if value is not None}


def _with_ends(key: str, value: float | None, ends: Any) -> dict[str, float | None]:
    """A metric with the ends of its interval, `ends.low` and `ends.high`."""
    return {key: value, f"{key}_low": ends.low, f"{key}_high": ends.high}


def regret_lines(metrics: Mapping[str, Any]) -> list[str]:
    """The regret of each type under each policy as lines of text, from the metrics.

    Examples:
        >>> metrics = {"max_regret/base": 2.0, "regret/base/type=1": 2.0, "regret/base/type=1_se": 0.5}
        >>> print("\\n".join(regret_lines(metrics)))
        regret in nats         type 1          largest
        base                   2.00 ± 0.50     2.00
    """
    ends = ("_low", "_high", "_se")
    names = [key.removeprefix("max_regret/") for key in metrics if key.startswith("max_regret/")]
    names = [name for name in names if not name.endswith(ends)]
    prefix = f"regret/{names[0]}/type="
    types = [key.removeprefix(prefix) for key in metrics if key.startswith(prefix) and not key.endswith(ends)]
    width = max(22, *(len(name) + 2 for name in names))
    rows = [["regret in nats", *(f"type {kind}" for kind in types), "largest"]]
    for name in names:
        cells = []
        for kind in types:
            at = f"regret/{name}/type={kind}"
            error = f" ± {metrics[at + '_se']:.2f}" if at + "_se" in metrics else ""
            cells.append(f"{metrics[at]:.2f}{error}")
        rows.append([name, *cells, f"{metrics[f'max_regret/{name}']:.2f}"])
    return [f"{row[0]:<{width}} " + " ".join(f"{cell:<15}" for cell in row[1:]).rstrip() for row in rows]


def label(policy: str) -> str:
    """The name of a policy's type in metrics.

    Examples:
        >>> label("type-2"), label("nurses")
        ('2', 'nurses')
    """
    return policy.removeprefix("type-") or policy


def _wins_against(utilities: np.ndarray, opponent: int, weights: np.ndarray, seed: int) -> estimates.Estimate:
    """Win rates of all policies and mixtures against one policy: `(types, policies)`."""
    return means(with_mixtures(preferred(utilities, utilities[:, [opponent]]), weights), seed=seed)


def _lengths(answers: pa.Table, drawers: Sequence[str], weights: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean tokens and share cut at the limit, of policies and mixtures."""
    by = np.array(answers.column("by").to_pylist())
    means_of = []
    for column in (answers.column("tokens").to_numpy(), ~answers.column("finished").to_numpy(False)):
        own = np.array([column[by == name].mean() for name in drawers])
        means_of.append([*own.tolist(), *(weights @ own[: weights.shape[1]]).tolist()])
    return means_of[0], means_of[1]


def _examples(answers: pa.Table, drawers: Sequence[str], setting: Setting) -> list[page.Example]:
    """The first response of each policy to the first few prompts, prompt by prompt."""
    by_name = {name: answers.filter(pc.equal(answers.column("by"), name)) for name in drawers}
    examples = []
    for prompt in range(min(_EXAMPLES, setting.prompts)):
        for name, rows in by_name.items():
            row = rows.slice(prompt * setting.samples, 1).to_pylist()[0]
            utilities = [float(row[f"utility_{kind + 1}"]) for kind in range(len(setting.types))]
            examples.append(page.Example(row["prompt"], name, row["response"], utilities))
    return examples


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

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

from pluralign.evaluation.policies import regret as estimates
from pluralign.evaluation.policies.regret import Floats, means, preferred, with_mixtures
from pluralign.judgments.paths import is_present
from pluralign.judgments.reading import read
from pluralign.judgments.renames import Columns
from pluralign.policies.routing import is_typed_run
from pluralign.reports import aggregation as page
from pluralign.scoring.mixtures import read_responsibilities
from pluralign.workflows.aggregate.answers import BASE, utilities_by
from pluralign.workflows.aggregate.distill import distilled
from pluralign.workflows.aggregate.tuning import (
    BEST_OF,
    COMPARED,
    MERGE,
    MIXTURE,
    OFFERED,
    POOLED,
    Criterion,
    Tuned,
    losses_by_prompt,
)
from pluralign.workflows.groups import majority_groups

_EXAMPLES = 4
_MANY_UNFINISHED = 0.1


@dataclass(frozen=True)
class Setting:
    """What is aggregated and how: the run with the policies of the types, and the settings of the command."""

    run: str
    types: Sequence[str]  # names of the policies
    shares: np.ndarray  # eta (types,)
    priority: np.ndarray  # c (types,)
    criterion: Criterion
    judged_by: str  # who judges win rates, in words
    prompts: int
    tuning_prompts: int
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


def known_groups(
    run: Path, files: Sequence[str], types: int, label_scale: str | None, columns: Columns | None
) -> list[KnownGroup]:
    """The known groups of a run's annotators, from those of its training files that exist."""
    present = [file for file in files if is_present(file)]
    if not present or not is_typed_run(run):
        return []
    posteriors = read_responsibilities(run, types)
    judgments = read(present, label_scale, columns)
    members: dict[str, list[Floats]] = {}
    for name, group in majority_groups(judgments.column("annotator"), judgments.column("group")).items():
        if name in posteriors:
            members.setdefault(group, []).append(posteriors[name])
    return [KnownGroup(name, len(members[name]), np.mean(members[name], axis=0)) for name in sorted(members)]


def aggregation_contents(
    answers: pa.Table,
    setting: Setting,
    built: Sequence[str],
    further: Sequence[str],
    tuned: Tuned,
    groups: Sequence[KnownGroup] = (),
) -> page.AggregationPage:
    """The content of `aggregate.json`.

    `answers` are those of `draw_answers`; `built` names the policies that were written, and `further` those that were
    given for comparison.
    """
    drawers = [*setting.types, BASE, *(name for name in built if name != MIXTURE), *further]
    utilities = utilities_by(answers, drawers, setting.prompts)  # (types, policies, prompts, samples)
    judged = utilities_by(answers, drawers, setting.prompts, "judged")
    mixtures = {name: weights for name, weights in tuned.mixtures.items() if name != MIXTURE or MIXTURE in built}
    own, weights = len(setting.types), np.stack(list(mixtures.values()))
    ratios = with_mixtures(utilities.mean(-1), weights)
    liked = with_mixtures(preferred(judged, judged[:, [own]]), weights)
    regrets = estimates.regret_table(ratios, setting.priority, seed=setting.seed)
    rates = means(liked, seed=setting.seed)
    heard = setting.priority > 0  # a type without priority is not the worst-off
    worst = estimates.largest_losses(1 - liked[heard], seed=setting.seed)
    relative = losses_by_prompt("relative-regret", ratios, liked, setting.priority)
    relatives = estimates.largest_losses(relative, seed=setting.seed)
    losses = losses_by_prompt(setting.criterion, ratios, liked, setting.priority)
    scores = estimates.largest_losses(losses, seed=setting.seed)
    lengths, unfinished = _lengths(answers, drawers, weights)
    names = [*drawers, *mixtures]
    kinds = dict.fromkeys(setting.types, "own") | {BASE: "base"}
    kinds |= {name: "offered" if name in OFFERED else "distilled" for name in built}
    kinds |= dict.fromkeys(COMPARED, "compared") | dict.fromkeys(further, "further")
    ranked = ["own", "base", "offered", "distilled", "compared", "further"]
    order = sorted(
        range(len(names)), key=lambda place: (ranked.index(kinds[names[place]]), _place(names[place]), place)
    )
    best = None if tuned.best_of is None else tuned.best_of.weights
    chosen = {MERGE: tuned.merge, POOLED: tuned.pooled, BEST_OF: best} | mixtures
    # In the order of the fields of `TypeOutcome`.
    outcomes = [regrets.utility, regrets.utility_error, regrets.regret, regrets.regret_error]
    outcomes += [rates.value, rates.low, rates.high]
    policies = [
        page.PolicyOutcome(
            name=names[place],
            kind=kinds[names[place]],
            weights=chosen.get(names[place]),
            max_regret=_number(regrets.largest.value[place]),
            low=_number(regrets.largest.low[place]),
            high=_number(regrets.largest.high[place]),
            max_relative_regret=page.Value(*_ends(relatives, place)),
            worst_win_rate=page.Value(*(None if end is None else 1 - end for end in _ends(worst, place, turned=True))),
            loss=page.Value(*_ends(scores, place)),
            mean_length=lengths[place],
            unfinished=unfinished[place],
            types=[page.TypeOutcome(*(_number(of[kind, place]) for of in outcomes)) for kind in range(own)],
        )
        for place in order
    ]
    against = []
    for name in further:
        wins = _wins_against(judged, drawers.index(name), weights, setting.seed)
        for place in (place for place in order if names[place] != name):
            for kind, type_name in enumerate(setting.types):
                rate = (_number(of[kind, place]) for of in (wins.value, wins.low, wins.high))
                against.append(page.WinRate(names[place], name, label(type_name), *rate))
    deployable = [place for place in order if kinds[names[place]] in ("own", "base", "offered", "distilled")]
    winner = names[min(deployable, key=lambda place: scores.value[place])]
    contents = page.AggregationPage(
        run=setting.run,
        criterion=setting.criterion,
        judged_by=setting.judged_by,
        winner=winner,
        prompts=setting.prompts,
        tuning_prompts=setting.tuning_prompts,
        samples=setting.samples,
        max_new_tokens=setting.max_new_tokens,
        types=[
            page.AggregatedType(label(name), name, float(share), float(priority))
            for name, share, priority in zip(setting.types, setting.shares, setting.priority, strict=True)
        ],
        policies=policies,
        game=page.SolvedGame(
            value=max(tuned.value, 0.0),
            low=None if tuned.low is None else max(tuned.low, 0.0),
            high=None if tuned.high is None else max(tuned.high, 0.0),
            without_abstention=tuned.value,
            adversary=tuned.adversary,
            solver="optimistic Hedge" if setting.hedge else "linear programme",
        ),
        against=against,
        groups=group_outcomes(
            groups, [names[place] for place in order],
            estimates.regrets_by_prompt(ratios, setting.priority)[:, order], liked[:, order], setting.seed,
        ),
        examples=_examples(answers, drawers, setting),
        warnings=[],
    )  # fmt: skip
    return replace(contents, warnings=warnings_of(contents))


def _place(name: str) -> int:
    """Where a policy stands among those that are offered."""
    offered = name.removesuffix(distilled(""))
    return OFFERED.index(offered) if offered in OFFERED else 0


def _ends(estimate: estimates.Estimate, place: int, turned: bool = False) -> tuple[float | None, ...]:
    """A value with the ends of its interval; `turned` for one minus it, whose low end is that of the high one."""
    low, high = (estimate.high, estimate.low) if turned else (estimate.low, estimate.high)
    return tuple(_number(of[place]) for of in (estimate.value, low, high))


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
    by_name = {policy.name: policy for policy in contents.policies}
    if contents.prompts < 2:
        warnings.append("There is only one prompt, so errors cannot be estimated: give more prompts.")
    if contents.winner == BASE:
        warnings.append(
            f"By {contents.criterion} no policy serves the worst-off type better than the base does. Draw more "
            "responses, raise --trials, or tune the types' policies further."
        )
    for policy in contents.policies:
        base = by_name[BASE].loss.value if BASE in by_name else None
        if (
            policy.kind == "distilled"
            and base is not None
            and policy.loss.value is not None
            and policy.loss.value > base
        ):
            warnings.append(
                f"{policy.name} is worse than the base by {contents.criterion} ({_shown(policy.loss.value)}, base "
                f"{_shown(base)}; smaller is better): do not use it. Raise --distill-samples, --distill-epochs or "
                "--distill-learning-rate."
            )
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
        if policy.unfinished > _MANY_UNFINISHED and policy.name != MIXTURE and policy.kind != "compared":
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
        "tuning_prompts": contents.tuning_prompts,
        "samples": contents.samples,
        "answers": answers.num_rows,
        "criterion": contents.criterion,
        "winner": contents.winner,
        **_with_ends("game_value", game.value, game),
        "game_value_without_abstention": game.without_abstention,
    }
    for policy in contents.policies:
        name = policy.name
        if policy.weights is not None and policy.kind == "offered":
            weights = zip(contents.types, policy.weights, strict=True)
            metrics |= {f"{policy_key(name)}_weights/type={kind.type}": weight for kind, weight in weights}
        metrics |= _with_ends(f"worst_win_rate/{name}", policy.worst_win_rate.value, policy.worst_win_rate)
        metrics |= _with_ends(f"max_regret/{name}", policy.max_regret, policy)
        relative = policy.max_relative_regret
        metrics |= _with_ends(f"max_relative_regret/{name}", relative.value, relative)
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


def policy_key(name: str) -> str:
    """The name of a policy in the key of its weights.

    Examples:
        >>> policy_key("best-of")
        'best_of'
    """
    return name.replace("-", "_")


def outcome_lines(metrics: Mapping[str, Any]) -> list[str]:
    """The win rate of each type under each policy as lines of text, from the metrics; the best policy has a star.

    Examples:
        >>> metrics = {"worst_win_rate/merge": 0.5, "win_rate/merge/type=1": 0.5, "max_regret/merge": 2.0}
        >>> metrics |= {"worst_win_rate/merge_low": 0.4, "worst_win_rate/merge_high": 0.6, "winner": "merge"}
        >>> print("\\n".join(outcome_lines(metrics)))
        win rate against base  type 1     worst-off            largest regret, nats
        merge *                0.50       0.50 [0.40, 0.60]    2.00
    """
    names, types = _names_of(metrics)
    width = max(22, *(len(name) + 3 for name in names))
    rows = [["win rate against base", *(f"type {kind}" for kind in types), "worst-off", "largest regret, nats"]]
    for name in names:
        at = f"worst_win_rate/{name}"
        worst = f"{metrics[at]:.2f}"
        if f"{at}_low" in metrics:
            worst += f" [{metrics[f'{at}_low']:.2f}, {metrics[f'{at}_high']:.2f}]"
        cells = [f"{metrics[f'win_rate/{name}/type={kind}']:.2f}" for kind in types]
        starred = name + " *" * (name == metrics["winner"])
        rows.append([starred, *cells, worst, f"{metrics[f'max_regret/{name}']:.2f}"])
    return [
        f"{row[0]:<{width}} " + "".join(f"{cell:<11}" for cell in row[1:-2]) + f"{row[-2]:<21}{row[-1]}" for row in rows
    ]


def price_lines(metrics: Mapping[str, Any]) -> list[str]:
    """What each type gets from the best policy and from its own, as lines of text, from the metrics.

    Examples:
        >>> rates = {"type-1/type=1": 0.75, "merge/type=1": 0.5}
        >>> metrics = {f"win_rate/{at}": rate for at, rate in rates.items()} | {"regret/merge/type=1": 2.0}
        >>> metrics |= {"worst_win_rate/type-1": 0.75, "worst_win_rate/merge": 0.5, "winner": "merge"}
        >>> print("\\n".join(price_lines(metrics)))
        price of merge for every type, in win rate against base:
          type 1: 0.50, own policy 0.75; regret 2.00 nats
    """
    names, types = _names_of(metrics)
    winner = metrics["winner"]
    lines = [f"price of {winner} for every type, in win rate against base:"]
    for kind, own in zip(types, names, strict=False):  # the types' own policies come first
        here, there = (metrics[f"win_rate/{name}/type={kind}"] for name in (winner, own))
        regret = metrics[f"regret/{winner}/type={kind}"]
        lines.append(f"  type {kind}: {here:.2f}, own policy {there:.2f}; regret {regret:.2f} nats")
    return lines


def _names_of(metrics: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The policies, those of the types first, and the types of an aggregation's metrics."""
    found = [key for key in metrics if not key.endswith(("_low", "_high"))]
    names = [key.removeprefix("worst_win_rate/") for key in found if key.startswith("worst_win_rate/")]
    first = f"win_rate/{names[0]}/type="
    types = [key.removeprefix(first) for key in found if key.startswith(first)]
    return names, [kind for kind in types if "/" not in kind]


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


def _shown(value: float) -> str:
    return f"{value:.3f}"


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

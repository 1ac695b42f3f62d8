"""What `aggregate` says: which mixture is chosen, and who regrets what under which policy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pluralign.choice import regret as game_theory
from pluralign.choice.regret import Game, regret_matrix
from pluralign.evaluation.policies.regret import (
    Estimate,
    game_interval,
    means,
    preferred,
    regret_table,
    with_mixtures,
)
from pluralign.workflows.aggregate.answers import BASE, utilities_by
from pluralign.workflows.aggregate.groups import Group, group_blocks, group_metrics

POPULATION, UTILITARIAN, EGALITARIAN, MAX_MIN = "population", "utilitarian", "egalitarian", "max-min-reward"
MIXTURES = (POPULATION, UTILITARIAN, EGALITARIAN, MAX_MIN)
"""Mixtures of the types' own policies that are compared; `EGALITARIAN` is the aggregated policy."""

_EXAMPLES = 4
_UNFINISHED = 0.1


@dataclass(frozen=True)
class Asked:
    """What the numbers are of.

    Args:
        types: the names of the types' policies.
        shares: eta `(types,)`.
        priority: c `(types,)`.
        prompts: how many.
        samples: answers to each prompt from each policy.
        max_new_tokens: the longest answer.
        hedge: whether the game is solved by Hedge.
        seed: of the bootstrap.
    """

    types: Sequence[str]
    shares: np.ndarray
    priority: np.ndarray
    prompts: int
    samples: int
    max_new_tokens: int
    hedge: bool
    seed: int


def chosen(answers: pa.Table, asked: Asked) -> tuple[Game, dict[str, np.ndarray]]:
    """The solved game, and the weights of every mixture that is compared: `(types,)` each."""
    utility = utilities_by(answers, asked.types, asked.prompts).mean((-2, -1))
    regret = regret_matrix(utility, asked.priority)
    game = game_theory.hedge(regret) if asked.hedge else game_theory.min_max_regret(regret)
    weights = (
        asked.shares,
        game_theory.utilitarian(utility, asked.shares * asked.priority),
        game.weights,
        game_theory.max_min_reward(utility),
    )
    return game, dict(zip(MIXTURES, weights, strict=True))


def aggregation(
    answers: pa.Table,
    asked: Asked,
    further: Sequence[str],
    game: Game,
    mixtures: Mapping[str, np.ndarray],
    groups: Sequence[Group] = (),
) -> dict[str, Any]:
    """The content of `aggregate.json`.

    Args:
        answers: of `draw_answers`.
        asked: what they are of.
        further: names of the policies that drew besides the types' own and the base.
        game: of `chosen`,
        mixtures: and with it.
        groups: known ones.
    """
    drawers = [*asked.types, BASE, *further]
    utilities = utilities_by(answers, drawers, asked.prompts)  # (types, policies, prompts, samples)
    own, weights = len(asked.types), np.stack(list(mixtures.values()))
    ratios = with_mixtures(utilities.mean(-1), weights)
    regrets = regret_table(ratios, asked.priority, seed=asked.seed)
    rates = _wins_against(utilities, own, weights, asked.seed)
    between = game_interval(ratios, asked.priority, seed=asked.seed)
    lengths, cut = _lengths(answers, drawers, weights)
    names = [*drawers, *mixtures]
    kinds = ["own"] * own + ["base"] + ["further"] * len(further) + ["mixture"] * len(mixtures)
    order = [*range(own + 1), *range(len(drawers), len(names)), *range(own + 1, len(drawers))]
    policies = [
        {
            "name": names[place],
            "kind": kinds[place],
            "weights": mixtures[names[place]].tolist() if kinds[place] == "mixture" else None,
            "max_regret": _number(regrets.largest.value[place]),
            "low": _number(regrets.largest.low[place]),
            "high": _number(regrets.largest.high[place]),
            "mean_length": lengths[place],
            "unfinished": cut[place],
            "types": [
                {
                    "utility": _number(regrets.utility[kind, place]),
                    "utility_se": _number(regrets.utility_error[kind, place]),
                    "regret": _number(regrets.regret[kind, place]),
                    "regret_se": _number(regrets.regret_error[kind, place]),
                    "win_rate": _number(rates.value[kind, place]),
                    "low": _number(rates.low[kind, place]),
                    "high": _number(rates.high[kind, place]),
                }
                for kind in range(own)
            ],
        }
        for place in order
    ]
    against = []
    for name in further:
        found = _wins_against(utilities, drawers.index(name), weights, asked.seed)
        against += [
            {
                "policy": names[place],
                "against": name,
                "type": label(asked.types[kind]),
                "win_rate": _number(found.value[kind, place]),
                "low": _number(found.low[kind, place]),
                "high": _number(found.high[kind, place]),
            }
            for place in order
            if names[place] != name
            for kind in range(own)
        ]
    story: dict[str, Any] = {
        "prompts": asked.prompts,
        "samples": asked.samples,
        "max_new_tokens": asked.max_new_tokens,
        "types": [
            {"type": label(name), "policy": name, "share": float(share), "priority": float(c)}
            for name, share, c in zip(asked.types, asked.shares, asked.priority, strict=True)
        ],
        "policies": policies,
        "game": {
            "value": game.value_with_abstention,
            "low": None if between is None else max(between[0], 0.0),
            "high": None if between is None else max(between[1], 0.0),
            "without_abstention": game.value,
            "adversary": game.adversary.tolist(),
            "solver": "optimistic Hedge" if asked.hedge else "linear programme",
        },
        "against": against,
        "groups": group_blocks(
            groups,
            [names[place] for place in order],
            (asked.priority[:, None, None] * (ratios[range(own), range(own)][:, None] - ratios))[:, order],
            with_mixtures(preferred(utilities, utilities[:, [own]]), weights)[:, order],
            asked.seed,
        ),
        "examples": _examples(answers, drawers, asked),
    }
    return story | {"warnings": warnings_of(story)}


def warnings_of(story: Mapping[str, Any]) -> list[str]:
    """What makes the numbers less than they seem."""
    found = []
    game, types = story["game"], story["types"]
    if story["prompts"] < 2:
        found.append("There is one prompt, so nothing is known of the errors: give more prompts.")
    if game["without_abstention"] < 0:
        found.append(
            "The game's value is under zero, which only chance can do: the mixture's weights are those of the game "
            "in which the adversary may not abstain, and would differ with other answers. Draw more of them."
        )
    elif game["low"] is not None and game["low"] <= 0 < game["value"]:
        found.append(
            "The interval of the game's value reaches zero: the answers do not show that any type has to give "
            "something up. Draw more of them before acting on the weights."
        )
    for place, one in enumerate(types):
        for policy in story["policies"][: len(types)]:
            here = policy["types"][place]
            if here["regret_se"] is not None and here["regret"] < -2 * here["regret_se"]:
                found.append(
                    f"Type {one['type']} gains more from the answers of {policy['name']} than from those of its "
                    "own policy: it was not tuned far enough towards what it believes."
                )
    for policy in story["policies"]:
        if policy["unfinished"] > _UNFINISHED and policy["kind"] != "mixture":
            found.append(
                f"{round(100 * policy['unfinished'])} % of the answers of {policy['name']} were cut at "
                f"{story['max_new_tokens']} tokens: utilities are those of beginnings. Raise --max-new-tokens."
            )
    return found


def aggregate_metrics(story: Mapping[str, Any], answers: pa.Table) -> dict[str, Any]:
    """The flat metrics of an aggregation; what is not defined is left out."""
    game = story["game"]
    metrics: dict[str, Any] = {
        "types": len(story["types"]),
        "prompts": story["prompts"],
        "samples": story["samples"],
        "answers": answers.num_rows,
        "game_value": game["value"],
        "game_value_low": game["low"],
        "game_value_high": game["high"],
        "game_value_without_abstention": game["without_abstention"],
    }
    for policy in story["policies"]:
        name = policy["name"]
        if name == EGALITARIAN:
            pairs = zip(story["types"], policy["weights"], strict=True)
            metrics |= {f"mixture_weights/type={one['type']}": weight for one, weight in pairs}
        metrics[f"max_regret/{name}"] = policy["max_regret"]
        metrics[f"max_regret/{name}_low"], metrics[f"max_regret/{name}_high"] = policy["low"], policy["high"]
        metrics[f"mean_length/{name}"] = policy["mean_length"]
        metrics[f"unfinished/{name}"] = policy["unfinished"]
        for one, here in zip(story["types"], policy["types"], strict=True):
            at = f"{name}/type={one['type']}"
            for key in ("regret", "utility"):
                metrics |= {f"{key}/{at}": here[key], f"{key}/{at}_se": here[f"{key}_se"]}
            metrics[f"win_rate/{at}"] = here["win_rate"]
            metrics |= {f"win_rate/{at}_low": here["low"], f"win_rate/{at}_high": here["high"]}
    metrics |= group_metrics(story["groups"])
    for one in story["against"]:
        at = f"win_rate/{one['policy']}/type={one['type']}/against={one['against']}"
        metrics |= {at: one["win_rate"], f"{at}_low": one["low"], f"{at}_high": one["high"]}
    return {key: value for key, value in metrics.items() if value is not None}


def regret_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Each type's regret under each policy as lines of text, from the metrics.

    Examples:
        >>> found = {"max_regret/base": 2.0, "regret/base/type=1": 2.0, "regret/base/type=1_se": 0.5}
        >>> print("\\n".join(regret_lines(found)))
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


def _wins_against(utilities: np.ndarray, opponent: int, weights: np.ndarray, seed: int) -> Estimate:
    """Win rates of all policies, mixtures included, against one of them: `(types, policies)`."""
    return means(with_mixtures(preferred(utilities, utilities[:, [opponent]]), weights), seed=seed)


def label(policy: str) -> str:
    """How metrics call the type of a policy.

    Examples:
        >>> label("type-2"), label("nurses")
        ('2', 'nurses')
    """
    return policy.removeprefix("type-") or policy


def _lengths(answers: pa.Table, drawers: Sequence[str], weights: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean tokens and share cut at the limit, of those who drew and of the mixtures."""
    both = []
    for column in (answers.column("tokens").to_numpy(), ~answers.column("finished").to_numpy(False)):
        by = np.array(answers.column("by").to_pylist())
        found = np.array([column[by == name].mean() for name in drawers])
        both.append([*found.tolist(), *(weights @ found[: weights.shape[1]]).tolist()])
    return both[0], both[1]


def _examples(answers: pa.Table, drawers: Sequence[str], asked: Asked) -> list[dict[str, Any]]:
    """The first answer of everyone who drew to the first few prompts."""
    found = []
    utilities = [f"utility_{kind + 1}" for kind in range(len(asked.types))]
    for name in drawers:
        rows = answers.filter(pc.equal(answers.column("by"), name))
        for prompt in range(min(_EXAMPLES, asked.prompts)):
            row = rows.slice(prompt * asked.samples, 1).to_pylist()[0]
            values = [float(row[key]) for key in utilities]
            found.append(
                {"prompt": row["prompt"], "policy": name, "response": row["response"], "utilities": values}
                | {"place": prompt}
            )
    return [
        {key: value for key, value in one.items() if key != "place"}
        for one in sorted(found, key=lambda one: one["place"])
    ]


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

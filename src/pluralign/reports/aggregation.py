"""The page of an aggregation: what each type gives up under each policy, and how the chosen one is mixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pluralign.reports.audit.schema import filled
from pluralign.reports.heat import heat
from pluralign.reports.page import (
    Banner,
    Block,
    Figure,
    Figures,
    Note,
    Remarks,
    Section,
    Table,
    Tiles,
    render,
)
from pluralign.reports.rows import Point, Row, forest, known, stacked
from pluralign.reports.texts import interval, number, percent, plural, quoted, text_of

_POLICY = dict.fromkeys(("max_regret", "low", "high", "mean_length", "unfinished"), "number")
_TYPE = dict.fromkeys(("utility", "utility_se", "regret", "regret_se", "win_rate", "low", "high"), "number")

SHAPE: dict[str, Any] = {
    "run": "text",
    **dict.fromkeys(("prompts", "samples", "max_new_tokens"), "number"),
    "types": [{"type": "text", "policy": "text", "share": "number", "priority": "number"}],
    "policies": [{"name": "text", "kind": "text", "weights": ["number"], **_POLICY, "types": [_TYPE]}],
    "game": {
        **dict.fromkeys(("value", "low", "high", "without_abstention"), "number"),
        "adversary": ["number"],
        "solver": "text",
    },
    "groups": [
        {
            **{"group": "text", "annotators": "number", "shares": ["number"]},
            "policies": [{"name": "text", **dict.fromkeys(("regret", "low", "high", "win_rate"), "number")}],
        }
    ],
    "against": [
        {
            **dict.fromkeys(("policy", "against", "type"), "text"),
            **dict.fromkeys(("win_rate", "low", "high"), "number"),
        }
    ],
    "examples": [{"prompt": "any", "policy": "text", "response": "any", "utilities": ["number"]}],
    "warnings": ["text"],
}
"""Blocks of `aggregate.json`. `any` is text or another value of the data."""

WORDS = {
    "base": "what the types' policies were tuned from",
    "population": "mixes the types' policies by the shares of the types",
    "utilitarian": "the best average over the population",
    "egalitarian": "the smallest largest regret: the aggregated policy",
    "max-min-reward": "the best smallest utility",
    "distilled": "one adapter, tuned on draws from the egalitarian mixture",
}
"""What the policies are that every aggregation knows."""


def aggregation_page(story: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """The HTML page of an aggregation.

    Args:
        story: the content of `aggregate.json`; any block may be missing or null.
        metrics: the content of `metrics.json`, for what the distilled policy learned from.

    Returns:
        one self-contained page; the same arguments give the same bytes.

    Raises:
        PluralignError: a block is not of the shape that `aggregate` writes; names the place.

    Examples:
        >>> page = aggregation_page({"warnings": ["Few <prompts>."]}, {})
        >>> "Few &lt;prompts&gt;." in page
        True
    """
    checked = filled(dict(story), SHAPE, "aggregate.json")
    draws = metrics.get("distill_draws")
    subtitle = f"of {checked['run']}" if checked["run"] else "what does each type give up?"
    subtitle += f"; distilled from {plural(draws, 'draw')}" if isinstance(draws, int) else ""
    return render("Aggregation", subtitle, aggregation_sections(checked))


def aggregation_sections(story: Mapping[str, Any]) -> list[Section]:
    """The sections of an aggregation that `pluralign.reports.audit.schema.filled` has checked."""
    types, policies = story["types"], story["policies"]
    legend = [(place, _type(one)) for place, one in enumerate(types, 1)]
    sections = [Section("Result", _result(story))]
    if not policies or not types:
        return sections
    return [
        *sections,
        Section(
            "Regret",
            _regret(types, policies),
            "What a type gives up under a policy against its own, in nats per answer, times its priority.",
        ),
        Section(
            "Policies side by side",
            [
                Figures([_regrets(policies, legend), _wins(policies, legend)]),
                *_numbers(types, policies),
                *_groups(story["groups"]),
                *_against(story["against"], types),
            ],
            "Each type's regret, and how often it likes an answer better than one of the base.",
        ),
        Section("What is mixed", _weights(policies, legend), "An answer is drawn from one of the types' policies."),
        *([Section("Answers", [_answers(story["examples"], types)])] if story["examples"] else []),
    ]


def _result(story: Mapping[str, Any]) -> list[Block]:
    game, by_name = story["game"], {policy["name"]: policy for policy in story["policies"]}
    blocks: list[Block] = []
    best = by_name.get("egalitarian")
    if best is not None and best["max_regret"] is not None:
        others = [
            f"{name} {number(by_name[name]['max_regret'])}"
            for name in ("utilitarian", "population", "max-min-reward", "base", "distilled")
            if name in by_name
        ]
        words = f"The largest regret under the others: {', '.join(others)} nats." if others else ""
        title = f"No type gives up more than {number(best['max_regret'])} nats per answer"
        if any(one["priority"] not in (None, 1) for one in story["types"]):
            title = f"No type's regret times its priority is more than {number(best['max_regret'])} nats per answer"
        blocks.append(Banner("plain", "The aggregated policy", title, [words] if words else []))
    tiles = []
    if game is not None:
        between = interval(game["value"], game["low"], game["high"])
        solver = f"; by {game['solver']}" if game["solver"] else ""
        tiles.append(("value of the game", number(game["value"]), between + solver))
    tiles += [
        (name, number(story[key]), words)
        for key, name, words in (
            ("prompts", "prompts", "intervals and errors are over them"),
            ("samples", "answers each", "to every prompt, from every policy"),
        )
        if story[key] is not None
    ]
    blocks += [Tiles(tiles)] if tiles else []
    blocks += [Remarks("Read with care", story["warnings"])] if story["warnings"] else []
    return blocks or [Note("This file holds no result.")]


def _regret(types: Sequence[Mapping[str, Any]], policies: Sequence[Mapping[str, Any]]) -> list[Block]:
    """The matrix as a heat table, and each policy's largest regret."""
    rows = [
        (text_of(policy["name"]), [(one["regret"], one["regret_se"]) for one in _of_types(policy, types)])
        for policy in policies
    ]
    drawn = heat([_type(one) for one in types], rows, "Regret of each type under each policy.")
    reading = "Darker is a larger regret; ± is a standard error over prompts. A type's own policy has regret 0."
    largest = [
        Row(text_of(policy["name"]), [Point(policy["max_regret"], policy["low"], policy["high"])])
        for policy in policies
    ]
    worst = forest(largest, "Largest regret of each policy.", x_label="nats per answer")
    words = "The largest regret that a policy leaves to a type, with its interval. The weights were chosen on these "
    words += "answers: on new ones the mixture's regret is a little larger."
    return [Figures([Figure("Regret of each type", drawn, reading), Figure("Largest regret", worst, words)])]


def _regrets(policies: Sequence[Mapping[str, Any]], legend: Sequence[tuple[int, str]]) -> Figure:
    rows = []
    for policy in policies:
        points = []
        for place, one in enumerate(policy["types"], 1):
            value, error = one["regret"], one["regret_se"]
            known_error = value is not None and error is not None
            low, high = (value - 1.96 * error, value + 1.96 * error) if known_error else (None, None)
            points.append(Point(value, low, high, place))
        rows.append(Row(text_of(policy["name"]), points))
    drawn = forest(rows, "Regret of each type under each policy.", x_label="regret in nats")
    return Figure("Regret", drawn, "Smaller is better; bars are 1.96 standard errors to each side.", legend)


def _wins(policies: Sequence[Mapping[str, Any]], legend: Sequence[tuple[int, str]]) -> Figure:
    rows = [
        Row(
            text_of(policy["name"]),
            [
                Point(one["win_rate"], one["low"], one["high"], series=place)
                for place, one in enumerate(policy["types"], 1)
            ],
        )
        for policy in policies
    ]
    drawn = forest(rows, "Win rate of each policy against the base, by each type's utility.",
                   x_label="share of pairs of answers", reference=0.5, bounds=(0.0, 1.0))  # fmt: skip
    reading = "How often a type's implicit utility prefers the policy's answer to the base's; 0.5 is no difference. "
    reading += "It is what the type's own policy believes, not what people said of these answers."
    return Figure("Win rate against the base", drawn, reading, legend)


def _numbers(types: Sequence[Mapping[str, Any]], policies: Sequence[Mapping[str, Any]]) -> list[Block]:
    head = ["policy", "largest regret"]
    for one in types:
        head += [f"regret, {_type(one)}", f"utility, {_type(one)}", f"win rate, {_type(one)}"]
    rows = []
    for policy in policies:
        row = [text_of(policy["name"]), interval(policy["max_regret"], policy["low"], policy["high"])]
        for one in _of_types(policy, types):
            row += [
                _with_error(one["regret"], one["regret_se"]),
                _with_error(one["utility"], one["utility_se"]),
                interval(one["win_rate"], one["low"], one["high"]),
            ]
        rows.append(row)
    names = [text_of(policy["name"]) for policy in policies]
    words = [[name, WORDS.get(name, _kind(policy))] for name, policy in zip(names, policies, strict=True)]
    return [
        Table("The numbers: nats per answer, ± a standard error", head, rows),
        Table("What they are", ["policy", "what"], words, folded=True),
    ]


def _groups(groups: Sequence[Mapping[str, Any]]) -> list[Block]:
    """What known groups give up: a row for each policy."""
    rows: dict[str, list[Any]] = {}
    for place, group in enumerate(groups):
        for policy in group["policies"]:
            row = rows.setdefault(text_of(policy["name"]), [""] * len(groups))
            row[place] = interval(policy["regret"], policy["low"], policy["high"])
    if not rows:
        return []
    head = [
        "policy",
        *(f"{text_of(group['group'])} ({plural(group['annotators'], 'person', 'people')})" for group in groups),
    ]
    title = "Regret of each known group: its members' mean, by the types that they probably are of"
    return [Table(title, head, [[name, *cells] for name, cells in rows.items()])]


def _against(found: Sequence[Mapping[str, Any]], types: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Win rates against each further policy, one table each."""
    blocks: list[Block] = []
    for opponent in dict.fromkeys(text_of(one["against"]) for one in found):
        mine = [one for one in found if text_of(one["against"]) == opponent]
        cells = {(text_of(one["policy"]), text_of(one["type"])): one for one in mine}
        rows = []
        for policy in dict.fromkeys(text_of(one["policy"]) for one in mine):
            rates = [cells.get((policy, text_of(one["type"])), {}) for one in types]
            rows.append([policy, *(interval(one.get("win_rate"), one.get("low"), one.get("high")) for one in rates)])
        head = ["policy", *(_type(one) for one in types)]
        blocks.append(Table(f"Win rate against {opponent}, by each type's utility", head, rows, folded=True))
    return blocks


def _weights(policies: Sequence[Mapping[str, Any]], legend: Sequence[tuple[int, str]]) -> list[Block]:
    mixed = [policy for policy in policies if policy["weights"]]
    rows = [(text_of(policy["name"]), policy["weights"]) for policy in mixed]
    drawn = stacked(rows, "Weights of the types' policies in each mixture.", notes=[""] * len(rows))
    largest = [
        (max(known(*policy["weights"]), default=0.0), policy) for policy in mixed if policy["name"] == "egalitarian"
    ]
    reading = "A type whose regret would be largest is drawn more often, however few its people are."
    if largest and largest[0][0] > 0.995:
        reading = "One type's policy alone leaves the smallest largest regret."
    cells = [[text_of(policy["name"]), *policy["weights"]] for policy in mixed]
    table = Table("The numbers", ["policy", *(name for _, name in legend)], cells, folded=True)
    fitting = all(len(row) == len(legend) + 1 for row in cells)
    return [Figures([Figure("Weights", drawn, reading, legend, table if fitting else None)])]


def _answers(examples: Sequence[Mapping[str, Any]], types: Sequence[Mapping[str, Any]]) -> Table:
    head = ["prompt", "by", "answer", *(f"utility, {_type(one)}" for one in types)]
    rows = []
    for one in examples:
        values = [*one["utilities"], *[None] * len(types)][: len(types)]
        rows.append([text_of(one["prompt"]), text_of(one["policy"]), text_of(one["response"]), *values])
    return Table("The first answers, and what each type thinks of them, in nats", head, rows)


def _of_types(policy: Mapping[str, Any], types: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """A policy's numbers for each type; what the file lacks is unknown."""
    return [*policy["types"], *[dict.fromkeys(_TYPE)] * len(types)][: len(types)]


def _kind(policy: Mapping[str, Any]) -> str:
    return {"own": "the policy of a type", "further": "given to compare with"}.get(text_of(policy["kind"]), "")


def _type(one: Mapping[str, Any]) -> str:
    share = f" ({percent(one['share'])})" if one["share"] is not None else ""
    name = text_of(one["type"])
    return f"type {name}{share}" if len(name) <= 4 else f"{quoted(name, 20)}{share}"


def _with_error(value: float | None, error: float | None) -> str:
    return number(value) if error is None else f"{number(value)} ± {number(error)}"

"""The page of an aggregation: what each type gives up under each policy, and how the aggregated policy is mixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pluralign.reports.page import Banner, Block, Cell, Figure, Figures, Remarks, Section, Table, Tiles, render
from pluralign.reports.row_plots import Point, Row, forest, heat, stacked
from pluralign.reports.texts import interval, number, percent, plural, quoted, text_of

_MEANINGS = {
    "base": "the model from which the policies of the types were tuned",
    "population": "mixes the policies of the types by the shares of the types",
    "utilitarian": "maximises the average utility of the population",
    "egalitarian": "minimises the largest regret: the aggregated policy",
    "max-min-reward": "maximises the smallest utility",
    "distilled": "one adapter, tuned on responses drawn from the egalitarian mixture",
}
"""Policies that every aggregation compares."""

_KINDS = {"own": "the policy of a type", "further": "given for comparison"}


@dataclass(frozen=True)
class AggregatedType:
    """A type: its name, its policy, its share and its priority."""

    type: str
    policy: str
    share: float
    priority: float


@dataclass(frozen=True)
class TypeOutcome:
    """A policy for one type: utility and regret in nats per response with standard errors, and win rate."""

    utility: float | None
    utility_se: float | None
    regret: float | None
    regret_se: float | None
    win_rate: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class PolicyOutcome:
    """A policy: its largest regret with its interval, and its outcome for each type.

    `kind` is `own`, `base`, `mixture` or `further`; mixtures have weights. `mean_length` is in tokens, and
    `unfinished` is the share of responses cut at the limit.
    """

    name: str
    kind: str
    weights: list[float] | None
    max_regret: float | None
    low: float | None
    high: float | None
    mean_length: float
    unfinished: float
    types: list[TypeOutcome]


@dataclass(frozen=True)
class SolvedGame:
    """The solved game: its value with an adversary that may abstain, and without abstention."""

    value: float
    low: float | None
    high: float | None
    without_abstention: float
    adversary: list[float]
    solver: str


@dataclass(frozen=True)
class WinRate:
    """How often a type prefers the responses of a policy to those of another."""

    policy: str
    against: str
    type: str
    win_rate: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class GroupPolicy:
    """Regret and win rate of a known group under a policy."""

    name: str
    regret: float
    low: float | None
    high: float | None
    win_rate: float


@dataclass(frozen=True)
class GroupOutcome:
    """A known group: its annotators, the mean of their posteriors over types, and its outcomes."""

    group: str
    annotators: int
    shares: list[float]
    policies: list[GroupPolicy]


@dataclass(frozen=True)
class Example:
    """A response of a policy and its utility for each type."""

    prompt: Any
    policy: str
    response: Any
    utilities: list[float]


@dataclass(frozen=True)
class AggregationPage:
    """The content of `aggregate.json` and the input of its page."""

    run: str
    prompts: int
    samples: int
    max_new_tokens: int
    types: list[AggregatedType]
    policies: list[PolicyOutcome]
    game: SolvedGame
    against: list[WinRate]
    groups: list[GroupOutcome]
    examples: list[Example]
    warnings: list[str]


def aggregation_page(aggregation: AggregationPage, metrics: Mapping[str, Any]) -> str:
    """The HTML page of an aggregation: self-contained; the same arguments give the same bytes.

    Args:
        aggregation: what is shown.
        metrics: as in `metrics.json`; `distill_draws` is shown.
    """
    draws = metrics.get("distill_draws")
    subtitle = f"of {aggregation.run}"
    subtitle += f"; distilled from {plural(draws, 'response')}" if isinstance(draws, int) else ""
    return render("Aggregation", subtitle, aggregation_sections(aggregation))


def aggregation_sections(aggregation: AggregationPage) -> list[Section]:
    """The sections of an aggregation's page."""
    types, policies = aggregation.types, aggregation.policies
    names = [_type_name(kind) for kind in types]
    legend = list(enumerate(names, 1))
    sections = [
        Section("Result", _result(aggregation)),
        Section(
            "Regret",
            [Figures([_regret_table(names, policies), _largest_regrets(policies)])],
            "What a type gives up under a policy compared with its own, in nats per response, times its priority.",
        ),
        Section(
            "Policies side by side",
            [
                Figures([_regrets(policies, legend), _win_rates(policies, legend)]),
                *_numbers(names, policies),
                *_groups(aggregation.groups),
                *_against(aggregation.against, types, names),
            ],
            "The regret of each type, and how often it prefers a policy's response to one of the base.",
        ),
        Section("Mixtures", _weights(policies, legend), "A mixture draws each response from the policy of one type."),
    ]
    if aggregation.examples:
        sections.append(Section("Responses", [_examples(aggregation.examples, names)]))
    return sections


def _result(aggregation: AggregationPage) -> list[Block]:
    game, by_name = aggregation.game, {policy.name: policy for policy in aggregation.policies}
    blocks: list[Block] = []
    best = by_name.get("egalitarian")
    if best is not None and best.max_regret is not None:
        others = ", ".join(
            f"{name} {number(by_name[name].max_regret)}"
            for name in ("utilitarian", "population", "max-min-reward", "base", "distilled")
            if name in by_name
        )
        title = f"No type gives up more than {number(best.max_regret)} nats per response"
        if any(kind.priority != 1 for kind in aggregation.types):
            title = f"No type's regret times its priority exceeds {number(best.max_regret)} nats per response"
        words = [f"Largest regret under the other policies, in nats: {others}."] if others else []
        blocks.append(Banner("plain", "The aggregated policy", title, words))
    tiles = [
        ("value of the game", number(game.value), f"{interval(game.value, game.low, game.high)}; by {game.solver}"),
        ("prompts", number(aggregation.prompts), "intervals and errors are over prompts"),
        ("responses each", number(aggregation.samples), "to every prompt, from every policy"),
    ]
    blocks.append(Tiles(tiles))
    return [*blocks, Remarks("Warnings", aggregation.warnings)] if aggregation.warnings else blocks


def _regret_table(names: Sequence[str], policies: Sequence[PolicyOutcome]) -> Figure:
    rows = [(policy.name, [(kind.regret, kind.regret_se) for kind in policy.types]) for policy in policies]
    reading = "Darker is a larger regret; ± is a standard error over prompts. Under its own policy a type has regret 0."
    return Figure("Regret of each type", heat(names, rows, "Regret of each type under each policy."), reading)


def _largest_regrets(policies: Sequence[PolicyOutcome]) -> Figure:
    rows = [Row(policy.name, [Point(policy.max_regret, policy.low, policy.high)]) for policy in policies]
    drawn = forest(rows, "Largest regret of each policy.", x_label="nats per response")
    reading = "The largest regret of any type under a policy, with its interval. The weights were chosen on these "
    reading += "responses: on new ones the regret of the mixture is slightly larger."
    return Figure("Largest regret", drawn, reading)


def _regrets(policies: Sequence[PolicyOutcome], legend: Sequence[tuple[int, str]]) -> Figure:
    rows = [
        Row(policy.name, [_regret_point(kind, place) for place, kind in enumerate(policy.types, 1)])
        for policy in policies
    ]
    drawn = forest(rows, "Regret of each type under each policy.", x_label="regret in nats")
    return Figure("Regret", drawn, "Smaller is better; bars extend 1.96 standard errors to each side.", legend)


def _regret_point(outcome: TypeOutcome, series: int) -> Point:
    if outcome.regret is None or outcome.regret_se is None:
        return Point(outcome.regret, series=series)
    half = 1.96 * outcome.regret_se
    return Point(outcome.regret, outcome.regret - half, outcome.regret + half, series)


def _win_rates(policies: Sequence[PolicyOutcome], legend: Sequence[tuple[int, str]]) -> Figure:
    rows = [
        Row(policy.name, [Point(of.win_rate, of.low, of.high, place) for place, of in enumerate(policy.types, 1)])
        for policy in policies
    ]
    drawn = forest(rows, "Win rate of each policy against the base, by each type's utility.",
                   x_label="share of pairs of responses", reference=0.5, bounds=(0.0, 1.0))  # fmt: skip
    reading = "How often the implicit utility of a type prefers the policy's response to that of the base; 0.5 is no "
    reading += "difference. This is an estimate by the type's own policy; no annotator judged these responses."
    return Figure("Win rate against the base", drawn, reading, legend)


def _numbers(names: Sequence[str], policies: Sequence[PolicyOutcome]) -> list[Block]:
    head = ["policy", "largest regret"]
    for name in names:
        head += [f"{measure}, {name}" for measure in ("regret", "utility", "win rate")]
    rows: list[list[Cell]] = []
    for policy in policies:
        row: list[Cell] = [policy.name, interval(policy.max_regret, policy.low, policy.high)]
        for kind in policy.types:
            row += [
                _with_error(kind.regret, kind.regret_se),
                _with_error(kind.utility, kind.utility_se),
                interval(kind.win_rate, kind.low, kind.high),
            ]
        rows.append(row)
    meanings = [[policy.name, _MEANINGS.get(policy.name, _KINDS.get(policy.kind, ""))] for policy in policies]
    return [
        Table("The numbers: nats per response, ± a standard error", head, rows),
        Table("The policies", ["policy", "meaning"], meanings, folded=True),
    ]


def _groups(groups: Sequence[GroupOutcome]) -> list[Block]:
    """The regret of known groups, a row per policy."""
    if not groups:
        return []
    head = ["policy", *(f"{group.group} ({plural(group.annotators, 'annotator')})" for group in groups)]
    rows = [
        [of[0].name, *(interval(group.regret, group.low, group.high) for group in of)]
        for of in zip(*(group.policies for group in groups), strict=True)
    ]
    return [Table("Regret of each known group: the mean over its members, by their probable types", head, rows)]


def _against(rates: Sequence[WinRate], types: Sequence[AggregatedType], names: Sequence[str]) -> list[Block]:
    """Win rates against each further policy, one table each."""
    blocks: list[Block] = []
    for opponent in dict.fromkeys(rate.against for rate in rates):
        cells = {(rate.policy, rate.type): rate for rate in rates if rate.against == opponent}
        rows: list[list[Cell]] = []
        for policy in dict.fromkeys(policy for policy, _ in cells):
            of = [cells[policy, kind.type] for kind in types]
            rows.append([policy, *(interval(rate.win_rate, rate.low, rate.high) for rate in of)])
        title = f"Win rate against {opponent}, by each type's utility"
        blocks.append(Table(title, ["policy", *names], rows, folded=True))
    return blocks


def _weights(policies: Sequence[PolicyOutcome], legend: Sequence[tuple[int, str]]) -> list[Block]:
    rows = [(policy.name, policy.weights) for policy in policies if policy.weights is not None]
    drawn = stacked(rows, "Weights of the policies of the types in each mixture.", notes=[""] * len(rows))
    reading = "A type with a large regret gets a large weight, even if it has few annotators."
    if max(dict(rows).get("egalitarian", [0.0])) > 0.995:
        reading = "The policy of one type alone minimises the largest regret."
    cells: list[list[Cell]] = [[name, *weights] for name, weights in rows]
    table = Table("The numbers", ["policy", *(name for _, name in legend)], cells, folded=True)
    return [Figures([Figure("Weights", drawn, reading, legend, table)])]


def _examples(examples: Sequence[Example], names: Sequence[str]) -> Table:
    head = ["prompt", "policy", "response", *(f"utility, {name}" for name in names)]
    rows: list[list[Cell]] = [
        [text_of(row.prompt), row.policy, text_of(row.response), *row.utilities] for row in examples
    ]
    return Table("The first responses and their utility for each type, in nats", head, rows)


def _type_name(kind: AggregatedType) -> str:
    name = f"type {kind.type}" if len(kind.type) <= 4 else quoted(kind.type, 20)
    return f"{name} ({percent(kind.share)})"


def _with_error(value: float | None, error: float | None) -> str:
    return number(value) if error is None else f"{number(value)} ± {number(error)}"

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
    "mixture": "draws each response from the policy of one type",
    "merge": "one adapter: the weighted sum of the types' adapters",
    "pooled": "adds the types' logits with weights at every token",
    "best-of": "the best of several responses of the base, by the types' judges",
    "population": "mixes the policies of the types by the shares of the types",
    "utilitarian": "the mixture that maximises the average utility of the population",
    "max-min-reward": "the mixture that maximises the smallest utility",
}
"""Policies that every aggregation compares."""

_CRITERIA = {
    "win-rate": "smallest win rate against the base",
    "regret": "largest regret in nats",
    "relative-regret": "largest regret as a share of what a type has under its own policy",
}

_KINDS = {
    "own": "the policy of a type",
    "distilled": "one adapter, tuned on responses drawn from the policy of that name",
    "further": "given for comparison",
}


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
class Value:
    """A number with the ends of its interval."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class PolicyOutcome:
    """A policy: its largest regret with its interval, its other criteria, and its outcome for each type.

    `kind` is `own`, `base`, `offered`, `distilled`, `compared` (a mixture) or `further`. `weights` are those of the
    types, in mixtures and in the policies that are offered. `loss` is what the criterion minimises. `mean_length` is in
    tokens, and `unfinished` is the share of responses cut at the limit.
    """

    name: str
    kind: str
    weights: list[float] | None
    max_regret: float | None
    low: float | None
    high: float | None
    max_relative_regret: Value
    worst_win_rate: Value
    loss: Value
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
    criterion: str
    judged_by: str
    winner: str
    prompts: int
    tuning_prompts: int
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
        metrics: as in `metrics.json`; the numbers of `distill_draws/NAME` are shown.
    """
    draws = [value for key, value in metrics.items() if key.startswith("distill_draws/") and isinstance(value, int)]
    subtitle = f"of {aggregation.run}"
    subtitle += f"; distilled from {plural(sum(draws), 'response')}" if draws else ""
    return render("Aggregation", subtitle, aggregation_sections(aggregation))


def aggregation_sections(aggregation: AggregationPage) -> list[Section]:
    """The sections of an aggregation's page."""
    types, policies = aggregation.types, aggregation.policies
    names = [_type_name(kind) for kind in types]
    legend = list(enumerate(names, 1))
    sections = [
        Section("Result", _result(aggregation)),
        Section(
            "Policies side by side",
            [
                Figures([_win_rates(aggregation, legend), _worst_win_rates(policies)]),
                *_numbers(names, policies),
                *_groups(aggregation.groups),
                *_against(aggregation.against, types, names),
            ],
            "How often each type prefers a policy's response to one of the base, and what it gives up compared with "
            "its own policy.",
        ),
        Section(
            "Regret",
            [Figures([_regret_table(names, policies), _largest_regrets(policies), _regrets(policies, legend)])],
            "What a type gives up under a policy compared with its own, in nats per response, times its priority.",
        ),
        Section("Weights", _weights(policies, names, legend), "Chosen on the tuning prompts."),
    ]
    if aggregation.examples:
        sections.append(Section("Responses", [_examples(aggregation.examples, names)]))
    return sections


def _result(aggregation: AggregationPage) -> list[Block]:
    game, by_name = aggregation.game, {policy.name: policy for policy in aggregation.policies}
    criterion = _CRITERIA.get(aggregation.criterion, aggregation.criterion)
    blocks: list[Block] = []
    best = by_name.get(aggregation.winner)
    if best is not None:
        worst = best.worst_win_rate
        title = f"{aggregation.winner} is the best policy by the {criterion}"
        words = []
        if worst.value is not None:
            shown = interval(worst.value, worst.low, worst.high)
            words.append(f"The worst-off type prefers its responses to those of the base with probability {shown}.")
        if any(kind.priority != 1 for kind in aggregation.types):
            words.append("Types count by their priorities.")
        blocks.append(Banner("plain", "For all types", title, words))
        blocks.append(_prices(aggregation, best))
    tiles = [
        ("prompts", number(aggregation.prompts), "on which policies are measured; intervals and errors are over them"),
        ("tuning prompts", number(aggregation.tuning_prompts), "on which the weights were chosen"),
        ("responses each", number(aggregation.samples), "to every prompt, from every policy"),
        (
            "value of the mixture's game", number(game.value),
            f"{interval(game.value, game.low, game.high)}; by {game.solver}",
        ),
    ]  # fmt: skip
    blocks.append(Tiles(tiles))
    return [*blocks, Remarks("Warnings", aggregation.warnings)] if aggregation.warnings else blocks


def _prices(aggregation: AggregationPage, best: PolicyOutcome) -> Table:
    """What each type gets from the best policy and from its own."""
    by_name = {policy.name: policy for policy in aggregation.policies}
    rows: list[list[Cell]] = []
    for place, kind in enumerate(aggregation.types):
        row: list[Cell] = [_type_name(kind)]
        for policy in (best, by_name.get(kind.policy)):
            of = policy.types[place] if policy is not None and place < len(policy.types) else None
            row.append("" if of is None else interval(of.win_rate, of.low, of.high))
        here = best.types[place] if place < len(best.types) else None
        row.append("" if here is None else _with_error(here.regret, here.regret_se))
        rows.append(row)
    head = ["type", f"win rate of {best.name}", "win rate of the type's own policy", "regret in nats"]
    return Table(f"The price of {best.name} for every type", head, rows)


def _regret_table(names: Sequence[str], policies: Sequence[PolicyOutcome]) -> Figure:
    rows = [(policy.name, [(kind.regret, kind.regret_se) for kind in policy.types]) for policy in policies]
    reading = "Darker is a larger regret; ± is a standard error over prompts. Under its own policy a type has regret 0."
    return Figure("Regret of each type", heat(names, rows, "Regret of each type under each policy."), reading)


def _largest_regrets(policies: Sequence[PolicyOutcome]) -> Figure:
    rows = [Row(policy.name, [Point(policy.max_regret, policy.low, policy.high)]) for policy in policies]
    drawn = forest(rows, "Largest regret of each policy.", x_label="nats per response")
    reading = "The largest regret of any type under a policy, with its interval."
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


def _win_rates(aggregation: AggregationPage, legend: Sequence[tuple[int, str]]) -> Figure:
    rows = [
        Row(policy.name, [Point(of.win_rate, of.low, of.high, place) for place, of in enumerate(policy.types, 1)])
        for policy in aggregation.policies
    ]
    drawn = forest(rows, "Win rate of each policy against the base, by each type's judge.",
                   x_label="share of pairs of responses", reference=0.5, bounds=(0.0, 1.0))  # fmt: skip
    reading = "How often a type prefers the policy's response to that of the base; 0.5 is no difference. Judged by "
    reading += f"{aggregation.judged_by}: an estimate; no annotator judged these responses."
    return Figure("Win rate against the base", drawn, reading, legend)


def _worst_win_rates(policies: Sequence[PolicyOutcome]) -> Figure:
    rows = []
    for policy in policies:
        worst = policy.worst_win_rate
        rows.append(Row(policy.name, [Point(worst.value, worst.low, worst.high)]))
    drawn = forest(rows, "Smallest win rate of each policy over the types.",
                   x_label="share of pairs of responses", reference=0.5, bounds=(0.0, 1.0))  # fmt: skip
    reading = "The win rate of the type that likes a policy least, with its interval. As the smallest of noisy numbers "
    reading += "it is slightly too small."
    return Figure("Win rate of the worst-off type", drawn, reading)


def _numbers(names: Sequence[str], policies: Sequence[PolicyOutcome]) -> list[Block]:
    head = ["policy", "worst-off type's win rate", "largest regret", "largest relative regret"]
    for name in names:
        head += [f"{measure}, {name}" for measure in ("regret", "utility", "win rate")]
    rows: list[list[Cell]] = []
    for policy in policies:
        worst, relative = policy.worst_win_rate, policy.max_relative_regret
        row: list[Cell] = [
            policy.name,
            interval(worst.value, worst.low, worst.high),
            interval(policy.max_regret, policy.low, policy.high),
            interval(relative.value, relative.low, relative.high),
        ]
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


def _weights(policies: Sequence[PolicyOutcome], names: Sequence[str], legend: Sequence[tuple[int, str]]) -> list[Block]:
    rows = [(policy.name, policy.weights) for policy in policies if policy.weights is not None]
    cells: list[list[Cell]] = [[name, *weights] for name, weights in rows]
    table = Table("Weights of the types in each policy", ["policy", *names], cells)
    mixtures = [
        (policy.name, policy.weights)
        for policy in policies
        if policy.weights is not None and (policy.name == "mixture" or policy.kind == "compared")
    ]
    if not mixtures:
        return [table]
    drawn = stacked(mixtures, "Weights of the policies of the types in each mixture.", notes=[""] * len(mixtures))
    reading = (
        "How often a mixture answers with each type's policy. A type that loses much gets a large weight, even if "
    )
    reading += "it has few annotators. The weights of merge and pooled need not sum to 1."
    return [Figures([Figure("Mixtures", drawn, reading, legend)]), table]


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

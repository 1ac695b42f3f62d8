"""How well a policy matches its reward model: saturation, margins against rewards, minority mass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pluralign.core.errors import PluralignError
from pluralign.reports.measures import Value, measures_table, metric_point, with_interval
from pluralign.reports.page import Block, Cell, Figure, Figures, Heading, Section, Table
from pluralign.reports.plots import diagonal, probability_histograms
from pluralign.reports.row_plots import Row, forest
from pluralign.reports.texts import number, percent

LISTS = {
    "policy": ("", "Responses of the policy"),
    "reference": ("/on=reference", "Responses of the reference"),
    "given": ("/on=given", "Responses that annotators judged"),
}
"""The kinds of lists of responses: what each appends to keys of `metrics.json`, and its name."""

MEASURES = {
    "pm_divergence": ("Matching divergence", "Mean squared difference of log-odds and rewards; 0 is a match."),
    "pm_divergence/reference": ("Matching divergence of the reference", "The same before tuning."),
    "minority_mass": ("Minority mass", "The share of the less preferred responses' mass that is kept; 1 is all of it."),
    "minority_mass/reference": ("Minority mass of the reference", "The same before tuning."),
    "minority_mass_per_token": (
        "Minority mass per token",
        "By the mean log-probability of a token; not 1 for a match.",
    ),
    "saturation": ("Saturation", "The share of pairs on which the policy is almost certain (under 5 % or over 95 %)."),
    "saturation/reference": ("Saturation of the reference", "The same for the reference."),
    "saturation/reward": ("Saturation of the reward model", "The same for the reward model."),
    "pair_kl": ("KL of pairs", "Divergence between the probabilities of a pair, in nats; grows with the log-odds."),
    "pair_js": ("Jensen-Shannon of pairs", "The same, but at most 0.693."),
    "pair_gap": ("Gap of pairs", "Mean distance between the two probabilities of a pair."),
    "list_kl": ("KL of lists", "Divergence between the shares of all responses of a list, in nats."),
    "list_js": ("Jensen-Shannon of lists", "The same, but at most 0.693."),
    "list_tv": ("Total variation of lists", "The share of a list that the policy puts on the wrong response."),
    "repeated": ("Repeated responses", "The share of pairs whose two responses are identical."),
}
"""Keys of `metrics.json`, each with a name and what the number means."""

FIRST_CHOICES = {
    "first_choice_log_loss": ("By the whole text", "Log-loss in nats; a longer text is less likely."),
    "first_choice_log_loss_per_token": ("By the mean of its tokens", "The same with log pi / tokens."),
    "first_choice_log_loss/uniform": ("All alike", "The same if all responses shown were equally likely."),
}
"""Keys of `metrics.json` about which of the responses shown the policy would say."""

TEXTS = {
    "entropy": ("Entropy", "Nats per response; lower is less varied."),
    "entropy_per_token": ("Entropy per token", "Nats per token."),
    "distinct_1": ("Distinct tokens", "Share of all tokens in the responses."),
    "distinct_2": ("Distinct pairs of tokens", "Share of all pairs of neighbouring tokens."),
    "reference_perplexity": ("Perplexity under the reference", "Far above the reference's own: degenerate text."),
    "unfinished": ("Unfinished", "The share of responses cut at the limit."),
}
"""Keys of `metrics.json` about the responses themselves; those of the reference end in `/reference`."""

_SERIES = {"policy": 1, "reference": 2, "reward": 3}
_LEGEND = [(1, "policy"), (2, "reference")]


@dataclass(frozen=True)
class Margins:
    """Differences between two responses: of rewards, and of log-probabilities under policy and reference."""

    reward: float
    policy: float
    reference: float


@dataclass(frozen=True)
class MatchingPlots:
    """Pairs of responses from lists of one kind.

    For the reward model, the policy and the reference: the share of pairs per bin of the probability of the response
    with the larger reward.
    """

    on: str
    pairs: int
    bin_edges: list[float]
    reward: list[float]
    policy: list[float]
    reference: list[float]
    points: list[Margins]

    def __post_init__(self) -> None:
        for shares in (self.reward, self.policy, self.reference):
            if len(shares) + 1 != len(self.bin_edges):
                edges = len(self.bin_edges)
                raise PluralignError(f"found {edges} bin_edges for {len(shares)} shares, expected one edge more")


@dataclass(frozen=True)
class MatchingLists:
    """The content of `matching.json`."""

    lists: list[MatchingPlots]


def matching_section(lists: Sequence[MatchingPlots], value: Value, kinds_said: Sequence[str] = ()) -> Section | None:
    """How well a policy matches its reward model; None where nothing about it is stored.

    `kinds_said` are the kinds whose shares among what the policy says are stored.
    """
    kinds = {on: of for on, of in LISTS.items() if any(value(key + of[0]) is not None for key in MEASURES)}
    choices = measures_table("What annotators put first, by the policy's log-probabilities", value, FIRST_CHOICES)
    texts = measures_table("The responses themselves", value, TEXTS, {"policy": "", "reference": "/reference"})
    if not (kinds or choices.rows or texts.rows):
        return None
    figure = _minority_figure(kinds, value)
    blocks: list[Block] = [Figures([figure])] if figure else []
    for plots in lists:
        if plots.on in kinds and plots.pairs:
            ending, name = kinds[plots.on]
            blocks += [Heading(name), Figures([saturation_figure(plots, value, ending), margins_figure(plots.points)])]
    ends = {name: end for end, name in kinds.values()}
    blocks += [measures_table("Measures of matching", value, MEASURES, ends)] if kinds else []
    blocks += [choices] if choices.rows else []
    blocks += [] if value("said_wanted_tv") is None else [said_table(value, kinds_said)]
    blocks += [texts] if texts.rows else []
    lead = "Do the odds of the policy match the rewards, and which responses does it lose?"
    return Section("Matching", blocks, lead if kinds or choices.rows else "What does the policy say?")


def saturation_figure(plots: MatchingPlots, value: Value, ending: str = "") -> Figure:
    """How certain reward model, policy and reference are about each pair; `ending` is what the list appends to keys."""
    names, shares = ["reward model", "policy", "reference"], [plots.reward, plots.policy, plots.reference]
    series = [_SERIES[key] for key in ("reward", "policy", "reference")]
    drawn = probability_histograms(
        plots.bin_edges, list(zip(names, shares, series, strict=True)),
        "Probability of the response that the reward model prefers: under the reward model, the policy and the "
        "reference.", x_label="probability of the response with more reward",
    )  # fmt: skip
    saturation = [value(key + ending) for key in ("saturation/reward", "saturation", "saturation/reference")]
    known_shares = [(name, share) for name, share in zip(names, saturation, strict=True) if share is not None]
    certain = ", ".join(f"the {name} on {percent(share)}" for name, share in known_shares)
    reading = f"Almost certain, of {number(plots.pairs)} pairs: {certain}."
    reading += " Left of the middle are pairs whose order disagrees with the reward model."
    cells: list[list[Cell]] = [
        [f"{number(low)} to {number(high)}", *map(percent, of_bin)]
        for low, high, *of_bin in zip(plots.bin_edges[:-1], plots.bin_edges[1:], *shares, strict=True)
    ]
    table = Table("The numbers", ["bin", *names], cells, folded=True)
    return Figure("Certainty about each pair", drawn, reading, table=table)


def margins_figure(points: Sequence[Margins]) -> Figure:
    """Margins of log-probability against margins of reward; a policy that matches lies on the diagonal."""
    margins = [[point.reward, point.reference, point.policy] for point in points]
    rewards, reference, policy = np.array(margins, dtype=float).reshape(-1, 3).T
    drawn, outside = diagonal(
        rewards, [(reference, _SERIES["reference"]), (policy, _SERIES["policy"])],
        "Margin of log-probability against margin of reward, a dot per pair.",
        x_label="reward of the better minus the worse response", y_label="the same difference of log-probability",
    )  # fmt: skip
    reading = "On the dashed line, the odds of the two responses match their rewards. Below zero, the order disagrees "
    reading += "with the rewards."
    if outside[1]:
        reading += f" {number(outside[1])} of {number(len(points))} pairs of the policy lie outside the frame."
    return Figure("Margins against rewards", drawn, reading, _LEGEND)


def said_table(value: Value, kinds: Sequence[str]) -> Table:
    """The share of each kind of response among what a policy says and among what annotators put first."""
    rows: list[list[Cell]] = [
        [name, with_interval(value, f"said/kind={name}"), with_interval(value, f"wanted/kind={name}")] for name in kinds
    ]
    rows.append(["distance (total variation)", with_interval(value, "said_wanted_tv"), ""])
    return Table("What is said, and what annotators put first", ["kind", "said", "put first"], rows)


def _minority_figure(kinds: Mapping[str, tuple[str, str]], value: Value) -> Figure | None:
    """The minority mass of policy and reference on each kind of list."""
    keys = {"policy": "minority_mass", "reference": "minority_mass/reference"}
    rows = [
        Row(name, [metric_point(value, key + end, _SERIES[of]) for of, key in keys.items()])
        for end, name in kinds.values()
        if value(f"minority_mass{end}") is not None
    ]
    if not rows:
        return None
    drawn = forest(rows, "Minority mass that policy and reference keep.", x_label="share that is kept",
                   reference=1.0, limits=(0.0, 1.02), shares=True)  # fmt: skip
    reading = "The share that is kept of the mass that the reward model gives to all responses but its favourite. On "
    reading += "its own responses a policy looks better than it is: what it never says is not among them."
    return Figure("Minority mass", drawn, reading, _LEGEND)

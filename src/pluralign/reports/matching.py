"""Does a policy say what its reward model says? Saturation, margins against margins, minority mass."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, MaxNLocator

from pluralign.reports.drawing import (
    GRID,
    MUTED,
    SMALL,
    axis_name,
    canvas,
    dots,
    label,
    plot_area,
    series,
    to_svg,
)
from pluralign.reports.page import Block, Cell, Figure, Figures, Heading, Section, Table
from pluralign.reports.rows import NUMBERS, SHARES, Point, Row, forest, known
from pluralign.reports.texts import interval, number, percent

_NUMBERS = ("reward", "policy", "reference")

SHAPE: Any = {
    "lists": [
        {
            "on": "text",
            "pairs": "number",
            "bin_edges": ["number"],
            **{name: ["number"] for name in _NUMBERS},
            "points": [dict.fromkeys(_NUMBERS, "number")],
        }
    ]
}
"""The shape of `matching.json`."""

LISTS = {
    "policy": ("", "The policy's answers"),
    "reference": ("/on=reference", "The reference's answers"),
    "given": ("/on=given", "Responses that people judged"),
}
"""What a list is of: the end of its keys in `metrics.json`, and how the page calls it."""

MEASURES = {
    "pm_divergence": (
        "Matching divergence",
        "Mean squared gap between the log-odds of the reward model and of the policy; 0 is matched.",
    ),
    "pm_divergence/reference": ("Matching divergence of the reference", "The same before the policy was tuned."),
    "minority_mass": (
        "Minority mass",
        "What the policy keeps of the share of less preferred answers; 1 is all of it.",
    ),
    "minority_mass/reference": ("Minority mass of the reference", "The same before the policy was tuned."),
    "saturation": (
        "Saturation",
        "The share of pairs on which the policy is next to certain (under 5 % or over 95 %).",
    ),
    "saturation/reference": ("Saturation of the reference", "The same of the reference."),
    "saturation/reward": ("Saturation of the reward model", "The same of the reward model."),
    "pair_kl": ("KL of pairs", "Nats between the probabilities of a pair; grows with the log-odds."),
    "pair_js": ("Jensen-Shannon of pairs", "The same, at most 0.693 however sure either is."),
    "pair_gap": ("Gap of pairs", "Mean distance between the two probabilities of a pair."),
    "list_kl": ("KL of lists", "Nats between the shares of all answers of a list."),
    "list_js": ("Jensen-Shannon of lists", "The same, at most 0.693."),
    "list_tv": ("Total variation of lists", "The share of a list that the policy puts on the wrong answer."),
    "repeated": ("Same answer twice", "The share of pairs whose two answers are the same one."),
}
"""Keys of `metrics.json`: a title and what the number says."""

TEXTS = {
    "entropy": ("Entropy", "Nats of an answer; less is less varied."),
    "entropy_per_token": ("Entropy per token", "Nats of a token."),
    "distinct_1": ("Distinct tokens", "Of all tokens of the answers."),
    "distinct_2": ("Distinct pairs of tokens", "Of all neighbouring tokens."),
    "reference_perplexity": ("Perplexity under the reference", "Far above the reference's own: gibberish."),
    "unfinished": ("Unfinished", "The share of answers that were cut at the limit."),
}
"""Keys of `metrics.json` of the answers themselves; the reference's end in `/reference`."""

_SERIES = {"policy": 1, "reference": 2, "reward": 3}
_NAMES = {"reward": "reward model", "policy": "policy", "reference": "reference"}

Value = Callable[[str], float | None]


def matching_section(lists: Sequence[Mapping[str, Any]], value: Value) -> Section | None:
    """The section of a policy's matching; none where nothing of it is stored.

    Args:
        lists: of `matching.json`, checked against `SHAPE`.
        value: gives a metric by its key, None where it is not stored.
    """
    kinds = {on: ends for on, ends in LISTS.items() if any(value(key + ends[0]) is not None for key in MEASURES)}
    if not kinds:
        return None
    blocks: list[Block] = []
    if figure := _minority_figure(kinds, value):
        blocks.append(Figures([figure]))
    for one in lists:
        if (
            one["on"] in kinds
            and one["pairs"]
            and all(len(known(*one[name])) == len(one["bin_edges"]) - 1 for name in _NUMBERS)
        ):
            blocks += [
                Heading(LISTS[one["on"]][1]),
                Figures([saturation_figure(one, value, kinds[one["on"]][0]), margins_figure(one["points"])]),
            ]
    rows: list[list[Cell]] = [
        [title, *(_with_ends(value, key + end) for end, _ in kinds.values()), words]
        for key, (title, words) in MEASURES.items()
        if any(value(key + end) is not None for end, _ in kinds.values())
    ]
    blocks.append(
        Table("Measures of matching", ["measure", *(name for _, name in kinds.values()), "what it says"], rows)
    )
    texts: list[list[Cell]] = [
        [title, _with_ends(value, key), _with_ends(value, f"{key}/reference"), words]
        for key, (title, words) in TEXTS.items()
        if value(key) is not None
    ]
    if texts:
        blocks.append(Table("The answers themselves", ["measure", "policy", "reference", "what it says"], texts))
    return Section("Matching", blocks, "Does the policy say what the reward model says, and what does it forget?")


def saturation_figure(of: Mapping[str, Any], value: Value, end: str = "") -> Figure:
    """How sure reward model, policy and reference are of each pair: three histograms under one another.

    Args:
        of: a row of `matching.json`.
        value: gives a metric by its key.
        end: of the keys of this row's metrics.
    """
    drawn = _panels(of, "Probability of the answer that the reward model prefers: under the reward model, the "
                    "policy and the reference.")  # fmt: skip
    said = [
        f"the {_NAMES[name]} on {percent(found)}"
        for name, key in (
            ("reward", "saturation/reward"),
            ("policy", "saturation"),
            ("reference", "saturation/reference"),
        )
        if (found := value(key + end)) is not None
    ]
    reading = f"Of {number(int(of['pairs']))} pairs, next to certain are " + ", ".join(said) + "."
    reading += " At the left of the middle stands what is ordered against the reward model."
    head = ["bin", *(_NAMES[name] for name in _NUMBERS)]
    edges = of["bin_edges"]
    cells: list[list[Cell]] = [
        [f"{number(low)} to {number(high)}", *(percent(of[name][place]) for name in _NUMBERS)]
        for place, (low, high) in enumerate(itertools.pairwise(edges))
    ]
    title = "How sure of each pair"
    return Figure(title, drawn, reading, table=Table("The numbers", head, cells, folded=True))


def margins_figure(points: Sequence[Mapping[str, Any]]) -> Figure:
    """Margins of log-probability against margins of reward; a policy that matches lies on the diagonal."""
    held = [one for one in points if len(known(*(one[name] for name in _NUMBERS))) == 3]
    across = np.array([one["reward"] for one in held])
    up = {name: np.array([one[name] for one in held]) for name in ("reference", "policy")}
    top = max(float(np.quantile(across, 0.98)), 0.5) if held else 1.0
    # A few pairs of answers of very different length would leave all others in a line.
    reach = max([top, *(float(np.quantile(np.abs(own), 0.9)) for own in up.values() if len(own))])
    outside = 0
    with canvas(300) as figure:
        axes = plot_area(figure, 46, 30, 18, 42)
        axes.grid(color=GRID, linewidth=0.8)
        axis_name(axes, "reward of the better less the worse answer")
        label(figure, 10, 10, "the same of log-probability", color=MUTED, fontsize=SMALL)
        axes.set_xlim(0, 1.04 * top)
        axes.set_ylim(-1.06 * reach, 1.06 * reach)
        axes.axhline(0, color=MUTED, linewidth=1)
        line = min(top, reach)
        axes.plot([0, line], [0, line], color=MUTED, linewidth=1.4, linestyle=(0, (4, 3)))
        for name, own in up.items():
            inside = (across <= top) & (np.abs(own) <= reach)
            outside += int((~inside).sum()) if name == "policy" else 0
            if inside.any():
                dots(axes, across[inside], own[inside], series(_SERIES[name]), 5, alpha=0.6)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(NUMBERS)
        axes.yaxis.set_major_formatter(NUMBERS)
        drawn = to_svg(figure, "Margin of log-probability against margin of reward, a dot per pair.")
    reading = "On the dashed line the odds of the two answers are those of the reward. Below nought stands what is "
    reading += "ordered against it."
    reading += f" {number(outside)} of {number(len(held))} pairs of the policy lie outside." if outside else ""
    legend = [(_SERIES["policy"], "policy"), (_SERIES["reference"], "reference")]
    return Figure("Margins against rewards", drawn, reading, legend)


def _minority_figure(kinds: Mapping[str, tuple[str, str]], value: Value) -> Figure | None:
    """The minority mass of the policy, and of the reference below it, on each kind of list."""
    rows = []
    for end, name in kinds.values():
        points = [
            Point(value(key), value(f"{key}_low"), value(f"{key}_high"), _SERIES[who])
            for who, key in (("policy", f"minority_mass{end}"), ("reference", f"minority_mass/reference{end}"))
        ]
        if points[0].value is not None:
            rows.append(Row(name, points))
    if not rows:
        return None
    drawn = forest(rows, "Minority mass that policy and reference keep.", x_label="share that is kept",
                   reference=1.0, limits=(0.0, 1.02), shares=True)  # fmt: skip
    reading = (
        "Of the share that the reward model gives to all answers but the best-liked one, this much is kept. On "
        "its own answers a policy is judged kindly: what it never says is not among them."
    )
    legend = [(_SERIES["policy"], "policy"), (_SERIES["reference"], "reference")]
    return Figure("Minority mass", drawn, reading, legend)


def _panels(of: Mapping[str, Any], description: str) -> Markup:
    """Three histograms with one axis below; the bins where a pair is next to certain stand out."""
    height, each = 300.0, 66.0
    with canvas(height) as figure:
        for place, name in enumerate(("reward", "policy", "reference")):
            above = 20 + place * (each + 20)
            axes = plot_area(figure, 46, above, 18, height - above - each)
            label(figure, 10, above - 10, _NAMES[name], 30, color=MUTED, fontsize=SMALL)
            axes.grid(axis="y", color=GRID, linewidth=0.8)
            axes.spines["bottom"].set_visible(True)
            axes.spines["bottom"].set_color(MUTED)
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1.08 * (max(of[name]) or 1))
            for number_, (low, high, share) in enumerate(
                zip(of["bin_edges"][:-1], of["bin_edges"][1:], of[name], strict=True)
            ):
                room = 0.08 * (high - low) / 2
                certain = number_ in (0, len(of[name]) - 1)
                colour = series(_SERIES[name])
                axes.add_patch(
                    Rectangle((low + room, 0), high - low - 2 * room, share, facecolor=colour, linewidth=0,
                              alpha=1.0 if certain else 0.55)
                )  # fmt: skip
            axes.yaxis.set_major_locator(MaxNLocator(2, prune="lower"))
            axes.yaxis.set_major_formatter(SHARES)
            axes.xaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
            axes.xaxis.set_major_formatter(SHARES)
            if place < 2:
                axes.tick_params(labelbottom=False)
            else:
                axis_name(axes, "probability of the answer with more reward")
        return to_svg(figure, description)


def _with_ends(value: Value, key: str) -> str:
    # An interval that a narrow column does not part.
    return interval(value(key), value(f"{key}_low"), value(f"{key}_high")).replace(" to ", "\xa0to\xa0")

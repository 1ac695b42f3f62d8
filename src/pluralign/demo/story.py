"""The demo's page: its questions in order, each with its answer and a picture; the runs stand behind links."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from pluralign.demo.comparison import LISTED, SAID, WinRates
from pluralign.demo.tables import SERVED_BY, fair_order
from pluralign.demo.town import chosen_shares
from pluralign.judgments.population import Simulation
from pluralign.reports.calibration import reliability_figure
from pluralign.reports.page import Block, Figure, Figures, Links, Section, render
from pluralign.reports.plots import ReliabilityBin
from pluralign.reports.row_plots import Point, Row, forest, stacked


def story_page(sections: Sequence[Section], links: Sequence[tuple[str, str, str]]) -> str:
    """The HTML page.

    Args:
        sections: in their order.
        links: name, address and description of the runs' pages.
    """
    runs = Section("The runs", [Links(links)], "Each has a page of its own with everything that was measured.")
    return render("The demo", "a simulated town with three kinds of annotators", [*sections, runs])


def types_section(metrics: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> Section:
    """The types that the audit finds, and how they are distributed over the groups."""
    types = range(1, metrics["types"] + 1)
    rows = [(str(group["group"]), list(group["shares"])) for group in groups]
    drawn = stacked(rows, "Share of each type in each group.", notes=["" for _ in rows])
    reading = f"Adjusted Rand index of types and groups: {metrics.get('groups_adjusted_rand', 0.0):.2f}."
    figure = _figure("Types in each group", drawn, reading, [(kind, f"type {kind}") for kind in types])
    return Section("Which annotator types are there?", [figure], str(metrics["sentence"]).replace("+- ", "±"))


def calibration_section(bins: Sequence[ReliabilityBin], temperature: float) -> Section:
    """The reliability diagram of the calibrated reward model."""
    lead = "One reward model for two sources that disagree, with the temperature that fits held-out judgments "
    return Section(
        "How well calibrated is the reward model?",
        [Figures([reliability_figure(bins)])],
        f"{lead}({temperature:.2f}).",
    )


def labels_section(rows: Mapping[str, Mapping[str, float]]) -> Section:
    """How far predicted label shares are from those of the votes."""
    points = [Row(name, [_point(row, "transport_cost")]) for name, row in rows.items()]
    drawn = forest(points, "Transport cost of predicted label shares.", x_label="transport cost to the votes")
    figure = _figure("Distance from the crowd's labels", drawn, "Less is better; the true shares are the limit.")
    return Section("How well are the crowd's labels predicted?", [figure], "Labels from 1 to 5 of held-out responses.")


def served_section(accuracies: Mapping[str, Sequence[float]]) -> Section:
    """The accuracy of one reward, one policy and the own type's policy in each group."""
    points = [
        Row(group, [Point(value, series=place) for place, value in enumerate(values, 1)])
        for group, values in accuracies.items()
    ]
    drawn = forest(points, "Accuracy for each group.", x_label="accuracy on held-out pairs", reference=0.5)
    reading = "Left of the dashed line a model is worse than a coin. Rankings are noisy: the true utility is the limit."
    figure = _figure("Accuracy for each group", drawn, reading, list(enumerate(SERVED_BY, 1)))
    return Section(
        "Which groups do one reward model and one policy serve?", [figure], "Agreement with held-out judgments."
    )


def fair_section(wins: Mapping[str, WinRates], winner: str) -> Section:
    """How often the worst-off group prefers each policy's responses."""
    points = [
        Row(name + " (chosen)" * (name == winner), [_point(wins[name].worst, "win_rate")]) for name in fair_order(wins)
    ]
    drawn = forest(
        points, "Win rate for the worst-off group.", x_label="win rate for the worst-off group", reference=0.5
    )
    figure = _figure(
        "The worst-off group", drawn, "Right of the dashed line even the worst-off group prefers the policy."
    )
    lead = "Each policy against the language model, by true utilities, for the group that likes it least."
    return Section("Which one policy serves all types?", [figure], lead)


def said_section(
    simulation: Simulation, choices: Mapping[str, Mapping[str, Any]], rows: Mapping[str, Mapping[str, Any]]
) -> Section:
    """Whose favourites policies choose from a list, and whose they say, against what people choose."""
    groups = [(place, group.name) for place, group in enumerate(simulation.town.types, 1)]
    people = [("people", list(chosen_shares(simulation)))]
    said = [*people, *((name, list(row["shares"])) for name, row in rows.items())]
    chosen = [(name, list(row["shares"])) for name, row in choices.items()]
    figures = Figures(
        [
            Figure("Said freely", _stacked(said), f"{SAID} responses to each held-out prompt.", groups),
            Figure("Chosen from a list", _stacked(chosen), f"{LISTED} responses to each held-out prompt.", groups),
        ]
    )
    return Section(
        "Do policies keep the minority?", [figures], "Shares of responses by the group that likes them most."
    )


def _stacked(rows: Sequence[tuple[str, Sequence[float]]]) -> Markup:
    return stacked(rows, "Shares of the groups.", notes=["" for _ in rows])


def _figure(title: str, drawn: Markup, reading: str, legend: Sequence[tuple[int, str]] = ()) -> Block:
    return Figures([Figure(title, drawn, reading, legend)])


def _point(metrics: Mapping[str, float], key: str) -> Point:
    return Point(metrics[key], metrics.get(f"{key}_low"), metrics.get(f"{key}_high"))

"""Predicted distributions over labels next to the votes of annotators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from pluralign.reports.histograms import Histogram, histogram_figure
from pluralign.reports.measures import Value, measures_table
from pluralign.reports.page import Block, Cell, Figure, Figures, Heading, Section, Table
from pluralign.reports.row_plots import Point, Row, forest
from pluralign.reports.texts import known, number, percent, quoted, text_of

MEASURES = {
    "total_variation": ("Total variation", "The share of the prediction that is on the wrong label."),
    "transport_cost": ("Transport cost", "Cost of moving predicted to voted shares, by the rewards of the labels."),
    "vote_log_loss": ("Log-loss of votes", "Nats per vote: how unexpected a vote is under the prediction."),
    "vote_entropy": ("Entropy of votes", "The part of the log-loss due to disagreement between annotators."),
    "vote_log_loss_excess": ("Log-loss above entropy", "The remaining part, due to the prediction."),
    "expected_reward_error": ("Error of the expected reward", "Distance from the mean reward of the votes."),
    "expected_reward_bias": ("Bias of the expected reward", "The same with its sign; positive is too high."),
    "share_ece": ("Calibration error of the shares", "Distance between predicted and voted shares in bins."),
    "interval_coverage": (
        "Coverage",
        "Vote counts in the predicted 90 % interval; far fewer than 90 %: over-confident.",
    ),
    "majority_accuracy": ("Majority accuracy", "How often the label with the largest predicted share has most votes."),
}
"""Keys of `metrics.json`, each with a name and what the number means."""

BASELINES = {
    "gain_over_marginal": (
        "Gain over the marginal",
        "By how many nats a vote is likelier than under the mean shares; an interval above 0: the model is better.",
    ),
    "gain_over_logistic": (
        "Gain over logistic regression",
        "The same over soft-label logistic regression on frozen features of the starting model.",
    ),
}
"""Keys of the comparison with predictions that need no training of a network."""

BESIDE = ("total_variation", "transport_cost", "vote_log_loss")
"""Measures that are also known of the baselines."""

_DRAWN, _MOST_LABELS, _MOST_ROWS = 3, 12, 50


@dataclass(frozen=True)
class VotedResponse:
    """A response: its votes, and for each label the voted share with its interval and the predicted share."""

    prompt: Any
    response: Any
    votes: float
    expected_reward: float | None
    voted: list[float]
    low: list[float | None]
    high: list[float | None]
    predicted: list[float]

    @property
    def total_variation(self) -> float:
        """Between the predicted and the voted shares."""
        return sum(abs(predicted - voted) for predicted, voted in zip(self.predicted, self.voted, strict=True)) / 2


@dataclass(frozen=True)
class Crowds:
    """The content of `crowds.parquet`."""

    labels: list[str]
    responses: list[VotedResponse]


def crowds_section(crowds: Crowds, value: Value) -> Section | None:
    """The predictions of a model next to the votes; None where no response was voted on."""
    numbers = 2 * len(crowds.labels)
    responses = [row for row in crowds.responses if len(known(*row.voted, *row.predicted)) == numbers]
    if not responses:
        return None
    measures = measures_table("Predicted shares against votes", value, MEASURES)
    columns = {"model": ""} | {name: f"/baseline={name}" for name in ("marginal", "medians", "logistic")}
    shown = {name: end for name, end in columns.items() if value(BESIDE[0] + end) is not None}
    beside = [
        measures_table("The gain over simple baselines", value, BASELINES),
        measures_table("The model and its baselines", value, {key: MEASURES[key] for key in BESIDE}, shown),
    ]
    reading = "Half of the {n} responses are at {} or less. With few votes, even a correct prediction is some way off."
    distances = [row.total_variation for row in responses]
    title = "Distance between predictions and votes"
    figure = histogram_figure(
        Histogram.of_shares(distances), title, "total variation", "responses", reading, median(distances)
    )
    # A response with few votes is far from every prediction by chance.
    most = median(row.votes for row in responses)
    ordered = sorted((row for row in responses if row.votes >= most), key=lambda row: row.total_variation)
    near, far = ordered[:_DRAWN], ordered[_DRAWN:][-_DRAWN:]
    lead = f"Among responses with {number(most)} votes or more. Intervals are of the crowd's shares, given the votes."
    blocks: list[Block] = [
        *([measures] if measures.rows else []),
        *(beside if len(shown) > 1 else []),
        Figures([figure]),
    ]
    blocks += [Heading("Closest to the votes", lead), Figures([_shares(row, crowds.labels) for row in near])]
    if far:
        blocks += [Heading("Farthest from the votes"), Figures([_shares(row, crowds.labels) for row in reversed(far)])]
    blocks.append(_table(responses, crowds.labels))
    return Section("What the crowd says", blocks, "How annotators voted on each response, and what the model predicts.")


def _shares(row: VotedResponse, labels: Sequence[str]) -> Figure:
    """Voted and predicted shares of the labels with the largest ones, in the order of the scale."""
    places = sorted(range(len(labels)), key=lambda place: -max(row.voted[place], row.predicted[place]))
    rows = []
    for place in sorted(places[:_MOST_LABELS]):
        voted = Point(row.voted[place], row.low[place], row.high[place])
        rows.append(Row(labels[place], [voted, Point(row.predicted[place], series=2)]))
    title = f"Voted and predicted share of each label for {text_of(row.response)}"
    drawn = forest(rows, title, x_label="share", limits=(0.0, 1.0), shares=True)
    reading = f"{number(row.votes)} votes on the response to {quoted(row.prompt)}; {percent(row.total_variation)} of "
    reading += "the prediction is on the wrong label."
    return Figure(quoted(row.response, 60), drawn, reading, [(1, "voted, with its interval"), (2, "predicted")])


def _table(responses: Sequence[VotedResponse], labels: Sequence[str]) -> Table:
    """The responses whose predictions are farthest from their votes."""
    rows: list[list[Cell]] = []
    for row in sorted(responses, key=lambda row: -row.total_variation)[:_MOST_ROWS]:
        largest = [
            f"{labels[shares.index(max(shares))]} {percent(max(shares))}" for shares in (row.voted, row.predicted)
        ]
        texts = [text_of(row.response), text_of(row.prompt)]
        rows.append([*texts, row.votes, *largest, row.expected_reward, row.total_variation])
    title = f"The farthest {len(rows)} of {number(len(responses))} responses"
    head = ["response", "prompt", "votes", "most voted", "most predicted", "expected reward", "total variation"]
    return Table(title, head, rows, folded=True)

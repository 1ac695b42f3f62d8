"""Predicted distributions over labels next to the votes of annotators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from pluralign.reports.histograms import Histogram, histogram_figure
from pluralign.reports.measures import Value, measures_table
from pluralign.reports.page import Block, Cell, Figure, Figures, Heading, Section, Table
from pluralign.reports.plots import Point, Row, forest, known
from pluralign.reports.texts import number, percent, quoted, text_of

MEASURES = {
    "total_variation": ("Total variation", "The share of the prediction that is on the wrong label."),
    "transport_cost": (
        "Transport cost",
        "The cost of moving the predicted shares to the voted ones, by the rewards of the labels.",
    ),
    "vote_log_loss": ("Log-loss of votes", "Nats per vote: how unexpected a vote is under the prediction."),
    "vote_entropy": ("Entropy of votes", "The part of the log-loss due to disagreement between annotators."),
    "vote_log_loss_excess": ("Log-loss above entropy", "The remaining part, due to the prediction."),
    "expected_reward_error": (
        "Error of the expected reward",
        "Distance between the mean reward of the prediction and that of the votes.",
    ),
    "expected_reward_bias": ("Bias of the expected reward", "The same with its sign; positive is too high."),
    "share_ece": ("Calibration error of the shares", "Distance between predicted and voted shares in bins."),
    "interval_coverage": (
        "Coverage",
        "The share of vote counts inside the predicted 90 % interval; far below 90 % is over-confident.",
    ),
    "majority_accuracy": ("Majority accuracy", "How often the label with the largest predicted share has most votes."),
}
"""Keys of `metrics.json`, each with a name and what the number means."""

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
    responses = [one for one in crowds.responses if len(known(*one.voted, *one.predicted)) == 2 * len(crowds.labels)]
    if not responses:
        return None
    measures = measures_table("Predicted shares against votes", value, MEASURES)
    reading = "Half of the {n} responses are at {} or less. With few votes, even a correct prediction is some way off."
    figure = histogram_figure(
        Histogram.of_shares([one.total_variation for one in responses]),
        "Distance between predictions and votes",
        "total variation",
        "responses",
        reading,
        median(one.total_variation for one in responses),
    )
    # A response with few votes is far from every prediction by chance.
    most = median(one.votes for one in responses)
    ordered = sorted((one for one in responses if one.votes >= most), key=lambda one: one.total_variation)
    near, far = ordered[:_DRAWN], ordered[_DRAWN:][-_DRAWN:]
    lead = f"Among responses with {number(most)} votes or more. Intervals are of the crowd's shares, given the votes."
    blocks: list[Block] = [
        *([measures] if measures.rows else []),
        Figures([figure]),
        Heading("Closest to the votes", lead),
        Figures([_shares(one, crowds.labels) for one in near]),
    ]
    if far:
        blocks += [Heading("Farthest from the votes"), Figures([_shares(one, crowds.labels) for one in reversed(far)])]
    blocks.append(_table(responses, crowds.labels))
    return Section("What the crowd says", blocks, "How annotators voted on each response, and what the model predicts.")


def _shares(one: VotedResponse, labels: Sequence[str]) -> Figure:
    """Voted and predicted shares of the labels with the largest ones, in the order of the scale."""
    places = sorted(range(len(labels)), key=lambda place: -max(one.voted[place], one.predicted[place]))
    rows = [
        Row(
            labels[place],
            [Point(one.voted[place], one.low[place], one.high[place]), Point(one.predicted[place], series=2)],
        )
        for place in sorted(places[:_MOST_LABELS])
    ]
    drawn = forest(
        rows, f"Voted and predicted share of each label for {text_of(one.response)}", x_label="share",
        limits=(0.0, 1.0), shares=True,
    )  # fmt: skip
    reading = f"{number(one.votes)} votes on the response to {quoted(one.prompt)}; {percent(one.total_variation)} of "
    reading += "the prediction is on the wrong label."
    return Figure(quoted(one.response, 60), drawn, reading, [(1, "voted, with its interval"), (2, "predicted")])


def _table(responses: Sequence[VotedResponse], labels: Sequence[str]) -> Table:
    """The responses whose predictions are farthest from their votes."""
    ordered = sorted(responses, key=lambda one: -one.total_variation)[:_MOST_ROWS]

    def largest(shares: Sequence[float]) -> str:
        place = max(range(len(shares)), key=lambda place: shares[place])
        return f"{labels[place]} {percent(shares[place])}"

    rows: list[list[Cell]] = [
        [
            text_of(one.response),
            text_of(one.prompt),
            one.votes,
            largest(one.voted),
            largest(one.predicted),
            one.expected_reward,
            one.total_variation,
        ]
        for one in ordered
    ]
    title = f"The farthest {len(rows)} of {number(len(responses))} responses"
    head = ["response", "prompt", "votes", "most voted", "most predicted", "expected reward", "total variation"]
    return Table(title, head, rows, folded=True)

"""Predicted distributions over labels beside what people said."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from pluralign.reports.audit.data import histogram_figure
from pluralign.reports.page import Block, Cell, Figure, Figures, Heading, Section, Table
from pluralign.reports.rows import Point, Row, forest, known
from pluralign.reports.texts import interval, number, percent, quoted, text_of

MEASURES = {
    "total_variation": ("Total variation", "The share of the votes that is predicted on the wrong label."),
    "transport_cost": (
        "Transport cost",
        "What it costs to move the predicted shares to the voted ones, by the labels' rewards.",
    ),
    "vote_log_loss": ("Log-loss of votes", "Nats per vote; how surprised the prediction is by a vote."),
    "vote_entropy": ("Entropy of votes", "The part of the log-loss that the people's own disagreement makes."),
    "vote_log_loss_excess": ("Log-loss above entropy", "The part that is left for the prediction to answer for."),
    "expected_reward_error": (
        "Error of the expected reward",
        "How far the mean reward of the prediction is from that of the votes.",
    ),
    "expected_reward_bias": ("Bias of the expected reward", "The same with its sign: above 0 is too friendly."),
    "share_ece": ("Calibration error of the shares", "How far predicted shares and voted ones are apart in bins."),
    "interval_coverage": (
        "Coverage",
        "How many voted counts lie where the prediction expects 90 % of them; much less is too sure.",
    ),
    "majority_accuracy": ("Majority found", "How often the label with the largest predicted share has most votes."),
}
"""Keys of `metrics.json`: a title and what the number says."""

TEXTS = ("prompt", "response")
NUMBERS = ("votes", "expected_reward", "variance")
SHARES = ("voted", "low", "high", "predicted")
"""The columns of `crowds.parquet`; of shares one for each label, as `voted_LABEL`."""

_DRAWN = 3
_MOST_LABELS = 12
_MOST_ROWS = 50

Value = Callable[[str], float | None]


@dataclass(frozen=True)
class _Item:
    prompt: str
    response: str
    votes: float
    reward: float | None
    shares: Sequence[tuple[float, float | None, float | None, float]]  # of each label: voted, low, high, predicted

    @property
    def apart(self) -> float:
        """Total variation between the predicted and the voted shares."""
        return sum(abs(predicted - voted) for voted, _, _, predicted in self.shares) / 2

    def first(self, column: int) -> int:
        """The label with the largest voted (0) or predicted (3) share."""
        return max(range(len(self.shares)), key=lambda place: (self.shares[place][column], -place))


def labels_in(names: Sequence[str]) -> list[str]:
    """The labels that a table predicts, by its columns.

    Examples:
        >>> labels_in(["prompt", "voted_yes", "predicted_yes", "predicted_no"])
        ['yes', 'no']
    """
    return [name.removeprefix("predicted_") for name in names if name.startswith("predicted_")]


def columns_of(labels: Sequence[str]) -> list[str]:
    """The columns that a table of these labels has."""
    return [*TEXTS, *NUMBERS, *(f"{kind}_{label}" for kind in SHARES for label in labels)]


def crowds_section(columns: Mapping[str, Sequence[Any]], value: Value) -> Section | None:
    """The section of a model that predicts labels, from the columns of `crowds.parquet`; none without an item.

    Args:
        columns: by name, of equal lengths; numbers may be null.
        value: gives a metric by its key, None where it is not stored.
    """
    labels = labels_in(list(columns))
    items = _items(columns, labels)
    if not items:
        return None
    rows = [
        [title, interval(value(key), value(f"{key}_low"), value(f"{key}_high")), words]
        for key, (title, words) in MEASURES.items()
        if value(key) is not None
    ]
    blocks: list[Block] = []
    if rows:
        blocks.append(Table("Predicted shares against votes", ["measure", "value", "what it says"], rows))
    blocks.append(Figures([_histogram(items)]))
    # An item that few voted on is far from every prediction by chance.
    many = median(item.votes for item in items)
    ordered = sorted((item for item in items if item.votes >= many), key=lambda item: item.apart)
    near, far = ordered[:_DRAWN], ordered[_DRAWN:][-_DRAWN:]
    lead = f"Of the responses with {number(many)} votes or more. Intervals are of the people's share, by their votes."
    blocks += [Heading("Nearest to the votes", lead), Figures([_figure(item, labels) for item in near])]
    if far:
        blocks += [Heading("Farthest from the votes"), Figures([_figure(item, labels) for item in reversed(far)])]
    blocks.append(_table(items, labels))
    return Section("What the crowd says", blocks, "What people said of each response, and what the model predicts.")


def _items(columns: Mapping[str, Sequence[Any]], labels: Sequence[str]) -> list[_Item]:
    """The items whose shares are numbers, in the order of the file."""
    found = []
    shares = [list(zip(*(columns[f"{kind}_{label}"] for kind in SHARES), strict=True)) for label in labels]
    for place, (prompt, response, votes, reward) in enumerate(
        zip(*(columns[name] for name in ("prompt", "response", "votes", "expected_reward")), strict=True)
    ):
        own = [of_label[place] for of_label in shares]
        if known(votes) and all(known(voted, predicted) == [voted, predicted] for voted, _, _, predicted in own):
            found.append(_Item(text_of(prompt), text_of(response), votes, reward, own))
    return found


def _histogram(items: Sequence[_Item]) -> Figure:
    counts = [0] * 20
    for item in items:
        counts[min(int(20 * item.apart), 19)] += 1
    return histogram_figure(
        [place / 20 for place in range(21)],
        counts,
        "How far predictions are from votes",
        "total variation",
        "responses",
        "Half of {n} responses are at {} or nearer. With few votes even a right prediction is some way off.",
        found=median(item.apart for item in items),
    )


def _figure(item: _Item, labels: Sequence[str]) -> Figure:
    sizes = [max(voted, predicted) for voted, _, _, predicted in item.shares]
    largest = sorted(range(len(labels)), key=lambda place: -sizes[place])[:_MOST_LABELS]
    rows = [
        Row(labels[place], [Point(voted, low, high), Point(predicted, series=2)])
        for place, (voted, low, high, predicted) in enumerate(item.shares)
        if place in largest
    ]
    drawn = forest(
        rows, f"Voted and predicted share of each label for {text_of(item.response)}", x_label="share",
        limits=(0.0, 1.0), shares=True,
    )  # fmt: skip
    reading = f"{number(item.votes)} votes on the response to {quoted(item.prompt)}; {percent(item.apart)} of the "
    reading += "prediction is on the wrong label."
    legend = [(1, "voted, with its interval"), (2, "predicted")]
    return Figure(quoted(item.response, 60), drawn, reading, legend)


def _table(items: Sequence[_Item], labels: Sequence[str]) -> Table:
    """Every item, the farthest first."""
    ordered = sorted(items, key=lambda item: -item.apart)[:_MOST_ROWS]

    def most(item: _Item, column: int) -> str:
        place = item.first(column)
        return f"{labels[place]} {percent(item.shares[place][column])}"

    rows: list[list[Cell]] = [
        [item.response, item.prompt, item.votes, most(item, 0), most(item, 3), item.reward, item.apart]
        for item in ordered
    ]
    title = f"The farthest {len(rows)} of {number(len(items))} responses"
    head = ["response", "prompt", "votes", "most voted", "most predicted", "expected reward", "total variation"]
    return Table(title, head, rows, folded=True)

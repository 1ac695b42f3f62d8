"""The calibration of a reward model: measures explained, the reliability diagram, gaps on pairs it gets wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pluralign.reports.measures import Value, measures_table, metric_point, with_interval
from pluralign.reports.page import Block, Cell, Figure, Figures, Section, Table
from pluralign.reports.plots import ReliabilityBin, reliability
from pluralign.reports.row_plots import Row, forest
from pluralign.reports.texts import interval, known, number, percent, quoted

MEASURES = {
    "ece": ("Calibration error", "Mean distance between confidence and accuracy, over ten equal bins of confidence."),
    "ece_equal_mass": ("Calibration error, bins of equal weight", "The same with equal weight in every bin."),
    "ece_p_value": (
        "p-value of the calibration error",
        "How often a model that is right on average over prompts and annotators would have an error as large by "
        "chance; small values mean miscalibration.",
    ),
    "ece_squared": (
        "Squared calibration error, unbiased",
        "Mean squared gap of a bin without what chance adds; around 0, and sometimes negative, for a calibrated model.",
    ),
    "ece_smooth": ("Calibration error, smoothed", "The error from a smooth curve through the pairs, without bins."),
    "max_calibration_error": ("Largest error of a bin", "The error of the worst bin, even if it holds few pairs."),
    "average_calibration_error": ("Mean error of a bin", "The mean error of the bins, each counted once."),
    "brier": ("Brier score", "Mean squared error of the predicted probability; 0.25 for a constant reward."),
    "brier_reliability": ("Brier score: reliability", "The part due to miscalibration; 0 is best."),
    "brier_resolution": (
        "Brier score: resolution",
        "The gain from telling clear pairs from unclear ones; higher is better.",
    ),
    "brier_uncertainty": ("Brier score: uncertainty", "The part due to the outcomes; no model can change it."),
    "crowd_ece": ("Crowd calibration error", "Distance from the share of votes, on pairs with several votes."),
    "crowd_brier": ("Crowd Brier score", "Mean squared distance from the share of votes."),
    "crowd_noise": ("Noise of the crowd's shares", "What the small number of votes per pair adds to that score."),
    "crowd_ece_majority": (
        "Crowd calibration error, majority",
        "The same against the majority's choice; a model that predicts a divided crowd cannot score low here.",
    ),
}
"""Keys of `metrics.json`, each with a name and what the number means."""

_MOST_SLICES = 12


@dataclass(frozen=True)
class RewardGaps:
    """Gaps between the two rewards of a pair, on right and on wrong pairs of a slice: a row of `over_rewarding.json`.

    `ratio` is gap_wrong / gap_right; `wrong_median` and `wrong_p90` are quantiles of the gaps of wrong pairs, and
    `sure_wrong` is the share of wrong pairs with a confidence of 0.9 or more. Undefined numbers are None.
    """

    slice: str
    pairs: int
    accuracy: float | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    gap_right: float | None = None
    gap_right_low: float | None = None
    gap_right_high: float | None = None
    gap_wrong: float | None = None
    gap_wrong_low: float | None = None
    gap_wrong_high: float | None = None
    ratio: float | None = None
    wrong_median: float | None = None
    wrong_p90: float | None = None
    sure_wrong: float | None = None
    sure_wrong_low: float | None = None
    sure_wrong_high: float | None = None

    @property
    def name(self) -> str:
        """What the page calls the slice."""
        return "all pairs" if self.slice == "all" else self.slice

    def value(self, key: str) -> Any:
        """A number by its name."""
        return getattr(self, key)


def calibration_section(
    value: Value, bins: Sequence[ReliabilityBin], slices: Figure | None, gaps: Sequence[RewardGaps]
) -> Section | None:
    """The calibration of a reward model, with a figure of slices; None where nothing about it is stored."""
    figures = [figure for figure in (reliability_figure(bins) if bins else None, slices, gaps_figure(gaps)) if figure]
    measures = measures_table("Measures of calibration", value, MEASURES)
    blocks: list[Block] = [Figures(figures)] if figures else []
    # A single measure is among the tiles already.
    blocks += [measures] if len(measures.rows) > 1 else []
    blocks += [_gaps_table(gaps)] if gaps else []
    return Section("Calibration", blocks, "Is the model right as often as its confidence says?") if blocks else None


def reliability_figure(bins: Sequence[ReliabilityBin]) -> Figure:
    """The reliability diagram with its numbers."""
    drawn = reliability(bins, "Reliability diagram: accuracy by confidence, and the share of pairs in each bin.")
    gap = sum(row.share * row.gap for row in bins)
    side = "below its confidence: over-confident" if gap < 0 else "above its confidence: under-confident"
    reading = "On the dashed line, accuracy equals confidence. "
    reading += f"On average, accuracy is {number(round(100 * abs(gap), 1))} points {side}."
    spread = any(len(known(row.accuracy_low, row.accuracy_high)) == 2 for row in bins)
    bars = any(row.consistent for row in bins)
    head, legend = (
        ["bin", "confidence", "accuracy", "share", "pairs"],
        [(1, "each bin, larger with more pairs"), (2, "gap")],
    )
    if bars:
        outside = sum(
            bool(row.consistent) and not row.consistent[0] <= row.accuracy <= row.consistent[1] for row in bins
        )
        reading += " The pale bars are where the accuracy of a calibrated model would lie (95 %, over prompts and "
        reading += "annotators): "
        reading += f"{outside} of {len(bins)} bins {'lies' if outside == 1 else 'lie'} outside."
        head.append("if calibrated")
    elif spread:
        reading += " The thin lines are intervals of the accuracy of each bin."
    cells: list[list[Cell]] = []
    for row in bins:
        accuracy = interval(row.accuracy, row.accuracy_low, row.accuracy_high) if spread else row.accuracy
        cells.append([f"{number(row.lower)} to {number(row.upper)}", row.confidence, accuracy, row.share, row.pairs])
        if bars:
            cells[-1].append("\xa0to\xa0".join(number(end) for end in row.consistent))
    return Figure("Reliability", drawn, reading, legend, Table("The numbers", head, cells, folded=True))


def gaps_figure(rows: Sequence[RewardGaps]) -> Figure | None:
    """Mean gaps on right and on wrong pairs: all pairs first, then the slices with the largest gaps on wrong ones."""
    defined = [row for row in rows if known(row.gap_right, row.gap_wrong)]
    if not defined:
        return None
    whole = [row for row in defined if row.slice == "all"]
    others = [row for row in defined if row.slice != "all"]
    others = sorted(others, key=lambda row: -(row.gap_wrong or 0.0))[:_MOST_SLICES]
    lines = [
        Row(row.name, [metric_point(row.value, "gap_right", 1), metric_point(row.value, "gap_wrong", 2)])
        for row in [*whole, *others]
    ]
    drawn = forest(lines, "Mean gap between the two rewards of a pair, on right and on wrong pairs, by slice.",
                   x_label="mean gap between the two rewards", bounds=(0.0, float("inf")))  # fmt: skip
    first = (whole or others)[0]
    reading = "A calibrated model has smaller gaps on the pairs it gets wrong."
    if known(first.ratio):
        where = "all pairs" if first.slice == "all" else quoted(first.slice)
        reading += (
            f" On {where}, the gap of wrong pairs is {number(first.ratio)} times that of right ones; near 1, the "
        )
        reading += "size of a gap says nothing about whether the model is right."
    legend = [(1, "pairs it gets right"), (2, "pairs it gets wrong")]
    return Figure("Gaps on right and on wrong pairs", drawn, reading, legend)


def _gaps_table(rows: Sequence[RewardGaps]) -> Table:
    head = [
        "slice", "pairs", "accuracy", "gap, right", "gap, wrong", "ratio", "median, wrong", "90 %, wrong",
        "confident, of wrong",
    ]  # fmt: skip
    cells: list[list[Cell]] = []
    for row in rows:
        confident = percent(row.sure_wrong)
        if row.sure_wrong_low is not None and row.sure_wrong_high is not None:
            confident += f" ({percent(row.sure_wrong_low)}\xa0to\xa0{percent(row.sure_wrong_high)})"
        intervals = [with_interval(row.value, key) for key in ("accuracy", "gap_right", "gap_wrong")]
        cells.append([row.name, row.pairs, *intervals, row.ratio, row.wrong_median, row.wrong_p90, confident])
    return Table("Over-rewarding by slice", head, cells)

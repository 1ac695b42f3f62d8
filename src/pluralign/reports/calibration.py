"""Is a reward model as often right as it says? Measures in words, the reliability diagram, gaps on wrong pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pluralign.reports.figures import reliability
from pluralign.reports.page import Block, Cell, Figure, Figures, Section, Table
from pluralign.reports.rows import Point, Row, forest, known
from pluralign.reports.texts import interval, number, percent, quoted, text_of

MEASURES = {
    "ece": (
        "Calibration error",
        "How far being sure and being right are apart on average, over ten equal bins of confidence.",
    ),
    "ece_equal_mass": (
        "Calibration error, bins of equal weight",
        "The same with as much weight in every bin, so that none hangs on a few pairs.",
    ),
    "ece_debiased": (
        "Calibration error, corrected for chance",
        "The same less what chance alone adds to every bin; without it small samples look worse than they are.",
    ),
    "ece_smooth": ("Calibration error, smoothed", "The same from a smooth curve through the pairs, without bins."),
    "max_calibration_error": (
        "Largest error of a bin",
        "How far the worst bin is off, however few pairs it holds.",
    ),
    "average_calibration_error": (
        "Mean error of a bin",
        "How far a bin is off on average, every bin counted once however few pairs it holds.",
    ),
    "brier": ("Brier score", "Mean squared distance of the probability from what happened; 0.25 is a coin."),
    "brier_reliability": ("Brier score: reliability", "The part that poor calibration adds; 0 is best."),
    "brier_resolution": (
        "Brier score: resolution",
        "The part that is won by telling clear pairs from unclear ones; more is better.",
    ),
    "brier_uncertainty": ("Brier score: uncertainty", "The part that lies in the outcomes; no model changes it."),
    "crowd_ece": (
        "Crowd's calibration error",
        "How far the model's probability is from the crowd's share of votes, on pairs with several votes.",
    ),
    "crowd_brier": (
        "Crowd's Brier score",
        "Mean squared distance of the probability from the crowd's share of votes.",
    ),
    "crowd_noise": ("Noise of the crowd's shares", "What few votes a pair add to that, however good the model is."),
    "crowd_ece_majority": (
        "Crowd's calibration error, majority",
        "The same against the majority's choice alone; a model that says how divided people are is not low here.",
    ),
}
"""Keys of `metrics.json`: a title and what the number says."""

BIN: dict[str, str] = dict.fromkeys(("lower", "upper", "pairs", "share", "confidence", "accuracy", "gap"), "number")
"""What a row of `reliability.json` must hold."""

OVER_REWARDING: list[Any] = [
    {
        "slice": "text",
        **dict.fromkeys(
            (
                "pairs",
                *(f"{key}{end}" for key in ("accuracy", "gap_right", "gap_wrong") for end in ("", "_low", "_high")),
                "ratio",
                "wrong_median",
                "wrong_p90",
                *(f"sure_wrong{end}" for end in ("", "_low", "_high")),
            ),
            "number",
        ),
    }
]
"""The shape of `over_rewarding.json`."""

_MOST_SLICES = 12

Value = Callable[[str], float | None]


def calibration_section(
    value: Value,
    bins: Sequence[Mapping[str, Any]],
    slices: Figure | None,
    over_rewarding: Sequence[Mapping[str, Any]],
) -> Section | None:
    """The section of a reward model's calibration; none where nothing of it is stored.

    Args:
        value: gives a metric by its key, None where it is not stored.
        bins: of `reliability.json`.
        slices: the error of each source.
        over_rewarding: of `over_rewarding.json`, checked against `OVER_REWARDING`.
    """
    gaps = gaps_figure(over_rewarding)
    figures = [figure for figure in (reliability_figure(bins) if bins else None, slices, gaps) if figure]
    measures = measures_table(value)
    blocks: list[Block] = [Figures(figures)] if figures else []
    # The error alone is among the tiles already.
    blocks += [measures] if len(measures.rows) > 1 else []
    blocks += [_gaps_table(over_rewarding)] if over_rewarding else []
    lead = "How often is the model right, when it says how sure it is?"
    return Section("Calibration", blocks, lead) if blocks else None


def measures_table(value: Value) -> Table:
    """The stored measures with their intervals, each in words.

    Examples:
        >>> measures_table({"brier": 0.2, "brier_low": 0.1, "brier_high": 0.3}.get).rows[0][:2]
        ['Brier score', '0.2 (0.1\xa0to\xa00.3)']
    """
    rows = [
        [title, _together(interval(value(key), value(f"{key}_low"), value(f"{key}_high"))), words]
        for key, (title, words) in MEASURES.items()
        if value(key) is not None
    ]
    return Table("Measures of calibration", ["measure", "value", "what it says"], rows)


def reliability_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """The reliability diagram with its numbers."""
    drawn = reliability(rows, "Reliability diagram: accuracy by confidence, and the share of pairs in each bin.")
    gap = sum(row["share"] * row["gap"] for row in rows)
    points = number(round(100 * abs(gap), 1))
    side = "less often than it says: too sure" if gap < 0 else "more often than it says: not sure enough"
    reading = "On the dashed line the model is as often right as it is sure. "
    reading += f"On average it is right {points} points {side}."
    spread = any(len(known(row.get("accuracy_low"), row.get("accuracy_high"))) == 2 for row in rows)
    reading += " The thin lines are intervals of each bin's accuracy." if spread else ""
    head = ["bin", "confidence", "accuracy", "share", "pairs"]
    cells = [
        [
            f"{number(row['lower'])} to {number(row['upper'])}",
            row["confidence"],
            interval(row["accuracy"], row.get("accuracy_low"), row.get("accuracy_high")) if spread else row["accuracy"],
            row["share"],
            row["pairs"],
        ]
        for row in rows
    ]
    legend = [(1, "each bin, larger with more pairs"), (2, "gap")]
    return Figure("Reliability", drawn, reading, legend, Table("The numbers", head, cells, folded=True))


def gaps_figure(rows: Sequence[Mapping[str, Any]]) -> Figure | None:
    """How far apart the rewards of right and of wrong pairs are: all pairs, then the largest gaps on wrong ones."""
    held = [row for row in rows if known(row["gap_right"], row["gap_wrong"])]
    if not held:
        return None
    whole = [row for row in held if row["slice"] == "all"]
    others = [row for row in held if row["slice"] != "all"]
    others = sorted(others, key=lambda row: -(row["gap_wrong"] or 0.0))[:_MOST_SLICES]
    lines = [
        Row(
            _name(row),
            [
                Point(row[key], row[f"{key}_low"], row[f"{key}_high"], series)
                for series, key in ((1, "gap_right"), (2, "gap_wrong"))
            ],
        )
        for row in [*whole, *others]
    ]
    drawn = forest(lines, "Mean gap between the rewards of a pair, on right and on wrong pairs, by slice.",
                   x_label="mean gap between the two rewards", bounds=(0.0, float("inf")))  # fmt: skip
    legend = [(1, "pairs it gets right"), (2, "pairs it gets wrong")]
    first = (whole or others)[0]
    reading = "A calibrated model puts smaller gaps where it is wrong."
    if known(first["ratio"]):
        where = "all pairs" if first["slice"] == "all" else quoted(first["slice"])
        reading += (
            f" On {where} the gap of wrong pairs is {number(first['ratio'])} times that of right ones; near 1 its "
            "size says nothing about being right."
        )
    return Figure("Gaps on right and on wrong pairs", drawn, reading, legend)


def _gaps_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    head = [
        "slice", "pairs", "accuracy", "gap, right", "gap, wrong", "ratio", "median, wrong", "90 %, wrong",
        "sure, of wrong",
    ]  # fmt: skip
    cells: list[list[Cell]] = [
        [
            _name(row),
            row["pairs"],
            *(_together(interval(*_with_ends(row, key))) for key in ("accuracy", "gap_right", "gap_wrong")),
            row["ratio"],
            row["wrong_median"],
            row["wrong_p90"],
            _together(_share(*_with_ends(row, "sure_wrong"))),
        ]
        for row in rows
    ]
    return Table("Over-rewarding by slice", head, cells)


def _with_ends(row: Mapping[str, Any], key: str) -> tuple[float | None, float | None, float | None]:
    return row[key], row[f"{key}_low"], row[f"{key}_high"]


def _share(value: float | None, low: float | None, high: float | None) -> str:
    between = "" if value is None or low is None or high is None else f" ({percent(low)} to {percent(high)})"
    return percent(value) + between


def _together(text: str) -> str:
    """An interval that a narrow column does not part."""
    return text.replace(" to ", "\xa0to\xa0")


def _name(row: Mapping[str, Any]) -> str:
    return "all pairs" if row["slice"] == "all" else text_of(row["slice"])

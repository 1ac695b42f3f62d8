"""Metrics with their intervals: as text, as points of a plot, and as tables that explain them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pluralign.reports.page import Cell, Table
from pluralign.reports.row_plots import Point
from pluralign.reports.texts import interval

Value = Callable[[str], float | None]
"""Gives a metric by its key in `metrics.json`; None where it is not stored."""


def with_interval(value: Value, key: str) -> str:
    """A metric as text, with its interval if one is stored."""
    return interval(value(key), value(f"{key}_low"), value(f"{key}_high"))


def metric_point(value: Value, key: str, series: int = 1) -> Point:
    """A metric as a point with its interval."""
    return Point(value(key), value(f"{key}_low"), value(f"{key}_high"), series)


def measures_table(
    title: str, value: Value, measures: Mapping[str, tuple[str, str]], columns: Mapping[str, str] | None = None
) -> Table:
    """The stored measures with their intervals; `measures` gives for each key a name and a sentence that explains it.

    `columns` are the heads of the value columns and what each appends to the keys; by default there is one.

    Examples:
        >>> measures = {"brier": ("Brier score", "Mean squared error."), "ece": ("Calibration error", "A gap.")}
        >>> measures_table("Measures", {"brier": 0.2, "brier_low": 0.1, "brier_high": 0.3}.get, measures).rows
        [['Brier score', '0.2 (0.1\xa0to\xa00.3)', 'Mean squared error.']]
    """
    endings = columns or {"value": ""}
    rows: list[list[Cell]] = [
        [name, *(with_interval(value, key + end) for end in endings.values()), sentence]
        for key, (name, sentence) in measures.items()
        if any(value(key + end) is not None for end in endings.values())
    ]
    return Table(title, ["measure", *endings, "meaning"], rows)

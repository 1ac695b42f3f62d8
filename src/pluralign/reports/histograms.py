"""Histograms as stored in JSON files, and their figures."""

from __future__ import annotations

from dataclasses import dataclass

from pluralign.core.errors import PluralignError
from pluralign.reports.page import Cell, Figure, Table
from pluralign.reports.plots import histogram
from pluralign.reports.texts import number


@dataclass(frozen=True)
class Histogram:
    """Counts between edges; there is one edge more than counts."""

    edges: list[float]
    counts: list[float]

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.counts) + 1:
            counts = f"{len(self.edges)} edges for {len(self.counts)} counts"
            raise PluralignError(f"found {counts}, expected one edge more than counts")

    @classmethod
    def of_shares(cls, shares: list[float], bins: int = 20) -> Histogram:
        """A histogram of numbers from 0 to 1."""
        counts = [0.0] * bins
        for share in shares:
            counts[min(int(bins * share), bins - 1)] += 1
        return cls([place / bins for place in range(bins + 1)], counts)

    @property
    def median(self) -> float | None:
        """The median, taking values as evenly spread within bins.

        Examples:
            >>> Histogram([0, 1, 2], [1, 1]).median, Histogram([0, 10], [0]).median
            (1.0, None)
        """
        half = sum(self.counts) / 2
        if not half > 0:
            return None
        for low, high, count in zip(self.edges[:-1], self.edges[1:], self.counts, strict=True):
            if count >= half > 0:
                return low + (high - low) * half / count
            half -= count
        return float(self.edges[-1])


def histogram_figure(
    bins: Histogram, title: str, x_label: str, unit: str, reading: str, median: float | None = None
) -> Figure:
    """A histogram with its numbers in a folded table and its median marked, by default estimated from the bins.

    In `reading`, `{}` stands for the median and `{n}` for the count of all bins; `unit` is what is counted.
    """
    middle = bins.median if median is None else median
    shown = number(middle)
    drawn = histogram(
        bins.edges, bins.counts, f"{title}: histogram, {unit} by {x_label}; median {shown}.", x_label=x_label,
        y_label=unit, mark=None if middle is None else (middle, f"median {shown}"),
    )  # fmt: skip
    rows: list[list[Cell]] = [
        [f"{number(low)} to {number(high)}", count]
        for low, high, count in zip(bins.edges[:-1], bins.edges[1:], bins.counts, strict=True)
    ]
    table = Table("The numbers", [x_label, unit], rows, folded=True)
    return Figure(title, drawn, reading.format(shown, n=number(int(sum(bins.counts)))), table=table)

"""Annotators whose judgments look mechanical, on the page of an audit and in one line on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pluralign.reports.page import Block, Cell, Note, Section, Table
from pluralign.reports.texts import number, plural, quoted

FLAGS = {
    "careless": ("looks careless", "look careless"),
    "straight-liner": ("always chooses the same place or label", "always choose the same place or label"),
    "near-copy": ("nearly copies another annotator", "nearly copy another annotator"),
    "contrary": ("chooses against every type", "choose against every type"),
}
"""The flags of annotators, and what one annotator or several with the flag do."""

_MOST_ROWS = 200


@dataclass(frozen=True)
class FlaggedAnnotator:
    """An annotator with at least one flag; `copies` names the annotators with nearly the same judgments."""

    annotator: str
    flags: list[str]
    judgments: int
    scale: float
    scale_low: float
    scale_high: float
    agreement: float | None
    weight: float
    copies: list[str]


@dataclass(frozen=True)
class Annotators:
    """How noisily annotators choose: the spread of their scales, the careless share, and those with a flag."""

    annotators: int
    tau: float
    careless_share: float
    counts: dict[str, int]
    flagged: list[FlaggedAnnotator]


def annotators_line(annotators: int, counts: Mapping[str, int]) -> str:
    """One sentence on the flags.

    Examples:
        >>> annotators_line(60, {"careless": 3, "near-copy": 2})
        '3 of 60 annotators look careless, 2 nearly copy another annotator.'
        >>> annotators_line(60, {})
        'None of 60 annotators looks careless or mechanical.'
    """
    said = [(counts[flag], texts[counts[flag] > 1]) for flag, texts in FLAGS.items() if counts.get(flag)]
    if not said:
        return f"None of {plural(annotators, 'annotator')} looks careless or mechanical."
    (first, text), *others = said
    of = f"{number(first)} of {plural(annotators, 'annotator')} {text}"
    return ", ".join([of, *(f"{number(count)} {text}" for count, text in others)]) + "."


def metrics_line(metrics: Mapping[str, Any]) -> str:
    """The sentence of `annotators_line` from the metrics of an audit; empty where it has none."""
    prefix = "flagged/"
    counts = {key[len(prefix) :]: count for key, count in metrics.items() if key.startswith(prefix)}
    return annotators_line(metrics["named_annotators"], counts) if "named_annotators" in metrics else ""


def annotators_section(found: Annotators) -> Section:
    """The section of an audit's page."""
    blocks: list[Block] = [Note(annotators_line(found.annotators, found.counts))]
    if found.tau or found.careless_share:
        blocks.append(
            Note(
                f"The noise scale of annotators varies with a standard deviation of {number(found.tau)} in its "
                "logarithm. A scale of 1 is usual, 0 is a choice at random."
            )
        )
    if found.flagged:
        rows: list[list[Cell]] = [
            [
                row.annotator,
                ", ".join(row.flags) + (f" (of {', '.join(map(quoted, row.copies))})" if row.copies else ""),
                row.judgments,
                row.scale,
                row.scale_low,
                row.scale_high,
                row.agreement,
                row.weight,
            ]
            for row in found.flagged[:_MOST_ROWS]
        ]
        shown = len(rows) if len(rows) == len(found.flagged) else f"{len(rows)} of {len(found.flagged)}"
        head = ["annotator", "flags", "judgments", "scale", "from", "to", "agreement", "weight"]
        blocks.append(Table(f"Flagged annotators ({shown})", head, rows, folded=True))
        blocks.append(
            Note(
                "A flag is a reason to look, not proof: an annotator whose taste no type describes looks careless, too."
            )
        )
    lead = "Who chooses at random, always alike, or like someone else? annotators.parquet has every annotator."
    return Section("Careless or mechanical annotators", blocks, lead)

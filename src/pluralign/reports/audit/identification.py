"""Sections of an audit's page: what the data can tell, and how many types it speaks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pluralign.reports.audit.data import binned_figure
from pluralign.reports.figures import Curve, curves
from pluralign.reports.page import Block, Cell, Figure, Figures, Table
from pluralign.reports.rows import known
from pluralign.reports.texts import number, percent, plural, quoted, text_of


def identification_blocks(found: Mapping[str, Any] | None) -> list[Block]:
    """Checks, how sure each person's type is, and how many judgments would be enough."""
    if found is None:
        return []
    blocks: list[Block] = []
    figures = []
    if found["posterior_entropy"]:
        figures.append(
            binned_figure(
                found["posterior_entropy"],
                "How open each person's type is",
                "entropy of the posterior over types (nats)",
                "people",
                "At 0 a person's type is certain; half of the people lie at about {} or lower. People at the right "
                "could be of several types.",
            )
        )
    if found["power"]:
        figures.append(_power(found["power"]))
    if figures:
        blocks.append(Figures(figures))
    if found["checks"]:
        rows = [[one["name"], _checked(one["value"]), one["meaning"]] for one in found["checks"]]
        blocks.append(Table("Checks", ["check", "value", "what it means"], rows))
    return blocks


def _checked(value: Any) -> Cell:
    return value if value is None or type(value) in (int, float) else text_of(value)


def _power(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Accuracy of the types found, by judgments per person, a curve per design."""
    designs = list(dict.fromkeys(row["design"] or "" for row in rows))
    lines = []
    for index, design in enumerate(designs, 1):
        of = sorted(
            (r for r in rows if (r["design"] or "") == design and known(r["judgments"])),
            key=lambda r: r["judgments"],
        )
        lines.append(
            Curve(
                design,
                [row["judgments"] for row in of],
                [row["accuracy"] for row in of],
                [row["low"] for row in of],
                [row["high"] for row in of],
                index,
            )
        )
    enough = [
        f"{quoted(line.name)} reaches {percent(best)} at {number(line.x[line.y.index(best)])} judgments"
        for line in lines
        for best in [max(known(*line.y), default=None)]
        if best is not None
    ]
    reading = "How often simulated people of these types are given their own type."
    if enough:
        reading += f" At best, {'; '.join(enough)}."
    table = Table(
        "The numbers",
        ["design", "judgments per person", "accuracy", "from", "to"],
        [[row[key] for key in ("design", "judgments", "accuracy", "low", "high")] for row in rows],
        folded=True,
    )
    drawn = curves(
        lines,
        "How well types are told apart by judgments per person, a curve per design.",
        x_label="judgments per person",
        y_label="people given their own type",
        limits=(0.0, 1.03),
        shares=True,
    )
    return Figure("How many judgments are enough", drawn, reading, [(line.series, line.name) for line in lines], table)


def selection_blocks(rows: Sequence[Mapping[str, Any]], chosen: int) -> list[Block]:
    """Held-out log-likelihood and BIC by the number of types."""
    rows = sorted((row for row in rows if known(row["types"])), key=lambda row: row["types"])
    if not rows:
        return []
    counts = [int(row["types"]) for row in rows]
    mark = (float(chosen), f"chosen: {chosen}") if chosen in counts else None
    figures = []
    table = Table(
        "The numbers",
        ["types", "held out", "from", "to", "BIC"],
        [[str(int(row["types"])), *(row[key] for key in ("held_out", "low", "high", "bic"))] for row in rows],
        folded=True,
    )
    held_out = [row["held_out"] for row in rows]
    if known(*held_out):
        line = Curve("held out", counts, held_out, [row["low"] for row in rows], [row["high"] for row in rows])
        drawn = curves([line], "Held-out log-likelihood by number of types.", x_label="number of types",
                       y_label="log-likelihood per held-out judgment (nats)", mark=mark, whole=True)  # fmt: skip
        figures.append(Figure("Prediction of held-out judgments", drawn, _held_out(rows, chosen), table=table))
    bic = [row["bic"] for row in rows]
    if known(*bic):
        line = Curve("BIC", counts, bic, series=2)
        drawn = curves([line], "BIC by number of types; lower is better.", x_label="number of types",
                       y_label="BIC, lower is better", mark=mark, whole=True)  # fmt: skip
        least = min((row for row in rows if known(row["bic"])), key=lambda row: row["bic"])
        figures.append(
            Figure(
                "Fit against size",
                drawn,
                f"BIC charges for each parameter; it is least at {plural(int(least['types']), 'type')}.",
            )
        )
    return [Figures(figures)] if figures else []


def _held_out(rows: Sequence[Mapping[str, Any]], chosen: int) -> str:
    scored = [row for row in rows if known(row["held_out"])]
    best = max(scored, key=lambda row: row["held_out"])
    said = f"Higher is better; the highest is at {plural(int(best['types']), 'type')}."
    one = next((row for row in scored if row["types"] == 1), None)
    at = next((row for row in scored if row["types"] == chosen), None)
    if one is not None and at is not None and chosen > 1:
        gain = at["held_out"] - one["held_out"]
        said += f" {plural(chosen, 'type')} instead of one: {'+' if gain > 0 else ''}{number(gain)} nats per judgment."
    return said

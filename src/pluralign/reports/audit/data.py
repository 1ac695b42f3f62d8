"""Sections of an audit's page: what the data holds, and whether people agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pluralign.reports.figures import histogram
from pluralign.reports.page import Block, Cell, Figure, Figures, Table, Tiles
from pluralign.reports.rows import Point, bars
from pluralign.reports.scales import scale
from pluralign.reports.texts import interval, number, percent, plural, quoted

_MOST = 12
"""Bars of one figure; the rest are in its table."""


def data_blocks(data: Mapping[str, Any] | None) -> list[Block]:
    """What was said: kinds of verdicts, judgments per person, lengths of rankings, sources."""
    if data is None:
        return []
    figures = []
    for title, counts, what in (
        ("Kinds of judgments", data["kinds"], "judgments"),
        ("Responses ranked together", _lengths(data["ranking_lengths"]), "rankings"),
        ("Sources", data["sources"], "judgments"),
        ("Known groups", data["groups"], "people"),
    ):
        if counts and sum(value or 0 for value in counts.values()):
            figures.append(_counts(title, counts, what))
    per_person = data["judgments_per_annotator"]
    if per_person:
        figures.insert(1, _per_person(per_person))
    return [Figures(figures)] if figures else []


def _lengths(counts: Mapping[str, float] | None) -> dict[str, float]:
    """Rankings by length, shortest first, named."""
    ordered = sorted((counts or {}).items(), key=lambda item: (len(item[0]), item[0]))
    return {f"{length} responses": count or 0 for length, count in ordered}


def _counts(title: str, counts: Mapping[str, float | None], what: str) -> Figure:
    """Bars, the largest where there are many. Kinds overlap, so they are no shares of a whole."""
    ordered = [(name, value or 0) for name, value in counts.items()]
    if title in ("Sources", "Known groups"):
        ordered.sort(key=lambda item: -item[1])
    shown, rest = ordered[:_MOST], ordered[_MOST:]
    name, most = max(ordered, key=lambda item: item[1])
    total = sum(value for _, value in ordered)
    overlap = title == "Kinds of judgments"
    if overlap:
        reading = "A ranking may also hold ties or labels, so the kinds may overlap."
    elif len(ordered) == 1:
        reading = f"All {what}: {quoted(name)}."
    else:
        reading = f"The largest: {quoted(name)}, {percent(most / total)} of the {what}."
    if rest:
        reading += (
            f" {plural(len(rest), 'other')} with {percent(sum(value for _, value in rest) / total)} are not drawn."
        )
    table = Table("The numbers", [title, what], ordered, folded=True) if rest else None
    drawn = bars(shown, f"{title}: bars of {what}.", whole=0 if overlap or len(ordered) < 2 else total)
    return Figure(title, drawn, reading, table=table)


def middle(edges: Sequence[float], counts: Sequence[float]) -> float | None:
    """The median of a histogram, even within the bin that holds it.

    Examples:
        >>> middle([0, 1, 2], [1, 1]), middle([0, 10], [0])
        (1.0, None)
    """
    half = sum(counts) / 2
    if not half > 0:
        return None
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        if count >= half > 0:
            return low + (high - low) * half / count
        half -= count
    return float(edges[-1])


def _binned(of: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    return [edge or 0.0 for edge in of["edges"]], [count or 0 for count in of["counts"]]


def bins_table(edges: Sequence[float], counts: Sequence[float], what: str, unit: str) -> Table:
    """A histogram's numbers, folded."""
    rows: list[list[Cell]] = [
        [f"{number(low)} to {number(high)}", count]
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
    return Table("The numbers", [what, unit], rows, folded=True)


def binned_figure(of: Mapping[str, Any], title: str, x_label: str, unit: str, reading: str) -> Figure:
    """A histogram of `audit.json` as `histogram_figure` draws it."""
    return histogram_figure(*_binned(of), title, x_label, unit, reading)


def histogram_figure(
    edges: Sequence[float],
    counts: Sequence[float],
    title: str,
    x_label: str,
    unit: str,
    reading: str,
    found: float | None = None,
) -> Figure:
    """A histogram with its median marked, which is guessed from the bins where it is not given as `found`.

    In the reading `{}` is the median, `{n}` how many there are.
    """
    found = middle(edges, counts) if found is None else found
    shown = number(found)
    drawn = histogram(
        edges, counts, f"{title}: histogram, {unit} by {x_label}; median {shown}.", x_label=x_label, y_label=unit,
        mark=None if found is None else (found, f"median {shown}"),
    )  # fmt: skip
    said = reading.format(shown, n=number(int(sum(counts))))
    return Figure(title, drawn, said, table=bins_table(edges, counts, x_label, unit))


def _per_person(of: Mapping[str, Any]) -> Figure:
    return binned_figure(
        of,
        "Judgments per person",
        "judgments",
        "people",
        "Half of the people gave about {} judgments or fewer. The fewer each person gives, the less is known of "
        "their type.",
    )


def agreement_blocks(agreement: Mapping[str, Any] | None) -> list[Block]:
    """Krippendorff's alpha, agreement with the others, margins of majorities, and contradictions."""
    if agreement is None:
        return []
    blocks: list[Block] = []
    figures = []
    if agreement["krippendorff_alpha"] is not None:
        figures.append(_alpha(agreement))
    if agreement["annotator_agreement"]:
        figures.append(
            binned_figure(
                agreement["annotator_agreement"],
                "Each person against the rest",
                "agreement with the others",
                "people",
                "Half of {n} people agree with most of the others on a share of at most {}. Those at the left may "
                "be a minority that wants something else, or careless: a low number alone does not tell which.",
            )
        )
    margins = agreement["majority_margins"]
    if margins:
        unanimous = margins["unanimous"]
        said = "" if unanimous is None else f" {percent(unanimous)} of the comparisons are unanimous."
        figures.append(
            binned_figure(
                margins,
                "How clear majorities are",
                "margin (0 split in half, 1 unanimous)",
                "comparisons",
                "Half of the comparisons have a margin of at most {}."
                + said
                + " Near 0 the crowd is split: one reward "
                "for all can please only half of it there.",
            )
        )
    if figures:
        blocks.append(Figures(figures))
    tiles = _contradictions(agreement)
    if tiles:
        blocks.append(Tiles(tiles))
    return blocks


def _alpha(agreement: Mapping[str, Any]) -> Figure:
    alpha, low, high = (agreement[key] for key in ("krippendorff_alpha", "alpha_low", "alpha_high"))
    level = agreement["level"] or "nominal"
    units = (
        "" if agreement["units"] is None else f", {plural(agreement['units'], 'unit')} that two or more people judged"
    )
    if low is not None and low > 0:
        meaning = "People agree more than chance would have it" + (
            ", yet far from fully: what is left is noise, or people who want different things." if alpha < 0.8 else "."
        )
    elif high is not None and high < 0:
        meaning = "People disagree more than chance would have it: they judge alike things in opposite ways."
    else:
        meaning = "This is not told apart from chance: there is no one answer that all would give."
    marks = [(0.0, "chance"), (1.0, "full agreement")]
    left = min(0.0, alpha, low if low is not None else 0.0)
    if left < 0:
        marks.insert(0, (-1.0, "opposed"))
    drawn = scale(
        Point(alpha, low, high),
        f"Krippendorff's alpha {interval(alpha, low, high)} on a scale from chance to full agreement.",
        limits=(-1.0 if left < 0 else 0.0, 1.0),
        marks=marks,
    )
    return Figure("Krippendorff's alpha", drawn, f"{interval(alpha, low, high)}; {level} level{units}. {meaning}")


def _contradictions(agreement: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    tiles = []
    triples, cycles = agreement["intransitive_triples"], agreement["condorcet_cycles"]
    if triples and triples["share"] is not None:
        tiles.append(
            (
                "triples without an order",
                percent(triples["share"]),
                f"of {plural(triples['triples'], 'triple')} of responses: no order fits the majorities",
            )
        )
    if cycles and cycles["prompts"]:
        tiles.append(
            (
                "majorities in a circle",
                f"{number(cycles['cyclic'])} of {number(cycles['prompts'])}",
                "prompts where majorities prefer A to B, B to C and C to A, so that no ranking follows them",
            )
        )
        if cycles["without_winner"] is not None:
            tiles.append(
                (
                    "without a winner",
                    f"{number(cycles['without_winner'])} of {number(cycles['prompts'])}",
                    "prompts where no response beats each other one by majority",
                )
            )
    return tiles

"""Sections of an audit's page: who the types are, and how they fall over the known groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pluralign.reports.figures import scatter
from pluralign.reports.page import Block, Card, Cards, Excerpt, Figure, Figures, Heading, Table
from pluralign.reports.rows import Point, Row, forest, known, stacked
from pluralign.reports.texts import number, percent, plural, quoted, text_of

_EXCERPTS = 5
_LONGEST_TABLE = 200


def type_blocks(types: Sequence[Mapping[str, Any]], places: Mapping[str, Any] | None) -> list[Block]:
    """A card per type; then shares, traits and the map."""
    if not types:
        return []
    blocks: list[Block] = [Cards([_card(one) for one in types])]
    figures = []
    legend = [(one["type"], one["name"]) for one in types]
    if known(*(one["share"] for one in types)):
        figures.append(_shares(types))
    traits = list(dict.fromkeys(trait["trait"] or "" for one in types for trait in one["traits"]))
    if traits:
        figures.append(_traits(types, traits, legend))
    if places is not None and places["x"] and len(places["x"]) == len(places["y"]) == len(places["type"]):
        kinds = [int(kind or 0) for kind in places["type"]]
        drawn = scatter(places["x"], places["y"], kinds, "Map of the people, coloured by type.")
        people = plural(len(kinds), "person", "people")
        reading = f"{people}, each a dot; those who judge alike lie close. Directions have no meaning."
        figures.append(Figure("The people", drawn, reading, legend))
    if figures:
        blocks += [Heading("Types side by side"), Figures(figures)]
    return blocks


def _shares(types: Sequence[Mapping[str, Any]]) -> Figure:
    rows = [Row(one["name"], [Point(one["share"], one["low"], one["high"], one["type"])]) for one in types]
    top = 1.1 * max(known(*(one[key] for one in types for key in ("share", "high")))) or 1.0
    drawn = forest(rows, "Share of each type with its interval.", x_label="share of the people",
                   limits=(0.0, min(1.0, top)), shares=True)  # fmt: skip
    largest = max(types, key=lambda one: one["share"] or 0)
    reading = f"{quoted(largest['name'])} is the largest: {percent(largest['share'])} of the people."
    return Figure("Share of each type", drawn, reading)


def _traits(types: Sequence[Mapping[str, Any]], traits: Sequence[str], legend: Sequence[tuple[int, str]]) -> Figure:
    """What each type likes in a response: a row per trait, a dot per type."""
    rows, numbers, spread = [], [], {}
    for trait in traits:
        points = []
        for one in types:
            found = next((t for t in one["traits"] if (t["trait"] or "") == trait), None)
            if found is not None:
                points.append(Point(found["value"], found["low"], found["high"], one["type"]))
                numbers.append([trait, one["name"], found["value"], found["low"], found["high"]])
        rows.append(Row(trait, points))
        values = known(*(point.value for point in points))
        spread[trait] = max(values) - min(values) if len(values) > 1 else 0.0
    widest = max(spread, key=lambda trait: spread[trait])
    reading = "Right of the dashed line a type likes more of it, left of it less."
    if spread[widest] > 0:
        reading += f" The types differ most in {quoted(widest)}."
    drawn = forest(rows, "What each type likes in a response: a row per trait, a dot with its interval per type.",
                   x_label="weight of the trait", reference=0.0)  # fmt: skip
    table = Table("The numbers", ["trait", "type", "weight", "from", "to"], numbers, folded=True)
    return Figure("What each type likes", drawn, reading, legend, table)


def _card(one: Mapping[str, Any]) -> Card:
    facts = []
    if one["annotators"] is not None:
        certain = "" if one["certain"] is None else f", {number(one['certain'])} of them with certainty"
        facts.append(f"{plural(one['annotators'], 'person', 'people')}{certain}")
    if one["share"] is not None and one["low"] is not None and one["high"] is not None:
        facts.append(f"share between {percent(one['low'])} and {percent(one['high'])}")
    excerpts = []
    for title, key, sign in (("Lifts", "lifts", "up"), ("Drops", "drops", "down")):
        if one[key]:
            entries = [
                Excerpt(text_of(e["prompt"]), text_of(e["response"]), _signed(e["difference"]), sign)  # type: ignore[arg-type]
                for e in one[key][:_EXCERPTS]
            ]
            excerpts.append((f"{title}, against the other types", entries))
    tables = []
    if one["worths"]:
        head = ["response", "prompt", "worth", "from", "to"]
        rows = [[text_of(e["response"]), text_of(e["prompt"]), e["worth"], e["low"], e["high"]] for e in one["worths"]]
        tables.append(_folded("What it finds each response worth", head, rows))
    if one["members"]:
        members = [[text_of(member["annotator"]), member["probability"]] for member in one["members"]]
        tables.append(_folded("Its people", ["person", "probability"], members))
    return Card(one["name"], one["type"], one["share"], facts, excerpts, tables)


def _folded(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    more = (
        f", the first {_LONGEST_TABLE} of {number(len(rows))}"
        if len(rows) > _LONGEST_TABLE
        else f" ({number(len(rows))})"
    )
    return Table(title + more, head, rows[:_LONGEST_TABLE], folded=True)


def _signed(value: float | None) -> str:
    return number(None) if value is None else f"{value:+.2f}".replace("-", "\u2212")


def group_blocks(
    groups: Sequence[Mapping[str, Any]], types: Sequence[Mapping[str, Any]], adjusted_rand: float | None
) -> list[Block]:
    """Each known group by the types of its people."""
    if not groups:
        return []
    ordered = sorted(groups, key=lambda group: -(group["annotators"] or 0))
    count = max([len(types), *(len(group["shares"]) for group in groups)])
    names = [one["name"] for one in types] + [f"type {index}" for index in range(len(types) + 1, count + 1)]
    rows = [(text_of(group["group"]) or "no name", group["shares"]) for group in ordered[:20]]
    notes = [plural(int(group["annotators"] or 0), "person", "people") for group in ordered[:20]]
    reading = "If all groups look alike, knowing a person's group says nothing of what they want."
    if adjusted_rand is not None:
        meaning = "the types are something else than the groups"
        if adjusted_rand > 0.2:
            meaning = "the types are the groups" if adjusted_rand > 0.8 else "the types follow the groups in part"
        reading = f"Adjusted Rand index {number(adjusted_rand)} (1 the same division, 0 chance): {meaning}."
    table = Table(
        "The numbers",
        ["group", "people", *names],
        [[text_of(group["group"]), group["annotators"], *group["shares"]] for group in ordered],
        folded=True,
    )
    drawn = stacked(rows, "Each known group by the types of its people, as stacked bars.", notes=notes)
    return [Figures([Figure("Groups by type", drawn, reading, list(enumerate(names, 1)), table)])]

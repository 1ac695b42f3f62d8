"""A page as plain data, and its HTML: one file, no script, nothing loaded.

All texts here are raw; the template escapes them. Only figures are markup: `pluralign.reports.drawing` escapes theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jinja2
from markupsafe import Markup

from pluralign.reports.texts import clean, clip, interval, number, percent, text_of

Tone = Literal["good", "careful", "bad", "plain"]
Cell = str | int | float | None


@dataclass(frozen=True)
class Note:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Remarks:
    """A list of sentences under a title."""

    title: str
    items: Sequence[str]


@dataclass(frozen=True)
class Banner:
    """The main result in one colour and a few sentences."""

    tone: Tone
    label: str
    title: str
    paragraphs: Sequence[str] = ()


@dataclass(frozen=True)
class Tiles:
    """Key figures: name, value, and a short explanation."""

    items: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Table:
    """Rows under a head; numbers are aligned right. The first cell of a row is its name."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    folded: bool = False


@dataclass(frozen=True)
class Figure:
    """A plot with its legend by series, a sentence on how to read it, and its numbers as a table."""

    title: str
    svg: Markup
    reading: str = ""
    legend: Sequence[tuple[int, str]] = ()
    table: Table | None = None


@dataclass(frozen=True)
class Figures:
    """Figures side by side if the screen is wide enough."""

    items: Sequence[Figure]


@dataclass(frozen=True)
class Card:
    """A type: a title in its colour, facts, folded tables."""

    title: str
    series: int
    share: float | None
    facts: Sequence[str] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Cards:
    """Cards side by side if the screen is wide enough."""

    items: Sequence[Card]


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    text: str
    lead: str = ""


@dataclass(frozen=True)
class Answer:
    """A part of a bar: its tone (`yes`, `middle` or `no`), its name, and its share of the whole bar."""

    tone: str
    name: str
    share: float


@dataclass(frozen=True)
class Votes:
    """A named bar, its numbers in words, and whether they rest on few judgments. Series 0 has no colour."""

    name: str
    series: int
    answers: Sequence[Answer]
    words: str
    few: bool = False


@dataclass(frozen=True)
class Side:
    """A response with a bar per type or group."""

    response: str
    votes: Sequence[Votes]


@dataclass(frozen=True)
class Passage:
    """A prompt with its responses, one below the other or side by side."""

    prompt: str
    sides: Sequence[Side]
    beside: bool = False


@dataclass(frozen=True)
class Opinions:
    """Passages, with the names of their tones; folded under the text of `folded` unless it is empty."""

    items: Sequence[Passage]
    legend: Sequence[tuple[str, str]] = ()
    folded: str = ""


@dataclass(frozen=True)
class Links:
    """Links to other pages: name, relative address, and what is there."""

    items: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Fold:
    """Blocks that the reader can unfold."""

    title: str
    blocks: Sequence[Block]


Block = Note | Remarks | Banner | Tiles | Table | Figures | Cards | Heading | Opinions | Links | Fold


@dataclass(frozen=True)
class Section:
    """A part of the page with an entry in its table of contents."""

    title: str
    blocks: Sequence[Block]
    lead: str = ""


def render(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The page as HTML; the same arguments give the same bytes.

    Examples:
        >>> page = render("<b>", "", [Section("First", [Note("1 < 2")])])
        >>> "<b>" in page, "1 &lt; 2" in page, "<script" in page
        (False, True, False)
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pluralign.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "clean": clean, "clip": clip, "interval": interval, "number": number, "percent": percent, "shown": _shown,
        "numeric_columns": _numeric_columns, "kind": lambda block: type(block).__name__.lower(),
    }  # fmt: skip
    return environment.get_template("page.html").render(title=title, subtitle=subtitle, sections=sections)


def _shown(cell: Cell) -> str:
    return number(cell) if _numeric(cell) else text_of(cell)  # type: ignore[arg-type]


def _numeric_columns(table: Table) -> list[bool]:
    """Which columns hold only numbers; the first holds names."""
    return [place > 0 and all(_numeric(row[place]) for row in table.rows) for place in range(len(table.head))]


def _numeric(cell: Cell) -> bool:
    return cell is None or (isinstance(cell, (int, float)) and not isinstance(cell, bool))

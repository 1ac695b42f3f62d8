"""Results to Markdown: a table is its rows and a template of its header and cells.

A template looks like the table: the header, a line `---`, and a row of cells, each over one or more lines. A cell is
text with fields in braces, as in `str.format`, filled from the row: `{seconds[ours]:.2f}`. In addition

- a list is formatted value by value: `{shares:.2f}` is `0.50, 0.30, 0.20`;
- `{seconds:range .1f}` is the median of a list with its range, `{loss:mean .3f}` the mean with its range, and
  `{loss:seeds .3f}` the same but a single value alone;
- `{accuracy.ci:.3f}` is a metric with the interval in `accuracy_low` and `accuracy_high`, or `-` without the metric;
- a cell with a missing key or with `None` is empty;
- the column `...` is replaced by the columns that are passed beside the template.
"""

from __future__ import annotations

import json
import re
import string
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from .results import OUT, ROOT

Row = Mapping[str, Any]
Tables = Mapping[str, Callable[[Any], list[str]]]
"""The blocks of a results file by name: functions from stored results to paragraphs and tables."""

RESULTS = ROOT / "bench" / "results"


def table(rows: Iterable[Row], template: str, columns: Mapping[str, str] | None = None) -> str:
    """A Markdown table of rows; `columns` (heading to cell) take the place of `...` in the template."""
    added = columns or {}
    header, cells = (_split(part) for part in template.split("\n", 1)[1].split("---\n"))
    header, cells = _with(header, list(added)), _with(cells, list(added.values()))
    assert len(header) == len(cells), f"{len(header)} headings, {len(cells)} cells"
    lines = [_line(header), "|" + "---|" * len(header)]
    return "\n".join(lines + [_line(_filled(cell, row) for cell in cells) for row in rows])


def _split(part: str) -> list[str]:
    joined = " ".join(line.strip() for line in part.strip().splitlines())
    return [cell.strip() for cell in joined.strip("|").split("|")]


def _with(cells: list[str], added: list[str]) -> list[str]:
    return [new for cell in cells for new in (added if cell == "..." else [cell])]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


class _Interval(tuple[float, ...]):
    """A value, low and high; or the value alone."""


class _Cells(string.Formatter):
    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        key = field_name.removesuffix(".ci")
        if key == field_name:
            return super().get_field(field_name, args, kwargs)
        names = [f"{key[:-1]}{end}]" if key.endswith("]") else f"{key}{end}" for end in ("", "_low", "_high")]
        values = []
        for name in names:
            try:
                values.append(super().get_field(name, args, kwargs)[0])
            except KeyError:
                break
        return _Interval(values), None

    def format_field(self, value: Any, spec: str) -> str:
        kind, _, each = spec.rpartition(" ")
        if isinstance(value, _Interval):
            return between(*value, spec=each) if len(value) == 3 else format(value[0], each) if value else "-"
        if not isinstance(value, (list, tuple)):
            return super().format_field(value, spec)
        if not kind:
            return ", ".join(format(number, each) for number in value)
        if not value or (kind == "seeds" and len(value) == 1):
            return format(value[0], each) if value else ""
        return between((median if kind == "range" else fmean)(value), min(value), max(value), each)


def _filled(cell: str, row: Row) -> str:
    try:
        return _Cells().vformat(cell, (), row)
    except (KeyError, TypeError):  # a key that is missing, or None, which has no such format
        return ""


def between(value: float, low: float, high: float, spec: str = ".3f") -> str:
    """A value and an interval."""
    return f"{value:{spec}} [{low:{spec}}, {high:{spec}}]"


def interval(row: Row, key: str, digits: int = 3) -> str:
    """A metric with its 95 % interval, where there is one."""
    return _filled(f"{{{key}.ci:.{digits}f}}", row)


def paragraph(text: str) -> str:
    """Text in lines of at most 120 characters; its line breaks and indentation do not matter."""
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)


def named(rows: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows that are stored by name; each gets its name as a column."""
    return [{"name": name, **row} for name, row in rows.items()]


def counted(values: Iterable[Any]) -> str:
    """How often each value occurs, the most frequent first."""
    return ", ".join(f"{value}: {count}" for value, count in Counter(values).most_common())


# Files.


def write_tables(subject: str, tables: Tables) -> list[str]:
    """Replace the blocks of a results file for which there are results; their names."""
    file = RESULTS / f"{subject}.md"
    text, written = file.read_text(), []
    for name, make in tables.items():
        if not (OUT / f"{name}.json").exists():
            continue
        found = json.loads((OUT / f"{name}.json").read_text())
        origin = paragraph(f"`{found['command']}`, {found['date']}, {found['processor']}.")
        content = "\n\n".join([origin, *make(found["results"])])
        block = f"<!-- {name} -->\n{content}\n<!-- end {name} -->"
        text, count = re.subn(rf"<!-- {name} -->.*?<!-- end {name} -->", lambda _, b=block: b, text, flags=re.DOTALL)
        if not count:
            raise SystemExit(f"{file.relative_to(ROOT)} has no place for the table '{name}'")
        written.append(name)
    file.write_text(text)
    return written

"""Templates: text with `{column}` fields, which may lead into nested values and joined tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pluralign.core.errors import RowError, nearest, one_line
from pluralign.core.numbers import whole_text
from pluralign.core.yaml_lines import Value

Tables = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Joined tables: name to key to row."""

_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")
_JOIN = re.compile(r"(\w+)\[(.+)\]\.(.+)")


def word(value: Any) -> str:
    """A value in the form in which values are compared: `1`, `1.0` and ` 1 ` are the same word, also in text.

    Examples:
        >>> word(1.0), word(" 1.0 "), word(True)
        ('1', '1', 'true')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return whole_text(str(value).strip())


@dataclass(frozen=True)
class Field:
    """A field between braces: a column, or a column whose value is the key of a row in a joined table."""

    column: str  # a column of the file; dots lead into nested values
    table: str | None = None  # the joined table, or `None`
    wanted: str = ""  # the column of the joined table

    def value(self, row: Mapping[str, Any], tables: Tables) -> Any:
        """The value of the field in a row; it must exist there, and in the joined table."""
        value = _nested(row, self.column, self.column)
        if self.table is None:
            return value
        joined = tables[self.table].get(word(value))
        if joined is None:
            raise RowError(self.column, f"{one_line(value)} is not in the table '{self.table}'")
        return _nested(joined, self.wanted, f"{self.table}.{self.wanted}")


@dataclass(frozen=True)
class Template:
    """Text with fields. A template that is a single field keeps the type of its value; others give text.

    A doubled brace is a literal one: `{{a}}` is the text `{a}`.

    Examples:
        >>> template = Template.of(Value("{who} says {what.0}", "map.yaml, line 1", "prompt"), [])
        >>> template.render({"who": "Ann", "what": ["yes", "no"]}, {})
        'Ann says yes'
    """

    parts: tuple[str | Field, ...]
    source: Value

    @classmethod
    def of(cls, value: Value, tables: Sequence[str]) -> Template:
        """Parse a template; numbers are taken as text."""
        if isinstance(value.content, bool) or not isinstance(value.content, str | int | float):
            raise value.complain(f"found {one_line(value.plain())}, expected text like '{{column}}'")
        parts: list[str | Field] = []
        text, end = str(value.content), 0
        for found in [*_FIELD.finditer(text), None]:
            between = text[end : found.start() if found else None]
            if "{" in between or "}" in between:
                raise value.complain(f"a single brace in {one_line(text)}: write {{column}}, or {{{{ for a brace")
            parts += [between] if between else []
            if found is not None:
                parts.append(_field(found[1], value, tables) if found[1] else found[0][0])
                end = found.end()
        return cls(tuple(parts), value)

    def render(self, row: Mapping[str, Any], tables: Tables) -> Any:
        """The template's value for a row; a list cannot be part of a text."""
        if len(self.parts) == 1 and isinstance(self.parts[0], Field):
            return self.parts[0].value(row, tables)
        shown = []
        for part in self.parts:
            value = part.value(row, tables) if isinstance(part, Field) else part
            if isinstance(part, Field) and isinstance(value, list | Mapping):
                raise RowError(part.column, f"found {one_line(value)}, expected text or a number to put into text")
            shown.append("" if value is None else str(value))
        return "".join(shown)

    def check_columns(self, columns: Sequence[str], tables: Mapping[str, Sequence[str]]) -> None:
        """Check that the header of a file, and the joined tables, have all fields."""
        for part in self.parts:
            if not isinstance(part, Field):
                continue
            if not _has(columns, part.column):
                raise self.source.complain(f"unknown column '{part.column}'{nearest(part.column, columns)}")
            if part.table is not None and not _has(tables[part.table], part.wanted):
                hint = nearest(part.wanted, tables[part.table])
                raise self.source.complain(f"the table '{part.table}' has no column '{part.wanted}'{hint}")


def _field(name: str, value: Value, tables: Sequence[str]) -> Field:
    join = _JOIN.fullmatch(name)
    if join is None:
        return Field(name)
    if join[1] not in tables:
        known = ", ".join(tables) or "none"
        raise value.complain(f"unknown table '{join[1]}' (known: {known}){nearest(join[1], tables)}")
    return Field(join[2], join[1], join[3])


def _has(columns: Sequence[str], name: str) -> bool:
    return name in columns or name.split(".")[0] in columns


def _nested(value: Any, path: str, column: str) -> Any:
    """Follow a dotted path into nested mappings and lists; a key that contains the dots takes precedence."""
    if isinstance(value, Mapping) and path in value:
        return value[path]
    first, _, rest = path.partition(".")
    if first == "*" and isinstance(value, list):
        return [_nested(inner, rest, column) if rest else inner for inner in value]
    if isinstance(value, Mapping) and first in value:
        inner = value[first]
    elif isinstance(value, list) and first.isdigit() and int(first) < len(value):
        inner = value[int(first)]
    else:
        known = list(value) if isinstance(value, Mapping) else []
        raise RowError(column, f"there is no '{first}' in the row{nearest(first, map(str, known))}")
    return _nested(inner, rest, column) if rest else inner

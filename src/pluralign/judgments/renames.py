"""Columns that have other names in the source: renamed, or left out, before validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pluralign.core.errors import PluralignError, RowError, nearest, one_line
from pluralign.judgments.blocks import Block
from pluralign.judgments.schema import COLUMNS, PREFERENCE_COLUMNS

Columns = Mapping[str, str | None] | Sequence[str]
"""New names of columns by their own; `None` leaves a column out. Or the same as texts, `annotator_id=annotator`."""


def column_names(columns: Columns | None) -> dict[str, str | None]:
    """The new name of each column to rename, checked.

    Raises:
        PluralignError: a text is not `COLUMN=NAME`, a name is not one that a table or preference rows have, or two
            columns get one name.

    Examples:
        >>> column_names(["annotator_id=annotator", "note="])
        {'annotator_id': 'annotator', 'note': None}
    """
    pairs = list(columns.items()) if isinstance(columns, Mapping) else [_parted(text) for text in columns or ()]
    known, names = tuple(dict.fromkeys((*COLUMNS, *PREFERENCE_COLUMNS))), dict[str, str | None]()
    for column, name in pairs:
        if name and name not in known and column in known:
            raise PluralignError(
                f"rename: found {one_line(name)} as the new name of {column}: turn it round, "
                f"--rename {one_line(name)}={column} (in Python columns={{'{one_line(name)}': '{column}'}})"
            )
        if name and name not in known:
            raise PluralignError(
                f"rename: found {one_line(name)}{nearest(str(name), known)}: rename to {', '.join(known)}"
            )
        if column in names or (name and name in names.values()):
            raise PluralignError(f"rename: '{column if column in names else name}' is given twice: give it once")
        names[column] = name or None
    return names


def _parted(text: str) -> tuple[str, str]:
    column, _, name = text.rpartition("=")
    if not column:
        raise PluralignError(f"rename: found {one_line(text)}, expected COLUMN=NAME, like annotator_id=annotator")
    return column, name


def renamed(block: Block, names: Mapping[str, str | None]) -> Block:
    """The block with its columns renamed."""
    if not names:
        return block
    columns = block.columns
    if columns is not None:
        columns = columns.drop_columns([name for name in columns.schema.names if names.get(name, name) is None])
        found = [names.get(name, name) for name in columns.schema.names]
        columns = columns.rename_columns(found) if len(set(found)) == len(found) else None
    return block.mapped(lambda row: renamed_row(row, names), columns)


def renamed_row(row: Mapping[str, Any], names: Mapping[str, str | None]) -> dict[str, Any]:
    """The row with its columns renamed.

    Raises:
        RowError: the row already has a column of the new name.
    """
    made: dict[str, Any] = {}
    for column, value in row.items():
        name = names.get(column, column)
        if name in made:
            own = next(other for other, to in names.items() if to == name)
            raise RowError(name, f"is there already, and '{own}' is renamed to it: rename or leave out one of them")
        if name is not None:
            made[name] = value
    return made

"""What the formats share: streaming rows into judgments, counting what is left out, and user-named fields."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pluralign.core.errors import PluralignError, RowError, nearest, one_line
from pluralign.core.numbers import exact_number, whole_text
from pluralign.core.progress import track
from pluralign.judgments.blocks import Block, block_of
from pluralign.judgments.formats.templates import Field
from pluralign.judgments.renames import renamed
from pluralign.judgments.rows import expected_rows, read_blocks, read_rows
from pluralign.judgments.schema import unknown_column
from pluralign.judgments.validation import Reject, RowChecker

Rows = Iterator[tuple[int, dict[str, Any]]]
"""Judgments with the numbers of the source rows that they come from."""

Convert = Callable[[dict[str, Any]], Iterable[dict[str, Any] | RowError]]
"""One source row to its judgments. Raising a `RowError` rejects the row; yielding one rejects a single judgment."""

CARRIED = ("id", "annotator", "source", "group", "weight", "time", "strength")
"""Columns of the canonical table that any preference row may also have."""


@dataclass
class Tally:
    """Counts of one import: rows read, and what was left out, by reason."""

    rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def convert_rows(
    path: Path,
    convert: Convert,
    reject: Reject | None = None,
    tally: Tally | None = None,
    drop_columns: Collection[str] = (),
) -> Rows:
    """Stream a file through `convert`, with a progress bar.

    Args:
        path: any file that `read_rows` reads.
        convert: turns one source row into its judgments.
        reject: called with each bad row; `None` raises.
        tally: counts rows, and what gives no judgment.
        drop_columns: columns that the user chose to leave out.

    Raises:
        PluralignError: the file cannot be read, or a row is bad and `reject` is `None`.
    """
    tally = Tally() if tally is None else tally

    def refuse(number: int, row: object, complaint: RowError) -> None:
        if reject is None:
            raise complaint.at(path, number) from complaint
        reject(number, row, complaint)

    def malformed(number: int, row: object, complaint: RowError) -> None:
        tally.rows += 1
        refuse(number, row, complaint)

    for number, row in track(read_rows(path, malformed), f"Importing {path.name}", total=expected_rows(path)):
        tally.rows += 1
        try:
            judgments = list(convert(without(row, drop_columns, tally) if drop_columns else row))
        except RowError as complaint:
            refuse(number, row, complaint)
            continue
        for judgment in judgments:
            if isinstance(judgment, RowError):
                refuse(number, row, judgment)
            else:
                yield number, judgment


def without(row: Mapping[str, Any], drop_columns: Collection[str], tally: Tally | None) -> dict[str, Any]:
    """The row without the dropped columns; the tally counts how often each was present.

    Examples:
        >>> without({"chosen": "a", "margin": 2}, ["margin"], None)
        {'chosen': 'a'}
    """
    if tally is not None:
        tally.left_out.update(f"values of the dropped column '{name}'" for name in row if name in drop_columns)
    return {name: value for name, value in row.items() if name not in drop_columns}


def check_known(row: Mapping[str, Any], known: Collection[str]) -> None:
    """Check that the format or the canonical table knows every column."""
    names = (*known, *CARRIED)
    for name in row:
        if name not in names:
            raise unknown_column(name, row, names)


def carried(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a preference row that the canonical table has under the same name.

    In CSV every cell is text: blank cells are nothing, a weight is a number, and `7.0` is the annotator `7`.

    Examples:
        >>> carried({"chosen": "a", "weight": "2", "time": "", "annotator": "7.0"})
        {'annotator': '7', 'weight': 2, 'time': None}
    """
    kept = {name: row[name] for name in CARRIED if name in row}
    for name, value in kept.items():
        if isinstance(value, str) and not value.strip():
            kept[name] = None
        elif name == "annotator" and isinstance(value, str):
            kept[name] = whole_text(value)
        elif name == "weight" and isinstance(value, str):
            number = exact_number(value)
            kept[name] = value if number is None else number  # the row's check refuses other text
    return kept


def read_table(
    path: Path,
    checker: RowChecker,
    tally: Tally | None = None,
    drop_columns: Collection[str] = (),
    names: Mapping[str, str | None] | None = None,
) -> Iterator[Block]:
    """Format `table`: rows that already have the canonical columns, in blocks.

    Args:
        path: any file that `read_blocks` reads.
        checker: the checker of the blocks.
        tally: counts rows, and values of dropped columns.
        drop_columns: columns that the user chose to leave out.
        names: new names of columns.
    """
    tally = Tally() if tally is None else tally
    blocks = read_blocks(path, None if drop_columns or names else checker)
    for block in track(blocks, f"Importing {path.name}", expected_rows(path), len):
        tally.rows += len(block)
        yield renamed(_dropped(block, drop_columns, tally) if drop_columns else block, names or {})


def _dropped(block: Block, drop_columns: Collection[str], tally: Tally) -> Block:
    if block.columns is not None:
        dropped = [name for name in block.columns.schema.names if name in drop_columns]
        tally.left_out.update({f"values of the dropped column '{name}'": len(block) for name in dropped})
        return block.mapped(lambda row: without(row, drop_columns, None), block.columns.drop_columns(dropped))
    return block_of(
        [
            (number, row if complaint else without(row, drop_columns, tally), complaint)
            for number, row, complaint in block.items(range(len(block)))
        ]
    )


def named_fields(given: Sequence[str], defaults: Mapping[str, str]) -> dict[str, str]:
    """The field names that a reader uses: the defaults, replaced by what the user gave as `KEY=NAME`.

    An empty name means that there is no such field. An unknown or repeated key raises a `PluralignError`.

    Examples:
        >>> named_fields(["prompt=query"], {"prompt": "prompt", "items": "items"})
        {'prompt': 'query', 'items': 'items'}
    """
    named: dict[str, str] = {}
    for text in given:
        key, equals, name = text.partition("=")
        if not equals or key not in defaults:
            known = ", ".join(f"{key}=NAME" for key in defaults)
            raise PluralignError(f"--field: found {one_line(text)}, expected {known}{nearest(key, defaults)}")
        if key in named:
            raise PluralignError(f"--field: '{key}' is given twice: as '{named[key]}' and as '{name}'")
        named[key] = name
    return {**defaults, **named}


def names_in(text: str) -> list[str]:
    """The names in a list separated by commas.

    Examples:
        >>> names_in("good, bad"), names_in("")
        (['good', 'bad'], [])
    """
    return [name.strip() for name in text.split(",") if name.strip()]


def field_value(data: Mapping[str, Any], name: str, place: str, fix: str) -> Any:
    """The value of a field, not null; dots lead into nested values. `place` and `fix` are for the error message.

    Examples:
        >>> field_value({"query": {"text": "Tea?"}}, "query.text", "data.", "--field prompt=NAME")
        'Tea?'
    """
    try:
        value = Field(name).value(data, {})
    except RowError as complaint:
        raise RowError(f"{place}{name}", f"{complaint.message}: name the field with {fix}") from complaint
    if value is None:
        raise RowError(f"{place}{name}", f"is null, expected a value: name another field with {fix}")
    return value

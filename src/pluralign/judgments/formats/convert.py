"""What all formats share: rows of a file in, judgments out, and everything that gave none counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pluralign.core.errors import RowError, nearest
from pluralign.core.progress import track
from pluralign.judgments.rows import expected_rows, read_rows
from pluralign.judgments.schema import COLUMNS
from pluralign.judgments.validation import Reject

Rows = Iterator[tuple[int, dict[str, Any]]]
"""Judgments with the numbers of the source rows that they came from."""

Convert = Callable[[dict[str, Any]], Iterable[dict[str, Any] | RowError]]
"""One source row to its judgments. A `RowError` raised refuses the row, one among them its judgment only."""

CARRIED = ("id", "annotator", "source", "group", "weight", "time")
"""Columns of the canonical table that any preference row may have as well."""


@dataclass
class Tally:
    """Counts of one import: rows read, and what was left out, by reason."""

    rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def convert_rows(path: Path, convert: Convert, reject: Reject | None = None, tally: Tally | None = None) -> Rows:
    """Stream a file through `convert`, with a progress bar.

    Args:
        path: the file, anything that `read_rows` reads.
        convert: one source row to its judgments.
        reject: what to do with a bad row; `None` raises.
        tally: where rows are counted.

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
            found = list(convert(row))
        except RowError as complaint:
            refuse(number, row, complaint)
            continue
        for judgment in found:
            if isinstance(judgment, RowError):
                refuse(number, row, judgment)
            else:
                yield number, judgment


def without(row: Mapping[str, Any], drop_columns: Collection[str], tally: Tally | None) -> dict[str, Any]:
    """The row without the columns that the user chose to drop; how often each was there is counted.

    Examples:
        >>> without({"chosen": "a", "margin": 2}, ["margin"], None)
        {'chosen': 'a'}
    """
    if tally is not None:
        tally.left_out.update(f"values of the dropped column '{name}'" for name in row if name in drop_columns)
    return {name: value for name, value in row.items() if name not in drop_columns}


def check_known(row: Mapping[str, Any], known: Collection[str]) -> None:
    """Complain about the first column that neither the format nor the canonical table knows.

    Raises:
        RowError: names the column, the known ones and the mend.
    """
    names = (*known, *CARRIED)
    for name in row:
        if name not in names:
            raise RowError(
                None,
                f"unknown column '{name}'{nearest(str(name), names)}: known are {', '.join(names)}; to leave it "
                f"out on purpose say --drop-columns {name}",
            )


def carried(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a preference row that the canonical table has under the same name."""
    return {name: row[name] for name in CARRIED if name in row}


def read_table(
    path: Path, reject: Reject | None = None, tally: Tally | None = None, drop_columns: Collection[str] = ()
) -> Rows:
    """Format `table`: rows that already have the canonical columns; others are refused when they are checked."""

    def convert(row: dict[str, Any]) -> Iterable[dict[str, Any]]:
        row = without(row, drop_columns, tally)
        for name in row:
            if name not in COLUMNS:
                raise RowError(
                    None,
                    f"unknown column '{name}'{nearest(str(name), COLUMNS)}: the table has {', '.join(COLUMNS)}; "
                    f"leave it out with --drop-columns {name}, or describe the file with --format mapping",
                )
        return [row]

    return convert_rows(path, convert, reject, tally)

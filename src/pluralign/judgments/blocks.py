"""Validation of blocks of rows that were read as columns: the checks over columns, and the row checker for the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pluralign.core.errors import RowError
from pluralign.judgments.schema import schema
from pluralign.judgments.validation import Reject, RowChecker

Item = tuple[int, Any, RowError | None]
"""The number of a row (from 1), the row, and an error if it is malformed."""


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a file.

    Args:
        items: the rows at the given positions of the block, one by one.
        size: the number of rows.
        columns: the rows as columns, or `None` if their types do not allow it.
        doubtful: which of the rows must be taken from `items` nevertheless; `None` for none.
    """

    items: Callable[[Sequence[int]], Sequence[Item]]
    size: int
    columns: pa.RecordBatch | None = None
    doubtful: np.ndarray | None = None

    def __len__(self) -> int:
        return self.size

    def mapped(self, change: Callable[[Any], Any], columns: pa.RecordBatch | None) -> Block:
        """The block with each row changed, and the columns after this change; a `RowError` makes a row malformed."""

        def items(places: Sequence[int]) -> list[Item]:
            return [_changed(item, change) for item in self.items(places)]

        return Block(items, self.size, columns, self.doubtful)


def _changed(item: Item, change: Callable[[Any], Any]) -> Item:
    number, row, complaint = item
    try:
        return number, row if complaint else change(row), complaint
    except RowError as fault:
        return number, row, fault


def block_of(items: Sequence[Item]) -> Block:
    """A block of rows that are not columns."""
    return Block(lambda places: [items[place] for place in places], len(items))


def table_blocks(batches: Iterable[pa.RecordBatch]) -> Iterator[Block]:
    """Consecutive batches of a table as blocks."""
    start = 1
    for batch in batches:

        def items(places: Sequence[int], batch: pa.RecordBatch = batch, start: int = start) -> list[Item]:
            rows = batch.take(pa.array(places, pa.int64())).to_pylist()
            return [(start + place, row, None) for place, row in zip(places, rows, strict=True)]

        yield Block(items, batch.num_rows, batch)
        start += batch.num_rows


def checked_blocks(
    blocks: Iterable[Block], checker: RowChecker, place: str, reject: Reject | None = None
) -> Iterator[pa.RecordBatch]:
    """Validate blocks and yield them as record batches of the canonical schema.

    The result, the errors and their order are those of `checked_batches` over the rows. Arguments as there.

    Raises:
        PluralignError: the first bad row, if `reject` is `None`.
    """
    for block in blocks:
        batch, places, errors = _contents(block, checker)
        if batch is not None:
            batch, repeated = checker.identify(batch)
            errors |= {int(places[at]): complaint for at, complaint in repeated.items()}
            if repeated:
                batch = batch.take(pa.array([at for at in range(batch.num_rows) if at not in repeated], pa.int64()))
        bad = sorted(errors)
        for at, (number, row, _) in zip(bad, block.items(bad), strict=True):
            if reject is None:
                raise errors[at].at(place, number) from errors[at]
            reject(number, row, errors[at])
        if batch is not None and batch.num_rows:
            yield batch


def _contents(block: Block, checker: RowChecker) -> tuple[pa.RecordBatch | None, np.ndarray, dict[int, RowError]]:
    """The valid rows in canonical form with the ids that they came with, their places, and errors by place."""
    from pluralign.judgments.columns import canonical_columns  # slow to import, and sealed files do not need it

    found = None if block.columns is None else canonical_columns(block.columns, checker.scale)
    parts, places = [], []
    doubtful = np.arange(block.size)
    if found is not None and checker.form in (None, found[0]):
        form, batch, good = found
        good = good if block.doubtful is None else good & ~block.doubtful
        checker.form = form if good.any() else checker.form
        parts, places, doubtful = [batch.filter(pa.array(good))], [np.flatnonzero(good)], np.flatnonzero(~good)
    errors: dict[int, RowError] = {}
    rows, kept = [], []
    for at, (_, row, malformed) in zip(doubtful.tolist(), block.items(doubtful.tolist()), strict=True):
        try:
            if malformed is not None:
                raise malformed
            rows.append(checker.content(row))
            kept.append(at)
        except RowError as complaint:
            errors[at] = complaint
    if rows:
        parts.append(pa.RecordBatch.from_pylist(rows, schema=schema(checker.form or "text", checker.scale)))
        places.append(np.array(kept))
    if not parts:
        return None, np.zeros(0, np.int64), errors
    order = np.concatenate(places)
    whole = parts[0] if len(parts) == 1 else pa.concat_batches(parts).take(pa.array(np.argsort(order)))
    return whole, np.sort(order), errors

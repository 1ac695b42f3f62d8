"""Mappings over whole columns: what a mapping makes of a row is computed once for each different combination of values.

This covers mappings that make one judgment of a row from columns of text or whole numbers, without joined tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pluralign.core.errors import RowError
from pluralign.judgments.columns import Unfit, is_text, with_lengths
from pluralign.judgments.formats.templates import Field, Template


class Mapped(NamedTuple):
    """The judgments of a batch: a row each, in order, without the rows that give none."""

    places: np.ndarray  # the rows of the batch that the judgments come from
    columns: pa.RecordBatch
    doubtful: np.ndarray  # which judgments the mapping of single rows must make, for their errors


def mapped_columns(
    batch: pa.RecordBatch,
    columns: Mapping[str, Template],
    responses: Sequence[Template],
    values: Sequence[Template],
    outcome: Callable[[list[Any], int], dict[str, Any] | None],
    value_of: Callable[[str, Any], Any],
) -> Mapped:
    """Apply a mapping to a batch.

    Args:
        batch: the source rows.
        columns: templates of the columns of the table.
        responses: a template per response.
        values: templates of the values that give the outcome.
        outcome: from these values and the number of responses to `ranks` or `labels`, or `None`.
        value_of: the name of a column and the value of its template to the value in the table.

    Raises:
        Unfit: a template needs a type, a nested value or a join that is read row by row.
    """
    doubtful = np.zeros(batch.num_rows, dtype=bool)

    def computed(arrays: Sequence[pa.Array], function: Callable[..., Any]) -> tuple[list[Any], np.ndarray]:
        """The results for the different combinations of values, and the result of each row."""
        combinations, codes = _combinations(arrays, batch.num_rows)
        results, wrong = [], []
        for combination in combinations:
            try:
                results.append(function(*combination))
                wrong.append(False)
            except (RowError, OverflowError):
                results.append(None)
                wrong.append(True)
        doubtful[:] |= np.array(wrong, dtype=bool)[codes]
        return results, codes

    def text(template: Template) -> pa.Array:
        fields = [part for part in template.parts if isinstance(part, Field)]
        arrays = [_column(batch, field) for field in fields]
        if len(template.parts) == 1 and fields:
            return arrays[0]
        names = [field.column for field in fields]
        results, codes = computed(arrays, lambda *given: template.render(dict(zip(names, given, strict=True)), {}))
        return pa.array(results, pa.string()).take(pa.array(codes))

    made: dict[str, pa.Array] = {}
    for name, template in columns.items():
        made[name] = text(template)
        if name != "prompt":
            results, codes = computed([made[name]], lambda value, name=name: value_of(name, value))
            kind = pa.float64() if name in ("weight", "strength") else pa.string()
            made[name] = pa.array(results, kind).take(pa.array(codes))
    shown = [text(template) for template in responses]
    if not all(is_text(array.type) for array in [*shown, made.get("prompt", shown[0])]):
        raise Unfit
    for array in [*shown, made.get("prompt", shown[0])]:
        if pc.any(pc.starts_with(pc.utf8_ltrim_whitespace(array.cast(pa.string())), "[")).as_py():
            raise Unfit  # chats as JSON text
    order = np.arange(batch.num_rows * len(shown)).reshape(len(shown), -1).T.reshape(-1)
    flat = pa.concat_arrays([array.cast(pa.string()) for array in shown]).take(pa.array(order))
    made["responses"] = with_lengths(flat, np.full(batch.num_rows, len(shown)))
    elsewhere, doubtful = doubtful, np.zeros(batch.num_rows, dtype=bool)
    results, codes = computed([text(template) for template in values], lambda *given: outcome(list(given), len(shown)))
    cast = np.array([result is not None for result in results], dtype=bool)[codes] | doubtful
    doubtful |= elsewhere
    for name, kind in (("ranks", int), ("labels", str)):
        lists = [None if result is None else result.get(name) for result in results]
        plain = [each is None or all(one is None or type(one) is kind for one in each) for each in lists]
        doubtful[~np.array(plain, dtype=bool)[codes]] = True
        kept = [each if fits else None for each, fits in zip(lists, plain, strict=True)]
        made[name] = pa.array(kept, pa.list_(pa.int64() if kind is int else pa.string())).take(pa.array(codes))
    places = np.flatnonzero(cast)
    whole = pa.RecordBatch.from_pydict(made)
    return Mapped(places, whole if cast.all() else whole.take(pa.array(places)), doubtful[places])


def _column(batch: pa.RecordBatch, field: Field) -> pa.Array:
    if field.table is not None or field.column not in batch.schema.names:
        raise Unfit
    column = batch.column(field.column)
    if not (is_text(column.type) or pa.types.is_integer(column.type)):
        raise Unfit
    return column


def _combinations(arrays: Sequence[pa.Array], rows: int) -> tuple[list[tuple[Any, ...]], np.ndarray]:
    """The different combinations of the values in a row, and the combination of each row."""
    codes = np.zeros(rows, dtype=np.int64)
    combinations: list[tuple[Any, ...]] = [()]
    for array in arrays:
        encoded = array.dictionary_encode()
        values = [*encoded.dictionary.to_pylist(), None]
        codes = codes * len(values) + encoded.indices.fill_null(len(values) - 1).to_numpy()
        kept, codes = np.unique(codes, return_inverse=True)
        combinations = [(*combinations[code // len(values)], values[code % len(values)]) for code in kept.tolist()]
    return combinations, codes

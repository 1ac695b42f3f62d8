"""Join tables of judgments into one in which every row names its source."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from pluralign.core.errors import PluralignError
from pluralign.judgments.table import Judgments


def join_sources(tables: Mapping[str, Judgments]) -> Judgments:
    """Join tables; a row without a `source` gets the name of its table.

    Ids are kept. If tables share ids, every id gets the name of its table as a prefix.

    Raises:
        PluralignError: there is no table, or two do not fit together (text and messages, different label scales).

    Examples:
        >>> tea = Judgments.from_rows([{"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, 2]}])
        >>> named = Judgments.from_rows(
        ...     [{"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [2, 1], "source": "web"}])
        >>> join_sources({"club": tea, "other": named}).column("source")
        ['club', 'web']
    """
    if not tables:
        raise PluralignError("no table was given to join")
    first_name, first = next(iter(tables.items()))
    ids = pa.chunked_array([chunk for part in tables.values() for chunk in part.table.column("id").chunks])
    shared = pc.count_distinct(ids).as_py() < len(ids)
    parts = []
    for name, judgments in tables.items():
        schema = judgments.table.schema
        if not schema.equals(first.table.schema, check_metadata=True):
            raise PluralignError(
                f"{name}: does not fit {first_name}: one has text and the other messages, or their label scales "
                "differ; give tables of one form and one scale"
            )
        place = schema.get_field_index("source")
        filled = pc.fill_null(judgments.table.column("source"), pa.scalar(name, schema.field(place).type))
        part = judgments.table.set_column(place, schema.field(place), filled)
        if shared:
            place = schema.get_field_index("id")
            named = pc.binary_join_element_wise(pa.scalar(name), part.column("id"), "/")
            part = part.set_column(place, schema.field(place), named)
        parts.append(part)
    return Judgments(pa.concat_tables(parts))

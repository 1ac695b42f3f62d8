"""What judgments are read from: files, data sets of the hub, and tables and rows in memory, as blocks of rows."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pluralign.core.errors import PluralignError, RowError, one_line
from pluralign.core.fingerprint import fingerprint
from pluralign.judgments.blocks import Block, block_of, table_blocks
from pluralign.judgments.hub import load_split
from pluralign.judgments.messages import PLAIN_KEYS
from pluralign.judgments.paths import files_of, is_hub
from pluralign.judgments.rows import read_rows
from pluralign.judgments.rows.opening import BLOCK_ROWS
from pluralign.judgments.table import Judgments

Files = str | os.PathLike[str] | Judgments | Iterable[Any]
"""What judgments are read from: paths of files and folders, patterns of paths, `hf:owner/name:split`, a
`datasets.Dataset`, a pandas or polars frame, a pyarrow table, a list of row dictionaries, `Judgments`, or a list of
several of them."""

KINDS = (
    "a file, a folder, hf:owner/name:split, a datasets.Dataset, a pandas or polars frame, a pyarrow table, a list of "
    "row dictionaries, or Judgments"
)
"""What can be read, for messages."""


@dataclass(frozen=True)
class InputRows:
    """Rows in memory or of the hub.

    Args:
        name: what errors call them.
        load: gives them as a table or one by one; called once, when they are first needed.
    """

    name: str
    load: Callable[[], pa.Table | Sequence[Any]]

    def __str__(self) -> str:
        return self.name

    @cached_property
    def content(self) -> pa.Table | Sequence[Any]:
        """The rows."""
        content = self.load()
        names = content.column_names if isinstance(content, pa.Table) else ()
        if twice := [name for name in names if names.count(name) > 1]:
            raise PluralignError(f"{self.name}: the column '{twice[0]}' appears twice: rename one of them")
        if not len(content):
            raise PluralignError(f"{self.name}: there are no rows")
        return content

    def blocks(self) -> Iterator[Block]:
        """The rows in blocks, as columns if they are a table."""
        content = self.content
        if isinstance(content, pa.Table):
            yield from table_blocks(content.to_batches(max_chunksize=BLOCK_ROWS))
            return
        for start in range(0, len(content), BLOCK_ROWS):
            rows = enumerate(content[start : start + BLOCK_ROWS], start=start + 1)
            yield block_of([(number, row, _complaint(row)) for number, row in rows])

    def fingerprint(self) -> str:
        """A fingerprint of the names and values of all rows."""
        return fingerprint(*(json.dumps(row, default=str, skipkeys=True).encode() for row in rows_of(self)))


def rows_of(source: Path | InputRows) -> Iterator[Any]:
    """The rows of a source one by one, as they are.

    Raises:
        PluralignError: a file cannot be read, or a row of it is malformed.
    """
    if isinstance(source, Path):
        yield from (row for _, row in read_rows(source))
        return
    for block in source.blocks():
        yield from (row for _, row, _ in block.items(range(len(block))))


def _complaint(row: Any) -> RowError | None:
    return None if isinstance(row, Mapping) else RowError(None, f"found {one_line(row)}, expected a dictionary")


def inputs_of(files: Files | InputRows) -> Sequence[Path | InputRows]:
    """Everything that `Files` stands for, as files and rows; nothing is loaded yet.

    Raises:
        PluralignError: it is of another kind, or there is nothing.

    Examples:
        >>> inputs_of("votes.parquet"), inputs_of([{"prompt": "Tea?"}])[0].name
        ([PosixPath('votes.parquet')], 'the list')
    """
    if (own := _inputs(files)) is not None:
        return own
    if isinstance(files, Mapping) or not isinstance(files, Iterable):
        raise _refused(files)
    items = list(files)
    if not items:
        raise PluralignError("no file was given to read")
    if isinstance(items[0], Mapping):
        return [InputRows("the list", lambda: items)]
    if not isinstance(files, Sequence | Set | Iterator):  # a column of a frame
        raise _refused(files)
    inputs: list[Path | InputRows] = []
    for number, item in enumerate(items, start=1):
        if (own := _inputs(item, f" {number}" if len(items) > 1 else "")) is None:
            raise _refused(item)
        if isinstance(own[0], InputRows) and own[0].name in map(str, inputs):
            raise PluralignError(f"{own[0].name}: is given twice: give it once")
        inputs += own
    return inputs


def _inputs(value: Any, number: str = "") -> Sequence[Path | InputRows] | None:
    """One file, table or data set, or a folder's files; `None` for a list, and for what cannot be read."""
    if isinstance(value, InputRows):
        return [value]
    if isinstance(value, str | os.PathLike):
        name = os.fspath(value)
        return [InputRows(name, lambda: _from_dataset(load_split(name)))] if is_hub(name) else files_of(name)
    for kind in type(value).__mro__:  # by name, so that none of these libraries is imported
        noun, convert = _TABLES.get(f"{kind.__module__.partition('.')[0]}.{kind.__name__}", ("", None))
        if convert is not None:
            return [InputRows(f"{noun}{number}" if number else f"the {noun}", partial(convert, value))]
    return None


def _refused(value: Any) -> PluralignError:
    name = type(value).__name__
    if name in ("DatasetDict", "IterableDatasetDict"):
        splits = ", ".join(value)
        return PluralignError(
            f"found a {name} with the splits {splits}: give one, like data['{next(iter(value), '')}']"
        )
    return PluralignError(f"found an object of type {name}, expected {KINDS}")


def _from_dataset(data: Any) -> pa.Table | Sequence[Any]:
    table = data.with_format("arrow", columns=data.format["columns"])[:]
    # Values of a type of its own, such as JSON, are decoded row by row.
    return table if all(_is_stored(kind) for kind in table.schema.types) else list(data.with_format(None))


def _is_stored(kind: pa.DataType) -> bool:
    """Whether a type is Arrow's own at all depths."""
    inner = [kind.field(at).type for at in range(kind.num_fields)] if pa.types.is_nested(kind) else []
    return not isinstance(kind, pa.BaseExtensionType) and all(map(_is_stored, inner))


def _from_pandas(frame: Any) -> pa.Table | Sequence[Any]:
    """A pandas frame; NaN, NaT and NA are nothing, also inside lists."""
    names = [str(name) for name in frame.columns]
    if twice := [name for name in names if names.count(name) > 1]:
        raise PluralignError(f"the frame: the column '{twice[0]}' appears twice: rename one of them")
    try:
        table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):  # a column with values of several types
        table = None
    if table is not None and all(_is_uniform(kind) for kind in table.schema.types):
        return table
    cells = frame.astype(object).where(frame.notna(), None).itertuples(index=False, name=None)
    return [dict(zip(names, map(_python, row), strict=True)) for row in cells]


def _is_uniform(kind: pa.DataType) -> bool:
    """Whether dictionaries in a column are plain messages: Arrow gives those with other keys the keys of all."""
    if pa.types.is_struct(kind):
        return {field.name for field in kind} == set(PLAIN_KEYS)
    return not pa.types.is_nested(kind) or pa.types.is_dictionary(kind) or _is_uniform(kind.value_type)


def _python(value: Any) -> Any:
    """A cell as plain Python values, with NaN as nothing."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_python(each) for each in value]
    if isinstance(value, dict):
        return {key: _python(each) for key, each in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _from_polars(frame: Any) -> pa.Table | Sequence[Any]:
    objects = any(str(kind) == "Object" for kind in frame.dtypes)  # Arrow would get their addresses
    return frame.to_dicts() if objects else frame.to_arrow()


_TABLES: dict[str, tuple[str, Callable[[Any], pa.Table | Sequence[Any]]]] = {
    "pandas.DataFrame": ("frame", _from_pandas),
    "polars.DataFrame": ("frame", _from_polars),
    "polars.LazyFrame": ("frame", lambda frame: _from_polars(frame.collect())),
    "datasets.Dataset": ("dataset", _from_dataset),
    "datasets.IterableDataset": ("dataset", list),
    "pyarrow.Table": ("table", lambda table: table),
    "pyarrow.RecordBatch": ("table", lambda batch: pa.Table.from_batches([batch])),
    "pluralign.Judgments": ("judgments", lambda judgments: judgments.table),
}
"""What each kind of table is called, and how its rows are read, by library and class."""

"""Side tables: numbers about responses and about annotators, read, checked and aligned with a panel."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pluralign.core.errors import PluralignError, RowError, nearest, one_line
from pluralign.core.fingerprint import fingerprint
from pluralign.core.numbers import finite_float
from pluralign.judgments.messages import plain_text
from pluralign.judgments.rows import read_rows
from pluralign.scoring.panels import People

Source = str | os.PathLike[str] | Any
"""A file, or a table in memory: pyarrow, pandas, or anything else that `pyarrow.table` takes."""

PRIOR = 3.0
"""Standard deviation of a response's utility under the prior, in logits. It is wider than that of text features:
attributes are few and chosen, and estimates should be close to maximum likelihood."""

CONSTANT = "constant"
"""Name of the covariate that is added to those of a table."""

BAR = "bar"
"""Name of the coefficient of the middle of the label scale."""


@dataclass(frozen=True)
class SideTable:
    """Numbers by key.

    Args:
        name: the file, for errors.
        keys: the key columns.
        names: the other columns, which are all numeric.
        place: the row of `values` for each key; a key is the text in each key column.
        values: `(rows, columns)`.
    """

    name: str
    keys: tuple[str, ...]
    names: list[str]
    place: dict[tuple[str, ...], int]
    values: np.ndarray

    def fingerprint(self) -> str:
        """Hash of the keys and the numbers."""
        return fingerprint(self.keys, self.names, list(self.place), self.values.tolist())

    def rows_of(self, keys: Sequence[tuple[str, ...]]) -> np.ndarray:
        """The numbers of some keys `(keys, columns)`.

        Raises:
            PluralignError: a key is missing; says how many are, and which is the first.
        """
        missing = [key for key in dict.fromkeys(keys) if key not in self.place]
        if missing:
            first = ", ".join(f"{name} {one_line(part)}" for name, part in zip(self.keys, missing[0], strict=True))
            raise PluralignError(
                f"{self.name}: lacks {len(missing)} of the {len(set(keys))} {self.keys[0]}s that were judged; "
                f"the first is {first}"
            )
        return np.asarray(self.values[[self.place[key] for key in keys]])


@dataclass(frozen=True)
class Columns:
    """Columns that were scaled to mean 0 and standard deviation 1, and how to undo it.

    Args:
        names: of the columns.
        mean: `(columns,)`.
        spread: `(columns,)` standard deviations.
    """

    names: list[str]
    mean: np.ndarray
    spread: np.ndarray

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """Values `(rows, columns)` with mean 0 and standard deviation 1."""
        return np.asarray((values - self.mean) / self.spread)


def response_table(source: Source) -> SideTable:
    """Read attributes of responses, keyed by `response` and, where there is such a column, `prompt`.

    Args:
        source: a CSV, Parquet or JSON Lines file, or a table in memory.

    Raises:
        PluralignError: the source cannot be read, lacks the key, holds text, or has two rows for one key.

    Examples:
        >>> response_table({"response": ["bus", "car"], "minutes": [30, 20]}).values.tolist()
        [[30.0], [20.0]]
    """
    return _side_table(source, "response", "prompt", "response_features")


def annotator_table(source: Source) -> SideTable:
    """Read covariates of annotators, keyed by `annotator`. Arguments and errors are those of `response_table`.

    Examples:
        >>> annotator_table({"annotator": ["ann", "bob"], "age": [31, 58]}).names
        ['age']
    """
    return _side_table(source, "annotator", None, "annotator_features")


def with_attributes(people: People, table: SideTable) -> tuple[People, float, Columns]:
    """The panel with attributes of responses as features.

    Features are scaled to mean 0 and standard deviation 1. In tables of labels, the bar has a coefficient of its own.

    Returns:
        The panel, the ridge that gives utilities the standard deviation `PRIOR`, and the columns.

    Raises:
        PluralignError: a response is missing, or an attribute is the same for all responses.
    """
    items = people.items
    responses = [plain_text(response) for response in items.responses]
    keys: list[tuple[str, ...]] = [(response,) for response in responses]
    if len(table.keys) > 1:
        prompts = [plain_text(prompt) for prompt in items.prompts]
        keys = [(text, prompts[item]) for text, item in zip(responses, items.item.tolist(), strict=True)]
    values = table.rows_of(keys)
    columns = _columns(table, values)
    return people.with_features(columns.scaled(values)), len(columns.names) / PRIOR**2, columns


def with_covariates(people: People, table: SideTable) -> tuple[People, Columns]:
    """The panel with covariates of annotators, on which membership in the types depends; a constant comes first.

    Raises:
        PluralignError: judgments have no annotator, an annotator is missing, or the columns depend on each other.
    """
    names = [name for name in people.names if name is not None]
    if len(names) < len(people.names):
        raise PluralignError(
            f"{table.name}: needs the annotator of every judgment, but {len(people.names) - len(names)} judgments have "
            "no annotator: remove them, or name their annotators"
        )
    values = table.rows_of([(name,) for name in names])
    columns = _columns(table, values)
    covariates = np.concatenate((np.ones((len(names), 1)), columns.scaled(values)), 1)
    if np.linalg.matrix_rank(covariates) < covariates.shape[1]:
        raise PluralignError(
            f"{table.name}: the columns {', '.join(table.names)} and the constant, which is added, depend linearly on "
            "each other: leave out one column of each set of categories, and columns that are sums of others"
        )
    return replace(people, panel=replace(people.panel, covariates=covariates)), columns


def estimator_settings(
    columns: Columns | None, shared: Sequence[str], *, noise: bool, bars: bool, types: str | int
) -> dict[str, Any]:
    """Settings of `LatentClassPlackettLuce` for shared coefficients and a type that ranks at random.

    Args:
        columns: the attributes of responses; `None` if the features have no names.
        shared: names of the attributes whose coefficient is the same for all types.
        noise: whether the last type ranks at random.
        bars: whether the panel has bars, with a coefficient of their own.
        types: the number of types, or `auto`.

    Raises:
        PluralignError: an attribute is unknown, or the types could not differ.

    Examples:
        >>> columns = Columns(["minutes", "price"], np.zeros(2), np.ones(2))
        >>> estimator_settings(columns, ["price"], noise=True, bars=False, types="auto")
        {'shared': [1], 'noise': True}
    """
    settings: dict[str, Any] = {}
    if shared:
        if columns is None:
            raise PluralignError("shared: names attributes of responses, so it needs response features")
        names = [*columns.names, BAR] if bars else columns.names
        for name in shared:
            if name not in names:
                known = f"expected one of {', '.join(names)}"
                raise PluralignError(f"shared: found {name!r}, {known}{nearest(name, names)}")
        settings["shared"] = sorted({names.index(name) for name in shared})
        if len(settings["shared"]) == len(names) and not noise:
            raise PluralignError("shared: all coefficients are shared, so types could not differ: leave one free")
    if noise:
        if str(types) == "1":
            raise PluralignError("noise_type: needs 2 types or more, of which the last ranks at random; found 1")
        settings["noise"] = True
    return settings


def _side_table(source: Source, key: str, second_key: str | None, argument: str) -> SideTable:
    name, rows = _rows(source, argument)
    keys: tuple[str, ...] = (key,)
    names: list[str] = []
    place: dict[tuple[str, ...], int] = {}
    values: list[list[float]] = []
    for number, row in rows:
        try:
            if not names:
                keys = (key, second_key) if second_key is not None and second_key in row else (key,)
                names = _numeric_names(row, keys)
            if unknown := [column for column in row if column not in names and column not in keys]:
                raise RowError(unknown[0], "the first row lacks this column: give all rows the same columns")
            own = tuple(_key(row.get(column), column) for column in keys)
            numbers = [_number(row.get(column), column) for column in names]
        except RowError as fault:
            raise fault.at(name, number) from None
        if own not in place:
            place[own] = len(values)
            values.append(numbers)
        elif values[place[own]] != numbers:
            hint = f": add the column '{second_key}'" if second_key is not None and len(keys) == 1 else ""
            raise PluralignError(f"{name}, row {number}: {key} {one_line(own[0])} has two rows that differ{hint}")
    if not values:
        raise PluralignError(f"{name}: the table has no rows")
    return SideTable(name, keys, names, place, np.array(values))


def _rows(source: Source, argument: str) -> tuple[str, Iterable[tuple[int, dict[str, Any]]]]:
    """The name of a source, and its numbered rows."""
    if isinstance(source, str | os.PathLike):
        return str(source), read_rows(Path(source))
    try:
        table = pa.table(source)
    except (TypeError, ValueError, pa.ArrowException) as fault:
        kind = type(source).__name__
        raise PluralignError(f"{argument}: found {kind}, expected a file, or a pyarrow or pandas table") from fault
    return argument, enumerate(table.to_pylist(), start=1)


def _numeric_names(row: dict[str, Any], keys: Sequence[str]) -> list[str]:
    for key in keys:
        if key not in row:
            raise RowError(None, f"found the columns {', '.join(row)}, expected a column '{key}'{nearest(key, row)}")
    names = [name for name in row if name not in keys]
    if not names:
        raise RowError(None, f"found only the column {', '.join(keys)}, expected numeric columns, too")
    return names


def _key(value: Any, column: str) -> str:
    """A key as text: messages as their contents, whole numbers by their digits."""
    if isinstance(value, float) and value.is_integer():  # pandas turns whole numbers beside gaps into floats
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    messages = isinstance(value, list) and all(isinstance(each, dict) and "content" in each for each in value)
    if not (isinstance(value, str) or messages) or (column == "annotator" and not value):
        raise RowError(column, f"found {one_line(value)}, expected text")
    return plain_text(value)


def _number(value: Any, column: str) -> float:
    if value is None or value == "":
        raise RowError(column, "found no value, expected a number: fill in what is missing, or remove the column")
    number = float(value) if isinstance(value, bool) else finite_float(value)
    if number is None:
        raise RowError(column, f"found {one_line(value)}, expected a number: code categories as 0 and 1, or remove it")
    return number


def _columns(table: SideTable, values: np.ndarray) -> Columns:
    """Means and standard deviations over what was judged."""
    mean, spread = values.mean(0), values.std(0)
    constant = [name for name, low, high in zip(table.names, values.min(0), values.max(0), strict=True) if low == high]
    if constant:
        raise PluralignError(f"{table.name}: column '{constant[0]}' has the same value in all rows used: remove it")
    return Columns(table.names, mean, spread)

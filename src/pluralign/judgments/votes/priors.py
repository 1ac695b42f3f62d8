"""Priors of items: a side table with a row per item and a share for each label."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pluralign.core.errors import RowError, one_line
from pluralign.core.fingerprint import fingerprint
from pluralign.core.numbers import finite_float
from pluralign.judgments.rows import read_rows
from pluralign.judgments.scales import LabelScale
from pluralign.judgments.schema import Form
from pluralign.judgments.votes.state import Kind, item_key, item_keys, text_key

PriorRows = str | os.PathLike[str] | Iterable[Mapping[str, Any]]
"""A table of priors: a file, or rows with `prompt`, `response` (for pairs also `other`) and a share per label."""


@dataclass(frozen=True)
class Priors:
    """Prior shares by item."""

    prompt: list[Any]  # `(items,)`
    response: list[Any]  # `(items,)`; for pairs, A
    other: list[Any]  # `(items,)` B of each pair; empty for labels
    shares: np.ndarray  # q `(items, labels)`, each row sums to 1

    @property
    def fingerprint(self) -> str:
        """A fingerprint of the content that does not depend on the order of the rows."""
        keys = item_keys(self.prompt, self.response, self.other)
        return fingerprint(sorted(zip(keys, self.shares.tolist(), strict=True)))


def read_priors(given: PriorRows, kind: Kind, form: Form, scale: LabelScale) -> Priors:
    """Read a table of priors.

    Args:
        given: a file (Parquet, JSON Lines, JSON, CSV or TSV), or rows. Other columns are ignored.
        kind: for `pairs`, the columns are `prompt`, `response` (A), `other` (B), and the shares `A` and `B`.
        form: the form of the texts.
        scale: a column for each of its labels is read: numbers, 0 or more, scaled to sum to 1.

    Raises:
        PluralignError: names the row and the column.

    Examples:
        >>> scale = LabelScale("mood", ("good", "bad"), (1.0, -1.0))
        >>> rows = [{"prompt": "Tea?", "response": "Yes", "good": 3, "bad": 1}]
        >>> read_priors(rows, "labels", "text", scale).shares.tolist()
        [[0.75, 0.25]]
    """
    numbered: Iterable[tuple[int, Mapping[str, Any]]]
    if isinstance(given, str | os.PathLike):
        place, numbered = str(given), read_rows(Path(given))
    else:
        place, numbered = "prior", enumerate(given, start=1)
    columns = ("prompt", "response") if kind == "labels" else ("prompt", "response", "other")
    rows: dict[tuple[str, ...], tuple[list[Any], list[float]]] = {}
    for number, row in numbered:
        try:
            texts = [_text(row, column, form) for column in columns]
            shares = _shares(row, scale)
            if kind == "pairs" and text_key(texts[1]) > text_key(texts[2]):
                texts[1:], shares = texts[:0:-1], shares[::-1]
            key = item_key(*texts)
            if key in rows:
                raise RowError("response", "the item appears twice: keep one of its rows")
            if kind == "pairs" and key[1] == key[2]:
                raise RowError("other", "is the same as the response: a pair needs two different responses")
        except RowError as complaint:
            raise complaint.at(place, number) from complaint
        rows[key] = (texts, shares)
    return Priors(
        prompt=[texts[0] for texts, _ in rows.values()],
        response=[texts[1] for texts, _ in rows.values()],
        other=[texts[2] for texts, _ in rows.values()] if kind == "pairs" else [],
        shares=np.array([shares for _, shares in rows.values()]).reshape(len(rows), len(scale.labels)),
    )


def _text(row: Mapping[str, Any], column: str, form: Form) -> Any:
    value = row.get(column)
    if not isinstance(value, str if form == "text" else list):
        raise RowError(column, f"found {one_line(value)}, expected {form}, as in the judgments")
    return value


def _shares(row: Mapping[str, Any], scale: LabelScale) -> list[float]:
    shares = []
    for label in scale.labels:
        if label not in row:
            raise RowError(label, f"is missing: give one column per label ({', '.join(scale.labels)})")
        share = finite_float(row[label])
        if share is None or share < 0:
            raise RowError(label, f"found {one_line(row[label])}, expected a number, 0 or more")
        shares.append(share)
    most = max(shares)
    if most <= 0:
        raise RowError(scale.labels[0], "all labels have 0: expected a share above 0 for one of them")
    shares = [share / most for share in shares]  # first, so that the sum cannot overflow
    return [share / sum(shares) for share in shares]

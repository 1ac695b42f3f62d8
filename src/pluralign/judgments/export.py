"""Export to TRL's preference rows, saying what they cannot carry."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from pluralign.core.errors import PluralignError
from pluralign.judgments.table import Judgments, table_writer

NOT_CARRIED = ("annotator", "source", "group", "time")


@dataclass(frozen=True)
class Exported:
    """What came of an export.

    Args:
        out: the file written.
        rows: its preference rows.
        lost: what could not be carried, by kind.
    """

    out: Path
    rows: int
    lost: Counter[str]

    def summary(self) -> list[str]:
        """What happened, one line each."""
        lines = [f"{self.rows} preference rows; written to {self.out}"]
        return lines + [f"not carried: {count} {what}" for what, count in self.lost.items() if count]


def preference_rows(judgments: Judgments, lost: Counter[str] | None = None) -> Iterator[dict[str, Any]]:
    """Every strict pair of every ranking as `prompt`, `chosen`, `rejected`.

    Args:
        judgments: the table.
        lost: counts what the rows cannot carry: ties, pairs of unranked responses, labels, weights, and the
            columns about who, where and when.

    Examples:
        >>> rows = [{"prompt": "Tea?", "responses": ["Yes", "Later", "No"], "ranks": [1, 2, 2]}]
        >>> lost = Counter()
        >>> [(row["chosen"], row["rejected"]) for row in preference_rows(Judgments.from_rows(rows), lost)]
        [('Yes', 'Later'), ('Yes', 'No')]
        >>> lost["tied pairs"]
        1
    """
    lost = Counter() if lost is None else lost
    for row in judgments.rows():
        for column in NOT_CARRIED:
            lost[f"values of '{column}'"] += row[column] is not None
        lost["weights other than 1"] += row["weight"] != 1.0
        lost["rows of labels"] += row["labels"] is not None
        ranks = row["ranks"] or [None] * len(row["responses"])
        for better, high in enumerate(ranks):
            for worse, low in enumerate(ranks):
                if high is not None and (low is None or high < low):
                    chosen, rejected = row["responses"][better], row["responses"][worse]
                    yield {"prompt": row["prompt"], "chosen": chosen, "rejected": rejected}
                elif better < worse and high == low and row["ranks"] is not None:
                    lost["tied pairs" if high is not None else "pairs of unranked responses"] += 1


def write_trl(judgments: Judgments, out: str | os.PathLike[str]) -> Exported:
    """Write preference rows to Parquet or JSON Lines, streaming and atomically.

    Raises:
        PluralignError: there is no strict pair, or the disk refuses.
    """
    text = judgments.table.schema.field("prompt").type
    lost: Counter[str] = Counter()
    rows, count = preference_rows(judgments, lost), 0
    columns = pa.schema([(name, text) for name in ("prompt", "chosen", "rejected")])
    with contextlib.ExitStack() as stack:
        write: Callable[[pa.RecordBatch], None] | None = None
        while batch := list(islice(rows, 4096)):
            write = write or stack.enter_context(table_writer(out, columns))
            write(pa.RecordBatch.from_pylist(batch, schema=columns))
            count += len(batch)
        if not count:
            raise PluralignError("no preference row is left: no ranking holds a strict pair")
    return Exported(Path(out), count, lost)

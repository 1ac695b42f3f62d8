"""The canonical table: one row is one annotator's judgment of the responses to one prompt."""

from __future__ import annotations

import contextlib
import datetime
import gzip
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from pluralign.core.errors import PluralignError
from pluralign.core.files import atomic_write, output_file
from pluralign.core.fingerprint import fingerprint
from pluralign.judgments.messages import python_rows, python_values
from pluralign.judgments.paths import TABLE_ENDINGS
from pluralign.judgments.scales import LabelScale
from pluralign.judgments.schema import Form, is_canonical, ranks_from_scores, scale_of, schema
from pluralign.judgments.seals import ParquetWriter
from pluralign.judgments.validation import RowChecker, checked_batches


@dataclass(frozen=True, repr=False)
class Judgments:
    """A validated table of judgments. Rows never change; selections share the same memory.

    Args:
        table: the Arrow table, in `schema`; `read` and `Judgments.from_rows` create it.

    Examples:
        >>> judgments = Judgments.from_rows([{"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, 2]}])
        >>> len(judgments), judgments.form, judgments.row(0)["responses"]
        (1, 'text', ['Yes', 'No'])
    """

    table: pa.Table

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]], label_scale: LabelScale | None = None) -> Judgments:
        """Validate rows held in memory.

        Raises:
            PluralignError: a row is not a judgment (names its number), or there is no row.
        """
        return cls.from_numbered(enumerate(rows, start=1), label_scale)

    @classmethod
    def from_numbered(
        cls, rows: Iterable[tuple[int, Mapping[str, Any]]], label_scale: LabelScale | None = None
    ) -> Judgments:
        """Validate a stream of rows that carry their numbers; otherwise as `from_rows`."""
        batches = list(checked_batches(rows, RowChecker(label_scale), place="rows"))
        if not batches:
            raise PluralignError("rows: there is no judgment among them")
        return cls(pa.Table.from_batches(batches))

    def __len__(self) -> int:
        return self.table.num_rows

    def __repr__(self) -> str:
        people = len(self.table.column("annotator").unique().drop_null())
        return f"<Judgments: {len(self)} by {people} annotator{'s' * (people != 1)}>"

    def _repr_html_(self) -> str:
        """The first rows, for notebooks."""
        return f"<p>{escape(repr(self))}</p>{self.table.slice(0, 5).to_pandas().to_html(index=False)}"

    @property
    def form(self) -> Form:
        """`"text"` or `"messages"`: the form of prompts and responses."""
        return "text" if self.table.schema.field("prompt").type == pa.string() else "messages"

    @cached_property
    def label_scale(self) -> LabelScale | None:
        """The scale of the `labels` column, or `None` if the table has no labels."""
        return scale_of(self.table.schema)

    def column(self, name: str) -> list[Any]:
        """One column as Python values."""
        return python_values(self.table.column(name))

    def row(self, index: int) -> dict[str, Any]:
        """One row as Python values."""
        return python_rows(self.table.slice(index, 1))[0]

    def rows(self, batch_size: int = 1024) -> Iterator[dict[str, Any]]:
        """All rows as Python values, read batch by batch."""
        for batch in self.table.to_batches(max_chunksize=batch_size):
            yield from python_rows(batch)

    def ranks_of(self, row: Mapping[str, Any]) -> list[int | None]:
        """The ranks in one of the table's rows, or else those that the rewards of its labels give."""
        if row["ranks"] or row["labels"] is None or self.label_scale is None:
            return row["ranks"] or []
        reward = self.label_scale.reward
        return ranks_from_scores([None if label is None else reward(label) for label in row["labels"]])

    def select(self, rows: np.ndarray | Sequence[int]) -> Judgments:
        """The judgments at these positions, in this order."""
        return Judgments(self.table.take(pa.array(np.asarray(rows, dtype=np.int64))))

    def unique_prompts(self, most: int | None = None, seed: int = 0) -> list[Any]:
        """The unique prompts in the order of their first rows, or a random sample of `most` of them."""
        prompts = list({json.dumps(prompt): prompt for prompt in self.column("prompt")}.values())
        if most is None or most >= len(prompts):
            return prompts
        chosen = np.random.default_rng(seed).choice(len(prompts), size=most, replace=False)
        return [prompts[index] for index in sorted(chosen)]

    @cached_property
    def fingerprint(self) -> str:
        """A fingerprint of all columns and the label scale."""
        texts = (json.dumps(row, default=str, ensure_ascii=False).encode() for row in self.rows())
        scale = None if self.label_scale is None else self.label_scale.as_dict()
        return fingerprint(scale, *texts)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the table to Parquet (`.parquet`) or JSON Lines (`.jsonl`, `.jsonl.gz`), atomically.

        Raises:
            PluralignError: the file name has another ending, or the disk refuses.
        """
        with table_writer(path, self.table.schema) as write:
            for batch in self.table.to_batches(max_chunksize=8192):
                write(batch)


@contextlib.contextmanager
def table_writer(path: str | os.PathLike[str], schema: pa.Schema) -> Iterator[Callable[[pa.RecordBatch], None]]:
    """Write record batches of the canonical schema to one file, atomically: a context that gives a write function.

    Args:
        path: the file; its ending selects the format: `.parquet`, `.jsonl` or `.jsonl.gz`. JSON Lines has no
            metadata, so a label scale goes to `FILE.scale.yaml` beside it, where `read` looks for it.
        schema: the Arrow schema of the batches.
    """
    path = output_file(path, endings=TABLE_ENDINGS)
    name = path.name.lower()
    with atomic_write(path) as out:
        if name.endswith(".parquet"):
            writer = ParquetWriter(out, schema, sealed=is_canonical(schema))
            try:
                yield writer.write
            except BaseException:
                # An open writer would print an error later; its file is discarded.
                with contextlib.suppress(OSError, pa.ArrowException):
                    writer.discard()
                raise
            writer.close()
            return
        # Without the time and name in the header, equal tables give equal files.
        packed = gzip.GzipFile(filename="", fileobj=out, mode="wb", mtime=0) if name.endswith(".gz") else None
        sink: Any = packed or out

        def write_lines(batch: pa.RecordBatch) -> None:
            for row in python_rows(batch):
                line = json.dumps(row, ensure_ascii=False, default=datetime.datetime.isoformat)
                sink.write(line.encode() + b"\n")

        yield write_lines
        if packed is not None:
            packed.close()
        out.flush()  # a full disk shows here, before anything else is touched
        scale = scale_of(schema)
        if scale is None:
            sidecar(path).unlink(missing_ok=True)  # left by the table that this one replaces
        else:
            with atomic_write(sidecar(path), "w") as beside:
                yaml.safe_dump(scale.as_dict(), beside, allow_unicode=True, sort_keys=False)


def text_columns(prompts: Sequence[Any], responses: Sequence[Any]) -> dict[str, pa.Array]:
    """The columns `prompt` and `response` of a table with a row per response, as texts or as chat messages.

    Examples:
        >>> text_columns(["Tea?"], ["Yes"])["response"].type
        DataType(string)
    """
    form: Form = "messages" if len(prompts) and not isinstance(prompts[0], str) else "text"
    kind = schema(form).field("prompt").type
    return {"prompt": pa.array(prompts, type=kind), "response": pa.array(responses, type=kind)}


def sidecar(path: Path) -> Path:
    """The file that holds the label scale of a JSON Lines file."""
    return path.with_name(path.name + ".scale.yaml")

"""The canonical table: one row is one annotator's verdict on one prompt's responses."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pluralign.core.errors import PluralignError
from pluralign.core.files import atomic_write
from pluralign.core.fingerprint import fingerprint
from pluralign.judgments.scales import LabelScale
from pluralign.judgments.schema import Form, scale_of, schema
from pluralign.judgments.validation import RowChecker, checked_batches


@dataclass(frozen=True)
class Judgments:
    """A validated table of judgments. Rows never change; selections share the same memory.

    Args:
        table: the Arrow table, in `schema`; `read` and `Judgments.from_rows` make it.

    Examples:
        >>> judgments = Judgments.from_rows([{"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, 2]}])
        >>> len(judgments), judgments.form, judgments.row(0)["responses"]
        (1, 'text', ['Yes', 'No'])
    """

    table: pa.Table

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]], label_scale: LabelScale | None = None) -> Judgments:
        """Validate rows held in memory; the first bad one raises with its number.

        Raises:
            PluralignError: a row is not a judgment, or there is none.
        """
        checker = RowChecker(label_scale)
        batches = list(checked_batches(enumerate(rows, start=1), checker, place="rows"))
        if not batches:
            raise PluralignError("rows: no judgment among them")
        return cls(pa.Table.from_batches(batches))

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def form(self) -> Form:
        """`"text"` or `"messages"`: how prompts and responses are written."""
        return "text" if self.table.schema.field("prompt").type == pa.string() else "messages"

    @cached_property
    def label_scale(self) -> LabelScale | None:
        """The scale of the `labels` column, or `None` when the table has no labels."""
        return scale_of(self.table.schema)

    def column(self, name: str) -> list[Any]:
        """One column as Python values."""
        return self.table.column(name).to_pylist()

    def row(self, index: int) -> dict[str, Any]:
        """One row as Python values."""
        return self.table.slice(index, 1).to_pylist()[0]

    def rows(self, batch_size: int = 1024) -> Iterator[dict[str, Any]]:
        """All rows as Python values, read batch by batch."""
        for batch in self.table.to_batches(max_chunksize=batch_size):
            yield from batch.to_pylist()

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
        """A name of the content: the ids (made from content unless the source gave them) and all columns."""
        texts = (json.dumps(row, default=str, ensure_ascii=False).encode() for row in self.rows())
        scale = None if self.label_scale is None else self.label_scale.as_dict()
        return fingerprint(scale, *texts)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the table to Parquet (`.parquet`) or JSON Lines (`.jsonl`, `.jsonl.gz`), atomically.

        Raises:
            PluralignError: the file's ending is none of these, or the disk refuses.
        """
        with table_writer(path, self.table.schema) as write:
            for batch in self.table.to_batches(max_chunksize=8192):
                write(batch)


class table_writer:
    """A context that writes record batches of the canonical schema to one file, whole or not at all.

    Args:
        path: the file; its ending picks the form: `.parquet`, `.jsonl` or `.jsonl.gz`. JSON Lines has no
            place for metadata, so a label scale goes to `FILE.scale.yaml` beside it, where `read` finds it.
        schema: the Arrow schema of the batches.
    """

    def __init__(self, path: str | os.PathLike[str], schema: pa.Schema) -> None:
        self.path, self.schema = Path(path), schema
        name = self.path.name.lower()
        if name.endswith(".parquet"):
            self.kind = "parquet"
        elif name.endswith((".jsonl", ".jsonl.gz")):
            self.kind = "jsonl"
        else:
            raise PluralignError(f"{path}: the name must end in .parquet, .jsonl or .jsonl.gz")

    def __enter__(self) -> Any:
        self._file = atomic_write(self.path)
        self._out = out = self._file.__enter__()
        if self.kind == "parquet":
            self._sink: Any = pq.ParquetWriter(out, self.schema, compression="zstd")
            return self._sink.write_batch
        if self.path.suffix == ".gz":
            import gzip

            # The header's time and name would make equal tables unequal files.
            self._sink = gzip.GzipFile(filename="", fileobj=out, mode="wb", mtime=0)
        else:
            self._sink = out
        return self._write_lines

    def _write_lines(self, batch: pa.RecordBatch) -> None:
        for row in batch.to_pylist():
            line = json.dumps(row, ensure_ascii=False, default=datetime.datetime.isoformat)
            self._sink.write(line.encode() + b"\n")

    def __exit__(self, *fault: Any) -> None:
        if fault[0] is None:
            try:
                if self.kind == "parquet" or self.path.suffix == ".gz":
                    self._sink.close()
                if self.kind == "jsonl":
                    self._out.flush()  # a full disk shows here, before anything else is touched
                    self._write_scale()
            except BaseException as closing:
                self._file.__exit__(type(closing), closing, closing.__traceback__)
                raise
        elif self.kind == "parquet":
            # Left open, the writer would complain on the error stream later. Its file is thrown away.
            with contextlib.suppress(OSError, pa.ArrowException):
                self._sink.close()
        self._file.__exit__(*fault)

    def _write_scale(self) -> None:
        scale = scale_of(self.schema)
        if scale is None:
            sidecar(self.path).unlink(missing_ok=True)  # of the table that this one replaces
            return
        import yaml

        with atomic_write(sidecar(self.path), "w") as out:
            yaml.safe_dump(scale.as_dict(), out, allow_unicode=True, sort_keys=False)


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
    """Where a JSON Lines file keeps its label scale."""
    return path.with_name(path.name + ".scale.yaml")

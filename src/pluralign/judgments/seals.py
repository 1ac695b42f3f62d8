"""Seals of Parquet files: a digest in the footer, by which `read` knows a table that was validated and written here.

A file that another tool has written or changed has no seal or a wrong one, and is validated as any other.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

_KEY = "pluralign_seal"
_VERSION = 1
_FOOTER = 8  # bytes at the end of a Parquet file: the length of its metadata, and the magic word


class ParquetWriter:
    """Writes batches of one schema to a Parquet file; row groups have the same size however the rows come.

    Args:
        out: the binary file.
        schema: the Arrow schema; the seal covers its metadata.
        sealed: whether the batches are judgments that were validated, so that the file is sealed.
        rows: rows per row group.
    """

    def __init__(self, out: IO[bytes], schema: pa.Schema, sealed: bool, rows: int = 2**15) -> None:
        self._sink = _Digested(out, _start(schema))
        self._writer = pq.ParquetWriter(self._sink, schema, compression="zstd", use_dictionary=_dictionaries(schema))
        self._schema, self._sealed, self._rows = schema, sealed, rows
        self._held: list[pa.RecordBatch] = []

    def write(self, batch: pa.RecordBatch) -> None:
        """Write a batch."""
        self._held.append(batch)
        if sum(held.num_rows for held in self._held) >= self._rows:
            self._flush(whole=False)

    def _flush(self, whole: bool) -> None:
        table = pa.Table.from_batches(self._held, self._schema)
        end = len(table) if whole else len(table) - len(table) % self._rows
        if end:
            self._writer.write_table(table.slice(0, end), row_group_size=self._rows)
        self._held = table.slice(end).to_batches()

    def close(self) -> None:
        """Write the rest, and the seal."""
        self._flush(whole=True)
        if self._sealed:
            self._writer.add_key_value_metadata({_KEY: f"{_VERSION}:{self._sink.digest.hexdigest()}"})
        self._writer.close()

    def discard(self) -> None:
        """Close the writer of a file that is not kept."""
        self._writer.close()


def is_sealed(path: Path) -> bool:
    """Whether a Parquet file is as a `ParquetWriter` sealed it."""
    footer = pq.read_metadata(path)
    seal = (footer.metadata or {}).get(_KEY.encode(), b"").decode(errors="replace")
    if not seal.startswith(f"{_VERSION}:"):
        return False
    digest = _start(footer.schema.to_arrow_schema())
    with open(path, "rb") as data:
        data.seek(-_FOOTER, io.SEEK_END)
        left = data.tell() - int.from_bytes(data.read(4), "little")
        data.seek(0)
        while block := data.read(min(left, 2**20)):
            digest.update(block)
            left -= len(block)
    return seal == f"{_VERSION}:{digest.hexdigest()}"


def _start(schema: pa.Schema) -> Any:
    digest = hashlib.sha256()
    for key, value in sorted((schema.metadata or {}).items()):
        digest.update(key + b"\0" + value + b"\0")
    return digest


def _dictionaries(schema: pa.Schema) -> list[str]:
    """The columns in which values repeat: all but the ids."""
    return [path for field in schema if field.name != "id" for path in _leaves(field.type, field.name)]


def _leaves(kind: pa.DataType, path: str) -> list[str]:
    if pa.types.is_list(kind):
        return _leaves(kind.value_type, f"{path}.list.element")
    if pa.types.is_struct(kind):
        return [leaf for field in kind for leaf in _leaves(field.type, f"{path}.{field.name}")]
    return [path]


class _Digested(io.RawIOBase):
    """A binary file that digests what is written to it."""

    def __init__(self, out: IO[bytes], digest: Any) -> None:
        self._out, self.digest = out, digest

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self._out.write(data)

    def tell(self) -> int:
        return self._out.tell()

    def flush(self) -> None:
        self._out.flush()

"""What `import` reads: each format with its options as a reader of validated batches, and what it fills in."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from pluralign.core.errors import PluralignError, RowError
from pluralign.core.files import check_outputs, disk_errors
from pluralign.judgments.blocks import Block, checked_blocks
from pluralign.judgments.columns import Unfit, with_names
from pluralign.judgments.formats.arena import read_arena
from pluralign.judgments.formats.argilla import read_argilla
from pluralign.judgments.formats.conversations import read_oasst, read_prism
from pluralign.judgments.formats.convert import Rows, Tally, read_table
from pluralign.judgments.formats.hh_rlhf import read_hh_rlhf
from pluralign.judgments.formats.label_studio import read_label_studio
from pluralign.judgments.formats.le_wi_di import read_le_wi_di
from pluralign.judgments.formats.mapping import joined_places, read_mapping, read_mapping_file
from pluralign.judgments.formats.polis import SCALE, read_polis
from pluralign.judgments.formats.preflib import read_preflib
from pluralign.judgments.formats.trl import read_trl
from pluralign.judgments.pseudonyms import pseudonymizer
from pluralign.judgments.reading import common_scale
from pluralign.judgments.scales import LabelScale, label_scale
from pluralign.judgments.validation import Reject, RowChecker, checked_batches

Batches = Iterator[pa.RecordBatch]
Reader = Callable[[Path, RowChecker, Reject | None, Tally], Batches]
"""Reads a file into validated batches: its path, the checker, what to do with bad rows, and the counts."""

_Reader = Callable[[Path, RowChecker, Reject | None, Tally, "_Fill"], Batches]


@dataclass(frozen=True)
class ImportFormat:
    """A format with its options, as values that another process can be sent.

    Args:
        name: one of `FORMATS`.
        options: the options that only some formats have, by name; `None` if not given.
        drop_columns: columns to ignore.
        label_scale: as given; `None` if not.
        source: value of the column `source` where there is none.
        key: the key of the annotators' pseudonyms.
        merge_same: whether equal responses of a judgment are merged.
    """

    name: str
    options: Mapping[str, Any]
    drop_columns: Sequence[str]
    label_scale: str | os.PathLike[str] | LabelScale | None
    source: str | None
    key: bytes | None
    merge_same: bool

    def reader(self, paths: Sequence[Path], outputs: Sequence[Path] = ()) -> tuple[Reader, LabelScale | None]:
        """The reader of files that are read together, and their label scale; no output may be one of their tables."""
        read, scale = _reader(self.name, paths, self.options, self.drop_columns, self.label_scale, outputs)
        fill = _Fill(self.source, None if self.key is None else pseudonymizer(self.key), self.merge_same)
        return lambda path, checker, reject, tally: read(path, checker, reject, tally, fill), scale

    @property
    def is_by_row(self) -> bool:
        """Whether each row of a file is read for itself, so that the file can be cut between rows."""
        if self.name != "mapping":
            return self.name in ("table", "trl", "hh-rlhf", "chatbot-arena")
        mapping = read_mapping_file(self.options["mapping"])
        return mapping.group_by is None and not mapping.tables  # which are looked for beside the file


def _reader(
    format: str,
    paths: Sequence[Path],
    options: Mapping[str, Any],
    drop_columns: Sequence[str],
    given_scale: str | os.PathLike[str] | LabelScale | None,
    outputs: Sequence[Path],
) -> tuple[_Reader, LabelScale | None]:
    """The reader of a format with its options bound, which gives validated batches, and the label scale."""
    scale = None if given_scale is None else label_scale(given_scale)
    names = options["rename"]
    if format == "mapping":
        mapping = read_mapping_file(options["mapping"])
        joined = (place for name in mapping.tables for path in paths for place in joined_places(path, mapping, name))
        check_outputs(outputs, joined)
        by_mapping = _in_blocks(lambda path, checker, tally: read_mapping(path, mapping, tally))
        return by_mapping, scale or mapping.scale
    if format == "polis":
        shape = options["shape"] or "votes"
        comments = None if options["comments"] is None else Path(options["comments"])
        if comments is not None and len(paths) > 1:
            raise PluralignError("--comments: has the statements of one conversation: import conversations one by one")

        bound = partial(
            read_polis,
            shape=shape,
            comments=comments,
            prompt=options["prompt"],
            drop_columns=drop_columns,
            keep_moderated=bool(options["keep-moderated"]),
        )
        return _in_rows(bound), label_scale(SCALE) if shape == "votes" else None
    if format == "preflib":
        return _in_rows(partial(read_preflib, shape=options["shape"] or "ranked", prompt=options["prompt"])), None
    if format == "le-wi-di":
        return _in_rows(partial(read_le_wi_di, prompt=options["prompt"])), scale
    if format in ("label-studio", "argilla"):
        named = options["field"] or ()
        if format == "argilla":
            return _in_rows(partial(read_argilla, fields=named)), scale
        return _in_rows(partial(read_label_studio, fields=named, labelled=scale is not None)), scale
    if format == "table":
        table = _in_blocks(lambda path, checker, tally: read_table(path, checker, tally, drop_columns, names))
        return table, common_scale(paths, scale)
    plain: dict[str, Callable[..., Rows]] = {
        "trl": partial(read_trl, names=names), "hh-rlhf": read_hh_rlhf, "chatbot-arena": read_arena,
        "oasst": read_oasst, "prism": read_prism,
    }  # fmt: skip
    return _in_rows(partial(plain[format], drop_columns=drop_columns)), scale


def _in_rows(reader: Callable[[Path, Reject | None, Tally], Rows]) -> _Reader:
    """A format that is read row by row."""

    def batches(path: Path, checker: RowChecker, reject: Reject | None, tally: Tally, fill: _Fill) -> Batches:
        rows = ((number, fill.row(row)) for number, row in reader(path, reject, tally))
        return checked_batches(rows, checker, str(path), reject)

    return batches


def _in_blocks(reader: Callable[[Path, RowChecker, Tally], Iterator[Block]]) -> _Reader:
    """A format that is read in columns where possible."""

    def batches(path: Path, checker: RowChecker, reject: Reject | None, tally: Tally, fill: _Fill) -> Batches:
        blocks = (fill.block(block) for block in reader(path, checker, tally))
        return checked_blocks(blocks, checker, str(path), reject)

    return batches


def _merged(row: dict[str, Any]) -> dict[str, Any]:
    """The row with equal responses as one: it has the better rank, and the label if they agree on it."""
    responses, ranks, labels = (row.get(name) for name in ("responses", "ranks", "labels"))
    if not isinstance(responses, list):
        return row
    first = [responses.index(text) for text in responses]
    kept = sorted({*first})
    lists = [each for each in (ranks, labels) if each is not None]
    if len(kept) == len(responses) or not all(isinstance(each, list) and len(each) == len(first) for each in lists):
        return row
    made = {**row, "responses": [responses[at] for at in kept]}
    if ranks is not None:
        groups = [[ranks[at] for at, one in enumerate(first) if one == place] for place in kept]
        numbers = [[rank for rank in group if isinstance(rank, int | float)] for group in groups]
        made["ranks"] = [min(given) if given else group[0] for given, group in zip(numbers, groups, strict=True)]
    if labels is not None:
        groups = [
            [labels[at] for at, one in enumerate(first) if one == place and labels[at] is not None] for place in kept
        ]
        if any(label != group[0] for group in groups for label in group):
            return row  # the row's check names the repeated response
        made["labels"] = [group[0] if group else None for group in groups]
    return made


@dataclass(frozen=True)
class _Fill:
    """Fills in `source`, renames annotators and merges repeated responses, in rows and in columns."""

    source: str | None
    rename: Callable[[str], str] | None
    merge_same: bool = False

    def row(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row, filled."""
        if self.source is not None and row.get("source") in (None, ""):
            row = {**row, "source": self.source}
        annotator = row.get("annotator")
        if isinstance(annotator, float) and annotator.is_integer():  # of whole numbers beside gaps
            annotator = int(annotator)
        # The row's check rejects other types; an empty annotator stays empty.
        if self.rename is not None and annotator != "" and type(annotator) in (str, int):
            row = {**row, "annotator": self.rename(str(annotator))}
        return _merged(row) if self.merge_same else row

    def block(self, block: Block) -> Block:
        """The block, filled."""
        if self.source is None and self.rename is None and not self.merge_same:
            return block
        columns = block.columns
        try:
            if columns is not None and self.source is not None:
                columns = with_names(columns, "source", lambda names: names.fill_null(self.source))
            if columns is not None and self.rename is not None:
                columns = with_names(columns, "annotator", self._renamed)
        except Unfit:
            columns = None
        return block.mapped(self.row, columns)

    def _renamed(self, names: pa.Array) -> pa.Array:
        assert self.rename is not None
        encoded = names.dictionary_encode()
        return pa.array(map(self.rename, encoded.dictionary.to_pylist()), pa.string()).take(encoded.indices)


def rejecter(name: object, rows_before: int, out: Any, rejects: Path, rejected: Counter[str]) -> Reject:
    """A function that counts a bad row of a file and writes it to the file of rejects."""

    def reject(number: int, row: object, error: RowError) -> None:
        rejected[error.column or "the whole row"] += 1
        line = {"file": str(name), "row": rows_before + number, "column": error.column, "error": error.message}
        line["found"] = _plain(row)
        with disk_errors(rejects):
            out.write(json.dumps(line, ensure_ascii=True, default=str, allow_nan=False) + "\n")

    return reject


def _plain(value: Any) -> Any:
    """The value with NaN and infinities as text, since standard JSON has no such numbers."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value

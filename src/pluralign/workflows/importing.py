"""`import` and `export`: files of other formats to the canonical table, and back to TRL's preference rows."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from pluralign.core.errors import PluralignError, RowError, nearest, one_line
from pluralign.core.files import atomic_write, check_distinct, check_outputs, disk_errors, output_file
from pluralign.judgments.blocks import Block, checked_blocks
from pluralign.judgments.columns import Unfit, with_names
from pluralign.judgments.containers import STANDARD_INPUT, plain_files
from pluralign.judgments.formats import FORMATS, nearest_source
from pluralign.judgments.formats.arena import read_arena
from pluralign.judgments.formats.argilla import read_argilla
from pluralign.judgments.formats.conversations import read_oasst, read_prism
from pluralign.judgments.formats.convert import Rows, Tally, read_table
from pluralign.judgments.formats.exports import EXPORTS
from pluralign.judgments.formats.hh_rlhf import read_hh_rlhf
from pluralign.judgments.formats.label_studio import read_label_studio
from pluralign.judgments.formats.le_wi_di import read_le_wi_di
from pluralign.judgments.formats.mapping import joined_places, read_mapping, read_mapping_file
from pluralign.judgments.formats.polis import SCALE, read_polis
from pluralign.judgments.formats.preflib import read_preflib
from pluralign.judgments.formats.trl import Exported, read_trl
from pluralign.judgments.inputs import Files
from pluralign.judgments.paths import TABLE_ENDINGS, named_files
from pluralign.judgments.pseudonyms import pseudonym_key, pseudonymizer
from pluralign.judgments.reading import Inputs, common_scale
from pluralign.judgments.renames import Columns, column_names
from pluralign.judgments.rows import columns_of, read_rows
from pluralign.judgments.scales import LabelScale, label_scale
from pluralign.judgments.schema import COLUMNS, rename_flags, schema, suggested_names
from pluralign.judgments.table import sidecar, table_writer
from pluralign.judgments.validation import Reject, RowChecker, checked_batches


@dataclass
class Imported:
    """The result of an import: the output file, its number of rows, and which input rows gave no judgment.

    `rejected` counts bad rows by column; `rejects` is their file, if they were skipped.
    """

    out: Path
    judgments: int
    tally: Tally
    rejected: Counter[str] = field(default_factory=Counter)
    rejects: Path | None = None

    def summary(self) -> list[str]:
        """The result as lines to print."""
        lines = [f"{self.judgments} judgments from {self.tally.rows} rows; written to {self.out}"]
        lines += [f"left out: {count} {reason}" for reason, count in self.tally.left_out.items()]
        if self.rejected:
            columns = ", ".join(f"{count} for {column}" for column, count in self.rejected.most_common())
            lines.append(f"rejected: {sum(self.rejected.values())} ({columns}); written to {self.rejects}")
        return lines


def import_files(
    sources: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    format: str = "table",
    mapping: str | None = None,
    shape: str | None = None,
    comments: str | None = None,
    prompt: str | None = None,
    fields: Sequence[str] = (),
    keep_moderated: bool = False,
    label_scale: str | os.PathLike[str] | LabelScale | None = None,
    source: str | None = None,
    drop_columns: Sequence[str] = (),
    columns: Columns | None = None,
    same_text: str = "reject",
    on_error: str = "stop",
    rejects: str | os.PathLike[str] | None = None,
    anonymize: bool = False,
    key_file: str | os.PathLike[str] | None = None,
) -> Imported:
    """Import files of one format into one canonical file, row by row. The output is atomic.

    Args:
        sources: files to import, folders or patterns of them; `-` is standard input, `hf:owner/name:split` a data set
            of the hub.
        out: output file: `.parquet`, `.jsonl` or `.jsonl.gz`.
        format: one of `FORMATS`.
        mapping: YAML file that describes the columns, or the name of a mapping that comes with the library; implies
            the format `mapping`.
        shape: for `polis`: `votes` (default) or `people`; for `preflib`: `ranked` (default) or `ballot`.
        comments: for `polis`: file of the statements.
        prompt: for `polis`, `preflib` and `le-wi-di`: topic, used as the prompt.
        keep_moderated: for `polis`: keep votes on statements that the moderators rejected.
        fields: for `label-studio` and `argilla`: `KEY=NAME` if a field does not have its usual name.
        label_scale: for `table`, `mapping`, `argilla`, `label-studio` and `le-wi-di`: a built-in name, a YAML
            file, or a `LabelScale`.
        source: value of the column `source` where there is none.
        drop_columns: columns to ignore. A mapping reads only the columns that it names.
        columns: for `table` and `trl`: new names of columns, like `{"annotator_id": "annotator"}`.
        same_text: what to do with a judgment that shows the same response twice: `reject` it, or `merge` the two, with
            the better rank.
        on_error: `stop` at the first bad row, or `skip` bad rows and write them to `rejects`.
        rejects: JSON Lines with `file`, `row`, `column`, `error` and `found` for each bad row.
        anonymize: replace annotators by keyed pseudonyms.
        key_file: key of the pseudonyms. Default: the environment variable `PLURALIGN_KEY`.

    Raises:
        PluralignError: bad input, with file, row and column; no file is written.

    Examples:
        >>> import json, tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> row = {"prompt": "Tea?", "chosen": "Yes", "rejected": "No"}
        >>> _ = (folder / "pairs.jsonl").write_text(json.dumps(row))
        >>> import_files([folder / "pairs.jsonl"], folder / "pairs.parquet", format="trl").judgments
        1
    """
    paths, target = list(map(Path, named_files([os.fspath(path) for path in sources]))), Path(out)
    if mapping is not None and format == "table":
        format = "mapping"
    if on_error not in ("stop", "skip"):
        raise PluralignError(f"--on-error: found '{on_error}', expected stop or skip")
    if same_text not in ("reject", "merge"):
        raise PluralignError(f"--same-text: found '{same_text}', expected reject or merge")
    if (on_error == "skip") != (rejects is not None):
        raise PluralignError("--on-error skip and --rejects FILE must be given together")
    if not paths:
        raise PluralignError("no file was given to import")
    read = [*paths, mapping, comments, label_scale, key_file]
    output_file(target, read, TABLE_ENDINGS)
    check_outputs([sidecar(target)], read)
    if rejects is not None:
        try:
            output_file(rejects, [*read, target], (".jsonl", ".ndjson"))
        except PluralignError as fault:
            raise PluralignError(f"--rejects: {fault}") from fault
    if key_file is not None and not anonymize:
        raise PluralignError("--key-file needs --anonymize")
    options: dict[str, Any] = {
        "mapping": mapping,
        "shape": shape,
        "comments": comments,
        "prompt": prompt,
        "field": fields or None,
    }
    options |= {"keep-moderated": keep_moderated or None}
    options["rename"] = column_names(columns) or None
    _check_options(format, options, drop_columns, label_scale)
    files = [path for path in paths if str(path) != STANDARD_INPUT]
    check_distinct(files, by_content=format not in ("polis", "preflib"))  # their rows depend on the name of the file
    rename = pseudonymizer(pseudonym_key(key_file)) if anonymize else None
    result = Imported(target, 0, Tally(), rejects=None if rejects is None else Path(rejects))
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(plain_files(paths, "votes" if format == "polis" else ""))
        if format == "table" and on_error == "stop":
            _check_is_table(plain, drop_columns, options["rename"] or {})
        outputs = [target] if rejects is None else [target, Path(rejects)]
        reader, scale = _reader(format, plain, options, drop_columns, label_scale, outputs)
        checker = RowChecker(scale)
        rejects_file = None if result.rejects is None else stack.enter_context(atomic_write(result.rejects, "w"))
        write: Callable[[Any], None] | None = None
        for given, path in zip(paths, plain, strict=True):
            reject = None if rejects_file is None else _rejecter(given, rejects_file, result)
            for batch in reader(path, checker, reject, result.tally, _Fill(source, rename, same_text == "merge")):
                if write is None:
                    write = stack.enter_context(table_writer(target, schema(checker.form or "text", scale)))
                write(batch)
                result.judgments += batch.num_rows
        if write is None:
            raise PluralignError(f"no judgment is left of {result.tally.rows} rows: {_reasons(result)}")
    return result


def export(
    files: Files,
    out: str | os.PathLike[str],
    label_scale: str | None = None,
    to: str = "trl",
    columns: Columns | None = None,
) -> Exported:
    """Export canonical files for other tools.

    Args:
        files: what `read` takes: files, data sets, frames or rows.
        out: output file, or a new folder for `datasets`.
        label_scale: label scale of files that store none.
        to: `trl` for preference pairs, `best-of-n` for rows as in RewardBench 2, `votes` for a CSV with a row per
            response, `datasets` for a folder of `datasets`.
        columns: new names of columns, like `{"annotator_id": "annotator"}`; `None` leaves a column out.

    Raises:
        PluralignError: there is nothing to export, or the output is one of the files.

    Examples:
        >>> import tempfile
        >>> from pluralign.judgments import Judgments
        >>> folder = Path(tempfile.mkdtemp())
        >>> row = {"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, 2]}
        >>> Judgments.from_rows([row]).write(folder / "a.parquet")
        >>> export(folder / "a.parquet", folder / "a.csv", to="votes").rows
        2
    """
    if to not in EXPORTS:
        raise PluralignError(f"--to: found '{to}', expected one of {', '.join(EXPORTS)}{nearest(to, EXPORTS)}")
    endings = {"votes": (".csv",), "datasets": None}.get(to, TABLE_ENDINGS)
    given = Inputs(files, columns)
    inputs = [*given.names, label_scale]
    if endings is None:
        check_outputs([out], inputs)
    else:
        output_file(out, inputs, endings)
    return EXPORTS[to](given.read(label_scale), out)


def _check_options(format: str, options: Mapping[str, Any], drop_columns: Sequence[str], given_scale: Any) -> None:
    """Check that the format exists and has the given options."""
    if format not in FORMATS:
        raise PluralignError(
            f"--format: found '{format}', expected one of {', '.join(FORMATS)}{nearest(format, FORMATS)}"
        )
    for option, value in {**options, "label-scale": given_scale, "drop-columns": drop_columns or None}.items():
        if value is not None and format not in OWNERS[option]:
            owners = " and ".join(OWNERS[option])
            raise PluralignError(f"--{option} is an option of --format {owners}, found --format {format}")


def _check_is_table(paths: Sequence[Path], drop_columns: Sequence[str], renamed: Mapping[str, str | None]) -> None:
    """Refuse a file that has none of a table's own columns, and name the format that it looks like."""
    for path in paths:
        columns = columns_of(path)
        if columns is None:
            _, row = next(read_rows(path, lambda number, row, complaint: None), (0, {}))
            columns = list(row)
        columns = [renamed.get(column) or column for column in columns]
        if not columns or "responses" in columns or {*columns} <= {*COLUMNS, *drop_columns}:
            continue
        source = nearest_source(columns)
        hint = f"; the file looks like {source}" if source else ""
        names = one_line(", ".join(map(str, columns)), 120)
        renames = suggested_names(columns, COLUMNS)
        fix = f", or rename its columns: {rename_flags(renames)}" if "responses" in renames.values() else ""
        raise PluralignError(
            f"{path}: has no column 'responses', which a table needs, but {names}{hint}: name its format{fix}"
        )


def _reader(
    format: str,
    paths: Sequence[Path],
    options: dict[str, Any],
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

    def batches(path: Path, checker: RowChecker, reject: Reject | None, tally: Tally, fill: _Fill) -> _Batches:
        rows = ((number, fill.row(row)) for number, row in reader(path, reject, tally))
        return checked_batches(rows, checker, str(path), reject)

    return batches


def _in_blocks(reader: Callable[[Path, RowChecker, Tally], Iterator[Block]]) -> _Reader:
    """A format that is read in columns where possible."""

    def batches(path: Path, checker: RowChecker, reject: Reject | None, tally: Tally, fill: _Fill) -> _Batches:
        blocks = (fill.block(block) for block in reader(path, checker, tally))
        return checked_blocks(blocks, checker, str(path), reject)

    return batches


OWNERS = {
    "mapping": ("mapping",),
    "shape": ("polis", "preflib"),
    "comments": ("polis",),
    "keep-moderated": ("polis",),
    "prompt": ("polis", "preflib", "le-wi-di"),
    "field": ("label-studio", "argilla"),
    "rename": ("table", "trl"),
    "label-scale": ("table", "mapping", "argilla", "label-studio", "le-wi-di"),
    "drop-columns": ("table", "trl", "hh-rlhf", "polis", "chatbot-arena", "oasst", "prism"),
}
"""The formats of each option that only some formats have."""


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


_Batches = Iterator[pa.RecordBatch]
_Reader = Callable[[Path, RowChecker, Reject | None, Tally, _Fill], _Batches]
"""Reads a file into validated batches: its path, the checker, what to do with bad rows, the counts, what to fill in."""


def _rejecter(path: Path, rejects_file: Any, result: Imported) -> Reject:
    """A function that counts a bad row of `path` and writes it out."""

    def reject(number: int, row: object, error: RowError) -> None:
        result.rejected[error.column or "the whole row"] += 1
        line = {"file": str(path), "row": number, "column": error.column, "error": error.message, "found": _plain(row)}
        with disk_errors(result.rejects):
            rejects_file.write(json.dumps(line, ensure_ascii=True, default=str, allow_nan=False) + "\n")

    return reject


def _plain(value: Any) -> Any:
    """The value with NaN and infinities as text, since standard JSON has no such numbers."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _reasons(result: Imported) -> str:
    reasons = [f"{count} {reason}" for reason, count in result.tally.left_out.items()]
    reasons += [f"{count} rejected for {column}" for column, count in result.rejected.items()]
    return one_line("; ".join(reasons) or "none was a judgment", limit=200)

"""`import` and `export`: files of other formats to the canonical table, and back to TRL's preference rows."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pluralign.core.errors import PluralignError, nearest, one_line
from pluralign.core.files import atomic_write, check_distinct, check_outputs, new_folder, output_file
from pluralign.core.locks import file_lock
from pluralign.judgments.containers import STANDARD_INPUT, plain_files
from pluralign.judgments.formats import FORMATS, nearest_source
from pluralign.judgments.formats.convert import Tally
from pluralign.judgments.formats.exports import EXPORTS
from pluralign.judgments.formats.trl import Exported
from pluralign.judgments.inputs import Files
from pluralign.judgments.paths import TABLE_ENDINGS, named_files
from pluralign.judgments.pseudonyms import pseudonym_key, pseudonymizer
from pluralign.judgments.reading import Inputs
from pluralign.judgments.renames import Columns, column_names
from pluralign.judgments.rows import columns_of, read_rows
from pluralign.judgments.scales import LabelScale
from pluralign.judgments.schema import COLUMNS, rename_flags, schema, suggested_names
from pluralign.judgments.table import sidecar, table_writer
from pluralign.judgments.validation import RowChecker
from pluralign.workflows.import_parts import SHARD, import_parts
from pluralign.workflows.import_readers import ImportFormat, rejecter


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
    workers: int | None = None,
) -> Imported:
    """Import files of one format into one canonical file, or into a folder of them. The output is atomic.

    Args:
        sources: files to import, folders or patterns of them; `-` is standard input, `hf:owner/name:split` a data set
            of the hub.
        out: output file: `.parquet`, `.jsonl` or `.jsonl.gz`; with `workers` a folder.
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
        workers: number of processes that write a folder of Parquet files, with the rows of one file in their order.

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
    if workers is None:
        output_file(target, read, TABLE_ENDINGS)
        check_outputs([sidecar(target)], read)
    else:
        _check_folder(target, workers, paths)
        check_outputs([target], read)
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
    key = pseudonym_key(key_file) if anonymize else None
    if key is not None:
        pseudonymizer(key)  # checks its length
    result = Imported(target, 0, Tally(), rejects=None if rejects is None else Path(rejects))
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(plain_files(paths, "votes" if format == "polis" else ""))
        if format == "table" and on_error == "stop":
            _check_is_table(plain, drop_columns, options["rename"] or {})
        outputs = [target] if rejects is None else [target, Path(rejects)]
        described = ImportFormat(format, options, drop_columns, label_scale, source, key, same_text == "merge")
        reader, scale = described.reader(plain, outputs)
        rejects_file = None if result.rejects is None else stack.enter_context(atomic_write(result.rejects, "w"))
        if workers is not None:
            if format == "table":  # the scale that all files carry
                described = replace(described, label_scale=scale)
            _import_folder(paths, plain, described, workers, rejects_file, result)
            return result
        checker = RowChecker(scale)
        write: Callable[[Any], None] | None = None
        for given, path in zip(paths, plain, strict=True):
            reject = None
            if rejects_file is not None and result.rejects is not None:
                reject = rejecter(given, 0, rejects_file, result.rejects, result.rejected)
            for batch in reader(path, checker, reject, result.tally):
                if write is None:
                    write = stack.enter_context(table_writer(target, schema(checker.form or "text", scale)))
                write(batch)
                result.judgments += batch.num_rows
        if write is None:
            raise _no_judgment(result)
    return result


def _check_folder(target: Path, workers: int, paths: Sequence[Path]) -> None:
    """Check the number of workers, and that the folder of their files is none of the inputs and holds none."""
    if isinstance(workers, bool) or workers < 1:
        raise PluralignError(f"--workers: found {workers!r}, expected 1 or more")
    if target.name.lower().endswith(TABLE_ENDINGS):
        raise PluralignError(f"{target}: --workers writes a folder of Parquet files: give --out the name of a folder")
    check_outputs([target], [path.parent for path in paths])


def _import_folder(
    paths: Sequence[Path],
    plain: Sequence[Path],
    format: ImportFormat,
    workers: int,
    rejects_file: Any,
    result: Imported,
) -> None:
    """Import into a folder of Parquet files, and count."""
    with file_lock(result.out, wait=False), new_folder(result.out, SHARD) as folder:
        for job, part in import_parts(paths, plain, format, folder, workers, rejects_file is not None):
            result.judgments += part.judgments
            result.tally.rows += part.tally.rows
            result.tally.left_out.update(part.tally.left_out)
            result.rejected.update(part.rejected)
            if rejects_file is not None:
                with open(job.rejects, encoding="utf-8") as lines:
                    shutil.copyfileobj(lines, rejects_file)
                job.rejects.unlink()
        if not result.judgments:
            raise _no_judgment(result)


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


def _no_judgment(result: Imported) -> PluralignError:
    reasons = [f"{count} {reason}" for reason, count in result.tally.left_out.items()]
    reasons += [f"{count} rejected for {column}" for column, count in result.rejected.items()]
    listed = one_line("; ".join(reasons) or "none was a judgment", limit=200)
    return PluralignError(f"no judgment is left of {result.tally.rows} rows: {listed}")

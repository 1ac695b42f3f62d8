"""`import` and `export`: outside files to the canonical table, and back to TRL's preference rows."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pluralign.core.errors import PluralignError, RowError, nearest, one_line
from pluralign.core.files import atomic_write, disk_errors
from pluralign.judgments.formats import FORMATS
from pluralign.judgments.formats.argilla import read_argilla
from pluralign.judgments.formats.convert import Rows, Tally, read_table
from pluralign.judgments.formats.hh_rlhf import read_hh_rlhf
from pluralign.judgments.formats.label_studio import read_label_studio
from pluralign.judgments.formats.mapping import read_mapping, read_mapping_file
from pluralign.judgments.formats.polis import SCALE, read_polis
from pluralign.judgments.formats.preflib import read_preflib
from pluralign.judgments.formats.trl import Exported, read_trl, write_trl
from pluralign.judgments.pseudonyms import pseudonym_key, pseudonymizer
from pluralign.judgments.reading import common_scale, read
from pluralign.judgments.scales import LabelScale, label_scale
from pluralign.judgments.schema import schema
from pluralign.judgments.table import table_writer
from pluralign.judgments.validation import Reject, RowChecker, checked_batches


@dataclass
class Imported:
    """What came of an import.

    Args:
        out: the file written.
        judgments: its rows.
        tally: rows read, and what gave no judgment, by reason.
        rejected: bad rows by complaint's column.
        rejects: where the bad rows were written, if there are any.
    """

    out: Path
    judgments: int
    tally: Tally
    rejected: Counter[str] = field(default_factory=Counter)
    rejects: Path | None = None

    def summary(self) -> list[str]:
        """What happened, one line each."""
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
    label_scale: str | os.PathLike[str] | LabelScale | None = None,
    source: str | None = None,
    drop_columns: Sequence[str] = (),
    on_error: str = "stop",
    rejects: str | os.PathLike[str] | None = None,
    anonymize: bool = False,
    key_file: str | os.PathLike[str] | None = None,
) -> Imported:
    """Import outside files into one canonical file, streaming; the file is written whole or not at all.

    Args:
        sources: the files, of one format.
        out: `.parquet`, `.jsonl` or `.jsonl.gz`.
        format: one of `FORMATS`.
        mapping: the YAML file of the format `mapping`.
        shape: of `polis`: `votes` (default) or `people`; of `preflib`: `ranked` (default) or `ballot`.
        comments: of the format `polis`: the file of statements.
        prompt: of the formats `polis` and `preflib`: the topic.
        fields: of the formats `label-studio` and `argilla`: `KEY=NAME` where a name is not the usual one.
        label_scale: of `table`, `mapping` and `argilla`: a built-in name, a YAML file, or a `LabelScale`.
        source: fills the column `source` where the format gives none.
        drop_columns: columns to leave out on purpose; a mapping takes only what it names.
        on_error: `stop` at the first bad row, or `skip` bad rows and write them to `rejects`.
        rejects: JSON Lines with `file`, `row`, `column`, `error` and `found` for each bad row.
        anonymize: replace annotators by keyed pseudonyms.
        key_file: the key; by default the environment variable `PLURALIGN_KEY`.

    Raises:
        PluralignError: bad input, with file, row and column; nothing is left behind.

    Examples:
        >>> import json, tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> row = {"prompt": "Tea?", "chosen": "Yes", "rejected": "No"}
        >>> _ = (folder / "pairs.jsonl").write_text(json.dumps(row))
        >>> import_files([folder / "pairs.jsonl"], folder / "pairs.parquet", format="trl").judgments
        1
    """
    paths, target = [Path(path) for path in sources], Path(out)
    if on_error not in ("stop", "skip"):
        raise PluralignError(f"--on-error: found '{on_error}', expected stop or skip")
    if (on_error == "skip") != (rejects is not None):
        raise PluralignError("--on-error skip and --rejects FILE go together: say both or neither")
    if not paths:
        raise PluralignError("no file was given to import")
    if target.resolve() in [path.resolve() for path in paths]:
        raise PluralignError(f"{target}: is the file that is read: choose another --out")
    if rejects is not None and Path(rejects).resolve() in [path.resolve() for path in (*paths, target)]:
        raise PluralignError(f"--rejects: {rejects} is a file that is read or written: choose another")
    if key_file is not None and not anonymize:
        raise PluralignError("--key-file belongs to --anonymize: say both or neither")
    options = {"mapping": mapping, "shape": shape, "comments": comments, "prompt": prompt, "field": fields or None}
    reader, scale = _reader(format, paths, options, drop_columns, label_scale)
    rename = pseudonymizer(pseudonym_key(key_file)) if anonymize else None
    done = Imported(target, 0, Tally(), rejects=None if rejects is None else Path(rejects))
    checker = RowChecker(scale)
    with contextlib.ExitStack() as stack:
        refused = None if done.rejects is None else stack.enter_context(atomic_write(done.rejects, "w"))
        write: Callable[[Any], None] | None = None
        for path in paths:
            reject = None if refused is None else _rejecter(path, refused, done.rejects, done)
            rows = _filled(reader(path, reject, done.tally), source, rename)
            for batch in checked_batches(rows, checker, str(path), reject):
                if write is None:
                    write = stack.enter_context(table_writer(target, schema(checker.form or "text", scale)))
                write(batch)
                done.judgments += batch.num_rows
        if write is None:
            raise PluralignError(f"no judgment is left of {done.tally.rows} rows: {_reasons(done)}")
    return done


def export(
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    label_scale: str | None = None,
) -> Exported:
    """Export canonical files to TRL preference rows; see `pluralign.judgments.formats.trl`."""
    return write_trl(read(files, label_scale), out)


def _reader(
    format: str,
    paths: Sequence[Path],
    options: dict[str, Any],
    drop_columns: Sequence[str],
    given_scale: str | os.PathLike[str] | LabelScale | None,
) -> tuple[Callable[[Path, Reject | None, Tally], Rows], LabelScale | None]:
    """The reader of a format with its options bound, and the label scale."""
    if format not in FORMATS:
        raise PluralignError(
            f"--format: found '{format}', expected one of {', '.join(FORMATS)}{nearest(format, FORMATS)}"
        )
    _check_options({**options, "label-scale": given_scale, "drop-columns": drop_columns or None}, format)
    scale = None if given_scale is None else label_scale(given_scale)
    if format == "mapping":
        mapping = read_mapping_file(options["mapping"])
        return lambda path, reject, tally: read_mapping(path, mapping, reject, tally), scale or mapping.scale
    if format == "polis":
        shape = "votes" if options["shape"] is None else options["shape"]
        comments = None if options["comments"] is None else Path(options["comments"])
        if comments is not None and len(paths) > 1:
            raise PluralignError("--comments: names the statements of one conversation: import several apart")

        def polis(path: Path, reject: Reject | None, tally: Tally) -> Rows:
            return read_polis(path, reject, tally, shape, comments, options["prompt"], drop_columns)

        return polis, label_scale(SCALE) if shape == "votes" else None
    if format == "preflib":
        whole = "ranked" if options["shape"] is None else options["shape"]
        return lambda path, reject, tally: read_preflib(path, reject, tally, whole, options["prompt"]), None
    if format in ("label-studio", "argilla"):
        tool = {"label-studio": read_label_studio, "argilla": read_argilla}[format]
        return lambda path, reject, tally: tool(path, reject, tally, options["field"] or ()), scale
    if format == "table":
        scale = common_scale(paths, scale)
    plain = {"table": read_table, "trl": read_trl, "hh-rlhf": read_hh_rlhf}[format]
    return lambda path, reject, tally: plain(path, reject, tally, drop_columns), scale


OWNERS = {
    "mapping": ("mapping",),
    "shape": ("polis", "preflib"),
    "comments": ("polis",),
    "prompt": ("polis", "preflib"),
    "field": ("label-studio", "argilla"),
    "label-scale": ("table", "mapping", "argilla"),
    "drop-columns": ("table", "trl", "hh-rlhf", "polis"),
}
"""Options that only some formats know; elsewhere they would be ignored."""


def _check_options(options: Mapping[str, Any], format: str) -> None:
    for option, value in options.items():
        if value is not None and format not in OWNERS[option]:
            owners = " and ".join(OWNERS[option])
            raise PluralignError(f"--{option} belongs to --format {owners}, found --format {format}")


def _filled(rows: Rows, source: str | None, rename: Callable[[str], str] | None) -> Rows:
    for number, row in rows:
        if source is not None and row.get("source") in (None, ""):
            row = {**row, "source": source}
        annotator = row.get("annotator")
        # Anything but a name or a number is left to the check of the row; no name stays no name.
        if rename is not None and annotator != "" and type(annotator) in (str, int):
            row = {**row, "annotator": rename(str(annotator))}
        yield number, row


def _rejecter(path: Path, out: Any, place: Path | None, done: Imported) -> Reject:
    def reject(number: int, found: object, complaint: RowError) -> None:
        done.rejected[complaint.column or "the whole row"] += 1
        line = {"file": str(path), "row": number, "column": complaint.column, "error": complaint.message}
        text = json.dumps({**line, "found": _plain(found)}, ensure_ascii=True, default=str, allow_nan=False)
        with disk_errors(place):
            out.write(text + "\n")

    return reject


def _plain(value: Any) -> Any:
    """The value with NaN and infinities as words: other readers of JSON refuse them as numbers."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _reasons(done: Imported) -> str:
    reasons = [f"{count} {reason}" for reason, count in done.tally.left_out.items()]
    reasons += [f"{count} rejected for {column}" for column, count in done.rejected.items()]
    return one_line("; ".join(reasons) or "none was a judgment", limit=200)

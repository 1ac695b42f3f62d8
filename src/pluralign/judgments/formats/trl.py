"""TRL preference rows (`prompt`, `chosen`, `rejected`), read and written."""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from pluralign.core.errors import PluralignError, RowError, one_line
from pluralign.judgments.blocks import Block
from pluralign.judgments.chats import in_one_form
from pluralign.judgments.formats.convert import Rows, Tally, carried, check_known, convert_rows
from pluralign.judgments.messages import narrow_table
from pluralign.judgments.renames import renamed_row
from pluralign.judgments.schema import PREFERENCE_COLUMNS
from pluralign.judgments.table import Judgments, table_writer
from pluralign.judgments.validation import Reject

NOT_CARRIED = ("annotator", "source", "group", "time")
"""Columns of the canonical table that preference rows cannot hold."""


def read_trl(
    path: Path,
    reject: Reject | None = None,
    tally: Tally | None = None,
    drop_columns: Collection[str] = (),
    names: Mapping[str, str | None] | None = None,
) -> Rows:
    """Format `trl`: one judgment of two responses per row. Arguments as for `convert_rows`; `names` renames columns."""
    return convert_rows(path, lambda row: [preference(renamed_row(row, names or {}))], reject, tally, drop_columns)


def preferences(block: Block) -> Block:
    """The block with preference rows as rows of the canonical table, and other rows as they are."""
    if block.columns is not None and not _is_preference(block.columns.schema.names):
        return block
    return block.mapped(lambda row: preference(row) if _is_preference(row) else row, None)


def _is_preference(names: Collection[str]) -> bool:
    return ("chosen" in names or "rejected" in names) and "responses" not in names


def preference(row: Mapping[str, Any]) -> dict[str, Any]:
    """One TRL row as a row of the canonical table; the prompt may be separate or the start of both responses.

    Raises:
        RowError: a column is missing, unknown, or has the wrong type.

    Examples:
        >>> made = preference({"chosen": "The sky is blue.", "rejected": "The sky is black."})
        >>> made["prompt"], made["responses"]
        ('The sky is', [' blue.', ' black.'])
    """
    check_known(row, PREFERENCE_COLUMNS)
    names = ("chosen", "rejected")
    for name in names:
        if row.get(name) is None:
            raise RowError(name, "is missing: a preference row needs chosen and rejected")
    prompt, (chosen, rejected) = in_one_form(row.get("prompt"), [row[name] for name in names], names)
    for name, response in zip(names, (chosen, rejected), strict=True):
        if not isinstance(response, str | list):
            raise RowError(name, f"found {one_line(row[name])}, expected text or a list of messages")
    if type(chosen) is not type(rejected):
        raise RowError("rejected", "chosen and rejected must both be text or both be lists of messages")
    if prompt is None:
        cut = _shared_text(chosen, rejected)
        prompt, chosen, rejected = chosen[:cut], chosen[cut:], rejected[cut:]
    for name, response in (("chosen", chosen), ("rejected", rejected)):
        if not response:
            state = "is empty" if row.get("prompt") is not None else "contains only the prompt that both share"
            raise RowError(name, f"{state}: every response must contain text")
    made = {"prompt": prompt, "responses": [chosen, rejected], "ranks": [1, 2], **carried(row)}
    return made if row.get("margin") is None else {**made, "strength": row["margin"]}


def _shared_text(chosen: str, rejected: str) -> int:
    """The end of the shared start, never inside a word; a space before it goes to the responses, as in TRL."""
    cut = len(os.path.commonprefix([chosen, rejected]))
    while cut > 0 and (_inside_word(chosen, cut) or _inside_word(rejected, cut)):
        cut -= 1
    return cut - 1 if cut > 0 and chosen[cut - 1] == " " else cut


def _inside_word(text: str, cut: int) -> bool:
    """Whether a cut would divide a word, or a character that is written as several code points."""
    if cut >= len(text):
        return False
    before, after = text[cut - 1], text[cut]
    return (
        _continues(after)
        or (_in_word(before) and _in_word(after))
        or before == _JOINER
        or before + after == "\r\n"
        or (_is_flag(before) and _is_flag(after) and _flags_before(text, cut) % 2 == 1)
    )


_JOINER = "\u200d"


def _in_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN" or character in ("_", "\u200c")


def _continues(character: str) -> bool:
    """Whether a code point belongs to the character before it: accents, vowel signs, joiners, skin tones, tags."""
    place = ord(character)
    tag_or_tone = 0x1F3FB <= place <= 0x1F3FF or 0xE0020 <= place <= 0xE007F
    return unicodedata.category(character)[0] == "M" or character == _JOINER or tag_or_tone


def _is_flag(character: str) -> bool:
    return 0x1F1E6 <= ord(character) <= 0x1F1FF  # two of these letters are a flag


def _flags_before(text: str, cut: int) -> int:
    return next((count for count in range(cut) if not _is_flag(text[cut - 1 - count])), cut)


@dataclass(frozen=True)
class Exported:
    """The result of an export."""

    out: Path  # the file written
    rows: int  # the number of preference rows
    lost: Counter[str]  # counts of what preference rows cannot hold, by kind

    def summary(self) -> list[str]:
        """A summary for the terminal, as lines."""
        lines = [f"{self.rows} rows; written to {self.out}"]
        return lines + [f"not carried: {count} {what}" for what, count in self.lost.items() if count]


def preference_rows(judgments: Judgments, lost: Counter[str] | None = None) -> Iterator[dict[str, Any]]:
    """Every strict pair of every ranking as `prompt`, `chosen`, `rejected` and `margin`: the strength, or `None`.

    Args:
        judgments: the table.
        lost: counts what the rows cannot hold: ties, pairs of unranked responses, labels, weights, and the
            columns `NOT_CARRIED`.

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
        pair = len(row["responses"]) == 2
        lost["strengths of more than one pair"] += not pair and row["strength"] is not None
        ranks = row["ranks"] or [None] * len(row["responses"])
        for better, high in enumerate(ranks):
            for worse, low in enumerate(ranks):
                if high is not None and (low is None or high < low):
                    chosen, rejected = row["responses"][better], row["responses"][worse]
                    margin = row["strength"] if pair else None
                    yield {"prompt": row["prompt"], "chosen": chosen, "rejected": rejected, "margin": margin}
                elif better < worse and high == low and row["ranks"] is not None:
                    lost["tied pairs" if high is not None else "pairs of unranked responses"] += 1


def write_trl(judgments: Judgments, out: str | os.PathLike[str]) -> Exported:
    """Write preference rows to Parquet or JSON Lines, streaming and atomically; strengths become `margin`.

    Raises:
        PluralignError: there is no strict pair, or the disk refuses.
    """
    text, strengths = (narrow_table(judgments.table).schema.field(name).type for name in ("prompt", "strength"))
    columns = [(name, text) for name in ("prompt", "chosen", "rejected")]
    if judgments.table.column("strength").null_count < len(judgments):
        columns.append(("margin", strengths))
    lost: Counter[str] = Counter()
    rows = preference_rows(judgments, lost)
    return write_rows(rows, pa.schema(columns), out, lost, "no preference row is left: no ranking holds a strict pair")


def write_rows(
    rows: Iterator[dict[str, Any]], columns: pa.Schema, out: str | os.PathLike[str], lost: Counter[str], none: str
) -> Exported:
    """Write rows to Parquet or JSON Lines, streaming and atomically; `none` is the error if there are none."""
    count = 0
    with contextlib.ExitStack() as stack:
        write: Callable[[pa.RecordBatch], None] | None = None
        while batch := list(islice(rows, 4096)):
            write = write or stack.enter_context(table_writer(out, columns))
            write(pa.RecordBatch.from_pylist(batch, schema=columns))
            count += len(batch)
        if not count:
            raise PluralignError(none)
    return Exported(Path(out), count, lost)

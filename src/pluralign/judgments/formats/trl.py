"""TRL preference rows: prompt, chosen, rejected; texts or chat messages; the prompt apart or inside both."""

from __future__ import annotations

import os.path
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pluralign.core.errors import PluralignError, RowError, one_line
from pluralign.judgments.formats.convert import Rows, Tally, carried, check_known, convert_rows, without
from pluralign.judgments.table import Judgments
from pluralign.judgments.validation import Reject, RowChecker, checked_batches

KNOWN = ("prompt", "chosen", "rejected")


def read_trl(
    path: Path, reject: Reject | None = None, tally: Tally | None = None, drop_columns: Collection[str] = ()
) -> Rows:
    """Format `trl`: one judgment of two responses per row.

    Args:
        path: Parquet or JSON Lines in the columns of a TRL preference data set.
        reject: what to do with a bad row; `None` raises.
        tally: where rows are counted.
        drop_columns: columns to leave out on purpose, such as `score_chosen`.
    """
    return convert_rows(path, lambda row: [preference(without(row, drop_columns, tally))], reject, tally)


def from_trl(rows: Iterable[Mapping[str, Any]], drop_columns: Collection[str] = ()) -> Judgments:
    """Judgments from TRL preference rows in memory; a `datasets.Dataset` is such an iterable.

    Args:
        rows: mappings with `chosen`, `rejected` and mostly `prompt`.
        drop_columns: columns to leave out on purpose.

    Raises:
        PluralignError: the first row that is no preference, with its number; or there is none.

    Examples:
        >>> judgments = from_trl([{"prompt": "Tea?", "chosen": "Yes", "rejected": "No"}])
        >>> judgments.row(0)["responses"], judgments.row(0)["ranks"]
        (['Yes', 'No'], [1, 2])
    """

    def numbered() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, row in enumerate(rows, start=1):
            try:
                yield number, preference(without(row, drop_columns, None))
            except RowError as complaint:
                raise complaint.at("rows", number) from complaint

    import pyarrow as pa

    batches = list(checked_batches(numbered(), RowChecker(), place="rows"))
    if not batches:
        raise PluralignError("rows: no preference among them")
    return Judgments(pa.Table.from_batches(batches))


def preference(row: Mapping[str, Any]) -> dict[str, Any]:
    """One TRL row as a row of the canonical table.

    Raises:
        RowError: a column is missing, unknown, or of the wrong kind.

    Examples:
        >>> made = preference({"chosen": "The sky is blue.", "rejected": "The sky is black."})
        >>> made["prompt"], made["responses"]
        ('The sky is', [' blue.', ' black.'])
    """
    check_known(row, KNOWN)
    for name in ("chosen", "rejected"):
        if row.get(name) is None:
            raise RowError(name, "is missing: a preference row needs chosen and rejected")
        if not isinstance(row[name], str | list):
            raise RowError(name, f"found {one_line(row[name])}, expected text or a list of messages")
    chosen, rejected = row["chosen"], row["rejected"]
    if type(chosen) is not type(rejected):
        raise RowError("rejected", "chosen and rejected must both be text or both be lists of messages")
    prompt = row.get("prompt")
    if prompt is None:
        cut = _shared_messages(chosen, rejected) if isinstance(chosen, list) else _shared_text(chosen, rejected)
        prompt, chosen, rejected = chosen[:cut], chosen[cut:], rejected[cut:]
    for name, response in (("chosen", chosen), ("rejected", rejected)):
        if not response:
            apart = "is empty" if row.get("prompt") is not None else "holds nothing but the prompt that both share"
            raise RowError(name, f"{apart}: every response needs some text")
    return {"prompt": prompt, "responses": [chosen, rejected], "ranks": [1, 2], **carried(row)}


def _shared_messages(chosen: list[Any], rejected: list[Any]) -> int:
    pairs = enumerate(zip(chosen, rejected, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(chosen), len(rejected)))


def _shared_text(chosen: str, rejected: str) -> int:
    """Where the shared beginning ends, never inside a word; a space before it goes to the responses, as in TRL."""
    cut = len(os.path.commonprefix([chosen, rejected]))
    while cut > 0 and (_inside_word(chosen, cut) or _inside_word(rejected, cut)):
        cut -= 1
    return cut - 1 if cut > 0 and chosen[cut - 1] == " " else cut


def _inside_word(text: str, cut: int) -> bool:
    return cut < len(text) and _of_word(text[cut - 1]) and _of_word(text[cut])


def _of_word(sign: str) -> bool:
    return sign.isalnum() or sign == "_"

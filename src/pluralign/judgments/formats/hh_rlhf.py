"""Transcripts as in HH-RLHF: whole conversations that share their start."""

from __future__ import annotations

import os.path
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pluralign.core.errors import RowError, one_line
from pluralign.core.numbers import exact_number
from pluralign.judgments.formats.convert import Rows, Tally, carried, check_known, convert_rows
from pluralign.judgments.schema import ranks_from_scores
from pluralign.judgments.validation import Reject

MARKERS = ("\n\nAssistant:", "## Assistant:")
"""What precedes a response: as in HH-RLHF, and as in the DSP edition of WebGPT."""


def read_hh_rlhf(
    path: Path, reject: Reject | None = None, tally: Tally | None = None, drop_columns: Collection[str] = ()
) -> Rows:
    """Format `hh-rlhf`: `{chosen, rejected}` transcripts, or `{text: [...], score: [...]}` as in DSP.

    The prompt is what the transcripts share, up to their last common `Assistant:`; the responses are the exact
    rest: prompt and response joined give the transcript. Arguments as for `convert_rows`.
    """
    return convert_rows(path, lambda row: [transcripts(row)], reject, tally, drop_columns)


def transcripts(row: Mapping[str, Any]) -> dict[str, Any]:
    """One row of transcripts as a row of the canonical table.

    Examples:
        >>> made = transcripts({"chosen": "\\n\\nHuman: Tea?\\n\\nAssistant: Yes.",
        ...                     "rejected": "\\n\\nHuman: Tea?\\n\\nAssistant: No."})
        >>> made["prompt"], made["responses"]
        ('\\n\\nHuman: Tea?\\n\\nAssistant:', [' Yes.', ' No.'])
    """
    ranks: list[int | None]
    if "text" in row or "score" in row:
        check_known(row, ("text", "score"))
        texts, names = _list(row, "text"), None
        ranks = ranks_from_scores([_score(score) for score in _list(row, "score")])
        if len(ranks) != len(texts):
            raise RowError("score", f"found {len(ranks)} scores for {len(texts)} texts: give one per text")
    else:
        check_known(row, ("chosen", "rejected"))
        texts, names = [row.get("chosen"), row.get("rejected")], ("chosen", "rejected")
        ranks = [1, 2]
    columns = names or ("text",) * len(texts)
    for column, text in zip(columns, texts, strict=True):
        if not isinstance(text, str):
            raise RowError(column, f"found {one_line(text)}, expected a transcript")
    if len(set(texts)) < len(texts):
        raise RowError(columns[-1], "the row has the same transcript twice: there is nothing to compare")
    prefix = os.path.commonprefix(texts)
    ends = [start + len(marker) for marker in MARKERS if (start := prefix.rfind(marker)) >= 0]
    if not ends:
        raise RowError(columns[0], "the transcripts share no turn that starts with 'Assistant:'")
    cut = max(ends)
    for column, text in zip(columns, texts, strict=True):
        if not text[cut:].strip():
            raise RowError(column, "the response after the shared conversation is empty: it must contain text")
    return {"prompt": texts[0][:cut], "responses": [text[cut:] for text in texts], "ranks": ranks, **carried(row)}


def _list(row: Mapping[str, Any], column: str) -> list[Any]:
    value = row.get(column)
    if not isinstance(value, list) or not value:
        raise RowError(column, f"found {one_line(value)}, expected a list with one entry per response")
    return value


def _score(value: object) -> float:
    number = None if isinstance(value, str) else exact_number(value)
    if number is None:
        raise RowError("score", f"found {one_line(value)}, expected a finite number (higher is better)")
    return number

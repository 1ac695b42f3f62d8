"""Polis conversations: people vote on each other's statements."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pluralign.core.errors import PluralignError, RowError, nearest, one_line
from pluralign.core.files import disk_errors
from pluralign.judgments.formats.convert import Rows, Tally, convert_rows, without
from pluralign.judgments.rows import columns_of, read_rows
from pluralign.judgments.schema import ranks_from_scores
from pluralign.judgments.validation import Reject

SHAPES = ("votes", "people")
SCALE = "agree-pass-disagree"
LABELS = {"1": "agree", "0": "pass", "-1": "disagree"}
ABOUT_PEOPLE = ("participant", "group-id", "n-comments", "n-votes", "n-agree", "n-disagree")
"""The columns of the votes file that are no statements."""


@dataclass(frozen=True)
class Conversation:
    """What belongs to a votes file: the name, the topic, and the text of each statement by its id."""

    name: str
    prompt: str
    statements: Mapping[str, str]


def read_polis(
    path: Path,
    reject: Reject | None = None,
    tally: Tally | None = None,
    shape: str = "votes",
    comments: Path | None = None,
    prompt: str | None = None,
    drop_columns: Collection[str] = (),
) -> Rows:
    """Format `polis`: the votes file of a conversation, with its statements and its topic.

    Args:
        path: `NAME.participants-votes.csv`, as exported (`.gz` may follow).
        reject: what to do with a bad row; `None` raises.
        tally: where rows are counted, and people and statements that gave no judgment.
        shape: `votes` makes a row per person and statement with its label; `people` makes a row per person that
            ranks all statements voted on, agree over pass over disagree.
        comments: the file of statements; by default `NAME.comments.csv` beside the votes.
        prompt: the topic; by default the description in `NAME.summary.csv` beside the votes, or its topic.
        drop_columns: columns (statements, by their ids) to leave out on purpose.

    Raises:
        PluralignError: the shape is unknown, or a file beside the votes is missing.
    """
    if shape not in SHAPES:
        raise PluralignError(f"--shape: found '{shape}', expected votes or people{nearest(shape, SHAPES)}")
    for name in ABOUT_PEOPLE[:2]:
        columns = columns_of(path) or []
        if name not in columns:
            raise PluralignError(f"{path}: has no column '{name}': expected a Polis participants-votes file")
    tally = Tally() if tally is None else tally
    conversation = read_conversation(path, comments, prompt)
    convert = _votes if shape == "votes" else _person
    return convert_rows(
        path, lambda row: convert(without(row, drop_columns, tally), conversation, tally), reject, tally
    )


def read_conversation(path: Path, comments: Path | None = None, prompt: str | None = None) -> Conversation:
    """The statements and the topic that belong to a votes file.

    Raises:
        PluralignError: there are no statements, or no topic, or a statement's id stands twice.
    """
    stem = path.name.lower().removesuffix(".gz").removesuffix(".csv").removesuffix("participants-votes")
    stem = path.name[: len(stem)]
    if comments is None:
        comments = _beside(path, stem, "comments")
        if comments is None:
            raise PluralignError(f"{path}: no {stem}comments.csv (.gz) beside it: name the file with --comments")
    if prompt is None:
        prompt = _topic(path, stem)
    statements: dict[str, str] = {}
    for number, row in read_rows(comments):
        for column in ("comment-id", "comment-body"):
            if column not in row:
                raise PluralignError(f"{comments}: has no column '{column}': expected a Polis comments file")
        if row["comment-id"] in statements:
            raise RowError("comment-id", f"'{row['comment-id']}' stands twice").at(comments, number)
        statements[row["comment-id"]] = row["comment-body"]
    return Conversation(stem.rstrip(".") or path.resolve().parent.name, prompt, statements)


def _beside(path: Path, stem: str, what: str) -> Path | None:
    with disk_errors(path.parent):
        for ending in (".csv", ".csv.gz"):
            if (found := path.with_name(f"{stem}{what}{ending}")).exists():
                return found
    return None


def _topic(path: Path, stem: str) -> str:
    summary = _beside(path, stem, "summary")
    if summary is None:
        raise PluralignError(f"{path}: no {stem}summary.csv beside it: give the topic with --prompt")
    # Keys and values, one a line, without a header: the reader takes the first line for one.
    lines = [columns_of(summary) or [], *(list(row.values()) for _, row in read_rows(summary))]
    found = {line[0]: line[1].strip() for line in lines if len(line) == 2}
    prompt = found.get("conversation-description") or found.get("topic")
    if not prompt:
        raise PluralignError(f"{summary}: has neither conversation-description nor topic: use --prompt")
    return prompt


def _cast(row: Mapping[str, str]) -> dict[str, str]:
    """The votes of one person by statement, the unseen ones left out."""
    found = {}
    for column, value in row.items():
        if column in ABOUT_PEOPLE or not value.strip():
            continue
        if not column.isdigit():
            raise RowError(column, f"is no statement id: leave it out with --drop-columns {column}")
        if value.strip() not in LABELS:
            raise RowError(column, f"found {one_line(value)}, expected 1 (agree), 0 (pass), -1 (disagree) or blank")
        found[column] = LABELS[value.strip()]
    return found


def _check_counts(row: Mapping[str, str], cast: Mapping[str, str]) -> None:
    """Some exports have 1 for disagree: the counts of the same file tell."""
    for column, label in (("n-agree", "agree"), ("n-disagree", "disagree")):
        counted = sum(vote == label for vote in cast.values())
        if row.get(column, "").strip() not in ("", str(counted)):
            raise RowError(
                column,
                f"found {one_line(row[column])}, but the row has {counted} votes that mean {label} (1 agree, 0 "
                "pass, -1 disagree): check the sign of the votes, or say --drop-columns n-agree,n-disagree",
            )


def _statement(column: str, conversation: Conversation) -> str:
    text = conversation.statements.get(column)
    if text is None or not text.strip():
        state = "is not in the comments file" if text is None else "has no text"
        raise RowError(column, f"the statement {state}: add it there, or leave it out with --drop-columns {column}")
    return text


def _shared_columns(row: Mapping[str, str], conversation: Conversation) -> dict[str, Any]:
    return {
        "prompt": conversation.prompt,
        # Every conversation numbers its people and groups from 0: alone, the numbers would merge strangers.
        "annotator": f"{conversation.name}/{row['participant']}",
        "group": f"{conversation.name}/{row['group-id']}" if row["group-id"].strip() else None,
        "source": conversation.name,
    }


def _votes(row: dict[str, str], conversation: Conversation, tally: Tally) -> Iterator[dict[str, Any] | RowError]:
    cast = _cast(row)
    _check_counts(row, cast)
    if not cast:
        tally.left_out["people without a vote"] += 1
    for column, label in cast.items():
        try:
            yield {
                **_shared_columns(row, conversation),
                "responses": [_statement(column, conversation)],
                "labels": [label],
            }
        except RowError as complaint:
            yield complaint


def _person(row: dict[str, str], conversation: Conversation, tally: Tally) -> Iterator[dict[str, Any]]:
    cast = _cast(row)
    _check_counts(row, cast)
    if len(cast) < 2:
        reason = "people without a vote" if not cast else "people with a single vote, which ranks nothing"
        tally.left_out[reason] += 1
        return
    by_text: dict[str, str] = {}
    for column in cast:
        other = by_text.setdefault(_statement(column, conversation), column)
        if other != column:
            raise RowError(
                column, f"has the same text as statement {other}: leave one out with --drop-columns {column}"
            )
    worth = {"agree": 1, "pass": 0, "disagree": -1}
    ranks = ranks_from_scores([worth[label] for label in cast.values()])
    yield {**_shared_columns(row, conversation), "responses": list(by_text), "ranks": ranks}

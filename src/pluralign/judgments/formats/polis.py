"""Polis conversations: participants vote on each other's statements."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pluralign.core.errors import PluralignError, RowError, nearest, one_line
from pluralign.core.files import disk_errors
from pluralign.judgments.formats.convert import Rows, Tally, convert_rows
from pluralign.judgments.reading import columns_of, read_rows
from pluralign.judgments.schema import ranks_from_scores
from pluralign.judgments.validation import Reject

SHAPES = ("votes", "people")
SCALE = "agree-pass-disagree"
LABELS = {"1": "agree", "0": "pass", "-1": "disagree"}
ABOUT_PEOPLE = ("participant", "group-id", "n-comments", "n-votes", "n-agree", "n-disagree")
"""The columns of the votes file that are not statements."""


@dataclass(frozen=True)
class Conversation:
    """What a votes file refers to: the name of the conversation, its topic, and the statements by id."""

    name: str
    prompt: str
    statements: Mapping[str, str]
    first: Mapping[str, str]  # the first statement with each text


def read_polis(
    path: Path,
    reject: Reject | None = None,
    tally: Tally | None = None,
    shape: str = "votes",
    comments: Path | None = None,
    prompt: str | None = None,
    drop_columns: Collection[str] = (),
) -> Rows:
    """Format `polis`: the votes file of a conversation. Other arguments as for `convert_rows`.

    Args:
        path: `NAME.participants-votes.csv`, as exported (`.gz` may follow).
        reject: called with each bad row; `None` raises.
        tally: counts rows, and participants without a judgment.
        shape: `votes` gives a row with a label per participant and statement; `people` gives a row per participant
            that ranks all their statements, agree over pass over disagree.
        comments: the file of statements. Default: `NAME.comments.csv` beside the votes.
        prompt: the topic. Default: the description, or else the topic, in `NAME.summary.csv` beside the votes.
        drop_columns: columns (statements, by their ids) to leave out.

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
    conversation = read_conversation(path, comments, prompt, drop_columns)
    convert = _labels if shape == "votes" else _ranking
    return convert_rows(path, lambda row: convert(row, conversation, tally), reject, tally, drop_columns)


def read_conversation(
    path: Path, comments: Path | None = None, prompt: str | None = None, drop_columns: Collection[str] = ()
) -> Conversation:
    """The statements and the topic that belong to a votes file."""
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
            raise RowError("comment-id", f"'{row['comment-id']}' appears twice").at(comments, number)
        statements[row["comment-id"]] = row["comment-body"]
    first: dict[str, str] = {}
    for each, text in statements.items():
        if each not in drop_columns:
            first.setdefault(text, each)
    return Conversation(stem.rstrip(".") or path.resolve().parent.name, prompt, statements, first)


def _beside(path: Path, stem: str, what: str) -> Path | None:
    with disk_errors(path.parent):
        for ending in (".csv", ".csv.gz"):
            if (file := path.with_name(f"{stem}{what}{ending}")).exists():
                return file
    return None


def _topic(path: Path, stem: str) -> str:
    summary = _beside(path, stem, "summary")
    if summary is None:
        raise PluralignError(f"{path}: no {stem}summary.csv beside it: give the topic with --prompt")
    # A key and a value per line, without a header: the reader takes the first line for a header.
    lines = [columns_of(summary) or [], *(list(row.values()) for _, row in read_rows(summary))]
    values = {line[0]: line[1].strip() for line in lines if len(line) == 2}
    prompt = values.get("conversation-description") or values.get("topic")
    if not prompt:
        raise PluralignError(f"{summary}: has neither conversation-description nor topic: use --prompt")
    return prompt


def _votes(row: Mapping[str, str]) -> dict[str, str]:
    """The votes of one participant by statement, without the unseen ones."""
    votes = {}
    for column, value in row.items():
        if column in ABOUT_PEOPLE or not value.strip():
            continue
        if not column.isdigit():
            raise RowError(column, f"is not a statement id: leave it out with --drop-columns {column}")
        if value.strip() not in LABELS:
            raise RowError(column, f"found {one_line(value)}, expected 1 (agree), 0 (pass), -1 (disagree) or blank")
        votes[column] = LABELS[value.strip()]
    # Some exports use 1 for disagree: the counts in the same file reveal it.
    for column, label in (("n-agree", "agree"), ("n-disagree", "disagree")):
        counted = sum(vote == label for vote in votes.values())
        if row.get(column, "").strip() not in ("", str(counted)):
            raise RowError(
                column,
                f"found {one_line(row[column])}, but the row has {counted} votes that mean {label} (1 agree, 0 "
                "pass, -1 disagree): check the sign of the votes, or use --drop-columns n-agree,n-disagree",
            )
    return votes


def _statement(column: str, conversation: Conversation) -> str:
    text = conversation.statements.get(column)
    if text is None or not text.strip():
        state = "is not in the comments file" if text is None else "has no text"
        raise RowError(column, f"the statement {state}: add it there, or leave it out with --drop-columns {column}")
    if (first := conversation.first[text]) != column:  # votes on the two would become votes on one
        advice = f"leave one out with --drop-columns {column}"
        raise RowError(column, f"the statement has the same text as statement {first}: {advice}")
    return text


def _shared_columns(row: Mapping[str, str], conversation: Conversation) -> dict[str, Any]:
    return {
        "prompt": conversation.prompt,
        # Every conversation numbers participants and groups from 0; the name keeps those of different ones apart.
        "annotator": f"{conversation.name}/{row['participant']}",
        "group": f"{conversation.name}/{row['group-id']}" if row["group-id"].strip() else None,
        "source": conversation.name,
    }


def _labels(row: dict[str, str], conversation: Conversation, tally: Tally) -> Iterator[dict[str, Any] | RowError]:
    votes = _votes(row)
    if not votes:
        tally.left_out["participants without a vote"] += 1
    for column, label in votes.items():
        try:
            responses = [_statement(column, conversation)]
        except RowError as complaint:
            yield complaint
        else:
            yield {**_shared_columns(row, conversation), "responses": responses, "labels": [label]}


def _ranking(row: dict[str, str], conversation: Conversation, tally: Tally) -> Iterator[dict[str, Any]]:
    votes = _votes(row)
    if len(votes) < 2:
        tally.left_out[f"participants {'with a single vote, which ranks nothing' if votes else 'without a vote'}"] += 1
        return
    responses = [_statement(column, conversation) for column in votes]
    scores = {"agree": 1, "pass": 0, "disagree": -1}
    ranks = ranks_from_scores([scores[label] for label in votes.values()])
    yield {**_shared_columns(row, conversation), "responses": responses, "ranks": ranks}

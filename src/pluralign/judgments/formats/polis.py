"""Polis conversations: participants vote on each other's statements."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pluralign.core.errors import PluralignError, RowError, nearest, one_line
from pluralign.core.files import disk_errors
from pluralign.core.numbers import exact_number
from pluralign.judgments.formats.arena import epoch_time
from pluralign.judgments.formats.convert import Rows, Tally, convert_rows
from pluralign.judgments.formats.templates import word
from pluralign.judgments.rows import columns_of, read_rows
from pluralign.judgments.schema import ranks_from_scores
from pluralign.judgments.validation import Reject

SHAPES = ("votes", "people")
SCALE = "agree-pass-disagree"
LABELS = {"1": "agree", "0": "pass", "-1": "disagree"}
ABOUT_PEOPLE = ("participant", "xid", "group-id", "n-comments", "n-votes", "n-agree", "n-disagree")
"""The columns of the votes file that are not statements."""

LONG = ("comment-id", "voter-id", "vote")
"""The columns of a file with a row per vote."""

FILES = ("participants-votes", "participant-votes", "votes")
"""How the names of votes files end."""


@dataclass(frozen=True)
class Conversation:
    """What a votes file refers to: the name of the conversation, its topic, and the statements by id."""

    name: str
    prompt: str
    statements: Mapping[str, str]
    first: Mapping[str, str]  # the first statement with each text
    left_out: Collection[str] = ()  # statements that the moderators rejected
    counts: tuple[int, int] = (0, 0)  # agrees and disagrees of all statements, as the comments file counts them


def read_polis(
    path: Path,
    reject: Reject | None = None,
    tally: Tally | None = None,
    shape: str = "votes",
    comments: Path | None = None,
    prompt: str | None = None,
    drop_columns: Collection[str] = (),
    keep_moderated: bool = False,
) -> Rows:
    """Format `polis`: the votes file of a conversation. Other arguments as for `convert_rows`.

    Args:
        path: `NAME.participants-votes.csv` or `NAME-participant-votes.csv`, as exported (`.gz` may follow), or
            `NAME-votes.csv` with a row per vote.
        reject: called with each bad row; `None` raises.
        tally: counts rows, and participants without a judgment.
        shape: `votes` gives a row with a label per participant and statement; `people` gives a row per participant
            that ranks all their statements, agree over pass over disagree.
        comments: the file of statements. Default: `NAME.comments.csv` or `NAME-comments.csv` beside the votes.
        prompt: the topic. Default: the description, or else the topic, in `NAME.summary.csv` beside the votes.
        drop_columns: columns (statements, by their ids) to leave out.
        keep_moderated: keep the votes on statements that the moderators rejected (`moderated` is -1).

    Raises:
        PluralignError: the shape is unknown, or a file beside the votes is missing.
    """
    if shape not in SHAPES:
        raise PluralignError(f"--shape: found '{shape}', expected votes or people{nearest(shape, SHAPES)}")
    columns, tally = columns_of(path) or [], Tally() if tally is None else tally
    long = all(name in columns for name in LONG)
    for name in ("participant", "group-id"):
        if not long and name not in columns:
            raise PluralignError(f"{path}: has no column '{name}': expected a Polis participants-votes file")
    conversation = read_conversation(path, comments, prompt, drop_columns, keep_moderated)
    convert = _labels if shape == "votes" else _ranking
    if long:
        return _long_votes(path, conversation, convert, reject, tally, drop_columns)
    return convert_rows(path, lambda row: convert(row, conversation, tally), reject, tally, drop_columns)


def _long_votes(
    path: Path,
    conversation: Conversation,
    convert: Callable[[dict[str, str], Conversation, Tally], Iterator[dict[str, Any] | RowError]],
    reject: Reject | None,
    tally: Tally,
    drop_columns: Collection[str],
) -> Rows:
    """A file with a row per vote, gathered by participant; a later vote on a statement replaces the earlier one."""
    people: dict[str, tuple[int, dict[str, str]]] = {}
    times: dict[tuple[str, str], Any] = {}  # of each vote, by participant and statement

    def gathered(row: dict[str, str]) -> list[dict[str, Any]]:
        voter, statement = (word(row[name]) for name in ("voter-id", "comment-id"))
        if statement in drop_columns:
            return []
        votes = people.setdefault(voter, (tally.rows, {"participant": voter, "group-id": ""}))[1]
        if statement in votes:
            tally.left_out["votes that their participant replaced later"] += 1
        votes[statement] = row["vote"]
        times[voter, statement] = epoch_time(row.get("timestamp"), "timestamp")
        return []

    yield from convert_rows(path, gathered, reject, tally)
    _check_sign(path, [votes for _, votes in people.values()], conversation)
    for number, votes in people.values():
        voter = votes["participant"]
        parts = [votes]
        if convert is _labels:  # one vote each, with its time
            about = {"participant": voter, "group-id": ""}
            parts = [{**about, name: vote} for name, vote in votes.items() if name not in about]
        made: list[dict[str, Any] | RowError] = []
        for part in parts:
            time = times.get((voter, list(part)[-1])) if convert is _labels else None
            try:
                made += [
                    judgment if isinstance(judgment, RowError) else {**judgment, "time": time}
                    for judgment in convert(part, conversation, tally)
                ]
            except RowError as complaint:
                made.append(complaint)
        for judgment in made:
            if not isinstance(judgment, RowError):
                yield number, judgment
            elif reject is None:
                raise judgment.at(path, number) from judgment
            else:
                reject(number, votes, judgment)


def _check_sign(path: Path, people: Sequence[Mapping[str, str]], conversation: Conversation) -> None:
    """Compare the votes with the counts of the comments file: some exports use 1 for disagree."""
    flat = [word(vote) for votes in people for name, vote in votes.items() if name not in ABOUT_PEOPLE]
    agree, disagree = flat.count("1"), flat.count("-1")
    agreed, disagreed = conversation.counts
    if abs(agree - agreed) + abs(disagree - disagreed) > abs(agree - disagreed) + abs(disagree - agreed):
        raise PluralignError(
            f"{path}: has {agree} votes 1 and {disagree} votes -1, but the comments file counts {agreed} agrees and "
            f"{disagreed} disagrees: the export has the opposite sign; multiply the column 'vote' by -1"
        )


def read_conversation(
    path: Path,
    comments: Path | None = None,
    prompt: str | None = None,
    drop_columns: Collection[str] = (),
    keep_moderated: bool = False,
) -> Conversation:
    """The statements and the topic that belong to a votes file."""
    name = path.name.lower().removesuffix(".gz").removesuffix(".csv")
    ending = next((ending for ending in FILES if name.endswith(ending)), "")
    stem = path.name[: len(name) - len(ending)]
    if comments is None:
        comments = _beside(path, stem, "comments")
        if comments is None:
            raise PluralignError(f"{path}: no {stem}comments.csv (.gz) beside it: name the file with --comments")
    if prompt is None:
        prompt = _topic(path, stem)
    statements: dict[str, str] = {}
    rejected: list[str] = []
    counts = [0, 0]
    for number, row in read_rows(comments):
        for column in ("comment-id", "comment-body"):
            if column not in row:
                raise PluralignError(f"{comments}: has no column '{column}': expected a Polis comments file")
        statement = word(row["comment-id"])
        if statement in statements:
            raise RowError("comment-id", f"'{row['comment-id']}' appears twice").at(comments, number)
        statements[statement] = row["comment-body"]
        for at, column in enumerate(("agrees", "disagrees")):
            counts[at] += int(exact_number(row.get(column)) or 0)
        if word(row.get("moderated", "")) == "-1" and not keep_moderated:
            rejected.append(statement)
    first: dict[str, str] = {}
    for each, text in statements.items():
        if each not in drop_columns and each not in rejected:
            first.setdefault(text, each)
    title = stem.rstrip(".-_") or path.resolve().parent.name
    return Conversation(title, prompt, statements, first, frozenset(rejected), (counts[0], counts[1]))


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
        value = word(value)
        if not column.isdigit():
            raise RowError(column, f"is not a statement id: leave it out with --drop-columns {column}")
        if value not in LABELS:
            raise RowError(column, f"found {one_line(value)}, expected 1 (agree), 0 (pass), -1 (disagree) or blank")
        votes[column] = LABELS[value]
    # Some exports use 1 for disagree: the counts in the same file reveal it.
    for column, label in (("n-agree", "agree"), ("n-disagree", "disagree")):
        counted = sum(vote == label for vote in votes.values())
        if word(row.get(column, "")) not in ("", str(counted)):
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
        # An xid is the participant's id in another system, which is the same in every conversation.
        "annotator": row.get("xid", "").strip() or f"{conversation.name}/{word(row['participant'])}",
        "group": f"{conversation.name}/{word(row['group-id'])}" if row["group-id"].strip() else None,
        "source": conversation.name,
    }


def _labels(row: dict[str, str], conversation: Conversation, tally: Tally) -> Iterator[dict[str, Any] | RowError]:
    votes = _kept(_votes(row), conversation, tally)
    if not votes:
        tally.left_out["participants without a vote"] += 1
    for column, label in votes.items():
        try:
            responses = [_statement(column, conversation)]
        except RowError as complaint:
            yield complaint
        else:
            yield {**_shared_columns(row, conversation), "responses": responses, "labels": [label]}


def _kept(votes: dict[str, str], conversation: Conversation, tally: Tally) -> dict[str, str]:
    """The votes on statements that the moderators did not reject."""
    kept = {column: label for column, label in votes.items() if column not in conversation.left_out}
    if len(kept) < len(votes):
        tally.left_out["votes on statements that the moderators rejected (--keep-moderated)"] += len(votes) - len(kept)
    return kept


def _ranking(row: dict[str, str], conversation: Conversation, tally: Tally) -> Iterator[dict[str, Any]]:
    votes = _kept(_votes(row), conversation, tally)
    if len(votes) < 2:
        tally.left_out[f"participants {'with a single vote, which ranks nothing' if votes else 'without a vote'}"] += 1
        return
    responses = [_statement(column, conversation) for column in votes]
    scores = {"agree": 1, "pass": 0, "disagree": -1}
    ranks = ranks_from_scores([scores[label] for label in votes.values()])
    yield {**_shared_columns(row, conversation), "responses": responses, "ranks": ranks}

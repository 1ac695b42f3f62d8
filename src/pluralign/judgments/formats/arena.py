"""Chatbot Arena: two whole conversations and a winner, as published or as in the Kaggle competitions."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pluralign.core.errors import RowError, nearest, one_line
from pluralign.core.numbers import finite_float
from pluralign.judgments.chats import as_chat, in_one_form
from pluralign.judgments.formats.convert import Rows, Tally, convert_rows
from pluralign.judgments.validation import Reject

WINNERS = {"model_a": [1, 2], "model_b": [2, 1], "tie": [1, 1], "tie (bothbad)": [1, 1], "both_bad": [1, 1]}


def read_arena(
    path: Path, reject: Reject | None = None, tally: Tally | None = None, drop_columns: Collection[str] = ()
) -> Rows:
    """Format `chatbot-arena`: a judgment of two conversations per row. Arguments as for `convert_rows`.

    The prompt is what the conversations share at their start; the responses are the rest, with the user's later turns.
    Both forms are read: `conversation_a`, `conversation_b`, `winner`; and Kaggle's `prompt`, `response_a`, `response_b`
    (a JSON list with the text of each turn) with `winner_model_a`, `winner_model_b`, `winner_tie`. "Both bad" is a tie,
    and counted.
    """
    counts = Tally() if tally is None else tally
    return convert_rows(path, lambda row: [battle(row, counts)], reject, counts, drop_columns)


def battle(row: Mapping[str, Any], tally: Tally) -> dict[str, Any]:
    """The judgment of one row.

    Examples:
        >>> made = battle({"prompt": '["Tea?"]', "response_a": '["Yes"]', "response_b": '["No"]',
        ...                "winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0}, Tally())
        >>> made["prompt"], made["responses"][0], made["ranks"]
        ([{'role': 'user', 'content': 'Tea?'}], [{'role': 'assistant', 'content': 'Yes'}], [2, 1])
    """
    if "conversation_a" in row:
        sides = [_conversation(row, f"conversation_{side}") for side in "ab"]
    else:
        sides = [_turns(row, f"response_{side}") for side in "ab"]
    winner = _winner(row)
    if winner in ("tie (bothbad)", "both_bad"):
        tally.left_out["differences between 'both bad' and 'tie' (both are ties)"] += 1
    prompt, responses = in_one_form(None, sides, ("conversation_a", "conversation_b"))
    judge = row.get("judge", row.get("user_id"))
    named = isinstance(judge, str) and not judge.startswith("arena_user_anonymous")
    return {
        "prompt": prompt,
        "responses": responses,
        "ranks": WINNERS[winner],
        "annotator": judge if named or isinstance(judge, int) else None,
        "id": row.get("question_id", row.get("id")),
        "source": "chatbot-arena",
        "time": epoch_time(row.get("tstamp", row.get("timestamp")), "tstamp"),
    }


def _conversation(row: Mapping[str, Any], column: str) -> list[Any]:
    chat = as_chat(row.get(column), column)
    if not isinstance(chat, list) or len(chat) < 2:
        raise RowError(column, f"found {one_line(row.get(column))}, expected a conversation as a list of messages")
    return chat


def _turns(row: Mapping[str, Any], column: str) -> list[Any]:
    prompts, answers = (_texts(row.get(name), name) for name in ("prompt", column))
    if len(prompts) != len(answers):
        raise RowError(column, f"found {len(answers)} answers to {len(prompts)} prompts: expected one for each")
    pairs = zip(prompts, answers, strict=True)
    return [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


def _texts(value: Any, column: str) -> list[str]:
    """The text of each turn; Kaggle writes `null` for an empty answer."""
    try:
        texts = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        texts = None
    if not isinstance(texts, list) or not texts or not all(text is None or isinstance(text, str) for text in texts):
        raise RowError(column, f"found {one_line(value)}, expected a JSON list with the text of each turn")
    return [text or "" for text in texts]


def _winner(row: Mapping[str, Any]) -> str:
    if "winner" in row:
        winner = str(row["winner"]).strip()
        if winner not in WINNERS:
            expected = f"expected one of {', '.join(WINNERS)}{nearest(winner, WINNERS)}"
            raise RowError("winner", f"found {one_line(row['winner'])}, {expected}")
        return winner
    names = {"model_a": "winner_model_a", "model_b": "winner_model_b", "tie": "winner_tie"}
    won = [winner for winner, name in names.items() if finite_float(row.get(name)) == 1]
    if len(won) != 1:
        raise RowError("winner_model_a", "expected a 1 in one of winner_model_a, winner_model_b and winner_tie")
    return won[0]


def epoch_time(value: Any, column: str) -> Any:
    """A time from seconds or milliseconds since 1970; text and times as they are.

    Examples:
        >>> epoch_time(0, "tstamp").isoformat(), epoch_time(1717156800123, "tstamp").year
        ('1970-01-01T00:00:00+00:00', 2024)
    """
    if value in (None, ""):
        return None
    seconds = None if isinstance(value, str) and not value.replace(".", "", 1).isdigit() else finite_float(value)
    if seconds is None:
        return value
    try:
        seconds /= 1000 if abs(seconds) >= 1e11 else 1
        return datetime.datetime.fromtimestamp(math.floor(seconds), datetime.UTC)
    except (OverflowError, ValueError, OSError):
        raise RowError(column, f"found {one_line(value)}, expected seconds since 1970") from None

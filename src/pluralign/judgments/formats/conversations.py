"""Sources that hold whole conversations: message trees of OpenAssistant, and PRISM."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pluralign.core.errors import RowError, one_line
from pluralign.judgments.formats.convert import Rows, Tally, convert_rows
from pluralign.judgments.schema import ranks_from_scores
from pluralign.judgments.validation import Reject

ROLES = {"prompter": "user", "assistant": "assistant"}


def read_oasst(
    path: Path, reject: Reject | None = None, tally: Tally | None = None, drop_columns: Collection[str] = ()
) -> Rows:
    """Format `oasst`: for each message of a tree, a ranking of its ranked replies by the assistant.

    Ranks start at 0. Deleted messages and what follows them are left out and counted, and so are replies without a
    rank. Arguments as for `convert_rows`.
    """
    counts = Tally() if tally is None else tally
    return convert_rows(path, lambda row: tree_judgments(row, counts), reject, counts, drop_columns)


def tree_judgments(row: Mapping[str, Any], tally: Tally) -> Iterator[dict[str, Any] | RowError]:
    """The judgments of one message tree.

    Examples:
        >>> reply = {"role": "assistant", "replies": []}
        >>> tree = {"message_tree_id": "t", "prompt": {"text": "Tea?", "role": "prompter", "message_id": "m",
        ...         "replies": [{**reply, "text": "No", "rank": 1}, {**reply, "text": "Yes", "rank": 0}]}}
        >>> made, = tree_judgments(tree, Tally())
        >>> made["prompt"], made["ranks"], made["id"]
        ([{'role': 'user', 'content': 'Tea?'}], [2, 1], 'm')
    """
    root = row.get("prompt")
    if not isinstance(root, Mapping):
        raise RowError("prompt", f"found {one_line(root)}, expected the root of a message tree")
    open_nodes: list[tuple[Mapping[str, Any], list[dict[str, str]], str]] = [(root, [], "prompt")]
    made = 0
    while open_nodes:
        node, before, place = open_nodes.pop()
        if node.get("deleted"):
            tally.left_out["deleted messages, with their replies"] += 1
            continue
        role, text, replies = ROLES.get(str(node.get("role"))), node.get("text"), node.get("replies")
        replies = [] if replies is None else replies
        if role is None or not isinstance(text, str) or not isinstance(replies, list):
            yield RowError(place, f"found {one_line(node)}, expected a message with role, text and replies")
            continue
        if not all(isinstance(reply, Mapping) for reply in replies):
            yield RowError(f"{place}.replies", f"found {one_line(replies)}, expected messages")
            continue
        chat = [*before, {"role": role, "content": text}]
        open_nodes += [(reply, chat, f"{place}.replies.{at}") for at, reply in enumerate(replies)][::-1]
        answers = [reply for reply in replies if reply.get("role") == "assistant" and not reply.get("deleted")]
        ranked = [reply for reply in answers if reply.get("rank") is not None]
        if answers and len(ranked) < len(answers):
            tally.left_out["replies without a rank"] += len(answers) - len(ranked)
        if len(ranked) < 2:
            continue
        ranks = [reply["rank"] for reply in ranked]
        if not all(type(rank) is int for rank in ranks):
            yield RowError(f"{place}.replies", f"found the ranks {one_line(ranks)}, expected whole numbers")
            continue
        made += 1
        yield {
            "prompt": chat,
            "responses": [[{"role": "assistant", "content": reply.get("text")}] for reply in ranked],
            "ranks": ranks_from_scores([-rank for rank in ranks]),
            "id": node.get("message_id"),
            "source": node.get("lang"),
        }
    if not made:
        tally.left_out["trees without two ranked replies"] += 1


def read_prism(
    path: Path, reject: Reject | None = None, tally: Tally | None = None, drop_columns: Collection[str] = ()
) -> Rows:
    """Format `prism`: `conversations.jsonl` of PRISM; each turn ranks its responses by the score of the user.

    Arguments as for `convert_rows`.
    """
    counts = Tally() if tally is None else tally
    return convert_rows(path, lambda row: conversation_judgments(row, counts), reject, counts, drop_columns)


def conversation_judgments(row: Mapping[str, Any], tally: Tally) -> Iterator[dict[str, Any] | RowError]:
    """The judgments of one conversation: a ranking for each turn with two responses or more.

    Examples:
        >>> say = {"turn": 0, "role": "model", "if_chosen": False}
        >>> row = {"user_id": "u1", "conversation_id": "c1", "conversation_history": [
        ...     {"turn": 0, "role": "user", "content": "Tea?"},
        ...     {**say, "content": "Yes", "score": 90, "if_chosen": True}, {**say, "content": "No", "score": 10}]}
        >>> made, = conversation_judgments(row, Tally())
        >>> made["responses"][0], made["ranks"], made["annotator"], made["id"]
        ([{'role': 'assistant', 'content': 'Yes'}], [1, 2], 'u1', 'c1/0')
    """
    history = row.get("conversation_history")
    if not isinstance(history, list) or not all(isinstance(entry, Mapping) for entry in history):
        raise RowError("conversation_history", f"found {one_line(history)}, expected a list of messages")
    chat: list[dict[str, Any]] = []
    turns = [entry.get("turn") for entry in history]
    if not all(type(turn) is int for turn in turns):
        raise RowError("conversation_history", f"found the turns {one_line(turns)}, expected whole numbers")
    for turn in dict.fromkeys(turns):
        entries = [entry for entry in history if entry.get("turn") == turn]
        chat += [{"role": "user", "content": entry.get("content")} for entry in entries if entry.get("role") == "user"]
        shown = [entry for entry in entries if entry.get("role") == "model"]
        scores = [entry.get("score") for entry in shown]
        if len(shown) < 2 or None in scores:
            tally.left_out["turns without two scored responses"] += 1
        elif not all(isinstance(score, int | float) and not isinstance(score, bool) for score in scores):
            yield RowError("conversation_history", f"turn {turn}: found {one_line(scores)}, expected scores")
        else:
            yield {
                "prompt": list(chat),
                "responses": [[{"role": "assistant", "content": entry.get("content")}] for entry in shown],
                "ranks": ranks_from_scores(scores),
                "annotator": row.get("user_id"),
                "id": None if row.get("conversation_id") is None else f"{row['conversation_id']}/{turn}",
                "source": row.get("conversation_type"),
                "time": row.get("generated_datetime"),
            }
        chosen = next((entry for entry in shown if entry.get("if_chosen")), None)
        if chosen is None:
            break  # the conversation went on from a chosen response
        chat.append({"role": "assistant", "content": chosen.get("content")})

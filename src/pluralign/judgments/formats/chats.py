"""Chats in the forms in which other tools write them, as messages of `role` and `content`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pluralign.core.errors import RowError, one_line

ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
"""The roles of other tools that have another name here."""


def as_messages(text: object) -> Any:
    """The messages of a chat that a cell holds as JSON text, as in CSV files; any other value as it is.

    Examples:
        >>> as_messages('[{"role": "user", "content": "Tea?"}]'), as_messages("[1]")
        ([{'role': 'user', 'content': 'Tea?'}], '[1]')
    """
    if not isinstance(text, str) or not text.lstrip().startswith("["):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    keys = ("role", "from")
    chat = isinstance(value, list) and value and all(isinstance(m, dict) and any(k in m for k in keys) for m in value)
    return value if chat else text


def as_chat(value: Any, column: str) -> Any:
    """Messages of `role` and `content` from a chat, one message, or their JSON text; other values as they are.

    ShareGPT's `from` and `value`, contents that are lists of text parts (OpenAI, Anthropic) and the roles in `ROLES`
    are understood.

    Raises:
        RowError: a message has content other than text, or calls tools.

    Examples:
        >>> as_chat([{"from": "human", "value": "Tea?"}], "prompt")
        [{'role': 'user', 'content': 'Tea?'}]
        >>> as_chat({"role": "assistant", "content": [{"type": "text", "text": "Yes"}]}, "chosen")
        [{'role': 'assistant', 'content': 'Yes'}]
    """
    value = as_messages(value)
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list) or not value or not all(isinstance(message, Mapping) for message in value):
        return value
    return [_message(message, column) for message in value]


def _message(message: Mapping[str, Any], column: str) -> Any:
    share_gpt = "from" in message and "value" in message
    role, content = (message.get(key) for key in (("from", "value") if share_gpt else ("role", "content")))
    if not isinstance(role, str):
        return message  # the row's check refuses it
    others = [name for name, found in message.items() if name not in _KNOWN and found not in (None, [], {}, "")]
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        if not all(isinstance(text, str) for text in texts):
            raise RowError(column, f"found {one_line(content)}, expected parts with text: other content is not read")
        content = "".join(map(str, texts))
    if content is None and "tool_calls" in message:
        others = others or ["tool_calls"]
    if others:
        raise RowError(column, f"a message has '{others[0]}': messages hold a role and a text, and nothing else")
    return {"role": ROLES.get(role.lower(), role), "content": content}


_KNOWN = ("role", "content", "from", "value")


def in_one_form(prompt: Any, responses: Sequence[Any], columns: Sequence[str] = ()) -> tuple[Any, list[Any]]:
    """A prompt and responses in one form, texts or chats.

    If the responses are chats and the prompt is missing or text, the prompt is what the chats share at their start, as
    in TRL; if they share nothing, the text is the user's message. If the responses repeat the prompt, it is cut off.
    If the prompt is a chat and the responses are texts, these become messages of the assistant.

    Args:
        prompt: the prompt; `None` if it is only in the responses.
        responses: the responses.
        columns: the column of each response, for errors. Default: `responses`.

    Examples:
        >>> yes, no = ([{"role": "user", "content": "Tea?"}, {"role": "assistant", "content": text}] for text in "yn")
        >>> in_one_form("Tea?", [yes, no])[0]
        [{'role': 'user', 'content': 'Tea?'}]
        >>> in_one_form(yes[:1], ["y"])[1]
        [[{'role': 'assistant', 'content': 'y'}]]
    """
    names = columns or ["responses"] * len(responses)
    shown = [as_chat(response, name) for response, name in zip(responses, names, strict=True)]
    if shown and all(isinstance(response, list) for response in shown):
        prompt = as_chat(prompt, "prompt")
        if isinstance(prompt, list):
            start = prompt
        else:
            start = shown[0][: _shared(shown)]
            if not start and prompt not in (None, ""):
                return [{"role": "user", "content": prompt}], shown
        repeated = all(response[: len(start)] == start and len(response) > len(start) for response in shown)
        if not isinstance(prompt, list) or repeated:
            shown = [response[len(start) :] for response in shown]
        return start, shown
    chat = as_chat(prompt, "prompt") if not isinstance(prompt, str) or prompt.lstrip().startswith("[") else prompt
    if isinstance(chat, list):
        shown = [[{"role": "assistant", "content": text}] if isinstance(text, str) else text for text in shown]
    return chat, shown


def _shared(chats: Sequence[list[Any]]) -> int:
    """The number of messages that all chats share at their start."""
    shortest = min(map(len, chats))
    differs = (at for at in range(shortest) if any(chat[at] != chats[0][at] for chat in chats))
    return next(differs, shortest)

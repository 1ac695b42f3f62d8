"""Chats in the forms in which other tools write them, as messages of this library's form."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pluralign.core.errors import RowError, one_line
from pluralign.judgments.messages import EXTRA_KEYS, tool_calls

ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function": "tool",
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
    """Messages as in `judgments.messages` from a chat, one message, or their JSON text; other values as they are.

    Understood are ShareGPT's `from` and `value`, contents that are lists of text parts (OpenAI, Anthropic), calls of
    tools and their results as OpenAI (`tool_calls`, `tool`, the older `function_call`) and Anthropic (`tool_use`,
    `tool_result`) write them, and the roles in `ROLES`. A result of Anthropic's is a message of its own.

    Raises:
        RowError: a message has other content, such as images.

    Examples:
        >>> as_chat([{"from": "human", "value": "Tea?"}], "prompt")
        [{'role': 'user', 'content': 'Tea?'}]
        >>> as_chat({"role": "assistant", "content": [{"type": "text", "text": "Yes"}]}, "chosen")
        [{'role': 'assistant', 'content': 'Yes'}]
        >>> as_chat({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "9"}]}, "x")
        [{'role': 'tool', 'content': '9', 'tool_call_id': 'c1'}]
    """
    value = as_messages(value)
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list) or not value or not all(isinstance(message, Mapping) for message in value):
        return value
    return [read for message in value for read in _read_messages(message, column)]


def _read_messages(message: Mapping[str, Any], column: str) -> list[Any]:
    """What one message of another tool is here: itself, and the results of tools that it holds before it."""
    given = {name: found for name, found in message.items() if found not in (None, [], {}, "")}
    keys = ("from", "value") if "from" in message and "value" in message else ("role", "content")
    role, content = (message.get(key) for key in keys)
    if not isinstance(role, str):
        return [message]  # the row's check refuses it
    more = {name: given[name] for name in EXTRA_KEYS if name in given}
    if "function_call" in given:
        more["tool_calls"] = [*more.get("tool_calls", []), given["function_call"]]
    others = given.keys() - {*keys, *EXTRA_KEYS, "function_call"}
    if others:
        expected = f"a message holds a role, a text and at most {', '.join(EXTRA_KEYS)}"
        raise RowError(column, f"a message has '{min(others, key=str)}': {expected}")
    results: list[Any] = []
    if isinstance(content, list):
        content, calls, results = _parts(content, column)
        if calls:
            more["tool_calls"] = [*more.get("tool_calls", []), *calls]
        if results and not content and not more:
            return results
    if "tool_calls" in more:
        more["tool_calls"], content = tool_calls(more["tool_calls"], column), content or ""
    return [*results, {"role": ROLES.get(role.lower(), role), "content": content, **more}]


def _parts(content: list[Any], column: str) -> tuple[str, list[Any], list[Any]]:
    """The text, the calls of tools, and the results of tools in a list of parts."""
    texts: list[str] = []
    calls, results = [], []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = part.get("text") if isinstance(part, Mapping) else part
        if kind == "tool_use":
            calls.append({"id": part.get("id"), "name": part.get("name"), "arguments": part.get("input")})
        elif kind == "tool_result" and not part.get("is_error"):
            results.append(_result(part, column))
        elif isinstance(text, str):
            texts.append(text)
        else:
            expected = "expected parts with text, tool_use or a tool_result without is_error: other content is not read"
            raise RowError(column, f"found {one_line(part)}, {expected}")
    return "".join(texts), calls, results


def _result(part: Mapping[str, Any], column: str) -> dict[str, Any]:
    """The message of a result of a tool in Anthropic's form."""
    called, inner = part.get("tool_use_id"), part.get("content") or ""
    texts = [inner] if isinstance(inner, str) else inner
    if isinstance(inner, list):
        texts = [each.get("text") if isinstance(each, Mapping) else each for each in inner]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in [*texts, called or ""]):
        raise RowError(column, f"found {one_line(part)}, expected a tool_result with tool_use_id and text")
    return {"role": "tool", "content": "".join(texts)} | ({"tool_call_id": called} if called else {})


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

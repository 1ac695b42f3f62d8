"""Chat messages: their columns, their values in Python, and their text.

A message is a mapping with `role` and `content` and, where the source has them, `name`, `tool_calls` and
`tool_call_id`, as in OpenAI's chats; the arguments of a call are JSON text. In Arrow every message has all five, with
nulls; in Python only those that it has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pluralign.core.errors import RowError, one_line

PLAIN_KEYS = ("role", "content")
EXTRA_KEYS = ("name", "tool_calls", "tool_call_id")
_CALL = pa.struct(
    [
        ("id", pa.string()),
        ("type", pa.string()),
        ("function", pa.struct([("name", pa.string()), ("arguments", pa.string())])),
    ]
)
MESSAGE = pa.struct(
    [
        ("role", pa.string()),
        ("content", pa.string()),
        ("name", pa.string()),
        ("tool_calls", pa.list_(_CALL)),
        ("tool_call_id", pa.string()),
    ]
)
MESSAGES = pa.list_(MESSAGE)


def tool_calls(value: object, column: str) -> list[dict[str, Any]]:
    """The calls of a message in the form of OpenAI; also read are calls without `function` around name and arguments.

    Arguments that are an object become JSON text; text stays as it is, whether or not it is JSON.

    Raises:
        RowError: the value is not a list of calls of functions.

    Examples:
        >>> tool_calls([{"name": "weather", "arguments": {"town": "Delft"}}], "prompt")
        [{'type': 'function', 'function': {'name': 'weather', 'arguments': '{"town": "Delft"}'}}]
    """
    if not isinstance(value, list):
        raise RowError(column, f"found the tool_calls {one_line(value)}, expected a list")
    return [_call(call, column) for call in value]


def _call(call: object, column: str) -> dict[str, Any]:
    wrong = RowError(
        column, f"found the tool call {one_line(call)}, expected id, type: function, and function: {{name, arguments}}"
    )
    if not isinstance(call, Mapping):
        raise wrong
    given = {key: value for key, value in call.items() if value is not None}
    function = given.pop("function", None)
    if function is None:
        function = {key: given.pop(key) for key in ("name", "arguments") if key in given}
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise wrong
    kind, identifier = given.pop("type", "function"), given.pop("id", None)
    if kind != "function" or given or set(function) - {"name", "arguments"} or not isinstance(identifier, str | None):
        raise wrong
    arguments = function.get("arguments")
    try:
        text = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
        f"{identifier}{function['name']}{text}".encode()
    except (ValueError, TypeError, RecursionError):
        raise wrong from None
    named = {} if identifier is None else {"id": identifier}
    return {**named, "type": "function", "function": {"name": function["name"], "arguments": text}}


def for_template(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages as chat templates expect them: arguments that are a JSON object as that object.

    Examples:
        >>> call = {"type": "function", "function": {"name": "weather", "arguments": '{"town": "Delft"}'}}
        >>> for_template([{"role": "assistant", "content": "", "tool_calls": [call]}])[0]["tool_calls"][0]["function"]
        {'name': 'weather', 'arguments': {'town': 'Delft'}}
    """
    return [_with_objects(message) if message.get("tool_calls") else dict(message) for message in messages]


def _with_objects(message: Mapping[str, Any]) -> dict[str, Any]:
    calls = [
        {**call, "function": {**call["function"], "arguments": _object(call["function"]["arguments"])}}
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


def _object(arguments: Any) -> Any:
    """The object that JSON text holds, or the text."""
    if not isinstance(arguments, str):
        return arguments
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def message_text(message: Mapping[str, Any]) -> str:
    """The content of a message, and its calls as `name(arguments)`, line by line.

    Examples:
        >>> call = {"type": "function", "function": {"name": "weather", "arguments": '{"town": "Delft"}'}}
        >>> message_text({"role": "assistant", "content": "I look it up.", "tool_calls": [call]})
        'I look it up.\\nweather({"town": "Delft"})'
    """
    return "\n".join([*([message["content"]] if message["content"] else []), *calls_of(message)])


def calls_of(message: Mapping[str, Any]) -> list[str]:
    """The calls of a message as `name(arguments)`."""
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    return [f"{call['name']}({call['arguments']})" for call in calls]


def plain_text(text: Any) -> str:
    """A text unchanged; messages as their texts, joined by line breaks.

    Examples:
        >>> plain_text([{"role": "user", "content": "Tea?"}, {"role": "assistant", "content": "Yes"}])
        'Tea?\\nYes'
    """
    return text if isinstance(text, str) else "\n".join(map(message_text, text))


def python_values(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """A column as Python values; messages without what they do not have.

    Examples:
        >>> python_values(pa.array([[{"role": "user", "content": "Tea?"}]], MESSAGES))
        [[{'role': 'user', 'content': 'Tea?'}]]
    """
    if not _holds_messages(column.type):
        return column.to_pylist()
    if isinstance(column, pa.ChunkedArray):
        return [value for chunk in column.chunks for value in python_values(chunk)]
    narrow = _narrowed(column)
    values = narrow.to_pylist()
    return [_present(value) for value in values] if narrow.type == column.type else values


def python_rows(table: pa.Table | pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows of a table as Python values; messages without what they do not have."""
    if not any(_holds_messages(kind) for kind in table.schema.types):
        return table.to_pylist()
    columns = [python_values(column) for column in table.columns]
    return [dict(zip(table.schema.names, row, strict=True)) for row in zip(*columns, strict=True)]


def narrow_table(table: pa.Table) -> pa.Table:
    """The table for other tools: messages of role and content only, if no message has more.

    Templates may ask whether a message has a key, which it has in Arrow as soon as another message has it.
    """
    places = [at for at, kind in enumerate(table.schema.types) if _holds_messages(kind)]
    narrow = {at: [_narrowed(chunk) for chunk in table.column(at).chunks] for at in places}
    if any(chunk.type == table.schema.types[at] for at, chunks in narrow.items() for chunk in chunks):
        return table
    for at, chunks in narrow.items():
        table = table.set_column(at, table.schema.names[at], pa.chunked_array(chunks))
    return table


def _holds_messages(kind: pa.DataType) -> bool:
    return kind == MESSAGE or (pa.types.is_list(kind) and _holds_messages(kind.value_type))


def _narrowed(column: pa.Array) -> pa.Array:
    """The column with messages of role and content only, if no message has more."""
    if pa.types.is_list(column.type):
        inner = _narrowed(column.flatten())
        lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        ends = pa.array(np.concatenate(([0], np.cumsum(lengths))), pa.int32())
        return pa.ListArray.from_arrays(ends, inner, mask=column.is_null() if column.null_count else None)
    if any(column.field(name).null_count < len(column) for name in EXTRA_KEYS):
        return column
    fields = [column.field(name) for name in PLAIN_KEYS]
    return pa.StructArray.from_arrays(fields, names=list(PLAIN_KEYS), mask=column.is_null())


def _present(value: Any) -> Any:
    """A value without the entries of its mappings that are null."""
    if isinstance(value, list):
        return [_present(each) for each in value]
    if isinstance(value, dict):
        return {key: _present(each) for key, each in value.items() if each is not None}
    return value

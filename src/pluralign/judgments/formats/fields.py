"""Names of fields that differ from project to project: said once as `KEY=NAME`, looked up in every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pluralign.core.errors import PluralignError, RowError, nearest, one_line
from pluralign.judgments.formats.templates import Field


def named_fields(given: Sequence[str], defaults: Mapping[str, str]) -> dict[str, str]:
    """The names that a reader goes by: the defaults, replaced by what the user said.

    Args:
        given: `KEY=NAME` each; an empty name is a name that is not there.
        defaults: all keys that the format knows.

    Raises:
        PluralignError: there is no `=`, the key is unknown (the nearest one is named), or it stands twice.

    Examples:
        >>> named_fields(["prompt=query"], {"prompt": "prompt", "items": "items"})
        {'prompt': 'query', 'items': 'items'}
    """
    said: dict[str, str] = {}
    for text in given:
        key, equals, name = text.partition("=")
        if not equals or key not in defaults:
            known = ", ".join(f"{key}=NAME" for key in defaults)
            raise PluralignError(f"--field: found {one_line(text)}, expected {known}{nearest(key, defaults)}")
        if key in said:
            raise PluralignError(f"--field: '{key}' is said twice: once as '{said[key]}', once as '{name}'")
        said[key] = name
    return {**defaults, **said}


def names_in(text: str) -> list[str]:
    """The names in a list separated by commas.

    Examples:
        >>> names_in("good, bad"), names_in("")
        (['good', 'bad'], [])
    """
    return [name.strip() for name in text.split(",") if name.strip()]


def field_value(data: Mapping[str, Any], name: str, place: str, mend: str) -> Any:
    """What a field holds; dots lead into nested values.

    Args:
        data: where the field is.
        name: the field.
        place: what stands before the name in a complaint.
        mend: what to do when the field is not there.

    Raises:
        RowError: there is no such field, or it holds nothing.

    Examples:
        >>> field_value({"query": {"text": "Tea?"}}, "query.text", "data.", "--field prompt=NAME")
        'Tea?'
    """
    try:
        value = Field(name).value(data, {})
    except RowError as complaint:
        raise RowError(f"{place}{name}", f"{complaint.message}: name the field with {mend}") from complaint
    if value is None:
        raise RowError(f"{place}{name}", f"holds nothing, expected a value: name another field with {mend}")
    return value


def answers_to(prompt: Any, answers: Sequence[Any]) -> list[Any]:
    """The answers in the form of the prompt: an assistant's message each where the prompt is a chat.

    Examples:
        >>> answers_to([{"role": "user", "content": "Tea?"}], ["Yes"])
        [[{'role': 'assistant', 'content': 'Yes'}]]
    """
    if not isinstance(prompt, list):
        return list(answers)
    return [[{"role": "assistant", "content": text}] if isinstance(text, str) else text for text in answers]

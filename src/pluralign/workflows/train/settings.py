"""One YAML file and flags to a config, every value checked by type and choice before anything loads."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union

import yaml

from pluralign.core.errors import PluralignError, nearest, one_line
from pluralign.core.yaml_lines import read_yaml_lines


@dataclass(frozen=True)
class Given:
    """A value as it was given, and its place: a line of the file, or a flag."""

    value: Any
    place: str
    flag: bool = False

    def complain(self, message: str) -> PluralignError:
        """An error that names the place."""
        return PluralignError(f"{self.place}: {message}")


def read_yaml(path: Path) -> dict[str, Given]:
    """The keys of a YAML file with their lines.

    Raises:
        PluralignError: the file is missing, not valid YAML, not a mapping, or has a key twice.
    """
    root = read_yaml_lines(path)
    if not isinstance(root.content, dict):
        raise root.complain("expected keys and values, like 'objective: plackett-luce'")
    return {str(key): Given(value.plain(), f"{value.place}, key '{value.key}'") for key, value in root.content.items()}


def read_flags(arguments: Sequence[str]) -> dict[str, Given]:
    """`--key value`, `--key=value` and `--switch` as given values; `--learning-rate` is `learning_rate`.

    Raises:
        PluralignError: something stands where a flag was expected.

    Examples:
        >>> {key: given.value for key, given in read_flags(["--seed", "1", "--bf16"]).items()}
        {'seed': '1', 'bf16': 'true'}
    """
    found: dict[str, Given] = {}
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        if not word.startswith("--") or len(word) == 2:
            raise PluralignError(f"found {one_line(word)}, expected a flag like --learning_rate 1e-5")
        name, equals, value = word[2:].partition("=")
        if not equals:
            value = waiting.pop(0) if waiting and not waiting[0].startswith("--") else "true"
        found[name.replace("-", "_")] = Given(value, f"--{name}", flag=True)
    return found


def check_known(given: Mapping[str, Given], known: Sequence[str]) -> None:
    """Raise for the first unknown key, with the nearest known one."""
    for key, found in given.items():
        if key not in known:
            raise found.complain(f"unknown key '{key}'{nearest(key, known)}")


def fields_of(kind: type) -> dict[str, tuple[Any, dataclasses.Field[Any]]]:
    """The fields of a config dataclass that a user may set: name to (type, field)."""
    hints = typing.get_type_hints(kind)
    return {field.name: (hints[field.name], field) for field in dataclasses.fields(kind) if field.init}


def check_value(given: Given, hint: Any, choices: Sequence[Any] | None = None) -> Any:
    """A given value as its field's type.

    Numbers in text form (`1e-6` is text to YAML) are read as numbers; a flag's text is read as its type asks.

    Raises:
        PluralignError: names the place, what was found, and what was expected.

    Examples:
        >>> check_value(Given("1e-6", "config.yaml, line 3, key 'learning_rate'"), float)
        1e-06
    """
    try:
        value = _as_type(given.value, hint, given.flag)
    except _Mismatch as expected:
        raise given.complain(f"found {one_line(given.value)}, expected {expected}") from None
    if choices is not None and value is not None and value not in choices:
        hint_text = nearest(str(value), [str(choice) for choice in choices])
        raise given.complain(f"found {one_line(value)}, expected one of {', '.join(map(str, choices))}{hint_text}")
    return value


class _Mismatch(Exception):
    """Carries the expected value."""


def _as_type(value: Any, hint: Any, flag: bool) -> Any:
    if hint is Any:
        return value
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return _choice(value, inner)
    if origin in (Union, types.UnionType):
        return _any_of(value, inner, flag)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _choice(value, [member.value for member in hint])
    if origin in (list, tuple):
        return _list(value, inner, flag)
    if hint in (dict, list) or origin is dict:
        return _parsed(value, dict if hint is not list else list)
    return _scalar(value, hint, flag)


def _any_of(value: Any, kinds: Sequence[Any], flag: bool) -> Any:
    named_nothing = ("null", "None") if str in kinds else ("null", "None", "none")  # `--report_to none` is a name
    if value is None or (flag and value in named_nothing):
        if type(None) in kinds:
            return None
        raise _Mismatch("a value")
    kinds = [kind for kind in kinds if kind is not type(None)]
    named = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, enum.Enum)]
    # `SchedulerType | str` means the names of SchedulerType, written as text.
    kinds = named or sorted(kinds, key=lambda kind: kind is str)
    expected = []
    for kind in kinds:
        try:
            return _as_type(value, kind, flag)
        except _Mismatch as mismatch:
            expected.append(str(mismatch))
    raise _Mismatch(" or ".join(dict.fromkeys(expected)))


def _choice(value: Any, choices: Sequence[Any]) -> Any:
    if value in choices:
        return value
    names = [str(choice) for choice in choices]
    raise _Mismatch(f"one of {', '.join(names)}{nearest(str(value), names)}")


def _list(value: Any, inner: Sequence[Any], flag: bool) -> Any:
    if flag and isinstance(value, str):
        value = _yaml(value) if value.startswith("[") else value.split(",")
    if not isinstance(value, list):
        raise _Mismatch("a list, like [a, b]")
    return [_as_type(item, inner[0] if inner else Any, flag) for item in value]


def _parsed(value: Any, kind: type) -> Any:
    if isinstance(value, str):
        value = _yaml(value)
    if not isinstance(value, kind):
        raise _Mismatch("keys and values, like {key: value}" if kind is dict else "a list, like [a, b]")
    return value


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as fault:
        raise _Mismatch("YAML") from fault


def _scalar(value: Any, hint: Any, flag: bool) -> Any:
    if hint is bool:
        if flag and str(value).lower() in ("true", "false"):
            return str(value).lower() == "true"
        if isinstance(value, bool):
            return value
        raise _Mismatch("true or false")
    if hint in (int, float):
        return _number(value, hint)
    if hint is str:
        if isinstance(value, str):
            return value
        raise _Mismatch("text")
    raise _Mismatch(f"a value of type {hint}")


def _number(value: Any, kind: type) -> Any:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = None
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise _Mismatch("a whole number" if kind is int else "a number")
    if kind is float:
        return float(value)
    if value != int(value):
        raise _Mismatch("a whole number")
    return int(value)


def plain(value: Any) -> Any:
    """A config's value in a form that YAML can store and read back."""
    if isinstance(value, enum.Enum):
        return value.value
    return json.loads(json.dumps(value, default=str))

"""Dataclasses as JSON files: one function writes them, one reads them back and checks every key."""

from __future__ import annotations

import functools
import json
import math
import types
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pluralign.core.errors import PluralignError, one_line
from pluralign.core.files import disk_errors, write_json

Record = TypeVar("Record")

_EXPECTED = {
    str: "text", bool: "true or false", int: "a whole number", float: "a number", list: "a list", dict: "an object",
}  # fmt: skip


def write_record(path: Path, record: object) -> None:
    """Write a dataclass, or a list of them, as JSON: keys are field names, NaN and infinities become null."""
    write_json(path, _plain(record))


def read_record(path: Path, kind: type[Record]) -> Record:
    """Read what `write_record` wrote.

    `kind` is a dataclass, or `list[...]` of one. Its fields are text, numbers, `Any`, other dataclasses, and lists,
    dictionaries and `| None` of these. Fields with a default may be missing; unknown keys are ignored.

    Raises:
        PluralignError: the file is not JSON or does not fit `kind`; names the file and the key.

    Examples:
        >>> import tempfile
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Share:
        ...     name: str
        ...     share: float | None = None
        >>> path = Path(tempfile.mkdtemp()) / "shares.json"
        >>> write_record(path, [Share("a", 0.5), Share("b", float("nan"))])
        >>> read_record(path, list[Share])
        [Share(name='a', share=0.5), Share(name='b', share=None)]
    """
    return record_of(read_json(path), kind, str(path))


def read_json(path: Path) -> Any:
    """The content of a JSON file; NaN and infinities are read as None.

    Raises:
        PluralignError: the file is missing, not UTF-8, or not JSON.
    """
    try:
        return json.loads(read_text(path), parse_constant=lambda _: None)
    except (json.JSONDecodeError, RecursionError) as fault:
        raise PluralignError(f"{path}: is not valid JSON ({fault}): run the command that wrote it again") from fault


def read_text(path: Path) -> str:
    """The content of a UTF-8 file.

    Raises:
        PluralignError: the file is missing or not UTF-8.
    """
    with disk_errors(path):
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as fault:
            raise PluralignError(f"{path}: is not UTF-8: was it damaged or written by another tool?") from fault


def record_of(value: Any, kind: Any, file: str, key: str = "") -> Any:
    """A JSON value as `kind`; errors name its `file` and `key`."""
    inner = get_args(kind)
    if kind is Any:
        return value
    if types.NoneType in inner:
        return None if value is None else record_of(value, inner[0], file, key)
    place = f"{file}, {key}" if key else file
    shape = dict if is_dataclass(kind) else get_origin(kind) or kind
    fits = isinstance(value, (int, float) if shape is float else shape)
    if not fits or (isinstance(value, bool) and shape is not bool):
        raise PluralignError(f"{place}: found {one_line(value, 60)}, expected {_EXPECTED[shape]}")
    if is_dataclass(kind):
        return _dataclass_of(value, kind, file, key)
    if shape is list:
        return [record_of(item, inner[0], file, f"{key}[{index}]") for index, item in enumerate(value)]
    if shape is dict:
        return {name: record_of(item, inner[1], file, f"{key}.{name}") for name, item in value.items()}
    return value


def _dataclass_of(value: dict[str, Any], kind: Any, file: str, key: str) -> Any:
    place = f"{file}, {key}" if key else file
    given = {}
    for field in fields(kind):
        if field.name in value:
            name = f"{key}.{field.name}" if key else field.name
            given[field.name] = record_of(value[field.name], _types(kind)[field.name], file, name)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise PluralignError(f"{place}: lacks the key '{field.name}'")
    try:
        return kind(**given)
    except PluralignError as fault:
        raise PluralignError(f"{place}: {fault}") from None


@functools.cache
def _types(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

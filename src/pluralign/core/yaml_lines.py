"""YAML files, read with the line of each value."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pluralign.core.errors import PluralignError, clipped
from pluralign.core.files import disk_errors


class _Loader(yaml.SafeLoader):
    """Reads `true` and `false`, null, whole and decimal numbers; everything else is text.

    YAML 1.1 reads `yes`, `no` and `on` as booleans, `010` as 8, `1:30` as 90 and `2024-05-31` as a date: as labels,
    names or answers they are text.
    """


# What PyYAML writes without quotes must come back as it was, so this is its pattern without numbers in base 60.
_FLOAT = (
    r"[-+]?[0-9]+\.[0-9]*(?:[eE][-+][0-9]+)?|\.[0-9]+(?:[eE][-+][0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _signs in (
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", "[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", _FLOAT, "-+0123456789."),
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), list(_signs))


@dataclass(frozen=True)
class Value:
    """A value of a YAML file: a scalar, or a list or mapping of further `Value`s."""

    content: Any
    place: str
    key: str
    written: str = ""  # a scalar as it is written, without quotes

    def complain(self, message: str) -> PluralignError:
        """An error that names the file, the line and the key."""
        at = f", key '{clipped(self.key)}'" if self.key else ""
        return PluralignError(f"{self.place}{at}: {clipped(message, 1000)}")

    def plain(self) -> Any:
        """The value without its line numbers."""
        if isinstance(self.content, dict):
            return {key: value.plain() for key, value in self.content.items()}
        if isinstance(self.content, list):
            return [value.plain() for value in self.content]
        return self.content


def read_yaml_lines(path: Path) -> Value:
    """Read one YAML document from a file.

    Raises:
        PluralignError: the file is missing, not UTF-8, not valid YAML, or has a key twice.
    """
    with disk_errors(path):
        data = path.read_bytes()
    try:
        return parse_yaml(data.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as fault:
        raise PluralignError(f"{path}: byte {fault.start + 1} is not UTF-8: save the file as UTF-8") from fault


def read_yaml(path: Path) -> Any:
    """The plain values of a YAML file; errors are those of `read_yaml_lines`."""
    return read_yaml_lines(path).plain()


def parse_yaml(text: str, place: str) -> Value:
    """Parse one YAML document; `place` names it in errors, which are those of `read_yaml_lines`.

    Examples:
        >>> parse_yaml("{yes: 1:30, size: 010, rate: 1.5}", "example").plain()
        {'yes': '1:30', 'size': '010', 'rate': 1.5}
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            raise PluralignError(f"{place}: the file is empty")
        return _Reader(loader, place, len(text) + _MORE_NODES).value(node, "")
    except yaml.YAMLError as fault:
        raise PluralignError(f"{place}: not valid YAML: {clipped(' '.join(str(fault).split()), 1000)}") from fault
    except RecursionError as fault:
        raise PluralignError(f"{place}: is nested too deeply, or an alias refers to itself") from fault
    except ValueError as fault:  # a number of thousands of digits
        if isinstance(fault, PluralignError):
            raise
        raise PluralignError(f"{place}: not valid YAML: {fault}") from fault


_MORE_NODES = 10_000
"""How many values a document may have beyond its number of characters, which only aliases can exceed."""


class _Reader:
    """Turns nodes into values, each time that an alias repeats them anew: a small file can stand for many."""

    def __init__(self, loader: _Loader, place: str, most: int) -> None:
        self.loader = loader
        self.place = place
        self.left = most

    def value(self, node: yaml.Node, key: str) -> Value:
        """The value of a node, and the dotted key that leads to it."""
        self.left -= 1
        if self.left < 0:
            raise PluralignError(f"{self.place}: its aliases stand for too many values: write it without aliases")
        place = f"{self.place}, line {node.start_mark.line + 1}"
        if isinstance(node, yaml.SequenceNode):
            inner = [self.value(item, f"{key}.{number}") for number, item in enumerate(node.value, start=1)]
            return Value(inner, place, key)
        if not isinstance(node, yaml.MappingNode):
            return Value(self.loader.construct_object(node), place, key, str(node.value))
        items: dict[Any, Value] = {}
        for key_node, value_node in node.value:
            at = f"{self.place}, line {key_node.start_mark.line + 1}"
            if not isinstance(key_node, yaml.ScalarNode):
                raise PluralignError(f"{at}: a key must be plain text: put quotes around text that starts with {{")
            name = self.loader.construct_object(key_node)
            dotted = f"{key}.{key_node.value}" if key else str(key_node.value)
            if name in items:
                raise PluralignError(f"{at}, key '{clipped(dotted)}': appears twice in the file")
            inner_value = self.value(value_node, dotted)
            items[name] = Value(inner_value.content, at, dotted, inner_value.written)
        return Value(items, place, key)

"""YAML files, read with the line of each value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pluralign.core.errors import PluralignError
from pluralign.core.files import disk_errors


class _Loader(yaml.SafeLoader):
    """Reads only `true` and `false` as booleans: `yes`, `no` and `on` may be labels."""


_Loader.yaml_implicit_resolvers = {
    sign: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool" or sign in "tTfF"]
    for sign, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


@dataclass(frozen=True)
class Value:
    """A value of a YAML file: a scalar, or a list or mapping of further `Value`s."""

    content: Any
    place: str
    key: str

    def complain(self, message: str) -> PluralignError:
        """An error that names the file, the line and the key."""
        at = f", key '{self.key}'" if self.key else ""
        return PluralignError(f"{self.place}{at}: {message}")

    def plain(self) -> Any:
        """The value without its line numbers."""
        if isinstance(self.content, dict):
            return {key: value.plain() for key, value in self.content.items()}
        if isinstance(self.content, list):
            return [value.plain() for value in self.content]
        return self.content


def read_yaml_lines(path: Path) -> Value:
    """Read one YAML document.

    Raises:
        PluralignError: the file is missing, not UTF-8, not valid YAML, or has a key twice.
    """
    with disk_errors(path):
        data = path.read_bytes()
    try:
        loader = _Loader(data.decode("utf-8-sig"))
        node = loader.get_single_node()
        if node is None:
            raise PluralignError(f"{path}: the file is empty")
        return _value(node, loader, path, "")
    except UnicodeDecodeError as fault:
        raise PluralignError(f"{path}: byte {fault.start + 1} is not UTF-8: save the file as UTF-8") from fault
    except yaml.YAMLError as fault:
        raise PluralignError(f"{path}: not valid YAML: {' '.join(str(fault).split())}") from fault
    except RecursionError as fault:
        raise PluralignError(f"{path}: is nested too deeply, or an alias refers to itself") from fault


def _value(node: yaml.Node, loader: _Loader, path: Path, key: str) -> Value:
    place = f"{path}, line {node.start_mark.line + 1}"
    if isinstance(node, yaml.SequenceNode):
        inner = [_value(item, loader, path, f"{key}.{number}") for number, item in enumerate(node.value, start=1)]
        return Value(inner, place, key)
    if not isinstance(node, yaml.MappingNode):
        return Value(loader.construct_object(node), place, key)
    items: dict[Any, Value] = {}
    for key_node, value_node in node.value:
        at = f"{path}, line {key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode):
            raise PluralignError(f"{at}: a key must be plain text: put quotes around text that starts with {{")
        name = loader.construct_object(key_node)
        dotted = f"{key}.{key_node.value}" if key else str(key_node.value)
        if name in items:
            raise PluralignError(f"{at}, key '{dotted}': appears twice in the file")
        items[name] = Value(_value(value_node, loader, path, dotted).content, at, dotted)
    return Value(items, place, key)

"""What `train --help` and `train --fields` print: the objectives, and the keys of an objective's config."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import sys
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, Union

import typer

from pluralign.cli.options import OnceCommand
from pluralign.core.errors import PluralignError, nearest
from pluralign.training.objectives import OBJECTIVES


class TrainCommand(OnceCommand):
    """The command `train`, whose help ends with the list of objectives."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the list."""
        with formatter.section("Objectives"):
            formatter.write_dl([(name, entry.summary) for name, entry in OBJECTIVES.items()])


class Key(NamedTuple):
    """A key of a training config, as text."""

    name: str
    type: str
    default: str
    help: str


def print_fields(objective: str | None) -> None:
    """Print all keys of an objective and exit: tables on a terminal, otherwise one line per key."""
    if objective is None:
        return
    if objective not in OBJECTIVES:
        expected = ", ".join(OBJECTIVES) + nearest(objective, OBJECTIVES)
        raise PluralignError(f"--fields: found '{objective}', expected one of {expected}")
    for title, keys in keys_of(objective).items():
        if sys.stdout.isatty():
            _print_table(title, keys)
        else:
            typer.echo(f"# {title}")
            for key in keys:
                typer.echo(f"{key.name}: {key.type} = {key.default}  # {key.help}")
    raise typer.Exit


def keys_of(objective: str) -> dict[str, list[Key]]:
    """All keys of an objective by who defines them: first the method's own, last those of `TrainingArguments`."""
    from trl import ModelConfig

    from pluralign.training.configs import JudgmentConfig
    from pluralign.workflows.train.settings import DEFAULT_MODEL_KEYS, NOT_SET_BY_USERS, RunKeys, fields_of

    entry = OBJECTIVES[objective]
    config = entry.config
    classes = {name: _defining_class(config, name) for name in fields_of(config)}
    own = [name for name, kind in classes.items() if kind.__module__.startswith("pluralign.")]
    shared = [name for name in own if classes[name] is JudgmentConfig]
    trl = [name for name, kind in classes.items() if kind.__module__.startswith("trl.")]
    groups = (
        (objective, config, [name for name in own if name not in shared]),
        ("all objectives: files and model", RunKeys, list(fields_of(RunKeys))),
        ("all training on judgments", JudgmentConfig, shared),
        ("TRL's " + (classes[trl[0]].__name__ if trl else ""), config, trl),
        ("TRL's ModelConfig", ModelConfig, list(fields_of(ModelConfig))),
        ("transformers' TrainingArguments", config, [name for name in classes if name not in (*own, *trl)]),
    )
    defaults = {**DEFAULT_MODEL_KEYS, **entry.trainer.default_model_keys, **entry.trainer.fixed_model_keys}
    seen = {*NOT_SET_BY_USERS, *entry.trainer.hidden_keys}
    keys: dict[str, list[Key]] = {}
    for title, kind, names in groups:
        group = [name for name in names if name not in seen and (kind is RunKeys or name not in fields_of(RunKeys))]
        seen |= {*group}
        if group:
            keys[title] = [_key(*fields_of(kind)[name]) for name in group]
            if kind is ModelConfig:
                keys[title] = [
                    key._replace(default=json.dumps(defaults[key.name])) if key.name in defaults else key
                    for key in keys[title]
                ]
    return keys


def _defining_class(config: type, name: str) -> type:
    """The class that last defines a field, among a config class and its bases."""
    return next(kind for kind in config.__mro__ if name in inspect.get_annotations(kind))


def _key(hint: Any, field: dataclasses.Field[Any]) -> Key:
    choices = field.metadata.get("choices")
    text = " | ".join(dict.fromkeys(map(str, choices) if choices else _type_names(hint)))
    return Key(field.name, text, _default(field), " ".join(field.metadata.get("help", "").split()))


def _type_names(hint: Any) -> Iterator[str]:
    """The names of a type's alternatives, or its choices."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        yield from map(str, inner)
    elif origin in (Union, types.UnionType):
        enums = [kind for kind in inner if isinstance(kind, type) and issubclass(kind, enum.Enum)]
        for kind in inner:
            if not (enums and kind is str):  # `SchedulerType | str` means the names of SchedulerType
                yield from _type_names(kind)
    elif isinstance(hint, type) and issubclass(hint, enum.Enum):
        yield from (str(member.value) for member in hint)
    elif hint is type(None):
        yield "null"
    else:
        yield str(hint).replace("typing.", "") if inner else getattr(hint, "__name__", str(hint))


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    elif field.default is dataclasses.MISSING:
        return "(required)"
    else:
        value = field.default
    if isinstance(value, enum.Enum):
        value = value.value
    return value if isinstance(value, str) and value else json.dumps(value, default=str)


def _print_table(title: str, keys: Sequence[Key]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("key", "type", "default", "help", title=title, title_justify="left")
    for key in keys:
        table.add_row(*key)
    Console(markup=False, highlight=False).print(table)

"""The command-line options of a benchmark, described by their defaults."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from .results import COMMAND


@dataclass(frozen=True)
class Option:
    """An option whose default alone does not say everything.

    Args:
        default: its value where it is not given.
        help: one line for `--help`.
        choices: the values that are allowed.
        type: of a value, where the default is `None`.
    """

    default: Any
    help: str = ""
    choices: Collection[Any] | None = None
    type: Any = None


def parts(names: Collection[str], help: str = "Run only these parts.") -> Option:
    """Several of some names; all of them by default."""
    return Option(list(names), help, names)


def parsed(description: str | None, **options: Any) -> argparse.Namespace:
    """The options of the command line.

    Each keyword is an option and its default: an `Option`, `(default, help)`, or the default alone. A list takes
    several values, a boolean becomes a pair of flags, other types are taken from the default.
    """

    class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
        pass

    prog = " ".join(COMMAND.split()[:3])
    parser = argparse.ArgumentParser(prog, description=description, formatter_class=Formatter)
    for name, given in options.items():
        option = given if isinstance(given, Option) else Option(*given) if isinstance(given, tuple) else Option(given)
        default = option.default
        settings: dict[str, Any] = {"default": default, "help": option.help or " "}
        if isinstance(default, bool):
            settings["action"] = argparse.BooleanOptionalAction
        else:
            several = isinstance(default, list)
            settings["type"] = option.type or type(default[0] if several else default)
            settings["choices"] = option.choices
            if several:
                settings["nargs"] = "+"
        parser.add_argument("--" + name.replace("_", "-"), **settings)
    return parser.parse_args()


QUICK = (False, "A short trial run; its results are stored apart and change no table.")

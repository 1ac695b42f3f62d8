"""Errors that name the place and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PluralignError(ValueError):
    """Bad input or usage, in one line: where, what was found, and what was expected.

    The command line prints only the message and exits with code 2.
    """


class Interrupted(Exception):
    """A person stopped the command: the command line prints what has become of the work and exits with code 130."""


class TrainingError(RuntimeError):
    """Work has failed although its input was right: a loss is not finite, or another process has stopped.

    The command line prints only the message and exits with code 1.
    """


class RowError(PluralignError):
    """A row of an imported file cannot be used. A row's reader raises it; the file's reader adds the place with `at`.

    Args:
        column: the column or key at fault, or `None` for the whole row.
        message: what was found and what was expected.

    Examples:
        >>> str(RowError("ranks", "found 0, expected whole numbers from 1 (best)").at("votes.jsonl", 7))
        "votes.jsonl, row 7, column 'ranks': found 0, expected whole numbers from 1 (best)"
    """

    def __init__(self, column: str | None, message: str) -> None:
        super().__init__(message if column is None else f"column '{column}': {message}")
        self.column = column
        self.message = message

    def at(self, file: object, row: int) -> PluralignError:
        """The same error with its file and row (counted from 1), cut if it quotes long names."""
        column = "" if self.column is None else f", column '{clipped(self.column)}'"
        return PluralignError(f"{file}, row {row}{column}: {clipped(self.message, 1000)}")


def clipped(text: str, limit: int = 200) -> str:
    """A text of the input inside a message, cut at `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the closest known word; empty if none is close.

    Examples:
        >>> nearest("learnig_rate", ["learning_rate", "seed"]), nearest("zzz", ["learning_rate"])
        (" (did you mean 'learning_rate'?)", '')
    """
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{match[0]}'?)" if match else ""


def one_line(text: object, limit: int = 80) -> str:
    """The `repr` of a value for a one-line message, cut at `limit` characters.

    Examples:
        >>> one_line("first\\nsecond")
        "'first\\\\nsecond'"
    """
    return clipped(repr(text), limit)

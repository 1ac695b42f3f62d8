"""A log of answers on disk, so that an interrupted run asks only what is missing."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pluralign.core.errors import PluralignError
from pluralign.core.files import disk_errors
from pluralign.core.fingerprint import fingerprint

Key = tuple[str, str]
"""The names of an item and a persona."""


@dataclass(frozen=True)
class Answer:
    """An answer of a language model."""

    text: str  # the raw text
    refused: bool = False  # whether the server marked it as a refusal


@dataclass
class AnswerLog:
    """A file of answers, one JSON object per line; the first line holds the settings of the run."""

    path: Path  # the file
    answers: dict[Key, Answer]  # the answers in it
    file: IO[bytes]  # the open file

    def add(self, answers: Iterable[tuple[Key, Answer]]) -> None:
        """Append answers; they are in the file when this returns."""
        lines = []
        for key, answer in answers:
            self.answers[key] = answer
            entry = {"item": key[0], "persona": key[1], "answer": answer.text}
            lines.append(json.dumps(entry | ({"refused": True} if answer.refused else {})))
        with disk_errors(self.path):
            self.file.write("".join(line + "\n" for line in lines).encode())
            self.file.flush()


@contextlib.contextmanager
def answer_log(path: Path, settings: Mapping[str, Any]) -> Iterator[AnswerLog]:
    """Open or create the log of a run, with the answers that an interrupted run left.

    An incomplete last line is dropped. A file of a run with other `settings`, or a damaged one, raises a
    `PluralignError`, and is not changed.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes() if path.exists() else b""
    whole = data[: data.rfind(b"\n") + 1]
    if whole.count(b"\n") == 1:
        whole = b""  # it holds no answer, so any run may use it
    answers = _answers(path, whole, settings)
    head = {"fingerprint": fingerprint(dict(settings)), "settings": dict(settings)}
    try:
        with contextlib.ExitStack() as stack:
            with disk_errors(path):
                file = stack.enter_context(open(path, "r+b" if data else "wb"))
                file.truncate(len(whole))
                file.seek(len(whole))
                if not whole:
                    file.write(json.dumps(head).encode() + b"\n")
                    file.flush()
            yield AnswerLog(path, answers, file)
    finally:
        if not answers:
            with disk_errors(path):
                path.unlink(missing_ok=True)


def _answers(path: Path, data: bytes, settings: Mapping[str, Any]) -> dict[Key, Answer]:
    """The answers in a file, if it belongs to a run with these settings."""
    number = 0
    answers: dict[Key, Answer] = {}
    try:
        for number, line in enumerate(data.splitlines(), start=1):
            entry = json.loads(line)
            if number > 1:
                if not isinstance(entry["answer"], str):
                    raise TypeError
                answers[entry["item"], entry["persona"]] = Answer(entry["answer"], entry.get("refused", False))
            elif entry["fingerprint"] != fingerprint(dict(settings)):
                before = entry["settings"]
                differing = sorted(key for key in {*before, *settings} if before.get(key) != settings.get(key))
                raise PluralignError(
                    f"{path}: holds answers of another run ({', '.join(differing)} differ): finish that run, "
                    "remove the file, or choose another --out"
                )
    except PluralignError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as fault:
        raise PluralignError(f"{path}, line {number}: not an answer of a run: remove the file") from fault
    return answers

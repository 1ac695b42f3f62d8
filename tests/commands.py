"""What a text says to run: code blocks of Markdown, and the commands of pluralign in them."""

import re
import shlex
import textwrap
from typing import NamedTuple

import typer

from pluralign.cli.main import app

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


CLICK = typer.main.get_command(app)


class Command(NamedTuple):
    """A command line after the word pluralign, without its comment."""

    words: list[str]

    @property
    def place(self):
        """The commands that are named, `["votes", "update"]`, and the click command they lead to."""
        found, command = [], CLICK
        for word in self.words:
            if word not in getattr(command, "commands", {}):
                break
            found.append(word)
            command = command.commands[word]
        return found, command


def blocks(text, language):
    """The fenced blocks of a language."""
    return [textwrap.dedent(match[3]) for match in FENCE.finditer(text) if match[2] == language]


def shell_lines(text):
    """The lines of indented blocks and of shell blocks, continued lines joined."""
    outside = FENCE.sub("", text)
    indented = "\n".join(re.findall(r"^    +(.*)$", outside, re.MULTILINE))
    shell = "\n".join([indented, *blocks(text, "bash"), *blocks(text, "sh")])
    return [line.strip() for line in re.sub(r"\\\n\s*", " ", shell).splitlines()]


def commands(text):
    """The commands of pluralign in a text: in blocks, and in code within a line."""
    inline = re.findall(r"`(pluralign [^`\n]+)`", re.sub(r"(?<=\S)\n(?=\S)", " ", FENCE.sub("", text)))
    found = [line for line in [*shell_lines(text), *inline] if re.match(r"(python -m )?pluralign ", line)]
    return [Command(shlex.split(line, comments=True)[line.startswith("python") * 2 + 1 :]) for line in found]


def unknown_words(command):
    """The commands and options that do not exist."""
    found, click = command.place
    rest = command.words[len(found) :]
    options = {name for parameter in click.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    if not found:
        if command.words[0].isupper():  # `pluralign COMMAND --help`
            return []
        return [word for word in command.words if word.split("=")[0] not in options]
    flags = [word.strip("[]").split("=")[0] for word in rest if word.strip("[]").startswith("--")]
    return [] if found == ["train"] else [flag for flag in flags if flag not in options]

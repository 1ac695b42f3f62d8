"""The command line: one function per command, thin; the work is in `pluralign.workflows`."""

from __future__ import annotations

import importlib.metadata
import sys

import typer

from pluralign.core.errors import PluralignError

app = typer.Typer(
    name="pluralign",
    help="Align language models with a population, not with an average annotator.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"pluralign {importlib.metadata.version('pluralign')}")
        raise typer.Exit()


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Align language models with a population, not with an average annotator."""


def main() -> None:
    """Run a command. Exit code 0: done; 2: bad input or usage, in one line; 1: a fault of ours, with its trace."""
    try:
        app()
    except PluralignError as complaint:
        print(f"pluralign: {' '.join(str(complaint).split())}", file=sys.stderr)
        sys.exit(2)


# The commands register themselves; each imports what it needs when it runs.
from pluralign.cli import importing, models, splitting  # noqa: E402, F401

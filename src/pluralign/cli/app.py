"""The application that the commands register themselves on."""

from __future__ import annotations

import importlib.metadata

import typer

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

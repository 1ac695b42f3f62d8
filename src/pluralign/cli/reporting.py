"""`report`."""

from __future__ import annotations

from pathlib import Path

import typer

from pluralign.cli.app import app


@app.command()
def report(
    folder: list[Path] = typer.Argument(help="Finished folders: audits, models, evaluations, aggregations."),
    out: Path = typer.Option(..., help="The HTML file to write."),
) -> None:
    """Draw one self-contained HTML page of one or several finished folders, compared where they can be."""
    from pluralign.workflows.report import report as run

    run(list(folder), out)
    typer.echo(f"written to {out}")

"""`split`."""

from __future__ import annotations

from pathlib import Path

import typer

from pluralign.cli.app import app


@app.command()
def split(
    file: Path = typer.Argument(help="A canonical Parquet or JSON Lines file."),
    by: str = typer.Option(..., help="What stays whole on one side: prompt, response, annotator, source or group."),
    out: Path = typer.Option(..., help="The folder to write: train.parquet and test.parquet."),
    test: float = typer.Option(None, help="Share of the judgments to hold out.", show_default="0.2"),
    test_units: int = typer.Option(None, help="Hold out this many prompts (annotators ...) instead of a share."),
    seed: int = typer.Option(0, help="Another seed holds out others."),
    label_scale: str = typer.Option(
        None, help="Label scale of a file that carries none: a built-in name or a YAML file."
    ),
) -> None:
    """Split a file into train.parquet and test.parquet, with nothing of one unit on both sides."""
    from pluralign.workflows.splitting import split_file

    counts = split_file(file, out, by, test, seed, test_units, label_scale)  # type: ignore[arg-type]
    typer.echo(f"train: {counts.train_judgments} judgments, {counts.train_units} units ({by})")
    typer.echo(f"test: {counts.test_judgments} judgments, {counts.test_units} units ({by})")
    typer.echo(f"units shared: {counts.shared_units}")
    typer.echo(f"written to {out}")

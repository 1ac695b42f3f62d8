"""`split`."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import typer

from pluralign.cli.main import app
from pluralign.core.errors import PluralignError


@app.command()
def split(
    file: Path = typer.Argument(help="A canonical file."),
    by: str = typer.Option(..., help="What stays whole on one side: prompt, annotator, source or group."),
    out: Path = typer.Option(..., help="The folder to write: train.parquet and test.parquet."),
    test: float = typer.Option(None, help="Share of judgments on the test side, above 0 and below 1. [0.2]"),
    test_units: int = typer.Option(None, help="Number of units on the test side, instead of a share."),
    seed: int = typer.Option(0, help="Another seed gives another split."),
    label_scale: str = typer.Option(None, help="Label scale of a file that carries none: a name or a YAML file."),
) -> None:
    """Split FILE into train and test so that no prompt, annotator, source or group stands on both sides."""
    from pluralign.judgments.split import By
    from pluralign.workflows.splitting import split_file

    if test is not None and test_units is not None:
        raise PluralignError("split: --test and --test-units both say how large the test side is; give one of them")
    share = 0.2 if test is None else test
    counts = split_file(file, cast(By, by), out, share, test_units, seed, label_scale)
    for side, count in counts.items():
        typer.echo(f"{side}: {count['judgments']} judgments, {count['units']} units by {by}")
    typer.echo(f"written to {out}")

"""`route`."""

from __future__ import annotations

from pathlib import Path

import typer

from pluralign.cli.app import app


@app.command()
def route(
    run: Path = typer.Argument(help="The folder of an em-dpo run."),
    file: list[Path] = typer.Argument(help="Canonical files with a few judgments of each annotator."),
    out: Path = typer.Option(..., help="The Parquet file to write: a row for each annotator."),
    prior: str = typer.Option("run", help="Before any judgment: run (the types' shares in it) or uniform."),
    label_scale: str = typer.Option(None, help="Label scale of files that carry none: a name or a YAML file."),
    trust_remote_code: bool = typer.Option(
        False, help="Run code that comes with the model. Only for code you have read."
    ),
) -> None:
    """Tell the type of annotators, new ones too, from a few judgments, and the adapter that serves each."""
    from pluralign.workflows.route import route as find

    found = find(
        run,
        [str(path) for path in file],
        out,
        prior=prior,  # type: ignore[arg-type]
        label_scale=label_scale,
        trust_remote_code=trust_remote_code,
    )
    types, adapters = found.column("type").to_pylist(), found.column("adapter").to_pylist()
    for kind, adapter in sorted(set(zip(types, adapters, strict=True))):
        typer.echo(f"type {kind}, served by {adapter}: {types.count(kind)} of {len(found)} annotators")
    if silent := found.column("judgments").to_pylist().count(0):
        typer.echo(f"with the prior, since they rank nothing: {silent} of {len(found)} annotators")
    typer.echo(f"written to {out}")

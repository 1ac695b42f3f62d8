"""`audit`."""

from __future__ import annotations

from pathlib import Path

import typer

from pluralign.cli.app import app


@app.command()
def audit(
    file: list[Path] = typer.Argument(help="Canonical files."),
    out: Path = typer.Option(..., help="The folder to write; the page is report.html in it."),
    features: str = typer.Option("auto", help="worths, tfidf, or a model folder or hub id."),
    types: str = typer.Option("auto", help="How many types of people, or auto."),
    most_types: int = typer.Option(6, help="The largest number that auto tries."),
    dimensions: int = typer.Option(64, help="Of text features."),
    simulations: int = typer.Option(3, help="Of each design of the power curve; 0 leaves it out."),
    label_scale: str = typer.Option(None, help="Label scale of files that carry none: a name or a YAML file."),
    seed: int = typer.Option(0, help="Of folds, restarts, features and simulations."),
) -> None:
    """Find the types of people behind judgments, what each prefers, and whether the data can show it."""
    from pluralign.reports.cards import metrics_table
    from pluralign.workflows.audit.run import audit as run

    metrics = run(
        [str(path) for path in file],
        out,
        features=features,
        types=types,
        most_types=most_types,
        dimensions=dimensions,
        simulations=simulations,
        label_scale=label_scale,
        seed=seed,
    )
    typer.echo("\n".join(metrics_table(metrics)))
    typer.echo(f"written to {out}; look at {out / 'report.html'}")

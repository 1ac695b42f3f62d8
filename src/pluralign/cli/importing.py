"""`import` and `export`."""

from __future__ import annotations

from pathlib import Path

import typer

from pluralign.cli.app import app


@app.command("import")
def import_(
    source: list[Path] = typer.Argument(help="The files to import, of one format."),
    out: Path = typer.Option(..., help="The file to write: .parquet, .jsonl or .jsonl.gz."),
    format: str = typer.Option("table", help="table, trl, hh-rlhf, mapping, polis, preflib, label-studio or argilla."),
    mapping: str = typer.Option(None, help="Format mapping: the YAML file that describes the columns."),
    shape: str = typer.Option(
        None,
        help="Format polis: votes (labels, default) or people (rankings); preflib: ranked (default) or ballot.",
    ),
    comments: str = typer.Option(None, help="Format polis: the file of statements."),
    prompt: str = typer.Option(None, help="Formats polis and preflib: the topic."),
    field: list[str] = typer.Option(
        [], "--field", help="Formats label-studio and argilla: KEY=NAME, a field's name; may be said several times."
    ),
    label_scale: str = typer.Option(
        None, help="Formats table, mapping and argilla: a built-in label scale or a YAML file."
    ),
    source_name: str = typer.Option(None, "--source-name", help="Fills the column `source` where there is none."),
    drop_columns: str = typer.Option("", help="Columns to leave out on purpose, separated by commas."),
    on_error: str = typer.Option("stop", help="stop at the first bad row, or skip it."),
    rejects: Path = typer.Option(None, help="With --on-error skip: where bad rows go, as JSON Lines."),
    anonymize: bool = typer.Option(False, "--anonymize", help="Replace annotators by keyed pseudonyms."),
    key_file: Path = typer.Option(None, help="The key for --anonymize (else the variable PLURALIGN_KEY)."),
) -> None:
    """Import outside files into one canonical table."""
    from pluralign.workflows.importing import import_files

    done = import_files(
        source,
        out,
        format=format,
        mapping=mapping,
        shape=shape,
        comments=comments,
        prompt=prompt,
        fields=field,
        label_scale=label_scale,
        source=source_name,
        drop_columns=[name for name in drop_columns.split(",") if name],
        on_error=on_error,
        rejects=rejects,
        anonymize=anonymize,
        key_file=key_file,
    )
    typer.echo("\n".join(done.summary()))


@app.command()
def export(
    file: list[Path] = typer.Argument(help="Canonical files."),
    out: Path = typer.Option(..., help="The file to write: .parquet, .jsonl or .jsonl.gz."),
    label_scale: str = typer.Option(None, help="Label scale of files that carry none."),
) -> None:
    """Export judgments to TRL's preference rows (prompt, chosen, rejected), saying what they cannot carry."""
    from pluralign.workflows.importing import export as run

    typer.echo("\n".join(run(file, out, label_scale).summary()))

"""`import`, `export`, `split` and `audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from pluralign.cli import options

Format = Literal[
    "table", "trl", "hh-rlhf", "mapping", "polis", "preflib", "label-studio", "argilla", "chatbot-arena", "oasst",
    "prism", "le-wi-di",
]  # fmt: skip
Shape = Literal["votes", "people", "ranked", "ballot"]
By = Literal["prompt", "response", "annotator", "source", "group"]
OnError = Literal["stop", "skip"]
SameText = Literal["reject", "merge"]
Ties = Literal["efron", "breslow", "davidson"]
To = Literal["trl", "best-of-n", "votes", "datasets"]


def import_(
    sources: Annotated[list[Path], Argument(help="Files to import, all of one format; - is standard input.")],
    out: Annotated[Path, Option(help="Output file: .parquet, .jsonl or .jsonl.gz; with --workers a folder.")],
    format: Annotated[Format, Option(help="Format of the files; table is pluralign's own.")] = "table",
    mapping: Annotated[str | None, Option(help="YAML file that describes the columns, or a known name.")] = None,
    shape: Annotated[Shape | None, Option(help="polis: votes (default) or people; preflib: ranked or ballot.")] = None,
    comments: Annotated[str | None, Option(help="polis: file of the statements.")] = None,
    prompt: Annotated[str | None, Option(help="polis, preflib, le-wi-di: the prompt.")] = None,
    keep_moderated: Annotated[bool, Option("--keep-moderated", help="polis: keep rejected statements.")] = False,
    field: Annotated[list[str] | None, Option(help="label-studio and argilla: KEY=NAME; can be repeated.")] = None,
    label_scale: Annotated[str | None, Option(help="Name or YAML file of the labels' scale.")] = None,
    source_name: Annotated[str | None, Option(help="Value of the column source where there is none.")] = None,
    drop_columns: Annotated[str | None, Option(help="Columns to ignore, separated by commas.")] = None,
    rename: options.Rename = None,
    same_text: Annotated[SameText, Option(help="Equal responses in a judgment: reject or merge.")] = "reject",
    on_error: Annotated[OnError, Option(help="Stop at the first bad row, or skip bad rows.")] = "stop",
    rejects: Annotated[Path | None, Option(help="With --on-error skip: output file of bad rows (JSON Lines).")] = None,
    anonymize: Annotated[bool, Option("--anonymize", help="Replace annotators by keyed pseudonyms.")] = False,
    key_file: Annotated[Path | None, Option(help="Key for --anonymize.", show_default="$PLURALIGN_KEY")] = None,
    workers: Annotated[int | None, Option(min=1, help="Number of processes; writes a folder of Parquet files.")] = None,
) -> None:
    """Import judgments from other formats into one table.

    An option that starts with names of formats is for these formats only.
    """
    from pluralign.workflows.importing import import_files

    imported = import_files(
        sources, out, format=format, mapping=mapping, shape=shape, comments=comments, prompt=prompt,
        fields=field or (), keep_moderated=keep_moderated, label_scale=label_scale, columns=rename, source=source_name,
        drop_columns=[name for name in (drop_columns or "").split(",") if name], same_text=same_text, on_error=on_error,
        rejects=rejects,
        anonymize=anonymize, key_file=key_file, workers=workers,
    )  # fmt: skip
    typer.echo("\n".join(imported.summary()))
    if format == "polis" and shape is None:
        typer.echo("each vote is a judgment, for audits and dprm; to train on comparisons, import with --shape people")


def export(
    files: options.Files,
    out: Annotated[Path, Option(help="Output file, or a new folder for datasets.")],
    to: Annotated[To, Option(help="trl: pairs; best-of-n: as RewardBench 2; votes: CSV; datasets: a folder.")] = "trl",
    label_scale: options.LabelScale = None,
    rename: options.Rename = None,
) -> None:
    """Export judgments for other tools.

    By default as TRL's preference pairs. The output lists what the rows cannot hold.
    """
    from pluralign.workflows.importing import export as run

    typer.echo("\n".join(run(files, out, label_scale, to, rename).summary()))


def split(
    files: options.Files,
    by: Annotated[By, Option(help="Unit that is never split between two parts.")],
    out: options.OutFolder,
    test: Annotated[float | None, Option(help="Share of the judgments to hold out.", show_default="0.2")] = None,
    test_units: Annotated[int | None, Option(help="Number of units to hold out, instead of a share.")] = None,
    tuning: Annotated[float | None, Option(help="Share of the judgments for a third part, tuning.parquet.")] = None,
    seed: options.Seed = 0,
    label_scale: options.LabelScale = None,
    rename: options.Rename = None,
) -> None:
    """Split judgments into train.parquet and test.parquet.

    With --tuning also into tuning.parquet, to choose settings with.
    """
    from pluralign.workflows.splitting import split

    for part in split(list(map(str, files)), out, by, test, seed, test_units, label_scale, tuning, rename):
        typer.echo(f"{part.name}: {part.judgments} judgments, {part.units} units ({by}); {part.file}")
    typer.echo("no unit is in two parts")


def _features(value: str) -> str:
    """Check the name of a model among the names of features."""
    return value if value in ("auto", "worths", "tfidf") else str(options.model_name(value))


def audit(
    files: options.Files,
    out: options.OutFolder,
    features: Annotated[
        str, Option(callback=_features, help="auto, worths, tfidf, or a model folder or hub id.")
    ] = "auto",
    types: Annotated[str, Option(help="Number of annotator types, or auto.")] = "auto",
    most_types: Annotated[int, Option(min=1, help="Maximum number of types that auto tries.")] = 6,
    dimensions: Annotated[int, Option(min=1, help="Number of dimensions of text features.")] = 64,
    simulations: Annotated[int, Option(min=0, help="Simulations per design of the power curve; 0 skips it.")] = 3,
    response_features: Annotated[
        Path | None, Option(help="Table of numeric attributes of responses, used instead of --features.")
    ] = None,
    annotator_features: Annotated[
        Path | None, Option(help="Table of numeric attributes of annotators that predict their type.")
    ] = None,
    shared: Annotated[
        list[str] | None, Option(help="Attribute of responses with one coefficient for all types; can be repeated.")
    ] = None,
    noise_type: Annotated[bool, Option("--noise-type", help="The last type ranks at random.")] = False,
    ties: Annotated[
        Ties,
        Option(help="A tie is an order that was not recorded (efron, breslow) or an outcome of its own (davidson)."),
    ] = "efron",
    label_scale: options.LabelScale = None,
    rename: options.Rename = None,
    seed: options.Seed = 0,
) -> None:
    """Find annotator types and measure how annotators disagree.

    Shows what each type prefers and whether the data can identify the types. Writes report.html. Under torchrun, the
    processes share the fits.
    """
    from pluralign.choice.latent_class.processes import launched
    from pluralign.reports.annotators import metrics_line
    from pluralign.reports.headline import audit_headline
    from pluralign.workflows.audit.run import audit as run

    with launched("audit") as number:
        found = run(
            list(map(str, files)), out, features=features, types=types, most_types=most_types, dimensions=dimensions,
            simulations=simulations, label_scale=label_scale, columns=rename, seed=seed,
            response_features=response_features, annotator_features=annotator_features,
            noise_type=noise_type, shared=shared or (), ties=ties, distributed=number is not None,
        )  # fmt: skip
    if number:  # the first process prints
        return
    typer.echo("\n".join(audit_headline(found)))
    if line := metrics_line(found.metrics):
        typer.echo(line)
    typer.echo(f"written to {out}; open {out / 'report.html'}")

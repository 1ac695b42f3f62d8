"""`votes update`."""

from __future__ import annotations

from pathlib import Path

import typer

from pluralign.cli.app import app

votes = typer.Typer(help="What a crowd says, kept up to date.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(votes, name="votes")


@votes.callback()
def _votes() -> None:
    """What a crowd says, kept up to date."""


@votes.command()
def update(
    state: Path = typer.Argument(help="The state: a .parquet file, made when it is not there."),
    file: list[Path] = typer.Argument(help="Canonical files with new judgments; known ids change nothing."),
    prior: Path = typer.Option(None, help="A table with prompt, response and a column per label."),
    strength: float = typer.Option(None, help="The prior's weight in votes.", show_default="the number of labels"),
    decay: float = typer.Option(None, help="What is left of a vote after each window.", show_default="1"),
    window: float = typer.Option(None, help="With --decay: the length of a window in days."),
    origin: str = typer.Option(None, help="Where windows are counted from.", show_default="1970-01-01"),
    shares: Path = typer.Option(None, help="A YAML file with the population's share of each stratum."),
    strata: str = typer.Option(None, help="With --shares: group, or a column of --annotators.", show_default="group"),
    annotators: Path = typer.Option(None, help="A table with the columns annotator and that of --strata."),
    label_scale: str = typer.Option(None, help="Label scale of files that carry none: a built-in name or a YAML file."),
    kind: str = typer.Option(None, help="labels or pairs.", show_default="labels where there are any"),
    pair_votes: str = typer.Option(
        None, help="A ranking's weight is shared among its pairs, or full on each.", show_default="shared"
    ),
    most: int = typer.Option(10, help="How many of the items that moved most to show."),
) -> None:
    """Merge new votes into a stored state of a crowd, and show which items moved most."""
    from pluralign.workflows.votes.update import update_votes

    done = update_votes(
        state,
        list(file),
        prior=prior,
        strength=strength,
        decay=decay,
        window_days=window,
        origin=origin,
        shares=shares,
        strata=strata,
        annotators=annotators,
        label_scale=label_scale,
        kind=kind,  # type: ignore[arg-type]
        pair_votes=pair_votes,  # type: ignore[arg-type]
        most=most,
    )
    typer.echo("\n".join(done.summary()))

"""`calibrate`."""

from __future__ import annotations

from pathlib import Path

import typer

from pluralign.cli.app import app
from pluralign.core.errors import PluralignError


@app.command()
def calibrate(
    model: Path = typer.Argument(help="The folder of a reward model: a run, a model folder, an adapter."),
    file: list[Path] = typer.Argument(None, help="Canonical files with judgments it was not trained on."),
    method: str = typer.Option("temperature", help="temperature (one number) or isotonic (a curve)."),
    remove: bool = typer.Option(False, "--remove", help="Remove the stored recalibration; takes no FILE."),
    folds: int = typer.Option(5, help="Of the cross-validation over prompts."),
    seed: int = typer.Option(0, help="Of the folds."),
    label_scale: str = typer.Option(None, help="Label scale of files that carry none: a name or a YAML file."),
    trust_remote_code: bool = typer.Option(
        False, help="Run code that comes with the model. Only for code you have read."
    ),
) -> None:
    """Fit a reward model's recalibration on held-out judgments and store it in its folder."""
    if remove == bool(file):
        raise PluralignError("calibrate: give one FILE or more, or --remove alone")
    from pluralign.workflows.calibrate import calibrate as fit
    from pluralign.workflows.calibrate import calibration_lines, remove_calibration

    if remove:
        there_was = remove_calibration(model)
        typer.echo(f"removed from {model}" if there_was else f"{model}: has no recalibration; nothing to do")
        return
    found = fit(
        model,
        [str(path) for path in file],
        method=method,  # type: ignore[arg-type]
        folds=folds,
        seed=seed,
        label_scale=label_scale,
        trust_remote_code=trust_remote_code,
    )
    typer.echo("\n".join(calibration_lines(found)))
    typer.echo(f"written to {model / 'calibration.json'}")

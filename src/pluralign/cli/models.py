"""`train`, `calibrate`, `evaluate` and `score`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from pluralign.cli import options
from pluralign.cli.fields import print_fields
from pluralign.core.errors import Interrupted, PluralignError

Method = Literal["temperature", "isotonic"]
Column = Literal["annotator", "group", "source"]
Fields = Annotated[
    str | None,
    Option(metavar="OBJECTIVE", callback=print_fields, is_eager=True, help="Print all keys of an objective and exit."),
]


def train(
    context: typer.Context,
    config: Annotated[Path, Argument(help="YAML file. Any of its keys can also be a flag: --learning_rate 1e-5.")],
    fields: Fields = None,
) -> None:
    """Train a reward model or a policy.

    The YAML file names the objective, the model, the files and the output folder. If a run was interrupted, the same
    command resumes it.
    """
    from pluralign.workflows.train.early import check_early

    check_early(config, context.args)
    from accelerate import PartialState

    from pluralign.reports.headline import headline
    from pluralign.workflows.train.run import train as run

    try:
        metrics = run(config, context.args)
    except KeyboardInterrupt as stop:  # typer would drop the message
        raise Interrupted(str(stop)) from None
    state = PartialState()
    state.destroy_process_group()  # at interpreter exit, one of several processes may abort in it
    if state.is_main_process:
        told = [metrics["sentence"]] if "sentence" in metrics else []
        typer.echo("\n".join([*told, *headline(metrics)]))


def calibrate(
    model: Annotated[
        Path,
        Argument(callback=options.run_folder, help="Folder of a reward model: a run, a model folder or an adapter."),
    ],
    files: Annotated[list[Path] | None, Argument(help="Canonical files that the model was not trained on.")] = None,
    method: Annotated[Method, Option(help="Fit one temperature, or a monotone curve.")] = "temperature",
    remove: Annotated[bool, Option("--remove", help="Remove the stored recalibration; takes no files.")] = False,
    folds: Annotated[int, Option(min=2, help="Number of cross-validation folds, over prompts.")] = 5,
    by: Annotated[Column | None, Option(help="Also a shrunk scale for each value of this column.")] = None,
    seed: options.Seed = 0,
    label_scale: options.LabelScale = None,
    rename: options.Rename = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Recalibrate a reward model on held-out judgments.

    The recalibration is stored in the model's folder and is used whenever the model is loaded.
    """
    if remove == bool(files):
        raise PluralignError("calibrate: give one or more files, or --remove alone")
    from pluralign.workflows.calibrate import calibrate as run
    from pluralign.workflows.calibrate import calibration_lines, remove_calibration

    if not files:
        removed = remove_calibration(model)
        typer.echo(f"removed from {model}" if removed else f"{model}: has no recalibration; nothing to do")
        return
    recalibration = run(
        model, list(map(str, files)), method=method, folds=folds, seed=seed, by=by, label_scale=label_scale,
        columns=rename, trust_remote_code=trust_remote_code,
    )  # fmt: skip
    typer.echo("\n".join(calibration_lines(recalibration)))
    typer.echo(f"written to {model / 'calibration.json'}")


def evaluate(
    model: options.Model,
    files: options.Files,
    out: options.OutFolder,
    label_scale: options.LabelScale = None,
    rename: options.Rename = None,
    seed: options.Seed = 0,
    raw: options.Raw = False,
    average: options.Average = None,
    own: Annotated[list[str] | None, Option(help="SOURCE=MODEL: what sharing gains a source over its model.")] = None,
    reference: Annotated[
        str | None,
        Option(callback=options.model_name, help="Policies: reference model.", show_default="as in training"),
    ] = None,
    beta: Annotated[float | None, Option(help="Policies: inverse temperature.", show_default="as in training")] = None,
    reward: Annotated[
        str | None, Option(callback=options.model_name, help="Policies: reward model that scores sampled responses.")
    ] = None,
    kinds: Annotated[
        str | None,
        Option(help="With --reward: an em-dpo run, or 'nearest': compare kinds of responses said and put first."),
    ] = None,
    samples: Annotated[int, Option(min=1, help="With --reward: responses per prompt; matching needs 2 or more.")] = 2,
    max_new_tokens: options.MaxNewTokens = 128,
    quantile: options.Quantile = None,
    revision: options.Revision = "main",
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Evaluate a reward model or a policy on judgments.

    Measures accuracy and calibration, also per source, group and annotator type. With --reward, also the win rate of
    a policy's responses against the reference, and how well they match the reward.
    """
    from pluralign.reports.headline import headline
    from pluralign.workflows.evaluate import evaluate as run

    metrics = run(
        model, list(map(str, files)), out, label_scale=label_scale, columns=rename, seed=seed, raw=raw,
        average=average or (), own=_models_of_sources(own or []), reference=reference, beta=beta, reward=reward,
        kinds=kinds, samples=samples, max_new_tokens=max_new_tokens, quantile=quantile, revision=revision,
        trust_remote_code=trust_remote_code,
    )  # fmt: skip
    typer.echo("\n".join(headline(metrics)))
    typer.echo(f"all metrics: {out / 'metrics.json'}; page: {out / 'report.html'}")


def _models_of_sources(given: list[str]) -> dict[str, str]:
    """`SOURCE=MODEL` of `--own` by source."""
    models = {}
    for entry in given:
        source, equals, model = entry.partition("=")
        if not (source and equals and model):
            raise PluralignError(f"--own: found '{entry}', expected SOURCE=MODEL, like helpful=runs/top-helpful")
        models[source] = options.model_name(model)
    return models


def score(
    model: options.Model,
    files: options.Files,
    out: options.OutParquet,
    label_scale: options.LabelScale = None,
    rename: options.Rename = None,
    raw: options.Raw = False,
    average: options.Average = None,
    quantile: options.Quantile = None,
    revision: options.Revision = "main",
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Score every unique response with a reward model."""
    from pluralign.workflows.score import score as run

    count = run(
        model, list(map(str, files)), out, label_scale=label_scale, columns=rename, raw=raw, average=average or (),
        quantile=quantile, revision=revision, trust_remote_code=trust_remote_code,
    )  # fmt: skip
    typer.echo(f"{count} responses scored; written to {out}")

"""`train`, `evaluate`, `score`, `env` and `demo`."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from pluralign.cli.app import app

_HUB_REVISION = typer.Option("main", help="Branch, tag or commit of a model on the hub.")
_REMOTE_CODE = typer.Option(False, help="Run code that comes with the model. Only for code you have read.")
_RAW = typer.Option(False, "--raw", help="Reward models: leave a stored recalibration aside.")
_AVERAGE = typer.Option(None, help="Another reward model; the mean reward is taken. May be given several times.")
_QUANTILE = typer.Option(None, help="Models that predict labels: the reward is this quantile, not the mean.")
_SCALE = typer.Option(None, help="Label scale of files that carry none: a built-in name or a YAML file.")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train(
    context: typer.Context,
    config: Path = typer.Argument(help="The YAML file; any of its keys may follow as a flag."),
) -> None:
    """Train what CONFIG says; a run that was stopped is taken up again."""
    from accelerate import PartialState

    from pluralign.workflows.train.run import train as run

    metrics = run(config, context.args)
    PartialState().destroy_process_group()  # left to the exit, one of several processes may abort in it
    for key in ("train_loss", "eval_loss", "accuracy", "log_loss", "ece"):
        if key in metrics:
            typer.echo(f"{key}: {metrics[key]:.4f}")


@app.command()
def evaluate(
    model: str = typer.Argument(help="A run, a model folder, or a hub id: a reward model or a policy."),
    file: list[Path] = typer.Argument(help="Canonical files."),
    out: Path = typer.Option(..., help="The folder to write."),
    label_scale: str = _SCALE,
    seed: int = typer.Option(0, help="Of the bootstrap and of the answers."),
    raw: bool = _RAW,
    average: list[str] = _AVERAGE,
    reference: str = typer.Option(None, help="Policies: the reference; else the one its run names."),
    beta: float = typer.Option(None, help="Policies: inverse temperature; else the one it was tuned with."),
    reward: str = typer.Option(None, help="Policies: a reward model for win rate and matching of their answers."),
    samples: int = typer.Option(2, help="With --reward: answers to each prompt; matching takes two or more."),
    max_new_tokens: int = typer.Option(128, help="With --reward: the longest answer."),
    quantile: float = _QUANTILE,
    revision: str = _HUB_REVISION,
    trust_remote_code: bool = _REMOTE_CODE,
) -> None:
    """Evaluate a reward model, a policy or types: accuracy, calibration, per slice; win rate, matching."""
    from pluralign.reports.cards import metrics_table
    from pluralign.workflows.evaluate import evaluate as run

    metrics = run(
        model,
        [str(path) for path in file],
        out,
        label_scale=label_scale,
        seed=seed,
        raw=raw,
        average=average or [],
        reference=reference,
        beta=beta,
        reward=reward,
        samples=samples,
        max_new_tokens=max_new_tokens,
        quantile=quantile,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    typer.echo("\n".join(metrics_table(metrics)))
    typer.echo(f"written to {out}")


@app.command()
def score(
    model: str = typer.Argument(help="A run, a model folder, or a hub id."),
    file: list[Path] = typer.Argument(help="Canonical files."),
    out: Path = typer.Option(..., help="The Parquet file to write: prompt, response, reward ..."),
    label_scale: str = _SCALE,
    raw: bool = _RAW,
    average: list[str] = _AVERAGE,
    quantile: float = _QUANTILE,
    revision: str = _HUB_REVISION,
    trust_remote_code: bool = _REMOTE_CODE,
) -> None:
    """Score every unique response of a file with a reward model."""
    from pluralign.workflows.score import score as run

    count = run(
        model,
        [str(path) for path in file],
        out,
        label_scale=label_scale,
        raw=raw,
        average=average or [],
        quantile=quantile,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    typer.echo(f"{count} responses scored; written to {out}")


@app.command()
def env() -> None:
    """Print versions and hardware, for a bug report."""
    from pluralign.core.runs import environment

    found = environment()
    import torch

    found["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    typer.echo(json.dumps(found, indent=2))


@app.command()
def demo(
    out: Path = typer.Option(Path("demo-out"), help="The folder to write."),
    seed: int = typer.Option(0, help="Of the town and of all training."),
) -> None:
    """Simulate a town of three kinds of people and see whom one average reward serves."""
    from pluralign.demo.run import demo as run

    typer.echo(run(out, seed))

"""`aggregate`."""

from __future__ import annotations

from pathlib import Path

import typer

from pluralign.cli.app import app


@app.command()
def aggregate(
    run: Path = typer.Argument(help="A finished run of em-dpo."),
    out: Path = typer.Option(..., help="The folder to write: mixture, distilled, report.html, metrics.json ..."),
    prompts: list[Path] = typer.Option([], help="Canonical files of prompts; else the run's eval or train files."),
    samples: int = typer.Option(4, help="Answers to each prompt from each policy."),
    max_new_tokens: int = typer.Option(128, help="The longest answer."),
    most_prompts: int = typer.Option(None, help="A draw of so many prompts where there are more."),
    priority: list[str] = typer.Option([], help="TYPE=NUMBER, repeated; or one number per type with commas."),
    hedge: bool = typer.Option(False, help="Solve the game by optimistic Hedge, not a linear programme."),
    policy: list[str] = typer.Option([], help="NAME=FOLDER of another policy to compare with; repeated."),
    distill: bool = typer.Option(False, help="Train one adapter on draws from the mixture, and compare it."),
    distill_prompts: list[Path] = typer.Option([], help="Files it learns from; else the run's train files."),
    distill_samples: int = typer.Option(4, help="Draws for each prompt to learn from."),
    distill_epochs: float = typer.Option(1.0, help="Passes over the draws."),
    distill_learning_rate: float = typer.Option(1e-4, help="Of the distilled adapter."),
    label_scale: str = typer.Option(None, help="Label scale of files that carry none: a name or a YAML file."),
    seed: int = typer.Option(0, help="Of prompts, answers, bootstrap and training."),
    trust_remote_code: bool = typer.Option(False, help="Run code that comes with the models."),
) -> None:
    """Mix the policies of types by min-max regret, and say what each type gives up under each policy."""
    from pluralign.workflows.aggregate.contents import regret_lines
    from pluralign.workflows.aggregate.run import aggregate as work

    metrics = work(
        run,
        out,
        prompts=list(prompts) or None,
        samples=samples,
        max_new_tokens=max_new_tokens,
        most_prompts=most_prompts,
        priority=_priority(priority),
        hedge=hedge,
        policies=_named(policy, "--policy", "NAME=FOLDER"),
        distill=distill,
        distill_prompts=list(distill_prompts) or None,
        distill_samples=distill_samples,
        distill_epochs=distill_epochs,
        distill_learning_rate=distill_learning_rate,
        label_scale=label_scale,
        seed=seed,
        trust_remote_code=trust_remote_code,
    )
    typer.echo("\n".join(regret_lines(metrics)))
    typer.echo(f"written to {out}; look at {out / 'report.html'}")


def _priority(words: list[str]) -> dict[str, float] | list[float] | None:
    """`["1=2", "2=1"]` by name, `["2,1"]` in the order of the types, nothing for equal ones."""
    if not words:
        return None
    if any("=" in word for word in words):
        named = _named([part for word in words for part in word.split(",")], "--priority", "TYPE=NUMBER")
        return {name: _number(value) for name, value in named.items()}
    return [_number(part) for word in words for part in word.split(",")]


def _named(words: list[str], flag: str, form: str) -> dict[str, str]:
    from pluralign.core.errors import PluralignError

    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise PluralignError(f"{flag}: found '{word}', expected {form}")
        if name in found:
            raise PluralignError(f"{flag}: '{name}' is given twice")
        found[name] = value
    return found


def _number(text: str) -> float:
    from pluralign.core.errors import PluralignError

    try:
        return float(text)
    except ValueError:
        raise PluralignError(f"--priority: found '{text}', expected a number") from None

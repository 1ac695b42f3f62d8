"""`best-of`."""

from __future__ import annotations

from pathlib import Path

import typer

from pluralign.cli.app import app


@app.command("best-of")
def best_of(
    model: str = typer.Argument(help="The policy: a run, a model or adapter folder, a mixture, or a hub id."),
    prompts: list[Path] = typer.Argument(help="Canonical files; their prompts are answered, each once."),
    reward: str = typer.Option(..., help="The reward model that chooses: a folder or hub id."),
    out: Path = typer.Option(..., help="The table to write: .parquet, .jsonl or .jsonl.gz."),
    n: int = typer.Option(4, "--n", help="Answers to each prompt."),
    max_new_tokens: int = typer.Option(128, help="The longest answer."),
    temperature: float = typer.Option(1.0, help="Of drawing; 1 draws from the policy itself."),
    most_prompts: int = typer.Option(None, help="A draw of so many prompts where there are more."),
    quantile: float = typer.Option(None, help="Reward models that predict labels: reward by this quantile."),
    label_scale: str = typer.Option(None, help="Label scale of files that carry none: a name or a YAML file."),
    seed: int = typer.Option(0, help="Of prompts and answers."),
    revision: str = typer.Option("main", help="Branch, tag or commit of the policy on the hub."),
    trust_remote_code: bool = typer.Option(False, help="Run code that comes with the models."),
) -> None:
    """Draw n answers to each prompt and keep the one that a reward model likes best, as a table to fine-tune on."""
    from pluralign.workflows.best_of import best_of as work
    from pluralign.workflows.best_of import best_of_lines

    metrics = work(
        model,
        list(prompts),
        out,
        reward=reward,
        n=n,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        most_prompts=most_prompts,
        quantile=quantile,
        label_scale=label_scale,
        seed=seed,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    typer.echo("\n".join(best_of_lines(metrics)))
    typer.echo(f"written to {out}; every draw is in {out}.answers.parquet")

"""`votes simulate`."""

from __future__ import annotations

from pathlib import Path

import typer

from pluralign.cli.voting import votes


@votes.command()
def simulate(
    file: list[Path] = typer.Argument(help="Canonical files; each of their unique responses is voted on."),
    personas: Path = typer.Option(..., help="A YAML list of personas, each with name and description."),
    label_scale: str = typer.Option(..., help="The labels to choose from: a built-in name or a YAML file."),
    out: Path = typer.Option(..., help="The table to write: .parquet, .jsonl or .jsonl.gz."),
    model: str = typer.Option(None, help="Who votes: a causal model's folder or hub id."),
    endpoint: str = typer.Option(None, help="Or: the address of an OpenAI-compatible server (key: PLURALIGN_API_KEY)."),
    endpoint_model: str = typer.Option(None, help="With --endpoint: the name of the model there."),
    template: Path = typer.Option(None, help="The question, a Jinja file.", show_default="the package's own"),
    descriptions: Path = typer.Option(None, help="A YAML file with a description of each label."),
    per_item: int = typer.Option(None, help="So many personas, drawn for each response.", show_default="all"),
    temperature: float = typer.Option(1.0, help="Of drawing."),
    max_new_tokens: int = typer.Option(64, help="The longest answer."),
    seed: int = typer.Option(0, help="Of personas and answers."),
    max_length: int = typer.Option(None, help="With --model: tokens of question and answer."),
    timeout: float = typer.Option(60.0, help="With --endpoint: seconds to wait for the server's next sign."),
    retries: int = typer.Option(3, help="With --endpoint: further tries after time-outs and the status 429 or 5xx."),
    concurrency: int = typer.Option(4, help="With --endpoint: questions that wait for an answer at once."),
    revision: str = typer.Option("main", help="With --model: branch, tag or commit on the hub."),
    trust_remote_code: bool = typer.Option(False, help="With --model: run code that comes with it."),
) -> None:
    """Let personas, played by a language model, vote on responses. Personas are not people."""
    from pluralign.workflows.votes.simulate import simulate_votes

    done = simulate_votes(
        list(file),
        out,
        personas=personas,
        label_scale=label_scale,
        model=model,
        endpoint=endpoint,
        endpoint_model=endpoint_model,
        template=template,
        descriptions=descriptions,
        per_item=per_item,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        seed=seed,
        max_length=max_length,
        timeout=timeout,
        retries=retries,
        concurrency=concurrency,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    typer.echo("\n".join(done.summary()))

"""`votes update` and `votes simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from pluralign.cli import options

Kind = Literal["labels", "pairs"]
PairVotes = Literal["shared", "full"]

votes = typer.Typer(help="Keep a crowd's votes up to date, or simulate votes.", rich_markup_mode=None)


@votes.command(cls=options.OnceCommand)
def update(
    state: Annotated[Path, Argument(help="Vote state: a .parquet file; created if it does not exist.")],
    files: options.Files,
    prior: Annotated[Path | None, Option(help="Table with prompt, response and a column per label.")] = None,
    strength: Annotated[float | None, Option(help="Weight of the prior, in votes. Default: estimated.")] = None,
    decay: Annotated[float | None, Option(help="Weight that a vote keeps after each window.", show_default="1")] = None,
    window: Annotated[float | None, Option(help="With --decay: length of a window, in days.")] = None,
    origin: Annotated[str | None, Option(help="Start of the first window.", show_default="1970-01-01")] = None,
    shares: Annotated[Path | None, Option(help="YAML file with the population's share of each stratum.")] = None,
    strata: Annotated[str | None, Option(help="With --shares: group (default), or a column of --annotators.")] = None,
    annotators: Annotated[Path | None, Option(help="Table with the columns annotator and that of --strata.")] = None,
    label_scale: options.LabelScale = None,
    rename: options.Rename = None,
    kind: Annotated[Kind | None, Option(help="What to count. Default: labels if the files have any.")] = None,
    pair_votes: Annotated[PairVotes | None, Option(help="shared (default): a ranking counts once.")] = None,
    most: Annotated[int, Option(help="Number of items to print, of those that changed most.")] = 10,
) -> None:
    """Merge new votes into a stored vote state.

    Judgments that were merged before are skipped. Prints the items whose votes changed most.
    """
    from pluralign.workflows.votes.update import update_votes

    updated = update_votes(
        state, files, prior=prior, strength=strength, decay=decay, window_days=window, origin=origin, shares=shares,
        strata=strata, annotators=annotators, label_scale=label_scale, columns=rename, kind=kind, pair_votes=pair_votes,
        most=most,
    )  # fmt: skip
    typer.echo("\n".join(updated.summary()))


@votes.command(cls=options.OnceCommand)
def simulate(
    files: options.Files,
    personas: Annotated[Path, Option(help="YAML list of personas, each with name and description.")],
    label_scale: Annotated[str, Option(help="Labels to choose from: a built-in name or a YAML file.")],
    out: options.OutTable,
    model: Annotated[
        str | None, Option(callback=options.model_name, help="Causal language model that votes: a folder or hub id.")
    ] = None,
    endpoint: Annotated[str | None, Option(help="Or: URL of an OpenAI-compatible server.")] = None,
    endpoint_model: Annotated[str | None, Option(help="With --endpoint: name of the model on the server.")] = None,
    template: Annotated[Path | None, Option(help="Jinja file of the question, if not the built-in one.")] = None,
    descriptions: Annotated[Path | None, Option(help="YAML file with a description of each label.")] = None,
    prior: Annotated[
        Path | None, Option(help="With --model: also write the model's own prediction of labels, a .parquet file.")
    ] = None,
    per_item: Annotated[int | None, Option(help="Random personas per response.", show_default="all")] = None,
    temperature: options.Temperature = 1.0,
    max_new_tokens: options.MaxNewTokens = 64,
    seed: options.Seed = 0,
    max_length: Annotated[int | None, Option(help="With --model: maximum tokens of question and answer.")] = None,
    timeout: Annotated[float, Option(help="With --endpoint: seconds until a silent request fails.")] = 60.0,
    retries: Annotated[int, Option(help="With --endpoint: retries after timeouts and status 429 or 5xx.")] = 3,
    concurrency: Annotated[int, Option(help="With --endpoint: number of concurrent requests.")] = 4,
    revision: options.Revision = "main",
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Let a language model vote in the role of personas.

    Every unique response of the files gets a label from each persona. The key of an --endpoint is read from
    PLURALIGN_API_KEY. Simulated votes do not replace the votes of people.
    """
    from pluralign.workflows.votes.simulate import simulate_votes

    simulated = simulate_votes(
        files, out, personas=personas, label_scale=label_scale, model=model, endpoint=endpoint,
        endpoint_model=endpoint_model, template=template, descriptions=descriptions, prior=prior, per_item=per_item,
        temperature=temperature, max_new_tokens=max_new_tokens, seed=seed, max_length=max_length, timeout=timeout,
        retries=retries, concurrency=concurrency, revision=revision, trust_remote_code=trust_remote_code,
    )  # fmt: skip
    typer.echo("\n".join(simulated.summary()))

"""`best-of`, `route` and `aggregate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from pluralign.cli import options
from pluralign.core.errors import PluralignError

Prior = Literal["run", "uniform"]
Select = Literal["best", "softmax"]
Criterion = Literal["win-rate", "regret", "relative-regret"]
BestOfRule = Literal["weighted", "smallest"]
TypedRun = Annotated[Path, Argument(callback=options.run_folder, help="Folder of a finished em-dpo run.")]


def best_of(
    model: options.Model,
    prompts: Annotated[list[Path], Argument(help="Canonical files; every unique prompt is used.")],
    reward: Annotated[str, Option(callback=options.model_name, help="Reward model that chooses: a folder or hub id.")],
    out: options.OutTable,
    n: Annotated[int, Option("--n", min=1, help="Number of responses to sample per prompt.")] = 4,
    select: Annotated[
        Select, Option(help="Keep the best response, or draw one with probability softmax(reward / beta).")
    ] = "best",
    beta: Annotated[float, Option(help="With --select softmax, its temperature.")] = 1.0,
    max_new_tokens: options.MaxNewTokens = 128,
    temperature: options.Temperature = 1.0,
    max_prompts: options.MaxPrompts = None,
    finished_only: Annotated[
        bool, Option("--finished-only", help="Leave out responses that were cut at --max-new-tokens.")
    ] = False,
    quantile: options.Quantile = None,
    label_scale: options.LabelScale = None,
    rename: options.Rename = None,
    seed: options.Seed = 0,
    revision: options.Revision = "main",
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Sample n responses per prompt and rank one of them first.

    It is the best one, or one drawn by softmax. The output is a table of judgments, for supervised fine-tuning on the
    responses ranked first.
    """
    from pluralign.workflows.best_of import best_of as run
    from pluralign.workflows.best_of import best_of_lines

    metrics = run(
        model, prompts, out, reward=reward, n=n, select=select, beta=beta, max_new_tokens=max_new_tokens,
        temperature=temperature, max_prompts=max_prompts, finished_only=finished_only, quantile=quantile,
        label_scale=label_scale, columns=rename, seed=seed, revision=revision, trust_remote_code=trust_remote_code,
    )  # fmt: skip
    typer.echo("\n".join(best_of_lines(metrics, select)))
    typer.echo(f"written to {out}; all sampled responses are in {out}.answers.parquet")


def route(
    run: TypedRun,
    files: options.Files,
    out: options.OutParquet,
    prior: Annotated[Prior, Option(help="Prior over types: their shares in the run, or uniform.")] = "run",
    continuous: Annotated[
        bool, Option(help="Also give continuous weights of the types, and compare them with hard types.")
    ] = False,
    policy: Annotated[
        list[str] | None, Option(help="ANNOTATOR=FOLDER in which to write their pooled policy; repeatable.")
    ] = None,
    label_scale: options.LabelScale = None,
    rename: options.Rename = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Assign annotators to types, from a few judgments each.

    Nothing is trained. The output has the most probable type of each annotator and the adapter of that type.
    """
    pooled = _named(policy or [], "--policy", "ANNOTATOR=FOLDER")
    from pluralign.workflows.route import continuum_of
    from pluralign.workflows.route import route as route_annotators

    routed = route_annotators(
        run, list(map(str, files)), out, prior=prior, continuous=continuous, policies=pooled, label_scale=label_scale,
        columns=rename, trust_remote_code=trust_remote_code,
    )  # fmt: skip
    types, adapters = routed.column("type").to_pylist(), routed.column("adapter").to_pylist()
    for kind, adapter in sorted(set(zip(types, adapters, strict=True))):
        typer.echo(f"type {kind}, adapter {adapter}: {types.count(kind)} of {len(routed)} annotators")
    if without_ranks := routed.column("judgments").to_pylist().count(0):
        typer.echo(f"by the prior alone, because they ranked nothing: {without_ranks} of {len(routed)} annotators")
    if (compared := continuum_of(routed)) is not None:
        typer.echo(compared.sentence)
    typer.echo("written to " + ", ".join(map(str, [out, *pooled.values()])))


def aggregate(
    run: TypedRun,
    out: options.OutFolder,
    prompts: Annotated[list[Path] | None, Option(help="Canonical files.", show_default="the run's own files")] = None,
    tuning_prompts: Annotated[
        list[Path] | None, Option(help="Canonical files on which weights are chosen.", show_default="its train files")
    ] = None,
    criterion: Annotated[Criterion, Option(help="What the weights and the best policy minimise.")] = "win-rate",
    offer: Annotated[
        list[str] | None, Option(help="Policy to build: mixture, merge, pooled or best-of; repeatable. Default: all.")
    ] = None,
    judge: Annotated[
        list[str] | None, Option(help="TYPE=FOLDER of a reward model that judges for a type; repeatable.")
    ] = None,
    samples: Annotated[int, Option(min=1, help="Responses per prompt from each policy.")] = 4,
    candidates: Annotated[int, Option(min=1, help="Number of responses from which best-of chooses.")] = 16,
    best_of_rule: Annotated[
        BestOfRule, Option(help="How best-of chooses: by a weighted sum over types, or by the worst-off one.")
    ] = "weighted",
    trials: Annotated[int, Option(min=1, help="Number of weights to try for merge; half as many for pooled.")] = 12,
    max_new_tokens: options.MaxNewTokens = 128,
    max_prompts: options.MaxPrompts = None,
    max_tuning_prompts: Annotated[int, Option(min=1, help="Maximum number of tuning prompts; a random subset.")] = 48,
    priority: Annotated[list[str] | None, Option(help="TYPE=WEIGHT; can be repeated. Or all weights: 2,1.")] = None,
    hedge: Annotated[bool, Option(help="Solve the game by optimistic Hedge, not by a linear programme.")] = False,
    policy: Annotated[list[str] | None, Option(help="NAME=FOLDER of another policy to compare; repeatable.")] = None,
    distill: Annotated[bool, Option(help="Also train one adapter on responses of each policy but merge.")] = False,
    distill_prompts: Annotated[list[Path] | None, Option(help="Canonical files, if not the run's train files.")] = None,
    distill_samples: Annotated[int, Option(min=1, help="Responses per prompt to distill on.")] = 4,
    distill_epochs: Annotated[float, Option(help="Number of epochs of the distillation.")] = 1.0,
    distill_learning_rate: Annotated[float, Option(help="Learning rate of the distillation.")] = 1e-4,
    label_scale: options.LabelScale = None,
    seed: options.Seed = 0,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Combine the policies of types into one policy for all.

    Builds a mixture, a merged adapter, pooled logits and a best-of policy, and reports what each type gets from each.
    """
    judges = _models(judge or [], "--judge", "TYPE=FOLDER")
    others = _models(policy or [], "--policy", "NAME=FOLDER")
    from pluralign.workflows.aggregate.contents import outcome_lines, price_lines
    from pluralign.workflows.aggregate.run import aggregate as aggregate_run

    metrics = aggregate_run(
        run, out, prompts=prompts, tuning_prompts=tuning_prompts, criterion=criterion,
        **({"offer": offer} if offer else {}), judge=judges, samples=samples,
        candidates=candidates, best_of_rule=best_of_rule, trials=trials, max_new_tokens=max_new_tokens,
        max_prompts=max_prompts, max_tuning_prompts=max_tuning_prompts, priority=_priority(priority or []), hedge=hedge,
        policies=others, distill=distill, distill_prompts=distill_prompts,
        distill_samples=distill_samples, distill_epochs=distill_epochs, distill_learning_rate=distill_learning_rate,
        label_scale=label_scale, seed=seed, trust_remote_code=trust_remote_code,
    )  # fmt: skip
    if metrics["types"] == 1:
        typer.echo(f"{run}: has a single annotator type, so there is nothing to aggregate: its policy serves everybody")
        return
    typer.echo("\n".join([*outcome_lines(metrics), *price_lines(metrics)]))
    typer.echo(f"* best by {criterion}; written to {out}; open {out / 'report.html'}")


def _priority(words: list[str]) -> dict[str, float] | list[float] | None:
    """`["1=2", "2=1"]` by name, `["2,1"]` in the order of the types; `None` for equal weights."""
    parts = [part for word in words for part in word.split(",")]
    if any("=" in part for part in parts):
        return {name: _number(value) for name, value in _named(parts, "--priority", "TYPE=WEIGHT").items()}
    return [_number(part) for part in parts] or None


def _models(words: list[str], flag: str, form: str) -> dict[str, str]:
    """`["a=folder"]` as `{"a": "folder"}`."""
    values = _named(words, flag, form)
    options.model_name(list(values.values()))
    return values


def _named(words: list[str], flag: str, form: str) -> dict[str, str]:
    """`["a=b"]` as `{"a": "b"}`."""
    values: dict[str, str] = {}
    for word in words:
        name, _, value = word.partition("=")
        if not (name and value):
            raise PluralignError(f"{flag}: found '{word}', expected {form}")
        if name in values:
            raise PluralignError(f"{flag}: '{name}' is given twice")
        values[name] = value
    return values


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise PluralignError(f"--priority: found '{text}', expected a number") from None

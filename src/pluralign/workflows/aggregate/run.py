"""`aggregate`: from the policies of types to one policy, and what each type gives up under it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pluralign.choice.regret import priorities
from pluralign.core.errors import PluralignError, nearest
from pluralign.core.files import atomic_folder, atomic_write, path_list, write_parquet
from pluralign.core.locks import locks_out
from pluralign.core.records import write_record
from pluralign.core.runs import CONFIG, file_fingerprints, finish_run, finished_metrics, read_config, start_run
from pluralign.judgments.reading import read
from pluralign.reports.aggregation import AggregationPage, aggregation_page
from pluralign.scoring.mixtures import MIXTURE, Mixture, read_mixture
from pluralign.workflows.aggregate.answers import BASE, draw_answers
from pluralign.workflows.aggregate.contents import (
    EGALITARIAN,
    MIXTURES,
    Setting,
    aggregate_metrics,
    aggregation_contents,
    known_groups,
    label,
    regret_lines,
    solve,
)
from pluralign.workflows.aggregate.distill import DISTILLED, distill_mixture

Files = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@locks_out()
def aggregate(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    prompts: Files | None = None,
    samples: int = 4,
    max_new_tokens: int = 128,
    max_prompts: int | None = None,
    priority: Mapping[str, float] | Sequence[float] | None = None,
    hedge: bool = False,
    policies: Mapping[str, str | os.PathLike[str]] | None = None,
    distill: bool = False,
    distill_prompts: Files | None = None,
    distill_samples: int = 4,
    distill_epochs: float = 1.0,
    distill_learning_rate: float = 1e-4,
    label_scale: str | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Mix the policies of types so that the largest regret is smallest, and measure what each type gives up.

        L_ij = E_x E_{y ~ pi_j} [log pi_i(y|x) - log pi_ref(y|x)],   R_ij = c_i (L_ii - L_ij)
        min over w in the simplex of max over types of R w

    L is estimated from responses drawn at temperature 1. The mixture draws each response from the policy of one type.
    It is compared with each of these policies, with their base, and with the mixtures that use the shares of the
    types, maximise the average utility, and maximise the smallest utility.

    Args:
        run: finished run of `em-dpo`.
        out: output folder: `mixture/` (the policy, for `load_policy`), `aggregate.json`, `answers.parquet`,
            `metrics.json`, `report.html`, `README.md`, and with `distill` also `draws.parquet` and `distilled/`.
        prompts: canonical files. Default: the run's `eval_files`, else its `train_files`.
        samples: responses per prompt from each policy.
        max_new_tokens: maximum number of tokens of a response.
        max_prompts: maximum number of prompts; a random subset if the files have more.
        priority: c of each type by its name or number (1 if missing), or one number per type.
        hedge: solve the game by optimistic Hedge, as in the paper, not by a linear programme.
        policies: names and folders of other policies to compare; they need the same tokenizer.
        distill: also train one adapter, `distilled/`, on responses sampled from the mixture.
        distill_prompts: canonical files. Default: the run's `train_files`, else `prompts`.
        distill_samples: responses per prompt to distill on.
        distill_epochs: number of epochs of the distillation.
        distill_learning_rate: learning rate of the distillation; the default suits LoRA adapters.
        label_scale: label scale of files that store none. Default: that of the run.
        seed: random seed.
        trust_remote_code: run Python code that comes with a model.

    Returns:
        The content of `metrics.json`; utilities and regrets in nats per response.

    Raises:
        PluralignError: the run is not a finished run of `em-dpo`, a file or policy cannot be used, a setting does
            not fit, or `out` holds another aggregation.

    Source: EM-DPO and min-max regret aggregation, arXiv 2510.15716.
    """
    source, folder = Path(run), Path(out)
    mixture, settings = types_of(source)
    types = list(mixture.weights)
    others = {name: str(path) for name, path in (policies or {}).items()}
    _check_names(others, types)
    counted = {"samples": samples, "max_new_tokens": max_new_tokens, "max_prompts": max_prompts}
    for name, number in (counted | {"distill_samples": distill_samples}).items():
        if number is not None and number < 1:
            raise PluralignError(f"{name}: found {number}, expected 1 or more")
    for name, size in (("distill_epochs", distill_epochs), ("distill_learning_rate", distill_learning_rate)):
        if not size > 0:
            raise PluralignError(f"{name}: found {size}, expected a number above 0")
    scale = label_scale or settings.get("label_scale")
    asked_files = path_list(prompts or ()) or _own_files(settings, ("eval_files", "train_files"))
    if not asked_files:
        raise PluralignError(f"{source}: names no files to take prompts from: give some with --prompts")
    config: dict[str, Any] = {
        "command": "aggregate",
        "run": str(source),
        "prompts": asked_files,
        "samples": samples,
        "max_new_tokens": max_new_tokens,
        "priority": priority_of(priority, types).tolist(),
        "hedge": hedge,
        "policies": others,
        "seed": seed,
    }
    config |= {} if max_prompts is None else {"max_prompts": max_prompts}
    config |= {} if scale is None else {"label_scale": scale}
    learned_files: list[str] = []
    if distill:
        learned_files = path_list(distill_prompts or ()) or _own_files(settings, ("train_files",)) or asked_files
        config |= {"distill_prompts": learned_files, "distill_samples": distill_samples}
        config |= {"distill_epochs": distill_epochs, "distill_learning_rate": distill_learning_rate}
    inputs = file_fingerprints([*asked_files, *learned_files, *_weights(source, types, others)])
    if (finished := finished_metrics(folder, config, inputs)) is not None:
        return finished
    asked = read(asked_files, scale).unique_prompts(max_prompts, seed)
    drawing: dict[str, Any] = {"max_new_tokens": max_new_tokens, "seed": seed, "trust_remote_code": trust_remote_code}
    setting = Setting(
        str(source), types, np.array(list(mixture.weights.values())), np.array(config["priority"]), len(asked),
        samples, max_new_tokens, hedge, seed,
    )  # fmt: skip
    kept = folder / "answers.parquet"
    if (folder / CONFIG).exists() and kept.exists():  # of an interrupted run with the same config
        answers = pq.read_table(kept)
    else:
        answers = draw_answers(source, asked, others, samples=samples, **drawing)
        start_run(folder, config, inputs)
        write_parquet(answers, kept)
    game, weights = solve(answers, setting)
    write_mixture(source, folder / "mixture", mixture, weights[EGALITARIAN])
    counts: dict[str, Any] = {}
    further = list(others)
    if distill:
        learned = read(learned_files, scale).unique_prompts(max_prompts, seed)
        counts = distill_mixture(
            folder, source, learned, samples=distill_samples, epochs=distill_epochs,
            learning_rate=distill_learning_rate, **drawing,
        )  # fmt: skip
        if DISTILLED not in answers.column("by").unique().to_pylist():
            distilled = {DISTILLED: folder / DISTILLED}
            last = draw_answers(source, asked, distilled, own=False, samples=samples, **drawing)
            answers = pa.concat_tables([answers, last])
            write_parquet(answers, kept)
        further.append(DISTILLED)
    groups = known_groups(source, _own_files(settings, ("train_files",)), len(types), scale)
    contents = aggregation_contents(answers, setting, further, game, weights, groups)
    if counts and counts["distill_left_out"] > counts["distill_draws"] / 9:  # one in ten of all
        contents.warnings.append(
            f"{counts['distill_left_out']} responses drawn from the mixture were empty or cut; the distilled policy "
            f"learned from the other {counts['distill_draws']} only. Raise --max-new-tokens."
        )
    metrics = aggregate_metrics(contents, answers) | counts
    write_record(folder / "aggregate.json", contents)
    with atomic_write(folder / "report.html", "w") as file:
        file.write(aggregation_page(contents, metrics))
    finish_run(folder, metrics, _card(folder, metrics, contents))
    return metrics


def types_of(run: Path) -> tuple[Mixture, dict[str, Any]]:
    """The policies of the types of a finished run with their shares, and the settings of the run.

    Raises:
        PluralignError: the folder is missing, not finished, or holds no types.
    """
    if not run.is_dir():
        raise PluralignError(f"{run}: no such folder: give a finished run of em-dpo")
    settings: dict[str, Any] = {}
    if (run / CONFIG).exists():
        settings = read_config(run)
        if not (run / "metrics.json").exists():
            raise PluralignError(
                f"{run}: this run is not finished (it has no metrics.json): run its command again first"
            )
    if not (run / MIXTURE).exists():
        objective = f" of the objective {settings['objective']}" if "objective" in settings else ""
        raise PluralignError(
            f"{run}: is not a run of em-dpo (it has no {MIXTURE}): aggregation needs the policies of several types, "
            f"found a folder{objective}"
        )
    return read_mixture(run), settings


def priority_of(given: Mapping[str, float] | Sequence[float] | None, types: Sequence[str]) -> np.ndarray:
    """Priorities in the order of the types.

    Raises:
        PluralignError: an unknown type, a negative number, or not one number per type.

    Examples:
        >>> priority_of({"2": 0.5}, ["type-1", "type-2"]).tolist()
        [1.0, 0.5]
    """
    values: Any = given
    if isinstance(given, Mapping):
        names = {**{label(name): place for place, name in enumerate(types)}, **{n: p for p, n in enumerate(types)}}
        values = np.ones(len(types))
        for name, number in given.items():
            if str(name) not in names:
                raise PluralignError(
                    f"priority: no type '{name}'; there are: {', '.join(types)}{nearest(str(name), types)}"
                )
            values[names[str(name)]] = number
    try:
        priority = priorities(len(types), values)
    except ValueError as fault:
        raise PluralignError(str(fault)) from fault
    if not priority.any():
        raise PluralignError("priority: every type has 0, so that no policy is better than another: raise one")
    return priority


def write_mixture(run: Path, out: Path, mixture: Mixture, weights: np.ndarray) -> None:
    """Write the folder of a mixture with other weights: copies of all adapters, completely or not at all."""
    shares = dict(zip(mixture.weights, weights.tolist(), strict=True))
    with atomic_folder(out) as folder:
        for name in shares:
            # File by file: the error of `copytree` hides why the disk refused a file.
            for file in sorted(path for path in (run / name).rglob("*") if path.is_file()):
                target = folder / file.relative_to(run)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
        replace(mixture, weights=shares).write(folder)


def _check_names(policies: Mapping[str, str], types: Sequence[str]) -> None:
    taken = {*types, BASE, *MIXTURES, DISTILLED}
    for name, path in policies.items():
        if name in taken:
            raise PluralignError(f"policy: the name '{name}' is taken; choose another for {path}")
        if not re.fullmatch(r"[\w.-]+", name) or name.endswith(("_low", "_high", "_se")):
            raise PluralignError(
                f"policy: found the name '{name}', expected letters, digits, '.', '-' and '_', not ending in _low, "
                "_high or _se"
            )


def _own_files(settings: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """The first list of files in a run's settings that is not empty."""
    return next(([str(file) for file in settings[key]] for key in keys if settings.get(key)), [])


def _weights(run: Path, types: Sequence[str], policies: Mapping[str, str]) -> list[Path]:
    """The weight files of the policies, whose fingerprints tell whether a policy has changed."""
    folders = [*(run / name for name in types), *map(Path, policies.values())]
    weights = (file for folder in folders if folder.is_dir() for file in sorted(folder.glob("*.safetensors")))
    return [run / MIXTURE, *weights]


def _card(folder: Path, metrics: Mapping[str, Any], contents: AggregationPage) -> str:
    distilled = (
        "`distilled/` is one adapter, tuned on responses drawn from it.\n\n" if "distill_draws" in metrics else ""
    )
    rows = [
        f"| {kind.type} | {kind.share:.3f} | {kind.priority:g} | {metrics[f'mixture_weights/type={kind.type}']:.3f} |"
        for kind in contents.types
    ]
    lines = "\n".join(regret_lines(metrics))
    warnings = "\n".join(f"- {warning}" for warning in contents.warnings)
    return (
        f"# Aggregation of {contents.run}\n\n"
        f"{metrics['types']} types, {metrics['prompts']} prompts, {metrics['samples']} responses to each from each "
        "policy. The aggregated policy is `mixture/`:\n\n"
        f'```python\nimport pluralign\n\npolicy = pluralign.load_policy("{folder / "mixture"}")\n'
        f'policy.sample(["a prompt"], n=2)\n```\n\n{distilled}```\n{lines}\n```\n\n'
        "What a type gives up compared with its own policy, in nats per response, with standard errors.\n\n"
        "| type | share | priority | weight in the mixture |\n|---|---|---|---|\n"
        + "\n".join(rows)
        + (f"\n\n{warnings}\n" if warnings else "\n")
    )

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
import yaml
from transformers.utils import logging

from pluralign.choice.regret import priorities
from pluralign.core.errors import PluralignError, nearest
from pluralign.core.files import atomic_folder, atomic_write, disk_errors, write_json, write_parquet
from pluralign.core.runs import CONFIG, file_fingerprints, finish_run, read_metrics, run_state, start_run
from pluralign.reports.aggregation import aggregation_page
from pluralign.scoring.mixtures import MIXTURE, Mixture, read_mixture
from pluralign.workflows.aggregate.answers import BASE, draw_answers, unique_prompts
from pluralign.workflows.aggregate.distill import DISTILLED, distill_mixture
from pluralign.workflows.aggregate.groups import known_groups
from pluralign.workflows.aggregate.story import (
    EGALITARIAN,
    MIXTURES,
    Asked,
    aggregate_metrics,
    aggregation,
    chosen,
    label,
    regret_lines,
)

logger = logging.get_logger(__name__)

Files = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


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
    """Mix the policies of types so that the largest regret is smallest, and say what every type gives up.

        L_ij = E_x E_{y ~ pi_j} [log pi_i(y|x) - log pi_ref(y|x)],   R_ij = c_i (L_ii - L_ij)
        min over w in the simplex of max over types of R w

    From arXiv 2510.15716; L is estimated from answers drawn at temperature 1. The mixture draws one of the types'
    policies for each answer. It is compared with each of them, with their base, and with mixtures by the types'
    shares, for the best average and for the best smallest utility.

    Args:
        run: a finished run of `em-dpo`.
        out: the folder: `mixture/` (the policy, for `load_policy`), `aggregate.json`, `answers.parquet`,
            `metrics.json`, `report.html`, `README.md`, and with `distill` `draws.parquet` and `distilled/`.
        prompts: canonical files whose prompts are answered; `None` takes the run's `eval_files`, else its
            `train_files`.
        samples: answers to each prompt from each policy.
        max_new_tokens: the longest answer.
        max_prompts: a seeded draw of so many prompts where there are more.
        priority: c of each type by its name or number, 1 where none is given, or one number for each type.
        hedge: solve the game by optimistic Hedge, as the paper does, instead of by a linear programme.
        policies: names and folders of other policies to compare with, with the same tokenizer.
        distill: train one adapter, `distilled/`, on draws from the mixture, and compare it too.
        distill_prompts: canonical files whose prompts it learns from; `None` takes the run's `train_files`, else
            the prompts that are answered.
        distill_samples: draws for each prompt.
        distill_epochs: passes over the draws.
        distill_learning_rate: of AdamW; 1e-4 suits LoRA adapters, which take about ten times what full models do.
        label_scale: for files whose labels come without one; `None` takes the run's.
        seed: of prompts, answers, bootstrap and training.
        trust_remote_code: run code that comes with the models.

    Returns:
        The metrics, as in `metrics.json`; utilities and regrets in nats per answer.

    Raises:
        PluralignError: the run is not finished or not of `em-dpo`, a file or policy cannot be used, a setting
            does not fit, or `out` holds another aggregation.
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
    asked_files = _files(prompts) or _own_files(settings, ("eval_files", "train_files"))
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
        learned_files = _files(distill_prompts) or _own_files(settings, ("train_files",)) or asked_files
        config |= {"distill_prompts": learned_files, "distill_samples": distill_samples}
        config |= {"distill_epochs": distill_epochs, "distill_learning_rate": distill_learning_rate}
    inputs = file_fingerprints([*asked_files, *learned_files, *_weights(source, types, others)])
    state = run_state(folder, config, inputs)
    if state == "finished":
        logger.warning(f"{folder}: this aggregation is finished already; nothing to do")
        return read_metrics(folder)
    found = unique_prompts(asked_files, scale, max_prompts, seed)
    drawing: dict[str, Any] = {"samples": samples, "max_new_tokens": max_new_tokens, "seed": seed}
    drawing |= {"trust_remote_code": trust_remote_code}
    asked = Asked(
        types, np.array(list(mixture.weights.values())), np.array(config["priority"]), len(found), samples,
        max_new_tokens, hedge, seed,
    )  # fmt: skip
    kept = folder / "answers.parquet"
    if state == "started" and kept.exists():
        answers = pq.read_table(kept)
    else:
        answers = draw_answers(source, found, others, **drawing)
        start_run(folder, config, inputs)
        write_parquet(answers, kept)
    game, weights = chosen(answers, asked)
    write_mixture(source, folder / "mixture", mixture, weights[EGALITARIAN])
    counts: dict[str, Any] = {}
    further = list(others)
    if distill:
        counts = distill_mixture(
            folder,
            folder / "mixture",
            source,
            unique_prompts(learned_files, scale, max_prompts, seed),
            samples=distill_samples,
            max_new_tokens=max_new_tokens,
            epochs=distill_epochs,
            learning_rate=distill_learning_rate,
            seed=seed,
            trust_remote_code=trust_remote_code,
        )
        if DISTILLED not in answers.column("by").unique().to_pylist():
            last = draw_answers(source, found, {DISTILLED: folder / DISTILLED}, own=False, **drawing)
            answers = pa.concat_tables([answers, last])
            write_parquet(answers, kept)
        further.append(DISTILLED)
    groups = known_groups(source, _own_files(settings, ("train_files",)), len(types), scale)
    story = aggregation(answers, asked, further, game, weights, groups) | {"run": str(source)}
    if counts and counts["distill_left_out"] > counts["distill_draws"] / 9:  # one in ten of all
        story["warnings"].append(
            f"{counts['distill_left_out']} draws of the mixture were empty or cut, and {counts['distill_draws']} "
            "were left to distil from: the distilled policy knows those alone. Raise --max-new-tokens."
        )
    metrics = aggregate_metrics(story, answers) | counts
    write_json(folder / "aggregate.json", story)
    with atomic_write(folder / "report.html", "w") as file:
        file.write(aggregation_page(story, metrics))
    finish_run(folder, metrics, _card(folder, source, metrics, story))
    return metrics


def types_of(run: Path) -> tuple[Mixture, dict[str, Any]]:
    """The types' policies of a finished run with their shares, and the run's settings.

    Raises:
        PluralignError: there is no such folder, it is not finished, or it holds no types.
    """
    if not run.is_dir():
        raise PluralignError(f"{run}: no such folder: give a finished run of em-dpo")
    settings: dict[str, Any] = {}
    if (run / CONFIG).exists():
        with disk_errors(run):
            settings = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8")) or {}
        if not (run / "metrics.json").exists():
            raise PluralignError(
                f"{run}: this run is not finished (it has no metrics.json): run its command again first"
            )
    if not (run / MIXTURE).exists():
        objective = f" of the objective {settings['objective']}" if "objective" in settings else ""
        raise PluralignError(
            f"{run}: is not a run of em-dpo (it has no {MIXTURE}): aggregating needs the policies of several "
            f"types, found a folder{objective}"
        )
    return read_mixture(run), settings


def priority_of(given: Mapping[str, float] | Sequence[float] | None, types: Sequence[str]) -> np.ndarray:
    """Priorities in the order of the types.

    Raises:
        PluralignError: an unknown type, a number under zero, or not one for each type.

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
        found = priorities(len(types), values)
    except ValueError as fault:
        raise PluralignError(str(fault)) from fault
    if not found.any():
        raise PluralignError("priority: every type has 0, so that no policy is better than another: raise one")
    return found


def write_mixture(run: Path, out: Path, mixture: Mixture, weights: np.ndarray) -> None:
    """Write a mixture's folder with other weights: copies of all adapters, whole or not at all."""
    shares = dict(zip(mixture.weights, weights.tolist(), strict=True))
    with atomic_folder(out) as folder:
        for name in shares:
            # File by file: `copytree` collects what the disk refuses into an error that does not say why.
            for file in sorted(one for one in (run / name).rglob("*") if one.is_file()):
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


def _files(given: Files | None) -> list[str]:
    if given is None:
        return []
    return [str(given)] if isinstance(given, str | os.PathLike) else [str(file) for file in given]


def _own_files(settings: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """The first of a run's lists of files that holds any."""
    return next(([str(file) for file in settings[key]] for key in keys if settings.get(key)), [])


def _weights(run: Path, types: Sequence[str], policies: Mapping[str, str]) -> list[Path]:
    """The files that make up the policies, so that changed ones are not taken for those before."""
    folders = [*(run / name for name in types), *map(Path, policies.values())]
    return [run / MIXTURE, *(file for one in folders if one.is_dir() for file in sorted(one.glob("*.safetensors")))]


def _card(folder: Path, run: Path, metrics: Mapping[str, Any], story: Mapping[str, Any]) -> str:
    lines = [f"# Aggregation of {run}", "", f"{metrics['types']} types, {metrics['prompts']} prompts, "]
    lines[-1] += f"{metrics['samples']} answers to each from each policy. The aggregated policy is `mixture/`:"
    lines += ["", "```python", "import pluralign", "", f'policy = pluralign.load_policy("{folder / "mixture"}")']
    lines += ['policy.sample(["a prompt"], n=2)', "```", ""]
    if "distill_draws" in metrics:
        lines += ["`distilled/` is one adapter, tuned on draws from it.", ""]
    lines += ["```", *regret_lines(metrics), "```", ""]
    lines += ["What a type gives up against its own policy, in nats per answer, with standard errors.", ""]
    lines += ["| type | share | priority | weight in the mixture |", "|---|---|---|---|"]
    for one in story["types"]:
        weight = metrics[f"mixture_weights/type={one['type']}"]
        lines.append(f"| {one['type']} | {one['share']:.3f} | {one['priority']:g} | {weight:.3f} |")
    lines += ["", *(f"- {warning}" for warning in story["warnings"])]
    return "\n".join(lines).rstrip() + "\n"

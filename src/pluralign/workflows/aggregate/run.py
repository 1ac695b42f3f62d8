"""`aggregate`: from the policies of types to one policy, and what each type gives up under it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow.parquet as pq

from pluralign.choice.regret import priorities
from pluralign.core.errors import PluralignError, nearest
from pluralign.core.files import atomic_folder, atomic_write, path_list, write_parquet
from pluralign.core.locks import locks_out
from pluralign.core.records import read_record, write_record
from pluralign.core.runs import (
    CONFIG,
    file_fingerprints,
    finish_run,
    finished_metrics,
    read_config,
    read_metrics,
    start_run,
)  # fmt: skip
from pluralign.judgments.reading import read
from pluralign.policies.best_of import ADAPTER, reward_model_judges, write_best_of
from pluralign.policies.merging import why_not_merged, write_merged
from pluralign.policies.mixture import MixturePolicy
from pluralign.policies.routing import is_typed_run
from pluralign.reports.aggregation import AggregationPage, aggregation_page
from pluralign.scoring.loading import load_parts
from pluralign.scoring.mixtures import MIXTURE as MIXTURE_FILE
from pluralign.scoring.mixtures import Mixture, base_of, is_mixture, read_mixture, read_responsibilities
from pluralign.scoring.type_judges import FeatureJudge, TypeJudges, fit_feature_judge
from pluralign.workflows.aggregate.answers import BASE, draw_answers, policy_of_types
from pluralign.workflows.aggregate.contents import (
    Setting,
    aggregate_metrics,
    aggregation_contents,
    known_groups,
    label,
    outcome_lines,
    policy_key,
)
from pluralign.workflows.aggregate.distill import distill as distill_policy
from pluralign.workflows.aggregate.distill import distilled
from pluralign.workflows.aggregate.tuning import (
    BEST_OF,
    COMPARED,
    MERGE,
    MIXTURE,
    OFFERED,
    POOLED,
    BestOfRule,
    Criterion,
    Tuned,
    tune,
)

TUNING = "tuning.json"
"""The file of the weights that were chosen on the tuning prompts."""

LEAST_HELD_OUT = 30
"""Held-out judgments of each type, weighted by responsibilities, from which a second judge is fitted."""

Files = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@locks_out()
def aggregate(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    prompts: Files | None = None,
    tuning_prompts: Files | None = None,
    criterion: Criterion = "win-rate",
    offer: Sequence[str] = OFFERED,
    judge: Mapping[str, str | os.PathLike[str]] | None = None,
    samples: int = 4,
    candidates: int = 16,
    best_of_rule: BestOfRule = "weighted",
    trials: int = 12,
    max_new_tokens: int = 128,
    max_prompts: int | None = None,
    max_tuning_prompts: int = 48,
    priority: Mapping[str, float] | Sequence[float] | None = None,
    hedge: bool = False,
    policies: Mapping[str, str | os.PathLike[str]] | None = None,
    distill: bool | Sequence[str] = False,
    distill_prompts: Files | None = None,
    distill_samples: int = 4,
    distill_epochs: float = 1.0,
    distill_learning_rate: float = 1e-4,
    label_scale: str | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Combine the policies of types into one policy in several ways, and measure what each type gets from each.

    - `mixture`: draws each response from one type's policy; weights by the game of the criterion (the paper's).
    - `merge`: one adapter, sum_k lambda_k of the types' adapters; lambda searched on tuning prompts.
    - `pooled`: the types' logits added with weights lambda at every token.
    - `best-of`: the best of n responses of the base or of `merge`, by the types' judges.

    All weights are chosen on tuning prompts. The policies are then measured on other prompts:

        L_ij = E_x E_{y ~ pi_j} [log pi_i(y|x) - log pi_ref(y|x)],   R_ij = c_i (L_ii - L_ij)
        W_ij = how often type i's judge prefers a response of policy j to one of the base

    and the best of them by the criterion is marked.

    Args:
        run: finished run of `em-dpo`. With a single type nothing is written.
        out: output folder: the policies `mixture/`, `merge/`, `pooled/`, `best-of/` and `NAME-distilled/`, all for
            `load_policy`, and `tuning.json`, `aggregate.json`, `answers.parquet`, `metrics.json`, `report.html` and
            `README.md`.
        prompts: canonical files on whose prompts the policies are measured. Default: the run's `eval_files`, else its
            `train_files`.
        tuning_prompts: canonical files; prompts that are also in `prompts` are left out. Default: the run's
            `train_files`. If no other prompt is left, half of `prompts` are used for tuning.
        criterion: what the weights minimise: the largest `regret` c_i (L_ii - L_ij) in nats, `relative-regret` (over
            L_ii), or `win-rate`, c_i (1 - W_ij).
        offer: the policies to build.
        judge: the reward model of each type by its name or number. Default: linear models of words and simple traits,
            fitted to the judgments in the run's `train_files` weighted by the responsibilities; without these files
            the types' own policies judge, and `best-of` is not offered.
        samples: responses per prompt from each policy.
        candidates: n of `best-of`.
        best_of_rule: which candidate `best-of` gives, with F_k the share of the base's responses that type k likes
            less: the one with the largest sum_k p_k F_k (`weighted`; p serves the worst-off type best on average), or
            the one with the largest smallest F_k (`smallest`; no type is served badly in a single response).
        trials: number of weights that the search for `merge` tries; half as many for `pooled`.
        max_new_tokens: maximum number of tokens of a response.
        max_prompts: maximum number of prompts; a random subset if the files have more.
        max_tuning_prompts: the same for the tuning prompts.
        priority: c of each type by its name or number (1 if missing), or one number per type.
        hedge: solve the mixture's game by optimistic Hedge, as in the paper, not by a linear programme.
        policies: names and folders of other policies to compare; they need the same tokenizer.
        distill: also train one adapter on responses of each policy of `offer` that is not one adapter already, or of
            the policies named.
        distill_prompts: canonical files. Default: the run's `train_files`, else `prompts`.
        distill_samples: responses per prompt to distill on.
        distill_epochs: number of epochs of the distillation.
        distill_learning_rate: learning rate of the distillation; the default suits LoRA adapters.
        label_scale: label scale of files that store none. Default: that of the run.
        seed: random seed.
        trust_remote_code: run Python code that comes with a model.

    Returns:
        The content of `metrics.json`; utilities and regrets in nats per response. With a single type only
        `{"types": 1}`.

    Raises:
        PluralignError: the run is not a finished run of `em-dpo`, a file or policy cannot be used, a setting does
            not fit, or `out` holds another aggregation.

    Source: EM-DPO and min-max regret aggregation, arXiv 2510.15716 (the mixture); the rest is ours.
    """
    source, folder = Path(run), Path(out)
    mixture, settings = types_of(source)
    if mixture is None or len(mixture.weights) == 1:
        return {"types": 1}
    types = list(mixture.weights)
    others = {name: str(path) for name, path in (policies or {}).items()}
    _check_names(others, types)
    counted: dict[str, int | None] = {"samples": samples, "candidates": candidates, "trials": trials}
    counted |= {"max_new_tokens": max_new_tokens, "max_tuning_prompts": max_tuning_prompts, "max_prompts": max_prompts}
    for name, number in (counted | {"distill_samples": distill_samples}).items():
        if number is not None and number < 1:
            raise PluralignError(f"{name}: found {number}, expected 1 or more")
    for name, size in (("distill_epochs", distill_epochs), ("distill_learning_rate", distill_learning_rate)):
        if not size > 0:
            raise PluralignError(f"{name}: found {size}, expected a number above 0")
    _one_of("criterion", [criterion], get_args(Criterion))
    _one_of("best_of_rule", [best_of_rule], get_args(BestOfRule))
    _one_of("offer", offer, OFFERED)
    offer = [name for name in OFFERED if name in offer]
    taught = [name for name in offer if name != MERGE] if distill is True else list(distill or ())
    _one_of("distill", taught, offer)
    scale = label_scale or settings.get("label_scale")
    train_files = [file for file in _own_files(settings, ("train_files",)) if Path(file).is_file()]
    asked_files = path_list(prompts or ()) or _own_files(settings, ("eval_files", "train_files"))
    if not asked_files:
        raise PluralignError(f"{source}: names no files to take prompts from: give some with --prompts")
    tuning_files = path_list(tuning_prompts or ()) or train_files or asked_files
    reward_models = judges_of(judge, types)
    config: dict[str, Any] = {
        "command": "aggregate",
        "run": str(source),
        "prompts": asked_files,
        "tuning_prompts": tuning_files,
        "criterion": criterion,
        "offer": offer,
        **counted,
        "best_of_rule": best_of_rule,
        "priority": priority_of(priority, types).tolist(),
        "hedge": hedge,
        "policies": others,
        "seed": seed,
    }
    if best_of_rule == "smallest" and BEST_OF in offer and len(set(config["priority"])) > 1:
        raise PluralignError("best_of_rule: smallest knows no priorities: give none, or use weighted")
    config |= {} if reward_models is None else {"judge": reward_models}
    config |= {} if scale is None else {"label_scale": scale}
    learned_files: list[str] = []
    if taught:
        learned_files = path_list(distill_prompts or ()) or _own_files(settings, ("train_files",)) or asked_files
        config |= {"distill": taught, "distill_prompts": learned_files, "distill_samples": distill_samples}
        config |= {"distill_epochs": distill_epochs, "distill_learning_rate": distill_learning_rate}
    fitted = reward_models is None and is_typed_run(source) and bool(train_files)
    held_out = [file for file in _own_files(settings, ("eval_files",)) if Path(file).is_file()] if fitted else []
    own = [*train_files, *held_out] if fitted else []
    read_files = dict.fromkeys([*asked_files, *tuning_files, *learned_files, *own])
    inputs = file_fingerprints([*read_files, *_weights(source, types, {**others, **(reward_models or {})})])
    if (finished := finished_metrics(folder, config, inputs)) is not None:
        return finished
    asked = read(asked_files, scale).unique_prompts(max_prompts, seed)
    tuning, asked, warnings = _apart(read(tuning_files, scale).unique_prompts(), asked, max_tuning_prompts, seed)
    drawing: dict[str, Any] = {"max_new_tokens": max_new_tokens, "seed": seed, "trust_remote_code": trust_remote_code}
    judges: TypeJudges | None = None
    second: TypeJudges | None = None
    if fitted:
        shares, posteriors = mixture.weights, read_responsibilities(source, len(types))
        judges = fit_feature_judge(read(train_files, scale), posteriors, shares, seed=seed)
        second = second_judge(held_out, scale, posteriors, shares, seed)
        if second is None:
            warnings.append(
                "The judges that choose also measure, which flatters best-of: give the run held-out judgments "
                f"(eval_files), at least {LEAST_HELD_OUT} of every type's annotators."
            )
    elif reward_models is not None:
        judges = reward_model_judges(reward_models, trust_remote_code=trust_remote_code)
    elif BEST_OF in offer:
        offer = [name for name in offer if name != BEST_OF]
        taught = [name for name in taught if name != BEST_OF]
        warnings.append(
            "best-of is not offered, because it needs judges: the run's train files are missing. Give a reward model "
            "for each type with --judge."
        )
    policy = policy_of_types(source, trust_remote_code)
    _check_tokens(policy, others, source, trust_remote_code)
    if MERGE in offer and (reason := why_not_merged(policy)):
        offer = [name for name in offer if name != MERGE]
        warnings.append(f"merge is not offered: {reason}.")
    kept = folder / "answers.parquet"
    if (folder / CONFIG).exists() and (folder / TUNING).exists():  # of an interrupted run with the same config
        tuned = read_record(folder / TUNING, Tuned)
    else:
        tuned = tune(
            policy, tuning, judges, offer=offer, criterion=criterion, priority=np.array(config["priority"]),
            samples=samples, candidates=candidates, best_of_rule=best_of_rule, trials=trials,
            max_new_tokens=max_new_tokens, hedge=hedge, seed=seed,
        )  # fmt: skip
        start_run(folder, config, inputs)
        write_record(folder / TUNING, tuned)
    built = _write_policies(folder, source, policy, tuned, offer, candidates, judges if fitted else reward_models)
    del policy
    setting = Setting(
        str(source), types, np.array(list(mixture.weights.values())), np.array(config["priority"]), criterion,
        _judged_by(judges, second),
        len(asked), len(tuning), samples, max_new_tokens, hedge, seed,
    )  # fmt: skip
    counts: dict[str, Any] = {}
    if taught:
        learned = read(learned_files, scale).unique_prompts(max_prompts, seed)
        counts["distill_prompts"] = len(learned)
    for name in taught:
        counts |= distill_policy(
            folder, name, source, learned, samples=distill_samples, epochs=distill_epochs,
            learning_rate=distill_learning_rate, **drawing,
        )  # fmt: skip
        built[distilled(name)] = folder / distilled(name)
    # A mixture's outcome is the weighted mean of the types'.
    drawn_from = {name: path for name, path in built.items() if name != MIXTURE} | {
        n: Path(p) for n, p in others.items()
    }
    if kept.exists():
        answers = pq.read_table(kept)
    else:
        answers = draw_answers(source, asked, drawn_from, judges=second or judges, samples=samples, **drawing)
        write_parquet(answers, kept)
    groups = known_groups(source, _own_files(settings, ("train_files",)), len(types), scale)
    contents = aggregation_contents(answers, setting, list(built), list(others), tuned, groups)
    contents.warnings.extend([*warnings, *_few_draws(counts, taught)])
    metrics = aggregate_metrics(contents, answers) | counts
    write_record(folder / "aggregate.json", contents)
    with atomic_write(folder / "report.html", "w") as file:
        file.write(aggregation_page(contents, metrics))
    finish_run(folder, metrics, _card(folder, metrics, contents))
    return metrics


def second_judge(
    files: Sequence[str],
    scale: str | None,
    posteriors: Mapping[str, np.ndarray],
    shares: Mapping[str, float],
    seed: int,
) -> FeatureJudge | None:
    """Judges fitted to held-out judgments, which measure what those of the training judgments chose.

    A judge that chose among responses likes the chosen ones for its own errors too; another one does not share them.
    None where a type has fewer than `LEAST_HELD_OUT` held-out judgments.
    """
    if not files:
        return None
    judgments, prior = read(files, scale), np.array(list(shares.values()))
    counts = sum((posteriors.get(str(name), prior) for name in judgments.column("annotator")), np.zeros(len(prior)))
    return fit_feature_judge(judgments, posteriors, shares, seed=seed) if min(counts) >= LEAST_HELD_OUT else None


def _judged_by(judges: TypeJudges | None, second: TypeJudges | None) -> str:
    if judges is None:
        return "the types' own policies"
    if isinstance(judges, FeatureJudge):
        return "words and traits" if second is None else "words and traits, fitted to held-out judgments"
    return "reward models"


def _one_of(option: str, given: Sequence[str], allowed: Sequence[str]) -> None:
    for name in given:
        if name not in allowed:
            raise PluralignError(f"{option}: found '{name}', expected {', '.join(allowed)}{nearest(name, allowed)}")


def _apart(tuning: list[Any], asked: list[Any], most: int, seed: int) -> tuple[list[Any], list[Any], list[str]]:
    """Tuning prompts and held-out prompts without a common one, and a warning if that is not possible."""
    held = {json.dumps(prompt) for prompt in asked}
    draw = np.random.default_rng(seed)
    others = [prompt for prompt in tuning if json.dumps(prompt) not in held]
    warnings = []
    if not others and len(asked) > 1:
        order = draw.permutation(len(asked))
        half = len(asked) // 2
        others, asked = ([asked[place] for place in sorted(part)] for part in (order[:half], order[half:]))
    elif not others:
        others = asked
        warnings.append(
            "There is one prompt for tuning and for measuring: the weights suit it better than they suit other prompts."
        )
    if len(others) > most:
        others = [others[place] for place in sorted(draw.choice(len(others), most, replace=False))]
    return others, asked, warnings


def _write_policies(
    folder: Path,
    source: Path,
    policy: MixturePolicy,
    tuned: Tuned,
    offer: Sequence[str],
    candidates: int,
    judges: TypeJudges | Mapping[str, str] | None,
) -> dict[str, Path]:
    """Write every policy that was tuned, completely or not at all; returns their folders by name."""
    mixture = policy.mixture
    built: dict[str, Path] = {}
    if MIXTURE in offer:
        built[MIXTURE] = folder / MIXTURE
        write_mixture(source, built[MIXTURE], mixture, np.array(tuned.mixtures[MIXTURE]))
    if tuned.merge is not None:
        built[MERGE] = folder / MERGE
        with atomic_folder(built[MERGE]) as partial:
            write_merged(policy, dict(zip(mixture.weights, tuned.merge, strict=True)), partial)
    if tuned.pooled is not None:
        built[POOLED] = folder / POOLED
        write_mixture(source, built[POOLED], replace(mixture, combination="pooled"), np.array(tuned.pooled))
    if tuned.best_of is not None and isinstance(judges, FeatureJudge | Mapping):
        built[BEST_OF], best = folder / BEST_OF, tuned.best_of
        weights = None if best.weights is None else dict(zip(mixture.weights, best.weights, strict=True))
        base = base_of(source / next(iter(mixture.weights)))
        with atomic_folder(built[BEST_OF]) as partial:
            write_best_of(
                policy, partial, base=base, n=candidates, weights=weights, judges=judges, yardstick=best.yardstick
            )
            if best.drawn_by == MERGE and tuned.merge is not None:
                write_merged(policy, dict(zip(mixture.weights, tuned.merge, strict=True)), partial / ADAPTER)
    return built


def _check_tokens(policy: MixturePolicy, others: Mapping[str, str], source: Path, trusted: bool) -> None:
    """Refuse policies with other tokens before anything is drawn."""
    vocabulary = policy.tokenizer.get_vocab()
    for path in others.values():
        place = Path(path)
        if is_mixture(place):
            place = place / next(iter(read_mixture(place).weights))
        if (place / "config.json").exists() and load_parts(place, {"trust_remote_code": trusted})[
            1
        ].get_vocab() != vocabulary:
            raise PluralignError(
                f"{path}: has other tokens than {source}, so its responses cannot be scored under the policies of the "
                "types: give a policy with the same tokenizer"
            )


def _few_draws(counts: Mapping[str, Any], taught: Sequence[str]) -> list[str]:
    """Warnings of distillations that had to leave out more than one in ten responses."""
    return [
        f"{counts[f'distill_left_out/{name}']} responses of {name} were empty or cut; the distilled policy learned "
        f"from the other {counts[f'distill_draws/{name}']} only. Raise --max-new-tokens."
        for name in taught
        if counts[f"distill_left_out/{name}"] > counts[f"distill_draws/{name}"] / 9
    ]


def judges_of(given: Mapping[str, str | os.PathLike[str]] | None, types: Sequence[str]) -> dict[str, str] | None:
    """The reward model of each type, in the order of the types; None if none are given.

    Raises:
        PluralignError: an unknown type, or a type without a reward model.

    Examples:
        >>> judges_of({"2": "runs/b", "type-1": "runs/a"}, ["type-1", "type-2"])
        {'type-1': 'runs/a', 'type-2': 'runs/b'}
    """
    if not given:
        return None
    found = {types[place_of("judge", str(name), types)]: str(path) for name, path in given.items()}
    if missing := [name for name in types if name not in found]:
        raise PluralignError(f"judge: {', '.join(missing)}: no reward model; give one for each type")
    return {name: found[name] for name in types}


def place_of(option: str, name: str, types: Sequence[str]) -> int:
    """The place of a type by its name or its number."""
    names = {**{label(kind): place for place, kind in enumerate(types)}, **{n: p for p, n in enumerate(types)}}
    if name not in names:
        raise PluralignError(f"{option}: no type '{name}'; there are: {', '.join(types)}{nearest(name, types)}")
    return names[name]


def types_of(run: Path) -> tuple[Mixture | None, dict[str, Any]]:
    """The policies of the types of a finished run with their shares, and the settings of the run.

    None stands for a run of `em-dpo` that holds a single policy.

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
    if not (run / MIXTURE_FILE).exists():
        if settings.get("objective") == "em-dpo" and read_metrics(run).get("types") == 1:
            return None, settings
        objective = f" of the objective {settings['objective']}" if "objective" in settings else ""
        raise PluralignError(
            f"{run}: is not a run of em-dpo (it has no {MIXTURE_FILE}): aggregation needs the policies of several "
            f"types, found a folder{objective}"
        )
    mixture = read_mixture(run)
    if mixture.answers == "letters":
        raise PluralignError(f"{run}: responds with letters of listed options, and aggregation needs texts")
    return mixture, settings


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
        values = np.ones(len(types))
        for name, number in given.items():
            values[place_of("priority", str(name), types)] = number
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
    taken = {*types, BASE, *OFFERED, *map(distilled, OFFERED), *COMPARED}
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
    return [run / MIXTURE_FILE, *weights]


def _card(folder: Path, metrics: Mapping[str, Any], contents: AggregationPage) -> str:
    names = [kind.type for kind in contents.types]
    head = "| policy | " + " | ".join(f"type {name}" for name in names) + " |\n|---|" + "---|" * len(names)
    rows = [
        f"| {policy} | "
        + " | ".join(f"{metrics[f'{policy_key(policy)}_weights/type={name}']:.3f}" for name in names)
        + " |"
        for policy in OFFERED
        if f"{policy_key(policy)}_weights/type={names[0]}" in metrics
    ]
    lines = "\n".join(outcome_lines(metrics))
    warnings = "\n".join(f"- {warning}" for warning in contents.warnings)
    winner = metrics["winner"]
    best = folder / winner if (folder / winner).is_dir() else None
    loaded = (
        f'```python\nimport pluralign\n\npolicy = pluralign.load_policy("{best}")\n'
        'policy.sample(["a prompt"], n=2)\n```\n\n'
        if best is not None
        else ""
    )
    return (
        f"# Aggregation of {contents.run}\n\n"
        f"{metrics['types']} types; weights chosen on {metrics['tuning_prompts']} prompts; {metrics['samples']} "
        f"responses of each policy to {metrics['prompts']} other prompts. Best by {contents.criterion}: `{winner}`.\n\n"
        f"{loaded}```\n{lines}\n```\n\n"
        f"Win rates against the base, judged by {contents.judged_by}; regrets in nats per response.\n\n"
        f"Weights:\n\n{head}\n" + "\n".join(rows) + (f"\n\n{warnings}\n" if warnings else "\n")
    )

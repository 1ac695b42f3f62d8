"""`aggregate`: from the policies of types to one policy, and what each type gives up under it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from transformers.utils import logging

from pluralign.core.errors import PluralignError
from pluralign.core.files import atomic_write, read_parquet, write_parquet
from pluralign.core.locks import locks_out
from pluralign.core.records import read_record, write_record
from pluralign.core.runs import CONFIG, file_fingerprints, finish_run, finished_metrics, start_run
from pluralign.judgments.paths import is_present
from pluralign.judgments.reading import Inputs, read
from pluralign.policies.merging import why_not_merged
from pluralign.policies.routing import is_typed_run
from pluralign.reports.aggregation import AggregationPage, aggregation_page
from pluralign.workflows.aggregate.answers import draw_answers, policy_of_types
from pluralign.workflows.aggregate.card import aggregation_card
from pluralign.workflows.aggregate.checks import (
    apart,
    check_names,
    check_tokens,
    judges_of,
    one_of,
    own_files,
    priority_of,
    prompt_files,
    types_of,
    weight_files,
)
from pluralign.workflows.aggregate.contents import Setting, aggregate_metrics, aggregation_contents, known_groups
from pluralign.workflows.aggregate.distill import distill as distill_policy
from pluralign.workflows.aggregate.distill import distilled, few_draws
from pluralign.workflows.aggregate.judges import judges_from
from pluralign.workflows.aggregate.tuning import (
    BEST_OF,
    MERGE,
    MIXTURE,
    OFFERED,
    BestOfRule,
    Criterion,
    Tuned,
    tune,
)
from pluralign.workflows.aggregate.written import write_policies

logger = logging.get_logger(__name__)

TUNING = "tuning.json"
"""The file of the weights that were chosen on the tuning prompts."""

AGGREGATE = "aggregate.json"
"""The file of the policies side by side, with the warnings."""

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
    - `best-of`: the best of n responses of the base, by the types' judges.

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
        `{"types": 1}`, without a `winner`: the policy of the run serves everybody.

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
    check_names(others, types)
    counted: dict[str, int | None] = {"samples": samples, "candidates": candidates, "trials": trials}
    counted |= {"max_new_tokens": max_new_tokens, "max_tuning_prompts": max_tuning_prompts, "max_prompts": max_prompts}
    for name, number in (counted | {"distill_samples": distill_samples}).items():
        if number is not None and number < 1:
            raise PluralignError(f"{name}: found {number}, expected 1 or more")
    for name, size in (("distill_epochs", distill_epochs), ("distill_learning_rate", distill_learning_rate)):
        if not size > 0:
            raise PluralignError(f"{name}: found {size}, expected a number above 0")
    one_of("criterion", [criterion], get_args(Criterion))
    one_of("best_of_rule", [best_of_rule], get_args(BestOfRule))
    one_of("offer", offer, OFFERED)
    offer = [name for name in OFFERED if name in offer]
    taught = [name for name in offer if name != MERGE] if distill is True else list(distill or ())
    one_of("distill", taught, offer)
    scale, columns = label_scale or settings.get("label_scale"), settings.get("rename")
    train_files = [file for file in own_files(settings, ("train_files",)) if is_present(file)]
    asked_files = prompt_files("prompts", prompts) or own_files(settings, ("eval_files", "train_files"))
    if not asked_files:
        raise PluralignError(f"{source}: names no files to take prompts from: give some with --prompts")
    tuning_files = prompt_files("tuning_prompts", tuning_prompts) or train_files or asked_files
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
        learned_files = (
            prompt_files("distill_prompts", distill_prompts) or own_files(settings, ("train_files",)) or asked_files
        )
        config |= {"distill": taught, "distill_prompts": learned_files, "distill_samples": distill_samples}
        config |= {"distill_epochs": distill_epochs, "distill_learning_rate": distill_learning_rate}
    fitted = reward_models is None and is_typed_run(source) and bool(train_files)
    held_out = [file for file in own_files(settings, ("eval_files",)) if is_present(file)] if fitted else []
    own = [*train_files, *held_out] if fitted else []
    read_files = dict.fromkeys([*asked_files, *tuning_files, *learned_files, *own])
    inputs = Inputs(list(read_files)).fingerprints()
    inputs |= file_fingerprints(weight_files(source, types, {**others, **(reward_models or {})}))
    if (finished := finished_metrics(folder, config, inputs)) is not None:
        _warn(read_record(folder / AGGREGATE, AggregationPage))
        return finished
    asked = read(asked_files, scale, columns).unique_prompts(max_prompts, seed)
    tuning, asked, warnings = apart(
        read(tuning_files, scale, columns).unique_prompts(), asked, max_tuning_prompts, seed
    )
    drawing: dict[str, Any] = {"max_new_tokens": max_new_tokens, "seed": seed, "trust_remote_code": trust_remote_code}
    fit_on = train_files if fitted else []
    judges = judges_from(source, mixture, reward_models, fit_on, held_out, scale, seed, trust_remote_code, columns)
    warnings += [] if judges.warning is None else [judges.warning]
    if judges.choosing is None and BEST_OF in offer:
        offer = [name for name in offer if name != BEST_OF]
        taught = [name for name in taught if name != BEST_OF]
        warnings.append(
            "best-of is not offered, because it needs judges: the run's train files are missing. Give a reward model "
            "for each type with --judge."
        )
    policy = policy_of_types(source, trust_remote_code)
    check_tokens(policy, others, source, trust_remote_code)
    if MERGE in offer and (reason := why_not_merged(policy)):
        offer = [name for name in offer if name != MERGE]
        warnings.append(f"merge is not offered: {reason}.")
    kept = folder / "answers.parquet"
    if (folder / CONFIG).exists() and (folder / TUNING).exists():  # of an interrupted run with the same config
        tuned = read_record(folder / TUNING, Tuned)
    else:
        tuned = tune(
            policy, tuning, judges.choosing, offer=offer, criterion=criterion, priority=np.array(config["priority"]),
            samples=samples, candidates=candidates, best_of_rule=best_of_rule, trials=trials,
            max_new_tokens=max_new_tokens, hedge=hedge, seed=seed,
        )  # fmt: skip
        start_run(folder, config, inputs)
        write_record(folder / TUNING, tuned)
    built = write_policies(folder, source, policy, tuned, offer, candidates, judges.stored)
    del policy
    setting = Setting(
        str(source), types, np.array(list(mixture.weights.values())), np.array(config["priority"]), criterion,
        judges.name, len(asked), len(tuning), samples, max_new_tokens, hedge, seed,
    )  # fmt: skip
    counts: dict[str, Any] = {}
    if taught:
        learned = read(learned_files, scale, columns).unique_prompts(max_prompts, seed)
        counts["distill_prompts"] = len(learned)
    for name in taught:
        counts |= distill_policy(
            folder, name, source, learned, samples=distill_samples, epochs=distill_epochs,
            learning_rate=distill_learning_rate, **drawing,
        )  # fmt: skip
        built[distilled(name)] = folder / distilled(name)
    # A mixture's outcome is the weighted mean of the types'.
    drawn_from = {name: path for name, path in built.items() if name != MIXTURE}
    drawn_from |= {name: Path(path) for name, path in others.items()}
    if kept.exists():
        answers = read_parquet(kept)
    else:
        answers = draw_answers(source, asked, drawn_from, judges=judges.measuring, samples=samples, **drawing)
        write_parquet(answers, kept)
    groups = known_groups(source, own_files(settings, ("train_files",)), len(types), scale, columns)
    contents = aggregation_contents(answers, setting, list(built), list(others), tuned, groups)
    contents.warnings.extend([*warnings, *few_draws(counts, taught)])
    metrics = aggregate_metrics(contents, answers) | counts
    write_record(folder / AGGREGATE, contents)
    with atomic_write(folder / "report.html", "w") as file:
        file.write(aggregation_page(contents, metrics))
    finish_run(folder, metrics, aggregation_card(folder, metrics, contents))
    _warn(contents)
    return metrics


def _warn(contents: AggregationPage) -> None:
    """Say the reasons to distrust an aggregation's numbers."""
    for warning in contents.warnings:
        logger.warning(warning)

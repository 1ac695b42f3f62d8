"""`evaluate`: a reward model or a policy on a table of judgments."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pluralign.core.errors import PluralignError
from pluralign.core.files import write_parquet
from pluralign.core.locks import locks_out
from pluralign.core.records import read_json
from pluralign.core.runs import file_fingerprints, finish_run, finished_metrics, start_run
from pluralign.evaluation.calibration.group_scales import GroupScales, scale_metrics
from pluralign.evaluation.calibration.recalibration import Recalibration
from pluralign.evaluation.policies.first_choices import first_choice_metrics
from pluralign.evaluation.policies.said_wanted import kinds_by_likeness, kinds_by_reward
from pluralign.evaluation.rewards.sharing import sharing_gain
from pluralign.evaluation.slices import annotator_table
from pluralign.judgments.inputs import Files
from pluralign.judgments.lettered import Answers, asked_for
from pluralign.judgments.reading import Inputs
from pluralign.judgments.renames import Columns
from pluralign.judgments.table import Judgments
from pluralign.policies.best_of import NO_LOG_PROB, best_of_files, is_best_of
from pluralign.policies.comparison import against_reference, answer_rows, compare, drawn_in_turn
from pluralign.policies.loading import load_policy
from pluralign.policies.matching import Kinds, matching_beside, of_draws, said_beside, write_matching
from pluralign.policies.mixture import MixturePolicy
from pluralign.policies.routing import is_typed_run, type_utilities
from pluralign.reports.cards import cross_table, metrics_table
from pluralign.scoring.crowd_predictions import CrowdResult, evaluate_crowd, group_gain, verdicts
from pluralign.scoring.crowds import check_labels, crowd_of, labels_anything
from pluralign.scoring.features import text_features
from pluralign.scoring.items import Items, compares, items_of
from pluralign.scoring.label_baselines import read_baselines
from pluralign.scoring.loading import SETTINGS, STRENGTHS, TIE_NU, load_parts
from pluralign.scoring.measured import (
    Measured,
    believed,
    column_of,
    counts_of,
    outcome_metrics,
    pairs_under,
    reward_metrics,
    slices_of,
    strength_metrics,
    typed_metrics,
)
from pluralign.scoring.mixtures import is_mixture, read_mixture, read_responsibilities, weight_files
from pluralign.scoring.recalibrated import read_recalibration
from pluralign.scoring.reference import ANSWERS
from pluralign.scoring.reward_models import (
    ANNOTATOR_SCALES,
    LabelModel,
    RewardModel,
    is_reward_model,
    load_reward_model,
)
from pluralign.workflows.report import report
from pluralign.workflows.score import MarginMap, rewards_of

NEAREST = "nearest"
"""The value of `kinds` under which a response is of the kind of the judged response that it is most like."""


@locks_out()
def evaluate(
    model: str | os.PathLike[str],
    files: Files,
    out: str | os.PathLike[str],
    *,
    label_scale: str | None = None,
    columns: Columns | None = None,
    seed: int = 0,
    raw: bool = False,
    average: Sequence[str | os.PathLike[str]] = (),
    own: Mapping[str, str] | None = None,
    reference: str | None = None,
    beta: float | None = None,
    reward: str | None = None,
    kinds: str | None = None,
    samples: int = 2,
    max_new_tokens: int = 128,
    quantile: float | None = None,
    revision: str = "main",
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Evaluate a reward model or a policy on judgments and write a run folder.

    A policy is judged by its implicit reward beta * (log pi(y|x) - log pi_ref(y|x)); a policy tuned by preference
    matching subtracts only the part of log pi_ref that its tuning charged. With a reward model it is also judged by
    how often its responses beat the reference's and by how far its odds are from the reward model's. In a run with
    annotator types each judgment is judged under its annotator's type (see `scoring.measured.typed_metrics`); any
    other mixture and a pooled policy are judged as one policy, and so are responses drawn from a mixture. A best-of
    policy has no log-probability and is judged by its responses alone, which takes a reward model.
    A reward model is judged by its log-odds: rewards divided by its stored temperature, margins through its stored
    isotonic recalibration. One that predicts labels is judged by its predictions where the files have labels, and
    by its rewards where they compare responses.

    Args:
        model: a run, a model folder, or a hub id.
        files: what `read` takes: files, data sets, frames or rows.
        out: the folder to write: `metrics.json`, `reliability.json`, `annotators.parquet`, `losses.parquet` (accuracy
            and log-loss of each judgment, by which `report` compares runs), `README.md`; for reward models
            `over_rewarding.json`; if responses are drawn `answers.jsonl` and `matching.json`; if labels are predicted
            `crowds.parquet` (then the other files only if responses are compared); `report.html`.
        label_scale: for files whose labels come without one.
        columns: new names of columns, like `{"annotator_id": "annotator"}`; `None` leaves a column out.
        seed: seed of the bootstrap and of sampling.
        raw: for reward models: ignore stored recalibrations.
        average: other reward models; the mean of their rewards and the model's is judged.
        own: for reward models: a model of its own for each source, by name: what sharing a model costs or gains the
            source (`pluralign.evaluation.rewards.sharing`).
        reference: for policies: a folder or hub id; `None` is the model that its run started from.
        beta: for policies: `None` is the beta it was tuned with, else 0.1.
        reward: the reward model that judges a policy's responses to the prompts, a folder or hub id.
        kinds: with a reward, tells kinds of responses, whose shares among what the policy says are compared with those
            among what annotators put first: a finished run of em-dpo, whose types' implicit rewards say whose
            favourite a response is, or `nearest` for the judged response it is most like. Default: the policy itself,
            if it is such a run.
        samples: responses of policy and reference to each prompt; matching needs two or more.
        max_new_tokens: the longest response.
        quantile: for reward models that predict labels: use this quantile as the reward, not the mean.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run code that comes with the model.

    Returns:
        The metrics, as in `metrics.json`.

    Raises:
        PluralignError: a file or the model cannot be used, a best-of policy is given without a reward model, or `out`
            holds another evaluation.
    """
    folder, by_draws = Path(out), is_best_of(Path(model))
    if by_draws and reward is None:
        raise PluralignError(
            f"{model}: is a best-of policy, which {NO_LOG_PROB}. Give --reward FOLDER, a reward model that judges "
            "responses drawn from it, or evaluate the adapter that `aggregate --distill` tunes on its responses"
        )
    if by_draws and beta is not None:
        raise PluralignError(f"{model}: is a best-of policy, without an implicit reward that beta could scale: omit it")
    given = Inputs(files, columns)
    config = {"command": "evaluate", "model": str(model), "files": given.names, "seed": seed, "revision": revision}
    others = [str(name) for name in average]
    config |= ({"raw": True} if raw else {}) | given.settings()
    config |= {"average": others} if others else {}
    config |= {"own": dict(own)} if own else {}
    options = {"label_scale": label_scale, "reference": reference, "beta": beta}
    options |= {"reward": reward, "kinds": kinds, "quantile": quantile}
    config |= {name: value for name, value in options.items() if value is not None}
    config |= {} if reward is None else {"samples": samples, "max_new_tokens": max_new_tokens}
    models = [name for name in (model, *others, *(own or {}).values(), reference, reward) if name is not None]
    weights = [file for name in models for file in weight_files(name, raw)]
    inputs = given.fingerprints() | file_fingerprints([*weights, *best_of_files(Path(model))])
    if (metrics := finished_metrics(folder, config, inputs)) is not None:
        return _paged(folder, metrics)
    hub: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    together = read_mixture(model) if is_mixture(model) else None
    settings = None if together is not None else load_parts(model, hub)[0]
    is_reward = settings is not None and is_reward_model(settings)
    if beta is not None and not 0 < beta < math.inf:
        raise PluralignError(f"beta: found {beta}, expected a finite number above 0")
    if is_reward and any(option is not None for option in (reference, beta, reward)):
        raise PluralignError(f"{model}: is a reward model; --reference, --beta and --reward are for policies")
    if not is_reward and (raw or others or own or quantile is not None):
        raise PluralignError(f"{model}: is a policy; --raw, --average, --own and --quantile are for reward models")
    if kinds is not None and reward is None:
        raise PluralignError("kinds: tells kinds of drawn responses, which are drawn with --reward only: give one")
    if kinds not in (None, NEAREST) and not is_typed_run(str(kinds)):
        raise PluralignError(f"kinds: {kinds}: is not a finished run of em-dpo: give one, or '{NEAREST}'")
    judgments = given.read(label_scale)
    responds: Answers = (getattr(settings, SETTINGS, None) or {}).get(ANSWERS) or "texts"
    if together is not None:
        responds = together.answers
    if responds == "letters" and reward is not None:
        raise PluralignError(f"{model}: responds with letters, which a reward model cannot score: omit --reward")
    judgments = asked_for(judgments, responds)
    title = [f"# Evaluation of {model}", "", "on " + ", ".join(f"`{path}`" for path in given.names), ""]
    single = load_reward_model(model, raw=raw, quantile=quantile, **hub) if is_reward and not others else None
    crowds = _crowds(model, single, judgments, seed)
    if crowds is not None and not compares(judgments):
        if own:
            raise PluralignError("own: what sharing gains is measured on comparisons, and the files have labels alone")
        start_run(folder, config, inputs)
        crowds.write(folder)
        finish_run(folder, crowds.metrics, "\n".join([*title, *_said(crowds), *metrics_table(crowds.metrics)]) + "\n")
        return _paged(folder, crowds.metrics)
    items = items_of(judgments)
    if by_draws and reward is not None:
        judge = load_reward_model(reward)
        draws = drawn_in_turn(model, items.prompts, reference, judge, samples, max_new_tokens, seed, **hub)
        metrics = counts_of(judgments, items) | compare(draws, seed) | of_draws(draws, None, {}, seed)[0]
        if kinds is not None:
            who = column_of(judgments, items, "annotator")
            metrics |= said_beside(draws["policy"], items, who, *_kinds(kinds, **hub), seed)
        start_run(folder, config, inputs)
        write_matching(folder, answer_rows(items.prompts, draws), [])
        note = f"The policy {NO_LOG_PROB}. It is judged by its responses alone."
        finish_run(folder, metrics, "\n".join([*title, note, "", *metrics_table(metrics)]) + "\n")
        return _paged(folder, metrics)
    mixture = together if is_typed_run(model) else None
    posteriors = {} if mixture is None else read_responsibilities(model, len(mixture.weights))
    compared: dict[str, float] = {}
    answers: list[dict[str, Any]] = []
    plots: list[dict[str, Any]] = []
    notes = _recalibration_notes([model, *others], raw, quantile) if is_reward else []
    margin_map: MarginMap | None = None
    if is_reward:
        notes += _said(crowds)
        utilities, margin_map, compared = rewards_of([model, *others], items, raw, quantile, hub, single)
    else:
        judged = None if reward is None else load_reward_model(reward)
        beside = against_reference(
            model, items, reference, beta, judged, samples, max_new_tokens, seed, **hub, by_type=mixture is not None
        )
        utilities, who = beside.utilities, column_of(judgments, items, "annotator")
        compared = first_choice_metrics(
            beside.log_probs[items.response], beside.tokens[items.response], items.ranks, items.offsets, items.prompt,
            items.weight, who, seed,
        )  # fmt: skip
        if judged is not None:
            kind = None if mixture is None else believed(who, posteriors, mixture).type
            matched, plots = matching_beside(beside, items, judged, slices_of(judgments, items), seed, kind)
            if (told := kinds or (None if mixture is None else str(model))) is not None:
                matched |= said_beside(beside.draws["policy"], items, who, *_kinds(told, **hub), seed)
            compared |= compare(beside.draws, seed) | matched
            answers = answer_rows(items.prompts, beside.draws)
            notes = [_reward_note(str(reward), judged)]
    types = None
    if mixture is None:
        metrics = reward_metrics(judgments, items, utilities, seed, recalibration=margin_map)
    else:
        metrics, types = typed_metrics(judgments, items, utilities, mixture, posteriors, seed)
    metrics |= _outcomes(settings, single, judgments, items, utilities, seed) if beta is None and not others else {}
    metrics |= compared | ({} if crowds is None else crowds.metrics)
    pairs = pairs_under(items, utilities, types, margin_map, judgments)
    for name, folder_of_source in (own or {}).items():
        source_rewards, source_map, _ = rewards_of([folder_of_source], items, raw, None, hub, None)
        source_pairs = pairs_under(items, source_rewards, None, source_map, judgments)
        metrics |= sharing_gain(pairs, source_pairs, column_of(judgments, items, "source"), name, seed=seed)
    recalibration = None if single is None else single.recalibration
    if (scales := _scales(model, recalibration) if single is not None else None) is not None:
        metrics |= scale_metrics(pairs, column_of(judgments, items, scales.column), scales, seed=seed)
    start_run(folder, config, inputs)
    Measured(metrics, pairs, slices_of(judgments, items) if is_reward else None, crowds).write(folder, seed)
    table = annotator_table(pairs, column_of(judgments, items, "annotator"))
    write_parquet(pa.table(table), folder / "annotators.parquet")
    if answers:
        write_matching(folder, answers, plots)
    card = [*title, *notes, ""] if notes else title
    if mixture is not None and (crossed := cross_table(metrics, list(mixture.weights))):
        card += [*crossed, ""]
    finish_run(folder, metrics, "\n".join([*card, *metrics_table(metrics)]) + "\n")
    return _paged(folder, metrics)


def _paged(folder: Path, metrics: dict[str, Any]) -> dict[str, Any]:
    """The metrics of a finished evaluation, whose page is written if it is not there."""
    if not (folder / "report.html").exists():
        report(folder, folder / "report.html")
    return metrics


def _kinds(name: str, **hub: Any) -> tuple[Kinds, list[str]]:
    """What tells the kind of a response, and the names of the kinds; without names, they are the judged responses."""
    if name == NEAREST:
        return lambda items, judged: kinds_by_likeness(text_features(items, "tfidf"), items.item, judged), []
    policy = load_policy(name, **hub)
    assert isinstance(policy, MixturePolicy)
    return lambda items, _: kinds_by_reward(type_utilities(policy, items), items.item), list(policy.mixture.weights)


def _said(crowds: CrowdResult | None) -> list[str]:
    """For the card: whether predicted labels are better than the baselines'."""
    said = [] if crowds is None else [line[0].upper() + line[1:] + "." for line in verdicts(crowds.metrics)]
    return [*said, ""] if said else []


def _crowds(
    name: str | os.PathLike[str], model: RewardModel | None, judgments: Judgments, seed: int
) -> CrowdResult | None:
    """Predictions against votes, if the model predicts labels and the judgments have some."""
    if not isinstance(model, LabelModel) or not labels_anything(judgments):
        return None
    crowd = crowd_of(judgments)
    check_labels(crowd.scale, model.scale, "the labels of the files")
    stored = read_baselines(name)
    found = evaluate_crowd(judgments, crowd, model.distributions, seed, None if stored is None else stored.predict)
    if model.groups is None:
        return found
    gain = group_gain(judgments, model.groups, model.group_distributions, seed)
    return replace(found, metrics=found.metrics | gain)


def _scales(model: str | os.PathLike[str], recalibration: Recalibration | None) -> GroupScales | None:
    """Scales of annotators, groups or sources: those of the recalibration, or those learned with the rewards."""
    if recalibration is not None and "by" in recalibration.record:
        return GroupScales.from_dict(recalibration.record["by"])
    file = Path(model) / ANNOTATOR_SCALES
    return GroupScales.from_dict(read_json(file)) if file.is_file() else None


def _outcomes(
    settings: Any, model: RewardModel | None, judgments: Judgments, items: Items, utilities: np.ndarray, seed: int
) -> dict[str, float]:
    """Metrics of ties and strengths, if the model has parameters of them, which were learned for its raw rewards."""
    stored = getattr(settings, SETTINGS, None) or {}
    raw = utilities * ((None if model is None else model.temperature) or 1.0)
    metrics: dict[str, float] = {}
    if nu := stored.get(TIE_NU):
        metrics |= outcome_metrics(judgments, items, raw, nu[0], seed)
    if own := stored.get(STRENGTHS):
        metrics |= strength_metrics(judgments, items, raw, own["levels"], own["thresholds"], seed)
    return metrics


def _recalibration_notes(names: Sequence[str | os.PathLike[str]], raw: bool, quantile: float | None) -> list[str]:
    """For the card: the averaged models, and what was done to their rewards."""
    notes = [] if len(names) == 1 else ["The mean reward of " + ", ".join(f"`{name}`" for name in names) + "."]
    if quantile is not None:
        return [*notes, f"The reward is the {quantile:g} quantile of the predicted labels, as it is."]
    if raw:
        return [*notes, "Stored recalibrations were ignored (`--raw`)."]
    for name in names:
        stored = read_recalibration(name)
        if stored is not None and stored.temperature is not None:
            notes.append(f"Rewards of `{name}` are divided by its stored temperature {stored.temperature:.4g}.")
        elif stored is not None:
            notes.append(f"Margins of `{name}` go through its stored isotonic recalibration.")
    return notes


def _reward_note(name: str, reward_model: RewardModel) -> str:
    """For the card: how the rewards of the judging model became log-odds."""
    if reward_model.temperature is not None:
        return f"Rewards of `{name}` are divided by its stored temperature {reward_model.temperature:.4g}."
    if reward_model.margin_map is not None:
        return f"Differences of rewards of `{name}` go through its isotonic recalibration: only pairs are judged."
    return (
        f"`{name}` has no stored recalibration: its rewards are taken as log-odds as they are, so matching can "
        "be no better than they are. `pluralign calibrate` finds a temperature."
    )

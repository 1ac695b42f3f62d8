"""`evaluate`: a reward model or a policy on a table of judgments."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from transformers.utils import logging

from pluralign.core.errors import PluralignError
from pluralign.core.files import disk_errors, write_json, write_parquet
from pluralign.core.runs import file_fingerprints, finish_run, read_metrics, run_state, start_run
from pluralign.evaluation.calibration.reliability import reliability_table
from pluralign.evaluation.pairs import Pairs, pairs_of
from pluralign.evaluation.rewards.over_rewarding import over_rewarding
from pluralign.evaluation.rewards.summary import evaluate_rewards
from pluralign.evaluation.slices import annotator_table
from pluralign.judgments.reading import read
from pluralign.judgments.table import Judgments
from pluralign.policies.routing import is_typed_run
from pluralign.reports.cards import metrics_table
from pluralign.scoring.crowds import check_labels, crowd_of
from pluralign.scoring.items import Items, compares, items_of
from pluralign.scoring.loading import load_parts
from pluralign.scoring.mixtures import (
    MIXTURE,
    RESPONSIBILITIES,
    Mixture,
    is_mixture,
    read_mixture,
    read_responsibilities,
)
from pluralign.scoring.recalibrated import CALIBRATION, read_recalibration
from pluralign.scoring.reward_models import LabelModel, RewardModel, is_reward_model, load_reward_model
from pluralign.workflows.evaluate.crowds import (
    CrowdResult,
    evaluate_crowd,
    labels_anything,
    write_crowds,
)
from pluralign.workflows.evaluate.matching import matching_beside, reward_note, write_matching
from pluralign.workflows.evaluate.policies import against_reference, answer_rows, compare
from pluralign.workflows.evaluate.types import believed, cross_table, shown_utilities, type_metrics
from pluralign.workflows.score import MarginMap, rewards_of

logger = logging.get_logger(__name__)


def reward_metrics(
    judgments: Judgments,
    items: Items,
    rewards: np.ndarray,
    seed: int = 0,
    types: np.ndarray | None = None,
    recalibration: MarginMap | None = None,
) -> dict[str, Any]:
    """Counts, overall metrics with intervals, and slices by source, group and type, flat as in `metrics.json`.

    Args:
        judgments: the table.
        items: its judgments that rank something.
        rewards: of the unique responses, `(responses,)`; with `types` those for every type, `(types, responses)`.
        seed: of the bootstrap.
        types: by whose rewards each judgment is judged, from 0, `(judgments,)`.
        recalibration: what margins go through before they are judged.
    """
    slices = slices_of(judgments, items)
    if types is not None:
        slices["type"] = [str(kind + 1) for kind in types.tolist()]
    annotators = {name for name in _of_judgments(judgments, items, "annotator") if name is not None}
    counts = {
        "judgments": items.judgments,
        "annotators": len(annotators),
        "prompts": len(items.prompts),
        "unique_responses": len(items.responses),
        "left_out": items.left_out,
    }
    return counts | evaluate_rewards(
        _shown(items, rewards, types),
        items.ranks,
        items.offsets,
        items.prompt,
        items.weight,
        # What a crowd thinks of a response is comparable with one reward only.
        response=items.response if types is None else None,
        slices=slices,
        seed=seed,
        recalibration=recalibration,
    )


def typed_metrics(
    judgments: Judgments,
    items: Items,
    utilities: np.ndarray,
    mixture: Mixture,
    people: Mapping[str, np.ndarray],
    seed: int = 0,
) -> tuple[dict[str, Any], np.ndarray]:
    """All metrics of a run with types, and by whose utilities each judgment was judged, from 0: `(judgments,)`.

    Args:
        judgments: the table.
        items: its judgments that rank something.
        utilities: implicit rewards of the unique responses for every type, `(types, responses)`.
        mixture: the types' names, shares and likelihood.
        people: posteriors `(types,)` of the annotators in training.
        seed: of the bootstraps.
    """
    annotators = _of_judgments(judgments, items, "annotator")
    groups = _of_judgments(judgments, items, "group")
    beliefs = believed(annotators, people, mixture)
    metrics = reward_metrics(judgments, items, utilities, seed, beliefs.type)
    return metrics | type_metrics(utilities, items, mixture, beliefs, annotators, groups, seed), beliefs.type


def pairs_under(
    items: Items, rewards: np.ndarray, types: np.ndarray | None = None, recalibration: MarginMap | None = None
) -> Pairs:
    """The strict pairs of judgments under rewards of the unique responses; arguments as in `reward_metrics`."""
    shown = _shown(items, rewards, types)
    return pairs_of(shown, items.ranks, items.offsets, items.prompt, items.weight, recalibration)


def _shown(items: Items, rewards: np.ndarray, types: np.ndarray | None) -> np.ndarray:
    return rewards[items.response] if types is None else shown_utilities(rewards, items, types)


def write_calibration(
    folder: Path, pairs: Pairs, slices: Mapping[str, Sequence[str | None]] | None, seed: int = 0
) -> None:
    """`reliability.json`, the bins of the diagram with intervals; with slices `over_rewarding.json` too."""
    write_json(folder / "reliability.json", reliability_table(pairs, replicates=1000, seed=seed))
    if slices is not None:
        write_json(folder / "over_rewarding.json", over_rewarding(pairs, slices, seed=seed))


def evaluate(
    model: str | os.PathLike[str],
    files: str | os.PathLike[str] | list[str],
    out: str | os.PathLike[str],
    *,
    label_scale: str | None = None,
    seed: int = 0,
    raw: bool = False,
    average: Sequence[str | os.PathLike[str]] = (),
    reference: str | None = None,
    beta: float | None = None,
    reward: str | None = None,
    samples: int = 2,
    max_new_tokens: int = 128,
    quantile: float | None = None,
    revision: str = "main",
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Evaluate a reward model or a policy on judgments and write a run folder.

    A policy is judged by its implicit reward beta * (log pi(y|x) - log pi_ref(y|x)), of log pi_ref what its tuning
    charged (in preference matching a part or nothing), and, where a reward model is
    given, by how often its answers beat the reference's and by how far its odds are from the reward model's. In a
    run of `em-dpo` every judgment is judged by the policy of its annotator's type (see `typed_metrics`); any other
    mixture, and what is drawn from any, is judged as one policy.
    A reward model is judged by its log-odds: rewards divided by its stored temperature, margins through its stored
    isotonic recalibration. One that predicts labels is judged by its predictions where the files have labels, and
    by its rewards where they compare responses.

    Args:
        model: a run, a model folder, or a hub id.
        files: canonical files.
        out: the folder: `metrics.json`, `reliability.json`, `annotators.parquet`, `README.md`,
            `over_rewarding.json` of reward models, `answers.jsonl` and `matching.json` where answers were drawn,
            `crowds.parquet` where labels were predicted (then the others only if responses are compared).
        label_scale: for files whose labels come without one.
        seed: of the bootstrap and of the answers.
        raw: of reward models, leave stored recalibrations aside.
        average: other reward models; what is judged is the mean of their rewards and the model's.
        reference: of a policy, a folder or hub id; `None` is the model that its run started from.
        beta: of a policy; `None` is the one it was tuned with, else 0.1.
        reward: the reward model that judges a policy's answers to the prompts, a folder or hub id.
        samples: answers to each prompt from policy and reference each; matching on them takes two or more.
        max_new_tokens: the longest answer.
        quantile: of reward models that predict labels: the reward is this quantile, not the mean.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run code that comes with the model.

    Returns:
        The metrics, as in `metrics.json`.

    Raises:
        PluralignError: a file or the model cannot be used, or `out` holds another evaluation.
    """
    folder = Path(out)
    paths = [str(file) for file in files] if isinstance(files, list) else [str(files)]
    config = {"command": "evaluate", "model": str(model), "files": paths, "seed": seed, "revision": revision}
    others = [str(name) for name in average]
    config |= {"raw": True} if raw else {}
    config |= {"average": others} if others else {}
    options = {
        "label_scale": label_scale,
        "reference": reference,
        "beta": beta,
        "reward": reward,
        "quantile": quantile,
    }
    config |= {name: value for name, value in options.items() if value is not None}
    config |= {} if reward is None else {"samples": samples, "max_new_tokens": max_new_tokens}
    models = [name for name in (model, *others, reference, reward) if name is not None]
    inputs = file_fingerprints([*paths, *(file for name in models for file in weight_files(name, raw))])
    state = run_state(folder, config, inputs)
    if state == "finished":
        logger.warning(f"{folder}: this evaluation is finished already; nothing to do")
        return read_metrics(folder)
    hub: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    is_reward = not is_mixture(model) and is_reward_model(load_parts(model, hub)[0])
    if is_reward and any(option is not None for option in (reference, beta, reward)):
        raise PluralignError(f"{model}: is a reward model; --reference, --beta and --reward are for policies")
    if not is_reward and (raw or others or quantile is not None):
        raise PluralignError(f"{model}: is a policy; --raw and --average are for reward models, and so is --quantile")
    judgments = read(paths, label_scale)
    title = [f"# Evaluation of {model}", "", "on " + ", ".join(f"`{path}`" for path in paths), ""]
    single = load_reward_model(model, raw=raw, quantile=quantile, **hub) if is_reward and not others else None
    crowds = _crowds(single, judgments, seed)
    if crowds is not None and not compares(judgments):
        start_run(folder, config, inputs)
        write_crowds(folder, crowds)
        finish_run(folder, crowds.metrics, "\n".join([*title, *metrics_table(crowds.metrics)]) + "\n")
        return crowds.metrics
    items = items_of(judgments)
    mixture = read_mixture(model) if is_mixture(model) and is_typed_run(model) else None
    people = {} if mixture is None else read_responsibilities(model, len(mixture.weights))
    compared: dict[str, float] = {}
    answers: list[dict[str, Any]] = []
    plots: list[dict[str, Any]] = []
    notes = _recalibration_notes([model, *others], raw, quantile) if is_reward else []
    margin_map: MarginMap | None = None
    if is_reward:
        utilities, margin_map, compared = rewards_of([model, *others], items, raw, quantile, hub, single)
    else:
        judged = None if reward is None else load_reward_model(reward)
        beside = against_reference(
            model, items, reference, beta, judged, samples, max_new_tokens, seed, **hub, by_type=mixture is not None
        )
        utilities = beside.utilities
        if judged is not None:
            matched, plots = matching_beside(beside, items, judged, slices_of(judgments, items), seed)
            compared, answers = compare(beside.draws, seed) | matched, answer_rows(items.prompts, beside.draws)
            notes = [reward_note(str(reward), judged)]
    types = None
    if mixture is None:
        metrics = reward_metrics(judgments, items, utilities, seed, recalibration=margin_map)
    else:
        metrics, types = typed_metrics(judgments, items, utilities, mixture, people, seed)
    metrics |= compared | ({} if crowds is None else crowds.metrics)
    pairs = pairs_under(items, utilities, types, margin_map)
    start_run(folder, config, inputs)
    write_calibration(folder, pairs, slices_of(judgments, items) if is_reward else None, seed)
    table = annotator_table(pairs, _of_judgments(judgments, items, "annotator"))
    write_parquet(pa.table(table), folder / "annotators.parquet")
    if answers:
        write_matching(folder, answers, plots)
    if crowds is not None:
        write_crowds(folder, crowds)
    card = title
    card += [*notes, ""] if notes else []
    if mixture is not None and (crossed := cross_table(metrics, list(mixture.weights))):
        card += [*crossed, ""]
    finish_run(folder, metrics, "\n".join([*card, *metrics_table(metrics)]) + "\n")
    return metrics


def _crowds(model: RewardModel | None, judgments: Judgments, seed: int) -> CrowdResult | None:
    """Predictions against votes, where the model predicts labels and the judgments have some."""
    if not isinstance(model, LabelModel) or not labels_anything(judgments):
        return None
    crowd = crowd_of(judgments)
    check_labels(crowd.scale, model.scale, "the labels of the files")
    return evaluate_crowd(judgments, crowd, model.distributions, seed)


def _recalibration_notes(names: Sequence[str | os.PathLike[str]], raw: bool, quantile: float | None) -> list[str]:
    """For the card: whose mean it is, and what was done to the rewards of whom."""
    notes = [] if len(names) == 1 else ["The mean reward of " + ", ".join(f"`{name}`" for name in names) + "."]
    if quantile is not None:
        return [*notes, f"The reward is the {quantile:g} quantile of the predicted labels, as it is."]
    if raw:
        return [*notes, "Stored recalibrations were left aside (`--raw`)."]
    for name in names:
        found = read_recalibration(name)
        if found is not None and found.temperature is not None:
            notes.append(f"Rewards of `{name}` are divided by its stored temperature {found.temperature:.4g}.")
        elif found is not None:
            notes.append(f"Margins of `{name}` go through its stored isotonic recalibration.")
    return notes


def slices_of(judgments: Judgments, items: Items) -> dict[str, list[str | None]]:
    """Source and group of the judgments that rank something, where any has one."""
    columns = {name: _of_judgments(judgments, items, name) for name in ("source", "group")}
    return {name: values for name, values in columns.items() if any(values)}


def _of_judgments(judgments: Judgments, items: Items, column: str) -> list[str | None]:
    """A column's values for the judgments that rank something."""
    values = judgments.column(column)
    return [values[row] for row in items.row]


def weight_files(model: str | os.PathLike[str], raw: bool = False) -> list[Path]:
    """The files of a local model, so that a changed model is not taken for the one evaluated before."""
    folder = Path(model)
    if not folder.is_dir():
        return []
    with disk_errors(folder):
        found = sorted(folder.glob("*.safetensors"))
        if not raw:
            found += folder.glob(CALIBRATION)
        if is_mixture(folder):
            found += [folder / MIXTURE, *folder.glob(RESPONSIBILITIES)]
            for name in read_mixture(folder).weights:
                found += sorted((folder / name).glob("*.safetensors"))
        return found

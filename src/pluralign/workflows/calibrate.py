"""`calibrate`: fit a recalibration of a reward model on held-out judgments and store it with the model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from transformers.utils import logging

from pluralign.core.errors import PluralignError
from pluralign.core.records import read_json
from pluralign.core.runs import CONFIG, read_config
from pluralign.evaluation.calibration.group_scales import GroupScales, fit_group_scales
from pluralign.evaluation.calibration.recalibration import (
    Method,
    Recalibration,
    checked_method,
    fit_recalibration,
    recalibrated,
    recalibration_metrics,
    temperature_bounds,
)
from pluralign.evaluation.crowds.label_pairs import pairs_of_votes
from pluralign.evaluation.pairs import Pairs
from pluralign.judgments.inputs import Files
from pluralign.judgments.reading import Inputs
from pluralign.judgments.renames import Columns
from pluralign.judgments.table import Judgments
from pluralign.scoring.crowds import crowd_of, labels_anything
from pluralign.scoring.items import compares, items_of
from pluralign.scoring.loading import load_parts
from pluralign.scoring.measured import column_of, pairs_under
from pluralign.scoring.mixtures import is_mixture
from pluralign.scoring.recalibrated import CALIBRATION, remove_recalibration, write_recalibration
from pluralign.scoring.reward_models import RewardModel, is_reward_model, load_reward_model

logger = logging.get_logger(__name__)

Column = Literal["annotator", "group", "source"]


def calibrate(
    model: str | os.PathLike[str],
    files: Files,
    *,
    method: Method = "temperature",
    folds: int = 5,
    seed: int = 0,
    by: Column | None = None,
    label_scale: str | None = None,
    columns: Columns | None = None,
    trust_remote_code: bool = False,
) -> Recalibration:
    """Fit a recalibration of a reward model on held-out judgments and write `calibration.json` into its folder.

    The weight of a judgment is shared among its strict pairs, as in `evaluate`. If the files have only labels of
    single responses, `evaluation.crowds.label_pairs` makes pairs of them. A recalibration that is already stored is
    not used in the fit, and is replaced.

    Args:
        model: folder of a reward model: a run, a model folder or an adapter.
        files: what `read` takes, and the model was not trained on.
        method: `temperature` divides rewards by one number; `isotonic` maps margins by a monotone curve.
        folds: number of cross-validation folds, over prompts; 2 or more.
        seed: random seed of the folds.
        by: also fit a scale for each `annotator`, `group` or `source`, shrunk towards 1
            (`evaluation.calibration.group_scales`); `evaluate` reports what they gain on judgments of the same names.
        label_scale: label scale of files that store none.
        columns: new names of columns, like `{"annotator_id": "annotator"}`; `None` leaves a column out.
        trust_remote_code: run Python code that comes with the model.

    Returns:
        The recalibration. Its `record` has the other entries of the file: `judgments`, `pairs`, `prompts`, `files`
        (path to SHA-256), `folds`, and the metrics of `evaluation.calibration.recalibration.recalibration_metrics`.

    Raises:
        PluralignError: the model is not the folder of a reward model, a file cannot be used, or no temperature can
            be fitted to these judgments.
    """
    folder = _reward_folder(model, trust_remote_code)
    checked_method(method)
    if folds < 2:
        raise PluralignError(f"folds: found {folds}, expected 2 or more")
    given = Inputs(files, columns)
    fingerprints = given.fingerprints()
    if known := sorted(name for name, digest in fingerprints.items() if digest in _trained_on(folder)):
        logger.warning(
            f"{folder}: was trained on {', '.join(known)}; its margins are larger there than on new data, so it stays "
            "over-confident after this recalibration: give held-out judgments"
        )
    model_raw = load_reward_model(folder, raw=True, trust_remote_code=trust_remote_code)
    judgments = given.read(label_scale)
    pairs = _pairs(judgments, model_raw)
    if not pairs.weight.sum() > 0:
        raise PluralignError(
            f"{', '.join(given.names)}: no strict pair with a weight above 0: give judgments that prefer one response"
        )
    fitted = fit_recalibration(method, pairs.margin, pairs.weight)
    if fitted.temperature == temperature_bounds(pairs.margin, pairs.weight)[0]:
        logger.warning(
            f"{folder}: nearly all pairs are ordered correctly, so the temperature {fitted.temperature:.4g} is only "
            f"the lowest that {len(pairs.margin)} pairs allow, not an estimate: give more judgments"
        )
    record: dict[str, Any] = {
        "judgments": len(set(pairs.judgment.tolist())),
        "pairs": len(pairs.margin),
        "prompts": len(set(pairs.prompt.tolist())),
        "files": fingerprints,
        "folds": folds,
    }
    record |= recalibration_metrics(pairs, fitted, folds, seed)
    if by is not None:
        if not compares(judgments):
            raise PluralignError("by: the files have labels alone; a scale for each name needs comparisons")
        names = column_of(judgments, items_of(judgments), by)
        record["by"] = fit_group_scales(recalibrated(pairs, fitted), names, by).as_dict()
    recalibration = Recalibration(fitted.method, fitted.temperature, fitted.knots, record)
    write_recalibration(folder, recalibration)
    return recalibration


def _pairs(judgments: Judgments, model: RewardModel) -> Pairs:
    """The pairs that annotators compared, or those that their labels of single responses imply."""
    if compares(judgments) or not labels_anything(judgments):
        items = items_of(judgments)
        return pairs_under(items, model.score_items(items))
    crowd = crowd_of(judgments)
    items = crowd.items()
    rewards = model.score_items(items)[items.response]
    return pairs_of_votes(rewards, crowd.counts, crowd.scale.rewards, items.prompt)


def remove_calibration(model: str | os.PathLike[str]) -> bool:
    """Remove the recalibration in a model's folder; returns whether there was one.

    Raises:
        PluralignError: the model is not a folder, or the file cannot be removed.
    """
    return remove_recalibration(_local(model))


def calibration_lines(recalibration: Recalibration) -> list[str]:
    """A recalibration and its metrics, as lines to print.

    Examples:
        >>> record = {"pairs": 8, "prompts": 4, "log_loss_before": 0.9, "log_loss_after": 0.5}
        >>> for line in calibration_lines(Recalibration("temperature", temperature=2.0, record=record)):
        ...     print(line)
        temperature: 2
        fitted on 8 pairs of 4 prompts
        log_loss: 0.9000 before, 0.5000 after
    """
    record = recalibration.record
    if recalibration.temperature is not None:
        lines = [f"temperature: {recalibration.temperature:.4g}"]
    else:
        lines = [f"isotonic: {len(recalibration.knots)} knots"]
    lines.append(f"fitted on {record['pairs']} pairs of {record['prompts']} prompts")
    if "by" in record:
        by = GroupScales.from_dict(record["by"])
        low, high = min(by.scales.values()), max(by.scales.values())
        lines.append(
            f"scales of {len(by.scales)} values of {by.column}: {low:.3g} to {high:.3g}, spread {by.spread:.3g}"
        )
    for metric in ("log_loss", "ece"):
        keys = {key: f"{metric}_{key}" for key in ("before", "cross_validated", "after")}
        parts = [f"{record[key]:.4f} {name.replace('_', '-')}" for name, key in keys.items() if key in record]
        if parts:
            lines.append(f"{metric}: {', '.join(parts)}")
    if "ece_before" in record:
        lines.append("the fit minimises log_loss; ece is noisy with few pairs and may rise")
    return lines


def _local(model: str | os.PathLike[str]) -> Path:
    folder = Path(model)
    if not folder.is_dir():
        raise PluralignError(
            f"{model}: no such folder; {CALIBRATION} is written to the model's folder: save a model from the hub "
            "first, with pluralign.load_reward_model(...).save(FOLDER), and give that folder"
        )
    return folder


def _reward_folder(model: str | os.PathLike[str], trust_remote_code: bool) -> Path:
    folder = _local(model)
    hub = {"revision": "main", "trust_remote_code": trust_remote_code}
    if is_mixture(folder) or not is_reward_model(load_parts(folder, hub)[0]):
        raise PluralignError(f"{model}: is not a reward model, and only reward models can be recalibrated")
    return folder


def _trained_on(folder: Path) -> set[str]:
    """SHA-256 of the files that the run in a folder was trained on; empty if the folder is not a run."""
    config, environment = folder / CONFIG, folder / "environment.json"
    if not (config.is_file() and environment.is_file()):
        return set()
    settings, inputs = read_config(folder), read_json(environment).get("inputs", {})
    return {inputs[name] for name in settings.get("train_files", []) if name in inputs}

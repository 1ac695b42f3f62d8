"""Items and scores to metrics: the one path that trainers and commands share.

Rewards are judged as they are. In a run with annotator types each judgment is judged under its annotator's own type,
which is known from training; it is never chosen by the judgment that it is tested on. Annotators who were not in
training are judged under the largest type.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pluralign.core.files import write_json, write_parquet
from pluralign.evaluation.annotators.types import type_accuracy
from pluralign.evaluation.calibration.reliability import reliability_table
from pluralign.evaluation.intervals import annotator_ids
from pluralign.evaluation.pairs import Pairs, pairs_of
from pluralign.evaluation.policies.answer_lists import MarginMap
from pluralign.evaluation.rewards import strengths
from pluralign.evaluation.rewards.over_rewarding import over_rewarding
from pluralign.evaluation.rewards.summary import evaluate_rewards
from pluralign.evaluation.rewards.tie_outcomes import tie_metrics
from pluralign.evaluation.slices import judgment_table, sliced_metrics
from pluralign.judgments.table import Judgments
from pluralign.scoring.crowd_predictions import CrowdResult
from pluralign.scoring.items import Items
from pluralign.scoring.mixtures import Mixture, ranking_log_likelihoods

Floats = NDArray[np.float64]

LOSSES = "losses.parquet"
"""The file of `judgment_table`."""


@dataclass(frozen=True)
class Measured:
    """What a model reaches on judgments, and what its diagrams are drawn from.

    Args:
        metrics: flat, as in `metrics.json`.
        pairs: the strict pairs under the model's rewards, where it gives rewards.
        slices: columns by which the over-rewarding of a reward model is reported; `None` reports none.
        crowds: predictions beside votes, where the model predicts labels.
    """

    metrics: dict[str, Any]
    pairs: Pairs | None = None
    slices: Mapping[str, Sequence[str | None]] | None = None
    crowds: CrowdResult | None = None

    def write(self, folder: Path, seed: int = 0) -> None:
        """Write the files that there is data for.

        They are `crowds.parquet`, `reliability.json`, `losses.parquet` (accuracy and log-loss of each judgment, by
        which two runs are compared) and `over_rewarding.json`.
        """
        if self.crowds is not None:
            self.crowds.write(folder)
        if self.pairs is not None:
            write_json(folder / "reliability.json", reliability_table(self.pairs, replicates=1000, seed=seed))
            write_parquet(pa.table(judgment_table(self.pairs)), folder / LOSSES)
            if self.slices is not None:
                write_json(folder / "over_rewarding.json", over_rewarding(self.pairs, self.slices, seed=seed))


def reward_metrics(
    judgments: Judgments,
    items: Items,
    rewards: np.ndarray,
    seed: int = 0,
    types: np.ndarray | None = None,
    recalibration: MarginMap | None = None,
    replicates: int = 1000,
) -> dict[str, Any]:
    """Counts, overall metrics with intervals, and slices by source, group and type, flat as in `metrics.json`.

    Args:
        judgments: the table.
        items: its judgments that rank something.
        rewards: of the unique responses, `(responses,)`; with `types` those under every type, `(types, responses)`.
        seed: seed of the bootstrap.
        types: the type under which each judgment is judged, from 0, `(judgments,)`.
        recalibration: applied to margins before they are judged.
        replicates: bootstrap draws; 0 leaves the intervals out.
    """
    slices = slices_of(judgments, items)
    if types is not None:
        slices["type"] = [str(kind + 1) for kind in types.tolist()]
    annotators = column_of(judgments, items, "annotator")
    return counts_of(judgments, items) | evaluate_rewards(
        shown_rewards(items, rewards, types),
        items.ranks,
        items.offsets,
        items.prompt,
        items.weight,
        # A crowd's view of a response can be compared with one reward only, not with one for each type.
        response=items.response if types is None else None,
        annotator=annotator_ids(annotators),
        slices=slices,
        seed=seed,
        recalibration=recalibration,
        replicates=replicates,
    )


def counts_of(judgments: Judgments, items: Items) -> dict[str, Any]:
    """Counts of what is evaluated, flat as in `metrics.json`."""
    return {
        "judgments": items.judgments,
        "annotators": len(set(column_of(judgments, items, "annotator")) - {None}),
        "prompts": len(items.prompts),
        "unique_responses": len(items.responses),
        "left_out": items.left_out,
    }


def outcome_metrics(
    judgments: Judgments, items: Items, rewards: np.ndarray, nu: float, seed: int = 0, types: np.ndarray | None = None
) -> dict[str, float]:
    """How well outcomes of pairs, ties among them, are predicted: `evaluation.rewards.tie_outcomes.tie_metrics`.

    Args:
        judgments, items, seed, types: as in `reward_metrics`.
        rewards: raw rewards of the unique responses, for which nu was learned, `(responses,)`; with `types` those under
            every type, `(types, responses)`.
        nu: the tie parameter of pairs.
    """
    who = annotator_ids(column_of(judgments, items, "annotator"))
    shown = shown_rewards(items, rewards, types)
    log_nu = float(np.log(nu))
    return tie_metrics(shown, items.ranks, items.offsets, items.prompt, items.weight, log_nu, annotator=who, seed=seed)


def strength_metrics(
    judgments: Judgments, items: Items, rewards: np.ndarray, levels: Sequence[float], thresholds: Sequence[float],
    seed: int = 0,
) -> dict[str, float]:  # fmt: skip
    """How well ordered strengths are predicted: `evaluation.rewards.strengths.strength_metrics`.

    Args:
        judgments, items, seed: as in `reward_metrics`.
        rewards: raw rewards of the unique responses, for which the thresholds were learned, `(responses,)`.
        levels: the strengths that the model knows, in order; other ones count as unknown.
        thresholds: between them.
    """
    number = {level: place for place, level in enumerate(levels, 1)}
    strength = [number.get(value, 0) for value in column_of(judgments, items, "strength")]
    who = annotator_ids(column_of(judgments, items, "annotator"))
    shown = (shown_rewards(items, rewards), items.ranks, items.offsets, items.prompt, items.weight)
    return strengths.strength_metrics(*shown, strength, thresholds, annotator=who, seed=seed)


def pairs_under(
    items: Items,
    rewards: np.ndarray,
    types: np.ndarray | None = None,
    recalibration: MarginMap | None = None,
    judgments: Judgments | None = None,
) -> Pairs:
    """The strict pairs of judgments under rewards of the unique responses; arguments as in `reward_metrics`.

    With the table, the pairs know their annotators, and intervals of their metrics cover them.
    """
    shown = shown_rewards(items, rewards, types)
    who = None if judgments is None else annotator_ids(column_of(judgments, items, "annotator"))
    return pairs_of(shown, items.ranks, items.offsets, items.prompt, items.weight, recalibration, who)


def shown_rewards(items: Items, rewards: np.ndarray, types: np.ndarray | None = None) -> np.ndarray:
    """Reward of each shown response `(shown,)`; arguments as in `reward_metrics`."""
    if types is None:
        return rewards[items.response]
    return rewards[np.repeat(types, np.diff(items.offsets)), items.response]


def slices_of(judgments: Judgments, items: Items) -> dict[str, list[str | None]]:
    """Source and group of the judgments that rank something; a column without any value is left out."""
    columns = {name: column_of(judgments, items, name) for name in ("source", "group")}
    return {name: values for name, values in columns.items() if any(values)}


def column_of(judgments: Judgments, items: Items, name: str) -> list[Any]:
    """A column's values for the judgments that rank something."""
    values = judgments.column(name)
    return [values[row] for row in items.row]


# Runs with annotator types.


@dataclass(frozen=True)
class Believed:
    """What is known of the annotator of each judgment before the judgment is looked at.

    Args:
        gamma: `(judgments, types)` the annotator's posterior from training, or the types' shares.
        known: `(judgments,)` bool, whether the annotator was in training.
    """

    gamma: Floats
    known: np.ndarray

    @property
    def type(self) -> np.ndarray:
        """`(judgments,)` from 0: the most probable type, or the largest."""
        return self.gamma.argmax(1)


def believed(annotators: Sequence[str | None], posteriors: Mapping[str, Floats], mixture: Mixture) -> Believed:
    """What a run knows of the annotator of each judgment.

    Args:
        annotators: of the judgments, `(judgments,)`.
        posteriors: `(types,)` of the annotators in training.
        mixture: its weights are the types' shares.

    Examples:
        >>> posteriors, mixture = {"ann": np.array([0.1, 0.9])}, Mixture({"type-1": 0.6, "type-2": 0.4})
        >>> beliefs = believed(["ann", "new", None], posteriors, mixture)
        >>> beliefs.gamma.tolist(), beliefs.type.tolist(), beliefs.known.tolist()
        ([[0.1, 0.9], [0.6, 0.4], [0.6, 0.4]], [1, 0, 0], [True, False, False])
    """
    shares = np.array(list(mixture.weights.values()))
    known = np.array([name in posteriors for name in annotators])
    gamma = np.array([shares if name is None else posteriors.get(name, shares) for name in annotators])
    return Believed(gamma, known)


def typed_metrics(
    judgments: Judgments,
    items: Items,
    utilities: np.ndarray,
    mixture: Mixture,
    posteriors: Mapping[str, np.ndarray],
    seed: int = 0,
) -> tuple[dict[str, Any], np.ndarray]:
    """All metrics of a run with types, and the type under which each judgment was judged, from 0: `(judgments,)`.

    Beside `reward_metrics`, flat keys; what is undefined is left out: `types`; `unknown_annotators`, those not in
    training (each judgment without an id counts as one); `mixture_log_loss`, -mean log sum_k p_k P_k(j) with p the
    annotator's posterior or the shares, in nats per judgment, weighted by reliability; `type_accuracy` with its
    interval, over the annotators in training whose group is known; and `accuracy/policy=NAME/group=GROUP` and
    `log_loss/policy=NAME/group=GROUP`, all judgments of a group under one type's utilities.

    Args:
        judgments: the table.
        items: its judgments that rank something.
        utilities: implicit rewards of the unique responses under every type, `(types, responses)`.
        mixture: the types' names, shares and likelihood.
        posteriors: `(types,)` of the annotators in training.
        seed: seed of the bootstraps.
    """
    annotators, groups = (column_of(judgments, items, name) for name in ("annotator", "group"))
    beliefs = believed(annotators, posteriors, mixture)
    metrics = reward_metrics(judgments, items, utilities, seed, beliefs.type)
    if mixture.tie_nu:
        metrics |= outcome_metrics(judgments, items, utilities, mixture.tie_nu[0], seed, beliefs.type)
    unknown = [name for name, known in zip(annotators, beliefs.known, strict=True) if not known]
    metrics |= {"types": len(utilities), "unknown_annotators": len(set(unknown) - {None}) + unknown.count(None)}
    if items.weight.sum() > 0:
        with np.errstate(divide="ignore"):
            joint = np.log(beliefs.gamma) + ranking_log_likelihoods(utilities, items, mixture)
        each = np.logaddexp.reduce(joint, axis=1)
        metrics["mixture_log_loss"] = -float(np.average(each, weights=items.weight))
    metrics |= _type_accuracy(annotators, groups, beliefs, len(utilities), seed)
    for name, own in zip(mixture.weights, utilities, strict=True):
        for key, value in sliced_metrics(pairs_under(items, own, judgments=judgments), {"group": groups}).items():
            metric, slice_name = key.split("/", 1)
            if metric in ("accuracy", "log_loss"):
                metrics[f"{metric}/policy={name}/{slice_name}"] = value
    return metrics, beliefs.type


def _type_accuracy(
    annotators: Sequence[str | None], groups: Sequence[str | None], beliefs: Believed, types: int, seed: int
) -> dict[str, float]:
    """How well the types of the annotators in training agree with the group that most of their judgments name."""
    counts: dict[str, Counter[str]] = {}
    type_of: dict[str, int] = {}
    for name, group, known, kind in zip(annotators, groups, beliefs.known, beliefs.type.tolist(), strict=True):
        if known and name is not None:
            counts.setdefault(name, Counter()).update([] if group is None else [group])
            type_of[name] = kind
    group_of = [own.most_common(1)[0][0] if own else None for own in counts.values()]
    return type_accuracy(np.array(list(type_of.values()), dtype=np.int64), group_of, types, seed=seed)

"""A run of `em-dpo` on judgments: everyone judged by his own type's policy, and every group by every type's.

Types come from the run's training annotators. Nobody's judgments choose the type that they are judged by: who was
not among them is judged by the largest type.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pluralign.evaluation.annotators.types import type_accuracy
from pluralign.evaluation.pairs import pairs_of
from pluralign.evaluation.slices import sliced_metrics
from pluralign.policies.routing import Floats, ranking_log_likelihoods
from pluralign.scoring.items import Items
from pluralign.scoring.mixtures import Mixture


@dataclass(frozen=True)
class Believed:
    """What is believed about who judges, before the judgment is looked at.

    Args:
        gamma: `(judgments, types)` the posterior of the annotator in training, or the types' shares.
        known: `(judgments,)` bool, whether the annotator was in training.
    """

    gamma: Floats
    known: np.ndarray

    @property
    def type(self) -> np.ndarray:
        """`(judgments,)` from 0: the most probable type, or the largest."""
        return self.gamma.argmax(1)


def believed(annotators: Sequence[str | None], people: Mapping[str, Floats], mixture: Mixture) -> Believed:
    """What a run believes about the annotator of each judgment.

    Args:
        annotators: of the judgments, `(judgments,)`.
        people: posteriors `(types,)` of the annotators in training.
        mixture: its weights are the types' shares.

    Examples:
        >>> people, mixture = {"ann": np.array([0.1, 0.9])}, Mixture({"type-1": 0.6, "type-2": 0.4})
        >>> found = believed(["ann", "new", None], people, mixture)
        >>> found.gamma.tolist(), found.type.tolist(), found.known.tolist()
        ([[0.1, 0.9], [0.6, 0.4], [0.6, 0.4]], [1, 0, 0], [True, False, False])
    """
    shares = np.array(list(mixture.weights.values()))
    known = np.array([name in people for name in annotators])
    gamma = np.array([people[name] if name is not None and name in people else shares for name in annotators])
    return Believed(gamma, known)


def shown_utilities(utilities: Floats, items: Items, types: np.ndarray) -> Floats:
    """Utility of each shown response for its judgment's type: `(shown,)`.

    Args:
        utilities: `(types, responses)`.
        items: the judgments.
        types: `(judgments,)` from 0.
    """
    return utilities[np.repeat(types, np.diff(items.offsets)), items.response]


def type_metrics(
    utilities: Floats,
    items: Items,
    mixture: Mixture,
    beliefs: Believed,
    annotators: Sequence[str | None],
    groups: Sequence[str | None],
    seed: int = 0,
) -> dict[str, Any]:
    """What only a run with types has: how good the whole mixture is, and whom each type's policy predicts.

    Args:
        utilities: `(types, responses)` of the unique responses.
        items: the judgments.
        mixture: the types' names and their likelihood.
        beliefs: about who judges.
        annotators: `(judgments,)`.
        groups: `(judgments,)`, known ones.
        seed: of the bootstrap.

    Returns:
        flat keys, what is undefined left out: `types`; `unknown_annotators`, those not in training (judgments
        without an id count one each); `mixture_log_loss`, -mean log sum_k p_k P_k(j) with p what is believed of the
        annotator, in nats for each judgment, weighted by reliability; `type_accuracy` with its interval, over the
        annotators in training whose group is known; and `accuracy/policy=NAME/group=GROUP` and
        `log_loss/policy=NAME/group=GROUP`, all judgments of a group under one type's utilities.
    """
    metrics: dict[str, Any] = {"types": len(utilities), "unknown_annotators": _unknown(annotators, beliefs)}
    if items.weight.sum() > 0:
        with np.errstate(divide="ignore"):
            joint = np.log(beliefs.gamma) + ranking_log_likelihoods(utilities, items, mixture)
        each = np.logaddexp.reduce(joint, axis=1)
        metrics["mixture_log_loss"] = -float(np.average(each, weights=items.weight))
    votes: dict[str, Counter[str]] = {}
    types: dict[str, int] = {}
    for name, group, known, kind in zip(annotators, groups, beliefs.known, beliefs.type.tolist(), strict=True):
        if known and name is not None:
            votes.setdefault(name, Counter()).update([] if group is None else [group])
            types[name] = kind
    belongs = [found.most_common(1)[0][0] if found else None for found in votes.values()]
    metrics |= type_accuracy(np.array(list(types.values()), dtype=np.int64), belongs, len(utilities), seed=seed)
    for name, own in zip(mixture.weights, utilities, strict=True):
        pairs = pairs_of(own[items.response], items.ranks, items.offsets, items.prompt, items.weight)
        for key, value in sliced_metrics(pairs, {"group": groups}).items():
            metric, slice_name = key.split("/", 1)
            if metric in ("accuracy", "log_loss"):
                metrics[f"{metric}/policy={name}/{slice_name}"] = value
    return metrics


def cross_table(metrics: Mapping[str, Any], policies: Sequence[str]) -> list[str]:
    """How well each type's policy predicts each known group, as a Markdown section; nothing without groups.

    Examples:
        >>> found = {"accuracy/policy=a/group=old": 0.75, "log_loss/policy=a/group=old": 0.5}
        >>> for line in cross_table(found, ["a"]):
        ...     print(line or "-")
        ## Accuracy (log-loss) of each group's judgments under each type's policy
        -
        | group | a |
        |---|---|
        | old | 0.75 (0.5) |
    """
    prefix = f"accuracy/policy={policies[0]}/group="
    groups = [key[len(prefix) :] for key in metrics if key.startswith(prefix)]
    if not groups:
        return []
    lines = ["## Accuracy (log-loss) of each group's judgments under each type's policy", ""]
    lines += [f"| group | {' | '.join(policies)} |", "|---" * (len(policies) + 1) + "|"]
    for group in groups:
        keys = [f"policy={policy}/group={group}" for policy in policies]
        cells = [f"{metrics[f'accuracy/{key}']:.3g} ({metrics[f'log_loss/{key}']:.3g})" for key in keys]
        lines.append(f"| {group.replace('|', '/')} | {' | '.join(cells)} |")
    return lines


def _unknown(annotators: Sequence[str | None], beliefs: Believed) -> int:
    names = [name for name, known in zip(annotators, beliefs.known, strict=True) if not known]
    return len(set(names) - {None}) + names.count(None)

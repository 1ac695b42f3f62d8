"""A crowd's votes on responses with their texts: the distributions to predict and their weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers.utils import logging

from pluralign.choice.transport import LabelCost
from pluralign.core.errors import PluralignError
from pluralign.evaluation.crowds.distributions import evaluate_distributions
from pluralign.evaluation.crowds.vote_slices import VoteSlice
from pluralign.judgments.scales import LabelScale
from pluralign.judgments.table import Judgments
from pluralign.judgments.vote_state import item_key
from pluralign.judgments.votes import VoteState, votes_of
from pluralign.scoring.items import Items, items_of_responses

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Crowd:
    """The votes on distinct responses. An item is a (prompt, response) pair with at least one vote.

    Args:
        prompt: `(items,)` texts or lists of messages.
        response: `(items,)`.
        distribution: `(items, labels)` the smoothed posterior mean, the training target.
        counts: `(items, labels)` votes by label, as counted by the posterior.
        low: `(items, labels)` lower bound of each share's credible interval (95 %).
        high: `(items, labels)` its upper bound.
        scale: the labels and their rewards.
    """

    prompt: list[Any]
    response: list[Any]
    distribution: np.ndarray
    counts: np.ndarray
    low: np.ndarray
    high: np.ndarray
    scale: LabelScale

    @property
    def votes(self) -> np.ndarray:
        """Votes on each item: `(items,)`."""
        return np.asarray(self.counts.sum(1))

    def items(self, weight: np.ndarray | None = None) -> Items:
        """The texts; item j is judgment j, which shows one response, with weight 1 or `weight[j]`."""
        return items_of_responses(self.prompt, self.response, np.ones(len(self.prompt)) if weight is None else weight)


def crowd_of(
    judgments: Judgments, *, strength: float | None = None, smoothing: float = 0.0, cost: LabelCost | None = None
) -> Crowd:
    """The crowd posterior of a table's labels; rows without a label are left out.

    Args:
        judgments: the table.
        strength: of the uniform prior, in votes; default: the number of labels.
        smoothing: as in `VoteState.targets`.
        cost: between labels; decides between tied runners-up in smoothing.

    Raises:
        PluralignError: the table has no labels.

    Examples:
        >>> from pluralign.judgments import BUILT_IN_SCALES
        >>> row = {"prompt": "Tea?", "responses": ["Yes", "No"]}
        >>> rows = [row | {"labels": ["1", "0"]}, row | {"labels": ["1", None]}]
        >>> crowd = crowd_of(Judgments.from_rows(rows, BUILT_IN_SCALES["binary"]), strength=2.0)
        >>> crowd.response, crowd.counts.tolist(), crowd.distribution.round(3).tolist()
        (['Yes', 'No'], [[0.0, 2.0], [1.0, 0.0]], [[0.25, 0.75], [0.667, 0.333]])
    """
    labelled = [any(label is not None for label in labels or ()) for labels in judgments.column("labels")]
    if judgments.label_scale is None or not any(labelled):
        raise PluralignError("the judgments have no labels, which are a crowd's votes: import them with a label scale")
    if not all(labelled):
        logger.warning(f"{labelled.count(False)} row(s) without a label are left out")
    return crowd_of_state(votes_of(judgments, strength=strength, kind="labels"), smoothing=smoothing, cost=cost)


def crowd_of_state(
    state: VoteState,
    judgments: Judgments | None = None,
    *,
    smoothing: float = 0.0,
    cost: LabelCost | None = None,
) -> Crowd:
    """The crowd posterior of a vote state, for all its items with a vote.

    Args:
        state: a state of labels.
        judgments: keep only items whose texts are in this table; a warning counts those without a vote.
        smoothing: as in `VoteState.targets`.
        cost: between labels; decides between tied runners-up in smoothing.

    Raises:
        PluralignError: the state counts pairs, or no item is left.
    """
    if state.kind != "labels":
        raise PluralignError("vote_state: holds votes on pairs, expected labels of single responses")
    targets = state.targets(smoothing, None if cost is None else cost.matrix)
    counts = state.crowd[state.counts.sum(1) > 0]
    keys = [item_key(prompt, response) for prompt, response in zip(targets.prompt, targets.response, strict=True)]
    chosen = range(len(keys)) if judgments is None else _known(keys, judgments)
    if not chosen:
        raise PluralignError("no item is left: no response has a vote")
    rows = np.array(chosen)
    return Crowd(
        prompt=[targets.prompt[row] for row in chosen],
        response=[targets.response[row] for row in chosen],
        distribution=targets.distribution[rows],
        counts=counts[rows],
        low=targets.low[rows],
        high=targets.high[rows],
        scale=targets.scale,
    )


def crowd_metrics(
    crowd: Crowd, predicted: np.ndarray, slices: Iterable[VoteSlice] = (), replicates: int = 0, seed: int = 0
) -> dict[str, float]:
    """Metrics of predictions, from `pluralign.evaluation.crowds.distributions.evaluate_distributions`.

    The log-loss of votes is named `vote_log_loss`, since `log_loss` is that of pairs. Costs are
    |R_i - R_j| + 0.1 [i != j] whatever the training cost was, so that models can be compared.

    Args:
        crowd: the votes.
        predicted: `(items, labels)`.
        slices: of the votes.
        replicates: bootstrap draws over prompts; 0 omits the intervals.
        seed: of the bootstrap.

    Examples:
        >>> from pluralign.judgments import BUILT_IN_SCALES
        >>> row = {"prompt": "Tea?", "responses": ["Yes"], "labels": ["1"]}
        >>> crowd = crowd_of(Judgments.from_rows([row] * 3, BUILT_IN_SCALES["binary"]))
        >>> metrics = crowd_metrics(crowd, np.array([[0.25, 0.75]]))
        >>> metrics["items"], metrics["total_variation"], round(metrics["vote_log_loss"], 3)
        (1, 0.25, 0.288)
    """
    found = evaluate_distributions(
        predicted,
        crowd.counts,
        crowd.scale.rewards,
        crowd.items().prompt,
        slices=slices,
        replicates=replicates,
        seed=seed,
    )
    del found["left_out"]  # every item of a crowd has a vote
    return {f"vote_{key}" if key.startswith("log_loss") else key: value for key, value in found.items()}


def _known(keys: Sequence[Any], judgments: Judgments) -> list[int]:
    """Indices of the items whose texts are in a table, in the table's order."""
    place = {key: number for number, key in enumerate(keys)}
    shown = {item_key(row["prompt"], text): None for row in judgments.rows() for text in row["responses"]}
    unvoted = sum(key not in place for key in shown)
    if unvoted:
        logger.warning(f"vote_state: {unvoted} of {len(shown)} responses have no votes in it and are left out")
    return [place[key] for key in shown if key in place]


def check_labels(found: LabelScale, expected: LabelScale, place: str) -> None:
    """Check that votes use the labels, and rewards of labels, that a model predicts.

    Raises:
        PluralignError: they differ.
    """
    if found.same_labels(expected):
        return
    missing = [label for label in found.labels if label not in expected.labels]
    if missing:
        fault = f"the label '{missing[0]}' is not one of the model's ({', '.join(expected.labels)})"
    elif found.labels != expected.labels:
        fault = f"labels are {', '.join(found.labels)}, and the model's {', '.join(expected.labels)}"
    else:
        fault = f"labels are worth {list(found.rewards)}, and the model was trained with {list(expected.rewards)}"
    raise PluralignError(f"{place}: {fault}: give votes on the scale '{expected.name}' of the model")

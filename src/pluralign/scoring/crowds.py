"""A crowd's labels on responses: targets for a model that predicts their distribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from transformers.utils import logging

from pluralign.choice.label_costs import LabelCost
from pluralign.core.errors import PluralignError
from pluralign.judgments.scales import LabelScale
from pluralign.judgments.table import Judgments
from pluralign.judgments.votes import VoteState, item_key, votes_of
from pluralign.scoring.items import Items, items_of_responses

logger = logging.get_logger(__name__)


ARRAYS = ("distribution", "counts", "low", "high")
"""The fields of a crowd that have a row for each item."""

PriorStrength = float | Literal["labels", "estimated"]
"""Votes that the uniform prior counts as in a target: a number, one per label, or the most likely number."""


@dataclass(frozen=True)
class Crowd:
    """The votes on distinct responses. An item is a (prompt, response) pair with at least one vote.

    Args:
        prompt: `(items,)` texts or lists of messages.
        response: `(items,)`.
        distribution: `(items, labels)` the training target: shares of the votes, or the posterior mean; smoothed.
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

    @property
    def keys(self) -> list[tuple[str, ...]]:
        """The key of each item, as in a vote state."""
        return [item_key(*texts) for texts in zip(self.prompt, self.response, strict=True)]

    def of_items(self, rows: Sequence[int]) -> Crowd:
        """The crowd of some items, in this order."""
        arrays = {name: getattr(self, name)[list(rows)] for name in ARRAYS}
        prompt, response = [self.prompt[row] for row in rows], [self.response[row] for row in rows]
        return Crowd(prompt, response, **arrays, scale=self.scale)

    def items(self, weight: np.ndarray | None = None) -> Items:
        """The texts; item j is judgment j, which shows one response, with weight 1 or `weight[j]`."""
        return items_of_responses(self.prompt, self.response, np.ones(len(self.prompt)) if weight is None else weight)


def crowd_of(
    judgments: Judgments, *, strength: PriorStrength = 0.0, smoothing: float = 0.0, cost: LabelCost | None = None
) -> Crowd:
    """The crowd of a table's labels; rows without a label are left out.

    Args:
        judgments: the table.
        strength: of the uniform prior in the targets, in votes: a number, `labels` for one vote per label, or
            `estimated` (`pluralign.choice.dirichlet.estimated_strength`). At 0, the targets are the shares of the
            votes, and intervals have the estimated prior.
        smoothing: as in `VoteState.targets`.
        cost: decides between tied runners-up in smoothing.

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
    given = None if strength in (0, "labels", "estimated") else float(strength)
    state = votes_of(judgments, strength=given, kind="labels")
    if strength in (0, "estimated"):
        state = state.with_strength()
    return crowd_of_state(state, smoothing=smoothing, cost=cost, prior=strength != 0)


def crowds_by_group(judgments: Judgments, names: Sequence[str], **options: Any) -> tuple[Crowd, np.ndarray]:
    """The crowds of the groups in one: an item is a (prompt, response) and the group of those who voted on it.

    Args:
        judgments: the table; votes of other groups, or of none, are items of no group.
        names: the groups.
        options: as in `crowd_of`.

    Returns:
        The crowd, and the number of each item's group, one past the last for none: `(items,)`.

    Raises:
        PluralignError: the table has no labels.
    """
    number = {name: place for place, name in enumerate(names)}
    of_row = np.array([number.get(name, len(names)) for name in judgments.column("group")], dtype=np.int64)
    voted = np.array([any(label is not None for label in labels or ()) for labels in judgments.column("labels")])
    present = np.unique(of_row[voted]).tolist()
    crowds = [crowd_of(judgments.select(np.flatnonzero(of_row == place).tolist()), **options) for place in present]
    if not crowds:
        return crowd_of(judgments, **options), of_row  # raises
    return _joined(crowds, present)


def crowds_of_strata(
    state: VoteState, judgments: Judgments, names: Sequence[str], **options: Any
) -> tuple[Crowd, np.ndarray]:
    """The crowds of a vote state's strata in one, as `crowds_by_group` gives those of a table's groups.

    Args:
        state: post-stratified, so that it keeps the votes of its strata apart.
        judgments: the table that names the items.
        names: the strata.
        options: as in `crowd_of_state`.

    Raises:
        PluralignError: the state counts pairs, has no such stratum, or holds no vote on an item of the table.
    """
    wanted = set(crowd_of_state(state, judgments, **options).keys)
    crowds, present = [], []
    for place, name in enumerate(names):
        part = state.of_stratum(name)
        if part.voted.any():
            crowd = crowd_of_state(part, **options)
            crowds.append(crowd.of_items([row for row, key in enumerate(crowd.keys) if key in wanted]))
            present.append(place)
    return _joined(crowds, present)


def _joined(crowds: Sequence[Crowd], groups: Sequence[int]) -> tuple[Crowd, np.ndarray]:
    """The items of some groups' crowds in one crowd, and the group of each."""
    joined = {name: np.concatenate([getattr(crowd, name) for crowd in crowds]) for name in ARRAYS}
    prompt, response = ([text for crowd in crowds for text in getattr(crowd, key)] for key in ("prompt", "response"))
    group = np.repeat(groups, [len(crowd.prompt) for crowd in crowds])
    return Crowd(prompt, response, **joined, scale=crowds[0].scale), group


def crowd_of_state(
    state: VoteState,
    judgments: Judgments | None = None,
    *,
    smoothing: float = 0.0,
    cost: LabelCost | None = None,
    prior: bool = True,
) -> Crowd:
    """The crowd of a vote state of labels, for all its items with a vote; with `prior`, targets are posterior means.

    With `judgments`, only items whose texts are in that table are kept, and a warning counts its texts without a vote.
    `smoothing` and `cost` are as in `crowd_of`.

    Raises:
        PluralignError: the state counts pairs, or no item is left.
    """
    if state.kind != "labels":
        raise PluralignError("vote_state: holds votes on pairs, expected labels of single responses")
    targets = state.targets(smoothing, None if cost is None else cost.matrix, prior=prior)
    counts = state.crowd[state.voted if prior else state.votes > 0]
    crowd = Crowd(
        targets.prompt, targets.response, targets.distribution, counts, targets.low, targets.high, targets.scale
    )
    if judgments is not None:
        crowd = crowd.of_items(_known(crowd.keys, judgments))
    if not crowd.prompt:
        raise PluralignError("no item is left: no response has a vote")
    return crowd


def check_labels(found: LabelScale, expected: LabelScale, place: str) -> None:
    """Raise a `PluralignError` if votes do not use the labels, and rewards of labels, that a model predicts."""
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


def labels_anything(judgments: Judgments) -> bool:
    """Whether any row has a label."""
    return any(label is not None for labels in judgments.column("labels") for label in labels or ())


def _known(keys: Sequence[Any], judgments: Judgments) -> list[int]:
    """Indices of the items whose texts are in a table, in the table's order."""
    place = {key: number for number, key in enumerate(keys)}
    shown = {item_key(row["prompt"], text): None for row in judgments.rows() for text in row["responses"]}
    unvoted = sum(key not in place for key in shown)
    if unvoted:
        logger.warning(f"vote_state: {unvoted} of {len(shown)} responses have no votes in it and are left out")
    return [place[key] for key in shown if key in place]

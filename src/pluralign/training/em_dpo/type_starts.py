"""The start of EM-DPO: responsibilities before the first round, and whether the data can identify types."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from pluralign.choice.latent_class.estimator import LatentClassPlackettLuce
from pluralign.choice.latent_class.identification import Identification
from pluralign.choice.latent_class.panel import Panel
from pluralign.choice.latent_class.starts import CLEAR, spectral_groups
from pluralign.choice.plackett_luce import NOT_RANKED, NOT_SHOWN
from pluralign.core.errors import PluralignError
from pluralign.judgments.table import Judgments
from pluralign.scoring.annotator_types import AnnotatorTypes, annotator_types, with_features
from pluralign.scoring.panels import people_of
from pluralign.training.em_dpo.config import EMDPOConfig


@dataclass(frozen=True)
class TypeStart:
    """The state before the first round.

    Args:
        gamma: responsibilities `(K,)` of each annotator, by id, or by row number for a row without one.
        verdict: whether the data can identify types.
        supported: whether latent classes on the features predict held-out annotators better with these types than with
            one: the start then knows something of the types.
    """

    gamma: dict[str | int, np.ndarray]
    verdict: Identification
    supported: bool

    @property
    def types(self) -> int:
        """K."""
        return len(next(iter(self.gamma.values())))


def type_start(judgments: Judgments, args: EMDPOConfig, seed: int) -> TypeStart:
    """The start that a config chooses; see `EMDPOConfig.start`.

    Raises:
        PluralignError: the data does not allow it (no groups, not as many groups as types, no features).
    """
    types = args.types
    if args.start == "groups":
        groups = sorted({name for name in judgments.column("group") if name is not None})
        if not groups or types not in ("auto", len(groups)):
            raise PluralignError(
                f"start: groups: the table has {len(groups)} groups, and types is {types}: "
                + ("give groups in the column `group`" if not groups else f"set types: {len(groups)}")
            )
        types = len(groups)
    options: dict[str, Any] = {"features": args.features, "dimensions": args.dimensions}
    found = annotator_types(judgments, types=types, most_types=args.most_types, **options)
    gamma = _gamma(found, judgments, args, seed)
    supported = args.start == "latent-class" and found.gains
    return TypeStart(dict(zip(found.annotators, gamma, strict=True)), found.verdict, supported)


def _gamma(found: AnnotatorTypes, judgments: Judgments, args: EMDPOConfig, seed: int) -> np.ndarray:
    """`(annotators, K)`."""
    latent = np.array(found.responsibilities)
    annotators, types = latent.shape
    if types == 1 or args.start == "latent-class":
        return latent
    if args.start == "dirichlet":
        return np.random.default_rng(seed).dirichlet(np.ones(types), annotators)
    people = people_of(judgments)
    if args.start == "groups":
        return _known(judgments.column("group"), people.row, people.panel.annotator_ids, annotators)
    panel = with_features(people, found.features, args.dimensions, seed)[0].panel
    if args.start == "spectral":
        gamma = np.full((annotators, types), (1 - CLEAR) / (types - 1))
        problem = LatentClassPlackettLuce(types).problem(panel)
        gamma[np.arange(annotators), spectral_groups(problem, types, seed)] = CLEAR
        return gamma
    return np.eye(types)[mean_difference_groups(panel, types, seed)]


def _known(groups: list[str | None], rows: np.ndarray, numbers: np.ndarray, annotators: int) -> np.ndarray:
    """Shares of each annotator's judgments in each group; equal shares for annotators without a group."""
    names = sorted({name for name in groups if name is not None})
    place = {name: number for number, name in enumerate(names)}
    counts = np.zeros((annotators, len(names)))
    for row, annotator in zip(rows.tolist(), numbers.tolist(), strict=True):
        name = groups[row]
        if name is not None:
            counts[annotator, place[name]] += 1
    counts[counts.sum(1) == 0] = 1
    return counts / counts.sum(1, keepdims=True)


def mean_difference_groups(panel: Panel, groups: int, seed: int) -> np.ndarray:
    """K-means on the difference between chosen and other responses, in features: `(annotators,)` from 0.

    The point of an annotator is the mean over their judgments of the mean feature of the responses in first place
    minus that of the others (without features: of the responses' indicators).

    Examples:
        >>> panel = Panel([[0, 1], [0, 1], [1, 0]], [[1, 2], [1, 2], [1, 2]], [0, 1, 2], features=[[1.0], [0.0]])
        >>> groups = mean_difference_groups(panel, 2, 0)
        >>> bool(groups[0] == groups[1]), bool(groups[0] == groups[2])
        (True, False)
    """
    features = np.eye(panel.response_count) if panel.features is None else np.asarray(panel.features)
    ranks = panel.rank_values
    shown = ranks > NOT_SHOWN
    least = np.where(ranks > NOT_RANKED, ranks, np.iinfo(np.int64).max).min(1, keepdims=True)
    best = shown & (ranks == least)
    other = shown & ~best
    said = best.any(1) & other.any(1)
    shares = best / np.maximum(best.sum(1, keepdims=True), 1) - other / np.maximum(other.sum(1, keepdims=True), 1)
    rows = np.zeros((panel.annotators, features.shape[1]))
    for column in range(ranks.shape[1]):
        values = (shares[:, column] * said)[:, None] * features[np.where(shown, panel.response_ids, 0)[:, column]]
        np.add.at(rows, panel.annotator_ids, values)
    rows /= np.maximum(np.bincount(panel.annotator_ids[said], minlength=panel.annotators), 1)[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return np.asarray(KMeans(groups, n_init=5, random_state=seed).fit(rows).labels_)

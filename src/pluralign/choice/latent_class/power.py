"""How well types would be found with more judgments or longer rankings: parametric bootstrap of a fitted model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pluralign.choice.em_dpo import matched_types
from pluralign.choice.latent_class.estimator import LatentClassPlackettLuce
from pluralign.choice.latent_class.panel import Panel
from pluralign.choice.plackett_luce import NOT_SHOWN

MODERATE = 1.0
"""Standard deviation of the utilities by which two types differ that one found type is split into."""


@dataclass(frozen=True)
class Power:
    """Matched accuracy of the annotators' types, if so many judgments of such a length were collected.

    Args:
        length: responses in a ranking; `None` is as collected.
        judgments: per annotator.
        accuracy: mean over the simulations of the share of annotators whose type is found.
        low: the lowest of the simulations, and
        high: the highest.
        ceiling: the same with the true parameters known: what the judgments say about a person at best.
    """

    length: int | None
    judgments: int
    accuracy: float
    low: float
    high: float
    ceiling: float


def planted(model: LatentClassPlackettLuce, panel: Panel) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients `(K, p)` and shares `(K,)` to simulate from: the fit, or one type split into two equal ones.

    The halves of a single type differ by a direction in which utilities have the standard deviation `MODERATE`.
    """
    coefficients = np.asarray(model.coefficients_)
    if len(coefficients) > 1:
        return coefficients, np.asarray(model.mixture_weights_)
    rng = np.random.default_rng(0)
    direction = rng.normal(size=coefficients.shape[1])
    if panel.features is not None:
        used = np.unique(panel.response_ids[panel.rank_values > NOT_SHOWN])
        utilities = np.asarray(panel.features)[used] @ direction
        direction = direction / max(float(utilities.std()), 1e-12)
    return np.concatenate((coefficients + MODERATE / 2 * direction, coefficients - MODERATE / 2 * direction)), np.full(
        2, 0.5
    )


def components(panel: Panel) -> np.ndarray:
    """The connected part of the comparison graph that each response is in `(responses,)`; -1 if it was not shown.

    Examples:
        >>> panel = Panel([[0, 1], [2, 3], [3, 0]], [[1, 2], [1, 2], [0, 0]], [0, 0, 0], response_total=5)
        >>> components(panel).tolist()
        [0, 0, 0, 0, -1]
    """
    shown = panel.rank_values > NOT_SHOWN
    first = np.where(shown, panel.response_ids, np.iinfo(np.int64).max).min(1, keepdims=True)
    row, column = np.broadcast_to(first, shown.shape)[shown], panel.response_ids[shown]
    size = panel.response_count
    graph = coo_array((np.ones(len(row)), (row, column)), shape=(size, size))
    labels = connected_components(graph, directed=False)[1]
    used = np.zeros(size, dtype=bool)
    used[column] = True
    found = np.full(size, -1)
    found[used] = np.unique(labels[used], return_inverse=True)[1]
    return found


def simulated(
    coefficients: np.ndarray,
    shares: np.ndarray,
    panel: Panel,
    *,
    annotators: int,
    judgments: int,
    length: int | None,
    rng: np.random.Generator,
) -> tuple[Panel, np.ndarray]:
    """A panel drawn from a model, on choice sets like those of a panel, and the annotators' types.

    Sets of another length are drawn from responses of one connected part of the comparison graph, or from all
    responses where no part is large enough.

    Args:
        coefficients: `(K, p)`.
        shares: `(K,)`.
        panel: whose choice sets and features are used.
        annotators: how many.
        judgments: of each.
        length: of the rankings; `None` takes the panel's sets as they are.
        rng: the source of randomness.
    """
    types = rng.choice(len(shares), annotators, p=shares / shares.sum())
    person = np.repeat(np.arange(annotators), judgments)
    rows = rng.integers(0, panel.judgments, len(person))
    if length is None:
        responses, shown = panel.response_ids[rows], panel.rank_values[rows] > NOT_SHOWN
    else:
        responses = _sets(panel, panel.response_ids[rows], panel.rank_values[rows] > NOT_SHOWN, length, rng)
        shown = np.ones(responses.shape, dtype=bool)
    features = None if panel.features is None else np.asarray(panel.features)
    utilities = coefficients if features is None else coefficients @ features.T
    drawn = utilities[types[person][:, None], np.where(shown, responses, 0)] + rng.gumbel(size=responses.shape)
    ranks = np.where(shown, (np.where(shown, -drawn, np.inf)).argsort(1).argsort(1) + 1, NOT_SHOWN)
    made = Panel(
        responses, ranks, person, features, response_total=panel.response_count, population=np.ones(annotators)
    )
    return made, types


def _sets(panel: Panel, near: np.ndarray, shown: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """Different responses from the same part of the graph as a given judgment's."""
    label = components(panel)
    order = np.argsort(label, kind="stable")
    order = order[label[order] >= 0]
    sizes = np.bincount(label[order])
    starts = np.concatenate(([0], sizes.cumsum()))[:-1]
    part = label[near[np.arange(len(near)), shown.argmax(1)]]
    small = sizes[part] < length
    count, start = np.where(small, len(order), sizes[part]), np.where(small, 0, starts[part])
    if len(order) < length:
        raise ValueError(f"length: found {length}, but only {len(order)} responses were shown to anyone")
    places = np.empty((len(near), length), dtype=np.int64)
    for column in range(length):  # the usual draw without replacement: shift past what is taken, in order
        place = rng.integers(0, count - column)
        taken = np.sort(places[:, :column], 1)
        for other in range(column):
            place += place >= taken[:, other]
        places[:, column] = place
    return order[start[:, None] + places]


def power_curve(
    model: LatentClassPlackettLuce,
    panel: Panel,
    *,
    judgments: Sequence[int] = (1, 2, 4, 8, 16),
    lengths: Sequence[int | None] = (None, 3),
    replicates: int = 3,
    annotators: int = 200,
    seed: int = 0,
    progress: Callable[[list[Any]], Iterable[Any]] = iter,
    **settings: Any,
) -> list[Power]:
    """Simulate people like those found, fit as many types, and see how many people are put into their own.

    Args:
        model: fitted to the panel; where it has one type, that is split into two that differ moderately.
        panel: the judgments.
        judgments: per annotator, to try.
        lengths: of rankings, to try; `None` is as collected.
        replicates: simulations of each.
        annotators: in each simulation.
        seed: of the simulations.
        progress: wraps the list of designs, to show how far they are.
        settings: of `LatentClassPlackettLuce`.

    Returns:
        one `Power` for each length and number.
    """
    coefficients, shares = planted(model, panel)
    settings = {"restarts": 2, "max_iterations": 100, "tolerance": 1e-6, "ridge": model.ridge} | settings
    found = []
    for length, number in progress([(length, number) for length in lengths for number in judgments]):
        scores, best = [], []
        for replicate in range(replicates):
            rng = np.random.default_rng((seed, replicate, number, length or 0))
            made, types = simulated(
                coefficients, shares, panel, annotators=annotators, judgments=number, length=length, rng=rng
            )
            fitted = LatentClassPlackettLuce(len(shares), seed=replicate, **settings).fit(made)
            scores.append(_accuracy(fitted.labels_, types, len(shares)))
            known = LatentClassPlackettLuce(
                len(shares), coefficients_init=coefficients, max_iterations=0, polish=False, ridge=model.ridge
            ).fit(made)
            eta = torch.as_tensor(np.log(shares / shares.sum())).unsqueeze(0)
            known.fitted = replace(known.fitted, log_weights=eta)
            best.append(float((known.predict(made) == types).mean()))
        found.append(Power(length, number, float(np.mean(scores)), min(scores), max(scores), float(np.mean(best))))
    return found


def _accuracy(labels: np.ndarray, types: np.ndarray, kinds: int) -> float:
    """Share of annotators whose type is right, after matching."""
    eye = torch.eye(kinds, dtype=torch.float64)
    order = matched_types(eye[torch.as_tensor(labels)], eye[torch.as_tensor(types)]).numpy()
    return float((order[labels] == types).mean())

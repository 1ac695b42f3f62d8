"""How well types would be recovered with more judgments or longer rankings: parametric bootstrap of a fitted model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pluralign.choice.em_dpo import matched_types
from pluralign.choice.latent_class.estimator import LatentClassPlackettLuce
from pluralign.choice.latent_class.likelihood import Likelihood
from pluralign.choice.latent_class.panel import Panel, components
from pluralign.choice.latent_class.selection import PRECISION
from pluralign.choice.latent_class.tied_blocks import block_log_p
from pluralign.choice.plackett_luce import NOT_RANKED, NOT_SHOWN

NEARLY_ALL = 0.99
"""Where this share of annotators is assigned to their own type, designs with more judgments are not simulated."""

MODERATE = 1.0
"""When a single fitted type is split into two, the standard deviation of their difference in utility."""


@dataclass(frozen=True)
class Power:
    """Accuracy of the recovered types under one design of data collection.

    Args:
        length: responses in a ranking; `None` is as collected.
        judgments: per annotator.
        accuracy: share of annotators assigned to their own type (after matching), mean over the simulations.
        low: the lowest accuracy of a simulation.
        high: the highest.
        ceiling: the mean accuracy with known parameters: the most that the judgments can tell about an annotator.
    """

    length: int | None
    judgments: int
    accuracy: float
    low: float
    high: float
    ceiling: float


def planted(model: LatentClassPlackettLuce, panel: Panel) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients `(K, p)` and shares `(K,)` to simulate from: the fit, or a single type split into two equal ones.

    The two differ by a random direction in which utilities have the standard deviation `MODERATE`.
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
    half = MODERATE / 2 * direction
    return np.concatenate((coefficients + half, coefficients - half)), np.full(2, 0.5)


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
    """Draw a panel from coefficients `(K, p)` and shares `(K,)`, with choice sets and ties like those of a panel.

    With a `length`, sets are drawn from responses of one connected part of the comparison graph, or from all responses
    if that part is too small. Returns the panel and the annotators' types.
    """
    types = rng.choice(len(shares), annotators, p=shares / shares.sum())
    annotator = np.repeat(np.arange(annotators), judgments)
    rows = rng.integers(0, panel.judgments, len(annotator))
    if length is None:
        responses, shown = panel.response_ids[rows], panel.rank_values[rows] > NOT_SHOWN
    else:
        responses = _sets(panel, panel.response_ids[rows], panel.rank_values[rows] > NOT_SHOWN, length, rng)
        shown = np.ones(responses.shape, dtype=bool)
    features = None if panel.features is None else np.asarray(panel.features)
    utilities = coefficients if features is None else coefficients @ features.T
    drawn = utilities[types[annotator][:, None], np.where(shown, responses, 0)] + rng.gumbel(size=responses.shape)
    position = np.where(shown, -drawn, np.inf).argsort(1).argsort(1)
    ranks = np.where(shown, position + 1, NOT_SHOWN)
    if length is None:  # the drawn order, with ties and responses left unranked where the judgment has them
        collected = panel.rank_values[rows]
        places = np.where(collected > NOT_RANKED, collected, np.iinfo(np.int64).max - 1)
        places = np.sort(np.where(shown, places, np.iinfo(np.int64).max), 1)
        places = np.take_along_axis(places, position, 1)
        ranks = np.where(shown, np.where(places < np.iinfo(np.int64).max - 1, places, NOT_RANKED), NOT_SHOWN)
    population = np.ones(annotators)
    return Panel(
        responses, ranks, annotator, features, population=population, response_total=panel.response_count
    ), types


def _sets(panel: Panel, near: np.ndarray, shown: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """Distinct responses from the same part of the comparison graph as a given judgment's."""
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
    for column in range(length):  # draw without replacement: shift past the places already taken, in order
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
    """Simulate annotators like those fitted, fit as many types, and count the annotators assigned to their own type.

    Args:
        model: fitted to the panel; a single type is split into two that differ moderately.
        panel: the judgments.
        judgments: numbers of judgments per annotator to try.
        lengths: lengths of rankings to try; `None` is as collected.
        replicates: simulations per design, each of `annotators` annotators.
        progress: wraps the list of designs, to show progress.
        settings: of `LatentClassPlackettLuce`.

    Returns:
        One `Power` for each length and number of judgments, up to the first with which nearly all types are recovered.
    """
    coefficients, shares = planted(model, panel)
    priors: dict[str, Any] = {"ridge": model.ridge, "common_ridge": model.common_ridge}
    settings = {"restarts": 1, "max_iterations": 100, "precision": PRECISION, **priors} | settings
    powers: list[Power] = []
    for length, number in progress([(length, number) for length in lengths for number in sorted(judgments)]):
        if powers and powers[-1].length == length and powers[-1].accuracy >= NEARLY_ALL:
            continue
        accuracies, ceilings = [], []
        for replicate in range(replicates):
            rng = np.random.default_rng((seed, replicate, number, length or 0))
            drawn, types = simulated(
                coefficients, shares, panel, annotators=annotators, judgments=number, length=length, rng=rng
            )
            fitted = LatentClassPlackettLuce(len(shares), seed=replicate, **settings).fit(drawn)
            accuracies.append(_accuracy(fitted.labels_, types, len(shares)))
            ceilings.append(float((_told(drawn, coefficients, shares) == types).mean()))
        accuracy, ceiling = float(np.mean(accuracies)), float(np.mean(ceilings))
        powers.append(Power(length, number, accuracy, min(accuracies), max(accuracies), ceiling))
    return powers


def _told(panel: Panel, coefficients: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The most probable type of each annotator under known coefficients `(K, p)` and shares `(K,)`."""
    likelihood, beta = Likelihood.of(panel), torch.as_tensor(coefficients)
    utilities = likelihood.logit.utilities(beta)
    by_type = sum(block.counts @ block_log_p(block.logit.choices, utilities) for block in likelihood.blocks)
    return np.asarray((np.asarray(by_type) + np.log(shares / shares.sum())).argmax(1))


def _accuracy(labels: np.ndarray, types: np.ndarray, kinds: int) -> float:
    """Share of annotators whose type is right, after matching."""
    eye = torch.eye(kinds, dtype=torch.float64)
    order = matched_types(eye[torch.as_tensor(labels)], eye[torch.as_tensor(types)]).numpy()
    return float((order[labels] == types).mean())

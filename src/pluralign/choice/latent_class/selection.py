"""How many types: held-out log-likelihood over annotators, and BIC."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pluralign.choice.latent_class.estimator import LatentClassPlackettLuce
from pluralign.choice.latent_class.panel import Panel

NOTHING = 1e-6
"""A gain of no more than this for each judgment, in nats, is none: types that are all alike differ by rounding."""

PATIENCE = 2
"""So many numbers of types in a row that gain nothing end the search."""


@dataclass(frozen=True)
class Selection:
    """Fits of several numbers of types.

    Args:
        types: `(numbers,)` the K that were tried.
        held_out: `(numbers,)` log-likelihood of annotators who were left out, per judgment, in nats.
        gain: `(numbers,)` what the K gains over the smallest, per judgment, and
        gain_error: `(numbers,)` its standard error over annotators.
        bic: `(numbers,)`.
        models: fitted to all annotators.
        chosen: the K with enough evidence.
    """

    types: np.ndarray
    held_out: np.ndarray
    gain: np.ndarray
    gain_error: np.ndarray
    bic: np.ndarray
    models: list[LatentClassPlackettLuce]
    chosen: int

    @classmethod
    def of_one(cls, model: LatentClassPlackettLuce) -> Selection:
        """A number that was given: nothing was held out."""
        none = np.full(1, np.nan)
        number = len(model.mixture_weights_)
        return cls(np.array([number]), none, none, none, np.array([model.bic_]), [model], number)

    @property
    def model(self) -> LatentClassPlackettLuce:
        """The fit of the chosen number."""
        return self.models[list(self.types).index(self.chosen)]


def select_types(
    panel: Panel,
    numbers: Iterable[int] = range(1, 7),
    *,
    folds: int = 5,
    ridge: float = 1e-6,
    seed: int = 0,
    errors: float = 1.0,
    progress: Callable[[list[Any]], Iterable[Any]] = iter,
    **settings: Any,
) -> Selection:
    """Fit several numbers of types and choose one by the log-likelihood of annotators who were left out.

    A larger K is taken if it raises the held-out log-likelihood by more than `errors` standard errors of the gain,
    paired over annotators. The search ends after two K in a row that do not. One type is a possible answer.

    Args:
        panel: the judgments.
        numbers: the K to try, rising; those above the annotators of a fold are left out.
        folds: parts that the annotators are dealt into.
        ridge: precision of the prior on the coefficients of a single type. Each of K types has ridge / K, so that
            a type split into equal ones is penalised as before, and more types do not win by shrinking more.
        seed: of the folds and of the fits.
        errors: how many standard errors a gain must exceed.
        progress: wraps the list of fits, to show how far they are.
        settings: of `LatentClassPlackettLuce`.

    Raises:
        ValueError: there are fewer than two annotators, or no number to try is left.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> shown = np.stack([rng.permutation(4)[:3] for _ in range(600)])
        >>> person = np.repeat(np.arange(60), 10)
        >>> worth = np.where(person[:, None] < 30, shown, -shown) * 2.0 + rng.gumbel(size=shown.shape)
        >>> panel = Panel(shown, (-worth).argsort(1).argsort(1) + 1, person)
        >>> select_types(panel, range(1, 4)).chosen
        2
    """
    if panel.annotators < 2:
        raise ValueError("choosing the number of types leaves annotators out: found fewer than two")
    folds = min(folds, panel.annotators)
    part = np.random.default_rng(seed).permutation(np.arange(panel.annotators) % folds)
    smallest = panel.annotators - np.bincount(part).max()
    tried = [number for number in numbers if number <= smallest]
    if not tried:
        raise ValueError(f"types: expected a number up to {smallest}, the annotators that are fitted in each fold")
    weight = np.ones(panel.annotators) if panel.population is None else np.asarray(panel.population)
    places = panel.judgments * weight.mean()
    models: list[LatentClassPlackettLuce] = []
    found: list[np.ndarray] = []
    best = 0
    for number in progress(tried):
        model = LatentClassPlackettLuce(number, ridge=ridge / number, seed=seed, **settings)
        held_out = np.zeros(panel.annotators)
        for fold in range(folds):
            out = np.flatnonzero(part == fold)
            model.fit(panel.of_annotators(np.flatnonzero(part != fold)))
            held_out[out] = weight[out] * model.annotator_log_likelihood(panel.of_annotators(out))
        found.append(held_out)
        models.append(model.fit(panel))
        gain, error = _gain(held_out - found[best])
        if gain > errors * error + NOTHING * places:
            best = len(found) - 1
        if len(found) - best > PATIENCE:
            break
    gains = [_gain(held_out - found[0]) for held_out in found]
    return Selection(
        types=np.array(tried[: len(found)]),
        held_out=np.array([held_out.sum() for held_out in found]) / places,
        gain=np.array([gain for gain, _ in gains]) / places,
        gain_error=np.array([error for _, error in gains]) / places,
        bic=np.array([model.bic_ for model in models]),
        models=models,
        chosen=tried[best],
    )


def _gain(difference: np.ndarray) -> tuple[float, float]:
    """Sum over annotators and its standard error."""
    return float(difference.sum()), float(np.sqrt(len(difference)) * difference.std(ddof=1))

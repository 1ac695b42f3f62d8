"""How many annotator types there are: held-out log-likelihood over annotators, and BIC."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pluralign.choice.latent_class.estimator import LatentClassPlackettLuce
from pluralign.choice.latent_class.panel import Panel

NO_GAIN = 1e-6
"""A smaller gain per judgment, in nats, counts as none: types that are all alike still differ by rounding."""

PATIENCE = 2
"""The search ends after this many numbers of types in a row that gain nothing."""


@dataclass(frozen=True)
class Selection:
    """Fits with several numbers of types.

    Args:
        types: `(numbers,)` the values of K that were tried.
        held_out: `(numbers,)` log-likelihood of held-out annotators, per judgment, in nats.
        gain: `(numbers,)` gain over the smallest K, per judgment, in nats.
        gain_error: `(numbers,)` its standard error over annotators.
        bic: `(numbers,)`.
        models: fitted to all annotators.
        chosen: the selected K.
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
        """The selection if K was given and nothing was held out."""
        none = np.full(1, np.nan)
        number = len(model.mixture_weights_)
        return cls(np.array([number]), none, none, none, np.array([model.bic_]), [model], number)

    @property
    def model(self) -> LatentClassPlackettLuce:
        """The fit with the chosen number of types."""
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
    """Choose the number of types by the log-likelihood of held-out annotators.

    A larger K is chosen if it raises the held-out log-likelihood by more than `errors` standard errors of the gain,
    paired over annotators. The search ends after two K in a row that do not. One type is a possible answer.

    Args:
        panel: the judgments.
        numbers: the values of K to try, rising; those above the number of annotators in a fold are left out.
        folds: number of folds of annotators.
        ridge: precision of the prior on the coefficients of a single type. Each of K types has ridge / K, so that
            splitting a type into equal ones costs nothing, and more types do not win by shrinking more.
        seed: of the folds and of the fits.
        errors: standard errors that a gain must exceed.
        progress: wraps the list of fits, to show progress.
        settings: of `LatentClassPlackettLuce`.

    Raises:
        ValueError: there are fewer than two annotators, or no value of K is left.

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
        raise ValueError("choosing the number of types holds out annotators: found fewer than two")
    folds = min(folds, panel.annotators)
    part = np.random.default_rng(seed).permutation(np.arange(panel.annotators) % folds)
    smallest = panel.annotators - np.bincount(part).max()
    tried = [number for number in numbers if number <= smallest]
    if not tried:
        raise ValueError(f"types: expected a number up to {smallest}, the annotators that are fitted in each fold")
    weight = np.ones(panel.annotators) if panel.population is None else np.asarray(panel.population)
    places = panel.judgments * weight.mean()
    models: list[LatentClassPlackettLuce] = []
    scores: list[np.ndarray] = []
    best = 0
    for number in progress(tried):
        model = LatentClassPlackettLuce(number, ridge=ridge / number, seed=seed, **settings)
        held_out = np.zeros(panel.annotators)
        for fold in range(folds):
            out = np.flatnonzero(part == fold)
            model.fit(panel.of_annotators(np.flatnonzero(part != fold)))
            held_out[out] = weight[out] * model.annotator_log_likelihood(panel.of_annotators(out))
        scores.append(held_out)
        models.append(model.fit(panel))
        gain, error = _gain(held_out - scores[best])
        if gain > errors * error + NO_GAIN * places:
            best = len(scores) - 1
        if len(scores) - best > PATIENCE:
            break
    gains = [_gain(held_out - scores[0]) for held_out in scores]
    return Selection(
        types=np.array(tried[: len(scores)]),
        held_out=np.array([held_out.sum() for held_out in scores]) / places,
        gain=np.array([gain for gain, _ in gains]) / places,
        gain_error=np.array([error for _, error in gains]) / places,
        bic=np.array([model.bic_ for model in models]),
        models=models,
        chosen=tried[best],
    )


def _gain(difference: np.ndarray) -> tuple[float, float]:
    """Sum over annotators and its standard error."""
    return float(difference.sum()), float(np.sqrt(len(difference)) * difference.std(ddof=1))

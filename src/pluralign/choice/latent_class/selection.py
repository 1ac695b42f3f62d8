"""How many annotator types there are, and whether they are types: held-out log-likelihood over annotators, and BIC."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pluralign.choice.latent_class.continuum import continuum_log_likelihood
from pluralign.choice.latent_class.estimator import LatentClassPlackettLuce
from pluralign.choice.latent_class.information import EXACT
from pluralign.choice.latent_class.panel import Panel
from pluralign.choice.latent_class.processes import annotators_before, of_everyone

NO_GAIN = 1e-4
"""A gain below this, in nats per judgment, counts as none: it is too small to matter, and fits are not more precise."""

PRECISION = 1e-7
"""Fits that are only compared on held-out annotators stop this near to their optimum, relative to their objective."""

PATIENCE = 2
"""The search ends after this many numbers of types in a row that gain nothing."""

COMMON = (1.0, 0.3, 0.1, 0.03)
"""Ridges of the common taste, in units of the given one. They are tried in this order until one is worse."""

DIFFERENCES = (0.1, 0.3, 1.0, 3.0)
"""Ridges of the types' differences from it. The search begins at the best one of the previous K and goes to the better
neighbour while there is one."""

FIRST = 2
"""Where in `DIFFERENCES` the search of the first K begins."""

SCALES = (1.0, 0.7, 1.4)
"""Scales that are tried of a continuum that matches types; the first chooses among them."""

Folds = list[LatentClassPlackettLuce]
"""A model for each fold, fitted to the annotators of the others."""

Climbed = tuple[int, np.ndarray, list[Folds]]
"""The best ridge's place, its log-likelihood of each held-out annotator, and the models of all ridges tried."""

Heterogeneity = Literal["one taste", "types", "continuum", "undecided"]
"""How annotators differ: not at all, in camps, by degrees, or in a way that the judgments do not tell."""


@dataclass(frozen=True)
class Gain:
    """A paired gain in held-out log-likelihood, per judgment, in nats, and its standard error over annotators."""

    value: float
    error: float

    def exceeds(self, errors: float = 2.0) -> bool:
        """Whether the gain is larger than `errors` standard errors."""
        return self.value > errors * self.error + NO_GAIN

    def __neg__(self) -> Gain:
        return Gain(-self.value, self.error)

    def __str__(self) -> str:
        return f"{self.value:+.3f} +- {self.error:.3f} nats a judgment"


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
        by_annotator: `(numbers, annotators)` held-out log-likelihood of each annotator, in nats; empty if nothing was
            held out.
        places: judgments, by population weight: what sums over annotators are divided by.
        continuum: `(annotators,)` the same as `by_annotator` for the best continuum of tastes; empty if none was tried.
    """

    types: np.ndarray
    held_out: np.ndarray
    gain: np.ndarray
    gain_error: np.ndarray
    bic: np.ndarray
    models: list[LatentClassPlackettLuce]
    chosen: int
    by_annotator: np.ndarray
    places: float
    continuum: np.ndarray

    @classmethod
    def of_one(cls, model: LatentClassPlackettLuce) -> Selection:
        """The selection if K was given and nothing was held out."""
        none = np.full(1, np.nan)
        number = len(model.mixture_weights_)
        nobody = np.zeros((1, 0))
        bic = np.array([model.bic_])
        return cls(np.array([number]), none, none, none, bic, [model], number, nobody, 1.0, np.zeros(0))

    @property
    def heterogeneity(self) -> Heterogeneity:
        """Whether annotators share one taste, come in types, or differ by degrees.

        `one taste`: neither types nor a continuum of tastes gain on it. `types`: the chosen types gain on the
        continuum. `continuum`: it gains on one taste and on every number of types. All gains are on held-out annotators
        and larger than two standard errors; anything else is `undecided`.
        """
        if not len(self.continuum):
            return "undecided"
        if self.chosen > 1 and self._gain(self._scores(self.chosen) - self.continuum).exceeds():
            return "types"
        if not self.continuum_gain().exceeds():
            return "one taste" if self.chosen == 1 else "undecided"
        rivals = (self.continuum_gain(int(number)) for number in self.types)
        return "continuum" if all(gain.exceeds() for gain in rivals) else "undecided"

    def continuum_gain(self, number: int = 1) -> Gain:
        """The gain of the continuum over K types."""
        return self._gain(self.continuum - self._scores(number))

    def gain_of(self, number: int) -> Gain:
        """The gain of K types over one type."""
        return self._gain(self._scores(number) - self._scores(1))

    def _scores(self, number: int) -> np.ndarray:
        return np.asarray(self.by_annotator[list(self.types).index(number)])

    def _gain(self, difference: np.ndarray) -> Gain:
        value, error = _gain(difference)
        return Gain(value / self.places, error / self.places)

    @property
    def model(self) -> LatentClassPlackettLuce:
        """The fit with the chosen number of types."""
        return self.models[list(self.types).index(self.chosen)]


def select_types(
    panel: Panel,
    numbers: Iterable[int] = range(1, 7),
    *,
    folds: int = 5,
    ridge: float = 1.0,
    seed: int = 0,
    errors: float = 2.0,
    progress: Callable[[list[Any]], Iterable[Any]] = iter,
    **settings: Any,
) -> Selection:
    """Choose the number of types by the log-likelihood of held-out annotators.

    Coefficients are a common taste plus differences, theta_k = theta_0 + delta_k. The ridge of theta_0 is the one with
    which one type predicts held-out annotators best, the ridge of the differences the one with which K types do, on
    the same folds; one type is nested in every K, which can win only by differing. A larger K is chosen if it raises
    the held-out log-likelihood by more than `errors` standard errors of the gain, paired over annotators. The search
    ends at a K that gains less than one standard error, or after `PATIENCE` values of K in a row that are not chosen.
    One type is a possible answer. On the same folds, types are compared with the normal distribution of tastes that
    has their mean and covariance (`Selection.heterogeneity`).

    Args:
        panel: the judgments; if it is sharded, the result is the same in every process, but for the posteriors of
            `models`, which are of each process's own annotators.
        numbers: the values of K to try, rising; those above the number of annotators in a fold are left out.
        folds: number of folds of annotators.
        ridge: the precision around which `COMMON` and `DIFFERENCES` are tried.
        seed: of the folds and of the fits.
        errors: standard errors that a gain must exceed.
        progress: wraps the list of fits, to show progress.
        settings: of `LatentClassPlackettLuce`; `noise` applies from two types on.

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
    before, annotators = annotators_before(panel)
    if annotators < 2:
        raise ValueError("choosing the number of types holds out annotators: found fewer than two")
    folds = min(folds, annotators)
    part = np.random.default_rng(seed).permutation(np.arange(annotators) % folds)
    smallest = annotators - np.bincount(part).max()
    tried = [number for number in numbers if number <= smallest]
    if not tried:
        raise ValueError(f"types: expected a number up to {smallest}, the annotators that are fitted in each fold")
    part = part[before : before + panel.annotators]
    weight = panel.weights
    places = of_everyone(panel, np.bincount(panel.annotator_ids, minlength=panel.annotators)).sum()
    places *= of_everyone(panel, weight).mean()
    out = [np.flatnonzero(part == fold) for fold in range(folds)]
    held_in = [panel.of_annotators(np.flatnonzero(part != fold)) for fold in range(folds)]
    held_out = [panel.of_annotators(members) for members in out]

    def fitted(
        train: Panel, number: int, own: float, start: np.ndarray | None, precision: float = PRECISION
    ) -> LatentClassPlackettLuce:
        model = LatentClassPlackettLuce(
            number,
            ridge=own,
            common_ridge=own if number == 1 else common,
            coefficients_init=start,
            precision=precision,
            seed=seed,
            **settings_of(number, settings),
        )
        return model.fit(train)

    def by_annotator(parts: list[np.ndarray]) -> np.ndarray:
        """The weighted log-likelihood of each annotator of all processes from those of each fold's."""
        return of_everyone(panel, np.concatenate(parts)[np.argsort(np.concatenate(out))] * weight)

    def climbed(number: int, ridges: Sequence[float], first: int, start: np.ndarray | None) -> Climbed:
        """The fits to all folds with the best of some ridges, from the first one on."""

        def at(place: int, near: Folds | None) -> tuple[Folds, np.ndarray]:
            starts = [start] * folds if near is None else [model.coefficients_ for model in near]
            each = zip(held_in, starts, strict=True)
            models = [fitted(train, number, ridge * ridges[place], begin) for train, begin in each]
            tests = zip(models, held_out, strict=True)
            return models, by_annotator([model.annotator_log_likelihood(test) for model, test in tests])

        return _climbed(at, first, len(ridges))

    common = ridge
    place, single, _ = climbed(1, COMMON, 0, None)
    common = ridge * COMMON[place]
    models: list[LatentClassPlackettLuce] = []
    scores: list[np.ndarray] = []
    continua: list[Folds] = []
    best, place = 0, FIRST
    for number in progress(tried):
        if number == 1:
            scores.append(single)
            models.append(fitted(panel, 1, common, None, EXACT))
            continue
        # Restarts on all annotators choose the basin; each fold goes on from there, and each ridge from its neighbour.
        start = fitted(panel, number, ridge * DIFFERENCES[place], None).coefficients_
        place, held, fits = climbed(number, DIFFERENCES, place, start)
        scores.append(held)
        continua += [] if panel.available is not None else fits
        models.append(fitted(panel, number, ridge * DIFFERENCES[place], start, EXACT))
        gain, error = _gain(scores[-1] - scores[best])
        if gain > errors * error + NO_GAIN * places:
            best = len(scores) - 1
        elif (gain < error and not settings.get("noise")) or len(scores) - best > PATIENCE:
            break  # with a noise type, two types are one taste and noise, which need not gain
    gains = [_gain(each - scores[0]) for each in scores]
    continuum = _best_continuum(continua, held_out, seed)
    return Selection(
        types=np.array(tried[: len(scores)]),
        held_out=np.array([each.sum() for each in scores]) / places,
        gain=np.array([gain for gain, _ in gains]) / places,
        gain_error=np.array([error for _, error in gains]) / places,
        bic=np.array([model.bic_ for model in models]),
        models=models,
        chosen=tried[best],
        by_annotator=np.stack(scores),
        places=places,
        continuum=by_annotator(continuum) if continuum else np.zeros(0),
    )


def _climbed(at: Callable[[int, Folds | None], tuple[Folds, np.ndarray]], start: int, size: int) -> Climbed:
    """The best of `size` places, from a start to the better neighbour while there is one.

    `at` maps a place and the models of the best place so far to models and held-out log-likelihoods.
    """
    best, (models, scores) = start, at(start, None)
    tried = [models]
    for step in (1, -1):
        while best + step in range(size):
            rivals, rival = at(best + step, models)
            tried.append(rivals)
            if rival.sum() <= scores.sum():
                break
            best, models, scores = best + step, rivals, rival
        if best != start:  # what lies on the other side is worse
            break
    return best, scores, tried


def _best_continuum(candidates: list[Folds], held_out: list[Panel], seed: int) -> list[np.ndarray]:
    """Held-out log-likelihoods of each fold's annotators under the continuum that fits the other folds best.

    Each fold's candidate and scale are chosen without its annotators: the best of many on all of them would gain by
    the choice alone. They are chosen by Laplace's approximation. Empty if there is no candidate.
    """
    if not candidates:
        return []

    def totals(models: Folds, scales: tuple[float, ...]) -> np.ndarray:
        """Of each scale and fold: `(scales, folds)`."""
        folds = zip(models, held_out, strict=True)
        each = (continuum_log_likelihood(model, test, scales, draws=0) * test.weights for model, test in folds)
        sums = [of_everyone(test, own.T).sum(0) for own, test in zip(each, held_out, strict=True)]
        return np.stack(sums, 1)

    def chosen(scores: np.ndarray) -> np.ndarray:
        """The best row by the other folds, for each fold."""
        return np.asarray((scores.sum(1, keepdims=True) - scores).argmax(0))

    best = chosen(np.concatenate([totals(models, SCALES[:1]) for models in candidates]))
    scales = {int(number): chosen(totals(candidates[number], SCALES)) for number in np.unique(best)}
    return [
        continuum_log_likelihood(candidates[number][fold], test, (SCALES[scales[number][fold]],), seed=seed)[0]
        for fold, (number, test) in enumerate(zip(best.tolist(), held_out, strict=True))
    ]


def settings_of(number: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The estimator's settings for a number of types: a single type is never the one that ranks at random."""
    return {name: value for name, value in settings.items() if name != "noise" or number > 1}


def _gain(difference: np.ndarray) -> tuple[float, float]:
    """Sum over annotators and its standard error."""
    return float(difference.sum()), float(np.sqrt(len(difference)) * difference.std(ddof=1))

"""Recalibration: maps from margins to the log-odds with which annotators actually prefer responses.

A margin m = r(winner) - r(loser) should win as often as sigmoid(m) says. If it does not, a map g is fitted on judgments
that the model was not trained on, so that sigmoid(g(m)) does. Every map is odd, g(-m) = -g(m), because the order of two
responses must not matter, and non-decreasing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression

from pluralign.core.errors import PluralignError, nearest, one_line
from pluralign.evaluation.calibration.reliability import calibration_error
from pluralign.evaluation.pairs import Floats, Pairs, real_numbers

Method = Literal["temperature", "isotonic"]
METHODS: tuple[str, ...] = get_args(Method)
"""The methods of recalibration."""

LARGEST_TEMPERATURE = 1e4
"""In units of the mean size of a margin: beyond it every probability is 0.5 to four digits."""

_USELESS = (
    "the response with the lower reward wins at least as often, so no recalibration can help: train a better model, or "
    "check that these judgments follow the criterion it was trained on"
)


@dataclass(frozen=True)
class Recalibration:
    """A fitted map from margins to log-odds; odd and non-decreasing.

    `temperature`: g(m) = m / T. `isotonic`: g(m) = sign(m) h(|m|), with h linear between (0, 0) and the knots and
    constant beyond the last one.

    Args:
        method: `temperature` or `isotonic`.
        temperature: T above 0, in units of the rewards; of `temperature` only.
        knots: `(|m|, log-odds)` in ascending order, the log-odds at least 0 and non-decreasing; of `isotonic` only.
        record: the data of the fit and its metrics; plain values that are stored and not interpreted.

    Raises:
        PluralignError: a value does not fit; the message names it.

    Examples:
        >>> Recalibration("temperature", temperature=2.0)([3.0, -1.0]).tolist()
        [1.5, -0.5]
        >>> Recalibration("isotonic", knots=((1.0, 0.5), (3.0, 1.5)))([2.0, -9.0, 0.0]).tolist()
        [1.0, -1.5, 0.0]
    """

    method: Method
    temperature: float | None = None
    knots: tuple[tuple[float, float], ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        checked_method(self.method)
        if self.method == "temperature":
            if self.knots:
                raise PluralignError("knots: found some, expected none with the method temperature")
            if self.temperature is None or not (_is_number(self.temperature) and self.temperature > 0):
                raise PluralignError(f"temperature: found {one_line(self.temperature)}, expected a number above 0")
            return
        if self.temperature is not None:
            raise PluralignError("temperature: found one, expected none with the method isotonic")
        if not self.knots:
            raise PluralignError("knots: found none, expected at least one with the method isotonic")
        before = (0.0, 0.0)
        for place, knot in enumerate(self.knots):
            if not (isinstance(knot, tuple) and len(knot) == 2 and all(map(_is_number, knot))):
                raise PluralignError(f"knots[{place}]: found {one_line(knot)}, expected two numbers")
            if knot[0] <= before[0] or knot[1] < before[1]:
                raise PluralignError(
                    f"knots[{place}]: found {one_line(knot)}, expected a margin above {before[0]} and log-odds of "
                    f"at least {before[1]}"
                )
            before = knot

    def __call__(self, margins: ArrayLike) -> Floats:
        """Log-odds of margins, float64 of the same shape."""
        margin = np.asarray(margins, dtype=np.float64)
        if self.temperature is not None:
            return np.asarray(margin / self.temperature)
        sizes, log_odds = zip(*self.knots, strict=True)
        return np.copysign(np.interp(np.abs(margin), (0.0, *sizes), (0.0, *log_odds)), margin)

    def as_dict(self) -> dict[str, Any]:
        """Method, parameters and record as values that JSON can hold."""
        if self.temperature is not None:
            return {"method": self.method, "temperature": self.temperature, **self.record}
        return {"method": self.method, "knots": [list(knot) for knot in self.knots], **self.record}

    @classmethod
    def from_dict(cls, values: object) -> Recalibration:
        """The inverse of `as_dict`; unknown keys become the record.

        Raises:
            PluralignError: the argument is not a mapping, or a value does not fit.

        Examples:
            >>> Recalibration.from_dict({"method": "temperature", "temperature": -1})
            Traceback (most recent call last):
            ...
            pluralign.core.errors.PluralignError: temperature: found -1, expected a number above 0
        """
        if not isinstance(values, Mapping):
            raise PluralignError(f"found {one_line(values)}, expected the method and its parameters by name")
        record = dict(values)
        method, temperature = record.pop("method", None), record.pop("temperature", None)
        knots = record.pop("knots", [])
        if not isinstance(knots, list):
            raise PluralignError(f"knots: found {one_line(knots)}, expected a list of [margin, log-odds]")
        pairs = tuple(tuple(knot) if isinstance(knot, list) else knot for knot in knots)
        return cls(checked_method(method), temperature, pairs, record)


def checked_method(method: object) -> Method:
    """A method of recalibration, or an error that names the known ones."""
    if method not in METHODS:
        raise PluralignError(
            f"method: found {one_line(method)}, expected one of {', '.join(METHODS)}{nearest(str(method), METHODS)}"
        )
    return cast(Method, method)


def fit_temperature(margins: ArrayLike, weight: ArrayLike | None = None) -> float:
    """The temperature T that minimises the weighted mean of -log sigmoid(m / T).

    The loss is convex in 1 / T. T is kept between the `temperature_bounds`: if every pair is ordered right, the loss
    falls all the way to T = 0, and the lower bound is the result.

    Args:
        margins: reward of the preferred response minus reward of the other one, `(pairs,)`; zeros only change the
            lower bound.
        weight: of each pair, at least 0, `(pairs,)`; None is equal weights. Only ratios matter.

    Raises:
        PluralignError: the weighted mean margin is not above 0 (the loss then falls to T = infinity, and on to
            negative T), all margins are 0, or an argument does not fit.

    Source: Guo et al. 2017 (arXiv 1706.04599), section 4.2, for two classes.

    Examples:
        Three of four pairs won at a margin of 2 log 3: the log-odds are log 3, so T is 2.

        >>> margin = 2 * np.log(3)
        >>> round(fit_temperature([margin, margin, margin, -margin]), 9)
        2.0
    """
    margin, mass = _checked(margins, weight)
    if np.dot(mass, margin) <= 0:
        raise PluralignError(f"margins: weighted mean {np.dot(mass, margin):.3g}; {_USELESS}")
    return _temperature(margin, mass)


def temperature_bounds(margins: ArrayLike, weight: ArrayLike | None = None) -> tuple[float, float]:
    """The lowest and the highest temperature that `fit_temperature` may return.

    With s the weighted mean of |m| and n = (sum w)^2 / sum w^2 the effective number of pairs: s / log(n + 1) and
    s * `LARGEST_TEMPERATURE`. At the lower one a margin of size s has the log-odds log(n + 1), which n wins out of n
    imply by the rule of succession, (n + 1) / (n + 2). Arguments and errors as in `fit_temperature`.

    Examples:
        >>> low, high = temperature_bounds([1.0] * 9)
        >>> round(low, 3), round(high, 3)
        (0.434, 10000.0)
    """
    return _bounds(*_checked(margins, weight))


def fit_isotonic(margins: ArrayLike, weight: ArrayLike | None = None) -> tuple[tuple[float, float], ...]:
    """The non-decreasing odd map of margins whose probabilities have the least weighted square error.

    Minimises sum w (1 - q(m))^2 over non-decreasing q with q(-m) = 1 - q(m): isotonic regression on every pair in both
    orders. By symmetry that is the regression of [m > 0] on |m|, bounded below by 0.5, which is what is solved
    (scikit-learn's `IsotonicRegression`). Probabilities are at most (n + 1) / (n + 2), n the effective number of
    pairs: a finite number of wins must not imply infinite log-odds.

    Arguments as in `fit_temperature`; pairs with margin 0 only add to n.

    Returns:
        knots `(|m|, log-odds)` as `Recalibration` takes them, the ends of each constant piece.

    Raises:
        PluralignError: the best map is constant (larger margins do not win more than half the time), all margins
            are 0, or an argument does not fit.

    Source: Zadrozny & Elkan 2002, with both orders; the bound is ours.

    Examples:
        Margins of 1 win two of three, margins of 2 three of four.

        >>> knots = fit_isotonic([1, 1, -1, 2, 2, 2, -2])
        >>> [(m, round(float(expit(log_odds)), 3)) for m, log_odds in knots]
        [(1.0, 0.667), (2.0, 0.75)]
    """
    knots = _isotonic(*_checked(margins, weight))
    if knots[-1][1] == 0:
        raise PluralignError(f"margins: {_USELESS}")
    return knots


def fit_recalibration(method: Method, margins: ArrayLike, weight: ArrayLike | None = None) -> Recalibration:
    """A `Recalibration` by `fit_temperature` or `fit_isotonic`; arguments and errors as there."""
    if checked_method(method) == "temperature":
        return Recalibration(method, temperature=fit_temperature(margins, weight))
    return Recalibration(method, knots=fit_isotonic(margins, weight))


def recalibrated(pairs: Pairs, recalibration: Recalibration) -> Pairs:
    """The same pairs with their margins mapped."""
    return replace(pairs, margin=recalibration(pairs.margin))


def cross_validated(pairs: Pairs, method: Method, folds: int = 5, seed: int = 0) -> Pairs | None:
    """Pairs whose margins are mapped by a fit on the prompts of the other folds: an estimate for new prompts.

    Prompts are assigned to the folds evenly, in an order drawn with `seed`. If the rewards order the other prompts
    no better than a coin, the fold gets the highest temperature, or log-odds 0.

    Returns:
        None with fewer than two prompts, or if the other folds of some fold have no pair with a margin and a weight.

    Raises:
        PluralignError: fewer than two folds, or an unknown method.

    Examples:
        >>> from pluralign.evaluation.pairs import pairs_of
        >>> pairs = pairs_of([2.0, 0.0] * 4, [1, 2, 1, 2, 1, 2, 2, 1], [0, 2, 4, 6, 8], [0, 1, 2, 3], [1.0] * 4)
        >>> cross_validated(pairs, "isotonic", folds=4).margin.round(3).tolist()
        [0.693, 0.693, 0.693, -1.386]
    """
    checked_method(method)
    if folds < 2:
        raise PluralignError(f"folds is {folds}, expected at least 2")
    prompts, cluster = np.unique(pairs.prompt, return_inverse=True)
    if len(prompts) < 2:
        return None
    fold = (np.random.default_rng(seed).permutation(len(prompts)) % min(folds, len(prompts)))[cluster]
    margin = np.empty_like(pairs.margin)
    for held in (fold == k for k in range(fold.max() + 1)):
        if not np.any((pairs.margin != 0) & (pairs.weight > 0) & ~held):
            return None
        rest = _checked(pairs.margin[~held], pairs.weight[~held])
        if method == "temperature":
            fitted = Recalibration(method, temperature=_temperature(*rest))
        else:
            fitted = Recalibration(method, knots=_isotonic(*rest))
        margin[held] = fitted(pairs.margin[held])
    return replace(pairs, margin=margin)


def recalibration_metrics(
    pairs: Pairs, recalibration: Recalibration, folds: int = 5, seed: int = 0
) -> dict[str, float]:
    """Log-loss and calibration error before and after, on the pairs of the fit and cross-validated.

    Returns:
        `log_loss_before`, `log_loss_after` (on the pairs of the fit, so it is optimistic), `log_loss_cross_validated`
        (see `cross_validated`), all in nats, and the same of `ece`; what is undefined is left out.

    Examples:
        >>> from pluralign.evaluation.pairs import pairs_of
        >>> pairs = pairs_of([4.0, 0.0] * 4, [1, 2, 1, 2, 1, 2, 2, 1], [0, 2, 4, 6, 8], [0, 1, 2, 3], [1.0] * 4)
        >>> metrics = recalibration_metrics(pairs, fit_recalibration("temperature", pairs.margin))
        >>> {name: round(value, 3) for name, value in metrics.items()}
        {'log_loss_before': 1.018, 'ece_before': 0.232, 'log_loss_after': 0.562, 'ece_after': 0.0,
         'log_loss_cross_validated': 0.706, 'ece_cross_validated': 0.45}
    """
    versions = {
        "before": pairs,
        "after": recalibrated(pairs, recalibration),
        "cross_validated": cross_validated(pairs, recalibration.method, folds, seed),
    }
    metrics: dict[str, float] = {}
    for name, version in versions.items():
        if version is not None:
            losses = np.logaddexp(0.0, -version.margin)
            metrics[f"log_loss_{name}"] = float(np.average(losses, weights=version.weight))
            if (error := calibration_error(version)) is not None:
                metrics[f"ece_{name}"] = error
    return metrics


def _checked(margins: ArrayLike, weight: ArrayLike | None) -> tuple[Floats, Floats]:
    """The margins of the pairs with a weight above 0, and their weights with the sum 1."""
    margin = real_numbers("margins", margins)
    given = np.ones(len(margin)) if weight is None else weight
    mass = real_numbers("weight", given, len(margin), ", one for each margin")
    if not np.all(np.isfinite(margin)):
        raise PluralignError("margins: some are not finite, expected numbers")
    if not np.all((mass >= 0) & (mass < np.inf)):
        raise PluralignError("weight: expected finite numbers, at least 0")
    margin, mass = margin[mass > 0], mass[mass > 0]
    if not np.any(margin):
        raise PluralignError("margins: no pair with a margin other than 0 and a weight: give more judgments")
    return margin, mass / mass.sum()


def _effective(mass: Floats) -> float:
    """The effective number of pairs."""
    return float(mass.sum() ** 2 / np.dot(mass, mass))


def _bounds(margin: Floats, mass: Floats) -> tuple[float, float]:
    """As `temperature_bounds`."""
    size = float(np.dot(mass, np.abs(margin)))
    return size / float(np.log1p(_effective(mass))), size * LARGEST_TEMPERATURE


def _temperature(margin: Floats, mass: Floats) -> float:
    """As `fit_temperature`; the upper bound for rewards without information."""
    size = float(np.dot(mass, np.abs(margin)))
    low, high = _bounds(margin, mass)
    scaled = margin / size

    def slope(inverse: float) -> float:
        """The slope of the mean log-likelihood in s / T; it falls, so its root is the maximum."""
        return float(np.dot(mass, scaled * expit(-inverse * scaled)))

    if slope(size / low) >= 0:
        return low
    if slope(size / high) <= 0:
        return high
    root = brentq(slope, size / high, size / low, xtol=1e-15, rtol=4 * np.finfo(np.float64).eps)
    return size / float(root)


def _isotonic(margin: Floats, mass: Floats) -> tuple[tuple[float, float], ...]:
    """As `fit_isotonic`; log-odds 0 everywhere for rewards without information."""
    n = _effective(mass)
    kept = margin != 0
    # The solver treats numbers closer than 1e-15 as equal; powers of two scale without a rounding error.
    exponent = int(np.frexp(np.dot(mass, np.abs(margin)))[1])
    size = np.ldexp(np.abs(margin[kept]), -exponent)
    regression = IsotonicRegression(y_min=0.5, y_max=(n + 1) / (n + 2))
    regression.fit(size, (margin[kept] > 0).astype(np.float64), sample_weight=mass[kept])
    sizes = np.ldexp(regression.X_thresholds_, exponent)
    return tuple(zip(sizes.tolist(), logit(regression.y_thresholds_).tolist(), strict=True))


def _is_number(value: object) -> bool:
    """Whether a value is a finite number and not a boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))

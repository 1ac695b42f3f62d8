"""Two runs on the same judgments: differences judgment by judgment, in which what the runs share cancels."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pluralign.evaluation.intervals import Resampling
from pluralign.reports.texts import number, quoted


@dataclass(frozen=True)
class Losses:
    """How well a run predicts each judgment: the columns of `losses.parquet`, each `(judgments,)`.

    `accuracy` and `log_loss` (nats) are means over the judgment's pairs. `annotator` is -1 in all rows where annotators
    are unknown.
    """

    judgment: NDArray[np.int64]
    prompt: NDArray[np.int64]
    annotator: NDArray[np.int64]
    weight: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    log_loss: NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """A metric of a run minus that of another, with its interval and what the interval takes as given."""

    value: float
    low: float | None = None
    high: float | None = None
    given: dict[str, bool] = field(default_factory=dict)


def paired_difference(first: Losses | None, second: Losses | None, metric: str) -> Difference | None:
    """`accuracy` or `log_loss` of the first run minus that of the second, with its 95 % interval.

    The interval is over prompts and annotators (`pluralign.evaluation.intervals.Resampling`). None where a run has no
    losses, or where they are not of the same judgments.

    Examples:
        >>> def losses(log_loss):
        ...     return Losses(*np.array([range(4), [0, 0, 1, 1], [-1] * 4]), np.ones(4), np.ones(4), np.array(log_loss))
        >>> found = paired_difference(losses([0.5, 0.9, 0.2, 0.4]), losses([0.6, 1.0, 0.3, 0.5]), "log_loss")
        >>> round(found.value, 3), round(found.low, 3), round(found.high, 3)
        (-0.1, -0.1, -0.1)
    """
    if first is None or second is None or metric not in ("accuracy", "log_loss"):
        return None
    names = ("judgment", "prompt", "annotator", "weight")
    if not all(np.array_equal(getattr(first, name), getattr(second, name)) for name in names):
        return None
    known = first.annotator if (first.annotator != -1).any() else None
    resampling = Resampling(first.prompt, annotator=known)
    change = getattr(first, metric) - getattr(second, metric)
    found = resampling.mean_intervals({"value": (first.weight * change, first.weight)})
    if "value" not in found:
        return None
    return Difference(found["value"], found.get("value_low"), found.get("value_high"), resampling.given)


def difference_sentence(difference: Difference, other: str) -> str:
    """What a paired difference says about the better run."""
    side = "lower" if difference.value < 0 else "higher"
    more = f"{number(abs(difference.value))} {side} than that of {quoted(other)}"
    if difference.low is None or difference.high is None:
        return f"On the same judgments it is {more}."
    ends = sorted((abs(difference.low), abs(difference.high)))
    if difference.low * difference.high > 0:
        return f"On the same judgments it is {more} (95\xa0% interval {number(ends[0])}\xa0to\xa0{number(ends[1])})."
    around = f"{number(difference.low)}\xa0to\xa0{number(difference.high)}"
    return f"On the same judgments it is {more}, which may be chance (95\xa0% interval of the difference {around})."

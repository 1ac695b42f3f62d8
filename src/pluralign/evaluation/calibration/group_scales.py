"""A scale for each annotator, group or source on top of a shared recalibration, shrunk by empirical Bayes.

Judgments of h follow sigmoid(s_h m) with m a recalibrated margin. A single Newton step from s_h = 1 estimates

    d_h = sum w m (1 - sigmoid(m)) / I_h,    I_h = sum w m^2 sigmoid(m) (1 - sigmoid(m)),

which is s_h - 1 with about the variance 1 / I_h. With s_h - 1 ~ Normal(0, tau^2) the shrunk estimate is

    s_h = 1 + d_h tau^2 / (tau^2 + 1 / I_h),

and tau^2 is the moment estimate of DerSimonian and Laird (1986), without a common mean because the shared recalibration
has been fitted. All of it is in closed form: people with a few judgments keep a scale near 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit

from pluralign.core.errors import PluralignError, one_line
from pluralign.evaluation.intervals import Resampling
from pluralign.evaluation.pairs import Floats, Pairs

LEAST_SCALE = 0.05
"""A scale of 0 or less would turn a preference round."""


@dataclass(frozen=True)
class GroupScales:
    """Scales by name.

    Args:
        column: `annotator`, `group` or `source`.
        spread: tau.
        scales: s of each name.
    """

    column: str
    spread: float
    scales: Mapping[str, float]

    def of(self, names: Sequence[str | None]) -> Floats:
        """The scale of each name `(names,)`; 1 for one that is not known."""
        return np.array([1.0 if name is None else self.scales.get(name, 1.0) for name in names])

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"column": self.column, "spread": self.spread, "scales": dict(self.scales)}

    @classmethod
    def from_dict(cls, values: Any) -> GroupScales:
        """The inverse of `as_dict`.

        Raises:
            PluralignError: the values do not fit.
        """
        fits = isinstance(values, Mapping) and isinstance(values.get("scales"), Mapping)
        numbers = [values.get("spread"), *values["scales"].values()] if fits else [None]
        if not all(isinstance(one, int | float) and np.isfinite(one) and one >= 0 for one in numbers):
            raise PluralignError(f"by: found {one_line(values)}, expected a column, a spread and a scale by name")
        return cls(str(values.get("column")), float(values["spread"]), dict(values["scales"]))


def fit_group_scales(pairs: Pairs, names: Sequence[str | None], column: str) -> GroupScales:
    """Scales of the names of a column from strict pairs with recalibrated margins.

    Args:
        pairs: margins in log-odds.
        names: of each judgment, `(judgments,)`; judgments without a name take no part.
        column: what the names are.

    Raises:
        PluralignError: no judgment has a name.

    Examples:
        >>> from pluralign.evaluation.pairs import pairs_of
        >>> pairs = pairs_of([1.0, 0.0] * 3, [1, 2] * 2 + [2, 1], [0, 2, 4, 6], [0, 1, 2], [1.0] * 3)
        >>> scales = fit_group_scales(pairs, ["ann", "ann", "bob"], "annotator").scales
        >>> scales["ann"] > 1 > scales["bob"]
        True
    """
    known = [name for name in dict.fromkeys(names) if name is not None]
    if not known:
        raise PluralignError(f"by: no judgment has a value in the column {column}: calibrate without --by")
    number: dict[str | None, int] = {name: place for place, name in enumerate(known)}
    of_judgment = np.array([number.get(name, -1) for name in names], dtype=np.int64)[pairs.judgment]
    kept = of_judgment >= 0
    group, m, w = of_judgment[kept], pairs.margin[kept], pairs.weight[kept]
    p = expit(m)
    score = np.bincount(group, w * m * (1 - p), len(known))
    information = np.bincount(group, w * m**2 * p * (1 - p), len(known))
    moved = np.divide(score, information, out=np.zeros(len(known)), where=information > 0)
    # Cochran's Q against 0: E Q = groups + tau^2 sum I_h.
    heavy = information > 0
    excess = float(information @ moved**2) - int(heavy.sum())
    variance = max(excess / float(information.sum()), 0.0) if heavy.any() else 0.0
    scales = 1 + moved * variance * information / (variance * information + 1)
    values = np.maximum(scales, LEAST_SCALE).tolist()
    return GroupScales(column, float(np.sqrt(variance)), dict(zip(known, values, strict=True)))


def scale_metrics(
    pairs: Pairs, names: Sequence[str | None], scales: GroupScales, *, replicates: int = 1000, seed: int = 0
) -> dict[str, float]:
    """What the scales gain on the judgments of names that were known when they were fitted.

    Args:
        pairs: margins in log-odds, without the scales.
        names: of each judgment, `(judgments,)`.
        scales: the fitted ones.
        replicates, seed: as in `pluralign.evaluation.intervals.Resampling`.

    Returns:
        `scaled_share`, the share of the pairs' weight whose name is known, and over those pairs
        `gain_of_COLUMN_scales`, the log-loss without minus the log-loss with them, in nats per judgment, with its
        interval over prompts and annotators. Empty without pairs.
    """
    each = scales.of(names)[pairs.judgment]
    known = np.array([name in scales.scales for name in names], dtype=bool)[pairs.judgment]
    before, after = np.logaddexp(0, -pairs.margin), np.logaddexp(0, -each * pairs.margin)
    resampling = Resampling(pairs.prompt, replicates, seed=seed, annotator=pairs.annotator)
    weight = pairs.weight * known
    found = resampling.mean_intervals({f"gain_of_{scales.column}_scales": (weight * (before - after), weight)})
    total = float(pairs.weight.sum())
    return {"scaled_share": float(weight.sum()) / total, **found} if total > 0 else {}

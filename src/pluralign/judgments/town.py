"""What a simulated town is made of: types of people, their tastes, and how they judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pluralign.core.errors import PluralignError
from pluralign.judgments.scales import LabelScale
from pluralign.judgments.town_answers import TRAITS


@dataclass(frozen=True)
class TypeSpec:
    """A type of people: `u(y) = (weights + time * drift) . traits(y)`.

    Args:
        name: how the type is called; it stands in the `group` column.
        share: its part of the annotators; the shares of a town are scaled to sum to 1.
        weights: one number per trait of `TRAITS`, in nats of choice (log-odds) per unit of the trait.
        drift: by how much the weights have moved at the end of the town's year, or `None`.
    """

    name: str
    share: float
    weights: tuple[float, ...]
    drift: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for field in ("weights", "drift"):
            numbers = getattr(self, field)
            if numbers is not None and (len(numbers) != len(TRAITS) or not np.isfinite(numbers).all()):
                raise PluralignError(
                    f"type '{self.name}', {field}: found {list(numbers)}, expected {len(TRAITS)} finite numbers: "
                    + ", ".join(TRAITS)
                )
        if not (np.isfinite(self.share) and self.share > 0):
            raise PluralignError(f"type '{self.name}', share: found {self.share}, expected a number above 0")


#                         length courtesy number example hedging joke
DEFAULT_TYPES = (
    TypeSpec("brief", 0.5, (-2.0, -0.5, 2.0, 0.0, -1.0, -0.5)),
    TypeSpec("warm", 0.3, (0.3, 2.5, -0.5, 0.5, 0.5, 2.0)),
    TypeSpec("thorough", 0.2, (1.5, 0.0, 1.5, 2.0, 0.5, -1.5)),
)
"""Half want it short and exact, some want it friendly, a few want it complete: their tastes conflict in part."""


@dataclass(frozen=True)
class Town:
    """What a simulated town is made of.

    Args:
        types: the types of people. Each gets its share of the annotators, rounded by largest remainder.
        annotators: how many people judge.
        judgments_per_annotator: how often each of them judges.
        responses: how many different answers a judgment compares; 2 makes pairs.
        top: only ranks up to this one are given, the rest are null; `None` ranks all.
        overlap: the probability that a judgment is on the common choice sets (the n-th judgment of each
            annotator on the n-th common set) and not on a choice set of its own.
        noise: the scale of the Gumbel noise on utilities. At 1 choices follow Plackett-Luce with utilities u
            (Yellott 1977), at any other value above 0 with u / noise; 0 ranks by u itself.
        careless: the share of annotators, of all types, who answer at random whatever the noise.
        tie_gap: noisy utilities closer than this to the best one of their place share that place.
        labels: `None` for ranks without labels, `"also"` for both, `"only"` for labels without ranks.
        label_scale: a built-in scale or one's own. The noisy utility is cut where, at the start of the year,
            all labels are equally frequent among each type's judgments; see `label_thresholds`.
        seed: of everything. Choice sets, types and noise come from streams of their own, so towns that differ
            in one of them alone agree in the others.

    Raises:
        PluralignError: a value is out of its range.
    """

    types: tuple[TypeSpec, ...] = DEFAULT_TYPES
    annotators: int = 60
    judgments_per_annotator: int = 12
    responses: int = 3
    top: int | None = None
    overlap: float = 0.0
    noise: float = 1.0
    careless: float = 0.0
    tie_gap: float = 0.0
    labels: Literal["also", "only"] | None = None
    label_scale: str | LabelScale = "1-to-5"
    seed: int = 0

    def __post_init__(self) -> None:
        names = [kind.name for kind in self.types]
        top = self.responses if self.top is None else self.top
        for field, fits, expected in (
            ("types", len(names) > 0 and len(set(names)) == len(names), "one or more of different names"),
            ("annotators", self.annotators >= 1, "1 or more"),
            ("judgments_per_annotator", self.judgments_per_annotator >= 1, "1 or more"),
            ("responses", self.responses >= 1, "1 or more"),
            ("top", 1 <= top <= self.responses, f"1 to {self.responses}, the number of responses, or None"),
            ("overlap", 0 <= self.overlap <= 1, "a probability from 0 to 1"),
            ("noise", 0 <= self.noise < np.inf, "a finite number, 0 or more"),
            ("careless", 0 <= self.careless <= 1, "a share from 0 to 1"),
            ("tie_gap", 0 <= self.tie_gap < np.inf, "a finite number, 0 or more"),
            ("labels", self.labels in (None, "also", "only"), "None, 'also' or 'only'"),
            ("seed", self.seed >= 0, "0 or more"),
        ):
            if not fits:
                found = names if field == "types" else getattr(self, field)
                raise PluralignError(f"town, {field}: found {found!r}, expected {expected}")

"""Simulated towns: annotators of known types judge composed responses by known utilities over traits of the text.

The truth that is unknown for real annotators is known here: everyone's type, and what each type prefers. Methods
that claim to recover either are tested against it.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pluralign.core.errors import PluralignError
from pluralign.judgments.population_texts import PROMPTS, TRAITS, ComposedResponse, compose, traits
from pluralign.judgments.scales import LabelScale, label_scale
from pluralign.judgments.schema import ranks_from_scores
from pluralign.judgments.table import Judgments

__all__ = [
    "DEFAULT_TYPES", "PROMPTS", "TRAITS", "Simulation", "Town", "TypeSpec", "compose", "label_thresholds",
    "simulate", "traits", "utilities",
]  # fmt: skip

_START = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
_SPAN = datetime.timedelta(days=365)
_THRESHOLD_RESPONSES = 4000


@dataclass(frozen=True)
class TypeSpec:
    """An annotator type with the utility `u(y) = (weights + time * drift) . traits(y)`.

    Args:
        name: the name of the type; it appears in the `group` column.
        share: the type's share of the annotators; the shares of a town are scaled to sum to 1.
        weights: one number per trait of `TRAITS`, in nats of choice (log-odds) per unit of the trait.
        drift: the change of the weights from the start to the end of the town's year, or `None`.
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
"""Half prefer short, exact responses, some friendly ones, a few complete ones: their preferences conflict in part."""


@dataclass(frozen=True)
class Town:
    """The parameters of a simulated town.

    Args:
        types: the annotator types. Each gets its share of the annotators, rounded by largest remainder.
        annotators: the number of annotators.
        judgments_per_annotator: the number of judgments each of them makes.
        responses: the number of different responses in a judgment; 2 gives pairs.
        top: only ranks up to this one are given, the others are null; `None` ranks all.
        overlap: the probability that a judgment is on a common choice set (the n-th judgment of each
            annotator on the n-th common set) instead of a choice set of its own.
        noise: the scale of the Gumbel noise on utilities. At 1, choices follow Plackett-Luce with utilities u
            (Yellott 1977), at other values above 0 with u / noise; 0 ranks by u itself.
        careless: the share of annotators, of all types, who judge at random whatever the noise.
        tie_gap: noisy utilities within this distance of the best one of their rank share that rank.
        labels: `None` for ranks without labels, `"also"` for both, `"only"` for labels without ranks.
        label_scale: a built-in scale or a `LabelScale`. The noisy utility is cut into labels that are equally
            frequent among each type's judgments at the start of the year; see `label_thresholds`.
        seed: random seed. Choice sets, types and noise have random streams of their own, so towns that differ
            in one of them alone agree in the others.

    Raises:
        PluralignError: a value is out of range.
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
            ("types", len(names) > 0 and len(set(names)) == len(names), "one or more with different names"),
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

    @property
    def shares(self) -> np.ndarray:
        """The share of each type, with sum 1: `(types,)`."""
        shares = np.array([kind.share for kind in self.types])
        return np.asarray(shares / shares.sum())


@dataclass(frozen=True)
class Simulation:
    """The judgments of a town, and the truth about its annotators.

    Args:
        town: the simulated town.
        judgments: the table; `group` is the name of the annotator's type, `source` is "town".
        types: the name of each annotator's type.
        type_index: the index of each annotator's type in `town.types`.
        careless: the annotators who judged at random.
    """

    town: Town
    judgments: Judgments
    types: dict[str, str]
    type_index: dict[str, int]
    careless: frozenset[str]

    def utilities(self, text: str, time: float = 0.0) -> np.ndarray:
        """The utility of a response to each type; see `utilities`."""
        return utilities(self.town, text, time)


def utilities(town: Town, text: str, time: float = 0.0) -> np.ndarray:
    """The utility of a response to each type, `u_k(y) = (weights_k + time * drift_k) . traits(y)`.

    Args:
        town: the town whose types are used.
        text: the response.
        time: 0 for the start of the year, 1 for its end; matters only for types that drift.

    Returns:
        float64, `(types,)`, in the order of `town.types`.

    Examples:
        >>> utilities(Town(), "It takes 5 minutes.").round(2).tolist()
        [1.2, -0.38, 2.1]
    """
    weights, drift = _weights(town)
    return (weights + time * drift) @ traits(text)


def label_thresholds(town: Town) -> np.ndarray:
    """The cuts between labels in each type's noisy utility, lowest reward first: `(types, labels - 1)`.

    They are the quantiles of `u_k(y) + noise * Gumbel` over composed responses at time 0, so a label ranks a
    response within one type, not across types.
    """
    rng = np.random.default_rng([town.seed, 4])
    drawn = np.array([compose(_prompt(rng), rng).traits for _ in range(_THRESHOLD_RESPONSES)])
    noisy = drawn @ _weights(town)[0].T + town.noise * rng.gumbel(size=(_THRESHOLD_RESPONSES, len(town.types)))
    count = len(label_scale(town.label_scale).labels)
    return np.quantile(noisy, np.arange(1, count) / count, axis=0).T


def simulate(town: Town) -> Simulation:
    """Simulate the judgments of a town.

    Examples:
        >>> simulation = simulate(Town(annotators=4, judgments_per_annotator=2))
        >>> len(simulation.judgments), simulation.types["h001"] == simulation.judgments.row(0)["group"]
        (8, True)
    """
    people, sets, choices, times = (np.random.default_rng([town.seed, stream]) for stream in range(4))
    index = people.permutation(np.repeat(np.arange(len(town.types)), _counts(town)))
    careless = np.zeros(town.annotators, dtype=bool)
    careless[people.permutation(town.annotators)[: round(town.careless * town.annotators)]] = True
    width = max(3, len(str(town.annotators)))
    names = [f"h{number:0{width}d}" for number in range(1, town.annotators + 1)]

    seen: set[tuple[str, ...]] = set()
    common = [_choice_set(sets, town.responses, seen) for _ in range(town.judgments_per_annotator)]
    weights, drift = _weights(town)
    scale = None if town.labels is None else label_scale(town.label_scale)
    thresholds = None if scale is None else label_thresholds(town)
    drifts = any(kind.drift is not None for kind in town.types)
    rows = []
    for annotator, name in enumerate(names):
        kind = index[annotator]
        moments = np.sort(times.random(town.judgments_per_annotator))
        for turn in range(town.judgments_per_annotator):
            shared = sets.random() < town.overlap
            prompt, responses = common[turn] if shared else _choice_set(sets, town.responses, seen)
            time = moments[turn]
            gumbel = choices.gumbel(size=town.responses)
            utility = np.array([response.traits for response in responses]) @ (weights[kind] + time * drift[kind])
            scores = gumbel if careless[annotator] else utility + town.noise * gumbel
            row: dict[str, Any] = {
                "prompt": prompt,
                "responses": [response.text for response in responses],
                "annotator": name,
                "source": "town",
                "group": town.types[kind].name,
            }
            if town.labels != "only":
                row["ranks"] = _ranks(scores, town)
            if scale is not None and thresholds is not None:
                cuts = thresholds[kind]
                if careless[annotator]:  # the Gumbel quantiles: all labels are equally likely
                    cuts = -np.log(-np.log(np.arange(1, len(scale.labels)) / len(scale.labels)))
                ordered = sorted(scale.labels, key=scale.reward)
                row["labels"] = [ordered[place] for place in np.searchsorted(cuts, scores)]
            if drifts:
                row["time"] = _START + time * _SPAN
            rows.append(row)
    type_index = {name: int(kind) for name, kind in zip(names, index, strict=True)}
    return Simulation(
        town=town,
        judgments=Judgments.from_rows(rows, label_scale=scale),
        types={name: town.types[kind].name for name, kind in type_index.items()},
        type_index=type_index,
        careless=frozenset(name for name, at_random in zip(names, careless, strict=True) if at_random),
    )


def _weights(town: Town) -> tuple[np.ndarray, np.ndarray]:
    """Weights and drift, each `(types, traits)`."""
    still = (0.0,) * len(TRAITS)
    return np.array([kind.weights for kind in town.types]), np.array([kind.drift or still for kind in town.types])


def _counts(town: Town) -> np.ndarray:
    """The number of annotators of each type, by largest remainder: `(types,)`."""
    exact = town.shares * town.annotators
    counts = np.floor(exact).astype(np.int64)
    # Rounded, so that the last bit of shares like 0.1 + 0.2 decides nothing.
    order = np.argsort(-np.round(exact - counts, 9), kind="stable")
    counts[order[: town.annotators - counts.sum()]] += 1
    return counts


def _prompt(rng: np.random.Generator) -> str:
    return PROMPTS[rng.integers(len(PROMPTS))]


def _choice_set(
    rng: np.random.Generator, responses: int, seen: set[tuple[str, ...]]
) -> tuple[str, tuple[ComposedResponse, ...]]:
    """A prompt and different responses to it, as a set that was not drawn before."""
    while True:
        prompt = _prompt(rng)
        drawn: dict[str, ComposedResponse] = {}
        while len(drawn) < responses:
            response = compose(prompt, rng)
            drawn[response.text] = response
        key = (prompt, *sorted(drawn))
        if key not in seen:
            seen.add(key)
            return prompt, tuple(drawn.values())


def _ranks(scores: np.ndarray, town: Town) -> list[int | None]:
    """Ranks with ties: a rank is shared by all scores within `tie_gap` of its best one."""
    places = np.zeros(len(scores))
    best, place = np.inf, 0
    for response in np.argsort(-scores, kind="stable"):
        if scores[response] < best and not best - scores[response] < town.tie_gap:
            best, place = scores[response], place - 1
        places[response] = place
    top = town.responses if town.top is None else town.top
    return [rank if rank is not None and rank <= top else None for rank in ranks_from_scores(places.tolist())]

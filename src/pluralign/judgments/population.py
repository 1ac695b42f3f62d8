"""A simulated town: people of known types whose judgments follow known utilities over traits of the text.

What is known here and never known of real people: who is of which type, and what each type wants. Methods that
claim to find either are tested against it.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

import numpy as np

from pluralign.judgments.scales import LabelScale, label_scale
from pluralign.judgments.schema import ranks_from_scores
from pluralign.judgments.table import Judgments
from pluralign.judgments.town import DEFAULT_TYPES, Town, TypeSpec
from pluralign.judgments.town_answers import PROMPTS, TRAITS, Answer, compose, traits

__all__ = [
    "DEFAULT_TYPES", "PROMPTS", "TRAITS", "Simulation", "Town", "TypeSpec", "compose", "label_thresholds",
    "simulate", "traits", "utilities",
]  # fmt: skip

_START = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
_SPAN = datetime.timedelta(days=365)
_REFERENCE_ANSWERS = 4000


@dataclass(frozen=True)
class Simulation:
    """The judgments of a town, and what is known of the people who made them.

    Args:
        town: what was simulated.
        judgments: the table; `group` is the name of the annotator's type, `source` is "town".
        types: the type's name of each annotator.
        type_index: the type's place in `town.types` of each annotator.
        careless: the annotators who answered at random.
    """

    town: Town
    judgments: Judgments
    types: dict[str, str]
    type_index: dict[str, int]
    careless: frozenset[str]

    def utilities(self, text: str, time: float = 0.0) -> np.ndarray:
        """What an answer is worth to each type; see `utilities`."""
        return utilities(self.town, text, time)


def utilities(town: Town, text: str, time: float = 0.0) -> np.ndarray:
    """What an answer is worth to each type, `u_k(y) = (weights_k + time * drift_k) . traits(y)`.

    Args:
        town: its types are read.
        text: the answer.
        time: 0 for the start of the year, 1 for its end; matters only to types that drift.

    Returns:
        float64, `(types,)`, in the order of `town.types`.

    Examples:
        >>> utilities(Town(), "It takes 5 minutes.").round(2).tolist()
        [1.2, -0.38, 2.1]
    """
    weights, drift = _tastes(town)
    return (weights + time * drift) @ traits(text)


def label_thresholds(town: Town) -> np.ndarray:
    """Where each type's noisy utility is cut into labels, lowest reward first: `(types, labels - 1)`.

    They are the quantiles of `u_k(y) + noise * Gumbel` over answers as the town composes them at time 0, so a
    label says where an answer stands for people of that type, not across types.
    """
    rng = np.random.default_rng([town.seed, 4])
    found = np.array([_answer(rng)[1].traits for _ in range(_REFERENCE_ANSWERS)])
    noisy = found @ _tastes(town)[0].T + town.noise * rng.gumbel(size=(_REFERENCE_ANSWERS, len(town.types)))
    count = len(label_scale(town.label_scale).labels)
    return np.quantile(noisy, np.arange(1, count) / count, axis=0).T


def simulate(town: Town) -> Simulation:
    """Let the people of a town judge.

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
    weights, drift = _tastes(town)
    scale = None if town.labels is None else label_scale(town.label_scale)
    thresholds = None if scale is None else label_thresholds(town)
    drifts = any(kind.drift is not None for kind in town.types)
    rows = []
    for person, name in enumerate(names):
        kind = index[person]
        moments = np.sort(times.random(town.judgments_per_annotator))
        for turn in range(town.judgments_per_annotator):
            shared = sets.random() < town.overlap
            prompt, answers = common[turn] if shared else _choice_set(sets, town.responses, seen)
            time = moments[turn]
            gumbel = choices.gumbel(size=town.responses)
            utility = np.array([answer.traits for answer in answers]) @ (weights[kind] + time * drift[kind])
            scores = gumbel if careless[person] else utility + town.noise * gumbel
            row: dict[str, Any] = {
                "prompt": prompt,
                "responses": [answer.text for answer in answers],
                "annotator": name,
                "source": "town",
                "group": town.types[kind].name,
            }
            if town.labels != "only":
                row["ranks"] = _ranks(scores, town)
            if scale is not None and thresholds is not None:
                cuts = thresholds[kind]
                if careless[person]:  # the Gumbel quantiles: all labels equally likely
                    cuts = -np.log(-np.log(np.arange(1, len(scale.labels)) / len(scale.labels)))
                row["labels"] = _labels(scores, cuts, scale)
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


def _tastes(town: Town) -> tuple[np.ndarray, np.ndarray]:
    """Weights and drift, each `(types, traits)`."""
    still = (0.0,) * len(TRAITS)
    return np.array([kind.weights for kind in town.types]), np.array([kind.drift or still for kind in town.types])


def _counts(town: Town) -> np.ndarray:
    """How many annotators each type has, by largest remainder: `(types,)`."""
    shares = np.array([kind.share for kind in town.types])
    exact = shares / shares.sum() * town.annotators
    counts = np.floor(exact).astype(np.int64)
    # Rounded, so that shares like 0.1 + 0.2 do not decide by the last bit.
    order = np.argsort(-np.round(exact - counts, 9), kind="stable")
    counts[order[: town.annotators - counts.sum()]] += 1
    return counts


def _answer(rng: np.random.Generator) -> tuple[str, Answer]:
    prompt = PROMPTS[rng.integers(len(PROMPTS))]
    return prompt, compose(prompt, rng)


def _choice_set(rng: np.random.Generator, responses: int, seen: set[tuple[str, ...]]) -> tuple[str, tuple[Answer, ...]]:
    """A prompt and different answers to it, a set that was not seen before."""
    while True:
        prompt = PROMPTS[rng.integers(len(PROMPTS))]
        answers: dict[str, Answer] = {}
        while len(answers) < responses:
            answer = compose(prompt, rng)
            answers[answer.text] = answer
        key = (prompt, *sorted(answers))
        if key not in seen:
            seen.add(key)
            return prompt, tuple(answers.values())


def _ranks(scores: np.ndarray, town: Town) -> list[int | None]:
    """Ranks with ties, a place being held by all that are closer than `tie_gap` to its best."""
    places = np.zeros(len(scores))
    best, place = np.inf, 0
    for response in np.argsort(-scores, kind="stable"):
        if scores[response] < best and not best - scores[response] < town.tie_gap:
            best, place = scores[response], place - 1
        places[response] = place
    top = town.responses if town.top is None else town.top
    return [rank if rank is not None and rank <= top else None for rank in ranks_from_scores(places.tolist())]


def _labels(scores: np.ndarray, cuts: np.ndarray, scale: LabelScale) -> list[str]:
    ordered = sorted(scale.labels, key=scale.reward)
    return [ordered[place] for place in np.searchsorted(cuts, scores)]

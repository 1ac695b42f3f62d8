"""A simulated town whose annotator types no count of words or word pairs can see.

Every response has nine words: a food and a drink, each after an adjective, with other words around them and once the
word `not`, and a full stop that ends the first of two sentences. Types differ in what they want of

- order: whether the food comes before the drink;
- negation: whether `not` stands before the first or before the second of the two;
- second sentence: how many of the nine words it has.

Other words and adjectives stand between all of them, so each word and each pair of neighbouring words is equally
frequent whatever a response's traits are: features by word counts are blind here, a language model is not.
"""

from __future__ import annotations

import fcntl
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from pluralign.judgments import Judgments
from pluralign.judgments.population import TypeSpec

from ..common.results import OUT
from ..common.training import all_texts, from_scratch

FOODS = ("bread", "soup")
DRINKS = ("tea", "milk")
ADJECTIVES = ("fresh", "plain", "warm")
OTHERS = ("please", "then", "maybe", "today")
PROMPTS = ("What shall we have?", "What is for lunch?")

#                        order negation second sentence
WEIGHTS = {"first": (2.0, 0.5, 0.0), "second": (-1.5, 2.0, 0.0), "third": (-0.5, -1.5, 1.0)}
SHARES = {"first": 0.5, "second": 0.3, "third": 0.2}
"""As in the other town: a large, a middle and a small type."""


@dataclass(frozen=True)
class Types:
    """The types of the town."""

    types: tuple[TypeSpec, ...]


@dataclass(frozen=True)
class BlindTown:
    """Judgments and the truth behind them, as `pluralign.judgments.population.Simulation` has them."""

    judgments: Judgments
    types: dict[str, str]
    type_index: dict[str, int]
    town: Types

    def utilities(self, text: str) -> np.ndarray:
        """The utility of a response to each type: `(types,)`."""
        return np.array(list(WEIGHTS.values())) @ traits(text)


def compose(draw: np.random.Generator) -> str:
    """A random response."""
    food, drink = draw.choice(FOODS), draw.choice(DRINKS)
    items = [food, drink] if draw.random() < 0.5 else [drink, food]
    denied = int(draw.integers(2))
    words: list[str] = []
    for place, item in enumerate(items):
        words += [draw.choice(OTHERS), *["not"] * (place == denied), draw.choice(ADJECTIVES), item]
    words += [draw.choice(OTHERS), draw.choice(OTHERS)]
    stop = int(draw.integers(3, 8))
    return " ".join(words[:stop]) + " . " + " ".join(words[stop:]) + " ."


def traits(text: str) -> np.ndarray:
    """Order (1: food first, else -1), negation (1: of the first, else -1), words of the second sentence - 4: `(3,)`.

    Examples:
        >>> traits("please not fresh tea . then plain soup maybe today .").tolist()
        [-1.0, 1.0, 1.0]
    """
    words = text.replace(".", "").split()
    food, drink = (next(place for place, word in enumerate(words) if word in kind) for kind in (FOODS, DRINKS))
    first = words.index("not") < min(food, drink)
    second = len(text.split(" . ")[1].split()) - 1
    return np.array([1.0 if food < drink else -1.0, 1.0 if first else -1.0, float(second - 4)])


def simulate(annotators: int, each: int, seed: int, responses: int = 3) -> BlindTown:
    """Rankings by annotators of three types, by Plackett-Luce with known utilities."""
    draw = np.random.default_rng([seed, 17])
    names = list(WEIGHTS)
    index = draw.permutation(np.repeat(np.arange(3), [round(share * annotators) for share in SHARES.values()]))
    weights, rows = np.array(list(WEIGHTS.values())), []
    for person, kind in enumerate(index):
        for _ in range(each):
            texts: dict[str, None] = {}
            while len(texts) < responses:
                texts[compose(draw)] = None
            scores = [weights[kind] @ traits(text) + draw.gumbel() for text in texts]
            order = sorted(scores, reverse=True)
            rows.append({
                "prompt": str(draw.choice(PROMPTS)), "responses": list(texts),
                "ranks": [order.index(score) + 1 for score in scores],
                "annotator": f"h{person:03d}", "source": "blind town", "group": names[kind],
            })  # fmt: skip
    people = {f"h{person:03d}": int(kind) for person, kind in enumerate(index)}
    none = (0.0,) * 6
    specs = tuple(TypeSpec(name, SHARES[name], none) for name in names)
    known = {name: names[kind] for name, kind in people.items()}
    return BlindTown(Judgments.from_rows(rows), known, people, Types(specs))


MODEL = OUT / "blind-town-language-model"


@cache
def language_model() -> Path:
    """A Llama of half a million parameters that has read the responses of another such town."""
    OUT.mkdir(exist_ok=True)
    with open(OUT / "blind-language-model.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (MODEL / "metrics.json").exists():
            judgments = simulate(120, 16, 1000).judgments
            shape = {"vocab_size": 400, "hidden_size": 96, "layers": 3, "heads": 4, "context": 64}
            from_scratch(
                MODEL, judgments, all_texts(judgments), shape, learning_rate=3e-3, num_train_epochs=2, max_length=64
            )
    return MODEL

"""The conversations of `em_real`: one policy, the default, and opinion groups given, on held-out rankings by group."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from pluralign.judgments import Judgments

from ..common.data import POLIS_CONVERSATIONS, load
from ..common.results import kept
from .runs import SETTINGS, SHAPE, Split, compared, language_model

TOPIC = 80
"""The prompt is this many characters of the conversation's topic."""

POLIS_SETTINGS = SETTINGS | {"per_device_train_batch_size": 16, "max_steps": 200, "learning_rate": 4e-3}
"""The same for all conversations. The rate was chosen in short trials on vtaiwan.uberx whose held-out rankings were
looked at; the number of steps by the time that they take."""

ONE, DEFAULT, GIVEN = "one type", "default", "opinion groups given"
METHODS: dict[str, dict[str, Any]] = {
    ONE: {"types": 1},
    DEFAULT: {"types": "auto"},
    GIVEN: {"types": "auto", "start": "groups", "rounds": 0},
}


def statements(name: str) -> list[dict[str, Any]]:
    """For each annotator a ranking of all statements that they voted on."""
    return [
        {key: row[key] for key in ("responses", "ranks", "annotator", "source", "group")}
        | {"prompt": row["prompt"][:TOPIC] + "\n"}
        for row in load(f"people-{name}")[0].rows()
    ]


def conversation(name: str, size: int, share: float, most: int | None, seed: int, held_out: str = "rankings") -> Split:
    """Each annotator's ranking in parts of `size` statements or a few more; a share of each one's parts is held out.

    With a share of a fifth, annotators with fewer than three parts have none held out. With `held_out` `statements` a
    share of the statements is held out instead: nobody ranks them in training.
    """
    draw = np.random.default_rng(seed)
    rankings = statements(name)
    if most is not None and most < len(rankings):
        rankings = [rankings[index] for index in sorted(draw.permutation(len(rankings))[:most])]
    texts = sorted({text for ranking in rankings for text in ranking["responses"]})
    new: set[str] = set()
    if held_out == "statements":
        new.update(texts[place] for place in draw.permutation(len(texts))[: round(share * len(texts))])
    sides: tuple[list[Any], list[Any]] = ([], [])
    for ranking in rankings:
        fresh = [place for place, text in enumerate(ranking["responses"]) if text in new]
        known = np.setdiff1d(np.arange(len(ranking["responses"])), fresh)
        parts = _parts(ranking, draw.permutation(known), size)
        held = 0 if new else round(share * len(parts))
        sides[0].extend(parts[held:])
        sides[1].extend(_parts(ranking, draw.permutation(fresh), size) if new else parts[:held])
    groups = {row["annotator"]: row["group"] for row in sides[0] if row["group"] is not None}
    return Split(Judgments.from_rows(sides[0]), Judgments.from_rows(sides[1]), groups)


def _parts(ranking: dict[str, Any], places: np.ndarray, size: int) -> list[dict[str, Any]]:
    """Rankings of `size` of some statements or a few more; none of ties alone."""
    parts = []
    for some in np.array_split(places.astype(np.int64), max(1, len(places) // size)):
        ranks = [ranking["ranks"][place] for place in some]
        if len(set(ranks)) > 1:
            order, texts = sorted(ranks), [ranking["responses"][place] for place in some]
            parts.append(ranking | {"responses": texts, "ranks": [order.index(rank) + 1 for rank in ranks]})
    return parts


def polis(options: argparse.Namespace) -> None:
    stored_as = f"em_real_polis{options.suffix}"
    settings = POLIS_SETTINGS | SHAPE | {
        "size": options.size, "share": 0.2, "most_people": options.annotators, "base_epochs": options.polis_epochs,
        "features": "worths",
    }  # fmt: skip
    rows = kept(stored_as, settings)
    every = Judgments.from_rows([row for name in POLIS_CONVERSATIONS for row in statements(name)])
    model = language_model(f"polis{options.suffix}", every, options.polis_epochs)
    given = POLIS_SETTINGS | {"features": "worths"}
    for seed in options.seeds:
        for place in options.conversations:
            data = conversation(place, options.size, 0.2, options.annotators, seed)
            compared(stored_as, settings, rows, place, seed, model, data, METHODS, given)

"""The conversations of `em_real`: one policy, the default, and opinion groups given, on held-out rankings by group."""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import adjusted_rand_score

from pluralign.evaluation.annotators.types import type_accuracy
from pluralign.evaluation.pairs import pairs_of
from pluralign.judgments import Judgments
from pluralign.scoring.items import Items, items_of
from pluralign.scoring.measured import believed, shown_rewards
from pluralign.scoring.mixtures import Mixture, ranking_log_likelihoods
from pluralign.training.em_dpo.trainer import EMDPOTrainer

from ..common.data import POLIS_CONVERSATIONS, load, numbered
from ..common.results import Clock, keep, kept
from .runs import SETTINGS, SHAPE, em_dpo, language_model

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


@dataclass(frozen=True)
class Conversation:
    """The small rankings of a conversation, the held-out ones, and the annotators' opinion groups."""

    train: Judgments
    test: Judgments
    groups: dict[str, str]


def statements(name: str) -> list[dict[str, Any]]:
    """For each annotator a ranking of all statements that they voted on."""
    return [
        {key: row[key] for key in ("responses", "ranks", "annotator", "source", "group")}
        | {"prompt": row["prompt"][:TOPIC] + "\n"}
        for row in load(f"people-{name}")[0].rows()
    ]


def conversation(
    name: str, size: int, share: float, most: int | None, seed: int, held_out: str = "rankings"
) -> Conversation:
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
    return Conversation(Judgments.from_rows(sides[0]), Judgments.from_rows(sides[1]), groups)


def _parts(ranking: dict[str, Any], places: np.ndarray, size: int) -> list[dict[str, Any]]:
    """Rankings of `size` of some statements or a few more; none of ties alone."""
    parts = []
    for some in np.array_split(places.astype(np.int64), max(1, len(places) // size)):
        ranks = [ranking["ranks"][place] for place in some]
        if len(set(ranks)) > 1:
            order, texts = sorted(ranks), [ranking["responses"][place] for place in some]
            parts.append(ranking | {"responses": texts, "ranks": [order.index(rank) + 1 for rank in ranks]})
    return parts


def prediction(trainer: EMDPOTrainer, test: Judgments) -> dict[str, dict[str, list[float]]]:
    """`predicted` by a trained run."""
    return predicted(test, *trainer.score(test), trainer.mixture, trainer.posteriors)


def predicted(
    test: Judgments, items: Items, utilities: np.ndarray, mixture: Mixture, posteriors: Mapping[str, np.ndarray]
) -> dict[str, dict[str, list[float]]]:
    """Per annotator with held-out rankings `pairs`, how many of them are `ordered` right by the policy of their most
    probable type (ties of the policy half), `rankings`, and the sum of their `log_loss` in nats with the policies
    weighted by the annotator's posterior."""
    column = test.column("annotator")
    names = [column[row] for row in items.row]
    beliefs = believed(names, posteriors, mixture)
    number, unique = numbered(names)
    pairs = pairs_of(shown_rewards(items, utilities, beliefs.type), items.ranks, items.offsets, number, items.weight)
    with np.errstate(divide="ignore"):
        log_posterior = np.log(beliefs.gamma)
    losses = -np.logaddexp.reduce(log_posterior + ranking_log_likelihoods(utilities, items, mixture), axis=1)
    right = (pairs.margin > 0) + (pairs.margin == 0) / 2
    sums = {
        "pairs": np.bincount(pairs.prompt, minlength=len(unique)),
        "ordered": np.bincount(pairs.prompt, right, minlength=len(unique)),
        "rankings": np.bincount(number), "log_loss": np.bincount(number, losses).round(5),
    }  # fmt: skip
    return {name: {key: float(values[at]) for key, values in sums.items()} for at, name in enumerate(unique)}


def against_groups(posteriors: Mapping[str, np.ndarray], groups: Mapping[str, str]) -> dict[str, Any]:
    """Annotators' types against their opinion groups, for those who have one."""
    names = [name for name in posteriors if name in groups]
    assigned = np.array([int(posteriors[name].argmax()) for name in names])
    known = [groups[name] for name in names]
    types = len(next(iter(posteriors.values())))
    return {
        "rand": float(adjusted_rand_score(known, assigned)),
        "right": type_accuracy(assigned, known, types, replicates=0)["type_accuracy"],
    }


def polis(options: argparse.Namespace) -> None:
    stored_as = f"em_real_polis{options.suffix}"
    settings = POLIS_SETTINGS | SHAPE | {
        "size": options.size, "share": 0.2, "most_people": options.annotators, "base_epochs": options.polis_epochs,
        "features": "worths",
    }  # fmt: skip
    rows = kept(stored_as, settings)
    every = Judgments.from_rows([row for name in POLIS_CONVERSATIONS for row in statements(name)])
    model = language_model(f"polis{options.suffix}", every, options.polis_epochs)
    for seed in options.seeds:
        for place in options.conversations:
            data = conversation(place, options.size, 0.2, options.annotators, seed)
            for method, changed in METHODS.items():
                key = f"{place}, {seed}, {method}"
                if key in rows:
                    continue
                clock = Clock()
                with tempfile.TemporaryDirectory() as folder:
                    given = POLIS_SETTINGS | {"features": "worths"} | changed
                    trainer = em_dpo(model, data.train, folder, given.pop("types"), seed, **given)
                seconds = clock()
                rows[key] = {
                    "conversation": place, "seed": seed, "method": method, "types": len(trainer.adapters),
                    "verdict": trainer.verdict.verdict, "shares": trainer.mixture_weights.tolist(), "seconds": seconds,
                    "people": len(set(data.train.column("annotator"))), "train_rankings": len(data.train),
                    "test_rankings": len(data.test), "statements": len(items_of(data.train).responses),
                    "group_sizes": dict(sorted(Counter(data.groups.values()).items())), "groups": data.groups,
                    "recovered": against_groups(trainer.posteriors, data.groups),
                    "predicted": prediction(trainer, data.test),
                }  # fmt: skip
                own = rows[key]["predicted"].values()
                accuracy, loss = (
                    sum(one[top] for one in own) / sum(one[bottom] for one in own)
                    for top, bottom in (("ordered", "pairs"), ("log_loss", "rankings"))
                )
                print(
                    f"{key}: types {rows[key]['types']}, accuracy {accuracy:.3f}, {loss:.3f} nats, {seconds} s",
                    flush=True,
                )
                keep(stored_as, settings, rows)

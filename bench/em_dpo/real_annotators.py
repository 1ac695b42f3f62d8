"""EM-DPO on real annotators: a crowd that judges arguments, and conversations whose participants vote on statements.

`convarg`: annotators with 20 or more strict votes. A quarter of the pairs of arguments is held out for everyone, so no
annotator judges a held-out pair in training (its arguments occur in other pairs). Reported is the log-loss of held-out
votes with 1, 2, 3 and 4 types, for EM-DPO and for the latent-class model that it starts from.

`polis`: five conversations; a response is a statement, the prompt is the beginning of the topic. An annotator's
statements are ranked agree over pass over disagree. The ranking is cut at random into small ones that share no
statement; small rankings of ties alone are left out, and a fifth of each annotator's is held out. Reported is how well
held-out rankings are predicted, for everybody and for every opinion group, by one policy, by the default, and by one
policy for each opinion group given (an annotator outside all groups trains all of them).

Both start from a causal model of a million parameters, trained from scratch on the texts. Every run is stored as soon
as it is done, and a stopped script continues where it was.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import transformers

from pluralign.judgments import Judgments
from pluralign.scoring.annotator_types import findings
from pluralign.scoring.items import Items, items_of
from pluralign.scoring.measured import believed
from pluralign.scoring.mixtures import Mixture, ranking_log_likelihoods

from ..common.data import POLIS_CONVERSATIONS, load, numbered, prolific_annotators, with_line_break
from ..common.options import QUICK, Option, parsed, parts
from ..common.results import Clock, keep, kept
from .polis import POLIS_SETTINGS, polis
from .runs import SETTINGS, SHAPE, em_dpo, language_model

LEAST = 20
"""Strict votes that an annotator needs."""


def prolific_votes(topics: int | None, seed: int) -> Judgments:
    """Strict votes of annotators with many of them, on all topics or on a seeded sample."""
    judgments, _ = load("convarg")
    names = sorted(set(judgments.column("prompt")))
    chosen = set(np.random.default_rng(seed).permutation(names)[:topics].tolist())
    strict = [row for row in judgments.rows() if row["prompt"] in chosen and len(set(row["ranks"])) == 2]
    return prolific_annotators(with_line_break(strict), LEAST)


def without_pairs(judgments: Judgments, share: float, seed: int) -> tuple[Judgments, Judgments]:
    """Training and held-out votes: all votes on a pair of arguments are on one side."""
    pairs = [(row["prompt"], *sorted(row["responses"])) for row in judgments.rows()]
    unique = sorted(set(pairs))
    held = np.random.default_rng(seed).permutation(len(unique))[: round(share * len(unique))]
    chosen = {unique[index] for index in held}
    sides = np.array([pair in chosen for pair in pairs])
    return judgments.select(np.flatnonzero(~sides).tolist()), judgments.select(np.flatnonzero(sides).tolist())


def annotator_losses(
    judgments: Judgments, items: Items, utilities: np.ndarray, mixture: Mixture, posteriors: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Mean log-loss in nats of each annotator's held-out votes, in the order of their names.

    `own` is under the annotator's most probable type, `mixture` under all types weighted by the posterior; posteriors
    come from training votes alone.
    """
    column = judgments.column("annotator")
    names = [column[row] for row in items.row]
    beliefs = believed(names, posteriors, mixture)
    likelihoods = ranking_log_likelihoods(utilities, items, mixture)
    with np.errstate(divide="ignore"):
        both = np.logaddexp.reduce(np.log(beliefs.gamma) + likelihoods, axis=1)
    own = likelihoods[np.arange(len(likelihoods)), beliefs.type]
    number, unique = numbered(names)
    counts = np.bincount(number)
    return {
        kind: dict(zip(unique, (-np.bincount(number, values) / counts).round(6).tolist(), strict=True))
        for kind, values in (("own", own), ("mixture", both))
    }


def latent_class(train_part: Judgments, test: Judgments, types: int, seed: int) -> dict[str, Any]:
    """Latent-class Plackett-Luce on the training votes; the utility of an argument that is not in them is 0."""
    clock = Clock()
    found = findings(train_part, types=types, simulations=0, seed=seed)
    people, model = found.people, found.model
    features = people.panel.features
    utility = model.coefficients_ if features is None else model.coefficients_ @ np.asarray(features).T
    seen, items = people.items, items_of(test)
    place = {text: number for number, text in enumerate(_texts(seen))}
    utilities = np.zeros((types, len(items.responses)))
    for number, text in enumerate(_texts(items)):
        if text in place:
            utilities[:, number] = utility[:, place[text]]
    weights = model.mixture_weights_ / model.mixture_weights_.sum()
    mixture = Mixture({f"type-{kind + 1}": float(share) for kind, share in enumerate(weights)}, beta=1.0)
    posteriors = {str(name): gamma for name, gamma in zip(people.names, model.responsibilities_, strict=True)}
    losses = annotator_losses(test, items, utilities, mixture, posteriors)
    summary = {"shares": weights.tolist(), "verdict": found.verdict.verdict, "features": found.features}
    return summary | {"seconds": clock()} | losses


def _texts(items: Items) -> list[tuple[str, str]]:
    return [(items.prompts[at], text) for at, text in zip(items.item, items.responses, strict=True)]


def tuned(model: Path, train_part: Judgments, test: Judgments, types: int, seed: int, **changed: Any) -> dict[str, Any]:
    """EM-DPO on the training votes."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = em_dpo(model, train_part, folder, types, seed, **changed)
        seconds = clock()
        items, utilities = trainer.score(test)
    losses = annotator_losses(test, items, utilities, trainer.mixture, trainer.posteriors)
    shares = trainer.mixture_weights.tolist()
    return {"shares": shares, "verdict": trainer.verdict.verdict, "seconds": seconds, **losses}


def convarg(options: argparse.Namespace) -> None:
    name = f"em_real_convarg{options.suffix}"
    votes = prolific_votes(options.topics, options.seed)
    train_part, test = without_pairs(votes, 0.25, options.seed)
    counts = {"topics": len(set(votes.column("prompt"))), "annotators": len(set(votes.column("annotator")))}
    counts |= {"votes": len(train_part), "held_out": len(test), "arguments": len(items_of(train_part).responses)}
    settings = SETTINGS | SHAPE | counts | {"least": LEAST, "seed": options.seed, "base_epochs": options.epochs}
    rows = kept(name, settings)
    model = language_model(f"convarg-{counts['topics']}{options.suffix}", train_part, options.epochs)
    for types in options.types:
        for method in ("latent class", "EM-DPO"):
            key = f"{method}, {types}"
            if key in rows:
                continue
            if method == "EM-DPO":
                row = tuned(model, train_part, test, types, options.seed)
            else:
                row = latent_class(train_part, test, types, options.seed)
            rows[key] = {"method": method, "types": types} | row
            means = {kind: round(float(np.mean(list(row[kind].values()))), 4) for kind in ("own", "mixture")}
            print(f"{key}: {means}, shares {np.round(row['shares'], 2)}, {row['seconds']} s", flush=True)
            keep(name, settings, rows)


PARTS = {"convarg": convarg, "polis": polis}


def main() -> None:
    options = parsed(
        __doc__,
        only=parts(PARTS),
        topics=Option(None, "Topics of ConvArg, a seeded sample; all by default.", type=int),
        types=([1, 2, 3, 4], "Numbers of types on ConvArg."),
        passes=(1, "Epochs over the votes of ConvArg in an M-step."),
        epochs=(8.0, "Epochs of the language model of arguments."),
        conversations=parts(POLIS_CONVERSATIONS, "Polis conversations."),
        annotators=Option(None, "Annotators of a conversation, a seeded sample; all by default.", type=int),
        size=(5, "Statements in a small ranking, or a few more."),
        polis_epochs=(10.0, "Epochs of the language model of statements."),
        seed=(0, "Of ConvArg."),
        seeds=([0, 1, 2], "Of Polis: splits and training."),
        quick=QUICK,
    )
    options.suffix = "_quick" if options.quick else ""
    SETTINGS["num_train_epochs"] = options.passes
    if options.quick:
        options.topics, options.types, options.epochs = 3, [1, 2], 1
        options.annotators, options.polis_epochs, options.seeds = 120, 1, [0]
        options.conversations = ["brexit-consensus"]
        POLIS_SETTINGS["max_steps"] = 40
    transformers.logging.set_verbosity_error()
    for part in options.only:
        PARTS[part](options)

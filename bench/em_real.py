"""EM-DPO on real people: a crowd that judges arguments, and conversations in which people vote on statements.

`convarg`: annotators of 20 or more strict votes; a quarter of the pairs of arguments is held out, for everyone, so
that no held-out pair is judged in training by anybody (its arguments are, in other pairs). How surprising is a
held-out vote, for 1, 2, 3 and 4 types? Beside EM-DPO the latent-class model that it starts from. `tune` tries
learning rates for one type on a fifth of the training pairs; `convarg` takes the best of them.

`polis`: five conversations; a response is a statement, the prompt the beginning of the topic. A person's statements
are ranked agree over pass over disagree; the ranking is cut at random into small ones that share no statement, of
which those that only tie are left out, and a fifth of everybody's is held out. Types against opinion groups; whom
the types' policies and the one policy predict; and what each group gives up under each policy: the mean over its
members of the types' regrets, weighed by the member's posterior. There is one prompt: errors are over answers.

Both start from a causal model of a million parameters, trained from scratch on the texts. Every run is kept as soon
as it is done, and a stopped script goes on where it was.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from common import POLIS_CONVERSATIONS, Clock, load
from crowd import broken
from em_polis import POLIS_SETTINGS, polis
from people_models import SETTINGS, SHAPE, em_dpo, language_model, numbered
from real_types import of_busy_annotators
from town_language_model import keep, kept

from pluralign.judgments import Judgments
from pluralign.scoring.annotator_types import findings
from pluralign.scoring.items import Items, items_of
from pluralign.scoring.measured import believed
from pluralign.scoring.mixtures import Mixture, ranking_log_likelihoods

LEAST = 20
"""Strict votes of an annotator who counts."""

# Arguments judged by a crowd.


def busy_votes(topics: int | None, seed: int) -> Judgments:
    """Strict votes of annotators with many of them, on all topics or a seeded draw."""
    judgments, _ = load("convarg")
    names = sorted(set(judgments.column("prompt")))
    chosen = set(np.random.default_rng(seed).permutation(names)[:topics].tolist())
    strict = [row for row in judgments.rows() if row["prompt"] in chosen and len(set(row["ranks"])) == 2]
    return of_busy_annotators(broken(strict), LEAST)


def without_pairs(judgments: Judgments, share: float, seed: int) -> tuple[Judgments, Judgments]:
    """Training and held-out votes: a pair of arguments is on one side with all its votes."""
    pairs = [(row["prompt"], *sorted(row["responses"])) for row in judgments.rows()]
    unique = sorted(set(pairs))
    held = np.random.default_rng(seed).permutation(len(unique))[: round(share * len(unique))]
    chosen = {unique[index] for index in held}
    sides = np.array([pair in chosen for pair in pairs])
    return judgments.select(np.flatnonzero(~sides).tolist()), judgments.select(np.flatnonzero(sides).tolist())


def annotator_losses(
    judgments: Judgments, items: Items, utilities: np.ndarray, mixture: Mixture, people: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Mean log-loss of each annotator's held-out votes, in nats, in the order of their names.

    `own` is under his most probable type, `mixture` under types weighed by his posterior; both posteriors are of
    training votes alone.
    """
    column = judgments.column("annotator")
    names = [column[row] for row in items.row]
    beliefs = believed(names, people, mixture)
    told = ranking_log_likelihoods(utilities, items, mixture)
    with np.errstate(divide="ignore"):
        both = np.logaddexp.reduce(np.log(beliefs.gamma) + told, axis=1)
    own = told[np.arange(len(told)), beliefs.type]
    number, unique = numbered(names)
    made = np.bincount(number)
    return {
        kind: dict(zip(unique, (-np.bincount(number, values) / made).round(6).tolist(), strict=True))
        for kind, values in (("own", own), ("mixture", both))
    }


def latent_class(train_part: Judgments, test: Judgments, types: int, seed: int) -> dict[str, Any]:
    """The start alone: latent-class Plackett-Luce on the training votes; an argument not seen there is worth 0."""
    clock = Clock()
    found = findings(train_part, types=types, simulations=0, seed=seed)
    people, model = found.people, found.model
    features = people.panel.features
    worth = model.coefficients_ if features is None else model.coefficients_ @ np.asarray(features).T
    seen, items = people.items, items_of(test)
    place = {text: number for number, text in enumerate(_texts(seen))}
    utilities = np.zeros((types, len(items.responses)))
    for number, text in enumerate(_texts(items)):
        if text in place:
            utilities[:, number] = worth[:, place[text]]
    weights = model.mixture_weights_ / model.mixture_weights_.sum()
    mixture = Mixture({f"type-{kind + 1}": float(share) for kind, share in enumerate(weights)}, beta=1.0)
    posteriors = {str(name): gamma for name, gamma in zip(people.names, model.responsibilities_, strict=True)}
    losses = annotator_losses(test, items, utilities, mixture, posteriors)
    return {
        "shares": weights.tolist(), "verdict": found.verdict.verdict, "features": found.features,
        "seconds": clock(), **losses,
    }  # fmt: skip


def _texts(items: Items) -> list[tuple[str, str]]:
    return [(items.prompts[at], text) for at, text in zip(items.item, items.responses, strict=True)]


def tuned(model: Path, train_part: Judgments, test: Judgments, types: int, seed: int, **changed: Any) -> dict[str, Any]:
    """EM-DPO."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = em_dpo(model, train_part, folder, types, seed, **changed)
        seconds = clock()
        items, utilities = trainer.score(test)
    losses = annotator_losses(test, items, utilities, trainer.mixture, trainer.posteriors)
    return {
        "shares": trainer.mixture_weights.tolist(),
        "verdict": trainer.verdict.verdict,
        "seconds": seconds,
        **losses,
    }


def convarg(options: argparse.Namespace) -> None:
    name = f"em_real_convarg{options.suffix}"
    votes = busy_votes(options.topics, options.seed)
    train_part, test = without_pairs(votes, 0.25, options.seed)
    counts = {"topics": len(set(votes.column("prompt"))), "annotators": len(set(votes.column("annotator")))}
    counts |= {"votes": len(train_part), "held_out": len(test), "arguments": len(items_of(train_part).responses)}
    tried = kept(f"em_real_tuning{options.suffix}", tuning_settings(train_part, options)).values()
    best = min(tried, key=lambda row: row["log_loss"], default=SETTINGS)
    settings = SETTINGS | SHAPE | counts | {"least": LEAST, "seed": options.seed, "base_epochs": options.epochs}
    settings |= {"learning_rate": best["learning_rate"], "tuned": bool(tried)}
    rows = kept(name, settings)
    model = language_model(f"convarg-{counts['topics']}{options.suffix}", train_part, options.epochs)
    for types in options.types:
        for method in ("latent class", "EM-DPO"):
            key = f"{method}, {types}"
            if key in rows:
                continue
            if method == "EM-DPO":
                found = tuned(model, train_part, test, types, options.seed, learning_rate=best["learning_rate"])
            else:
                found = latent_class(train_part, test, types, options.seed)
            rows[key] = {"method": method, "types": types} | found
            means = {kind: round(float(np.mean(list(found[kind].values()))), 4) for kind in ("own", "mixture")}
            print(f"{key}: {means}, shares {np.round(found['shares'], 2)}, {found['seconds']} s", flush=True)
            keep(name, settings, rows)


def tune(options: argparse.Namespace) -> None:
    """One type at several learning rates, on training votes alone."""
    name = f"em_real_tuning{options.suffix}"
    train_part, _ = without_pairs(busy_votes(options.topics, options.seed), 0.25, options.seed)
    topics = len(set(train_part.column("prompt")))
    model = language_model(f"convarg-{topics}{options.suffix}", train_part, options.epochs)
    inner, check = without_pairs(train_part, 0.2, options.seed + 1)
    settings = tuning_settings(train_part, options)
    rows = kept(name, settings)
    for rate in options.rates:
        if str(rate) not in rows:
            found = tuned(model, inner, check, 1, options.seed, learning_rate=rate)
            loss = float(np.mean(list(found["own"].values())))
            rows[str(rate)] = {"learning_rate": rate, "log_loss": loss, "seconds": found["seconds"]}
            print(rows[str(rate)], flush=True)
            keep(name, settings, rows)


def tuning_settings(train_part: Judgments, options: argparse.Namespace) -> dict[str, Any]:
    own = {key: value for key, value in SETTINGS.items() if key != "learning_rate"}
    return own | SHAPE | {"votes": len(train_part), "seed": options.seed, "base_epochs": options.epochs}


PARTS = {"tune": tune, "convarg": convarg, "polis": polis}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--topics", type=int, help="of ConvArg, a seeded draw; all by default")
    parser.add_argument("--types", type=int, nargs="+", default=[1, 2, 3, 4], help="of ConvArg")
    parser.add_argument("--passes", type=int, default=1, help="over the votes of ConvArg in an M-step")
    parser.add_argument("--epochs", type=float, default=8, help="of the language model of arguments")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 2e-3, 4e-3, 8e-3], help="of tune")
    parser.add_argument("--conversations", nargs="+", default=list(POLIS_CONVERSATIONS), choices=POLIS_CONVERSATIONS)
    parser.add_argument("--people", type=int, help="of a conversation, a seeded draw; all by default")
    parser.add_argument("--size", type=int, default=5, help="statements of a small ranking, or a few more")
    parser.add_argument("--samples", type=int, default=128, help="answers of each policy to a conversation's topic")
    parser.add_argument("--longest", type=int, default=96, help="tokens of such an answer")
    parser.add_argument("--polis-epochs", type=float, default=10, help="of the language model of statements")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="try it out; the tables stay as they are")
    options = parser.parse_args()
    options.suffix = "_quick" if options.quick else ""
    SETTINGS["num_train_epochs"] = options.passes
    if options.quick:
        options.topics, options.types, options.epochs, options.rates = 3, [1, 2], 1, [2e-3, 8e-3]
        options.people, options.samples, options.polis_epochs = 120, 16, 1
        options.conversations = ["brexit-consensus"]
        POLIS_SETTINGS["max_steps"] = 40
    transformers.logging.set_verbosity_error()
    for part in options.only:
        PARTS[part](options)


if __name__ == "__main__":
    main()

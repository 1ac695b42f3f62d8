"""EM-DPO on a simulated town: are its types found, and what do a person's further judgments buy?

`recovery` follows the types through the rounds, and asks for the verdict on towns where everyone judged one pair.
`curve` gives everyone 1, 2, 4 ... of the same rankings, whole or without their third response, and judges each
method by eight further rankings of everyone. All methods have the same base, adapters and settings, but for what
their name says. `paper` keeps its start, rounds, routing, scoring on the training votes and optimiser, with our
beta and epochs; its learning rate of 5e-7 does not move adapters of this size, and at ours (`paper, our rate`, run
only when asked for) its RMSprop, whose first steps are ten times the rate, diverges: it has a quarter of ours.

Every run is kept as soon as it is done, and each method, number of responses and seed in a file of its own: several
processes may share the work by `--methods`, `--responses` and `--seeds`, and a stopped one goes on where it was.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
import transformers
from common import OUT, Clock
from town_language_model import QUIET, SETTINGS, keep, kept, lora, town_language_model

from pluralign.choice.em_dpo import matched_types
from pluralign.evaluation.annotators.types import type_accuracy
from pluralign.judgments import Judgments
from pluralign.judgments.population import Simulation, Town, simulate
from pluralign.policies.routing import posterior
from pluralign.scoring.items import Items, items_of
from pluralign.scoring.measured import typed_metrics
from pluralign.scoring.mixtures import Mixture, ranking_log_likelihoods
from pluralign.scoring.panels import annotators_of
from pluralign.training.em_dpo.config import EMDPOConfig
from pluralign.training.em_dpo.trainer import EMDPOTrainer
from pluralign.training.em_dpo.type_starts import TypeStart, type_start

ANNOTATORS = 60
HELD_OUT = 8
"""Rankings of three of each person on which policies are judged."""

MOST = 24
"""Judgments of a person that there are to train on."""

KNOWN, START = "true utilities", "latent class"
METHODS: dict[str, dict[str, Any]] = {
    KNOWN: {},
    START: {},
    "EM-DPO": {},
    "EM-DPO, three epochs": {"num_train_epochs": 3},
    "EM-DPO, dirichlet start": {"start": "dirichlet"},
    "paper": {"preset": "paper", "learning_rate": SETTINGS["learning_rate"] / 4},
    "paper, our rate": {"preset": "paper"},
    "cluster-dpo": {"preset": "cluster-dpo"},
    "DPO": {"types": 1},
}
"""What each changes in the settings; the first two tune nothing, and the very first is the best possible."""

USUAL = [method for method in METHODS if method != "paper, our rate"]


# Recovery, round by round.


def recovery(options: argparse.Namespace) -> None:
    rows = kept(options.names["recovery"], SETTINGS)
    for seed in options.recovery_seeds:
        if str(seed) in rows:
            continue
        town = simulate(Town(annotators=options.annotators, judgments_per_annotator=options.each, seed=seed))
        pairs = Town(annotators=options.annotators, judgments_per_annotator=1, responses=2, seed=seed)
        rows[str(seed)] = recovered(town, seed) | {
            "verdict_pairs": started(simulate(pairs).judgments, seed).verdict.verdict
        }
        print(f"seed {seed}: {rows[str(seed)]}", flush=True)
        keep(options.names["recovery"], SETTINGS, rows)


def recovered(town: Simulation, seed: int) -> dict[str, Any]:
    """Accuracy and masses of the start and of each round, and seconds."""
    clock = Clock()
    trainer = em_dpo(town.judgments, seed, {})
    start = clock()
    trainer.train()
    names, rounds = trainer.annotators, trainer.rounds
    masses = [matched_masses(names, one.gamma, town) for one in rounds]
    true = np.bincount([town.type_index[name] for name in names]) / len(names)
    return {
        "verdict": trainer.verdict.verdict,
        "accuracy": [matched_accuracy(names, one.gamma, town.types) for one in rounds],
        "masses": [found.tolist() for found in masses],
        "true_masses": true.tolist(),
        "smallest_mass": [float((found / true).min()) for found in masses],
        "log_likelihood": [one.record["log_likelihood_per_judgment"] for one in rounds[1:]],
        "scored_values": [one.record["scored_values"] for one in rounds[1:]],
        "e_step_seconds": [one.record["e_step_seconds"] for one in rounds[1:]],
        "start_seconds": start,
        "seconds": clock(),
    }


def em_dpo(judgments: Judgments, seed: int, changed: dict[str, Any]) -> EMDPOTrainer:
    args = EMDPOConfig(output_dir=tempfile.mkdtemp(), seed=seed, **(SETTINGS | QUIET | changed))
    return EMDPOTrainer(str(town_language_model()), args, judgments, peft_config=lora())


def started(judgments: Judgments, seed: int) -> TypeStart:
    """The latent-class model that EM-DPO starts from, alone."""
    return type_start(judgments, EMDPOConfig(output_dir=tempfile.mkdtemp(), seed=seed, **SETTINGS), seed)


def matched_accuracy(names: list[Any], gamma: np.ndarray, known: Mapping[str, str]) -> float:
    """Share of annotators in the right type, under the best matching of found and true types."""
    found = type_accuracy(gamma.argmax(1), [known[name] for name in names], gamma.shape[1], replicates=0)
    return found["type_accuracy"]


def matched_masses(names: list[Any], gamma: np.ndarray, town: Simulation) -> np.ndarray:
    """Found masses in the order of the true types, 0 for those without a partner."""
    types = len(town.town.types)
    known = torch.eye(types)[[town.type_index[name] for name in names]]
    order = matched_types(torch.eye(gamma.shape[1])[gamma.argmax(1)], known).numpy()
    found = np.zeros(types)
    found[order[order >= 0]] = gamma.mean(0)[order >= 0]
    return found


# What further judgments buy.


def curve(options: argparse.Namespace) -> None:
    name, settings = options.names["curve"], curve_settings(options.annotators)
    cells = itertools.product(options.seeds, options.responses, options.judgments, options.methods)
    for seed, responses, judgments, method in cells:
        part, changed = f"{name}/{named(method)}-{responses}-{seed}", settings | METHODS[method]
        rows = kept(part, changed)
        if str(judgments) in rows:
            continue
        place = {"method": method, "responses": responses, "judgments": judgments, "seed": seed}
        rows[str(judgments)] = place | measured(method, responses, judgments, seed, options.annotators)
        print(rows[str(judgments)], flush=True)
        keep(part, changed, rows)
        merge(name, settings)
    merge(name, settings)


def curve_settings(annotators: int) -> dict[str, Any]:
    return {**SETTINGS, "annotators": annotators, "held_out": HELD_OUT, "most": MOST}


def named(method: str) -> str:
    return method.replace(", ", "-").replace(" ", "-")


def merge(name: str, settings: dict[str, Any]) -> None:
    """What all processes have kept so far, in one file for the table."""
    rows = []
    for method, changed in METHODS.items():
        for file in sorted((OUT / name).glob(f"{named(method)}-[23]-*.json")):
            rows += list(kept(f"{name}/{file.stem}", settings | changed).values())
    keep(name, settings, rows)


@cache
def people(seed: int, annotators: int) -> tuple[Simulation, Judgments]:
    """A town, and the rankings of it that are held out: the last of everyone."""
    town = simulate(Town(annotators=annotators, judgments_per_annotator=MOST + HELD_OUT, seed=seed))
    turn = np.arange(len(town.judgments)) % (MOST + HELD_OUT)
    return town, town.judgments.select(np.flatnonzero(turn >= MOST).tolist())


def training(town: Simulation, judgments: int, responses: int) -> Judgments:
    """The first judgments of everyone, on the first responses of each.

    Responses stand in random order, and a Plackett-Luce ranking of three orders any two of them as a judgment on
    those two alone would: pairs are what the same people would have said, had they not been shown the third.
    """
    rows = []
    for number, row in enumerate(town.judgments.rows()):
        if number % (MOST + HELD_OUT) < judgments:
            ranks = row["ranks"][:responses]
            order = sorted(ranks)
            rows.append(
                {key: row[key] for key in ("prompt", "annotator", "source", "group")}
                | {"responses": row["responses"][:responses], "ranks": [order.index(rank) + 1 for rank in ranks]}
            )
    return Judgments.from_rows(rows)


def measured(method: str, responses: int, judgments: int, seed: int, annotators: int) -> dict[str, Any]:
    """One run, judged by held-out rankings."""
    town, test = people(seed, annotators)
    train = training(town, judgments, responses)
    clock = Clock()
    if method == START:
        start = started(train, seed)
        gamma = np.stack(list(start.gamma.values()))
        found = matched_accuracy(list(start.gamma), gamma, town.types)
        return {"type_accuracy": found, "verdict": start.verdict.verdict, "seconds": clock()}
    items = items_of(test)
    if method == KNOWN:
        return held_out_metrics(test, items, true_utilities(town, items), *truth(town, train))
    trainer = em_dpo(train, seed, METHODS[method])
    trainer.train()
    seconds = clock()
    items, utilities = trainer.score(test)
    found = held_out_metrics(test, items, utilities, trainer.mixture, trainer.posteriors)
    found |= {"verdict": trainer.verdict.verdict, "seconds": seconds, "masses": trainer.mixture_weights.tolist()}
    if METHODS[method].get("types") == 1:
        del found["type_accuracy"]
    return found


def held_out_metrics(
    test: Judgments, items: Items, utilities: np.ndarray, mixture: Mixture, people: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Accuracy over pairs and log-loss of rankings: of the person's own policy, and of policies by posterior."""
    metrics, kinds = typed_metrics(test, items, utilities, mixture, people)
    told = ranking_log_likelihoods(utilities, items, mixture)[np.arange(items.judgments), kinds]
    names = ("type_accuracy", "accuracy", "mixture_log_loss")
    return {name: metrics[name] for name in names} | {"own_log_loss": float(-told.mean())}


def true_utilities(town: Simulation, items: Items) -> np.ndarray:
    """What each response is worth to each type, `(types, responses)`."""
    return np.stack([town.utilities(text) for text in items.responses], 1)


def truth(town: Simulation, train: Judgments) -> tuple[Mixture, dict[str, np.ndarray]]:
    """True shares, and posteriors of annotators under true utilities: nobody can do better on average."""
    shares = {kind.name: kind.share for kind in town.town.types}
    mixture, items = Mixture(shares, beta=1.0), items_of(train)
    numbers, names = annotators_of(train, items.row)
    told = ranking_log_likelihoods(true_utilities(town, items), items, mixture)
    gamma, _ = posterior(told, numbers, len(names), list(shares.values()))
    return mixture, {str(name): own for name, own in zip(names, gamma, strict=True)}


PARTS = {"recovery": recovery, "curve": curve}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--annotators", type=int, default=ANNOTATORS)
    parser.add_argument("--recovery-seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--each", type=int, default=12, help="judgments of a person in recovery")
    parser.add_argument("--methods", nargs="+", default=USUAL, choices=METHODS, help="of the curve")
    parser.add_argument("--responses", type=int, nargs="+", default=[2, 3], choices=[2, 3], help="of the curve")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the curve")
    parser.add_argument("--judgments", type=int, nargs="+", default=[1, 2, 4, 8, 12, 24], help="of a person, curve")
    parser.add_argument("--quick", action="store_true", help="try it out; the tables stay as they are")
    options = parser.parse_args()
    if max(options.judgments) > MOST:
        parser.error(f"--judgments: at most {MOST}")
    if options.quick:
        options.recovery_seeds, options.seeds, options.judgments, options.each = [0], [0], [2], 4
    options.names = {part: f"em_town_{part}{'_quick' * options.quick}" for part in PARTS}
    transformers.logging.set_verbosity_error()
    for part in options.only:
        PARTS[part](options)


if __name__ == "__main__":
    main()

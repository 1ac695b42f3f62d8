"""EM-DPO on a simulated town: does it recover the annotator types, and what do further judgments per annotator buy?

`recovery` follows the types through the rounds, and asks for the identification on towns with one pair per annotator.
`curve` gives every annotator 1, 2, 4 ... of the same rankings, whole or without their third response, and evaluates
each method on eight further rankings of every annotator. All methods have the same base model, adapters and settings,
except for what their name says. `paper` keeps its start, rounds, routing, scoring on the training votes and optimiser,
with our beta and epochs. Its learning rate of 5e-7 does not move adapters of this size. At our rate (`paper, our rate`,
run only on request) its RMSprop, whose first steps are ten times the rate, diverges; so `paper` has a quarter of ours.

Every run is stored as soon as it is done, and each method, number of responses and seed in a file of its own: several
processes may share the work by `--methods`, `--responses` and `--seeds`, and a stopped one continues where it was.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
import transformers

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

from ..common.options import QUICK, Option, parsed, parts
from ..common.results import OUT, Clock, keep, kept
from ..common.training import EM_DPO, SILENT, lora, temporary, town_language_model

HELD_OUT = 8
"""Rankings of three per annotator on which policies are evaluated."""

MOST = 24
"""Training judgments per annotator, at most."""

KNOWN, START = "true utilities", "latent class"
METHODS: dict[str, dict[str, Any]] = {
    KNOWN: {},
    START: {},
    "EM-DPO": {},
    "EM-DPO, three epochs": {"num_train_epochs": 3},
    "EM-DPO, dirichlet start": {"start": "dirichlet"},
    "paper": {"preset": "paper", "learning_rate": EM_DPO["learning_rate"] / 4},
    "paper, our rate": {"preset": "paper"},
    "cluster-dpo": {"preset": "cluster-dpo"},
    "DPO": {"types": 1},
}
"""What each method changes in the settings. The first two tune nothing; the first is the best possible."""

USUAL = [method for method in METHODS if method != "paper, our rate"]


def recovery(options: argparse.Namespace) -> None:
    rows = kept(options.names["recovery"], EM_DPO)
    for seed in options.recovery_seeds:
        if str(seed) in rows:
            continue
        town = simulate(Town(annotators=options.annotators, judgments_per_annotator=options.each, seed=seed))
        pairs = Town(annotators=options.annotators, judgments_per_annotator=1, responses=2, seed=seed)
        verdict = started(simulate(pairs).judgments, seed).verdict.verdict
        rows[str(seed)] = recovered(town, seed) | {"verdict_pairs": verdict}
        print(f"seed {seed}: {rows[str(seed)]}", flush=True)
        keep(options.names["recovery"], EM_DPO, rows)


def recovered(town: Simulation, seed: int) -> dict[str, Any]:
    """Accuracy and masses of the start and of each round, and seconds."""
    clock = Clock()
    trainer = em_dpo(town.judgments, seed, {})
    start = clock()
    trainer.train()
    names, rounds = trainer.annotators, trainer.rounds
    masses = [matched_masses(names, each.gamma, town) for each in rounds]
    true = np.bincount([town.type_index[name] for name in names]) / len(names)
    records = {
        name: [each.record[key] for each in rounds[1:]]
        for name, key in (
            ("log_likelihood", "log_likelihood_per_judgment"), ("scored_values", "scored_values"),
            ("e_step_seconds", "e_step_seconds"),
        )
    }  # fmt: skip
    return records | {
        "verdict": trainer.verdict.verdict,
        "accuracy": [matched_accuracy(names, each.gamma, town.types) for each in rounds],
        "masses": [mass.tolist() for mass in masses],
        "true_masses": true.tolist(),
        "smallest_mass": [float((mass / true).min()) for mass in masses],
        "start_seconds": start,
        "seconds": clock(),
    }


def em_dpo(judgments: Judgments, seed: int, changed: dict[str, Any]) -> EMDPOTrainer:
    args = EMDPOConfig(**temporary(seed=seed, **(EM_DPO | SILENT | changed)))
    return EMDPOTrainer(str(town_language_model()), args, judgments, peft_config=lora())


def started(judgments: Judgments, seed: int) -> TypeStart:
    """The latent-class model that EM-DPO starts from."""
    return type_start(judgments, EMDPOConfig(**temporary(seed=seed, **EM_DPO)), seed)


def matched_accuracy(names: list[Any], gamma: np.ndarray, known: Mapping[str, str]) -> float:
    """Share of annotators in the right type, under the best matching of estimated and true types."""
    types = [known[name] for name in names]
    return type_accuracy(gamma.argmax(1), types, gamma.shape[1], replicates=0)["type_accuracy"]


def matched_masses(names: list[Any], gamma: np.ndarray, town: Simulation) -> np.ndarray:
    """Estimated masses in the order of the true types, 0 for types without a match."""
    types = len(town.town.types)
    known = torch.eye(types)[[town.type_index[name] for name in names]]
    order = matched_types(torch.eye(gamma.shape[1])[gamma.argmax(1)], known).numpy()
    masses = np.zeros(types)
    masses[order[order >= 0]] = gamma.mean(0)[order >= 0]
    return masses


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
    return {**EM_DPO, "annotators": annotators, "held_out": HELD_OUT, "most": MOST}


def named(method: str) -> str:
    return method.replace(", ", "-").replace(" ", "-")


def merge(name: str, settings: dict[str, Any]) -> None:
    """Collect what all processes have stored so far in one file for the table."""
    rows = []
    for method, changed in METHODS.items():
        for file in sorted((OUT / name).glob(f"{named(method)}-[23]-*.json")):
            rows += list(kept(f"{name}/{file.stem}", settings | changed).values())
    keep(name, settings, rows)


@cache
def town_and_test(seed: int, annotators: int) -> tuple[Simulation, Judgments]:
    """A town, and its held-out rankings: the last ones of every annotator."""
    town = simulate(Town(annotators=annotators, judgments_per_annotator=MOST + HELD_OUT, seed=seed))
    turn = np.arange(len(town.judgments)) % (MOST + HELD_OUT)
    return town, town.judgments.select(np.flatnonzero(turn >= MOST).tolist())


def training(town: Simulation, judgments: int, responses: int) -> Judgments:
    """The first judgments of every annotator, on the first responses of each.

    Responses are in random order, and a Plackett-Luce ranking of three orders any two of them as a judgment on those
    two alone would: the pairs are what the same annotators would have chosen without seeing the third response.
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
    """One run, evaluated on held-out rankings."""
    town, test = town_and_test(seed, annotators)
    train = training(town, judgments, responses)
    clock = Clock()
    if method == START:
        start = started(train, seed)
        gamma = np.stack(list(start.gamma.values()))
        accuracy = matched_accuracy(list(start.gamma), gamma, town.types)
        return {"type_accuracy": accuracy, "verdict": start.verdict.verdict, "seconds": clock()}
    items = items_of(test)
    if method == KNOWN:
        return held_out_metrics(test, items, true_utilities(town, items), *truth(town, train))
    trainer = em_dpo(train, seed, METHODS[method])
    trainer.train()
    seconds = clock()
    items, utilities = trainer.score(test)
    metrics = held_out_metrics(test, items, utilities, trainer.mixture, trainer.posteriors)
    metrics |= {"verdict": trainer.verdict.verdict, "seconds": seconds, "masses": trainer.mixture_weights.tolist()}
    if METHODS[method].get("types") == 1:
        del metrics["type_accuracy"]
    return metrics


def held_out_metrics(
    test: Judgments, items: Items, utilities: np.ndarray, mixture: Mixture, posteriors: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Accuracy over pairs and log-loss of rankings, under the annotator's own policy and under posterior weights."""
    metrics, kinds = typed_metrics(test, items, utilities, mixture, posteriors)
    own = ranking_log_likelihoods(utilities, items, mixture)[np.arange(items.judgments), kinds]
    names = ("type_accuracy", "accuracy", "mixture_log_loss")
    return {name: metrics[name] for name in names} | {"own_log_loss": float(-own.mean())}


def true_utilities(town: Simulation, items: Items) -> np.ndarray:
    """The utility of each response to each type, `(types, responses)`."""
    return np.stack([town.utilities(text) for text in items.responses], 1)


def truth(town: Simulation, train: Judgments) -> tuple[Mixture, dict[str, np.ndarray]]:
    """True shares, and posteriors of annotators under true utilities: the best possible on average."""
    shares = {kind.name: kind.share for kind in town.town.types}
    mixture, items = Mixture(shares, beta=1.0), items_of(train)
    numbers, names = annotators_of(train, items.row)
    likelihoods = ranking_log_likelihoods(true_utilities(town, items), items, mixture)
    gamma, _ = posterior(likelihoods, numbers, len(names), list(shares.values()))
    return mixture, {str(name): own for name, own in zip(names, gamma, strict=True)}


PARTS = {"recovery": recovery, "curve": curve}


def main() -> None:
    options = parsed(
        __doc__,
        only=parts(PARTS),
        annotators=60,
        recovery_seeds=[0, 1, 2, 3, 4],
        each=(12, "Judgments per annotator in recovery."),
        methods=Option(USUAL, "Methods of the curve.", METHODS),
        responses=Option([2, 3], "Responses in a judgment of the curve.", (2, 3)),
        seeds=([0, 1, 2], "Seeds of the curve."),
        judgments=([1, 2, 4, 8, 12, 24], "Judgments per annotator in the curve."),
        quick=QUICK,
    )
    if max(options.judgments) > MOST:
        raise SystemExit(f"--judgments: at most {MOST}")
    if options.quick:
        options.recovery_seeds, options.seeds, options.judgments, options.each = [0], [0], [2], 4
    options.names = {part: f"em_town_{part}{'_quick' * options.quick}" for part in PARTS}
    transformers.logging.set_verbosity_error()
    for part in options.only:
        PARTS[part](options)

"""EM-DPO on simulated towns: what judgments per annotator buy, and whether rounds are taken where they are needed.

`curve` gives every annotator 4, 8, 12 ... of the same rankings, whole or without their third response, and evaluates
each method on eight further rankings of every annotator. All methods have the same base model, adapters and settings,
except for what their name says. `paper` keeps its start, rounds, routing, scoring on the training votes and optimiser,
with our beta. Its learning rate of 5e-7 does not move adapters of this size. At our rate (`paper, our rate`, run only
on request) its RMSprop, whose first steps are ten times the rate, diverges; so `paper` has a quarter of ours.

`blind` does the same in a town whose traits no count of words or word pairs shows (`bench/em_dpo/blind.py`): the start
by text features knows nothing there.

Every run is stored as soon as it is done, and each method, number of responses and seed in a file of its own: several
processes may share the work by `--methods`, `--responses` and `--seeds`, and a stopped one continues where it was.
"""

from __future__ import annotations

import argparse
import fcntl
import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import transformers

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
from ..common.results import OUT, keep, kept
from ..common.training import EM_DPO, SILENT, lora, temporary, town_language_model
from . import blind

HELD_OUT = 8
"""Rankings of three per annotator on which policies are evaluated."""

MOST = 24
"""Training judgments per annotator, at most."""

KNOWN, START = "true utilities", "latent class"
METHODS: dict[str, dict[str, Any]] = {
    KNOWN: {},
    START: {},
    "EM-DPO": {},
    "EM-DPO, start only": {"rounds": 0},
    "EM-DPO, four rounds": {"rounds": 4},
    "EM-DPO, random start": {"start": "dirichlet"},
    "paper": {"preset": "paper", "learning_rate": EM_DPO["learning_rate"] / 4},
    "paper, our rate": {"preset": "paper"},
    "cluster-dpo": {"preset": "cluster-dpo"},
    "DPO": {"types": 1},
}
"""What each method changes in the settings. The first two tune nothing; the first is the best possible."""

USUAL = [KNOWN, START, "EM-DPO", "EM-DPO, four rounds", "paper", "cluster-dpo", "DPO"]
BLIND = [KNOWN, START, "EM-DPO", "EM-DPO, start only", "DPO"]


def em_dpo(judgments: Judgments, seed: int, changed: dict[str, Any], model: Path) -> EMDPOTrainer:
    args = EMDPOConfig(**temporary(seed=seed, **(EM_DPO | SILENT | changed)))
    return EMDPOTrainer(str(model), args=args, train_dataset=judgments, peft_config=lora())


def started(judgments: Judgments, seed: int) -> TypeStart:
    """The latent-class model that EM-DPO starts from."""
    return type_start(judgments, EMDPOConfig(**temporary(seed=seed, **EM_DPO)), seed)


def matched_accuracy(names: list[Any], gamma: np.ndarray, known: Mapping[str, str]) -> float:
    """Share of annotators in the right type, under the best matching of estimated and true types."""
    types = [known[name] for name in names]
    return type_accuracy(gamma.argmax(1), types, gamma.shape[1], replicates=0)["type_accuracy"]


@dataclass(frozen=True)
class Place:
    """A town, what its language model is, and how many annotators and judgments it has."""

    name: str
    town: Callable[[int, int, int], Any]
    model: Callable[[], Path]
    annotators: int
    most: int

    def settings(self) -> dict[str, Any]:
        """What stored rows depend on."""
        return {**EM_DPO, "annotators": self.annotators, "held_out": HELD_OUT, "most": self.most}

    def split(self, seed: int) -> tuple[Any, Judgments]:
        """A town, and its held-out rankings: the last ones of every annotator."""
        made = simulated(self, seed)
        turn = np.arange(len(made.judgments)) % (self.most + HELD_OUT)
        return made, made.judgments.select(np.flatnonzero(turn >= self.most).tolist())


@cache
def simulated(place: Place, seed: int) -> Any:
    return place.town(place.annotators, place.most + HELD_OUT, seed)


def usual_town(annotators: int, each: int, seed: int) -> Simulation:
    return simulate(Town(annotators=annotators, judgments_per_annotator=each, seed=seed))


def curve(options: argparse.Namespace) -> None:
    place = Place(options.names["curve"], usual_town, town_language_model, options.annotators, MOST)
    cells(place, options.seeds, options.responses, options.judgments, options.methods or USUAL)


def blind_part(options: argparse.Namespace) -> None:
    place = Place(options.names["blind"], blind.simulate, blind.language_model, options.annotators, MOST)
    cells(place, options.seeds, [3], [MOST], options.methods or BLIND)


def cells(place: Place, seeds: list[int], responses: list[int], judgments: list[int], methods: list[str]) -> None:
    """Run and store the cells of a table that are not stored yet."""
    for seed, shown, each, method in itertools.product(seeds, responses, judgments, methods):
        part, changed = f"{place.name}/{named(method)}-{shown}-{seed}", place.settings() | METHODS[method]
        rows = kept(part, changed)
        if str(each) in rows:
            continue
        cell = {"method": method, "responses": shown, "judgments": each, "seed": seed}
        rows[str(each)] = cell | measured(place, method, shown, each, seed)
        print(rows[str(each)], flush=True)
        keep(part, changed, rows)
    merge(place)


def named(method: str) -> str:
    return method.replace(", ", "-").replace(" ", "-")


def merge(place: Place) -> None:
    """Collect what all processes have stored so far in one file for the table; one process at a time."""
    with open(OUT / f"{place.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows = []
        for method, changed in METHODS.items():
            for file in sorted((OUT / place.name).glob(f"{named(method)}-[23]-*.json")):
                rows += list(kept(f"{place.name}/{file.stem}", place.settings() | changed).values())
        keep(place.name, place.settings(), rows)


def training(town: Any, judgments: int, responses: int) -> Judgments:
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


def measured(place: Place, method: str, responses: int, judgments: int, seed: int) -> dict[str, Any]:
    """One run, evaluated on held-out rankings."""
    town, test = place.split(seed)
    train = training(town, judgments, responses)
    if method == START:
        start = started(train, seed)
        gamma = np.stack(list(start.gamma.values()))
        accuracy = matched_accuracy(list(start.gamma), gamma, town.types)
        return {"type_accuracy": accuracy, "verdict": start.verdict.verdict}
    items = items_of(test)
    if method == KNOWN:
        return held_out_metrics(test, items, true_utilities(town, items), *truth(town, train))
    trainer = em_dpo(train, seed, METHODS[method], place.model())
    began = time.process_time()  # of all threads, so that other processes do not count
    trainer.train()
    seconds = round(time.process_time() - began, 1)
    items, utilities = trainer.score(test)
    metrics = held_out_metrics(test, items, utilities, trainer.mixture, trainer.posteriors)
    metrics |= {"verdict": trainer.verdict.verdict, "cpu_seconds": seconds, "masses": trainer.mixture_weights.tolist()}
    metrics |= {"rounds": len(trainer.rounds) - 1, "kept": trainer.kept.round}
    metrics |= {"gain": trainer.kept.gain, "gain_error": trainer.kept.error}
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


def true_utilities(town: Any, items: Items) -> np.ndarray:
    """The utility of each response to each type, `(types, responses)`."""
    return np.stack([town.utilities(text) for text in items.responses], 1)


def truth(town: Any, train: Judgments) -> tuple[Mixture, dict[str, np.ndarray]]:
    """True shares, and posteriors of annotators under true utilities: the best possible on average."""
    shares = {kind.name: kind.share for kind in town.town.types}
    mixture, items = Mixture(shares, beta=1.0), items_of(train)
    numbers, names = annotators_of(train, items.row)
    likelihoods = ranking_log_likelihoods(true_utilities(town, items), items, mixture)
    gamma, _ = posterior(likelihoods, numbers, len(names), list(shares.values()))
    return mixture, {str(name): own for name, own in zip(names, gamma, strict=True)}


PARTS = {"curve": curve, "blind": blind_part}


def main() -> None:
    options = parsed(
        __doc__,
        only=parts(PARTS),
        annotators=60,
        methods=Option([], "Methods; by default those of the part's table.", METHODS, str),
        responses=Option([3], "Responses in a judgment of the curve.", (2, 3)),
        seeds=[0, 1, 2],
        judgments=([4, 8, 12], "Judgments per annotator in the curve."),
        quick=QUICK,
    )
    if max(options.judgments) > MOST:
        raise SystemExit(f"--judgments: at most {MOST}")
    if options.quick:
        options.seeds, options.judgments, options.annotators = [0], [2], 20
    options.names = {part: f"em_town_{part}{'_quick' * options.quick}" for part in PARTS}
    transformers.logging.set_verbosity_error()
    for part in options.only:
        PARTS[part](options)

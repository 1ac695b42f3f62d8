"""Simulated annotators of known types: which data identify the types, how often their number is right, and power."""

from __future__ import annotations

import argparse
import itertools
from dataclasses import asdict
from typing import Any

import numpy as np
from sklearn.metrics import adjusted_rand_score, silhouette_score

from pluralign.choice.latent_class.estimator import LatentClassPlackettLuce
from pluralign.choice.latent_class.identification import design, evidence, identification
from pluralign.choice.latent_class.information import annotator_scores
from pluralign.choice.latent_class.panel import Panel
from pluralign.choice.latent_class.power import power_curve
from pluralign.choice.latent_class.selection import select_types
from pluralign.choice.latent_class.starts import pooled, spectral_groups

from ..common.data import standardized
from ..common.options import QUICK, Option, parsed, parts
from ..common.results import Clock, store
from .panels import planted, tastes

OPPOSITE = np.array([[1.5, -1.0, 0.5, 1.0], [-1.5, 1.0, -0.5, -1.0]])
"""Two tastes whose equal mixture cannot be seen in single pairs."""

DESIGNS = {
    "pairs x 1": (2, 1, False),
    "pairs x 2": (2, 2, False),
    "pairs x 4": (2, 4, False),
    "pairs x 12": (2, 12, False),
    "best of three x 1": (3, 1, True),
    "rankings of three x 1": (3, 1, False),
    "rankings of three x 4": (3, 4, False),
}
"""Responses shown, judgments per annotator, and whether only the best response is reported."""

STRENGTH = 2.0
"""Length of the planted tastes; features are standard normal."""

MOST = 6
"""The largest number of types that is tried."""


def identified(options: argparse.Namespace) -> dict[str, Any]:
    """Two opposite tastes from the same number of judgments, collected in different ways."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for (name, (shown, each, best)), seed in itertools.product(DESIGNS.items(), range(options.seeds)):
        panel, _ = planted(
            OPPOSITE, np.full(2, 0.5), np.random.default_rng(seed), annotators=options.judgments // each,
            judgments=each, shown=shown, best_only=best,
        )  # fmt: skip
        model = LatentClassPlackettLuce(2, seed=seed).fit(panel)
        numbers = evidence(model, panel)
        errors = np.linalg.norm(np.asarray(model.coefficients_)[:, None] - OPPOSITE, axis=2)
        row = {"error": float(min(errors.trace(), errors[::-1].trace())), "left": numbers.left}
        row |= {"verdict": identification(design(panel), numbers).verdict, "separation": numbers.separation}
        rows.setdefault(name, []).append(row)
        print(f"{name:<24}{seed:>3}  {row}", flush=True)
    return {"rows": rows}


def recovery(options: argparse.Namespace) -> dict[str, Any]:
    """120 annotators rank three responses twelve times: the number of types, the groups and their shares."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for kinds, seed in itertools.product(range(1, options.kinds + 1), range(options.seeds)):
        clock = Clock()
        rng = np.random.default_rng((kinds, seed))
        coefficients, shares = tastes(kinds, 4, STRENGTH, rng), rng.dirichlet(np.full(kinds, 10.0))
        panel, types = planted(
            coefficients, shares, rng, annotators=options.annotators, judgments=12, shown=3
        )  # fmt: skip
        row = recovered(panel, types, coefficients, shares, seed)
        rows.setdefault(str(kinds), []).append(row)
        print(f"{kinds} types, seed {seed}: {row}  {clock():.0f} s", flush=True)
    return {"rows": rows}


def recovered(
    panel: Panel, types: np.ndarray, coefficients: np.ndarray, shares: np.ndarray, seed: int
) -> dict[str, Any]:
    """The types of one panel, by latent classes and by k-means on the agreement of annotators."""
    kinds = len(coefficients)
    selection = select_types(panel, range(1, MOST + 1), seed=seed)
    fits = dict(zip(selection.types.tolist(), selection.models, strict=True))
    # The search may have stopped before the planted number.
    true = fits.get(kinds) or LatentClassPlackettLuce(kinds, seed=seed).fit(panel)
    # Posteriors at equal shares; the true shares are multiplied in below.
    known = LatentClassPlackettLuce(
        kinds, coefficients_init=coefficients, max_iterations=0, polish=False
    ).fit(panel)  # fmt: skip
    groups = {number: spectral_groups(true.problem(panel), number, seed) for number in range(1, MOST + 1)}
    silhouette = by_silhouette(panel, groups)
    planted_shares = np.bincount(types, minlength=kinds) / len(types)

    def index(labels: np.ndarray) -> float:
        return float(adjusted_rand_score(types, labels))

    return {
        "held_out": int(selection.chosen),
        "bic": int(selection.types[selection.bic.argmin()]),
        "silhouette": silhouette,
        "index_chosen": index(selection.model.labels_),
        "index_true": index(true.labels_),
        "index_known": index((known.responsibilities_ * shares).argmax(1)),
        "index_kmeans": index(groups[kinds]),
        "index_silhouette": index(groups[silhouette]),
        "smallest_share": float(true.mixture_weights_.min() / planted_shares[planted_shares > 0].min()),
    }


def by_silhouette(panel: Panel, groups: dict[int, np.ndarray]) -> int:
    """The number of groups, at least two, with the best silhouette among the scores of annotators."""
    problem = LatentClassPlackettLuce(1).problem(panel)
    scores = annotator_scores(problem, pooled(problem)[0].view(1, 1, -1)).cpu().numpy()
    rows = standardized(scores)
    values = {number: silhouette_score(rows, labels) for number, labels in groups.items() if number > 1}
    return max(values, key=lambda number: float(values[number]))


def power(options: argparse.Namespace) -> dict[str, Any]:
    """The power curve predicted by a study of 200 annotators with four pairs each, beside that of the true model."""
    rng = np.random.default_rng(0)
    coefficients, shares = tastes(3, 4, STRENGTH, rng), np.array([0.5, 0.3, 0.2])
    panel, types = planted(coefficients, shares, rng, annotators=200, judgments=4, shown=2)
    model = LatentClassPlackettLuce(3).fit(panel)
    # The true model: the planted tastes and the shares that annotators were drawn with.
    truth = LatentClassPlackettLuce(3, coefficients_init=coefficients, max_iterations=0, polish=False).fit(panel)
    truth.mixture_weights_ = shares
    curves = {}
    for name, known, seed in (("predicted", model, 0), ("true", truth, 1)):
        points = power_curve(known, panel, replicates=options.replicates, judgments=options.each, seed=seed)
        curves[name] = [asdict(point) for point in points]
        for point in points:
            print(f"{name:<10}{point}", flush=True)
    return {"curves": curves, "index": float(adjusted_rand_score(types, model.labels_))}


PARTS = {"identification": identified, "recovery": recovery, "power": power}
SEEDS = {"identification": 5, "recovery": 20, "power": 0}


def main() -> None:
    options = parsed(
        __doc__,
        only=parts(PARTS),
        seeds=Option(None, "Seeds of every row; 5 for identification, 20 for recovery.", type=int),
        judgments=(4000, "Judgments in a row of identification."),
        kinds=(5, "The most planted types in recovery."),
        annotators=(120, "Annotators in recovery."),
        replicates=(5, "Simulations of each point of power."),
        each=([1, 2, 4, 8, 16], "Judgments per annotator in power."),
        quick=QUICK,
    )
    if options.quick:
        options.judgments, options.kinds, options.annotators, options.replicates = 1000, 2, 60, 1
        options.seeds, options.each = 1, [1, 4]
    asked = options.seeds
    for part in options.only:
        options.seeds = asked or SEEDS[part]
        clock = Clock()
        results = PARTS[part](options)
        settings = {key: value for key, value in vars(options).items() if key != "only"}
        store(f"types_{part}{'_quick' * options.quick}", {"options": settings, **results, "seconds": clock()})

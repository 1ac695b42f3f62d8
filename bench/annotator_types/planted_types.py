"""Simulated annotators of known types: which data identify the types, how often their number is right, and power."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from dataclasses import asdict, replace
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
from pluralign.judgments.population import DEFAULT_TYPES, TRAITS, Town, TypeSpec, simulate
from pluralign.scoring.annotator_types import with_features
from pluralign.scoring.panels import people_of

from ..common.data import standardized
from ..common.options import QUICK, Option, parsed, parts
from ..common.results import Clock, keep, store
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


BRIEF, WARM, THOROUGH = DEFAULT_TYPES
ODD = TypeSpec("odd", 0.25, (-0.5, -2.0, -1.5, 1.0, 2.0, 1.0))
TOWNS: dict[str, tuple[int | None, tuple[TypeSpec, ...]]] = {
    "one kind: brief": (1, (BRIEF,)),
    "one kind: brief x 2": (1, (replace(BRIEF, weights=tuple(2 * weight for weight in BRIEF.weights)),)),
    "one kind: warm": (1, (WARM,)),
    "one kind: warm x 2": (1, (replace(WARM, weights=tuple(2 * weight for weight in WARM.weights)),)),
    "two kinds": (2, (BRIEF, WARM)),
    "three kinds": (3, DEFAULT_TYPES),
    "four kinds": (4, tuple(replace(kind, share=0.25) for kind in (*DEFAULT_TYPES, ODD))),
    "normal tastes": (None, ()),
    "normal tastes x 2": (None, ()),
}
"""Simulated towns and the number of kinds of annotators in each; none where tastes are normal."""


DESIGN = {"rankings of three": (60, 12, 3), "pairs": (100, 8, 2)}
"""Annotators, judgments of each, and responses shown."""


def normal_tastes(annotators: int, seed: int, spread: float) -> tuple[TypeSpec, ...]:
    """A kind for each annotator: weights of the traits are normal around 0, with this standard deviation."""
    weights = spread * np.random.default_rng((seed, 1)).normal(size=(annotators, len(TRAITS)))
    return tuple(TypeSpec(f"{row}", 1 / annotators, tuple(own)) for row, own in enumerate(weights.tolist()))


def error_rates(options: argparse.Namespace) -> dict[str, Any]:
    """The number of types that the audit's rule chooses, and types or degrees, from text alone."""

    def rule(panel: Panel, ridge: float, seed: int) -> dict[str, Any]:
        clock = Clock()
        selection = select_types(panel, range(1, MOST + 1), ridge=ridge, seed=seed, restarts=6)
        return {"chosen": int(selection.chosen), "heterogeneity": selection.heterogeneity, "seconds": clock()}

    return in_towns("types_error_rates", rule, options)


def earlier_rates(options: argparse.Namespace) -> dict[str, Any]:
    """The number of types that the earlier rule chooses in the same panels."""
    return in_towns("types_earlier_rates", lambda *given: {"chosen": earlier_rule(*given)}, options)


def in_towns(
    table: str, rule: Callable[[Panel, float, int], dict[str, Any]], options: argparse.Namespace
) -> dict[str, Any]:
    """What a rule finds in every town; the seeds so far make a table of their own."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for seed, collected, name in itertools.product(range(options.seeds), options.designs, TOWNS):
        annotators, each, shown = DESIGN[collected]
        kinds = TOWNS[name][1] or normal_tastes(annotators, seed, 2.0 if "x 2" in name else 1.0)
        town = Town(types=kinds, annotators=annotators, judgments_per_annotator=each, responses=shown, seed=seed)
        people, ridge = with_features(people_of(simulate(town).judgments), "tfidf", 64, seed)
        row = rule(people.panel, ridge, seed)
        rows.setdefault(f"{collected}, {name}", []).append(row)
        print(f"{collected:<20}{name:<24}{seed:>3}  {row}", flush=True)
        if name == list(TOWNS)[-1]:
            keep(table, {}, rows)
    return {"rows": rows}


def earlier_rule(panel: Panel, ridge: float, seed: int) -> int:
    """Each of K types shrunk by ridge / K, and a gain of one standard error: the rule until this version."""
    part = np.random.default_rng(seed).permutation(np.arange(panel.annotators) % 5)
    best, scores = 0, []
    for number in range(1, MOST + 1):
        held_out = np.zeros(panel.annotators)
        for fold in range(5):
            model = LatentClassPlackettLuce(number, ridge=ridge / number, seed=seed, restarts=6)
            model.fit(panel.of_annotators(np.flatnonzero(part != fold)))
            members = np.flatnonzero(part == fold)
            held_out[members] = model.annotator_log_likelihood(panel.of_annotators(members))
        scores.append(held_out)
        gain = held_out - scores[best]
        if gain.sum() > np.sqrt(len(gain)) * gain.std(ddof=1):
            best = len(scores) - 1
        if len(scores) - best > 2:
            break
    return best + 1


PARTS = {"identification": identified, "recovery": recovery, "power": power, "error_rates": error_rates,
         "earlier_rates": earlier_rates}  # fmt: skip
SEEDS = {"identification": 5, "recovery": 20, "power": 0, "error_rates": 20, "earlier_rates": 10}


def main() -> None:
    options = parsed(
        __doc__,
        only=parts(PARTS),
        seeds=Option(
            None, "Seeds of every row; by default 5, recovery and error_rates 20, earlier_rates 10.", type=int
        ),
        judgments=(4000, "Judgments in a row of identification."),
        kinds=(5, "The most planted types in recovery."),
        annotators=(120, "Annotators in recovery."),
        replicates=(5, "Simulations of each point of power."),
        each=([1, 2, 4, 8, 16], "Judgments per annotator in power."),
        designs=(list(DESIGN), "In error_rates and earlier_rates, what was collected."),
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

"""Panels for the benchmarks of choice models: two published data sets, and simulated annotators of known types."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

from pluralign.choice.latent_class.panel import Panel

from ..common.data import DATA
from ..common.results import ROOT

sys.path.append(str(ROOT / "tests"))  # tests and benchmarks share the preparation of the published panels
import published_panels

FOLDER = DATA / "choice_panel"
SWISSMETRO, LCCM, REFERENCE = "swissmetro.dat", "lccm_qualtrics_long.csv.gz", "REFERENCE.json"


def missing(*names: str) -> bool:
    """Whether a file is missing; prints which."""
    absent = [name for name in names if not (FOLDER / name).exists()]
    if absent:
        print(f"skipped: no {' or '.join(absent)} in $PLURALIGN_DATA/{FOLDER.name}", flush=True)
    return bool(absent)


def reference() -> dict[str, Any]:
    """The published figures."""
    return json.loads((FOLDER / REFERENCE).read_text())


def swissmetro() -> Panel:
    """Choices among train, Swissmetro and car; features: constants of train and car, time, cost."""
    return published_panels.swissmetro(FOLDER)


def lccm() -> tuple[Panel, dict[str, Any]]:
    """Choices among six modes, and the settings of the published model, its start included."""
    return published_panels.travel_modes(FOLDER, reference()["lccm_qualtrics_2class"])


def tastes(types: int, features: int, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Coefficients `(K, p)` of random directions and one length."""
    directions = rng.normal(size=(types, features))
    return strength * directions / np.linalg.norm(directions, axis=1, keepdims=True)


def planted(
    coefficients: np.ndarray,
    shares: np.ndarray,
    rng: np.random.Generator,
    *,
    annotators: int,
    judgments: int,
    shown: int,
    best_only: bool = False,
    pool: int | None = None,
) -> tuple[Panel, np.ndarray]:
    """Annotators of known types who rank responses with standard normal features, and their types.

    Args:
        coefficients: `(K, p)`.
        shares: `(K,)`.
        rng: source of randomness.
        annotators: their number.
        judgments: of each annotator.
        shown: responses in a judgment.
        best_only: only the best response is reported.
        pool: number of responses, shown again and again; `None` makes new ones for every judgment.
    """
    types = rng.choice(len(shares), annotators, p=shares)
    annotator = np.repeat(np.arange(annotators), judgments)
    size = len(annotator)
    if pool is None:
        responses = np.arange(size * shown).reshape(size, shown)
    else:  # steps around a circle, less than once around it, give different responses
        steps = rng.integers(1, pool // shown + 1, (size, shown - 1)).cumsum(1)
        responses = (rng.integers(0, pool, (size, 1)) + np.pad(steps, ((0, 0), (1, 0)))) % pool
    features = rng.normal(size=(responses.max() + 1 if pool is None else pool, coefficients.shape[1]))
    utilities = np.stack(
        [np.einsum("jp,jp->j", features[column], coefficients[types[annotator]]) for column in responses.T], 1
    )
    ranks = (-(utilities + rng.gumbel(size=responses.shape))).argsort(1).argsort(1) + 1
    if best_only:
        ranks = np.where(ranks == 1, 1, 0)
    return Panel(responses, ranks, annotator, features=features), types

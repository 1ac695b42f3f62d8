"""MORE on simulated sources: when does it find what they share?

The sources have a shared reward and opposite drifts of known size. Utilities of source A are x . (theta + drift v), of
source B x . (theta - ratio * drift v), with theta and v orthogonal and theta of length three; annotators choose by
Bradley-Terry. A linear reward w is trained by Adam on batches of both. Reported are how much of a drift it took up,
w . v, its distance from theta in all other directions, and its calibration on held-out pairs of both.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from pluralign.evaluation.calibration.reliability import calibration_error
from pluralign.evaluation.pairs import pairs_of

from ..common.options import parsed
from ..common.results import store
from .linear import fit_sources

FEATURES, SHARED = 16, 3.0
METHODS = ("MultiTask, plain mean", "MultiTask, uniform", "MORE, l2", "MORE, none")
EQUAL = {"ratio": 1.0, "size": 1.0, "flips": 0.0, "copies": 1}
CASES: dict[str, dict[str, float]] = {
    "equal drifts, equal sizes": EQUAL,
    "A drifts four times as far": EQUAL | {"ratio": 0.25},
    "A has four times the pairs": EQUAL | {"size": 0.25},
    "a quarter of B's judgments are flipped": EQUAL | {"flips": 0.25},
    "two sources like A, one like B": EQUAL | {"copies": 2},
}


def source(weights: np.ndarray, pairs: int, flips: float, draw: np.random.Generator) -> np.ndarray:
    """Feature differences of pairs, chosen minus rejected: `(pairs, features)`."""
    difference = draw.normal(size=(pairs, FEATURES)) * np.sqrt(2 / FEATURES)
    won = draw.random(pairs) < 1 / (1 + np.exp(-difference @ weights))
    won ^= draw.random(pairs) < flips
    return np.where(won[:, None], difference, -difference)


def trained(sources: list[np.ndarray], method: str, steps: int, batch: int, seed: int) -> np.ndarray:
    """The weights of a linear reward after training."""
    sizes = np.array([len(own) for own in sources])
    shares = sizes / sizes.sum() if method == METHODS[0] else np.full(len(sources), 1 / len(sources))
    counts = (batch * shares).round().astype(int).tolist()
    normalize = method.removeprefix("MORE, ") if method.startswith("MORE") else None
    return fit_sources(sources, counts, normalize, steps=steps, rate=0.02, final=0.01, seed=(seed, 7))[0]


def evaluated(weights: np.ndarray, sources: list[np.ndarray]) -> dict[str, float]:
    """Accuracy and calibration error on held-out pairs, means over the sources."""
    values = []
    for own in sources:
        margins = own @ weights
        rewards = np.stack((margins, np.zeros(len(margins))), 1).ravel()
        count = len(margins)
        pairs = pairs_of(rewards, np.tile([1, 2], count), np.arange(count + 1) * 2, np.arange(count), np.ones(count))
        values.append((float((margins > 0).mean()), calibration_error(pairs) or 0.0))
    accuracy, ece = np.mean(values, 0)
    return {"accuracy": float(accuracy), "ece": float(ece)}


def main() -> None:
    options = parsed(__doc__, seeds=5, drifts=[0.0, 1.0, 3.0, 6.0], pairs=4000, steps=1000, batch=96)
    rows: list[dict[str, Any]] = []
    for (case, given), drift in itertools.product(CASES.items(), options.drifts):
        start = len(rows)
        for seed in range(options.seeds):
            draw = np.random.default_rng(seed)
            basis, _ = np.linalg.qr(draw.normal(size=(FEATURES, 2)))
            theta, aside = SHARED * basis[:, 0], basis[:, 1]
            copies = int(given["copies"])
            true = [theta + drift * aside] * copies + [theta - given["ratio"] * drift * aside]
            counts = [options.pairs] * copies + [int(options.pairs * given["size"])]
            noise = [0.0] * copies + [given["flips"]]
            train = [source(w, n, f, draw) for w, n, f in zip(true, counts, noise, strict=True)]
            test = [source(w, 4000, 0.0, draw) for w in (true[0], true[-1])]
            for method in METHODS:
                weights = trained(train, method, options.steps, options.batch, seed)
                taken = float(weights @ aside)
                rest = float(np.linalg.norm(weights - taken * aside - theta))
                row = {"case": case, "drift": drift, "seed": seed, "method": method}
                rows.append(row | {"drift_taken": taken, "shared_error": rest} | evaluated(weights, test))
        for method in METHODS:
            own = [row for row in rows[start:] if row["method"] == method]
            keys = ("drift_taken", "shared_error", "accuracy", "ece")
            means = [f"{key} {np.mean([row[key] for row in own]):+.3f}" for key in keys]
            print(f"{case:<38} {drift:>4} {method:<24}", *means, flush=True)
    store("more_conflict", {"options": vars(options), "rows": rows})

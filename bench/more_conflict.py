"""Simulated sources with a shared reward and opposite drifts of known size: when does MORE find what is shared?

Utilities of source A are x . (theta + drift v), of source B x . (theta - ratio * drift v), with theta and v
orthogonal, theta three units long; people choose by Bradley-Terry. A linear reward w is trained by Adam on batches
of both. What is reported is how much of a drift it took up, w . v, how far it is from theta in all other
directions, and how calibrated it is on held-out pairs of both.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from common import store
from torch.nn.functional import logsigmoid

from pluralign.choice.min_norm import gradient_sums, gramian, min_norm_weights, residuals
from pluralign.evaluation.calibration.reliability import calibration_error
from pluralign.evaluation.pairs import pairs_of

FEATURES, SHARED = 16, 3.0
METHODS = ("MultiTask, plain mean", "MultiTask, uniform", "MORE, l2", "MORE, none")
EQUAL = {"ratio": 1.0, "size": 1.0, "flips": 0.0, "copies": 1}
CASES: dict[str, dict[str, float]] = {
    "equal drifts, equal sizes": EQUAL,
    "A drifts four times as far": EQUAL | {"ratio": 0.25},
    "A has four times the pairs": EQUAL | {"size": 0.25},
    "a quarter of B's verdicts are flipped": EQUAL | {"flips": 0.25},
    "two sources of A's kind, one of B's": EQUAL | {"copies": 2},
}


def source(weights: np.ndarray, pairs: int, flips: float, draw: np.random.Generator) -> torch.Tensor:
    """Feature differences of pairs, winner less loser: `(pairs, features)`."""
    difference = draw.normal(size=(pairs, FEATURES)) * np.sqrt(2 / FEATURES)
    won = draw.random(pairs) < 1 / (1 + np.exp(-difference @ weights))
    won ^= draw.random(pairs) < flips
    return torch.from_numpy(np.where(won[:, None], difference, -difference))


def learnt(sources: list[torch.Tensor], method: str, steps: int, batch: int, seed: int) -> np.ndarray:
    """The weights of a linear reward after training."""
    draw = np.random.default_rng((seed, 7))
    weights = torch.zeros(FEATURES, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=0.02)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    sizes = np.array([len(own) for own in sources])
    shares = sizes / sizes.sum() if method == METHODS[0] else np.full(len(sources), 1 / len(sources))
    counts = (batch * shares).round().astype(int).tolist()
    for _ in range(steps):
        states = torch.cat(
            [own[draw.integers(len(own), size=count)] for own, count in zip(sources, counts, strict=True)]
        )
        of_source = torch.repeat_interleave(torch.arange(len(sources)), torch.tensor(counts))
        margins = (states @ weights)[:, None]  # a pair by its difference alone: the loser is at 0
        losses = -logsigmoid(margins[:, 0])
        membership = torch.nn.functional.one_hot(of_source, len(sources)).double()
        totals = membership.sum(0)
        if method.startswith("MORE"):
            index = torch.arange(len(states))[:, None]
            sums = gradient_sums(residuals(losses, margins), index, states, membership)
            inner = gramian(sums / totals[:, None])
            kind: Any = method.removeprefix("MORE, ")
            mixed = torch.from_numpy(min_norm_weights(inner, normalize=kind))
        else:
            mixed = totals / totals.sum()
        optimizer.zero_grad()
        (mixed @ (membership.T @ losses / totals)).backward()
        optimizer.step()
        schedule.step()
    return weights.detach().numpy()


def judged(weights: np.ndarray, sources: list[torch.Tensor]) -> dict[str, float]:
    """Accuracy and calibration error on held-out pairs, the mean over the sources."""
    found = []
    for own in sources:
        margins = own.numpy() @ weights
        rewards = np.stack((margins, np.zeros(len(margins))), 1).ravel()
        count = len(margins)
        pairs = pairs_of(rewards, np.tile([1, 2], count), np.arange(count + 1) * 2, np.arange(count), np.ones(count))
        found.append((float((margins > 0).mean()), calibration_error(pairs) or 0.0))
    accuracy, ece = np.mean(found, 0)
    return {"accuracy": float(accuracy), "ece": float(ece)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--drifts", type=float, nargs="*", default=[0.0, 1.0, 3.0, 6.0])
    parser.add_argument("--pairs", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=96)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for case, given in CASES.items():
        for drift in options.drifts:
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
                    found = learnt(train, method, options.steps, options.batch, seed)
                    taken = float(found @ aside)
                    rest = float(np.linalg.norm(found - taken * aside - theta))
                    rows.append({"case": case, "drift": drift, "seed": seed, "method": method,
                                 "drift_taken": taken, "shared_error": rest, **judged(found, test)})  # fmt: skip
            last = [row for row in rows if row["case"] == case and row["drift"] == drift]
            for method in METHODS:
                mine = [row for row in last if row["method"] == method]
                print(f"{case:<38} {drift:>4} {method:<24}", *(
                    f"{key} {np.mean([row[key] for row in mine]):+.3f}"
                    for key in ("drift_taken", "shared_error", "accuracy", "ece")
                ), flush=True)  # fmt: skip
    store("more_conflict", {"options": vars(options), "rows": rows})


if __name__ == "__main__":
    main()

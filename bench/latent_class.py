"""Latent-class models: seconds and optima against biogeme, worths against choix, and how the time grows.

Against biogeme and for the growth every fit is a process of its own. "First" is what a user waits for: the fit and
its standard errors, whatever has to be compiled included; "again" is the same search once more in that process,
from the same start, with nothing left to compile and no standard errors.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from typing import Any

import choix
import numpy as np
import torch
from choice_data import FOLDER, SWISSMETRO, missing, planted, swissmetro, tastes
from common import HERE, in_own_process, store
from peers import python_with
from sklearn.metrics import adjusted_rand_score

from pluralign.choice.latent_class.estimator import LatentClassPlackettLuce
from pluralign.choice.latent_class.panel import Panel

BIOGEME = "3.3.2"
SPREAD = 0.5
"""Standard deviation of the coefficients that random starts have."""
SAME, ONE, DEFAULT = "ours, the same starts", "ours, one start of its own", "ours, ten starts (default)"
PEER, ZERO = "biogeme", "from zero"


def against_biogeme(options: argparse.Namespace) -> None:
    """Two free classes on Swissmetro: random starts for both, and how each is used by default."""
    if missing(SWISSMETRO):
        return
    python = python_with("biogeme", BIOGEME)
    if python is None:
        print(f"skipped: biogeme {BIOGEME} could not be installed", flush=True)
        return
    file = str(FOLDER / SWISSMETRO)
    runs: dict[str, list[dict[str, Any]]] = {}

    def note(name: str, found: dict[str, Any]) -> None:
        runs.setdefault(name, []).append(found)
        print(f"{name:<32} first {found['first']:7.3f} s  again {found['again']:7.3f} s  "
              f"log-likelihood {found['log_likelihood']:.3f}", flush=True)  # fmt: skip
        store(options.names["biogeme"], {"options": _plain(options), "runs": runs})

    def theirs(start: np.ndarray) -> dict[str, Any]:
        return in_own_process(HERE / "peer_biogeme.py", {"file": file, "start": start.tolist()}, python=python)

    def ours(seed: int, start: np.ndarray | None = None, restarts: int = 10) -> dict[str, Any]:
        given = {"seed": seed, "start": None if start is None else start.tolist(), "restarts": restarts}
        return in_own_process(__file__, {"kind": "fit", **given})

    zero = np.zeros((2, 4))
    note(f"{PEER}, {ZERO} (default)", theirs(zero))
    note(f"{SAME}, {ZERO}", ours(0, zero))
    for seed in range(options.seeds):
        start = SPREAD * np.random.default_rng(seed).normal(size=(2, 4))
        note(PEER, theirs(start))
        note(SAME, ours(seed, start))
        note(ONE, ours(seed, restarts=1))
        note(DEFAULT, ours(seed))


def fitted(seed: int, start: list[list[float]] | None, restarts: int) -> dict[str, Any]:
    """One of our fits of two classes, in a process of its own, and its seconds."""
    rows = swissmetro()
    clock = [time.perf_counter()]
    settings = {name: getattr(rows, name) for name in ("responses", "ranks", "annotator", "features")}
    panel = Panel(**settings)
    clock.append(time.perf_counter())
    model = LatentClassPlackettLuce(2, coefficients_init=start, restarts=restarts, seed=seed)
    model.fit(panel).covariance(panel)
    clock.append(time.perf_counter())
    again = model.fit(panel).log_likelihood_
    clock.append(time.perf_counter())
    build, first, second = np.diff(clock)
    return {"build": build, "first": first, "again": second, "log_likelihood": model.log_likelihood_,
            "again_log_likelihood": again, "converged": model.converged_, "iterations": model.n_iter_}  # fmt: skip


def against_choix(options: argparse.Namespace) -> None:
    """Worths of 50 responses from rankings of 4 of them: choix's `ilsr_rankings` and one type of ours, in turn."""
    rng = np.random.default_rng(0)
    responses, number = 50, options.rankings
    worths = rng.normal(size=responses)
    shown = rng.permuted(np.tile(np.arange(responses), (number, 1)), axis=1)[:, :4]
    order = np.argsort(-(worths[shown] + rng.gumbel(size=shown.shape)), 1)
    ranks, best_first = np.argsort(order, 1) + 1, np.take_along_axis(shown, order, 1).tolist()
    person = np.zeros(number, dtype=int)
    seconds: dict[str, list[float]] = {"ours": [], "choix": []}
    difference = 0.0
    for _ in range(options.repeats):
        start = time.perf_counter()
        found = LatentClassPlackettLuce(1).fit(Panel(shown, ranks, person)).coefficients_[0]
        between = time.perf_counter()
        theirs = choix.ilsr_rankings(responses, best_first)
        seconds["ours"].append(between - start)
        seconds["choix"].append(time.perf_counter() - between)
        difference = max(difference, float(np.abs(found - found.mean() - theirs + theirs.mean()).max()))
        last = {name: f"{turns[-1]:.3f} s" for name, turns in seconds.items()}
        print(f"{last}  worths within {difference:.1e}", flush=True)
    store(options.names["choix"], {
        "options": _plain(options), "responses": responses, "seconds": seconds, "difference": difference,
    })  # fmt: skip


def scaling(options: argparse.Namespace) -> None:
    """Eight planted types, 16 features, ten choices of the best of three by each person, default settings."""
    rows: dict[str, list[dict[str, float]]] = {}
    for judgments in options.sizes:
        # The smallest is the measure of all others: it is taken more often.
        for _ in range(options.repeats if judgments == options.sizes[0] else 1):
            found = in_own_process(__file__, {"kind": "size", "judgments": judgments})
            rows.setdefault(str(judgments), []).append(found)
            print(f"{judgments:>9} judgments: {found}", flush=True)
            store(options.names["scaling"], {"options": _plain(options), "rows": rows})


def sized(judgments: int) -> dict[str, float]:
    """One fit of a size, in a process of its own: seconds, memory in GiB before and at most, and what was found."""
    rng = np.random.default_rng(0)
    panel, types = planted(
        tastes(8, 16, 3.0, rng), np.full(8, 1 / 8), rng, annotators=judgments // 10, judgments=10, shown=3,
        best_only=True, pool=judgments // 10,
    )  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    start = time.perf_counter()
    model = LatentClassPlackettLuce(8).fit(panel)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": seconds, "data": before, "peak": peak, "iterations": model.n_iter_,
            "converged": model.converged_, "adjusted_rand": adjusted_rand_score(types, model.labels_)}  # fmt: skip


def _plain(options: argparse.Namespace) -> dict[str, Any]:
    kept = {key: value for key, value in vars(options).items() if key not in ("job", "names", "only", "quick")}
    return {**kept, "threads": torch.get_num_threads()}


PARTS = {"biogeme": against_biogeme, "choix": against_choix, "scaling": scaling}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--seeds", type=int, default=5, help="random starts of each against biogeme")
    parser.add_argument("--rankings", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5, help="turns against choix; fits of the smallest size")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**4, 10**5, 10**6], help="judgments")
    parser.add_argument("--quick", action="store_true", help="try it out; the tables stay as they are")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        given = json.loads(options.job)
        print(json.dumps({"fit": fitted, "size": sized}[given.pop("kind")](**given)))
        return
    if options.quick:
        options.seeds, options.rankings, options.repeats, options.sizes = 1, 2000, 2, [1000, 2000]
    options.names = {part: f"latent_class_{part}{'_quick' * options.quick}" for part in PARTS}
    for part in options.only:
        PARTS[part](options)


if __name__ == "__main__":
    main()

"""Latent classes: seconds and optima against biogeme, utilities against choix, and how time grows with the data.

Against biogeme and for the growth every fit is a process of its own. "First" is what a user waits for: the fit and its
standard errors, with any compilation. "Again" is the same search once more in that process, from the same start, with
nothing left to compile and no standard errors.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import choix
import numpy as np
import torch
from sklearn.metrics import adjusted_rand_score

from pluralign.choice.latent_class.estimator import LatentClassPlackettLuce
from pluralign.choice.latent_class.panel import Panel

from ..common.options import QUICK, parsed, parts
from ..common.results import OUT, in_own_process, json_of, store
from .panels import FOLDER, SWISSMETRO, missing, planted, swissmetro, tastes

BIOGEME = "3.3.2"
SPREAD = 0.5
"""Standard deviation of the coefficients of random starts."""
SAME, ONE, DEFAULT = "ours, the same starts", "ours, one start of its own", "ours, ten starts (default)"
PEER, ZERO = "biogeme", "from zero"


def python_with_biogeme() -> Path | None:
    """The interpreter of an environment that has biogeme; `None` if it cannot be installed.

    Biogeme needs an older pandas than pluralign and brings jax: it must not change the environment that is measured.
    """
    folder = OUT / "peers"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    check = f"import importlib.metadata as m; raise SystemExit(m.version('biogeme') != {BIOGEME!r})"
    if subprocess.run([python, "-c", check], capture_output=True, check=False).returncode:
        print(f"installing biogeme {BIOGEME} into {folder}", flush=True)
        command = [python, "-m", "pip", "install", "--quiet", f"biogeme=={BIOGEME}"]
        if subprocess.run(command, check=False).returncode:
            return None
    return python


def against_biogeme(options: argparse.Namespace) -> None:
    """Two free classes on Swissmetro: the same random starts for both, and the defaults of each."""
    if missing(SWISSMETRO):
        return
    python = python_with_biogeme()
    if python is None:
        print(f"skipped: biogeme {BIOGEME} could not be installed", flush=True)
        return
    file = str(FOLDER / SWISSMETRO)
    runs: dict[str, list[dict[str, Any]]] = {}

    def note(name: str, fit: dict[str, Any]) -> None:
        runs.setdefault(name, []).append(fit)
        values = f"first {fit['first']:7.3f} s  again {fit['again']:7.3f} s  log-likelihood {fit['log_likelihood']:.3f}"
        print(f"{name:<32} {values}", flush=True)
        store(options.names["biogeme"], {"options": _plain(options), "runs": runs})

    def theirs(start: np.ndarray) -> dict[str, Any]:
        script = Path(__file__).with_name("biogeme_fit.py")
        return json_of([python, script, json.dumps({"file": file, "start": start.tolist()})])

    def ours(seed: int, start: np.ndarray | None = None, restarts: int = 10) -> dict[str, Any]:
        given = {"seed": seed, "start": None if start is None else start.tolist(), "restarts": restarts}
        return in_own_process(fitted, given)

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
    """One of our fits of two classes and its seconds."""
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
    """Utilities of 50 responses from rankings of 4: choix's `ilsr_rankings` and one type of ours, in turn."""
    rng = np.random.default_rng(0)
    responses, number = 50, options.rankings
    utilities = rng.normal(size=responses)
    shown = rng.permuted(np.tile(np.arange(responses), (number, 1)), axis=1)[:, :4]
    order = np.argsort(-(utilities[shown] + rng.gumbel(size=shown.shape)), 1)
    ranks, best_first = np.argsort(order, 1) + 1, np.take_along_axis(shown, order, 1).tolist()
    annotator = np.zeros(number, dtype=int)
    seconds: dict[str, list[float]] = {"ours": [], "choix": []}
    difference = 0.0
    for _ in range(options.repeats):
        start = time.perf_counter()
        own = LatentClassPlackettLuce(1).fit(Panel(shown, ranks, annotator)).coefficients_[0]
        between = time.perf_counter()
        theirs = choix.ilsr_rankings(responses, best_first)
        seconds["ours"].append(between - start)
        seconds["choix"].append(time.perf_counter() - between)
        difference = max(difference, float(np.abs(own - own.mean() - theirs + theirs.mean()).max()))
        last = {name: f"{turns[-1]:.3f} s" for name, turns in seconds.items()}
        print(f"{last}  utilities within {difference:.1e}", flush=True)
    results = {"responses": responses, "seconds": seconds, "difference": difference}
    store(options.names["choix"], {"options": _plain(options), **results})


def scaling(options: argparse.Namespace) -> None:
    """Eight planted types, 16 features, ten choices of the best of three by each annotator, default settings."""
    rows: dict[str, list[dict[str, float]]] = {}
    for judgments in options.sizes:
        # The other sizes are compared with the smallest, so it is measured more often.
        for _ in range(options.repeats if judgments == options.sizes[0] else 1):
            with tempfile.TemporaryDirectory() as folder:
                given = {"judgments": judgments, "file": f"{folder}/panel.npz"}
                in_own_process(drawn, given)
                fit = in_own_process(sized, given)
            rows.setdefault(str(judgments), []).append(fit)
            print(f"{judgments:>9} judgments: {fit}", flush=True)
            store(options.names["scaling"], {"options": _plain(options), "rows": rows})


def drawn(judgments: int, file: str) -> None:
    """Draw the judgments of a size into a file."""
    rng = np.random.default_rng(0)
    panel, types = planted(
        tastes(8, 16, 3.0, rng), np.full(8, 1 / 8), rng, annotators=judgments // 10, judgments=10, shown=3,
        best_only=True, pool=judgments // 10,
    )  # fmt: skip
    arrays = {name: getattr(panel, name) for name in ("responses", "ranks", "annotator", "features")}
    np.savez(file, types=types, **arrays)


def sized(judgments: int, file: str) -> dict[str, float]:
    """One fit of a size: seconds, memory in GiB before it and at its peak, and the types' adjusted Rand index."""
    with np.load(file) as arrays:
        types, panel = arrays["types"], Panel(**{name: arrays[name] for name in arrays.files if name != "types"})
    assert panel.judgments == judgments
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    start = time.perf_counter()
    model = LatentClassPlackettLuce(8).fit(panel)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": seconds, "data": before, "peak": peak, "iterations": model.n_iter_,
            "converged": model.converged_, "adjusted_rand": adjusted_rand_score(types, model.labels_)}  # fmt: skip


def _plain(options: argparse.Namespace) -> dict[str, Any]:
    kept = {key: value for key, value in vars(options).items() if key not in ("names", "only", "quick")}
    return {**kept, "threads": torch.get_num_threads()}


PARTS = {"biogeme": against_biogeme, "choix": against_choix, "scaling": scaling}


def main() -> None:
    options = parsed(
        __doc__,
        only=parts(PARTS),
        seeds=(5, "Random starts of each method against biogeme."),
        rankings=20_000,
        repeats=(5, "Turns against choix; fits of the smallest size."),
        sizes=([10**4, 10**5, 10**6], "Judgments in the study of growth."),
        quick=QUICK,
    )
    if options.quick:
        options.seeds, options.rankings, options.repeats, options.sizes = 1, 2000, 2, [1000, 2000]
    options.names = {part: f"latent_class_{part}{'_quick' * options.quick}" for part in PARTS}
    for part in options.only:
        PARTS[part](options)

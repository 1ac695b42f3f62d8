"""Published estimates of choice models reproduced: Swissmetro's logit and the two latent classes of LCCM."""

from __future__ import annotations

from typing import Any

import numpy as np

from pluralign.choice.latent_class.estimator import LatentClassPlackettLuce

from ..common.options import parsed
from ..common.results import Clock, store
from .panels import LCCM, REFERENCE, SWISSMETRO, lccm, missing, reference, swissmetro

Row = dict[str, Any]
TIME = 4
"""The first class's coefficient of travel time; it is fitted to times in another unit than the published one."""


def row(data: str, quantity: str, published: float, digits: int, *, stopped: float | None, optimum: float) -> Row:
    """A published figure, ours when EM stops where the publication stopped, and ours at the optimum."""
    early = "" if stopped is None else f"{stopped:.{digits}f}"
    print(f"{data:<11} {quantity:<46}{published:>12.{digits}f}{early:>12}{optimum:>12.{digits}f}", flush=True)
    return {"data": data, "quantity": quantity, "published": published, "digits": digits,
            "stopped": None if stopped is None else float(stopped), "optimum": float(optimum)}  # fmt: skip


def logit() -> list[Row]:
    """One type on Swissmetro: its likelihood at zero and at the optimum, and its four coefficients."""
    known = reference()["swissmetro_b01a_MNL"]
    model = LatentClassPlackettLuce(types=1, ridge=0).fit(swissmetro())
    figures = {"LL0": model.trace_[0], "LL": model.log_likelihood_}
    figures |= zip(("asc_train", "asc_car", "b_time", "b_cost"), model.coefficients_[0], strict=True)
    digits = {"LL0": 3, "LL": 3, "b_time": 2, "b_cost": 2}
    return [
        row("Swissmetro", key, known[key], digits.get(key, 3), stopped=None, optimum=value)
        for key, value in figures.items()
    ]


def classes() -> tuple[list[Row], dict[str, Any]]:
    """Two classes on LCCM: estimates, and the path of EM from the published start."""
    known = reference()["lccm_qualtrics_2class"]
    panel, settings = lccm()
    trace = np.array(known["EM_trace_from_given_start"])
    # The last published likelihood is that of the parameters before the last M-step, which gave the estimates.
    stopped = LatentClassPlackettLuce(**settings, polish=False, tolerance=0, max_iterations=len(trace)).fit(panel)
    model = LatentClassPlackettLuce(**settings).fit(panel)
    path = np.array(stopped.trace_)[: len(trace)]
    rows = [
        row("LCCM", "LL", known["LL"], 2, stopped=path[-1], optimum=model.log_likelihood_),
        row("LCCM", "n_par", known["n_par"], 0, stopped=stopped.n_parameters_, optimum=model.n_parameters_),
    ]
    published = [
        *((f"class 1: {key}", value) for key, value in known["class1"].items() if key != "choice_set"),
        *((f"class 2: {key}", value) for key, value in known["class2"].items() if key != "choice_set"),
        *((f"membership of class 2: {key}", value) for key, value in known["membership_class2"].items()),
    ]
    start = known["start"]["class1"][TIME] / settings["coefficients_init"][0, TIME]
    both = [estimates(fit, unit=start) for fit in (stopped, model)]
    for (key, value), early, late in zip(published, *both, strict=True):
        rows.append(row("LCCM", key, value, 4, stopped=early, optimum=late))
    gaps = np.abs(both[0] - np.array([value for _, value in published]))
    path = {"values": len(trace), "deviation": float(np.abs(path - trace).max()), "estimates": float(gaps.max())}
    print(path, flush=True)
    return rows, path


def estimates(model: LatentClassPlackettLuce, unit: float) -> np.ndarray:
    """The free coefficients of both classes, then the membership, in published units."""
    first, second = model.coefficients_[0, :7].copy(), model.coefficients_[1, 7:]
    first[TIME] *= unit
    return np.concatenate((first, second, model.membership_[0]))


def main() -> None:
    parsed(__doc__)
    if missing(SWISSMETRO, LCCM, REFERENCE):
        return
    clock = Clock()
    one = logit()
    two, path = classes()
    store("published", {"rows": one + two, "path": path, "seconds": clock()})

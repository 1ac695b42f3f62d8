"""One fit of two free classes to the Swissmetro panel with biogeme; prints its seconds as JSON.

It runs in an environment of its own (see `latent_class.py`), so it imports nothing of pluralign. The data are prepared
as in biogeme's examples. The argument is JSON with the file and the start, `(2, 4)` coefficients.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from typing import Any

import pandas as pd
from biogeme.biogeme import BIOGEME
from biogeme.database import Database
from biogeme.expressions import Beta, PanelLikelihoodTrajectory, Variable, exp, log
from biogeme.models import logit
from biogeme.parameters import Parameters

NAMES = ("asc_train", "asc_car", "b_time", "b_cost")
"""Coefficients of a class, in the order of the start."""

SHARE = "membership"
"""Log odds of the second class."""


def table(file: str) -> pd.DataFrame:
    """The rows that biogeme's examples use, with their derived columns."""
    rows = pd.read_csv(file, sep="\t")
    rows = rows[rows.PURPOSE.isin([1, 3]) & (rows.CHOICE != 0)].reset_index(drop=True)
    rows["TRAIN_AV_SP"], rows["CAR_AV_SP"] = rows.TRAIN_AV * (rows.SP != 0), rows.CAR_AV * (rows.SP != 0)
    for name, cost in (("TRAIN", rows.TRAIN_CO * (rows.GA == 0)), ("SM", rows.SM_CO * (rows.GA == 0)),
                       ("CAR", rows.CAR_CO)):  # fmt: skip
        rows[f"{name}_COST_SCALED"], rows[f"{name}_TT_SCALED"] = cost / 100, rows[f"{name}_TT"] / 100
    return rows.astype(float)


def model(rows: pd.DataFrame, start: list[list[float]]) -> BIOGEME:
    """Log of the mixture of two classes over an individual's choices.

    The parameters are created with the start: version 3.3.2 reads a start given to `estimate` by position, not by name.
    """
    database = Database("swissmetro", rows)
    database.panel("ID")
    available = {1: Variable("TRAIN_AV_SP"), 2: Variable("SM_AV"), 3: Variable("CAR_AV_SP")}

    def trajectory(kind: int) -> Any:
        train, car, time_, cost = (
            Beta(f"{name}_{kind}", value, None, None, 0) for name, value in zip(NAMES, start[kind], strict=True)
        )
        utilities = {
            number: constant + time_ * Variable(f"{mode}_TT_SCALED") + cost * Variable(f"{mode}_COST_SCALED")
            for number, mode, constant in ((1, "TRAIN", train), (2, "SM", 0), (3, "CAR", car))
        }
        return PanelLikelihoodTrajectory(logit(utilities, available, Variable("CHOICE")))

    odds = exp(Beta(SHARE, 0, None, None, 0))
    formula = log(trajectory(0) / (1 + odds) + trajectory(1) * odds / (1 + odds))
    made = BIOGEME(
        database, formula, parameters=Parameters(),
        generate_html=False, generate_yaml=False, save_iterations=False,
    )  # fmt: skip
    made.model_name = "two_classes"
    return made


def iterations(results: Any) -> int:
    return int(results.raw_estimation_results.optimization_messages["Number of iterations"])


def main() -> None:
    given = json.loads(sys.argv[1])
    rows = table(given["file"])
    times = [time.perf_counter()]
    made = model(rows, given["start"])
    times.append(time.perf_counter())
    whole = made.estimate()
    times.append(time.perf_counter())
    # The compiled formulas remain, so this is the search alone, from the same start.
    start = {
        f"{name}_{kind}": value
        for kind, values in enumerate(given["start"])
        for name, value in zip(NAMES, values, strict=True)
    }
    made.change_init_values(start | {SHARE: 0.0})
    search = made.quick_estimate()
    times.append(time.perf_counter())
    names = ("build", "first", "again")
    seconds = {name: end - start for name, start, end in zip(names, times, times[1:], strict=False)}
    fit = {"log_likelihood": whole.final_log_likelihood, "again_log_likelihood": search.final_log_likelihood}
    fit |= {"converged": bool(whole.algorithm_has_converged), "iterations": [iterations(r) for r in (whole, search)]}
    print(json.dumps(seconds | fit | {"versions": {name: version(name) for name in ("biogeme", "jax", "numpy")}}))


if __name__ == "__main__":
    main()

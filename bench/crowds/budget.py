"""The same number of votes on many items or on few: what a head on frozen states learns from each.

Of every source's training items that many are drawn, each with that many of its votes, so that all cells of a row cost
the same. Held-out items keep all of their votes. Head, states and baselines are those of `crowd_defaults`.
"""

from __future__ import annotations

import argparse

import torch

from ..common.options import parsed, parts
from ..common.results import store
from .defaults import run

CELLS = {
    "snli": [(600, 1), (200, 3), (60, 10), (20, 30)],
    "alphanli": [(600, 1), (200, 3), (60, 10), (20, 30)],
    "rte": [(560, 1), (280, 2), (112, 5), (56, 10)],
    "subpop": [(600, 1), (200, 3), (60, 10), (20, 30)],
    "polis-statements": [(150, 1), (50, 3), (15, 10)],
}
"""Training items and votes on each, by source."""

ROWS = ("marginal", "logistic", "energy")


def main() -> None:
    options = parsed(__doc__, seeds=10, sources=parts(CELLS, "Only these sources."))
    torch.set_num_threads(1)
    found = []
    for name in options.sources:
        for items, votes in CELLS[name]:
            settings = argparse.Namespace(seeds=options.seeds, items=items, votes=votes, rows=ROWS)
            rows = {row.pop("row"): row for row in run(name, settings)["rows"]}
            found.append({"source": name, "items": items, "votes": votes, "rows": rows})
            print(name, items, votes, {row: round(own["log_loss"], 4) for row, own in rows.items()}, flush=True)
    store("crowd_budget", {"options": vars(options), "cells": found})

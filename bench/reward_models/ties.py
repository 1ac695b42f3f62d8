"""Ties as outcomes of their own: Davidson's model against `efron` and strict pairs alone, on real crowds.

A linear reward on frozen MiniLM states of the responses, fitted by maximum likelihood with a ridge that is chosen on a
held-out quarter of the training prompts. `davidson` learns nu with the reward; `efron` takes a tie for an order that
was lost; `strict` leaves ties out. The last two say nothing about ties, so they are given the nu that is most likely on
their training pairs, which is more than they offer by themselves. `constant` predicts the training share of ties and
halves the rest. Held out: 3 in 10 prompts, and so their answers, or, where there are few prompts with many answers, 3
in 10 pairs of answers. All see the same judgments; intervals are over what is held out and annotators, and pair
`davidson` with each other row judgment by judgment.
"""

from __future__ import annotations

import csv
import gzip
import json
from typing import Any

import numpy as np
import torch

from pluralign.choice.davidson import davidson_pair_log_likelihood, estimated_log_nu, log_outcomes
from pluralign.choice.plackett_luce import pair_log_likelihood
from pluralign.evaluation.intervals import Resampling, annotator_ids
from pluralign.judgments import Judgments
from pluralign.scoring.features import text_features
from pluralign.scoring.items import items_of
from pluralign.scoring.measured import column_of

from ..common.data import DATA, encoder, load
from ..common.options import parsed, parts
from ..common.results import OUT, store

SOURCES = ("llm_crowd", "convarg", "webgpt", "pandalm")
PAIRS_TOO = ("llm_crowd", "convarg")
"""Sources with few prompts, whose pairs of answers are held out as well."""
ROWS = ("constant", "strict", "efron", "davidson")
RIDGES = (0.003, 0.01, 0.03, 0.1, 0.3)
MOST = 8000
"""Judgments of a source, at most, drawn at random."""


def llm_crowd() -> Judgments:
    """Verdicts of workers on two answers; pairs of equal or empty answers are left out."""
    with gzip.open(DATA / "llm_crowd" / "pairs.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = {(row["prompt"], row["model_x"], row["model_y"]): row for row in map(json.loads, file)}
    rows = []
    with gzip.open(DATA / "llm_crowd" / "comparisons.csv.gz", "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            pair = texts[int(row["prompt"]), int(row["model_x"]), int(row["model_y"])]
            answers = [pair["result_x"], pair["result_y"]]
            if answers[0] == answers[1] or not all(text.strip() for text in answers):
                continue
            ranks = {"left": [1, 2], "right": [2, 1], "tie": [1, 1]}[row["winner"]]
            rows.append({"prompt": pair["text"], "responses": answers, "ranks": ranks, "annotator": row["worker"]})
    return Judgments.from_rows(rows)


class Crowd:
    """Pairs of a source: feature differences, outcomes, the units that are held out (prompts or pairs), annotators."""

    def __init__(self, name: str, held_out: str = "prompts") -> None:
        judgments = llm_crowd() if name == "llm_crowd" else load(name)[0]
        items = items_of(judgments)
        states = text_features(items, encoder(), cache=OUT / "cache").astype(np.float64)
        pairs = np.flatnonzero(np.diff(items.offsets) == 2)
        pairs = np.sort(np.random.default_rng(0).permutation(pairs)[:MOST])
        shown = items.response[items.offsets[pairs][:, None] + np.arange(2)]
        self.ranks = items.ranks[items.offsets[pairs][:, None] + np.arange(2)]
        self.x = (states[shown[:, 0]] - states[shown[:, 1]]) / states.std(0)
        order = np.where(self.ranks > 0, self.ranks, 99)
        self.outcome = np.where(order[:, 0] < order[:, 1], 0, np.where(order[:, 0] == order[:, 1], 1, 2))
        units = items.prompt[pairs] if held_out == "prompts" else np.sort(shown, 1)
        self.unit = np.unique(units, axis=0, return_inverse=True)[1].ravel()
        who = annotator_ids(column_of(judgments, items, "annotator"))
        self.annotator = who[pairs]


def fitted(crowd: Crowd, rows: np.ndarray, method: str, ridge: float) -> tuple[np.ndarray, float]:
    """Weights of the reward and log nu."""
    chosen = rows if method != "strict" else rows[crowd.outcome[rows] != 1]
    x, ranks = torch.from_numpy(crowd.x[chosen]), torch.from_numpy(crowd.ranks[chosen])
    w = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    log_nu = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([w, log_nu], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        margin = x @ w
        utilities = torch.stack((margin, torch.zeros_like(margin)), 1)
        if method == "davidson":
            each = davidson_pair_log_likelihood(utilities, ranks, log_nu)
        else:
            each = pair_log_likelihood(utilities, ranks) + 0 * log_nu
        loss = -each.mean() + ridge / 2 * (w @ w)
        loss.backward()
        return loss

    optimizer.step(closure)
    weights = w.detach().numpy()
    return weights, estimated_log_nu(crowd.x[rows] @ weights, crowd.outcome[rows])


def outcomes(crowd: Crowd, method: str, train: np.ndarray, test: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    """Log-probabilities of the three outcomes of each test pair, and nu."""
    if method == "constant":
        log_nu = estimated_log_nu(np.zeros(len(train)), crowd.outcome[train])
        return log_outcomes(np.zeros(len(test)), log_nu), float(np.exp(log_nu))
    units = np.random.default_rng([seed, 1]).permutation(np.unique(crowd.unit[train]))
    inside = np.isin(crowd.unit[train], units[: max(1, len(units) // 4)])
    held = train[inside]
    losses = {}
    for ridge in RIDGES:
        w, log_nu = fitted(crowd, train[~inside], method, ridge)
        losses[ridge] = -log_outcomes(crowd.x[held] @ w, log_nu)[np.arange(len(held)), crowd.outcome[held]].mean()
    w, log_nu = fitted(crowd, train, method, min(losses, key=losses.__getitem__))
    return log_outcomes(crowd.x[test] @ w, log_nu), float(np.exp(log_nu))


def run(name: str, held_out: str, options: Any) -> dict[str, Any]:
    crowd = Crowd(name, held_out)
    places, logs, nus = [], {method: [] for method in ROWS}, {method: [] for method in ROWS}
    for seed in range(options.seeds):
        units = np.random.default_rng(seed).permutation(crowd.unit.max() + 1)
        held = np.isin(crowd.unit, units[: max(1, round(0.3 * len(units)))])
        train, test = np.flatnonzero(~held), np.flatnonzero(held)
        places.append(test)
        for method in ROWS:
            own, nu = outcomes(crowd, method, train, test, seed)
            logs[method].append(own)
            nus[method].append(nu)
    place = np.concatenate(places)
    each = {method: np.concatenate(own) for method, own in logs.items()}
    outcome, rows = crowd.outcome[place], np.arange(len(place))
    resampling = Resampling(crowd.unit[place], annotator=crowd.annotator[place])
    strict = (outcome != 1).astype(float)
    table = []
    for method, own in each.items():
        right = np.where(own[:, 0] == own[:, 2], 0.5, (own[:, 0] > own[:, 2]) == (outcome == 0))
        means = {
            "log_loss": (-own[rows, outcome], 1.0),
            "predicted_ties": (np.exp(own[:, 1]), 1.0),
            "accuracy": (strict * right, strict),
            "davidson_gain": (each["davidson"][rows, outcome] - own[rows, outcome], 1.0),
        }
        table.append({"row": method, "nu": float(np.mean(nus[method])), **resampling.mean_intervals(means)})
    ties = float((outcome == 1).mean())
    return {"judgments": len(crowd.x), "units": int(crowd.unit.max()) + 1, "held_out": held_out, "ties": ties,
            "rows": table}  # fmt: skip


def main() -> None:
    options = parsed(__doc__, seeds=5, sources=parts(SOURCES, "Only these sources."))
    torch.set_num_threads(1)
    results = {}
    for name, held_out in [(name, unit) for name in options.sources for unit in ("prompts", "pairs")]:
        if held_out == "pairs" and name not in PAIRS_TOO:
            continue
        found = results[f"{name}, {held_out}"] = run(name, held_out, options)
        for row in found["rows"]:
            shown = {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
            print(name, held_out, shown, flush=True)
    store("ties", {"options": vars(options), "sources": results})

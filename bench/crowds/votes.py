"""How accurate is a crowd's target? By votes and prior, while opinions drift, and from an uneven sample.

`needed`: the votes of ChaosNLI (100 an item) and of the weather labels (20) are drawn without replacement, and the
target of n of them is compared with all. An estimated prior (the marginal of other items, its strength) comes from one
half of the items and is evaluated on the other, and the reverse. `drift`: items whose shares stay, move evenly or
change at once; votes arrive by window and old ones fade. `groups`: votes on Polis statements are drawn with replacement
from each opinion group's own votes, too many of them from the smaller group; the known shares of the groups correct
them. Targets are not smoothed. No model is trained and no text is read.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from pluralign.choice.dirichlet import credible_interval, faded, posterior_mean, prior_state, total_variation
from pluralign.choice.label_costs import LabelCost, label_cost
from pluralign.choice.post_stratification import crowd_counts
from pluralign.choice.transport import transport_cost

from ..common.data import DATA, POLIS_CONVERSATIONS, load
from ..common.options import parsed
from ..common.results import store

Floats = np.ndarray

WEATHER_REWARDS = (-1.0, 0.0, 1.0, 0.0, 0.0)
"""Negative, neutral, positive; "not related" and "cannot tell" are at neutral, apart from it by the step alone."""

KAPPAS = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 40.0)
"""Strengths from which the other half of the items chooses one."""

PRIORS: dict[str, tuple[str, float | str]] = {
    "none": ("uniform", 0.0),
    "uniform, 1": ("uniform", 1.0),
    "uniform, labels": ("uniform", "labels"),
    "uniform, 10": ("uniform", 10.0),
    "uniform, chosen": ("uniform", "chosen"),
    "marginal, labels": ("marginal", "labels"),
    "marginal, chosen": ("marginal", "chosen"),
}
"""Name to the shares of the prior and its strength; `labels` is the number of labels, the default."""

DECAYS = (1.0, 0.9, 0.7, 0.5, 0.0)
CHANGES: dict[str, Callable[[float], float]] = {
    "none": lambda _: 0.0,
    "even, over the whole time": lambda time: time,
    "at once, half the time ago": lambda time: float(time > 0.5),
    "at once, a fifth of the time ago": lambda time: float(time > 0.8),
}
"""The part of the way from the first to the last opinion, at a time from 0 to 1."""

SAMPLES = ("as the population", "90 % of the smaller group", "90 %, random groups")
"""How votes are collected. Random groups differ by chance alone, so correcting them can only cost."""


def costs_between(one: Floats, other: Floats, cost: LabelCost) -> Floats:
    """Transport cost of distributions `(..., labels)`: `(...)`."""
    pair = (torch.from_numpy(np.ascontiguousarray(side.reshape(-1, cost.labels))) for side in (one, other))
    return transport_cost(*pair, cost).numpy().reshape(one.shape[:-1])


def covered(state: Floats, counts: Floats, share: Floats) -> Floats:
    """The fraction of labels whose share lies in its 95 % credible interval: `(...)`."""
    low, high = credible_interval(state + counts)
    return ((low <= share) & (share <= high)).mean(-1)


def crowds() -> dict[str, tuple[Floats, Sequence[float], tuple[int, ...]]]:
    """Counts `(items, labels)`, the rewards of the labels, and the numbers of votes to draw."""
    data: dict[str, tuple[Floats, Sequence[float], tuple[int, ...]]] = {}
    for name, rewards in {"alphanli": (1.0, 0.0), "snli": (1.0, 0.0, -1.0)}.items():
        with gzip.open(DATA / "chaosnli" / f"chaosNLI_{name}.jsonl.gz", "rt") as file:
            counts = np.array([json.loads(line)["label_count"] for line in file])
        data[f"ChaosNLI {name}"] = counts, rewards, (1, 2, 3, 5, 10, 20, 50)
    items: dict[str, int] = {}
    table = np.zeros((300, 5), dtype=np.int64)
    with gzip.open(DATA / "crowd_labels" / "weather_sentiment_amt.csv.gz", "rt") as file:
        for row in csv.DictReader(file):
            table[items.setdefault(row["task"], len(items)), int(row["label"])] += 1
    data["weather"] = table[table.sum(1) == 20], WEATHER_REWARDS, (1, 2, 3, 5, 10)  # all but 12
    return data


def drawn_in_turn(counts: Floats, rng: np.random.Generator) -> Floats:
    """Votes after 1, 2 ... all of them, in random order: `(votes, items, labels)`."""
    labels = np.arange(counts.shape[1])
    votes = np.array([np.repeat(labels, row) for row in counts])  # every item has as many votes
    return np.cumsum(rng.permuted(votes, axis=1).T[..., None] == labels, axis=0).astype(float)


def needed(name: str, counts: Floats, rewards: Sequence[float], sizes: Sequence[int], seeds: int) -> dict[str, Any]:
    """Error and coverage of each prior's target by the number of votes."""
    items, labels = counts.shape
    full, cost = counts / counts.sum(1, keepdims=True), label_cost(rewards)
    wrong = {prior: np.zeros((3, len(sizes), items)) for prior in PRIORS}
    chosen: dict[str, list[float]] = {prior: [] for prior in PRIORS}
    for seed in range(seeds):
        rng = np.random.default_rng([seed, labels])
        votes = drawn_in_turn(counts, rng)[[size - 1 for size in sizes]]  # (sizes, items, labels)
        first = rng.permutation(items) < items // 2
        for judged in (first, ~first):
            marginal = (votes[:, ~judged] / votes[:, ~judged].sum(-1, keepdims=True)).mean(1, keepdims=True)
            for prior, (shares, strength) in PRIORS.items():
                q = np.full((len(sizes), 1, labels), 1 / labels) if shares == "uniform" else marginal
                kappa = float(labels) if strength == "labels" else strength
                if kappa == "chosen":
                    trials = [
                        total_variation(posterior_mean(prior_state(q, each), votes[:, ~judged]), full[~judged]).mean()
                        for each in KAPPAS
                    ]
                    kappa = KAPPAS[int(np.argmin(trials))]
                chosen[prior].append(float(kappa))
                state = prior_state(q, kappa) if kappa else np.zeros(1)
                mean = posterior_mean(state, votes[:, judged])
                aim = np.broadcast_to(full[judged], mean.shape)
                cells = [total_variation(mean, aim), costs_between(mean, aim, cost)]
                cells.append(covered(state, votes[:, judged], aim) if kappa else np.full(aim.shape[:2], np.nan))
                wrong[prior][:, :, judged] += np.array(cells) / seeds
    names = ("total_variation", "transport_cost", "coverage")
    return {
        "data": name, "items": items, "labels": labels, "votes": int(counts[0].sum()), "sizes": list(sizes),
        "unvoted": float((counts == 0).mean()),
        "error": float(max(cells[0].std(1).max() for cells in wrong.values()) / items**0.5),
        "rows": {
            prior: {"kappa": sorted(set(chosen[prior])), **dict(zip(names, cells.mean(2).tolist(), strict=True))}
            for prior, cells in wrong.items()
        },
    }  # fmt: skip


def drift(change: str, votes: int, options: argparse.Namespace) -> dict[str, Any]:
    """Error of the target after the last window, for each decay."""
    items, windows = options.items, options.windows
    rewards = (1.0, 0.0, -1.0)
    cost, start = label_cost(rewards), prior_state(np.full((items, 3), 1 / 3), 3.0)
    errors: dict[float, list[tuple[float, float]]] = {decay: [] for decay in DECAYS}
    for seed in range(options.seeds):
        rng = np.random.default_rng([seed, votes])
        before, after = rng.dirichlet(np.ones(3), size=(2, items))
        shares = [before + CHANGES[change](window / (windows - 1)) * (after - before) for window in range(windows)]
        cast = [rng.multinomial(votes, share) for share in shares]
        for decay in DECAYS:
            state = start
            for window, counts in enumerate(cast):
                state = (state if window == 0 else faded(state, start, decay)) + counts
            mean = posterior_mean(state)
            error = total_variation(mean, shares[-1]), costs_between(mean, shares[-1], cost)
            errors[decay].append((float(error[0].mean()), float(error[1].mean())))
    spread = max(np.std([pair[0] for pair in own]) for own in errors.values()) / options.seeds**0.5
    means = {str(decay): np.mean(own, axis=0).tolist() for decay, own in errors.items()}
    return {"change": change, "votes": votes, "errors": means, "standard_error": float(spread)}


def group_votes(conversation: str, least: int, shuffle: np.random.Generator | None) -> tuple[Floats, Floats]:
    """Shares of the two groups, the smaller first, and their votes `(statements, groups, labels)`.

    Statements on which either group has fewer than `least` votes are left out.
    """
    rows = [row for row in load(f"polis-{conversation}")[0].rows() if row["group"] is not None]
    members = {row["annotator"]: row["group"] for row in rows}
    if shuffle is not None:
        members = dict(zip(members, shuffle.permutation(list(members.values())), strict=True))
    names = sorted(set(members.values()), key=list(members.values()).count)
    labels = {"agree": 0, "pass": 1, "disagree": 2}
    statements: dict[str, int] = {}
    for row in rows:
        statements.setdefault(row["responses"][0], len(statements))
    table = np.zeros((len(statements), len(names), 3))
    for row in rows:
        place = statements[row["responses"][0]], names.index(members[row["annotator"]]), labels[row["labels"][0]]
        table[place] += row["weight"]
    kept = table[table.sum(2).min(1) >= least]
    return np.array([list(members.values()).count(name) for name in names]) / len(members), kept


def groups(conversation: str, sample: str, sizes: Sequence[int], options: argparse.Namespace) -> dict[str, Any]:
    """Error and coverage of plain and of corrected shares, by the number of votes on a statement."""
    shuffle = np.random.default_rng(0) if sample.endswith("random groups") else None
    shares, table = group_votes(conversation, options.least, shuffle)
    own = table / table.sum(2, keepdims=True)
    truth = shares @ own  # (statements, labels): the shares of this population
    asked = shares if sample == SAMPLES[0] else np.array([0.9, 0.1])
    cost, state = label_cost((1.0, 0.0, -1.0)), prior_state(np.full(3, 1 / 3), 3.0)
    rng = np.random.default_rng([len(own), len(sample)])
    cells = {}
    for size in sizes:
        each = np.zeros((options.seeds, 7, len(own)))
        for seed in range(options.seeds):
            drawn = rng.multinomial(size, asked, size=len(own))  # (statements, groups)
            votes = rng.multinomial(drawn, own).astype(float)
            corrected = crowd_counts(votes, shares).counts
            sides = []
            for counts in (votes.sum(1), corrected):
                raw = counts / counts.sum(1, keepdims=True)
                sides += [total_variation(raw, truth), costs_between(raw, truth, cost)]
                sides.append(covered(state, counts, truth))
            each[seed] = [*sides, corrected.sum(1)]
        by_statement = each.mean(0)
        gain = by_statement[3] - by_statement[0]
        draws = np.random.default_rng(0).integers(len(gain), size=(2000, len(gain)))
        cells[str(size)] = {
            "plain": by_statement[:3].mean(1).tolist(),
            "corrected": by_statement[3:6].mean(1).tolist(),
            "worth": float(by_statement[6].mean()),
            "difference": np.quantile(gain[draws].mean(1), (0.025, 0.975)).tolist(),
        }
    apart = float(total_variation(own[:, 0], own[:, 1]).mean())
    row = {"conversation": conversation, "sample": sample, "statements": len(own), "smaller": float(shares[0])}
    return row | {"apart": apart, "cells": cells}


def main() -> None:
    options = parsed(
        __doc__,
        seeds=(20, "Repetitions of every draw."),
        items=(300, "Items of drift."),
        windows=(20, "Windows of drift."),
        least=(10, "Votes of either group that a statement needs."),
    )
    data = [needed(name, *given, options.seeds) for name, given in crowds().items()]
    store("crowd_votes_needed", {"options": vars(options), "data": data})
    rows = [drift(change, votes, options) for change in CHANGES for votes in (1, 3, 10)]
    store("crowd_votes_drift", {"options": vars(options), "rows": rows})
    sizes = (5, 10, 30, 100)
    rows = [groups(name, sample, sizes, options) for sample in SAMPLES for name in POLIS_CONVERSATIONS]
    store("crowd_votes_groups", {"options": vars(options), "sizes": sizes, "rows": rows})

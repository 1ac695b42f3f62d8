"""Means over seeds of the stored predictions, with 95 % intervals over seeds and items within them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from pluralign.evaluation.calibration.reliability import bin_of
from pluralign.evaluation.crowds.distributions import predicted_crowds
from pluralign.evaluation.intervals import Resampling

from .sources import Source

ITEM_METRICS = (
    "transport_cost",
    "total_variation",
    "log_loss",
    "log_loss_excess",
    "expected_reward_error",
    "majority_accuracy",
)
METRICS = (*ITEM_METRICS, "share_ece")
PAIR_METRICS = ("pair_accuracy", "pair_log_loss")
BINS = 10
REPLICATES = 1000


def choice_shares(crowd: Source, mu: np.ndarray, test: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """For each pair, the share that rates the first item higher, among those who rate the two differently.

    The two ratings are independent draws: P(R_1 > R_2) / (P(R_1 > R_2) + P(R_1 < R_2)).
    """
    place = np.full(len(crowd.prompt), -1)
    place[test] = np.arange(len(test))
    left, right = (mu[place[pairs[:, column].astype(int)]] for column in (0, 1))
    worth = np.array(crowd.scale.rewards)
    higher = (worth[:, None] > worth).astype(float)
    first = np.einsum("pl,lm,pm->p", left, higher, right)
    second = np.einsum("pl,lm,pm->p", right, higher, left)
    return np.asarray((first + 1e-12) / (first + second + 2e-12))  # 1/2 where all mass is on one label


def columns(crowd: Source, entry: dict[str, Any], row: str) -> tuple[np.ndarray, np.ndarray]:
    """The sums that metrics are ratios of: per item `(items, 1 + metrics + bins)`, per pair `(pairs, 3)`."""
    test, stored = np.array(entry["test"]), entry["rows"][row]
    items = np.full((len(test), 1 + len(ITEM_METRICS) + BINS), np.nan)
    if stored["predicted"] is not None:
        own = predicted_crowds(
            np.array(stored["predicted"]), crowd.counts[test], crowd.scale.rewards, crowd.cluster[test]
        )
        labels = own.predicted.shape[1]
        bins = bin_of(own.predicted, np.linspace(0, 1, BINS + 1))
        gaps = (bins[..., None] == np.arange(BINS)) * (own.predicted - own.share)[..., None] / labels
        means = [own.values[name] for name in ITEM_METRICS]
        items = np.concatenate((np.ones((len(test), 1)), np.stack(means, 1), gaps.sum(1)), 1)
    pairs = np.array(entry["pairs"]).reshape(-1, 4)
    if stored["first"] is None or not len(pairs):
        return items, np.full((len(pairs), 3), np.nan)
    first = np.clip(np.array(stored["first"]), 1e-6, 1 - 1e-6)
    one, other = pairs[:, 2], pairs[:, 3]
    right = np.where(np.abs(first - 0.5) < 1e-9, (one + other) / 2, np.where(first > 0.5, one, other))
    loss = -one * np.log(first) - other * np.log1p(-first)
    return items, np.stack((one + other, right, loss), 1)


def metrics_of(items: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Metrics `(..., metrics)` from sums `(..., columns)`."""
    weight = items[..., :1]
    last = 1 + len(ITEM_METRICS)
    ece = np.abs(items[..., last:]).sum(-1, keepdims=True) / weight
    with np.errstate(invalid="ignore", divide="ignore"):
        compared = pairs[..., 1:] / pairs[..., :1]
    return np.concatenate((items[..., 1:last] / weight, ece, compared), -1)


def evaluated(crowd: Source, entry: dict[str, Any], row: str) -> dict[str, float]:
    """The metrics of one row of one seed."""
    items, pairs = columns(crowd, entry, row)
    values = metrics_of(items.sum(0), pairs.sum(0))
    return {name: float(value) for name, value in zip((*METRICS, *PAIR_METRICS), values, strict=True) if value == value}


def summary(crowd: Source, name: str, folder: Path, order: tuple[str, ...]) -> dict[str, Any]:
    """Rows in a given order with means and intervals, and their paired differences to constants and to `ce`.

    A replicate resamples seeds, and within each seed its held-out items by cluster; all rows share the draws. A pair of
    two clusters counts as often as the product of their counts.
    """
    entries = [json.loads(file.read_text()) for file in sorted(folder.glob(f"{name}-*.json"))]
    # Unfinished seeds are left out, so that every row has the same ones.
    most = max((len(entry["rows"]) for entry in entries), default=0)
    entries = [entry for entry in entries if len(entry["rows"]) == most]
    rows = [row for row in order if entries and row in entries[0]["rows"]]
    if not rows:
        return {}
    seeds, metrics = len(entries), (*METRICS, *PAIR_METRICS)
    plain = np.zeros((seeds, len(rows), len(metrics)))
    drawn = np.zeros((seeds, REPLICATES, len(rows), len(metrics)))
    for place, entry in enumerate(entries):
        test, pairs = np.array(entry["test"]), np.array(entry["pairs"]).reshape(-1, 4)
        clusters, cluster = np.unique(crowd.cluster[test], return_inverse=True)
        ends = np.searchsorted(clusters, crowd.cluster[pairs[:, :2].astype(int)])
        sums = [columns(crowd, entry, row) for row in rows]
        for number, (items, compared) in enumerate(sums):
            plain[place, number] = metrics_of(items.sum(0), compared.sum(0))
        start = 0
        for counts in Resampling(clusters, REPLICATES, seed=place).weights():
            twice = np.where(
                ends[:, 0] == ends[:, 1], counts[:, ends[:, 0]], counts[:, ends[:, 0]] * counts[:, ends[:, 1]]
            )
            for number, (items, compared) in enumerate(sums):
                drawn[place, start : start + len(counts), number] = metrics_of(
                    counts[:, cluster] @ items, twice @ compared
                )
            start += len(counts)
    choice = np.random.default_rng(0).integers(seeds, size=(REPLICATES, seeds))
    mixed = drawn[choice, np.arange(REPLICATES)[:, None]].mean(1)
    means = plain.mean(0)

    def summarised(values: np.ndarray, replicates: np.ndarray) -> dict[str, Any]:
        low, high = np.quantile(replicates, [0.025, 0.975], axis=0)
        return {
            name: [float(value), float(below), float(above)]
            for name, value, below, above in zip(metrics, values, low, high, strict=True)
            if value == value
        }

    result: dict[str, Any] = {
        "seeds": seeds, "train": entries[0]["train"], "test": len(entries[0]["test"]),
        "setting": entries[0]["setting"], "pairs": len(entries[0]["pairs"]), "rows": {}, "to": {},
        "entropy": float(np.mean([vote_entropy(crowd, np.array(entry["test"])) for entry in entries])),
    }  # fmt: skip
    for number, row in enumerate(rows):
        result["rows"][row] = summarised(means[number], mixed[:, number])
        result["rows"][row]["seconds"] = float(np.mean([entry["rows"][row]["seconds"] for entry in entries]))
    for base in ("marginal", "medians", "logistic", "ce"):
        if base in rows:
            own = rows.index(base)
            result["to"][base] = {
                row: summarised(means[number] - means[own], mixed[:, number] - mixed[:, own])
                for number, row in enumerate(rows)
                if row != base
            }
    return result


def vote_entropy(crowd: Source, test: np.ndarray) -> float:
    """Mean entropy of the votes in nats: a lower bound of any prediction's log-loss."""
    share = crowd.counts[test] / crowd.counts[test].sum(1, keepdims=True)
    return float(-(share * np.log(np.maximum(share, 1e-300))).sum(1).mean())

"""Strengths of preference as ordered outcomes, on HelpSteer2: do they help to predict who wins?

A pair's strength is the difference of the two published helpfulness scores, one to four steps of a quarter; equal
scores are ties. A linear reward on TF-IDF features (256 dimensions) is fitted by maximum likelihood, with the ridge
that is best on a quarter of the training prompts: `bradley-terry` by who wins (ties by `efron`), `strict` by strict
pairs alone, `ordered` by the cumulative logit with its thresholds. Held out: 3 in 10 prompts. `log-loss` is that of
strict pairs (of `ordered`: given that they are strict), `ordered outcome` that of all pairs with their strength;
`constant` has thresholds alone.
"""

from __future__ import annotations

import gzip
import json

import numpy as np
import torch
from scipy.special import expit
from torch.nn.functional import logsigmoid

from pluralign.choice.ordered import ordered_pair_log_likelihood, starting_gaps, thresholds_of
from pluralign.choice.plackett_luce import pair_log_likelihood
from pluralign.evaluation.intervals import Resampling
from pluralign.scoring.features import text_features
from pluralign.scoring.items import items_of_texts

from ..common.data import DATA
from ..common.options import parsed
from ..common.results import OUT, store

ROWS = ("constant", "strict", "bradley-terry", "ordered")
RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0)


def pairs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Differences of features `(pairs, d)`, signed strengths -4 ... 4, and prompts."""
    prompts, texts, gap = [], [], []
    for part in ("train", "eval"):
        with gzip.open(DATA / "helpsteer2_subset" / f"{part}.jsonl.gz", "rt", encoding="utf-8") as file:
            for row in map(json.loads, file):
                first, second = (round(4 * label["helpfulness"]) for label in row["labels"])
                prompts.append(row["prompt"])
                texts.append(row["responses"])
                gap.append(first - second)
    states = text_features(items_of_texts(prompts, texts), "tfidf", dimensions=256, cache=OUT / "cache")
    states = states.astype(np.float64)
    states = (states / states.std(0)).reshape(len(gap), 2, -1)
    return states[:, 0] - states[:, 1], np.array(gap), np.unique(prompts, return_inverse=True)[1]


def outcome(gap: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    ranks = np.where(gap[:, None] == 0, [1, 1], np.where(gap[:, None] > 0, [1, 2], [2, 1]))
    return torch.from_numpy(ranks), torch.from_numpy(np.abs(gap))


def fitted(x: np.ndarray, gap: np.ndarray, row: str, ridge: float) -> tuple[np.ndarray, torch.Tensor]:
    """Weights, and the logs of the gaps between thresholds."""
    start = starting_gaps(np.bincount(np.abs(gap), minlength=5))
    if row == "strict":
        x, gap = x[gap != 0], gap[gap != 0]
    ranks, strength = outcome(gap)
    features = torch.from_numpy(x)
    w = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    gaps = start.clone().requires_grad_(row in ("ordered", "constant"))
    optimizer = torch.optim.LBFGS([w, gaps], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        margin = features @ w * (0.0 if row == "constant" else 1.0)
        utilities = torch.stack((margin, torch.zeros_like(margin)), 1)
        if row in ("ordered", "constant"):
            each = ordered_pair_log_likelihood(utilities, ranks, strength, thresholds_of(gaps, ties=True))
        else:
            each = pair_log_likelihood(utilities, ranks) + 0 * gaps.sum()
        loss = -each.mean() + ridge / 2 * (w @ w)
        loss.backward()
        return loss

    optimizer.step(closure)
    return w.detach().numpy(), gaps.detach()


def losses(x: np.ndarray, gap: np.ndarray, row: str, w: np.ndarray, gaps: torch.Tensor) -> dict[str, np.ndarray]:
    """Log-loss of who wins (NaN for ties), of the ordered outcome, and whether the winner is right."""
    margin = torch.from_numpy(x @ w)
    cuts = thresholds_of(gaps, ties=True)
    toward = margin * torch.from_numpy(np.sign(gap)).double()
    right = np.where(toward == 0, 0.5, toward.numpy() > 0)
    if row in ("ordered", "constant"):
        wins, loses = logsigmoid(toward - cuts[0]), logsigmoid(-toward - cuts[0])
        win = -(wins - torch.logaddexp(wins, loses)).numpy()
        ranks, strength = outcome(gap)
        sides = torch.stack((margin, torch.zeros_like(margin)), 1)
        ordered = -ordered_pair_log_likelihood(sides, ranks, strength, cuts).numpy()
    else:
        win, ordered = -np.log(expit(toward.numpy())), np.full(len(gap), np.nan)
    return {"win": win, "ordered": ordered, "right": right}


def main() -> None:
    options = parsed(__doc__, seeds=5)
    torch.set_num_threads(1)
    x, gap, prompt = pairs()
    found: dict[str, list[dict[str, np.ndarray]]] = {row: [] for row in ROWS}
    tests = []
    for seed in range(options.seeds):
        order = np.random.default_rng(seed).permutation(prompt.max() + 1)
        held = np.isin(prompt, order[: round(0.3 * len(order))])
        train, test = np.flatnonzero(~held), np.flatnonzero(held)
        tests.append(test)
        inner = np.isin(prompt[train], order[round(0.3 * len(order)) :][: round(0.175 * len(order))])
        for row in ROWS:
            tuned = {}
            for ridge in RIDGES if row != "constant" else (1.0,):
                w, gaps = fitted(x[train[~inner]], gap[train[~inner]], row, ridge)
                own = losses(x[train[inner]], gap[train[inner]], row, w, gaps)
                tuned[ridge] = own["win"][gap[train[inner]] != 0].mean()
            w, gaps = fitted(x[train], gap[train], row, min(tuned, key=tuned.__getitem__))
            found[row].append(losses(x[test], gap[test], row, w, gaps))
    test = np.concatenate(tests)
    strict = (gap[test] != 0).astype(float)
    each = {row: {key: np.concatenate([own[key] for own in runs]) for key in runs[0]} for row, runs in found.items()}
    resampling, rows = Resampling(prompt[test]), []
    base = each["bradley-terry"]
    for row, own in each.items():
        means = {
            "accuracy": (strict * own["right"], strict), "log_loss": (strict * own["win"], strict),
            "accuracy_gain": (strict * (own["right"] - base["right"]), strict),
            "log_loss_gain": (strict * (base["win"] - own["win"]), strict),
        }  # fmt: skip
        if np.isfinite(own["ordered"]).all():
            means["ordered"] = (own["ordered"], 1.0)
            means["ordered_gain"] = (each["constant"]["ordered"] - own["ordered"], 1.0)
        rows.append({"row": row, **resampling.mean_intervals(means)})
        print(
            {key: round(value, 4) if isinstance(value, float) else value for key, value in rows[-1].items()}, flush=True
        )
    store("strengths", {"options": vars(options), "pairs": len(gap), "ties": float((gap == 0).mean()), "rows": rows})

"""DPRM for known groups on `subpop`: answers of 22 groups of the US population to survey questions.

A linear head with a deviation for each group, which is shrunk (`by_group` of DPRM), reads the frozen MiniLM state of
the question. `head` is the same without groups. `marginal` is the mean of all training cells (question, group), `group
marginal` that of a group, `question marginal` that of a question's other groups, where there are any. `logistic` is
soft-label logistic regression on the question's state.

Held out are questions (all of their groups), or 3 in 10 groups of each question. The head's steps and the shrinkage are
those with the best log-loss on a fifth of the training units, for each row; the loss is `ce`, as in the regression.
Intervals resample questions, with all seeds of a question together; `over the rest` pairs rows cell by cell.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from scipy.special import xlogy

from pluralign.choice.label_regression import LabelRegression
from pluralign.evaluation.intervals import Resampling
from pluralign.scoring.features import text_features
from pluralign.scoring.items import items_of_texts

from ..common.data import encoder
from ..common.options import parsed, parts
from ..common.results import OUT, store
from .sources import source

ROWS = ("marginal", "group marginal", "question marginal", "logistic", "head", "group head")
SPLITS = ("questions", "groups within questions")
STEPS = (10, 20, 40, 80, 160, 320)
SHRINKAGE = (3.0, 30.0, 300.0, 3000.0)
RATE = 1e-3


class Cells:
    """Questions, groups and shares of answers, a hundred votes each."""

    def __init__(self) -> None:
        crowd = source("subpop")
        texts, self.question = np.unique(crowd.prompt, return_inverse=True)
        self.names, self.group = np.unique(crowd.response, return_inverse=True)
        self.shares = crowd.counts / crowd.counts.sum(1, keepdims=True)
        states = text_features(items_of_texts([""] * len(texts), [[text] for text in texts]), encoder(),
                               cache=OUT / "cache").astype(np.float64)  # fmt: skip
        self.states = (states - states.mean(0)) / states.std(0)

    def parts(self, kind: str, seed: int, share: float = 0.3, among: np.ndarray | None = None) -> Any:
        """Training cells and held-out cells."""
        draw, chosen = np.random.default_rng(seed), np.arange(len(self.group)) if among is None else among
        if kind == "questions":
            units = draw.permutation(np.unique(self.question[chosen]))
            held = np.isin(self.question[chosen], units[: max(1, round(share * len(units)))])
        else:
            held = draw.random(len(chosen)) < share
        return chosen[~held], chosen[held]


def head(cells: Cells, train: np.ndarray, by_group: bool, shrinkage: float, until: int) -> list[torch.Tensor]:
    """Log-shares of all cells after each number of `STEPS` up to the last one."""
    x = torch.from_numpy(np.hstack([cells.states, np.ones((len(cells.states), 1))])).float()
    target, question, group = (torch.from_numpy(own) for own in (cells.shares, cells.question, cells.group))
    labels = target.shape[1]
    common = torch.zeros(x.shape[1], labels)
    common[-1] = target[train].float().mean(0).log()
    deviation = torch.zeros(len(cells.names), x.shape[1], labels)
    learned = [common.requires_grad_(), *([deviation.requires_grad_()] if by_group else [])]
    optimizer = torch.optim.Adam(learned, lr=RATE)
    rows = torch.from_numpy(train)
    found = []
    size = torch.from_numpy(np.bincount(cells.group[train], minlength=len(cells.names)))[group[rows]] * 100.0

    def logits() -> tuple[torch.Tensor, torch.Tensor]:
        own = torch.einsum("qd,gdl->qgl", x, deviation)
        return (x @ common)[question] + own[question, group], own[question, group]

    for step in range(1, until + 1):
        optimizer.zero_grad()
        every, own = logits()
        loss = -(target[rows].float() * every[rows].log_softmax(-1)).sum(-1)
        loss = loss + shrinkage / size / 2 * own[rows].square().sum(-1)
        loss.mean().backward()
        optimizer.step()
        if step in STEPS:
            with torch.no_grad():
                found.append(logits()[0].log_softmax(-1).double())
    return found


def loss_of(cells: Cells, mu: np.ndarray, rows: np.ndarray) -> float:
    return -float(xlogy(cells.shares[rows], np.maximum(mu[rows], 1e-12)).sum(1).mean())


def means(cells: Cells, train: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """For each cell the mean of the training cells of its unit; the mean of all where there is none."""
    every = cells.shares[train].mean(0)
    total = np.zeros((unit.max() + 1, cells.shares.shape[1]))
    np.add.at(total, unit[train], cells.shares[train])
    count = np.bincount(unit[train], minlength=len(total))[:, None]
    return np.where(count > 0, total / np.maximum(count, 1), every)[unit]


def predicted(row: str, cells: Cells, kind: str, train: np.ndarray, seed: int) -> tuple[np.ndarray, Any]:
    """Shares of all cells, and the setting that was chosen."""
    if row == "marginal":
        return np.tile(cells.shares[train].mean(0), (len(cells.group), 1)), None
    if row in ("group marginal", "question marginal"):
        return means(cells, train, cells.group if row == "group marginal" else cells.question), None
    if row == "logistic":  # a question's cells have one state: their mean shares with their votes are as good
        questions, votes = np.unique(cells.question[train], return_counts=True)
        shares = means(cells, train, cells.question)[[np.argmax(cells.question == own) for own in questions]]
        fitted = LabelRegression.fit(cells.states[questions], shares, 100.0 * votes, questions, seed)
        return fitted.predict(cells.states)[cells.question], fitted.ridge
    by_group = row == "group head"
    inner, held = cells.parts(kind, seed + 1000, 0.2, train)
    tried = {}
    for shrinkage in SHRINKAGE if by_group else (0.0,):
        for steps, mu in zip(STEPS, head(cells, inner, by_group, shrinkage, STEPS[-1]), strict=True):
            tried[shrinkage, steps] = loss_of(cells, mu.exp().numpy(), held)
    shrinkage, steps = min(tried, key=tried.__getitem__)
    return head(cells, train, by_group, shrinkage, steps)[-1].exp().numpy(), (shrinkage, steps)


def run(kind: str, options: Any) -> dict[str, Any]:
    cells = Cells()
    rows = [row for row in ROWS if row != "question marginal" or kind != "questions"]
    losses: dict[str, list[np.ndarray]] = {row: [] for row in rows}
    chosen: dict[str, list[Any]] = {row: [] for row in rows}
    question = []
    for seed in range(options.seeds):
        train, test = cells.parts(kind, seed)
        question.append(cells.question[test])
        for row in rows:
            mu, setting = predicted(row, cells, kind, train, seed)
            losses[row].append(-xlogy(cells.shares[test], np.maximum(mu[test], 1e-12)).sum(1))
            chosen[row].append(setting)
    each = {row: np.concatenate(own) for row, own in losses.items()}
    resampling = Resampling(np.concatenate(question))
    table = []
    for row in rows:
        gains = {f"over_{base}": (each[base] - each[row], 1.0) for base in rows}
        table.append({"row": row, "log_loss": float(each[row].mean()), "chosen": chosen[row],
                      **resampling.mean_intervals(gains)})  # fmt: skip
    entropy = -xlogy(cells.shares, cells.shares).sum(1).mean()
    return {"cells": len(cells.group), "questions": len(cells.states), "groups": len(cells.names),
            "entropy": float(entropy), "rows": table}  # fmt: skip


def main() -> None:
    options = parsed(__doc__, seeds=5, only=parts(SPLITS, "Only these splits."))
    torch.set_num_threads(1)
    results = {}
    for kind in options.only:
        found = results[kind] = run(kind, options)
        for row, base in itertools.product(found["rows"], ("marginal", "logistic")):
            gain = [row[f"over_{base}{end}"] for end in ("", "_low", "_high")]
            print(kind, row["row"], round(row["log_loss"], 4), base, np.round(gain, 4), row["chosen"], flush=True)
    store("crowd_groups", {"options": vars(options), "splits": results})

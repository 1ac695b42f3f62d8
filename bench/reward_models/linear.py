"""The baseline without fine-tuning: a linear reward on fixed features, fitted by Plackett-Luce with a ridge."""

from __future__ import annotations

import numpy as np
import torch

from pluralign.choice.plackett_luce import log_likelihood
from pluralign.evaluation.rewards.summary import evaluate_rewards
from pluralign.scoring.items import Items
from pluralign.training.batches import judgment_arrays


def fit(features: np.ndarray, items: Items, rows: np.ndarray, ridge: float) -> np.ndarray:
    """Weights `(dimensions,)` that maximise the mean log-likelihood of some judgments minus ridge/2 |w|^2."""
    x = torch.from_numpy(features).double()
    responses, ranks = (torch.from_numpy(array) for array in judgment_arrays(items, rows.tolist()))
    weight = torch.from_numpy(items.weight[rows])
    w = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([w], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = -(weight * log_likelihood((x @ w)[responses], ranks)).sum() / weight.sum() + ridge / 2 * (w @ w)
        loss.backward()
        return loss

    optimizer.step(closure)
    return w.detach().numpy()


def fit_with_validation(features: np.ndarray, items: Items, rows: np.ndarray, seed: int) -> np.ndarray:
    """`fit` with the ridge that has the lowest log-loss on a held-out quarter of the training prompts."""
    prompts = np.unique(items.prompt[rows])
    held = np.random.default_rng(seed).permutation(prompts)[: max(1, len(prompts) // 4)]
    inside = np.isin(items.prompt[rows], held)
    losses = {}
    for ridge in (0.003, 0.01, 0.03, 0.1, 0.3, 1.0):
        rewards = features @ fit(features, items, rows[~inside], ridge)
        losses[ridge] = evaluate(items, rows[inside], rewards, replicates=0)["log_loss"]
    return fit(features, items, rows, min(losses, key=losses.__getitem__))


def evaluate(items: Items, rows: np.ndarray, rewards: np.ndarray, replicates: int = 1000) -> dict[str, float]:
    """Metrics of rewards on some judgments."""
    shown = np.concatenate([np.arange(items.offsets[row], items.offsets[row + 1]) for row in rows])
    offsets = np.concatenate(([0], np.cumsum(np.diff(items.offsets)[rows])))
    responses = items.response[shown]
    return evaluate_rewards(
        rewards[responses], items.ranks[shown], offsets, items.prompt[rows], items.weight[rows],
        response=responses, replicates=replicates,
    )  # fmt: skip

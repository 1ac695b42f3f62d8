"""Linear rewards on fixed features: the baseline without fine-tuning, and MORE where its gradients are exact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from pluralign.choice.min_norm import GramianKind, SmoothedGramian, gradient_sums, min_norm_weights, residuals
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


def fit_sources(
    sources: Sequence[np.ndarray], counts: Sequence[int], normalize: Any, *, steps: int, rate: float, final: float,
    seed: tuple[int, int], share: float = 1.0, kind: GramianKind = "averaged",
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """A reward trained by Adam on batches of several sources, and the mean weights of the sources over the steps.

    Args:
        sources: feature differences of pairs, chosen minus rejected, `(pairs, features)` each.
        counts: pairs of each source in a step.
        normalize: of MORE's min-norm weights; `None` weights each source by its pairs in the step.
        steps: optimiser steps.
        rate: learning rate at the start; it falls linearly.
        final: last learning rate divided by the first.
        seed: of the batches.
        share, kind: of the `SmoothedGramian` that the weights are solved for.
    """
    draw = np.random.default_rng(seed)
    weights = torch.zeros(sources[0].shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, final, steps)
    membership = torch.eye(len(sources), dtype=torch.float64).repeat_interleave(torch.tensor(counts), 0)
    totals = membership.sum(0)
    smoothed = SmoothedGramian(share, kind)
    # A source's pairs are drawn independently, so its first and its second half are halves of the step.
    first = torch.cat([torch.arange(count) < (count + 1) // 2 for count in counts])
    parts = [first | ~first] if smoothed.halves == 1 else [first, ~first]
    masks = [membership * part[:, None] for part in parts]
    present = torch.stack([mask.sum(0) > 0 for mask in masks])
    index = torch.arange(len(membership))[:, None]
    mixed = totals / totals.sum()
    summed = np.zeros(len(sources))
    for _ in range(steps):
        drawn = [own[draw.integers(len(own), size=count)] for own, count in zip(sources, counts, strict=True)]
        states = torch.from_numpy(np.concatenate(drawn))
        margins = (states @ weights)[:, None]  # a pair is its difference alone: the rejected response is at 0
        losses = -logsigmoid(margins[:, 0])
        if normalize is not None:
            left = residuals(losses, margins)
            means = [gradient_sums(left, index, states, mask) / mask.sum(0).clamp(min=1)[:, None] for mask in masks]
            inner = smoothed.add(torch.stack(means), present)
            mixed = torch.from_numpy(min_norm_weights(inner, normalize=normalize))
        summed += mixed.numpy()
        optimizer.zero_grad()
        (mixed @ (membership.T @ losses / totals)).backward()
        optimizer.step()
        schedule.step()
    return weights.detach().numpy(), summed / steps

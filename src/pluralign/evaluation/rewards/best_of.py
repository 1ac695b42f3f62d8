"""Best of n: which of n responses to a prompt has the largest reward, and what the choice gains."""

from __future__ import annotations

import math

import numpy as np

from pluralign.core.errors import PluralignError


def best_answers(rewards: np.ndarray) -> np.ndarray:
    """Which responses have the largest reward of their prompt, `(prompts, n)`; none where no response has a reward.

    `rewards` is `(prompts, n)`, with nan for an empty response.

    Examples:
        >>> best_answers(np.array([[1.0, 2.0, 2.0], [np.nan, -1.0, np.nan], [np.nan] * 3])).tolist()
        [[False, True, True], [False, True, False], [False, False, False]]
    """
    largest = np.fmax.reduce(rewards, axis=1, keepdims=True)
    return np.asarray(rewards == largest)


def best_of_metrics(rewards: np.ndarray, finished: np.ndarray) -> dict[str, float]:
    """Mean rewards before and after the choice, and how far the choice moves the distribution of responses.

    The means cover prompts with a response that is not empty; their standard errors are the standard deviation over
    those prompts / sqrt(prompts). The best of n samples (ties broken at random) diverges from one sample by

        KL(best of n || one) <= log n - (n - 1) / n

    whatever the reward is. Without the empty responses there are fewer samples to choose from, and the bound grows with
    n, so it also holds for the policy given that its response is not empty.

    Source: arXiv 2401.01879 (the bound).

    Args:
        rewards: `(prompts, n)`; nan for an empty response.
        finished: `(prompts, n)`, whether the policy ended the response itself.

    Returns:
        `rows` (such prompts); `mean_reward/first` (of each prompt's first response that is not empty),
        `mean_reward/all`, `mean_reward/best`, each with `_se` if there are two prompts; `kl_bound` in nats;
        `unfinished` (share of the responses), `unfinished_best` (share of the best ones), `empty_answers` (share of
        empty responses), and `prompts_without_answer`.

    Raises:
        PluralignError: no response has a reward.

    Examples:
        >>> rewards = np.array([[1.0, 3.0], [0.0, 0.0]])
        >>> metrics = best_of_metrics(rewards, finished=np.array([[True, False], [True, True]]))
        >>> metrics["mean_reward/first"], metrics["mean_reward/all"], metrics["mean_reward/best"]
        (0.5, 1.0, 1.5)
        >>> round(metrics["kl_bound"], 3), metrics["unfinished"]
        (0.193, 0.25)
    """
    filled = ~np.isnan(rewards)
    kept = filled.any(1)
    if not kept.any():
        raise PluralignError("rewards: no response has a reward")
    held, n = rewards[kept], rewards.shape[1]
    best = best_answers(rewards)
    of_prompts = {
        "first": held[np.arange(len(held)), filled[kept].argmax(1)],
        "all": np.nanmean(held, axis=1),
        "best": np.nanmax(held, axis=1),
    }
    metrics: dict[str, float] = {"rows": len(held)}
    for name, values in of_prompts.items():
        metrics[f"mean_reward/{name}"] = float(values.mean())
        if len(values) > 1:
            metrics[f"mean_reward/{name}_se"] = float(values.std(ddof=1) / math.sqrt(len(values)))
    return metrics | {
        "kl_bound": math.log(n) - (n - 1) / n,
        "unfinished": float(1 - finished.mean()),
        "unfinished_best": float(1 - finished[best].mean()),
        "empty_answers": float(1 - filled.mean()),
        "prompts_without_answer": int((~kept).sum()),
    }

"""Best of n: which of several answers to a prompt has the largest reward, and what choosing it gains."""

from __future__ import annotations

import math

import numpy as np

from pluralign.core.errors import PluralignError


def best_answers(rewards: np.ndarray) -> np.ndarray:
    """Which answers have the largest reward of their prompt; none where no answer has a reward.

    Args:
        rewards: `(prompts, n)`; not a number for an answer that says nothing.

    Returns:
        `(prompts, n)`, true and false.

    Examples:
        >>> best_answers(np.array([[1.0, 2.0, 2.0], [np.nan, -1.0, np.nan], [np.nan] * 3])).tolist()
        [[False, True, True], [False, True, False], [False, False, False]]
    """
    largest = np.fmax.reduce(rewards, axis=1, keepdims=True)
    return np.asarray(rewards == largest)


def best_of_metrics(rewards: np.ndarray, finished: np.ndarray) -> dict[str, float]:
    """What choosing the best gained, and how far it may lead away.

    The means are over prompts with an answer that says something; their standard errors are the deviation over
    those prompts / sqrt(prompts). The best of n draws (ties broken at random) diverges from one draw by

        KL(best of n || one) <= log n - (n - 1) / n

    whatever the reward is. Leaving out what says nothing leaves fewer draws to choose from, and the bound grows
    with n, so it holds there for the policy given that it says something.

    Source: arXiv 2401.01879 (the bound).

    Args:
        rewards: `(prompts, n)`; not a number for an answer that says nothing.
        finished: `(prompts, n)` whether the policy ended the answer itself.

    Returns:
        `rows` (such prompts), `mean_reward/first` (of each prompt's first answer that says something),
        `mean_reward/all`, `mean_reward/best`, each with `_se` where there are two prompts; `kl_bound` in nats;
        `unfinished` (share of the answers), `unfinished_best` (share of the best ones), `empty_answers` (share of
        the answers that say nothing), and `prompts_without_answer`.

    Raises:
        PluralignError: no answer has a reward.

    Examples:
        >>> rewards = np.array([[1.0, 3.0], [0.0, 0.0]])
        >>> found = best_of_metrics(rewards, finished=np.array([[True, False], [True, True]]))
        >>> found["mean_reward/first"], found["mean_reward/all"], found["mean_reward/best"]
        (0.5, 1.0, 1.5)
        >>> round(found["kl_bound"], 3), found["unfinished"]
        (0.193, 0.25)
    """
    said = ~np.isnan(rewards)
    spoke = said.any(1)
    if not spoke.any():
        raise PluralignError("rewards: no answer has one")
    held, n = rewards[spoke], rewards.shape[1]
    best = best_answers(rewards)
    of_prompts = {
        "first": held[np.arange(len(held)), said[spoke].argmax(1)],
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
        "empty_answers": float(1 - said.mean()),
        "prompts_without_answer": int((~spoke).sum()),
    }

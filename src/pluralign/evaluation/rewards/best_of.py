"""Best of n: which of n responses to a prompt is kept, by largest reward or by softmax, and what the choice gains."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

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


def softmax_answers(
    rewards: np.ndarray, responses: Sequence[Sequence[Hashable]], beta: float = 1.0, seed: int = 0
) -> np.ndarray:
    """Which responses are kept, `(prompts, n)`, if one text of each prompt is drawn with probability softmax(r / beta).

    The softmax is over the different texts of a prompt, so that it does not matter how often the policy said each:
    where n draws contain everything that can be said, this is preference matching without training. Where no text
    occurs twice, the policy's odds remain, and with n the choice tends to the policy times exp(r / beta).

    Args:
        rewards: `(prompts, n)` in log-odds; nan for an empty response. Equal texts have equal rewards.
        responses: the n texts of each prompt.
        beta: temperature of the softmax, above 0.
        seed: seed of the draws.

    Source: ours, the counterpart of best of n in preference matching (arXiv 2405.16455).

    Examples:
        >>> kept = softmax_answers(np.array([[0.0, 0.0, 1.0]] * 4000), [["no", "no", "yes"]] * 4000)
        >>> kept.mean(axis=0).round(1).tolist()  # softmax(0, 1) = (.27, .73)
        [0.3, 0.3, 0.7]
    """
    draw = np.random.default_rng(seed)
    kept = np.zeros(rewards.shape, dtype=bool)
    for prompt, (own, texts) in enumerate(zip(rewards, responses, strict=True)):
        reward_of = {text: reward for text, reward in zip(texts, own, strict=True) if not math.isnan(reward)}
        if reward_of:
            # The largest of values with Gumbel noise is a draw from their softmax.
            values = np.array(list(reward_of.values())) / beta + draw.gumbel(size=len(reward_of))
            chosen = list(reward_of)[int(values.argmax())]
            kept[prompt] = [text == chosen for text in texts]
    return kept


def best_of_metrics(rewards: np.ndarray, finished: np.ndarray, kept: np.ndarray | None = None) -> dict[str, float]:
    """Mean rewards before and after the choice, and how far the choice moves the distribution of responses.

    The means cover prompts with a response that is not empty; their standard errors are the standard deviation over
    those prompts / sqrt(prompts). The best of n samples (ties broken at random) diverges from one sample by

        KL(best of n || one) <= log n - (n - 1) / n

    whatever the reward is. Without the empty responses there are fewer samples to choose from, and the bound grows with
    n, so it also holds for the policy given that its response is not empty. Any other choice from n samples makes no
    response more than n times as likely, so that KL <= log n.

    Source: arXiv 2401.01879 (the bound).

    Args:
        rewards: `(prompts, n)`; nan for an empty response.
        finished: `(prompts, n)`, whether the policy ended the response itself.
        kept: `(prompts, n)` from `softmax_answers`; default: the responses with the largest reward.

    Returns:
        `rows` (such prompts); `mean_reward/first` (of each prompt's first response that is not empty),
        `mean_reward/all`, `mean_reward/best` (of the responses kept), each with `_se` if there are two prompts;
        `kl_bound` in nats; `unfinished` (share of the responses), `unfinished_best` (share of those kept),
        `empty_answers` (share of empty responses), and `prompts_without_answer`.

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
    rows = filled.any(1)
    if not rows.any():
        raise PluralignError("rewards: no response has a reward")
    held, n = rewards[rows], rewards.shape[1]
    best = best_answers(rewards) if kept is None else kept
    of_prompts = {
        "first": held[np.arange(len(held)), filled[rows].argmax(1)],
        "all": np.nanmean(held, axis=1),
        "best": held[np.arange(len(held)), best[rows].argmax(1)],
    }
    metrics: dict[str, float] = {"rows": len(held)}
    for name, values in of_prompts.items():
        metrics[f"mean_reward/{name}"] = float(values.mean())
        if len(values) > 1:
            metrics[f"mean_reward/{name}_se"] = float(values.std(ddof=1) / math.sqrt(len(values)))
    return metrics | {
        "kl_bound": math.log(n) - ((n - 1) / n if kept is None else 0),
        "unfinished": float(1 - finished.mean()),
        "unfinished_best": float(1 - finished[best].mean()),
        "empty_answers": float(1 - filled.mean()),
        "prompts_without_answer": int((~rows).sum()),
    }

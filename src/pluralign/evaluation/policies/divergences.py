"""Does a policy say what a reward model says? Distances between the odds of the one and of the other.

A reward r in log-odds says that answer 1 is preferred to answer 2 with probability sigmoid(r_1 - r_2). A policy
says as much by log pi(y_1|x) - log pi(y_2|x). Preference matching (arXiv 2405.16455) asks that the two be equal,
which is so for all pairs exactly if pi is softmax(r). All that is here depends on differences within a list alone:
a number added to the rewards, or to the log-probabilities, of one prompt changes nothing.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, log_expit, log_softmax

from pluralign.core.errors import PluralignError
from pluralign.evaluation.intervals import check_resampling, percentile_intervals, resampled_sums
from pluralign.evaluation.pairs import Floats


def pm_divergence(
    rewards: ArrayLike, log_probs: ArrayLike, *, replicates: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, float]:
    """Preference matching divergence of answers that the policy drew, with its interval.

        mean over prompts of mean over pairs i < j of ((r_i - r_j) - (log pi_i - log pi_j))^2

    With two answers to a prompt this is the paper's; more answers give all their pairs. Rewards are taken as they
    are, not clipped: against clipped rewards even a perfect match would leave a rest. It is 0 only for
    pi = softmax(r); pi = softmax(r / beta) leaves (1 - 1 / beta)^2 mean (r_i - r_j)^2. The interval is a percentile
    bootstrap over prompts.

    Args:
        rewards: of the policy's answers, in log-odds, `(prompts, answers)`.
        log_probs: log pi(y|x) of the same answers in nats, `(prompts, answers)`.
        replicates: bootstrap draws; 0 leaves the interval out.
        level: coverage the interval aims at.
        seed: of the bootstrap.

    Returns:
        `pm_divergence` in nats squared, and with two prompts or more `pm_divergence_low` and `pm_divergence_high`.

    Raises:
        PluralignError: the shapes differ, a prompt has fewer than two answers, or a number is not finite.

    Source: arXiv 2405.16455, for two answers to a prompt; all pairs of more are this project's.

    Examples:
        >>> pm_divergence([[1.0, 0.0], [0.0, 3.0]], [[-2.0, -3.0], [-1.0, 0.0]], replicates=0)
        {'pm_divergence': 2.0}
    """
    reward, log_prob = checked_lists(rewards, log_probs)
    if reward.ndim != 2 or reward.shape[1] < 2 or not len(reward):
        raise PluralignError(f"rewards: shape {reward.shape}, expected (prompts, answers) with two answers or more")
    # The mean of (d_i - d_j)^2 over pairs is twice the sample variance of d.
    each = 2 * (reward - log_prob).var(axis=1, ddof=1)
    found = {"pm_divergence": float(each.mean())}
    if replicates and len(each) > 1:
        check_resampling(replicates, level)
        means = resampled_sums(each[:, None], replicates, seed)[:, 0] / len(each)
        found |= percentile_intervals({"pm_divergence": means}, level)
    return found


def bernoulli_kl(margin: Floats, other: Floats) -> Floats:
    """KL(Bernoulli(sigmoid(a)) || Bernoulli(sigmoid(b))) in nats, from log-odds a and b of one shape.

        sigmoid(a) (log sigmoid(a) - log sigmoid(b)) + sigmoid(-a) (log sigmoid(-a) - log sigmoid(-b))

    By log-sigmoid nothing is lost where a probability is 1 to the last digit: the divergence grows like |b|.

    Examples:
        >>> bernoulli_kl(np.array([0.0, 2.0, 0.0]), np.array([0.0, 2.0, 1000.0])).round(3).tolist()
        [0.0, 0.0, 499.307]
    """
    up = expit(margin) * (log_expit(margin) - log_expit(other))
    down = expit(-margin) * (log_expit(-margin) - log_expit(-other))
    return np.maximum(up + down, 0.0)  # what rounding leaves may be under 0


def bernoulli_js(margin: Floats, other: Floats) -> Floats:
    """Jensen-Shannon divergence of the two, in nats: at most ln 2, however far apart the log-odds are.

        KL(p || m) / 2 + KL(q || m) / 2  with  m = (p + q) / 2

    Examples:
        >>> bernoulli_js(np.array([0.0, 1000.0]), np.array([0.0, -1000.0])).round(3).tolist()
        [0.0, 0.693]
    """
    return _jensen_shannon(_two_logs(margin), _two_logs(other))


def bernoulli_gap(margin: Floats, other: Floats) -> Floats:
    """|sigmoid(a) - sigmoid(b)|: the total variation of the two.

    Examples:
        >>> bernoulli_gap(np.array([0.0, 0.0]), np.array([0.0, 1000.0])).tolist()
        [0.0, 0.5]
    """
    return np.abs(expit(margin) - expit(other))


def list_divergences(rewards: Floats, log_probs: Floats) -> tuple[Floats, Floats, Floats]:
    """How far softmax(log pi) over a list of answers is from softmax(r) over it.

    With p = softmax(r) and q = softmax(log pi) over the list: KL(p || q) = sum p (log p - log q), the
    Jensen-Shannon divergence, and the total variation sum |p - q| / 2. For lists of two they are `bernoulli_kl`,
    `bernoulli_js` and `bernoulli_gap`.

    Args:
        rewards: in log-odds, `(..., answers)`.
        log_probs: in nats, `(..., answers)`.

    Returns:
        KL and Jensen-Shannon in nats, and total variation, each `(...)`.

    Examples:
        >>> rewards, forgets = np.log([[0.5, 0.3, 0.2]]), np.log([[0.7, 0.3, 1e-300]])
        >>> [round(float(found[0]), 3) for found in list_divergences(rewards, forgets)]
        [137.665, 0.078, 0.2]
    """
    one, two = log_softmax(rewards, axis=-1), log_softmax(log_probs, axis=-1)
    p = np.exp(one)
    kl = np.maximum((p * (one - two)).sum(-1), 0.0)
    return kl, _jensen_shannon(one, two), np.abs(p - np.exp(two)).sum(-1) / 2


def minority_mass(rewards: Floats, log_probs: Floats) -> tuple[Floats, Floats]:
    """Of the probability that rewards give to the less preferred answers of a list, how much a policy keeps.

    With p = softmax(r), q = softmax(log pi) over the list and y* the answer of the largest reward,

        kept = sum over y other than y* of min(p(y), q(y)),   held = sum over y other than y* of p(y)

    kept / held is 1 where the policy gives every less preferred answer at least its share, and 0 where it has
    forgotten all of them. The minimum keeps a surplus on one such answer from paying for another that is forgotten.
    Over many lists the sums are divided, not the ratios averaged: where rewards leave the minority next to nothing,
    its ratio is noise. Where several answers share the largest reward, the mean over which of them is y* is taken.

    Args:
        rewards: in log-odds, `(..., answers)`.
        log_probs: in nats, `(..., answers)`.

    Returns:
        kept and held, each `(...)`.

    Examples:
        The policy keeps a fifth of the answer that three in ten prefer, and all of the one that two in ten do.

        >>> kept, held = minority_mass(np.log([0.5, 0.3, 0.2]), np.log([0.64, 0.06, 0.3]))
        >>> round(float(kept), 3), round(float(held), 3)
        (0.26, 0.5)
    """
    p, q = np.exp(log_softmax(rewards, axis=-1)), np.exp(log_softmax(log_probs, axis=-1))
    best = p == p.max(-1, keepdims=True)
    least = np.minimum(p, q)
    share = best / best.sum(-1, keepdims=True)
    return (least * (1 - share)).sum(-1), (p * (1 - share)).sum(-1)


def checked_lists(rewards: ArrayLike, log_probs: ArrayLike) -> tuple[Floats, Floats]:
    """Both as float64 arrays of one shape, or a message that names the one at fault.

    Raises:
        PluralignError: the shapes differ, or a number is not finite.

    Examples:
        >>> checked_lists([0.0, 1.0], [0.0])
        Traceback (most recent call last):
        ...
        pluralign.core.errors.PluralignError: log_probs: shape (1,), expected (2,) as the rewards have
    """
    reward, log_prob = np.asarray(rewards, dtype=float), np.asarray(log_probs, dtype=float)
    if reward.shape != log_prob.shape:
        raise PluralignError(f"log_probs: shape {log_prob.shape}, expected {reward.shape} as the rewards have")
    for name, found in (("rewards", reward), ("log_probs", log_prob)):
        if not np.isfinite(found).all():
            raise PluralignError(f"{name}: expected finite numbers, found others")
    return reward, log_prob


def _two_logs(margin: Floats) -> Floats:
    """log sigmoid(m) and log sigmoid(-m): `(..., 2)`."""
    return np.stack([log_expit(margin), log_expit(-margin)], axis=-1)


def _jensen_shannon(one: Floats, two: Floats) -> Floats:
    """From log-probabilities `(..., outcomes)`."""
    middle = np.logaddexp(one, two) - math.log(2)
    apart = np.exp(one) * (one - middle) + np.exp(two) * (two - middle)
    return np.maximum(apart.sum(-1) / 2, 0.0)

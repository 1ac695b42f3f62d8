"""Does a policy express the preferences of a reward model? Distances between the odds of the two.

A reward r in log-odds predicts that response 1 is preferred to response 2 with probability sigmoid(r_1 - r_2). A policy
implies such a probability by log pi(y_1|x) - log pi(y_2|x). Preference matching (arXiv 2405.16455) asks for equality of
the two, which holds for all pairs exactly if pi is softmax(r). Everything here depends only on differences within a
list: a constant added to the rewards, or to the log-probabilities, of one prompt changes nothing.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import expit, log_expit, log_softmax

from pluralign.choice.dirichlet import total_variation
from pluralign.evaluation.pairs import Floats


def bernoulli_kl(margin: Floats, other: Floats) -> Floats:
    """KL(Bernoulli(sigmoid(a)) || Bernoulli(sigmoid(b))) in nats, from log-odds a and b of one shape.

        sigmoid(a) (log sigmoid(a) - log sigmoid(b)) + sigmoid(-a) (log sigmoid(-a) - log sigmoid(-b))

    Computed by log-sigmoid, it stays exact where a probability rounds to 1: the divergence grows like |b|.
    """
    up = expit(margin) * (log_expit(margin) - log_expit(other))
    down = expit(-margin) * (log_expit(-margin) - log_expit(-other))
    return np.maximum(up + down, 0.0)  # rounding may leave it negative


def bernoulli_js(margin: Floats, other: Floats) -> Floats:
    """Jensen-Shannon divergence of the two, KL(p || m) / 2 + KL(q || m) / 2 with m = (p + q) / 2, in nats.

    It is at most ln 2, however far apart the log-odds are.
    """
    return _jensen_shannon(_two_logs(margin), _two_logs(other))


def bernoulli_gap(margin: Floats, other: Floats) -> Floats:
    """|sigmoid(a) - sigmoid(b)|: the total variation of the two."""
    return np.abs(expit(margin) - expit(other))


def list_divergences(rewards: Floats, log_probs: Floats) -> tuple[Floats, Floats, Floats]:
    """How far softmax(log pi) over a list of responses is from softmax(r) over it.

    With p = softmax(r) and q = softmax(log pi) over the list: KL(p || q) = sum p (log p - log q), the
    Jensen-Shannon divergence, and the total variation sum |p - q| / 2. For lists of two they are `bernoulli_kl`,
    `bernoulli_js` and `bernoulli_gap`.

    Args:
        rewards: in log-odds, `(..., responses)`.
        log_probs: in nats, `(..., responses)`.

    Returns:
        KL and Jensen-Shannon in nats, and total variation, each `(...)`.

    Examples:
        >>> rewards, collapsed = np.log([[0.5, 0.3, 0.2]]), np.log([[0.7, 0.3, 1e-300]])
        >>> [round(float(divergence[0]), 3) for divergence in list_divergences(rewards, collapsed)]
        [137.665, 0.078, 0.2]
    """
    log_p, log_q = log_softmax(rewards, axis=-1), log_softmax(log_probs, axis=-1)
    p = np.exp(log_p)
    kl = np.maximum((p * (log_p - log_q)).sum(-1), 0.0)
    return kl, _jensen_shannon(log_p, log_q), total_variation(p, np.exp(log_q))


def minority_mass(rewards: Floats, log_probs: Floats) -> tuple[Floats, Floats]:
    """How much of the probability that rewards give to the less preferred responses of a list a policy keeps.

    With p = softmax(r), q = softmax(log pi) over the list and y* the response with the largest reward,

        kept = sum over y other than y* of min(p(y), q(y)),   held = sum over y other than y* of p(y)

    kept / held is 1 if the policy gives every less preferred response at least its share, and 0 if it gives them no
    probability. Because of the minimum, a surplus on one such response does not compensate for another. Over many lists
    the sums are divided, not the ratios averaged: where rewards leave little for the minority, its ratio is noise. If
    several responses share the largest reward, the result is the mean over the choice of y* among them.

    Arguments as in `list_divergences`.

    Returns:
        kept and held, each `(...)`.

    Examples:
        The policy keeps a fifth of the response with probability 0.3, and all of the one with probability 0.2.

        >>> kept, held = minority_mass(np.log([0.5, 0.3, 0.2]), np.log([0.64, 0.06, 0.3]))
        >>> round(float(kept), 3), round(float(held), 3)
        (0.26, 0.5)
    """
    p, q = np.exp(log_softmax(rewards, axis=-1)), np.exp(log_softmax(log_probs, axis=-1))
    best = p == p.max(-1, keepdims=True)
    least = np.minimum(p, q)
    share = best / best.sum(-1, keepdims=True)
    return (least * (1 - share)).sum(-1), (p * (1 - share)).sum(-1)


def _two_logs(margin: Floats) -> Floats:
    """log sigmoid(m) and log sigmoid(-m): `(..., 2)`."""
    return np.stack([log_expit(margin), log_expit(-margin)], axis=-1)


def _jensen_shannon(log_p: Floats, log_q: Floats) -> Floats:
    """Jensen-Shannon divergence of two distributions, from log-probabilities `(..., outcomes)`."""
    middle = np.logaddexp(log_p, log_q) - math.log(2)
    apart = np.exp(log_p) * (log_p - middle) + np.exp(log_q) * (log_q - middle)
    return np.maximum(apart.sum(-1) / 2, 0.0)

"""Properties of a policy's own samples: how varied they are, and whether they are gibberish."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from pluralign.core.errors import PluralignError
from pluralign.evaluation.intervals import Resampling
from pluralign.evaluation.pairs import Floats, Ints, real_numbers, whole_numbers


def entropy(
    log_probs: ArrayLike,
    lengths: ArrayLike,
    prompt: ArrayLike,
    *,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """Entropy of a policy, estimated from responses that it sampled itself.

        entropy = mean of -log pi(y|x),   entropy_per_token = sum of -log pi(y|x) / sum of tokens

    The first is unbiased for the mean entropy of pi(.|x) over the prompts if each has the same number of samples;
    responses cut at a maximum length have the entropy of the samples up to there.

    Args:
        log_probs: log pi(y|x) of the policy's samples in nats, `(responses,)`.
        lengths: tokens of each response, including its end token, at least 1, `(responses,)`.
        prompt: the prompt of each response, int `(responses,)`.
        replicates, level, seed: as in `pluralign.evaluation.intervals.Resampling`, over prompts.

    Returns:
        `entropy` in nats per response, `entropy_per_token`, and with two prompts `KEY_low` and `KEY_high`.

    Raises:
        PluralignError: the shapes differ, or there is no response.

    Examples:
        >>> entropy([-1.0, -3.0], [1, 3], [0, 0])
        {'entropy': 2.0, 'entropy_per_token': 1.0}
    """
    log_prob, length, cluster = _checked(log_probs, lengths, prompt)
    return Resampling(cluster, replicates, level, seed).mean_intervals(
        {"entropy": (-log_prob, 1.0), "entropy_per_token": (-log_prob, length)}
    )


def perplexity(
    log_probs: ArrayLike,
    lengths: ArrayLike,
    prompt: ArrayLike,
    *,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """Perplexity of responses under a language model that did not write them: a warning sign of gibberish.

        perplexity = exp(sum of -log pi_ref(y|x) / sum of tokens)

    A response of random tokens has about the size of the vocabulary, a response that repeats one word is close to 1.
    Compare with the perplexity of the reference model's own samples; a large difference in either direction is a
    warning.

    Arguments and errors as in `entropy`, with `log_probs` those of the reference model, log pi_ref(y|x).

    Returns:
        `perplexity`, and with two prompts `perplexity_low` and `perplexity_high`.

    Examples:
        >>> round(perplexity(np.log([0.5, 0.125]), [1, 3], [0, 1], replicates=0)["perplexity"], 3)
        2.0
    """
    log_prob, length, cluster = _checked(log_probs, lengths, prompt)
    resampling = Resampling(cluster, replicates, level, seed)
    sums = resampling.sums(-log_prob, length.astype(np.float64))

    def metrics(weights: Floats) -> dict[str, Floats]:
        total, tokens = (weights @ sums).T
        return {"perplexity": np.exp(total / tokens)}

    return resampling.intervals(metrics)


def distinct(token_ids: Sequence[Sequence[int]], n: int) -> float | None:
    """Distinct n-grams of tokens over all n-grams, in all responses together; None if no response is that long.

    It falls with more or longer responses, because common words repeat: compare it between policies with the same
    number of responses of about the same length.

    Args:
        token_ids: the tokens of each response, including its end token.
        n: tokens in an n-gram, at least 1.

    Source: arXiv 1510.03055 (distinct-1 and distinct-2), there over words.

    Raises:
        PluralignError: n is under 1.

    Examples:
        >>> distinct([[1, 2, 1], [1, 2]], 1), distinct([[1, 2, 1], [1, 2]], 2), distinct([[1]], 2)
        (0.4, 0.6666666666666666, None)
    """
    if n < 1:
        raise PluralignError(f"n: found {n}, expected 1 or more")
    grams = [tuple(ids[start : start + n]) for ids in token_ids for start in range(len(ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def _checked(log_probs: ArrayLike, lengths: ArrayLike, prompt: ArrayLike) -> tuple[Floats, Ints, Ints]:
    """The three as arrays of one length, or an error that names the argument that does not fit."""
    log_prob = real_numbers("log_probs", log_probs)
    length, cluster = whole_numbers("lengths", lengths), whole_numbers("prompt", prompt)
    if not len(log_prob) or not len(log_prob) == len(length) == len(cluster):
        raise PluralignError(
            f"log_probs: {len(log_prob)} responses, lengths {len(length)} and prompt {len(cluster)}: expected the same "
            "number of each, and at least one"
        )
    if length.min() < 1:
        raise PluralignError(f"lengths: found {length.min()}, expected 1 or more (an end token is a token)")
    return log_prob, length, cluster

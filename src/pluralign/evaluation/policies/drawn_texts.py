"""What a policy's own answers are like: how varied they are, and whether they are gibberish."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from pluralign.core.errors import PluralignError
from pluralign.evaluation.intervals import check_resampling, percentile_intervals, resampled_sums
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
    """Entropy of a policy's answers, estimated from answers that it drew itself.

        entropy = mean of -log pi(y|x),   entropy_per_token = sum of -log pi(y|x) / sum of tokens

    The first is unbiased for the mean entropy of pi(.|x) over the prompts, each with as many draws; answers cut at
    a length have the entropy of what can be drawn up to there. Intervals are percentile bootstraps over prompts.

    Args:
        log_probs: log pi(y|x) of the policy's draws in nats, `(answers,)`.
        lengths: tokens of each answer, its end token included, at least 1, `(answers,)`.
        prompt: the prompt of each answer, int `(answers,)`.
        replicates: bootstrap draws; 0 leaves the intervals out.
        level: coverage the intervals aim at.
        seed: of the bootstrap.

    Returns:
        `entropy` in nats per answer, `entropy_per_token`, and with two prompts `KEY_low` and `KEY_high`.

    Raises:
        PluralignError: the shapes differ, or there is no answer.

    Examples:
        >>> entropy([-1.0, -3.0], [1, 3], [0, 0])
        {'entropy': 2.0, 'entropy_per_token': 1.0}
    """
    sums = _per_prompt(log_probs, lengths, prompt)
    return _with_intervals(sums, _entropies, replicates, level, seed)


def perplexity(
    log_probs: ArrayLike,
    lengths: ArrayLike,
    prompt: ArrayLike,
    *,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """Perplexity of answers under a language model that did not write them: an alarm for gibberish.

        perplexity = exp(sum of -log pi_ref(y|x) / sum of tokens)

    An answer of tokens drawn at random has about the size of the vocabulary, an answer of one word said over and
    over next to 1: compare with the perplexity of the reference's own answers, from either side.

    Args:
        log_probs: log pi_ref(y|x) of the answers in nats, `(answers,)`.
        lengths: tokens of each answer, its end token included, at least 1, `(answers,)`.
        prompt: the prompt of each answer, int `(answers,)`.
        replicates: bootstrap draws over prompts; 0 leaves the interval out.
        level: coverage the interval aims at.
        seed: of the bootstrap.

    Returns:
        `perplexity`, and with two prompts `perplexity_low` and `perplexity_high`.

    Raises:
        PluralignError: the shapes differ, or there is no answer.

    Examples:
        >>> round(perplexity(np.log([0.5, 0.125]), [1, 3], [0, 1], replicates=0)["perplexity"], 3)
        2.0
    """
    sums = _per_prompt(log_probs, lengths, prompt)
    return _with_intervals(sums, _perplexities, replicates, level, seed)


def distinct(token_ids: Sequence[Sequence[int]], n: int) -> float | None:
    """Distinct n-grams of tokens over all n-grams, in all answers together; None where none is that long.

    It falls as answers get more or longer, as common words come back: compare it between policies that gave as
    many answers of about the same length.

    Args:
        token_ids: the tokens of each answer, its end token included.
        n: tokens in a gram, at least 1.

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


def _per_prompt(log_probs: ArrayLike, lengths: ArrayLike, prompt: ArrayLike) -> Floats:
    """Sums over each prompt's answers of -log-probability, tokens and answers: `(prompts, 3)`."""
    log_prob = real_numbers("log_probs", log_probs)
    length, owner = whole_numbers("lengths", lengths), whole_numbers("prompt", prompt)
    if not len(log_prob) or not len(log_prob) == len(length) == len(owner):
        raise PluralignError(
            f"log_probs: {len(log_prob)} answers, lengths {len(length)} and prompt {len(owner)}: expected as many "
            "of each, and one at least"
        )
    if length.min() < 1:
        raise PluralignError(f"lengths: found {length.min()}, expected 1 or more (an end token is a token)")
    place: Ints = np.unique(owner, return_inverse=True)[1]
    return np.stack([np.bincount(place, weights=one) for one in (-log_prob, length, np.ones(len(length)))], axis=1)


def _entropies(sums: Floats) -> dict[str, Floats]:
    return {"entropy": sums[:, 0] / sums[:, 2], "entropy_per_token": sums[:, 0] / sums[:, 1]}


def _perplexities(sums: Floats) -> dict[str, Floats]:
    return {"perplexity": np.exp(sums[:, 0] / sums[:, 1])}


def _with_intervals(
    sums: Floats, metrics: Callable[[Floats], dict[str, Floats]], replicates: int, level: float, seed: int
) -> dict[str, float]:
    found = {name: float(value[0]) for name, value in metrics(sums.sum(axis=0, keepdims=True)).items()}
    if replicates and len(sums) > 1:
        check_resampling(replicates, level)
        found |= percentile_intervals(metrics(resampled_sums(sums, replicates, seed)), level)
    return found

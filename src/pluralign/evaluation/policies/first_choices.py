"""Which of the listed responses does a policy choose? Its odds beside what annotators put first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from pluralign.core.errors import PluralignError
from pluralign.evaluation.intervals import Resampling, annotator_ids, ratio
from pluralign.evaluation.pairs import Floats, real_numbers, whole_numbers


def first_choice_metrics(
    log_probs: ArrayLike,
    tokens: ArrayLike,
    ranks: ArrayLike,
    offsets: ArrayLike,
    prompt: ArrayLike,
    weight: ArrayLike,
    annotators: Sequence[str | None],
    seed: int = 0,
) -> dict[str, float]:
    """Log-loss of the response that each judgment puts first, under a policy that must say one of those shown.

        first_choice_log_loss            mean of -log softmax(log pi)[first]
        first_choice_log_loss_per_token  mean of -log softmax(log pi / tokens)[first]
        first_choice_log_loss/uniform    mean of log(number of responses shown)

    Responses that tie for the first place share it. Texts of unequal length have log pi that differ by many nats,
    so that the first number is mostly about length; the second compares mean log-probabilities of a token. Responses
    that are letters of listed options are one token long, and the two are equal.

    Args:
        log_probs: log pi(y|x) of the responses shown, in nats, `(shown,)`, judgment by judgment.
        tokens: of each, `(shown,)`.
        ranks: of each, 1 is best and 0 was not ranked, `(shown,)`.
        offsets: where each judgment begins, and the end, `(judgments + 1,)`.
        prompt: of each judgment, `(judgments,)`.
        weight: of each judgment, `(judgments,)`.
        annotators: of each judgment; None is an annotator of their own.
        seed: of the bootstrap.

    Returns:
        the metrics in nats, each with `_low` and `_high` over prompts and annotators if there are two prompts.

    Raises:
        PluralignError: shapes do not fit.

    Examples:
        >>> found = first_choice_metrics([-9.0, -2.0], [9, 2], [1, 2], [0, 2], [0], [1.0], [None])
        >>> [round(value, 3) for value in found.values()]
        [7.001, 0.693, 0.693]
    """
    ends, ids = whole_numbers("offsets", offsets), whole_numbers("prompt", prompt)
    heavy, place = real_numbers("weight", weight, len(ids)), whole_numbers("ranks", ranks)
    values, length = real_numbers("log_probs", log_probs, len(place)), real_numbers("tokens", tokens, len(place))
    if len(ends) != len(ids) + 1 or len(annotators) != len(ids):
        raise PluralignError(f"offsets: found {len(ends)}, expected one more than the {len(ids)} judgments")
    starts, judgment = ends[:-1], np.repeat(np.arange(len(ids)), np.diff(ends))
    ranked = np.where(place > 0, place, np.iinfo(place.dtype).max)
    first = (ranked == np.minimum.reduceat(ranked, starts)[judgment]) & (place > 0)
    firsts = np.add.reduceat(first.astype(float), starts)

    def log_loss(scores: Floats) -> Floats:
        """Of each judgment; 0 where nothing was ranked."""
        level = np.maximum.reduceat(scores, starts)
        total = level + np.log(np.add.reduceat(np.exp(scores - level[judgment]), starts))
        return ratio(np.add.reduceat(first * (total[judgment] - scores), starts), np.maximum(firsts, 1.0))

    used = heavy * (firsts > 0)
    scores = {"": values, "_per_token": values / length, "/uniform": np.zeros(len(values))}
    means = {f"first_choice_log_loss{end}": (used * log_loss(own), used) for end, own in scores.items()}
    return Resampling(ids, seed=seed, annotator=annotator_ids(annotators)).mean_intervals(means)

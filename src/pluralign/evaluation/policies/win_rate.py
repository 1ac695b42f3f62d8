"""How often one policy's responses are better than another's, under a given reward."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from pluralign.core.errors import PluralignError
from pluralign.evaluation.intervals import Resampling
from pluralign.evaluation.policies.regret import preferred


def win_rate(
    first: ArrayLike, second: ArrayLike, *, replicates: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, float]:
    """Probability that a response of the first policy has the higher reward, ties half, with its interval.

    win_rate = mean over prompts of mean over pairs of responses of [r_1 > r_2] + [r_1 = r_2] / 2. The interval is a
    percentile bootstrap over prompts.

    Args:
        first: rewards of the first policy's responses, `(prompts, responses)`.
        second: rewards of the second policy's responses to the same prompts, `(prompts, responses)`.
        replicates: bootstrap replicates; 0 leaves the interval out.
        level: nominal coverage of the interval.
        seed: random seed of the bootstrap.

    Returns:
        `win_rate`, and with at least two prompts `win_rate_low` and `win_rate_high`.

    Raises:
        PluralignError: the shapes do not fit or a reward is not finite.

    Examples:
        >>> win_rate([[1.0, 3.0], [0.0, 0.0]], [[2.0], [0.0]], replicates=0)
        {'win_rate': 0.5}
    """
    one, two = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if one.ndim != 2 or two.ndim != 2 or len(one) != len(two) or not one.size or not two.size:
        raise PluralignError(
            f"expected rewards (prompts, responses) of the same prompts, found {one.shape} and {two.shape}"
        )
    if not (np.isfinite(one).all() and np.isfinite(two).all()):
        raise PluralignError("rewards: expected finite numbers, found others")
    return Resampling(np.arange(len(one)), replicates, level, seed).mean_intervals(
        {"win_rate": (preferred(one, two), 1.0)}
    )

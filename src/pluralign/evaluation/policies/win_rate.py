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

    win_rate = mean over prompts of mean over pairs of responses of [r_1 > r_2] + [r_1 = r_2] / 2.

    Args:
        first: rewards of the first policy's responses, `(prompts, responses)`.
        second: rewards of the second policy's responses to the same prompts, `(prompts, responses)`.
        replicates, level, seed: as in `pluralign.evaluation.intervals.Resampling`, over prompts.

    Returns:
        `win_rate`, and with at least two prompts `win_rate_low` and `win_rate_high`.

    Raises:
        PluralignError: the shapes do not fit or a reward is not finite.

    Examples:
        >>> win_rate([[1.0, 3.0], [0.0, 0.0]], [[2.0], [0.0]], replicates=0)
        {'win_rate': 0.5}
    """
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if first.ndim != 2 or second.ndim != 2 or len(first) != len(second) or not first.size or not second.size:
        raise PluralignError(
            f"expected rewards (prompts, responses) of the same prompts, found {first.shape} and {second.shape}"
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise PluralignError("rewards: expected finite numbers, found others")
    resampling = Resampling(np.arange(len(first)), replicates, level, seed)
    return resampling.mean_intervals({"win_rate": (preferred(first, second), 1.0)})

"""How often one policy's answers are better than another's, under a given reward."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from pluralign.core.errors import PluralignError
from pluralign.evaluation.intervals import resampled_sums


def win_rate(
    first: ArrayLike, second: ArrayLike, *, replicates: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, float]:
    """Probability that an answer of the first policy has the higher reward, ties half, with its interval.

    win_rate = mean over prompts of mean over pairs of answers of [r_1 > r_2] + [r_1 = r_2] / 2. The interval is
    a percentile bootstrap over prompts.

    Args:
        first: rewards of the first policy's answers, `(prompts, answers)`.
        second: rewards of the second policy's answers to the same prompts, `(prompts, answers)`.
        replicates: bootstrap draws; 0 leaves the interval out.
        level: coverage the interval aims at.
        seed: of the bootstrap.

    Returns:
        `win_rate`, and with two prompts or more `win_rate_low` and `win_rate_high`.

    Raises:
        PluralignError: the shapes do not fit or a reward is not finite.

    Examples:
        >>> win_rate([[1.0, 3.0], [0.0, 0.0]], [[2.0], [0.0]], replicates=0)
        {'win_rate': 0.5}
    """
    one, two = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if one.ndim != 2 or two.ndim != 2 or len(one) != len(two) or not one.size or not two.size:
        raise PluralignError(
            f"expected rewards (prompts, answers) of the same prompts, found {one.shape} and {two.shape}"
        )
    if not (np.isfinite(one).all() and np.isfinite(two).all()):
        raise PluralignError("rewards: expected finite numbers, found others")
    gaps = one[:, :, None] - two[:, None, :]
    each = ((gaps > 0) + (gaps == 0) / 2).mean((1, 2))
    found = {"win_rate": float(each.mean())}
    if replicates and len(each) > 1:
        means = resampled_sums(each[:, None], replicates, seed)[:, 0] / len(each)
        low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
        found |= {"win_rate_low": float(low), "win_rate_high": float(high)}
    return found

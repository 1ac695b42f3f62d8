"""How well the strength of a preference is predicted, by a model with thresholds between strengths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike

from pluralign.choice.ordered import UNKNOWN, ordered_pair_log_likelihood
from pluralign.evaluation.intervals import Resampling
from pluralign.evaluation.pairs import checked_rankings, rank_keys, whole_numbers


def strength_metrics(
    rewards: ArrayLike,
    ranks: ArrayLike,
    offsets: ArrayLike,
    prompt: ArrayLike,
    weight: ArrayLike,
    strength: ArrayLike,
    thresholds: Sequence[float],
    *,
    annotator: ArrayLike | None = None,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """The log-loss of ordered outcomes, over the judgments of two responses whose outcome is known.

    Args:
        rewards, ranks, offsets, prompt, weight: as in `pluralign.evaluation.pairs.pairs_of`.
        strength: `(judgments,)` 1 ... m, or `pluralign.choice.ordered.UNKNOWN`.
        thresholds: t `(m,)`; if t_0 is 0 the model has no ties, and ties are left out.
        annotator: of each judgment, as from `intervals.annotator_ids`.
        replicates, level, seed: as in `pluralign.evaluation.intervals.Resampling`.

    Returns:
        `strength_judgments`, their number, and `strength_log_loss`, -mean log P(outcome), in nats per judgment, with
        its interval over prompts and, with `annotator`, annotators; empty without such judgments.

    Examples:
        >>> found = strength_metrics([1.0, 0.0] * 2, [1, 2] * 2, [0, 2, 4], [0, 1], [1.0] * 2, [1, 2], [0.0, 2.0],
        ...                          replicates=0)
        >>> found["strength_judgments"], round(found["strength_log_loss"], 3)
        (2, 1.043)
    """
    reward, rank, place, _, reliability = checked_rankings(rewards, ranks, offsets, prompt, weight)
    levels, starts = whole_numbers("strength", strength), place[:-1]
    pairs = np.flatnonzero(np.diff(place) == 2)
    both = starts[pairs][:, None] + np.arange(2)
    key = rank_keys(rank)[both]
    tied = key[:, 0] == key[:, 1]
    known = np.where(tied, thresholds[0] > 0, levels[pairs] != UNKNOWN)
    pairs, both = pairs[known], both[known]
    if not len(pairs):
        return {}
    each = ordered_pair_log_likelihood(
        torch.from_numpy(reward[both]),
        torch.from_numpy(rank[both]),
        torch.from_numpy(levels[pairs]),
        torch.tensor(thresholds, dtype=torch.float64),
    ).numpy()
    w = reliability[pairs]
    who = None if annotator is None else whole_numbers("annotator", annotator)[pairs]
    resampling = Resampling(np.asarray(prompt)[pairs], replicates, level, seed, annotator=who)
    return {"strength_judgments": len(pairs)} | resampling.mean_intervals({"strength_log_loss": (-w * each, w)})

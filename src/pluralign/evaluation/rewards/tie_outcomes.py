"""Three outcomes of a pair, the first is better, a tie, the second is better, under Davidson's model of ties."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from pluralign.choice.davidson import log_outcomes
from pluralign.evaluation.intervals import Resampling
from pluralign.evaluation.pairs import (
    UNRANKED,
    Floats,
    Ints,
    checked_rankings,
    judgment_blocks,
    rank_keys,
    whole_numbers,
)


def outcome_pairs(
    rewards: ArrayLike, ranks: ArrayLike, offsets: ArrayLike, prompt: ArrayLike, weight: ArrayLike
) -> tuple[Floats, Ints, Ints, Floats]:
    """The compared pairs of rankings, ties too; arguments as in `pluralign.evaluation.pairs.pairs_of`.

    Returns:
        Difference of the rewards, outcome (0 the first is better, 1 a tie, 2 the second), judgment, and weight, each
        `(pairs,)`; the pairs of a judgment share its weight.

    Examples:
        >>> gap, outcome, judgment, each = outcome_pairs([2.0, 0.5, 0.0], [1, 1, 0], [0, 3], [0], [1.0])
        >>> gap.tolist(), outcome.tolist(), each.round(2).tolist()
        ([1.5, 2.0, 0.5], [1, 0, 0], [0.33, 0.33, 0.33])
    """
    reward, rank, place, _, reliability = checked_rankings(rewards, ranks, offsets, prompt, weight)
    key = rank_keys(rank)
    gaps, outcomes, owners = [np.zeros(0)], [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for block, positions in judgment_blocks(place):
        first, second = np.triu_indices(positions.shape[1], k=1)
        one, two = key[positions][:, first], key[positions][:, second]
        compared = (one != UNRANKED) | (two != UNRANKED)
        gaps.append((reward[positions][:, first] - reward[positions][:, second])[compared])
        outcomes.append(np.where(one < two, 0, np.where(one == two, 1, 2))[compared])
        owners.append(np.repeat(block, compared.sum(axis=1)))
    judgment = np.concatenate(owners)
    count = np.bincount(judgment, minlength=len(place) - 1)
    return np.concatenate(gaps), np.concatenate(outcomes), judgment, reliability[judgment] / count[judgment]


def tie_metrics(
    rewards: ArrayLike,
    ranks: ArrayLike,
    offsets: ArrayLike,
    prompt: ArrayLike,
    weight: ArrayLike,
    log_nu: float,
    *,
    annotator: ArrayLike | None = None,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """How well the outcomes of pairs, ties among them, are predicted by Davidson's model.

    Args:
        rewards, ranks, offsets, prompt, weight: as in `pluralign.evaluation.pairs.pairs_of`.
        log_nu: the log of the tie parameter.
        annotator: of each judgment, as from `intervals.annotator_ids`.
        replicates, level, seed: as in `pluralign.evaluation.intervals.Resampling`.

    Returns:
        `outcome_log_loss`, -mean log P(outcome), in nats per pair (ln 3 for three equally likely outcomes);
        `tie_share`, the share of ties, and `predicted_tie_share`, the mean of their probabilities; each with its
        interval over prompts and, with `annotator`, annotators. Empty without pairs.

    Examples:
        >>> found = tie_metrics([0.0, 0.0] * 2, [1, 1, 1, 2], [0, 2, 4], [0, 1], [1.0, 1.0], 0.0, replicates=0)
        >>> {name: round(value, 3) for name, value in found.items()}
        {'outcome_log_loss': 1.099, 'tie_share': 0.5, 'predicted_tie_share': 0.333}
    """
    gap, outcome, judgment, each = outcome_pairs(rewards, ranks, offsets, prompt, weight)
    logs = log_outcomes(gap, log_nu)
    who = None if annotator is None else whole_numbers("annotator", annotator)[judgment]
    resampling = Resampling(np.asarray(prompt)[judgment], replicates, level, seed, annotator=who)
    return resampling.mean_intervals(
        {
            "outcome_log_loss": (-each * logs[np.arange(len(gap)), outcome], each),
            "tie_share": (each * (outcome == 1), each),
            "predicted_tie_share": (each * np.exp(logs[:, 1]), each),
        }
    )

"""Sums per group of pairs that determine accuracy, log-loss, Brier score, calibration errors and reward gaps.

Overall numbers, slices, annotators and bootstrap replicates are all functions of these sums, so that
one definition of each metric serves them all.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from pluralign.evaluation.calibration.binned import (
    BinSums,
    average_error,
    bin_columns,
    brier_parts,
    debiased_error,
    expected_error,
    max_error,
    ratio,
)
from pluralign.evaluation.calibration.reliability import equal_width_edges
from pluralign.evaluation.pairs import Floats, Ints, Pairs

# Columns of the sums; those of the bins follow.
WEIGHT, CORRECT, LOG_LOSS, BRIER, RIGHT, GAP_RIGHT, WRONG, GAP_WRONG, SURE_WRONG, BINS = range(10)

# Who gives the worse response this probability, or more, is sure and wrong.
SURE = 0.9


def pair_sums(pairs: Pairs, group: Ints, groups: int, bins: int = 10) -> Floats:
    """Sums over the pairs of each group.

    With w the weight, m the margin and p = sigmoid(m), the columns are the sums of: w; w ([m > 0] + [m = 0] / 2);
    w (-log p), in nats; w (1 - p)^2; w [m > 0]; w |m| [m > 0]; w [m < 0]; w |m| [m < 0]; w [1 - p >= 0.9]. Then
    come those of `pluralign.evaluation.calibration.binned.bin_columns` for bins of equal width.

    Args:
        pairs: strict pairs.
        group: group of each pair, int `(pairs,)`; -1 leaves the pair out.
        groups: number of groups.
        bins: equal bins of [0, 1], an even number.

    Returns:
        `(groups, 9 + 6 * bins / 2)`.

    Examples:
        >>> from pluralign.evaluation.pairs import pairs_of
        >>> pairs = pairs_of([2.0, 0.0], [1, 2], [0, 2], [0], [1.0])
        >>> pair_sums(pairs, np.array([0]), 1)[:, :BINS].round(3).tolist()
        [[1.0, 1.0, 0.127, 0.014, 1.0, 2.0, 0.0, 0.0, 0.0]]
    """
    within = group >= 0
    weight, margin = pairs.weight[within], pairs.margin[within]
    right, wrong, size = margin > 0, margin < 0, np.abs(margin)
    columns = {
        WEIGHT: weight,
        CORRECT: weight * np.where(margin == 0, 0.5, right),
        # log(1 + exp(-m)) by logaddexp: exact at both ends, where sigmoid would be 0 or 1.
        LOG_LOSS: weight * np.logaddexp(0.0, -margin),
        BRIER: weight * expit(-margin) ** 2,
        RIGHT: weight * right,
        GAP_RIGHT: weight * size * right,
        WRONG: weight * wrong,
        GAP_WRONG: weight * size * wrong,
        SURE_WRONG: weight * (wrong & (expit(size) >= SURE)),
    }
    sums = np.zeros((groups, BINS))
    for column, value in columns.items():
        sums[:, column] = np.bincount(group[within], weights=value, minlength=groups)
    return np.concatenate([sums, bin_columns(pairs, group, groups, equal_width_edges(bins))], axis=1)


def metrics_of_sums(sums: Floats) -> dict[str, Floats]:
    """The metrics of each row of `pair_sums`, or of sums of such rows.

    `accuracy`, `log_loss` (nats) and the parts of the Brier score are means over all pairs. `ece`, `ece_debiased`,
    `max_calibration_error` and `average_calibration_error` are of the pairs whose margin is not 0. `gap_right` and
    `gap_wrong` are the mean |m| of pairs that the rewards order right and wrong, and `sure_wrong` is the share of
    the wrong ones with sigmoid(|m|) of 0.9 or more.

    Returns:
        arrays `(groups,)`; nan marks a row whose denominator is 0, for the caller to leave out.

    Examples:
        >>> from pluralign.evaluation.pairs import pairs_of
        >>> pairs = pairs_of([1.0, 0.0, 0.0, 3.0], [1, 2, 1, 2], [0, 2, 4], [0, 1], [1.0, 1.0])
        >>> metrics = metrics_of_sums(pair_sums(pairs, np.array([0, 0]), 2))
        >>> [metrics[name].tolist() for name in ("accuracy", "gap_right", "gap_wrong", "sure_wrong")]
        [[0.5, nan], [1.0, nan], [3.0, nan], [1.0, nan]]
    """
    bins = BinSums.of_columns(sums[:, BINS:])
    weight = sums[:, WEIGHT]
    return {
        "accuracy": ratio(sums[:, CORRECT], weight),
        "log_loss": ratio(sums[:, LOG_LOSS], weight),
        "ece": expected_error(bins),
        "ece_debiased": debiased_error(bins),
        "max_calibration_error": max_error(bins),
        "average_calibration_error": average_error(bins),
        **brier_parts(bins, sums[:, BRIER], weight),
        "gap_right": ratio(sums[:, GAP_RIGHT], sums[:, RIGHT]),
        "gap_wrong": ratio(sums[:, GAP_WRONG], sums[:, WRONG]),
        "sure_wrong": ratio(sums[:, SURE_WRONG], sums[:, WRONG]),
    }

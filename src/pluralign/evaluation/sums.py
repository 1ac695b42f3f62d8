"""Sums per group of pairs that determine accuracy, log-loss and calibration error.

Overall numbers, slices, annotators and bootstrap replicates are all functions of these sums, so that
one definition of each metric serves them all.
"""

from __future__ import annotations

import numpy as np

from pluralign.evaluation.calibration import bin_of, equal_width_edges, top_label
from pluralign.evaluation.pairs import Floats, Ints, Pairs

# Columns of the sums; the signed calibration gaps of the bins follow.
WEIGHT, CORRECT, LOG_LOSS, UNTIED, GAPS = range(5)


def pair_sums(pairs: Pairs, group: Ints, groups: int, bins: int = 10) -> Floats:
    """Sums over the pairs of each group.

    With w the weight, m the margin and c = sigmoid(|m|), the columns are: sum of w; of
    w ([m > 0] + [m = 0] / 2); of w (-log sigmoid(m)), in nats; of w [m != 0]; then for each bin of c
    the sum of w ([m > 0] - c) over the pairs with m != 0 in it.

    Args:
        pairs: strict pairs.
        group: group of each pair, int `(pairs,)`; -1 leaves the pair out.
        groups: number of groups.
        bins: equal bins of [0, 1], an even number.

    Returns:
        `(groups, 4 + bins / 2)`.

    Examples:
        >>> from pluralign.evaluation.pairs import pairs_of
        >>> pairs = pairs_of([2.0, 0.0], [1, 2], [0, 2], [0], [1.0])
        >>> pair_sums(pairs, np.array([0]), 1).round(3).tolist()
        [[1.0, 1.0, 0.127, 1.0, 0.0, 0.0, 0.0, 0.119, 0.0]]
    """
    edges = equal_width_edges(bins)
    width = len(edges) - 1
    within = group >= 0
    weight, margin = pairs.weight[within], pairs.margin[within]
    confidence, correct, untied_weight, untied = top_label(pairs)
    untied_within = within[untied]
    cell = group[untied] * width + bin_of(confidence, edges)
    gap = untied_weight * (correct - confidence)

    sums = np.zeros((groups, GAPS + width))
    for column, value in (
        (WEIGHT, weight),
        (CORRECT, weight * np.where(margin == 0, 0.5, margin > 0)),
        # log(1 + exp(-m)) by logaddexp: exact at both ends, where sigmoid would be 0 or 1.
        (LOG_LOSS, weight * np.logaddexp(0.0, -margin)),
        (UNTIED, weight * (margin != 0)),
    ):
        sums[:, column] = np.bincount(group[within], weights=value, minlength=groups)
    gaps = np.bincount(cell[untied_within], weights=gap[untied_within], minlength=groups * width)
    sums[:, GAPS:] = gaps.reshape(groups, width)
    return sums


def metrics_of_sums(sums: Floats) -> dict[str, Floats]:
    """`accuracy`, `log_loss` (nats) and `ece` of each row of `pair_sums`, or of sums of such rows.

    Returns:
        arrays `(groups,)`; nan marks a row whose denominator is 0, for the caller to leave out.

    Examples:
        >>> sums = np.array([[2.0, 1.0, 1.5, 2.0, 0.1, -0.3], [0.0] * 6])
        >>> {name: values.tolist() for name, values in metrics_of_sums(sums).items()}
        {'accuracy': [0.5, nan], 'log_loss': [0.75, nan], 'ece': [0.2, nan]}
    """
    return {
        "accuracy": _ratio(sums[:, CORRECT], sums[:, WEIGHT]),
        "log_loss": _ratio(sums[:, LOG_LOSS], sums[:, WEIGHT]),
        "ece": _ratio(np.abs(sums[:, GAPS:]).sum(axis=1), sums[:, UNTIED]),
    }


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    undefined = np.full(len(numerator), np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator > 0)

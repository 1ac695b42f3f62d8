"""Accuracy, log-loss, Brier score, calibration errors and reward gaps of strict pairs, with intervals.

Every metric is a function of sums over pairs. The whole, slices, annotators and bootstrap replicates differ only in
what is summed, so each metric is defined once.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from pluralign.evaluation.calibration.reliability import (
    BinSums,
    average_error,
    bin_columns,
    brier_parts,
    calibration_p_value,
    equal_mass_edges,
    equal_width_edges,
    expected_error,
    max_error,
    squared_error,
    top_label,
)
from pluralign.evaluation.calibration.smooth import residual_cells, smooth_error
from pluralign.evaluation.intervals import Metrics, Resampling, ratio
from pluralign.evaluation.pairs import Floats, Ints, Pairs

# Columns of `pair_sums`; those of the bins follow.
WEIGHT, CORRECT, LOG_LOSS, BRIER, RIGHT, GAP_RIGHT, WRONG, GAP_WRONG, SURE_WRONG, BINS = range(10)

# The metrics that are ratios of two of these sums.
RATIOS = {
    "accuracy": (CORRECT, WEIGHT),
    "log_loss": (LOG_LOSS, WEIGHT),
    "brier": (BRIER, WEIGHT),
    "gap_right": (GAP_RIGHT, RIGHT),
    "gap_wrong": (GAP_WRONG, WRONG),
    "sure_wrong": (SURE_WRONG, WRONG),
}

# Sums of absolute gaps: the noise of a replicate adds to that of the data, so that they have no intervals.
PLUG_IN = ("ece", "ece_equal_mass", "max_calibration_error", "average_calibration_error")

# A wrong pair counts in `sure_wrong` if the rewards give the worse response at least this probability.
SURE = 0.9


def pair_metrics(
    pairs: Pairs, bins: int = 10, *, replicates: int = 0, level: float = 0.95, seed: int = 0
) -> dict[str, float]:
    """Accuracy, log-loss, calibration errors and reward gaps over all strict pairs.

    With w the pair weights (each judgment counts once) and m the margins, weighted means of: `accuracy`
    [m > 0] + [m = 0] / 2 (equal rewards count half); `log_loss` -log sigmoid(m), in nats; `brier` (1 - sigmoid(m))^2;
    `mean_margin` m. `brier_reliability`, `brier_resolution` and `brier_uncertainty` are the parts of `brier`. `ece` is
    the calibration error over bins of equal width, `ece_equal_mass` over bins of equal mass; `ece_p_value`,
    `ece_squared` (unbiased, may be negative), `max_calibration_error` and `average_calibration_error` are defined in
    `pluralign.evaluation.calibration.reliability`, and `ece_smooth` in `pluralign.evaluation.calibration.smooth`.
    `gap_right`, `gap_wrong` and `sure_wrong` are defined in `metrics_of_sums`. Counts: `pairs` strict pairs,
    `tied_pairs` pairs that the annotator ranked equal, `undecided_judgments` judgments without a strict pair,
    `reward_ties` strict pairs with margin 0.

    Intervals are over prompts and, where `pairs.annotator` is given, annotators: judgments on one prompt share its
    responses and those of one annotator share a taste, so more of them do not narrow an interval by themselves.
    Calibration errors over bins are biased upwards in small samples, and more so in replicates: they have no interval
    but `ece_p_value`. The interval of `ece_smooth` measures its spread and may lie above the estimate.

    Args:
        pairs: strict pairs; `pairs.prompt` and `pairs.annotator` are the clusters of the intervals.
        bins: of [0, 1], an even number.
        replicates, level, seed: as in `pluralign.evaluation.intervals.Resampling`; `replicates` is also the number of
            draws for `ece_p_value`.

    Returns:
        flat keys, with `KEY_low` and `KEY_high` for all but the counts, `mean_margin`, `ece_squared` and the errors
        over bins if there are two prompts, and `Resampling.given`. An undefined value (no weight to divide by) is left
        out, never nan.

    Raises:
        PluralignError: `bins` is odd or under 2, or as in `Resampling`.

    Examples:
        >>> from pluralign.evaluation.pairs import pairs_of
        >>> pairs = pairs_of([1.0, 0.0, 2.0, 2.0], [1, 2, 1, 2], [0, 2, 4], [0, 1], [1.0, 1.0])
        >>> metrics = {name: round(value, 3) for name, value in pair_metrics(pairs, replicates=50).items()}
        >>> {name: metrics[name] for name in ("accuracy", "log_loss", "ece", "brier", "gap_right", "pairs")}
        {'accuracy': 0.75, 'log_loss': 0.503, 'ece': 0.269, 'brier': 0.161, 'gap_right': 1.0, 'pairs': 2}
        >>> metrics["accuracy_low"], metrics["accuracy_high"], metrics["reward_ties"], "gap_wrong" in metrics
        (0.5, 1.0, 1, False)
    """
    resampling = Resampling(pairs.prompt, replicates, level, seed, annotator=pairs.annotator)
    weighted = weighted_metrics(pairs, resampling.group, resampling.groups, bins)
    metrics = {
        key: value
        for key, value in resampling.intervals(weighted, mean_columns(pairs)).items()
        if not any(key in (f"{name}_low", f"{name}_high") for name in PLUG_IN)
    }
    (squared,) = squared_error(pairs, np.zeros(len(pairs.margin), dtype=np.int64), 1, bins).tolist()
    p_value = calibration_p_value(pairs, bins, draws=replicates, seed=seed)
    metrics |= {} if np.isnan(squared) else {"ece_squared": squared}
    metrics |= {} if p_value is None else {"ece_p_value": p_value}
    metrics |= resampling.given if replicates else {}
    if pairs.weight.sum() > 0:
        metrics["mean_margin"] = float(np.average(pairs.margin, weights=pairs.weight))
    return metrics | {
        "pairs": len(pairs.margin),
        "tied_pairs": pairs.tied,
        "undecided_judgments": pairs.undecided,
        "reward_ties": int(np.count_nonzero(pairs.margin == 0)),
    }


def weighted_metrics(pairs: Pairs, group: Ints, groups: int, bins: int = 10) -> Metrics:
    """A function from weights of the groups of pairs `(rows, groups)` to metrics, each `(rows,)`; nan if undefined.

    The metrics are those of `metrics_of_sums`, `ece_equal_mass` and `ece_smooth`.
    """
    confidence, _, weight, _ = top_label(pairs)
    sums = pair_sums(pairs, group, groups, bins)
    equal_mass = bin_columns(pairs, group, groups, equal_mass_edges(confidence, weight, bins))
    residuals = residual_cells(pairs, group, groups)

    def metrics(weights: Floats) -> dict[str, Floats]:
        binned = BinSums.of_columns(weights @ equal_mass)
        return metrics_of_sums(weights @ sums) | {
            "ece_equal_mass": expected_error(binned),
            "ece_smooth": smooth_error(weights @ residuals, binned.mass.sum(axis=1)),
        }

    return metrics


def mean_columns(pairs: Pairs) -> dict[str, tuple[Floats, Floats]]:
    """Numerator and denominator of the metrics that are ratios of sums over the pairs, each `(pairs,)`."""
    columns = _columns(pairs.weight, pairs.margin)
    return {name: (columns[top], columns[bottom]) for name, (top, bottom) in RATIOS.items()}


def pair_sums(pairs: Pairs, group: Ints, groups: int, bins: int = 10) -> Floats:
    """Sums over the pairs of each group, `(groups, 9 + 2 * bins / 2)`.

    With w the weight, m the margin and p = sigmoid(m), the columns are the sums of: w; w ([m > 0] + [m = 0] / 2);
    w (-log p), in nats; w (1 - p)^2; w [m > 0]; w |m| [m > 0]; w [m < 0]; w |m| [m < 0]; w [1 - p >= 0.9]. The columns
    of `pluralign.evaluation.calibration.reliability.bin_columns` for bins of equal width follow; `group` as there.
    """
    within = group >= 0
    sums = np.zeros((groups, BINS))
    for column, value in _columns(pairs.weight[within], pairs.margin[within]).items():
        sums[:, column] = np.bincount(group[within], weights=value, minlength=groups)
    return np.concatenate([sums, bin_columns(pairs, group, groups, equal_width_edges(bins))], axis=1)


def _columns(weight: Floats, margin: Floats) -> dict[int, Floats]:
    """The first columns of `pair_sums` before they are summed, each `(pairs,)`."""
    right, wrong, size = margin > 0, margin < 0, np.abs(margin)
    return {
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


def metrics_of_sums(sums: Floats) -> dict[str, Floats]:
    """The metrics of each row of `pair_sums`, or of sums of such rows, `(rows,)`; nan where a denominator is 0.

    `accuracy`, `log_loss` (nats) and the parts of the Brier score are means over all pairs. `ece`,
    `max_calibration_error` and `average_calibration_error` cover the pairs whose margin is not 0. `gap_right` and
    `gap_wrong` are the mean |m| of pairs that the rewards order right and wrong, and `sure_wrong` is the share of the
    wrong pairs with sigmoid(|m|) of at least 0.9.

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
        **{name: ratio(sums[:, top], sums[:, bottom]) for name, (top, bottom) in RATIOS.items()},
        "ece": expected_error(bins),
        "max_calibration_error": max_error(bins),
        "average_calibration_error": average_error(bins),
        **brier_parts(bins, sums[:, BRIER], weight),
    }

"""Calibration: does a response with a reward margin of m win as often as sigmoid(m) says?

Pairs are binned by the confidence of the predicted winner. The calibration errors are functions of sums per bin, given
as rows of bins, so that each is defined once for the whole, its slices and the replicates of the bootstrap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from pluralign.core.errors import PluralignError
from pluralign.evaluation.intervals import (
    BLOCK_CELLS,
    FEWEST_LEVELS,
    Resampling,
    normal_draws,
    percentiles,
    ratio,
)
from pluralign.evaluation.pairs import SAME, Floats, Ints, Pairs

# The sum of a bin's labels is drawn as a normal number if it has more pairs than this, and at least this variance for
# weights of 1. Below, every label is drawn.
MANY_PAIRS, NORMAL_FROM = 1000, 50.0


def top_label(pairs: Pairs) -> tuple[Floats, Floats, Floats, Ints]:
    """The predicted winner of each pair: its probability, whether it won, the pair's weight, and which pair it is.

    confidence = max(p, 1 - p) = sigmoid(|margin|) with p = sigmoid(margin). A pair with margin 0 predicts no winner and
    is left out (`reward_ties` counts such pairs).

    Returns:
        confidence in [0.5, 1], correct (0.0 or 1.0), weight, and index into `pairs`, each `(kept,)`.
    """
    kept = np.flatnonzero(pairs.margin)
    margin = pairs.margin[kept]
    return expit(np.abs(margin)), (margin > 0).astype(np.float64), pairs.weight[kept], kept


def equal_width_edges(bins: int = 10) -> Floats:
    """Edges of the upper half of `bins` equal bins of [0, 1], which are the bins that a top label can reach.

    With an odd number of bins the middle one would hold both orders of a pair, which cancel there, and the top-label
    error would differ from the error over both orders.

    Raises:
        PluralignError: `bins` is odd or under 2.

    Examples:
        >>> equal_width_edges(10).round(2).tolist()
        [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    """
    _check_bins(bins)
    return np.linspace(0.0, 1.0, bins + 1)[bins // 2 :]


def equal_mass_edges(confidence: Floats, weight: Floats, bins: int = 10) -> Floats:
    """Edges of bins of the top label that hold about the same weight each.

    Equal confidences stay in one bin: a distinct value with weight w, with weight W below it, goes to bin
    floor((W + w / 2) / total * bins / 2). As in `equal_width_edges`, `bins` counts the bins of [0, 1].

    Args:
        confidence: of the top labels, in [0.5, 1], `(kept,)`.
        weight: of the pairs, `(kept,)`; pairs of weight 0 have no influence.
        bins: an even number.

    Returns:
        from 0.5 to 1, `(filled + 1,)` with `filled` at most `bins / 2`. The lower edge of a bin is the smallest
        confidence in it, but 0.5 in the first.

    Examples:
        Three values of the same confidence stay together and take the first two thirds of the weight.

        >>> equal_mass_edges(np.array([0.6, 0.6, 0.9, 0.6, 0.7, 0.8]), np.ones(6), bins=4).tolist()
        [0.5, 0.7, 1.0]
    """
    _check_bins(bins)
    heavy = weight > 0
    value, place = np.unique(confidence[heavy], return_inverse=True)
    if not len(value):
        return np.array([0.5, 1.0])
    mass = np.bincount(place, weights=weight[heavy])
    middle = (np.cumsum(mass) - mass / 2) / mass.sum()
    index = np.floor(middle * (bins // 2) + SAME)
    first = np.flatnonzero(np.diff(index)) + 1
    return np.concatenate([[0.5], value[first], [1.0]])


def bin_of(confidence: Floats, edges: Floats) -> Ints:
    """The bin of each confidence: `edges[b] <= confidence < edges[b + 1]`, the last bin closed above."""
    return np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, len(edges) - 2).astype(np.int64)


def bin_sums(index: Ints, bins: int, *values: Floats) -> Floats:
    """Sum of each array of values `(kept,)` within each bin: `(len(values), bins)`."""
    return np.stack([np.bincount(index, weights=value, minlength=bins) for value in values]).astype(np.float64)


def calibration_error(pairs: Pairs, bins: int = 10) -> float | None:
    """Expected calibration error of the rewards, None if no pair has a margin other than 0.

    ECE = sum_b W_b |accuracy_b - confidence_b| / sum_b W_b, W_b the weight in bin b of the top-label confidence
    max(p, 1 - p). This equals the error over all `bins` bins of [0, 1] with each pair in both orders: the order with
    confidence 1 - p is wrong exactly when the other is right, so its bin has the same gap. Counting only the order
    with the winner first would give another number.

    Source: arXiv 2312.07401 (ten equal bins, both orders).

    Examples:
        One pair, predicted with sigmoid(2) = 0.881 and right: the gap is 0.119.

        >>> from pluralign.evaluation.pairs import pairs_of
        >>> pairs = pairs_of([2.0, 0.0], [1, 2], [0, 2], [0], [1.0])
        >>> round(calibration_error(pairs), 3)
        0.119
    """
    columns = bin_columns(pairs, np.zeros(len(pairs.margin), dtype=np.int64), 1, equal_width_edges(bins))
    (error,) = expected_error(BinSums.of_columns(columns))
    return None if np.isnan(error) else float(error)


def calibrated_gaps(pairs: Pairs, edges: Floats, draws: int, seed: int = 0) -> Floats:
    """Sums of w ([m > 0] - c) by bin if the model were calibrated, `(draws, bins)`.

    The labels are drawn from the confidences c, independently; the sum of a bin with many uncertain pairs is drawn from
    the normal distribution of the same variance. What judgments of one prompt or annotator have in common is added as
    normal noise: its covariance is V_prompt + V_annotator - V_cell of `Resampling` less that of single pairs, of the
    residuals [m > 0] - c minus their mean in the bin. So a model that is right on average but too sure for some
    annotators and not sure enough for others counts as calibrated. Fewer than five annotators, or five prompts, are
    taken as given.
    """
    generator = np.random.default_rng(seed)
    confidence, _, weight, kept = top_label(pairs)
    index = bin_of(confidence, edges)
    # 1 - c from the margin: exact where the confidence rounds to 1.
    doubt = expit(-np.abs(pairs.margin[kept]))
    variance = weight**2 * confidence * doubt
    gaps = np.zeros((draws, len(edges) - 1))
    for b in range(gaps.shape[1]):
        own = np.flatnonzero((index == b) & (variance > 0))
        # In an order of their own: the order of the judgments does not matter.
        own = own[np.lexsort((weight[own], doubt[own]))]
        total, largest = variance[own].sum(), (weight[own] ** 2).max(initial=0.0)
        if len(own) > MANY_PAIRS and total > NORMAL_FROM * largest:
            gaps[:, b] = generator.normal(scale=np.sqrt(total), size=draws)
            continue
        step = max(1, BLOCK_CELLS // max(len(own), 1))
        for start in range(0, draws, step):
            wrong = generator.random((min(step, draws - start), len(own))) < doubt[own]
            gaps[start : start + step, b] = weight[own] @ doubt[own] - wrong @ weight[own]
    return gaps + _shared_noise(pairs, edges, draws, seed)


def _shared_noise(pairs: Pairs, edges: Floats, draws: int, seed: int) -> Floats:
    """The part of `calibrated_gaps` that judgments of one prompt or annotator have in common, `(draws, bins)`."""
    resampling = Resampling(pairs.prompt, annotator=pairs.annotator)
    confidence, correct, weight, kept = top_label(pairs)
    bins = len(edges) - 1
    index = bin_of(confidence, edges)
    mass, gap = bin_sums(index, bins, weight, weight * (correct - confidence))
    if resampling.groups < FEWEST_LEVELS or not mass.sum() > 0:
        return np.zeros((draws, bins))
    residual = np.zeros((len(pairs.margin), bins))
    residual[kept, index] = weight * (correct - confidence - (gap / np.where(mass > 0, mass, 1.0))[index])
    of_pair = np.zeros(len(residual))
    of_pair[kept] = weight
    single = Resampling(np.arange(len(residual))).covariance(residual, of_pair)
    generator = np.random.default_rng([seed, 1])
    return normal_draws(resampling.covariance(residual, of_pair) - single, draws, generator)


def calibration_p_value(pairs: Pairs, bins: int = 10, *, draws: int = 1000, seed: int = 0) -> float | None:
    """How often labels drawn from the predicted probabilities give an `ece` at least as large as the judgments'.

        p = (1 + number of draws with ECE* >= ECE) / (1 + draws)

    For a calibrated model p is about uniform. The draws respect repeated prompts and annotators (`calibrated_gaps`).

    Source: Broecker and Smith (2007), "Increasing the reliability of reliability diagrams"; Vaicenavicius et al.
    (2019), arXiv 1902.06977 (consistency resampling). Ours: the confidences stay as they are.

    Returns:
        None without draws or without a pair that has a margin other than 0 and a weight.

    Examples:
        Forty pairs, all predicted with 0.88, half of them wrong.

        >>> from pluralign.evaluation.pairs import pairs_of
        >>> ranks, offsets = [1, 2, 2, 1] * 20, list(range(0, 81, 2))
        >>> pairs = pairs_of([2.0, 0.0] * 40, ranks, offsets, list(range(40)), [1.0] * 40)
        >>> round(calibration_p_value(pairs), 3)
        0.001
    """
    edges = equal_width_edges(bins)
    sums = BinSums.of_columns(bin_columns(pairs, np.zeros(len(pairs.margin), dtype=np.int64), 1, edges))
    if not draws or not sums.mass.sum() > 0:
        return None
    observed = np.abs(sums.gap).sum()
    drawn = np.abs(calibrated_gaps(pairs, edges, draws, seed)).sum(axis=1)
    return float((1 + np.count_nonzero(drawn >= observed - SAME * sums.mass.sum())) / (1 + draws))


def reliability_table(
    pairs: Pairs,
    bins: int = 10,
    *,
    equal_mass: bool = False,
    replicates: int = 0,
    level: float = 0.95,
    seed: int = 0,
) -> list[dict[str, float]]:
    """Confidence and accuracy, one row per bin that holds weight.

    Args:
        pairs: strict pairs; those with margin 0 are left out.
        bins: bins of [0, 1], an even number; a top label reaches the upper half of them.
        equal_mass: use bins of about equal weight (`equal_mass_edges`) instead of equal width.
        replicates, level, seed: as in `pluralign.evaluation.intervals.Resampling`, for the interval of each accuracy
            over prompts and annotators, and for the consistency bars. The bins are those of the data throughout.

    Returns:
        rows with `lower`, `upper`, `pairs` (count), `share` (of the weight; sums to 1), `confidence` and `accuracy`
        (weighted means), and `gap` = accuracy - confidence, below 0 where the model is over-confident. The
        calibration error is the sum of share * |gap|. With `replicates`, `consistent_low` and `consistent_high`: the
        range of the accuracy if the model were calibrated (Broecker and Smith 2007; see `calibrated_gaps`). With two
        prompts, also `accuracy_low` and `accuracy_high`, over the replicates in which the bin holds weight.

    Raises:
        PluralignError: `bins` is odd or under 2, or as in `Resampling`.

    Examples:
        >>> from pluralign.evaluation.pairs import pairs_of
        >>> pairs = pairs_of([2.0, 0.0, 0.0, 2.0], [1, 2, 1, 2], [0, 2, 4], [0, 1], [1.0, 1.0])
        >>> [row] = reliability_table(pairs)
        >>> {name: round(value, 3) for name, value in row.items()}
        {'lower': 0.8, 'upper': 0.9, 'pairs': 2, 'share': 1.0, 'confidence': 0.881, 'accuracy': 0.5, 'gap': -0.381}
    """
    confidence, correct, weight, kept = top_label(pairs)
    edges = equal_mass_edges(confidence, weight, bins) if equal_mass else equal_width_edges(bins)
    index = bin_of(confidence, edges)
    width = len(edges) - 1
    counts = np.bincount(index, minlength=width)
    mass, sure, right = bin_sums(index, width, weight, weight * confidence, weight * correct)
    filled = np.flatnonzero(mass > 0).tolist()
    resampling = Resampling(pairs.prompt, replicates, level, seed, annotator=pairs.annotator)
    masses, rights = (np.zeros((len(pairs.margin), len(filled))) for _ in range(2))
    for place, b in enumerate(filled):
        own = index == b
        masses[kept[own], place] = weight[own]
        rights[kept[own], place] = (weight * correct)[own]
    accuracy = resampling.mean_intervals(
        {str(b): (rights[:, place], masses[:, place]) for place, b in enumerate(filled)}
    )
    drawn = calibrated_gaps(pairs, edges, replicates, seed) / np.where(mass > 0, mass, 1.0)
    rows: list[dict[str, float]] = []
    for b in filled:
        row = {
            "lower": float(edges[b]),
            "upper": float(edges[b + 1]),
            "pairs": int(counts[b]),
            "share": float(mass[b] / mass.sum()),
            "confidence": float(sure[b] / mass[b]),
            "accuracy": float(right[b] / mass[b]),
            "gap": float((right[b] - sure[b]) / mass[b]),
        }
        if f"{b}_low" in accuracy:
            row |= {f"accuracy_{end}": accuracy[f"{b}_{end}"] for end in ("low", "high")}
        if (ends := percentiles(drawn[:, b], level)) is not None:
            row |= {
                f"consistent_{end}": row["confidence"] + float(at)
                for end, at in zip(("low", "high"), ends, strict=True)
            }
        rows.append(row)
    return rows


@dataclass(frozen=True)
class BinSums:
    """Sums over the pairs with margin other than 0, by row and bin; each `(rows, bins)`.

    Attributes:
        mass: of w.
        gap: of w ([m > 0] - c), c the top-label confidence.
    """

    mass: Floats
    gap: Floats

    @classmethod
    def of_columns(cls, columns: Floats) -> BinSums:
        """The rows of `bin_columns` `(rows, 2 * bins)`, or sums of such rows, by name."""
        return cls(*np.hsplit(columns, 2))


def bin_columns(pairs: Pairs, group: Ints, groups: int, edges: Floats) -> Floats:
    """The sums of `BinSums` for each group of pairs as rows that can be added, `(groups, 2 * bins)`.

    `group` is the group of each pair, int `(pairs,)`; -1 leaves the pair out. The bins of `mass` come first.
    """
    weight, gap, cell, _, cells = _binned(pairs, group, groups, edges)
    shape = (groups, len(edges) - 1)
    return np.concatenate([part.reshape(shape) for part in bin_sums(cell, cells, weight, gap)], axis=1)


def _binned(pairs: Pairs, group: Ints, groups: int, edges: Floats) -> tuple[Floats, Floats, Ints, Ints, int]:
    """Weight, gap, cell (group and bin) and place of the pairs that have a group and a margin; the number of cells."""
    confidence, correct, weight, kept = top_label(pairs)
    bins = len(edges) - 1
    within = group[kept] >= 0
    cell = (group[kept] * bins + bin_of(confidence, edges))[within]
    return weight[within], (weight * (correct - confidence))[within], cell, kept[within], groups * bins


def squared_error(pairs: Pairs, group: Ints, groups: int, bins: int = 10) -> Floats:
    """Unbiased squared calibration error of each group of pairs, `(groups,)`; it may be negative.

        ece_squared = sum_b W_b / W (gap_b^2 - s_b^2)

    gap_b^2 - s_b^2 is the weighted mean of d_i d_j over pairs (i, j) of the bin that share neither prompt nor
    annotator, d = [m > 0] - c. Such residuals are independent, so its mean is the square of the true gap: with one
    judgment for each prompt, s_b^2 is the usual variance of a mean. Bins without two such pairs are left out; nan
    marks a group in which no bin is left.

    Source: the bias of the plug-in is the variance within bins (Kumar, Liang and Ma 2019, arXiv 1909.10155). Ours:
    prompts and annotators as the independent units, without annotators prompts alone.

    Examples:
        Two prompts at one confidence, one right and one wrong: the sign of the square is that of d_1 d_2.

        >>> from pluralign.evaluation.pairs import pairs_of
        >>> pairs = pairs_of([2.0, 0.0, 0.0, 2.0], [1, 2, 1, 2], [0, 2, 4], [0, 1], [1.0, 1.0])
        >>> squared_error(pairs, np.array([0, 0]), 1).round(3).tolist()
        [-0.105]
    """
    weight, gap, cell, kept, cells = _binned(pairs, group, groups, equal_width_edges(bins))
    mass, sums = bin_sums(cell, cells, weight, gap)
    square, product = mass**2, sums**2
    prompt = np.unique(pairs.prompt[kept], return_inverse=True)[1]
    clusters = [(prompt, 1.0)]
    if pairs.annotator is not None:
        who = np.unique(pairs.annotator[kept], return_inverse=True)[1]
        # Products of one prompt and of one annotator go; those of both would go twice.
        clusters += [(who, 1.0), (prompt * (int(who.max(initial=0)) + 1) + who, -1.0)]
    for code, sign in clusters:
        together, place = np.unique(code * cells + cell, return_inverse=True)
        own_mass, own_gap = bin_sums(place, len(together), weight, gap)
        square -= sign * np.bincount(together % cells, weights=own_mass**2, minlength=cells)
        product -= sign * np.bincount(together % cells, weights=own_gap**2, minlength=cells)
    usable = square > SAME * mass**2
    parts = np.where(usable, mass * np.divide(product, square, out=np.zeros(cells), where=usable), 0.0)
    held = np.where(usable, mass, 0.0)
    parts, held = (values.reshape(groups, bins // 2).sum(axis=1) for values in (parts, held))
    return ratio(parts, held)


def expected_error(bins: BinSums) -> Floats:
    """ECE = sum_b W_b |gap_b| / sum_b W_b, `(rows,)`, gap_b the accuracy minus the mean confidence of bin b.

    Here and below nan marks a row without weight.
    """
    return ratio(np.abs(bins.gap).sum(axis=1), bins.mass.sum(axis=1))


def max_error(bins: BinSums) -> Floats:
    """max_b |gap_b| over the bins that hold weight, `(rows,)`."""
    gap = np.abs(_per_bin(bins.gap, bins.mass)).max(axis=1)
    return np.where(bins.mass.sum(axis=1) > 0, gap, np.nan)


def average_error(bins: BinSums) -> Floats:
    """Mean of |gap_b| over the bins that hold weight, each bin once, `(rows,)`."""
    return ratio(np.abs(_per_bin(bins.gap, bins.mass)).sum(axis=1), (bins.mass > 0).sum(axis=1).astype(np.float64))


def brier_parts(bins: BinSums, brier: Floats, weight: Floats) -> dict[str, Floats]:
    """Murphy's parts of a Brier score, `brier = brier_reliability - brier_resolution + brier_uncertainty`.

    Over both orders of each pair half of the outcomes are 1, so that

        brier_uncertainty = 1/4,
        brier_reliability = sum_b W_b / W gap_b^2,
        brier_resolution  = sum_b W_b / W (a_b - 1/2)^2 + 1/W sum_b sum_(i in b) w_i (2 c'_i y'_i - c'_i^2)

    with c' and y' the confidence and correctness minus their means in the bin. The first sum of the resolution is
    Murphy's. The second, twice the covariance within bins minus the variance of the confidence there, makes the three
    add up exactly for forecasts that differ within a bin. Pairs with margin 0 have p = 1/2 in both orders and are
    right half of the time; they only add to W and to the uncertainty.

    Source: Murphy (1973), "A new vector partition of the probability score"; Stephenson, Coelho and Jolliffe
    (2008), "Two extra components in the Brier score decomposition", whose generalised resolution this is.

    Args:
        bins: sums of the pairs whose margin is not 0.
        brier: sum of w (1 - p)^2 over all strict pairs, p = sigmoid(m), `(rows,)`; the `brier` returned is a mean.
        weight: W, sum of w over all strict pairs, `(rows,)`.
    """
    score = ratio(brier, weight)
    reliability = ratio((bins.gap * _per_bin(bins.gap, bins.mass)).sum(axis=1), weight)
    uncertainty = np.where(weight > 0, 0.25, np.nan)
    return {
        "brier": score,
        "brier_reliability": reliability,
        # The formula above, rearranged: it needs no further sums, and the three add up to the last digit.
        "brier_resolution": reliability + uncertainty - score,
        "brier_uncertainty": uncertainty,
    }


def _check_bins(bins: int) -> None:
    """An odd number of bins has a bin that holds both orders of a pair."""
    if bins < 2 or bins % 2:
        raise PluralignError(f"bins is {bins}, expected an even number of at least 2")


def _per_bin(numerator: Floats, denominator: Floats) -> Floats:
    """Quotients by bin; 0 in an empty bin, so that it adds nothing."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)

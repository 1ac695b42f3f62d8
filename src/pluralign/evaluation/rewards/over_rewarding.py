"""Over-rewarding: how large reward gaps are where the order is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pluralign.evaluation.intervals import check_resampling, percentile_intervals, resampled_sums
from pluralign.evaluation.pairs import Floats, Ints, Pairs
from pluralign.evaluation.rewards.sums import metrics_of_sums, pair_sums
from pluralign.evaluation.slices import coded

# What each row tells with its interval.
INTERVALS = ("accuracy", "gap_right", "gap_wrong", "sure_wrong")

# Two weights whose difference is under this share of their total are the same, in whatever order they were added.
SAME = 1e-9


def over_rewarding(
    pairs: Pairs,
    slices: Mapping[str, Sequence[str | None]] | None = None,
    *,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> list[dict[str, str | float]]:
    """The size of reward gaps on pairs that the rewards order right, and on those they order wrong.

    Training on rankings alone drives all gaps up, the wrong ones too: a model that over-rewards is as sure when it
    is wrong as when it is right. That shows here, and not in its accuracy.

    Args:
        pairs: strict pairs; `pairs.prompt` is the cluster of the intervals.
        slices: for each column (such as "source" or "group") its value for every judgment, `(judgments,)`; a
            judgment whose value is None is in no slice of that column.
        replicates: bootstrap draws of prompts, those of the row; 0 leaves the intervals out.
        level: coverage the intervals aim at.
        seed: of the draws.

    Returns:
        a row for all pairs, then one for each slice, columns in the given order and values sorted:

        - `slice`: "all" or "COLUMN=VALUE"; `pairs`: number of strict pairs; `accuracy`: ties of rewards half.
        - `gap_right`, `gap_wrong`: weighted mean |margin| of the pairs with margin above 0, and below 0.
        - `ratio`: gap_wrong / gap_right; near 1 the size of a gap says nothing about whether it is right.
        - `wrong_median`, `wrong_p90`: the smallest |margin| of the wrong pairs with half, and nine tenths, of their
          weight at or under it.
        - `sure_wrong`: weighted share of the wrong pairs with sigmoid(|margin|) of 0.9 or more.
        - `NAME_low`, `NAME_high` of `accuracy`, `gap_right`, `gap_wrong` and `sure_wrong`: percentile intervals
          over prompts, with two prompts or more.

        What is undefined (no wrong pairs, say) is left out of its row.

    Raises:
        PluralignError: a column is not as long as there are judgments or holds something that is neither text nor
            None, `replicates` is negative, or `level` is not between 0 and 1.

    Examples:
        >>> from pluralign.evaluation.pairs import pairs_of
        >>> pairs = pairs_of([4.0, 0.0, 0.0, 3.0], [1, 2, 1, 2], [0, 2, 4], [0, 1], [1.0, 1.0])
        >>> all_pairs, chat = over_rewarding(pairs, {"source": [None, "chat"]}, replicates=0)
        >>> all_pairs
        {'slice': 'all', 'pairs': 2, 'accuracy': 0.5, 'gap_right': 4.0, 'gap_wrong': 3.0, 'sure_wrong': 1.0,
         'ratio': 0.75, 'wrong_median': 3.0, 'wrong_p90': 3.0}
        >>> chat["slice"], chat["pairs"], "gap_right" in chat
        ('source=chat', 1, False)
    """
    if replicates:
        check_resampling(replicates, level)
    rows = [_row("all", pairs, np.arange(len(pairs.margin)), replicates, level, seed)]
    for column, values in (slices or {}).items():
        names, code = coded(column, values, pairs.judgments)
        group = code[pairs.judgment]
        order = np.argsort(group, kind="stable")
        ends = np.searchsorted(group[order], np.arange(len(names) + 1))
        for name, start, end in zip(names, ends, ends[1:], strict=False):
            rows.append(_row(f"{column}={name}", pairs, order[start:end], replicates, level, seed))
    return rows


def weighted_quantile(values: Floats, weight: Floats, share: float) -> float | None:
    """The smallest value with at least this share of the weight at or under it; None without weight.

    Args:
        values: `(n,)`.
        weight: at least 0, `(n,)`.
        share: between 0 and 1.

    Examples:
        >>> weighted_quantile(np.array([5.0, 1.0, 2.0]), np.array([1.0, 1.0, 2.0]), 0.75)
        2.0
    """
    order = np.argsort(values, kind="stable")
    order = order[weight[order] > 0]
    if not len(order):
        return None
    below = np.cumsum(weight[order])
    return float(values[order[np.searchsorted(below, (share - SAME) * below[-1])]])


def _row(name: str, pairs: Pairs, chosen: Ints, replicates: int, level: float, seed: int) -> dict[str, str | float]:
    """The row of the pairs whose indices are given."""
    part = Pairs(
        margin=pairs.margin[chosen],
        judgment=pairs.judgment[chosen],
        weight=pairs.weight[chosen],
        prompt=pairs.prompt[chosen],
        judgments=pairs.judgments,
        tied=pairs.tied,
        undecided=pairs.undecided,
    )
    prompts, cluster = np.unique(part.prompt, return_inverse=True)
    sums = pair_sums(part, cluster, len(prompts))
    whole = metrics_of_sums(sums.sum(axis=0, keepdims=True))
    row: dict[str, str | float] = {"slice": name, "pairs": len(chosen)}
    row |= {key: float(whole[key][0]) for key in INTERVALS if not np.isnan(whole[key][0])}
    if whole["gap_wrong"][0] > 0 and whole["gap_right"][0] > 0:
        row["ratio"] = float(whole["gap_wrong"][0] / whole["gap_right"][0])
    wrong = part.margin < 0
    for key, share in (("wrong_median", 0.5), ("wrong_p90", 0.9)):
        quantile = weighted_quantile(-part.margin[wrong], part.weight[wrong], share)
        if quantile is not None:
            row[key] = quantile
    if replicates and len(prompts) > 1:
        drawn = metrics_of_sums(resampled_sums(sums, replicates, seed))
        row |= percentile_intervals({key: drawn[key] for key in INTERVALS}, level)
    return row

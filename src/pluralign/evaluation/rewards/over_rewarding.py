"""Over-rewarding: how large reward gaps are on the pairs that the rewards order wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from pluralign.evaluation.intervals import Resampling
from pluralign.evaluation.pairs import SAME, Floats, Ints, Pairs
from pluralign.evaluation.rewards.metrics import mean_columns
from pluralign.evaluation.slices import coded

# The metrics of a row that have intervals.
INTERVALS = ("accuracy", "gap_right", "gap_wrong", "sure_wrong")


def over_rewarding(
    pairs: Pairs,
    slices: Mapping[str, Sequence[str | None]] | None = None,
    *,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> list[dict[str, str | float]]:
    """The size of reward gaps on pairs that the rewards order correctly, and on pairs that they order wrongly.

    Training only on rankings increases all gaps, the wrong ones too: a model that over-rewards is as confident when
    it is wrong as when it is right. Accuracy does not show this.

    Args:
        pairs: strict pairs; `pairs.prompt` and `pairs.annotator` are the clusters of the intervals.
        slices: as in `pluralign.evaluation.slices.sliced_metrics`.
        replicates, level, seed: as in `pluralign.evaluation.intervals.Resampling`, over the prompts and annotators
            of a row.

    Returns:
        a row for all pairs, then one for each slice, columns in the given order and values sorted:

        - `slice`: "all" or "COLUMN=VALUE"; `pairs`: number of strict pairs; `accuracy`: equal rewards count half.
        - `gap_right`, `gap_wrong`: weighted mean |margin| of the pairs with a margin above 0, and below 0.
        - `ratio`: gap_wrong / gap_right; near 1 the size of a gap says nothing about whether it is right.
        - `wrong_median`, `wrong_p90`: weighted quantiles of |margin| of the wrong pairs.
        - `sure_wrong`: weighted share of the wrong pairs with sigmoid(|margin|) of at least 0.9.
        - `NAME_low`, `NAME_high` of `accuracy`, `gap_right`, `gap_wrong` and `sure_wrong`: intervals over prompts and
          annotators, if there are two prompts; with `intervals_given_annotators` where a row has few annotators.

        What is undefined (for example, without wrong pairs) is left out of its row.

    Raises:
        PluralignError: as in `sliced_metrics` and `Resampling`.

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

    def row(name: str, chosen: Ints) -> dict[str, str | float]:
        margin, weight, prompt = pairs.margin[chosen], pairs.weight[chosen], pairs.prompt[chosen]
        annotator = None if pairs.annotator is None else pairs.annotator[chosen]
        part = replace(pairs, margin=margin, weight=weight, prompt=prompt, annotator=annotator)
        resampling = Resampling(prompt, replicates, level, seed, annotator=annotator)
        columns = mean_columns(part)
        values: dict[str, float] = resampling.mean_intervals({key: columns[key] for key in INTERVALS})
        values |= resampling.given if replicates else {}
        if values.get("gap_wrong", 0) > 0 and values.get("gap_right", 0) > 0:
            values["ratio"] = values["gap_wrong"] / values["gap_right"]
        wrong = margin < 0
        for key, share in (("wrong_median", 0.5), ("wrong_p90", 0.9)):
            quantile = weighted_quantile(-margin[wrong], weight[wrong], share)
            if quantile is not None:
                values[key] = quantile
        return {"slice": name, "pairs": len(chosen), **values}

    rows = [row("all", np.arange(len(pairs.margin)))]
    for column, values in (slices or {}).items():
        names, code = coded(column, values, pairs.judgments)
        group = code[pairs.judgment]
        order = np.argsort(group, kind="stable")
        ends = np.searchsorted(group[order], np.arange(len(names) + 1))
        rows += [row(f"{column}={name}", order[a:b]) for name, a, b in zip(names, ends, ends[1:], strict=False)]
    return rows


def weighted_quantile(values: Floats, weight: Floats, share: float) -> float | None:
    """The smallest value `(n,)` with at least this share of the weight `(n,)` at or below it; None without weight."""
    order = np.argsort(values, kind="stable")
    order = order[weight[order] > 0]
    if not len(order):
        return None
    below = np.cumsum(weight[order])
    return float(values[order[np.searchsorted(below, (share - SAME) * below[-1])]])

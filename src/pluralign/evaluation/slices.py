"""The metrics of rewards for each source, group or annotator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pluralign.core.errors import PluralignError, one_line
from pluralign.evaluation.calibration.reliability import squared_error
from pluralign.evaluation.pairs import Floats, Ints, Pairs
from pluralign.evaluation.rewards.metrics import metrics_of_sums, pair_sums

# The metrics of every slice, in addition to its number of pairs.
SLICED = ("accuracy", "log_loss", "ece", "ece_squared", "brier")


def sliced_metrics(pairs: Pairs, slices: Mapping[str, Sequence[str | None]]) -> dict[str, float]:
    """Accuracy, log-loss, calibration errors and Brier score of the judgments of each slice.

    Args:
        pairs: strict pairs.
        slices: for each column (such as "source" or "group") its value for every judgment, `(judgments,)`; a
            judgment with None is in no slice of that column.

    Returns:
        `pairs/COLUMN=VALUE`, and likewise `accuracy`, `log_loss` (nats), `ece`, `ece_squared` and `brier`, values in
        sorted order; an undefined metric is left out.

    Raises:
        PluralignError: a column does not have one value per judgment, or a value is neither text nor None.

    Examples:
        >>> from pluralign.evaluation.pairs import pairs_of
        >>> pairs = pairs_of([1.0, 0.0, 2.0, 3.0], [1, 2, 1, 2], [0, 2, 4], [0, 1], [1.0, 1.0])
        >>> metrics = sliced_metrics(pairs, {"source": ["chat", None]})
        >>> {name: round(value, 3) for name, value in metrics.items()}
        {'pairs/source=chat': 1, 'accuracy/source=chat': 1.0, 'log_loss/source=chat': 0.313,
         'ece/source=chat': 0.269, 'brier/source=chat': 0.072}
    """
    metrics: dict[str, float] = {}
    for column, values in slices.items():
        names, code = coded(column, values, pairs.judgments)
        group = code[pairs.judgment]
        counts = np.bincount(group[group >= 0], minlength=len(names))
        by_metric = metrics_of_sums(pair_sums(pairs, group, len(names)))
        by_metric["ece_squared"] = squared_error(pairs, group, len(names))
        for k, name in enumerate(names):
            metrics[f"pairs/{column}={name}"] = int(counts[k])
            for metric in SLICED:
                if not np.isnan(by_metric[metric][k]):
                    metrics[f"{metric}/{column}={name}"] = float(by_metric[metric][k])
    return metrics


def annotator_table(
    pairs: Pairs, annotator: Sequence[str | None]
) -> dict[str, list[str] | list[int] | list[float | None]]:
    """How well the rewards predict the judgments of each annotator.

    Args:
        pairs: strict pairs.
        annotator: name of the annotator of each judgment, `(judgments,)`; judgments with None are left out.

    Returns:
        columns of equal length, annotators in sorted order: `annotator`, `judgments` (including undecided ones),
        `pairs` (strict), `accuracy` and `log_loss` (nats), None where there is no pair.

    Raises:
        PluralignError: as `sliced_metrics`.

    Examples:
        >>> from pluralign.evaluation.pairs import pairs_of
        >>> pairs = pairs_of([1.0, 0.0, 2.0, 3.0], [1, 2, 1, 1], [0, 2, 4], [0, 1], [1.0, 1.0])
        >>> table = annotator_table(pairs, ["ann", "bob"])
        >>> table["annotator"], table["judgments"], table["pairs"], table["accuracy"]
        (['ann', 'bob'], [1, 1], [1, 0], [1.0, None])
    """
    names, code = coded("annotator", annotator, pairs.judgments)
    group = code[pairs.judgment]
    metrics = metrics_of_sums(pair_sums(pairs, group, len(names)))

    def column(metric: str) -> list[float | None]:
        return [None if np.isnan(value) else value for value in metrics[metric].tolist()]

    return {
        "annotator": names,
        "judgments": np.bincount(code[code >= 0], minlength=len(names)).tolist(),
        "pairs": np.bincount(group[group >= 0], minlength=len(names)).tolist(),
        "accuracy": column("accuracy"),
        "log_loss": column("log_loss"),
    }


def judgment_table(pairs: Pairs) -> dict[str, Floats | Ints]:
    """How well the rewards predict each judgment, by which two models can be compared judgment by judgment.

    Returns:
        columns of equal length, one row for each judgment with a strict pair and a weight: `judgment` (its index),
        `prompt` and `annotator` (ids as in `pairs`; without annotators -1), `weight`, `accuracy` and `log_loss` (nats):
        means over the judgment's strict pairs.

    Examples:
        >>> from pluralign.evaluation.pairs import pairs_of
        >>> pairs = pairs_of([1.0, 0.0, 2.0, 3.0], [1, 2, 1, 1], [0, 2, 4], [5, 6], [1.0, 1.0])
        >>> {name: column.round(3).tolist() for name, column in judgment_table(pairs).items()}
        {'judgment': [0], 'prompt': [5], 'annotator': [-1], 'weight': [1.0], 'accuracy': [1.0], 'log_loss': [0.313]}
    """
    held, first, group = np.unique(pairs.judgment, return_index=True, return_inverse=True)
    weight = np.bincount(group, weights=pairs.weight, minlength=len(held))
    heavy = weight > 0
    metrics = metrics_of_sums(pair_sums(pairs, group, len(held)))
    who = np.full(len(pairs.prompt), -1) if pairs.annotator is None else pairs.annotator
    columns = {"judgment": held, "prompt": pairs.prompt[first], "annotator": who[first], "weight": weight}
    columns |= {name: metrics[name] for name in ("accuracy", "log_loss")}
    return {name: column[heavy] for name, column in columns.items()}


def coded(column: str, values: Sequence[str | None], length: int) -> tuple[list[str], Ints]:
    """The distinct names of a column, sorted, and the index of each value among them, -1 for None.

    Raises:
        PluralignError: the column does not have `length` values, or a value is neither text nor None.

    Examples:
        >>> names, code = coded("source", ["b", None, "a"], 3)
        >>> names, code.tolist()
        (['a', 'b'], [1, -1, 0])
    """
    if len(values) != length:
        raise PluralignError(f"{column}: {len(values)} values, expected {length}, one per judgment")
    distinct = {value for value in values if value is not None}
    for value in distinct:
        if not isinstance(value, str):
            raise PluralignError(f"{column}: found {one_line(value)}, expected text or None")
    names = sorted(distinct)
    index: dict[str | None, int] = {name: k for k, name in enumerate(names)}
    return names, np.fromiter((index.get(value, -1) for value in values), dtype=np.int64, count=length)

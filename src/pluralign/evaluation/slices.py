"""The same metrics for each source, group or annotator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pluralign.core.errors import PluralignError, one_line
from pluralign.evaluation.pairs import Ints, Pairs
from pluralign.evaluation.rewards.sums import metrics_of_sums, pair_sums

# Those metrics of the pairs that are told for every slice, beside the count of its pairs.
SLICED = ("accuracy", "log_loss", "ece", "ece_debiased", "brier")


def sliced_metrics(pairs: Pairs, slices: Mapping[str, Sequence[str | None]], bins: int = 10) -> dict[str, float]:
    """Accuracy, log-loss, calibration errors and Brier score of each slice: the metrics of its judgments alone.

    Args:
        pairs: strict pairs.
        slices: for each column (such as "source" or "group") its value for every judgment,
            `(judgments,)`; a judgment whose value is None is in no slice of that column.
        bins: of the calibration errors, an even number.

    Returns:
        `pairs/COLUMN=VALUE`, and the same of `accuracy`, `log_loss` (nats), `ece`, `ece_debiased` and `brier`,
        values in sorted order; an undefined metric is left out.

    Raises:
        PluralignError: a column is not as long as there are judgments, or holds something that is neither
            text nor None.

    Examples:
        >>> from pluralign.evaluation.pairs import pairs_of
        >>> pairs = pairs_of([1.0, 0.0, 2.0, 3.0], [1, 2, 1, 2], [0, 2, 4], [0, 1], [1.0, 1.0])
        >>> metrics = sliced_metrics(pairs, {"source": ["chat", None]})
        >>> {name: round(value, 3) for name, value in metrics.items()}
        {'pairs/source=chat': 1, 'accuracy/source=chat': 1.0, 'log_loss/source=chat': 0.313,
         'ece/source=chat': 0.269, 'ece_debiased/source=chat': 0.269, 'brier/source=chat': 0.072}
    """
    metrics: dict[str, float] = {}
    for column, values in slices.items():
        names, code = coded(column, values, pairs.judgments)
        group = code[pairs.judgment]
        counts = np.bincount(group[group >= 0], minlength=len(names))
        by_metric = metrics_of_sums(pair_sums(pairs, group, len(names), bins))
        for k, name in enumerate(names):
            metrics[f"pairs/{column}={name}"] = int(counts[k])
            for metric in SLICED:
                if not np.isnan(by_metric[metric][k]):
                    metrics[f"{metric}/{column}={name}"] = float(by_metric[metric][k])
    return metrics


def annotator_table(
    pairs: Pairs, annotator: Sequence[str | None]
) -> dict[str, list[str] | list[int] | list[float | None]]:
    """How well the rewards predict each annotator: whom a reward model serves, and whom it does not.

    Args:
        pairs: strict pairs.
        annotator: who gave each judgment, `(judgments,)`; judgments of None are left out.

    Returns:
        columns of one length, annotators in sorted order: `annotator`, `judgments` (all of them, undecided
        ones included), `pairs` (strict), `accuracy` and `log_loss` (nats), None where there is no pair.

    Raises:
        PluralignError: as `sliced_metrics` says.

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


def coded(column: str, values: Sequence[str | None], judgments: int) -> tuple[list[str], Ints]:
    """The distinct names of a column, sorted, and the place of each judgment's name among them.

    Returns:
        names, and int `(judgments,)` with -1 for None.

    Raises:
        PluralignError: a wrong length, or a value that is neither text nor None.

    Examples:
        >>> names, code = coded("source", ["b", None, "a"], 3)
        >>> names, code.tolist()
        (['a', 'b'], [1, -1, 0])
    """
    if len(values) != judgments:
        raise PluralignError(f"{column}: {len(values)} values, expected {judgments}, one per judgment")
    distinct = {value for value in values if value is not None}
    for value in distinct:
        if not isinstance(value, str):
            raise PluralignError(f"{column}: found {one_line(value)}, expected text or None")
    names = sorted(distinct)
    place: dict[str | None, int] = {name: k for k, name in enumerate(names)}
    code = np.fromiter((place.get(value, -1) for value in values), dtype=np.int64, count=judgments)
    return names, code

"""How well rewards agree with the verdicts they were meant to predict."""

from __future__ import annotations

import numpy as np

from pluralign.evaluation.pairs import Pairs
from pluralign.evaluation.sums import metrics_of_sums, pair_sums


def reward_metrics(pairs: Pairs, bins: int = 10) -> dict[str, float]:
    """Accuracy, log-loss and calibration error over all strict pairs.

    With w the pair weights (each judgment counts once) and m the margins, weighted means of:
    `accuracy` [m > 0] + [m = 0] / 2 (an exact tie of rewards is a coin toss); `log_loss`
    -log sigmoid(m), in nats; `mean_margin` m. `ece` is the calibration error of
    `pluralign.evaluation.calibration`. Counts: `pairs` strict pairs, `tied_pairs` pairs the annotator
    ranked equal, `undecided_judgments` judgments without a strict pair, `reward_ties` strict pairs with
    margin 0.

    Returns:
        flat keys; an undefined value (no weight to divide by) is left out, never nan.

    Raises:
        PluralignError: `bins` is odd or under 2.

    Examples:
        >>> from pluralign.evaluation.pairs import pairs_of
        >>> pairs = pairs_of([1.0, 0.0, 2.0, 2.0], [1, 2, 1, 2], [0, 2, 4], [0, 1], [1.0, 1.0])
        >>> {name: round(value, 3) for name, value in reward_metrics(pairs).items()}
        {'accuracy': 0.75, 'log_loss': 0.503, 'ece': 0.269, 'mean_margin': 0.5,
         'pairs': 2, 'tied_pairs': 0, 'undecided_judgments': 0, 'reward_ties': 1}
    """
    sums = pair_sums(pairs, np.zeros(len(pairs.margin), dtype=np.int64), 1, bins)
    metrics: dict[str, float] = {
        name: float(values[0]) for name, values in metrics_of_sums(sums).items() if not np.isnan(values[0])
    }
    if pairs.weight.sum() > 0:
        metrics["mean_margin"] = float(np.average(pairs.margin, weights=pairs.weight))
    return metrics | {
        "pairs": len(pairs.margin),
        "tied_pairs": pairs.tied,
        "undecided_judgments": pairs.undecided,
        "reward_ties": int(np.count_nonzero(pairs.margin == 0)),
    }

"""How well rewards agree with the verdicts they were meant to predict."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from pluralign.evaluation.calibration.binned import BinSums, bin_columns, expected_error
from pluralign.evaluation.calibration.reliability import equal_mass_edges, top_label
from pluralign.evaluation.calibration.smooth import residual_cells, smooth_error
from pluralign.evaluation.pairs import Floats, Ints, Pairs
from pluralign.evaluation.rewards.sums import metrics_of_sums, pair_sums


@dataclass(frozen=True)
class RewardSums:
    """Sums per group of pairs that determine every metric of the rewards; rows of them may be added up.

    Attributes:
        pairs: of `pluralign.evaluation.rewards.sums.pair_sums`, `(groups, columns)`.
        equal_mass: of `pluralign.evaluation.calibration.binned.bin_columns`, in bins of equal mass over all the
            pairs, `(groups, 6 * bins)`.
        residuals: of `pluralign.evaluation.calibration.smooth.residual_cells`, `(groups, cells)`.
    """

    pairs: Floats
    equal_mass: Floats
    residuals: csr_array

    @classmethod
    def of(cls, pairs: Pairs, group: Ints, groups: int, bins: int = 10) -> RewardSums:
        """The sums of each group.

        Args:
            pairs: strict pairs.
            group: group of each pair, int `(pairs,)`.
            groups: number of groups.
            bins: of [0, 1], an even number.
        """
        confidence, _, weight, _ = top_label(pairs)
        edges = equal_mass_edges(confidence, weight, bins)
        return cls(
            pair_sums(pairs, group, groups, bins),
            bin_columns(pairs, group, groups, edges),
            residual_cells(pairs, group, groups),
        )

    def metrics(self, counts: Floats) -> dict[str, Floats]:
        """The metrics of groups counted several times.

        Args:
            counts: how often each group counts, `(rows, groups)`.

        Returns:
            those of `pluralign.evaluation.rewards.sums.metrics_of_sums`, `ece_equal_mass` and `ece_smooth`, each
            `(rows,)`; nan marks what is undefined.

        Examples:
            >>> from pluralign.evaluation.pairs import pairs_of
            >>> pairs = pairs_of([2.0, 0.0, 0.0, 2.0], [1, 2, 1, 2], [0, 2, 4], [0, 1], [1.0, 1.0])
            >>> sums = RewardSums.of(pairs, np.array([0, 1]), 2)
            >>> sums.metrics(np.array([[1.0, 1.0], [2.0, 0.0]]))["ece_equal_mass"].round(3).tolist()
            [0.381, 0.119]
        """
        equal_mass = BinSums.of_columns(counts @ self.equal_mass)
        return metrics_of_sums(counts @ self.pairs) | {
            "ece_equal_mass": expected_error(equal_mass),
            "ece_smooth": smooth_error(counts @ self.residuals, equal_mass.mass.sum(axis=1)),
        }


def reward_metrics(pairs: Pairs, bins: int = 10) -> dict[str, float]:
    """Accuracy, log-loss, calibration errors and reward gaps over all strict pairs.

    With w the pair weights (each judgment counts once) and m the margins, weighted means of:
    `accuracy` [m > 0] + [m = 0] / 2 (an exact tie of rewards is a coin toss); `log_loss`
    -log sigmoid(m), in nats; `brier` (1 - sigmoid(m))^2; `mean_margin` m. `brier_reliability`,
    `brier_resolution` and `brier_uncertainty` are the parts of `brier`. `ece` is the calibration error of
    `pluralign.evaluation.calibration.reliability`; `ece_equal_mass` the same over bins of equal mass; `ece_debiased`,
    `max_calibration_error` and `average_calibration_error` are those of
    `pluralign.evaluation.calibration.binned`, and `ece_smooth` that of `pluralign.evaluation.calibration.smooth`.
    `gap_right`, `gap_wrong` and `sure_wrong` are those of `pluralign.evaluation.rewards.sums.metrics_of_sums`. Counts:
    `pairs` strict pairs, `tied_pairs` pairs the annotator ranked equal, `undecided_judgments` judgments without a
    strict pair, `reward_ties` strict pairs with margin 0.

    Returns:
        flat keys; an undefined value (no weight to divide by) is left out, never nan.

    Raises:
        PluralignError: `bins` is odd or under 2.

    Examples:
        >>> from pluralign.evaluation.pairs import pairs_of
        >>> pairs = pairs_of([1.0, 0.0, 2.0, 2.0], [1, 2, 1, 2], [0, 2, 4], [0, 1], [1.0, 1.0])
        >>> metrics = {name: round(value, 3) for name, value in reward_metrics(pairs).items()}
        >>> {name: metrics[name] for name in ("accuracy", "log_loss", "ece", "brier", "gap_right", "pairs")}
        {'accuracy': 0.75, 'log_loss': 0.503, 'ece': 0.269, 'brier': 0.161, 'gap_right': 1.0, 'pairs': 2}
        >>> metrics["reward_ties"], "gap_wrong" in metrics
        (1, False)
    """
    sums = RewardSums.of(pairs, np.zeros(len(pairs.margin), dtype=np.int64), 1, bins)
    metrics: dict[str, float] = {
        name: float(values[0]) for name, values in sums.metrics(np.ones((1, 1))).items() if not np.isnan(values[0])
    }
    if pairs.weight.sum() > 0:
        metrics["mean_margin"] = float(np.average(pairs.margin, weights=pairs.weight))
    return metrics | {
        "pairs": len(pairs.margin),
        "tied_pairs": pairs.tied,
        "undecided_judgments": pairs.undecided,
        "reward_ties": int(np.count_nonzero(pairs.margin == 0)),
    }

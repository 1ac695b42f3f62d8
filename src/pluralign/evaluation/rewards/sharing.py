"""What a source gains or loses by sharing one reward model with others, against a model of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pluralign.core.errors import PluralignError
from pluralign.evaluation.intervals import Resampling
from pluralign.evaluation.pairs import Pairs


def sharing_gain(
    shared: Pairs, own: Pairs, sources: Sequence[str | None], name: str, *, replicates: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Accuracy and log-loss of the shared model against those of a source's own model, paired pair by pair.

    Args:
        shared: the strict pairs under the shared model's rewards.
        own: the same pairs under those of the source's own model.
        sources: of each judgment, `(judgments,)`.
        name: the source.
        replicates, seed: as in `pluralign.evaluation.intervals.Resampling`.

    Returns:
        `sharing_log_loss_gain/source=NAME`, the log-loss of the own model minus that of the shared one (nats per
        judgment), and `sharing_accuracy_gain/source=NAME`, the accuracy of the shared model minus that of the own one,
        with intervals over prompts and annotators. Above 0, sharing helps the source.

    Raises:
        PluralignError: no pair is of that source.

    Examples:
        >>> from pluralign.evaluation.pairs import pairs_of
        >>> ranked = ([1, 2] * 2, [0, 2, 4], [0, 1], [1.0, 1.0])
        >>> shared, own = pairs_of([2.0, 0.0, 2.0, 0.0], *ranked), pairs_of([0.0, 1.0, 2.0, 0.0], *ranked)
        >>> sharing_gain(shared, own, ["a", "a"], "a", replicates=0)["sharing_accuracy_gain/source=a"]
        0.5
    """
    of_source = np.array([source == name for source in sources], dtype=bool)[shared.judgment]
    if not of_source.any():
        known = ", ".join(sorted({source for source in sources if source is not None})) or "none"
        raise PluralignError(f"own: no pair is of the source '{name}'; the files have: {known}")
    weight = (shared.weight * of_source)[of_source]
    first, second = shared.margin[of_source], own.margin[of_source]
    right = [(margin > 0) + (margin == 0) / 2 for margin in (first, second)]
    loss = [np.logaddexp(0, -margin) for margin in (first, second)]
    who = None if shared.annotator is None else shared.annotator[of_source]
    resampling = Resampling(shared.prompt[of_source], replicates, seed=seed, annotator=who)
    found = resampling.mean_intervals(
        {
            "sharing_log_loss_gain": (weight * (loss[1] - loss[0]), weight),
            "sharing_accuracy_gain": (weight * (right[0] - right[1]), weight),
        }
    )
    return {_of_source(key, name): value for key, value in found.items()}


def _of_source(key: str, name: str) -> str:
    """`KEY_low` to `KEY/source=NAME_low`, so that intervals stay beside their values."""
    for end in ("_low", "_high"):
        if key.endswith(end):
            return f"{key.removesuffix(end)}/source={name}{end}"
    return f"{key}/source={name}"

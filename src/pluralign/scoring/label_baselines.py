"""What a label model must beat: constants, and soft-label logistic regression on frozen features.

They are fitted to the training votes and stored beside the model, so that every evaluation can show them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from pluralign.choice.label_regression import LabelRegression
from pluralign.core.errors import PluralignError
from pluralign.core.files import atomic_write
from pluralign.scoring.crowds import Crowd
from pluralign.scoring.features import text_features
from pluralign.scoring.items import Items

BASELINES = "baselines.safetensors"
"""The file of a run that holds them."""


@dataclass(frozen=True)
class LabelBaselines:
    """Predictions without training a network.

    Args:
        marginal: `(labels,)` the mean shares of the training items.
        medians: `(labels,)` the medians of their cumulative shares, the best constant for a transport cost.
        regression: on features of `features`; `None` if there is no such model.
        features: a folder or hub id, whose states are the features.
    """

    marginal: np.ndarray
    medians: np.ndarray
    regression: LabelRegression | None = None
    features: str = ""

    @classmethod
    def fit(cls, crowd: Crowd, weight: np.ndarray, features: str = "", seed: int = 0) -> LabelBaselines:
        """From the votes on some items, weighted as in training, `(items,)`; without `features`, constants alone."""
        shares = crowd.counts / crowd.votes[:, None]
        marginal = weight @ shares / weight.sum()
        order = np.argsort(crowd.scale.rewards, kind="stable")
        medians = np.zeros(len(marginal))
        medians[order] = np.diff(_weighted_medians(shares[:, order].cumsum(1), weight), prepend=0.0)
        if not features:
            return cls(marginal, medians)
        items = crowd.items()
        states = text_features(items, features, reads="prompt+response")[items.response]
        regression = LabelRegression.fit(states, shares, weight, items.prompt, seed)
        return cls(marginal, medians, regression, features)

    def predict(self, items: Items) -> dict[str, np.ndarray]:
        """`marginal`, `medians` and `logistic`: predictions for every shown response, `(shown, labels)` each."""
        rows = (len(items.response), 1)
        found = {"marginal": np.tile(self.marginal, rows), "medians": np.tile(self.medians, rows)}
        if self.regression is not None:
            states = text_features(items, self.features, reads="prompt+response")
            found["logistic"] = self.regression.predict(states)[items.response]
        return found

    def write(self, folder: Path) -> None:
        """Write `baselines.safetensors`."""
        arrays = {"marginal": self.marginal, "medians": self.medians}
        if self.regression is not None:
            fitted = self.regression
            arrays |= {"mean": fitted.mean, "spread": fitted.spread, "coefficients": fitted.coefficients}
            arrays["ridge"] = np.array([fitted.ridge])
        with atomic_write(folder / BASELINES) as out:
            out.write(safetensors.numpy.save(arrays, {"features": self.features}))


def read_baselines(folder: str | os.PathLike[str]) -> LabelBaselines | None:
    """Those beside a model; `None` if it has none.

    Raises:
        PluralignError: the file is damaged.
    """
    file = Path(folder) / BASELINES
    if not file.is_file():
        return None
    try:
        with safetensors.safe_open(file, "np") as opened:
            found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            features = (opened.metadata() or {}).get("features", "")
        regression = None
        if "coefficients" in found:
            regression = LabelRegression(
                found["mean"], found["spread"], found["coefficients"], float(found["ridge"][0])
            )
        return LabelBaselines(found["marginal"], found["medians"], regression, features)
    except (safetensors.SafetensorError, KeyError, ValueError, OSError) as fault:
        raise PluralignError(f"{file}: damaged ({fault}): remove it, or train the model again") from fault


def _weighted_medians(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The (lower) weighted median of each column of `(items, columns)`."""
    order = values.argsort(0, kind="stable")
    reached = weight[order].cumsum(0) >= weight.sum() / 2 * (1 - 1e-12)
    return np.asarray(np.take_along_axis(values, order, 0)[reached.argmax(0), np.arange(values.shape[1])])

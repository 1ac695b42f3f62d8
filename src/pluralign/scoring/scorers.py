"""What gives rewards, whatever its kind: a reward model, an implicit reward, or the mean of several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pluralign.scoring.items import Items


class Scorer(Protocol):
    """Gives a reward to every unique response of some items."""

    def score_items(self, items: Items) -> np.ndarray:
        """Rewards `(responses,)`, float64."""
        ...


@dataclass(frozen=True)
class MeanReward:
    """The mean reward of one or more scorers of any kind."""

    scorers: tuple[Scorer, ...]

    def score_items(self, items: Items) -> np.ndarray:
        """Mean reward of every unique response: `(responses,)`, float64."""
        return np.asarray(np.mean([scorer.score_items(items) for scorer in self.scorers], axis=0))

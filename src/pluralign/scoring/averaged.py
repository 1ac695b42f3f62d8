"""The mean of several reward models: the baseline "Averaging" of MORE (arXiv 2312.07401)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit

from pluralign.core.errors import PluralignError
from pluralign.scoring.items import Items, items_of_texts

if TYPE_CHECKING:  # it returns averages, so it cannot be imported first
    from pluralign.scoring.reward_models import RewardModel


def mean_rewards(models: Iterable[RewardModel], items: Items, **options: Any) -> np.ndarray:
    """Mean over models of the reward of every unique response: `(responses,)`, float64.

    r(x, y) = sum_k r_k(x, y) / K, each r_k as its model's `score_items` gives it: divided by its temperature where
    it has one, raw otherwise. Models may come from a generator, so that one is in memory at a time.

    Args:
        models: one or more.
        items: the texts; each model reads them by its own tokenizer and limits.
        options: as in `RewardModel.score_items`.

    Raises:
        PluralignError: there is no model, or one has an isotonic recalibration, which maps margins, not rewards.
    """
    total, count = np.zeros(len(items.responses)), 0
    for model in models:
        if model.margin_map is not None:
            raise PluralignError(
                f"model {count + 1} of the average has an isotonic recalibration, which maps margins, not single "
                "rewards: leave it aside (--raw, or raw=True), or calibrate with the method temperature"
            )
        total += model.score_items(items, **options)
        count += 1
    if count == 0:
        raise PluralignError("an average needs one reward model or more, found none")
    return total / count


@dataclass(frozen=True)
class AveragedRewardModel:
    """Several reward models as one: their mean reward.

    Args:
        models: one or more, all in memory; they may be of different architectures and tokenizers.

    Load some and score with them:

        average = pluralign.load_reward_model(["runs/helpful", "runs/harmless"])
        average.score("Tea?", ["Yes, please.", "No."])
    """

    models: tuple[RewardModel, ...]

    def __post_init__(self) -> None:
        if not self.models:
            raise PluralignError("an average needs one reward model or more, found none")

    def score_items(self, items: Items, **options: Any) -> np.ndarray:
        """Mean reward of every unique response, see `mean_rewards`: `(responses,)`, float64."""
        return mean_rewards(self.models, items, **options)

    def score(self, prompt: Any, responses: Sequence[Any]) -> np.ndarray:
        """Mean rewards of responses to one prompt: `(responses,)`, float64."""
        return self.score_items(items_of_texts([prompt], [responses]))

    def preference_probability(self, prompt: Any, responses: Sequence[Any]) -> np.ndarray:
        """P[i, j] = sigmoid(r_i - r_j), that response i is preferred over j: `(responses, responses)`, float64."""
        rewards = self.score(prompt, responses)
        return np.asarray(expit(rewards[:, None] - rewards))

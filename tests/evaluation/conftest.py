"""Random rankings with ties, unranked responses, weights, exact reward ties and empty judgments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

Rankings = dict[str, Any]


@pytest.fixture
def rankings() -> Callable[..., Rankings]:
    def make(seed: int, judgments: int = 60, prompts: int = 7, scale: float = 1.5) -> Rankings:
        rng = np.random.default_rng(seed)
        # Rewards on a coarse grid tie exactly now and then; 0.37 keeps sigmoid(margin) off the bin edges.
        table = np.round(rng.normal(size=(prompts, 9)) * scale) * 0.37
        rewards, ranks, response, offsets = [], [], [], [0]
        prompt = rng.integers(prompts, size=judgments)
        for at in prompt:
            length = int(rng.integers(0, 7))
            shown = rng.permutation(9)[:length]
            rewards.extend(table[at, shown])
            ranks.extend(rng.integers(0, 5, size=length))
            response.extend(shown)
            offsets.append(offsets[-1] + length)
        return {
            "rewards": np.array(rewards),
            "ranks": np.array(ranks),
            "offsets": np.array(offsets),
            "prompt": prompt * 11 - 5,
            "weight": rng.choice([0.5, 1.0, 3.0], size=judgments),
            "response": np.array(response),
        }

    return make


@pytest.fixture
def subset() -> Callable[[Rankings, Any], Rankings]:
    def take(data: Rankings, judgments: Any) -> Rankings:
        """The judgments of the given indices, in that order."""
        offsets = data["offsets"]
        places = [np.arange(offsets[j], offsets[j + 1]) for j in judgments]
        flat = np.concatenate([np.zeros(0, dtype=int), *places])
        return {
            "rewards": data["rewards"][flat],
            "ranks": data["ranks"][flat],
            "offsets": np.cumsum([0, *(len(p) for p in places)]),
            "prompt": data["prompt"][judgments],
            "weight": data["weight"][judgments],
            "response": data["response"][flat],
        }

    return take


@pytest.fixture
def loop_pairs() -> Callable[[Rankings], list[tuple[float, int, float]]]:
    def pairs(data: Rankings) -> list[tuple[float, int, float]]:
        """Oracle: (margin, judgment, weight) of every strict pair, by plain loops."""
        found = []
        for j, weight in enumerate(data["weight"]):
            places = range(data["offsets"][j], data["offsets"][j + 1])
            margins = [
                data["rewards"][winner] - data["rewards"][loser]
                for winner in places
                for loser in places
                if data["ranks"][winner] > 0
                and (data["ranks"][loser] == 0 or data["ranks"][winner] < data["ranks"][loser])
            ]
            found += [(margin, j, weight / len(margins)) for margin in margins]
        return found

    return pairs

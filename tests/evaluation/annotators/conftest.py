"""Rankings with ids that are unique over all prompts."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def global_ids() -> Callable[[dict[str, Any]], tuple[np.ndarray, np.ndarray]]:
    def renumber(data: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of `rankings` count within a prompt; make them global, and give the prompt of each."""
        prompts = np.unique(data["prompt"])
        at = np.searchsorted(prompts, data["prompt"])
        response = data["response"] + 9 * np.repeat(at, np.diff(data["offsets"]))
        return response.astype(int), np.repeat(prompts, 9)

    return renumber

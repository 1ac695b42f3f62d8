"""What tests of the papers' truths share."""

from collections.abc import Callable

import numpy as np
import pytest

from pluralign.choice.latent_class.panel import Panel
from simulated_panels import simulated_panel


@pytest.fixture(scope="session")
def simulate() -> Callable[..., tuple[Panel, np.ndarray]]:
    """`simulated_panel`."""
    return simulated_panel

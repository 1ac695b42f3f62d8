"""Simulated panels for tests of latent classes."""

from typing import Any

import numpy as np

from pluralign.choice.latent_class.panel import Panel


def simulated_panel(
    coefficients: Any,
    *,
    annotators: int = 40,
    judgments: int = 8,
    shown: int = 3,
    types: np.ndarray | None = None,
    worths: bool = False,
    seed: int = 0,
    **settings: Any,
) -> tuple[Panel, np.ndarray]:
    """Full rankings by annotators of types `(annotators,)`, in turn if not given, with coefficients `(K, p)`.

    Features are standard normal and every judgment shows responses of its own; with worths, p responses are
    shared by all and each has a coefficient.
    """
    rng = np.random.default_rng(seed)
    beta = np.asarray(coefficients, dtype=float)
    kind = np.arange(annotators) % len(beta) if types is None else np.asarray(types)
    person = np.repeat(np.arange(annotators), judgments)
    if worths:
        responses = np.stack([rng.permutation(beta.shape[1])[:shown] for _ in person])
        utilities = np.take_along_axis(beta[kind[person]], responses, 1)
        features = None
    else:
        responses = np.arange(len(person) * shown).reshape(-1, shown)
        features = rng.normal(size=(responses.size, beta.shape[1]))
        utilities = np.einsum("jnp,jp->jn", features[responses], beta[kind[person]])
    ranks = (-(utilities + rng.gumbel(size=utilities.shape))).argsort(1).argsort(1) + 1
    total = beta.shape[1] if worths else None
    return Panel(responses, ranks, person, features, response_total=total, **settings), kind

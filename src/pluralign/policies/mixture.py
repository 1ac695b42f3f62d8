"""A mixture of policies: adapters on one base with weights; each response is drawn from one of them.

    pi(y|x) = sum_k w_k pi_k(y|x)

A run of `em-dpo` is a mixture whose weights are the types' shares; `aggregate` writes another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from transformers import GenerationConfig

from pluralign.policies.policy import Policy
from pluralign.scoring.mixtures import Mixture
from pluralign.scoring.tokens import TokenizedItems


@dataclass(frozen=True)
class MixturePolicy(Policy):
    """A policy that draws one of its adapters, by their weights in `mixture`, for every response.

    Draw responses, with the adapter that each came from:

        policy = pluralign.load_policy("runs/people")
        for sample in policy.sample(["Tea?"], n=4, max_new_tokens=32)[0]:
            print(sample.adapter, sample.response)
    """

    mixture: Mixture = field(default_factory=lambda: Mixture({"": 1.0}))

    @property
    def weights(self) -> np.ndarray:
        """`(adapters,)`, in the order of `mixture.weights`."""
        weights = np.array(list(self.mixture.weights.values()))
        return weights / weights.sum()  # stored weights may miss 1 by more than numpy's draws accept

    def adapter_values(self, tokens: TokenizedItems, *args: Any, **options: Any) -> np.ndarray:
        """log pi_k(y|x) of every unique response under each adapter: `(adapters, responses)`."""
        values = []
        for name in self.mixture.weights:
            with self.using(name):
                values.append(super().values(tokens, *args, **options))
        return np.stack(values)

    def reference_values(self, tokens: TokenizedItems) -> np.ndarray:
        """log pi_ref(y|x) under the base without an adapter: `(responses,)`."""
        with self.using(None):
            return super().values(tokens)

    def reference_charges(self, tokens: TokenizedItems) -> np.ndarray:
        """The part of log pi_ref(y|x) that the mixture's penalty charges, in nats: `(responses,)`."""
        with self.using(None):
            return self.charges(tokens, self.mixture.penalty)

    def values(self, tokens: TokenizedItems, *args: Any, **options: Any) -> np.ndarray:
        """log sum_k w_k pi_k(y|x) of every unique response: `(responses,)`; arguments as in `TextModel.values`."""
        return self.mixed(self.adapter_values(tokens, *args, **options))

    def mixed(self, adapter_values: np.ndarray) -> np.ndarray:
        """log sum_k w_k pi_k(y|x) from log pi_k(y|x): `(adapters, responses)` to `(responses,)`."""
        with np.errstate(divide="ignore"):
            log_weights = np.log(self.weights)
        return np.asarray(np.logaddexp.reduce(log_weights[:, None] + adapter_values, axis=0))

    def _drawn(
        self, prompts: Sequence[list[int]], config: GenerationConfig, seed: int, batch: int
    ) -> tuple[list[list[int]], list[str | None]]:
        names = list(self.mixture.weights)
        chosen = np.random.default_rng(seed).choice(len(names), size=len(prompts), p=self.weights)
        drawn: list[list[int]] = [[] for _ in prompts]
        for kind, name in enumerate(names):
            members = np.flatnonzero(chosen == kind).tolist()
            with self.using(name):
                responses, _ = super()._drawn([prompts[index] for index in members], config, seed, batch)
            for index, response in zip(members, responses, strict=True):
                drawn[index] = response
        return drawn, [names[kind] for kind in chosen]

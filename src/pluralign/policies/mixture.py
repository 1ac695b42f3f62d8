"""A mixture of policies: adapters on one base with weights; each answer is drawn from one of them.

    pi(y|x) = sum_k w_k pi_k(y|x)

A run of `em-dpo` is one, its weights being the types' shares, and so is what `aggregate` makes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from transformers import GenerationConfig

from pluralign.policies.policy import Policy
from pluralign.scoring.forward import MAX_TOKENS_PER_BATCH
from pluralign.scoring.mixtures import Mixture
from pluralign.scoring.probe import LayoutName
from pluralign.scoring.tokens import TokenizedItems
from pluralign.scoring.trees import Layout


@dataclass(frozen=True)
class MixturePolicy(Policy):
    """A policy that draws one of its adapters for every answer.

    Args:
        mixture: the adapters and their weights.

    Draw answers, and see whose they are:

        policy = pluralign.load_policy("runs/people")
        for sample in policy.sample(["Tea?"], n=4, max_new_tokens=32)[0]:
            print(sample.adapter, sample.response)
    """

    mixture: Mixture = field(default_factory=lambda: Mixture({"": 1.0}))

    @property
    def weights(self) -> np.ndarray:
        """`(adapters,)`, in the order of `mixture.weights`."""
        found = np.array(list(self.mixture.weights.values()))
        return found / found.sum()  # as stored they may miss 1 by more than a draw of numpy's takes

    def adapter_values(
        self,
        tokens: TokenizedItems,
        layout: LayoutName | Layout = "auto",
        max_tokens: int = MAX_TOKENS_PER_BATCH,
    ) -> np.ndarray:
        """log pi_k(y|x) of every unique response under each adapter: `(adapters, responses)`."""
        found = []
        for name in self.mixture.weights:
            with self.using(name):
                found.append(super().values(tokens, layout, max_tokens))
        return np.stack(found)

    def reference_values(self, tokens: TokenizedItems) -> np.ndarray:
        """log pi_ref(y|x), the base without an adapter: `(responses,)`."""
        with self.using(None):
            return super().values(tokens)

    def reference_charges(self, tokens: TokenizedItems) -> np.ndarray:
        """What the mixture's penalty charges of log pi_ref(y|x), in nats: `(responses,)`."""
        with self.using(None):
            return self.charges(tokens, self.mixture.penalty)

    def values(
        self, tokens: TokenizedItems, layout: LayoutName | Layout = "auto", max_tokens: int = MAX_TOKENS_PER_BATCH
    ) -> np.ndarray:
        """log sum_k w_k pi_k(y|x) of every unique response: `(responses,)`."""
        return self.mixed(self.adapter_values(tokens, layout, max_tokens))

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
                answers, _ = super()._drawn([prompts[index] for index in members], config, seed, batch)
            for index, answer in zip(members, answers, strict=True):
                drawn[index] = answer
        return drawn, [names[kind] for kind in chosen]

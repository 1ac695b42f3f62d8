"""A mixture of policies: adapters on one base with weights; each answer is drawn from one of them.

    pi(y|x) = sum_k w_k pi_k(y|x)

A run of `em-dpo` is one, its weights being the types' shares, and so is what `aggregate` makes of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import GenerationConfig

from pluralign.core.errors import PluralignError
from pluralign.core.files import disk_errors, write_json
from pluralign.policies.policy import Policy
from pluralign.scoring.forward import MAX_TOKENS_PER_BATCH
from pluralign.scoring.probe import LayoutName
from pluralign.scoring.tokens import TokenizedItems
from pluralign.scoring.trees import Layout

MIXTURE = "mixture.json"
"""The file of a mixture's folder; its adapters lie beside it, each in a folder of its name."""


@dataclass(frozen=True)
class Mixture:
    """What a mixture's folder says.

    Args:
        weights: of each adapter, by name, summing to 1.
        beta: inverse temperature of the adapters' implicit rewards.
        loss_type: `plackett-luce` or `sigmoid`, the likelihood of a ranking that they were tuned with.
        ties: and what equal ranks meant,
        top: and how many places counted.

    Raises:
        PluralignError: there is no adapter, or the weights are no distribution.
    """

    weights: dict[str, float]
    beta: float = 0.1
    loss_type: str = "plackett-luce"
    ties: str = "efron"
    top: int | None = None

    def __post_init__(self) -> None:
        values = np.array(list(self.weights.values()))
        if not len(values) or not np.all(values >= 0) or not np.isclose(values.sum(), 1.0, atol=1e-6):
            raise PluralignError(f"weights of a mixture: found {self.weights}, expected shares that sum to 1")

    def write(self, folder: Path) -> None:
        """Write `mixture.json`."""
        write_json(folder / MIXTURE, vars(self))


def read_mixture(folder: str | os.PathLike[str]) -> Mixture:
    """What a mixture's folder says.

    Raises:
        PluralignError: the folder holds no mixture, or one that lacks an adapter.
    """
    file = Path(folder) / MIXTURE
    if not file.is_file():
        raise PluralignError(f"{folder}: no mixture of policies there ({MIXTURE} is missing)")
    with disk_errors(file):
        found = Mixture(**json.loads(file.read_text(encoding="utf-8")))
    for name in found.weights:
        if not (Path(folder) / name / "adapter_config.json").exists():
            raise PluralignError(f"{folder}: the adapter '{name}' is missing")
    return found


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

    mixture: Mixture = Mixture({"": 1.0})

    @property
    def weights(self) -> np.ndarray:
        """`(adapters,)`."""
        return np.array(list(self.mixture.weights.values()))

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

    def values(
        self, tokens: TokenizedItems, layout: LayoutName | Layout = "auto", max_tokens: int = MAX_TOKENS_PER_BATCH
    ) -> np.ndarray:
        """log sum_k w_k pi_k(y|x) of every unique response: `(responses,)`."""
        with np.errstate(divide="ignore"):
            log_weights = np.log(self.weights)
        return np.logaddexp.reduce(log_weights[:, None] + self.adapter_values(tokens, layout, max_tokens), axis=0)

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

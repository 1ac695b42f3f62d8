"""Pooled policies: the adapters' logits are added, with weights, at every token of one response.

    log pi(token) = log pi_ref(token) + sum_k lambda_k (log pi_k(token) - log pi_ref(token)) + constant

A geometric pool: a token is likely if the types' policies raise it together. lambda = e_k is the policy of type k; the
weights need not sum to 1 ("product of experts", Hinton 2002; `aggregate` searches them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

from pluralign.policies.mixture import MixturePolicy
from pluralign.scoring.forward import response_sums, score_tokens, seen_by
from pluralign.scoring.tokens import TokenizedItems
from pluralign.scoring.trees import Layout

_BASE = "__base__"
"""PEFT's name for a row of a batch without an adapter."""

_TOKENS_AT_ONCE = 2048
"""Tokens of a batch of which all logits are kept."""


@dataclass(frozen=True)
class PooledPolicy(MixturePolicy):
    """A policy that adds the logits of its adapters at every token, by the weights in `mixture`.

    Sampling runs all adapters in one batch on one base: a row per adapter, and one for the base unless the weights
    sum to 1. Draw responses:

        policy = pluralign.load_policy("runs/together/pooled")
        policy.sample(["Tea?"], n=4, max_new_tokens=32)
    """

    @property
    def parts(self) -> dict[str | None, float]:
        """The weight of each adapter, and under None that of the base, 1 - sum_k lambda_k; none of weight 0."""
        rest = 1.0 - sum(self.mixture.weights.values())
        weights = [*self.mixture.weights.items(), (None, rest if abs(rest) > 1e-9 else 0.0)]
        return {name: weight for name, weight in weights if weight}

    def values(self, tokens: TokenizedItems, *args: Any, **options: Any) -> np.ndarray:
        """log pi(y|x) of every unique response: `(responses,)`; a pass over all logits for each adapter."""

        def read(model: nn.Module, block: dict[str, Tensor], layout: Layout) -> Tensor:
            inputs = {"input_ids": block["input_ids"], **seen_by(block, layout)}
            pooled: Any = 0.0
            for name, weight in self.parts.items():
                with self.using(name):
                    logits = model(**inputs, use_cache=False).logits.flatten(0, 1)[block["sources"]]
                pooled = pooled + weight * logits.float()
            log_probs = torch.log_softmax(pooled, -1).gather(-1, block["targets"].unsqueeze(-1)).squeeze(-1)
            return response_sums(log_probs, block)

        return score_tokens(self.model, tokens, self.layout(tokens), max_tokens=_TOKENS_AT_ONCE, read=read)

    def _drawn(
        self, prompts: Sequence[list[int]], config: GenerationConfig, seed: int, batch: int
    ) -> tuple[list[list[int]], list[str | None]]:
        # Past the mixture, which would draw an adapter for each response.
        return super(MixturePolicy, self)._drawn(prompts, config, seed, max(1, batch // len(self.parts)))

    def _generate(self, prompts: Sequence[list[int]], config: GenerationConfig, **options: Any) -> list[list[int]]:
        parts = self.parts
        names = [_BASE if name is None else name for name in parts]
        rows = [prompt for prompt in prompts for _ in parts]
        chooser = _PooledChoice(list(parts.values()), config.temperature, config.top_p)
        # The processor draws; what is left for `generate` is to take the only token that is possible.
        greedy = GenerationConfig(
            do_sample=False, max_new_tokens=config.max_new_tokens, eos_token_id=config.eos_token_id,
            pad_token_id=config.pad_token_id,
        )  # fmt: skip
        drawn = super()._generate(
            rows, greedy, adapter_names=names * len(prompts), logits_processor=LogitsProcessorList([chooser])
        )
        return drawn[:: len(parts)]


class _PooledChoice(LogitsProcessor):
    """Pools the logits of the rows of each group, draws one token for the group, and makes all others impossible."""

    def __init__(self, weights: Sequence[float], temperature: float, top_p: float) -> None:
        self.weights = torch.tensor(weights)
        self.warpers: list[Any] = [] if temperature == 1 else [TemperatureLogitsWarper(temperature)]
        self.warpers += [] if top_p == 1 else [TopPLogitsWarper(top_p)]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        groups = scores.float().view(-1, len(self.weights), scores.shape[-1])
        pooled = torch.einsum("k,gkv->gv", self.weights.to(scores.device), groups)
        for warper in self.warpers:
            pooled = warper(None, pooled)
        token = torch.multinomial(torch.softmax(pooled, -1), 1).repeat_interleave(len(self.weights), 0)
        return torch.full_like(scores, -torch.inf).scatter(-1, token, 0.0)

"""A policy: a causal model with optional adapters that draws responses with their log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import peft
import torch
from transformers import GenerationConfig

from pluralign.core.errors import PluralignError
from pluralign.core.progress import track
from pluralign.scoring.causal_models import CausalModel
from pluralign.scoring.forward import MAX_TOKENS_PER_BATCH
from pluralign.scoring.probe import plain_model
from pluralign.scoring.tokens import TokenizedItems, check_embedded, prompt_tokens


@dataclass(frozen=True)
class Sample:
    """A response drawn from a policy.

    Args:
        response: in the form of its prompt: a text, or one assistant message.
        token_ids: the drawn tokens, including the end token if it was drawn.
        log_prob: log pi(y|x) of those tokens in nats, at temperature 1 and untruncated, however they were drawn.
        finished: whether the policy drew an end token.
        adapter: the adapter that the response came from, if the policy is a mixture.
    """

    response: Any
    token_ids: list[int]
    log_prob: float
    finished: bool
    adapter: str | None = None


@contextmanager
def _generation_config(model: Any, config: GenerationConfig) -> Iterator[None]:
    """Within a context, a model has this config in place of its own, from which `generate` takes what `config` omits:
    penalties, truncation, beams and whatever else would change the policy."""
    own = {part: vars(part).get("generation_config") for part in (model, plain_model(model))}
    own = {part: stored for part, stored in own.items() if stored is not None}
    for part in own:
        part.generation_config = config
    try:
        yield
    finally:
        for part, stored in own.items():
            part.generation_config = stored


@dataclass(frozen=True)
class Policy(CausalModel):
    """A causal language model that responds to prompts.

    Draw two responses with their log-probabilities:

        policy = pluralign.load_policy("runs/my-policy")
        for sample in policy.sample(["Tea?"], n=2, max_new_tokens=32)[0]:
            print(sample.log_prob, sample.response)
    """

    def sample(
        self,
        prompts: Sequence[Any],
        *,
        n: int = 1,
        max_new_tokens: int = 256,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
        batch: int | None = None,
    ) -> list[list[Sample]]:
        """Draw responses, and compute their log-probabilities under the policy in one pass over prompt trees.

        Args:
            prompts: texts, or lists of messages; truncated on the left to leave room for the response.
            n: responses per prompt.
            max_new_tokens: maximum tokens of a response.
            temperature: above 0; 1 draws from the policy itself.
            top_p: nucleus sampling; 1 is no truncation.
            seed: the same seed gives the same responses on the same machine.
            batch: responses drawn at once; default: as many as have 16,384 tokens with their prompts.

        Returns:
            `n` samples for each prompt.

        Raises:
            PluralignError: `max_new_tokens` leaves no room for a prompt.
        """
        longest = self.limits.max_length
        if max_new_tokens >= longest:
            raise PluralignError(f"max_new_tokens: {max_new_tokens} leaves no room for a prompt in {longest} tokens")
        if not prompts:
            return []
        ids = prompt_tokens(prompts, self.tokenizer, longest - max_new_tokens)
        check_embedded("prompts", ids, self.model, self.tokenizer)
        ends = self.ends
        config = GenerationConfig(
            do_sample=True,
            temperature=temperature,
            top_p=top_p,
            top_k=0,
            max_new_tokens=max_new_tokens,
            eos_token_id=list(ends) or None,
            pad_token_id=self.tokenizer.pad_token_id or 0,
        )
        prompt_of = np.repeat(np.arange(len(prompts)), n).tolist()  # the prompt of each response
        batch = batch or max(1, MAX_TOKENS_PER_BATCH // (max(map(len, ids)) + max_new_tokens))
        device = next(self.model.parameters()).device
        self.model.eval()
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            drawn, adapters = self._drawn([ids[index] for index in prompt_of], config, seed, batch)
        log_probs = self.values(TokenizedItems(ids, drawn, np.array(prompt_of), 0, 0)).tolist()
        texts = self.tokenizer.batch_decode(drawn, skip_special_tokens=True)
        samples = []
        for text, token_ids, log_prob, index, adapter in zip(texts, drawn, log_probs, prompt_of, adapters, strict=True):
            response = text if isinstance(prompts[index], str) else [{"role": "assistant", "content": text}]
            finished = bool(token_ids) and token_ids[-1] in ends
            samples.append(Sample(response, token_ids, log_prob, finished, adapter))
        return [samples[start : start + n] for start in range(0, len(samples), n)]

    def _drawn(
        self, prompts: Sequence[list[int]], config: GenerationConfig, seed: int, batch: int
    ) -> tuple[list[list[int]], list[str | None]]:
        """The tokens of one response to each prompt, and in a mixture the adapter that drew it."""
        order = np.argsort([-len(prompt) for prompt in prompts], kind="stable").tolist()
        drawn: list[list[int]] = [[] for _ in prompts]
        for start in track(range(0, len(order), batch), "Sampling"):
            members = order[start : start + batch]
            responses = self._generate([prompts[index] for index in members], config)
            for index, response in zip(members, responses, strict=True):
                drawn[index] = response
        return drawn, [None] * len(drawn)

    def _generate(self, prompts: Sequence[list[int]], config: GenerationConfig, **options: Any) -> list[list[int]]:
        """The drawn tokens of each response, up to and including its end token; options are those of `generate`."""
        ends = set(config.eos_token_id or ())
        start = self.tokenizer.eos_token_id or 0
        width = max(1, max(len(prompt) for prompt in prompts))
        rows = torch.full((len(prompts), width), int(config.pad_token_id))
        mask = torch.zeros((len(prompts), width), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            tokens = prompt or [start]  # an empty prompt without a start token is conditioned on the end token
            rows[row, width - len(tokens) :] = torch.tensor(tokens)
            mask[row, width - len(tokens) :] = 1
        device = next(self.model.parameters()).device
        inputs = {"input_ids": rows.to(device), "attention_mask": mask.to(device)}
        with torch.no_grad(), _generation_config(self.model, config):
            responses = self.model.generate(**inputs, generation_config=config, **options)[:, width:].tolist()
        lengths = [next((place + 1 for place, token in enumerate(ids) if token in ends), None) for ids in responses]
        return [ids[:length] for ids, length in zip(responses, lengths, strict=True)]

    def using(self, adapter: str | None) -> AbstractContextManager[Any]:
        """Use one of the policy's adapters, or none, within a context.

        Raises:
            PluralignError: it has no such adapter.
        """
        names = list(self.model.peft_config) if isinstance(self.model, peft.PeftModel) else []
        if adapter is not None and adapter not in names:
            raise PluralignError(f"no adapter '{adapter}'; there are: {', '.join(names) or 'none'}")
        if adapter is None:
            return self.model.disable_adapter() if names else nullcontext()
        return self._switched(adapter)

    @contextmanager
    def _switched(self, adapter: str) -> Iterator[None]:
        before = self.model.active_adapter
        self.model.set_adapter(adapter)
        try:
            yield
        finally:
            self.model.set_adapter(before)

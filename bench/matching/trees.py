"""Does online preference matching reach its optimum? Response trees that are small enough to enumerate.

`one token`: ten responses of one token each. The probabilities of the reference model and the rewards are given; some
responses are so improbable that KL-regularised training forgets them. `two tokens` and `eight tokens`: the end token
may come first, so responses have one to so many tokens; some tokens of a response are inside and some are not. A
small Llama of one layer is tuned, and its exact distribution over all responses is compared with the closed form.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

from pluralign.choice.preference_matching import Penalty, charged, matched_log_probs, with_shares
from pluralign.training.preference_matching.rlhf import PMRLHFTrainer
from pluralign.training.preference_matching.rlhf_config import PMRLHFConfig

from ..common.options import parsed
from ..common.results import Clock, store
from ..common.training import QUIET

ONE = (0.55, 0.2, 0.1, 0.06, 0.04, 0.02, 0.01, 0.01, 0.005, 0.005)
"""The reference model's probabilities of ten responses."""

REWARDS = (0.0, 0.5, -0.5, 1.0, 0.3, 1.5, -1.0, 0.8, 1.2, -0.3)
"""Their rewards, in log-odds."""

CASES: tuple[tuple[str, Penalty, float], ...] = (
    ("one token", Penalty("kl"), 1.0),
    ("one token", Penalty("pm"), 1.0),
    ("one token", Penalty("conditional", 0.05), 1.0),
    ("one token", Penalty("pm"), 0.5),
    ("two tokens", Penalty("kl"), 1.0),
    ("two tokens", Penalty("pm"), 1.0),
    ("two tokens", Penalty("conditional", 0.3), 1.0),
    ("two tokens", Penalty("conditional", 0.3, "sequence"), 1.0),
    ("two tokens", Penalty("conditional", 0.3, "sequence-minimum"), 1.0),
    ("one token", Penalty("flattened", 0.05), 1.0),
    ("one token", Penalty("tempered", reference_weight=0.5), 1.0),
    ("two tokens", Penalty("flattened", 0.15), 1.0),
    ("two tokens", Penalty("flattened", 0.15, "sequence"), 1.0),
    ("two tokens", Penalty("tempered", reference_weight=0.5), 1.0),
)


class Tree:
    """All responses of a small vocabulary up to a length, a reference model, and the rewards."""

    def __init__(self, name: str) -> None:
        self.depth = {"one token": 1, "two tokens": 2, "eight tokens": 8}[name]
        self.size = {1: len(ONE), 2: 4, 8: 3}[self.depth]
        self.end = self.size - 1
        self.prompt = [self.end]  # no response continues after it, so no response leads back to this state
        words = {f"w{token}": token for token in range(self.size)}
        tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        end = f"w{self.end}"
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=end)
        self.responses = [
            [*words, last]
            for length in range(self.depth)
            for words in itertools.product(range(self.end), repeat=length)
            for last in range(self.size)
            if last == self.end or length == self.depth - 1
        ]
        set_seed(0)
        config = LlamaConfig(
            vocab_size=self.size, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, max_position_embeddings=16, tie_word_embeddings=False, initializer_range=0.2,
            eos_token_id=self.end,  # no padding token: its embedding would stay 0, and the prompt is the end token
        )  # fmt: skip
        self.reference = LlamaForCausalLM(config)
        if self.depth == 1:
            self._set_probabilities()
            self.rewards = torch.tensor(REWARDS)
        else:
            self.rewards = torch.randn(len(self.responses), generator=torch.Generator().manual_seed(1))

    def _set_probabilities(self) -> None:
        """Set the head to the outer product of log p and h / |h|^2: the logits at the prompt's state h are log p."""
        with torch.no_grad():
            state = self.reference.model(input_ids=torch.tensor([self.prompt])).last_hidden_state[0, -1]
            self.reference.lm_head.weight.copy_(torch.tensor(ONE).log().outer(state / state.square().sum()))

    def lengths(self) -> Tensor:
        """Tokens of every response `(responses,)`."""
        return torch.tensor([len(response) for response in self.responses], dtype=torch.float64)

    def charged(self, penalty: Penalty) -> Tensor:
        """What a penalty charges of every token of every response: `(responses, depth)`."""
        log_probs, mask, logits, ids = self._read(self.reference)
        shape = log_probs.shape
        _, shares = with_shares(logits.flatten(0, 1).clone(), ids.flatten(), penalty.alpha, [self.end])
        return charged(log_probs, mask, penalty, shares.view(shape))

    def token_log_probs(self, model: Any) -> tuple[Tensor, Tensor]:
        """Log-probability of every token of every response, and the mask of its tokens: `(responses, depth)`."""
        return self._read(model)[:2]

    def _read(self, model: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same with the logits `(responses, depth, size)` and the tokens `(responses, depth)`."""
        ids = torch.full((len(self.responses), self.depth), self.end)
        mask = torch.zeros(len(self.responses), self.depth)
        for row, response in enumerate(self.responses):
            ids[row, : len(response)] = torch.tensor(response)
            mask[row, : len(response)] = 1
        rows = torch.cat([torch.tensor(self.prompt).expand(len(ids), -1), ids], 1)
        with torch.no_grad():
            logits = model(input_ids=rows).logits[:, len(self.prompt) - 1 : -1].double()
        return logits.log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1), mask, logits, ids

    def log_probs(self, model: Any) -> Tensor:
        """log pi(y) of every response: `(responses,)`."""
        log_probs, mask = self.token_log_probs(model)
        return (log_probs * mask).sum(-1)

    def reward(self, completion_ids: list[list[int]], **_: Any) -> list[float]:
        """The reward function in TRL's form."""
        of = {tuple(response): float(value) for response, value in zip(self.responses, self.rewards, strict=True)}
        return [of[tuple(ids)] for ids in completion_ids]


def named_penalty(penalty: Penalty) -> dict[str, Any]:
    """The fields of a penalty, as rows and training settings name them."""
    return vars(penalty)


def copy_of(model: Any) -> LlamaForCausalLM:
    """A model with the same weights."""
    policy = LlamaForCausalLM(model.config)
    policy.load_state_dict(model.state_dict())
    return policy


def trained(tree: Tree, penalty: Penalty, beta: float, options: argparse.Namespace) -> dict[str, Any]:
    """Tune online and compare with the closed form."""
    reference, mask = tree.token_log_probs(tree.reference)
    taken = tree.charged(penalty)
    optimum = matched_log_probs(tree.rewards.double(), taken.sum(-1), beta).exp()
    start = tree.log_probs(tree.reference).exp()
    set_seed(options.seed)
    policy = copy_of(tree.reference)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        args = PMRLHFConfig(
            folder, beta=beta, per_device_train_batch_size=options.batch, num_generations=options.batch,
            max_steps=options.steps, learning_rate=options.learning_rate, max_completion_length=tree.depth,
            seed=options.seed, use_cpu=True, logging_steps=options.steps, **named_penalty(penalty), **QUIET,
        )  # fmt: skip
        prompts = Dataset.from_list([{"prompt": " ".join(f"w{token}" for token in tree.prompt)}])
        trainer = PMRLHFTrainer(
            policy, lambda **given: tree.reward(**given), args, prompts, processing_class=tree.tokenizer
        )
        trainer.train()
    final = tree.log_probs(policy).exp()
    log_odds = [
        (final[a] / final[b]).log() - (optimum[a] / optimum[b]).log()
        for a, b in itertools.combinations(range(len(final)), 2)
    ]
    inside = (taken != reference) & (mask > 0)
    return {
        "seconds": clock(),
        "start": float((start - optimum).abs().sum() / 2),
        "total_variation": float((final - optimum).abs().sum() / 2),
        "least": float(optimum.min()),
        "length": [float(values @ tree.lengths()) for values in (start, final, optimum)],
        "inside": float(inside.sum() / mask.sum()),
        "log_odds": max(abs(float(value)) for value in log_odds),
    }


def main() -> None:
    options = parsed(__doc__, steps=400, batch=256, learning_rate=3e-3, seed=0)
    rows = []
    for name, penalty, beta in CASES:
        row = {"tree": name, "beta": beta, **named_penalty(penalty), **trained(Tree(name), penalty, beta, options)}
        print(row, flush=True)
        rows.append(row)
    store("matching_exact", {"options": vars(options), "rows": rows})

"""Models with random weights in the shapes of known ones, and what devices can do at most."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Shape:
    """A Llama's shape; words are tokens."""

    name: str
    hidden: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    vocabulary: int


SHAPES = {
    "135M": Shape("135M", 576, 1536, 30, 9, 3, 49152),  # SmolLM2-135M
    "1B": Shape("1B", 2048, 8192, 16, 32, 8, 128256),  # Llama-3.2-1B
    "resumed": Shape("resumed", 256, 1024, 4, 4, 4, 4096),
}

SMALL = Shape("small", 64, 128, 2, 4, 2, 1024 + 512)

PEAKS = {
    "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10G": 70e12,
    "A10": 125e12, "V100": 125e12, "T4": 65e12, "B200": 2250e12, "RTX 4090": 165e12, "RTX 3090": 71e12,
}  # fmt: skip
"""Dense 16-bit operations a second at most, by a part of the device's name, as the makers give them."""


def peak_of(name: str) -> float | None:
    """The most 16-bit operations a second of a device, `None` if it is unknown."""
    return next((peak for part, peak in PEAKS.items() if part in name), None)


@functools.lru_cache
def tokenizer_of(shape: Shape) -> PreTrainedTokenizerFast:
    """A tokenizer with a token for each word w0, w1 ..."""
    words = {f"w{number}": number for number in range(shape.vocabulary - 2)}
    words |= {"<end>": shape.vocabulary - 2, "<pad>": shape.vocabulary - 1}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>")
    fast.model_max_length = 4096
    return fast


def random_model(shape: Shape, dtype: torch.dtype, device: torch.device, reward: bool = False) -> Any:
    """An untrained model on a device; a causal one, or one with a reward."""
    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.inner,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.key_heads,
        max_position_embeddings=4096, tie_word_embeddings=not reward, bos_token_id=None,
        eos_token_id=shape.vocabulary - 2, pad_token_id=shape.vocabulary - 1, attn_implementation="sdpa",
    )  # fmt: skip
    torch.manual_seed(0)
    if reward:
        config.num_labels = 1
    with device:
        model = (LlamaForSequenceClassification if reward else LlamaForCausalLM)(config)
    return model.to(dtype)


def weights_of(model: Any) -> tuple[int, int]:
    """Weights that every token meets, and those of the head that makes logits; embeddings are only looked up."""
    total = sum(weight.numel() for weight in model.parameters())
    embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    if head is None:
        return total - embeddings.numel(), 0
    apart = embeddings.numel() + (0 if head.weight is embeddings else head.weight.numel())
    return total - apart, head.weight.numel()

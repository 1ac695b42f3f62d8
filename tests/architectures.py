"""Tiny models of several architectures, with the tokenizer of another."""

from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    OPTConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
LLAMA_LIKE = {**SMALL, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 96}

CONFIGS = {
    "llama": lambda ends: LlamaConfig(**LLAMA_LIKE, **ends),
    "qwen2": lambda ends: Qwen2Config(**LLAMA_LIKE, **ends),
    "qwen3": lambda ends: Qwen3Config(**LLAMA_LIKE, **ends),
    "gpt2": lambda ends: GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=96, **ends),
    "neox": lambda ends: GPTNeoXConfig(**SMALL, max_position_embeddings=96, **ends),
    "opt": lambda ends: OPTConfig(
        hidden_size=32, word_embed_proj_dim=32, num_hidden_layers=2, num_attention_heads=2, ffn_dim=64,
        max_position_embeddings=96, vocab_size=ends["vocab_size"],
    ),
    "grouped-queries": lambda ends: LlamaConfig(
        **LLAMA_LIKE | {"num_attention_heads": 4, "num_key_value_heads": 1}, **ends | {"tie_word_embeddings": True}
    ),
    "sliding": lambda ends: MistralConfig(**LLAMA_LIKE, sliding_window=8, **ends),
    "windows": lambda ends: Gemma3TextConfig(
        **LLAMA_LIKE | {"num_key_value_heads": 1}, sliding_window=8,
        layer_types=["sliding_attention", "full_attention"], **ends,
    ),
    "soft-capped": lambda ends: Gemma2Config(
        **LLAMA_LIKE, final_logit_softcapping=0.5, attn_logit_softcapping=2.0, sliding_window=8, **ends
    ),
    "scaled": lambda ends: GraniteConfig(**LLAMA_LIKE, logits_scaling=1.5, **ends),
    "state-space": lambda ends: MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=4, **ends),
}  # fmt: skip


def write_model(name: str, tokenizer_folder: Path, folder: Path, pad: str = "own") -> Path:
    """A random causal model with weights large enough that texts matter, in a folder."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    if pad != "own":
        tokenizer.pad_token = None if pad == "none" else tokenizer.eos_token
    ends = {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        "pad_token_id": None,
    }
    config = CONFIGS[name](ends)
    torch.manual_seed(0)
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(4)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

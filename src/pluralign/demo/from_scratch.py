"""A small untrained causal language model and its tokenizer: for the demo, tests and benchmarks."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pluralign.scoring.library_output import quiet_libraries

END, PAD = "<|end|>", "<|pad|>"


def make_tokenizer(texts: Iterable[str], vocab_size: int = 2048) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on texts; it can encode any text, and has its own padding token.

    Examples:
        >>> tokenizer = make_tokenizer(["a cat sat", "a dog sat"], vocab_size=300)
        >>> tokenizer.decode(tokenizer("a bird 🐦")["input_ids"])
        'a bird 🐦'
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False
    )


def make_causal_model(
    texts: Iterable[str],
    folder: str | os.PathLike[str],
    *,
    vocab_size: int = 2048,
    hidden_size: int = 128,
    layers: int = 4,
    heads: int = 4,
    context: int = 512,
    seed: int = 0,
) -> None:
    """Write an untrained Llama-type model, with a tokenizer trained on `texts`, as a model folder.

    Args:
        texts: the training texts of the tokenizer.
        folder: the folder of the model; train it with the objective `sft`.
        vocab_size: maximum number of tokens.
        hidden_size: width; the feed-forward layers are four times as wide.
        layers: number of layers.
        heads: number of attention heads.
        context: maximum sequence length.
        seed: random seed of the weights.
    """
    tokenizer = make_tokenizer(texts, vocab_size)
    tokenizer.model_max_length = context
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    with quiet_libraries():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

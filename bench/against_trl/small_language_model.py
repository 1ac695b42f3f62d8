"""A causal language model of 3 million parameters, trained from scratch on the HH texts; other benchmarks tune it."""

from __future__ import annotations

import math

import torch
from transformers import AutoModelForCausalLM

from pluralign.judgments import Judgments
from pluralign.judgments.split import split

from ..common.data import load
from ..common.options import parsed
from ..common.results import OUT, Clock, store
from ..common.training import all_texts, from_scratch

MODEL = OUT / "hh-language-model"
"""The folder of the trained model."""


def main() -> None:
    options = parsed(__doc__, epochs=1.0, seed=0)
    rows = [row for name in ("hh-helpful", "hh-harmless") for row in load(name)[0].rows()]
    train, test = split(Judgments.from_rows(rows), by="prompt", test=0.1, seed=options.seed)
    train.write(OUT / "hh-train.parquet")
    test.write(OUT / "hh-test.parquet")
    clock = Clock()
    shape = {"vocab_size": 4096, "hidden_size": 192, "layers": 4, "heads": 6, "context": 512, "seed": options.seed}
    metrics = from_scratch(
        MODEL, train, all_texts(train), shape, eval_files=[str(OUT / "hh-test.parquet")], completion_only_loss=False,
        per_device_train_batch_size=16, learning_rate=2e-3, num_train_epochs=options.epochs, max_length=256,
        seed=options.seed,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    results = {key: metrics[key] for key in ("steps", "train_loss", "eval_loss")}
    results |= {"parameters": sum(tensor.numel() for tensor in model.parameters()), "seconds": clock()}
    store("small_language_model", results | {"uniform_loss": math.log(model.config.vocab_size)})

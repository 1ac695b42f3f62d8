"""A causal language model of a few million parameters, trained from scratch on the HH texts and kept."""

from __future__ import annotations

import argparse
import math

import torch
import yaml
from common import OUT, Clock, load, store
from transformers import AutoModelForCausalLM

from pluralign.demo.from_scratch import make_causal_model
from pluralign.judgments import Judgments
from pluralign.judgments.split import split
from pluralign.workflows.train.run import train

MODEL = OUT / "hh-language-model"
"""Where the trained model lies."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = [row for name in ("hh-helpful", "hh-harmless") for row in load(name)[0].rows()]
    parts = split(Judgments.from_rows(rows), by="prompt", test=0.1, seed=options.seed)
    for part, name in zip(parts, ("train", "test"), strict=True):
        part.write(OUT / f"hh-{name}.parquet")
    clock = Clock()
    texts = [text for row in parts[0].rows() for text in [row["prompt"], *row["responses"]]]
    make_causal_model(
        texts,
        OUT / "hh-untrained",
        vocab_size=4096,
        hidden_size=192,
        layers=4,
        heads=6,
        context=512,
        seed=options.seed,
    )
    config = {
        "objective": "sft",
        "model_name_or_path": str(OUT / "hh-untrained"),
        "train_files": [str(OUT / "hh-train.parquet")],
        "eval_files": [str(OUT / "hh-test.parquet")],
        "output_dir": str(MODEL),
        "responses": "all",
        "completion_only_loss": False,
        "per_device_train_batch_size": 16,
        "learning_rate": 2e-3,
        "lr_scheduler_type": "cosine",
        "num_train_epochs": options.epochs,
        "max_length": 256,
        "seed": options.seed,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    file = OUT / "hh-language-model.yaml"
    file.write_text(yaml.safe_dump(config))
    metrics = train(file)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    store(
        "small_language_model",
        {
            "parameters": sum(tensor.numel() for tensor in model.parameters()),
            "uniform_loss": math.log(model.config.vocab_size),
            "seconds": clock(),
            **{key: metrics[key] for key in ("steps", "train_loss", "eval_loss")},
        },
    )


if __name__ == "__main__":
    main()

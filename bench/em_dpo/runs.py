"""EM-DPO on real annotators: a small causal model of their texts, and a run on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pluralign.judgments import Judgments
from pluralign.training.em_dpo.config import EMDPOConfig
from pluralign.training.em_dpo.trainer import EMDPOTrainer

from ..common.results import OUT
from ..common.training import SILENT, all_texts, from_scratch, lora

FOLDER = OUT / "em_real"
LENGTH = 160
"""Tokens of prompt and response."""

SETTINGS: dict[str, Any] = {
    "num_train_epochs": 1, "learning_rate": 2e-3, "lr_scheduler_type": "cosine", "beta": 1.0,
    "per_device_train_batch_size": 32, "warmup_steps": 20, "max_length": LENGTH,
}  # fmt: skip
"""Of every M-step in all runs; everything else is the default."""

SHAPE: dict[str, Any] = {"vocab_size": 2048, "hidden_size": 128, "layers": 3, "heads": 4, "context": LENGTH}


def language_model(name: str, judgments: Judgments, epochs: float) -> Path:
    """The folder of a model trained from scratch on all responses of a table, each once an epoch."""
    model = FOLDER / f"{name}-language-model"
    if not (model / "metrics.json").exists():
        texts = dict.fromkeys(all_texts(judgments))
        from_scratch(model, judgments, texts, SHAPE, learning_rate=2e-3, num_train_epochs=epochs, max_length=LENGTH)
    return model


def em_dpo(model: Path, judgments: Judgments, folder: str | Path, types: int | str, seed: int, **changed: Any) -> Any:
    """A trained run."""
    args = EMDPOConfig(output_dir=str(folder), seed=seed, **(SETTINGS | SILENT | {"types": types} | changed))
    trainer = EMDPOTrainer(str(model), args=args, train_dataset=judgments, peft_config=lora())
    trainer.train()
    return trainer

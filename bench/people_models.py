"""What the benchmarks on real people share: a small causal model of their texts, and a run of EM-DPO on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from common import OUT
from town_language_model import QUIET, lora

from pluralign.demo.from_scratch import make_causal_model
from pluralign.judgments import Judgments
from pluralign.training.em_dpo.config import EMDPOConfig
from pluralign.training.em_dpo.trainer import EMDPOTrainer
from pluralign.workflows.train.run import train

FOLDER = OUT / "em_real"
LENGTH = 160
"""Tokens of prompt and response."""

SETTINGS: dict[str, Any] = {
    "num_train_epochs": 1, "learning_rate": 2e-3, "lr_scheduler_type": "cosine", "beta": 1.0,
    "per_device_train_batch_size": 32, "warmup_steps": 20, "max_length": LENGTH,
}  # fmt: skip
"""Of every M-step, in all runs; all else is the default."""

SHAPE: dict[str, Any] = {"vocab_size": 2048, "hidden_size": 128, "layers": 3, "heads": 4, "context": LENGTH}


def language_model(name: str, judgments: Judgments, epochs: float) -> Path:
    """The folder of a model trained from scratch on all responses of a table, each once an epoch."""
    model = FOLDER / f"{name}-language-model"
    if (model / "metrics.json").exists():
        return model
    FOLDER.mkdir(parents=True, exist_ok=True)
    texts = list({text: None for row in judgments.rows() for text in [row["prompt"], *row["responses"]]})
    untrained, data, file = (FOLDER / f"{name}-{part}" for part in ("untrained", "texts.parquet", "model.yaml"))
    make_causal_model(texts, untrained, **SHAPE)
    judgments.write(data)
    config = {
        "objective": "sft", "model_name_or_path": str(untrained), "train_files": [str(data)],
        "output_dir": str(model), "responses": "all", "per_device_train_batch_size": 32, "learning_rate": 2e-3,
        "lr_scheduler_type": "cosine", "num_train_epochs": epochs, "max_length": LENGTH, "save_strategy": "no",
        "report_to": "none", "disable_tqdm": True,
    }  # fmt: skip
    file.write_text(yaml.safe_dump(config))
    train(file)
    return model


def em_dpo(model: Path, judgments: Judgments, folder: str | Path, types: int | str, seed: int, **changed: Any) -> Any:
    """A trained run."""
    args = EMDPOConfig(output_dir=str(folder), seed=seed, **(SETTINGS | QUIET | {"types": types} | changed))
    trainer = EMDPOTrainer(str(model), args, judgments, peft_config=lora())
    trainer.train()
    return trainer


def numbered(names: Sequence[Any]) -> tuple[np.ndarray, list[str]]:
    unique, number = np.unique([str(name) for name in names], return_inverse=True)
    return number, unique.tolist()

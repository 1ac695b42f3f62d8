"""What the benchmarks of EM-DPO share: a base that knows how a town answers, settings, results kept part by part.

The base is a Llama of half a million parameters, trained once from scratch on the answers of another town.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import peft
import yaml
from common import OUT, store

from pluralign.demo.from_scratch import make_causal_model
from pluralign.judgments.population import Town, simulate
from pluralign.workflows.train.run import train

MODEL = OUT / "town-language-model"
"""Where the trained model lies."""

SETTINGS: dict[str, Any] = {
    "types": 3, "rounds": 2, "num_train_epochs": 1, "learning_rate": 2e-3, "lr_scheduler_type": "cosine",
    "beta": 1.0, "per_device_train_batch_size": 8,
}  # fmt: skip
"""Of EM-DPO, where recovery is measured and where time is; all else is the default."""

LORA = {"r": 8, "lora_alpha": 8, "target_modules": "all-linear"}

QUIET: dict[str, Any] = {
    "report_to": "none", "save_strategy": "no", "logging_steps": 100_000, "disable_tqdm": True,
}  # fmt: skip
"""Nothing is written or shown while the clock runs."""


def lora() -> peft.LoraConfig:
    return peft.LoraConfig(**LORA)


def town_language_model() -> Path:
    """The base's folder; the first process to ask trains it, others wait."""
    OUT.mkdir(exist_ok=True)
    with open(OUT / "town-language-model.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (MODEL / "metrics.json").exists():
            _train()
    return MODEL


def _train() -> None:
    judgments = simulate(Town(annotators=120, judgments_per_annotator=16, responses=3, seed=1000)).judgments
    judgments.write(OUT / "town-answers.parquet")
    texts = [text for row in judgments.rows() for text in [row["prompt"], *row["responses"]]]
    untrained = OUT / "town-untrained"
    make_causal_model(texts, untrained, vocab_size=1024, hidden_size=96, layers=3, heads=4, context=160)
    config = {
        "objective": "sft",
        "model_name_or_path": str(untrained),
        "train_files": [str(OUT / "town-answers.parquet")],
        "output_dir": str(MODEL),
        "responses": "all",
        "per_device_train_batch_size": 32,
        "learning_rate": 3e-3,
        "lr_scheduler_type": "cosine",
        "num_train_epochs": 2,
        "max_length": 160,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    file = OUT / "town-language-model.yaml"
    file.write_text(yaml.safe_dump(config))
    train(file)


def kept(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What an earlier run stored under a name; nothing where its settings were others."""
    file = OUT / f"{name}.json"
    if not file.exists():
        return {}
    found = json.loads(file.read_text())
    return found["rows"] if found["settings"] == json.loads(json.dumps(settings)) else {}


def keep(name: str, settings: dict[str, Any], rows: Any) -> None:
    """Store results so that they are whole or as they were, whenever the script is stopped."""
    file = OUT / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.stem}-{os.getpid()}.json")
    store(str(unfinished.relative_to(OUT).with_suffix("")), {"settings": settings, "rows": rows})
    os.replace(unfinished, file)

"""What `demo` trains: the YAML of each run, in the order in which one needs the other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pluralign.demo.people import ANSWER, CONTEXT


def configs(folder: Path, untrained: Path, labelled: Mapping[str, Any], seed: int) -> dict[str, dict[str, Any]]:
    """Of each run, by the name of its folder; the reward is to be calibrated before `rlhf` answers to it.

    Args:
        folder: of the demo.
        untrained: the language model before its first step.
        labelled: what the YAML of `dprm` says of data.
        seed: of all training.
    """
    base = {"model_name_or_path": str(folder / "language-model")}
    tuning = {"per_device_train_batch_size": 16, "learning_rate": 2e-3, "num_train_epochs": 2, "beta": 1.0}
    found: dict[str, dict[str, Any]] = {
        "language-model": {
            "objective": "sft",
            "model_name_or_path": str(untrained),
            "responses": "all",
            "per_device_train_batch_size": 32,
            "learning_rate": 3e-3,
            "num_train_epochs": 2,
            "max_length": CONTEXT,
        },
        "reward": {
            "objective": "more",
            **base,
            "normalize": "none",  # of two gradients of length 1 the middle is the shortest, whatever they are
            "per_device_train_batch_size": 16,
            "learning_rate": 5e-4,
            "num_train_epochs": 3,
        },
        "crowd": {
            "objective": "dprm",
            **base,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-3,
            "num_train_epochs": 12,
            **labelled,
        },
        "policy": {
            "objective": "dpo",
            **base,
            "use_peft": True,
            "lora_target_modules": ["all-linear"],
            **tuning,
        },
        "people": {"objective": "em-dpo", **base, **tuning},
        "rlhf": {
            "objective": "pm-rlhf",
            "mode": "kl",
            **base,
            "reward_model": str(folder / "reward"),
            "beta": 1.0,
            "num_generations": 4,
            "per_device_train_batch_size": 32,
            "max_completion_length": ANSWER,
            "learning_rate": 1e-3,
            "max_steps": 30,
        },
        "matched": {
            "objective": "pm-dpo",
            "mode": "pm",  # the lists of answers are known, so that there is no noise to run off to
            **base,
            "per_device_train_batch_size": 16,
            "learning_rate": 1e-3,
            "num_train_epochs": 4,
        },
    }
    common = {
        "train_files": [str(folder / "train.parquet")],
        "eval_files": [str(folder / "test.parquet")],
        "seed": seed,
        "save_strategy": "no",
        "report_to": "none",
        "lr_scheduler_type": "cosine",
    }
    # The run's own keys stand first, and hold where both have one.
    return {name: {**config, "output_dir": str(folder / name), **common, **config} for name, config in found.items()}

"""A step of preference matching beside a step of TRL's `RLOOTrainer` with the same reference.

An untrained Llama of 4 layers and width 256 responds to prompts, its responses get a reward that costs nothing to
compute, and it learns from them. The trainers take their steps in turn in one process; medians are reported for whole
steps and without sampling, which is the same work for all. Seconds are processor time, which other work on the machine
lengthens less than the clock.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import trl
from datasets import Dataset
from transformers import AutoTokenizer

from pluralign.training.preference_matching.rlhf import PMRLHFTrainer
from pluralign.training.preference_matching.rlhf_config import PMRLHFConfig

from ..common.options import parsed
from ..common.results import store
from ..common.training import PLAIN, random_llama
from .stepping import in_turn

VOCABULARY = 8192
ALPHA = 1.25e-4  # the untrained model's probabilities are near 1 / 8192: some tokens are inside, some are not
KINDS: dict[str, dict[str, Any] | None] = {
    "RLOO": None,
    "kl": {"mode": "kl"},
    "flattened": {"mode": "flattened", "alpha": ALPHA},
    "conditional, token": {"mode": "conditional", "alpha": ALPHA},
    "conditional, sequence": {"mode": "conditional", "alpha": ALPHA, "gate": "sequence"},
    "pm": {"mode": "pm"},
}
"""`None` is TRL's own trainer with beta 1."""


def length_reward(completions: list[str], **_: Any) -> list[float]:
    """A reward that costs nothing to compute."""
    return [float(len(text)) for text in completions]


class OnlineStepper:
    """An online trainer that takes one optimiser step at a time."""

    def __init__(self, kind: str, model: Path, folder: str, options: argparse.Namespace) -> None:
        common: dict[str, Any] = PLAIN | {
            "per_device_train_batch_size": options.batch, "num_generations": 4, "beta": 1.0, "learning_rate": 1e-6,
            "max_completion_length": options.response, "use_cpu": True, "disable_dropout": True,
        }  # fmt: skip
        tokenizer = AutoTokenizer.from_pretrained(model)
        ids = torch.randint(300, VOCABULARY, (512, options.prompt), generator=torch.Generator().manual_seed(0))
        prompts = Dataset.from_list([{"prompt": tokenizer.decode(row)} for row in ids])
        given = KINDS[kind]
        if given is None:
            args = trl.RLOOConfig(folder, **common)
            self.trainer: Any = trl.RLOOTrainer(str(model), length_reward, args, prompts, None, tokenizer)
        else:
            args = PMRLHFConfig(folder, **common, **given)
            self.trainer = PMRLHFTrainer(str(model), length_reward, args, prompts, processing_class=tokenizer)
        self.trainer.create_optimizer_and_scheduler(1000)
        self.trainer.current_gradient_accumulation_steps = 1
        self.batches = enumerate(self.trainer.get_train_dataloader())
        self.sampling = 0.0
        self.trainer._generate = self._timed(self.trainer._generate)

    def _timed(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any) -> Any:
            start = time.process_time()
            result = generate(*given)
            self.sampling = time.process_time() - start
            return result

        return timed

    def step(self) -> dict[str, float]:
        """Processor seconds of one step, and without sampling."""
        turn, batch = next(self.batches)
        torch.manual_seed(turn)  # the same responses for all
        start = time.process_time()
        self.trainer.model.train()
        self.trainer.training_step(self.trainer.model, batch, None)
        self.trainer.optimizer.step()
        self.trainer.model.zero_grad()
        whole = time.process_time() - start
        return {"step": whole, "rest": whole - self.sampling}


def main() -> None:
    options = parsed(__doc__, repeats=12, batch=16, prompt=32, response=32)
    model = random_llama(256, 4, VOCABULARY)
    with tempfile.TemporaryDirectory() as folder:
        steps = in_turn({kind: OnlineStepper(kind, model, folder, options).step for kind in KINDS}, options.repeats)
    rows = []
    for kind, found in steps.items():
        row: dict[str, Any] = {"kind": kind}
        for name in ("step", "rest"):
            row[name] = median(seconds[name] for seconds in found)
            row[f"{name}_ratio"] = median(a[name] / b[name] for a, b in zip(found, steps["RLOO"], strict=True))
        print(row, flush=True)
        rows.append(row)
    store("pm_step", {"options": vars(options) | {"threads": torch.get_num_threads()}, "rows": rows})

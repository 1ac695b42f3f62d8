"""What a step of preference matching costs beside a step of TRL's `RLOOTrainer` with the same reference.

An untrained Llama of 4 layers, 256 wide, answers prompts, its answers get a reward that costs nothing, and it
learns from them. The trainers are one process and take their steps in turn: a ratio compares neighbours in time,
and the median is told, of whole steps and of what is left without drawing the answers, the same work for all.
Seconds are the processor's, which other work on the machine lengthens less than the clock's.
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
from common import store
from datasets import Dataset
from speed import make_model
from transformers import AutoTokenizer

from pluralign.training.preference_matching.rlhf import PMRLHFTrainer
from pluralign.training.preference_matching.rlhf_config import PMRLHFConfig

VOCABULARY = 8192
ALPHA = 1.25e-4  # the untrained model's probabilities lie about 1 / 8192: some tokens are inside, some are not
KINDS: dict[str, dict[str, Any] | None] = {
    "RLOO": None,
    "kl": {"mode": "kl"},
    "conditional, token": {"mode": "conditional", "alpha": ALPHA},
    "conditional, sequence": {"mode": "conditional", "alpha": ALPHA, "gate": "sequence"},
    "pm": {"mode": "pm"},
}
"""`None` is TRL's own trainer with beta 1."""
WARM = 2


def tokens_in(completions: list[str], **_: Any) -> list[float]:
    """A reward that costs nothing."""
    return [float(len(text)) for text in completions]


class Stepping:
    """A trainer that takes one optimiser step at a time."""

    def __init__(self, kind: str, model: Path, folder: str, options: argparse.Namespace) -> None:
        common: dict[str, Any] = {
            "per_device_train_batch_size": options.batch, "num_generations": 4, "beta": 1.0, "learning_rate": 1e-6,
            "max_completion_length": options.answer, "use_cpu": True, "report_to": "none", "disable_tqdm": True,
            "gradient_checkpointing": False, "bf16": False, "disable_dropout": True,
        }  # fmt: skip
        tokenizer = AutoTokenizer.from_pretrained(model)
        ids = torch.randint(300, VOCABULARY, (512, options.prompt), generator=torch.Generator().manual_seed(0))
        prompts = Dataset.from_list([{"prompt": tokenizer.decode(row)} for row in ids])
        given = KINDS[kind]
        if given is None:
            args = trl.RLOOConfig(folder, **common)
            self.trainer: Any = trl.RLOOTrainer(str(model), tokens_in, args, prompts, None, tokenizer)
        else:
            args = PMRLHFConfig(folder, **common, **given)
            self.trainer = PMRLHFTrainer(str(model), tokens_in, args, prompts, processing_class=tokenizer)
        self.trainer.create_optimizer_and_scheduler(1000)
        self.trainer.current_gradient_accumulation_steps = 1
        self.batches = iter(self.trainer.get_train_dataloader())
        self.drawing = 0.0
        self.trainer._generate = self._timed(self.trainer._generate)

    def _timed(self, draw: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any) -> Any:
            start = time.process_time()
            found = draw(*given)
            self.drawing = time.process_time() - start
            return found

        return timed

    def step(self) -> tuple[float, float]:
        """Seconds of the processor for one step, and for what is left without drawing."""
        batch = next(self.batches)
        start = time.process_time()
        self.trainer.model.train()
        self.trainer.training_step(self.trainer.model, batch, None)
        self.trainer.optimizer.step()
        self.trainer.model.zero_grad()
        whole = time.process_time() - start
        return whole, whole - self.drawing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--answer", type=int, default=32)
    options = parser.parse_args()
    model = make_model(256, 4, VOCABULARY)
    times: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        ready = {kind: Stepping(kind, model, folder, options) for kind in KINDS}
        for turn in range(WARM + options.repeats):
            for kind in KINDS if turn % 2 else list(KINDS)[::-1]:
                torch.manual_seed(turn)  # the same answers for all
                seconds = ready[kind].step()
                if turn >= WARM:
                    times[kind].append(seconds)
    rows = []
    for kind, found in times.items():
        row: dict[str, Any] = {"kind": kind}
        for place, name in enumerate(("step", "rest")):
            row[name] = median(seconds[place] for seconds in found)
            row[f"{name}_ratio"] = median(a[place] / b[place] for a, b in zip(found, times["RLOO"], strict=True))
        print(row, flush=True)
        rows.append(row)
    store("pm_step", {"options": vars(options) | {"threads": torch.get_num_threads()}, "rows": rows})


if __name__ == "__main__":
    main()

"""The cost of a whole run of EM-DPO beside one epoch of DPO, our own and TRL's, on the same judgments and LoRA.

Every run has a process of its own and one thread. Its seconds are those of the processor, from the judgments to the
trained adapters: model, tokens, reference log-probabilities and EM-DPO's start included. TRL takes the adjacent pairs
of each ranking, one row each, and as many rows per step as the step's judgments have.

The data are those of a town of eight types, in which no two annotators share a response.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Iterable
from typing import Any

import datasets
import torch
import transformers
import trl
from transformers import AutoModelForCausalLM, AutoTokenizer

from pluralign.judgments import Judgments
from pluralign.judgments.population import Town, TypeSpec, simulate
from pluralign.training.dpo import DPOConfig, DPOTrainer
from pluralign.training.em_dpo.config import EMDPOConfig
from pluralign.training.em_dpo.trainer import EMDPOTrainer
from pluralign.training.em_dpo.type_starts import type_start

from ..common.options import QUICK, parsed, parts
from ..common.results import in_own_process, keep, kept, peak_memory
from ..common.training import EM_DPO, LORA, SILENT, lora, temporary, town_language_model

#                        length courtesy number example hedging joke
EIGHT = {
    "short": (-2.5, 0.0, 0.5, 0.0, -0.5, 0.0),
    "long": (2.5, 0.0, 0.0, 0.5, 0.0, -0.5),
    "courteous": (0.0, 2.5, 0.0, 0.0, 0.5, 0.0),
    "blunt": (0.0, -2.5, 0.0, 0.5, -0.5, 0.0),
    "exact": (0.0, 0.0, 2.5, 0.0, -0.5, -0.5),
    "vivid": (0.0, 0.0, -0.5, 2.5, 0.0, 0.5),
    "careful": (0.0, 0.5, 0.0, 0.0, 2.5, -0.5),
    "merry": (-0.5, 0.0, 0.0, 0.0, 0.0, 2.5),
}
"""The town's true types, in equal shares: each has one trait that matters most to it."""

OURS, TRL = "our dpo, an epoch", "TRL DPO, an epoch"
RUNS: dict[str, dict[str, Any]] = {
    TRL: {},
    OURS: {},
    **{f"default, K = {types}": {"types": types} for types in (1, 2, 4, 8, 16)},
    "four rounds, K = 8": {"types": 8, "rounds": 4},
    "paper, K = 8": {"types": 8, "preset": "paper", "learning_rate": EM_DPO["learning_rate"] / 4},
}
"""What each run changes in the settings."""


def judgments_of(annotators: int, each: int) -> Judgments:
    """Rankings of three in a town of eight types."""
    kinds = tuple(TypeSpec(name, 1 / len(EIGHT), weights) for name, weights in EIGHT.items())
    return simulate(Town(kinds, annotators=annotators, judgments_per_annotator=each)).judgments


def em_dpo(judgments: Judgments, changed: dict[str, Any]) -> dict[str, Any]:
    args = EMDPOConfig(**temporary(**(EM_DPO | SILENT | changed)))
    began = time.process_time()
    type_start(judgments, args, args.seed)  # the trainer computes it once more
    start = time.process_time() - began
    trainer = EMDPOTrainer(str(town_language_model()), args=args, train_dataset=judgments, peft_config=lora())
    trainer.train()
    seconds = time.process_time() - began - start
    weights = dict(trainer.policy.model.named_parameters())
    own = [weight for name, weight in weights.items() if f".{trainer.adapters[0]}." in name]
    return {
        "seconds": seconds, "start": start, "rounds": len(trainer.rounds) - 1, "adapter": _mebibytes(own),
        "base": _mebibytes(weight for name, weight in weights.items() if "lora_" not in name),
    }  # fmt: skip


def _mebibytes(tensors: Iterable[torch.Tensor]) -> float:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 2**20


def dpo(judgments: Judgments) -> dict[str, Any]:
    began = time.process_time()
    values = EM_DPO | SILENT | {"num_train_epochs": 1}
    args = DPOConfig(**temporary(**{name: value for name, value in values.items() if name != "types"}))
    DPOTrainer(str(town_language_model()), args=args, train_dataset=judgments, peft_config=lora()).train()
    return {"seconds": time.process_time() - began}


def dpo_of_trl(judgments: Judgments) -> dict[str, Any]:
    began = time.process_time()
    rows = []
    for row in judgments.rows():
        texts = [text for _, text in sorted(zip(row["ranks"], row["responses"], strict=True))]
        for better, worse in itertools.pairwise(texts):
            rows.append({"prompt": row["prompt"], "chosen": better, "rejected": worse})
    values = {name: value for name, value in (EM_DPO | SILENT).items() if name != "types"}
    values["per_device_train_batch_size"] *= len(rows) // len(judgments)
    values |= {"precompute_ref_log_probs": True, "bf16": False, "gradient_checkpointing": False, "max_length": None}
    trainer = trl.DPOTrainer(
        AutoModelForCausalLM.from_pretrained(town_language_model(), dtype=torch.float32),
        args=trl.DPOConfig(**temporary(num_train_epochs=1, **values)), train_dataset=datasets.Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(town_language_model()), peft_config=lora(),
    )  # fmt: skip
    trainer.train()
    return {"seconds": time.process_time() - began}


def measured(run: str, annotators: int, each: int) -> dict[str, Any]:
    """Processor seconds of a run and the peak memory of its process in GiB."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    judgments = judgments_of(annotators, each)
    found = dpo_of_trl(judgments) if run == TRL else dpo(judgments) if run == OURS else em_dpo(judgments, RUNS[run])
    return found | {"peak": peak_memory()}


def main() -> None:
    options = parsed(
        __doc__,
        runs=parts(RUNS, "Only these runs."),
        annotators=160,
        each=(12, "Judgments per annotator."),
        repetitions=2,
        quick=QUICK,
    )
    if options.quick:
        options.annotators, options.repetitions, options.each = 16, 1, 4
    town_language_model()
    given = {"annotators": options.annotators, "each": options.each}
    conditions = {**EM_DPO, **LORA, **given}
    name = f"em_cost{'_quick' * options.quick}"
    rows: dict[str, list[dict[str, Any]]] = kept(name, conditions)
    for repetition, run in itertools.product(range(options.repetitions), options.runs):
        if len(rows.get(run, [])) <= repetition:
            rows.setdefault(run, []).append(in_own_process(measured, {"run": run, **given}))
            print(f"{run}: {rows[run][-1]}", flush=True)
            keep(name, conditions, rows)

"""The cost of a round of EM-DPO: an M-step on half of the judgments and an E-step on the other half.

The round is the first one. Its E-step knows nothing about the half that it does not score; later ones score less.

Beside it are one epoch of our own `dpo` and one of TRL's DPOTrainer on all of the same judgments, with the same LoRA.
TRL takes the adjacent pairs of each ranking, one row each, and as many rows per step as the step's judgments have. The
compared runs alternate in one process, so that a ratio compares neighbours in time; each is warmed up by a few steps.
Times leave out models, tokens, reference log-probabilities and EM-DPO's start, which is reported beside them; each
repetition begins a round anew from the start. With one type there is nothing to estimate: its row is the M-step on all
judgments.

`town`: no two annotators share a response. `crowd`: all annotators judge the same responses. `large`: a larger
untrained model on long random texts, where posteriors stay flat and no type is dropped. `memory`: the peak of a process
of its own, and the bytes of a type's adapter and of its optimiser's state.
"""

from __future__ import annotations

import argparse
import itertools
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
import trl
from transformers import AutoModelForCausalLM, AutoTokenizer

from pluralign.choice.em_dpo import halves
from pluralign.judgments import Judgments
from pluralign.judgments.population import Town, TypeSpec, simulate
from pluralign.training.dpo import DPOConfig, DPOTrainer
from pluralign.training.em_dpo.config import EMDPOConfig
from pluralign.training.em_dpo.trainer import EMDPOTrainer
from pluralign.training.em_dpo.type_starts import type_start

from ..common.options import QUICK, Option, parsed, parts
from ..common.results import in_own_process, keep, kept, peak_memory
from ..common.training import (
    EM_DPO,
    LORA,
    SILENT,
    Task,
    lora,
    random_llama,
    rows_of,
    temporary,
    town_language_model,
)  # fmt: skip

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

TYPES = [1, 2, 4, 8, 16]
OURS, TRL = "our dpo, an epoch", "TRL DPO, an epoch"
E_STEPS: dict[str, dict[str, Any]] = {
    "default": {},
    "drop_below 0": {"drop_below": 0.0},
    "most_scored 4": {"most_scored": 4},
}
"""What the measured E-steps change; all follow the same M-step."""

ROUTED = 8
"""The number of types at which every routing is measured."""

LARGE = Task("rankings of 3, prompt 192 + response 48", 192, 48, ranking=3, responses=3, vocabulary=8192)
LARGE_RATE = 1e-4
"""EM-DPO's default learning rate; that of the settings is for the small model."""

WARM = 3
"""Steps before the clock starts."""


def judgments_of(data: str, annotators: int, each: int) -> Judgments:
    """Rankings of three: of a town of eight types, or of long random texts in random order."""
    if data == "large":
        steps = -(-annotators * each // (LARGE.judgments * LARGE.accumulation))
        rows = rows_of(LARGE, steps)[: annotators * each]
        return Judgments.from_rows([{**row, "annotator": f"h{index // each}"} for index, row in enumerate(rows)])
    kinds = tuple(TypeSpec(name, 1 / len(EIGHT), weights) for name, weights in EIGHT.items())
    overlap = 1.0 if data == "crowd" else 0.0
    return simulate(Town(kinds, annotators=annotators, judgments_per_annotator=each, overlap=overlap)).judgments


ROUND = EM_DPO | {"rounds": 1, "num_train_epochs": 1}
"""A round is measured whether or not the default would take one."""


def settings_of(data: str) -> dict[str, Any]:
    return ROUND | {"learning_rate": LARGE_RATE} if data == "large" else ROUND


class EM:
    """A trainer with its start, and the rounds that are measured from there."""

    def __init__(self, model: str, judgments: Judgments, settings: dict[str, Any], types: int) -> None:
        args = EMDPOConfig(**temporary(**(settings | SILENT | {"types": types})))
        began = time.perf_counter()
        type_start(judgments, args, args.seed)  # the trainer computes it once more
        self.start = time.perf_counter() - began
        self.trainer = EMDPOTrainer(model, args=args, train_dataset=judgments, peft_config=lora())
        half = halves(self.trainer.annotator, args.seed)
        whole = np.arange(len(half))
        self.rows, self.scored = (whole, whole[:0]) if types == 1 else (whole[half == 0], whole[half == 1])
        items = self.trainer.train_items
        shown = [items.response[items.shown(judgment)] for judgment in self.scored]
        self.possible = len(np.unique(np.concatenate(shown))) * types if shown else 0

    def warm(self) -> None:
        self.trainer.args.max_steps = WARM
        self.m_step()
        self.trainer.args.max_steps = -1
        if len(self.scored):
            self.trainer._e_step(1, [(self.scored[:64], None)], 0)

    def m_step(self) -> float:
        """Seconds of the first round's M-step."""
        trainer = self.trainer
        trainer.rounds = trainer.rounds[:1]
        began = time.perf_counter()
        trainer._m_step(Path(trainer.args.output_dir), 1, self.rows, trainer.responsibilities, 1.0, {})
        return time.perf_counter() - began

    def e_step(self, changed: dict[str, Any]) -> dict[str, Any]:
        """Seconds of the E-step after it, and how many (response, type) values it computed."""
        if not len(self.scored):
            return {"seconds": 0.0, "values": 0}
        args = self.trainer.args
        before = {name: vars(args)[name] for name in changed}
        vars(args).update(changed)
        began = time.perf_counter()
        step = self.trainer._e_step(1, [(self.scored, None)], 0)
        seconds = time.perf_counter() - began
        vars(args).update(before)
        return {"seconds": seconds, "values": step.record["scored_values"]}

    def measured(self, routing: str = "sampled", e_steps: dict[str, dict[str, Any]] = E_STEPS) -> dict[str, Any]:
        self.trainer.args.routing = routing
        seconds = self.m_step()
        scored = {name: self.e_step(changed) for name, changed in e_steps.items()}
        return {"m_step": seconds, "e_steps": scored, "possible": self.possible, "start": self.start}


class Epoch:
    """A DPO trainer whose epochs are measured."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def warm(self) -> None:
        self.trainer.args.max_steps = WARM
        self.trainer.train()
        self.trainer.args.max_steps = -1

    def measured(self) -> dict[str, Any]:
        began = time.perf_counter()
        self.trainer.train()
        return {"seconds": time.perf_counter() - began, "steps": self.trainer.state.global_step}


def ours(model: str, judgments: Judgments, settings: dict[str, Any]) -> Epoch:
    args = DPOConfig(**temporary(**(_of_dpo(settings) | SILENT)))
    return Epoch(DPOTrainer(model, args=args, train_dataset=judgments, peft_config=lora()))


def theirs(model: str, judgments: Judgments, settings: dict[str, Any]) -> Epoch:
    rows = []
    for row in judgments.rows():
        texts = [text for _, text in sorted(zip(row["ranks"], row["responses"], strict=True))]
        for better, worse in itertools.pairwise(texts):
            rows.append({"prompt": row["prompt"], "chosen": better, "rejected": worse})
    values = _of_dpo(settings) | SILENT
    values["per_device_train_batch_size"] *= len(rows) // len(judgments)
    values |= {"precompute_ref_log_probs": True, "bf16": False, "gradient_checkpointing": False, "max_length": None}
    trainer = trl.DPOTrainer(
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), args=trl.DPOConfig(**temporary(**values)),
        train_dataset=datasets.Dataset.from_list(rows), processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=lora(),
    )  # fmt: skip
    return Epoch(trainer)


def _of_dpo(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in ("types", "rounds")}


def timed(data: str, options: argparse.Namespace) -> None:
    """All compared runs in turn, several times."""
    large = data == "large"
    annotators = options.large_annotators if large else options.annotators
    model = str(options.model if large else town_language_model())
    numbers = [kind for kind in options.types if not large or kind == ROUTED]
    settings = settings_of(data)
    judgments = judgments_of(data, annotators, options.each)
    # Seconds of another model, other sizes or other threads must not be mixed with these.
    conditions = {
        **settings, **LORA, "model": Path(model).name, "annotators": annotators, "each": options.each,
        "threads": torch.get_num_threads(),
    }  # fmt: skip
    name = options.names[data]
    rows: dict[str, list[dict[str, Any]]] = kept(name, conditions)
    made: dict[Any, Any] = {}

    def warmed(key: Any, make: Callable[[], Any]) -> Any:
        if key not in made:
            made[key] = make()
            made[key].warm()
        return made[key]

    def em(types: int) -> EM:
        return warmed(types, lambda: EM(model, judgments, settings, types))

    default = {"default": E_STEPS["default"]}
    runs: dict[str, Callable[[], dict[str, Any]]] = {
        OURS: lambda: warmed(OURS, lambda: ours(model, judgments, settings)).measured(),
        TRL: lambda: warmed(TRL, lambda: theirs(model, judgments, settings)).measured(),
    }
    runs |= {f"K = {kind}": lambda kind=kind: em(kind).measured() for kind in numbers}
    if data == "town" and ROUTED in numbers:
        for routing in ("sparse", "dense"):
            runs[f"K = {ROUTED}, {routing}"] = lambda routing=routing: em(ROUTED).measured(routing, default)
    for repetition in range(options.repetitions):
        for run, measure in runs.items():
            if len(rows.get(run, [])) > repetition:
                continue
            rows.setdefault(run, []).append(measure())
            print(f"{data}, {run}: {rows[run][-1]}", flush=True)
            keep(name, conditions, rows)


def memory(options: argparse.Namespace) -> None:
    """The peak for each number of types, each in a process of its own."""
    conditions = {**ROUND, **LORA, "annotators": options.annotators, "each": options.each}
    name = options.names["memory"]
    rows = kept(name, conditions)
    for kind in options.types:
        if str(kind) not in rows:
            given = {"types": kind, "annotators": options.annotators, "each": options.each}
            rows[str(kind)] = in_own_process(peaks, given)
            print(f"memory, K = {kind}: {rows[str(kind)]}", flush=True)
            keep(name, conditions, rows)


def peaks(types: int, annotators: int, each: int) -> dict[str, Any]:
    """The peak in GiB of the start, an M-step and an E-step; bytes of the base model and of a type."""
    transformers.logging.set_verbosity_error()
    run = EM(str(town_language_model()), judgments_of("town", annotators, each), ROUND, types)
    sizes: dict[str, Any] = {"start": peak_memory()}
    run.trainer.args.max_steps = 4 * types  # every type has steps among them
    run.m_step()
    sizes["m_step"] = peak_memory()
    run.e_step({})
    sizes["e_step"] = peak_memory()
    trainer = run.trainer
    weights = dict(trainer.policy.model.named_parameters())
    own = {name: weight for name, weight in weights.items() if f".{trainer.adapters[0]}." in name}
    state = [value for weight in own.values() for value in trainer.optimizer.state[weight].values()]
    sizes["adapter_bytes"] = _bytes(own.values())
    sizes["optimizer_bytes"] = _bytes(value for value in state if torch.is_tensor(value))
    return sizes | {"base_bytes": _bytes(weight for name, weight in weights.items() if "lora_" not in name)}


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


PARTS = ("town", "crowd", "large", "memory")


def main() -> None:
    options = parsed(
        __doc__,
        only=parts(PARTS),
        types=TYPES,
        annotators=160,
        each=(12, "Judgments per annotator."),
        repetitions=2,
        model=Option(None, "The model of `large`; by default untrained, 6 layers of width 384.", type=Path),
        large_annotators=(12, "Annotators in `large`."),
        quick=QUICK,
    )
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    if options.quick:
        options.annotators, options.repetitions, options.each, options.large_annotators = 16, 1, 4, 8
    options.names = {part: f"em_cost_{part}{'_quick' * options.quick}" for part in PARTS}
    if "large" in options.only and options.model is None:
        options.model = random_llama(384, 6, LARGE.vocabulary)
    for part in options.only:
        if part == "memory":
            memory(options)
        else:
            timed(part, options)

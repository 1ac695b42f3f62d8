"""Preference matching on free text: a language model of 3 million parameters and a reward model on the same HH data.

Policies are tuned from the small HH language model towards MiniLM's reward (its temperature is fitted on held-out
pairs): online by KL-regularised RLOO (`kl`) and every mode of matching, offline by DPO (`kl` again) and PM-DPO on the
same pairs. Every policy responds twice to the same held-out prompts, at temperature 1, without truncation of the
distribution.

Each policy is stored as soon as it is measured, and a stopped script continues where it was; `--part I/N` lets
several processes share the work.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from pluralign.judgments import Judgments, read
from pluralign.judgments.split import split
from pluralign.policies.loading import load_policy
from pluralign.policies.matching import matching_metrics
from pluralign.scoring.reward_models import build_reward_model, load_reward_model
from pluralign.training.preference_matching.dpo import PMDPOConfig, PMDPOTrainer
from pluralign.training.preference_matching.reward_functions import reward_function
from pluralign.training.preference_matching.rlhf import PMRLHFTrainer
from pluralign.training.preference_matching.rlhf_config import PMRLHFConfig
from pluralign.training.reward_trainer import BradleyTerryConfig, BradleyTerryTrainer
from pluralign.workflows.calibrate import calibrate

from ..against_trl.small_language_model import MODEL
from ..common.data import encoder
from ..common.options import parsed
from ..common.results import OUT, Clock, store
from ..common.training import QUIET, freeze_lower_layers

REWARD = OUT / "hh-reward"
"""The folder of the reward model and its temperature."""

CELLS = OUT / "pm_language"
"""A file for each policy."""

HELPFUL = "hh-helpful"
"""The source of pairs and prompts: one head cannot learn helpful and harmless together from so few pairs."""

PROMPT, RESPONSE = 64, 32
"""Tokens of a prompt, cut on the left, and of a response, at most."""


def of_source(part: str, source: str) -> Judgments:
    """The rows of one of the HH files that come from a source."""
    judgments = read(str(OUT / f"hh-{part}.parquet"))
    return judgments.select([row for row, name in enumerate(judgments.column("source")) if name == source])


def reward_model() -> None:
    """Train Bradley-Terry on the helpful pairs that the language model has read; fit its temperature on held-out pairs.

    The lower layers of MiniLM are frozen, which halves the work.
    """
    tuning, asked = split(of_source("test", HELPFUL), by="prompt", test=0.5, seed=0)
    tuning.write(OUT / "hh-tuning.parquet")
    asked.write(OUT / "hh-asked.parquet")
    transformers.set_seed(0)
    built = build_reward_model(encoder(), max_length=PROMPT + RESPONSE, max_response_length=RESPONSE)
    freeze_lower_layers(built.model, 4)
    args = BradleyTerryConfig(
        str(REWARD), per_device_train_batch_size=16, learning_rate=2e-4, num_train_epochs=2, warmup_steps=10,
        bf16=True, use_cpu=not torch.cuda.is_available(), seed=0, lr_scheduler_type="cosine", **QUIET,
    )  # fmt: skip
    trainer = BradleyTerryTrainer(
        built.model,
        args=args,
        train_dataset=of_source("train", HELPFUL),
        eval_dataset=of_source("test", HELPFUL),
        processing_class=built.tokenizer,
    )
    trainer.train()
    trainer.save_model(str(REWARD))
    metrics = trainer.evaluate()
    fitted = calibrate(REWARD, str(OUT / "hh-tuning.parquet"))
    values = {key: metrics[f"eval_{key}"] for key in ("accuracy", "log_loss")} | {"temperature": fitted.temperature}
    store("pm_language_reward", values)
    print(values, flush=True)


def shortened(judgments: Judgments, tokenizer: Any, most: int, seed: int) -> list[str]:
    """A seeded sample of distinct prompts, each cut to its last tokens."""
    prompts = sorted(set(judgments.column("prompt")))
    chosen = np.random.default_rng(seed).permutation(len(prompts))[:most]
    cut = [tokenizer(prompts[place]).input_ids[-PROMPT:] for place in chosen]
    return list(tokenizer.batch_decode(cut))


def cells(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every policy that is measured, the betas outermost."""
    every: list[dict[str, Any]] = [{"how": "reference", "seed": seed} for seed in options.seeds]
    modes: list[dict[str, Any]] = [{"mode": "kl"}, {"mode": "pm"}]
    modes += [{"mode": mode, "alpha": alpha} for mode in ("flattened", "conditional") for alpha in options.alphas]
    modes += [{"mode": "tempered", "reference_weight": weight} for weight in options.weights]
    for beta, seed, how in itertools.product(options.betas, options.seeds, ("online", "offline")):
        every += [{"how": how, **mode, "beta": beta, "seed": seed} for mode in modes]
    return every


def name_of(cell: dict[str, Any]) -> str:
    return "-".join(str(value) for value in cell.values())


def common_arguments(folder: Path, cell: dict[str, Any]) -> dict[str, Any]:
    penalty = {key: cell[key] for key in ("mode", "alpha", "reference_weight", "beta") if key in cell}
    return QUIET | penalty | {
        "output_dir": str(folder), "seed": cell["seed"], "logging_steps": 10,
        "use_cpu": not torch.cuda.is_available(), "lr_scheduler_type": "cosine",
    }  # fmt: skip


def online(folder: Path, cell: dict[str, Any], prompts: list[str], options: argparse.Namespace) -> list[Any]:
    """Tune online and return the log."""
    args = PMRLHFConfig(
        **common_arguments(folder, cell), max_steps=options.steps, learning_rate=options.online_rate,
        per_device_train_batch_size=options.batch, num_generations=4, max_completion_length=RESPONSE,
        stop_if_endless=False,
    )  # fmt: skip
    rewards = reward_function(load_reward_model(REWARD, dtype=torch.bfloat16))
    trainer = PMRLHFTrainer(
        AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32), rewards, args,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        processing_class=AutoTokenizer.from_pretrained(MODEL, padding_side="left"),
    )  # fmt: skip
    trainer.train()
    trainer.save_model(str(folder))
    return trainer.state.log_history


def offline(folder: Path, cell: dict[str, Any], options: argparse.Namespace) -> list[Any]:
    """Tune on the pairs and return the log."""
    judgments = of_source("train", HELPFUL)
    chosen = np.random.default_rng(cell["seed"]).permutation(len(judgments))[: options.pairs]
    args = PMDPOConfig(
        **common_arguments(folder, cell), num_train_epochs=1, learning_rate=options.offline_rate,
        per_device_train_batch_size=16, max_length=PROMPT + RESPONSE, max_response_length=RESPONSE,
        length_checks=0,
    )  # fmt: skip
    trainer = PMDPOTrainer(str(MODEL), args=args, train_dataset=judgments.select(np.sort(chosen)))
    trainer.train()
    trainer.save_model(str(folder))
    return trainer.state.log_history


def run(cell: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Tune one policy and measure it."""
    folder = CELLS / f"{options.name}-{name_of(cell)}"
    transformers.set_seed(cell["seed"])
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    prompts = shortened(of_source("train", HELPFUL), tokenizer, 2000, cell["seed"])
    asked = shortened(read(str(OUT / "hh-asked.parquet")), tokenizer, options.asked, 0)
    clock = Clock()
    log: list[Any] = []
    if cell["how"] == "online":
        log = online(folder, cell, prompts, options)
    elif cell["how"] == "offline":
        log = offline(folder, cell, options)
    tuning = clock()
    place = MODEL if cell["how"] == "reference" else folder
    metrics, responses = matching_metrics(
        load_policy(place, max_length=512), load_policy(MODEL, max_length=512), load_reward_model(REWARD), asked,
        samples=2, max_new_tokens=RESPONSE, seed=cell["seed"],
    )  # fmt: skip
    if folder.exists():
        shutil.rmtree(folder)
    examples = [row for row in responses if row.get("by", "policy") == "policy"][:4]
    return {"cell": cell, "metrics": metrics, "tuning_seconds": tuning, "seconds": clock(), "log": log[-3:],
            "examples": examples}  # fmt: skip


def keep_together(name: str) -> None:
    """Collect all stored policies in one file, without the logs."""
    cells = [json.loads(file.read_text()) for file in sorted(CELLS.glob(f"{name}-*.json"))]
    store(name, [{key: value for key, value in cell.items() if key != "log"} for cell in cells])


def main() -> None:
    options = parsed(
        __doc__,
        seeds=[0, 1, 2],
        betas=[1.0, 0.5, 0.1],
        alphas=[0.1, 0.3, 0.5],
        weights=([0.75, 0.5, 0.25], "Weights of the reference, for tempered matching."),
        steps=40,
        batch=(32, "Responses in a step, four to a prompt."),
        pairs=640,
        online_rate=3e-4,
        offline_rate=1e-4,
        asked=(112, "Held-out prompts."),
        part=("0/1", "This process's share of the policies: I/N."),
        name="pm_language",
        summary=(False, "Only collect what is stored."),
    )
    if options.summary:
        return keep_together(options.name)
    if not (REWARD / "calibration.json").exists():
        reward_model()
    transformers.logging.set_verbosity_error()
    CELLS.mkdir(parents=True, exist_ok=True)
    own, count = (int(number) for number in options.part.split("/"))
    for number, cell in enumerate(cells(options)):
        file = CELLS / f"{options.name}-{name_of(cell)}.json"
        if number % count != own or file.exists():
            continue
        result = run(cell, options)
        settings = {key: value for key, value in vars(options).items() if key not in ("part", "summary")}
        file.write_text(json.dumps({"options": settings, **result}))
        keep_together(options.name)
        values = {key: round(value, 3) for key, value in result["metrics"].items() if isinstance(value, float)}
        print(name_of(cell), result["tuning_seconds"], result["seconds"], values, flush=True)

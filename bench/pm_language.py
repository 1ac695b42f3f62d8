"""Preference matching on free text: a language model of 3 million parameters, a reward model on the same HH data.

Policies are tuned from the small HH language model towards MiniLM's reward (its temperature fitted on held-out
pairs), online by KL-regularised RLOO (`kl`), plain (`pm`) and conditional matching, offline by DPO (`kl` again) and
PM-DPO on the same pairs. Every policy answers the same held-out prompts, twice, at temperature 1, untruncated.

Each cell is kept as soon as it is done, and a stopped script goes on where it was; `--part I/N` lets several
processes share the work.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from common import OUT, Clock, encoder, store
from datasets import Dataset
from small_language_model import MODEL
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

REWARD = OUT / "hh-reward"
"""Where the reward model lies, with its temperature."""

CELLS = OUT / "pm_language"
"""A file for each policy."""

HELPFUL = "hh-helpful"
"""The source of pairs and prompts: one head does not learn helpful and harmless at once from so few."""

PROMPT, ANSWER = 64, 32
"""Most tokens of a prompt, cut on the left, and of an answer."""


def of_source(name: str, source: str) -> Judgments:
    """The rows of one of the HH files that come from a source."""
    judgments = read(str(OUT / f"hh-{name}.parquet"))
    return judgments.select([row for row, found in enumerate(judgments.column("source")) if found == source])


def reward_model() -> None:
    """Bradley-Terry on the helpful pairs that the language model has read, its temperature from pairs held out.

    The lower layers of MiniLM stay as they are, which halves the work.
    """
    for part, name in zip(
        split(of_source("test", HELPFUL), by="prompt", test=0.5, seed=0), ("tuning", "asked"), strict=True
    ):
        part.write(OUT / f"hh-{name}.parquet")
    transformers.set_seed(0)
    built = build_reward_model(encoder(), max_length=PROMPT + ANSWER, max_response_length=ANSWER)
    built.model.bert.embeddings.requires_grad_(False)
    for layer in built.model.bert.encoder.layer[:4]:
        layer.requires_grad_(False)
    args = BradleyTerryConfig(
        str(REWARD), per_device_train_batch_size=16, learning_rate=2e-4, num_train_epochs=2, warmup_steps=10,
        bf16=True, use_cpu=not torch.cuda.is_available(), report_to="none", save_strategy="no", disable_tqdm=True,
        seed=0, lr_scheduler_type="cosine",
    )  # fmt: skip
    trainer = BradleyTerryTrainer(
        built.model, args, of_source("train", HELPFUL), of_source("test", HELPFUL), processing_class=built.tokenizer
    )
    trainer.train()
    trainer.save_model(str(REWARD))
    found = trainer.evaluate()
    fitted = calibrate(REWARD, str(OUT / "hh-tuning.parquet"))
    told = {key: found[f"eval_{key}"] for key in ("accuracy", "log_loss")} | {"temperature": fitted.temperature}
    store("pm_language_reward", told)
    print(told, flush=True)


def shortened(judgments: Judgments, tokenizer: Any, most: int, seed: int) -> list[str]:
    """A seeded draw of distinct prompts, each cut to its last tokens."""
    prompts = sorted(set(judgments.column("prompt")))
    chosen = np.random.default_rng(seed).permutation(len(prompts))[:most]
    cut = [tokenizer(prompts[place]).input_ids[-PROMPT:] for place in chosen]
    return list(tokenizer.batch_decode(cut))


def cells(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every policy that is tuned, the betas outermost."""
    found: list[dict[str, Any]] = [{"how": "reference", "seed": seed} for seed in options.seeds]
    for beta in options.betas:
        for seed in options.seeds:
            for how in ("online", "offline"):
                found.append({"how": how, "mode": "kl", "beta": beta, "seed": seed})
                found.append({"how": how, "mode": "pm", "beta": beta, "seed": seed})
                found += [
                    {"how": how, "mode": "conditional", "alpha": alpha, "beta": beta, "seed": seed}
                    for alpha in options.alphas
                ]
    return found


def name_of(cell: dict[str, Any]) -> str:
    return "-".join(str(value) for value in cell.values())


def common_arguments(folder: Path, cell: dict[str, Any]) -> dict[str, Any]:
    penalty = {key: cell[key] for key in ("mode", "alpha", "beta") if key in cell}
    return {
        "output_dir": str(folder), "seed": cell["seed"], "report_to": "none", "save_strategy": "no",
        "disable_tqdm": True, "logging_steps": 10, "use_cpu": not torch.cuda.is_available(),
        "lr_scheduler_type": "cosine", **penalty,
    }  # fmt: skip


def online(folder: Path, cell: dict[str, Any], prompts: list[str], options: argparse.Namespace) -> list[Any]:
    """Tune online; the log."""
    args = PMRLHFConfig(
        **common_arguments(folder, cell), max_steps=options.steps, learning_rate=options.online_rate,
        per_device_train_batch_size=options.batch, num_generations=4, max_completion_length=ANSWER,
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
    """Tune on the pairs; the log."""
    judgments = of_source("train", HELPFUL)
    chosen = np.random.default_rng(cell["seed"]).permutation(len(judgments))[: options.pairs]
    args = PMDPOConfig(
        **common_arguments(folder, cell), num_train_epochs=1, learning_rate=options.offline_rate,
        per_device_train_batch_size=16, max_length=PROMPT + ANSWER, max_response_length=ANSWER,
    )  # fmt: skip
    trainer = PMDPOTrainer(str(MODEL), args, judgments.select(np.sort(chosen)))
    trainer.train()
    trainer.save_model(str(folder))
    return trainer.state.log_history


def run(cell: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """One policy, tuned and measured."""
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
    metrics, answers = matching_metrics(
        load_policy(place, max_length=512), load_policy(MODEL, max_length=512), load_reward_model(REWARD), asked,
        samples=2, max_new_tokens=ANSWER, seed=cell["seed"],
    )  # fmt: skip
    if folder.exists():
        shutil.rmtree(folder)
    examples = [answer for answer in answers if answer.get("by", "policy") == "policy"][:4]
    return {"cell": cell, "metrics": metrics, "tuning_seconds": tuning, "seconds": clock(), "log": log[-3:],
            "examples": examples}  # fmt: skip


def keep_together(name: str) -> None:
    """All cells there are, in one file, without the logs."""
    cells = [json.loads(file.read_text()) for file in sorted(CELLS.glob(f"{name}-*.json"))]
    store(name, [{key: value for key, value in cell.items() if key != "log"} for cell in cells])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--betas", type=float, nargs="+", default=[1.0, 0.5, 0.1])
    parser.add_argument("--alphas", type=float, nargs="+", default=[0.1, 0.3, 0.5])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=32, help="answers in a step, four to a prompt")
    parser.add_argument("--pairs", type=int, default=640)
    parser.add_argument("--online-rate", type=float, default=3e-4)
    parser.add_argument("--offline-rate", type=float, default=1e-4)
    parser.add_argument("--asked", type=int, default=112)
    parser.add_argument("--part", default="0/1", help="this process's share of the cells: I/N")
    parser.add_argument("--name", default="pm_language")
    parser.add_argument("--summary", action="store_true", help="nothing is run: what there is, for the table")
    options = parser.parse_args()
    if options.summary:
        return keep_together(options.name)
    if not (REWARD / "calibration.json").exists():
        reward_model()
    transformers.logging.set_verbosity_error()
    CELLS.mkdir(parents=True, exist_ok=True)
    own, parts = (int(number) for number in options.part.split("/"))
    for number, cell in enumerate(cells(options)):
        file = CELLS / f"{options.name}-{name_of(cell)}.json"
        if number % parts != own or file.exists():
            continue
        found = run(cell, options)
        settings = {key: value for key, value in vars(options).items() if key not in ("part", "summary")}
        file.write_text(json.dumps({"options": settings, **found}))
        keep_together(options.name)
        told = {key: round(value, 3) for key, value in found["metrics"].items() if isinstance(value, float)}
        print(name_of(cell), found["tuning_seconds"], found["seconds"], told, flush=True)


if __name__ == "__main__":
    main()

"""DPO on real data from the small causal model: HH pairs beside TRL on the same steps, QA-feedback's rankings."""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import datasets
import torch
import transformers
import trl
from common import OUT, Clock, interval, load, store
from small_language_model import MODEL
from transformers import AutoModelForCausalLM, AutoTokenizer

import pluralign
from pluralign.judgments import Judgments, read
from pluralign.judgments.split import split
from pluralign.scoring.causal_models import CausalModel, load_causal_model
from pluralign.scoring.items import items_of
from pluralign.scoring.measured import reward_metrics


def short_pairs(judgments: Judgments, tokenizer: Any, longest: int) -> Judgments:
    """Pairs that fit whole, so that no cutting tells two trainers apart."""
    rows = []
    for row in judgments.rows():
        lengths = [len(tokenizer(row["prompt"] + text)["input_ids"]) + 1 for text in row["responses"]]
        if max(lengths) <= longest:
            rows.append(row)
    return Judgments.from_rows(rows)


def policy_metrics(policy: CausalModel, reference: CausalModel, judgments: Judgments, beta: float) -> dict[str, Any]:
    items = items_of(judgments)
    tokens = reference.tokenize(items)
    return reward_metrics(judgments, items, beta * (policy.values(tokens) - reference.values(tokens)))


def show(name: str, row: dict[str, Any]) -> None:
    print(
        f"{name:<28} first loss {row['first_loss']:.6f}  accuracy {interval(row, 'accuracy')}  log-loss "
        f"{interval(row, 'log_loss')}  ece {interval(row, 'ece')}  {row['seconds']:.0f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    common: dict[str, Any] = {
        "per_device_train_batch_size": options.batch, "learning_rate": options.learning_rate, "beta": options.beta,
        "num_train_epochs": 1, "seed": options.seed, "report_to": "none", "save_strategy": "no", "logging_steps": 1,
        "disable_tqdm": True, "bf16": False, "gradient_checkpointing": False, "warmup_steps": 10,
        "precompute_ref_log_probs": True,
    }  # fmt: skip
    rows: dict[str, dict[str, Any]] = {}

    def note(name: str, trainer: Any, model: Any, test: Judgments) -> None:
        clock = Clock()
        trainer.train()
        seconds = clock()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        if model is None:  # TRL replaces the forward of its model
            trainer.save_model(OUT / "hh-trl")
            model = load_causal_model(OUT / "hh-trl").model
        policy = CausalModel(model, tokenizer, reference.limits)
        found = policy_metrics(policy, reference, test, options.beta)
        rows[name] = {**found, "first_loss": losses[0], "last_loss": losses[-1], "steps": len(losses),
                      "seconds": seconds, "train": train_size}  # fmt: skip
        show(name, rows[name])
        store("dpo", {"options": vars(options), "rows": rows})

    reference = load_causal_model(MODEL, max_length=options.max_length, max_response_length=options.max_length)
    train = short_pairs(read(OUT / "hh-train.parquet"), tokenizer, options.max_length)
    test = short_pairs(read(OUT / "hh-test.parquet"), tokenizer, options.max_length)
    train_size = len(train)
    transformers.set_seed(options.seed)
    # The same order in both, so that both take the same steps.
    same = common | {"max_length": options.max_length, "train_sampling_strategy": "sequential"}
    whole = pluralign.DPOConfig(output_dir=tempfile.mkdtemp(), max_response_length=options.max_length, **same)
    ours = pluralign.DPOTrainer(str(MODEL), whole, train)
    note("HH pairs, ours", ours, ours.policy.model, test)
    pairs = [
        {"prompt": row["prompt"], "chosen": row["responses"][row["ranks"].index(1)],
         "rejected": row["responses"][1 - row["ranks"].index(1)]}
        for row in train.rows()
    ]  # fmt: skip
    theirs = trl.DPOTrainer(
        AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32),
        args=trl.DPOConfig(output_dir=tempfile.mkdtemp(), **same),
        train_dataset=datasets.Dataset.from_list(pairs),
        processing_class=AutoTokenizer.from_pretrained(MODEL),
    )
    note("HH pairs, TRL", theirs, None, test)

    train, test = split(load("qa-feedback")[0], by="prompt", test=0.3, seed=options.seed)
    train_size = len(train)
    reference = load_causal_model(MODEL, max_length=512)
    epochs = common | {"max_length": 512, "num_train_epochs": 3}
    for name in ("plackett-luce", "sigmoid"):
        transformers.set_seed(options.seed)
        args = pluralign.DPOConfig(output_dir=tempfile.mkdtemp(), loss_type=name, **epochs)
        trainer = pluralign.DPOTrainer(str(MODEL), args, train)
        note(f"QA-feedback rankings, {name}", trainer, trainer.policy.model, test)


if __name__ == "__main__":
    main()

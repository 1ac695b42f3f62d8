"""DPO on real data from the small language model: HH pairs beside TRL on the same steps, and QA-feedback's rankings."""

from __future__ import annotations

from typing import Any

import datasets
import torch
import transformers
import trl
from transformers import AutoModelForCausalLM, AutoTokenizer

import pluralign
from pluralign.judgments import Judgments, read
from pluralign.judgments.split import split
from pluralign.scoring.causal_models import CausalModel, load_causal_model
from pluralign.scoring.items import items_of
from pluralign.scoring.measured import reward_metrics

from ..common.data import chosen_and_rejected, load
from ..common.options import parsed
from ..common.results import OUT, Clock, store
from ..common.tables import interval
from ..common.training import PLAIN, temporary
from .small_language_model import MODEL


def short_pairs(judgments: Judgments, tokenizer: Any, longest: int) -> Judgments:
    """Pairs that need no cutting, so that both trainers read the same texts."""

    def length(row: dict[str, Any], text: str) -> int:
        return len(tokenizer(row["prompt"] + text)["input_ids"]) + 1

    rows = [row for row in judgments.rows() if max(length(row, text) for text in row["responses"]) <= longest]
    return Judgments.from_rows(rows)


def policy_metrics(policy: CausalModel, reference: CausalModel, judgments: Judgments, beta: float) -> dict[str, Any]:
    """Metrics of the implicit rewards of a policy."""
    items = items_of(judgments)
    tokens = reference.tokenize(items)
    return reward_metrics(judgments, items, beta * (policy.values(tokens) - reference.values(tokens)))


def trl_model(trainer: Any, folder: str) -> Any:
    """The model that TRL trained; it is saved and loaded because TRL replaces its forward method."""
    trainer.save_model(OUT / folder)
    return load_causal_model(OUT / folder).model


def main() -> None:
    options = parsed(__doc__, beta=0.1, batch=16, learning_rate=1e-4, max_length=256, seed=0)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    common: dict[str, Any] = PLAIN | {
        "per_device_train_batch_size": options.batch, "learning_rate": options.learning_rate, "beta": options.beta,
        "num_train_epochs": 1, "seed": options.seed, "logging_steps": 1, "warmup_steps": 10,
        "precompute_ref_log_probs": True,
    }  # fmt: skip
    rows: dict[str, dict[str, Any]] = {}

    def note(name: str, trainer: Any, reference: CausalModel, train: Judgments, test: Judgments) -> None:
        clock = Clock()
        trainer.train()
        seconds = clock()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        model = trl_model(trainer, "hh-trl") if isinstance(trainer, trl.DPOTrainer) else trainer.policy.model
        policy = CausalModel(model, tokenizer, reference.limits)
        rows[name] = policy_metrics(policy, reference, test, options.beta) | {
            "first_loss": losses[0], "last_loss": losses[-1], "steps": len(losses), "seconds": seconds,
            "train": len(train),
        }  # fmt: skip
        values = "  ".join(f"{key} {interval(rows[name], key)}" for key in ("accuracy", "log_loss", "ece"))
        print(f"{name:<28} first loss {losses[0]:.6f}  {values}  {seconds:.0f} s", flush=True)
        store("dpo", {"options": vars(options), "rows": rows})

    reference = load_causal_model(MODEL, max_length=options.max_length, max_response_length=options.max_length)
    train, test = (
        short_pairs(read(OUT / f"hh-{part}.parquet"), tokenizer, options.max_length) for part in ("train", "test")
    )
    transformers.set_seed(options.seed)
    # Both trainers take the judgments in the same order, so both take the same steps.
    same = common | {"max_length": options.max_length, "train_sampling_strategy": "sequential"}
    args = pluralign.DPOConfig(**temporary(max_response_length=options.max_length, **same))
    note("HH pairs, ours", pluralign.DPOTrainer(str(MODEL), args=args, train_dataset=train), reference, train, test)
    names = ("prompt", "chosen", "rejected")
    pairs = [dict(zip(names, (row["prompt"], *chosen_and_rejected(row)), strict=True)) for row in train.rows()]
    theirs = trl.DPOTrainer(
        AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32), args=trl.DPOConfig(**temporary(**same)),
        train_dataset=datasets.Dataset.from_list(pairs), processing_class=AutoTokenizer.from_pretrained(MODEL),
    )  # fmt: skip
    note("HH pairs, TRL", theirs, reference, train, test)

    train, test = split(load("qa-feedback")[0], by="prompt", test=0.3, seed=options.seed)
    reference = load_causal_model(MODEL, max_length=512)
    epochs = common | {"max_length": 512, "num_train_epochs": 3}
    for loss in ("plackett-luce", "sigmoid"):
        transformers.set_seed(options.seed)
        args = pluralign.DPOConfig(**temporary(loss_type=loss, **epochs))
        trainer = pluralign.DPOTrainer(str(MODEL), args=args, train_dataset=train)
        note(f"QA-feedback rankings, {loss}", trainer, reference, train, test)

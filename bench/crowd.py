"""ConvArg as crowd data: one epoch of votes against TRL on one row per vote, and what equal time buys.

From the small causal model; whole topics are held out; reference log-probabilities are computed before the clock.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from typing import Any

import datasets
import numpy as np
import torch
import transformers
import trl
from common import OUT, Clock, interval, load, store
from convarg import HELD_OUT_TOPICS, majority
from small_language_model import MODEL
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import pluralign
from pluralign.judgments import Judgments
from pluralign.judgments.split import split
from pluralign.scoring.causal_models import CausalModel, load_causal_model
from pluralign.scoring.items import items_of
from pluralign.scoring.loading import limits_of
from pluralign.scoring.measured import reward_metrics
from pluralign.scoring.pooling import as_reward_model, write_settings
from pluralign.scoring.reward_models import RewardModel, build_reward_model


def votes_of(judgments: Judgments, topics: int) -> Judgments:
    """The strict votes on some topics, with a line break between topic and argument."""
    kept: dict[str, None] = {}
    rows = []
    for row in judgments.rows():
        if row["prompt"] not in kept and len(kept) < topics:
            kept[row["prompt"]] = None
        if row["prompt"] in kept and len(set(row["ranks"])) == 2:
            rows.append(row)
    return broken(rows)


def broken(rows: Any) -> Judgments:
    return Judgments.from_rows([{**row, "prompt": row["prompt"] + "\n"} for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topics", type=int, default=2, help="training topics")
    parser.add_argument("--batch", type=int, default=32, help="votes in a step")
    parser.add_argument("--max-length", type=int, default=160)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--objectives", nargs="+", default=["reward", "dpo"], choices=["reward", "dpo"])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    judgments, _ = load("convarg")
    train, test = split(judgments, by="prompt", test_units=HELD_OUT_TOPICS, seed=options.seed)
    held_out, votes = broken(majority(test).rows()), votes_of(train, options.topics)
    items, seen = items_of(held_out), items_of(votes)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    rows: dict[str, dict[str, Any]] = {}
    before = OUT / "crowd.json"
    if before.exists():  # what an earlier run found for the other objective
        kept = json.loads(before.read_text())["rows"]
        rows |= {name: row for name, row in kept.items() if name.split(":")[0] not in options.objectives}

    def common(batch: int, epochs: float, rate: float) -> dict[str, Any]:
        return {
            "output_dir": tempfile.mkdtemp(), "per_device_train_batch_size": batch, "num_train_epochs": epochs,
            "learning_rate": rate, "seed": options.seed, "report_to": "none", "save_strategy": "no",
            "logging_steps": 50, "disable_tqdm": True, "bf16": False, "gradient_checkpointing": False,
            "warmup_steps": 10, "max_length": options.max_length,
        }  # fmt: skip

    def evaluated(objective: str, trainer: Any) -> dict[str, Any]:
        model = trainer.model
        if objective == "dpo":
            reference = load_causal_model(MODEL, max_length=options.max_length)
            if isinstance(trainer, trl.DPOTrainer):  # TRL replaces the forward of its model
                trainer.save_model(OUT / "crowd-trl")
                model = load_causal_model(OUT / "crowd-trl").model
            policy = CausalModel(model, tokenizer, reference.limits)
            tokens = reference.tokenize(items)
            values = options.beta * (policy.values(tokens) - reference.values(tokens))
        else:
            limits = limits_of(model.config, tokenizer, options.max_length)
            write_settings(model.config, limits)
            values = RewardModel(as_reward_model(model), tokenizer, limits).score_items(items)
        return reward_metrics(held_out, items, values)

    def note(objective: str, name: str, trainer: Any, batch: int, epochs: float) -> float:
        clock = Clock()
        trainer.train()
        seconds = clock()
        found = evaluated(objective, trainer)
        rows[f"{objective}: {name}"] = {**found, "seconds": seconds, "batch": batch, "epochs": epochs,
                                        "steps": trainer.state.global_step}  # fmt: skip
        print(f"{objective:<7} {name:<34} accuracy {interval(found, 'accuracy')}  log-loss "
              f"{interval(found, 'log_loss')}  {seconds:.0f} s", flush=True)  # fmt: skip
        store("crowd", {
            "options": vars(options), "votes": len(votes), "arguments": len(seen.responses),
            "pairs": len(held_out), "rows": rows,
        })  # fmt: skip
        return seconds

    def ours(objective: str, batch: int, epochs: float, rate: float, group: int | None) -> Any:
        transformers.set_seed(options.seed)
        values = common(batch, epochs, rate) | {"judgments_per_group": group}
        if objective == "dpo":
            return pluralign.DPOTrainer(str(MODEL), pluralign.DPOConfig(beta=options.beta, **values), votes)
        built = build_reward_model(MODEL, max_length=options.max_length)
        args = pluralign.BradleyTerryConfig(**values)
        return pluralign.BradleyTerryTrainer(built.model, args, votes, processing_class=built.tokenizer)

    for objective in options.objectives:
        transformers.set_seed(options.seed)
        cut = []
        for row in votes.rows():
            better = row["ranks"].index(1)
            prompt = tokenizer(row["prompt"])["input_ids"]
            # TRL drops or cuts what is longer than max_length in its own way; cut as we do.
            room = options.max_length - len(prompt) - 1
            texts = [tokenizer(text)["input_ids"][:room] for text in row["responses"]]
            ids = [[*text, tokenizer.eos_token_id] for text in (texts[better], texts[1 - better])]
            cut.append((prompt, *ids))
        values = common(options.batch, 1, options.learning_rate)
        if objective == "dpo":
            # TRL's DPOTrainer takes texts; what is longer than max_length it cuts on the right too.
            names = ("prompt", "chosen", "rejected")
            texts = [
                (
                    row["prompt"],
                    row["responses"][row["ranks"].index(1)],
                    row["responses"][1 - row["ranks"].index(1)],
                )
                for row in votes.rows()
            ]
            dataset = datasets.Dataset.from_list([dict(zip(names, row, strict=True)) for row in texts])
            theirs: Any = trl.DPOTrainer(
                AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32),
                args=trl.DPOConfig(beta=options.beta, precompute_ref_log_probs=True, **values),
                train_dataset=dataset, processing_class=tokenizer,
            )  # fmt: skip
        else:
            dataset = datasets.Dataset.from_list(
                [{"chosen_ids": prompt + chosen, "rejected_ids": prompt + rejected} for prompt, chosen, rejected in cut]
            )
            theirs = trl.RewardTrainer(
                AutoModelForSequenceClassification.from_pretrained(MODEL, num_labels=1, dtype=torch.float32),
                trl.RewardConfig(**values), train_dataset=dataset, processing_class=tokenizer,
            )  # fmt: skip
        peer = note(objective, "TRL, one row per vote", theirs, options.batch, 1)
        one = note(objective, "ours, same steps", ours(objective, options.batch, 1, options.learning_rate, None),
                   options.batch, 1)  # fmt: skip
        large, group, rate = 4 * options.batch, options.batch * 2, 2 * options.learning_rate
        quick = note(objective, "ours, 4x the votes in a step", ours(objective, large, 1, rate, group), large, 1)
        for name, batch, seconds, speed, size in (
            ("ours, same steps, equal time", options.batch, one, options.learning_rate, None),
            ("ours, 4x the votes, equal time", large, quick, rate, group),
        ):
            epochs = max(1, int(np.floor(peer / seconds)))
            note(objective, name, ours(objective, batch, epochs, speed, size), batch, epochs)


if __name__ == "__main__":
    main()

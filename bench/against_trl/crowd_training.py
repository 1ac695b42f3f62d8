"""Training on crowd votes (ConvArg): one epoch against TRL with one row per vote, and what equal time brings.

All models start from the small language model. Whole topics are held out. Reference log-probabilities are computed
before the clock starts.
"""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import torch
import transformers
import trl
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

from ..common.data import chosen_and_rejected, load, with_line_break
from ..common.options import parsed, parts
from ..common.results import OUT, Clock, store, stored
from ..common.tables import interval
from ..common.training import PLAIN, temporary
from ..reward_models.convarg import HELD_OUT_TOPICS, majority
from .dpo import policy_metrics, trl_model
from .small_language_model import MODEL


def strict_votes(judgments: Judgments, topics: int) -> Judgments:
    """The strict votes on the first topics, with a line break between topic and argument."""
    chosen = list(dict.fromkeys(judgments.column("prompt")))[:topics]
    return with_line_break(row for row in judgments.rows() if row["prompt"] in chosen and len(set(row["ranks"])) == 2)


def trl_trainer(objective: str, votes: Judgments, tokenizer: Any, beta: float, values: dict[str, Any]) -> Any:
    """TRL's trainer on one row per vote."""
    if objective == "dpo":  # it takes texts and cuts on the right what is longer than max_length, as ours does
        names = ("prompt", "chosen", "rejected")
        rows = [dict(zip(names, (row["prompt"], *chosen_and_rejected(row)), strict=True)) for row in votes.rows()]
        return trl.DPOTrainer(
            AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32),
            args=trl.DPOConfig(beta=beta, precompute_ref_log_probs=True, **values),
            train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer,
        )  # fmt: skip
    rows = []
    for row in votes.rows():
        prompt = tokenizer(row["prompt"])["input_ids"]
        # TRL drops or cuts what is longer than max_length in its own way; texts are cut as ours are.
        room = values["max_length"] - len(prompt) - 1
        ids = [tokenizer(text)["input_ids"][:room] for text in chosen_and_rejected(row)]
        chosen, rejected = ([*prompt, *own, tokenizer.eos_token_id] for own in ids)
        rows.append({"chosen_ids": chosen, "rejected_ids": rejected})
    return trl.RewardTrainer(
        AutoModelForSequenceClassification.from_pretrained(MODEL, num_labels=1, dtype=torch.float32),
        trl.RewardConfig(**values), train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer,
    )  # fmt: skip


def main() -> None:
    options = parsed(
        __doc__, topics=(2, "Training topics."), batch=(32, "Votes in a step."), max_length=160, learning_rate=1e-4,
        beta=0.1, objectives=parts(("reward", "dpo"), "Objectives to train."), seed=0,
    )  # fmt: skip
    judgments, _ = load("convarg")
    train, test = split(judgments, by="prompt", test_units=HELD_OUT_TOPICS, seed=options.seed)
    held_out, votes = with_line_break(majority(test).rows()), strict_votes(train, options.topics)
    items = items_of(held_out)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    rows: dict[str, dict[str, Any]] = {}
    if (OUT / "crowd.json").exists():  # results of an earlier run with the other objective
        before = stored("crowd")["rows"]
        rows |= {name: row for name, row in before.items() if name.split(":")[0] not in options.objectives}

    def common(batch: int, epochs: float, rate: float) -> dict[str, Any]:
        return temporary(
            per_device_train_batch_size=batch, num_train_epochs=epochs, learning_rate=rate, seed=options.seed,
            logging_steps=50, warmup_steps=10, max_length=options.max_length, **PLAIN,
        )  # fmt: skip

    def evaluated(objective: str, trainer: Any) -> dict[str, Any]:
        if objective == "dpo":
            reference = load_causal_model(MODEL, max_length=options.max_length)
            model = trl_model(trainer, "crowd-trl") if isinstance(trainer, trl.DPOTrainer) else trainer.model
            policy = CausalModel(model, tokenizer, reference.limits)
            return policy_metrics(policy, reference, held_out, options.beta)
        model = trainer.model
        limits = limits_of(model.config, tokenizer, options.max_length)
        write_settings(model.config, limits)
        rewards = RewardModel(as_reward_model(model), tokenizer, limits).score_items(items)
        return reward_metrics(held_out, items, rewards)

    def note(objective: str, name: str, trainer: Any, batch: int, epochs: float) -> float:
        clock = Clock()
        trainer.train()
        seconds = clock()
        metrics = evaluated(objective, trainer)
        steps = trainer.state.global_step
        rows[f"{objective}: {name}"] = metrics | {"seconds": seconds, "batch": batch, "epochs": epochs, "steps": steps}
        values = "  ".join(f"{key} {interval(metrics, key)}" for key in ("accuracy", "log_loss"))
        print(f"{objective:<7} {name:<34} {values}  {seconds:.0f} s", flush=True)
        counts = {"votes": len(votes), "arguments": len(items_of(votes).responses), "pairs": len(held_out)}
        store("crowd", {"options": vars(options), **counts, "rows": rows})
        return seconds

    def ours(objective: str, batch: int, epochs: float, rate: float, group: int | None) -> Any:
        transformers.set_seed(options.seed)
        values = common(batch, epochs, rate) | {"judgments_per_group": group}
        if objective == "dpo":
            return pluralign.DPOTrainer(
                str(MODEL), args=pluralign.DPOConfig(beta=options.beta, **values), train_dataset=votes
            )
        built = build_reward_model(MODEL, max_length=options.max_length)
        args = pluralign.BradleyTerryConfig(**values)
        return pluralign.BradleyTerryTrainer(
            built.model, args=args, train_dataset=votes, processing_class=built.tokenizer
        )

    small = (options.batch, options.learning_rate, None)
    large = (4 * options.batch, 2 * options.learning_rate, 2 * options.batch)
    for objective in options.objectives:
        transformers.set_seed(options.seed)
        theirs = trl_trainer(objective, votes, tokenizer, options.beta, common(options.batch, 1, options.learning_rate))
        seconds_of_trl = note(objective, "TRL, one row per vote", theirs, options.batch, 1)
        once = {}
        for name, (batch, rate, group) in {"same steps": small, "4x the votes in a step": large}.items():
            once[batch] = note(objective, f"ours, {name}", ours(objective, batch, 1, rate, group), batch, 1)
        for name, (batch, rate, group) in {"same steps": small, "4x the votes": large}.items():
            epochs = max(1, int(np.floor(seconds_of_trl / once[batch])))
            trainer = ours(objective, batch, epochs, rate, group)
            note(objective, f"ours, {name}, equal time", trainer, batch, epochs)

"""Whose statements does a policy choose? A Polis conversation with its statements listed and its opinion groups known.

Policies are tuned on all annotators' rankings of a few statements (agree over pass over disagree) by DPO and by plain
matching, one for all or one per opinion group, from a language model that has read the statements of all conversations.
Then, over all statements, softmax(log pi) is compared with the annotators' agreement: each statement's share of
agreement among its votes, divided by the sum of these shares. A statement belongs to the group that agrees with it
more. Policies by group choose with a group drawn first, by its share of the annotators.

Every row is stored as soon as it is done, and a stopped script continues where it was.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax

from pluralign.evaluation.policies.divergences import list_divergences, minority_mass
from pluralign.judgments import Judgments
from pluralign.scoring.causal_models import CausalModel, load_causal_model
from pluralign.scoring.items import items_of_texts
from pluralign.training.preference_matching.dpo import PMDPOConfig, PMDPOTrainer

from ..common.data import POLIS_CONVERSATIONS, load
from ..common.options import Option, parsed
from ..common.results import Clock, keep, kept
from ..common.training import SILENT
from ..em_dpo.polis import TOPIC, Conversation, conversation, statements
from ..em_dpo.runs import FOLDER, LENGTH, language_model

METHODS: dict[str, dict[str, Any]] = {
    "DPO": {"mode": "kl"},
    "matching": {"mode": "pm"},
    "DPO by group": {"mode": "kl", "by_group": True},
    "matching by group": {"mode": "pm", "by_group": True},
}
TUNING = {
    "learning_rate": 1e-3, "lr_scheduler_type": "cosine", "warmup_steps": 20, "beta": 1.0,
    "per_device_train_batch_size": 16, "max_length": LENGTH,
}  # fmt: skip
"""Whole models are tuned: in as many steps, adapters of rank 8 did not unlearn the effect of length on log pi."""

LEAST = 10
"""Votes of every group that a statement needs."""


def agreement(name: str) -> dict[str, np.ndarray]:
    """For each statement with enough votes, the share of agreement among all votes and among each group's."""
    rows = load(f"polis-{name}")[0].rows()
    votes: dict[str, dict[str, list[bool]]] = {}
    for row in rows:
        if row["group"] is not None:
            agreed = votes.setdefault(row["responses"][0], {}).setdefault(row["group"], [])
            agreed.append(row["labels"][0] == "agree")
    groups = sorted({group for own in votes.values() for group in own})
    return {
        text: np.array(
            [np.mean(list(itertools.chain.from_iterable(own.values()))), *(np.mean(own[group]) for group in groups)]
        )
        for text, own in votes.items()
        if all(len(own.get(group, [])) >= LEAST for group in groups)
    }


def measured(agreed: np.ndarray, log_probs: np.ndarray) -> dict[str, Any]:
    """A policy over the statements compared with the annotators' agreement.

    Args:
        agreed: `(statements, 1 + groups)`, all annotators first.
        log_probs: `(statements,)`.
    """
    population, log_policy = np.log(agreed[:, 0] / agreed[:, 0].sum()), log_softmax(log_probs)
    kinds = agreed[:, 1:].argmax(1)
    kept_mass, held = minority_mass(population, log_policy)
    return {
        "shares": [float(np.exp(log_policy)[kinds == kind].sum()) for kind in range(agreed.shape[1] - 1)],
        "total_variation": float(list_divergences(population, log_policy)[2]),
        "minority_mass": float(kept_mass / held),
        "largest": float(np.exp(log_policy).max()),
    }


def main() -> None:
    options = parsed(
        __doc__,
        conversations=Option(["15-per-hour-seattle"], "Polis conversations.", POLIS_CONVERSATIONS),
        seeds=[0],
        size=(5, "Statements in a ranking."),
        steps=(300, "Steps of 16 rankings."),
    )
    settings = {"size": options.size, "max_steps": options.steps, **TUNING}
    every = Judgments.from_rows([row for name in POLIS_CONVERSATIONS for row in statements(name)])
    model = language_model("polis", every, 3)
    for place in options.conversations:
        agreements = agreement(place)
        texts, agreed = list(agreements), np.array(list(agreements.values()))
        for seed in options.seeds:
            rows = kept("pm_polis", settings)
            data = conversation(place, options.size, 0.2, None, seed)
            prompt = data.train.column("prompt")[0]
            assert prompt == load(f"people-{place}")[0].column("prompt")[0][:TOPIC] + "\n"
            items = items_of_texts([prompt], [texts])
            rows[f"{place}, annotators, {seed}"] = measured(agreed, np.log(agreed[:, 0]))
            rows[f"{place}, uniform, {seed}"] = measured(agreed, np.zeros(len(agreed)))
            rows[f"{place}, language model, {seed}"] = measured(agreed, load_causal_model(model).log_probs(items))
            for name, method in METHODS.items():
                key = f"{place}, {name}, {seed}"
                if key in rows:
                    continue
                clock = Clock()
                parts = by_group(data) if method.get("by_group") else [data.train]
                weight = np.array([len(set(part.column("annotator"))) for part in parts], dtype=float)
                log_probs = [tuned(model, part, method["mode"], seed, options.steps).log_probs(items) for part in parts]
                chosen = np.log(weight / weight.sum())[:, None] + log_softmax(np.stack(log_probs), axis=1)
                rows[key] = measured(agreed, np.logaddexp.reduce(chosen, axis=0)) | {"seconds": clock()}
                print(key, rows[key], flush=True)
                keep("pm_polis", settings, rows)


def by_group(data: Conversation) -> list[Judgments]:
    """The rankings of each opinion group."""
    groups = [data.groups.get(name) for name in data.train.column("annotator")]
    return [
        data.train.select([row for row, own in enumerate(groups) if own == group])
        for group in sorted(set(data.groups.values()))
    ]


def tuned(model: Path, judgments: Judgments, mode: str, seed: int, steps: int) -> CausalModel:
    """A policy on the rankings."""
    args = PMDPOConfig(str(FOLDER / "pm-polis"), mode=mode, max_steps=steps, seed=seed, **TUNING, **SILENT)
    trainer = PMDPOTrainer(str(model), args, judgments)
    trainer.train()
    return trainer.policy

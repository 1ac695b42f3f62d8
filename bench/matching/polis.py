"""Whose statements does a policy choose? Polis conversations with their statements listed and opinion groups known.

Policies are tuned on all annotators' rankings of a few statements (agree over pass over disagree), one for all or one
per opinion group, from a language model that has read the statements of all conversations. A fifth of the statements is
held out of every ranking. Then, over the judged statements and over the held-out ones, a policy's choice is compared
with the annotators' agreement: each statement's share of agreement among its votes, divided by the sum of these shares.
Policies by group choose with a group drawn first, by its share of the annotators. A policy chooses in two ways:

- by its own probability: softmax(log pi);
- by its implicit reward: softmax(beta (log pi - c)), c what its mode charges of the reference. It is the matching
  target itself on a list, asks no policy to say statements of any length equally often, and starts from all alike.

The baseline is "all alike", the same probability for every statement. The difference of the total variations has an
interval over annotators, whose votes are drawn with replacement (given the policy). `letters` has no probability of
a statement among all; it is compared by the log-loss of held-out rankings alone.

Every row is stored as soon as it is done, and a stopped script continues where it was. With `--model smollm2` the model
is SmolLM2-135M-Instruct with LoRA.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax

from pluralign.evaluation.policies.divergences import minority_mass
from pluralign.judgments import Judgments
from pluralign.scoring.causal_models import load_causal_model
from pluralign.scoring.items import items_of_texts
from pluralign.training.preference_matching.dpo import PMDPOConfig, PMDPOTrainer

from ..common.data import POLIS_CONVERSATIONS, load
from ..common.options import Option, parsed
from ..common.pretrained import SMOLLM2, pretrained
from ..common.results import Clock, keep, kept
from ..common.training import HALF, SILENT, lora
from ..em_dpo.polis import TOPIC, conversation, statements
from ..em_dpo.runs import FOLDER, LENGTH, Split, language_model

METHODS: dict[str, dict[str, Any]] = {
    "DPO": {"mode": "kl"},
    "DPO, by group": {"mode": "kl", "by_group": True},
    "flattened": {"mode": "flattened"},
    "flattened, by group": {"mode": "flattened", "by_group": True},
    "plain": {"mode": "pm"},
    "plain, by group": {"mode": "pm", "by_group": True},
    "letters": {"mode": "flattened", "answers": "letters"},
}
"""`by_group` tunes one policy per opinion group; the others are settings of `pm-dpo`."""

TUNING = {
    "learning_rate": 1e-3, "lr_scheduler_type": "cosine", "warmup_steps": 20, "beta": 1.0,
    "per_device_train_batch_size": 16, "max_length": LENGTH,
}  # fmt: skip
"""Whole models are tuned: in as many steps, adapters of rank 8 did not unlearn the effect of length on log pi."""

LEAST = 10
"""Votes of every group that a statement needs."""


def votes_of(name: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Statements with enough votes of every opinion group, votes, and the group of each annotator.

    Votes are `(annotators, statements)`: 1 agrees, 0 passes or disagrees, nan did not vote.
    """
    cast: dict[str, dict[str, float]] = {}
    group: dict[str, str] = {}
    for row in load(f"polis-{name}")[0].rows():
        if row["group"] is not None:
            group[row["annotator"]] = row["group"]
            cast.setdefault(row["annotator"], {})[row["responses"][0]] = float(row["labels"][0] == "agree")
    texts = sorted({text for own in cast.values() for text in own})
    votes = np.array([[own.get(text, np.nan) for text in texts] for own in cast.values()])
    groups = np.array([group[who] for who in cast])
    enough = np.all([(~np.isnan(votes[groups == one])).sum(0) >= LEAST for one in np.unique(groups)], axis=0)
    return [text for text, kept in zip(texts, enough, strict=True) if kept], votes[:, enough], groups


def wanted(votes: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The annotators' agreement as a distribution over statements, annotators weighted: `(statements,)`."""
    cast = ~np.isnan(votes)
    share = (weight @ np.nan_to_num(votes)) / np.maximum(weight @ cast, 1e-12)
    return np.asarray(share / share.sum())


def measured(votes: np.ndarray, log_probs: np.ndarray, replicates: int = 500) -> dict[str, Any]:
    """A policy over some statements against the annotators' agreement, and against all alike.

    `votes` are `(annotators, statements)`, `log_probs` `(statements,)`.
    """
    log_policy = log_softmax(log_probs)
    people = np.log(wanted(votes, np.ones(len(votes))))
    kept_mass, held = minority_mass(people, log_policy)
    draw = np.random.default_rng(0)
    gains = []
    for _ in range(replicates):
        drawn = wanted(votes, draw.multinomial(len(votes), np.full(len(votes), 1 / len(votes))).astype(float))
        gains.append(distance(drawn, np.full(len(drawn), 1 / len(drawn))) - distance(drawn, np.exp(log_policy)))
    low, high = np.quantile(gains, [0.025, 0.975])
    return {
        "total_variation": distance(np.exp(people), np.exp(log_policy)),
        "gain": distance(np.exp(people), np.full(len(people), 1 / len(people)))
        - distance(np.exp(people), np.exp(log_policy)),
        "gain_low": float(low),
        "gain_high": float(high),
        "minority_mass": float(kept_mass / held),
        "largest": float(np.exp(log_policy).max()),
    }


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Total variation."""
    return float(np.abs(one - other).sum() / 2)


def without(judgments: Judgments, held: set[str]) -> Judgments:
    """Rankings without some statements; those that rank nothing any more are gone."""
    rows = []
    for row in judgments.rows():
        kept = [place for place, text in enumerate(row["responses"]) if text not in held]
        ranks = [row["ranks"][place] for place in kept]
        if len(set(ranks)) > 1:
            order = sorted(ranks)
            texts = [row["responses"][place] for place in kept]
            rows.append(row | {"responses": texts, "ranks": [order.index(rank) + 1 for rank in ranks]})
    return Judgments.from_rows(rows)


def main() -> None:
    options = parsed(
        __doc__,
        conversations=Option(list(POLIS_CONVERSATIONS), "Polis conversations.", POLIS_CONVERSATIONS),
        seeds=[0],
        methods=Option(list(METHODS), "Methods.", METHODS),
        size=(5, "Statements in a ranking."),
        steps=(100, "Steps of 16 rankings."),
        model=Option("small", "A small model trained from scratch, or a pretrained one.", ("small", SMOLLM2)),
    )
    settings = {"size": options.size, "max_steps": options.steps, **TUNING}
    stored_as, given = "pm_polis", {}
    if options.model == "small":
        every = Judgments.from_rows([row for name in POLIS_CONVERSATIONS for row in statements(name)])
        model = language_model("polis", every, 3)
    else:
        model, stored_as, given = pretrained(SMOLLM2), "smollm2_pm_polis", {"peft_config": lora(), **HALF}
    for place in options.conversations:
        texts, votes, _ = votes_of(place)
        for seed in options.seeds:
            held = set(np.random.default_rng(seed).permutation(texts)[: len(texts) // 5].tolist())
            parts = {
                "judged": np.array([text not in held for text in texts]),
                "held out": np.array([text in held for text in texts]),
            }
            data = conversation(place, options.size, 0.2, None, seed)
            train, test = without(data.train, held), without(data.test, held)
            prompt = train.column("prompt")[0]
            assert prompt == load(f"people-{place}")[0].column("prompt")[0][:TOPIC] + "\n"
            items = items_of_texts([prompt], [texts])

            def all_parts(log_probs: np.ndarray, parts: Any = parts, votes: Any = votes) -> dict[str, Any]:
                return {name: measured(votes[:, own], log_probs[own]) for name, own in parts.items()}

            rows = kept(stored_as, settings)
            rows[f"{place}; all alike; {seed}"] = all_parts(np.zeros(len(texts)))
            rows[f"{place}; language model; {seed}"] = all_parts(load_causal_model(model).log_probs(items))
            keep(stored_as, settings, rows)
            for name in options.methods:
                key = f"{place}; {name}; {seed}"
                if key in kept(stored_as, settings):
                    continue
                method = dict(METHODS[name])
                clock = Clock()
                grouped = method.pop("by_group", False)
                tables = by_group(train, data) if grouped else [train]
                weight = np.array([len(set(part.column("annotator"))) for part in tables], dtype=float)
                trainers = [tuned(model, part, test, seed, options.steps, **given, **method) for part in tables]
                found: dict[str, Any] = {key: {}}
                if "answers" not in method:
                    log_probs = np.stack([trainer.policy.log_probs(items) for trainer in trainers])
                    reference = load_causal_model(model)
                    charges = reference.charges(reference.tokenize(items), trainers[0].args.penalty)
                    for how, values in (("", log_probs), (" by its reward", TUNING["beta"] * (log_probs - charges))):
                        chosen = np.log(weight / weight.sum())[:, None] + log_softmax(values, axis=1)
                        found[f"{place}; {name}{how}; {seed}"] = all_parts(np.logaddexp.reduce(chosen, axis=0))
                if not grouped:
                    scored = trainers[0].evaluate()
                    found[key] |= {name: scored[f"eval_{name}"] for name in ("accuracy", "log_loss")}
                found[key]["seconds"] = clock()
                keep(stored_as, settings, found)
                print(found, flush=True)


def by_group(train: Judgments, data: Split) -> list[Judgments]:
    """The rankings of each opinion group."""
    groups = [data.groups.get(name) for name in train.column("annotator")]
    return [
        train.select([row for row, own in enumerate(groups) if own == group])
        for group in sorted(set(data.groups.values()))
    ]


def tuned(
    model: Path, judgments: Judgments, held_out: Judgments, seed: int, steps: int, peft_config: Any = None,
    **method: Any,
) -> PMDPOTrainer:  # fmt: skip
    """A trained policy on the rankings."""
    args = PMDPOConfig(
        str(FOLDER / "pm-polis"), max_steps=steps, seed=seed, length_checks=0, **method, **TUNING, **SILENT
    )
    trainer = PMDPOTrainer(
        str(model), args=args, train_dataset=judgments, eval_dataset=held_out, peft_config=peft_config
    )
    trainer.train()
    return trainer

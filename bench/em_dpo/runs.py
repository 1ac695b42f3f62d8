"""EM-DPO on real annotators: a small causal model of their texts, runs on it, and their held-out predictions."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import adjusted_rand_score

from pluralign.evaluation.annotators.types import type_accuracy
from pluralign.evaluation.pairs import pairs_of
from pluralign.judgments import Judgments
from pluralign.scoring.items import Items, items_of
from pluralign.scoring.measured import believed, shown_rewards
from pluralign.scoring.mixtures import Mixture, ranking_log_likelihoods
from pluralign.training.em_dpo.config import EMDPOConfig
from pluralign.training.em_dpo.trainer import EMDPOTrainer

from ..common.data import numbered
from ..common.results import OUT, Clock, keep
from ..common.training import SILENT, all_texts, from_scratch, lora

FOLDER = OUT / "em_real"
LENGTH = 160
"""Tokens of prompt and response."""

SETTINGS: dict[str, Any] = {
    "num_train_epochs": 1, "learning_rate": 2e-3, "lr_scheduler_type": "cosine", "beta": 1.0,
    "per_device_train_batch_size": 32, "warmup_steps": 20, "max_length": LENGTH,
}  # fmt: skip
"""Of every M-step in all runs; everything else is the default."""

SHAPE: dict[str, Any] = {"vocab_size": 2048, "hidden_size": 128, "layers": 3, "heads": 4, "context": LENGTH}


@dataclass(frozen=True)
class Split:
    """Judgments to train on, held-out ones, and the opinion groups of annotators where they are known."""

    train: Judgments
    test: Judgments
    groups: Mapping[str, str] = field(default_factory=dict)


def language_model(name: str, judgments: Judgments, epochs: float, length: int = LENGTH) -> Path:
    """The folder of a model trained from scratch on all responses of a table, each once an epoch."""
    model = FOLDER / f"{name}-language-model"
    if not (model / "metrics.json").exists():
        texts = dict.fromkeys(all_texts(judgments))
        shape = SHAPE | {"context": length}
        from_scratch(model, judgments, texts, shape, learning_rate=2e-3, num_train_epochs=epochs, max_length=length)
    return model


def em_dpo(model: Path, judgments: Judgments, folder: str | Path, types: int | str, seed: int, **changed: Any) -> Any:
    """A trained run."""
    args = EMDPOConfig(output_dir=str(folder), seed=seed, **(SETTINGS | SILENT | {"types": types} | changed))
    trainer = EMDPOTrainer(str(model), args=args, train_dataset=judgments, peft_config=lora())
    trainer.train()
    return trainer


def compared(
    stored_as: str, settings: dict[str, Any], rows: dict[str, Any], place: str, seed: int, model: Path, data: Split,
    methods: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any],
) -> None:  # fmt: skip
    """Add the methods that `rows` has not yet for a place and a seed, and store them.

    Args:
        stored_as, settings: of the results.
        rows: by place, seed and method.
        place: the name of the data.
        seed: of the training.
        model: the folder of the base model.
        data: what is trained on and evaluated.
        methods: name to the settings that a method changes.
        given: the settings of all methods.
    """
    for method, changed in methods.items():
        key = f"{place}, {seed}, {method}"
        if key in rows:
            continue
        clock, own = Clock(), {**given, **changed}
        with tempfile.TemporaryDirectory() as folder:
            trainer = em_dpo(model, data.train, folder, own.pop("types"), seed, **own)
            seconds = clock()
            predicted = prediction(trainer, data.test)
        rows[key] = {
            "place": place, "seed": seed, "method": method, "types": len(trainer.adapters),
            "verdict": trainer.verdict.verdict, "shares": trainer.mixture_weights.tolist(), "seconds": seconds,
            "people": len(set(data.train.column("annotator"))), "train": len(data.train), "test": len(data.test),
            "responses": len(items_of(data.train).responses),
            "group_sizes": dict(sorted(Counter(data.groups.values()).items())), "groups": dict(data.groups),
            "recovered": against_groups(trainer.posteriors, data.groups) if data.groups else {},
            "predicted": predicted,
        }  # fmt: skip
        accuracy, loss = (
            sum(one[top] for one in predicted.values()) / sum(one[bottom] for one in predicted.values())
            for top, bottom in (("ordered", "pairs"), ("log_loss", "rankings"))
        )
        shown = f"types {rows[key]['types']}, accuracy {accuracy:.3f}, {loss:.3f} nats, {seconds} s"
        print(f"{key}: {shown}", flush=True)
        keep(stored_as, settings, rows)


def prediction(trainer: EMDPOTrainer, test: Judgments) -> dict[str, dict[str, list[float]]]:
    """`predicted` by a trained run."""
    return predicted(test, *trainer.score(test), trainer.mixture, trainer.posteriors)


def predicted(
    test: Judgments, items: Items, utilities: np.ndarray, mixture: Mixture, posteriors: Mapping[str, np.ndarray]
) -> dict[str, dict[str, list[float]]]:
    """Per annotator with held-out rankings `pairs`, how many of them are `ordered` right by the policy of their most
    probable type (ties of the policy half), `rankings`, and the sum of their `log_loss` in nats with the policies
    weighted by the annotator's posterior."""
    column = test.column("annotator")
    names = [column[row] for row in items.row]
    beliefs = believed(names, posteriors, mixture)
    number, unique = numbered(names)
    pairs = pairs_of(shown_rewards(items, utilities, beliefs.type), items.ranks, items.offsets, number, items.weight)
    with np.errstate(divide="ignore"):
        log_posterior = np.log(beliefs.gamma)
    losses = -np.logaddexp.reduce(log_posterior + ranking_log_likelihoods(utilities, items, mixture), axis=1)
    right = (pairs.margin > 0) + (pairs.margin == 0) / 2
    sums = {
        "pairs": np.bincount(pairs.prompt, minlength=len(unique)),
        "ordered": np.bincount(pairs.prompt, right, minlength=len(unique)),
        "rankings": np.bincount(number), "log_loss": np.bincount(number, losses).round(5),
    }  # fmt: skip
    return {name: {key: float(values[at]) for key, values in sums.items()} for at, name in enumerate(unique)}


def against_groups(posteriors: Mapping[str, np.ndarray], groups: Mapping[str, str]) -> dict[str, Any]:
    """Annotators' types against their opinion groups, for those who have one."""
    names = [name for name in posteriors if name in groups]
    assigned = np.array([int(posteriors[name].argmax()) for name in names])
    known = [groups[name] for name in names]
    types = len(next(iter(posteriors.values())))
    return {
        "rand": float(adjusted_rand_score(known, assigned)),
        "right": type_accuracy(assigned, known, types, replicates=0)["type_accuracy"],
    }

"""MORE on five real sources: one MiniLM reward, against the paper's baselines, on the same judgments.

Raw is the untrained head, MultiTask uniform weights, Top one model per source (evaluated on its own source only),
Averaging the mean of Top's rewards. PandaLM is a sixth source that no model has seen. The lower layers of MiniLM are
frozen, which halves the work. The margins of the held-out pairs (chosen minus rejected) are stored; means and intervals
are computed from them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from scipy.special import expit, log_expit

from pluralign.core.errors import PluralignError
from pluralign.evaluation.calibration.recalibration import fit_temperature
from pluralign.evaluation.calibration.reliability import bin_of, equal_width_edges
from pluralign.evaluation.intervals import Resampling
from pluralign.judgments import Judgments
from pluralign.judgments.split import split
from pluralign.scoring.items import Items, items_of
from pluralign.scoring.reward_models import build_reward_model
from pluralign.training.more.config import MOREConfig
from pluralign.training.more.trainer import MORETrainer

from ..common.data import encoder, load
from ..common.options import Option, parsed
from ..common.results import OUT, Clock, store
from ..common.training import QUIET, freeze_lower_layers

SOURCES = ("hh-helpful", "hh-harmless", "webgpt", "helpsteer2", "convarg")
UNSEEN = "pandalm"
METHODS: dict[str, dict[str, Any]] = {
    "MultiTask": {"weights": "uniform"},
    "MORE, l2": {"weights": "more", "normalize": "l2"},
    "MORE, none": {"weights": "more", "normalize": "none"},
}
"""Trained on all sources; Raw, Top and Averaging follow from others."""

REPLICATES = 2000
UNINFORMATIVE = 1e6
"""The temperature of rewards that carry no information."""

Parts = dict[str, dict[str, Judgments]]


def parts_of(seed: int, train: int, held: int, tuning: int) -> Parts:
    """Strict pairs of every source for training, temperatures and tests; no prompt is in two of these."""
    draw = np.random.default_rng(seed)
    parts: Parts = {"train": {}, "tuning": {}, "test": {}}
    for name in (*SOURCES, UNSEEN):
        judgments = load(name)[0]
        strict = [row for row, ranks in enumerate(judgments.column("ranks")) if ranks and len(set(ranks)) == 2]
        trained, rest = split(judgments.select(strict), by="prompt", test=0.4, seed=seed)
        tuned, tested = split(rest, by="prompt", test=0.7, seed=seed)
        for part, own, most in (("train", trained, train), ("tuning", tuned, tuning), ("test", tested, held)):
            if name != UNSEEN or part == "test":
                parts[part][name] = own.select(np.sort(draw.permutation(len(own))[:most]))
    return parts


def margins(rewards: np.ndarray, items: Items) -> list[float]:
    """Reward of the chosen response minus that of the rejected one, pair by pair."""
    values = rewards[items.response].reshape(-1, 2)
    sign = np.where(items.ranks.reshape(-1, 2)[:, 0] == 1, 1.0, -1.0)
    return [float(margin) for margin in sign * (values[:, 0] - values[:, 1])]


class Bench:
    """One seed: its judgments, and the rewards of every method on the held-out ones."""

    def __init__(self, seed: int, options: argparse.Namespace) -> None:
        self.seed, self.options = seed, options
        self.parts = parts_of(seed, options.train, options.held, options.tuning)
        self.held = {
            (part, name): items_of(own) for part in ("tuning", "test") for name, own in self.parts[part].items()
        }

    def trained(self, **values: Any) -> Any:
        """A trained reward model on MiniLM; all methods start from the same head."""
        transformers.set_seed(self.seed)
        built = build_reward_model(encoder(), max_length=self.options.max_length)
        freeze_lower_layers(built.model, self.options.frozen)
        given = {"num_train_epochs": self.options.epochs, "learning_rate": self.options.learning_rate, **values}
        args = MOREConfig(
            str(OUT / "more_sources"), per_device_train_batch_size=self.options.batch,
            judgments_per_source=self.options.train, warmup_steps=4, bf16=self.options.bf16,
            use_cpu=not torch.cuda.is_available(), seed=self.seed, logging_steps=10, **QUIET, **given,
        )  # fmt: skip
        trainer = MORETrainer(
            built.model, args=args, train_dataset=self.parts["train"], processing_class=built.tokenizer
        )
        trainer.train()
        return trainer

    def rewards(self, trainer: Any) -> dict[tuple[str, str], np.ndarray]:
        """Rewards of the responses in each held-out part."""
        model = trainer.reward_model
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.options.bf16):
            return {key: model.values(model.tokenize(items)) for key, items in self.held.items()}

    def run(self) -> dict[str, Any]:
        methods: dict[str, Any] = {}

        def note(name: str, rewards: dict[tuple[str, str], np.ndarray], **more: Any) -> None:
            margins_of: dict[str, dict[str, list[float]]] = {"tuning": {}, "test": {}}
            for (part, source), values in rewards.items():
                margins_of[part][source] = margins(values, self.held[part, source])
            right = [float(np.mean(np.array(margins_of["test"][source]) > 0)) for source in SOURCES]
            print(self.seed, f"{name:<12}", np.round(right, 3), more.get("seconds"), flush=True)
            methods[name] = {"margins": margins_of, **more}

        note("Raw", self.rewards(self.trained(weights="uniform", num_train_epochs=0.0)))
        for name, values in METHODS.items():
            if name not in self.options.methods:
                continue
            clock = Clock()
            trainer = self.trained(**values)
            seconds = clock()
            logs = [entry for entry in trainer.state.log_history if "loss" in entry]
            weights = {source: [entry.get(f"weight/source={source}") for entry in logs] for source in trainer.sources}
            cosines = [entry["cosine_mean"] for entry in logs if "cosine_mean" in entry]
            note(name, self.rewards(trainer), seconds=seconds, weights=weights, cosines=cosines)
        tops: dict[str, Any] = {}
        clock = Clock()
        for source in SOURCES if "Top" in self.options.methods else ():
            (named,) = set(self.parts["train"][source].column("source"))
            tops[source] = self.rewards(self.trained(weights="uniform", only_source=named or source))
        if tops:
            own = {(part, name): tops[name if name in tops else SOURCES[0]][part, name] for part, name in self.held}
            note("Top", own, seconds=clock())
            note("Averaging", {key: np.mean([tops[source][key] for source in SOURCES], 0) for key in self.held})
        prompts: dict[str, dict[str, list[int]]] = {}
        for (part, source), items in self.held.items():
            prompts.setdefault(part, {})[source] = items.prompt.tolist()
        return {"methods": methods, "prompts": prompts}


def summary(folder: Path) -> dict[str, Any]:
    """Means over seeds, with 95 % intervals over seeds and prompts within them; differences are paired."""
    stored = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    names = list(stored[0]["methods"])
    labels = [*names, *(f"{name}, temperature" for name in names)]
    sources = [*SOURCES, UNSEEN]
    plain = np.zeros((len(stored), len(sources) + 1, len(labels), 3))  # the last source is all five together
    drawn = np.zeros((len(stored), REPLICATES, len(sources) + 1, len(labels), 3))
    temperatures = np.ones((len(stored), len(labels)))
    for place, seed in enumerate(stored):
        found = {name: own["margins"] for name, own in seed["methods"].items()}
        for number, name in enumerate(names):
            tuning = found[name]["tuning"]
            weight = np.concatenate([np.full(len(tuning[source]), 1 / len(tuning[source])) for source in SOURCES])
            margin = np.concatenate([tuning[source] for source in SOURCES])
            try:
                temperatures[place, len(names) + number] = fit_temperature(margin, weight)
            except PluralignError:  # no finite temperature fits rewards without information
                temperatures[place, len(names) + number] = UNINFORMATIVE
        columns = []
        for source in sources:
            test = np.array([found[name]["test"][source] for name in names] * 2) / temperatures[place][:, None]
            columns.append(cluster_sums(test, np.array(seed["prompts"]["test"][source])))
        columns.append(np.concatenate(columns[: len(SOURCES)]))
        for number, sums in enumerate(columns):
            plain[place, number] = metrics_of(sums.sum(0, keepdims=True))[0]
            flat = sums.reshape(len(sums), -1)
            weights = np.concatenate(list(Resampling(np.arange(len(sums)), REPLICATES, seed=number).weights()))
            drawn[place, :, number] = metrics_of((weights @ flat).reshape(REPLICATES, *sums.shape[1:]))
    seeds = np.random.default_rng(0).integers(len(stored), size=(REPLICATES, len(stored)))
    over = drawn[seeds, np.arange(REPLICATES)[:, None]].mean(1)  # (replicates, sources, methods, metrics)
    means = plain.mean(0)
    rows: dict[str, Any] = {}
    for number, label in enumerate(labels):
        each = dict(zip([*sources, "pooled"], means[:, number].tolist(), strict=True))
        each["mean"] = means[: len(SOURCES), number].mean(0).tolist()
        beside = names.index("MultiTask") + (len(names) if number >= len(names) else 0)
        ahead = over[:, : len(SOURCES), number].mean(1) - over[:, : len(SOURCES), beside].mean(1)
        together = over[:, -1, number] - over[:, -1, beside]
        rows[label] = {
            "sources": each,
            "temperature": temperatures[:, number].tolist(),
            "mean_less_multitask": np.quantile(ahead, [0.025, 0.975], axis=0).T.tolist(),
            "pooled_less_multitask": np.quantile(together, [0.025, 0.975], axis=0).T.tolist(),
        }
    weights = {
        name: {
            source: float(np.mean([np.mean(seed["methods"][name]["weights"][source]) for seed in stored]))
            for source in stored[0]["methods"][name]["weights"]
        }
        for name in METHODS
        if name in names
    }
    cosines = [value for seed in stored for value in seed["methods"]["MORE, l2"]["cosines"]]
    return {
        "options": stored[0]["options"], "seeds": len(stored), "rows": rows, "weights": weights,
        "cosine": float(np.mean(cosines)), "seconds": [seed["seconds"] for seed in stored],
        "pairs": {source: len(stored[0]["prompts"]["test"][source]) for source in sources},
    }  # fmt: skip


def cluster_sums(margin: np.ndarray, prompt: np.ndarray) -> np.ndarray:
    """Per prompt: pairs, correct pairs, log-loss and calibration gaps of five bins, `(prompts, methods, 8)`."""
    _, cluster = np.unique(prompt, return_inverse=True)
    confidence = expit(np.abs(margin))
    right = np.where(margin == 0, 0.5, margin > 0)
    bins = bin_of(confidence, equal_width_edges())
    gaps = np.where(bins[..., None] == np.arange(5), (right - confidence)[..., None], 0.0)
    each = np.concatenate((np.stack((np.ones_like(margin), right, -log_expit(margin)), -1), gaps), -1)
    sums = np.zeros((cluster.max() + 1, *np.swapaxes(each, 0, 1).shape[1:]))
    np.add.at(sums, cluster, np.swapaxes(each, 0, 1))
    return sums


def metrics_of(sums: np.ndarray) -> np.ndarray:
    """Accuracy, log-loss, expected calibration error: `(..., methods, 3)`."""
    pairs = sums[..., 0]
    return np.stack((sums[..., 1] / pairs, sums[..., 2] / pairs, np.abs(sums[..., 3:]).sum(-1) / pairs), -1)


def main() -> None:
    options = parsed(
        __doc__,
        seeds=[0, 1, 2, 3, 4],
        train=(800, "Judgments of each source, and of each source in an epoch."),
        held=(160, "Test pairs of each source, at most."),
        tuning=(60, "Pairs of each source for the temperature, at most."),
        epochs=1.0,
        batch=20,
        frozen=(4, "Frozen layers of the six."),
        methods=Option([*METHODS, "Top"], "Methods to train.", [*METHODS, "Top"]),
        max_length=128,
        learning_rate=2e-4,
        bf16=True,
        name="more_sources",
    )
    folder = OUT / options.name
    folder.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        clock = Clock()
        found = Bench(seed, options).run()
        file = folder / f"{seed}.json"
        if file.exists():  # a seed may be run in several parts
            before = json.loads(file.read_text())
            found["methods"] = before["methods"] | found["methods"]
        file.write_text(json.dumps({"options": vars(options), **found, "seconds": clock()}))
        print(f"seed {seed}: {clock()} s", flush=True)
    store(options.name, summary(folder))

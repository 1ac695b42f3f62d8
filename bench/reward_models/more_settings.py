"""MORE on real sources, one change at a time: a linear reward on frozen MiniLM states.

The sources are those of `more_sources`, with all of their judgments. A linear reward has no layers under its head, so
the sources' gradients at the head are all of their gradients, and a run takes a second: learning rate, length of
training, batch size and the sources themselves can be changed one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pluralign.evaluation.calibration.recalibration import fit_temperature
from pluralign.scoring.features import text_features
from pluralign.scoring.items import items_of

from ..common.data import encoder, load
from ..common.options import parsed
from ..common.results import OUT, store
from .linear import fit_sources
from .more_sources import SOURCES, cluster_sums, metrics_of

METHODS = ("uniform", "l2", "none")


@dataclass(frozen=True)
class Setting:
    """How a linear reward is trained; `batch` counts the judgments of all sources in a step."""

    rate: float = 3e-3
    epochs: int = 4
    batch: int = 100
    sources: tuple[str, ...] = SOURCES


BASE = Setting()
SETTINGS = {
    "default": BASE,
    "a third of the learning rate": replace(BASE, rate=1e-3),
    "three times the learning rate": replace(BASE, rate=1e-2),
    "1 epoch": replace(BASE, epochs=1),
    "16 epochs": replace(BASE, epochs=16),
    "batches of 20": replace(BASE, batch=20),
    "batches of 500": replace(BASE, batch=500),
    "without harmless": replace(BASE, sources=tuple(name for name in SOURCES if name != "hh-harmless")),
    "helpful and harmless": replace(BASE, sources=("hh-helpful", "hh-harmless")),
    "harmless and two that agree": replace(BASE, sources=("hh-harmless", "hh-helpful", "helpsteer2")),
}
DRAWS = 800
"""Judgments of each source in an epoch."""


@dataclass(frozen=True)
class Pairs:
    """Feature differences of strict pairs, chosen minus rejected, and their prompts."""

    states: np.ndarray
    prompt: np.ndarray

    def where(self, chosen: np.ndarray) -> Pairs:
        """Some of the pairs."""
        return Pairs(self.states[chosen], self.prompt[chosen])


def source(name: str) -> Pairs:
    """The strict pairs of a source."""
    items = items_of(load(name)[0])
    features = text_features(items, encoder(), dimensions=64, cache=OUT / "cache").astype(np.float64)
    states, prompts = [], []
    for judgment in range(items.judgments):
        shown = items.shown(judgment)
        ranks = items.ranks[shown]
        if len(ranks) == 2 and ranks[0] != ranks[1]:
            first, second = features[items.response[shown]]
            states.append(first - second if ranks[0] < ranks[1] else second - first)
            prompts.append(items.prompt[judgment])
    return Pairs(np.array(states), np.array(prompts))


def parts(pairs: Pairs, seed: int) -> dict[str, Pairs]:
    """Train, tuning and test: three fifths, a tenth and the rest of the prompts."""
    prompts = np.random.default_rng(seed).permutation(np.unique(pairs.prompt))
    cuts = np.split(prompts, [int(0.6 * len(prompts)), int(0.7 * len(prompts))])
    return {
        name: pairs.where(np.isin(pairs.prompt, cut))
        for name, cut in zip(("train", "tuning", "test"), cuts, strict=True)
    }


def trained(train: list[Pairs], method: str, setting: Setting, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The weights of the reward, and the mean weights of the sources over the steps."""
    each = setting.batch // len(train)
    return fit_sources(
        [own.states for own in train], [each] * len(train), None if method == "uniform" else method,
        steps=setting.epochs * DRAWS // each, rate=setting.rate, final=0.0, seed=(seed, 1),
    )  # fmt: skip


def evaluated(reward: np.ndarray, tuning: list[Pairs], test: list[Pairs]) -> dict[str, Any]:
    """Accuracy, log-loss and calibration error: mean over sources and pooled, without and with a temperature."""
    each = np.concatenate([np.full(len(own.states), 1 / len(own.states)) for own in tuning])
    temperature = fit_temperature(np.concatenate([own.states @ reward for own in tuning]), each)
    metrics: dict[str, Any] = {"temperature": temperature}
    for name, scale in (("", 1.0), (", temperature", temperature)):
        sums = [cluster_sums((own.states @ reward)[None] / scale, own.prompt) for own in test]
        alone = np.array([metrics_of(own.sum(0))[0] for own in sums])
        together = metrics_of(np.concatenate(sums).sum(0))[0]
        metrics |= {f"mean{name}": alone.mean(0).tolist(), f"pooled{name}": together.tolist()}
    return metrics


def main() -> None:
    options = parsed(__doc__, seeds=5)
    data = {name: source(name) for name in SOURCES}
    spread = np.concatenate([own.states for own in data.values()]).std(0)
    data = {name: Pairs(own.states / spread, own.prompt) for name, own in data.items()}
    rows: list[dict[str, Any]] = []
    for label, setting in SETTINGS.items():
        for seed in range(options.seeds):
            split = [parts(data[name], seed) for name in setting.sources]
            train, tuning, test = ([own[part] for own in split] for part in ("train", "tuning", "test"))
            for method in METHODS:
                reward, weights = trained(train, method, setting, seed)
                row = {"setting": label, "seed": seed, "method": method, **evaluated(reward, tuning, test)}
                rows.append(row | {"weights": dict(zip(setting.sources, weights.tolist(), strict=True))})
        for method in METHODS:
            own = [row for row in rows if (row["setting"], row["method"]) == (label, method)]
            shown = [np.mean([row[key] for row in own], 0) for key in ("mean", "pooled", "mean, temperature")]
            print(f"{label:<32}{method:<9}", *(values.round(3) for values in shown), flush=True)
    counts = {name: len(own.states) for name, own in data.items()}
    store("more_study", {"options": vars(options), "pairs": counts, "rows": rows})

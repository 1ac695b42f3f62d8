"""How MORE's gradients are averaged over steps: shares of the new gradient, and Gramians from half-batches.

Two studies of a linear reward, whose gradients at the head are all of its gradients:

- A simulated conflict with known truth: two sources with utilities x . (theta + d) and one with x . (theta - d), where
  d is orthogonal to theta. Reported are the share of d that the reward took up, its distance from theta in the other
  directions, accuracies, and the calibration error on held-out pairs of all sources.
- The five real sources of `more_sources`, all of their judgments; three fifths of the prompts train. Features are
  TF-IDF of the responses reduced to 256 dimensions, together for all sources, or frozen mean states of MiniLM.

`uniform` is MultiTask. Everything but the weights of the sources is the same for all rows: batches, steps, rates.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from pluralign.evaluation.calibration.reliability import calibration_error
from pluralign.evaluation.intervals import Resampling
from pluralign.evaluation.pairs import pairs_of
from pluralign.evaluation.rewards.metrics import pair_metrics
from pluralign.scoring.features import text_features
from pluralign.scoring.items import Items, items_of, items_of_texts

from ..common.data import encoder, load
from ..common.options import parsed, parts
from ..common.results import OUT, store
from .linear import fit_sources
from .more_settings import Pairs
from .more_settings import parts as held_out
from .more_sources import SOURCES

METHODS: dict[str, tuple[Any, float, Any]] = {
    "uniform": (None, 1.0, "averaged"),
    "share 1": ("l2", 1.0, "averaged"),
    "share .2": ("l2", 0.2, "averaged"),
    "share .05": ("l2", 0.05, "averaged"),
    "share .01": ("l2", 0.01, "averaged"),
    "half-batch, share .2": ("l2", 0.2, "half-batch"),
    "half-batch, share .05": ("l2", 0.05, "half-batch"),
    "half-batch, share .01": ("l2", 0.01, "half-batch"),
}
DESIGNS = {  # features, length of theta, of d, judgments of a source in a step
    "100 features, d = 3, 16 a source": (100, 3.0, 3.0, 16),
    "100 features, d = 5, 16 a source": (100, 5.0, 5.0, 16),
    "16 features, d = 3, 32 a source": (16, 3.0, 3.0, 32),
}


def strict(margins: np.ndarray, prompt: np.ndarray) -> Any:
    """Margins, chosen minus rejected, as pairs."""
    rewards = np.stack((margins, np.zeros(len(margins))), 1).ravel()
    count = len(margins)
    return pairs_of(rewards, np.tile([1, 2], count), np.arange(count + 1) * 2, prompt, np.ones(count))


def drawn(weights: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Feature differences of 4,000 pairs, chosen minus rejected, `(pairs, features)`."""
    difference = draw.normal(size=(4000, len(weights))) * np.sqrt(2 / len(weights))
    won = draw.random(4000) < 1 / (1 + np.exp(-difference @ weights))
    return np.where(won[:, None], difference, -difference)


def conflict(options: Any) -> list[dict[str, Any]]:
    rows = []
    for design, (features, length, drift, each) in DESIGNS.items():
        for method, (normalize, share, kind) in METHODS.items():
            found = []
            for seed in range(options.seeds):
                draw = np.random.default_rng(seed)
                basis, _ = np.linalg.qr(draw.normal(size=(features, 2)))
                theta, aside = length * basis[:, 0], basis[:, 1]
                true = [theta + drift * aside, theta + drift * aside, theta - drift * aside]
                train, test = ([drawn(w, draw) for w in true] for _ in range(2))
                w, weights = fit_sources(
                    train, [each] * 3, normalize, steps=options.steps, rate=0.02, final=0.01, seed=(seed, 7),
                    share=share, kind=kind,
                )  # fmt: skip
                margins = [own @ w for own in test]
                accuracy = [float((own > 0).mean()) for own in margins]
                ece = [calibration_error(strict(own, np.arange(len(own)))) or 0.0 for own in margins]
                taken = float(w @ aside)
                rest = float(np.linalg.norm(w - taken * aside - theta))
                found.append([taken / drift, rest, np.mean(ece), np.mean(accuracy), min(accuracy), weights[2]])
            names = ("taken", "rest", "ece", "accuracy", "worst", "weight")
            row = {"design": design, "method": method, **dict(zip(names, np.mean(found, 0).tolist(), strict=True))}
            rows.append(row)
            print(row, flush=True)
    return rows


def features_of(loaded: dict[str, Items], pretrained: bool) -> dict[str, np.ndarray]:
    """Features of the responses of each source `(responses, p)`, in common columns."""
    if pretrained:
        each = {name: text_features(items, encoder(), cache=OUT / "cache") for name, items in loaded.items()}
        return {name: features.astype(np.float64) for name, features in each.items()}
    texts = [text for items in loaded.values() for text in items.responses]
    joined = items_of_texts(["all"], [texts])
    features = text_features(joined, dimensions=256, cache=OUT / "cache").astype(np.float64)
    row = {text: place for place, text in enumerate(joined.responses)}
    return {name: features[[row[text] for text in items.responses]] for name, items in loaded.items()}


def pairs_of_sources(pretrained: bool) -> dict[str, Pairs]:
    """The strict pairs of each source on common features of variance 1."""
    loaded = {name: items_of(load(name)[0]) for name in SOURCES}
    features = features_of(loaded, pretrained)
    found = {}
    for name, items in loaded.items():
        pairs = np.flatnonzero(np.diff(items.offsets) == 2)
        ranks = items.ranks[items.offsets[pairs][:, None] + np.arange(2)]
        pairs, ranks = pairs[ranks[:, 0] != ranks[:, 1]], ranks[ranks[:, 0] != ranks[:, 1]]
        shown = items.response[items.offsets[pairs][:, None] + np.arange(2)]
        first, second = (features[name][shown[:, side]] for side in (0, 1))
        order = np.where(ranks > 0, ranks, 99)
        sign = np.where(order[:, 0] < order[:, 1], 1.0, -1.0)
        found[name] = Pairs(sign[:, None] * (first - second), items.prompt[pairs])
    spread = np.concatenate([own.states for own in found.values()]).std(0)
    return {name: Pairs(own.states / spread, own.prompt) for name, own in found.items()}


def real(options: Any, pretrained: bool = False) -> list[dict[str, Any]]:
    data = pairs_of_sources(pretrained)
    found: dict[str, list[dict[str, Any]]] = {method: [] for method in [*METHODS, "own model"]}
    for seed in range(options.seeds):
        split = [held_out(data[name], seed) for name in SOURCES]
        train, test = ([own[part] for own in split] for part in ("train", "test"))
        for method in found:
            if method == "own model":  # a model of its own for each source, with as many judgments of it
                each = [
                    fit_sources([own.states], [20], None, steps=160, rate=3e-3, final=0.0, seed=(seed, 1))
                    for own in train
                ]
                rewards, weights = [w for w, _ in each], np.ones(len(train)) / len(train)
            else:
                normalize, share, kind = METHODS[method]
                w, weights = fit_sources(
                    [own.states for own in train], [20] * len(train), normalize, steps=160, rate=3e-3, final=0.0,
                    seed=(seed, 1), share=share, kind=kind,
                )  # fmt: skip
                rewards = [w] * len(train)
            margins = [own.states @ w for own, w in zip(test, rewards, strict=True)]
            found[method].append({"margins": margins, "prompt": [own.prompt for own in test], "weights": weights})
    rows = []
    for method, runs in found.items():
        row: dict[str, Any] = {"method": method, "weights": np.mean([one["weights"] for one in runs], 0).tolist()}
        for number, name in enumerate(SOURCES):
            margins = np.concatenate([one["margins"][number] for one in runs])
            base = np.concatenate([one["margins"][number] for one in found["uniform"]])
            prompt = np.concatenate([one["prompt"][number] for one in runs])
            squared = [
                pair_metrics(strict(one["margins"][number], one["prompt"][number])).get("ece_squared", 0.0)
                for one in runs
            ]
            right, before = ((own > 0) + (own == 0) / 2 for own in (margins, base))
            loss, base_loss = (np.logaddexp(0, -own) for own in (margins, base))
            gains = {"accuracy_gain": (right - before, 1.0), "log_loss_gain": (base_loss - loss, 1.0)}
            row[name] = {
                "accuracy": float(right.mean()), "log_loss": float(loss.mean()), "ece_squared": float(np.mean(squared)),
                **Resampling(prompt).mean_intervals(gains),
            }  # fmt: skip
        values = [row[name] for name in SOURCES]
        row |= {key: float(np.mean([own[key] for own in values])) for key in ("accuracy", "log_loss", "ece_squared")}
        row["worst"] = min(own["accuracy"] for own in values)
        rows.append(row)
        shown = {key: np.round(row[key], 4) for key in ("accuracy", "worst", "log_loss", "ece_squared", "weights")}
        print(method, shown, flush=True)
    return rows


STUDIES = {
    "more_averages": conflict,
    "more_averages_real": real,
    "more_averages_minilm": partial(real, pretrained=True),
}


def main() -> None:
    options = parsed(__doc__, seeds=5, steps=1000, only=parts(STUDIES))
    for name in options.only:
        store(name, {"options": vars(options), "rows": STUDIES[name](options)})

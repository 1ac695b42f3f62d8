"""DPRM's losses and targets on a linear head: the defaults, the paper's settings and baselines, on held-out items.

The head reads the frozen mean state of MiniLM on prompt and response, so that a run takes seconds and nothing differs
between rows but what `DPRMConfig` sets: `energy` is the default, `ce` and `ot` change the loss alone, and `paper` is
`preset: paper`. `paper, no prior` and `paper's targets, ce` change one thing of it. `ce, prior per item` takes as
targets posterior means under a prior for each item, a model's own prediction of it: that of logistic regression on the
other four fifths of the training prompts, with the strength that makes the votes most likely. `marginal` and `medians`
are constants, `logistic` is soft-label logistic regression on the same states with a ridge. All heads start at the mean
target and are trained by Adam on all items at once; the number of steps is the one with the best log-loss on a held-out
fifth of the training prompts, for each row. `tuning gain` is the gain over the marginal on that fifth, from training
prompts alone: it chooses the default of `loss`.

`--votes` and `--items` leave that many votes of each training item, or training items, at most; held-out items keep
all of their votes.

Training and held-out items are those of `crowds`. Intervals resample prompts, with all seeds of a prompt together; the
votes of these sources are counts without names, so they are given these annotators.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.special import xlogy

from pluralign.choice.dirichlet import estimated_strength, posterior_mean, prior_state
from pluralign.choice.label_regression import LabelRegression
from pluralign.choice.transport import distribution_loss
from pluralign.evaluation.crowds.distributions import predicted_crowds
from pluralign.evaluation.intervals import Resampling
from pluralign.scoring.crowds import crowd_of
from pluralign.scoring.features import text_features
from pluralign.scoring.items import items_of_texts
from pluralign.scoring.label_baselines import LabelBaselines
from pluralign.training.dprm.config import DPRMConfig

from ..common.data import encoder
from ..common.options import parsed, parts
from ..common.results import OUT, store
from .sources import SOURCES, Source, source

PAPER = {"preset": "paper"}
HEADS: dict[str, dict[str, Any]] = {
    "energy": {},
    "ce": {"loss": "ce"},
    "ot": {"loss": "ot"},
    "paper": PAPER,
    "paper, no prior": {"loss": "ot", "smoothing": 0.05, "item_weight": "equal"},
    "paper's targets, ce": {"preset": "DPRM_C"},
    "ce, prior per item": {"loss": "ce"},
}
FOLDS = 5
ROWS = ("marginal", "medians", "logistic", *HEADS)
STEPS = (1, 5, 10, 20, 40, 80, 160, 320, 640)
RATE = 3e-4
KEYS = ("log_loss", "transport_cost", "total_variation")


def head(states: np.ndarray, crowd: Any, config: DPRMConfig, until: int) -> list[np.ndarray]:
    """The weights of a linear head after each number of `STEPS` up to the last one, `(d + 1, labels)` each."""
    x = torch.from_numpy(np.hstack([states, np.ones((len(states), 1))])).float()
    target = torch.from_numpy(crowd.distribution).float()
    weight = torch.from_numpy(crowd.votes if config.item_weight == "votes" else np.ones(len(x))).float()
    cost = config.label_cost(crowd.scale)
    w = torch.zeros(x.shape[1], target.shape[1])
    w[-1] = (weight @ target / weight.sum()).clamp(min=1e-6).log()  # from the best constant of the proper losses on
    w.requires_grad_()
    optimizer = torch.optim.Adam([w], lr=RATE)
    found = []
    for step in range(1, until + 1):
        optimizer.zero_grad()
        loss = weight @ distribution_loss(x @ w, target, loss=config.loss, cost=cost) / weight.sum()
        loss.backward()
        optimizer.step()
        if step in STEPS:
            found.append(w.detach().numpy().astype(np.float64))
    return found


def shares_of(states: np.ndarray, weights: np.ndarray) -> np.ndarray:
    logits = torch.from_numpy(np.hstack([states, np.ones((len(states), 1))]) @ weights)
    return np.asarray(logits.softmax(-1).numpy())


def with_prior_per_item(crowd: Any, states: np.ndarray, cluster: np.ndarray, seed: int) -> Any:
    """The crowd with posterior means under a prior for each item, predicted from the other folds of the clusters."""
    votes = crowd.votes
    shares = crowd.counts / votes[:, None]
    number = np.unique(cluster, return_inverse=True)[1]
    fold = np.random.default_rng([seed, 2]).permutation(number.max() + 1)[number] % FOLDS
    prior = np.zeros_like(shares)
    for held in range(FOLDS):
        inside = fold == held
        others = LabelRegression.fit(states[~inside], shares[~inside], votes[~inside], cluster[~inside], seed)
        prior[inside] = others.predict(states[inside])
    strength = estimated_strength(crowd.counts, prior) or 1.0  # single votes do not tell the strength
    return replace(crowd, distribution=posterior_mean(prior_state(prior, strength), crowd.counts))


def trained(row: str, crowd: Source, states: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int) -> Any:
    """Predicted shares `(held-out items, labels)`, the steps that were chosen, and their gain over the marginal."""
    config = DPRMConfig(str(OUT / "crowd_defaults"), use_cpu=True, report_to="none", **HEADS[row])
    prompts = np.random.default_rng([seed, 1]).permutation(np.unique(crowd.cluster[train]))
    inside = np.isin(crowd.cluster[train], prompts[: len(prompts) // 5])

    def learned(chosen: np.ndarray, until: int) -> tuple[list[np.ndarray], Any]:
        made = crowd_of(
            crowd.judgments(chosen), strength=config.prior_strength, smoothing=config.smoothing,
            cost=config.label_cost(crowd.scale),
        )  # fmt: skip
        assert made.response == [crowd.response[item] for item in chosen]
        if row == "ce, prior per item":
            made = with_prior_per_item(made, states[chosen], crowd.cluster[chosen], seed)
        mean, spread = states[chosen].mean(0), states[chosen].std(0)
        return head((states[chosen] - mean) / spread, made, config, until), lambda x: (x - mean) / spread

    tried, scaled = learned(train[~inside], STEPS[-1])
    held = train[inside]
    votes = crowd.counts[held]
    losses = [-(xlogy(votes, np.maximum(shares_of(scaled(states[held]), w), 1e-12))).sum() for w in tried]
    rest = crowd.counts[train[~inside]].sum(0)
    gain = -(votes @ np.log(np.maximum(rest / rest.sum(), 1e-12))).sum() - min(losses)
    steps = STEPS[int(np.argmin(losses))]
    found, scaled = learned(train, steps)
    return shares_of(scaled(states[test]), found[-1]), steps, gain / votes.sum()


def predicted(row: str, crowd: Source, states: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int) -> Any:
    if row in HEADS:
        return trained(row, crowd, states, train, test, seed)
    votes = crowd.counts[train].sum(1)
    if row == "logistic":
        shares = crowd.counts[train] / votes[:, None]
        fitted = LabelRegression.fit(states[train], shares, votes, crowd.cluster[train], seed)
        return fitted.predict(states[test]), fitted.ridge, None
    constants = LabelBaselines.fit(crowd_of(crowd.judgments(train)), votes)
    constant = constants.marginal if row == "marginal" else constants.medians
    return np.tile(constant, (len(test), 1)), 0, None


def fewer_votes(crowd: Source, most: int) -> Source:
    """At most so many votes of each item, drawn without replacement."""
    draw = np.random.default_rng(0)
    whole = crowd.counts.round().astype(np.int64)
    counts = [draw.multivariate_hypergeometric(own, min(most, own.sum())) for own in whole]
    return replace(crowd, counts=np.array(counts, float))


def run(name: str, options: Any) -> dict[str, Any]:
    """Mean metrics of the rows, and gains over the marginal and the regression, with intervals."""
    whole = source(name)
    crowd = fewer_votes(whole, options.votes) if options.votes else whole
    texts = items_of_texts(crowd.prompt, [[text] for text in crowd.response])
    states = text_features(texts, encoder(), reads="prompt+response", cache=OUT / "cache").astype(np.float64)
    values: dict[str, list[np.ndarray]] = {row: [] for row in options.rows}
    chosen: dict[str, list[float]] = {row: [] for row in options.rows}
    tuned: dict[str, list[float]] = {row: [] for row in options.rows}
    clusters, sizes = [], []
    for seed in range(options.seeds):
        for train, test in crowd.parts(seed):
            train = train[np.sort(np.random.default_rng([seed, 3]).permutation(len(train))[: options.items or None])]
            clusters.append(crowd.cluster[test])
            sizes.append((len(train), len(test)))
            for row in options.rows:
                mu, setting, gain = predicted(row, crowd, states, train, test, seed)
                tuned[row] += [] if gain is None else [gain]
                own = predicted_crowds(mu, whole.counts[test], crowd.scale.rewards, crowd.cluster[test])
                values[row].append(np.stack([own.values[key] for key in KEYS], 1))
                chosen[row].append(float(setting))
    each = {row: np.concatenate(own) for row, own in values.items()}
    resampling = Resampling(np.concatenate(clusters))  # seeds share prompts: one cluster over all of them
    rows = []
    for row in options.rows:
        metrics: dict[str, Any] = {"row": row, "chosen": chosen[row]}
        metrics |= {"tuning_gain": float(np.mean(tuned[row]))} if tuned[row] else {}
        for place, key in enumerate(KEYS):
            gains = {
                f"over_{base}": (each[base][:, place] - each[row][:, place], 1.0) for base in ("marginal", "logistic")
            }
            metrics[key] = float(each[row][:, place].mean())
            metrics |= {f"{key}_{found}": value for found, value in resampling.mean_intervals(gains).items()}
        rows.append(metrics)
    entropy = [-(xlogy(s, s)).sum(1).mean() for s in [crowd.counts / crowd.counts.sum(1, keepdims=True)]]
    return {"train": sizes[0][0], "test": sizes[0][1], "votes": float(np.median(crowd.counts.sum(1))),
            "entropy": float(entropy[0]), "rows": rows}  # fmt: skip


def main() -> None:
    names = [name for name in SOURCES if name != "polis-conversations"]
    options = parsed(
        __doc__, seeds=5, sources=parts(names, "Only these sources."), votes=(0, "Votes of a training item; 0 is all."),
        items=(0, "Training items; 0 is all."), rows=parts(ROWS, "Only these rows."), name="crowd_defaults",
    )  # fmt: skip
    torch.set_num_threads(1)
    results = {}
    for name in options.sources:
        results[name] = run(name, options)
        for row in results[name]["rows"]:
            gain = [row[f"log_loss_over_marginal{end}"] for end in ("", "_low", "_high")]
            print(f"{name:<18}{row['row']:<22}{row['log_loss']:.4f} {row['transport_cost']:.4f}", np.round(gain, 4),
                  row["chosen"], flush=True)  # fmt: skip
    store(options.name, {"options": vars(options), "sources": results})

"""How often intervals of metrics hold the truth: over prompts alone, and over prompts and annotators."""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from scipy.special import expit, logit

from pluralign.evaluation.calibration.crowd import crowd_calibration, crowd_pairs
from pluralign.evaluation.calibration.reliability import calibration_p_value
from pluralign.evaluation.crowds.distributions import Votes, evaluate_distributions
from pluralign.evaluation.crowds.vote_slices import vote_counts
from pluralign.evaluation.intervals import Resampling
from pluralign.evaluation.pairs import Pairs
from pluralign.evaluation.rewards.metrics import pair_metrics

from ..common.data import load
from ..common.options import parsed
from ..common.results import store

DESIGNS = {
    "20 annotators x 60": (40, [60] * 20),
    "60 annotators x 16": (40, [16] * 60),
    "10 annotators x 200": (100, [200] * 10),
    "200 annotators x 5": (100, [5] * 200),
    "1,000 annotators x 1": (100, [1] * 1000),
}
"""Number of prompts, and judgments of each annotator."""

TRUTH_PROMPTS = 8000
SKEWED, ANNOTATORS = "100 annotators, as in ConvArg", 100
PROMPT_SD, ANNOTATOR_SD, TEMPERATURE = 0.5, 1.0, 1.25
METRICS = ("accuracy", "log_loss", "brier_reliability", "ece_smooth")
CROWD = ("crowd_accuracy", "crowd_brier", "crowd_noise", "crowd_ece", "crowd_ece_majority", "majority_accuracy",
         "interval_coverage", "total_variation", "share_ece")  # fmt: skip
"""Metrics of the votes on each prompt's pair, and of a predicted distribution over the two labels "right", "wrong"."""


def drawn(rng: np.random.Generator, prompts: int, counts: np.ndarray) -> tuple[Pairs, np.ndarray]:
    """Judgments of pairs, one pair a prompt, and votes for one of two policies.

    The log-odds that annotator h agrees with the model on prompt p are |m_p| / 1.25 + b_p + b_h, with b_p and b_h
    normal of standard deviations 0.5 and 1; those of a vote for the first policy are 0.3 + b_p + b_h.
    """
    annotator = np.repeat(np.arange(len(counts)), counts)
    prompt = rng.integers(prompts, size=len(annotator))
    size = np.abs(rng.normal(scale=1.5, size=prompts))[prompt]
    shift = rng.normal(scale=PROMPT_SD, size=prompts)[prompt]
    shift += rng.normal(scale=ANNOTATOR_SD, size=len(counts))[annotator]
    right, won = (rng.random(len(prompt)) < expit(mean + shift) for mean in (size / TEMPERATURE, 0.3))
    margin, ones = np.where(right, size, -size), np.ones(len(prompt))
    return Pairs(margin, np.arange(len(prompt)), ones, prompt, len(prompt), 0, 0, annotator), won.astype(float)


def convarg_counts() -> np.ndarray:
    """Judgments of each annotator of ConvArg."""
    names = load("convarg")[0].column("annotator")
    return np.unique([name for name in names if name is not None], return_counts=True)[1]


def intervals(pairs: Pairs, won: np.ndarray, replicates: int, seed: int) -> dict[str, dict[str, float]]:
    """Metrics by prompts alone, and by prompts and annotators."""
    alone = Pairs(**{**vars(pairs), "annotator": None})
    found = {}
    for name, known in (("prompts", alone), ("both", pairs)):
        votes = Resampling(known.prompt, replicates, seed=seed, annotator=known.annotator)
        found[name] = pair_metrics(known, replicates=replicates, seed=seed) | of_votes(known, replicates, seed)
        found[name] |= votes.mean_intervals({"win_rate": (won, 1.0)})
        calibrated = Pairs(**{**vars(known), "margin": np.sign(pairs.margin) * calibrated_size(np.abs(pairs.margin))})
        p_value = calibration_p_value(calibrated, draws=replicates, seed=seed)
        found[name]["called_miscalibrated"] = float(p_value is not None and p_value <= 0.05)
    return found


def of_votes(pairs: Pairs, replicates: int, seed: int) -> dict[str, float]:
    """The metrics of `CROWD`: the judgments of a prompt are votes on its one pair."""
    count, size, right = len(pairs.margin), np.abs(pairs.margin), pairs.margin > 0
    crowd = crowd_pairs(
        np.stack([size, np.zeros(count)], 1).ravel(), np.where(right[:, None], [1, 2], [2, 1]).ravel(),
        np.arange(0, 2 * count + 1, 2), pairs.prompt, pairs.weight, np.tile([0, 1], count), annotator=pairs.annotator,
    )  # fmt: skip
    prompts, first, item = np.unique(pairs.prompt, return_index=True, return_inverse=True)
    predicted = expit(size[first])
    voters = None if pairs.annotator is None else Votes(item, (~right).astype(int), pairs.annotator, pairs.weight)
    distributions = evaluate_distributions(
        np.stack([predicted, 1 - predicted], 1), vote_counts(item, (~right).astype(int), len(prompts), 2),
        [1.0, 0.0], prompts, replicates=replicates, seed=seed, voters=voters,
    )  # fmt: skip
    found = crowd_calibration(crowd, replicates=replicates, seed=seed) | distributions
    return {key: value for key, value in found.items() if key.removesuffix("_low").removesuffix("_high") in CROWD}


def calibrated_size(size: np.ndarray) -> np.ndarray:
    """The log-odds that annotators agree on average, where the model says `size`."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    shift = np.hypot(PROMPT_SD, ANNOTATOR_SD) * nodes
    return logit(expit(size[:, None] / TEMPERATURE + shift) @ weights / weights.sum())


def covered(options: argparse.Namespace) -> list[dict[str, Any]]:
    whole = intervals(*drawn(np.random.default_rng(99), 300_000, np.ones(300_000, dtype=np.int64)), 0, 0)["both"]
    skewed = convarg_counts()
    rows = []
    for number, (design, (prompts, given)) in enumerate((DESIGNS | {SKEWED: (100, None)}).items()):
        rng, start = np.random.default_rng(number), time.perf_counter()
        # Metrics of votes depend on the number of votes of a pair.
        votes = round(sum(given) / prompts if given else ANNOTATORS * skewed.mean() / prompts)
        many = np.ones(TRUTH_PROMPTS * votes, dtype=np.int64)
        truth = whole | of_votes(drawn(np.random.default_rng(98), TRUTH_PROMPTS, many)[0], 0, 0)
        hits = {key: {"prompts": 0, "both": 0} for key in ("win_rate", *METRICS, *CROWD)}
        width = {key: {"prompts": 0.0, "both": 0.0} for key in hits}
        called = {"prompts": 0.0, "both": 0.0}
        judgments = 0
        for seed in range(options.simulations):
            counts = rng.choice(skewed, size=ANNOTATORS) if given is None else np.array(given)
            pairs, won = drawn(rng, prompts, counts)
            judgments += len(won)
            for way, metrics in intervals(pairs, won, options.replicates, seed).items():
                called[way] += metrics["called_miscalibrated"] / options.simulations
                for key in hits:
                    low, high = metrics[f"{key}_low"], metrics[f"{key}_high"]
                    hits[key][way] += low <= truth[key] <= high
                    width[key][way] += high - low
        for key, own in hits.items():
            share = {way: count / options.simulations for way, count in own.items()}
            mean = {way: total / options.simulations for way, total in width[key].items()}
            rows.append({"design": design, "metric": key, "truth": truth[key], "covered": share, "width": mean})
        rows.append({"design": design, "metric": "called_miscalibrated", "covered": called})
        shown = {row["metric"]: row["covered"] for row in rows[-len(hits) - 1 :]}
        print(design, judgments // options.simulations, shown, f"{time.perf_counter() - start:.0f} s", flush=True)
    return rows


def main() -> None:
    options = parsed(
        __doc__, simulations=(200, "Simulated data sets of each design."), replicates=(200, "Bootstrap draws.")
    )
    store("interval_coverage", {"options": vars(options), "rows": covered(options)})


if __name__ == "__main__":
    main()

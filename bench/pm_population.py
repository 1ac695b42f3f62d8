"""Whose answers does a policy give? A simulated town whose shares are known, and policies tuned on its rankings.

A kind of people chooses among answers with probability softmax(u) of its true utility u, the people are their
mixture by the kinds' shares, and an answer is of the kind that chooses it most, each kind measured by what it makes
of all answers that the town composes. Two questions:

- Listed: of a dozen composed answers to each prompt held out, which share does a policy give to each kind's, by
  softmax(log pi) over them? There the people's own shares are exact, and the total variation to them is told.
- Said: of what a policy answers to the same prompts, how many are of each kind?

All policies are tuned on the same rankings of three by all people, from a language model that knows how another
town answers, with beta 1; those tuned online by one reward model learned from these rankings, its temperature
fitted on half of the rankings of prompts held out. A method is one entry of METHODS: what `train` is given besides.

Every method and seed is kept as soon as it is done, and a stopped script goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import transformers
import yaml
from common import OUT, Clock
from scipy.special import log_softmax, softmax
from town_language_model import keep, kept, town_language_model

from pluralign.demo.comparison import ANSWER, CONTEXT, list_metrics
from pluralign.demo.town import COMPOSED, TOWN, candidates, log_choices, population_choices
from pluralign.judgments.population import PROMPTS, Simulation, Town, compose, simulate
from pluralign.judgments.split import split
from pluralign.policies.loading import load_policy
from pluralign.policies.mixture import MixturePolicy
from pluralign.policies.policy import Policy
from pluralign.scoring.items import items_of_texts
from pluralign.workflows.calibrate import calibrate
from pluralign.workflows.train.run import train

FOLDER = OUT / "pm_population"
TUNING = {"per_device_train_batch_size": 16, "learning_rate": 2e-3, "num_train_epochs": 2, "beta": 1.0}
"""As in the demo."""

ADAPTER = {"use_peft": True, "lora_target_modules": ["all-linear"]}
ONLINE: dict[str, Any] = {
    "objective": "pm-rlhf", "num_generations": 4, "per_device_train_batch_size": 32, "learning_rate": 1e-3,
    "max_steps": 60, "max_completion_length": ANSWER,
}  # fmt: skip
REWARD: dict[str, Any] = {
    "objective": "plackett-luce", "per_device_train_batch_size": 16, "learning_rate": 1e-3, "num_train_epochs": 3,
    "max_length": CONTEXT,
}  # fmt: skip
BASE, PEOPLE, POOL = "base", "people", "mean utility, matched exactly"
METHODS: dict[str, dict[str, Any]] = {
    BASE: {},
    "DPO": {"objective": "dpo", **ADAPTER},
    "matching the average, conditional": {"objective": "pm-dpo", "mode": "conditional", "alpha": 0.3, **ADAPTER},
    "matching the average": {"objective": "pm-dpo", "mode": "pm", **ADAPTER},
    "DPO by type": {"objective": "em-dpo", "types": 3},
    "matching by type": {"objective": "em-dpo", "types": 3, "mode": "pm"},
    "matching the average, six epochs": {"objective": "pm-dpo", "mode": "pm", "num_train_epochs": 6, **ADAPTER},
    "matching by type, six epochs": {"objective": "em-dpo", "types": 3, "mode": "pm", "num_train_epochs": 6},
    "KL-RLHF": {**ONLINE, "mode": "kl"},
    "matching the average, online, conditional": {**ONLINE, "mode": "conditional", "alpha": 0.3},
    "matching the average, online": {**ONLINE, "mode": "pm"},
}
"""The base is not tuned. With six epochs a type's policy sees about as many rankings as one for all with two."""


def drawn_first(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Log-shares of a list's answers if a type is drawn by its weight and then chooses among them.

    A mixture as one policy differs: over a list it counts each type also by the mass that the type's policy gives
    to the whole list, and one that says few things gives more to each.

    Args:
        values: `(types, prompts, answers)` utilities or log-probabilities.
        weights: `(types,)`.
    """
    parts = np.log(weights)[:, None, None] + log_softmax(values, axis=-1)
    return np.asarray(np.logaddexp.reduce(parts, axis=0))


def said(simulation: Simulation, policy: Policy, prompts: list[str], samples: int, seed: int) -> dict[str, Any]:
    """Shares of the kinds among a policy's own answers."""
    drawn = policy.sample(prompts, n=samples, max_new_tokens=ANSWER, seed=seed)
    flat = [one for group in drawn for one in group]
    kinds = log_choices(simulation, [one.response for one in flat]).argmax(axis=0)
    return {
        "shares": np.bincount(kinds, minlength=len(simulation.town.types)) / len(flat),
        "mean_length": float(np.mean([len(one.token_ids) for one in flat])),
        "unfinished": float(np.mean([not one.finished for one in flat])),
        "entropy": float(-np.mean([one.log_prob for one in flat])),
    }


def said_by_people(simulation: Simulation) -> list[float]:
    """Shares of the kinds among what people choose from all that the town composes."""
    rng = np.random.default_rng(1)
    composed = [compose(PROMPTS[rng.integers(len(PROMPTS))], rng).text for _ in range(COMPOSED)]
    utilities = log_choices(simulation, composed)
    chosen = simulation.town.shares @ softmax(utilities, axis=-1)
    return [float(chosen[utilities.argmax(axis=0) == kind].sum()) for kind in range(len(utilities))]


def trained(folder: Path, config: dict[str, Any], train_file: Path, seed: int) -> Path:
    """A finished run of `train`; one that is there is not trained again."""
    given = {
        "model_name_or_path": str(town_language_model()),
        "output_dir": str(folder),
        "train_files": [str(train_file)],
        "seed": seed,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "lr_scheduler_type": "cosine",
        **config,
    }
    file = folder.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(given, sort_keys=False))
    train(file)
    return folder


def tuned(folder: Path, config: dict[str, Any], train_file: Path, seed: int) -> Path:
    """The finished run of one method."""
    if config["objective"] == "pm-rlhf":
        reward = reward_model(folder.parent, train_file, seed)
        return trained(folder, {**TUNING, **config, "reward_model": str(reward)}, train_file, seed)
    return trained(folder, {"max_length": CONTEXT, **TUNING, **config}, train_file, seed)


def reward_model(folder: Path, train_file: Path, seed: int) -> Path:
    """One reward for all people of a town, with a temperature; learned once."""
    reward = folder / "reward"
    if not (reward / "calibration.json").exists():
        trained(reward, REWARD, train_file, seed)
        calibrate(reward, str(folder / "tuning.parquet"), seed=seed)
    return reward


def measured(method: str, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """One method in one town."""
    clock = Clock()
    simulation = simulate(Town(**settings["town"], seed=seed))
    train_part, test_part = split(simulation.judgments, by="prompt", test=0.25, seed=seed)
    prompts = sorted(set(test_part.column("prompt")))[: settings["prompts"]]
    texts = candidates(prompts, settings["candidates"], seed)
    if method in (PEOPLE, POOL):
        utilities = log_choices(simulation, [text for group in texts for text in group])
        utilities = utilities.reshape(len(utilities), len(texts), -1)
        exact = drawn_first(utilities, simulation.town.shares)
        if method == POOL:
            exact = np.einsum("k,kpa->pa", simulation.town.shares, utilities)
        found = {"listed": list_metrics(*population_choices(simulation, texts), exact)}
        return found | ({"said": {"shares": said_by_people(simulation)}} if method == PEOPLE else {})
    folder = FOLDER / f"{seed}{settings['suffix']}"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "train.parquet"
    train_part.write(file)
    split(test_part, by="prompt", test=0.5, seed=seed)[1].write(folder / "tuning.parquet")
    run = town_language_model()
    if method != BASE:
        quick = {"max_steps": 3} if settings["suffix"] and "max_steps" in METHODS[method] else {}
        run = tuned(folder / method.replace(" ", "-").replace(",", ""), METHODS[method] | quick, file, seed)
    tuning = clock()
    policy = load_policy(run, device="cpu", max_length=CONTEXT)
    tokens = policy.tokenize(items_of_texts(prompts, texts))
    log_probs = policy.values(tokens).reshape(len(prompts), -1)
    by_type = {}
    if isinstance(policy, MixturePolicy):
        each = policy.adapter_values(tokens).reshape(-1, *log_probs.shape)
        by_type = {
            "listed_by_type": list_metrics(*population_choices(simulation, texts), drawn_first(each, policy.weights))
        }
    spoken = said(simulation, policy, prompts, settings["samples"], seed)
    spoken["shares"] = spoken["shares"].tolist()
    return {
        "listed": list_metrics(*population_choices(simulation, texts), log_probs),
        **by_type,
        "said": spoken,
        "tuning_seconds": tuning,
        "seconds": clock(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--quick", action="store_true", help="try it out; the tables stay as they are")
    options = parser.parse_args()
    town = TOWN | ({"annotators": 24, "judgments_per_annotator": 8} if options.quick else {})
    settings = {
        "town": town, "prompts": 12 if options.quick else 48, "candidates": 12, "samples": 4, **TUNING,
        "suffix": "-quick" if options.quick else "",
    }  # fmt: skip
    transformers.logging.set_verbosity_error()
    for seed in options.seeds[: 1 if options.quick else None]:
        for method in [PEOPLE, POOL, *options.methods]:
            name = f"pm_population{'_quick' if options.quick else ''}"
            rows = kept(name, settings)
            if f"{method}, {seed}" in rows:
                continue
            found = measured(method, seed, settings)
            print(f"{method}, {seed}: {found}", flush=True)
            # Read again, as another process may have added its part meanwhile.
            keep(name, settings, kept(name, settings) | {f"{method}, {seed}": found})


if __name__ == "__main__":
    main()

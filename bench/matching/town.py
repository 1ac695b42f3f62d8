"""Whose responses does a policy give? A simulated town whose shares are known, and policies tuned on its rankings.

An annotator type chooses among responses with probability softmax(u) of its true utility u; the population is the
mixture of types by their shares. A response belongs to the type that chooses it most, each type measured relative to
all responses that the town composes. Two questions:

- Listed: of a dozen composed responses to each held-out prompt, which share does a policy give to each type's, by
  softmax(log pi) over them? There the population's shares are exact, and the total variation to them is reported.
- Sampled: of a policy's own responses to the same prompts, how many belong to each type?

All policies are tuned with beta 1 on the same rankings of three by all annotators, from a language model that has read
the responses of another town; online methods use a reward model of the same rankings, its temperature fitted on half of
the rankings of held-out prompts. A method is one entry of METHODS: the settings that `train` gets in addition.

Every method and seed is stored as soon as it is done, and a stopped script continues where it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import transformers
from scipy.special import log_softmax

from pluralign.demo.comparison import ANSWER, CONTEXT, list_metrics, said_metrics
from pluralign.demo.town import TOWN, candidates, chosen_shares, log_choices, population_choices
from pluralign.evaluation.rewards.best_of import softmax_answers
from pluralign.judgments.population import Town, simulate
from pluralign.judgments.split import split
from pluralign.policies.loading import load_policy
from pluralign.policies.mixture import MixturePolicy
from pluralign.policies.policy import Policy, Sample
from pluralign.scoring.items import items_of_texts
from pluralign.scoring.reward_models import load_reward_model
from pluralign.workflows.calibrate import calibrate

from ..common.options import QUICK, Option, parsed
from ..common.results import OUT, Clock, keep, kept
from ..common.training import town_language_model, trained

Row = dict[str, Any]
FOLDER = OUT / "pm_population"
TUNING = {"per_device_train_batch_size": 16, "learning_rate": 2e-3, "num_train_epochs": 2, "beta": 1.0}
"""As in the demo."""

ADAPTER = {"use_peft": True, "lora_target_modules": ["all-linear"]}
OFFLINE: dict[str, Any] = {"objective": "pm-dpo", "length_checks": 0}
BY_TYPE: dict[str, Any] = OFFLINE | {"matching_by": "type", "types": 3}
ONLINE: dict[str, Any] = {
    "objective": "pm-rlhf", "num_generations": 4, "per_device_train_batch_size": 32, "learning_rate": 1e-3,
    "max_steps": 30, "max_completion_length": ANSWER, "stop_if_endless": False,
}  # fmt: skip
REWARD: dict[str, Any] = {
    "objective": "plackett-luce", "per_device_train_batch_size": 16, "learning_rate": 1e-3, "num_train_epochs": 3,
    "max_length": CONTEXT,
}  # fmt: skip
BASE, POPULATION, POOL = "base", "population", "mean utility, matched exactly"
SOFTMAX = "best-of softmax"
METHODS: dict[str, dict[str, Any]] = {
    BASE: {},
    "matching by type, flattened": BY_TYPE,
    "matching by type, flattened .1": BY_TYPE | {"alpha": 0.1},
    "DPO": {"objective": "dpo", **ADAPTER},
    "matching, flattened .1": OFFLINE | ADAPTER | {"alpha": 0.1},
    "DPO by type": {"objective": "em-dpo", "types": 3},
    SOFTMAX: {},
    "KL-RLHF": ONLINE | {"mode": "kl"},
    "online, flattened .1": ONLINE | {"alpha": 0.1},
    "online, conditional .1": ONLINE | {"mode": "conditional", "alpha": 0.1},
    "matching, tempered .75": OFFLINE | ADAPTER | {"mode": "tempered", "reference_weight": 0.75},
    "matching, tempered .5": OFFLINE | ADAPTER | {"mode": "tempered", "reference_weight": 0.5},
    "matching, tempered .25": OFFLINE | ADAPTER | {"mode": "tempered", "reference_weight": 0.25},
    "matching, plain": OFFLINE | ADAPTER | {"mode": "pm"},
    "matching by type, plain": BY_TYPE | {"mode": "pm"},
}
"""The base is not tuned; best-of softmax draws 16 responses of it and keeps one by the reward model."""


def drawn_first(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Log-shares of listed responses if a type is drawn by its weight and then chooses among them.

    A mixture as one policy differs: it also weights each type by the mass that the type's policy gives to the whole
    list, and a concentrated policy gives more to each response.

    Args:
        values: `(types, prompts, responses)` utilities or log-probabilities.
        weights: `(types,)`.
    """
    parts = np.log(weights)[:, None, None] + log_softmax(values, axis=-1)
    return np.asarray(np.logaddexp.reduce(parts, axis=0))


def best_of_softmax(policy: Policy, reward: Path, prompts: list[str], samples: int, seed: int) -> list[list[Sample]]:
    """So many responses of a policy to each prompt, each one of 16 by the softmax of a reward model."""
    model = load_reward_model(reward, device="cpu")
    kept: list[list[Sample]] = [[] for _ in prompts]
    for number in range(samples):
        groups = policy.sample(prompts, n=16, max_new_tokens=ANSWER, seed=1000 * seed + number)
        texts = [[sample.response for sample in group] for group in groups]
        rewards = np.stack([model.score(prompt, group) for prompt, group in zip(prompts, texts, strict=True)])
        chosen = softmax_answers(rewards, texts, seed=seed + number).argmax(axis=1)
        for own, group, place in zip(kept, groups, chosen, strict=True):
            own.append(group[place])
    return kept


def tuned(folder: Path, config: dict[str, Any], train_file: Path, seed: int) -> Path:
    """The folder of one method's finished run."""
    config = {**TUNING, **config, "seed": seed}
    if config["objective"] == "pm-rlhf":
        config["reward_model"] = str(reward_model(folder.parent, train_file, seed))
    else:
        config["max_length"] = CONTEXT
    trained(folder, town_language_model(), train_file, **config)
    return folder


def reward_model(folder: Path, train_file: Path, seed: int) -> Path:
    """One reward model of a town's rankings, with a temperature; trained once."""
    reward = folder / "reward"
    if not (reward / "calibration.json").exists():
        trained(reward, town_language_model(), train_file, seed=seed, **REWARD)
        calibrate(reward, str(folder / "tuning.parquet"), seed=seed)
    return reward


def measured(method: str, seed: int, settings: dict[str, Any], config: dict[str, Any] | None = None) -> dict[str, Any]:
    """One method in one town; `config` is what `train` gets for it, by default that of METHODS."""
    clock = Clock()
    simulation = simulate(Town(**settings["town"], seed=seed))
    train_part, test_part = split(simulation.judgments, by="prompt", test=0.25, seed=seed)
    prompts = sorted(set(test_part.column("prompt")))[: settings["prompts"]]
    texts = candidates(prompts, settings["candidates"], seed)
    if method in (POPULATION, POOL):
        utilities = log_choices(simulation, [text for group in texts for text in group])
        utilities = utilities.reshape(len(utilities), len(texts), -1)
        exact = drawn_first(utilities, simulation.town.shares)
        if method == POOL:
            exact = np.einsum("k,kpa->pa", simulation.town.shares, utilities)
        row = {"listed": list_metrics(*population_choices(simulation, texts), exact)}
        return row | ({"said": {"shares": chosen_shares(simulation)}} if method == POPULATION else {})
    base = load_policy(town_language_model(), device="cpu", max_length=CONTEXT)
    folder = FOLDER / f"{seed}{settings['suffix']}"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "train.parquet"
    train_part.write(file)
    split(test_part, by="prompt", test=0.5, seed=seed)[1].write(folder / "tuning.parquet")
    run = town_language_model()
    if method not in (BASE, SOFTMAX):
        given = METHODS[method] if config is None else config
        quick = {"max_steps": 3} if settings["suffix"] and "max_steps" in given else {}
        run = tuned(folder / method.replace(" ", "-").replace(",", ""), given | quick, file, seed)
    tuning = clock()
    if method == SOFTMAX:
        policy = load_policy(run, device="cpu", max_length=CONTEXT)
        groups = best_of_softmax(policy, reward_model(folder, file, seed), prompts, settings["samples"], seed)
        return {"said": said_metrics(simulation, prompts, groups, base, seed), "seconds": clock()}
    policy = load_policy(run, device="cpu", max_length=CONTEXT)
    tokens = policy.tokenize(items_of_texts(prompts, texts))
    said = policy.sample(prompts, n=settings["samples"], max_new_tokens=ANSWER, seed=seed)
    log_probs = policy.values(tokens).reshape(len(prompts), -1)
    by_type = {}
    if isinstance(policy, MixturePolicy):
        each = policy.adapter_values(tokens).reshape(-1, *log_probs.shape)
        by_type = {
            "listed_by_type": list_metrics(*population_choices(simulation, texts), drawn_first(each, policy.weights))
        }
    return {
        "listed": list_metrics(*population_choices(simulation, texts), log_probs),
        **by_type,
        "said": said_metrics(simulation, prompts, said, base, seed),
        "tuning_seconds": tuning,
        "seconds": clock(),
    }


def town_settings(quick: bool) -> dict[str, Any]:
    """Of a town, its tuning, and the responses that are measured."""
    town = TOWN | ({"annotators": 24, "judgments_per_annotator": 8} if quick else {})
    return {
        "town": town, "prompts": 12 if quick else 48, "candidates": 12, "samples": 6, **TUNING,
        "suffix": "-quick" if quick else "",
    }  # fmt: skip


def main() -> None:
    options = parsed(__doc__, seeds=[0, 1, 2], methods=Option(list(METHODS), "Methods.", METHODS), quick=QUICK)
    settings = town_settings(options.quick)
    transformers.logging.set_verbosity_error()
    name = f"pm_population{'_quick' if options.quick else ''}"
    for seed in options.seeds[: 1 if options.quick else None]:
        for method in [POPULATION, POOL, *options.methods]:
            if f"{method}, {seed}" in kept(name, settings):
                continue
            row = measured(method, seed, settings)
            print(f"{method}, {seed}: {row}", flush=True)
            # Read again, because another process may have added its part in the meantime.
            keep(name, settings, kept(name, settings) | {f"{method}, {seed}": row})

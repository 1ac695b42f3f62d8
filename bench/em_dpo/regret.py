"""Regret of one policy for a simulated town: how large is it for the worst-off type, and what do annotators prefer?

For each seed a town of three annotator types, with prompts held out; EM-DPO and plain DPO with the demo's settings,
from a language model that has read the responses of another town; `aggregate` with its distilled policy, on held-out
prompts.

Regrets are those of the estimated types, in nats under their own policies. Win rates are those of the true types: how
often a policy's responses beat the base model's by the true utility of a type, on the same responses. "Own type's" is
the policy of the estimated type that most annotators of a true type belong to; the rate of a mixture is the weighted
mean of its parts.

Every seed is stored as soon as it is done, and a stopped script continues where it was.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import transformers

from pluralign.choice.regret import hedge, min_max_regret, regret_matrix
from pluralign.core.runs import read_metrics
from pluralign.demo.comparison import ANSWER, CONTEXT
from pluralign.demo.town import TOWN, types_by_group
from pluralign.evaluation.annotators.types import type_accuracy
from pluralign.evaluation.policies.regret import means, preferred, with_mixtures
from pluralign.judgments.population import Simulation, Town, simulate
from pluralign.judgments.split import split
from pluralign.scoring.mixtures import RESPONSIBILITIES
from pluralign.workflows.aggregate.answers import BASE, utilities_by
from pluralign.workflows.aggregate.distill import DISTILLED
from pluralign.workflows.aggregate.run import aggregate

from ..common.options import QUICK, parsed
from ..common.results import OUT, Clock, keep, kept
from ..common.training import town_language_model, trained

FOLDER = OUT / "em_regret"
TUNING = {"per_device_train_batch_size": 16, "learning_rate": 2e-3, "num_train_epochs": 2, "beta": 1.0}
"""As in the demo; the same for both objectives."""

DISTILLING = {"distill_epochs": 3, "distill_learning_rate": 2e-3}
DPO, OWN = "dpo", "own type's"


def measured(folder: Path, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """One town."""
    clock = Clock()
    simulation = simulate(Town(**settings["town"], seed=seed))
    folder.mkdir(parents=True, exist_ok=True)
    train, test = split(simulation.judgments, by="prompt", test=0.25, seed=seed)
    train.write(folder / "train.parquet")
    test.write(folder / "test.parquet")
    base, data = town_language_model(), folder / "train.parquet"
    config = {"eval_files": [str(folder / "test.parquet")], "seed": seed, "max_length": CONTEXT, **TUNING}
    mixture, policy = folder / "people", folder / "policy"
    trained(mixture, base, data, objective="em-dpo", types=settings["types"], **config)
    trained(policy, base, data, objective="dpo", use_peft=True, lora_target_modules=["all-linear"], **config)
    training = clock()
    together = folder / "together"
    aggregate(
        mixture, together, policies={DPO: policy}, samples=settings["samples"], max_new_tokens=ANSWER, distill=True,
        seed=seed, **DISTILLING,
    )  # fmt: skip
    metrics = read_metrics(mixture)
    summary = json.loads((together / "aggregate.json").read_text())
    return {
        "types": metrics["types"],
        "verdict": metrics["identification"],
        "type_accuracy": recovered(simulation, mixture),
        "kinds": types_by_group(simulation, mixture),
        "training_seconds": training,
        **regrets(together, summary),
        "win_rate": win_rates(simulation, mixture, together, summary, seed),
        "seconds": clock(),
    }


def recovered(simulation: Simulation, run: Path) -> float:
    """Share of annotators in the right type, best matching."""
    rows = pq.read_table(run / RESPONSIBILITIES).to_pylist()
    types = sum(key.startswith("probability_") for key in rows[0])
    kinds = [simulation.types[row["annotator"]] for row in rows]
    return type_accuracy([row["type"] - 1 for row in rows], kinds, types, replicates=0)["type_accuracy"]


def regrets(together: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """The largest regret over types under each policy, and the game's value by both solvers."""
    types = [kind["policy"] for kind in summary["types"]]
    responses = pq.read_table(together / "answers.parquet")
    table = regret_matrix(utilities_by(responses, types, summary["prompts"]).mean((-2, -1)))
    games = {"linear programme": min_max_regret(table), "Hedge": hedge(table)}
    policies = {
        policy["name"]: {
            "value": policy["max_regret"], "types": [kind["regret"] for kind in policy["types"]],
            **{key: policy[key] for key in ("low", "high", "unfinished", "mean_length")},
        }
        for policy in summary["policies"]
    }  # fmt: skip
    return {
        "prompts": summary["prompts"],
        "answers": responses.num_rows,
        "regret": policies,
        "game": {name: {"value": game.value, "weights": game.weights.tolist()} for name, game in games.items()},
        "game_interval": [summary["game"]["low"], summary["game"]["high"]],
        "warnings": summary["warnings"],
    }


def win_rates(
    simulation: Simulation, run: Path, together: Path, summary: dict[str, Any], seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    """How often each true type prefers a policy's response to the base model's (ties count half), with intervals."""
    types = [kind["policy"] for kind in summary["types"]]
    mixtures = {policy["name"]: policy["weights"] for policy in summary["policies"] if policy["kind"] == "mixture"}
    authors = [*types, BASE, DPO, DISTILLED]
    rows = pq.read_table(together / "answers.parquet").select(["by", "response"]).to_pylist()
    utility = {text: simulation.utilities(text) for text in {row["response"] for row in rows}}
    texts = {name: [utility[row["response"]] for row in rows if row["by"] == name] for name in authors}
    shape = (len(authors), summary["prompts"], summary["samples"], -1)
    utilities = np.moveaxis(np.array([texts[name] for name in authors]).reshape(shape), -1, 0)
    better = preferred(utilities, utilities[:, [len(types)]])  # (true types, policies, prompts)
    better = with_mixtures(better, np.array(list(mixtures.values())))
    names = [*authors, *mixtures]
    own = types_by_group(simulation, run)
    kinds = [kind.name for kind in simulation.town.types]
    mine = np.stack([better[place, names.index(own[kind])] for place, kind in enumerate(kinds)])[:, None]
    rates = means(np.concatenate((better, mine), axis=1), seed=seed)
    return {
        name: {
            kind: {key: float(getattr(rates, key)[at, place]) for key in ("value", "low", "high")}
            for at, kind in enumerate(kinds)
        }
        for place, name in enumerate([*names, OWN])
        if name != BASE
    }


def main() -> None:
    options = parsed(
        __doc__, seeds=[0, 1, 2], types=("auto", "A number of types, or auto as in the demo."),
        samples=(4, "Responses to each prompt from each policy."), quick=QUICK,
    )  # fmt: skip
    suffix = "_quick" if options.quick else ""
    town = TOWN | ({"annotators": 24, "judgments_per_annotator": 8} if options.quick else {})
    types = options.types if options.types == "auto" else int(options.types)
    settings = {"town": town, "types": types, "samples": options.samples, **TUNING, **DISTILLING, "longest": ANSWER}
    transformers.logging.set_verbosity_error()
    name = f"em_regret{suffix}"
    rows = kept(name, settings)
    for seed in options.seeds[: 1 if options.quick else None]:
        if str(seed) not in rows:
            row = measured(FOLDER / f"{seed}-{types}-{options.samples}{suffix}", seed, settings)
            rows[str(seed)] = row
            largest = {policy: round(regret["value"], 2) for policy, regret in row["regret"].items()}
            print(f"seed {seed}: {largest}, {row['seconds']} s", flush=True)
            keep(name, settings, rows)

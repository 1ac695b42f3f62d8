"""One policy for a simulated town: how much does it leave the worst-off to regret, and do they like it in truth?

For each seed a town of three kinds of people, prompts held out; EM-DPO and plain DPO with the demo's settings, from
a language model that knows how another town answers; `aggregate` with its distilled policy, on held-out prompts.

Regrets are of the types that were found, in nats of their own policies. Win rates are of the people that there are:
how often a policy's answers beat the base's by a kind's true utility, on the same answers. "Own type's" is the
policy of the type that most people of a kind were found to be of; a mixture's rate is the mean of its parts' by its
weights.

Every seed is kept as soon as it is done, and a stopped script goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import transformers
import yaml
from common import OUT, Clock
from town_language_model import keep, kept, town_language_model

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
from pluralign.workflows.train.run import train

FOLDER = OUT / "em_regret"
TUNING = {"per_device_train_batch_size": 16, "learning_rate": 2e-3, "num_train_epochs": 2, "beta": 1.0}
"""As in the demo, for both objectives."""

DISTILLING = {"distill_epochs": 3, "distill_learning_rate": 2e-3}
DPO, OWN = "dpo", "own type's"


def tuned(folder: Path, name: str, config: dict[str, Any], seed: int) -> Path:
    """A finished run of `train` on the seed's files."""
    given = {
        "model_name_or_path": str(town_language_model()),
        "output_dir": str(folder / name),
        "train_files": [str(folder / "train.parquet")],
        "eval_files": [str(folder / "test.parquet")],
        "seed": seed,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "lr_scheduler_type": "cosine",
        "max_length": CONTEXT,
        **TUNING,
        **config,
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(given, sort_keys=False))
    train(file)
    return folder / name


def measured(folder: Path, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """One town."""
    clock = Clock()
    simulation = simulate(Town(**settings["town"], seed=seed))
    folder.mkdir(parents=True, exist_ok=True)
    for part, name in zip(
        split(simulation.judgments, by="prompt", test=0.25, seed=seed), ("train", "test"), strict=True
    ):
        part.write(folder / f"{name}.parquet")
    people = tuned(folder, "people", {"objective": "em-dpo", "types": settings["types"]}, seed)
    policy = tuned(
        folder, "policy", {"objective": "dpo", "use_peft": True, "lora_target_modules": ["all-linear"]}, seed
    )
    training = clock()
    together = folder / "together"
    aggregate(
        people, together, policies={DPO: policy}, samples=settings["samples"], max_new_tokens=ANSWER, distill=True,
        seed=seed, **DISTILLING,
    )  # fmt: skip
    found = read_metrics(people)
    story = json.loads((together / "aggregate.json").read_text())
    return {
        "types": found["types"],
        "verdict": found["identification"],
        "type_accuracy": recovered(simulation, people),
        "kinds": types_by_group(simulation, people),
        "training_seconds": training,
        **regrets(together, story),
        **liked(simulation, people, together, story, seed),
        "seconds": clock(),
    }


def recovered(simulation: Simulation, run: Path) -> float:
    """Share of people in the right type, best matching."""
    rows = pq.read_table(run / RESPONSIBILITIES).to_pylist()
    types = sum(key.startswith("probability_") for key in rows[0])
    kinds = [simulation.types[row["annotator"]] for row in rows]
    return type_accuracy([row["type"] - 1 for row in rows], kinds, types, replicates=0)["type_accuracy"]


def regrets(together: Path, story: dict[str, Any]) -> dict[str, Any]:
    """The largest regret over types under each policy, and the game's value by both solvers."""
    types = [one["policy"] for one in story["types"]]
    answers = pq.read_table(together / "answers.parquet")
    table = regret_matrix(utilities_by(answers, types, story["prompts"]).mean((-2, -1)))
    games = {"linear programme": min_max_regret(table), "Hedge": hedge(table)}
    return {
        "prompts": story["prompts"],
        "answers": answers.num_rows,
        "regret": {
            one["name"]: {
                "value": one["max_regret"], "low": one["low"], "high": one["high"],
                "types": [here["regret"] for here in one["types"]], "unfinished": one["unfinished"],
                "mean_length": one["mean_length"],
            }
            for one in story["policies"]
        },
        "game": {name: {"value": game.value, "weights": game.weights.tolist()} for name, game in games.items()},
        "game_interval": [story["game"]["low"], story["game"]["high"]],
        "warnings": story["warnings"],
    }  # fmt: skip


def liked(
    simulation: Simulation, run: Path, together: Path, story: dict[str, Any], seed: int
) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """How often each kind of person truly prefers a policy's answer to the base's, ties half, with intervals."""
    types = [one["policy"] for one in story["types"]]
    mixtures = {one["name"]: one["weights"] for one in story["policies"] if one["kind"] == "mixture"}
    drawers = [*types, BASE, DPO, DISTILLED]
    rows = pq.read_table(together / "answers.parquet").select(["by", "response"]).to_pylist()
    worth = {text: simulation.utilities(text) for text in {row["response"] for row in rows}}
    texts = {name: [worth[row["response"]] for row in rows if row["by"] == name] for name in drawers}
    shape = (len(drawers), story["prompts"], story["samples"], -1)
    utilities = np.moveaxis(np.array([texts[name] for name in drawers]).reshape(shape), -1, 0)
    better = preferred(utilities, utilities[:, [len(types)]])  # (kinds, policies, prompts)
    better = with_mixtures(better, np.array(list(mixtures.values())))
    names = [*drawers, *mixtures]
    own = types_by_group(simulation, run)
    kinds = [kind.name for kind in simulation.town.types]
    mine = np.stack([better[place, names.index(own[kind])] for place, kind in enumerate(kinds)])[:, None]
    found = means(np.concatenate((better, mine), axis=1), seed=seed)
    return {
        "win_rate": {
            name: {
                kind: {"value": float(found.value[at, place]), "low": float(found.low[at, place]),
                       "high": float(found.high[at, place])}
                for at, kind in enumerate(kinds)
            }
            for place, name in enumerate([*names, OWN])
            if name != BASE
        }
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--types", default="auto", help="a number, or auto as in the demo")
    parser.add_argument("--samples", type=int, default=4, help="answers to each prompt from each policy")
    parser.add_argument("--quick", action="store_true", help="try it out; the tables stay as they are")
    options = parser.parse_args()
    suffix = "_quick" if options.quick else ""
    town = TOWN | ({"annotators": 24, "judgments_per_annotator": 8} if options.quick else {})
    types = options.types if options.types == "auto" else int(options.types)
    settings = {"town": town, "types": types, "samples": options.samples, **TUNING, **DISTILLING, "longest": ANSWER}
    transformers.logging.set_verbosity_error()
    name = f"em_regret{suffix}"
    rows = kept(name, settings)
    for seed in options.seeds[: 1 if options.quick else None]:
        if str(seed) not in rows:
            folder = FOLDER / f"{seed}-{types}-{options.samples}{suffix}"
            rows[str(seed)] = measured(folder, seed, settings)
            largest = {policy: round(one["value"], 2) for policy, one in rows[str(seed)]["regret"].items()}
            print(f"seed {seed}: {largest}, {rows[str(seed)]['seconds']} s", flush=True)
            keep(name, settings, rows)


if __name__ == "__main__":
    main()

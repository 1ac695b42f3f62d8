"""One policy for all types of a simulated town: how often does the worst-off type prefer it to the base?

For each seed a town of three annotator types, with prompts held out; EM-DPO with the demo's settings, from a language
model that has read the responses of another town; `aggregate` with all its policies.

Win rates are reported twice on the same held-out responses: by judges fitted to held-out judgments, and by the true
utilities of the town's types. "Own type's" is the policy of the estimated type that most annotators of a true type
belong to; the rate of a mixture is the weighted mean of its parts. The rows `best-of, ...` choose from the same fresh
candidates of the base: by the weighted sum of the shares of the base's responses that types like less, by the
smallest of these shares, by the weighted sum of percentiles among the candidates, and with the true types as judges,
which is what a perfect judge would gain.

Every seed is stored as soon as it is done, and a stopped script continues where it was.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import transformers

from pluralign.choice.regret import best_of_types, best_of_weights
from pluralign.demo.comparison import ANSWER, CONTEXT, WinRates, win_rates
from pluralign.demo.town import TOWN, types_by_group
from pluralign.evaluation.annotators.types import type_accuracy
from pluralign.evaluation.policies.regret import largest_losses, means, preferred
from pluralign.judgments import read
from pluralign.judgments.population import Simulation, Town, simulate
from pluralign.judgments.split import split
from pluralign.policies.best_of import shares_below, yardstick_of
from pluralign.policies.loading import load_policy
from pluralign.scoring.items import items_of_texts
from pluralign.scoring.mixtures import RESPONSIBILITIES, read_mixture, read_responsibilities
from pluralign.scoring.type_judges import fit_feature_judge
from pluralign.workflows.aggregate.run import aggregate

from ..common.options import QUICK, parsed
from ..common.results import OUT, Clock, keep, kept
from ..common.training import town_language_model, trained

FOLDER = OUT / "aggregation_town"
TUNING = {"per_device_train_batch_size": 16, "learning_rate": 2e-3, "num_train_epochs": 2, "beta": 1.0}
"""As in the demo."""

COMBINING = {
    "candidates": 16, "trials": 8, "max_tuning_prompts": 32, "distill": ["best-of"], "distill_samples": 1,
    "distill_epochs": 3, "distill_learning_rate": 2e-3,
}  # fmt: skip


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
    run, together = folder / "people", folder / "together"
    metrics = trained(run, base, data, objective="em-dpo", types=settings["types"], **config)
    training = clock()
    found = aggregate(
        run, together, samples=settings["samples"], max_new_tokens=ANSWER, seed=seed,
        **COMBINING,
    )  # fmt: skip
    combining = clock()
    story = json.loads((together / "aggregate.json").read_text())
    true = {name: recorded(rates) for name, rates in win_rates(simulation, run, together, seed).items()}
    judged = {
        policy["name"]: policy["worst_win_rate"] | {"types": [kind["win_rate"] for kind in policy["types"]]}
        for policy in story["policies"]
    }
    return {
        "types": found["types"],
        "verdict": metrics["identification"],
        "type_accuracy": recovered(simulation, run),
        "prompts": found["prompts"],
        "tuning_prompts": found["tuning_prompts"],
        "winner": found["winner"],
        "kinds": types_by_group(simulation, run),
        "weights": {key: value for key, value in found.items() if "_weights/" in key},
        "max_regret": {name: found[f"max_regret/{name}"] for name in judged},
        "judged": judged,
        "true": true | rules(simulation, run, base, folder, seed, settings),
        "training_seconds": training,
        "combining_seconds": combining,
    }


def recorded(rates: WinRates) -> dict[str, Any]:
    """The worst-off type's rate with its interval, and the rate of every type."""
    worst = {key: rates.worst.get(f"win_rate{end}") for key, end in (("value", ""), ("low", "_low"), ("high", "_high"))}
    return worst | {"types": [rate["win_rate"] for rate in rates.groups.values()]}


def recovered(simulation: Simulation, run: Path) -> float:
    """Share of annotators in the right type, best matching."""
    rows = pq.read_table(run / RESPONSIBILITIES).to_pylist()
    types = sum(key.startswith("probability_") for key in rows[0])
    kinds = [simulation.types[row["annotator"]] for row in rows]
    return type_accuracy([row["type"] - 1 for row in rows], kinds, types, replicates=0)["type_accuracy"]


def rules(
    simulation: Simulation, run: Path, base: Path, folder: Path, seed: int, settings: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Other rules for the best of n, and other judges, on the same candidates of the base for all of them."""
    n, samples = COMBINING["candidates"], settings["samples"]
    mixture = read_mixture(run)
    judge = fit_feature_judge(read(folder / "train.parquet"), read_responsibilities(run), mixture.weights, seed=seed)
    asked = sorted(set(read(folder / "test.parquet").column("prompt")))
    others = sorted(set(read(folder / "train.parquet").column("prompt")) - set(asked))
    drawn = np.random.default_rng(seed).choice(len(others), COMBINING["max_tuning_prompts"], replace=False)
    tuning = [others[place] for place in sorted(drawn)]
    policy = load_policy(base, max_length=CONTEXT)

    def utilities(prompts: list[str], draws: int, shift: int) -> tuple[np.ndarray, np.ndarray]:
        """Judged and true utilities of fresh responses of the base `(types, prompts, draws)`."""
        drawn = policy.sample(prompts, n=draws, max_new_tokens=ANSWER, seed=seed + shift)
        texts = [[sample.response for sample in group] for group in drawn]
        judged = judge.utilities(items_of_texts(prompts, texts))
        true = np.array([simulation.utilities(text) for group in texts for text in group]).T
        return judged.reshape(-1, len(prompts), draws), true.reshape(-1, len(prompts), draws)

    tuned, (judged, true) = utilities(tuning, n, 100), utilities(asked, samples * (n + 1), 101)
    other, theirs = true[:, :, :samples], true[:, :, samples:].reshape(len(true), len(asked), samples, n)
    rates = {}
    for name, own, seen, compared, weighted in (
        ("best-of, weighted", tuned[0], judged, True, True),
        ("best-of, smallest", tuned[0], judged, True, False),
        ("best-of, weighted percentiles", tuned[0], judged, False, True),
        ("best-of, true utilities", tuned[1], true, True, True),
    ):  # fmt: skip
        yardstick = yardstick_of(own) if compared else None
        table = shares_below(seen[:, :, samples:].reshape(len(seen), len(asked), samples, n), yardstick)
        weights = best_of_weights(shares_below(own, yardstick)) if weighted else None
        chosen = best_of_types(table, weights)  # (prompts, samples)
        got = np.take_along_axis(theirs, chosen[None, ..., None], 3)[..., 0]
        better = preferred(got, other)[:, None]
        worst, each = largest_losses(1 - better, seed=seed), means(better, seed=seed).value[:, 0]
        ends = {"value": 1 - worst.value[0], "low": 1 - worst.high[0], "high": 1 - worst.low[0]}
        rates[name] = {key: float(value) for key, value in ends.items()} | {"types": each.tolist()}
    return rates


def main() -> None:
    options = parsed(
        __doc__, seeds=[0, 1, 2, 3, 4], types=("auto", "A number of types, or auto as in the demo."),
        samples=(4, "Responses to each prompt from each policy."), quick=QUICK,
    )  # fmt: skip
    suffix = "_quick" if options.quick else ""
    town = TOWN | ({"annotators": 24, "judgments_per_annotator": 8} if options.quick else {})
    types = options.types if options.types == "auto" else int(options.types)
    settings = {"town": town, "types": types, "samples": options.samples, **TUNING, **COMBINING, "longest": ANSWER}
    transformers.logging.set_verbosity_error()
    name = f"aggregation_town{suffix}"
    rows = kept(name, settings)
    for seed in options.seeds[: 1 if options.quick else None]:
        if str(seed) not in rows:
            row = measured(FOLDER / f"{seed}-{types}-{options.samples}{suffix}", seed, settings)
            rows[str(seed)] = row
            worst = {policy: round(rate["value"], 2) for policy, rate in row["true"].items()}
            print(f"seed {seed}: {worst}, {row['combining_seconds']} s", flush=True)
            keep(name, settings, rows)

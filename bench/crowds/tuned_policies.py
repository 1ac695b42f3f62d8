"""The layout of DPRM's Table 2 on a small model: the share of the best label in what a tuned policy says.

The crowd is a simulated town whose people label single responses on the scale `hh-6`. Half of them train a reward model
(each row), the others train the second scorer, a DPRM by its defaults. The reference is a Llama of half a million
parameters that has read another town. Each policy is the reference tuned by supervised fine-tuning on the best of n of
its own responses under the row's reward; the paper tunes by PPO. On held-out prompts each policy draws responses, whose
share of the label `helpful+harmless` is predicted by the row's own model (if it predicts labels, as in the paper) and
by the second scorer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

import pluralign
from pluralign.evaluation.intervals import Resampling
from pluralign.judgments import Judgments
from pluralign.judgments.population import Town, simulate
from pluralign.scoring.items import items_of_texts
from pluralign.scoring.reward_models import LabelModel, load_reward_model
from pluralign.workflows.best_of import best_of

from ..common.options import parsed, parts
from ..common.results import OUT, store
from ..common.training import town_language_model, trained

ROWS: dict[str, dict[str, Any]] = {
    "Bradley-Terry": {"objective": "bradley-terry"},
    "DPRM_C": {"objective": "dprm", "preset": "DPRM_C"},
    "DPRM_W": {"objective": "dprm", "preset": "DPRM_W"},
    "DPRM_OT": {"objective": "dprm", "preset": "DPRM_OT"},
    "DPRM, defaults": {"objective": "dprm"},
}
BEST = "helpful+harmless"


def votes(options: Any, seed: int) -> tuple[Judgments, Judgments, list[str]]:
    """Labels of two halves of the people, and prompts of another town."""
    town = {"responses": 2, "labels": "only", "label_scale": "hh-6"}
    table = simulate(
        Town(annotators=options.annotators, judgments_per_annotator=options.judgments, seed=seed, **town)
    ).judgments
    people = sorted(set(table.column("annotator")))
    ours = set(np.random.default_rng(seed).permutation(people)[: len(people) // 2].tolist())
    rows = [row for row, name in enumerate(table.column("annotator")) if name in ours]
    others = [row for row, name in enumerate(table.column("annotator")) if name not in ours]
    held_out = simulate(Town(annotators=options.prompts, judgments_per_annotator=1, seed=seed + 500, **town)).judgments
    return table.select(rows), table.select(others), held_out.unique_prompts(options.prompts, seed)


def said(policy: Path | str, prompts: list[str], options: Any, seed: int) -> Any:
    drawn = pluralign.load_policy(policy).sample(prompts, n=options.draws, max_new_tokens=64, seed=seed)
    return items_of_texts(prompts, [[sample.response for sample in group] for group in drawn])


def shares(model: LabelModel, items: Any) -> np.ndarray:
    """The predicted share of the best label of each response."""
    return model.distributions(items)[:, model.scale.labels.index(BEST)]


def run(options: Any, seed: int) -> dict[str, list[dict[str, np.ndarray]]]:
    folder = OUT / "dprm_policies" / str(seed)
    folder.mkdir(parents=True, exist_ok=True)
    reference = town_language_model()
    ours, others, prompts = votes(options, seed)
    for name, table in (("ours", ours), ("others", others)):
        table.write(folder / f"{name}.parquet")
    tuning = folder / "ours.parquet"
    common = {
        "learning_rate": 2e-3, "num_train_epochs": options.epochs, "per_device_train_batch_size": 32, "seed": seed,
        "logistic_baseline": False,
    }  # fmt: skip
    trained(folder / "scorer", reference, folder / "others.parquet", objective="dprm", **common)
    scorer = load_reward_model(folder / "scorer")
    first = said(reference, prompts, options, seed)
    found: dict[str, Any] = {}
    for row in options.rows:
        name = row.lower().replace(", ", "-").replace(" ", "-")
        settings = {key: value for key, value in common.items() if key != "logistic_baseline" or row != "Bradley-Terry"}
        trained(folder / name, reference, tuning, **ROWS[row], **settings)
        best = folder / f"{name}-best.parquet"
        if not best.exists():
            best_of(reference, tuning, best, reward=folder / name, n=options.n, max_new_tokens=64,
                    max_prompts=options.tuning, seed=seed)  # fmt: skip
        policy = folder / f"{name}-policy"
        trained(policy, reference, best, objective="sft", responses="best", learning_rate=1e-3,
                num_train_epochs=options.epochs, per_device_train_batch_size=16, seed=seed)  # fmt: skip
        own, items = load_reward_model(folder / name), said(policy, prompts, options, seed)
        judged = {"scorer": scorer} | ({"own": own} if isinstance(own, LabelModel) else {})
        found[row] = {judge: (shares(model, items), shares(model, first)) for judge, model in judged.items()} | {
            "prompt": items.item
        }
    return found


def main() -> None:
    options = parsed(
        __doc__, seeds=[0, 1, 2], rows=parts(ROWS, "Only these rows."), annotators=(400, "People of the town."),
        judgments=(10, "Judgments of each, of two responses."), epochs=(3.0, "Of every training."),
        prompts=(60, "Held-out prompts."), draws=(4, "Responses drawn to each."), n=(8, "Of best-of-n."),
        tuning=(200, "Prompts of best-of-n."),
    )  # fmt: skip
    torch.set_num_threads(1)
    runs = [run(options, seed) for seed in options.seeds]
    rows = []
    for row in options.rows:
        metrics: dict[str, Any] = {"row": row}
        prompt = np.concatenate([own[row]["prompt"] + 10_000 * place for place, own in enumerate(runs)])
        for judge in ("own", "scorer"):
            if judge not in runs[0][row]:
                continue
            tuned, first = (np.concatenate([own[row][judge][side] for own in runs]) for side in (0, 1))
            means = {judge: (100 * tuned, 1.0), f"{judge}_gain": (100 * (tuned - first), 1.0)}
            metrics |= Resampling(prompt).mean_intervals(means)
            metrics[f"{judge}_reference"] = float(100 * first.mean())
        rows.append(metrics)
        print(
            {key: round(value, 2) if isinstance(value, float) else value for key, value in metrics.items()}, flush=True
        )
    store("dprm_policies", {"options": vars(options), "rows": rows})

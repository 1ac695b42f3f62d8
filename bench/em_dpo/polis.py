"""The conversations of `em_real`: types against opinion groups, prediction of held-out rankings, regrets of groups."""

from __future__ import annotations

import argparse
import json
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from sklearn.metrics import adjusted_rand_score

from pluralign.evaluation.annotators.types import type_accuracy
from pluralign.evaluation.pairs import pairs_of
from pluralign.evaluation.policies.regret import game_interval, regret_table, regrets_by_prompt, with_mixtures
from pluralign.evaluation.rewards.metrics import pair_metrics
from pluralign.judgments import Judgments
from pluralign.scoring.items import items_of
from pluralign.scoring.measured import believed, shown_rewards
from pluralign.scoring.mixtures import ranking_log_likelihoods
from pluralign.training.em_dpo.trainer import EMDPOTrainer
from pluralign.workflows.aggregate.answers import BASE, utilities_by
from pluralign.workflows.aggregate.run import aggregate

from ..common.data import POLIS_CONVERSATIONS, load, numbered
from ..common.results import Clock, keep, kept
from .runs import FOLDER, SETTINGS, SHAPE, em_dpo, language_model

TOPIC = 80
"""The prompt is this many characters of the conversation's topic."""

POLIS_SETTINGS = SETTINGS | {"per_device_train_batch_size": 16, "max_steps": 300, "learning_rate": 4e-3}
"""The same for all conversations. The number of steps was chosen on training rankings of brexit-consensus; the rate in
short trials on vtaiwan.uberx whose held-out rankings were looked at."""


@dataclass(frozen=True)
class Conversation:
    """The small rankings of a conversation, the held-out ones, and the annotators' opinion groups."""

    train: Judgments
    test: Judgments
    groups: dict[str, str]


def statements(name: str) -> list[dict[str, Any]]:
    """For each annotator a ranking of all statements that they voted on."""
    return [
        {key: row[key] for key in ("responses", "ranks", "annotator", "source", "group")}
        | {"prompt": row["prompt"][:TOPIC] + "\n"}
        for row in load(f"people-{name}")[0].rows()
    ]


def conversation(name: str, size: int, share: float, most: int | None, seed: int) -> Conversation:
    """Each annotator's ranking in parts of `size` statements or a few more; a share of each one's parts is held out.

    With a share of a fifth, annotators with fewer than three parts have none held out.
    """
    draw = np.random.default_rng(seed)
    rankings = statements(name)
    if most is not None and most < len(rankings):
        rankings = [rankings[index] for index in sorted(draw.permutation(len(rankings))[:most])]
    sides: tuple[list[Any], list[Any]] = ([], [])
    for ranking in rankings:
        count = len(ranking["responses"])
        parts = []
        for places in np.array_split(draw.permutation(count), max(1, count // size)):
            ranks = [ranking["ranks"][place] for place in places]
            if len(set(ranks)) > 1:
                order, texts = sorted(ranks), [ranking["responses"][place] for place in places]
                parts.append(ranking | {"responses": texts, "ranks": [order.index(rank) + 1 for rank in ranks]})
        held = round(share * len(parts))
        sides[0].extend(parts[held:])
        sides[1].extend(parts[:held])
    groups = {row["annotator"]: row["group"] for row in sides[0] if row["group"] is not None}
    return Conversation(Judgments.from_rows(sides[0]), Judgments.from_rows(sides[1]), groups)


def prediction(trainer: EMDPOTrainer, test: Judgments) -> dict[str, Any]:
    """Metrics of held-out pairs under the policy of each annotator's type, with intervals over annotators.

    `mixture_log_loss` is of rankings, with policies weighted by the annotator's posterior.
    """
    metrics: dict[str, Any] = {}
    groups = test.column("group")
    for name in [None, *sorted({group for group in groups if group is not None})]:
        part = test if name is None else test.select([row for row, group in enumerate(groups) if group == name])
        items, utilities = trainer.score(part)
        column = part.column("annotator")
        names = [column[row] for row in items.row]
        beliefs = believed(names, trainer.posteriors, trainer.mixture)
        shown = shown_rewards(items, utilities, beliefs.type)
        number, unique = numbered(names)
        pairs = pairs_of(shown, items.ranks, items.offsets, number, items.weight)
        likelihoods = ranking_log_likelihoods(utilities, items, trainer.mixture)
        with np.errstate(divide="ignore"):
            both = np.logaddexp.reduce(np.log(beliefs.gamma) + likelihoods, axis=1)
        own = pair_metrics(pairs, replicates=1000)
        ends = {key: value for key, value in own.items() if key.endswith(("_low", "_high"))}
        metrics["everyone" if name is None else name] = {
            "people": len(unique), "rankings": items.judgments, "pairs": len(pairs.margin),
            **{key: own[key] for key in ("accuracy", "log_loss")},
            **{key: value for key, value in ends.items() if not key.startswith("ece")},
            "mixture_log_loss": -float(both.mean()),
        }  # fmt: skip
    return metrics


def against_groups(posteriors: Mapping[str, np.ndarray], groups: Mapping[str, str]) -> dict[str, Any]:
    """Annotators' types against their opinion groups, for those who have one."""
    names = [name for name in posteriors if name in groups]
    assigned = np.array([int(posteriors[name].argmax()) for name in names])
    known = [groups[name] for name in names]
    types = len(next(iter(posteriors.values())))
    table = Counter(zip(known, assigned.tolist(), strict=True))
    return {
        "rand": float(adjusted_rand_score(known, assigned)),
        **type_accuracy(assigned, known, types),
        "table": {group: [table[group, kind] for kind in range(types)] for group in sorted(set(known))},
    }


def regrets(
    run: Path, dpo: Path, prompts: Path, posteriors: Mapping[str, np.ndarray], groups: Mapping[str, str], samples: int,
    longest: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """The regret of types and groups under each policy, in nats a response, with errors over responses."""
    out = run / "together"
    metrics = aggregate(
        run,
        out,
        prompts=prompts,
        samples=samples,
        max_new_tokens=longest,
        policies={"dpo": dpo},
        seed=seed,
        criterion="regret",
        offer=["mixture"],
    )
    summary = json.loads((out / "aggregate.json").read_text())
    mixtures = {policy["name"]: policy["weights"] for policy in summary["policies"] if policy["kind"] == "mixture"}
    types = [kind["policy"] for kind in summary["types"]]
    drawers = [*types, BASE, "dpo"]
    # There is one prompt. Its responses are drawn independently, so they take the place of prompts.
    drawn = utilities_by(pq.read_table(out / "answers.parquet"), drawers, 1)[:, :, 0]  # (types, policies, responses)
    ratios = with_mixtures(drawn, np.array(list(mixtures.values())))
    table = regret_table(ratios, seed=seed)
    own = ratios[np.arange(len(types)), np.arange(len(types))][:, None]
    names = sorted(set(groups.values()))
    members = {
        name: [gamma for annotator, gamma in posteriors.items() if groups.get(annotator) == name] for name in names
    }
    shares = np.array([np.mean(members[name], axis=0) for name in names])  # (groups, types)
    of_groups = np.einsum("gt,tpa->gpa", shares, own - ratios)
    error = of_groups.std(-1, ddof=1) / np.sqrt(samples)
    between = game_interval(regrets_by_prompt(ratios), seed=seed)
    return {
        "game_value": metrics["game_value"],
        "game_interval": between,
        "shares": dict(zip(names, shares.tolist(), strict=True)),
        "weights": mixtures,
        "policies": {
            policy: {
                "types": table.regret[:, place].tolist(),
                "types_se": table.regret_error[:, place].tolist(),
                "max_regret": float(table.largest.value[place]),
                "max_regret_low": float(table.largest.low[place]),
                "max_regret_high": float(table.largest.high[place]),
                "groups": dict(zip(names, of_groups[:, place].mean(-1).tolist(), strict=True)),
                "groups_se": dict(zip(names, error[:, place].tolist(), strict=True)),
                "unfinished": metrics[f"unfinished/{policy}"],
            }
            for place, policy in enumerate([*drawers, *mixtures])
        },
    }


def polis(options: argparse.Namespace) -> None:
    stored_as = f"em_real_polis{options.suffix}"
    settings = POLIS_SETTINGS | SHAPE | {
        "size": options.size, "share": 0.2, "most_people": options.annotators, "samples": options.samples,
        "longest": options.longest, "seed": options.seed, "base_epochs": options.polis_epochs, "features": "worths",
    }  # fmt: skip
    rows = kept(stored_as, settings)
    every = Judgments.from_rows([row for name in POLIS_CONVERSATIONS for row in statements(name)])
    model = language_model(f"polis{options.suffix}", every, options.polis_epochs)
    for place in options.conversations:
        data = conversation(place, options.size, 0.2, options.annotators, options.seed)
        count = len(set(data.groups.values()))
        row = rows.setdefault(place, {})
        row |= {
            "people": len(set(data.train.column("annotator"))), "rankings": len(data.train),
            "held_out": len(data.test), "statements": len(items_of(data.train).responses), "groups": count,
            "group_sizes": dict(sorted(Counter(data.groups.values()).items())),
        }  # fmt: skip
        runs = row.setdefault("runs", {})
        prompts = FOLDER / f"polis-{place}{options.suffix}.parquet"
        data.train.select([0]).write(prompts)
        dpo = FOLDER / f"polis-{place}{options.suffix}-1" / "type-1"
        for types in ("1", str(count), "auto"):
            if types in runs:
                continue
            folder = FOLDER / f"polis-{place}{options.suffix}-{types}"
            shutil.rmtree(folder, ignore_errors=True)
            clock = Clock()
            number = types if types == "auto" else int(types)
            trainer = em_dpo(model, data.train, folder, number, options.seed, **POLIS_SETTINGS, features="worths")
            run: dict[str, Any] = {
                "types": len(trainer.adapters), "verdict": trainer.verdict.verdict,
                "shares": trainer.mixture_weights.tolist(), "seconds": clock(),
                "served": prediction(trainer, data.test), "recovered": against_groups(trainer.posteriors, data.groups),
            }  # fmt: skip
            start = dict(zip(map(str, trainer.annotators), trainer.rounds[0].gamma, strict=True))
            run["recovered_start"] = against_groups(start, data.groups)
            trainer.save_model(str(folder))
            if run["types"] > 1:
                run["regret"] = regrets(
                    folder,
                    dpo,
                    prompts,
                    trainer.posteriors,
                    data.groups,
                    options.samples,
                    options.longest,
                    options.seed,
                )
            run["seconds_in_all"] = clock()
            runs[types] = run
            values = {key: run["served"]["everyone"][key] for key in ("accuracy", "log_loss")}
            values |= {"types": run["types"], "Rand": run["recovered"]["rand"], "seconds": run["seconds_in_all"]}
            print(f"{place}, {types}: {values}", flush=True)
            keep(stored_as, settings, rows)

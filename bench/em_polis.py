"""Conversations of `em_real`: types against opinion groups, whom policies predict, what each group gives up."""

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
from common import POLIS_CONVERSATIONS, SOURCES, Clock, load
from people_models import FOLDER, SETTINGS, SHAPE, em_dpo, language_model, numbered
from sklearn.metrics import adjusted_rand_score
from town_language_model import keep, kept

from pluralign.evaluation.annotators.types import type_accuracy
from pluralign.evaluation.pairs import pairs_of
from pluralign.evaluation.policies.regret import game_interval, regret_table, with_mixtures
from pluralign.evaluation.rewards.bootstrap import bootstrap_intervals
from pluralign.evaluation.rewards.sums import metrics_of_sums, pair_sums
from pluralign.judgments import Judgments
from pluralign.scoring.items import items_of
from pluralign.scoring.measured import believed, shown_rewards
from pluralign.scoring.mixtures import ranking_log_likelihoods
from pluralign.training.em_dpo.trainer import EMDPOTrainer
from pluralign.workflows.aggregate.answers import BASE, utilities_by
from pluralign.workflows.aggregate.run import aggregate

TOPIC = 80
"""Characters of a conversation's topic that are the prompt."""

POLIS_SETTINGS = SETTINGS | {"per_device_train_batch_size": 16, "max_steps": 300, "learning_rate": 4e-3}
"""Of the conversations, small and large: as many steps in every M-step. The steps were chosen on training rankings
of brexit-consensus; the rate in short trials on vtaiwan.uberx, whose held-out rankings were looked at."""

# Conversations.

SOURCES.update(
    {
        f"people-{name}": (
            [f"polis_open/{name}.participants-votes.csv.gz"],
            {"format": "polis", "shape": "people"},
        )
        for name in POLIS_CONVERSATIONS
    }
)


@dataclass(frozen=True)
class Conversation:
    """The small rankings of a conversation, those held out, and people's opinion groups."""

    train: Judgments
    test: Judgments
    groups: dict[str, str]


def statements(name: str) -> list[dict[str, Any]]:
    """A ranking of all statements that a person voted on, for each person."""
    return [
        {key: row[key] for key in ("responses", "ranks", "annotator", "source", "group")}
        | {"prompt": row["prompt"][:TOPIC] + "\n"}
        for row in load(f"people-{name}")[0].rows()
    ]


def conversation(name: str, size: int, share: float, most: int | None, seed: int) -> Conversation:
    """Everybody's ranking in parts of `size` statements or a few more, and a share of everybody's parts held out.

    Who has fewer than three parts has none held out, where the share is a fifth.
    """
    draw = np.random.default_rng(seed)
    people = statements(name)
    if most is not None and most < len(people):
        people = [people[index] for index in sorted(draw.permutation(len(people))[:most])]
    sides: tuple[list[Any], list[Any]] = ([], [])
    for person in people:
        count = len(person["responses"])
        parts = []
        for places in np.array_split(draw.permutation(count), max(1, count // size)):
            ranks = [person["ranks"][place] for place in places]
            if len(set(ranks)) > 1:
                order, texts = sorted(ranks), [person["responses"][place] for place in places]
                parts.append(person | {"responses": texts, "ranks": [order.index(rank) + 1 for rank in ranks]})
        held = round(share * len(parts))
        sides[0].extend(parts[held:])
        sides[1].extend(parts[:held])
    groups = {row["annotator"]: row["group"] for row in sides[0] if row["group"] is not None}
    return Conversation(Judgments.from_rows(sides[0]), Judgments.from_rows(sides[1]), groups)


def served(trainer: EMDPOTrainer, test: Judgments) -> dict[str, Any]:
    """Pairs and rankings held out, everyone's by his own type's policy; intervals over people.

    `mixture_log_loss` is of a ranking, policies weighed by the person's posterior.
    """
    found: dict[str, Any] = {}
    groups = test.column("group")
    for name in [None, *sorted({group for group in groups if group is not None})]:
        part = test if name is None else test.select([row for row, group in enumerate(groups) if group == name])
        items, utilities = trainer.score(part)
        column = part.column("annotator")
        names = [column[row] for row in items.row]
        beliefs = believed(names, trainer.posteriors, trainer.mixture)
        shown = shown_rewards(items, utilities, beliefs.type)
        person, unique = numbered(names)
        pairs = pairs_of(shown, items.ranks, items.offsets, person, items.weight)
        told = ranking_log_likelihoods(utilities, items, trainer.mixture)
        with np.errstate(divide="ignore"):
            both = np.logaddexp.reduce(np.log(beliefs.gamma) + told, axis=1)
        sums = pair_sums(pairs, np.zeros(len(pairs.margin), dtype=np.int64), 1, 10)
        metrics = {key: float(value[0]) for key, value in metrics_of_sums(sums).items()}
        found["everyone" if name is None else name] = {
            "people": len(unique), "rankings": items.judgments, "pairs": len(pairs.margin),
            **{key: metrics[key] for key in ("accuracy", "log_loss")},
            **{key: value for key, value in bootstrap_intervals(pairs).items() if not key.startswith("ece")},
            "mixture_log_loss": -float(both.mean()),
        }  # fmt: skip
    return found


def against_groups(people: Mapping[str, np.ndarray], groups: Mapping[str, str]) -> dict[str, Any]:
    """Types of people against the opinion groups of those who have one."""
    names = [name for name in people if name in groups]
    found = np.array([int(people[name].argmax()) for name in names])
    known = [groups[name] for name in names]
    types = len(next(iter(people.values())))
    table = Counter(zip(known, found.tolist(), strict=True))
    return {
        "rand": float(adjusted_rand_score(known, found)),
        **type_accuracy(found, known, types),
        "table": {group: [table[group, kind] for kind in range(types)] for group in sorted(set(known))},
    }


def regrets(
    run: Path, dpo: Path, prompts: Path, people: Mapping[str, np.ndarray], groups: Mapping[str, str], samples: int,
    longest: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """What types and groups give up under each policy, in nats an answer, with errors over answers."""
    out = run / "together"
    metrics = aggregate(
        run, out, prompts=prompts, samples=samples, max_new_tokens=longest, policies={"dpo": dpo}, seed=seed
    )
    story = json.loads((out / "aggregate.json").read_text())
    mixtures = {one["name"]: one["weights"] for one in story["policies"] if one["kind"] == "mixture"}
    types = [one["policy"] for one in story["types"]]
    drawers = [*types, BASE, "dpo"]
    # One prompt, whose answers are drawn independently: they are what prompts are elsewhere.
    drawn = utilities_by(pq.read_table(out / "answers.parquet"), drawers, 1)[:, :, 0]  # (types, policies, answers)
    ratios = with_mixtures(drawn, np.array(list(mixtures.values())))
    table = regret_table(ratios, seed=seed)
    own = ratios[np.arange(len(types)), np.arange(len(types))][:, None]
    names = sorted(set(groups.values()))
    members = {name: [gamma for person, gamma in people.items() if groups.get(person) == name] for name in names}
    shares = np.array([np.mean(members[name], axis=0) for name in names])  # (groups, types)
    of_groups = np.einsum("gt,tpa->gpa", shares, own - ratios)
    error = of_groups.std(-1, ddof=1) / np.sqrt(samples)
    between = game_interval(ratios, seed=seed)
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
    name = f"em_real_polis{options.suffix}"
    settings = POLIS_SETTINGS | SHAPE | {
        "size": options.size, "share": 0.2, "most_people": options.people, "samples": options.samples,
        "longest": options.longest, "seed": options.seed, "base_epochs": options.polis_epochs, "features": "worths",
    }  # fmt: skip
    rows = kept(name, settings)
    every = Judgments.from_rows([row for one in POLIS_CONVERSATIONS for row in statements(one)])
    model = language_model(f"polis{options.suffix}", every, options.polis_epochs)
    for place in options.conversations:
        data = conversation(place, options.size, 0.2, options.people, options.seed)
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
            found: dict[str, Any] = {
                "types": len(trainer.adapters), "verdict": trainer.verdict.verdict,
                "shares": trainer.mixture_weights.tolist(), "seconds": clock(),
                "served": served(trainer, data.test), "recovered": against_groups(trainer.posteriors, data.groups),
            }  # fmt: skip
            first = dict(zip(map(str, trainer.annotators), trainer.rounds[0].gamma, strict=True))
            found["recovered_start"] = against_groups(first, data.groups)
            trainer.save_model(str(folder))
            if found["types"] > 1:
                people = trainer.posteriors
                found["regret"] = regrets(
                    folder, dpo, prompts, people, data.groups, options.samples, options.longest, options.seed
                )
            found["seconds_in_all"] = clock()
            runs[types] = found
            everyone = found["served"]["everyone"]
            print(
                f"{place}, {types}: {found['types']} types, accuracy {everyone['accuracy']:.3f}, log-loss "
                f"{everyone['log_loss']:.3f}, Rand {found['recovered']['rand']:.2f}, {found['seconds']} s, "
                f"{found['seconds_in_all']} s in all",
                flush=True,
            )
            keep(name, settings, rows)

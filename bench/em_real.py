"""EM-DPO on real people: a crowd that judges arguments, and conversations in which people vote on statements.

`convarg`: annotators of 20 or more strict votes; a quarter of the pairs of arguments is held out, for everyone, so
that no held-out pair is judged in training by anybody (its arguments are, in other pairs). How surprising is a
held-out vote, for 1, 2, 3 and 4 types? Beside EM-DPO the latent-class model that it starts from. `tune` tries
learning rates for one type on a fifth of the training pairs; `convarg` takes the best of them.

`polis`: five conversations; a response is a statement, the prompt the beginning of the topic. A person's statements
are ranked agree over pass over disagree; the ranking is cut at random into small ones that share no statement, of
which those that only tie are left out, and a fifth of everybody's is held out. Types against opinion groups; whom
the types' policies and the one policy predict; and what each group gives up under each policy: the mean over its
members of the types' regrets, weighed by the member's posterior. There is one prompt: errors are over answers.

Both start from a causal model of a million parameters, trained from scratch on the texts. Every run is kept as soon
as it is done, and a stopped script goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import transformers
import yaml
from common import OUT, POLIS_CONVERSATIONS, SOURCES, Clock, load
from crowd import broken
from real_types import of_busy_annotators
from sklearn.metrics import adjusted_rand_score
from town_language_model import QUIET, keep, kept, lora

from pluralign.evaluation.bootstrap import bootstrap_intervals
from pluralign.evaluation.pairs import pairs_of
from pluralign.evaluation.regret import game_interval, regret_table, with_mixtures
from pluralign.evaluation.sums import metrics_of_sums, pair_sums
from pluralign.evaluation.types import type_accuracy
from pluralign.judgments import Judgments
from pluralign.policies.routing import ranking_log_likelihoods
from pluralign.scoring.findings import findings
from pluralign.scoring.items import Items, items_of
from pluralign.scoring.mixtures import Mixture
from pluralign.training.em_config import EMDPOConfig
from pluralign.training.em_dpo import EMDPOTrainer
from pluralign.training.from_scratch import make_causal_model
from pluralign.workflows.aggregate import aggregate
from pluralign.workflows.aggregate_answers import BASE, utilities_by
from pluralign.workflows.evaluate_types import believed, shown_utilities
from pluralign.workflows.train import train

FOLDER = OUT / "em_real"
LEAST = 20
"""Strict votes of an annotator who counts."""

LENGTH = 160
"""Tokens of prompt and response."""

TOPIC = 80
"""Characters of a conversation's topic that are the prompt."""

SETTINGS: dict[str, Any] = {
    "num_train_epochs": 1, "learning_rate": 2e-3, "lr_scheduler_type": "cosine", "beta": 1.0,
    "per_device_train_batch_size": 32, "warmup_steps": 20, "max_length": LENGTH,
}  # fmt: skip
"""Of every M-step, in all runs; all else is the default."""

POLIS_SETTINGS = SETTINGS | {"per_device_train_batch_size": 16, "max_steps": 300, "learning_rate": 4e-3}
"""Of the conversations, small and large: as many steps in every M-step. The steps were chosen on training rankings
of brexit-consensus; the rate in short trials on vtaiwan.uberx, whose held-out rankings were looked at."""

SHAPE: dict[str, Any] = {"vocab_size": 2048, "hidden_size": 128, "layers": 3, "heads": 4, "context": LENGTH}


def language_model(name: str, judgments: Judgments, epochs: float) -> Path:
    """The folder of a model trained from scratch on all responses of a table, each once an epoch."""
    model = FOLDER / f"{name}-language-model"
    if (model / "metrics.json").exists():
        return model
    FOLDER.mkdir(parents=True, exist_ok=True)
    texts = list({text: None for row in judgments.rows() for text in [row["prompt"], *row["responses"]]})
    untrained, data, file = (FOLDER / f"{name}-{part}" for part in ("untrained", "texts.parquet", "model.yaml"))
    make_causal_model(texts, untrained, **SHAPE)
    judgments.write(data)
    config = {
        "objective": "sft", "model_name_or_path": str(untrained), "train_files": [str(data)],
        "output_dir": str(model), "responses": "all", "per_device_train_batch_size": 32, "learning_rate": 2e-3,
        "lr_scheduler_type": "cosine", "num_train_epochs": epochs, "max_length": LENGTH, "save_strategy": "no",
        "report_to": "none", "disable_tqdm": True,
    }  # fmt: skip
    file.write_text(yaml.safe_dump(config))
    train(file)
    return model


def em_dpo(
    model: Path, judgments: Judgments, folder: str | Path, types: int | str, seed: int, **changed: Any
) -> Any:
    """A trained run."""
    args = EMDPOConfig(output_dir=str(folder), seed=seed, **(SETTINGS | QUIET | {"types": types} | changed))
    trainer = EMDPOTrainer(str(model), args, judgments, peft_config=lora())
    trainer.train()
    return trainer


# Arguments judged by a crowd.


def busy_votes(topics: int | None, seed: int) -> Judgments:
    """Strict votes of annotators with many of them, on all topics or a seeded draw."""
    judgments, _ = load("convarg")
    names = sorted(set(judgments.column("prompt")))
    chosen = set(np.random.default_rng(seed).permutation(names)[:topics].tolist())
    strict = [row for row in judgments.rows() if row["prompt"] in chosen and len(set(row["ranks"])) == 2]
    return of_busy_annotators(broken(strict), LEAST)


def without_pairs(judgments: Judgments, share: float, seed: int) -> tuple[Judgments, Judgments]:
    """Training and held-out votes: a pair of arguments is on one side with all its votes."""
    pairs = [(row["prompt"], *sorted(row["responses"])) for row in judgments.rows()]
    unique = sorted(set(pairs))
    held = np.random.default_rng(seed).permutation(len(unique))[: round(share * len(unique))]
    chosen = {unique[index] for index in held}
    sides = np.array([pair in chosen for pair in pairs])
    return judgments.select(np.flatnonzero(~sides).tolist()), judgments.select(np.flatnonzero(sides).tolist())


def annotator_losses(
    judgments: Judgments, items: Items, utilities: np.ndarray, mixture: Mixture, people: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Mean log-loss of each annotator's held-out votes, in nats, in the order of their names.

    `own` is under his most probable type, `mixture` under types weighed by his posterior; both posteriors are of
    training votes alone.
    """
    column = judgments.column("annotator")
    names = [column[row] for row in items.row]
    beliefs = believed(names, people, mixture)
    told = ranking_log_likelihoods(utilities, items, mixture)
    with np.errstate(divide="ignore"):
        both = np.logaddexp.reduce(np.log(beliefs.gamma) + told, axis=1)
    own = told[np.arange(len(told)), beliefs.type]
    number, unique = _numbered(names)
    made = np.bincount(number)
    return {
        kind: dict(zip(unique, (-np.bincount(number, values) / made).round(6).tolist(), strict=True))
        for kind, values in (("own", own), ("mixture", both))
    }


def _numbered(names: Sequence[Any]) -> tuple[np.ndarray, list[str]]:
    unique, number = np.unique([str(name) for name in names], return_inverse=True)
    return number, unique.tolist()


def latent_class(train_part: Judgments, test: Judgments, types: int, seed: int) -> dict[str, Any]:
    """The start alone: latent-class Plackett-Luce on the training votes; an argument not seen there is worth 0."""
    clock = Clock()
    found = findings(train_part, types=types, simulations=0, seed=seed)
    people, model = found.people, found.model
    features = people.panel.features
    worth = model.coefficients_ if features is None else model.coefficients_ @ np.asarray(features).T
    seen, items = people.items, items_of(test)
    place = {text: number for number, text in enumerate(_texts(seen))}
    utilities = np.zeros((types, len(items.responses)))
    for number, text in enumerate(_texts(items)):
        if text in place:
            utilities[:, number] = worth[:, place[text]]
    weights = model.mixture_weights_ / model.mixture_weights_.sum()
    mixture = Mixture({f"type-{kind + 1}": float(share) for kind, share in enumerate(weights)}, beta=1.0)
    posteriors = {str(name): gamma for name, gamma in zip(people.names, model.responsibilities_, strict=True)}
    losses = annotator_losses(test, items, utilities, mixture, posteriors)
    return {
        "shares": weights.tolist(), "verdict": found.verdict.verdict, "features": found.features,
        "seconds": clock(), **losses,
    }  # fmt: skip


def _texts(items: Items) -> list[tuple[str, str]]:
    return [(items.prompts[at], text) for at, text in zip(items.item, items.responses, strict=True)]


def tuned(
    model: Path, train_part: Judgments, test: Judgments, types: int, seed: int, **changed: Any
) -> dict[str, Any]:
    """EM-DPO."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = em_dpo(model, train_part, folder, types, seed, **changed)
        seconds = clock()
        items, utilities = trainer.score(test)
    losses = annotator_losses(test, items, utilities, trainer.mixture, trainer.people)
    return {
        "shares": trainer.mixture_weights.tolist(),
        "verdict": trainer.verdict.verdict,
        "seconds": seconds,
        **losses,
    }


def convarg(options: argparse.Namespace) -> None:
    name = f"em_real_convarg{options.suffix}"
    votes = busy_votes(options.topics, options.seed)
    train_part, test = without_pairs(votes, 0.25, options.seed)
    counts = {"topics": len(set(votes.column("prompt"))), "annotators": len(set(votes.column("annotator")))}
    counts |= {"votes": len(train_part), "held_out": len(test), "arguments": len(items_of(train_part).responses)}
    tried = kept(f"em_real_tuning{options.suffix}", tuning_settings(train_part, options)).values()
    best = min(tried, key=lambda row: row["log_loss"], default=SETTINGS)
    settings = SETTINGS | SHAPE | counts | {"least": LEAST, "seed": options.seed, "base_epochs": options.epochs}
    settings |= {"learning_rate": best["learning_rate"], "tuned": bool(tried)}
    rows = kept(name, settings)
    model = language_model(f"convarg-{counts['topics']}{options.suffix}", train_part, options.epochs)
    for types in options.types:
        for method in ("latent class", "EM-DPO"):
            key = f"{method}, {types}"
            if key in rows:
                continue
            if method == "EM-DPO":
                found = tuned(model, train_part, test, types, options.seed, learning_rate=best["learning_rate"])
            else:
                found = latent_class(train_part, test, types, options.seed)
            rows[key] = {"method": method, "types": types} | found
            means = {kind: round(float(np.mean(list(found[kind].values()))), 4) for kind in ("own", "mixture")}
            print(f"{key}: {means}, shares {np.round(found['shares'], 2)}, {found['seconds']} s", flush=True)
            keep(name, settings, rows)


def tune(options: argparse.Namespace) -> None:
    """One type at several learning rates, on training votes alone."""
    name = f"em_real_tuning{options.suffix}"
    train_part, _ = without_pairs(busy_votes(options.topics, options.seed), 0.25, options.seed)
    topics = len(set(train_part.column("prompt")))
    model = language_model(f"convarg-{topics}{options.suffix}", train_part, options.epochs)
    inner, check = without_pairs(train_part, 0.2, options.seed + 1)
    settings = tuning_settings(train_part, options)
    rows = kept(name, settings)
    for rate in options.rates:
        if str(rate) not in rows:
            found = tuned(model, inner, check, 1, options.seed, learning_rate=rate)
            loss = float(np.mean(list(found["own"].values())))
            rows[str(rate)] = {"learning_rate": rate, "log_loss": loss, "seconds": found["seconds"]}
            print(rows[str(rate)], flush=True)
            keep(name, settings, rows)


def tuning_settings(train_part: Judgments, options: argparse.Namespace) -> dict[str, Any]:
    own = {key: value for key, value in SETTINGS.items() if key != "learning_rate"}
    return own | SHAPE | {"votes": len(train_part), "seed": options.seed, "base_epochs": options.epochs}


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
        beliefs = believed(names, trainer.people, trainer.mixture)
        shown = shown_utilities(utilities, items, beliefs.type)
        person, unique = _numbered(names)
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
                "served": served(trainer, data.test), "recovered": against_groups(trainer.people, data.groups),
            }  # fmt: skip
            first = dict(zip(map(str, trainer.annotators), trainer.rounds[0].gamma, strict=True))
            found["recovered_start"] = against_groups(first, data.groups)
            trainer.save_model(str(folder))
            if found["types"] > 1:
                people = trainer.people
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


PARTS = {"tune": tune, "convarg": convarg, "polis": polis}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--topics", type=int, help="of ConvArg, a seeded draw; all by default")
    parser.add_argument("--types", type=int, nargs="+", default=[1, 2, 3, 4], help="of ConvArg")
    parser.add_argument("--passes", type=int, default=1, help="over the votes of ConvArg in an M-step")
    parser.add_argument("--epochs", type=float, default=8, help="of the language model of arguments")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 2e-3, 4e-3, 8e-3], help="of tune")
    parser.add_argument(
        "--conversations", nargs="+", default=list(POLIS_CONVERSATIONS), choices=POLIS_CONVERSATIONS
    )
    parser.add_argument("--people", type=int, help="of a conversation, a seeded draw; all by default")
    parser.add_argument("--size", type=int, default=5, help="statements of a small ranking, or a few more")
    parser.add_argument("--samples", type=int, default=128, help="answers of each policy to a conversation's topic")
    parser.add_argument("--longest", type=int, default=96, help="tokens of such an answer")
    parser.add_argument("--polis-epochs", type=float, default=10, help="of the language model of statements")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="try it out; the tables stay as they are")
    options = parser.parse_args()
    options.suffix = "_quick" if options.quick else ""
    SETTINGS["num_train_epochs"] = options.passes
    if options.quick:
        options.topics, options.types, options.epochs, options.rates = 3, [1, 2], 1, [2e-3, 8e-3]
        options.people, options.samples, options.polis_epochs = 120, 16, 1
        options.conversations = ["brexit-consensus"]
        POLIS_SETTINGS["max_steps"] = 40
    transformers.logging.set_verbosity_error()
    for part in options.only:
        PARTS[part](options)


if __name__ == "__main__":
    main()

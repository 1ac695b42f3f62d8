"""The other real data sets: imported, split by prompt, a reward model trained on one part, judged on the other."""

from __future__ import annotations

import argparse
import json

import linear
import numpy as np
import transformers
from common import OUT, Clock, encoder, interval, load, standardized, store

from pluralign.core.errors import PluralignError
from pluralign.evaluation.pairs import pairs_of
from pluralign.evaluation.rewards.bootstrap import bootstrap_intervals
from pluralign.judgments.split import split
from pluralign.scoring.features import text_features
from pluralign.scoring.items import Items, items_of
from pluralign.scoring.measured import reward_metrics
from pluralign.scoring.reward_models import build_reward_model
from pluralign.training.reward_trainer import PlackettLuceConfig, PlackettLuceTrainer

NAMES = (
    "hh-helpful",
    "hh-harmless",
    "webgpt",
    "helpsteer2",
    "pandalm",
    "qa-feedback",
    "polis-people",
    "polis-votes",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--judgments", type=int, default=640, help="training judgments that the model sees")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=160)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=NAMES)
    options = parser.parse_args()
    before = OUT / "real_data.json"
    partly = set(options.only) != set(NAMES) and before.exists()
    table = json.loads(before.read_text())["sets"] if partly else {}
    for name in options.only:
        judgments, said = load(name)
        entry: dict[str, object] = {"said": said}
        table[name] = entry
        try:
            items = items_of(judgments)
        except PluralignError as complaint:
            entry["not trained"] = str(complaint)
            print(name, complaint, flush=True)
            store("real_data", {"options": vars(options), "sets": table})
            continue
        # A Polis conversation is one prompt: there people are held out, elsewhere prompts.
        by = "annotator" if len(items.prompts) == 1 else "prompt"
        train, test = split(judgments, by=by, test=0.3, seed=options.seed)
        entry |= {"judgments": items.judgments, "held out by": by}
        held = items_of(test)
        both = items_of(judgments)
        for label, method in (("length", None), ("TF-IDF", "tfidf"), ("MiniLM frozen", encoder())):
            if method is None:
                features = np.array([[len(text.split())] for text in both.responses], dtype=np.float64)
            else:
                features = text_features(both, method, dimensions=64, cache=OUT / "cache").astype(np.float64)
            in_train = np.isin(both.row, _rows(judgments, train))
            w = linear.fit(standardized(features), both, np.flatnonzero(in_train), 0.1)
            rewards = standardized(features) @ w
            entry[label] = linear.evaluate(both, np.flatnonzero(~in_train), rewards)
            if by == "annotator":
                entry[label] |= over_people(held, _of(both, rewards, held))  # type: ignore[operator]
            print(f"{name:<14}{label:<16}{interval(entry[label], 'accuracy')}", flush=True)  # type: ignore[arg-type]
        transformers.set_seed(options.seed)
        clock = Clock()
        built = build_reward_model(encoder(), max_length=options.max_length)
        sample = np.random.default_rng(options.seed).permutation(len(train))[: options.judgments]
        trainer = PlackettLuceTrainer(
            built.model,
            PlackettLuceConfig(
                output_dir=str(OUT / name),
                per_device_train_batch_size=2 if name == "polis-people" else options.batch,
                learning_rate=options.learning_rate,
                num_train_epochs=1,
                warmup_steps=4,
                seed=options.seed,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
            ),
            train.select(np.sort(sample)),
            processing_class=built.tokenizer,
        )
        trainer.train()
        entry["seconds"] = clock()
        rewards = trainer.reward_model.score_items(held)
        entry["MiniLM tuned"] = reward_metrics(test, held, rewards)
        if by == "annotator":
            entry["MiniLM tuned"] |= over_people(held, rewards)  # type: ignore[operator]
        print(
            f"{name:<14}{'MiniLM tuned':<16}{interval(entry['MiniLM tuned'], 'accuracy')} {entry['seconds']} s",
            flush=True,
        )  # type: ignore[arg-type]
        store("real_data", {"options": vars(options), "sets": table})


def over_people(items: Items, rewards: np.ndarray) -> dict[str, float]:
    """Intervals where there is one prompt: every row is a person, and people are drawn anew."""
    people = np.arange(items.judgments)
    return bootstrap_intervals(pairs_of(rewards[items.response], items.ranks, items.offsets, people, items.weight))


def _of(items: Items, rewards: np.ndarray, part: Items) -> np.ndarray:
    """The rewards of a part's responses, from those of the whole; there is one prompt."""
    place = {text: index for index, text in enumerate(items.responses)}
    return rewards[[place[text] for text in part.responses]]


def _rows(judgments: object, part: object) -> np.ndarray:
    """Where the rows of a part stand in the whole table, by id."""
    ids = {name: row for row, name in enumerate(judgments.column("id"))}  # type: ignore[attr-defined]
    return np.array([ids[name] for name in part.column("id")])  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()

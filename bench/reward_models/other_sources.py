"""Other real data sets: imported, split by prompt, a reward model trained on one part and evaluated on the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import transformers

from pluralign.core.errors import PluralignError
from pluralign.evaluation.pairs import pairs_of
from pluralign.evaluation.rewards.metrics import pair_metrics
from pluralign.judgments import Judgments
from pluralign.judgments.split import split
from pluralign.scoring.features import text_features
from pluralign.scoring.items import Items, items_of
from pluralign.scoring.measured import reward_metrics
from pluralign.scoring.reward_models import build_reward_model
from pluralign.training.reward_trainer import PlackettLuceConfig, PlackettLuceTrainer

from ..common.data import encoder, load, standardized
from ..common.options import parsed, parts
from ..common.results import OUT, Clock, store, stored
from ..common.tables import interval
from ..common.training import QUIET
from . import linear

NAMES = ("hh-helpful", "hh-harmless", "webgpt", "helpsteer2", "pandalm", "qa-feedback", "polis-people", "polis-votes")


def over_annotators(items: Items, rewards: np.ndarray) -> dict[str, float]:
    """Intervals where there is one prompt: every row is an annotator, and annotators are resampled."""
    annotators = np.arange(items.judgments)
    pairs = pairs_of(rewards[items.response], items.ranks, items.offsets, annotators, items.weight)
    metrics = pair_metrics(pairs, replicates=1000)
    return {key: value for key, value in metrics.items() if key.endswith(("_low", "_high"))}


def of_part(items: Items, rewards: np.ndarray, part: Items) -> np.ndarray:
    """The rewards of a part's responses, from those of the whole; there is one prompt."""
    place = {text: index for index, text in enumerate(items.responses)}
    return rewards[[place[text] for text in part.responses]]


def row_numbers(judgments: Judgments, part: Judgments) -> np.ndarray:
    """Where the rows of a part stand in the whole table."""
    ids = {name: row for row, name in enumerate(judgments.column("id"))}
    return np.array([ids[name] for name in part.column("id")])


def main() -> None:
    options = parsed(
        __doc__, judgments=(640, "Training judgments of the tuned model, at most."), batch=16, max_length=160,
        learning_rate=1e-4, seed=0, only=parts(NAMES, "Only these data sets."),
    )  # fmt: skip
    partly = set(options.only) != set(NAMES) and (OUT / "real_data.json").exists()
    sets = stored("real_data")["sets"] if partly else {}
    for name in options.only:
        judgments, messages = load(name)
        entry: dict[str, Any] = {"import": messages}
        sets[name] = entry
        try:
            items = items_of(judgments)
        except PluralignError as error:
            entry["not trained"] = str(error)
            print(name, error, flush=True)
            store("real_data", {"options": vars(options), "sets": sets})
            continue
        # A Polis conversation is one prompt: annotators are held out there, prompts elsewhere.
        by = "annotator" if len(items.prompts) == 1 else "prompt"
        train, test = split(judgments, by=by, test=0.3, seed=options.seed)
        held = items_of(test)
        entry |= {"judgments": items.judgments, "held out by": by}

        def note(label: str, metrics: dict[str, Any], name: str = name, entry: dict[str, Any] = entry) -> None:
            entry[label] = metrics
            print(f"{name:<14}{label:<16}{interval(metrics, 'accuracy')}", flush=True)

        in_train = np.isin(items.row, row_numbers(judgments, train))
        for label, method in (("length", None), ("TF-IDF", "tfidf"), ("MiniLM frozen", encoder())):
            if method is None:
                features = np.array([[len(text.split())] for text in items.responses], dtype=np.float64)
            else:
                features = text_features(items, method, dimensions=64, cache=OUT / "cache").astype(np.float64)
            x = standardized(features)
            rewards = x @ linear.fit(x, items, np.flatnonzero(in_train), 0.1)
            metrics = linear.evaluate(items, np.flatnonzero(~in_train), rewards)
            note(label, metrics | (over_annotators(held, of_part(items, rewards, held)) if by == "annotator" else {}))
        transformers.set_seed(options.seed)
        clock = Clock()
        built = build_reward_model(encoder(), max_length=options.max_length)
        sample = np.random.default_rng(options.seed).permutation(len(train))[: options.judgments]
        args = PlackettLuceConfig(
            str(OUT / name), per_device_train_batch_size=2 if name == "polis-people" else options.batch,
            learning_rate=options.learning_rate, num_train_epochs=1, warmup_steps=4, seed=options.seed, **QUIET,
        )  # fmt: skip
        votes = train.select(np.sort(sample))
        trainer = PlackettLuceTrainer(built.model, args=args, train_dataset=votes, processing_class=built.tokenizer)
        trainer.train()
        entry["seconds"] = clock()
        rewards = trainer.reward_model.score_items(held)
        metrics = reward_metrics(test, held, rewards)
        note("MiniLM tuned", metrics | (over_annotators(held, rewards) if by == "annotator" else {}))
        store("real_data", {"options": vars(options), "sets": sets})

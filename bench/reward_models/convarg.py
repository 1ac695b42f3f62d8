"""ConvArg, which argument is more convincing? Reward models against simple baselines and TRL; eight topics held out."""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from typing import Any

import datasets
import numpy as np
import torch
import transformers
import trl
from scipy.stats import spearmanr

from pluralign.judgments import Judgments
from pluralign.judgments.split import split
from pluralign.scoring.features import text_features
from pluralign.scoring.items import Items, items_of
from pluralign.scoring.reward_models import build_reward_model
from pluralign.training.reward_trainer import BradleyTerryConfig, BradleyTerryTrainer

from ..common.data import DATA, chosen_and_rejected, encoder, load, standardized
from ..common.options import parsed
from ..common.results import OUT, Clock, store
from ..common.tables import interval
from ..common.training import PLAIN
from . import linear

HELD_OUT_TOPICS = 8


def majority(judgments: Judgments) -> Judgments:
    """One judgment per pair: the choice of most votes. Pairs with balanced votes are left out."""
    votes: dict[tuple[str, ...], Counter[str]] = {}
    for row in judgments.rows():
        key = (row["prompt"], *sorted(row["responses"]))
        best = [text for text, rank in zip(row["responses"], row["ranks"], strict=True) if rank == 1]
        votes.setdefault(key, Counter())[best[0] if len(best) == 1 else ""] += 1
    rows = []
    for (prompt, first, second), counts in votes.items():
        if counts[first] != counts[second] and max(counts[first], counts[second]) > counts[""]:
            ranks = [1, 2] if counts[first] > counts[second] else [2, 1]
            rows.append({"prompt": prompt, "responses": [first, second], "ranks": ranks})
    return Judgments.from_rows(rows)


def gold_scores() -> dict[tuple[str, str], float]:
    """The published consensus score of each (topic, text)."""
    with gzip.open(DATA / "convarg_crowd" / "arguments.csv.gz", "rt", encoding="utf-8") as file:
        texts = {row["arg"]: row["text"] for row in csv.DictReader(file)}
    with gzip.open(DATA / "convarg_crowd" / "gold_rank.csv.gz", "rt", encoding="utf-8") as file:
        return {(row["topic"], texts[row["arg"]]): float(row["rank_score"]) for row in csv.DictReader(file)}


def spearman_with_gold(items: Items, rewards: np.ndarray) -> float:
    """Mean over topics of the rank correlation with the published scores, in which lower is more convincing."""
    gold = gold_scores()
    correlations = []
    for item, prompt in enumerate(items.prompts):
        members = [index for index in np.flatnonzero(items.item == item) if (prompt, items.responses[index]) in gold]
        values = [-gold[prompt, items.responses[index]] for index in members]
        correlations.append(spearmanr(rewards[members], values).statistic)
    return float(np.mean(correlations))


def trl_rewards(votes: Judgments, items: Items, max_length: int, common: dict[str, Any]) -> tuple[np.ndarray, float]:
    """The rewards of TRL's `RewardTrainer` after the same votes, and its seconds."""
    clock = Clock()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        encoder(), num_labels=1, dtype=torch.float32
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder())
    tokenizer.eos_token = tokenizer.sep_token
    # TRL drops what is longer than max_length; texts are cut as ours are, so that both trainers read the same votes.
    rows = [
        {
            f"{name}_ids": tokenizer(f"{row['prompt']}\n{text}", truncation=True, max_length=max_length)["input_ids"]
            for name, text in zip(("chosen", "rejected"), chosen_and_rejected(row), strict=True)
        }
        for row in votes.rows()
    ]
    args = trl.RewardConfig(output_dir=str(OUT / "convarg-trl"), **common)
    trainer = trl.RewardTrainer(model, args, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer)
    trainer.train()
    seconds = clock()
    model.eval()
    texts = [f"{items.prompts[item]}\n{text}" for item, text in zip(items.item, items.responses, strict=True)]
    rewards = np.zeros(len(texts))
    with torch.no_grad():
        for start in range(0, len(texts), 32):
            part = slice(start, start + 32)
            batch = tokenizer(texts[part], truncation=True, max_length=max_length, padding=True, return_tensors="pt")
            rewards[part] = model(**batch).logits[:, 0].numpy()
    return rewards, seconds


def main() -> None:
    options = parsed(
        __doc__, votes=(4096, "Votes that the fine-tuned models train on."), batch=32, max_length=128,
        learning_rate=1e-4, seed=0,
    )  # fmt: skip
    judgments, messages = load("convarg")
    train, test = split(judgments, by="prompt", test_units=HELD_OUT_TOPICS, seed=options.seed)
    held_out = majority(test)
    both = Judgments.from_rows([*train.rows(), *({**row, "id": None} for row in held_out.rows())])
    items, test_items = items_of(both), items_of(held_out)
    rows = np.arange(items.judgments)
    train_rows, test_rows = rows[: len(train)], rows[len(train) :]
    place = {(items.prompts[i], text): n for n, (i, text) in enumerate(zip(items.item, items.responses, strict=True))}
    of_test = np.array(
        [place[test_items.prompts[i], text] for i, text in zip(test_items.item, test_items.responses, strict=True)]
    )
    table: dict[str, dict[str, float]] = {}

    def note(name: str, rewards: np.ndarray, seconds: float) -> None:
        metrics = linear.evaluate(items, test_rows, rewards)
        table[name] = metrics | {"gold_spearman": spearman_with_gold(test_items, rewards[of_test]), "seconds": seconds}
        values = "  ".join(f"{key} {interval(metrics, key)}" for key in ("accuracy", "log_loss", "ece"))
        print(f"{name:<34} {values}  gold {table[name]['gold_spearman']:.3f}  {seconds:.0f} s", flush=True)
        counts = {"topics": len(test_items.prompts), "pairs": len(held_out)}
        store("convarg", {"import": messages, "options": vars(options), **counts, "rows": table})

    words = np.array([[len(text.split())] for text in items.responses], dtype=np.float32)

    def minilm() -> np.ndarray:
        return text_features(items, encoder(), cache=OUT / "cache")

    for name, features in {
        "length (words)": lambda: words,
        "TF-IDF, linear": lambda: text_features(items, "tfidf", dimensions=128, cache=OUT / "cache"),
        "MiniLM frozen, linear": minilm,
        "MiniLM frozen + length, linear": lambda: np.hstack((minilm(), np.log1p(words))),
    }.items():
        clock = Clock()
        x = standardized(features()).astype(np.float64)
        note(name, x @ linear.fit_with_validation(x, items, train_rows, options.seed), clock())

    strict = [row for row in train_rows if len(set(items.ranks[items.shown(row)])) == 2]
    votes = both.select(np.sort(np.random.default_rng(options.seed).permutation(strict)[: options.votes]))
    common = PLAIN | {
        "per_device_train_batch_size": options.batch, "learning_rate": options.learning_rate, "num_train_epochs": 1,
        "max_length": options.max_length, "seed": options.seed, "logging_steps": 10, "warmup_steps": 5,
    }  # fmt: skip
    transformers.set_seed(options.seed)
    clock = Clock()
    built = build_reward_model(encoder(), max_length=options.max_length)
    args = BradleyTerryConfig(output_dir=str(OUT / "convarg-ours"), **common)
    trainer = BradleyTerryTrainer(built.model, args=args, train_dataset=votes, processing_class=built.tokenizer)
    trainer.train()
    seconds = clock()
    note(f"MiniLM tuned on {len(votes)} votes", trainer.reward_model.score_items(items), seconds)
    transformers.set_seed(options.seed)
    note("TRL RewardTrainer, same votes", *trl_rewards(votes, items, options.max_length, common))

"""ConvArg: which argument convinces more? Eight topics held out; reward models against simple baselines and TRL."""

from __future__ import annotations

import argparse
import csv
import gzip
from collections import Counter

import datasets
import linear
import numpy as np
import torch
import transformers
import trl
from common import DATA, OUT, Clock, encoder, interval, load, standardized, store
from scipy.stats import spearmanr

from pluralign.judgments import Judgments
from pluralign.judgments.split import split
from pluralign.scoring.features import text_features
from pluralign.scoring.items import Items, items_of
from pluralign.scoring.reward_models import build_reward_model
from pluralign.training.reward_trainer import BradleyTerryConfig, BradleyTerryTrainer

HELD_OUT_TOPICS = 8


def majority(judgments: Judgments) -> Judgments:
    """One judgment per pair: what most votes said; pairs whose votes balance are left out."""
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
    """(topic, text) to the published consensus score."""
    with gzip.open(DATA / "convarg_crowd" / "arguments.csv.gz", "rt", encoding="utf-8") as file:
        texts = {row["arg"]: row["text"] for row in csv.DictReader(file)}
    with gzip.open(DATA / "convarg_crowd" / "gold_rank.csv.gz", "rt", encoding="utf-8") as file:
        return {(row["topic"], texts[row["arg"]]): float(row["rank_score"]) for row in csv.DictReader(file)}


def spearman_with_gold(items: Items, rewards: np.ndarray) -> float:
    """Mean over topics of the rank correlation with the published scores, in which lower is more convincing."""
    gold = gold_scores()
    found = []
    for item, prompt in enumerate(items.prompts):
        members = [index for index in np.flatnonzero(items.item == item) if (prompt, items.responses[index]) in gold]
        values = [-gold[prompt, items.responses[index]] for index in members]
        found.append(spearmanr(rewards[members], values).statistic)
    return float(np.mean(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--votes", type=int, default=4096, help="votes that the fine-tuned models train on")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    judgments, said = load("convarg")
    train, test = split(judgments, by="prompt", test_units=HELD_OUT_TOPICS, seed=options.seed)
    held_out = majority(test)
    both = Judgments.from_rows([*train.rows(), *({**row, "id": None} for row in held_out.rows())])
    items = items_of(both)
    rows = np.arange(items.judgments)
    train_rows, test_rows = rows[: len(train)], rows[len(train) :]
    test_items = items_of(held_out)
    place = {(items.prompts[i], text): n for n, (i, text) in enumerate(zip(items.item, items.responses, strict=True))}
    of_test = np.array(
        [place[test_items.prompts[i], t] for i, t in zip(test_items.item, test_items.responses, strict=True)]
    )
    table: dict[str, dict[str, float]] = {}

    def note(name: str, rewards: np.ndarray, seconds: float) -> None:
        found = linear.evaluate(items, test_rows, rewards)
        table[name] = {
            **found,
            "gold_spearman": spearman_with_gold(test_items, rewards[of_test]),
            "seconds": seconds,
        }
        print(
            f"{name:<34} accuracy {interval(found, 'accuracy')}  log-loss {interval(found, 'log_loss')}  "
            f"ece {interval(found, 'ece')}  gold {table[name]['gold_spearman']:.3f}  {seconds:.0f} s",
            flush=True,
        )
        store("convarg", {"said": said, "options": vars(options), "topics": len(test_items.prompts),
                          "pairs": len(held_out), "rows": table})  # fmt: skip

    words = np.array([[len(text.split())] for text in items.responses], dtype=np.float32)
    for name, features in {
        "length (words)": lambda: words,
        "TF-IDF, linear": lambda: text_features(items, "tfidf", dimensions=128, cache=OUT / "cache"),
        "MiniLM frozen, linear": lambda: text_features(items, encoder(), cache=OUT / "cache"),
        "MiniLM frozen + length, linear": lambda: np.hstack(
            (text_features(items, encoder(), cache=OUT / "cache"), np.log1p(words))
        ),
    }.items():
        clock = Clock()
        x = standardized(features()).astype(np.float64)
        note(name, x @ linear.fit_with_validation(x, items, train_rows, options.seed), clock())

    strict = [row for row in train_rows if len(set(items.ranks[items.shown(row)])) == 2]
    chosen = np.sort(np.random.default_rng(options.seed).permutation(strict)[: options.votes])
    votes = both.select(chosen)
    common = {
        "per_device_train_batch_size": options.batch, "learning_rate": options.learning_rate, "num_train_epochs": 1,
        "max_length": options.max_length, "seed": options.seed, "report_to": "none", "save_strategy": "no",
        "logging_steps": 10, "bf16": False, "gradient_checkpointing": False, "warmup_steps": 5,
        "disable_tqdm": True,
    }  # fmt: skip
    transformers.set_seed(options.seed)
    clock = Clock()
    built = build_reward_model(encoder(), max_length=options.max_length)
    trainer = BradleyTerryTrainer(
        built.model, BradleyTerryConfig(output_dir=str(OUT / "convarg-ours"), **common), votes,
        processing_class=built.tokenizer,
    )  # fmt: skip
    trainer.train()
    seconds = clock()
    note(f"MiniLM tuned on {len(votes)} votes", trainer.reward_model.score_items(items), seconds)

    transformers.set_seed(options.seed)
    clock = Clock()
    pairs = []
    for row in votes.rows():
        better = row["ranks"].index(1)
        texts = row["responses"]
        pairs.append(
            {"chosen": f"{row['prompt']}\n{texts[better]}", "rejected": f"{row['prompt']}\n{texts[1 - better]}"}
        )
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        encoder(), num_labels=1, dtype=torch.float32
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder())
    tokenizer.eos_token = tokenizer.sep_token
    # TRL drops what is longer than max_length; cut as we do so that both see the same votes.
    rows_of_ids = [
        {f"{name}_ids": tokenizer(pair[name], truncation=True, max_length=options.max_length)["input_ids"]
         for name in ("chosen", "rejected")}
        for pair in pairs
    ]  # fmt: skip
    theirs = trl.RewardTrainer(
        model, trl.RewardConfig(output_dir=str(OUT / "convarg-trl"), **common),
        train_dataset=datasets.Dataset.from_list(rows_of_ids), processing_class=tokenizer,
    )  # fmt: skip
    theirs.train()
    seconds = clock()
    model.eval()
    rewards = np.zeros(len(items.responses))
    with torch.no_grad():
        for start in range(0, len(items.responses), 32):
            texts = [
                f"{items.prompts[i]}\n{t}"
                for i, t in zip(items.item[start : start + 32], items.responses[start : start + 32], strict=True)
            ]
            batch = tokenizer(texts, truncation=True, max_length=options.max_length, padding=True, return_tensors="pt")
            rewards[start : start + 32] = model(**batch).logits[:, 0].numpy()
    note("TRL RewardTrainer, same votes", rewards, seconds)


if __name__ == "__main__":
    main()

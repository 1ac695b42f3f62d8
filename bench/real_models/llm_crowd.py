"""A reward model on SmolLM2-135M-Instruct for a crowd that compared answers of language models to 13 prompts.

Cross-validation over the prompts: the rewards of a prompt's answers come from a model that saw none of its judgments.
Beside the tuned model (LoRA, Bradley-Terry with Davidson's ties) stand linear rewards on the length, on TF-IDF, and on
frozen states of MiniLM and of SmolLM2, which read all training judgments; their ridge is chosen on a quarter of the
training prompts. On the same states of SmolLM2, MORE takes three kinds of prompts as its sources, beside the same steps
with uniform weights, and DPRM's regression learns how often an answer wins, ties and loses. The settings of the tuned
model were fixed before any held-out judgment was read. Every fold is stored as soon as it is done, and a stopped script
continues where it was.

`others` predicts a vote by the other votes on the same pair (ties half right): what a pair shares between people.
"""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import peft
import transformers

from pluralign.choice.label_regression import LabelRegression
from pluralign.evaluation.intervals import Resampling, annotator_ids
from pluralign.evaluation.rewards.summary import evaluate_rewards
from pluralign.judgments import Judgments
from pluralign.scoring.features import text_features
from pluralign.scoring.items import Items, items_of
from pluralign.scoring.measured import column_of
from pluralign.scoring.reward_models import build_reward_model
from pluralign.training.reward_trainer import BradleyTerryConfig, BradleyTerryTrainer

from ..common.data import encoder, standardized, with_line_break
from ..common.options import QUICK, parsed, parts
from ..common.pretrained import SMOLLM2, pretrained
from ..common.results import OUT, Clock, keep, kept
from ..common.tables import interval
from ..common.training import HALF, LORA, SILENT
from ..reward_models import linear
from ..reward_models.more_settings import BASE, DRAWS
from ..reward_models.ties import llm_crowd

SETTINGS: dict[str, Any] = {
    "per_device_train_batch_size": 64, "max_steps": 24, "learning_rate": 1e-3, "lr_scheduler_type": "cosine",
    "warmup_steps": 3, "max_length": 320, "ties": "davidson", **HALF,
}  # fmt: skip
"""Of the tuned model, with LoRA of rank 8 on all linear layers; everything else is the default."""

LENGTH, TUNED, OTHERS = "length (words)", "SmolLM2 tuned", "others"
FROZEN = "SmolLM2 frozen, linear"
UNIFORM, MORE, SHARES = "SmolLM2 frozen, uniform over kinds", "SmolLM2 frozen, MORE", "SmolLM2 frozen, DPRM"
LINEAR = (LENGTH, "TF-IDF, linear", "MiniLM frozen, linear", FROZEN)
METHODS = (*LINEAR, UNIFORM, MORE, SHARES, TUNED)

KINDS = {
    "one right answer": ("Sally", "I went", "What are the 5", "Help me find", "Extract"),
    "writing": ("Tell a joke", "Translate", "Write me", "Write a 12", "Argue for"),
    "explanation": ("Explain", "Is Taiwan", "Give two"),
}
"""The kinds of prompts by their first words, the sources of MORE."""


def folds_of(items: Items, folds: int, seed: int) -> np.ndarray:
    """The fold of each prompt."""
    fold = np.empty(len(items.prompts), dtype=np.int64)
    fold[np.random.default_rng(seed).permutation(len(fold))] = np.arange(len(fold)) % folds
    return fold


def linear_features(items: Items, method: str) -> np.ndarray:
    if method == LENGTH:
        return np.array([[len(text.split())] for text in items.responses], dtype=np.float64)
    source, options = {
        "TF-IDF, linear": ("tfidf", {"dimensions": 128}),
        "MiniLM frozen, linear": (encoder(), {}),
        FROZEN: (str(pretrained(SMOLLM2)), {"reads": "prompt+response"}),
    }[method]
    return text_features(items, source, cache=OUT / "cache", **options).astype(np.float64)


def on_states(method: str, x: np.ndarray, items: Items, inside: np.ndarray, seed: int) -> np.ndarray:
    """Rewards `(responses,)` of MORE, uniform weights or DPRM on features `x`, from the judgments `inside`."""
    starts = items.offsets[:-1][inside]
    first, second = items.response[starts], items.response[starts + 1]
    votes = np.sign(items.ranks[starts + 1] - items.ranks[starts])
    if method == SHARES:  # wins, ties and losses of each answer
        counts = np.zeros((len(x), 3))
        np.add.at(counts, (first, 1 - votes), 1)
        np.add.at(counts, (second, 1 + votes), 1)
        total = counts.sum(1)
        seen = total > 0
        shares = counts[seen] / total[seen, None]
        mu = LabelRegression.fit(x[seen], shares, total[seen], items.item[seen], seed).predict(x)
        return np.asarray(mu @ [1.0, 0.5, 0.0])
    strict = votes != 0
    states = (votes[:, None] * (x[first] - x[second]))[strict]
    prompts = [items.prompts[number] for number in items.prompt[inside][strict]]
    sources = [np.array([prompt.startswith(words) for prompt in prompts]) for words in KINDS.values()]
    assert np.all(np.sum(sources, 0) == 1), "every prompt is of one kind"
    chosen = [states[own] for own in sources if own.any()]
    return x @ fit_sources(chosen, normalize=None if method == UNIFORM else "l2", seed=seed)


def fit_sources(sources: list[np.ndarray], normalize: Any, seed: int) -> np.ndarray:
    """A linear reward by the settings of `more_study`."""
    each = BASE.batch // len(sources)
    steps = BASE.epochs * DRAWS // each
    return linear.fit_sources(
        sources, [each] * len(sources), normalize, steps=steps, rate=BASE.rate, final=0.0, seed=(seed, 1)
    )[0]


def tuned(judgments: Judgments, items: Items, inside: np.ndarray, settings: dict[str, Any], seed: int) -> np.ndarray:
    """The rewards of held-out answers after training on the judgments `inside`; 0 for other answers."""
    transformers.set_seed(seed)
    built = build_reward_model(pretrained(SMOLLM2), max_length=settings["max_length"])
    with tempfile.TemporaryDirectory() as folder:
        args = BradleyTerryConfig(folder, seed=seed, **SILENT, **settings)
        votes = judgments.select(items.row[inside].tolist())
        adapter = peft.LoraConfig(**LORA, task_type="SEQ_CLS")
        trainer = BradleyTerryTrainer(
            built.model, args, train_dataset=votes, processing_class=built.tokenizer, peft_config=adapter
        )
        trainer.train()
        held = items_of(judgments.select(np.setdiff1d(items.row, items.row[inside]).tolist()))
        scores = trainer.reward_model.score_items(held)
    found = dict(zip(_texts(held), scores, strict=True))
    return np.array([found.get(text, 0.0) for text in _texts(items)])


def _texts(items: Items) -> list[tuple[str, str]]:
    return [(items.prompts[item], text) for item, text in zip(items.item, items.responses, strict=True)]


def margins_of_others(items: Items) -> np.ndarray:
    """For each judgment of a pair, how many more of the other people preferred the first response, `(judgments,)`."""
    starts = items.offsets[:-1]
    first, second = items.response[starts], items.response[starts + 1]
    votes = np.sign(items.ranks[starts + 1] - items.ranks[starts])
    order = np.where(first < second, 1, -1)
    pair = np.unique(np.sort(np.stack((first, second), 1), 1), axis=0, return_inverse=True)[1].ravel()
    return order * np.bincount(pair, votes * order)[pair] - votes


def compared(items: Items, margins: dict[str, np.ndarray], who: np.ndarray) -> dict[str, dict[str, float]]:
    """Accuracy on strict judgments and its difference to the length, with two-way intervals over prompts and people."""
    starts = items.offsets[:-1]
    votes = np.sign(items.ranks[starts + 1] - items.ranks[starts])
    strict = (votes != 0).astype(float)
    right = {name: (np.sign(margin * votes) + 1) / 2 for name, margin in margins.items()}
    resampling = Resampling(items.prompt, annotator=who)
    return {
        name: resampling.mean_intervals({
            "accuracy": (strict * own, strict), "over_length": (strict * (own - right[LENGTH]), strict)
        })
        for name, own in right.items()
    }  # fmt: skip


def summary(items: Items, who: np.ndarray, done: dict[str, Any], folds: int) -> dict[str, dict[str, float]]:
    """Metrics of all methods whose folds are done, by method; `others` first."""
    starts = items.offsets[:-1]
    margins = {OTHERS: margins_of_others(items)}
    table: dict[str, dict[str, float]] = {OTHERS: {}}
    for method, own in done.items():
        if own["folds"] == folds:
            values = np.array(own["values"])
            margins[method] = values[items.response[starts]] - values[items.response[starts + 1]]
            metrics = evaluate_rewards(
                values[items.response], items.ranks, items.offsets, items.prompt, items.weight, annotator=who
            )
            table[method] = {key: value for key, value in metrics.items() if key.startswith(("log_loss", "ece"))}
            table[method]["seconds"] = own["seconds"]
    return {method: table[method] | metrics for method, metrics in compared(items, margins, who).items()}


def main() -> None:
    options = parsed(
        __doc__, folds=(4, "Of the prompts."), steps=(SETTINGS["max_steps"], "Of the tuned model, in a fold."), seed=0,
        methods=parts(METHODS, "Only these rewards, and the length."), quick=QUICK,
    )  # fmt: skip
    stored_as = "smollm2_llm_crowd" + "_quick" * options.quick
    if options.quick:
        options.folds, options.steps = 2, 2
    transformers.logging.set_verbosity_error()
    given = SETTINGS | {"max_steps": options.steps}
    judgments = with_line_break(llm_crowd().rows())
    items = items_of(judgments)
    fold = folds_of(items, options.folds, options.seed)
    who = annotator_ids(column_of(judgments, items, "annotator"))
    counts = {
        "prompts": len(items.prompts), "answers": len(items.responses), "votes": items.judgments,
        "people": len(np.unique(who)),
    }  # fmt: skip
    settings = given | counts | {"folds": options.folds, "seed": options.seed}
    rows = kept(stored_as, settings)
    done = rows.setdefault("rewards", {})

    def note(method: str, number: int, rewards: np.ndarray, seconds: float) -> None:
        held = np.isin(items.item, np.flatnonzero(fold == number))
        own = done.setdefault(method, {"seconds": 0.0, "values": [0.0] * len(items.responses), "folds": 0})
        own["values"] = np.where(held, rewards, own["values"]).round(6).tolist()
        own["seconds"], own["folds"] = own["seconds"] + seconds, number + 1
        keep(stored_as, settings, rows)

    features: dict[str, np.ndarray] = {}
    for method in [one for one in METHODS if one == LENGTH or one in options.methods]:
        for number in range(done.get(method, {"folds": 0})["folds"], options.folds):
            clock = Clock()
            inside = np.flatnonzero(fold[items.prompt] != number)
            if method == TUNED:
                rewards = tuned(judgments, items, inside, given, options.seed)
            else:
                read = method if method in LINEAR else FROZEN
                if read not in features:
                    features[read] = standardized(linear_features(items, read))
                x = features[read]
                if method in LINEAR:
                    rewards = x @ linear.fit_with_validation(x, items, inside, options.seed)
                else:
                    rewards = on_states(method, x, items, inside, options.seed)
            note(method, number, rewards, clock())
            print(f"{method}, fold {number + 1} of {options.folds}: {clock():.0f} s", flush=True)
    rows["table"] = summary(items, who, done, options.folds)
    keep(stored_as, settings, rows)
    for method, row in rows["table"].items():
        shown = ", ".join(f"{key} {interval(row, key)}" for key in ("accuracy", "over_length", "log_loss"))
        print(f"{method:<26}{shown}", flush=True)

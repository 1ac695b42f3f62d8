"""EM-DPO on real annotators: crowds that compare two texts, and conversations whose participants vote on statements.

`crowds`: annotators with 20 or more strict votes, on arguments (`convarg`) and on answers of language models
(`llm_crowd`). A quarter of the pairs of texts is held out for everyone, so no annotator judges a held-out pair in
training (its texts occur in other pairs). Reported is how well held-out votes are predicted by one policy, by the
default, and by the two types of the start, whatever the audit says.

`polis`: five conversations; a response is a statement, the prompt is the beginning of the topic. An annotator's
statements are ranked agree over pass over disagree. The ranking is cut at random into small ones that share no
statement; small rankings of ties alone are left out, and a fifth of each annotator's is held out. Reported is how well
held-out rankings are predicted, for everybody and for every opinion group, by one policy, by the default, and by one
policy for each opinion group given (an annotator outside all groups trains all of them).

Both start from a causal model of a million parameters, trained from scratch on the texts. Every run is stored as soon
as it is done, and a stopped script continues where it was.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import transformers

from pluralign.judgments import Judgments

from ..common.data import POLIS_CONVERSATIONS, load, prolific_annotators, with_line_break
from ..common.options import QUICK, Option, parsed, parts
from ..common.results import kept
from ..reward_models.ties import llm_crowd
from .polis import DEFAULT, METHODS, ONE, POLIS_SETTINGS, polis
from .runs import SETTINGS, SHAPE, Split, compared, language_model

LEAST = 20
"""Strict votes that an annotator needs."""

CROWDS: dict[str, tuple[int, int | None]] = {"convarg": (160, 10), "llm_crowd": (320, None)}
"""Tokens of prompt and response that are read, and how many prompts, a seeded sample (None: all of them)."""

HELD_OUT = 0.25
"""Of the pairs of texts."""

CROWD_METHODS: dict[str, dict[str, Any]] = {
    ONE: METHODS[ONE],
    DEFAULT: METHODS[DEFAULT],
    "two types": {"types": 2, "rounds": 0},
}


def strict_votes(name: str, prompts: int | None) -> Judgments:
    """Strict votes of annotators with many of them, on all prompts or on a seeded sample."""
    judgments = llm_crowd() if name == "llm_crowd" else load(name)[0]
    names = sorted(set(judgments.column("prompt")))
    chosen = set(np.random.default_rng(0).permutation(names)[:prompts].tolist())
    strict = [row for row in judgments.rows() if row["prompt"] in chosen and len(set(row["ranks"])) == 2]
    return prolific_annotators(with_line_break(strict), LEAST)


def without_pairs(judgments: Judgments, share: float, seed: int) -> Split:
    """Training and held-out votes: all votes on a pair of texts are on one side."""
    pairs = [(row["prompt"], *sorted(row["responses"])) for row in judgments.rows()]
    unique = sorted(set(pairs))
    held = np.random.default_rng(seed).permutation(len(unique))[: round(share * len(unique))]
    chosen = {unique[index] for index in held}
    sides = np.array([pair in chosen for pair in pairs])
    return Split(*(judgments.select(np.flatnonzero(side).tolist()) for side in (~sides, sides)))


def crowds(options: argparse.Namespace) -> None:
    stored_as = f"em_real_crowds{options.suffix}"
    settings = SETTINGS | SHAPE | {
        "least": LEAST, "crowds": CROWDS, "share": HELD_OUT, "base_epochs": options.epochs,
    }  # fmt: skip
    rows = kept(stored_as, settings)
    for place in options.crowds:
        length, prompts = CROWDS[place]
        votes = strict_votes(place, prompts)
        given = SETTINGS | {"max_length": length}
        model = language_model(f"{place}{options.suffix}", votes, options.epochs, length)
        for seed in options.seeds:
            data = without_pairs(votes, HELD_OUT, seed)
            compared(stored_as, settings, rows, place, seed, model, data, CROWD_METHODS, given)


PARTS = {"crowds": crowds, "polis": polis}


def main() -> None:
    options = parsed(
        __doc__,
        only=parts(PARTS),
        crowds=parts(CROWDS, "Crowds that compare two texts."),
        passes=(1, "Epochs over the votes of a crowd in an M-step."),
        epochs=(8.0, "Epochs of the language model of a crowd's texts."),
        conversations=parts(POLIS_CONVERSATIONS, "Polis conversations."),
        annotators=Option(None, "Annotators of a conversation, a seeded sample; all by default.", type=int),
        size=(5, "Statements in a small ranking, or a few more."),
        polis_epochs=(10.0, "Epochs of the language model of statements."),
        seeds=([0, 1, 2], "Of splits and training."),
        quick=QUICK,
    )
    options.suffix = "_quick" if options.quick else ""
    SETTINGS["num_train_epochs"] = options.passes
    if options.quick:
        options.epochs, options.crowds, CROWDS["convarg"] = 1, ["convarg"], (160, 3)
        options.annotators, options.polis_epochs, options.seeds = 120, 1, [0]
        options.conversations = ["brexit-consensus"]
        POLIS_SETTINGS["max_steps"] = 40
    transformers.logging.set_verbosity_error()
    for part in options.only:
        PARTS[part](options)

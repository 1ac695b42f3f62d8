"""Real crowds for the benchmark of predicted crowds: items with their votes, and the pairs that they imply.

| name | an item | labels and their rewards | held out |
|---|---|---|---|
| polis-statements | a statement of one of four conversations | agree 1, pass 0, disagree -1 | statements |
| polis-conversations | the same | the same | each conversation in turn |
| alphanli | a hypothesis about a story; a pair of them is one choice | chosen 1, not chosen 0 | stories |
| snli | premise and hypothesis | entailment 1, neutral 0, contradiction -1 | premises |
| rte | text and hypothesis | true 1, false 0 | texts |
| helpsteer2 | question and response | helpfulness 0 to 4 | questions |
| subpop | a survey question with three answers, and the group that is asked | answers in order, 0 to 2 | questions |
"""

from __future__ import annotations

import csv
import gzip
import html
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from pluralign.judgments import BUILT_IN_SCALES, Judgments, LabelScale, read
from pluralign.judgments.split import By, held_out
from pluralign.workflows.importing import import_files

from ..common.data import DATA, POLIS_CONVERSATIONS
from ..common.results import OUT

LEFT_OUT = "vtaiwan.uberx"
"""In Chinese, which the encoder does not understand."""

LEAST_VOTES = 10
"""Statements with fewer votes are left out."""

MOST = (600, 400)
"""Training items and held-out items, at most, of a head on frozen states."""

TRAINING_PAIRS = 300
"""Pairs of statements that a Bradley-Terry model learns from; other sources use all of their pairs."""


@dataclass(frozen=True)
class Source:
    """The items of a crowd.

    Args:
        prompt: `(items,)`.
        response: `(items,)`.
        counts: `(items, labels)` votes.
        scale: the labels.
        by: the unit that is held out.
        max_length: tokens that the encoder reads, at most.
        pairs: `(pairs, 4)`, two items and the votes for the first and for the second.
        groups: `(items,)`, the part to hold out in turn, where parts are not drawn.
    """

    prompt: list[str]
    response: list[str]
    counts: np.ndarray
    scale: LabelScale
    by: By
    max_length: int
    pairs: np.ndarray
    groups: np.ndarray | None = None

    def judgments(self, chosen: np.ndarray, majority: bool = False) -> Judgments:
        """The votes on some items, a row per label weighted by its votes; or only the majority's label."""
        return self._rows(chosen, majority)[0]

    def _rows(self, chosen: np.ndarray, majority: bool = False) -> tuple[Judgments, np.ndarray]:
        places, rows = [], []
        for item in chosen:
            votes = self.counts[item]
            if majority:
                votes = votes * (np.arange(len(votes)) == votes.argmax())
            for label, weight in zip(self.scale.labels, votes, strict=True):
                if weight:
                    row = {"prompt": self.prompt[item], "responses": [self.response[item]], "labels": [label]}
                    rows.append(row | {"weight": 1.0 if majority else float(weight), "id": f"{item}/{label}"})
                    places.append(item)
        return Judgments.from_rows(rows, self.scale), np.array(places)

    def parts(
        self, seed: int, share: float = 0.3, among: np.ndarray | None = None, most: Sequence[int] = MOST
    ) -> Iterator[tuple[Any, Any]]:
        """Training items and held-out items, at most so many; several times where groups take turns."""
        every = np.arange(len(self.prompt)) if among is None else among
        if self.groups is not None and among is None:
            for group in np.unique(self.groups):
                yield np.flatnonzero(self.groups != group), np.flatnonzero(self.groups == group)
            return
        judgments, places = self._rows(every)
        test = np.unique(places[held_out(judgments, self.by, share, seed)])
        # Whole clusters in random order: responses to one question stay together.
        order = np.random.default_rng(seed).permutation(len(self.prompt))
        both = (np.setdiff1d(every, test), test)
        first, second = (
            np.sort(part[np.argsort(order[self.cluster[part]], kind="stable")][:number])
            for part, number in zip(both, most, strict=True)
        )
        yield first, second

    def own_pairs(self, chosen: np.ndarray) -> np.ndarray:
        """The pairs with both items among the chosen ones."""
        inside = np.isin(self.pairs[:, :2], chosen).all(1)
        return self.pairs[inside]

    def compared(self, pairs: np.ndarray) -> Judgments:
        """Pairs as rankings of two; the votes of a pair have a total weight of 1."""
        rows = []
        for first, second, *votes in pairs:
            items = int(first), int(second)
            shown = [self.response[item] for item in items]
            for ranks, own in (([1, 2], votes[0]), ([2, 1], votes[1])):
                if own:
                    row = {"prompt": self.prompt[items[0]], "responses": shown, "ranks": ranks}
                    rows.append(row | {"weight": own / sum(votes), "id": f"{items[0]}/{items[1]}/{ranks[0]}"})
        return Judgments.from_rows(rows)

    @property
    def cluster(self) -> np.ndarray:
        """`(items,)`, the units that intervals resample: a question with its responses, or a single statement."""
        if self.by == "response":
            return np.arange(len(self.prompt))
        return np.unique(self.prompt, return_inverse=True)[1]


def polis(by_conversation: bool) -> Source:
    """Four conversations; the votes of a pair come from participants who voted differently on its two statements."""
    prompt, response, counts, groups, pairs = [], [], [], [], []
    scale = BUILT_IN_SCALES["agree-pass-disagree"]
    for number, name in enumerate(name for name in POLIS_CONVERSATIONS if name != LEFT_OUT):
        judgments, topic = _conversation(name)
        texts: dict[str, int] = {}
        annotators: dict[str, int] = {}
        votes = []
        for row in judgments.rows():
            item = texts.setdefault(row["responses"][0], len(texts))
            annotator = annotators.setdefault(row["annotator"], len(annotators))
            votes.append((annotator, item, scale.labels.index(row["labels"][0])))
        cast = np.zeros((len(annotators), len(texts), len(scale.labels)))
        cast[tuple(np.array(votes).T)] = 1
        kept = np.flatnonzero(cast.sum((0, 2)) >= LEAST_VOTES)
        cast = cast[:, kept]
        start = len(prompt)
        prompt += [topic] * len(kept)
        response += list(np.array(list(texts), dtype=object)[kept])
        counts.append(cast.sum(0))
        groups += [number] * len(kept)
        over = _over(cast, scale)
        first, second = np.triu_indices(len(kept), 1)
        both = np.stack((start + first, start + second, over[first, second], over[second, first]), 1)
        pairs.append(both[both[:, 2:].sum(1) > 0])
    return Source(
        prompt, response, np.concatenate(counts), scale, "response", 48, np.concatenate(pairs),
        groups=np.array(groups) if by_conversation else None,
    )  # fmt: skip


def _over(cast: np.ndarray, scale: LabelScale) -> np.ndarray:
    """`(items, items)`, the number of annotators who voted higher on the first."""
    worth = np.array(scale.rewards)
    higher = (worth[:, None] > worth).astype(float)
    return np.einsum("pal,lm,pbm->ab", cast, higher, cast, optimize=True)


def _conversation(name: str) -> tuple[Judgments, str]:
    with open(DATA / "polis_open" / f"{name}.summary.csv", encoding="utf-8") as file:
        topic = next(line[1] for line in csv.reader(file) if line[0] == "topic")
    file = OUT / "data" / f"crowds-{name}.parquet"
    if not file.exists():
        votes = DATA / "polis_open" / f"{name}.participants-votes.csv.gz"
        import_files(
            [votes],
            file,
            format="polis",
            prompt=topic,
            keep_moderated=True,
            on_error="skip",
            rejects=file.with_suffix(".rejects.jsonl"),
        )
    return read(file), topic


def alphanli() -> Source:
    prompt, response, counts, pairs = [], [], [], []
    for entry in _lines("chaosnli/chaosNLI_alphanli.jsonl.gz"):
        story, (first, second) = entry["example"], (entry["label_counter"].get(name, 0) for name in "12")
        pairs.append((len(prompt), len(prompt) + 1, first, second))
        prompt += [f"{story['obs1']} ... {story['obs2']}"] * 2
        response += [story["hyp1"], story["hyp2"]]
        counts += [(first, second), (second, first)]
    scale = LabelScale("which hypothesis", ("chosen", "not chosen"), (1.0, 0.0))
    return Source(prompt, response, np.array(counts, float), scale, "prompt", 64, np.array(pairs, float))


def snli() -> Source:
    prompt, response, counts = [], [], []
    for entry in _lines("chaosnli/chaosNLI_snli.jsonl.gz"):
        prompt.append(entry["example"]["premise"])
        response.append(entry["example"]["hypothesis"])
        counts.append([entry["label_counter"].get(name, 0) for name in "enc"])
    scale = LabelScale("nli", ("entailment", "neutral", "contradiction"), (1.0, 0.0, -1.0))
    return Source(prompt, response, np.array(counts, float), scale, "prompt", 48, NO_PAIRS)


def rte() -> Source:
    votes: dict[str, list[int]] = {}
    for row in _table("crowd_labels/rte_snow2008_labels.csv.gz"):
        votes.setdefault(row["orig_id"], [0, 0])[int(row["response"])] += 1
    texts = list(_table("crowd_labels/rte_snow2008_items.csv.gz"))
    prompt, response = ([html.unescape(row[name]) for row in texts] for name in ("text", "hypothesis"))
    counts = np.array([votes[row["orig_id"]] for row in texts], float)
    return Source(prompt, response, counts, BUILT_IN_SCALES["binary"], "prompt", 80, NO_PAIRS)


def helpsteer2() -> Source:
    """One judgment per response: the published score, 0 to 1 in steps of a quarter, is its label."""
    prompt, response, labels, pairs = [], [], [], []
    for part in ("train", "eval"):
        for entry in _lines(f"helpsteer2_subset/{part}.jsonl.gz"):
            own = [round(4 * label["helpfulness"]) for label in entry["labels"]]
            if own[0] != own[1]:
                pairs.append((len(prompt), len(prompt) + 1, float(own[0] > own[1]), float(own[0] < own[1])))
            prompt += [entry["prompt"]] * 2
            response += entry["responses"]
            labels += own
    scale = LabelScale("helpfulness", tuple("01234"), (0.0, 1.0, 2.0, 3.0, 4.0))
    return Source(prompt, response, np.eye(5)[labels], scale, "prompt", 80, np.array(pairs))


def subpop() -> Source:
    """Answer shares of groups as a hundred votes each; only questions with three answers in order."""
    prompt, response, counts = [], [], []
    for entry in _lines("subpop/subpop_eval.jsonl.gz"):
        if len(entry["ordinal"]) == len(entry["responses"]) == 3:
            answers = ", ".join(entry["options"][:3])
            prompt.append(f"{entry['question']} ({answers})")
            response.append(f"{entry['attribute'].lower()}: {entry['group']}")
            counts.append(100 * np.array(entry["responses"]))
    scale = LabelScale("answer", ("first", "second", "third"), (0.0, 1.0, 2.0))
    return Source(prompt, response, np.array(counts), scale, "prompt", 96, NO_PAIRS)


def _lines(path: str) -> Iterator[dict[str, Any]]:
    with gzip.open(DATA / path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def _table(path: str) -> Iterator[dict[str, str]]:
    with gzip.open(DATA / path, "rt", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


NO_PAIRS = np.zeros((0, 4))
SOURCES: dict[str, Callable[[], Source]] = {
    "polis-statements": lambda: polis(by_conversation=False),
    "polis-conversations": lambda: polis(by_conversation=True),
    "alphanli": alphanli,
    "snli": snli,
    "rte": rte,
    "helpsteer2": helpsteer2,
    "subpop": subpop,
}


@cache
def source(name: str) -> Source:
    """A crowd, read once."""
    return SOURCES[name]()

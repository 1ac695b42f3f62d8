"""Items: each prompt once, each of its responses once, and all judgments on them as index arrays."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pluralign.core.errors import PluralignError
from pluralign.core.fingerprint import fingerprint
from pluralign.judgments.codes import NONE, by_appearance, flat_values, numbered, ranks_shown
from pluralign.judgments.table import Judgments

Numbers = Sequence[int] | Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Items:
    """Judgments over unique texts: each text is scored once, however many annotators judged it.

    Args:
        prompts: one text or list of messages per item.
        responses: the unique responses, item by item.
        item: `(responses,)` the item of each response.
        response: `(shown,)` index into `responses`; the judgments are concatenated.
        ranks: `(shown,)` 1 best, equal = tie, 0 = shown but not ranked.
        offsets: `(judgments + 1,)` judgment j shows `response[offsets[j]:offsets[j + 1]]`.
        row: `(judgments,)` the row of the table that each judgment came from.
        weight: `(judgments,)` reliability.
        left_out: number of rows that rank nothing (a single response, or neither ranks nor labels).
        unfinished: `(responses,)` bool: drawn responses that were cut. Policies read no end token after them. `None`
            is none of them.

    Examples:
        >>> rows = [{"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, 2]}] * 3
        >>> items = items_of(Judgments.from_rows(rows))
        >>> len(items.prompts), items.responses, items.judgments, items.response.tolist()
        (1, ['Yes', 'No'], 3, [0, 1, 0, 1, 0, 1])
    """

    prompts: list[Any]
    responses: list[Any]
    item: np.ndarray
    response: np.ndarray
    ranks: np.ndarray
    offsets: np.ndarray
    row: np.ndarray
    weight: np.ndarray
    left_out: int
    unfinished: np.ndarray | None = None

    @property
    def judgments(self) -> int:
        """Number of judgments."""
        return len(self.row)

    @property
    def prompt(self) -> np.ndarray:
        """`(judgments,)` the item of each judgment."""
        return self.item[self.response[self.offsets[:-1]]]

    def shown(self, judgment: int) -> slice:
        """Position of a judgment in `response` and `ranks`."""
        return slice(self.offsets[judgment], self.offsets[judgment + 1])

    def fingerprint(self) -> str:
        """Hash of the texts (not of the judgments), for caches of values that depend on the texts alone."""
        cut = [] if self.unfinished is None else [self.unfinished.tolist()]
        return fingerprint(self.prompts, self.responses, self.item.tolist(), *cut)


def items_of(judgments: Judgments, keep_all: bool = False) -> Items:
    """Group judgments by prompt and number the unique responses.

    A row without ranks is ranked by its labels' rewards; equal rewards tie. Rows that rank nothing are left out and
    counted; `keep_all` keeps them, so that their texts are scored.

    Raises:
        PluralignError: nothing is left.
    """
    prompt_of, prompts = numbered(judgments.table.column("prompt"))
    lengths, shown = flat_values(judgments.table.column("responses"))
    text_of, texts = numbered(shown)
    row_of = np.repeat(np.arange(len(judgments)), lengths)
    ranks = ranks_shown(judgments, lengths)
    ranked = np.bincount(row_of[ranks != NONE], minlength=len(judgments)) > 0
    kept = np.ones(len(judgments), dtype=bool) if keep_all else ranked & (lengths > 1)
    if not kept.any():
        raise nothing_ranked(len(judgments))
    rows, flat = np.flatnonzero(kept), kept[row_of]
    first, _ = by_appearance(prompt_of[rows])
    number = np.zeros(len(prompts), dtype=np.int64)
    number[first] = np.arange(len(first))
    pairs, response = by_appearance((prompt_of[row_of] * len(texts) + text_of)[flat])
    prompt_number, text_number = np.divmod(pairs, len(texts))
    return _by_item(
        prompts=[prompts[at] for at in first],
        texts=[texts[at] for at in text_number],
        item=number[prompt_number],
        response=response,
        ranks=np.where(ranks == NONE, 0, ranks)[flat],
        offsets=np.concatenate(([0], np.cumsum(lengths[rows]))),
        row=rows,
        weight=judgments.table.column("weight").to_numpy()[rows],
        left_out=len(judgments) - len(rows),
    )


def nothing_ranked(rows: int) -> PluralignError:
    """What is wrong with so many rows if none ranks one of several responses."""
    return PluralignError(
        f"no judgment is left: {rows} row(s) rank nothing (a single response, or neither ranks nor labels); "
        "comparisons need two responses or more in a row: import Polis votes with --shape people; labels of single "
        "responses are for the objective dprm"
    )


def compares(judgments: Judgments) -> bool:
    """Whether any row ranks one of several responses, so that `items_of` returns judgments.

    Examples:
        >>> alone = {"prompt": "Tea?", "responses": ["Yes"], "ranks": [1]}
        >>> both = {"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, None]}
        >>> [compares(Judgments.from_rows([row])) for row in (alone, both)]
        [False, True]
    """
    return any(
        len(row["responses"]) > 1 and {*(row["ranks"] or ()), *(row["labels"] or ())} - {None}
        for row in judgments.rows()
    )


def items_of_texts(
    prompts: Sequence[Any], responses: Sequence[Sequence[Any]], unfinished: Sequence[Sequence[bool]] | None = None
) -> Items:
    """Prompts and the responses to each, without judgments; equal responses are kept apart.

    `unfinished` says of each response whether it was cut where it was drawn.

    Examples:
        >>> items_of_texts(["Tea?", "Rain?"], [["Yes", "Yes"], ["No"]]).item.tolist()
        [0, 0, 1]
    """
    item = np.repeat(np.arange(len(prompts)), [len(texts) for texts in responses]).tolist()
    texts = [text for group in responses for text in group]
    made = _by_item(list(prompts), texts, item, [], [], [0], [], [], 0)
    if unfinished is None:
        return made
    return replace(made, unfinished=np.array([cut for group in unfinished for cut in group], dtype=bool))


def items_of_responses(prompts: Sequence[Any], responses: Sequence[Any], weight: np.ndarray) -> Items:
    """Judgments that show one response each; equal (prompt, response) pairs share it. All arguments are `(judgments,)`.

    Examples:
        >>> items_of_responses(["Tea?", "Tea?"], ["Yes", "Yes"], np.ones(2)).response.tolist()
        [0, 0]
    """
    unique = {_key(prompt): prompt for prompt in prompts}
    places = {key: place for place, key in enumerate(unique)}
    keys = [(places[_key(prompt)], _key(text)) for prompt, text in zip(prompts, responses, strict=True)]
    texts = dict(zip(reversed(keys), reversed(responses), strict=True))
    number = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    each = list(range(len(keys)))
    return _by_item(
        prompts=list(unique.values()),
        texts=[texts[key] for key in number],
        item=[item for item, _ in number],
        response=[number[key] for key in keys],
        ranks=[1] * len(each),
        offsets=[*each, len(each)],
        row=each,
        weight=weight.tolist(),
        left_out=0,
    )


def _by_item(
    prompts: list[Any],
    texts: list[Any],
    item: Numbers,
    response: Numbers,
    ranks: Numbers,
    offsets: Numbers,
    row: Numbers,
    weight: Numbers,
    left_out: int,
) -> Items:
    """Number the responses item by item, in order of appearance within an item."""
    order = np.argsort(np.array(item), kind="stable")
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return Items(
        prompts=prompts,
        responses=[texts[index] for index in order],
        item=np.array(item, dtype=np.int64)[order],
        response=place[np.array(response, dtype=np.int64)],
        ranks=np.array(ranks, dtype=np.int64),
        offsets=np.array(offsets, dtype=np.int64),
        row=np.array(row, dtype=np.int64),
        weight=np.array(weight, dtype=np.float64),
        left_out=left_out,
    )


def _key(text: Any) -> str:
    # A table holds either texts or lists of messages, so keys of the two kinds cannot collide.
    return text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)

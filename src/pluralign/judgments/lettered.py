"""Judgments whose responses are letters of options that the prompt lists, as in a survey.

Statements or survey options of unequal length have log-probabilities that differ by hundreds of nats, whatever people
think of them. As letters, all options are one token long.
"""

from __future__ import annotations

import string
from typing import Any, Literal

import numpy as np

from pluralign.core.errors import PluralignError
from pluralign.judgments.messages import plain_text
from pluralign.judgments.table import Judgments

Answers = Literal["texts", "letters"]
"""What a policy responds with."""

MOST = len(string.ascii_uppercase)


def lettered(judgments: Judgments, seed: int = 0) -> Judgments:
    """The same judgments with the shown responses listed in the prompt, and their letters as responses.

    The prompt `Tea?` with the responses `Yes` and `No` becomes

        Tea?
        A. No
        B. Yes
        Answer:

    with the responses ` A` and ` B`. The order of the options is drawn for every judgment, so that no letter stands for
    better responses.

    Args:
        judgments: of responses in any form; messages get the list at the end of their last message.
        seed: seed of the orders.

    Raises:
        PluralignError: a judgment shows more than 26 responses.

    Examples:
        >>> rows = [{"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, 2], "annotator": "ann"}]
        >>> (row,) = lettered(Judgments.from_rows(rows)).rows()
        >>> print(row["prompt"]); row["responses"], row["ranks"]
        Tea?
        A. Yes
        B. No
        Answer:
        ([' A', ' B'], [1, 2])
    """
    draw = np.random.default_rng(seed)
    rows = []
    for number, row in enumerate(judgments.rows(), start=1):
        shown = row["responses"]
        if len(shown) > MOST:
            raise PluralignError(
                f"row {number}: shows {len(shown)} responses, and there are {MOST} letters: use answers: texts"
            )
        order = draw.permutation(len(shown)).tolist()
        rows.append(row | _listed(row["prompt"], [shown[place] for place in order]) | _ordered(row, order))
    return Judgments.from_rows(rows, judgments.label_scale)


def asked_for(judgments: Judgments, answers: Answers) -> Judgments:
    """Judgments in the form in which a policy is asked: as they are, or `lettered`."""
    return lettered(judgments) if answers == "letters" else judgments


def _listed(prompt: Any, options: list[Any]) -> dict[str, Any]:
    """Prompt and responses of one judgment."""
    letters = string.ascii_uppercase[: len(options)]
    if isinstance(prompt, str):
        lines = [f"{letter}. {text}" for letter, text in zip(letters, options, strict=True)]
        text = "\n".join([prompt.rstrip("\n"), *lines, "Answer:"])
        return {"prompt": text, "responses": [f" {one}" for one in letters]}
    lines = [f"{letter}. {plain_text(text)}" for letter, text in zip(letters, options, strict=True)]
    last = prompt[-1] | {"content": "\n".join([prompt[-1]["content"], *lines])}
    return {"prompt": [*prompt[:-1], last], "responses": [[{"role": "assistant", "content": one}] for one in letters]}


def _ordered(row: dict[str, Any], order: list[int]) -> dict[str, Any]:
    """What belongs to each response, in the new order."""
    return {key: [row[key][place] for place in order] for key in ("ranks", "labels") if row.get(key) is not None}

"""Split judgments into train and test with whole prompts, annotators, sources or groups on one side."""

from __future__ import annotations

import hashlib
import json
from typing import Literal, get_args

import numpy as np

from pluralign.core.errors import PluralignError, nearest
from pluralign.judgments.table import Judgments

By = Literal["prompt", "annotator", "source", "group"]


def units(judgments: Judgments, by: By) -> list[str]:
    """The unit that each judgment belongs to, as a name that does not depend on the order of the rows.

    Judgments of equal prompt, annotator, source or group are one unit. A judgment without an annotator is a
    unit of its own, since nobody is known to stand behind two of them; all judgments without a source, or
    without a group, are one unit.

    Raises:
        PluralignError: `by` is no column to split by.

    Example:
        >>> row = {"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, 2]}
        >>> judgments = Judgments.from_rows([row, row])
        >>> len(set(units(judgments, "prompt"))), len(set(units(judgments, "annotator")))
        (1, 2)
    """
    if by not in get_args(By):
        raise PluralignError(
            f"split by: found '{by}', expected {', '.join(get_args(By))}{nearest(by, get_args(By))}"
        )
    names: list[str] = []
    for batch in judgments.table.select(["id", by]).to_batches(max_chunksize=4096):
        for identity, value in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            # A list cannot be mistaken for an annotator, whatever that annotator is called.
            own = ["id", identity] if by == "annotator" and value is None else value
            names.append(hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest())
    return names


def split(
    judgments: Judgments, by: By, test: float = 0.2, seed: int = 0, test_units: int | None = None
) -> tuple[Judgments, Judgments]:
    """Split judgments into a train and a test side that share no unit.

    The units are put in an order that depends on their values and the seed alone. The test side takes the
    first of them, as many as bring its share of the judgments nearest to `test`; the rows keep their order.

    Args:
        judgments: what is split.
        by: what must not stand on both sides; see `units`.
        test: the share of judgments for the test side, above 0 and below 1.
        seed: another seed gives another split.
        test_units: this many units go to the test side, whatever their share.

    Returns:
        the train side and the test side, neither empty.

    Raises:
        PluralignError: there are fewer than two units, or a side would be empty.

    Example:
        >>> rows = [{"prompt": f"{n}?", "responses": ["Yes", "No"], "ranks": [1, 2]} for n in range(10)]
        >>> train, test = split(Judgments.from_rows(rows), by="prompt")
        >>> len(train), len(test)
        (8, 2)
    """
    names = np.array(units(judgments, by))
    if not 0 < test < 1:
        raise PluralignError(f"split: the share of the test side is {test}, expected a number above 0 and below 1")
    values, unit, sizes = np.unique(names, return_inverse=True, return_counts=True)
    if len(values) < 2:
        raise PluralignError(
            f"split: all {len(names)} judgments have one {by}, and a split needs two; split by another column"
        )
    order = np.argsort([hashlib.sha256(f"{seed} {value}".encode()).hexdigest() for value in values])
    if test_units is not None:
        count = test_units
        if not 1 <= count < len(values):
            raise PluralignError(
                f"split: {test_units} units asked for the test side of {len(values)}, expected 1 to "
                f"{len(values) - 1}, so that neither side is empty"
            )
    else:
        reached = np.concatenate([[0], np.cumsum(sizes[order])])
        count = int(np.argmin(np.abs(reached - test * len(names))))
        if count in (0, len(values)):
            side = "test" if count == 0 else "train"
            raise PluralignError(
                f"split: a share of {test} leaves the {side} side empty, since the {len(values)} units by {by} "
                "stay whole; give another share, or a number of test units"
            )
    chosen = np.zeros(len(values), dtype=bool)
    chosen[order[:count]] = True
    on_test = chosen[unit]
    return judgments.select(np.flatnonzero(~on_test)), judgments.select(np.flatnonzero(on_test))

"""Splits without leakage: rows that belong together go to the same side."""

from __future__ import annotations

import hashlib
import json
from typing import Literal, get_args

import numpy as np
import pyarrow as pa

from pluralign.core.errors import PluralignError, nearest
from pluralign.judgments.codes import by_appearance, flat_values, numbered
from pluralign.judgments.table import Judgments

By = Literal["prompt", "response", "annotator", "source", "group"]
BY: tuple[str, ...] = get_args(By)
"""What a table can be split by: a column, or the responses to each prompt."""


def split(
    judgments: Judgments, by: By, test: float = 0.2, seed: int = 0, test_units: int | None = None
) -> tuple[Judgments, Judgments]:
    """Split a table in two; a unit (a distinct value of the column `by`) is never on both sides.

    With `by="response"`, a unit is a connected set of responses to one prompt: the responses of a row belong
    together, and so do rows that share a response. No response to a prompt is on both sides, and no row is cut.

    Rows keep their order on both sides. `held_out` explains which units are held out.

    Args:
        judgments: the table to split.
        by: what stays whole: `prompt` (exact content, all messages), `response`, `annotator`, `source` or
            `group`.
        test: the share of judgments to hold out, between 0 and 1.
        seed: random seed; it determines which units are held out.
        test_units: hold out this many whole units instead of a share of the judgments.

    Returns:
        The judgments to train on and those held out.

    Raises:
        PluralignError: there are fewer than two units, the share is not between 0 and 1, or one side would be
            empty; says what to do.

    Examples:
        >>> rows = [{"prompt": f"Tea {n % 5}?", "responses": ["Yes", "No"], "ranks": [1, 2]} for n in range(20)]
        >>> train, held = split(Judgments.from_rows(rows), by="prompt", test=0.4)
        >>> len(train), len(held), set(train.column("prompt")) & set(held.column("prompt"))
        (12, 8, set())
    """
    mask = held_out(judgments, by, test, seed, test_units)
    return Judgments(judgments.table.filter(pa.array(~mask))), Judgments(judgments.table.filter(pa.array(mask)))


def held_out(
    judgments: Judgments, by: By, test: float = 0.2, seed: int = 0, test_units: int | None = None
) -> np.ndarray:
    """Which judgments `split` holds out: `(judgments,)` bool. Arguments and errors are those of `split`.

    Units are sorted by SHA-256(seed, unit), which depends neither on the order of the rows nor on the other units.
    With a share, a unit is held out if that brings the number of held-out judgments closer to `test` times all
    judgments, so the result is off by at most half the largest unit. With `test_units`, the first units in this
    order are held out.

    Examples:
        >>> rows = [{"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, 2], "source": s} for s in "abba"]
        >>> held_out(Judgments.from_rows(rows), by="source", test=0.5, seed=1).tolist()
        [False, True, True, False]
    """
    if isinstance(test, bool) or not 0.0 < test < 1.0:
        raise PluralignError(f"test share: found {test}, expected a number between 0 and 1, such as 0.2")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise PluralignError(f"seed: found {seed!r}, expected a whole number")
    unit_of, keys = units(judgments, by)
    if len(keys) < 2:
        raise PluralignError(
            f"cannot split by {by}: all {len(unit_of)} judgments have the same value; "
            f"split by something else ({', '.join(name for name in BY if name != by)})"
        )
    sizes = np.bincount(unit_of, minlength=len(keys)).tolist()
    order = sorted(range(len(keys)), key=lambda unit: hashlib.sha256(f"{seed}\0{keys[unit]}".encode()).digest())
    chosen = np.zeros(len(keys), dtype=bool)
    if test_units is not None:
        if isinstance(test_units, bool) or not 1 <= test_units < len(keys):
            raise PluralignError(
                f"test units: found {test_units}, expected 1 to {len(keys) - 1}: split by {by} there are "
                f"{len(keys)} units, and each side needs at least one"
            )
        chosen[order[:test_units]] = True
        return chosen[unit_of]
    wanted, held = test * len(unit_of), 0
    for unit in order:
        if abs(held + sizes[unit] - wanted) < abs(held - wanted):
            chosen[unit] = True
            held += sizes[unit]
    if not 0 < held < len(unit_of):
        side, other = ("test", "larger") if held == 0 else ("training", "smaller")
        raise PluralignError(
            f"the {side} side would be empty: split by {by} there are {len(keys)} units of {min(sizes)} to "
            f"{max(sizes)} judgments, and a test share of {test} is {wanted:g} of {len(unit_of)} judgments; ask "
            f"for a {other} share, or for a number of test units"
        )
    return chosen[unit_of]


def units(judgments: Judgments, by: By) -> tuple[np.ndarray, list[str]]:
    """The unit that each judgment belongs to, and the content of each unit.

    A judgment without an annotator is its own unit, since its annotator is unknown. Judgments without a source (or
    group) form one unit together. A connected set of responses is named by its prompt and its first response in
    alphabetical order, so the order of the rows does not matter.

    Args:
        judgments: the table, read batch by batch.
        by: what stays whole.

    Returns:
        The number of each judgment's unit, `(judgments,)`, and the contents of the units as JSON, in order of first
        appearance.

    Raises:
        PluralignError: `by` is not one of `prompt`, `response`, `annotator`, `source`, `group`.

    Examples:
        >>> row = {"prompt": "Tea?", "responses": ["Yes"], "ranks": [1]}
        >>> rows = [{**row, "annotator": name} for name in ("x", None, "x")]
        >>> unit_of, keys = units(Judgments.from_rows(rows), "annotator")
        >>> unit_of.tolist(), keys[0]
        ([0, 1, 0], '"x"')

        B connects A with C, and D is alone.

        >>> rows = [{"prompt": "Tea?", "responses": shown, "ranks": [1, 2][: len(shown)]} for shown in
        ...         (["C", "B"], ["D"], ["A", "B"])]
        >>> unit_of, keys = units(Judgments.from_rows(rows), "response")
        >>> unit_of.tolist(), keys
        ([0, 1, 0], ['["Tea?", "A"]', '["Tea?", "D"]'])
    """
    if by not in BY:
        raise PluralignError(f"cannot split by '{by}': expected {', '.join(BY)}{nearest(by, BY)}")
    if by == "response":
        return _connected_responses(judgments)
    codes, values = numbered(judgments.table.column(by))
    keys = [json.dumps(value, sort_keys=True) for value in values]
    missing = np.flatnonzero(codes < 0)
    if len(missing) and by == "annotator":
        codes[missing] = len(keys) + np.arange(len(missing))
        ids = judgments.table.column("id").take(pa.array(missing)).to_pylist()
        keys += [json.dumps({"id": name}) for name in ids]
    elif len(missing):
        codes[missing] = len(keys)
        keys.append("null")
    order, unit_of = by_appearance(codes)
    return unit_of, [keys[code] for code in order.tolist()]


def _connected_responses(judgments: Judgments) -> tuple[np.ndarray, list[str]]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    prompt_of, prompts = numbered(judgments.table.column("prompt"))
    lengths, shown = flat_values(judgments.table.column("responses"))
    text_of, texts = numbered(shown)
    pairs, place = by_appearance(np.repeat(prompt_of, lengths) * len(texts) + text_of)
    first = place[np.cumsum(lengths) - lengths]  # the first response of each row
    one = np.repeat(first, lengths)
    graph = coo_array((np.ones(len(one), dtype=bool), (one, place)), shape=(len(pairs), len(pairs)))
    component = connected_components(graph, directed=False)[1].tolist()
    names: dict[int, str] = {}
    for at, pair in enumerate(pairs.tolist()):
        key = json.dumps([prompts[pair // len(texts)], texts[pair % len(texts)]], sort_keys=True)
        names[component[at]] = min(key, names.get(component[at], key))
    order, unit_of = by_appearance(np.array(component)[first])
    return unit_of, [names[unit] for unit in order.tolist()]

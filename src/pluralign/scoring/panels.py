"""Judgments as a panel for models of annotator types."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from pluralign.choice.latent_class.panel import Panel
from pluralign.choice.plackett_luce import NOT_SHOWN
from pluralign.core.errors import PluralignError
from pluralign.judgments.codes import by_appearance, numbered
from pluralign.judgments.scales import LabelScale
from pluralign.judgments.table import Judgments
from pluralign.scoring.items import Items, items_of


@dataclass(frozen=True)
class People:
    """A panel and what its numbers stand for.

    Args:
        panel: the judgments; each judgment without an annotator id counts as a separate annotator.
        items: the texts. Responses of the panel from `len(items.responses)` on are bars, one per prompt.
        names: `(annotators,)` ids; `None` if an annotator has none.
        row: `(judgments,)` the row of the table that each judgment came from.
        code: `(judgments,)` the label's index on the scale, worst first; -1 for rankings.
        left_out: number of rows without a rank or label.
    """

    panel: Panel
    items: Items
    names: list[str | None]
    row: np.ndarray
    code: np.ndarray
    left_out: int

    @property
    def bars(self) -> np.ndarray:
        """`(responses of the panel,)` bool: whether each is the bar of a prompt and not a text."""
        return np.arange(self.panel.response_count) >= len(self.items.responses)

    @property
    def prompt(self) -> np.ndarray:
        """`(responses of the panel,)` the prompt of each, bars included."""
        bars = self.panel.response_count - len(self.items.responses)
        return np.concatenate((self.items.item, np.arange(bars)))

    def with_features(self, features: np.ndarray) -> People:
        """The panel with features `(responses, p)` of the texts; bars have a coefficient of their own, the last."""
        count, bars = features.shape[1], self.bars
        rows = np.zeros((len(bars), count + bool(bars.any())))
        rows[~bars, :count] = features
        rows[bars, count:] = 1.0
        return replace(self, panel=replace(self.panel, features=rows))


def people_of(judgments: Judgments) -> People:
    """The panel of a table.

    Rows with ranks are choices. In a table with labels only, a label is a choice between the response and a bar at the
    middle of the scale (reward 0 if the scale has rewards of both signs, else halfway between the lowest and the
    highest): above it the response was chosen, below it the bar, on it they tie. A worth is then how far annotators
    place a response above the bar.

    Raises:
        PluralignError: no row has a rank or a label.

    Examples:
        >>> from pluralign.judgments import BUILT_IN_SCALES
        >>> rows = [{"prompt": "Buses?", "responses": ["More"], "labels": [label], "annotator": name}
        ...         for name, label in (("a", "agree"), ("b", "disagree"), ("b", "pass"))]
        >>> people = people_of(Judgments.from_rows(rows, BUILT_IN_SCALES["agree-pass-disagree"]))
        >>> people.panel.responses.tolist(), people.panel.ranks.tolist(), people.names
        ([[0, 1], [0, 1], [0, 1]], [[1, 2], [2, 1], [1, 1]], ['a', 'b'])
    """
    ranks = judgments.table.column("ranks")
    return _from_ranks(judgments) if ranks.null_count < len(ranks) else _from_labels(judgments)


def _from_ranks(judgments: Judgments) -> People:
    items = items_of(judgments)
    shown = np.diff(items.offsets)
    if shown.min() == shown.max():
        responses, ranks = (values.reshape(len(shown), -1) for values in (items.response, items.ranks))
    else:
        place = np.arange(shown.max()) < shown[:, None]
        responses, ranks = np.zeros(place.shape, dtype=np.int64), np.full(place.shape, NOT_SHOWN)
        responses[place], ranks[place] = items.response, items.ranks
    annotator, names = _annotators(judgments, items.row)
    panel = Panel(responses, ranks, annotator, reliability=items.weight, response_total=len(items.responses))
    none = np.broadcast_to(np.int64(-1), items.judgments)
    return People(panel, items, names, items.row, none, items.left_out)


def _from_labels(judgments: Judgments) -> People:
    scale = judgments.label_scale
    if scale is None:
        raise PluralignError("the table has neither ranks nor a label scale: read it with label_scale=...")
    items = items_of(judgments, keep_all=True)
    flat = [label for row in judgments.column("labels") for label in (row or [])]
    counts = np.array([len(row or []) for row in judgments.column("labels")])
    if not np.array_equal(counts, np.diff(items.offsets)):
        raise PluralignError("some rows have neither ranks nor labels: remove them first")
    given = np.array([label is not None for label in flat])
    labels = [label for label in flat if label is not None]
    if not labels:
        raise PluralignError("no row has a rank or a label")
    index_of, middle = _codes(scale), bar_of(scale)
    code = np.array([index_of[label] for label in labels])
    reward = np.array([scale.reward(label) for label in labels])
    row, reliability = (np.repeat(values, counts)[given] for values in (items.row, items.weight))
    response = items.response[given]
    shown = np.stack((response, len(items.responses) + items.item[response]), 1)
    ranks = np.stack((np.where(reward >= middle, 1, 2), np.where(reward > middle, 2, 1)), 1)
    annotator, names = _annotators(judgments, row)
    total = len(items.responses) + len(items.prompts)
    panel = Panel(shown, ranks, annotator, reliability=reliability, response_total=total)
    left_out = int((np.bincount(row, minlength=len(judgments)) == 0).sum())
    return People(panel, items, names, row, code, left_out)


def bar_of(scale: LabelScale) -> float:
    """The reward at the middle of a scale."""
    lowest, highest = min(scale.rewards), max(scale.rewards)
    return 0.0 if lowest < 0 < highest else (lowest + highest) / 2


def _codes(scale: LabelScale) -> dict[str, int]:
    """Index of each label by reward; equal rewards keep the scale's order, reversed if the scale is descending."""
    labels = scale.labels[::-1] if scale.rewards[0] > scale.rewards[-1] else scale.labels
    return {label: index for index, label in enumerate(sorted(labels, key=scale.reward))}


def annotators_of(judgments: Judgments, rows: np.ndarray) -> tuple[np.ndarray, list[str | int]]:
    """Annotators of some rows: `(rows,)` numbers from 0, and the id behind each number.

    A row without an annotator id counts as a separate annotator, identified by the row number.

    Examples:
        >>> rows = [{"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, 2], "annotator": name}
        ...         for name in ("ann", None, "ann")]
        >>> numbers, keys = annotators_of(Judgments.from_rows(rows), np.arange(3))
        >>> numbers.tolist(), keys
        ([0, 1, 0], ['ann', 1])
    """
    codes, names = numbered(judgments.table.column("annotator").take(pa.array(rows, pa.int64())))
    missing = np.flatnonzero(codes < 0)
    alone, place = np.unique(rows[missing], return_inverse=True)
    codes[missing] = len(names) + place
    order, numbers = by_appearance(codes)
    keys: list[str | int] = [*names, *alone.tolist()]
    return numbers, [keys[code] for code in order.tolist()]


def _annotators(judgments: Judgments, rows: np.ndarray) -> tuple[np.ndarray, list[str | None]]:
    """Annotator numbers of some rows, and the ids of those that have one."""
    numbers, keys = annotators_of(judgments, rows)
    return numbers, [key if isinstance(key, str) else None for key in keys]

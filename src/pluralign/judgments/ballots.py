"""Judgments as votes: who said which label of which item, as arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pluralign.core.errors import PluralignError, one_line
from pluralign.judgments.scales import LabelScale
from pluralign.judgments.schema import Form, ranks_from_scores
from pluralign.judgments.table import Judgments
from pluralign.judgments.vote_state import Kind, VoteSettings, text_key

_BITS = 32
_LOW = 2**_BITS - 1
_LAST = np.iinfo(np.int64).max
"""The rank of a response that was shown and not ranked."""


@dataclass(frozen=True)
class Ballots:
    """The votes of some judgments.

    Args:
        prompt: `(items,)` of the items voted on, in the order in which they first come.
        response: `(items,)`; of pairs A, the first by `text_key`.
        other: `(items,)` B of pairs; empty for labels.
        item: `(votes,)` index of the item.
        label: `(votes,)` index of the label.
        weight: `(votes,)` how much of a vote it is.
        judgment: `(votes,)` the row of the table that it comes from, in ascending order.
        left_out: rows without a vote of this kind.
    """

    prompt: list[Any]
    response: list[Any]
    other: list[Any]
    item: np.ndarray
    label: np.ndarray
    weight: np.ndarray
    judgment: np.ndarray
    left_out: int


def digests_of(judgments: Judgments) -> np.ndarray:
    """A digest of 16 bytes of each judgment's id: `(judgments,)`."""
    ids = judgments.column("id")
    found = [hashlib.blake2b(name.encode(), digest_size=16).digest() for name in ids]
    return np.array(found, dtype="S16")


def kind_of_votes(judgments: Judgments) -> Kind:
    """`labels` where the table has any, else `pairs`."""
    column = judgments.table.column("labels")
    return "labels" if column.null_count < len(column) else "pairs"


def ballots_of(judgments: Judgments, rows: np.ndarray, kind: Kind, settings: VoteSettings) -> Ballots:
    """The votes of some rows of a table.

    Of pairs a judgment votes on every pair that it compares, unranked responses behind the ranked ones, a tie as
    half a vote for either; rows without ranks are ranked by their labels' rewards.

    Args:
        judgments: the table.
        rows: `(judgments,)` bool, which rows count.
        kind: what is voted on.
        settings: of the state.
    """
    scale = judgments.label_scale
    label_of = {} if scale is None else {label: number for number, label in enumerate(scale.labels)}
    number_of: dict[tuple[str, str], int] = {}
    prompts: list[Any] = []
    responses: list[Any] = []
    keys: list[str] = []
    labelled: list[tuple[int, int, float, int]] = []  # of each vote: response, label, weight, judgment
    ranked: dict[int, list[tuple[list[int], list[int], float, int]]] = {}  # by length: responses, ranks, the same
    left_out = 0
    for index, row in _chosen(judgments, rows):
        given: Sequence[int | None]
        if kind == "labels":
            given = [None if label is None else label_of[label] for label in row["labels"] or []]
        else:
            given = row["ranks"] or _ranks(row["labels"], judgments)
        if all(value is None for value in given) or (kind == "pairs" and len(given) < 2):
            left_out += 1
            continue
        prompt, shown = text_key(row["prompt"]), []
        for text in row["responses"]:
            key = (prompt, text_key(text))
            if key not in number_of:
                number_of[key] = len(keys)
                prompts.append(row["prompt"])
                responses.append(text)
                keys.append(key[1])
            shown.append(number_of[key])
        weight = row["weight"]
        if kind == "labels":
            pairs = zip(shown, given, strict=True)
            labelled += [(place, label, weight, index) for place, label in pairs if label is not None]
        else:
            ranks = [_LAST if value is None else value for value in given]
            ranked.setdefault(len(ranks), []).append((shown, ranks, weight, index))
    if kind == "labels":
        item, label, weight, judgment = _columns(labelled)
        first, item = _in_order(item)
        second = first[:0]
    else:
        # Votes come judgment by judgment, whatever the lengths of their rankings.
        pair, side, weight, judgment = _pair_votes(ranked, settings)
        first, second, item, label = _canonical(pair, side, keys)
    return Ballots(
        prompt=[prompts[one] for one in first],
        response=[responses[one] for one in first],
        other=[responses[one] for one in second],
        item=item,
        label=label,
        weight=weight,
        judgment=judgment,
        left_out=left_out,
    )


def _chosen(judgments: Judgments, rows: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
    """The chosen rows with their numbers, batch by batch: a table larger than memory stays on disk."""
    wanted = judgments.table.select(["prompt", "responses", "ranks", "labels", "weight"])
    start = 0
    for batch in wanted.to_batches(max_chunksize=4096):
        mask = rows[start : start + batch.num_rows]
        yield from zip((start + np.flatnonzero(mask)).tolist(), batch.filter(pa.array(mask)).to_pylist(), strict=True)
        start += batch.num_rows


def _columns(votes: list[tuple[int, int, float, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    item, label, weight, judgment = zip(*votes, strict=True) if votes else ((), (), (), ())
    whole = np.int64
    return np.array(item, whole), np.array(label, whole), np.array(weight, np.float64), np.array(judgment, whole)


def _pair_votes(
    ranked: Mapping[int, list[tuple[list[int], list[int], float, int]]], settings: VoteSettings
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rankings to votes on pairs `(votes,)`: key of the two responses, the better one's side, weight, judgment.

    A key has the first response in its high and the second in its low bits; side 0 is the first.
    """
    found: list[tuple[np.ndarray, ...]] = []
    for length, rankings in ranked.items():
        shown, ranks, weights, judgments = zip(*rankings, strict=True)
        response, rank = np.array(shown, dtype=np.int64), np.array(ranks, dtype=np.int64)
        one, two = np.triu_indices(length, 1)
        ahead, behind = rank[:, one], rank[:, two]
        compared = (ahead < _LAST) | (behind < _LAST)
        each = np.array(weights, dtype=np.float64)
        if settings.pair_votes == "shared":
            each = each / compared.sum(1)
        tied = (ahead == behind)[compared]
        key = (response[:, one] << _BITS | response[:, two])[compared]
        side = (behind < ahead).astype(np.int64)[compared]
        row = np.nonzero(compared)[0]
        weight, judgment = np.where(tied, each[row] / 2, each[row]), np.array(judgments, dtype=np.int64)[row]
        found.append((key, side, weight, judgment))
        # A tie is two halves; the other one is for the second response.
        found.append((key[tied], side[tied] + 1, weight[tied], judgment[tied]))
    if not found:
        return _columns([])
    key, side, weight, judgment = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.argsort(judgment, kind="stable")
    return key[order], side[order], weight[order], judgment[order]


def _canonical(
    key: np.ndarray, side: np.ndarray, names: list[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pairs with A before B by their names: A and B of the distinct pairs, and each vote's pair and label."""
    order = np.empty(len(names), dtype=np.int64)
    order[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
    one, two = key >> _BITS, key & _LOW
    turned = order[one] > order[two]
    pair, place = _in_order(np.where(turned, two, one) << _BITS | np.where(turned, one, two))
    return pair >> _BITS, pair & _LOW, place, np.where(turned, 1 - side, side)


def _in_order(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values in the order in which they first come, and the place of each value among them."""
    distinct, first, place = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return distinct[order], rank[place]


def _ranks(labels: list[str | None] | None, judgments: Judgments) -> list[int | None]:
    scale = judgments.label_scale
    if labels is None or scale is None:
        return []
    return ranks_from_scores([None if label is None else scale.reward(label) for label in labels])


def times_of(judgments: Judgments, rows: np.ndarray) -> np.ndarray:
    """Times of some rows in microseconds since 1970: `(rows,)`.

    Raises:
        PluralignError: a row has none.
    """
    column = judgments.table.column("time").take(pa.array(rows))
    if column.null_count:
        row = int(rows[pc.index(pc.is_null(column), True).as_py()])
        raise PluralignError(
            f"{column.null_count} of {len(rows)} judgments with a vote have no time (the first is "
            f"{one_line(judgments.row(row)['id'])}), so they cannot fade: give the column `time`, or make a state "
            "with decay 1"
        )
    return np.asarray(column.cast(pa.int64()).to_numpy())


def strata_of(
    judgments: Judgments, rows: np.ndarray, settings: VoteSettings, stratum_of: Mapping[str, str] | None
) -> np.ndarray:
    """The number of the stratum of some rows' annotators, in the order of the shares: `(rows,)`.

    Raises:
        PluralignError: an annotator is of no stratum, or of one without a share.
    """
    if settings.shares is None:
        return np.zeros(len(rows), dtype=np.int64)
    column = "group" if settings.strata == "group" else "annotator"
    said = judgments.table.column(column).take(pa.array(rows)).to_pylist()
    if settings.strata != "group":
        if stratum_of is None:
            raise PluralignError(
                f"the state's strata are '{settings.strata}', a column of a table of annotators: give that table"
            )
        said = [stratum_of.get(name) for name in said]
    number = {name: place for place, name in enumerate(settings.shares)}
    found = np.array([number.get(name, -1) for name in said], dtype=np.int64)
    if (found < 0).any():
        first = int((found < 0).argmax())
        name = one_line(judgments.row(int(rows[first]))["id"])
        raise PluralignError(
            f"{int((found < 0).sum())} of {len(rows)} judgments with a vote are of no stratum with a share (the "
            f"first is {name}: {settings.strata} {one_line(said[first])}; "
            f"shares: {', '.join(settings.shares)}): give it a share, or leave these judgments out"
        )
    return found


def check_fits(judgments: Judgments, kind: Kind, form: Form, expected: LabelScale) -> None:
    """Complain about a table that does not fit a state.

    Raises:
        PluralignError: the form of its texts or its label scale is another, or labels are wanted and it has none.
    """
    if judgments.form != form:
        raise PluralignError(f"the judgments hold {judgments.form} and the state {form}: convert one of them")
    scale = judgments.label_scale
    if kind == "labels" and scale is None:
        raise PluralignError("the state counts labels, and the judgments have none: start another state for pairs")
    if kind == "labels" and scale != expected:
        raise PluralignError(
            f"the judgments' label scale '{scale and scale.name}' differs from the state's: read them with "
            "the same --label-scale, or start another state"
        )

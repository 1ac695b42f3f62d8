"""The votes in a table of judgments, as arrays: which judgment gives which label to which item."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pluralign.core.errors import PluralignError, one_line
from pluralign.judgments.table import Judgments
from pluralign.judgments.votes.state import Kind, VoteSettings, VoteState, text_key

_BITS = 32
_LOW = 2**_BITS - 1
_UNRANKED = np.iinfo(np.int64).max  # the rank of a response that was shown and not ranked

_Ranking = tuple[list[int], list[int], float, int]  # numbers of the responses, ranks, weight, judgment


@dataclass(frozen=True)
class Ballots:
    """The votes that some judgments cast."""

    prompt: list[Any]  # `(items,)` prompts of the items, in order of first appearance
    response: list[Any]  # `(items,)` responses; for pairs, A: the first by `text_key`
    other: list[Any]  # `(items,)` B of each pair; empty for labels
    item: np.ndarray  # `(votes,)` index of the item
    label: np.ndarray  # `(votes,)` index of the label
    weight: np.ndarray  # `(votes,)` weight of the vote
    judgment: np.ndarray  # `(votes,)` row of the table that the vote comes from, ascending
    left_out: int  # number of rows without a vote of this kind


def digests_of(judgments: Judgments) -> np.ndarray:
    """A 16-byte digest of each judgment's id: `(judgments,)`."""
    digests = [hashlib.blake2b(name.encode(), digest_size=16).digest() for name in judgments.column("id")]
    return np.array(digests, dtype="S16")


def kind_of_votes(judgments: Judgments) -> Kind:
    """`labels` if the table has any label, else `pairs`."""
    column = judgments.table.column("labels")
    return "labels" if column.null_count < len(column) else "pairs"


def ballots_of(judgments: Judgments, rows: np.ndarray, kind: Kind, settings: VoteSettings) -> Ballots:
    """The votes of the selected rows, `(judgments,)` bool, of a table.

    For pairs, a judgment votes on every pair that it compares: unranked responses come after the ranked ones, and a
    tie is half a vote for each side. Rows without ranks are ranked by the rewards of their labels.
    """
    scale = judgments.label_scale
    label_number = {} if scale is None else {label: number for number, label in enumerate(scale.labels)}
    response_number: dict[tuple[str, str], int] = {}
    prompts: list[Any] = []
    responses: list[Any] = []
    labelled: list[tuple[int, int, float, int]] = []  # per vote: response, label, weight, judgment
    ranked: dict[int, list[_Ranking]] = {}  # by number of responses
    left_out = 0
    for index, row in _selected(judgments, rows):
        values: list[int | None]
        if kind == "labels":
            values = [None if label is None else label_number[label] for label in row["labels"] or []]
        else:
            values = judgments.ranks_of(row)
        if all(value is None for value in values) or (kind == "pairs" and len(values) < 2):
            left_out += 1
            continue
        prompt, shown = text_key(row["prompt"]), []
        for text in row["responses"]:
            key = (prompt, text_key(text))
            if key not in response_number:
                response_number[key] = len(responses)
                prompts.append(row["prompt"])
                responses.append(text)
            shown.append(response_number[key])
        weight = row["weight"]
        if kind == "labels":
            pairs = zip(shown, values, strict=True)
            labelled += [(number, label, weight, index) for number, label in pairs if label is not None]
        else:
            ranks = [_UNRANKED if value is None else value for value in values]
            ranked.setdefault(len(ranks), []).append((shown, ranks, weight, index))
    if kind == "labels":
        item, label, weight, judgment = _columns(labelled)
        first, item = _by_appearance(item)
        second = first[:0]
    else:
        pair, side, weight, judgment = _pair_votes(ranked, settings)
        first, second, item, label = _canonical_pairs(pair, side, [key for _, key in response_number])
    return Ballots(
        prompt=[prompts[number] for number in first],
        response=[responses[number] for number in first],
        other=[responses[number] for number in second],
        item=item,
        label=label,
        weight=weight,
        judgment=judgment,
        left_out=left_out,
    )


def _selected(judgments: Judgments, rows: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
    """The selected rows with their numbers, batch by batch: a table larger than memory stays on disk."""
    table = judgments.table.select(["prompt", "responses", "ranks", "labels", "weight"])
    start = 0
    for batch in table.to_batches(max_chunksize=4096):
        mask = rows[start : start + batch.num_rows]
        yield from zip((start + np.flatnonzero(mask)).tolist(), batch.filter(pa.array(mask)).to_pylist(), strict=True)
        start += batch.num_rows


def _columns(votes: list[tuple[int, int, float, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    item, label, weight, judgment = zip(*votes, strict=True) if votes else ((), (), (), ())
    whole = np.int64
    return np.array(item, whole), np.array(label, whole), np.array(weight, np.float64), np.array(judgment, whole)


def _pair_votes(
    ranked: Mapping[int, list[_Ranking]], settings: VoteSettings
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rankings as votes on pairs, `(votes,)` each: key of the two responses, side of the better one, weight, judgment.

    A key has the first response in its high bits and the second in its low bits; side 0 is the first. Votes are in
    the order of the judgments, whatever the lengths of the rankings.
    """
    parts: list[tuple[np.ndarray, ...]] = []
    for length, rankings in ranked.items():
        shown, ranks, weights, judgments = zip(*rankings, strict=True)
        response, rank = np.array(shown, dtype=np.int64), np.array(ranks, dtype=np.int64)
        one, two = np.triu_indices(length, 1)
        rank_one, rank_two = rank[:, one], rank[:, two]
        compared = (rank_one < _UNRANKED) | (rank_two < _UNRANKED)
        each = np.array(weights, dtype=np.float64)
        if settings.pair_votes == "shared":
            each = each / compared.sum(1)
        tied = (rank_one == rank_two)[compared]
        key = (response[:, one] << _BITS | response[:, two])[compared]
        side = (rank_two < rank_one).astype(np.int64)[compared]
        row = np.nonzero(compared)[0]
        weight, judgment = np.where(tied, each[row] / 2, each[row]), np.array(judgments, dtype=np.int64)[row]
        parts.append((key, side, weight, judgment))
        parts.append((key[tied], side[tied] + 1, weight[tied], judgment[tied]))  # the other half of each tie
    if not parts:
        return _columns([])
    key, side, weight, judgment = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.argsort(judgment, kind="stable")
    return key[order], side[order], weight[order], judgment[order]


def _canonical_pairs(
    key: np.ndarray, side: np.ndarray, names: list[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pairs with A before B by name: A and B of the distinct pairs, and the pair and label of each vote."""
    order = np.empty(len(names), dtype=np.int64)
    order[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
    one, two = key >> _BITS, key & _LOW
    swapped = order[one] > order[two]
    pair, place = _by_appearance(np.where(swapped, two, one) << _BITS | np.where(swapped, one, two))
    return pair >> _BITS, pair & _LOW, place, np.where(swapped, 1 - side, side)


def _by_appearance(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values in order of first appearance, and the index of each value among them."""
    distinct, first, place = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return distinct[order], rank[place]


def times_of(judgments: Judgments, rows: np.ndarray) -> np.ndarray:
    """Times of some rows in microseconds since 1970: `(rows,)`; an error names the first row without a time."""
    column = judgments.table.column("time").take(pa.array(rows))
    if column.null_count:
        row = int(rows[pc.index(pc.is_null(column), True).as_py()])
        raise PluralignError(
            f"{column.null_count} of {len(rows)} judgments with a vote have no time (the first is "
            f"{one_line(judgments.row(row)['id'])}), so their votes cannot fade: fill the column `time`, or create a "
            "state with decay 1"
        )
    return np.asarray(column.cast(pa.int64()).to_numpy())


def strata_of(
    judgments: Judgments, rows: np.ndarray, settings: VoteSettings, stratum_of: Mapping[str, str] | None
) -> np.ndarray:
    """The index of each row's stratum in `settings.shares`, `(rows,)`; every row needs a stratum with a share."""
    if settings.shares is None:
        return np.zeros(len(rows), dtype=np.int64)
    by_group = settings.strata == "group"
    names = judgments.table.column("group" if by_group else "annotator").take(pa.array(rows)).to_pylist()
    if not by_group:
        if stratum_of is None:
            raise PluralignError(
                f"the state's strata are '{settings.strata}', a column of a table of annotators: give that table"
            )
        names = [stratum_of.get(name) for name in names]
    number = {name: place for place, name in enumerate(settings.shares)}
    strata = np.array([number.get(name, -1) for name in names], dtype=np.int64)
    if (strata < 0).any():
        first = int((strata < 0).argmax())
        raise PluralignError(
            f"{int((strata < 0).sum())} of {len(rows)} judgments with a vote have no stratum with a share (the first "
            f"is {one_line(judgments.row(int(rows[first]))['id'])}: {settings.strata} {one_line(names[first])}; "
            f"shares: {', '.join(settings.shares)}): give the stratum a share, or leave these judgments out"
        )
    return strata


def check_fits(judgments: Judgments, state: VoteState) -> None:
    """Check that a table has the form of a state and, for a state of labels, its label scale."""
    if judgments.form != state.form:
        raise PluralignError(f"the judgments hold {judgments.form} and the state {state.form}: convert one of them")
    scale = judgments.label_scale
    if state.kind == "labels" and scale is None:
        raise PluralignError("the state counts labels, and the judgments have none: start another state for pairs")
    if state.kind == "labels" and scale != state.scale:
        raise PluralignError(
            f"the judgments' label scale '{scale and scale.name}' differs from the state's: read them with "
            "the same --label-scale, or start another state"
        )

"""The votes in a table of judgments, as arrays: which judgment gives which label to which item."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pluralign.core.errors import PluralignError, one_line
from pluralign.judgments.codes import NONE, by_appearance, flat_values, labels_shown, numbered, ranks_shown
from pluralign.judgments.table import Judgments
from pluralign.judgments.votes.state import Kind, VoteSettings, VoteState, text_key

_BLOCK = 2**19  # rows whose votes are worked out at a time, which bounds memory
_BITS = 32
_LOW = 2**_BITS - 1
_UNRANKED = np.iinfo(np.int64).max  # the rank of a response that was shown and not ranked


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
    digest = hashlib.blake2b
    parts = []
    for chunk in judgments.table.column("id").chunks:
        names = chunk.view(pa.binary()).to_pylist()
        parts.append(b"".join([digest(name, digest_size=16).digest() for name in names]))
    return np.frombuffer(bytearray(b"".join(parts)), dtype="S16")


def first_and_unknown(digests: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which digests occur for the first time and are not among the known ones: `(judgments,)` bool."""
    every = np.concatenate((known, digests))
    left, right = every.view(np.uint64).reshape(-1, 2).T
    order = np.argsort(left, kind="stable")  # equal digests follow one another, the earliest first
    ordered = left[order]
    repeats = ordered[1:] == ordered[:-1]
    if (right[order[1:][repeats]] != right[order[:-1][repeats]]).any():  # half a digest in common: compare whole ones
        first = np.zeros(len(every), dtype=bool)
        first[np.unique(every, return_index=True)[1]] = True
        return first[len(known) :]
    first = np.ones(len(every), dtype=bool)
    first[order[1:][repeats]] = False
    return first[len(known) :]


def kind_of_votes(judgments: Judgments) -> Kind:
    """`labels` if the table has any label, else `pairs`."""
    column = judgments.table.column("labels")
    return "labels" if column.null_count < len(column) else "pairs"


def ballots_of(judgments: Judgments, rows: np.ndarray, kind: Kind, settings: VoteSettings) -> Ballots:
    """The votes of the selected rows, `(judgments,)` bool, of a table.

    For pairs, a judgment votes on every pair that it compares: unranked responses come after the ranked ones, and a
    tie is half a vote for each side. Rows without ranks are ranked by the rewards of their labels.
    """
    starts = range(0, max(len(judgments), 1), _BLOCK)
    slices = ((Judgments(judgments.table.slice(start, _BLOCK)), rows[start : start + _BLOCK]) for start in starts)
    return _joined([_ballots(part, among, kind, settings) for part, among in slices])


def _joined(parts: list[Ballots]) -> Ballots:
    """The votes of consecutive blocks of a table, with each item once."""
    if len(parts) == 1:
        return parts[0]
    place_of: dict[tuple[str, ...], int] = {}
    texts: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
    items = []
    for part in parts:
        own = (part.prompt, part.response, part.other)
        keys = [tuple(map(text_key, of_item)) for of_item in zip(*(each for each in own if each), strict=True)]
        fresh = [number for number, key in enumerate(keys) if key not in place_of]
        places = [place_of.setdefault(key, len(place_of)) for key in keys]
        items.append(np.array(places, dtype=np.int64)[part.item])
        for whole, each in zip(texts, own, strict=True):
            whole += [each[number] for number in fresh] if each else []
    sizes = np.arange(len(parts)) * _BLOCK
    return Ballots(
        *texts,
        item=np.concatenate(items),
        label=np.concatenate([part.label for part in parts]),
        weight=np.concatenate([part.weight for part in parts]),
        judgment=np.concatenate([start + part.judgment for start, part in zip(sizes, parts, strict=True)]),
        left_out=sum(part.left_out for part in parts),
    )


def _ballots(judgments: Judgments, rows: np.ndarray, kind: Kind, settings: VoteSettings) -> Ballots:
    """The votes of a block of rows."""
    table = judgments.table
    lengths, shown = flat_values(table.column("responses"))
    row_of = np.repeat(np.arange(len(judgments)), lengths)
    values = labels_shown(judgments, lengths) if kind == "labels" else ranks_shown(judgments, lengths)
    given = np.bincount(row_of[values != NONE], minlength=len(judgments)) > 0
    votes = rows & given & ((kind == "labels") | (lengths > 1))
    prompt_of, prompts = numbered(table.column("prompt"))
    text_of, texts = numbered(shown)
    cast = votes[row_of]
    keys, response = by_appearance((np.repeat(prompt_of, lengths) * max(len(texts), 1) + text_of)[cast])
    prompt_number, text_number = np.divmod(keys, max(len(texts), 1))
    weights = table.column("weight").to_numpy()
    if kind == "labels":
        voted = values[cast] != NONE
        judgment, label = row_of[cast][voted], values[cast][voted]
        first, item = by_appearance(response[voted])
        second, weight = first[:0], weights[judgment]
    else:
        ranks = np.where(values[cast] == NONE, _UNRANKED, values[cast])
        pair, side, weight, judgment = _pair_votes(response, ranks, np.flatnonzero(votes), lengths, weights, settings)
        first, second, item, label = _canonical_pairs(pair, side, [text_key(texts[text]) for text in text_number])
    return Ballots(
        prompt=[prompts[prompt_number[number]] for number in first],
        response=[texts[text_number[number]] for number in first],
        other=[texts[text_number[number]] for number in second],
        item=item,
        label=label,
        weight=weight,
        judgment=judgment,
        left_out=int(rows.sum() - votes.sum()),
    )


def _pair_votes(
    response: np.ndarray,
    rank: np.ndarray,
    rows: np.ndarray,
    lengths: np.ndarray,
    weights: np.ndarray,
    settings: VoteSettings,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rankings as votes on pairs, `(votes,)` each: key of the two responses, side of the better one, weight, judgment.

    A key has the first response in its high bits and the second in its low bits; side 0 is the first. Votes are in
    the order of the judgments, whatever the lengths of the rankings.
    """
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64))]
    starts = np.cumsum(lengths[rows]) - lengths[rows]
    for length in np.unique(lengths[rows]):
        of = lengths[rows] == length
        flat = starts[of][:, None] + np.arange(length)
        one, two = np.triu_indices(length, 1)
        response_one, response_two = response[flat[:, one]], response[flat[:, two]]
        rank_one, rank_two = rank[flat[:, one]], rank[flat[:, two]]
        compared = (rank_one < _UNRANKED) | (rank_two < _UNRANKED)
        each = weights[rows[of]]
        if settings.pair_votes == "shared":
            each = each / compared.sum(1)
        tied = (rank_one == rank_two)[compared]
        key = (response_one << _BITS | response_two)[compared]
        side = (rank_two < rank_one).astype(np.int64)[compared]
        row = np.nonzero(compared)[0]
        weight, judgment = np.where(tied, each[row] / 2, each[row]), rows[of][row]
        parts.append((key, side, weight, judgment))
        parts.append((key[tied], side[tied] + 1, weight[tied], judgment[tied]))  # the other half of each tie
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
    count = max(len(names), 1)
    pair, place = by_appearance(np.where(swapped, two, one) * count + np.where(swapped, one, two))
    return pair // count, pair % count, place, np.where(swapped, 1 - side, side)


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

"""Annotators whose judgments look mechanical: the same place every time, or a copy of another annotator's judgments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array
from scipy.stats import betabinom, binom

from pluralign.core.errors import PluralignError
from pluralign.evaluation.pairs import Floats, Ints, whole_numbers

ALWAYS = 0.9
"""A straight-liner chooses the same place in at least this share of the judgments."""

MOST_COMPARED = 4000
"""Copies are searched among at most this many annotators: those with the most judgments."""

BLOCK = 512
"""Annotators compared with all others at once."""

DENSE = 2**24
"""Up to this size, tables of annotators by judgments are multiplied as dense matrices, which is faster."""


def straight_liners(
    place: ArrayLike,
    places: ArrayLike,
    annotator: ArrayLike,
    annotators: int,
    *,
    unit: ArrayLike | None = None,
    minimum: int = 8,
) -> Floats:
    """How surprising it is that an annotator chose the same place, or gave the same label, so often: p-values.

    For c of n judgments with the annotator's most frequent place, one of m, and the mean chance q of this place,

        p = min(1, m P(Binomial(n, q) >= c))    if c >= 0.9 n, else 1

    The chance in a judgment is 1 / m, or the share of the *other* annotators' judgments with the same place if that is
    larger: where everyone chooses the first place, because a table stores the better response first, nobody stands out.
    Their share is that on the same unit, with one added vote of their share on all units. If chances differ between
    judgments, the binomial tail is an upper bound (Hoeffding 1956). (The rule is ours.)

    Args:
        place: the place of the best response, or the label, int `(judgments,)` from 0; negative where there is none.
        places: m, the number of places or labels, int `(judgments,)`.
        annotator: int `(judgments,)` from 0; negative if unknown.
        annotators: number of annotators.
        unit: what was judged, int `(judgments,)`: a response, or the responses in their order; `None`: all the same.
        minimum: number of judgments that an annotator needs.

    Returns:
        `(annotators,)`; NaN for too few judgments. Compare with a level divided by the number of p-values.

    Raises:
        PluralignError: arrays of different lengths or not of integers, or an annotator of `annotators` or more.

    Examples:
        The third annotator always chooses the first of two places.

        >>> p = straight_liners([0, 1] * 20 + [0] * 20, [2] * 60, np.repeat([0, 1, 2], 20), 3)
        >>> p.round(6).tolist()
        [1.0, 1.0, 2e-06]
    """
    chosen = whole_numbers("place", place)
    count = whole_numbers("places", places, len(chosen))
    who = _annotator_numbers(annotator, annotators, len(chosen))
    what = np.zeros(len(chosen), dtype=np.int64) if unit is None else whole_numbers("unit", unit, len(chosen))
    kept = (chosen >= 0) & (who >= 0) & (count > 1)
    chosen, count, who, what = chosen[kept], count[kept], who[kept], np.unique(what[kept], return_inverse=True)[1]
    result = np.full(annotators, np.nan)
    if not len(chosen):
        return result
    width = int(max(chosen.max() + 1, count.max()))
    made = np.bincount(who, minlength=annotators)
    by_place = np.bincount(who * width + chosen, minlength=annotators * width).reshape(annotators, width)
    usual, often = by_place.argmax(1), by_place.max(1)
    # Votes of the others on the same unit, and those of them for the annotator's usual place.
    own = what * annotators + who
    on_unit = _count(what, what) - _count(own, own)
    alike = _count(what * width + chosen, what * width + usual[who])
    alike -= _count(own * width + chosen, own * width + usual[who])
    elsewhere = (by_place.sum(0)[usual] - often) / np.maximum(len(who) - made, 1)
    chance = np.maximum((alike + elsewhere[who]) / (on_unit + 1), 1 / count)
    mean = np.bincount(who, chance, annotators) / np.maximum(made, 1)
    most = np.zeros(annotators)
    np.maximum.at(most, who, count)
    p = np.where(often >= ALWAYS * made, np.minimum(1, most * binom.sf(often - 1, made, mean.clip(0, 1))), 1.0)
    tested = made >= minimum
    result[tested] = p[tested]
    return result


@dataclass(frozen=True)
class Copies:
    """Pairs of annotators who agree the most beyond what is usual.

    Attributes:
        first, second: the two annotators, int64 `(pairs,)`, `first < second`.
        shared: number of units that both judged, int64 `(pairs,)`.
        agreed: number of those that they judged alike, int64 `(pairs,)`.
        p_value: of so much agreement, float64 `(pairs,)`; compare with a level divided by `tested`.
        tested: number of pairs with enough shared units.
    """

    first: Ints
    second: Ints
    shared: Ints
    agreed: Ints
    p_value: Floats
    tested: int


def near_copies(
    unit: ArrayLike,
    value: ArrayLike,
    annotator: ArrayLike,
    annotators: int,
    *,
    group: ArrayLike | None = None,
    minimum: int = 10,
    level: float = 0.05,
) -> Copies:
    """Pairs of annotators who agree on the units they share far more than two annotators of the panel do.

    The expected agreement e of a with another annotator is the mean, over the shared units, of the share of the others
    in a's group who gave a's value there (plus one vote with the share of all others). Of the two annotators' e the
    larger one counts. Two honest annotators who think alike agree more than that on all units at once, so the number
    of agreements is beta-binomial: its correlation between units comes from the spread of the agreement of all pairs of
    the same group, without the most extreme 2.5 % at each end. (The rule is ours.)

    Args:
        unit: what was judged, int `(votes,)`.
        value: the judgment, int `(votes,)`.
        annotator: int `(votes,)` from 0; negative if unknown. Of several values for one unit the first counts.
        annotators: number of annotators.
        group: annotators that are expected to agree, such as their types, int `(annotators,)`; `None`: all the same.
        minimum: number of shared units that a pair needs.
        level: of the family of all tested pairs (Bonferroni).

    Returns:
        the pairs with a p-value below level / tested.

    Raises:
        PluralignError: arrays of different lengths or not of integers, or an annotator of `annotators` or more.

    Examples:
        Ten annotators with values at random; the last one copies the first one.

        >>> values = np.random.default_rng(0).integers(3, size=(10, 30))
        >>> values[9] = values[0]
        >>> copies = near_copies(np.tile(np.arange(30), 10), values.ravel(), np.repeat(np.arange(10), 30), 10)
        >>> copies.first.tolist(), copies.second.tolist(), copies.tested
        ([0], [9], 45)
    """
    what = whole_numbers("unit", unit)
    given = whole_numbers("value", value, len(what))
    who = _annotator_numbers(annotator, annotators, len(what))
    kind = np.zeros(annotators, dtype=np.int64) if group is None else whole_numbers("group", group, annotators)
    what, given = (np.unique(numbers, return_inverse=True)[1] for numbers in (what, given))
    units, values = (int(numbers.max(initial=-1)) + 1 for numbers in (what, given))
    kept = np.flatnonzero(who >= 0)
    kept = kept[np.unique(who[kept] * units + what[kept], return_index=True)[1]]
    # Units that one annotator judged, and annotators who judged too little, are in no pair.
    kept = kept[_count(what[kept], what[kept]) > 1]
    made = np.bincount(who[kept], minlength=annotators)
    compared = np.sort(np.argsort(-made, kind="stable")[:MOST_COMPARED])
    compared = compared[made[compared] >= minimum]
    number = np.full(annotators, -1)
    number[compared] = np.arange(len(compared))

    what, given, who = what[kept], given[kept], who[kept]
    cell, of_kind = what * values + given, np.unique(kind[who], return_inverse=True)[1] * units
    everyone = (_count(cell, cell) - 1) / (_count(what, what) - 1)
    alike = _count(of_kind * values + cell, of_kind * values + cell) - 1
    chance = (alike + everyone) / _count(of_kind + what, of_kind + what)

    mine = number[who] >= 0
    row, cell, what, chance = number[who[mine]], cell[mine], what[mine], chance[mine]
    judged = csr_array((np.ones(len(row)), (row, what)), shape=(len(compared), units))
    expects = csr_array((chance, (row, what)), shape=(len(compared), units))
    gave = csr_array((np.ones(len(row)), (row, cell)), shape=(len(compared), units * values))
    found = _pairs(judged, expects, gave, minimum)
    if not len(found[0]):
        none = np.zeros(0, dtype=np.int64)
        return Copies(none, none, none, none, np.zeros(0), 0)
    first, second, shared, agreed, expected = found
    mean = (expected / shared).clip(1e-6, 1 - 1e-6)
    same = kind[compared[first]] == kind[compared[second]]
    correlation = _correlation(shared[same], agreed[same], mean[same])
    alpha, beta = _beta(mean, correlation)
    # The tail is at least its first term, which is much faster to compute; SciPy sums tails one by one.
    possible = (agreed > shared * mean) & (betabinom.pmf(agreed, shared, alpha, beta) < level / len(shared))
    places = np.flatnonzero(possible)
    p = betabinom.sf(agreed[places] - 1, shared[places], alpha[places], beta[places])
    chosen = places[p < level / len(shared)]
    return Copies(
        compared[first[chosen]],
        compared[second[chosen]],
        shared[chosen].astype(np.int64),
        agreed[chosen].astype(np.int64),
        p[p < level / len(shared)],
        len(shared),
    )


def _pairs(judged: csr_array, expects: csr_array, gave: csr_array, minimum: int) -> tuple[np.ndarray, ...]:
    """Pairs that share enough units: the two rows, shared and agreed units, and the expected number of agreements."""
    parts = []
    tables = [judged, expects, gave]
    if np.prod(gave.shape) <= DENSE:
        tables = [table.toarray() for table in tables]
    columns = [table.T if isinstance(table, np.ndarray) else table.T.tocsc() for table in tables]

    def product(left: int, right: int, block: slice) -> np.ndarray:
        values = tables[left][block] @ columns[right]
        return values if isinstance(values, np.ndarray) else np.asarray(values.toarray())

    for start in range(0, judged.shape[0], BLOCK):
        block = slice(start, start + BLOCK)
        shared = product(0, 0, block)
        row, column = np.nonzero(shared >= minimum)
        ordered = column > row + start
        row, column = row[ordered], column[ordered]
        agreed = product(2, 2, block)[row, column]
        one, other = product(1, 0, block)[row, column], product(0, 1, block)[row, column]
        parts.append(np.stack((row + start, column, shared[row, column], agreed, np.maximum(one, other))))
    together = np.concatenate(parts, 1) if parts else np.zeros((5, 0))
    return together[0].astype(np.int64), together[1].astype(np.int64), together[2], together[3], together[4]


def _correlation(shared: Floats, agreed: Floats, mean: Floats) -> float:
    """Correlation of a pair's agreement between units, by the variance of standardised agreement."""
    if len(shared) < 2:
        return 0.0
    score = (agreed - shared * mean) / np.sqrt(shared * mean * (1 - mean))
    low, high = np.quantile(score, (0.025, 0.975))
    variance = np.mean((score.clip(low, high) - np.median(score)) ** 2)
    return float(max(0.0, (variance - 1) / max(shared.mean() - 1, 1)))


def _beta(mean: Floats, correlation: float) -> tuple[Floats, Floats]:
    """The beta distribution of a pair's chance to agree, from its mean and the correlation between units."""
    total = 1 / min(max(correlation, 1e-6), 0.99) - 1  # at 1e-6 the beta-binomial is a binomial in all but name
    return mean * total, (1 - mean) * total


def _annotator_numbers(annotator: ArrayLike, annotators: int, length: int) -> Ints:
    """The numbers of annotators, checked."""
    who = whole_numbers("annotator", annotator, length)
    if who.max(initial=-1) >= annotators:
        raise PluralignError(f"annotator: found {who.max()}, expected less than annotators = {annotators}")
    return who


def _count(keys: Ints, asked: Ints) -> Ints:
    """How often each asked key is among the keys."""
    known, counts = np.unique(keys, return_counts=True)
    if not len(known):
        return np.zeros(len(asked), dtype=np.int64)
    place = np.searchsorted(known, asked).clip(max=len(known) - 1)
    return np.where(known[place] == asked, counts[place], 0)

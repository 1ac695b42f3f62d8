"""What a policy says against what people want: shares of kinds of responses among both, without a list of responses.

A kind is an annotator type's favourite responses, or a judged response with what is most like it. Shares are of the
policy's own draws, and of the responses that annotators put first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from pluralign.core.errors import PluralignError
from pluralign.evaluation.intervals import Resampling, annotator_ids, ratio
from pluralign.evaluation.pairs import Floats, Ints, real_numbers, whole_numbers

MOST_NAMED = 20
"""With more kinds than this, only the distance is reported."""


def kinds_by_reward(rewards: ArrayLike, item: ArrayLike) -> Ints:
    """The type that favours each response most, relative to all given responses to the same prompt: `(responses,)`.

        kind(y) = argmax_k  r_k(y) - log sum over y' of exp r_k(y')

    Args:
        rewards: of each type, in log-odds, `(types, responses)`.
        item: the prompt of each response, `(responses,)`.

    Examples:
        >>> kinds_by_reward([[2.0, 0.0, 1.0], [5.0, 6.0, 9.0]], [0, 0, 0]).tolist()
        [0, 0, 1]
    """
    own, prompt = np.asarray(rewards, dtype=np.float64), np.unique(np.asarray(item), return_inverse=True)[1]
    if own.ndim != 2 or own.shape[1] != len(prompt):
        raise PluralignError(f"rewards: found shape {own.shape}, expected (types, {len(prompt)})")
    total = np.full((len(own), prompt.max(initial=-1) + 1), -np.inf)
    for kind, values in enumerate(own):
        np.logaddexp.at(total[kind], prompt, values)
    return np.asarray((own - total[:, prompt]).argmax(axis=0), dtype=np.int64)


def kinds_by_likeness(features: ArrayLike, item: ArrayLike, judged: ArrayLike) -> Ints:
    """The judged response to the same prompt that each response is most like, by cosine: its place, `(responses,)`.

    Args:
        features: of all responses, `(responses, features)`.
        item: the prompt of each response, `(responses,)`.
        judged: which responses were judged, bool `(responses,)`; each of them is its own kind.

    Raises:
        PluralignError: a prompt has no judged response.

    Examples:
        >>> kinds_by_likeness([[1.0, 0.0], [0.0, 1.0], [0.9, 0.2]], [0, 0, 0], [True, True, False]).tolist()
        [0, 1, 0]
    """
    vectors, prompt, known = np.asarray(features, dtype=np.float64), np.asarray(item), np.asarray(judged, dtype=bool)
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    kinds = np.arange(len(vectors))
    for name in np.unique(prompt):
        members = np.flatnonzero(prompt == name)
        targets = members[known[members]]
        if not len(targets):
            raise PluralignError(f"judged: prompt {name} has no judged response")
        others = members[~known[members]]
        kinds[others] = targets[(vectors[others] @ vectors[targets].T).argmax(axis=1)]
    return kinds


def said_and_wanted(
    said: ArrayLike,
    said_prompt: ArrayLike,
    wanted: ArrayLike,
    wanted_prompt: ArrayLike,
    weight: ArrayLike,
    annotators: Sequence[str | None],
    names: Sequence[str],
    *,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """Shares of kinds among what a policy says and among what people put first, and their total variation.

    Every prompt counts once on each side. Intervals draw prompts, and annotators of what is wanted. The distance of two
    samples is above 0 even if both come from one distribution: compare policies on the same judgments and draws.

    Args:
        said: kind of each drawn response, from 0, `(draws,)`.
        said_prompt: its prompt, `(draws,)`.
        wanted: kind of each response that a judgment puts first, `(firsts,)`; tied firsts are several.
        wanted_prompt: its prompt, `(firsts,)`.
        weight: its weight, `(firsts,)`: that of the judgment, shared among tied firsts.
        annotators: who judged, `(firsts,)`; None is an annotator of their own.
        names: of the kinds.
        replicates, level, seed: as in `pluralign.evaluation.intervals.Resampling`.

    Returns:
        `said/kind=NAME` and `wanted/kind=NAME`, if there are at most 20 kinds, and `said_wanted_tv`; each with `_low`
        and `_high` if there are two prompts.

    Raises:
        PluralignError: shapes do not fit, or a side is empty.

    Examples:
        >>> found = said_and_wanted([0, 0, 0, 1], [0] * 4, [0, 1], [0, 0], [1.0, 1.0], [None, None], ["a", "b"])
        >>> found["said/kind=a"], found["wanted/kind=a"], found["said_wanted_tv"]
        (0.75, 0.5, 0.25)
    """
    own, own_prompt = whole_numbers("said", said), whole_numbers("said_prompt", said_prompt)
    asked, asked_prompt = whole_numbers("wanted", wanted), whole_numbers("wanted_prompt", wanted_prompt)
    heavy = real_numbers("weight", weight, len(asked))
    if len(own) != len(own_prompt) or not len(asked) == len(asked_prompt) == len(annotators):
        raise PluralignError("said and wanted: expected a prompt for each response, and an annotator for each first")
    if not len(own) or not heavy.sum() > 0:
        raise PluralignError("said and wanted: expected responses on both sides, found none")
    kinds = len(names)
    # Without a name of its own, each draw is an annotator with a single prompt, which is drawn with the prompt.
    who = annotator_ids([*annotators, *[None] * len(own)])
    prompts = np.concatenate([asked_prompt, own_prompt])
    resampling = Resampling(prompts, replicates, level, seed, annotator=who)
    columns = []
    for side, (kind, prompt, mass) in enumerate(((own, own_prompt, np.ones(len(own))), (asked, asked_prompt, heavy))):
        share = ratio(mass, np.bincount(prompt, mass)[prompt])
        for number in range(kinds):
            rows = np.zeros(len(own) + len(asked))
            rows[slice(len(asked), None) if side == 0 else slice(0, len(asked))] = share * (kind == number)
            columns.append(rows)
    sums = resampling.sums(*columns)

    def metrics(weights: Floats) -> dict[str, Floats]:
        totals = weights @ sums
        sides = [ratio(part, part.sum(-1, keepdims=True)) for part in (totals[:, :kinds], totals[:, kinds:])]
        found = {"said_wanted_tv": np.abs(sides[0] - sides[1]).sum(-1) / 2}
        if kinds <= MOST_NAMED:
            for place, name in enumerate(names):
                found |= {f"said/kind={name}": sides[0][:, place], f"wanted/kind={name}": sides[1][:, place]}
        return found

    return resampling.intervals(metrics)

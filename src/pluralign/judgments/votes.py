"""Vote states from tables of judgments: made at once, or merged step by step with the same result.

state = votes_of(read("votes.parquet"), strength=3.0)
state, merged = merge(state, read("more-votes.parquet"))
state.targets(smoothing=0.05).distribution
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pluralign.choice.dirichlet import faded
from pluralign.core.errors import PluralignError
from pluralign.judgments.ballots import (
    ballots_of,
    check_fits,
    digests_of,
    kind_of_votes,
    strata_of,
    times_of,
)
from pluralign.judgments.scales import LabelScale
from pluralign.judgments.schema import Form
from pluralign.judgments.table import Judgments
from pluralign.judgments.vote_files import read_votes, write_votes
from pluralign.judgments.vote_priors import Priors, read_priors
from pluralign.judgments.vote_state import (
    EPOCH,
    NO_WINDOW,
    PAIR_SCALE,
    Kind,
    PairVotes,
    Targets,
    VoteSettings,
    VoteState,
    item_key,
)

__all__ = [
    "Merged", "Targets", "VoteSettings", "VoteState", "merge", "new_state", "read_votes", "votes_of", "write_votes"
]  # fmt: skip

PriorRows = str | os.PathLike[str] | Iterable[Mapping[str, Any]]
"""A side table of priors: a file, or rows with `prompt`, `response` (of pairs `other`) and a share per label."""


@dataclass(frozen=True)
class Merged:
    """What came of a merge.

    Args:
        new: judgments whose votes were added.
        known: judgments that had been merged before, by their ids.
        left_out: judgments without a vote of the state's kind.
        new_items: items that had no vote before.
    """

    new: int
    known: int
    left_out: int
    new_items: int


def votes_of(
    judgments: Judgments,
    *,
    strength: float | None = None,
    prior: PriorRows | None = None,
    kind: Kind | None = None,
    decay: float = 1.0,
    window_days: float | None = None,
    origin: str | None = None,
    shares: Mapping[str, float] | None = None,
    strata: str | None = None,
    stratum_of: Mapping[str, str] | None = None,
    pair_votes: PairVotes = "shared",
) -> VoteState:
    """The vote state of a table in memory.

    Args:
        judgments: the table.
        strength: kappa, the prior's weight in votes; `None` is the number of labels.
        prior: the side table of priors; `None`, and items it does not name, have the uniform prior.
        kind: `labels` or `pairs`; `None` takes labels where the table has any.
        decay: what is left of a vote after each boundary of a window.
        window_days: the length of a window, with a decay under 1.
        origin: where windows are counted from; `None` is 1970.
        shares: the population's share of each stratum.
        strata: with `shares`: `group` (`None`), or what `stratum_of` gives.
        stratum_of: the stratum of each annotator, where strata are not the table's `group`.
        pair_votes: of pairs: a ranking's weight is `shared` among its pairs, or counts in `full` on each.

    Raises:
        PluralignError: a setting is out of range, or the judgments do not go with the settings.

    Examples:
        Of eight people who saw both, six prefer Yes; two votes of prior say one half.

        >>> yes = {"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, 2]}
        >>> state = votes_of(Judgments.from_rows([yes] * 6 + [{**yes, "ranks": [2, 1]}] * 2))
        >>> state.response, state.other, state.mean.tolist(), state.votes.tolist()
        (['No'], ['Yes'], [[0.3, 0.7]], [8.0])
    """
    chosen = kind_of_votes(judgments) if kind is None else kind
    scale = scale_of_votes(judgments, chosen)
    priors = None if prior is None else read_priors(prior, chosen, judgments.form, scale)
    settings = VoteSettings(
        strength=float(len(scale.labels)) if strength is None else float(strength),
        decay=decay,
        window_days=window_days,
        origin=EPOCH if origin is None else origin,
        shares=shares,
        strata=strata,
        pair_votes=pair_votes,
        prior=None if priors is None else priors.fingerprint,
    )
    state = new_state(chosen, judgments.form, scale, settings, priors)
    return merge(state, judgments, stratum_of)[0]


def scale_of_votes(judgments: Judgments, kind: Kind) -> LabelScale:
    """The labels that are voted for.

    Raises:
        PluralignError: labels are wanted and the table has no scale.
    """
    if kind == "pairs":
        return PAIR_SCALE
    if kind != "labels":
        raise PluralignError(f"kind: found {kind!r}, expected labels or pairs")
    if judgments.label_scale is None:
        raise PluralignError("the judgments have no labels and no label scale: count pairs, or read them with a scale")
    return judgments.label_scale


def new_state(
    kind: Kind, form: Form, scale: LabelScale, settings: VoteSettings, priors: Priors | None = None
) -> VoteState:
    """A state without a vote; the items of a prior table are in it from the start."""
    labels, strata = len(scale.labels), 1 if settings.shares is None else len(settings.shares)
    items = 0 if priors is None else len(priors.prompt)
    return VoteState(
        kind=kind,
        form=form,
        scale=scale,
        settings=settings,
        prompt=[] if priors is None else priors.prompt,
        response=[] if priors is None else priors.response,
        other=[] if priors is None else priors.other,
        prior=np.zeros((0, labels)) if priors is None else priors.shares,
        counts=np.zeros((items, labels)),
        held=np.zeros((items, strata, labels)),
        window=np.full(items, NO_WINDOW),
        digests=np.zeros(0, dtype="S16"),
        digest_item=np.zeros(0, dtype=np.int64),
    )


def merge(
    state: VoteState, judgments: Judgments, stratum_of: Mapping[str, str] | None = None
) -> tuple[VoteState, Merged]:
    """A state with the votes of a table added; judgments whose ids it has merged before change nothing.

    The result does not depend on the order of merges: a vote of window w counts decay^(present - w), whenever it
    comes, with the present the newest window of any vote.

    Args:
        state: stays as it is.
        judgments: of the state's form and scale.
        stratum_of: the stratum of each annotator, where the state's strata are not `group`.

    Raises:
        PluralignError: the judgments do not fit the state, or lack a time or a stratum that it needs.
    """
    check_fits(judgments, state.kind, state.form, state.scale)
    settings = state.settings
    digests = digests_of(judgments)
    fresh = np.zeros(len(digests), dtype=bool)
    fresh[np.unique(digests, return_index=True)[1]] = True
    fresh &= ~np.isin(digests, state.digests)
    cast = ballots_of(judgments, fresh, state.kind, settings)
    rows, first, place = np.unique(cast.judgment, return_index=True, return_inverse=True)
    stratum = strata_of(judgments, rows, settings, stratum_of)[place]
    window = np.full(len(cast.item), NO_WINDOW)
    if settings.decay < 1:
        window = settings.window_of(times_of(judgments, rows))[place]
    merged = Merged(len(rows), int((~fresh).sum()), cast.left_out, 0)
    if not len(rows):
        return state, merged

    texts = (cast.prompt, cast.response, cast.other) if cast.other else (cast.prompt, cast.response)
    item_of: list[int] = []
    added: list[int] = []
    for number, of_item in enumerate(zip(*texts, strict=True)):
        found = state.place.get(item_key(*of_item))
        item_of.append(len(state) + len(added) if found is None else found)
        if found is None:
            added.append(number)
    grown = _grown(state, [[part[number] for number in added] for part in (cast.prompt, cast.response)],
                   [cast.other[number] for number in added] if cast.other else [])  # fmt: skip
    item = np.array(item_of, dtype=np.int64)[cast.item]

    present = max(state.present, int(window.max()))
    held, weight = grown.held, cast.weight
    if settings.decay < 1:
        if state.present != NO_WINDOW:
            held = faded(held, 0.0, settings.decay, present - state.present)
        weight = weight * float(settings.decay) ** (present - window)
    items, strata, labels = held.shape
    places = (item * strata + stratum) * labels + cast.label
    held = held + np.bincount(places, weight, held.size).reshape(held.shape)
    counts = grown.counts + np.bincount(item * labels + cast.label, cast.weight, items * labels).reshape(items, -1)
    newest = grown.window.copy()
    np.maximum.at(newest, item, window)
    begun = (grown.counts.sum(1) <= 0) & (counts.sum(1) > 0)
    return replace(
        grown,
        held=held,
        counts=counts,
        window=newest,
        digests=np.concatenate((state.digests, digests[rows])),
        digest_item=np.concatenate((state.digest_item, item[first])),
    ), replace(merged, new_items=int(begun.sum()))


def _grown(state: VoteState, texts: list[list[Any]], other: list[Any]) -> VoteState:
    """The state with more items, without a vote and with the uniform prior."""
    prompt, response = texts
    more, (strata, labels) = len(prompt), state.held.shape[1:]
    return replace(
        state,
        prompt=state.prompt + prompt,
        response=state.response + response,
        other=state.other + other,
        prior=np.concatenate((state.prior, np.full((more, labels), 1 / labels))),
        counts=np.concatenate((state.counts, np.zeros((more, labels)))),
        held=np.concatenate((state.held, np.zeros((more, strata, labels)))),
        window=np.concatenate((state.window, np.full(more, NO_WINDOW))),
    )

"""Build vote states from tables of judgments, at once or merged step by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pluralign.choice.dirichlet import faded
from pluralign.core.errors import PluralignError
from pluralign.judgments.scales import LabelScale
from pluralign.judgments.schema import Form
from pluralign.judgments.table import Judgments
from pluralign.judgments.votes.ballots import (
    ballots_of,
    check_fits,
    digests_of,
    first_and_unknown,
    kind_of_votes,
    strata_of,
    times_of,
)
from pluralign.judgments.votes.priors import PriorRows, Priors, read_priors
from pluralign.judgments.votes.state import (
    EPOCH,
    NO_WINDOW,
    PAIR_SCALE,
    Kind,
    PairVotes,
    VoteSettings,
    VoteState,
    item_keys,
)


@dataclass(frozen=True)
class Merged:
    """The result of a merge.

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
        strength: as in `VoteSettings`, like the other settings below. Default: the number of labels.
        prior: the table of priors. Without it, and for items that it does not list, the prior is uniform.
        kind: `labels` or `pairs`. Default: labels if the table has any.
        decay: the factor by which a vote fades at each window boundary.
        window_days: the length of a window, with a decay below 1.
        origin: the start of window 0. Default: 1970.
        shares: the population share of each stratum.
        strata: with `shares`: `group` (default), or what `stratum_of` holds.
        stratum_of: the stratum of each annotator, if the strata are not the table's `group`.
        pair_votes: `shared` or `full`.

    Raises:
        PluralignError: a setting is out of range, or the judgments do not fit the settings.

    Examples:
        Six of eight annotators prefer Yes; the prior counts as two votes, one for each side.

        >>> yes = {"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, 2]}
        >>> state = votes_of(Judgments.from_rows([yes] * 6 + [{**yes, "ranks": [2, 1]}] * 2))
        >>> state.response, state.other, state.mean.tolist(), state.votes.tolist()
        (['No'], ['Yes'], [[0.3, 0.7]], [8.0])
    """
    settings = {
        "strength": None if strength is None else float(strength),
        "decay": decay,
        "window_days": window_days,
        "origin": origin,
        "shares": shares,
        "strata": strata,
        "pair_votes": pair_votes,
    }
    return merge(empty_state(judgments, kind, prior, settings), judgments, stratum_of)[0]


def empty_state(
    judgments: Judgments, kind: Kind | None, prior: PriorRows | None, settings: Mapping[str, Any]
) -> VoteState:
    """A state without votes that fits a table; `settings` are fields of `VoteSettings`, or `None` for the defaults."""
    chosen = kind_of_votes(judgments) if kind is None else kind
    if chosen not in ("labels", "pairs"):
        raise PluralignError(f"kind: found {chosen!r}, expected labels or pairs")
    scale = PAIR_SCALE if chosen == "pairs" else judgments.label_scale
    if scale is None:
        raise PluralignError("the judgments have no labels and no label scale: count pairs, or read them with a scale")
    priors = None if prior is None else read_priors(prior, chosen, judgments.form, scale)
    given = {name: value for name, value in settings.items() if value is not None}
    defaults = {"strength": float(len(scale.labels)), "origin": EPOCH}
    made = VoteSettings(**{**defaults, **given, "prior": None if priors is None else priors.fingerprint})
    return new_state(chosen, judgments.form, scale, made, priors)


def new_state(
    kind: Kind, form: Form, scale: LabelScale, settings: VoteSettings, priors: Priors | None = None
) -> VoteState:
    """A state without votes; it holds the items of the table of priors from the start."""
    labels, strata = len(scale.labels), 1 if settings.shares is None else len(settings.shares)
    known = Priors([], [], [], np.zeros((0, labels))) if priors is None else priors
    items = len(known.prompt)
    return VoteState(
        kind=kind,
        form=form,
        scale=scale,
        settings=settings,
        prompt=known.prompt,
        response=known.response,
        other=known.other,
        prior=known.shares,
        counts=np.zeros((items, labels)),
        held=np.zeros((items, strata, labels)),
        window=np.full(items, NO_WINDOW),
        digests=np.zeros(0, dtype="S16"),
        digest_item=np.zeros(0, dtype=np.int64),
    )


def merge(
    state: VoteState, judgments: Judgments, stratum_of: Mapping[str, str] | None = None
) -> tuple[VoteState, Merged]:
    """Add the votes of a table to a state. Judgments whose ids were merged before change nothing.

    The result does not depend on the order of merges: a vote of window w counts decay^(present - w) whenever it
    is merged, where present is the newest window of any vote.

    Args:
        state: the state; it is not modified.
        judgments: a table with the state's form and label scale.
        stratum_of: the stratum of each annotator, if the state's strata are not `group`.

    Raises:
        PluralignError: the judgments do not fit the state, or lack a time or a stratum that it needs.
    """
    check_fits(judgments, state)
    settings = state.settings
    digests = digests_of(judgments)
    fresh = first_and_unknown(digests, state.digests)
    if not fresh.any():
        return state, Merged(0, len(digests), 0, 0)
    cast = ballots_of(judgments, fresh, state.kind, settings)
    begins = np.diff(cast.judgment, prepend=-1) > 0  # judgments ascend
    first, place = np.flatnonzero(begins), np.cumsum(begins) - 1
    rows = cast.judgment[first]
    stratum = strata_of(judgments, rows, settings, stratum_of)[place]
    window = np.full(len(cast.item), NO_WINDOW)
    if settings.decay < 1:
        window = settings.window_of(times_of(judgments, rows))[place]
    merged = Merged(len(rows), int((~fresh).sum()), cast.left_out, 0)
    if not len(rows):
        return state, merged

    place_of = dict(state.place)
    keys = item_keys(cast.prompt, cast.response, cast.other)
    item = np.array([place_of.setdefault(key, len(place_of)) for key in keys], dtype=np.int64)
    added = np.flatnonzero(item >= len(state))
    texts = (cast.prompt, cast.response, cast.other)
    grown = _with_items(state, *([part[number] for number in added] if part else [] for part in texts))
    item = item[cast.item]

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
    after = replace(
        grown,
        held=held,
        counts=counts,
        window=newest,
        digests=np.concatenate((state.digests, digests[rows])),
        digest_item=np.concatenate((state.digest_item, item[first])),
    )
    return after, replace(merged, new_items=int((after.voted & ~grown.voted).sum()))


def _with_items(state: VoteState, prompt: list[Any], response: list[Any], other: list[Any]) -> VoteState:
    """The state with more items, which have no vote and the uniform prior."""
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

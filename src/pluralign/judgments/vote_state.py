"""A crowd's posterior for every item: what was voted, how it fades, what a model should predict."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from pluralign.choice.dirichlet import (
    credible_interval,
    posterior_mean,
    prior_state,
    smoothed,
)
from pluralign.choice.label_costs import label_cost
from pluralign.choice.post_stratification import crowd_counts
from pluralign.core.errors import PluralignError
from pluralign.judgments.scales import LabelScale
from pluralign.judgments.schema import Form

Floats = np.ndarray
Kind = Literal["labels", "pairs"]
PairVotes = Literal["shared", "full"]

PAIR_SCALE = LabelScale("pair", ("A", "B"), (1.0, 0.0))
"""The labels of a pair: the first response is better, or the second. The expected reward is A's share."""

EPOCH = "1970-01-01T00:00:00+00:00"
NO_WINDOW = np.iinfo(np.int64).min
"""The window of an item, or of a state, without a vote that has a time."""


@dataclass(frozen=True)
class VoteSettings:
    """What is fixed when a state is made.

    Args:
        strength: kappa, the prior's weight in votes; the number of labels when it is not given.
        decay: what is left of a vote after the boundary of a window, from 0 to 1; 1 keeps votes for ever.
        window_days: the length of a window in days; with `decay` under 1, and only then.
        origin: where windows are counted from, a time like 2024-05-31T12:00:00Z.
        shares: the population's share of each stratum, to weight the sample with; `None` counts votes as they are.
        strata: with `shares`: `group`, or the column of a side table of annotators.
        pair_votes: of pairs: a ranking's weight is `shared` among its pairs, or counts in `full` on each.
        prior: a fingerprint of the prior table, or `None` for the uniform prior.

    Raises:
        PluralignError: a value is out of its range, or two do not go together.
    """

    strength: float
    decay: float = 1.0
    window_days: float | None = None
    origin: str = EPOCH
    shares: Mapping[str, float] | None = None
    strata: str | None = None
    pair_votes: PairVotes = "shared"
    prior: str | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.strength) and self.strength > 0):
            raise PluralignError(f"strength: found {self.strength}, expected a number above 0")
        if not 0 <= self.decay <= 1:
            raise PluralignError(f"decay: found {self.decay}, expected a number from 0 to 1")
        if (self.decay < 1) != (self.window_days is not None):
            raise PluralignError("decay and window: a decay under 1 needs a window in days, and a window needs one")
        if self.window_days is not None and not 1e-6 <= self.window_days < math.inf:
            raise PluralignError(f"window: found {self.window_days}, expected a number of days above 0")
        if self.pair_votes not in get_args(PairVotes):
            raise PluralignError(f"pair_votes: found {self.pair_votes!r}, expected shared or full")
        if self.strata is not None and self.shares is None:
            raise PluralignError("strata: weight votes by given shares only: give shares too")
        if self.shares is not None:
            object.__setattr__(self, "strata", self.strata or "group")
            values = list(self.shares.values())
            if not all(math.isfinite(value) and value >= 0 for value in values) or sum(values) <= 0:
                raise PluralignError(f"shares: found {dict(self.shares)}, expected numbers, 0 or more, not all 0")
        object.__setattr__(self, "origin", time_of(self.origin).isoformat())

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in a file's metadata."""
        return dataclasses.asdict(self)

    def window_of(self, microseconds: np.ndarray) -> np.ndarray:
        """The number of the window of times in microseconds since 1970: `floor((time - origin) / length)`."""
        assert self.window_days is not None  # with decay under 1 there always is one
        epoch = time_of(EPOCH)
        origin = (time_of(self.origin) - epoch) // datetime.timedelta(microseconds=1)
        return (microseconds - origin) // round(self.window_days * 86_400_000_000)


def item_key(prompt: Any, *responses: Any) -> tuple[str, ...]:
    """What names an item: its prompt and its response, or the two of a pair in their canonical order.

    Examples:
        >>> item_key("Tea?", "Yes", "No")
        ('Tea?', 'No', 'Yes')
    """
    return (text_key(prompt), *sorted(map(text_key, responses)))


def text_key(text: Any) -> str:
    """A text as it is, messages as JSON; a state holds one form, so the two cannot meet."""
    return text if isinstance(text, str) else json.dumps(text, ensure_ascii=False, sort_keys=True)


def time_of(text: str) -> datetime.datetime:
    """A time in UTC from its ISO form; without a zone it is UTC.

    Raises:
        PluralignError: it is no time.

    Examples:
        >>> time_of("2024-05-31").isoformat()
        '2024-05-31T00:00:00+00:00'
    """
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise PluralignError(f"origin: found {text!r}, expected a time like 2024-05-31T12:00:00Z") from None
    return found.replace(tzinfo=datetime.UTC) if found.tzinfo is None else found.astimezone(datetime.UTC)


@dataclass(frozen=True)
class Targets:
    """What a trainer wants of a state: the items that were voted on, in the state's order.

    Args:
        prompt: `(items,)` texts or lists of messages.
        response: `(items,)` the response; of pairs the two responses `[A, B]`.
        distribution: `(items, labels)` the smoothed posterior mean, float64.
        votes: `(items,)` n, the votes behind it as the posterior counts them.
        scale: the labels and their rewards.
        low: `(items, labels)` lower end of each share's credible interval (95 %), before smoothing.
        high: its upper end. Of pairs column 0 is the share of votes for A.
    """

    prompt: list[Any]
    response: list[Any]
    distribution: Floats
    votes: Floats
    scale: LabelScale
    low: Floats
    high: Floats


@dataclass(frozen=True)
class VoteState:
    """A crowd's votes and posteriors by item; `votes_of`, `merge` and `read_votes` make it.

    Args:
        kind: `labels`: an item is a response to a prompt, its labels those of the scale; `pairs`: two responses to
            a prompt in a canonical order, the labels A and B.
        form: whether texts are `text` or `messages`.
        scale: the labels and their rewards.
        settings: fixed when the state is made.
        prompt: `(items,)`.
        response: `(items,)`; of pairs A.
        other: `(items,)` B of pairs; empty for labels.
        prior: q `(items, labels)`, as given, with sum 1.
        counts: `(items, labels)` all votes by label: weights of judgments, neither faded nor post-stratified.
        held: `(items, strata, labels)` the votes as they have faded by the newest window; one stratum without
            `shares`.
        window: `(items,)` newest window with a vote on the item, `NO_WINDOW` for none.
        digests: `(judgments,)` 16-byte digests of the ids that were merged.
        digest_item: `(judgments,)` the item each digest is kept with.
    """

    kind: Kind
    form: Form
    scale: LabelScale
    settings: VoteSettings
    prompt: list[Any]
    response: list[Any]
    other: list[Any]
    prior: Floats
    counts: Floats
    held: Floats
    window: np.ndarray
    digests: np.ndarray
    digest_item: np.ndarray

    def __len__(self) -> int:
        return len(self.prompt)

    @cached_property
    def place(self) -> dict[tuple[str, ...], int]:
        """The number of each item by `item_key`."""
        texts = (self.prompt, self.response, self.other) if self.other else (self.prompt, self.response)
        return {item_key(*of_item): number for number, of_item in enumerate(zip(*texts, strict=True))}

    @property
    def present(self) -> int:
        """The newest window with a vote, which all votes have faded to; `NO_WINDOW` for none."""
        return int(self.window.max(initial=NO_WINDOW))

    @cached_property
    def start(self) -> Floats:
        """a(0) = kappa q `(items, labels)`."""
        if not len(self):
            return np.zeros((0, len(self.scale.labels)))
        return prior_state(self.prior, self.settings.strength)

    @cached_property
    def crowd(self) -> Floats:
        """c `(items, labels)`: the votes as the posterior counts them, faded and weighted to the population."""
        shares = self.settings.shares
        if shares is None:
            return np.asarray(self.held.sum(1))
        return crowd_counts(self.held, list(shares.values())).counts

    @property
    def parameters(self) -> Floats:
        """a + c `(items, labels)` of the posterior Dirichlet."""
        return np.asarray(self.start + self.crowd)

    @property
    def mean(self) -> Floats:
        """Posterior means `(items, labels)`."""
        return posterior_mean(self.start, self.crowd)

    @property
    def votes(self) -> Floats:
        """n `(items,)`, the sum of c."""
        return np.asarray(self.crowd.sum(1))

    def interval(self, level: float = 0.95) -> tuple[Floats, Floats]:
        """Equal-tailed credible intervals of the shares: low and high `(items, labels)`."""
        return credible_interval(self.parameters, level)

    def targets(self, smoothing: float = 0.05, cost: Floats | None = None) -> Targets:
        """Soft targets for training: items without a vote are left out.

        Args:
            smoothing: eps: a label with more than 1 - eps gives the excess to the runner-up; 0 for none.
            cost: `(labels, labels)`, which of tied runners-up is nearer; `None` is |R_i - R_j| + 0.1 [i != j].

        Raises:
            PluralignError: the smoothing is out of range or the costs do not fit the labels.

        Examples:
            >>> from pluralign.judgments import BUILT_IN_SCALES, Judgments
            >>> from pluralign.judgments.votes import votes_of
            >>> row = {"prompt": "Tea?", "responses": ["Yes"], "labels": ["agree"]}
            >>> scale = BUILT_IN_SCALES["agree-pass-disagree"]
            >>> state = votes_of(Judgments.from_rows([row] * 7, scale), strength=3.0)
            >>> state.targets().distribution.round(3).tolist()
            [[0.8, 0.1, 0.1]]
        """
        costs = label_cost(self.scale.rewards).matrix if cost is None else cost
        # By raw counts, since a vote may have faded to nothing and is a vote all the same.
        voted = np.flatnonzero(self.counts.sum(1) > 0)
        low, high = (side[voted] for side in self.interval())
        try:
            distribution = smoothed(self.mean[voted], smoothing, self.prior[voted], costs)
        except ValueError as fault:
            raise PluralignError(str(fault)) from fault
        pairs = self.kind == "pairs"
        return Targets(
            prompt=[self.prompt[item] for item in voted],
            response=[[self.response[i], self.other[i]] if pairs else self.response[i] for i in voted],
            distribution=distribution,
            votes=self.votes[voted],
            scale=self.scale,
            low=low,
            high=high,
        )

"""The state of a crowd's votes: counts, fading, and the posterior of every item."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from pluralign.choice.dirichlet import credible_interval, estimated_strength, posterior_mean, prior_state, smoothed
from pluralign.choice.label_costs import label_cost
from pluralign.choice.post_stratification import crowd_counts
from pluralign.core.errors import PluralignError
from pluralign.judgments.scales import LabelScale
from pluralign.judgments.schema import Form

Floats = np.ndarray
Kind = Literal["labels", "pairs"]
PairVotes = Literal["shared", "full"]

PAIR_SCALE = LabelScale("pair", ("A", "B"), (1.0, 0.0))
"""The labels of a pair: the first or the second response is better. The expected reward is the share of A."""

EPOCH = "1970-01-01T00:00:00+00:00"
NO_WINDOW = np.iinfo(np.int64).min
"""The window of an item or a state that has no vote with a time."""


@dataclass(frozen=True)
class VoteSettings:
    """Settings that are fixed when a state is created.

    Args:
        strength: kappa, the weight of the prior in votes.
        decay: the factor by which a vote fades at each window boundary, from 0 to 1; 1 means no fading.
        window_days: the length of a window in days; required if `decay` is below 1, and only then.
        origin: the start of window 0, a time like 2024-05-31T12:00:00Z.
        shares: the population share of each stratum, for post-stratification; `None` counts votes as they are.
        strata: with `shares`: `group`, or the column of a table of annotators.
        pair_votes: for pairs: the weight of a ranking is `shared` among its pairs, or counts in `full` on each.
        prior: fingerprint of the table of priors; `None` for the uniform prior.

    Raises:
        PluralignError: a value is out of range, or two values do not go together.
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
            raise PluralignError(
                "decay and window: a decay under 1 needs a window in days, and a window needs a decay under 1"
            )
        if self.window_days is not None and not 1e-6 <= self.window_days <= 1e7:
            raise PluralignError(f"window: found {self.window_days}, expected a number of days from 1e-6 to 1e7")
        if self.pair_votes not in get_args(PairVotes):
            raise PluralignError(f"pair_votes: found {self.pair_votes!r}, expected shared or full")
        if self.strata is not None and self.shares is None:
            raise PluralignError("strata: strata need population shares: give shares too")
        if self.shares is not None:
            object.__setattr__(self, "strata", self.strata or "group")
            values = list(self.shares.values())
            if not all(math.isfinite(value) and value >= 0 for value in values) or sum(values) <= 0:
                raise PluralignError(f"shares: found {dict(self.shares)}, expected numbers, 0 or more, not all 0")
        object.__setattr__(self, "origin", time_of(self.origin).isoformat())

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values, for the metadata of a file."""
        return dataclasses.asdict(self)

    def window_of(self, microseconds: np.ndarray) -> np.ndarray:
        """The window of each time in microseconds since 1970: `floor((time - origin) / length)`."""
        assert self.window_days is not None  # a decay under 1 requires a window
        epoch = time_of(EPOCH)
        origin = (time_of(self.origin) - epoch) // datetime.timedelta(microseconds=1)
        return (microseconds - origin) // round(self.window_days * 86_400_000_000)


def item_key(prompt: Any, *responses: Any) -> tuple[str, ...]:
    """The key of an item: its prompt and its response, or the two responses of a pair in canonical order.

    Examples:
        >>> item_key("Tea?", "Yes", "No")
        ('Tea?', 'No', 'Yes')
    """
    return (text_key(prompt), *sorted(map(text_key, responses)))


def item_keys(prompt: Iterable[Any], response: Iterable[Any], other: Sequence[Any] = ()) -> list[tuple[str, ...]]:
    """The keys of many items; `other` is empty for labels."""
    texts = (prompt, response, other) if other else (prompt, response)
    return [item_key(*of_item) for of_item in zip(*texts, strict=True)]


def text_key(text: Any) -> str:
    """Text as it is, messages as JSON. A state holds one form only, so the two cannot collide."""
    return text if isinstance(text, str) else json.dumps(text, ensure_ascii=False, sort_keys=True)


def time_of(text: str) -> datetime.datetime:
    """Parse an ISO 8601 time as UTC; a time without a zone is taken as UTC.

    Raises:
        PluralignError: the text is not a time.

    Examples:
        >>> time_of("2024-05-31").isoformat()
        '2024-05-31T00:00:00+00:00'
    """
    try:
        time = datetime.datetime.fromisoformat(text)
        return time.replace(tzinfo=datetime.UTC) if time.tzinfo is None else time.astimezone(datetime.UTC)
    except (ValueError, OverflowError):
        raise PluralignError(f"origin: found {text!r}, expected a time like 2024-05-31T12:00:00Z") from None


@dataclass(frozen=True)
class Targets:
    """Soft training targets: the items with a vote, in the order of the state.

    Args:
        prompt: `(items,)` texts or lists of messages.
        response: `(items,)` the response; for pairs, the two responses `[A, B]`.
        distribution: `(items, labels)` the smoothed posterior mean, or the smoothed shares of the votes, float64.
        votes: `(items,)` n, the number of votes as the posterior counts them.
        scale: the labels and their rewards.
        low: `(items, labels)` lower end of the 95 % credible interval of each share, before smoothing.
        high: `(items, labels)` upper end. For pairs, column 0 is the share of votes for A.
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
    """A crowd's votes and posteriors per item; `votes_of`, `merge` and `read_votes` create it.

    Args:
        kind: `labels`: an item is a response to a prompt, its labels are those of the scale; `pairs`: an item is two
            responses to a prompt in canonical order, with the labels A and B.
        form: whether prompts and responses are `text` or `messages`.
        scale: the labels and their rewards.
        settings: fixed when the state is created.
        prompt: `(items,)`.
        response: `(items,)`; for pairs, A.
        other: `(items,)` B of each pair; empty for labels.
        prior: q `(items, labels)`, each row sums to 1.
        counts: `(items, labels)` all votes by label: weights of judgments, neither faded nor post-stratified.
        held: `(items, strata, labels)` votes, faded up to the newest window; one stratum without `shares`.
        window: `(items,)` newest window with a vote on the item; `NO_WINDOW` for none.
        digests: `(judgments,)` 16-byte digests of the ids of merged judgments.
        digest_item: `(judgments,)` the item that each digest is stored with.
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
        """The index of each item by `item_key`."""
        return {key: number for number, key in enumerate(item_keys(self.prompt, self.response, self.other))}

    @property
    def present(self) -> int:
        """The newest window with a vote, up to which all votes have faded; `NO_WINDOW` for none."""
        return int(self.window.max(initial=NO_WINDOW))

    @property
    def voted(self) -> np.ndarray:
        """`(items,)` whether the item has a vote, even one that has faded to nothing."""
        return np.asarray(self.counts.sum(1) > 0)

    @cached_property
    def start(self) -> Floats:
        """a(0) = kappa q `(items, labels)`."""
        return prior_state(self.prior, self.settings.strength) if len(self) else np.zeros((0, len(self.scale.labels)))

    @cached_property
    def crowd(self) -> Floats:
        """c `(items, labels)`: votes as the posterior counts them, faded and weighted to the population."""
        shares = self.settings.shares
        return np.asarray(self.held.sum(1)) if shares is None else crowd_counts(self.held, list(shares.values())).counts

    @property
    def parameters(self) -> Floats:
        """a + c `(items, labels)`, the parameters of the posterior Dirichlet."""
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
        """Equal-tailed credible intervals of the shares: low and high, `(items, labels)` each."""
        return credible_interval(self.parameters, level)

    def with_strength(self, strength: float | None = None) -> VoteState:
        """The state with another strength of its prior; `None` is the strength that makes its votes most likely.

        Where too few items have several votes to estimate it, the strength stays as it is
        (`pluralign.choice.dirichlet.estimated_strength`).
        """
        chosen = estimated_strength(self.crowd, self.prior) if strength is None else strength
        settings = self.settings if chosen is None else dataclasses.replace(self.settings, strength=chosen)
        return dataclasses.replace(self, settings=settings)

    def of_stratum(self, stratum: str) -> VoteState:
        """The votes of one stratum as a state of its own, with the same prior; its counts are the faded votes.

        Raises:
            PluralignError: the state has no such stratum.

        Examples:
            >>> from pluralign.judgments import Judgments
            >>> from pluralign.judgments.votes import votes_of
            >>> yes = {"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, 2], "group": "old"}
            >>> both = Judgments.from_rows([yes, yes, {**yes, "ranks": [2, 1], "group": "young"}])
            >>> votes_of(both, shares={"old": 1, "young": 9}).of_stratum("old").counts.tolist()
            [[0.0, 2.0]]
        """
        names = list(self.settings.shares or ())
        if stratum not in names:
            raise PluralignError(f"stratum: found {stratum!r}, expected one of {', '.join(names) or 'none'}")
        held = self.held[:, [names.index(stratum)]]
        settings = dataclasses.replace(self.settings, shares=None, strata=None)
        return dataclasses.replace(self, settings=settings, held=held, counts=held[:, 0])

    def targets(self, smoothing: float = 0.05, cost: Floats | None = None, *, prior: bool = True) -> Targets:
        """Soft targets for training. Items without a vote are left out.

        Args:
            smoothing: eps: a label with a share above 1 - eps gives the excess to the runner-up; 0 for none.
            cost: `(labels, labels)`, breaks ties between runners-up: the nearer one is taken. Default:
                |R_i - R_j| + 0.1 [i != j].
            prior: whether the prior is part of the targets. Without it they are shares of the votes, and items whose
                votes have faded to nothing are left out too.

        Raises:
            PluralignError: the smoothing is out of range, or the costs do not fit the labels.

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
        voted = np.flatnonzero(self.voted if prior else self.votes > 0)
        means = self.mean[voted] if prior else posterior_mean(self.crowd[voted])
        low, high = (side[voted] for side in self.interval())
        try:
            distribution = smoothed(means, smoothing, self.prior[voted], costs)
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

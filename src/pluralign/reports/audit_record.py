"""The content of an audit: what `audit.json` stores and the page shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pluralign.reports.annotators import Annotators
from pluralign.reports.histograms import Histogram
from pluralign.reports.opinions import Examples, Views


@dataclass(frozen=True)
class Data:
    """What the judgments are: counts, also by kind, length, source and group."""

    files: list[str]
    judgments: int
    annotators: int
    prompts: int
    unique_responses: int
    left_out: int
    kinds: dict[str, int]
    judgments_per_annotator: Histogram
    ranking_lengths: dict[str, int]
    sources: dict[str, int]
    groups: dict[str, int]


@dataclass(frozen=True)
class MajorityMargins(Histogram):
    """Margins of majorities over comparisons, and the share of unanimous comparisons."""

    unanimous: float | None


@dataclass(frozen=True)
class Triples:
    """Triples of responses to one prompt, and the share whose majorities no order fits."""

    share: float | None
    triples: int


@dataclass(frozen=True)
class Cycles:
    """Prompts with three or more responses: how many have majority cycles, and how many have no winner."""

    prompts: int
    cyclic: int
    without_winner: int


@dataclass(frozen=True)
class Agreement:
    """How far annotators agree. Labels judge one response at a time and have no triples or cycles."""

    krippendorff_alpha: float | None
    alpha_low: float | None
    alpha_high: float | None
    level: str
    units: int
    annotator_agreement: Histogram | None
    majority_margins: MajorityMargins
    intransitive_triples: Triples | None = None
    condorcet_cycles: Cycles | None = None


@dataclass(frozen=True)
class Check:
    """A number behind the verdict, and what it means."""

    name: str
    value: Any
    meaning: str


@dataclass(frozen=True)
class PowerPoint:
    """How often simulated annotators are assigned their own type, by design and judgments per annotator."""

    design: str
    judgments: int
    accuracy: float
    low: float
    high: float
    known: float | None = None
    """The same if the types' utilities were known: the most that these judgments tell."""


@dataclass(frozen=True)
class Verdict:
    """Whether the data identify the types, why, and what would help."""

    verdict: str
    reason: str
    advice: str


@dataclass(frozen=True)
class CheckedVerdict(Verdict):
    """A verdict with its evidence, and the sentence that the page and the terminal begin with.

    `heterogeneity` says how annotators differ: `one taste`, `types`, `continuum` or `undecided`.
    """

    checks: list[Check]
    posterior_entropy: Histogram | None
    power: list[PowerPoint]
    sentence: str = ""
    heterogeneity: str = ""


@dataclass(frozen=True)
class Candidate:
    """A number of types: held-out log-likelihood per judgment with its interval, and BIC."""

    types: int
    held_out: float | None
    low: float | None
    high: float | None
    bic: float | None


@dataclass(frozen=True)
class Member:
    """An annotator and the probability of belonging to the type."""

    annotator: str
    probability: float


@dataclass(frozen=True)
class Worth:
    """The utility of a response for a type."""

    prompt: str
    response: str
    worth: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Difference:
    """The utility of a response for a type, minus the mean over the other types."""

    prompt: str
    response: str
    difference: float


@dataclass(frozen=True)
class Trait:
    """The weight that a type puts on a trait of responses."""

    trait: str
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class AnnotatorType:
    """A latent type: its share, its annotators, and what it prefers; with Davidson's ties, its tie parameter."""

    type: int
    name: str
    share: float
    low: float | None
    high: float | None
    annotators: int
    certain: int
    members: list[Member]
    worths: list[Worth]
    lifts: list[Difference]
    drops: list[Difference]
    traits: list[Trait]
    tie_nu: float | None = None
    tie_nu_low: float | None = None
    tie_nu_high: float | None = None


@dataclass(frozen=True)
class Coefficient:
    """A coefficient of a type, in the units of a side table; the type is `None` if all types share it."""

    name: str
    type: int | None
    value: float
    standard_error: float | None


@dataclass(frozen=True)
class Group:
    """A known group and the shares of the types in it."""

    group: str
    annotators: int
    shares: list[float]


@dataclass(frozen=True)
class Map:
    """Annotators in the plane in which they differ most: coordinates and types."""

    x: list[float]
    y: list[float]
    type: list[int]


@dataclass(frozen=True)
class AuditPage:
    """The content of `audit.json` and the input of its page."""

    data: Data
    warnings: list[str]
    agreement: Agreement
    identification: CheckedVerdict
    selection: list[Candidate]
    types: list[AnnotatorType]
    groups: list[Group]
    groups_adjusted_rand: float | None
    map: Map | None
    type_views: Views | None = None
    group_views: Views | None = None
    examples: Examples | None = None
    coefficients: list[Coefficient] = field(default_factory=list)
    membership: list[Coefficient] = field(default_factory=list)
    annotators: Annotators | None = None

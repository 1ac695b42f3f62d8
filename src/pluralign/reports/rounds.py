"""The rounds of a run of EM-DPO: the verdict, the shares of the types, the likelihood of judgments."""

from __future__ import annotations

from dataclasses import dataclass

from pluralign.reports.audit import Verdict, verdict_banner
from pluralign.reports.page import Block, Cell, Figure, Figures, Section, Table
from pluralign.reports.plots import stacked
from pluralign.reports.texts import percent


@dataclass(frozen=True)
class Round:
    """The types after an E-step; round 0 is the start, at which nothing was scored."""

    round: int
    mixture_weights: list[float]
    scored_judgments: int | None = None
    log_likelihood: float | None = None
    log_likelihood_per_judgment: float | None = None
    reference_log_likelihood: float | None = None
    moved: float | None = None


@dataclass(frozen=True)
class TypeRounds:
    """The content of `types.json`."""

    identification: Verdict
    rounds: list[Round]


def rounds_section(story: TypeRounds) -> Section:
    """The types of a run, and how they changed from round to round."""
    blocks: list[Block] = [verdict_banner(story.identification)]
    if story.rounds:
        names = [f"round {one.round}" if one.round else "start" for one in story.rounds]
        rows = [(name, one.mixture_weights) for name, one in zip(names, story.rounds, strict=True)]
        drawn = stacked(rows, "Shares of the types after each round.", notes=[""] * len(rows))
        legend = [(place, f"type {place}") for place in range(1, len(story.rounds[0].mixture_weights) + 1)]
        reading = "At the start and after each E-step."
        head = ["round", "judgments scored", "log-likelihood", "log-likelihood under the reference", "annotators moved"]
        cells = [[name, *_numbers(one)] for name, one in zip(names, story.rounds, strict=True)]
        blocks += [
            Figures([Figure("Shares of the types", drawn, reading, legend)]),
            Table("Round by round", head, cells),
        ]
    lead = "Types of annotators, fitted together with a policy for each. Log-likelihoods are in nats per judgment."
    return Section("Types", blocks, lead)


def _numbers(one: Round) -> list[Cell]:
    scored, reference = one.scored_judgments, one.reference_log_likelihood
    each = None if not scored or reference is None else reference / scored
    return [scored, one.log_likelihood_per_judgment, each, "" if one.moved is None else percent(one.moved)]

"""The rounds of a run of EM-DPO: the verdict, the shares of the types, the likelihood of judgments."""

from __future__ import annotations

from dataclasses import dataclass

from pluralign.reports.audit import verdict_banner
from pluralign.reports.audit_record import Verdict
from pluralign.reports.page import Block, Cell, Figure, Figures, Section, Table
from pluralign.reports.row_plots import stacked
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
class Kept:
    """The round whose responsibilities trained the policies, 0 for the start, and why."""

    round: int
    reason: str


@dataclass(frozen=True)
class TypeRounds:
    """The content of `types.json`."""

    identification: Verdict
    rounds: list[Round]
    kept: Kept | None = None


def rounds_section(fitted: TypeRounds) -> Section:
    """The types of a run, and how they changed from round to round."""
    blocks: list[Block] = [verdict_banner(fitted.identification)]
    if fitted.rounds:
        names = [f"round {row.round}" if row.round else "start" for row in fitted.rounds]
        rows = [(name, row.mixture_weights) for name, row in zip(names, fitted.rounds, strict=True)]
        drawn = stacked(rows, "Shares of the types after each round.", notes=[""] * len(rows))
        legend = [(place, f"type {place}") for place in range(1, len(fitted.rounds[0].mixture_weights) + 1)]
        figure = Figure("Shares of the types", drawn, "At the start and after each E-step.", legend)
        head = ["round", "judgments scored", "log-likelihood", "log-likelihood under the reference", "annotators moved"]
        cells = [[name, *_numbers(row)] for name, row in zip(names, fitted.rounds, strict=True)]
        blocks += [Figures([figure]), Table("Round by round", head, cells)]
    lead = "Types of annotators, fitted together with a policy for each. Log-likelihoods are in nats per judgment."
    if (kept := fitted.kept) is not None:
        where = f"round {kept.round}" if kept.round else "the start"
        lead += f" The policies were trained with the types of {where}: {kept.reason}."
    return Section("Types", blocks, lead)


def _numbers(row: Round) -> list[Cell]:
    scored, reference = row.scored_judgments, row.reference_log_likelihood
    each = None if not scored or reference is None else reference / scored
    return [scored, row.log_likelihood_per_judgment, each, "" if row.moved is None else percent(row.moved)]

"""The annotators of an audit: how noisily each one judges, how far they agree with others, and what stands out."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.special import ndtr

from pluralign.choice.noise_scales import NoiseScales
from pluralign.choice.plackett_luce import NOT_SHOWN
from pluralign.evaluation.annotators.flags import near_copies, straight_liners
from pluralign.evaluation.annotators.peers import annotator_agreement
from pluralign.evaluation.annotators.voted_pairs import voted_pairs
from pluralign.reports.annotators import FLAGS, Annotators, FlaggedAnnotator
from pluralign.scoring.annotator_types import Findings
from pluralign.scoring.mixtures import responsibilities_table
from pluralign.scoring.panels import People

LEVEL = 0.05
"""Of a family of tests: those of all annotators, or of all pairs of annotators."""

CARELESS = 0.9
"""Posterior probability of a scale near 0 above which an annotator looks careless."""

AGAINST = -2.0
"""An annotator whose alignment with every type is below this chooses against the types rather than at random."""

MANY_JUDGMENTS = 200_000
"""Above this, likelihoods are computed at fewer scales; they are then right to about 1e-4 per judgment."""


@dataclass(frozen=True)
class AuditedAnnotators:
    """The annotators with an id: the content of `annotators.parquet`, what the page shows, and metrics."""

    table: pa.Table
    page: Annotators
    metrics: dict[str, Any]


def audited_annotators(fitted: Findings, seed: int = 0) -> AuditedAnnotators:
    """Noise scales, agreement with the others, flags and weights of the annotators with an id.

    The weight of an annotator is the scale, at most 1: an annotator's judgments say s_h times as much about utilities
    as their noise allows those of a typical one, so s_h is the efficient weight in a likelihood with one scale for all.
    Who chooses against every type has another taste, not more noise, and keeps the weight 1.
    """
    people, model = fitted.people, fitted.model
    nodes = 24 if people.panel.judgments > MANY_JUDGMENTS else 40
    noise = NoiseScales(nodes=nodes, seed=seed).fit(people.panel, fitted.tastes)
    named = np.flatnonzero([name is not None for name in people.names])
    names = [str(people.names[place]) for place in named]
    agreement = agreement_with_others(people)
    flags, copies = flags_of(people, noise, np.asarray(model.labels_))
    against = np.nan_to_num(noise.alignment_) < AGAINST
    weight = np.where(against, 1.0, np.minimum(noise.scales_, 1.0))
    judgments = np.bincount(people.panel.annotator_ids, minlength=people.panel.annotators)
    table = responsibilities_table(names, judgments[named], np.asarray(model.responsibilities_)[named])
    columns = {
        "scale": noise.scales_[named],
        "scale_low": noise.low_[named],
        "scale_high": noise.high_[named],
        "agreement": pa.array([agreement[place] for place in named], pa.float64()),
        "flags": pa.array([flags[place] for place in named], pa.list_(pa.string())),
        "weight": weight[named],
    }
    for name, column in columns.items():
        table = table.append_column(name, pa.array(column))
    flagged = [
        FlaggedAnnotator(
            annotator=str(people.names[place]),
            flags=flags[place],
            judgments=int(judgments[place]),
            scale=float(noise.scales_[place]),
            scale_low=float(noise.low_[place]),
            scale_high=float(noise.high_[place]),
            agreement=agreement[place],
            weight=float(weight[place]),
            copies=[str(people.names[other]) for other in copies[place]],
        )
        for place in sorted(named.tolist(), key=lambda place: float(noise.scales_[place]))
        if flags[place]
    ]
    counts = {flag: sum(flag in row.flags for row in flagged) for flag in FLAGS}
    page = Annotators(len(named), noise.tau_, noise.careless_share_, counts, flagged)
    metrics = {
        "named_annotators": len(named),
        "noise_tau": noise.tau_,
        "careless_share": noise.careless_share_,
        **{f"flagged/{flag}": count for flag, count in counts.items()},
    }
    return AuditedAnnotators(table, page, metrics if len(named) else {})


def agreement_with_others(people: People) -> list[float | None]:
    """The share of each annotator's judgments that equal the most frequent one of the others, `(annotators,)`."""
    panel, judge = people.panel, _named_ids(people)
    if (people.code >= 0).all():
        unit, value = panel.response_ids[:, 0], people.code
    else:
        shown = panel.rank_values > NOT_SHOWN
        offsets = np.concatenate(([0], shown.sum(1).cumsum()))
        votes = voted_pairs(panel.response_ids[shown], panel.rank_values[shown], offsets)
        unit, value, judge = votes.unit, votes.value, judge[votes.judgment]
    labels = bool((people.code >= 0).all())
    shares: Any = annotator_agreement(unit, value, judge, panel.annotators, level="ordinal", both_orders=not labels)
    return list(shares["agreement"])


def flags_of(people: People, noise: NoiseScales, types: np.ndarray) -> tuple[list[list[str]], dict[int, list[int]]]:
    """The flags of each annotator, and whom each annotator nearly copies; annotators without an id have none."""
    panel, judge = people.panel, _named_ids(people)
    named = np.array([name is not None for name in people.names])
    shown = panel.rank_values > NOT_SHOWN
    ids = np.where(shown, panel.response_ids, -1)
    if (people.code >= 0).all():
        place, places = people.code, np.full(len(people.code), people.code.max() + 1)
        seen = judged = ids[:, 0]
        value = people.code
    else:
        best = panel.rank_values == 1
        place = np.where(best.sum(1) == 1, best.argmax(1), -1)
        places, seen = shown.sum(1), _row_codes(ids)
        order = ids.argsort(1)
        judged, value = (_row_codes(np.take_along_axis(rows, order, 1)) for rows in (ids, panel.rank_values))
    straight = straight_liners(place, places, judge, panel.annotators, unit=seen)
    copies = near_copies(judged, value, judge, panel.annotators, group=types, level=LEVEL)
    is_straight = straight < LEVEL / max(1, np.isfinite(straight).sum())
    of: dict[int, list[int]] = defaultdict(list)
    for first, second in zip(copies.first.tolist(), copies.second.tolist(), strict=True):
        if not (is_straight[first] or is_straight[second]):  # always the same label is no copy
            of[first].append(second)
            of[second].append(first)
    alignment = np.nan_to_num(noise.alignment_)
    raised = {
        "careless": named & (noise.careless_ > CARELESS) & (alignment >= AGAINST) & np.isfinite(noise.alignment_),
        "straight-liner": is_straight,
        "near-copy": np.isin(np.arange(panel.annotators), list(of)),
        "contrary": named & (ndtr(alignment) < LEVEL / max(1, named.sum())),
    }
    flags = [[flag for flag in FLAGS if raised[flag][number]] for number in range(panel.annotators)]
    return flags, of


def _named_ids(people: People) -> np.ndarray:
    """The annotator of each judgment, -1 without an id."""
    named = np.array([name is not None for name in people.names])
    return np.where(named[people.panel.annotator_ids], people.panel.annotator_ids, -1)


def _row_codes(rows: np.ndarray) -> np.ndarray:
    """A number for each row, equal for equal rows."""
    factors = np.random.default_rng(0).integers(1, 2**62, size=rows.shape[1])
    with np.errstate(over="ignore"):  # integers wrap, so the sum is a hash of the row
        return np.unique((rows * factors).sum(1), return_inverse=True)[1]

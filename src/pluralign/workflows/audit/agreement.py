"""What an audit says about the data and about how far people agree, as `audit.json` holds it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from pluralign.choice.plackett_luce import NOT_SHOWN
from pluralign.evaluation.annotators.agreement import alpha_interval, krippendorff_alpha
from pluralign.evaluation.annotators.peers import annotator_agreement
from pluralign.evaluation.annotators.transitivity import condorcet, intransitive_triples
from pluralign.evaluation.annotators.voted_pairs import VotedPairs, majority_margins, voted_pairs
from pluralign.judgments.table import Judgments
from pluralign.scoring.panels import People

BINS = 20


def histogram(values: np.ndarray, bins: int = BINS, limits: tuple[float, float] | None = None) -> dict[str, Any] | None:
    """Edges and counts, as a page draws them; `None` of nothing."""
    if not len(values):
        return None
    counts, edges = np.histogram(values, bins=bins, range=limits)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def data_block(judgments: Judgments, people: People, files: list[str]) -> dict[str, Any]:
    """How much there is of what."""
    panel = people.panel
    shown = (panel.rank_values > NOT_SHOWN).sum(1)
    ordered = np.sort(panel.rank_values, 1)
    tied = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] > 0)).any(1)
    labelled = people.code >= 0
    kinds = {
        "pairs": ((shown == 2) & ~labelled).sum(),
        "rankings": ((shown > 2) & ~labelled).sum(),
        "tied": (tied & ~labelled).sum(),
        "labels": labelled.sum(),
    }
    made = np.bincount(panel.annotator_ids)
    edges = np.unique(np.round(np.geomspace(1, max(2, made.max() + 1), 12)).astype(int))
    counts = np.histogram(made, bins=edges)[0]
    sources = Counter(source for source in judgments.column("source") if source is not None)
    groups = Counter(group for group in groups_of(judgments, people) if group is not None)
    return {
        "files": files,
        "judgments": panel.judgments,
        "annotators": panel.annotators,
        "prompts": len(people.items.prompts),
        "unique_responses": len(people.items.responses),
        "left_out": people.left_out,
        "kinds": {name: int(number) for name, number in kinds.items() if number},
        "judgments_per_annotator": {"edges": edges.tolist(), "counts": counts.tolist()},
        "ranking_lengths": {}
        if labelled.all()
        else {str(length): int(count) for length, count in sorted(Counter(shown[~labelled].tolist()).items())},
        "sources": dict(sources.most_common()),
        "groups": dict(groups.most_common()),
    }


def groups_of(judgments: Judgments, people: People) -> list[str | None]:
    """The known group of each annotator: the one that most of his judgments name."""
    column = judgments.column("group")
    votes: list[Counter[str]] = [Counter() for _ in people.names]
    for annotator, row in zip(people.panel.annotator_ids.tolist(), people.row.tolist(), strict=True):
        if column[row] is not None:
            votes[annotator][column[row]] += 1
    return [found.most_common(1)[0][0] if found else None for found in votes]


def votes_of(people: People) -> VotedPairs:
    """All pairs that the judgments hold, bars included."""
    shown = people.panel.rank_values > NOT_SHOWN
    offsets = np.concatenate(([0], shown.sum(1).cumsum()))
    return voted_pairs(people.panel.response_ids[shown], people.panel.rank_values[shown], offsets)


def agreement_block(people: People, seed: int) -> dict[str, Any]:
    """Krippendorff's alpha, agreement of each annotator with the others, margins, majorities in circles."""
    panel, votes = people.panel, votes_of(people)
    known = np.array([name is not None for name in people.names])
    who = np.where(known[panel.annotator_ids], panel.annotator_ids, -1)
    labels = bool((people.code >= 0).all())
    if labels:
        unit, value, judge, both = panel.response_ids[:, 0], people.code, who, False
        cluster = None if len(people.items.prompts) < 2 else people.items.item[unit]
    else:
        unit, value, judge, both = votes.unit, votes.value, who[votes.judgment], True
        cluster = None if len(people.items.prompts) < 2 else people.prompt[votes.first][votes.unit]
    options: dict[str, Any] = {"level": "ordinal", "both_orders": both}
    alpha = krippendorff_alpha(unit, value, judge, **options)
    interval = alpha_interval(unit, value, judge, cluster, seed=seed, **options)
    table = annotator_agreement(unit, value, judge, panel.annotators, **options)
    each = np.array([share for share in table["agreement"] if share is not None])
    weight = panel.reliability
    margins = majority_margins(votes, weight)
    return {
        "krippendorff_alpha": alpha,
        "alpha_low": None if interval is None else interval[0],
        "alpha_high": None if interval is None else interval[1],
        "level": "ordinal",
        "units": len(np.unique(unit)),
        "annotator_agreement": histogram(each, limits=(0.0, 1.0)),
        **({} if labels else _circles(people, votes)),
        "majority_margins": {
            "edges": margins.edges.tolist(),
            "counts": margins.counts.tolist(),
            "unanimous": margins.unanimous,
        },
    }


def _circles(people: People, votes: VotedPairs) -> dict[str, Any]:
    """Majorities that go in circles; labels judge one response at a time and have none."""
    weight = people.panel.reliability
    triples = intransitive_triples(votes, weight)
    majorities = condorcet(votes, people.prompt, weight)
    several = majorities.responses > 2
    return {
        "intransitive_triples": {"share": triples.get("intransitive_share"), "triples": triples["triples"]},
        "condorcet_cycles": {
            "prompts": int(several.sum()),
            "cyclic": int((majorities.largest_cycle[several] > 1).sum()),
            "without_winner": int((majorities.winner[several] < 0).sum()),
        },
    }

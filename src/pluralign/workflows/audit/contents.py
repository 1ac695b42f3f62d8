"""The content of an audit's page: data, agreement, identification, and the number of types."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.metrics import adjusted_rand_score

from pluralign.choice.latent_class.estimator import MOST_COVARIANCES, LatentClassPlackettLuce
from pluralign.choice.latent_class.identification import posterior_entropy
from pluralign.choice.latent_class.panel import Panel
from pluralign.choice.latent_class.selection import Selection
from pluralign.choice.latent_class.starts import annotator_embedding
from pluralign.choice.plackett_luce import NOT_SHOWN
from pluralign.evaluation.annotators.agreement import alpha_interval, krippendorff_alpha
from pluralign.evaluation.annotators.peers import annotator_agreement
from pluralign.evaluation.annotators.transitivity import condorcet, intransitive_triples
from pluralign.evaluation.annotators.voted_pairs import VotedPairs, comparison_components, majority_margins, voted_pairs
from pluralign.judgments.codes import numbered
from pluralign.judgments.messages import plain_text
from pluralign.judgments.table import Judgments
from pluralign.reports import audit_record as page
from pluralign.reports.histograms import Histogram
from pluralign.scoring.annotator_types import SELECTION_JUDGMENTS, Findings
from pluralign.scoring.panels import People
from pluralign.workflows.audit.coefficients import attribute_coefficients, membership_coefficients
from pluralign.workflows.audit.opinions import example_pairs, group_views, judged_often, type_views
from pluralign.workflows.audit.types import NORMAL, described_types, utilities_of
from pluralign.workflows.groups import majority_codes

_BINS, _SHOWN_ANNOTATORS, _SHOWN_PROMPTS = 20, 2000, 5
_DESIGNS = {None: "as collected", 2: "pairs", 3: "rankings of three"}


def audit_contents(
    judgments: Judgments, fitted: Findings, errors: np.ndarray | None, files: list[str], seed: int
) -> page.AuditPage:
    """The content of `audit.json`; `errors` are those of `worth_errors`, `files` the names of the table's files."""
    people, model = fitted.people, fitted.model
    groups = groups_of(judgments, people)
    known = [(group, label) for group, label in zip(groups, model.labels_, strict=True) if group is not None]
    often, scale, responsibilities = judged_often(people), judgments.label_scale, np.asarray(model.responsibilities_)
    pairs = None if often else (_votes(people), utilities_of(fitted), np.asarray(model.mixture_weights_))
    return page.AuditPage(
        data=_data(judgments, people, groups, files),
        warnings=_warnings(fitted),
        agreement=agreement_of(people, seed),
        identification=_verdict(fitted),
        selection=_candidates(fitted.selection),
        types=described_types(fitted, errors),
        groups=_groups(groups, model),
        groups_adjusted_rand=float(adjusted_rand_score(*zip(*known, strict=True))) if len(known) > 1 else None,
        map=_map(model, fitted.panel, seed),
        type_views=type_views(people, responsibilities, scale) if often else None,
        group_views=group_views(people, groups, scale) if often else None,
        examples=None if pairs is None else example_pairs(people, *pairs),
        coefficients=attribute_coefficients(fitted),
        membership=membership_coefficients(fitted),
    )


def groups_of(judgments: Judgments, people: People) -> list[str | None]:
    """The known group of each annotator: the one that most of their judgments name."""
    codes, names = numbered(judgments.table.column("group"))
    groups = majority_codes(people.panel.annotator_ids, codes[people.row], len(people.names))
    return [None if group < 0 else names[group] for group in groups.tolist()]


def _data(judgments: Judgments, people: People, groups: list[str | None], files: list[str]) -> page.Data:
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
    per_annotator = np.bincount(panel.annotator_ids)
    edges = np.unique(np.round(np.geomspace(1, max(2, per_annotator.max() + 1), 12)).astype(int))
    lengths = zip(*(part.tolist() for part in np.unique(shown[~labelled], return_counts=True)), strict=True)
    return page.Data(
        files=files,
        judgments=panel.judgments,
        annotators=panel.annotators,
        prompts=len(people.items.prompts),
        unique_responses=len(people.items.responses),
        left_out=people.left_out,
        kinds={name: int(count) for name, count in kinds.items() if count},
        judgments_per_annotator=Histogram(edges.tolist(), np.histogram(per_annotator, bins=edges)[0].tolist()),
        ranking_lengths={str(length): count for length, count in lengths},
        sources=_shares(judgments.table.column("source")),
        groups=_counts(groups),
    )


def _shares(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each name occurs, the most frequent first."""
    codes, names = numbered(column)
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    return {names[place]: int(counts[place]) for place in np.argsort(-counts, kind="stable")}


def _counts(names: list[str | None]) -> dict[str, int]:
    return dict(Counter(name for name in names if name is not None).most_common())


def _histogram(values: np.ndarray, limits: tuple[float, float]) -> Histogram:
    counts, edges = np.histogram(values, bins=_BINS, range=limits)
    return Histogram(edges.tolist(), counts.tolist())


def agreement_of(people: People, seed: int) -> page.Agreement:
    """Krippendorff's alpha, agreement of each annotator with the others, margins and cycles of majorities."""
    panel, votes = people.panel, _votes(people)
    named = np.array([name is not None for name in people.names])
    annotator = np.where(named[panel.annotator_ids], panel.annotator_ids, -1)
    labels = bool((people.code >= 0).all())
    if labels:
        unit, value, judge = panel.response_ids[:, 0], people.code, annotator
        cluster = people.items.item[unit]
    else:
        unit, value, judge = votes.unit, votes.value, annotator[votes.judgment]
        cluster = people.prompt[votes.first][votes.unit]
    options: dict[str, Any] = {"level": "ordinal", "both_orders": not labels}
    clusters = None if len(people.items.prompts) < 2 else cluster
    interval = alpha_interval(unit, value, judge, clusters, seed=seed, **options)
    shares = annotator_agreement(unit, value, judge, panel.annotators, **options)["agreement"]
    known_shares = np.array([share for share in shares if share is not None])
    margins = majority_margins(votes, panel.reliability)
    triples, cycles = (None, None) if labels else _cycles(people, votes)
    return page.Agreement(
        krippendorff_alpha=krippendorff_alpha(unit, value, judge, **options),
        alpha_low=None if interval is None else interval[0],
        alpha_high=None if interval is None else interval[1],
        level="ordinal",
        units=len(np.unique(unit)),
        annotator_agreement=_histogram(known_shares, (0.0, 1.0)) if len(known_shares) else None,
        majority_margins=page.MajorityMargins(margins.edges.tolist(), margins.counts.tolist(), margins.unanimous),
        intransitive_triples=triples,
        condorcet_cycles=cycles,
    )


def _votes(people: People) -> VotedPairs:
    """All pairs in the judgments, including those with bars."""
    shown = people.panel.rank_values > NOT_SHOWN
    offsets = np.concatenate(([0], shown.sum(1).cumsum()))
    return voted_pairs(people.panel.response_ids[shown], people.panel.rank_values[shown], offsets)


def _cycles(people: People, votes: VotedPairs) -> tuple[page.Triples, page.Cycles]:
    triples = intransitive_triples(votes, people.panel.reliability)
    majorities = condorcet(votes, people.prompt, people.panel.reliability)
    several = majorities.responses > 2
    cycles = page.Cycles(
        prompts=int(several.sum()),
        cyclic=int((majorities.largest_cycle[several] > 1).sum()),
        without_winner=int((majorities.winner[several] < 0).sum()),
    )
    return page.Triples(triples.get("intransitive_share"), int(triples["triples"])), cycles


def _candidates(selection: Selection) -> list[page.Candidate]:
    """Held-out log-likelihood with the interval of its gain over the smallest number of types."""
    rows = zip(selection.types, selection.held_out, selection.gain_error, selection.bic, strict=True)
    candidates = []
    for number, held_out, error, bic in rows:
        ends = (held_out, held_out - NORMAL * error, held_out + NORMAL * error)
        score, low, high = (float(value) if np.isfinite(held_out) else None for value in ends)
        candidates.append(page.Candidate(int(number), score, low, high, float(bic)))
    return candidates


def _verdict(fitted: Findings) -> page.CheckedVerdict:
    """The verdict, the checks behind it, and the power curve."""
    design, numbers, verdict, types = fitted.design, fitted.numbers, fitted.verdict, len(fitted.model.mixture_weights_)
    informative = f"{design.informative / max(1, design.annotators):.0%}"
    rank = f"{design.rank} of {design.features}"
    checks: list[tuple[str, Any, str]] = [
        ("annotators", design.annotators, "with at least one informative judgment"),
        ("more than a single pair", informative, "of the annotators made two choices, or one among three or more"),
        ("longest choice", design.longest, "responses in the longest judgment"),
        ("judgments per annotator", round(design.judgments, 2), "on average"),
        ("overlap", f"{design.overlap:.0%}", "of the judgments contain a pair that another annotator judged too"),
        ("rank of the features", rank, "directions in which responses of the same choice differ"),
    ]
    if numbers is not None:
        smallest = float(f"{numbers.smallest:.3g}")
        condition = float(f"{numbers.condition:.3g}") if np.isfinite(numbers.condition) else None
        confidence = f"{min(numbers.separation, 0.9999):.2%}"
        checks += [
            ("information left", round(numbers.left, 4), "share left, in the worst direction, with types unobserved"),
            ("smallest eigenvalue", smallest, "of the observed information; must be above 0"),
            ("condition", condition, "largest over smallest eigenvalue of the scaled information; empty if none > 0"),
            ("confidence", confidence, "or more, at which the two most similar types differ (Wald test)"),
        ]
    entropy = None if types == 1 else _histogram(posterior_entropy(fitted.model), (0.0, float(np.log(types))))
    power = [
        page.PowerPoint(_DESIGNS[point.length], point.judgments, point.accuracy, point.low, point.high, point.ceiling)
        for point in fitted.power
    ]
    checked = [page.Check(*check) for check in checks]
    return page.CheckedVerdict(
        verdict.verdict,
        verdict.reason,
        verdict.advice,
        checked,
        entropy,
        power,
        verdict.sentence,
        verdict.heterogeneity,
    )


def _groups(groups: list[str | None], model: LatentClassPlackettLuce) -> list[page.Group]:
    """Mean responsibilities of the annotators of each known group."""
    responsibilities = np.asarray(model.responsibilities_)
    blocks = []
    for name in sorted({group for group in groups if group is not None}):
        members = np.array([group == name for group in groups])
        blocks.append(page.Group(name, int(members.sum()), responsibilities[members].mean(0).tolist()))
    return blocks


def _map(model: LatentClassPlackettLuce, panel: Panel, seed: int) -> page.Map | None:
    """Annotators in the plane in which they differ most; a sample if there are many."""
    places = annotator_embedding(model.problem(panel), 2, seed)
    if places.shape[1] < 2:
        return None
    chosen = np.sort(np.random.default_rng(seed).permutation(len(places))[:_SHOWN_ANNOTATORS])
    return page.Map(places[chosen, 0].tolist(), places[chosen, 1].tolist(), (model.labels_[chosen] + 1).tolist())


def _warnings(fitted: Findings) -> list[str]:
    """What readers must know before they trust the page."""
    people, parameters = fitted.people, fitted.model.n_parameters_
    warnings = []
    unnamed = sum(name is None for name in people.names)
    if unnamed:
        warnings.append(f"{unnamed} judgments have no annotator; each counts as an annotator of its own.")
    if people.left_out:
        warnings.append(
            f"{people.left_out} rows were left out because they hold no comparison (a single response without a label, "
            "or no rank)."
        )
    if fitted.ties == "davidson" and len(fitted.model.mixture_weights_) > 1:
        warnings.append(
            "Types may differ in how readily they call responses equal (nu) rather than in taste. A policy of its own "
            "suits a type only if its utilities differ."
        )
    if people.panel.features is None:
        votes = _votes(people)
        warnings += _disconnected(people, votes)
        if one_sided := _one_sided(people, votes):
            warnings.append(
                f"{one_sided} responses won or lost every comparison: choices about them are separable, and only the "
                "prior keeps their utilities finite."
            )
    held_out, annotators = fitted.selection.by_annotator.shape[1], people.panel.annotators
    if 0 < held_out < annotators:
        warnings.append(
            f"The number of types was chosen on {held_out:,} of the {annotators:,} annotators, drawn at random, with "
            f"about {SELECTION_JUDGMENTS:,} judgments; the types themselves are fitted to all of them."
        )
    if parameters > MOST_COVARIANCES:
        warnings.append(
            f"The model has {parameters} parameters, more than {MOST_COVARIANCES}: there are no standard errors, and "
            "the verdict is based on the design alone. Text features (--features tfidf) have fewer parameters."
        )
    return warnings


def _one_sided(people: People, votes: VotedPairs) -> int:
    """How many responses were preferred in all of their comparisons, or in none."""
    size = people.panel.response_count
    first, second = votes.first[votes.unit], votes.second[votes.unit]
    wins = np.bincount(first, votes.value <= 0, size) + np.bincount(second, votes.value >= 0, size)
    losses = np.bincount(first, votes.value >= 0, size) + np.bincount(second, votes.value <= 0, size)
    return int(((wins > 0) != (losses > 0))[~people.bars].sum())


def _disconnected(people: People, votes: VotedPairs) -> list[str]:
    """Prompts whose responses fall into parts without a comparison between them."""
    component = comparison_components(votes, people.prompt)
    warnings = []
    for prompt in np.unique(people.prompt[component > 0]):
        inside = np.flatnonzero((people.prompt == prompt) & ~people.bars)
        parts, first, counts = np.unique(component[inside], return_index=True, return_counts=True)
        if len(parts) > 1:
            examples = "; ".join(
                f"{count} like “{plain_text(people.items.responses[inside[place]])[:60]}”"
                for place, count in list(zip(first, counts, strict=True))[:4]
            )
            title = plain_text(people.items.prompts[prompt])[:80]
            warnings.append(
                f"“{title}”: its responses fall into {len(parts)} parts that no annotator compared with each other: "
                f"{examples}."
            )
    rest = len(warnings) - _SHOWN_PROMPTS
    return warnings if rest <= 0 else [*warnings[:_SHOWN_PROMPTS], f"… and {rest} more prompts in several parts."]

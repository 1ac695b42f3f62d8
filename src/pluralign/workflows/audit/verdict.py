"""What an audit says of the number of types and of what the data can tell, as `audit.json` holds it."""

from __future__ import annotations

from typing import Any

import numpy as np

from pluralign.choice.latent_class.estimator import MOST_COVARIANCES
from pluralign.choice.latent_class.identification import posterior_entropy
from pluralign.choice.latent_class.selection import Selection
from pluralign.evaluation.annotators.voted_pairs import comparison_components
from pluralign.scoring.annotator_types import Findings
from pluralign.scoring.features import plain_text
from pluralign.scoring.panels import People
from pluralign.workflows.audit.agreement import histogram, votes_of
from pluralign.workflows.audit.types import NORMAL


def selection_block(selection: Selection) -> list[dict[str, Any]]:
    """Held-out log-likelihood with the interval of its gain over the smallest number of types."""
    rows = zip(selection.types, selection.held_out, selection.gain_error, selection.bic, strict=True)
    return [
        {
            "types": int(number),
            "held_out": float(held_out) if np.isfinite(held_out) else None,
            "low": float(held_out - NORMAL * error) if np.isfinite(held_out) else None,
            "high": float(held_out + NORMAL * error) if np.isfinite(held_out) else None,
            "bic": float(bic),
        }
        for number, held_out, error, bic in rows
    ]


def identification_block(found: Findings) -> dict[str, Any]:
    """The verdict, the checks behind it, and the power curve."""
    collected, numbers, model = found.design, found.numbers, found.model
    verdict = found.verdict
    checks: list[tuple[str, Any, str]] = [
        ("annotators", collected.annotators, "people with at least one judgment that says something"),
        (
            "more than a single pair",
            f"{collected.informative / max(1, collected.annotators):.0%}",
            "of the annotators gave two choices or more, or a choice among three or more",
        ),
        ("longest choice", collected.longest, "responses in the longest judgment"),
        ("judgments per annotator", round(collected.judgments, 2), "on average"),
        ("overlap", f"{collected.overlap:.0%}", "of the judgments hold a pair that somebody else judged too"),
        (
            "rank of the features",
            f"{collected.rank} of {collected.features}",
            "directions in which responses differ within a choice",
        ),
    ]
    if numbers is not None:
        checks += [
            (
                "information left",
                round(numbers.left, 4),
                "share, in the worst direction, that not seeing types leaves",
            ),
            (
                "smallest eigenvalue",
                float(f"{numbers.smallest:.3g}"),
                "of the observed information; above 0 is needed",
            ),
            (
                "condition",
                float(f"{numbers.condition:.3g}") if np.isfinite(numbers.condition) else None,
                "largest over smallest eigenvalue of the scaled information; empty where it has none above 0",
            ),
            (
                "confidence",
                f"{min(numbers.separation, 0.9999):.2%}",
                "or more, at which the two most alike types differ (Wald test)",
            ),
        ]
    names = {None: "as collected", 2: "pairs", 3: "rankings of three"}
    return {
        "verdict": verdict.verdict,
        "reason": verdict.reason,
        "mend": verdict.mend,
        "checks": [{"name": name, "value": value, "meaning": meaning} for name, value, meaning in checks],
        "posterior_entropy": None
        if len(model.mixture_weights_) == 1
        else histogram(posterior_entropy(model), limits=(0.0, float(np.log(len(model.mixture_weights_))))),
        "power": [
            {
                "design": names[point.length],
                "judgments": point.judgments,
                "accuracy": point.accuracy,
                "low": point.low,
                "high": point.high,
            }
            for point in found.power
        ],
    }


def warnings_of(found: Findings) -> list[str]:
    """What a reader must know before trusting the page."""
    people = found.people
    said = []
    without = sum(name is None for name in people.names)
    if without:
        said.append(f"{without} judgments have no annotator; each counts as a person of its own.")
    if people.left_out:
        said.append(
            f"{people.left_out} rows say nothing (a single response without a label, or no rank) and are left out."
        )
    if people.panel.features is None:
        said += _disconnected(people)
    one_sided = _one_sided(people)
    if one_sided and people.panel.features is None:
        said.append(
            f"{one_sided} responses won or lost every comparison: choices about them are separable, and only the "
            "prior keeps their worths finite."
        )
    if found.model.n_parameters_ > MOST_COVARIANCES:
        said.append(
            f"The model has {found.model.n_parameters_} parameters, more than {MOST_COVARIANCES}: no standard "
            "errors, and the verdict rests on the design alone. Text features (--features tfidf) have fewer."
        )
    return said


def _one_sided(people: People) -> int:
    """How many responses were preferred in all of their comparisons, or in none."""
    votes = votes_of(people)
    size = people.panel.response_count
    first, second = votes.first[votes.unit], votes.second[votes.unit]
    wins = np.bincount(first, votes.value <= 0, size) + np.bincount(second, votes.value >= 0, size)
    losses = np.bincount(first, votes.value >= 0, size) + np.bincount(second, votes.value <= 0, size)
    return int(((wins > 0) != (losses > 0))[~people.bars].sum())


def _disconnected(people: People) -> list[str]:
    """Prompts whose responses fall into parts that nobody compared."""
    label = comparison_components(votes_of(people), people.prompt)
    said = []
    for prompt in np.unique(people.prompt[label > 0]):
        inside = np.flatnonzero((people.prompt == prompt) & ~people.bars)
        parts, first, counts = np.unique(label[inside], return_index=True, return_counts=True)
        if len(parts) > 1:
            title = plain_text(people.items.prompts[prompt])[:80]
            examples = "; ".join(
                f"{count} like “{plain_text(people.items.responses[inside[one]])[:60]}”"
                for one, count in list(zip(first, counts, strict=True))[:4]
            )
            said.append(f"“{title}”: its responses fall into {len(parts)} parts that nobody compared: {examples}.")
    return said if len(said) <= 5 else [*said[:5], f"… and {len(said) - 5} more prompts in several parts."]

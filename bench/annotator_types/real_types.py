"""Annotator types in real data: Polis conversations, arguments judged by a crowd, ranked responses, travel modes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.metrics import adjusted_rand_score

from pluralign.choice.latent_class.identification import design, evidence, identification
from pluralign.choice.latent_class.panel import Panel
from pluralign.choice.latent_class.selection import Selection, select_types
from pluralign.choice.latent_class.starts import spectral_groups
from pluralign.judgments import Judgments
from pluralign.scoring.annotator_types import PRIOR, Findings, findings
from pluralign.workflows.audit.contents import agreement_of, groups_of

from ..common.data import POLIS_CONVERSATIONS, encoder, load, prolific_annotators, standardized
from ..common.options import parsed, parts
from ..common.results import Clock, store
from .panels import lccm, swissmetro


def summary(found: Findings) -> dict[str, Any]:
    """The result of an audit, with the held-out gain over one type and its 95 % interval."""
    return _curve(found.selection, found.people.panel) | {
        "responses": len(found.people.items.responses), "verdict": found.verdict.verdict,
        "heterogeneity": found.selection.heterogeneity,
    }  # fmt: skip


def _curve(selection: Selection, panel: Panel) -> dict[str, Any]:
    rows = zip(selection.types, selection.held_out, selection.gain, selection.gain_error, strict=True)
    curve = [
        {"types": int(number), "held_out": float(held_out), "gain": float(gain), "low": float(gain - 1.96 * error),
         "high": float(gain + 1.96 * error)}
        for number, held_out, gain, error in rows
    ]  # fmt: skip
    return {
        "judgments": panel.judgments,
        "annotators": panel.annotators,
        "types": int(selection.chosen),
        "curve": curve,
    }


def polis() -> dict[str, Any]:
    """Types of voters against the opinion groups that Polis computed from the same votes."""
    rows = {}
    for name in POLIS_CONVERSATIONS:
        judgments, _ = load(f"polis-{name}")
        clock = Clock()
        found = findings(judgments, features="worths", simulations=1)
        seconds = clock()
        people, model = found.people, found.model
        groups = groups_of(judgments, people)
        known = np.array([group is not None for group in groups])
        named = [group for group in groups if group is not None]
        count = len(set(named))
        same = findings(judgments, features="worths", types=count, simulations=0).model
        kmeans = spectral_groups(model.problem(people.panel), count, 0)
        rows[name] = summary(found) | {
            "seconds": seconds,
            "groups": count,
            "alpha": agreement_of(people, 0).krippendorff_alpha,
            "index": adjusted_rand_score(named, model.labels_[known]),
            "index_same": adjusted_rand_score(named, same.labels_[known]),
            "index_kmeans": adjusted_rand_score(named, kmeans[known]),
        }
        print(name, rows[name], flush=True)
    return rows


def by_features(judgments: Judgments) -> dict[str, Any]:
    """The same judgments with different features."""
    rows = {}
    for label, features in {"worths": "worths", "tfidf": "tfidf", "MiniLM": encoder()}.items():
        clock = Clock()
        found = findings(judgments, features=features, most_types=4, simulations=1)
        rows[label] = summary(found) | {"seconds": clock()}
        print(label, rows[label], flush=True)
    return rows


def travel() -> dict[str, Any]:
    """Travellers of two published panels, by standardised attributes of the modes and without covariates."""
    rows = {}
    for name, panel in {
        "Swissmetro": swissmetro(),
        "LCCM": replace(lccm()[0], covariates=None, available=None),
    }.items():
        values = np.asarray(panel.features)
        features = standardized(values[:, values.std(0) > 0])
        panel = replace(panel, features=features)
        clock = Clock()
        selection = select_types(panel, range(1, 7), ridge=features.shape[1] / PRIOR**2, restarts=6)
        seconds = clock()
        model = selection.model
        numbers = evidence(model, panel) if selection.chosen > 1 else None
        compared = max(2, int(selection.chosen))
        verdict = identification(
            design(panel), numbers, types=compared, gain=selection.gain_of(compared),
            heterogeneity=selection.heterogeneity, continuum=selection.continuum_gain(int(selection.chosen)),
        )  # fmt: skip
        rows[name] = _curve(selection, panel) | {
            "responses": panel.response_count, "verdict": verdict.verdict, "heterogeneity": selection.heterogeneity,
            "sentence": verdict.sentence, "seconds": seconds,
        }  # fmt: skip
        print(name, rows[name], flush=True)
    return rows


PARTS = {
    "polis": polis,
    "convarg": lambda: by_features(prolific_annotators(load("convarg")[0], 20)),
    "qa": lambda: by_features(load("qa-feedback")[0]),
    "travel": travel,
}


def main() -> None:
    for part in parsed(__doc__, only=parts(PARTS)).only:
        store(f"types_{part}", {"rows": PARTS[part]()})

"""Types of people in real data: Polis conversations, arguments judged by a crowd, ranked answers."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from common import POLIS_CONVERSATIONS, Clock, encoder, load, store
from sklearn.metrics import adjusted_rand_score

from pluralign.choice.latent_class.selection import Selection
from pluralign.choice.latent_class.starts import spectral_groups
from pluralign.judgments import Judgments
from pluralign.scoring.annotator_types import Findings, findings
from pluralign.workflows.audit.contents import agreement_of, groups_of

MOST = 6


def chosen(found: Findings) -> dict[str, Any]:
    """What an audit says of a data set."""
    selection = found.selection
    return {
        "judgments": found.people.panel.judgments,
        "annotators": found.people.panel.annotators,
        "responses": len(found.people.items.responses),
        "types": int(selection.chosen),
        "verdict": found.verdict.verdict,
        **curve(selection),
    }


def curve(selection: Selection) -> dict[str, Any]:
    """Held-out log-likelihood a judgment, and its gain over one type with a 95 % interval."""
    rows = zip(selection.types, selection.held_out, selection.gain, selection.gain_error, strict=True)
    return {
        "curve": [
            {
                "types": int(number),
                "held_out": float(held_out),
                "gain": float(gain),
                "low": float(gain - 1.96 * error),
                "high": float(gain + 1.96 * error),
            }
            for number, held_out, gain, error in rows
        ]
    }


def polis() -> dict[str, Any]:
    """Types of voters against the opinion groups that Polis found in the same votes."""
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
        rows[name] = chosen(found) | {
            "seconds": seconds,
            "groups": count,
            "alpha": agreement_of(people, 0).krippendorff_alpha,
            "index": adjusted_rand_score(named, model.labels_[known]),
            "index_same": adjusted_rand_score(named, same.labels_[known]),
            "index_kmeans": adjusted_rand_score(named, kmeans[known]),
        }
        print(name, rows[name], flush=True)
    return rows


def of_busy_annotators(judgments: Judgments, least: int) -> Judgments:
    """The judgments of annotators with so many of them."""
    names = judgments.column("annotator")
    values, counts = np.unique([str(name) for name in names], return_counts=True)
    busy = set(values[counts >= least].tolist())
    return judgments.select([row for row, name in enumerate(names) if name in busy])


def features(judgments: Judgments, most: int) -> dict[str, Any]:
    """The same judgments with different features."""
    rows = {}
    for name in ("worths", "tfidf", encoder()):
        clock = Clock()
        found = findings(judgments, features=str(name), most_types=most, simulations=1)
        label = name if name in ("worths", "tfidf") else "MiniLM"
        rows[label] = chosen(found) | {"seconds": clock()}
        print(label, rows[label], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", default=["polis", "convarg", "qa"], choices=["polis", "convarg", "qa"])
    only = parser.parse_args().only
    if "polis" in only:
        store("types_polis", {"rows": polis()})
    if "convarg" in only:
        store("types_convarg", {"rows": features(of_busy_annotators(load("convarg")[0], 20), 4)})
    if "qa" in only:
        store("types_qa", {"rows": features(load("qa-feedback")[0], 4)})


if __name__ == "__main__":
    main()

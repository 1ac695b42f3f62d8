"""What a run of EM-DPO found, round by round: the verdict, the shares of the types, the likelihood of judgments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pluralign.reports.page import Banner, Block, Figure, Figures, Section, Table, Tone
from pluralign.reports.rows import stacked
from pluralign.reports.texts import number, percent, text_of

SHAPE: dict[str, Any] = {
    "identification": dict.fromkeys(("verdict", "reason", "mend"), "text"),
    "rounds": [
        {
            **dict.fromkeys(
                (
                    "round",
                    "log_likelihood",
                    "log_likelihood_per_judgment",
                    "reference_log_likelihood",
                    "scored_judgments",
                    "moved",
                ),
                "number",
            ),
            "mixture_weights": ["number"],
        }
    ],
}
"""Blocks of `types.json`."""

_TONES: dict[str, Tone] = {"identified": "good", "weak": "careful", "not identified": "bad"}


def rounds_section(story: Mapping[str, Any]) -> Section | None:
    """The section of a run's types, from a `types.json` that was checked against `SHAPE`; none if it is empty."""
    blocks: list[Block] = []
    verdict = story["identification"]
    if verdict is not None and verdict["verdict"] is not None:
        words = [text_of(verdict[key]) for key in ("reason", "mend") if verdict[key]]
        name = text_of(verdict["verdict"])
        blocks.append(Banner(_TONES.get(name, "plain"), "Can the data show types?", name, words))
    rounds = [one for one in story["rounds"] if one["mixture_weights"]]
    if rounds:
        types = max(len(one["mixture_weights"]) for one in rounds)
        names = ["start" if one["round"] == 0 else f"round {number(one['round'])}" for one in rounds]
        rows = [
            (name, [*one["mixture_weights"], *[0.0] * types][:types]) for name, one in zip(names, rounds, strict=True)
        ]
        drawn = stacked(rows, "Shares of the types after each round.", notes=[""] * len(rows))
        legend = [(place + 1, f"type {place + 1}") for place in range(types)]
        blocks.append(Figures([Figure("Shares of the types", drawn, "The start, and after each E-step.", legend)]))
        head = ["", "judgments scored", "log-likelihood of one", "under the reference", "annotators moved"]
        blocks.append(Table("Round by round", head, [[n, *_cells(one)] for n, one in zip(names, rounds, strict=True)]))
    lead = "Types of annotators, found while a policy for each was tuned. Log-likelihoods are in nats per judgment."
    return Section("Types", blocks, lead) if blocks else None


def _cells(one: Mapping[str, Any]) -> list[Any]:
    scored, reference = one["scored_judgments"], one["reference_log_likelihood"]
    each = None if not scored or reference is None else reference / scored
    moved = "" if one["moved"] is None else percent(one["moved"])
    return [scored, one["log_likelihood_per_judgment"], each, moved]

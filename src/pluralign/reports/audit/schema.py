"""The shape of `audit.json`: what a page relies on, checked once, with what is missing filled in."""

from __future__ import annotations

import math
from typing import Any

from pluralign.core.errors import PluralignError, one_line

_HISTOGRAM = {"edges": ["number"], "counts": ["number"]}
_DIFFERENCE = [{"prompt": "any", "response": "any", "difference": "number"}]
_INTERVAL = {"low": "number", "high": "number"}

SHAPE: dict[str, Any] = {
    "data": {
        "files": ["text"],
        **dict.fromkeys(("judgments", "annotators", "prompts", "unique_responses", "left_out"), "number"),
        "kinds": {"*": "number"},
        "judgments_per_annotator": _HISTOGRAM,
        "ranking_lengths": {"*": "number"},
        "sources": {"*": "number"},
        "groups": {"*": "number"},
    },
    "warnings": ["text"],
    "agreement": {
        **dict.fromkeys(("krippendorff_alpha", "alpha_low", "alpha_high", "units"), "number"),
        "level": "text",
        "annotator_agreement": _HISTOGRAM,
        "intransitive_triples": {"share": "number", "triples": "number"},
        "condorcet_cycles": dict.fromkeys(("prompts", "cyclic", "without_winner"), "number"),
        "majority_margins": {**_HISTOGRAM, "unanimous": "number"},
    },
    "identification": {
        **dict.fromkeys(("verdict", "reason", "mend"), "text"),
        "checks": [{"name": "text", "value": "any", "meaning": "text"}],
        "posterior_entropy": _HISTOGRAM,
        "power": [{"design": "text", "judgments": "number", "accuracy": "number", **_INTERVAL}],
    },
    "selection": [{"types": "number", "held_out": "number", **_INTERVAL, "bic": "number"}],
    "types": [
        {
            "type": "number",
            "name": "text",
            "share": "number",
            **_INTERVAL,
            "annotators": "number",
            "certain": "number",
            "members": [{"annotator": "any", "probability": "number"}],
            "worths": [{"prompt": "any", "response": "any", "worth": "number", **_INTERVAL}],
            "lifts": _DIFFERENCE,
            "drops": _DIFFERENCE,
            "traits": [{"trait": "text", "value": "number", **_INTERVAL}],
        }
    ],
    "groups": [{"group": "any", "annotators": "number", "shares": ["number"]}],
    "groups_adjusted_rand": "number",
    "map": {"x": ["number"], "y": ["number"], "type": ["number"]},
}
"""Blocks of `audit.json`. `any` is text or another value of the data; `*` stands for every key."""


def filled(value: Any, shape: Any = SHAPE, place: str = "audit.json") -> Any:
    """The value with every key of its shape: what is missing or null becomes None, lists become empty.

    A list of numbers keeps its nulls, since their places mean something; other lists drop them.

    Args:
        value: what was read.
        shape: what is expected.
        place: how to name it in an error.

    Raises:
        PluralignError: a value is of another kind than expected, or a histogram's edges do not fit its counts.

    Examples:
        >>> filled({"data": {"judgments": 3}})["data"]["judgments"]
        3
        >>> filled({})["types"], filled({})["data"]
        ([], None)
        >>> filled({"selection": [{"types": "two"}]})
        Traceback (most recent call last):
        pluralign.core.errors.PluralignError: audit.json, selection[0].types: found 'two', expected a number or null
    """
    if isinstance(shape, str):
        return _scalar(value, shape, place)
    if isinstance(shape, list):
        if value is None:
            return []
        if not isinstance(value, list):
            raise _complain(place, value, "a list or null")
        items = [filled(one, shape[0], f"{place}[{index}]") for index, one in enumerate(value)]
        return items if shape[0] == "number" else [one for one in items if one is not None]
    if value is None and shape is not SHAPE:
        return None
    if not isinstance(value, dict):
        raise _complain(place, value, "an object")
    if "*" in shape:
        return {str(key): filled(one, shape["*"], _join(place, key)) for key, one in value.items()}
    found = {key: filled(value.get(key), of, _join(place, key)) for key, of in shape.items()}
    if "edges" in found and len(found["edges"]) != len(found["counts"]) + 1:
        if not found["counts"]:
            return None
        raise PluralignError(
            f"{place}: found {len(found['edges'])} edges for {len(found['counts'])} counts, expected one edge more"
        )
    return found


def _scalar(value: Any, kind: str, place: str) -> Any:
    if kind == "any" or value is None:
        return value
    if kind == "text":
        if isinstance(value, str):
            return value
        raise _complain(place, value, "text or null")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _complain(place, value, "a number or null")
    return value if math.isfinite(value) else None


def _join(place: str, key: object) -> str:
    return f"{place}, {key}" if place.endswith(".json") else f"{place}.{key}"


def _complain(place: str, value: object, expected: str) -> PluralignError:
    return PluralignError(f"{place}: found {one_line(value, 60)}, expected {expected}")

"""An evaluation or an audit in a few sentences and numbers; all metrics stand in `metrics.json`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pluralign.scoring.crowd_predictions import verdicts

MOST = 5
"""Numbers of a headline."""

MISCALIBRATED = 0.05
"""Above this p-value no miscalibration was detected."""

MORE_PERPLEXING, FEWER_PAIRS, OTHER_LENGTH = 1.5, 0.5, 2.0
"""Responses raise an alarm above this multiple of the reference's perplexity, below this share of its different pairs
of tokens, and above this multiple of its length or below the inverse."""

NUMBERS = {
    "accuracy": "accuracy on pairs",
    "win_rate": "win rate against the reference",
    "said_wanted_tv": "distance between what is said and chosen",
    "transport_cost": "transport cost to the votes",
    "total_variation": "total variation from the votes",
    "expected_reward_error": "error of the expected reward",
    "log_loss": "log-loss, in nats",
    "vote_log_loss": "log-loss of a vote, in nats",
    "ece_smooth": "calibration error",
    "mixture_log_loss": "log-loss of the mixture, in nats",
}
"""The metrics that a headline may have, the most telling first, with their names."""


def headline(metrics: Mapping[str, Any]) -> list[str]:
    """Sentences, then lines with a number each and its 95 % interval.

    Args:
        metrics: flat, as in `metrics.json` of `evaluate` and `train`.

    Examples:
        >>> metrics = {"accuracy": 0.7, "accuracy_low": 0.6, "accuracy_high": 0.8, "ece_p_value": 0.4, "log_loss": 0.6}
        >>> for line in headline(metrics | {"accuracy/group=old": 0.4, "accuracy/group=young": 0.9}):
        ...     print(line)
        The model agrees with people on 70% [60%, 80%] of pairs. No miscalibration was detected (p = 0.40).
        It serves the group 'old' worst: it agrees with them on 40% of pairs.
        accuracy on pairs                           0.700 [0.600, 0.800]
        log-loss, in nats                           0.600
        accuracy, worst group (old)                 0.400
    """
    told = [sentence for sentence in (_agreement(metrics), _wins(metrics), *_alarms(metrics)) if sentence]
    worst = _worst(metrics)
    if worst is not None and worst[2] <= 0.5:
        told.append(f"It serves the {worst[0]} '{worst[1]}' worst: it agrees with them on {worst[2]:.0%} of pairs.")
    told += [line[0].upper() + line[1:] + "." for line in verdicts(metrics)]
    rows = [(name, _with_interval(metrics, key, ".3f")) for key, name in NUMBERS.items() if key in metrics]
    rows = rows[: MOST - (worst is not None)]
    if worst is not None:
        rows.append((f"accuracy, worst {worst[0]} ({worst[1]})", f"{worst[2]:.3f}"))
    return told + [f"{name:<44}{value}" for name, value in rows]


def audit_headline(metrics: Mapping[str, Any]) -> list[str]:
    """The answer of an audit, then a few lines with what it rests on.

    Examples:
        >>> metrics = {"sentence": "No types.", "judgments": 1200, "annotators": 90, "unique_responses": 1, "types": 1}
        >>> for line in audit_headline(metrics | {"features": "tfidf", "krippendorff_alpha": 0.0581}):
        ...     print(line)
        No types.
        1,200 judgments by 90 annotators on 1 response; features: tfidf
        agreement (Krippendorff's alpha)            0.058
    """
    judgments, annotators, responses = (
        f"{metrics[key]:,} {noun}{'' if metrics[key] == 1 else 's'}"
        for key, noun in (("judgments", "judgment"), ("annotators", "annotator"), ("unique_responses", "response"))
    )
    told = f"{judgments} by {annotators} on {responses}"
    if metrics.get("left_out"):
        told += f" ({metrics['left_out']:,} that compare nothing are left out)"
    rows = []
    shares = [value for key, value in metrics.items() if key.startswith("share/type=")]
    if len(shares) > 1:
        rows.append(("shares of the types", " ".join(f"{share:.2f}" for share in shares)))
    if "groups_adjusted_rand" in metrics:
        rows.append(("types and known groups (adjusted Rand)", f"{metrics['groups_adjusted_rand']:.2f}"))
    if "krippendorff_alpha" in metrics:
        rows.append(("agreement (Krippendorff's alpha)", _with_interval(metrics, "krippendorff_alpha", ".3f")))
    lines = [f"{name:<44}{value}" for name, value in rows]
    return [metrics["sentence"], f"{told}; features: {metrics['features']}", *lines]


def _agreement(metrics: Mapping[str, Any]) -> str | None:
    """How often the model agrees with people, whether chance explains that, and its calibration."""
    if "accuracy" not in metrics:
        return None
    low, high = (metrics.get(f"accuracy_{end}") for end in ("low", "high"))
    told = f"The model agrees with people on {_with_interval(metrics, 'accuracy', '.0%')} of pairs"
    if low is not None and high is not None:
        told += ", worse than chance" if high < 0.5 else ", which chance may explain" if low <= 0.5 else ""
    p_value = metrics.get("ece_p_value")
    if p_value is None:
        return told + "."
    seen = "No miscalibration was detected" if p_value > MISCALIBRATED else "Its probabilities are miscalibrated"
    return f"{told}. {seen} ({'p < 0.01' if p_value < 0.01 else f'p = {p_value:.2f}'})."


def _wins(metrics: Mapping[str, Any]) -> str | None:
    """How often the reward model prefers the policy's responses."""
    if "win_rate" not in metrics:
        return None
    return f"The reward model prefers its responses to the reference's in {_with_interval(metrics, 'win_rate', '.0%')}."


def _alarms(metrics: Mapping[str, Any]) -> list[str]:
    """What is suspicious in a policy's responses beside its reference's.

    Examples:
        >>> _alarms({"reference_perplexity": 30.0, "reference_perplexity/reference": 10.0, "distinct_2": 0.1})
        ['Alarm: its responses may be gibberish: perplexity under the reference 30.0, of the reference itself 10.0.']
        >>> _alarms({"mean_length/policy": 63.0, "mean_length/reference": 17.5})
        ['Alarm: its responses have another length: 63.0 tokens, those of the reference 17.5.']
    """

    def both(key: str, ending: str = "") -> tuple[float, float] | None:
        own, reference = metrics.get(f"{key}{ending}"), metrics.get(f"{key}/reference")
        return None if own is None or not reference else (own, reference)

    told = []
    if (found := both("reference_perplexity")) and found[0] > MORE_PERPLEXING * found[1]:
        told.append(
            f"its responses may be gibberish: perplexity under the reference {found[0]:.1f}, of the reference itself "
            f"{found[1]:.1f}"
        )
    if (found := both("distinct_2")) and found[0] < FEWER_PAIRS * found[1]:
        told.append(
            f"its responses repeat themselves: {found[0]:.2f} of their pairs of tokens are different, "
            f"of the reference's {found[1]:.2f}"
        )
    if (found := both("mean_length", "/policy")) and not 1 / OTHER_LENGTH <= found[0] / found[1] <= OTHER_LENGTH:
        told.append(f"its responses have another length: {found[0]:.1f} tokens, those of the reference {found[1]:.1f}")
    return [f"Alarm: {sentence}." for sentence in told]


def _worst(metrics: Mapping[str, Any]) -> tuple[str, str, float] | None:
    """The kind and the name of the slice with the lowest accuracy: a group, else a source."""
    for kind in ("group", "source"):
        found = {
            match[1]: value
            for key, value in metrics.items()
            if (match := re.fullmatch(rf"accuracy/{kind}=([^/]*)", key)) and not key.endswith(("_low", "_high"))
        }
        if len(found) > 1:
            name = min(found, key=lambda each: found[each])
            return kind, name, found[name]
    return None


def _with_interval(metrics: Mapping[str, Any], key: str, spec: str) -> str:
    """A metric and its interval, if it has one."""
    value, low, high = (metrics.get(name) for name in (key, f"{key}_low", f"{key}_high"))
    shown = f"{value:{spec}}"
    return shown if low is None or high is None else f"{shown} [{low:{spec}}, {high:{spec}}]"

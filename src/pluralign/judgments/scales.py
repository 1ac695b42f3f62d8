"""Label scales: ordered labels, each with a reward."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pluralign.core.errors import PluralignError, nearest, one_line
from pluralign.core.numbers import finite_float, whole_text
from pluralign.core.yaml_lines import Value, read_yaml_lines


@dataclass(frozen=True)
class LabelScale:
    """Ordered labels with a reward per label.

    Args:
        name: the name of the scale.
        labels: the labels, in order; at least two, all different.
        rewards: one finite number per label.

    Raises:
        PluralignError: fewer than two labels, a repeated label, or rewards that do not fit.

    Examples:
        >>> scale = LabelScale("mood", ("good", "bad"), (1.0, -1.0))
        >>> scale.reward("bad")
        -1.0
    """

    name: str
    labels: tuple[str, ...]
    rewards: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise PluralignError(f"label scale '{self.name}': expected two or more different labels")
        if len(self.rewards) != len(self.labels) or not all(math.isfinite(r) for r in self.rewards):
            raise PluralignError(
                f"label scale '{self.name}': expected {len(self.labels)} finite rewards, one per label, "
                f"found {list(self.rewards)}"
            )

    @cached_property
    def _reward_of(self) -> dict[str, float]:
        return dict(zip(self.labels, self.rewards, strict=True))

    def find(self, value: object) -> str | None:
        """The label that `value` denotes (numbers and booleans as digits), or `None`.

        Examples:
            >>> BUILT_IN_SCALES["1-to-5"].find(3.0), BUILT_IN_SCALES["binary"].find(True)
            ('3', '1')
            >>> BUILT_IN_SCALES["1-to-5"].find("3.0")
            '3'
        """
        if isinstance(value, bool):
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        text = str(value).strip()
        return next((form for form in (text, whole_text(text)) if form in self._reward_of), None)

    def reward(self, label: str) -> float:
        """The reward of a label."""
        return self._reward_of[label]

    def same_labels(self, other: LabelScale) -> bool:
        """Whether another scale has the same labels with the same rewards, under any name."""
        return (self.labels, self.rewards) == (other.labels, other.rewards)

    def as_dict(self) -> dict[str, Any]:
        """The scale as plain values, for the metadata of a file."""
        return {"name": self.name, "labels": list(self.labels), "rewards": list(self.rewards)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], place: str = "label scale") -> LabelScale:
        """Build a scale from `{name, labels, rewards}`, or from `{name, labels: {label: reward, ...}}`.

        Raises:
            PluralignError: a key is missing, unknown, or has the wrong type; `place` says where.
        """
        unknown = set(value) - {"name", "labels", "rewards"}
        if unknown:
            key = sorted(map(str, unknown))[0]
            raise PluralignError(f"{place}: unknown key '{key}'{nearest(key, ('name', 'labels', 'rewards'))}")
        labels: Any = value.get("labels")
        rewards: Any = value.get("rewards")
        if isinstance(labels, Mapping) and rewards is None:
            labels, rewards = list(labels), list(labels.values())
        if not isinstance(labels, Sequence) or isinstance(labels, str):
            raise PluralignError(f"{place}: 'labels' must be a list of labels, found {one_line(labels)}")
        if not isinstance(rewards, Sequence) or not all(
            isinstance(reward, int | float) and not isinstance(reward, bool) for reward in rewards
        ):
            raise PluralignError(f"{place}: 'rewards' must be a list of numbers, found {one_line(rewards)}")
        numbers = [finite_float(reward) for reward in rewards]
        if any(label is None for label in labels):
            raise PluralignError(f"{place}: 'labels' has an empty label: give every label a name")
        name = value.get("name")
        return cls(
            "own" if name is None else str(name),
            tuple(map(str, labels)),
            tuple(math.nan if number is None else number for number in numbers),
        )


BUILT_IN_SCALES: dict[str, LabelScale] = {
    scale.name: scale
    for scale in (
        # The six labels and rewards of DPRM (arXiv 2402.09764).
        LabelScale(
            "hh-6",
            (
                "helpful+harmless",
                "neutral+harmless",
                "unhelpful+harmless",
                "helpful+harmful",
                "neutral+harmful",
                "unhelpful+harmful",
            ),
            (1.0, 0.5, -1.0, -1.0, -1.5, -3.0),
        ),
        LabelScale("agree-pass-disagree", ("agree", "pass", "disagree"), (1.0, 0.0, -1.0)),
        LabelScale("1-to-5", ("1", "2", "3", "4", "5"), (1.0, 2.0, 3.0, 4.0, 5.0)),
        LabelScale("binary", ("0", "1"), (0.0, 1.0)),
    )
}
"""The built-in label scales, by name."""


def label_scale(given: str | os.PathLike[str] | Mapping[str, Any] | LabelScale) -> LabelScale:
    """A scale from its built-in name, a YAML file, or plain values.

    Raises:
        PluralignError: there is no such name or file, or the file does not hold a scale.

    Examples:
        >>> label_scale("binary").labels
        ('0', '1')
    """
    if isinstance(given, LabelScale):
        return given
    if isinstance(given, Mapping):
        return LabelScale.from_dict(given)
    if str(given) in BUILT_IN_SCALES:
        return BUILT_IN_SCALES[str(given)]
    path = Path(given)
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise PluralignError(
            f"label scale '{given}' is neither built in ({', '.join(BUILT_IN_SCALES)}) nor a .yaml file"
            f"{nearest(str(given), BUILT_IN_SCALES)}"
        )
    return scale_of_yaml(read_yaml_lines(path))


def scale_of_yaml(value: Value) -> LabelScale:
    """A scale from a value of a YAML file, with the labels as they are written there.

    Raises:
        PluralignError: the value is not a scale; names the line.

    Examples:
        >>> from pluralign.core.yaml_lines import parse_yaml
        >>> scale_of_yaml(parse_yaml("labels: {yes: 1, 010: 0, 1:30: -1}", "example")).labels
        ('yes', '010', '1:30')
    """
    if not isinstance(value.content, dict):
        raise value.complain("expected the keys name, labels and rewards")
    given = {key: inner.plain() for key, inner in value.content.items()}
    labels = value.content.get("labels")
    if labels is not None and isinstance(labels.content, dict):
        start = len(labels.key) + 1  # keys are dotted: labels.LABEL
        given["labels"] = {inner.key[start:]: inner.plain() for inner in labels.content.values()}
    elif labels is not None and isinstance(labels.content, list):
        given["labels"] = [inner.written or inner.plain() for inner in labels.content]
    return LabelScale.from_dict(given, value.place)

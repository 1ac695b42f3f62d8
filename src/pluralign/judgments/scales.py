"""Label scales: ordered labels, each with a reward."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from pluralign.core.errors import PluralignError, nearest, one_line
from pluralign.core.files import disk_errors


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
        """
        if isinstance(value, bool):
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        text = str(value).strip()
        return text if text in self._reward_of else None

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
            isinstance(r, int | float) and not isinstance(r, bool) for r in rewards
        ):
            raise PluralignError(f"{place}: 'rewards' must be a list of numbers, found {one_line(rewards)}")
        name = str(value.get("name", "own"))
        return cls(name, tuple(str(label) for label in labels), tuple(float(r) for r in rewards))


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
    with disk_errors(path):
        text = path.read_text(encoding="utf-8")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as fault:
        raise PluralignError(f"{path}: not valid YAML: {' '.join(str(fault).split())}") from fault
    if not isinstance(value, Mapping):
        raise PluralignError(f"{path}: expected the keys name, labels and rewards")
    return LabelScale.from_dict(value, str(path))

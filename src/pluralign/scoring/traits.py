"""Simple traits of texts that a reader can check."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

_WORD = re.compile(r"\w+")

TRAITS: dict[str, Callable[[str], float]] = {
    "length (log words)": lambda text: float(np.log1p(len(_WORD.findall(text)))),
    "long words": lambda text: float(np.mean([float(len(word) > 6) for word in _WORD.findall(text)] or [0.0])),
    "digits": lambda text: float(any(sign.isdigit() for sign in text)),
    "questions": lambda text: float(np.log1p(text.count("?"))),
    "exclamations": lambda text: float(np.log1p(text.count("!"))),
    "lists and line breaks": lambda text: float(np.log1p(text.strip().count("\n"))),
    "first person": lambda text: float(bool(re.search(r"\b(I|I'm|I've|me|my|we|our|us)\b", text))),
}
"""Trait name to the function that measures it."""


def text_traits(texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Names of the traits that vary over texts, and their values `(texts, traits)`, in standard deviations.

    Examples:
        >>> names, values = text_traits(["No.", "Yes, of course!"])
        >>> names, values[:, 0].round(6).tolist()
        (['length (log words)', 'exclamations'], [-1.0, 1.0])
    """
    measured = np.array([[trait(text) for trait in TRAITS.values()] for text in texts])
    spread = measured.std(0)
    varies = spread > 1e-9
    values = (measured[:, varies] - measured[:, varies].mean(0)) / spread[varies]
    return [name for name, kept in zip(TRAITS, varies, strict=True) if kept], values

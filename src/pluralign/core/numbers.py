"""Numbers from cells and files: exact where they are whole, and finite."""

from __future__ import annotations

import math
import re
from decimal import Decimal

_WHOLE = re.compile(r"\s*([-+]?[0-9]+)(?:\.0*)?\s*")
_MOST_DIGITS = 4000
"""Digits of a whole number in text; Python itself refuses to read numbers of more than 4300."""


def exact_number(value: object) -> int | float | None:
    """The finite number that a value denotes, whole numbers exactly; `None` for anything else.

    Numbers, decimals and text count; truth values, NaN and infinities do not.

    Examples:
        >>> exact_number("9007199254740993"), exact_number(" 1.0 "), exact_number("1e-3"), exact_number(True)
        (9007199254740993, 1, 0.001, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str):
        whole = _WHOLE.fullmatch(value)
        if whole is not None and len(whole[1]) <= _MOST_DIGITS:
            return int(whole[1])
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(number):
        return None
    if isinstance(value, Decimal) and value == value.to_integral_value():
        return int(value)
    return number


def finite_float(value: object) -> float | None:
    """`exact_number` as a float; `None` also for whole numbers that are too large for one.

    Examples:
        >>> finite_float("2"), finite_float(10**400)
        (2.0, None)
    """
    number = exact_number(value)
    try:
        return None if number is None else float(number)
    except OverflowError:
        return None


def whole_text(text: str) -> str:
    """Text without the zeros after the point of a whole number, which other programs add; any other text as it is.

    Examples:
        >>> whole_text("7.0"), whole_text("7.5"), whole_text("007")
        ('7', '7.5', '007')
    """
    found = re.fullmatch(r"([-+]?[0-9]+)\.0+", text)
    return found[1] if found else text

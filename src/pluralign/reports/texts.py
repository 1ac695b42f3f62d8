"""Texts and numbers as a page shows them."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from typing import Any

from pluralign.judgments.messages import calls_of

_NOT_SHOWABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_DIRECTIONS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """The text without characters that HTML and XML forbid: each becomes U+FFFD.

    Examples:
        >>> clean("a\\x00b")
        'a\ufffdb'
    """
    return _NOT_SHOWABLE.sub("\ufffd", text)


def one_line(text: str) -> str:
    """The text in one line, without marks that change the reading direction of what follows.

    Examples:
        >>> one_line("first\\n second\\u202e")
        'first second'
    """
    return " ".join(_DIRECTIONS.sub("", clean(text)).split())


def clip(text: str, columns: int) -> str:
    """One line of at most `columns` columns, which approximate the letter widths of a proportional font.

    Examples:
        >>> clip("a long name", 6), clip("意见不同", 5), clip("short", 6)
        ('a lon…', '意见…', 'short')
    """
    text = one_line(text)
    width, fitting = 0.0, 0
    for place, letter in enumerate(text):
        width += _columns(letter)
        if width > columns:
            return text[:fitting].rstrip() + "…"
        if width <= columns - 1:
            fitting = place + 1
    return text


def _columns(letter: str) -> float:
    if unicodedata.category(letter) in ("Mn", "Me", "Cf"):
        return 0.0
    if unicodedata.east_asian_width(letter) in "WF":
        return 2.0
    if letter in "MWmw@%—":
        return 1.7
    return 1.25 if letter.isupper() else 1.0


def quoted(text: object, columns: int = 40) -> str:
    """A text of the data for use inside a sentence: clipped, in quotes, with its reading direction isolated.

    Examples:
        >>> quoted("nurses").replace("\\u2068", "").replace("\\u2069", "")
        '“nurses”'
    """
    return f"“\u2068{clip(text_of(text), columns)}\u2069”"


def text_of(value: object) -> str:
    """Any value of the data as text; chat messages one per line, each with its role.

    Examples:
        >>> text_of([{"role": "user", "content": "Tea?"}])
        'user: Tea?'
        >>> text_of(None), text_of(2.5), text_of({"a": 1})
        ('', '2.5', '{"a": 1}')
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list) and value and all(isinstance(item, dict) and "content" in item for item in value):
        return "\n".join(map(_message_line, value))
    if isinstance(value, (dict, list, bool)):
        return clean(json.dumps(value, ensure_ascii=False))
    return clean(str(value))


def _message_line(message: dict[str, Any]) -> str:
    parts = [text_of(message["content"]), *map(clean, calls_of(message))]
    return f"{text_of(message.get('role'))}: " + "\n".join(filter(None, parts))


def number(value: float | None) -> str:
    """A number with three significant digits and thousands separators; a dash for None.

    Examples:
        >>> number(12345), number(0.71234), number(-0.5), number(1234.5), number(None)
        ('12,345', '0.712', '\u22120.5', '1,234', '\u2013')
    """
    if value is None or not math.isfinite(value):
        return "\u2013"
    if isinstance(value, int) or abs(value) >= 1000:
        shown = f"{value:,.0f}"
    elif value and abs(value) < 1e-4:
        shown = f"{value:.1e}"
    else:
        shown = f"{value:.3g}"
    return shown.replace("-", "\u2212")


def percent(value: float | None) -> str:
    """A share in percent.

    Examples:
        >>> percent(0.304), percent(0.023), percent(0.004), percent(0), percent(0.999), percent(None)
        ('30\xa0%', '2.3\xa0%', '<1\xa0%', '0\xa0%', '>99\xa0%', '\u2013')
    """
    if value is None or not math.isfinite(value):
        return "\u2013"
    if 0 < value < 0.005:
        return "<1\xa0%"
    if 0.995 <= value < 1:
        return ">99\xa0%"
    return f"{100 * value:{'.2g' if 0 < value < 0.0995 else '.0f'}}\xa0%"


def interval(value: float | None, low: float | None, high: float | None) -> str:
    """A value with its interval if it has one; no line break falls inside the interval.

    Examples:
        >>> interval(0.7, 0.65, 0.75), interval(0.7, None, None)
        ('0.7 (0.65\xa0to\xa00.75)', '0.7')
    """
    if low is None or high is None or value is None:
        return number(value)
    return f"{number(value)} ({number(low)}\xa0to\xa0{number(high)})"


def plural(count: int, noun: str) -> str:
    """A count with its noun.

    Examples:
        >>> plural(1, "prompt"), plural(1200, "prompt")
        ('1 prompt', '1,200 prompts')
    """
    return f"{number(count)} {noun}{'' if count == 1 else 's'}"


def known(*values: float | None) -> list[float]:
    """The values that are finite numbers.

    Examples:
        >>> known(1, None, float("nan"), 0.5)
        [1, 0.5]
    """
    return [value for value in values if value is not None and math.isfinite(value)]

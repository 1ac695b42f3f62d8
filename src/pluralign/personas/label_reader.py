"""Read the label that a free-text answer gives, or the reason why it gives none; labels are never guessed."""

from __future__ import annotations

import bisect
import json
import re
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal

from pluralign.core.errors import PluralignError
from pluralign.judgments.scales import LabelScale

Reason = Literal["refusal", "unparsable", "empty"]

MAX_CHARACTERS = 20_000
"""Longer answers are not searched."""

REFUSALS = (
    "i'm sorry", "i am sorry", "sorry,", "sorry but", "i apologize", "i apologise", "i can't", "i cannot",
    "i can not", "i won't", "i will not", "i'm unable", "i am unable", "i'm not able", "i am not able",
    "i must decline", "i decline", "i have to decline", "i refuse", "i'd rather not", "i would rather not",
    "as an ai", "as a language model", "as a large language model", "i'm an ai", "i am an ai",
    "unfortunately, i can", "unfortunately, i'm", "unfortunately, i am",
)  # fmt: skip
"""How refusals begin, ignoring case, quotes and emphasis."""

_DECORATION = " \t\"'`*~#>\u201c\u201d\u2018\u00ab\u00bb\u2022[](){}<.,;:!-"
_LEAD = r"(?:(?:my|the|final|chosen)\s+)*(?:label|answer|vote|choice|verdict|rating)\b\s*(?:number\b|is\b|[:=#])*\s*"
_LONGEST_LEAD = 200  # characters in a line without its label; a longer line is a sentence
# A label that is part of something longer (non-agree, 3.5, 5%, agree/disagree) does not count.
_BEFORE, _AFTER = r"(?<![\w+\-/&])(?<!\w[.,'])", r"(?![\w+\-/&%]|[.,']\w)"
_QUOTES = {('"', '"'), ("'", "'"), ("`", "`"), ("*", "*"), ("[", "]"), ("\u201c", "\u201d"), ("\u00ab", "\u00bb")}
_NUMBER = r"(?<![\w+\-./,])(?P<number>[0-9]{1,4})(?![\w+%/])"
# A sentence with one of these may name a label that the answer does not give.
_DOUBT = re.compile(
    r"\b(?:not|no|never|neither|nor|none|cannot|\w+n't|hardly|barely|without|unlike|except|than|instead|if|unless|"
    r"wrong|incorrect|almost|nearly|between|either|or|could|might|may|would have)\b|\?",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?;](?=\s|$)|\n")


@dataclass(frozen=True)
class Reading:
    """What an answer says."""

    label: str | None  # the label that it gives, or `None`
    reason: Reason | None = None  # `refusal`, `unparsable` or `empty` if there is no label
    detail: str = ""  # an explanation of the reason


class LabelReader:
    """Reads answers on one label scale.

    An answer gives a label if exactly one is stated: in a JSON object with the key `label`, on a line of its own
    (as the label, its number counted from 1, or both, with or without `label:` or `answer:` before it), or, without
    such a statement, inside a sentence. Inside a sentence, a label counts only if the sentence has no word that may
    change its meaning (not, if, could ...), and if the label differs from ordinary words: it contains a character
    like `+`, or is in quotes or emphasized. An answer with two different labels gives none. Numbers of labels are
    not used on scales whose labels are numbers.

    Args:
        scale: the labels.

    Raises:
        PluralignError: a label is empty.

    Examples:
        >>> from pluralign.judgments.scales import BUILT_IN_SCALES
        >>> reader = LabelReader(BUILT_IN_SCALES["hh-6"])
        >>> reader.read('{"label": "Neutral+harmless"}').label, reader.read("**Label:** 2").label
        ('neutral+harmless', 'neutral+harmless')
        >>> reader.read("It is not helpful+harmless.")
        Reading(label=None, reason='unparsable', detail="a label in a sentence with 'not'")
        >>> reader.read("I'm sorry, but I cannot judge this.").reason
        'refusal'
    """

    def __init__(self, scale: LabelScale) -> None:
        self.labels = scale.labels
        shown = [_plain(label) for label in scale.labels]
        if not all(text.strip() for text in shown):
            raise PluralignError(f"label scale '{scale.name}': has an empty label, which no answer can state")
        folded = {text.casefold() for text in shown}
        flags = re.IGNORECASE if len(folded) == len(shown) else re.NOFLAG
        loose = [_pattern(text) for text in shown]
        patterns = loose if len(set(loose)) == len(loose) else [re.escape(text) for text in shown]
        # The longest first, so that no label is matched inside another.
        order = sorted(range(len(shown)), key=lambda place: -len(shown[place]))

        def any_label(name: str) -> str:
            parts = (f"(?P<{name}{place}>{patterns[place]})" for place in order)
            return f"{_BEFORE}(?:{'|'.join(parts)}){_AFTER}"

        # The first and last characters of a label are part of it, never decoration: -1, C+.
        edges = {character for text in shown for character in (text[0], text[-1])}
        around = f"[{''.join(re.escape(character) for character in _DECORATION if character not in edges)}]*+"
        number = _NUMBER if is_numbered(scale) else "(?P<number>(?!))"
        content = f"(?:{number}{around}(?:{any_label('beside')})?|{any_label('label')})"
        self._statement = re.compile(f"{around}(?:{_LEAD})?{around}{content}{around}", flags)
        self._mention = re.compile(any_label("label"), flags)
        self._longest_line = _LONGEST_LEAD + max(map(len, shown))
        self._short = [_is_short(text) for text in shown]
        self._distinctive = [_is_distinctive(text) for text in shown]

    def read(self, answer: str) -> Reading:
        """The label that an answer gives, or why it gives none."""
        if not answer.strip():
            return Reading(None, "empty", "the answer is empty")
        if len(answer) > MAX_CHARACTERS:
            return Reading(None, "unparsable", f"the answer is longer than {MAX_CHARACTERS} characters")
        text = _plain(answer)
        if "<think>" in text.rpartition("</think>")[2]:
            return Reading(None, "unparsable", "the answer ends before the end of its thinking")
        text = text.rpartition("</think>")[2].strip()
        if not text:
            return Reading(None, "empty", "the answer is empty")
        if text.lstrip(_DECORATION).casefold().startswith(REFUSALS):
            return Reading(None, "refusal", "the answer begins like a refusal")
        values, rest = _labels_in_json(text)
        stated = {place for value in values for place in self._of_value(value)}
        lines = rest.splitlines()
        for number, line in enumerate(lines):
            if in_line := self._of_line(line):
                stated |= in_line
                lines[number] = ""
        if None in stated:
            return Reading(None, "unparsable", "a stated label is not on the scale")
        return self._decide({place for place in stated if place is not None}, "\n".join(lines))

    def _decide(self, stated: set[int], text: str) -> Reading:
        """The label, given those stated and the sentences in the rest of the text."""
        named, clear, doubt = set(stated), set(stated), ""
        ends = [end.end() for end in _SENTENCE_END.finditer(text)]
        doubtful: dict[int, str] = {}  # a word per sentence, or an empty string
        for mention in self._mention.finditer(text):
            (place,) = _places(mention, "label")
            marked = _in_quotes(mention)
            if self._short[place] and not marked:
                continue  # "3 reasons", "a good answer": not meant as a label
            named.add(place)
            if stated:
                continue
            sentence = bisect.bisect_right(ends, mention.start())
            if sentence not in doubtful:
                bounds = [0, *ends, len(text)][sentence : sentence + 2]
                match = _DOUBT.search(text[slice(*bounds)])
                doubtful[sentence] = match[0].lower() if match else ""
            if doubtful[sentence]:
                doubt = f"a label in a sentence with '{doubtful[sentence]}'"
            elif marked or self._distinctive[place]:
                clear.add(place)
        if len(named) > 1:
            names = ", ".join(self.labels[place] for place in sorted(named))
            return Reading(None, "unparsable", f"several labels: {names}")
        if not named:
            return Reading(None, "unparsable", "no label of the scale")
        if doubt or not clear:
            return Reading(None, "unparsable", doubt or "a label only as an ordinary word in a sentence")
        return Reading(self.labels[named.pop()])

    def _of_line(self, line: str) -> set[int | None]:
        """The labels of a line that states only labels: none, one, or two if number and label differ."""
        match = self._statement.fullmatch(line) if len(line) <= self._longest_line else None
        if match is None:
            return set()
        places: set[int | None] = {*_places(match, "label"), *_places(match, "beside")}
        if match["number"] is not None:
            number = int(match["number"])
            places.add(number - 1 if 1 <= number <= len(self.labels) else None)
        return places

    def _of_value(self, value: Any) -> set[int | None]:
        """The label that a JSON value states; `None` if it states none."""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, str | int):
            return {None}
        text = value if isinstance(value, str) else str(value)
        return self._of_line(text) or {None}


def is_numbered(scale: LabelScale) -> bool:
    """Whether labels may be stated by their numbers: not if a label is a number.

    Examples:
        >>> is_numbered(LabelScale("stars", ("1", "2"), (1.0, 2.0)))
        False
    """
    return not any(re.fullmatch(r"[-+]?[0-9][0-9.,]*", _plain(label)) for label in scale.labels)


def _plain(text: str) -> str:
    """Normalized text: full-width characters and curly apostrophes are plain ones, invisible ones are removed."""
    shown = unicodedata.normalize("NFKC", text).replace("\u2019", "'")
    return "".join(character for character in shown if unicodedata.category(character) != "Cf")


def _pattern(label: str) -> str:
    """A label as a pattern that allows spaces around the punctuation between its words."""
    parts = re.split(r"(?<=\w)(\s+|\s*[^\w\s]\s*)(?=\w)", label)
    words = [
        r"\s+" if not part.strip() else rf"[ \t]*{re.escape(part.strip())}[ \t]*" if place % 2 else re.escape(part)
        for place, part in enumerate(parts)
    ]
    return "".join(words)


def _is_short(label: str) -> bool:
    return len(label) <= 2 or re.fullmatch(r"[-+0-9.,]+", label) is not None


def _is_distinctive(label: str) -> bool:
    return re.search(r"[^\W\d_]", label) is not None and re.search(r"[^\w\s'\-]", label) is not None


def _places(found: re.Match[str], name: str) -> set[int]:
    groups = found.groupdict().items()
    return {int(group.removeprefix(name)) for group, text in groups if group.startswith(name) and text is not None}


def _in_quotes(mention: re.Match[str]) -> bool:
    start, end = mention.span()
    return (mention.string[max(0, start - 1) : start], mention.string[end : end + 1]) in _QUOTES


def _labels_in_json(text: str) -> tuple[list[Any], str]:
    """The values of all keys `label` in the JSON objects of a text, and the text without those objects."""
    values: list[Any] = []

    def collect(pairs: list[tuple[str, Any]]) -> None:
        values.extend(value for key, value in pairs if key.casefold() == "label")

    decoder = json.JSONDecoder(object_pairs_hook=collect, strict=False)
    rest, place = [], 0
    while (start := text.find("{", place)) >= 0:
        before = len(values)
        try:
            _, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):  # no JSON object starts here
            del values[before:]
            end = start + 1
        rest.append(text[place : start if len(values) > before else end])
        place = end
    return values, "".join([*rest, text[place:]])

"""Validation of rows of the canonical table, with one clear error per bad row."""

from __future__ import annotations

import contextlib
import datetime
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from pluralign.core.errors import RowError, nearest, one_line
from pluralign.core.numbers import finite_float
from pluralign.judgments.chats import as_chat
from pluralign.judgments.identity import column_ids, row_id
from pluralign.judgments.messages import EXTRA_KEYS, PLAIN_KEYS, tool_calls
from pluralign.judgments.scales import LabelScale
from pluralign.judgments.schema import COLUMNS, Form, schema, unknown_column
from pluralign.judgments.seen import SeenTexts

LEAST_WEIGHT, MOST_WEIGHT = 1e-15, 1e15
"""The bounds of a weight other than 0: sums and squares of weights stay finite and above 0, also in float32."""

Reject = Callable[[int, object, RowError], None]
"""Called with a bad row: its number (from 1), the row as found, and the error."""


class RowChecker:
    """Checks rows one by one, and that they agree: one form of prompts, unique ids.

    Equal rows without an id get different ids, and the same ones at every reading.

    Args:
        scale: the label scale of the file, or `None` if it has no labels.

    Examples:
        >>> row = RowChecker().check({"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, 2]})
        >>> row["weight"], row["annotator"], len(row["id"])
        (1.0, None, 24)
    """

    def __init__(self, scale: LabelScale | None = None) -> None:
        self.scale = scale
        self.form: Form | None = None
        # As long as rows come in columns, and all ids are given or all derived: the ids as they came, and for those
        # that were derived more than once, how often.
        self._seen: SeenTexts | None = SeenTexts()
        self._all_derived: bool | None = None
        self._times: dict[str, int] = {}
        # Afterwards: each id, with the number of rows whose content it was derived from.
        self._ids: dict[str, int] = {}

    def check(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the row in canonical form.

        Raises:
            RowError: names the column, what was found and what was expected.
        """
        checked = self.content(row)
        checked["id"] = self._identify(checked["id"] or row_id(checked), derived=checked["id"] is None)
        return checked

    def remember(self, ids: Mapping[str, int]) -> None:
        """Take ids of earlier rows, each with the number of rows whose content it was derived from."""
        if ids:
            self._by_name()
            self._ids.update(ids)

    def remembered(self) -> Mapping[str, int]:
        """The ids so far, as `remember` takes them."""
        self._by_name()
        return self._ids

    def content(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """As `check`, with the id as given (`None` if there is none), and not compared with other rows."""
        for name in row:
            if name not in COLUMNS:
                raise unknown_column(name, row, COLUMNS)
        form, prompt = _prompt(row.get("prompt"))
        responses = _responses(row.get("responses"), form)
        if form is None:
            form = "messages" if isinstance(responses[0], list) else "text"
            prompt = [] if form == "messages" else ""
        if self.form is not None and form != self.form:
            raise RowError("prompt", f"found {form} where the rows before have {self.form}: use one form per file")
        ranks = _ranks(row.get("ranks"), len(responses))
        labels = _labels(row.get("labels"), len(responses), self.scale)
        if ranks is None and labels is None:
            raise RowError("ranks", "found neither ranks nor labels: a judgment needs at least one of them")
        checked: dict[str, Any] = {
            "id": _name(row.get("id"), "id"),
            "prompt": prompt,
            "responses": responses,
            "ranks": ranks,
            "labels": labels,
            "annotator": _name(row.get("annotator"), "annotator"),
            "source": _name(row.get("source"), "source"),
            "group": _name(row.get("group"), "group"),
            "weight": _weight(row.get("weight")),
            "time": utc_time(row.get("time")),
            "strength": _strength(row.get("strength")),
        }
        self.form = form
        return checked

    def identify(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, dict[int, RowError]]:
        """Fill the ids of rows in canonical form that have none.

        Returns:
            The batch, and an error for each of its rows whose id an earlier row has.
        """
        ids, derived = batch.column("id"), np.zeros(batch.num_rows, dtype=bool)
        if ids.null_count == batch.num_rows:
            ids, derived = column_ids(batch), ~derived
        elif ids.null_count:
            import pyarrow.compute as pc  # slow to import

            derived = ids.is_null().to_numpy(zero_copy_only=False)
            ids = pc.replace_with_mask(ids, ids.is_null(), column_ids(batch.filter(ids.is_null())))
        errors: dict[int, RowError] = {}
        if self._seen is not None and derived.all() == derived.any() and self._all_derived in (None, derived.any()):
            self._all_derived = bool(derived.any())
            repeated = np.flatnonzero(self._seen.add(ids))
            renamed = ids.take(pa.array(repeated)).to_pylist() if len(repeated) else []
            for at, (place, name) in enumerate(zip(repeated.tolist(), renamed, strict=True)):
                if self._all_derived:
                    self._times[name] = self._times.get(name, 1) + 1
                    renamed[at] = f"{name}-{self._times[name]}"
                else:
                    errors[place] = _used(name)
            if renamed:
                places = np.arange(len(ids))
                places[repeated] = len(ids) + np.arange(len(renamed))
                ids = pa.concat_arrays([ids, pa.array(renamed, pa.string())]).take(pa.array(places))
        else:
            self._by_name()
            names, own = ids.to_pylist(), derived.tolist()
            for place, name in enumerate(names):
                if name not in self._ids:
                    self._ids[name] = int(own[place])
                    continue
                try:
                    names[place] = self._identify(name, own[place])
                except RowError as complaint:
                    errors[place] = complaint
            ids = pa.array(names, pa.string())
        at = batch.schema.get_field_index("id")
        return batch.set_column(at, batch.schema.field(at), ids), errors

    def _identify(self, name: str, derived: bool) -> str:
        """Take an id, which for a derived one is the content of the row; equal contents are numbered from 2."""
        self._by_name()
        if derived:
            times = self._ids.get(name)
            self._ids[name] = (times or 0) + 1
            if times is None:
                return name
            name = f"{name}-{times + 1}" if times else name
        if name in self._ids:
            raise _used(name)
        self._ids[name] = 0
        return name

    def _by_name(self) -> None:
        """Compare ids one by one from now on."""
        if self._seen is not None:
            for part in self._seen.parts:
                self._ids.update(dict.fromkeys(part.to_pylist(), int(self._all_derived or 0)))
            for name, times in self._times.items():
                self._ids[name] = times
                self._ids.update({f"{name}-{number}": 0 for number in range(2, times + 1)})
            self._seen, self._times = None, {}


def _used(name: str) -> RowError:
    return RowError("id", f"{one_line(name)} is already used by an earlier row: ids must be unique")


def checked_batches(
    rows: Iterable[tuple[int, Mapping[str, Any]]],
    checker: RowChecker,
    place: str,
    reject: Reject | None = None,
    batch_size: int = 4096,
) -> Iterator[pa.RecordBatch]:
    """Validate numbered rows and yield them as record batches of the canonical schema.

    Args:
        rows: pairs of row number and row.
        checker: checks the rows; share it to read several files as one table.
        place: the name of the file, for errors.
        reject: called with each bad row; `None` raises.
        batch_size: rows per batch.

    Raises:
        PluralignError: the first bad row, if `reject` is `None`.
    """
    held: list[dict[str, Any]] = []
    for number, row in rows:
        try:
            held.append(checker.check(row))
        except RowError as complaint:
            if reject is None:
                raise complaint.at(place, number) from complaint
            reject(number, row, complaint)
        if len(held) == batch_size:
            yield _batch(held, checker)
            held = []
    if held:
        yield _batch(held, checker)


def _batch(rows: list[dict[str, Any]], checker: RowChecker) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(rows, schema=schema(checker.form or "text", checker.scale))


def _text(value: object, column: str) -> str:
    if not isinstance(value, str):
        raise RowError(column, f"found {one_line(value)}, expected text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise RowError(column, f"{one_line(value)} is not valid UTF-8 text") from None
    return value


def _has_text(message: object) -> bool:
    """Whether a message is in this library's form as far as its content shows."""
    return isinstance(message, Mapping) and isinstance(message.get("content"), str) and "function_call" not in message


def _messages(value: list[Any], column: str) -> list[dict[str, Any]]:
    messages = []
    for message in value if all(map(_has_text, value)) else as_chat(value, column):
        given = {key: each for key, each in message.items() if each is not None} if isinstance(message, Mapping) else {}
        if not given.keys() >= set(PLAIN_KEYS) or given.keys() - {*PLAIN_KEYS, *EXTRA_KEYS}:
            expected = f"expected messages with {' and '.join(PLAIN_KEYS)}, and at most {', '.join(EXTRA_KEYS)}"
            raise RowError(column, f"found {one_line(message)}, {expected}")
        calls = tool_calls(given.pop("tool_calls", []), column)
        messages.append(
            {key: _text(each, column) for key, each in given.items()} | ({"tool_calls": calls} if calls else {})
        )
    return messages


def _prompt(value: object) -> tuple[Form | None, Any]:
    if value is None:
        return None, None
    if isinstance(value, list):
        return "messages", _messages(value, "prompt")
    return "text", _text(value, "prompt")


def _responses(value: object, form: Form | None) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise RowError("responses", f"found {one_line(value)}, expected a list of one or more responses")
    if form is None:
        form = "messages" if isinstance(value[0], list) else "text"
    responses: list[Any] = []
    for response in value:
        if form == "messages":
            if not isinstance(response, list):
                raise RowError(
                    "responses", f"found {one_line(response)}, expected a list of messages, as the prompt is"
                )
            messages = _messages(response, "responses")
            empty = not any(message["content"].strip() or "tool_calls" in message for message in messages)
            responses.append(messages)
        else:
            if isinstance(response, list):
                raise RowError("responses", "found messages where the prompt is text: use one form per file")
            empty = not _text(response, "responses").strip()
            responses.append(response)
        if empty:
            raise RowError("responses", f"response {len(responses)} is empty: every response must contain text")
    for index, response in enumerate(responses):
        if response in responses[:index]:
            first = responses.index(response) + 1
            raise RowError("responses", f"response {index + 1} repeats response {first}: keep one of them")
    return responses


def _one_per_response(value: object, responses: int, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise RowError(f"{what}s", f"found {one_line(value)}, expected a list with one {what} per response")
    if len(value) != responses:
        expected = "give one per response or null"
        raise RowError(f"{what}s", f"found {len(value)} {what}s for {responses} responses: {expected}")
    return value


def _ranks(value: object, responses: int) -> list[int | None] | None:
    if value is None:
        return None
    ranks: list[int | None] = []
    for rank in _one_per_response(value, responses, "rank"):
        if isinstance(rank, float) and rank.is_integer():
            rank = int(rank)
        if rank is not None and (not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank < 2**31):
            raise RowError("ranks", f"found {one_line(rank)}, expected whole numbers from 1 (best), or null")
        ranks.append(rank)
    given = [rank for rank in ranks if rank is not None]
    if not given:
        return None
    if min(given) != 1:
        raise RowError("ranks", f"the best rank is {min(given)}, expected 1")
    return ranks


def _labels(value: object, responses: int, scale: LabelScale | None) -> list[str | None] | None:
    if value is None:
        return None
    given = _one_per_response(value, responses, "label")
    if all(label is None for label in given):
        return None
    if scale is None:
        raise RowError("labels", "the file has labels but no label scale: name one with --label-scale")
    labels = [None if label is None else scale.find(label) for label in given]
    for name, label in zip(given, labels, strict=True):
        if name is not None and label is None:
            known = f"({', '.join(scale.labels)}){nearest(str(name), scale.labels)}"
            raise RowError("labels", f"{one_line(name)} is not on the scale '{scale.name}' {known}")
    return labels


def _name(value: object, column: str) -> str | None:
    if value is None:
        return None
    if isinstance(value, float):
        # Other programs turn whole numbers beside gaps into floats, and the gaps into NaN.
        if math.isnan(value):
            return None
        value = int(value) if value.is_integer() else value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _text(value, column) or None


def _weight(value: object) -> float:
    if value is None:
        return 1.0
    number = None if isinstance(value, str) else finite_float(value)
    if number is None or number < 0:
        raise RowError("weight", f"found {one_line(value)}, expected a finite number, 0 or more")
    if number and not LEAST_WEIGHT <= number <= MOST_WEIGHT:
        bounds = f"0, or a number from {LEAST_WEIGHT:g} to {MOST_WEIGHT:g}: scale all weights alike"
        raise RowError("weight", f"found {one_line(value)}, expected {bounds}")
    return number + 0.0  # no negative zero


def _strength(value: object) -> float | None:
    if value is None:
        return None
    number = None if isinstance(value, str) else finite_float(value)
    if number is None or number < 0:
        raise RowError("strength", f"found {one_line(value)}, expected a finite number, 0 or more, or null")
    return number + 0.0  # no negative zero


def utc_time(value: object) -> datetime.datetime | None:
    """A time, or ISO 8601 text, as UTC; raises `RowError` for anything else."""
    if value is None:
        return None
    time = value
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            time = datetime.datetime.fromisoformat(value)
    if isinstance(time, datetime.date) and not isinstance(time, datetime.datetime):
        time = datetime.datetime(time.year, time.month, time.day)
    if not isinstance(time, datetime.datetime):
        raise RowError("time", f"found {one_line(value)}, expected a time like 2024-05-31T12:00:00Z")
    if time.tzinfo is None:
        time = time.replace(tzinfo=datetime.UTC)
    try:
        return time.astimezone(datetime.UTC)
    except OverflowError:
        raise RowError("time", f"found {one_line(value)}, which in UTC is not in the years 1 to 9999") from None

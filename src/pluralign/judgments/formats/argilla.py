"""Records of Argilla, 2 and 1: annotators rank the responses of a record, or rate one of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pluralign.core.errors import PluralignError, RowError, one_line
from pluralign.judgments.chats import in_one_form
from pluralign.judgments.formats.convert import (
    Rows,
    Tally,
    convert_rows,
    field_value,
    named_fields,
    names_in,
)
from pluralign.judgments.schema import ranks_from_scores
from pluralign.judgments.validation import Reject

FIELDS = {"prompt": "prompt", "ranking": "", "rating": "", "answers": ""}
"""The keys of `--field`, with their defaults."""

QUESTIONS = {"ranking": None, "rating": "response"}
"""The questions that are read if none is named: `None` for a ranking, the rated field for a rating."""


def read_argilla(
    path: Path, reject: Reject | None = None, tally: Tally | None = None, fields: Sequence[str] = ()
) -> Rows:
    """Format `argilla`: a judgment for every submitted answer to a ranking or a rating question.

    Args:
        path: records as JSON, JSON Lines or Parquet, nested or flattened.
        reject: called with each bad record or answer; `None` raises.
        tally: counts records, and what gives no judgment: drafts, discarded answers, suggestions, other questions.
        fields: `KEY=NAME` each. `prompt` is a field of the record. `ranking` and `rating` are questions, separated
            by commas; a rating is `QUESTION:FIELD` if the field that it rates is not `response`. `answers` is
            `VALUE:FIELD` for every value of a ranking that differs from the name of the field with its text.

    Raises:
        PluralignError: a field is not well-formed, the file cannot be read, or a record is bad and `reject` is
            `None`.
    """
    names = named_fields(fields, FIELDS)
    questions: dict[str, str | None] = dict.fromkeys(names_in(names["ranking"]))
    for question, rated in _pairs("rating", names["rating"], "response").items():
        if question in questions:
            raise PluralignError(f"--field: the question '{question}' is named as a ranking and as a rating")
        questions[question] = rated
    answers = _pairs("answers", names["answers"], None)
    counts = Tally() if tally is None else tally

    def convert(record: dict[str, Any]) -> Iterator[dict[str, Any] | RowError]:
        return record_judgments(record, questions or QUESTIONS, names["prompt"], answers, counts)

    return convert_rows(path, convert, reject, counts)


def record_judgments(
    record: Mapping[str, Any],
    questions: Mapping[str, str | None],
    prompt: str,
    answers: Mapping[str, str],
    tally: Tally,
) -> Iterator[dict[str, Any] | RowError]:
    """The judgments of one record.

    Examples:
        >>> record = {"fields": {"prompt": "Tea?", "a": "Yes", "b": "No"},
        ...           "responses": {"ranking": [{"value": ["b", "a"], "user_id": "ann"}]}}
        >>> made, = record_judgments(record, QUESTIONS, "prompt", {}, Tally())
        >>> made["responses"], made["ranks"], made["annotator"], made["source"]
        (['No', 'Yes'], [1, 2], 'ann', 'ranking')
    """
    flat = not isinstance(record.get("fields"), Mapping)
    data = record if flat else record["fields"]
    responses, suggestions = _flattened(record, questions) if flat else _nested(record)
    if suggestions:
        tally.left_out["suggestions"] += suggestions
    if not any(responses.get(question) for question in questions):
        asked = ", ".join(questions)
        tally.left_out[f"records without a response to {asked} (named by --field ranking=, rating=)"] += 1
    for question, given in responses.items():
        if question not in questions:
            if given:
                tally.left_out[f"responses to the question '{question}'"] += len(given)
            continue
        rated = questions[question]
        for number, response in enumerate(given):
            place = f"{question}.responses.{number}" if flat else f"responses.{question}.{number}"
            try:
                if not _is_submitted(response, place, tally):
                    continue
                if rated is None:
                    judged = _ranking(response["value"], data, answers, f"{place}.value")
                else:
                    judged = _rating(response["value"], data, rated, f"{place}.value")
                text = field_value(data, prompt, "fields.", "--field prompt=NAME") if prompt else ""
                user = response.get("user_id")
                text, shown = in_one_form(text, judged["responses"])
                yield {
                    **judged,
                    "prompt": text,
                    "responses": shown,
                    "source": question,
                    "annotator": None if user == "None" else user,  # the export writes unknown users as "None"
                }
            except RowError as complaint:
                yield complaint


def _pairs(key: str, text: str, default: str | None) -> dict[str, str]:
    """`NAME:FIELD` pairs separated by commas; a name alone gets the default field."""
    pairs: dict[str, str] = {}
    for pair in names_in(text):
        name, colon, field = pair.rpartition(":")
        if not colon and default is not None:
            name, field = pair, default
        if not name or not field or name in pairs:
            raise PluralignError(f"--field: found {key}={text}, expected NAME:FIELD,... with every name once")
        pairs[name] = field
    return pairs


def _nested(record: Mapping[str, Any]) -> tuple[Mapping[str, Sequence[Any]], int]:
    """The responses by question, and the number of suggestions."""
    responses = {} if record.get("responses") is None else record["responses"]
    if isinstance(responses, list):
        responses = _by_question(responses)
    if not isinstance(responses, Mapping):
        raise RowError("responses", f"found {one_line(responses)}, expected responses by question")
    for question, given in responses.items():
        if not isinstance(given, list):
            raise RowError(f"responses.{question}", f"found {one_line(given)}, expected a list of responses")
    suggestions = record.get("suggestions")
    return responses, len(suggestions) if isinstance(suggestions, Mapping | list) else 0


def _by_question(responses: Sequence[Any]) -> dict[str, list[Any]]:
    """The responses of Argilla 1, one per annotator with the values of all questions, by question."""
    questions: dict[str, list[Any]] = {}
    for number, response in enumerate(responses):
        values = response.get("values") if isinstance(response, Mapping) else None
        if not isinstance(values, Mapping):
            raise RowError(f"responses.{number}", f"found {one_line(response)}, expected a response with its values")
        about = {name: response.get(name) for name in ("user_id", "status")}
        for question, value in values.items():
            given = value.get("value") if isinstance(value, Mapping) else value
            questions.setdefault(question, []).append({**about, "value": given})
    return questions


def _columns_of_questions(record: Mapping[str, Any], questions: Iterable[str]) -> dict[str, list[Any]]:
    """The responses of Argilla 1 as `datasets` holds them: a column per question, with rankings turned sideways."""
    found: dict[str, list[Any]] = {}
    for question in questions:
        column = record.get(question)
        if not isinstance(column, list) or not all(isinstance(each, Mapping) and "value" in each for each in column):
            continue
        found[question] = []
        for each in column:
            value = each["value"]
            if isinstance(value, Mapping) and {*value} == {"rank", "value"} and isinstance(value["rank"], list):
                pairs = zip(value["value"], value["rank"], strict=True)
                value = [{"value": name, "rank": rank} for name, rank in pairs]
            found[question].append({**each, "value": value})
    return found


def _flattened(record: Mapping[str, Any], questions: Iterable[str]) -> tuple[Mapping[str, Sequence[Any]], int]:
    """As `_nested`, from columns `QUESTION.responses`, `.responses.users` and `.responses.status`."""
    columns = [name for name in record if name.endswith(".responses")]
    if not columns and (found := _columns_of_questions(record, questions)):
        return found, 0
    if not columns:
        raise RowError("fields", "is missing, and there is no column 'QUESTION.responses': expected records of Argilla")
    responses: dict[str, Sequence[Any]] = {}
    for column in columns:
        values = [] if record[column] is None else record[column]
        if not isinstance(values, list):
            raise RowError(column, f"found {one_line(values)}, expected a list of values")
        beside = (record.get(f"{column}.{what}") for what in ("users", "status"))
        users, states = ([None] * len(values) if part in (None, []) else part for part in beside)
        for what, part in (("users", users), ("status", states)):
            if not isinstance(part, list) or len(part) != len(values):
                raise RowError(f"{column}.{what}", f"found {one_line(part)}, expected one for each value")
        responses[column.removesuffix(".responses")] = [
            {"value": value, "user_id": user, "status": status}
            for value, user, status in zip(values, users, states, strict=True)
        ]
    suggested = [name for name, value in record.items() if name.endswith(".suggestion") and value is not None]
    return responses, len(suggested)


def _is_submitted(response: Any, place: str, tally: Tally) -> bool:
    """Whether the response was submitted; others are counted."""
    if not isinstance(response, Mapping) or "value" not in response:
        raise RowError(place, f"found {one_line(response)}, expected a response with its value")
    status = response.get("status")
    if status in ("draft", "discarded") or response["value"] is None:
        reason = status if status in ("draft", "discarded") else "empty"
        tally.left_out[f"{reason} responses"] += 1
        return False
    if status not in (None, "submitted"):
        raise RowError(f"{place}.status", f"found {one_line(status)}, expected submitted, draft or discarded")
    if status is None:
        tally.left_out["checks of the status (the file does not say which responses are drafts)"] += 1
    return True


def _ranking(value: Any, data: Mapping[str, Any], answers: Mapping[str, str], place: str) -> dict[str, Any]:
    """Names from best to worst, or names with ranks (equal ones tie)."""
    if not isinstance(value, list) or not value:
        raise RowError(place, f"found {one_line(value)}, expected a ranking: a list of names, or of value and rank")
    named: list[Any] = [each.get("value") if isinstance(each, Mapping) else each for each in value]
    ranks: list[Any] = [each.get("rank") if isinstance(each, Mapping) else None for each in value]
    if all(rank is None for rank in ranks):
        ranks = list(range(1, len(value) + 1))
    for name, rank in zip(named, ranks, strict=True):
        if not isinstance(name, str) or isinstance(rank, bool) or not isinstance(rank, int):
            raise RowError(place, f"found {one_line(value)}, expected every name with a whole number as its rank")
        if named.count(name) > 1:
            raise RowError(place, f"ranks {one_line(name)} twice: expected every name once")
    responses = []
    for name in named:
        fix = f"--field answers={name}:FIELD,..."
        responses.append(field_value(data, answers.get(name, name), "fields.", fix))
    return {"responses": responses, "ranks": ranks_from_scores([-rank for rank in ranks])}


def _rating(value: Any, data: Mapping[str, Any], rated: str, place: str) -> dict[str, Any]:
    if isinstance(value, bool) or not isinstance(value, int | float) or value % 1 != 0:
        raise RowError(place, f"found {one_line(value)}, expected a whole number")
    text = field_value(data, rated, "fields.", "--field rating=QUESTION:FIELD")
    return {"responses": [text], "labels": [value]}
